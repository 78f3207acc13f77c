"""The watch for a collapse: each sign by hand, the same answer while a run trains and from its log, runs that
are too short.
"""

import re

import pytest
from rollout_log_samples import Q1, answer, rollout, search

from algorithms.credit import PRESETS
from algorithms.igpo.iteration_record import IterationRecord
from pipeline.analysis import named_queries, open_run
from pipeline.analysis.collapse_watch import WATCHED, CollapseWatch
from pipeline.experiment.settings_page import markdown
from pipeline.rollout_log.writer import RolloutLogWriter

SOUND = {
    "em_sampled": 0.4,
    "answered_share": 1.0,
    "malformed_share": 0.0,
    "turns_mean": 3.0,
    "tokens_sampled": 120.0,
    "rollouts_sampled": 10.0,
    "entropy": 0.5,
    "kl": 0.01,
    "logp_gap_mean": 1e-6,
    "collapse_share": 0.2,
    "duplicate_share": 0.3,
}
"""120 tokens of 10 rollouts of 3 turns: 4 tokens a turn."""


def signs(rows):
    watch = CollapseWatch()
    return [(s.iteration, s.name) for i, row in enumerate(rows, 1) for s in watch.add(i, row)]


def turning(**changed):
    """Six sound iterations, then six of another kind; EM stands still."""
    return [SOUND] * 6 + [SOUND | changed] * 6


def test_a_run_that_stands_still_shows_no_sign():
    assert signs(turning()) == []


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        # Means of 3 iterations are 1/3, 2/3 and 3/3 of the way at iterations 7, 8 and 9.
        ({"answered_share": 0.76, "malformed_share": 0.24}, (8, "malformed")),  # 0.08, then 0.16 > 0.1
        ({"answered_share": 0.5}, (8, "truncated")),  # 0.167, then 0.333 > 0.3
        ({"entropy": 0.05}, (9, "entropy falls")),  # 0.35, 0.2, then 0.05 < 0.5 / 5
        ({"entropy": 1.1}, (8, "entropy rises")),  # 0.7, then 0.9 > 1.5 * 0.5 + 0.1
        ({"turns_mean": 2.0, "tokens_sampled": 80.0}, (8, "fewer turns")),  # 2.667, then 2.333 < 0.8 * 3
        ({"tokens_sampled": 210.0}, (9, "longer turns")),  # 5, then 6, which is not above 6, then 7
        ({"tokens_sampled": 60.0}, (9, "shorter turns")),  # 3.33, 2.67, then 2 < 0.6 * 4
        ({"duplicate_share": 1.0}, (9, "identical rollouts")),  # 0.533, 0.767, then 1 > 0.85
        ({"collapse_share": 1.0}, (9, "no signal")),  # 0.467, 0.733, then 1 > 0.8
        ({"logp_gap_mean": 0.1}, (7, "gap")),  # 0.033 > 0.02
        ({"kl": 1.0}, (8, "KL")),  # 0.34, then 0.67 > 0.5 and above thrice 0.01
        ({"em_sampled": 0.2}, (8, "EM falls")),  # 0.333, then 0.267 < 0.7 * 0.4; means of 5 stay at 0.2
    ],
)
def test_each_sign_at_the_iteration_that_its_numbers_give(changed, expected):
    assert signs(turning(**changed)) == [expected]


def test_a_large_kl_needs_no_beginning_to_compare_with():
    """What a far too high rate does in one update: the run has no sound iterations but the first."""
    rows = [SOUND | {"kl": 0.0}, *[SOUND | {"kl": 4.0, "em_sampled": 0.0}] * 3]
    ((iteration, name, text),) = [
        (s.iteration, s.name, s.text)
        for w in [CollapseWatch()]
        for i, r in enumerate(rows, 1)
        for s in w.add(i, r)
    ]
    assert (iteration, name) == (3, "KL")  # (0 + 4 + 4) / 3 > 1
    assert "KL to the reference, nats a token 2.667 (before: not known)" in text


