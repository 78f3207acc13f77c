"""The study: its plan, its arithmetic by hand, its folder, and two real cells through the command line."""

from __future__ import annotations

import dataclasses
import io
import math
import os
import re
import signal
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import yaml
from typer.testing import CliRunner

from algorithms.credit import find_preset
from envs.errors import InputError
from pipeline.cli.igpo import app
from pipeline.study.figures import _band, _figure, sections
from pipeline.study.measures import SCHEMA, auroc
from pipeline.study.plan import Cell, Plan, load_plan
from pipeline.study.rates import best_rates, rate_scores
from pipeline.study.report import write_study_report
from pipeline.study.store import FinishedCell, Store
from pipeline.study.study import finished_cells, run_study
from pipeline.study.summary import print_summary
from pipeline.study.tables import (
    NOT_REACHED,
    NOT_RISEN,
    Estimate,
    compare,
    final,
    holm,
    rollouts_to_reach,
    sign_flip_p,
)
from pipeline.terminal import Console
from pipeline.training.launch import LaunchOptions

PLAN = {
    "budget_tokens": 3000,
    "evaluate_at_tokens": [1500],
    "baseline": "grpo",
    "candidate": "igpo",
    "settings": {"evaluation_questions": 8, "prompts_per_iteration": 4, "group_size": 4},
    "methods": {
        "igpo": {"config": "conf/presets/igpo.yaml"},
        "grpo": {"config": "conf/presets/grpo.yaml", "learning_rate": 1e-4},
    },
    "difficulties": {"easy": {"env_config.world.hops": {1: 0.2, 2: 0.8}}},
    "grids": [{"methods": ["igpo", "grpo"], "difficulties": ["easy"], "seeds": [1, 0]}],
    "tuning": {"seeds": [8, 9], "budget_tokens": 1000, "learning_rates": [1e-4, 2e-4]},
}


def finished(
    method: str, seed: int, em: list[float], *, rate: float | None = None, is_tuning: bool = False
) -> FinishedCell:
    """A cell whose held-out EM at 0, 100, 200, ... rollouts was `em`, with one training row."""
    row = dict.fromkeys(SCHEMA.names, 0.5) | {"iteration": 1, "tokens": 10, "rollouts": 10}
    rows = [
        row | {"split": "heldout", "em": score, "rollouts": 100 * k, "tokens": 1000 * k}
        for k, score in enumerate(em)
    ]
    rows += [row | {"split": "greedy", "em": em[-1] / 2}, row | {"split": "train"}]
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    facts = {
        "learning_rate": rate or 1e-4,
        "git_commit": "abc",
        "versions": {"ray": "2"},
        "hardware": {"cpus": 2},
    }
    return FinishedCell(Cell(method, "easy", seed, 3000, rate, is_tuning), table, facts)


def plan(**changes) -> Plan:
    return Plan(**(PLAN | changes))


def test_cells_go_by_seed_and_tuning_leaves_out_fixed_rates():
    assert [(cell.seed, cell.method) for cell in plan().cells()] == [
        (0, "grpo"),
        (0, "igpo"),
        (1, "grpo"),
        (1, "igpo"),
    ]
    assert [cell.name for cell in plan().tuning_cells()] == [
        "tuning/easy/igpo/lr-0.0001-seed-8",
        "tuning/easy/igpo/lr-0.0001-seed-9",
        "tuning/easy/igpo/lr-0.0002-seed-8",
        "tuning/easy/igpo/lr-0.0002-seed-9",
    ]


def test_methods_of_a_seed_see_the_same_prompts_and_tuning_another_world():
    igpo, grpo = (Cell(method, "easy", 1, 3000).experiment(plan()).config for method in ("igpo", "grpo"))
    assert igpo["env_config"]["world"] == grpo["env_config"]["world"]
    assert igpo["seed"] == grpo["seed"] == 1
    worlds = [cell.experiment(plan()).config["env_config"]["world"]["seed"] for cell in plan().tuning_cells()]
    assert worlds == [1008, 1009, 1008, 1009]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"baseline": "ppo"}, "study.yaml: there is no 'ppo' among its methods: grpo, igpo"),
        ({"tuning": PLAN["tuning"] | {"seeds": [1, 9]}}, "tuning.seeds: 1 is also a reported seed"),
        ({"metods": {}}, "metods"),
        ({"evaluate_at_tokens": [2, 1]}, r"must ascend from 1 or more, got \[2, 1\]"),
    ],
)
def test_a_wrong_plan_is_one_sentence(tmp_path: Path, change: dict, message: str):
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(PLAN | change))
    with pytest.raises(InputError, match=message):
        load_plan(path)


