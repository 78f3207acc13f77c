"""The phase that makes the start of `conf/real_llm.yaml`: a warm start by the real command.

python -m benchmarks.gpu.warm_start conf/real_llm.yaml --demonstrations demos.jsonl --out FOLDER
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.gpu.results import add_result, write_result

EPOCHS, LEARNING_RATE, BATCH = 1, 2e-4, 8
"""As in docs/real_model.md: enough for the first search and the answer, not for the second search."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="experiment file")
    parser.add_argument("--demonstrations", type=Path, required=True)
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of the model; made again if it is there"
    )
    parser.add_argument("--set", action="append", default=[], dest="changes", metavar="KEY=VALUE")
    add_result(parser)
    args = parser.parse_args()
    shutil.rmtree(args.out, ignore_errors=True)
    command = [sys.executable, "-m", "pipeline.cli.igpo", "warm-start", args.config, "--out", str(args.out)]
    command += ["--demonstrations", str(args.demonstrations), "--epochs", str(EPOCHS)]
    command += ["--lr", str(LEARNING_RATE), "--batch-size", str(BATCH)]
    for change in args.changes:
        command += ["--set", change]
    started = time.perf_counter()
    code = subprocess.run(command, check=False).returncode
    if code:
        sys.exit(code)
    write_result(args.result, {"seconds": time.perf_counter() - started, "model": str(args.out)})


if __name__ == "__main__":
    main()
