"""Shared parts of the benchmarks of sampling: a task, its jobs, an engine that records requests, and a loop
with a barrier per turn.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

from benchmarks.devices import add_device, device_of
from envs.engine.accelerator import vllm_is_for_cpus
from envs.engine.base import EngineSettings, Generate, Generated
from envs.engine.models import resolve_model
from envs.engine.vllm import VLLMEngine
from envs.runner.job import RolloutJob
from envs.runner.rollout_loop import RolloutLoop, _Run
from envs.search.config import SearchEnvSettings
from envs.search.protocols.base import Action
from envs.search.task import SearchTask
from envs.search.trajectory import ActionKind

SIZES: dict[str, dict[str, Any]] = {
    "tiny": {
        "protocol": "tiny",
        "max_turns": 6,
        "max_turn_tokens": 16,
        "max_observation_tokens": 64,
        "max_context_tokens": 512,
    },
    "smollm2": {
        "protocol": "chat_short",
        "max_turns": 4,
        "max_turn_tokens": 96,
        "max_observation_tokens": 64,
        "max_context_tokens": 1024,
    },
}


def arguments(description: str | None, **defaults: int) -> argparse.ArgumentParser:
    """Returns the options of every benchmark of sampling."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="tiny", help="tiny, smollm2 or a Hugging Face folder")
    add_device(parser)
    parser.add_argument("--prompts", type=int, default=defaults.get("prompts", 16))
    parser.add_argument("--group-size", type=int, default=8)
    parser.add_argument("--max-num-seqs", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=defaults.get("repeats", 3))
    parser.add_argument("--turn-tokens", type=int, help="most tokens of a turn")
    parser.add_argument("--turns", type=int, help="most turns of a rollout")
    parser.add_argument("--context", type=int, help="most tokens of a rollout")
    parser.add_argument(
        "--eager", action="store_true", help="a GPU engine without compilation and CUDA graphs"
    )
    parser.add_argument("--gpu-memory-utilization", type=float, default=0.5)
    parser.add_argument(
        "--dtype", choices=["float32", "bfloat16"], default="float32", help="precision of the engine"
    )
    return parser


def open_task(args: argparse.Namespace) -> SearchTask:
    """Questions of 2 and 3 hops in the generated world."""
    sizes = dict(SIZES.get(args.model, SIZES["smollm2"]))
    if args.turn_tokens is not None:
        more = args.turn_tokens - sizes["max_turn_tokens"]
        sizes |= {
            "max_turn_tokens": args.turn_tokens,
            "max_context_tokens": sizes["max_context_tokens"] + 4 * max(0, more),
        }
    if args.turns is not None:
        sizes["max_turns"] = args.turns
    if args.context is not None:
        sizes["max_context_tokens"] = args.context
    world = {"hops": {2: 0.6, 3: 0.4}}
    return SearchTask(SearchEnvSettings(tokenizer=resolve_model(args.model), world=world, **sizes))


def open_engine(args: argparse.Namespace, task: SearchTask) -> VLLMEngine:
    """vLLM with the model's weights, on the device that vLLM is built for, which `--device` must be."""
    import torch
    from transformers import AutoModelForCausalLM

    device = device_of(args.device)
    if (device.type == "cpu") != vllm_is_for_cpus():
        raise SystemExit(f"the installed vLLM does not run on {device.type}: install its other build")
    path = resolve_model(args.model)
    settings = EngineSettings(
        max_num_seqs=args.max_num_seqs,
        kv_cache_gib=None if device.type == "cuda" or args.model == "tiny" else 3,
        gpu_memory_utilization=args.gpu_memory_utilization,
        enforce_eager=True if args.eager else None,
    )
    engine = VLLMEngine(path, settings, max_model_len=task.settings.max_context_tokens + 1, dtype=args.dtype)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, args.dtype))
    engine.load_weights(model.state_dict(), version=0)
    return engine


def forget(engine: VLLMEngine) -> None:
    """Empties the prefix cache, as a weight push does."""
    if not engine._llm.reset_prefix_cache():
        raise RuntimeError("the prefix cache could not be emptied")


def make_jobs(
    args: argparse.Namespace, task: SearchTask, *, score_beliefs: bool, seed: int = 0
) -> list[RolloutJob]:
    """Returns whole groups, as a training iteration samples them."""
    return [
        RolloutJob(question, f"{index}/{g}", str(index), (seed, 0, index, g), score_beliefs=score_beliefs)
        for index, question in enumerate(task.train_questions[: args.prompts])
        for g in range(args.group_size)
    ]


def slow_tools(task: SearchTask, latency: Callable[[], float]) -> None:
    """Every call takes `latency()` seconds longer, as if the tools' server were far away."""
    for tool in task.tools._tools.values():
        tool.function, tool.at_once = _slowed(tool.function, latency), lambda: False


def _slowed(function: Callable[..., Any], latency: Callable[[], float]) -> Callable[..., Any]:
    def slow(**arguments: Any) -> Any:
        time.sleep(latency())
        return function(**arguments)

    return slow


def full_turns(task: SearchTask) -> None:
    """Every turn takes all its tokens, whatever they are, and then searches, until the turns run out.

    An untrained model stops after a few dozen tokens; what a turn of hundreds costs is to be measured, not
    what it says.
    """
    protocol: Any = task.protocol
    query = task.train_questions[0].text
    protocol.stop_token_ids, protocol.stop_strings = [], []
    protocol.is_complete = lambda ids: True
    protocol.parse = lambda ids: Action(ActionKind.TOOL, tool="search", arguments={"query": query})


class Recorder:
    """An engine that keeps every turn's request and result."""

    def __init__(self, engine: VLLMEngine):
        self._engine = engine
        self.requests: dict[str, Generate] = {}
        self.results: dict[str, Generated] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def submit(self, request) -> None:
        if isinstance(request, Generate):
            self.requests[request.request_id] = request
        self._engine.submit(request)

    def step(self) -> list:
        finished = self._engine.step()
        self.results |= {result.request_id: result for result in finished if isinstance(result, Generated)}
        return finished


class BarrierLoop(RolloutLoop):
    """The loop as most trainers have it: all turns are written, then all tools are called, then all scores
    are taken.
    """

    def run(self, jobs: list[RolloutJob]):
        return _BarrierRun(self, jobs).finish()


class _BarrierRun(_Run):
    def finish(self):
        self._decided: list = []
        for live in self.live:
            self._request_turn(live)
            if live.job.score_beliefs:
                self._request_scores(live, -1)
        while self.num_open:
            while any(engine.is_busy for engine in self.engines.values()):
                self._step_engines()
            decided, self._decided = self._decided, []
            for live, decision in decided:
                super()._take_decision(live, decision)
            while self.open_tools:
                self._collect_tools(block=True)
        return [self._record(live) for live in self.live], self.seconds

    def _take_decision(self, live, decision) -> None:
        self._decided.append((live, decision))
