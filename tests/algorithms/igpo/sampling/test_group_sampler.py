"""Env runners that are lost, and do not come back."""

import time
from types import SimpleNamespace

import pytest

from algorithms.igpo.sampling import GroupSampler


class NoRunners:
    """An `EnvRunnerGroup` whose only runner is gone with its node."""

    local_env_runner = None
    _worker_manager = SimpleNamespace(actors=dict)

    def healthy_env_runner_ids(self):
        return []

    def num_healthy_remote_env_runners(self):
        return 0


def test_a_runner_whose_node_is_gone_is_waited_for_and_not_for_ever(caplog, monkeypatch):
    monkeypatch.setattr(
        "algorithms.igpo.sampling.group_sampler.time.sleep", lambda seconds, sleep=time.sleep: sleep(0.05)
    )
    asked = []
    sampler = GroupSampler(NoRunners(), lambda ids: None, asked.append, restore_timeout_s=0.12)
    with pytest.raises(RuntimeError, match=r"came back within 0\.12 s .*is a node of the cluster gone\?"):
        sampler.sample([["a job"]])
    assert len(asked) >= 3
    (told,) = [line for line in caplog.messages if "waiting for" in line]
    assert told.startswith("waiting for an env runner, at most 0.12 s (env_runner_restore_timeout_s): is a")
