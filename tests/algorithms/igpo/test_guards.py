"""A run stops where too many tool calls fail, and says why; what the policy got wrong does not stop it."""

from types import SimpleNamespace

import pytest

from algorithms.igpo.algorithm import IGPO
from algorithms.igpo.guards import check_gap, check_tools
from algorithms.igpo.sampling import SampledBatch
from envs.data.question import Question
from envs.search.trajectory import ActionKind, Rollout, ToolCall, Turn

DOWN = "the search failed: the server 127.0.0.1:8000 can't be reached (Connection refused)"
SLOW = "search took longer than 60 s"


def rollouts(*calls: ToolCall) -> list[Rollout]:
    turns = [
        Turn(k, "searcher", "default_policy", "", ActionKind.TOOL, tool_calls=[call])
        for k, call in enumerate(calls)
    ]
    return [Rollout("r", "g", Question("q", "?", ["a"]), turns=turns)]


def check(*calls: ToolCall, bound: float = 0.2) -> None:
    check_tools(rollouts(*calls), bound)


def worked() -> ToolCall:
    return ToolCall("search", {"query": "red"}, result_text="red")


def failed(error: str) -> ToolCall:
    return ToolCall("search", {"query": "red"}, error=error, failed=True)


def test_more_failures_than_the_bound_stop_the_run_and_name_the_commonest():
    calls = [failed(SLOW), failed(DOWN), failed(DOWN), *(worked() for _ in range(7))]
    with pytest.raises(RuntimeError) as stopped:
        check(*calls)
    assert str(stopped.value) == (
        "3 of 10 tool calls failed in this iteration, more than max_tool_error_share 0.2; the commonest "
        "error: " + DOWN
    )
    check(*calls, bound=0.3)


def test_the_bound_itself_is_allowed():
    check(failed(DOWN), *(worked() for _ in range(4)))
    check()


def test_what_the_policy_got_wrong_does_not_stop_the_run():
    check(*(ToolCall("serch", {}, error="unknown tool 'serch', known: search") for _ in range(9)))


def test_a_training_step_that_stops_leaves_the_rollouts_that_it_stopped_over():
    sampled = rollouts(failed(DOWN), worked())
    episodes = [SimpleNamespace(custom_data={"rollout": rollout}) for rollout in sampled]
    algorithm = IGPO.__new__(IGPO)
    algorithm.config = SimpleNamespace(max_tool_error_share=0.2, max_weight_lag=0)
    algorithm._iteration = algorithm._weights_version = 6
    algorithm.records, algorithm.task, algorithm.prompt_sampler, algorithm.sampler = [], None, None, None
    algorithm.metrics = SimpleNamespace(aggregate=lambda values, key: None)
    algorithm._ahead = SampledBatch(episodes, 10, 1, [], 6, 1.0, {})
    with pytest.raises(RuntimeError, match="1 of 2 tool calls failed in this iteration"):
        algorithm.training_step()
    (record,) = algorithm.records
    assert (record.iteration, record.split, record.rollouts) == (7, "train", sampled) and not record.credit


def test_a_gap_to_the_sampler_above_the_bound_stops_the_run():
    check_gap(0.05, 0.05, 3)
    with pytest.raises(RuntimeError, match=r"mean gap 0.06 is above max_logp_gap 0.05 at weights version 3"):
        check_gap(0.06, 0.05, 3)
    with pytest.raises(RuntimeError, match="mean gap nan"):  # log-probs of an engine whose weights are broken
        check_gap(float("nan"), 0.05, 3)
