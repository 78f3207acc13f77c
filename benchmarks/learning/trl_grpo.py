"""Compares the speed of a GRPO step with TRL's GRPO trainer.

    python -m venv /path/to/trl && /path/to/trl/bin/pip install "trl==1.16.0" torch transformers
    python -m benchmarks.learning.trl_grpo --trl-python /path/to/trl/bin/python
    python -m benchmarks.learning.trl_grpo --trl-python /path/to/trl/bin/python --model smollm2 --prompts 2 \\
        --tokens 48 --steps 4
    python -m benchmarks.learning.trl_grpo --trl-python /path/to/trl/bin/python --device cuda \\
        --dtype bfloat16 --model FOLDER --prompts 16 --tokens 128

Both train the same model by GRPO on the same prompts of one turn (the same token ids). Group size, longest
completion, stop tokens, KL coefficient, updates per step (one) and threads are the same. They run in
processes of their own and take their steps in turn. TRL generates with transformers, or
with vLLM in its own process (`--trl-vllm`, for which its environment needs vLLM). The ratios are medians over
pairs of steps; the first step is left out. Where other work shares the machine, compare processor seconds,
which are those of all processes of a side.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from typing import Any

import psutil

LEARNING_RATE = 1e-6
BETA = 0.001


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trl-python", help="interpreter of an environment with TRL")
    parser.add_argument("--model", default="tiny", help="tiny, smollm2 or a Hugging Face folder")
    parser.add_argument(
        "--device",
        choices=["cpu", "cuda"],
        default="cpu",
        help="cuda: both sides use one GPU by turns; here engine and learner are colocated on it",
    )
    parser.add_argument(
        "--dtype", choices=["float32", "bfloat16"], default="float32", help="of the forward passes"
    )
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--group-size", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=32, help="longest completion")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count(), help="of each side; default: all cores"
    )
    parser.add_argument(
        "--env-runners", type=int, default=1, help="0: this project samples in the learner's process, as TRL"
    )
    parser.add_argument(
        "--trl-vllm", action="store_true", help="TRL generates with vLLM in its own process (colocate)"
    )
    parser.add_argument("--side", choices=["ours", "trl"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side is not None:
        {"ours": serve_ours, "trl": serve_trl}[args.side](args)
        return
    if args.trl_python is None:
        parser.error("--trl-python is needed: TRL wants an environment of its own")
    compare(args)


def compare(args: argparse.Namespace) -> None:
    from algorithms.igpo.config import IGPOConfig

    task, folder = open_task(args)
    drawn = task.prompt_sampler(IGPOConfig().seed).next(args.prompts * (args.steps + 2))
    prompts = [task.protocol.prompt("", task.train_questions[index].text, ["answer"]) for index in drawn]
    facts = json.dumps({"folder": folder, "prompts": prompts, "stop": task.protocol.stop_token_ids})
    options = [
        *("--model", args.model, "--device", args.device, "--dtype", args.dtype),
        *(f"--{name}={getattr(args, name.replace('-', '_'))}" for name in NUMBERS),
    ]
    options += ["--trl-vllm"] if args.trl_vllm else []
    pythons = {"ours": sys.executable, "trl": args.trl_python}
    sides = {side: Side(side, python, options, facts, args.threads) for side, python in pythons.items()}
    ratios, processor_ratios, speeds = [], [], []
    for step in range(args.steps + 1):
        answers = {name: side.step() for name, side in sides.items()}
        ours, trl = answers["ours"], answers["trl"]
        print("   ".join(f"{name} {shown(answer)}" for name, answer in answers.items()), flush=True)
        if step:
            ratios.append(trl["seconds"] / ours["seconds"])
            processor_ratios.append(trl["processor"] / ours["processor"])
            speeds.append(ratios[-1] * ours["tokens"] / trl["tokens"])
    for side in sides.values():
        side.stop()
    print(
        f"{args.model}, {args.prompts} x {args.group_size} completions of at most {args.tokens} tokens: a "
        f"step in 1/{statistics.median(ratios):.2f} of TRL's seconds and "
        f"1/{statistics.median(processor_ratios):.2f} of its processor seconds, "
        f"{statistics.median(speeds):.2f} times its tokens/s"
    )


def shown(answer: dict[str, float]) -> str:
    rate = answer["tokens"] / answer["seconds"]
    return f"{answer['seconds']:6.2f} s ({answer['processor']:.2f}), {rate:6,.0f} tokens/s"


NUMBERS = ("prompts", "group-size", "tokens", "steps", "threads", "env-runners")


def open_task(args: argparse.Namespace):
    """One turn in which the policy may only answer; returns the task and the model's folder."""
    from envs.engine.models import resolve_model
    from envs.search.config import SearchEnvSettings
    from envs.search.task import SearchTask

    folder = resolve_model(args.model)
    return SearchTask(SearchEnvSettings(**env_config(args), tokenizer=folder)), folder


