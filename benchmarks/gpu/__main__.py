"""The proof on a GPU, within nine minutes on one H100 (docs/gpu.md).

    python -m benchmarks.gpu                          # what is not done yet; --all for the longer phases
    python -m benchmarks.gpu sampling learning        # these phases, once more
    python -m benchmarks.gpu real_llm --data FOLDER --seconds 480
    python -m benchmarks.gpu --device cpu --tiny      # every script of it on a CPU, in tiny shapes

On a machine without a GPU it says what it would do, checks that everything imports, and ends with exit
code 2.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from benchmarks.gpu.phases import PHASES, REAL_LLM_SECONDS, Phase, Setting, why_not
from benchmarks.gpu.proof import Proof, gpu_watched, summary
from envs.engine.accelerator import sees_gpu, why_no_gpu

NO_GPU = 2


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "phases", nargs="*", metavar="PHASE", help=f"one of {', '.join(phase.name for phase in PHASES)}"
    )
    parser.add_argument("--out", type=Path, default=Path("gpu_proof"), help="logs, results and proof.json")
    parser.add_argument(
        "--seconds",
        type=float,
        help="for all phases; a named one may take all of it; default 540, with --all 3600",
    )
    parser.add_argument("--all", action="store_true", help="the longer phases too")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="shapes that try the scripts, not the machine")
    parser.add_argument("--data", type=Path, help="folder of real text (docs/gpu.md)")
    parser.add_argument("--trl-python", help="interpreter of an environment with TRL")
    parser.add_argument(
        "--real-llm-set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a setting of conf/real_llm.yaml",
    )
    args = parser.parse_args()
    unknown = set(args.phases) - {phase.name for phase in PHASES}
    if unknown:
        parser.error(f"there is no phase {', '.join(sorted(unknown))}")
    if args.tiny and args.device != "cpu":
        parser.error("--tiny is for --device cpu")
    return args


def chosen(args: argparse.Namespace) -> list[Phase]:
    """The phases that were named with what they need, or those of a plain call."""
    if not args.phases:
        return [phase for phase in PHASES if args.all or not phase.only_all]
    names = set(args.phases)
    for phase in reversed(PHASES):
        if phase.name in names:
            names |= set(phase.needs)
    phases = [phase for phase in PHASES if phase.name in names]
    if args.seconds is None:
        return phases
    return [replace(phase, seconds=args.seconds) if phase.name in args.phases else phase for phase in phases]


def setting_of(args: argparse.Namespace) -> Setting:
    import torch

    return Setting(
        out=args.out.absolute(),
        device=args.device,
        tiny=args.tiny,
        gpus=torch.cuda.device_count() if sees_gpu() else 0,
        data=args.data.absolute() if args.data else None,
        trl_python=args.trl_python,
        real_llm=tuple(args.real_llm_set),
        real_llm_seconds=args.seconds if args.seconds and args.phases else REAL_LLM_SECONDS,
    )


def plan(phases: list[Phase], setting: Setting) -> None:
    """Prints what would run."""
    for phase in phases:
        reason = why_not(phase, setting) if setting.gpus else phase.lacks(setting)
        print(
            f"{phase.name:16}{phase.seconds:4} s  {phase.what}" + (f" (left out: {reason})" if reason else "")
        )
    print(f"at most {sum(phase.seconds for phase in phases)} s in all")


def main() -> int:
    args = arguments()
    setting, phases = setting_of(args), chosen(args)
    if args.device == "cuda" and not setting.gpus:
        print(f"No GPU can be used: {why_no_gpu()}. With one, these phases would run:", flush=True)
        plan(phases, setting)
        sys.stdout.flush()
        subprocess.run([sys.executable, "-m", "benchmarks.gpu.imports"], check=False)
        return NO_GPU
    # A job's end must reach the phase that runs, and all that it started.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    seconds = args.seconds or (3600 if args.all or args.tiny else 540)
    proof = Proof(setting, seconds)
    with gpu_watched(setting.out):
        proof.run(phases, again=args.phases)
    for name, value in summary(proof.found).items():
        print(f"{name}: {value:.2f}")
    print(f"everything is in {setting.out / 'proof.json'}")
    return int(any(found["status"] in ("failed", "too slow") for found in proof.found.values()))


if __name__ == "__main__":
    sys.exit(main())
