"""The report on the watch for a collapse, by hand; every recipe is a valid experiment."""

import pytest

from benchmarks.collapse.recipes import RECIPES
from benchmarks.collapse.report import Outcome, outcomes, report
from pipeline.analysis.collapse_watch import iteration_table

SOUND = {"em_sampled": 0.4, "answered_share": 1.0, "malformed_share": 0.0, "turns_mean": 3.0}


def table(run, *rows):
    return iteration_table(run, rows)


def test_what_became_of_runs_and_what_was_said_before():
    mute = [SOUND | {"answered_share": 0.2}] * 3
    lost = [SOUND | {"answered_share": 0.2, "em_sampled": 0.0}] * 6
    found = outcomes(
        [
            table("sound", *[SOUND] * 8),
            table("alarm", *[SOUND] * 6, *mute),
            table("short", *[SOUND] * 5),
            table("empty"),
            # Turns stay and answers go at 7 and 8, EM from 9 on: means of 5 are 0.32, 0.24, 0.16 < 0.4 / 2.
            table("fell", *[SOUND] * 6, *mute[:2], *lost),
            table("at once", *[SOUND] * 6, *[SOUND | {"em_sampled": 0.0}] * 6),
        ]
    )
    assert sorted(found, key=lambda one: one.run) == [
        Outcome("alarm", 9, None, (8, "truncated")),
        Outcome("at once", 12, 9, (7, "EM falls")),
        Outcome("fell", 14, 11, (8, "truncated")),
        Outcome("sound", 8, None, None),
    ]
    lines = report(found).splitlines()
    assert "| fell | 11 of 14 | 8 | truncated | 3 |" in lines
    assert "| at once | 9 of 12 | 7 | EM falls | 2 |" in lines
    assert lines[-3:] == [
        "4 runs, 2 fell, 2 of them warned.",
        "False alarms: 1 of 2 sound runs.",
        "  alarm: truncated at 8 of 9",
    ]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_a_recipe_is_a_valid_experiment(recipe):
    config = recipe.experiment(3).algorithm_config()
    assert config.seed == 3 and config.env_settings().world.seed == 1003
