"""No cell of the published studies is stale: they are those of their plans and of the shipped files."""

from pathlib import Path

import pytest

from pipeline.study.plan import load_plan
from pipeline.study.study import finished_cells

FOLDERS = Path("benchmarks/study")
PLAN_OF = {"core": "study"} | {
    name: f"study_{name}"
    for name in ("agents", "controls", "planning", "presets", "returns", "shaped", "still")
}


@pytest.mark.parametrize(
    "folder", [pytest.param("core", marks=pytest.mark.slow), *(name for name in PLAN_OF if name != "core")]
)
def test_no_published_cell_is_stale(folder):
    published = list((FOLDERS / folder).rglob("*.parquet"))
    found, _ = finished_cells(load_plan(f"conf/{PLAN_OF[folder]}.yaml"), FOLDERS / folder)
    assert len(found) == len(published) > 0
