"""Dynamic sampling (`dapo`): groups that collapsed make way for groups of new prompts."""

from types import SimpleNamespace

import pytest

from algorithms.igpo.metrics import duplicate_share, training_metrics
from algorithms.igpo.sampling import sample_batch
from envs.data.prompt_sampler import PromptSampler
from envs.data.question import Question
from envs.search.trajectory import ActionKind, Rollout, Turn

WANTED = 3


class Record:
    """What a runner brings back of a rollout; its episode is itself."""

    def __init__(self, rollout_id, outcome, tokens):
        turns = [SimpleNamespace(num_decision_tokens=tokens)]
        self.rollout = SimpleNamespace(id=rollout_id, outcome=outcome, turns=turns)

    def episode(self, policy_of):
        assert policy_of == "the task's"
        return self


def group(name, *outcomes, tokens=10):
    return [Record(f"{name}{k}", outcome, tokens) for k, outcome in enumerate(outcomes)]


def runner_metrics(seconds):
    return {
        f"seconds_{name}": SimpleNamespace(peek=lambda: seconds)
        for name in ("generate", "score", "tools", "host")
    }


def sample_batch_of(rounds, *, dynamic=True, max_resample=3):
    """What `sample_batch` makes of the groups that each round of sampling brings; also how many prompts each
    round asked for.
    """
    asked, rounds = [], iter(rounds)

    def one_round(jobs):
        asked.append(len(jobs))
        return next(rounds), [runner_metrics(2.0), runner_metrics(3.0)]

    config = SimpleNamespace(
        prompts_per_iteration=WANTED,
        dynamic_sampling=dynamic,
        max_resample=max_resample,
        group_size=2,
        seed=0,
    )
    questions = [Question(f"q{k}", "?", ["a"]) for k in range(20)]
    task = SimpleNamespace(train_questions=questions, policy_of="the task's")
    sampler = SimpleNamespace(sample=one_round)
    return sample_batch(config, task, PromptSampler(20, seed=0), sampler, 0, 1), asked


def sample(rounds, **settings):
    batch, asked = sample_batch_of(rounds, **settings)
    return [record.rollout.id for record in batch.episodes], batch.num_tokens, asked


def test_collapsed_groups_are_sampled_again_and_their_tokens_counted():
    rounds = [
        [group("a", 1.0, 0.0), group("b", 0.0, 0.0), group("c", 1.0, 1.0)],
        [group("d", 0.5, 0.5), group("e", 0.0, 1.0)],
        [group("f", 1.0, 0.0)],
    ]
    batch, _ = sample_batch_of(rounds)
    assert [rollout.id for rollout in batch.replaced] == ["b0", "b1", "c0", "c1", "d0", "d1"]
    names, tokens, asked = sample(rounds)
    assert names == ["a0", "a1", "e0", "e1", "f0", "f1"]
    assert tokens == 6 * 2 * 10 and asked == [3, 2, 1]


@pytest.mark.parametrize("max_resample", [0, 2])
def test_collapsed_groups_fill_the_batch_when_the_rounds_are_spent(max_resample):
    first = [group("a", 1.0, 0.0), group("b", 0.0, 0.0), group("c", 1.0, 1.0)]
    later = [[group(f"{name}{k}", 0.0, 0.0) for k in (1, 2)] for name in "xyz"]
    names, tokens, asked = sample([first, *later], max_resample=max_resample)
    assert names == ["a0", "a1", "b0", "b1", "c0", "c1"]
    assert asked == [3] + [2] * max_resample and tokens == (3 + 2 * max_resample) * 2 * 10


def test_other_presets_take_what_comes():
    names, tokens, asked = sample(
        [[group("a", 0.0, 0.0), group("b", 0.0, 1.0), group("c", 0.0, 0.0)]], dynamic=False
    )
    assert names == ["a0", "a1", "b0", "b1", "c0", "c1"] and asked == [3] and tokens == 60


@pytest.mark.parametrize("max_resample", [0, 2])
def test_seconds_are_the_slowest_runner_s_in_each_round_added_up(max_resample):
    rounds = [
        [group("a", 1.0, 0.0), group("b", 0.0, 0.0), group("c", 1.0, 0.0)],
        *[[group(name, 0.0, 0.0)] for name in "xy"],
    ]
    batch, _ = sample_batch_of(rounds, max_resample=max_resample)
    rounds_seconds = 3.0 * (1 + max_resample)
    host = batch.seconds_by_phase.pop("host")
    assert batch.seconds_by_phase == dict.fromkeys(("generate", "score", "tools"), rounds_seconds)
    assert rounds_seconds < host < rounds_seconds + 1  # the episodes are made after the rounds


def test_em_of_all_sampled_rollouts_is_a_metric_of_its_own():
    def rollouts(name, *ems):
        return [
            Rollout(
                f"{name}{k}",
                name,
                Question("q", "?", ["a"]),
                outcome=em,
                metrics={"f1_paper": 0.0, "em_squad": em},
            )
            for k, em in enumerate(ems)
        ]

    kept, replaced = rollouts("a", 1.0, 0.0), rollouts("b", 0.0, 0.0) + rollouts("c", 1.0, 0.0)
    metrics = training_metrics(kept, {}, [], replaced)
    assert (metrics["em"], metrics["em_sampled"], metrics["rollouts"]) == (1 / 2, 2 / 6, 2.0)
    assert training_metrics(kept, {}, [])["em_sampled"] == 1 / 2


def test_a_duplicate_repeats_the_decisions_of_another_rollout_of_its_group():
    def rollout(group, number, *texts):
        one = Rollout(f"{group}{number}", group, Question("q", "?", ["a"]))
        one.turns = [
            Turn(at, "a", "p", text, ActionKind.TOOL, num_decision_tokens=1) for at, text in enumerate(texts)
        ]
        return one

    rollouts = [
        rollout("g", 0, "x", "y"),
        rollout("g", 1, "x", "y"),
        rollout("g", 2, "x"),
        rollout("h", 0, "x"),
    ]
    assert duplicate_share(rollouts) == 1 / 4
