"""A checkpoint that a run cannot begin from is refused: RLlib would go on from the first weights."""

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


def group(*learners):
    def foreach_learner(function, **_):
        results = []
        for learner in learners:
            try:
                results.append(function(learner))
            except ValueError as error:  # RLlib hands it over as if it were a result
                results.append(error)
        return [SimpleNamespace(get=lambda result=result: result) for result in results]

    return SimpleNamespace(foreach_learner=foreach_learner)


def test_what_a_learner_s_process_raised_is_raised_here(tmp_path):
    check_learners(group(Learner(ValueError("not asked"), version=5)), tmp_path, 5)
    bad = Learner(ValueError("weights do not fit the model"))
    with pytest.raises(ValueError, match="weights do not fit the model"):
        check_learners(group(Learner(version=5), bad), tmp_path, 5)
    with pytest.raises(RuntimeError, match=r"holds weights version 5, but the learners hold \[5, 4\]"):
        check_learners(group(Learner(version=5), Learner(restored=4)), tmp_path, 5)
