"""The evaluation within a run: who is asked, how, and what it leaves where its tools fail.

Real rollouts, a scripted engine.
"""

import json
from types import SimpleNamespace

import pytest
from scripted_engine import ScriptedEngine, tiny_task
from scripted_retriever import ScriptedRetriever

from algorithms.igpo.algorithm import IGPO
from envs.retrieval.base import RetrieverError
from envs.runner.rollout_loop import RolloutLoop
from envs.world.config import WorldSettings
from envs.world.world import build_world


def own_files(folder):
    """A user's own corpus and questions, of which a share is held out by hash."""
    world = build_world(WorldSettings(train_questions=40, heldout_questions=10))
    questions = [
        {"id": q.id, "question": q.text, "golden_answers": q.golds} for q in world.questions("train")
    ]
    files = {
        "passages": [{"id": d.id, "contents": d.contents} for d in world.documents],
        "questions": questions,
    }
    for name, records in files.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return {
        "corpus": str(folder / "passages.jsonl"),
        "questions": str(folder / "questions.jsonl"),
        "heldout_share": 0.3,
    }


def make_algorithm(task, evaluation_questions=None):
    """An `IGPO` after four iterations, without Ray: its rollouts are played here, and `jobs` keeps what was
    asked for.
    """
    algorithm = IGPO.__new__(IGPO)
    algorithm.config = SimpleNamespace(
        seed=0,
        evaluation_questions=evaluation_questions,
        max_tool_error_share=0.2,
        callbacks_on_evaluate_end=None,
    )
    algorithm.callbacks, algorithm.metrics = [], None
    algorithm.task, algorithm.records, algorithm.jobs, algorithm._iteration = task, [], [], 4
    algorithm._weights_version = 4

    def sample(groups):
        algorithm.jobs = [job for group in groups for job in group]
        script = lambda context, turn: "<answer> red <end>" if turn else "<search> mother <end>"  # noqa: E731
        loop = RolloutLoop(task, {"default_policy": ScriptedEngine(task, script)})
        return [loop.run(group)[0] for group in groups], []

    algorithm.sampler = SimpleNamespace(sample=sample)
    return algorithm


@pytest.mark.parametrize("data", [lambda folder: {}, own_files], ids=["world", "own files"])
def test_only_held_out_questions_are_asked_greedily_and_each_once(tmp_path, data):
    task = tiny_task(tmp_path, **data(tmp_path))
    algorithm = make_algorithm(task)
    scores = algorithm.evaluate()
    asked = [job.question.text for job in algorithm.jobs]
    assert asked == [question.text for question in task.heldout_questions] and len(asked) >= 5
    assert not set(asked) & {question.text for question in task.train_questions}
    assert {(job.split, job.temperature, job.score_beliefs) for job in algorithm.jobs} == {
        ("heldout", 0.0, False)
    }
    (record,) = algorithm.records
    assert [rollout.question.text for rollout in record.rollouts] == asked and scores["questions"] == len(
        set(asked)
    )
    assert {rollout.split for rollout in record.rollouts} == {record.split} == {"heldout"}


def test_evaluation_questions_takes_the_first_so_many(tmp_path):
    task = tiny_task(tmp_path)
    algorithm = make_algorithm(task, evaluation_questions=3)
    assert algorithm.evaluate()["questions"] == 3
    assert [job.question for job in algorithm.jobs] == task.heldout_questions[:3]


@pytest.mark.parametrize(("evaluate", "iteration"), [(IGPO.evaluate, 4), (IGPO._run_one_evaluation, 5)])
def test_where_tools_fail_the_rollouts_are_left_as_those_of_their_iteration(tmp_path, evaluate, iteration):
    """Within `train()` the iteration is one that RLlib has not counted yet."""
    task = tiny_task(tmp_path)
    task.__dict__["retriever"] = ScriptedRetriever({"mother": RetrieverError("the server is down")})
    algorithm = make_algorithm(task)
    with pytest.raises(
        RuntimeError, match="failed in the held-out evaluation.*the search failed: the server is down"
    ):
        evaluate(algorithm)
    (record,) = algorithm.records
    assert (record.iteration, record.split, len(record.rollouts)) == (iteration, "heldout", 10)
    assert all(rollout.turns[0].tool_calls[0].failed for rollout in record.rollouts)