def test_another_baseline_than_the_plan_s(tmp_path: Path):
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(PLAN))
    other = next(name for name in PLAN["methods"] if name != PLAN["baseline"])
    assert load_plan(path, baseline=other).baseline == other
    with pytest.raises(InputError, match="there is no 'ppo' among its methods: grpo, igpo"):
        load_plan(path, baseline="ppo")


PLANS = sorted(path.name for path in Path("conf").glob("study*.yaml"))


@pytest.mark.parametrize(("file", "quick"), [*((name, False) for name in PLANS), ("study.yaml", True)])
def test_a_shipped_plan_is_valid_and_so_is_every_cell_of_it(file: str, quick: bool):
    shipped = load_plan(f"conf/{file}", quick=quick)
    cells = [*shipped.tuning_cells(), *shipped.cells()]
    assert len({cell.name for cell in cells}) == len(cells)
    for method in shipped.methods:
        next(cell for cell in cells if cell.method == method or quick).experiment(shipped).algorithm_config()


def test_final_score_and_rollouts_needed_by_hand():
    found = finished("igpo", 0, [0.2, 0.4, 0.8, 0.6, 1.0])
    assert final(found) == pytest.approx(0.8)  # of 0.8, 0.6 and 1.0
    assert rollouts_to_reach(found, 0.6) == pytest.approx(150)
    assert rollouts_to_reach(found, 0.2) == 0
    assert rollouts_to_reach(found, 1.1) == math.inf


def test_the_untrained_policy_is_no_part_of_a_final_score():
    assert final(finished("igpo", 0, [0.1, 0.5, 0.9])) == pytest.approx(0.7)


@pytest.mark.parametrize("score", [0.05, 0.1, 0.2, 0.4, 0.8, 0.97])
def test_a_baseline_that_stands_at_its_best_reaches_its_own_final_score(score):
    """The mean of three equal scores is above them in binary."""
    base = [finished("grpo", seed, [0.0, score, score, score]) for seed in (0, 1)]
    assert rollouts_to_reach(base[0], final(base[0])) == pytest.approx(100)
    own = [finished("igpo", seed, [0.0, 1.0, 1.0, 1.0]) for seed in (0, 1)]
    (row,) = compare(base + own, "grpo")
    assert isinstance(row.rollouts_ratio, Estimate) and row.rollouts_ratio.mean == pytest.approx(score)


def test_no_ratio_where_the_baseline_ends_no_higher_than_it_began():
    cells = [finished("grpo", seed, [0.5, 0.4, 0.3]) for seed in (0, 1)]
    cells += [finished("igpo", seed, [0.5, 0.9, 0.9]) for seed in (0, 1)]
    (row,) = compare(cells, "grpo")
    assert row.rollouts_ratio == NOT_RISEN


def test_comparison_is_paired_by_seed():
    cells = [finished("grpo", seed, [0.0, 0.5, 0.5, 0.5]) for seed in (0, 1, 2)]
    cells += [finished("igpo", seed, [0.0, 1.0, 1.0, 1.0]) for seed in (0, 1)]
    (row,) = compare(cells, "grpo")
    assert (row.method, row.difference.mean, row.difference.count) == ("igpo", 0.5, 2)
    assert row.p == row.p_holm == 0.5
    assert isinstance(row.rollouts_ratio, Estimate)
    assert row.rollouts_ratio.mean == pytest.approx(0.5)


def test_no_ratio_where_a_seed_never_got_there():
    cells = [finished("grpo", seed, [0.0, 0.9]) for seed in (0, 1)] + [
        finished("igpo", seed, [0.0, 0.1]) for seed in (0, 1)
    ]
    (row,) = compare(cells, "grpo")
    assert row.rollouts_ratio == NOT_REACHED


def test_the_order_of_seeds_does_not_decide_why_there_is_no_ratio():
    risen, flat = [0.0, 0.9, 0.9], [0.5, 0.4, 0.3]
    for curves in ([risen, flat], [flat, risen]):
        cells = [finished("grpo", seed, curve) for seed, curve in enumerate(curves)]
        cells += [finished("igpo", seed, [curve[0], 0.6, 0.6]) for seed, curve in enumerate(curves)]
        (row,) = compare(cells, "grpo")
        assert row.rollouts_ratio == NOT_REACHED


