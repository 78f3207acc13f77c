"""The memory of this process: its host's, or what its control groups leave, of either version."""

from types import SimpleNamespace

import pytest

from envs.memory import free_memory, total_memory

GIB = 2**30


@pytest.fixture
def host(tmp_path, monkeypatch):
    """Makes `proc` and `sys` of a host with 256 GiB, of which 200 are available.

    Its arguments: what `/proc/self/cgroup` says, and of each group the text of its files.
    """
    monkeypatch.setattr(
        "psutil.virtual_memory", lambda: SimpleNamespace(total=256 * GIB, available=200 * GIB)
    )

    def build(member: str | None, groups: dict[str, dict[str, str]]):
        if member is not None:
            (tmp_path / "proc/self").mkdir(parents=True)
            (tmp_path / "proc/self/cgroup").write_text(member)
        for path, files in groups.items():
            folder = tmp_path / "sys/fs/cgroup" / path
            folder.mkdir(parents=True, exist_ok=True)
            for name, text in files.items():
                (folder / name).write_text(text)
        return tmp_path

    return build


def v2(limit, used=0, inactive=0, active=0) -> dict[str, str]:
    return {
        "memory.max": f"{limit}\n",
        "memory.current": f"{used}\n",
        "memory.stat": f"anon 7\nfile 9\ninactive_file {inactive}\nactive_file {active}\nslab 3\n",
    }


def v1(limit, used=0, inactive=0, active=0) -> dict[str, str]:
    return {
        "memory.limit_in_bytes": f"{limit}\n",
        "memory.usage_in_bytes": f"{used}\n",
        "memory.stat": f"inactive_file 1\nactive_file 1\nhierarchical_memory_limit {limit}\n"
        f"total_inactive_file {inactive}\ntotal_active_file {active}\n",
    }


def test_a_container_has_its_limit_and_its_page_cache_is_free(host):
    root = host("0::/\n", {"": v2(8 * GIB, used=6 * GIB, inactive=GIB, active=2 * GIB)})
    assert (total_memory(root), free_memory(root)) == (8 * GIB, 5 * GIB)


def test_the_groups_above_a_job_s_own_count_too(host):
    """Slurm limits the job and systemd the slice; what the neighbours in the slice use is gone."""
    groups = {
        "": {"cgroup.controllers": "cpu memory\n"},
        "system.slice": v2(64 * GIB, used=62 * GIB, inactive=GIB),
        "system.slice/job_7": v2(16 * GIB, used=GIB),
        "system.slice/job_7/step_0": v2("max", used=GIB),
        "system.slice/job_8": v2(GIB, used=GIB),
    }
    root = host("0::/system.slice/job_7/step_0\n", groups)
    assert (total_memory(root), free_memory(root)) == (16 * GIB, 3 * GIB)


def test_a_group_that_is_full_leaves_nothing(host):
    root = host("0::/\n", {"": v2(8 * GIB, used=9 * GIB)})
    assert (total_memory(root), free_memory(root)) == (8 * GIB, 0)


V1_MEMBER = "9:name=systemd:/\n4:cpuset,memory:/slurm/job_7\n3:cpu:/\n0::/\n"


def test_groups_of_version_1(host):
    groups = {
        "memory": v1(2**63 - 4096, used=100 * GIB),
        "memory/slurm": v1(32 * GIB, used=30 * GIB, inactive=GIB, active=GIB),
        "memory/slurm/job_7": v1(16 * GIB, used=GIB),
        "unified": {"cgroup.controllers": "\n"},
    }
    root = host(V1_MEMBER, groups)
    assert (total_memory(root), free_memory(root)) == (16 * GIB, 4 * GIB)


def test_a_container_of_version_1_is_told_the_host_s_path_of_its_group(host):
    root = host("4:memory:/docker/0a1b\n", {"memory": v1(8 * GIB, used=3 * GIB, inactive=GIB)})
    assert (total_memory(root), free_memory(root)) == (8 * GIB, 6 * GIB)


@pytest.mark.parametrize(
    "member, groups",
    [
        (None, {}),  # no Linux
        ("0::/user.slice\n", {"": {}, "user.slice": v2("max", used=9 * GIB)}),
        ("0::/user.slice\n", {"user.slice": v2(512 * GIB, used=9 * GIB)}),
        ("0::/../outside\n", {"": {"cgroup.procs": ""}}),  # a process that another namespace put here
        ("4:memory:/\n0::/\n", {"memory": v1(2**63 - 4096, used=9 * GIB)}),
    ],
)
def test_without_a_limit_below_the_host_s_memory_the_host_s_counts(host, member, groups):
    root = host(member, groups)
    assert (total_memory(root), free_memory(root)) == (256 * GIB, 200 * GIB)
