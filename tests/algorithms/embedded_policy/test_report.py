"""The measures of the policy that ships with the package."""

from pathlib import Path

import pytest

from algorithms.embedded_policy.report import measure
from envs.engine.models import resolve_model


@pytest.mark.slow
def test_the_shipped_policy_reads_and_gives_up_on_more_hops():
    measures = measure(Path(resolve_model("tiny")), questions=20, groups=2)
    assert measures["greedy_em"] == pytest.approx(0.6)
    assert measures["greedy_em_1_hops"] == 1.0 > measures["greedy_em_2_hops"]
    assert measures["format_validity"] > 0.9
    for hops in (1, 2, 3, 4):
        assert measures[f"belief_{hops}_hops_0"] < 0.05
        assert measures[f"belief_{hops}_hops_{hops}"] > 0.85