def test_sign_flips_are_counted_exactly():
    assert sign_flip_p([0.1, 0.2, 0.3, 0.1, 0.2]) == 2 / 32
    assert sign_flip_p([0.1, -0.2, 0.3]) == 6 / 8
    assert sign_flip_p([0.0, 0.0]) == 1


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_auroc_by_hand():
    assert auroc([0.1, 0.9, 0.5, 0.5], [False, True, True, False]) == 0.875
    assert auroc([1.0], [True]) is None


def test_the_rate_with_the_best_average_is_taken_and_the_smaller_of_equals():
    tuned = [
        finished("igpo", 9, [0.0, 0.2, 0.9], rate=4e-4, is_tuning=True),
        finished("igpo", 9, [0.0, 0.8, 0.8], rate=2e-4, is_tuning=True),
        finished("igpo", 9, [0.0, 0.8, 0.8], rate=1e-4, is_tuning=True),
    ]
    assert best_rates(tuned) == {("igpo", "easy"): 1e-4}


def test_a_rate_is_judged_by_the_mean_of_its_seeds():
    tuned = [
        finished("igpo", 8, [0.0, 0.9, 0.7], rate=1e-4, is_tuning=True),
        finished("igpo", 9, [0.0, 0.0, 0.2], rate=1e-4, is_tuning=True),
        finished("igpo", 8, [0.0, 0.5, 0.5], rate=2e-4, is_tuning=True),
        finished("igpo", 9, [0.0, 0.5, 0.7], rate=2e-4, is_tuning=True),
    ]
    assert best_rates(tuned) == {("igpo", "easy"): 2e-4}
    low, high = rate_scores(tuned)
    assert (low.learning_rate, low.seeds, low.em, low.last_em) == (
        1e-4,
        2,
        pytest.approx(0.45),
        pytest.approx(0.45),
    )
    assert (high.learning_rate, high.seeds, high.em, high.last_em) == (
        2e-4,
        2,
        pytest.approx(0.55),
        pytest.approx(0.6),
    )


def test_a_cell_of_another_configuration_does_not_count(tmp_path: Path):
    store, cell = Store(tmp_path), Cell("igpo", "easy", 0, 3000)
    store.save(cell, "f1", 1e-4, finished("igpo", 0, [0.0, 1.0]).table.to_pylist())
    found = store.load(cell, "f1")
    assert found is not None
    assert final(found) == 1.0
    assert store.load(cell, "f2") is None
    assert store.is_stale(cell, "f2")
    assert not store.is_stale(cell, "f1")


def test_curves_without_a_common_x_value_have_no_mean():
    early, late = np.array([0.0, 100.0]), np.array([200.0, 300.0])
    assert _band("igpo", [(early, early), (late, late)]) == []
    assert _band("igpo", [(early, early), (early, late)])[0]["mean"] == 100


def test_a_figure_names_the_method_that_it_leaves_out():
    early = finished("igpo", 0, [0.0, 0.5])
    late = finished("igpo", 1, [0.0, 0.5])
    rollouts = late.table.schema.get_field_index("rollouts")
    moved = late.table.set_column(rollouts, "rollouts", pc.add(late.table["rollouts"], 1000))
    cells = [early, dataclasses.replace(late, table=moved), finished("grpo", 0, [0.0, 0.5])]
    figure = _figure("EM", cells, ["grpo", "igpo"], "rollouts", "em", "rollouts", "EM")
    assert figure and "no x value is common to all seeds: igpo." in figure.reading


def test_the_report_says_why_there_is_no_ratio(tmp_path: Path):
    cells = [finished("grpo", seed, [0.1, 0.9, 0.9]) for seed in (0, 1)]
    cells += [finished("igpo", seed, [0.1, 0.2, 0.2]) for seed in (0, 1)]
    page = write_study_report(plan(), cells, 0, tmp_path / "report.html").read_text()
    assert f'<td class="number">{NOT_REACHED}</td>' in page


