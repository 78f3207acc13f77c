"""Blanks out, in CUDA libraries, the GPU code for all architectures but one.

    python -m benchmarks.gpu.slim_fatbin --arch 90 LIBRARY ...

A library keeps its size, and zeros compress to nothing. A kernel without machine code for the architecture
keeps its newest PTX that the driver can compile for it.

Such code is in the sections `.nv_fatbin` and `__nv_relfatbin`: containers, one after the other, of entries.

    container   u32 magic, u16 version, u16 header size, u64 size of all entries
    entry       u16 kind (1 PTX, 2 machine code), at 4 u32 header size, at 8 u64 payload size, at 28 u32
                architecture
"""

from __future__ import annotations

import argparse
import mmap
import re
import struct
import subprocess
from collections.abc import Iterator
from typing import NamedTuple

MAGIC = 0xBA55ED50
PTX, MACHINE_CODE = 1, 2
_SECTION = re.compile(
    r"\s*\[\s*\d+\]\s+(?P<name>\S+)\s+\S+\s+[0-9a-f]+\s+(?P<offset>[0-9a-f]+)\s+(?P<size>[0-9a-f]+)"
)


class Entry(NamedTuple):
    """One kernel's code for one architecture."""

    kind: int
    arch: int
    start: int
    size: int


def sections(library: str) -> list[tuple[int, int]]:
    """Offset and size of each section of GPU code."""
    table = subprocess.run(["readelf", "-SW", library], capture_output=True, text=True, check=True).stdout
    found = filter(None, map(_SECTION.match, table.splitlines()))
    return [
        (int(section["offset"], 16), int(section["size"], 16))
        for section in found
        if section["name"] in (".nv_fatbin", "__nv_relfatbin")
    ]


def containers(data: mmap.mmap | bytearray, start: int, size: int) -> Iterator[list[Entry]]:
    """The entries of each container in a section."""
    at, end = start, start + size
    while at + 16 <= end:
        magic, _, header, length = struct.unpack_from("<IHHQ", data, at)
        if magic != MAGIC:  # containers are aligned to eight bytes
            at += 8
            continue
        stop = at + header + length
        yield list(_entries(data, at + header, stop))
        at = stop


def _entries(data: mmap.mmap | bytearray, at: int, stop: int) -> Iterator[Entry]:
    while at + 32 <= stop:
        kind, _, header, size = struct.unpack_from("<HHIQ", data, at)
        if not 32 <= header <= 4096:
            return
        (arch,) = struct.unpack_from("<I", data, at + 28)
        yield Entry(kind, arch, at + header, size)
        at += header + size


def is_needed(entry: Entry, entries: list[Entry], arch: int) -> bool:
    """Whether the GPU `arch` would load this entry of a container."""
    if entry.kind not in (PTX, MACHINE_CODE):
        return True
    if entry.kind == MACHINE_CODE:
        return entry.arch == arch
    if any(other.kind == MACHINE_CODE and other.arch == arch for other in entries):
        return False
    return entry.arch == max((e.arch for e in entries if e.kind == PTX and e.arch <= arch), default=None)


def blank(data: mmap.mmap | bytearray, start: int, size: int, arch: int) -> tuple[int, int]:
    """Blanks out a section in place; returns the bytes that stay and those that do not."""
    kept = blanked = 0
    for entries in containers(data, start, size):
        for entry in entries:
            if is_needed(entry, entries, arch):
                kept += entry.size
            else:
                data[entry.start : entry.start + entry.size] = bytes(entry.size)
                blanked += entry.size
    return kept, blanked


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arch", type=int, default=90, help="90: Hopper")
    parser.add_argument("libraries", nargs="+")
    args = parser.parse_args()
    for library in args.libraries:
        with open(library, "r+b") as file, mmap.mmap(file.fileno(), 0) as data:
            sizes = [blank(data, start, size, args.arch) for start, size in sections(library)]
        kept, blanked = (sum(column) / 1e6 for column in zip(*sizes, strict=True))
        print(f"{kept:8.1f} MB kept {blanked:8.1f} MB blanked  {library}")


if __name__ == "__main__":
    main()
