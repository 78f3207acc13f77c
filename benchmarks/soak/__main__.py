"""Lets a run go on for hours beside servers that die and come back, and draws what grows.

    python -m benchmarks.soak --hours 3 --out runs/soak             # the same again after a kill
    python -m benchmarks.soak --report --out runs/soak --svg soak.svg

Two env runners, a retriever over HTTP that is killed and started again every few minutes, an MLflow server
that is away as often, the embedded policy with vLLM. A look at every process each ten seconds goes to
OUT/samples.jsonl; `--report` draws memory, descriptors, folder and seconds of a step, and prints how each
process grew. The run ends as Ctrl-C ends one. A soak that was killed goes on by the same command,
until its looks span the hours; the processes of each part are told apart.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import yaml

from benchmarks.servers import Server, mlflow, retriever
from benchmarks.soak.report import report
from benchmarks.soak.watch import Watcher, looked
from envs.world.config import WorldSettings

NAME = "soak"
ROOT = Path(__file__).parents[2]


def write_experiment(folder: Path, port: int) -> None:
    """Writes the experiment of `conf/igpo.yaml` with two runners and the retriever at `port`."""
    http = {"url": f"http://127.0.0.1:{port}/retrieve", "retry_for": 50}
    experiment = {
        "extends": str(ROOT / "conf/igpo.yaml"),
        "storage_path": str(folder / "runs"),
        "stop": {"training_iteration": 1_000_000},
        "config": {
            "num_env_runners": 2,
            "evaluation_interval": 100,
            "env_config": {"retriever": {"kind": "http", "http": http}},
        },
    }
    (folder / f"{NAME}.yaml").write_text(yaml.safe_dump({NAME: experiment}))


def port_of_retriever(folder: Path) -> int | None:
    """The port that an earlier part's experiment names; None where there was no earlier part."""
    file = folder / f"{NAME}.yaml"
    if not file.exists():
        return None
    config = yaml.safe_load(file.read_text())[NAME]["config"]
    return urlsplit(config["env_config"]["retriever"]["http"]["url"]).port


def soak(args: argparse.Namespace) -> int:
    """Runs until the looks span `args.hours`; returns the run's exit code, 130 after Ctrl-C."""
    folder: Path = args.out.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    port, (parts, minutes) = port_of_retriever(folder), looked(folder)
    resume = ["--resume"] if port is not None else []
    servers = [retriever(folder, WorldSettings(), port), mlflow(folder)]
    process: subprocess.Popen | None = None
    try:
        for server in servers:
            server.start()
        if port is None:
            write_experiment(folder, servers[0].port)
        with (folder / "said.txt").open("a") as said:
            process = subprocess.Popen(
                [sys.executable, "-m", "pipeline.cli.rllib", "train", "file", f"{NAME}.yaml", *resume],
                cwd=folder, stdout=said, stderr=subprocess.STDOUT, start_new_session=True,
                env=os.environ | {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{servers[1].port}",
                                  "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            )  # fmt: skip
        driver = process.pid
        watcher = Watcher(
            folder,
            lambda: {"driver": driver} | {server.name: server.pid for server in servers},
            args.every,
            part=parts + 1,
            minutes=minutes,
        )
        watcher.start()
        outages = _live(process, servers, args, 60 * (60 * args.hours - minutes))
        watcher.stop()
        process.send_signal(signal.SIGINT)
        code = process.wait(600)
    finally:
        if process is not None and process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        for server in servers:
            server.stop()
    print(f"part {parts + 1}, to {args.hours:g} hours: {outages} outages of a server, exit code {code}")
    return code


def _live(process: subprocess.Popen, servers: list[Server], args: argparse.Namespace, seconds: float) -> int:
    """Waits `seconds`, or until the run ends; meanwhile servers go away in turn. Returns how often."""
    chance, end, outages = random.Random(args.seed), time.monotonic() + seconds, 0
    while process.poll() is None and time.monotonic() < end:
        pause = chance.uniform(0.5, 1.5) * args.outage_every
        while process.poll() is None and time.monotonic() < end and pause > 0:
            time.sleep(1)
            pause -= 1
        if pause > 0:
            break
        server = servers[outages % len(servers)]
        server.stop()
        time.sleep(chance.uniform(0.2, 1.0) * args.outage)
        server.start()
        outages += 1
    return outages


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=Path("runs/soak"), help="a new folder, or that of a soak")
    parser.add_argument("--hours", type=float, default=3.0, help="of all parts together; default 3")
    parser.add_argument("--every", type=float, default=10.0, help="seconds between looks; default 10")
    parser.add_argument("--outage-every", type=float, default=300.0, help="seconds, on average; default 300")
    parser.add_argument("--outage", type=float, default=25.0, help="the longest, in seconds; default 25")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of outages")
    parser.add_argument("--report", action="store_true", help="run nothing: report what is in OUT")
    parser.add_argument("--svg", type=Path, help="file to draw the report to")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: no server is left behind
    code = 130
    if not args.report:
        if args.out.exists() and port_of_retriever(args.out) is None:
            sys.exit(f"{args.out} is there and holds no soak: name another folder with --out")
        if looked(args.out)[1] >= 60 * args.hours:
            sys.exit(f"{args.out} spans {args.hours:g} hours: report it with --report, or name more --hours")
        code = soak(args)
    report(args.out.resolve(), args.svg)
    sys.exit(0 if code == 130 else 1)


if __name__ == "__main__":
    main()
