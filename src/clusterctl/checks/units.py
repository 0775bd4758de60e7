"""Figures as a tired person reads them: three digits, and a unit."""

from __future__ import annotations


def _scaled(value: float, steps: list[tuple[float, str]]) -> str:
    scale, unit = next((step for step in steps if abs(value) >= step[0]), steps[-1])
    return f"{_digits(value / scale)} {unit}"


def _digits(value: float) -> str:
    """Three significant digits, and never an exponent."""
    size = abs(value)
    places = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3
    return f"{value:.{places}f}".rstrip("0").rstrip(".") if places else f"{value:.0f}"


def rate(bytes_per_s: float) -> str:
    """Give ``24.9 MB/s``, in decimal units as network figures are."""
    return _scaled(bytes_per_s, [(1e9, "GB/s"), (1e6, "MB/s"), (1e3, "kB/s"), (1, "B/s")])


def both_rates(bytes_per_s: float) -> str:
    """Give ``24.9 MB/s = 0.199 Gbit/s``: the second is what a NIC's label says."""
    return f"{rate(bytes_per_s)} = {_digits(bytes_per_s * 8 / 1e9)} Gbit/s"


def bits(bits_per_s: float) -> str:
    """Give ``25 Gbit/s``."""
    return _scaled(bits_per_s, [(1e9, "Gbit/s"), (1e6, "Mbit/s"), (1e3, "kbit/s")])


def seconds(value: float) -> str:
    """Give ``12 us``, ``3.5 ms``, ``1.2 s`` or ``2 h``."""
    return _scaled(
        value, [(86400, "d"), (3600, "h"), (60, "min"), (1, "s"), (1e-3, "ms"), (1e-6, "us")]
    )


def size(count: float) -> str:
    """Give ``1.5 GiB``, in binary units as memory and file systems are."""
    return _scaled(
        count, [(2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"), (1, "B")]
    )


def percent(fraction: float) -> str:
    """Give ``2.5 %``."""
    return f"{_digits(fraction * 100)} %"


def number_of(count: int, thing: str) -> str:
    """Give ``1 node`` or ``4 nodes``."""
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"
