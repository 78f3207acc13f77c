"""How many iterations ahead the watch warns, and how often it is wrong (docs/collapse.md).

python -m benchmarks.collapse                        # over the runs that are kept here: seconds
python -m benchmarks.collapse --make --seeds 0 1     # train those that are missing first: a minute each
python -m benchmarks.collapse --run runs/igpo/RUN_ID # runs of one's own too
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pyarrow.parquet as pq

from benchmarks.collapse.report import outcomes, report, study_cell
from pipeline.analysis import open_run

HERE = Path(__file__).parent
STUDY = HERE.parent / "study"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.collapse",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--make", action="store_true", help="train the runs that are missing")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="with --make")
    parser.add_argument("--out", type=Path, default=HERE / "made", help="folder of the trained runs")
    parser.add_argument(
        "--run", type=Path, action="append", default=[], help="a run's folder; may be repeated"
    )
    args = parser.parse_args()
    if args.make:
        from benchmarks.collapse.make import make
        from benchmarks.collapse.recipes import RECIPES

        make(RECIPES, args.seeds, args.out)
    logs = [
        open_run(run).sql("SELECT run_id, iteration, split, metrics FROM iterations WHERE split = 'train'")
        for run in args.run
    ]
    for title, tables in {
        "Cells of the study": [study_cell(path, STUDY) for path in sorted(STUDY.rglob("*.parquet"))],
        "Runs that were made to test the watch": [
            pq.read_table(path) for path in sorted(args.out.glob("*.parquet"))
        ],
        "Runs that were named": [log.to_arrow_table() for log in logs],
    }.items():
        if tables:
            print(f"## {title}\n{report(outcomes(tables))}\n")


if __name__ == "__main__":
    main()
