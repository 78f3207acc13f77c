"""A checkpoint that a run cannot begin from is refused with its cause."""

from types import SimpleNamespace

import pytest

from algorithms.igpo.restoring import MODULES, check_learners, check_policies
from envs.errors import InputError


@pytest.fixture
def checkpoint(tmp_path):
    for policy in ("reader", "searcher"):
        (tmp_path / MODULES / policy).mkdir(parents=True)
    return tmp_path


def test_a_checkpoint_without_a_policy_of_the_run_is_refused(checkpoint):
    check_policies(checkpoint, ["reader", "searcher"])
    check_policies(checkpoint, ["searcher"])
    with pytest.raises(InputError) as refused:
        check_policies(checkpoint, ["default_policy", "searcher"])
    assert str(refused.value) == (
        f"{checkpoint}: this checkpoint holds the policies reader, searcher, but the roles speak "
        "through default_policy too: give them its policies, or begin without it"
    )


class Learner:
    """A learner in a process of its own, whose first restoring failed unheard."""

    def __init__(self, error=None, version=0, restored=5):
        self.error, self._weights_seq_no, self.restored = error, version, restored

    def restore_from_path(self, path):
        if self.error:
            raise self.error
        self._weights_seq_no = self.restored


class Group:
    """RLlib's `LearnerGroup`: hands exceptions over as if they were results, and then calls those that raised
    only where it is asked to.
    """

    def __init__(self, *learners):
        self.learners, self.ill = learners, [learner for learner in learners if learner.error]

    def __len__(self):
        return len(self.learners)

    def foreach_learner(self, function, *, healthy_only=True, **_):
        results = []
        for learner in self.learners:
            if healthy_only and learner in self.ill:
                continue
            try:
                results.append(function(learner))
            except ValueError as error:
                results.append(error)
        return [SimpleNamespace(get=lambda result=result: result) for result in results]


def test_what_a_learner_s_process_raised_is_raised_here(tmp_path):
    check_learners(Group(Learner(version=5), Learner(version=5)), tmp_path, 5)
    bad = Learner(ValueError("weights do not fit the model"))
    with pytest.raises(ValueError, match="weights do not fit the model"):
        check_learners(Group(Learner(version=5), bad), tmp_path, 5)
    with pytest.raises(RuntimeError, match=r"holds weights version 5, but the learners hold \[5, 4\]"):
        check_learners(Group(Learner(version=5), Learner(restored=4)), tmp_path, 5)
