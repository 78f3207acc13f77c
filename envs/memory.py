"""Memory that this process may use: the host's, or what the control groups of its container or job allow.

The kernel ends a process at the limit of its own group or of one above it, whatever the host has free. psutil
knows the host alone, and Ray one group, that at the mount's root.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_HOST = Path("/")


class _Names(NamedTuple):
    """A group's files of limit and use, and the lines of its `memory.stat` that count page cache."""

    limit: str
    used: str
    cache: tuple[str, str]


_V1 = _Names("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file"))
_V2 = _Names("memory.max", "memory.current", ("inactive_file", "active_file"))


def total_memory(root: Path = _HOST) -> int:
    """Bytes of the host, or the lowest limit of this process's groups where that is lower.

    Args:
        root: the folder of `proc` and `sys`.
    """
    import psutil

    return min([psutil.virtual_memory().total, *(limit for limit, _ in _limits(root))])


def free_memory(root: Path = _HOST) -> int:
    """Bytes that the host has available, or that are left below a group's limit where those are fewer.

    Page cache counts as free in both, since the kernel gives it back before it ends a process.

    Args:
        root: the folder of `proc` and `sys`.
    """
    import psutil

    left = (max(0, limit - used) for limit, used in _limits(root))
    return min([psutil.virtual_memory().available, *left])


def _limits(root: Path) -> Iterator[tuple[int, int]]:
    """Limit and use, less page cache, of each group that has a limit. What cannot be read limits nothing."""
    for group, names in _groups(root):
        limit, used = (_read(group / name).strip() for name in (names.limit, names.used))
        if not limit.isdigit():  # `max`, or no file: the host's own root group has none
            continue
        stat = dict(line.split() for line in _read(group / "memory.stat").splitlines())
        yield int(limit), max(0, int(used or 0) - sum(int(stat.get(name, 0)) for name in names.cache))


def _groups(root: Path) -> Iterator[tuple[Path, _Names]]:
    """This process's group and all above it, up to the mount.

    A container may be told the host's path of its group, which its mount does not have: there the group is
    the mount itself.
    """
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            mount, names = root / "sys/fs/cgroup", _V2
        elif "memory" in controllers.split(","):
            mount, names = root / "sys/fs/cgroup/memory", _V1
        else:
            continue
        own = mount / path.lstrip("/")
        for group in (own, *own.parents):
            if group.is_relative_to(mount):
                yield group, names


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # no such group or system; a group that has just gone
        return ""
