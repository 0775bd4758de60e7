"""A vendor's repository on this machine, with stand-ins under the names of the vendor's packages.

What is real: the signatures, the lists, apt and the packages' installation. What is not: the
content of the packages, which are a few lines each and say so in their description.
"""

import functools
import hashlib
import http.server
import shutil
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

STAND_IN = "#!/bin/sh\n# A stand-in made by clusterctl's tests.\n"
NCCL_C = "int ncclGetVersion(int *version) { *version = %d; return 0; }"
NVIDIA_CTK = (
    STAND_IN
    + """case "$*" in
    "runtime configure --runtime=containerd")
        mkdir -p /etc/containerd
        echo nvidia-container-runtime > /etc/containerd/config.toml ;;
    --version) echo "NVIDIA Container Toolkit CLI version 1.18.0 (stand-in)" ;;
    *) exit 1 ;;
esac
"""
)
DCGM_SERVICE = "[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n"
NVCC = (
    STAND_IN
    + """# Called as nvcc -o PROGRAM SOURCE.
printf '#!/bin/sh\\necho %s\\n' "$(basename "${0%%/bin/nvcc}" | cut -d- -f2)" > "$2"
chmod +x "$2"
"""
)


@dataclass
class Vendor:
    """A flat repository, signed with throwaway keys."""

    folder: Path
    home: Path = field(init=False)
    packages: dict[str, str] = field(default_factory=dict)
    """File -> its paragraph in ``Packages``."""

    def __post_init__(self) -> None:
        """Make its folders: one repository under two URLs, as apt wants each only once."""
        self.folder.mkdir(parents=True)
        for name in ("cuda", "toolkit"):
            (self.folder / name).symlink_to(".")
        self.home = self.folder.with_name(f"{self.folder.name}-gnupg")
        self.home.mkdir(mode=0o700)

    def gpg(self, *arguments: str, text: str = "") -> str:
        """Run GnuPG on the keys of this vendor."""
        argv = ["gpg", "--homedir", str(self.home), "--batch", "--quiet", *arguments]
        return subprocess.run(argv, input=text, capture_output=True, text=True, check=True).stdout

    def new_key(self, name: str) -> str:
        """Make a key, put its public part beside the packages, and give its fingerprint."""
        who = f"{name} (stand-in)"
        self.gpg("--passphrase", "", "--quick-generate-key", who, "rsa3072", "sign", "never")
        (self.folder / f"{name}.pub").write_text(self.gpg("--armor", "--export", f"={who}"))
        listed = self.gpg("--with-colons", "--list-keys", f"={who}").splitlines()
        return next(line.split(":")[9] for line in listed if line.startswith("fpr:"))

    def add(self, name: str, version: str, files: Mapping[str, str | bytes]) -> None:
        """Build a package: path -> content. What begins with "#!" is executable."""
        tree = self.home / "tree"
        (tree / "DEBIAN").mkdir(parents=True)
        (tree / "DEBIAN" / "control").write_text(
            f"Package: {name}\nVersion: {version}\nArchitecture: amd64\n"
            "Maintainer: clusterctl's tests <nobody@example.org>\n"
            f"Description: stand-in for {name}, made by clusterctl's tests\n"
        )
        for path, content in files.items():
            target = tree / path.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content.encode() if isinstance(content, str) else content)
            target.chmod(0o755 if content[:2] in ("#!", b"#!") else 0o644)
        file = self.folder / f"{name}_{version.rpartition(':')[2]}_amd64.deb"
        build = ["dpkg-deb", "--root-owner-group", "-Znone", "--build", str(tree), str(file)]
        subprocess.run(build, check=True, capture_output=True)
        shutil.rmtree(tree)
        control = subprocess.run(
            ["dpkg-deb", "--field", str(file)], check=True, capture_output=True, text=True
        ).stdout
        content = file.read_bytes()
        self.packages[file.name] = (
            f"{control}Filename: ./{file.name}\nSize: {len(content)}\n"
            f"SHA256: {hashlib.sha256(content).hexdigest()}\n"
        )

    def sign(self, fingerprint: str) -> None:
        """Write the lists, signed with a key."""
        index = "\n".join(self.packages.values())
        (self.folder / "Packages").write_text(index)
        release = (
            "Origin: stand-in\nLabel: stand-in\nSuite: stable\n"
            "Date: Mon, 01 Jan 2024 00:00:00 UTC\n"
            f"SHA256:\n {hashlib.sha256(index.encode()).hexdigest()} {len(index)} Packages\n"
        )
        signed = self.gpg("--local-user", fingerprint, "--clearsign", text=release)
        (self.folder / "InRelease").write_text(signed)

    @contextmanager
    def served(self, address: str) -> Iterator[str]:
        """Serve it over HTTP at an address of this machine; gives its URL."""
        handler = functools.partial(_Quiet, directory=str(self.folder))
        server = http.server.ThreadingHTTPServer((address, 0), handler)
        threading.Thread(target=server.serve_forever).start()
        try:
            yield f"http://{address}:{server.server_port}"
        finally:
            server.shutdown()
            server.server_close()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Say nothing."""


def nvidia(folder: Path) -> Vendor:
    """Give a repository with what NVIDIA's CUDA and container toolkit repositories have."""
    vendor = Vendor(folder)
    library = "/usr/lib/x86_64-linux-gnu/libnccl.so.2"
    for number, version in ((22703, "2.27.3-1+cuda12.9"), (22705, "2.27.5-1+cuda12.9")):
        vendor.add("libnccl2", version, {library: _compiled(NCCL_C % number, vendor.home)})
        vendor.add("libnccl-dev", version, {})
    for version in ("12.9", "13.0"):
        nvcc = f"/usr/local/cuda-{version}/bin/nvcc"
        vendor.add(f"cuda-toolkit-{version.replace('.', '-')}", f"{version}.1-1", {nvcc: NVCC})
    vendor.add("nvidia-container-toolkit", "1.18.0-1", {"/usr/bin/nvidia-ctk": NVIDIA_CTK})
    for name in (
        "nvidia-container-toolkit-base",
        "libnvidia-container-tools",
        "libnvidia-container1",
    ):
        vendor.add(name, "1.18.0-1", {})
    dcgmi = STAND_IN + "echo version: 4.6.0\n"
    service = "/usr/lib/systemd/system/nvidia-dcgm.service"
    vendor.add(
        "datacenter-gpu-manager-4-core",
        "1:4.6.0-1",
        {"/usr/bin/dcgmi": dcgmi, service: DCGM_SERVICE},
    )
    vendor.add("datacenter-gpu-manager-4-cuda13", "1:4.6.0-1", {})
    return vendor


def _compiled(program: str, folder: Path) -> bytes:
    library = folder / "library.so"
    gcc = ["gcc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(library)]
    subprocess.run(gcc, input=program, text=True, check=True)
    return library.read_bytes()
