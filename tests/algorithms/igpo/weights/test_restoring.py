"""A checkpoint that a run cannot begin from is refused."""

import pytest

from algorithms.igpo.weights.restoring import MODULES, check_policies
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