def test_a_sign_counts_only_while_em_does_not_rise():
    rising = [row | {"em_sampled": 0.3 + 0.03 * i} for i, row in enumerate(turning(entropy=1.1))]
    assert signs(rising) == []


def test_a_run_fell_where_the_mean_of_five_is_below_half_of_its_best():
    # Means of 5 from iteration 7 on: 0.32, 0.24, 0.16, which is the first below 0.2.
    rows = turning(em_sampled=0.0)
    assert signs(rows) == [(7, "EM falls"), (9, "fell")]  # means of 3: 0.267 < 0.28
    low = [row | {"em_sampled": row["em_sampled"] / 5} for row in rows]  # best 0.08: too little to lose
    assert signs(low) == []


def write(folder, rows):
    record = [search(0, "x", True), answer(1, "Rome")]
    with RolloutLogWriter(folder / "run-1" / "rollouts", "run-1", 1) as writer:
        for iteration, metrics in enumerate(rows, 1):
            rollouts = [rollout(f"{iteration}-{name}", f"g{iteration}", Q1, record) for name in "ab"]
            writer.write(IterationRecord(iteration, "train", iteration, rollouts), metrics)
    return folder / "run-1"


def test_the_log_answers_as_training_did(tmp_path):
    rows = turning(answered_share=0.4, turns_mean=2.0, tokens_sampled=80.0, em_sampled=0.05)
    live = [
        (s.iteration, s.name, s.text)
        for w in [CollapseWatch()]
        for i, r in enumerate(rows, 1)
        for s in w.add(i, r)
    ]
    with open_run(write(tmp_path, rows)) as run:
        logged = run.named("collapse_watch").fetchall()
    assert [(iteration, sign, text) for _, iteration, sign, *_, text in logged] == sorted(live)
    assert {name for _, name, _ in live} == {"truncated", "fewer turns", "EM falls", "fell"}
    assert any(
        "fewer turns: turns a rollout 2.33 (before: 3.0). What usually helps: lower `lr`" in text
        for *_, text in live
    )


def test_a_resumed_run_is_compared_with_its_own_beginning():
    rows = turning(entropy=1.1)
    watch = CollapseWatch(enumerate(rows[:7], 1))
    assert [sign.name for sign in watch.add(8, rows[7])] == ["entropy rises"]


def test_a_log_without_the_share_of_duplicates_counts_them_from_the_decisions(tmp_path):
    rows = [{name: value for name, value in SOUND.items() if name != "duplicate_share"}] * 6
    with open_run(write(tmp_path, rows)) as run:
        query = named_queries()["collapse_watch"].sql.split("measured AS")[0].rstrip().rstrip(",")
        assert run.sql(f"{query} SELECT iteration, share FROM duplicates ORDER BY 1").fetchall() == [
            (iteration, 0.5) for iteration in range(1, 7)
        ]


def test_a_run_too_short_to_warn_about_says_so(tmp_path):
    with open_run(write(tmp_path, [SOUND] * 5)) as run:
        ((_, iteration, sign, now, before, text),) = run.named("collapse_watch").fetchall()
    assert (iteration, sign, now, before) == (5, "too short", None, None)
    assert text == "5 iterations: a run is compared with its own first 3, so a warning needs 6"
    assert signs([SOUND | {"entropy": 9.0}] * 5) == []


def test_remedies_are_settings_or_commands_that_there_are():
    sql = named_queries()["collapse_watch"].sql
    known = markdown()
    remedies = re.findall(r"'remedy': '([^']*)'", sql)
    assert len(remedies) == 13
    for name in {name for remedy in remedies for name in re.findall(r"`([^`]+)`", remedy)}:
        assert f"`{name}`" in known or f"`{name}." in known or name in PRESETS or name == "igpo warm-start"


def test_the_query_reads_what_is_watched():
    sql = named_queries()["collapse_watch"].sql
    assert set(re.findall(r"metrics\['(\w+)'\]", sql)) == set(WATCHED)
