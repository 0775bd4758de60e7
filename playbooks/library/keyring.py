"""Keep a repository's key on a node, and only the keys whose fingerprints are known.

The fingerprint is computed here, so that no gpg is needed on the node: SHA-1 over the key's public
key packet (RFC 4880, section 12.2; version 4 keys, as all of these repositories have).
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.urls import open_url

DOCUMENTATION = """
module: keyring
short_description: Keep a repository's key, if its fingerprint is known
options:
  path:
    description: Where the key goes.
    type: path
    required: true
  key:
    description: The key, ASCII armored.
    type: str
    default: ""
  url:
    description:
      - Where to fetch it, if it is not given, and not there yet with all fingerprints.
      - Where two are accepted, a vendor is changing its key, and the other may be there by now.
    type: str
    default: ""
  fingerprints:
    description: Fingerprints of the keys that may be in it.
    type: list
    elements: str
    required: true
"""

PUBLIC_KEY, KEY_LIMIT_BYTES = 6, 1 << 20


def fingerprints(key: bytes) -> list[str]:
    """Give the fingerprints of the primary keys in an armored or binary keyring."""
    found = []
    for tag, body in packets(dearmored(key)):
        if tag == PUBLIC_KEY:
            if body[:1] != b"\x04":
                raise ValueError(f"a key of version {body[0]}, not 4")
            packet = b"\x99" + len(body).to_bytes(2, "big") + body
            found.append(hashlib.sha1(packet, usedforsecurity=False).hexdigest().upper())
    return found


def armored(data: bytes) -> bytes:
    """Give the ASCII form of a keyring (RFC 4880, section 6), which apt and rpm both read."""
    if data.lstrip().startswith(b"-----BEGIN PGP"):
        return data
    body = base64.encodebytes(data)
    checksum = base64.b64encode(_crc24(data).to_bytes(3, "big"))
    begin, end = b"-----BEGIN PGP PUBLIC KEY BLOCK-----", b"-----END PGP PUBLIC KEY BLOCK-----"
    return b"\n".join([begin, b"", body.rstrip(), b"=" + checksum, end, b""])


def _crc24(data: bytes) -> int:
    crc = 0xB704CE
    for octet in data:
        crc ^= octet << 16
        for _ in range(8):
            crc <<= 1
            if crc & 0x1000000:
                crc ^= 0x1864CFB
    return crc & 0xFFFFFF


def dearmored(data: bytes) -> bytes:
    """Give the binary form of a keyring."""
    blocks = re.findall(
        rb"-----BEGIN PGP PUBLIC KEY BLOCK-----\r?\n(.*?)-----END PGP", data, re.DOTALL
    )
    if not blocks:
        return data
    return b"".join(base64.b64decode(_body(block), validate=False) for block in blocks)


def _body(block: bytes) -> bytes:
    lines = block.replace(b"\r", b"").split(b"\n")
    begin = lines.index(b"") + 1 if b"" in lines else 0
    # The last line, "=" and four characters, is a checksum.
    return b"".join(line for line in lines[begin:] if not line.startswith(b"="))


def packets(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Split an OpenPGP message (RFC 4880, section 4.2) into (tag, body)."""
    at = 0
    while at < len(data):
        first = data[at]
        if not first & 0x80:
            raise ValueError("not an OpenPGP key")
        if first & 0x40:
            tag, (at, length) = first & 0x3F, _new_length(data, at + 1)
        else:
            size = 1 << (first & 3)
            if size == 8:
                raise ValueError("a packet of indeterminate length")
            tag, length = first >> 2 & 0xF, int.from_bytes(data[at + 1 : at + 1 + size], "big")
            at += 1 + size
        if at + length > len(data):
            raise ValueError("the key is cut off")
        yield tag, data[at : at + length]
        at += length


def _new_length(data: bytes, at: int) -> tuple[int, int]:
    first = data[at]
    if first < 192:
        return at + 1, first
    if first < 224:
        return at + 2, ((first - 192) << 8) + data[at + 1] + 192
    if first == 255:
        return at + 5, int.from_bytes(data[at + 1 : at + 5], "big")
    raise ValueError("a packet of partial length")


def strangers(key: bytes, accepted: list[str]) -> list[str]:
    """Give fingerprints in the key that nobody vouched for; ValueError if it is no key."""
    found = fingerprints(key)
    if not found:
        raise ValueError("no public key in it")
    known = normalized(accepted)
    return [fingerprint for fingerprint in found if fingerprint not in known]


def normalized(accepted: list[str]) -> set[str]:
    """Give fingerprints as they are computed, whatever way they were written."""
    return {fingerprint.replace(" ", "").upper() for fingerprint in accepted}


def complete(key: bytes, accepted: list[str]) -> bool:
    """Whether a key is on the node already, with every fingerprint that is accepted."""
    try:
        return set(fingerprints(key)) == normalized(accepted)
    except (ValueError, IndexError):
        return False


def main() -> None:
    """Answer Ansible."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "key": {"type": "str", "default": "", "no_log": False},
            "url": {"type": "str", "default": ""},
            "fingerprints": {"type": "list", "elements": "str", "required": True},
        },
        supports_check_mode=True,
    )
    params = module.params
    path = Path(params["path"])
    accepted = params["fingerprints"]
    before = path.read_bytes() if path.exists() else b""
    if not params["key"] and complete(before, accepted):
        module.exit_json(changed=False)
    if module.check_mode and not params["key"]:
        module.exit_json(changed=not before)
    try:
        key = armored(params["key"].encode() or _fetched(params["url"], before))
        unknown = strangers(key, accepted)
    except (OSError, ValueError, IndexError) as error:
        module.fail_json(msg=f"the key {params['url'] or 'given'} cannot be used: {error}")
    if unknown:
        module.fail_json(
            msg=f"the key {params['url'] or 'given'} is {', '.join(unknown)}, and accepted are "
            f"{', '.join(accepted) or 'none'}: nothing was installed from there. Find out from its "
            "owner whether the key was changed, and list its fingerprint if so."
        )
    if key != before and not module.check_mode:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        aside = path.with_suffix(".new")
        aside.write_bytes(key)
        aside.chmod(0o644)
        aside.replace(path)
    module.exit_json(changed=key != before)


def _fetched(url: str, before: bytes) -> bytes:
    try:
        return open_url(url, timeout=30).read(KEY_LIMIT_BYTES)
    except OSError:
        # What is there goes on to work until the other one is needed.
        if before:
            return before
        raise


if __name__ == "__main__":
    main()
