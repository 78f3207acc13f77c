import itertools
import pickle
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from scripted_engine import ScriptedEngine, ids, tiny_task
from scripted_retriever import ScriptedRetriever
from two_roles import PAIR, in_turn

from envs.engine.adapters import ServedPolicy
from envs.engine.base import Generated, Scored
from envs.retrieval.base import Hit, RetrieverError
from envs.runner.belief import QUERY, enter_scores
from envs.runner.job import RolloutJob, turn_seed
from envs.runner.rollout_loop import RolloutLoop
from envs.search.trajectory import Termination


@pytest.fixture
def task(tmp_path):
    return tiny_task(tmp_path, max_turns=4)


def jobs_of(task, count, group=None, **changes):
    questions = task.train_questions
    return [
        RolloutJob(questions[0 if group else k], f"r{k}", group or f"g{k}", (0, 1, k, 0), **changes)
        for k in range(count)
    ]


def search_then_answer(context, turn):
    return "<search> mother <end>" if turn < 2 else "<answer> red <end>"


def run(task, script, jobs, **settings):
    engine = ScriptedEngine(task, script)
    loop = RolloutLoop(task, {"default_policy": engine}, **settings)
    records, seconds = loop.run(jobs)
    records = pickle.loads(pickle.dumps(records))  # as they go to the driver
    return engine, ([record.episode(task.policy_of) for record in records], seconds)


def test_episodes_carry_the_sampled_ids_as_they_are(task):
    _, (episodes, _) = run(task, search_then_answer, jobs_of(task, 3))
    for k, episode in enumerate(episodes):
        rollout = episode.custom_data["rollout"]
        assert rollout.id == f"r{k}" and rollout.num_turns == 3
        agent = episode.agent_episodes["searcher"]
        assert [a.tolist() for a in agent.get_actions()] == [
            ids(task, "<search> mother <end>"),
            ids(task, "<search> mother <end>"),
            ids(task, "<answer> red <end>"),
        ]
        assert [len(x) for x in agent.get_extra_model_outputs("action_logp")] == [3, 3, 3]
        assert list(agent.get_extra_model_outputs("weights_version")) == [7, 7, 7]
        assert agent.get_observations()[0].tolist() == task.protocol.prompt(
            "", rollout.question.text, ["search", "answer"]
        )
        assert agent.module_id == "default_policy" and agent.is_terminated


def test_every_gain_bearing_turn_is_scored_on_its_own_history(task):
    _, (episodes, _) = run(task, search_then_answer, jobs_of(task, 1))
    rollout = episodes[0].custom_data["rollout"]
    agent = episodes[0].agent_episodes["searcher"]
    length = len(agent.get_observations()[0])
    expected = [-length / 100]
    for k in range(2):
        length += len(agent.get_actions()[k]) + len(agent.get_observations()[k + 1])
        expected.append(-length / 100)
    got = [rollout.initial_scores_K, *(turn.scores_K for turn in rollout.gain_bearing_turns)]
    np.testing.assert_allclose(np.concatenate(got), expected)
    assert rollout.turns[-1].scores_K is None


def test_an_engine_s_seconds_are_shared_among_its_own_requests(tmp_path, monkeypatch):
    """Two policies. A step takes a second for each request that it answers, and nothing else takes time."""
    roles = [PAIR[0] | {"policy": "a"}, PAIR[1] | {"policy": "b"}]
    task = tiny_task(tmp_path, roles=roles, max_turns=8)
    spent = {Scored: 0, Generated: 0}

    class Timed(ScriptedEngine):
        def step(self):
            results = super().step()
            for result in results:
                spent[type(result)] += 1
            return results

    class Late(Timed):
        """Leaves one request waiting while the other engine works."""

        def step(self):
            late, self.waiting = self.waiting[2:], self.waiting[:2]
            results = super().step()
            self.waiting = late
            return results

    monkeypatch.setattr(time, "perf_counter", lambda: float(sum(spent.values())))
    loop = RolloutLoop(task, {"a": Timed(task, in_turn(4)), "b": Late(task, in_turn(4))})
    _, seconds = loop.run(jobs_of(task, 3))
    assert spent[Scored] > 3 and spent[Generated] > 6
    assert (seconds.score, seconds.generate) == (spent[Scored], spent[Generated])