def env_config(args: argparse.Namespace) -> dict[str, Any]:
    return {
        "corpus": "world",
        "world": {"hops": {2: 0.6, 3: 0.4}},
        "protocol": "tiny" if args.model == "tiny" else "chat_short",
        "max_turns": 1,
        "max_turn_tokens": args.tokens,
        "max_context_tokens": args.tokens + 480,
        "roles": [{"name": "searcher", "actions": ["answer"]}],
    }


class Side:
    """A process that takes a step when it is told to."""

    def __init__(self, side: str, python: str, options: list[str], facts: str, threads: int):
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
        command = [python, "-m", "benchmarks.learning.trl_grpo", "--side", side, *options]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=sys.stderr,
            text=True,
            env=environment,
        )
        self._say(facts)

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def step(self) -> dict[str, float]:
        """Seconds, processor seconds and written tokens of one step."""
        before = self._processor_seconds()
        self._say("step")
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith('{"seconds"'):
                return {**json.loads(line), "processor": self._processor_seconds() - before}
        raise SystemExit(f"a side ended: {self._process.args}")

    def _processor_seconds(self) -> float:
        """Of the process and all that it started."""
        top = psutil.Process(self._process.pid)
        times = [process.cpu_times() for process in (top, *top.children(recursive=True))]
        return sum(time.user + time.system for time in times)

    def stop(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=120)


def told_to_step() -> bool:
    return sys.stdin.readline().strip() == "step"


def tell(seconds: float, tokens: float) -> None:
    print(json.dumps({"seconds": seconds, "tokens": tokens}), flush=True)


def serve_ours(args: argparse.Namespace) -> None:
    import ray

    from algorithms.igpo.config import IGPOConfig

    json.loads(sys.stdin.readline())
    ray.init(address="local", num_cpus=2 * args.threads, include_dashboard=False, log_to_driver=False)
    config = (
        IGPOConfig()
        .environment("search", env_config=env_config(args))
        .training(
            model_path=args.model,
            model_dtype=args.dtype,
            preset="grpo",
            loss={"kl_coeff": BETA},
            lr=LEARNING_RATE,
            prompts_per_iteration=args.prompts,
            group_size=args.group_size,
        )
        .env_runners(num_env_runners=args.env_runners, num_cpus_per_env_runner=args.threads)
    )
    if args.device == "cuda":
        config.env_runners(
            num_gpus_per_env_runner=0.5, engine={"placement": "colocated", "gpu_memory_utilization": 0.5}
        ).learners(num_learners=1, num_gpus_per_learner=0.5)
    algorithm = config.build_algo()
    while told_to_step():
        started = time.perf_counter()
        tokens = algorithm.train()["igpo"]["tokens_sampled"]
        tell(time.perf_counter() - started, tokens)
    algorithm.stop()
    ray.shutdown()


def serve_trl(args: argparse.Namespace) -> None:
    import tempfile

    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer  # ty: ignore[import-not-found]

    facts = json.loads(sys.stdin.readline())
    tokenizer: Any = AutoTokenizer.from_pretrained(facts["folder"])
    (tokenizer.eos_token_id,) = facts["stop"][:1]
    texts = [tokenizer.decode(ids) for ids in facts["prompts"]]
    ids_of = dict(zip(texts, facts["prompts"], strict=True))
    if [ids_of[text] for text in texts] != facts["prompts"]:
        raise SystemExit("two prompts of different ids are the same text")
    written = [0]

    class SamePrompts(GRPOTrainer):
        """Takes the other side's prompt ids: the text, tokenised again as a whole, may become other ids."""

        def _tokenize_prompts(self, prompts):
            return [ids_of[prompt] for prompt in prompts], None, {}

    def reward(completions, completion_ids, **_):
        written[0] = sum(len(ids) for ids in completion_ids)
        return [float(len(set(ids))) for ids in completion_ids]

    class Alternate(TrainerCallback):
        started = 0.0

        def on_step_begin(self, args, state, control, **_):
            if not told_to_step():
                control.should_training_stop = True
            self.started = time.perf_counter()

        def on_step_end(self, args, state, control, **_):
            if not config.use_cpu:
                torch.cuda.synchronize()
            tell(time.perf_counter() - self.started, written[0])

    config = GRPOConfig(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=args.prompts * args.group_size,
        num_generations=args.group_size,
        max_completion_length=args.tokens,
        max_steps=args.steps + 2,
        learning_rate=LEARNING_RATE,
        beta=BETA,
        loss_type="grpo",
        temperature=1.0,
        use_cpu=args.device == "cpu",
        use_vllm=args.trl_vllm,
        vllm_mode="colocate",
        generation_kwargs={"stop_token_ids": facts["stop"]} if args.trl_vllm else None,
        shuffle_dataset=False,
        bf16=args.dtype == "bfloat16",
        gradient_checkpointing=False,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
    )
    model = AutoModelForCausalLM.from_pretrained(facts["folder"], dtype="float32")
    model.generation_config.eos_token_id = facts["stop"]
    trainer = SamePrompts(
        model=model,
        reward_funcs=reward,
        args=config,
        train_dataset=Dataset.from_dict({"prompt": texts}),
        processing_class=tokenizer,
        callbacks=[Alternate()],
    )
    trainer.train()


if __name__ == "__main__":
    main()