def test_a_report_keeps_the_plan_s_order_and_a_method_s_colour(tmp_path: Path):
    names = ["igpo_v1", "grpo", "igpo", "dapo"]
    wider = plan(
        methods={name: {"config": f"conf/presets/{name}.yaml"} for name in names},
        difficulties={"hard": {}, "easy": {}},
        grids=[{"methods": names, "difficulties": ["hard", "easy"], "seeds": [0, 1]}],
        tuning=None,
    )
    cells = [
        dataclasses.replace(found, cell=dataclasses.replace(found.cell, difficulty=difficulty))
        for difficulty, some in (("easy", sorted(names)), ("hard", ["dapo", "grpo"]))
        for name in some
        for seed in (0, 1)
        for found in [finished(name, seed, [0.1, 0.3, 0.9])]
    ]
    page = write_study_report(wider, cells, 0, tmp_path / "report.html").read_text()
    against = page.partition('id="tests"')[2].partition("</table>")[0]
    assert re.findall(r"<tr><td>(\w+)</td><th>(\w+)", against) == [
        ("hard", "dapo"),
        ("easy", "igpo_v1"),
        ("easy", "igpo"),
        ("easy", "dapo"),
    ]
    hard, easy = sections(cells, names, ["hard", "easy"])
    of_hard, of_easy = (part.figures[0].spec["layer"][0]["encoding"]["color"] for part in (hard, easy))
    assert of_hard["scale"] == of_easy["scale"] and of_hard["scale"]["domain"] == names
    assert (of_hard["legend"]["values"], of_easy["legend"]["values"]) == (["grpo", "dapo"], names)


def test_report_of_a_part_says_what_is_missing(tmp_path: Path):
    cells = [finished(method, seed, [0.1, 0.3, 0.9]) for method in ("igpo", "grpo") for seed in (0, 1)]
    page = write_study_report(plan(), cells, 3, tmp_path / "report.html").read_text()
    assert "3 cells of the plan have not been run yet" in page
    assert "0.600" in page  # final EM: mean of 0.3 and 0.9
    with pytest.raises(InputError, match="no finished cell"):
        write_study_report(plan(), [], 3, tmp_path / "report.html")


def test_a_report_of_nothing_makes_no_folder(tmp_path: Path):
    result = CliRunner().invoke(app, ["study", "--report-only", "--out", str(tmp_path / "typo")])
    assert result.exit_code == 2 and "no finished cell to report" in result.output
    assert not (tmp_path / "typo").exists()


def test_a_report_for_which_the_disk_has_no_room_leaves_the_old_one(tmp_path: Path, monkeypatch):
    """Neither the page nor the figure, whichever the disk has no room for."""
    cells = [finished(method, seed, [0.1, 0.3, 0.9]) for method in ("igpo", "grpo") for seed in (0, 1)]
    write_study_report(plan(), cells, 0, tmp_path / "report.html")
    assert (tmp_path / "report.svg").read_text().startswith("<svg")
    fsync = os.fsync
    for room in (0, 2):  # a file and its folder
        for name in ("report.html", "report.svg"):
            (tmp_path / name).write_text("old")
        left = iter(range(room))

        def fail(descriptor, left=left):
            if next(left, None) is None:
                raise OSError("no room")
            fsync(descriptor)

        monkeypatch.setattr("envs.durable.os.fsync", fail)
        with pytest.raises(OSError, match="no room"):
            write_study_report(plan(), cells, 0, tmp_path / "report.html")
        assert (tmp_path / "report.svg").read_text() == "old"
        assert ((tmp_path / "report.html").read_text() == "old") is (room == 0)


def test_a_method_whose_rate_is_a_schedule_is_reported(tmp_path: Path):
    cells = [finished(method, seed, [0.1, 0.3, 0.9]) for method in ("igpo", "grpo") for seed in (0, 1)]
    for found in cells[:2]:
        found.facts["learning_rate"] = [[0, 1e-3], [1000, 0.0]]
    page = write_study_report(plan(), cells, 0, tmp_path / "report.html").read_text()
    assert page.count(">schedule</td>") == page.count(">0.0001</td>") == 1
    file = io.StringIO()
    print_summary(plan(), cells, Console(file=file, width=80))
    assert " schedule " in file.getvalue()


def test_the_summary_is_markdown_in_a_file_and_fits_a_terminal():
    cells = [finished(method, seed, [0.1, 0.3, 0.9]) for method in ("igpo", "grpo") for seed in (0, 1)]
    file = io.StringIO()
    print_summary(plan(), cells, Console(file=file, width=80))
    head, *_ = [line for line in file.getvalue().splitlines() if "method" in line]
    assert head.split(" | ")[0] == "| difficulty" and "greedy EM" in head
    terminal = io.StringIO()
    print_summary(plan(), cells, Console(file=terminal, width=80, force_terminal=True))
    said = re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue())
    assert all(len(line) <= 80 for line in said.splitlines()) and "not fit" in said and "igpo" in said