def test_seconds_of_an_engine_that_policies_share(tmp_path, monkeypatch):
    """A step takes a second for each request under way, of either policy. Rollout r1 writes twice as slowly,
    so turns of both policies are under way together.
    """
    roles = [PAIR[0] | {"policy": "a"}, PAIR[1] | {"policy": "b"}]
    task = tiny_task(tmp_path, roles=roles, max_turns=8)
    spent = {Scored: 0, Generated: 0}

    class Server(ScriptedEngine):
        begun: set = set()

        def submit_for(self, policy, request):
            self.submit(request)

        def load_adapter(self, policy, tensors):
            pass

        def step(self):
            slow = [one for one in self.waiting if one.request_id.startswith("turn/r1/")]
            late = [one for one in slow if one.request_id not in self.begun]
            self.begun |= {one.request_id for one in late}
            self.waiting = [one for one in self.waiting if one not in late]
            results = super().step()
            self.waiting = late
            for result in results:
                spent[type(result)] += 1
            spent[Generated] += len(late)
            return results

    server = Server(task, in_turn(4))
    engines = {policy: ServedPolicy(server, policy) for policy in ("a", "b")}
    for engine in engines.values():
        engine.load_weights({}, 1)
    monkeypatch.setattr(time, "perf_counter", lambda: float(sum(spent.values())))
    _, seconds = RolloutLoop(task, engines).run(jobs_of(task, 3))
    assert spent[Scored] > 3 and spent[Generated] > 6
    assert seconds.score == pytest.approx(spent[Scored])
    assert seconds.generate == pytest.approx(spent[Generated])


def test_the_prompt_of_a_group_is_scored_once(task):
    engine, (episodes, _) = run(task, search_then_answer, jobs_of(task, 5, group="g"))
    assert sum(request.startswith("score/") and "/-1/" in request for request in engine.order) == 1
    assert all(e.custom_data["rollout"].initial_scores_K is not None for e in episodes)


def test_no_scores_where_none_are_asked_for(task):
    engine, (episodes, _) = run(task, search_then_answer, jobs_of(task, 2, score_beliefs=False))
    assert not any(request.startswith("score/") for request in engine.order)
    assert episodes[0].custom_data["rollout"].initial_scores_K is None


def test_what_the_learner_s_side_is_to_score_is_what_the_engine_would_have_scored(task):
    engine, (episodes, _) = run(task, search_then_answer, jobs_of(task, 1))
    silent, (unscored, _) = run(task, search_then_answer, jobs_of(task, 1), scores_on_engine=False)
    assert not any(request.startswith("score/") for request in silent.order)
    query = unscored[0].custom_data[QUERY]
    suffixes = task.answer_templates(task.train_questions[0]).suffixes_K
    assert [suffix.ids for suffix in query.suffixes_K] == [suffix.ids for suffix in suffixes]
    contexts = {tuple(context) for context in engine.scored_contexts}
    assert {tuple(context.tolist()) for context in query.contexts_T1} == contexts and len(contexts) == 3
    enter_scores(
        unscored[0].custom_data["rollout"],
        -np.array([[len(c) / 100] for c in query.contexts_T1]),
        "reference",
    )
    scored, expected = (e[0].custom_data["rollout"] for e in (unscored, episodes))
    np.testing.assert_allclose(scored.initial_scores_K, expected.initial_scores_K)
    for turn, other in zip(scored.gain_bearing_turns, expected.gain_bearing_turns, strict=True):
        np.testing.assert_allclose(turn.scores_K, other.scores_K)
    assert QUERY not in episodes[0].custom_data and (scored.scorer, expected.scorer) == (
        "reference",
        "current",
    )


@pytest.mark.parametrize("scores_on_engine", [True, False])
def test_a_question_without_belief_is_played_and_not_scored(task, scores_on_engine):
    """Beside questions that have belief."""
    jobs = jobs_of(task, 3)
    jobs[1] = replace(jobs[1], question=replace(jobs[1].question, golds=["red " * 129]))
    engine, (episodes, _) = run(task, search_then_answer, jobs, scores_on_engine=scores_on_engine)
    assert not any(request.startswith("score/r1/") for request in engine.order)
    usual, without = (episodes[k].custom_data["rollout"] for k in (0, 1))
    assert without.scored_golds_K == [] and without.initial_scores_K is None
    assert without.termination is Termination.ANSWERED and without.outcome > 0
    assert all(turn.scores_K is None for turn in without.turns)
    assert (usual.initial_scores_K is not None) is scores_on_engine
    assert [QUERY in e.custom_data for e in episodes] == [not scores_on_engine, False, not scores_on_engine]


def test_a_prompt_without_room_takes_no_request_and_stops_no_other(task):
    jobs = jobs_of(task, 3, split="heldout", score_beliefs=False)
    jobs[1] = replace(jobs[1], question=replace(jobs[1].question, text="mother of " * 500))
    engine = ScriptedEngine(task, search_then_answer)
    records, _ = RolloutLoop(task, {"default_policy": engine}).run(jobs)
    endings = [record.rollout.termination for record in records]
    assert endings == [Termination.ANSWERED, Termination.TOKEN_LIMIT, Termination.ANSWERED]
    assert not any("/r1/" in request for request in engine.order)
    alone, _ = RolloutLoop(task, {"default_policy": engine}).run(jobs[1:2])
    assert alone[0].rollout.turns == []


def test_a_failed_search_is_an_observation_and_a_row(task):
    task.__dict__["retriever"] = ScriptedRetriever({"mother": RetrieverError("the server is down")})
    _, (episodes, _) = run(task, search_then_answer, jobs_of(task, 1))
    turn = episodes[0].custom_data["rollout"].turns[0]
    assert turn.tool_calls[0].error == "the search failed: the server is down"
    assert turn.observation_text.startswith("the search failed") and turn.scores_K is not None


