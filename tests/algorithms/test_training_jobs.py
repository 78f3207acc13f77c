"""The rollouts of an iteration: one group per drawn prompt, each with an identity and seeds of its own."""

from collections import Counter
from types import SimpleNamespace

from algorithms.igpo.algorithm import IGPO
from envs.data.cursor import PromptCursor
from envs.search.trajectory import Question


def make_algorithm(num_questions, group_size=2):
    return SimpleNamespace(
        config=SimpleNamespace(seed=3, group_size=group_size),
        cursor=PromptCursor(num_questions, seed=3),
        task=SimpleNamespace(train_questions=[Question(f"q{k}", "?", ["a"]) for k in range(num_questions)]),
    )


def test_every_prompt_is_a_group_whose_jobs_are_named_by_iteration_question_and_number():
    (group,) = IGPO._training_jobs(make_algorithm(1), 7, 1, Counter())
    assert [job.rollout_id for job in group] == ["000007/q0/0", "000007/q0/1"]
    assert {job.group_id for job in group} == {"000007/q0"} and [job.seed_parts for job in group] == [(3, 7, 0, 0), (3, 7, 0, 1)]


def test_a_question_that_is_drawn_again_in_one_iteration_is_another_group_with_other_seeds():
    algorithm, drawn = make_algorithm(3), Counter()
    # Two rounds of one iteration, as under dynamic sampling: 8 draws of 3 questions.
    groups = [*IGPO._training_jobs(algorithm, 1, 5, drawn), *IGPO._training_jobs(algorithm, 1, 3, drawn)]
    jobs = [job for group in groups for job in group]
    assert len({group[0].group_id for group in groups}) == 8
    assert len({job.rollout_id for job in jobs}) == len({job.seed_parts for job in jobs}) == 16
    assert sorted(Counter(group[0].question.id for group in groups).values()) == [2, 3, 3]
