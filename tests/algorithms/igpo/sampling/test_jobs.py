"""The rollouts of an iteration: one group per drawn prompt, each with an identity and seeds of its own."""

from collections import Counter

from algorithms.igpo.sampling import training_jobs
from envs.data.prompt_sampler import PromptSampler
from envs.data.question import Question


def make_jobs(num_questions, iteration, *num_prompts):
    """The groups of rounds that ask for `num_prompts` each, as under dynamic sampling."""
    cursor, drawn = PromptSampler(num_questions, seed=3), Counter()
    questions = [Question(f"q{k}", "?", ["a"]) for k in range(num_questions)]
    return [
        group
        for count in num_prompts
        for group in training_jobs(
            questions, cursor.next(count), iteration=iteration, group_size=2, seed=3, drawn_before=drawn
        )
    ]


def test_every_prompt_is_a_group_whose_jobs_are_named_by_iteration_question_and_number():
    (group,) = make_jobs(1, 7, 1)
    assert [job.rollout_id for job in group] == ["000007/q0/0", "000007/q0/1"]
    assert {job.group_id for job in group} == {"000007/q0"} and [job.seed_parts for job in group] == [
        (3, 7, 0, 0),
        (3, 7, 0, 1),
    ]


def test_a_question_that_is_drawn_again_in_one_iteration_is_another_group_with_other_seeds():
    groups = make_jobs(3, 1, 5, 3)
    jobs = [job for group in groups for job in group]
    assert len({group[0].group_id for group in groups}) == 8
    assert len({job.rollout_id for job in jobs}) == len({job.seed_parts for job in jobs}) == 16
    assert sorted(Counter(group[0].question.id for group in groups).values()) == [2, 3, 3]