def test_a_bug_in_a_tool_ends_the_run(task):
    task.__dict__["retriever"] = ScriptedRetriever({"mother": KeyError("a bug")})
    with pytest.raises(KeyError, match="a bug"):
        run(task, search_then_answer, jobs_of(task, 1))


def test_slow_tools_of_many_rollouts_overlap(task):
    class Slow:
        identity = {}

        def search(self, queries, top_k):
            time.sleep(0.2)
            return [[Hit("d", "t", "mother", 1.0)]]

    task.__dict__["retriever"] = Slow()
    started = time.perf_counter()
    _, (episodes, seconds) = run(task, search_then_answer, jobs_of(task, 16))
    # One after another the 32 searches take 6.4 s.
    assert time.perf_counter() - started < 3.2
    assert seconds.tools > 0 and all(
        e.custom_data["rollout"].termination is Termination.ANSWERED for e in episodes
    )


def test_a_search_that_hangs_fails_alone(task):
    release, answered = threading.Event(), threading.Event()
    searches = itertools.count()

    class HangsOnce:
        identity = {}

        def search(self, queries, top_k):
            if next(searches) == 0:
                release.wait(60)
                answered.set()
            return [[Hit("d", "t", "mother", 1.0)]]

    task.__dict__["retriever"] = HangsOnce()
    task.tools.timeout = 0.3
    _, (episodes, _) = run(task, search_then_answer, jobs_of(task, 3))
    calls = [call for e in episodes for turn in e.custom_data["rollout"].turns for call in turn.tool_calls]
    [hung] = [call for call in calls if call.error is not None]
    release.set()
    assert answered.wait(60)  # what it returns after all changes nothing
    assert (hung.error, hung.failed, hung.result_text) == ("search took longer than 0.3 s", True, "")
    assert hung.seconds >= 0.3
    assert len(calls) == 6 and all(
        e.custom_data["rollout"].termination is Termination.ANSWERED for e in episodes
    )


def test_tools_that_answer_at_once_need_no_threads(task):
    before = set(threading.enumerate())
    _, (episodes, seconds) = run(task, search_then_answer, jobs_of(task, 3))
    assert set(threading.enumerate()) <= before and seconds.tools == 0
    assert all(turn.seconds_tool > 0 for e in episodes for turn in e.custom_data["rollout"].turns[:2])


def test_a_cut_decision_ends_as_truncated(task):
    _, (episodes, _) = run(
        task, lambda context, turn: "<search> " + "mother " * 60 + "<end>", jobs_of(task, 1)
    )
    rollout = episodes[0].custom_data["rollout"]
    assert rollout.termination is Termination.TOKEN_LIMIT
    assert (
        episodes[0].agent_episodes["searcher"].is_truncated
        and len(episodes[0].agent_episodes["searcher"]) == 1
    )


def test_two_agents_that_never_finish_their_turn_are_whole_episodes(tmp_path):
    roles = [
        {"name": "searcher", "actions": ["search", "answer"]},
        {"name": "reader", "actions": ["message"], "reads": "searcher"},
    ]
    task = tiny_task(tmp_path, roles=roles, max_turns=5)

    def script(context, turn):
        return "<message> mother <end>" if "<reader>" in context else "<search> mother <end>"

    _, (episodes, _) = run(task, script, jobs_of(task, 2))
    rollout, episode = episodes[0].custom_data["rollout"], episodes[0]
    assert [turn.agent for turn in rollout.turns] == ["searcher", "reader", "searcher", "reader", "searcher"]
    assert rollout.termination is Termination.TURN_LIMIT
    assert {agent: len(e) for agent, e in episode.agent_episodes.items()} == {"searcher": 3, "reader": 2}
    assert [turn.scores_K is not None for turn in rollout.turns] == [True] * 4 + [False]


def test_episodes_travel_between_processes(task):
    _, (episodes, _) = run(task, search_then_answer, jobs_of(task, 1))
    copy = pickle.loads(pickle.dumps(episodes[0]))
    assert copy.custom_data["rollout"].turns[0].query == "mother"
    assert copy.agent_episodes["searcher"].module_id == "default_policy"


def test_equal_rollout_ids_are_refused(task):
    job = jobs_of(task, 1)[0]
    with pytest.raises(ValueError, match="rollout ids must be different"):
        run(task, search_then_answer, [job, job])


def test_seeds_depend_on_every_part_and_on_nothing_else():
    base = turn_seed((0, 1, 2, 3), 4)
    assert base == turn_seed((0, 1, 2, 3), 4)
    others = [
        turn_seed(p, t)
        for p, t in [((1, 1, 2, 3), 4), ((0, 2, 2, 3), 4), ((0, 1, 3, 3), 4), ((0, 1, 2, 4), 4)]
    ]
    assert len({base, *others, turn_seed((0, 1, 2, 3), 5)}) == 6
    assert 0 <= base < 2**31
