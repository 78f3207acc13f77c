"""Which GPU code stays in a library: made-up containers, byte by byte."""

import struct

import pytest

from benchmarks.gpu.slim_fatbin import MACHINE_CODE, MAGIC, PTX, blank, containers

HEADER = 64


def container(*entries):
    """Entries are (kind, architecture, payload)."""
    body = b""
    for kind, arch, payload in entries:
        head = struct.pack("<HHIQ", kind, 0, HEADER, len(payload)).ljust(28, b"\0") + struct.pack("<I", arch)
        body += head.ljust(HEADER, b"\0") + payload
    return struct.pack("<IHHQ", MAGIC, 1, 16, len(body)) + body


def slimmed(arch, *of_containers):
    section = bytearray(b"\0" * 8 + b"".join(container(*entries) for entries in of_containers))
    sizes = blank(section, 0, len(section), arch)
    left = [
        [bytes(section[e.start : e.start + e.size]) for e in entries]
        for entries in containers(section, 0, len(section))
    ]
    return left, sizes


CODE_80, CODE_90, PTX_80, PTX_90, PTX_100 = (
    (MACHINE_CODE, 80, b"a" * 16),
    (MACHINE_CODE, 90, b"b" * 24),
    (PTX, 80, b"c" * 8),
    (PTX, 90, b"d" * 8),
    (PTX, 100, b"e" * 8),
)


@pytest.mark.parametrize(
    "entries, kept",
    [
        ([CODE_80, CODE_90, PTX_90], [CODE_90]),  # machine code needs no PTX
        ([CODE_80, PTX_80, PTX_90, PTX_100], [PTX_90]),  # the newest that can be compiled for it
        ([CODE_80, PTX_100], []),  # nothing that this GPU could load
        ([(64, 0, b"f" * 8), CODE_90], [(64, 0, b"f" * 8), CODE_90]),  # another kind is left alone
    ],
)
def test_what_a_gpu_loads_stays_and_the_rest_is_zeros(entries, kept):
    (left,), (kept_bytes, blanked) = slimmed(90, entries)
    assert left == [payload if (k, a, payload) in kept else bytes(len(payload)) for k, a, payload in entries]
    assert kept_bytes == sum(len(payload) for _, _, payload in kept)
    assert kept_bytes + blanked == sum(len(payload) for _, _, payload in entries)


def test_containers_follow_each_other():
    left, _ = slimmed(80, [CODE_80, CODE_90], [PTX_80, PTX_90])
    assert left == [[CODE_80[2], bytes(24)], [PTX_80[2], bytes(8)]]