class Interrupting:
    """A runner whose first cell is interrupted while it runs, `times` times."""

    def __init__(self, times: int):
        self.times, self.ran = times, []

    def __enter__(self) -> Interrupting:
        return self

    def __exit__(self, *_) -> None:
        pass

    def run(self, cell, progress):
        for _ in range(self.times):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.2)
        self.ran.append(cell.name)
        return finished(cell.method, cell.seed, [0.0, 1.0]).table.to_pylist(), 1e-4


@pytest.mark.parametrize(("times", "kept"), [(1, 1), (2, 0)])
def test_ctrl_c_says_that_the_cell_is_finished_and_twice_stops_now(tmp_path, monkeypatch, times, kept):
    runner = Interrupting(times)
    monkeypatch.setattr("pipeline.study.study.CellRunner", lambda plan: runner)
    monkeypatch.setattr("pipeline.study.study.starting_ray", lambda options, verbosity: nullcontext())
    monkeypatch.setattr("pipeline.study.study._check", lambda *_, **__: None)
    out, loaded = io.StringIO(), plan(tuning=None)
    with pytest.raises(KeyboardInterrupt):
        run_study(loaded, tmp_path, LaunchOptions(("igpo", "study")), Console(file=out, width=200))
    assert "Ctrl-C: finishing this cell, whose scores are kept; once more stops at once" in out.getvalue()
    cells, missing = finished_cells(loaded, tmp_path)
    assert (len(runner.ran), len(cells), missing) == (kept, kept, 4 - kept)


@pytest.mark.slow
def test_study_runs_missing_cells_with_one_engine_and_repeats_itself(tmp_path: Path):
    small = PLAN | {
        "grids": [{"methods": ["igpo", "grpo"], "difficulties": ["easy"], "seeds": [0]}],
        "tuning": None,
    }
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(small))
    for out in ("a", "b"):
        result = CliRunner().invoke(app, ["study", str(path), "--out", str(tmp_path / out)])
        assert result.exit_code == 0, result.output
        if out == "a":  # in b, the second cell is the first that its engine sees
            (tmp_path / "b" / "cells" / "easy" / "grpo").mkdir(parents=True)
            done = tmp_path / "a" / "cells" / "easy" / "grpo" / "seed-0.parquet"
            (tmp_path / "b" / "cells" / "easy" / "grpo" / "seed-0.parquet").write_bytes(done.read_bytes())
    loaded = load_plan(path)
    for cells, missing in (finished_cells(loaded, tmp_path / out) for out in ("a", "b")):
        assert (len(cells), missing) == (2, 0)
    curves = [
        np.array(
            [
                row["em"]
                for row in Store(tmp_path / out).load(cell, cell.fingerprint(loaded)).table.to_pylist()
            ]
        )  # ty: ignore
        for out in ("a", "b")
        for cell in loaded.cells()
        if cell.method == "igpo"
    ]
    np.testing.assert_array_equal(*curves)


def test_a_cell_is_another_one_once_the_file_of_its_own_estimator_changes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "own_studied.py"
    file.write_text("def f(group): return group.outcomes_N[group.rollout_M]\n")
    mine = {"config": "conf/igpo.yaml", "settings": {"preset": "own_studied:f"}}
    studied = plan(methods=PLAN["methods"] | {"igpo": mine})
    cell = Cell("igpo", "easy", 0, 3000)
    first = cell.fingerprint(studied)
    assert cell.experiment(studied).config["preset"] == "own_studied:f" and cell.fingerprint(studied) == first
    file.write_text("def f(group): return 2 * group.outcomes_N[group.rollout_M]\n")
    find_preset.cache_clear()
    del sys.modules["own_studied"]
    assert cell.fingerprint(studied) != first


def test_a_cell_is_another_one_once_the_file_of_its_own_outcome_changes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "own_rewarded.py"
    file.write_text("def f(answer, golds): return 1.0\n")
    mine = {"config": "conf/igpo.yaml", "settings": {"env_config.outcome": "own_rewarded:f"}}
    studied, cell = plan(methods=PLAN["methods"] | {"igpo": mine}), Cell("igpo", "easy", 0, 3000)
    first = cell.fingerprint(studied)
    assert cell.fingerprint(studied) == first
    file.write_text("def f(answer, golds): return 2.0\n")
    assert cell.fingerprint(studied) != first
