"""Compares the speed of the belief scorers with one forward pass per turn.

    python -m benchmarks.sampling.scoring_speed

A trajectory of 8 turns that ends at 4,096 tokens is scored after the prompt and after every turn but the
last, by each scorer on the same weights (a random Llama of 30M parameters, float32, CPU; `--model` takes a
folder). The baseline, `naive`, runs each context and answer in a forward of its own, without padding. `tree`
cannot be faster than its ceiling, the tokens that `naive` computes over those that are different.
`vllm_prefix` finds the contexts in the prefix cache, as decoding leaves them; answers are new in each repeat,
since its own would be cached too. All scores must agree within 1e-4.
"""

from __future__ import annotations

import argparse
import tempfile
import time

import numpy as np

from envs.engine.base import EngineSettings, Generate
from envs.runner.belief import BeliefQuery, PrefixScorer
from envs.search.protocols.base import ScoringSuffix

VOCABULARY = 8192
TEMPLATE = 12
"""Tokens of the answer template before and behind the answer."""


def save_model(folder: str) -> str:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=512,
        intermediate_size=1408,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def make_queries(histories: list[np.ndarray], turns: int, answer: int, seed: int) -> list[BeliefQuery]:
    """Contexts after the prompt and after all turns but the last, equally spaced; fresh answers for every
    `seed`.
    """
    rng = np.random.default_rng(seed)
    queries = []
    for history in histories:
        ends = np.linspace(len(history) / turns, len(history), turns).astype(int)
        ids = rng.integers(1, VOCABULARY, TEMPLATE + answer).tolist()
        mask = np.zeros(TEMPLATE + answer, dtype=bool)
        mask[TEMPLATE // 2 : TEMPLATE // 2 + answer] = True
        queries.append(BeliefQuery([history[:end] for end in ends], [ScoringSuffix(ids, mask)]))
    return queries


def ceiling(queries: list[BeliefQuery]) -> float:
    """Sum over moments of (context + answer), over (longest context + all answers)."""
    answers = [len(query.suffixes_K[0].ids) * len(query.contexts_T1) for query in queries]
    every = sum(len(context) for query in queries for context in query.contexts_T1) + sum(answers)
    return every / (sum(max(map(len, query.contexts_T1)) for query in queries) + sum(answers))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="Hugging Face folder; without it a random Llama")
    parser.add_argument("--trajectories", type=int, default=1)
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--length", type=int, default=4096, help="tokens of the longest context")
    parser.add_argument("--answer", type=int, default=5, help="gold tokens")
    parser.add_argument("--repeats", type=int, default=2)
    args = parser.parse_args()

    import torch

    from algorithms.igpo.belief.naive import NaiveScorer
    from algorithms.igpo.belief.tree import TreeScorer
    from algorithms.igpo.model.causal_lm import load_causal_lm
    from envs.engine.vllm import VLLMEngine

    path = args.model or save_model(tempfile.mkdtemp())
    settings = EngineSettings(kv_cache_gib=None if torch.cuda.is_available() else 2.0)
    engine = VLLMEngine(path, settings, max_model_len=args.length + 256, dtype="float32")
    model = load_causal_lm(path, torch.float32).to("cuda" if torch.cuda.is_available() else "cpu")
    engine.load_weights({name: tensor.cpu() for name, tensor in model.state_dict().items()}, version=0)
    rng = np.random.default_rng(0)
    histories = [rng.integers(1, VOCABULARY, args.length).astype(np.int32) for _ in range(args.trajectories)]
    for n, history in enumerate(histories):
        engine.submit(Generate(f"fill{n}", history.tolist(), 1, [], 0.0, 0))
    while engine.is_busy:
        engine.step()
    scorers = {"naive": NaiveScorer(model), "tree": TreeScorer(model), "vllm_prefix": PrefixScorer(engine)}

    # On a CPU one thread's processor seconds, which other work on the machine leaves alone.
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    times: dict[str, list[float]] = {name: [] for name in scorers}
    gap = 0.0
    queries = []
    for repeat in range(args.repeats + 1):  # the first one warms up
        queries = make_queries(histories, args.turns, args.answer, repeat)
        scores: dict[str, np.ndarray] = {}
        for name, scorer in scorers.items():
            started = clock()
            scores[name] = np.concatenate(scorer.score(queries))
            times[name].append(clock() - started)
        gap = max(gap, *(float(np.abs(scores[name] - scores["naive"]).max()) for name in scorers))
    if gap > 1e-4:
        raise SystemExit(f"the scorers disagree by {gap:.1e}: the benchmark compares different things")

    best = {name: min(of_repeats[1:]) for name, of_repeats in times.items()}
    limit = ceiling(queries)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(
        f"{args.trajectories} trajectories x {args.turns} turns, {args.length} tokens, answers of "
        f"{TEMPLATE + args.answer} tokens"
    )
    print(
        f"{parameters / 1e6:.0f}M parameters, float32, {torch.get_num_threads()} threads; largest "
        f"difference {gap:.0e}"
    )
    for name, value in best.items():
        share = f", {best['naive'] / value / limit:.2f} of its ceiling {limit:.2f}" if name == "tree" else ""
        print(f"{name:12}{value * 1e3:10.1f} ms   {best['naive'] / value:6.1f} x naive{share}")


if __name__ == "__main__":
    main()
