"""Env runners that are lost, and do not come back."""

from types import SimpleNamespace

import pytest

from algorithms.igpo.sampling import GroupSampler


class NoRunners:
    """An `EnvRunnerGroup` whose only runner is gone with its node."""

    local_env_runner = None
    _worker_manager = SimpleNamespace(actors=dict)

    def num_remote_env_runners(self):
        return 1

    def healthy_env_runner_ids(self):
        return []

    def num_healthy_remote_env_runners(self):
        return 0


class Runner:
    """An env runner that notes what it is asked to sample together."""

    weights_version = 1

    def __init__(self, asked):
        self._asked = asked

    def sample_records(self, jobs):
        self._asked.append(list(jobs))
        return [f"record of {job}" for job in jobs]

    def get_metrics(self):
        return {}


class MortalRunners(NoRunners):
    """Three runners, two of which die in their first call and are not restarted."""

    def __init__(self):
        self.healthy, self.dying, self.asked = [1, 2, 3], {1, 3}, []

    def num_remote_env_runners(self):
        return 3

    def healthy_env_runner_ids(self):
        return list(self.healthy)

    def num_healthy_remote_env_runners(self):
        return len(self.healthy)

    def foreach_env_runner(self, calls, *, local_env_runner, remote_worker_ids):
        results = []
        for call, runner in zip(calls, remote_worker_ids, strict=True):
            if runner in self.dying:
                self.healthy.remove(runner)
            else:
                results.append(call(Runner(self.asked)))
        return results


def test_the_share_of_a_runner_that_died_is_sampled_again_as_a_whole():
    """So it is computed in the batches of the runner that died, and comes out with the same last digits."""
    groups = [[f"job {n}", f"job {n}'"] for n in range(7)]
    shares = [[job for group in groups[k::3] for job in group] for k in range(3)]
    runners = MortalRunners()
    sampler = GroupSampler(runners, lambda ids: None, lambda runners: None, restore_timeout_s=1.0)
    records, metrics = sampler.sample(groups)
    assert runners.asked == [shares[1], shares[0], shares[2]]
    assert records == [[f"record of {job}" for job in group] for group in groups]
    assert len(metrics) == 2


def test_fewer_groups_than_runners():
    runners = MortalRunners()
    runners.dying = set()
    records, _ = GroupSampler(runners, lambda ids: None, lambda runners: None, 1.0).sample([["a"], ["b"]])
    assert records == [["record of a"], ["record of b"]] and runners.asked == [["a"], ["b"]]


def test_a_runner_whose_node_is_gone_is_waited_for_and_not_for_ever(caplog, monkeypatch):
    now = [0.0]
    clock = SimpleNamespace(monotonic=lambda: now[0], sleep=lambda seconds: now.append(now.pop() + seconds))
    monkeypatch.setattr("algorithms.igpo.sampling.group_sampler.time", clock)
    asked = []
    sampler = GroupSampler(NoRunners(), lambda ids: None, asked.append, restore_timeout_s=3.5)
    with pytest.raises(RuntimeError, match=r"came back within 3\.5 s .*is a node of the cluster gone\?"):
        sampler.sample([["a job"]])
    assert len(asked) == 5 and now == [4.0]
    (told,) = [line for line in caplog.messages if "waiting for" in line]
    assert told.startswith("waiting for an env runner, at most 3.5 s (env_runner_restore_timeout_s): is a")
