"""Measures what it brings to sample the next batch while the learner updates (`max_weight_lag: 1`).

    python -m benchmarks.sampling.weight_lag

Two trainings of the embedded policy, synchronous and with lag 1, do their iterations in turn, first with a
retriever that answers at once, then with one that takes 0.5 s a call. The first iteration of each is left
out.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import socket
import statistics
import threading
import time
from collections.abc import Generator

from algorithms.igpo.config import IGPOConfig
from envs.retrieval.bm25 import BM25Retriever
from envs.world.config import WorldSettings
from envs.world.world import build_world

LATENCY = 0.5
WORLD = {"hops": {2: 0.6, 3: 0.4}}


@contextlib.contextmanager
def far_away_retriever(latency: float) -> Generator[str]:
    """Yields the address of a BM25 server over the world's documents that answers `latency` seconds late."""
    import uvicorn

    from envs.data.corpus import Corpus
    from envs.retrieval.serving.server import retrieval_app

    world = build_world(WorldSettings(**WORLD))
    app = retrieval_app(BM25Retriever(Corpus(world.documents, source="world")), 1)

    @app.middleware("http")
    async def answer_late(request, call_next):
        await asyncio.sleep(latency)
        return await call_next(request)

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    try:
        yield f"http://127.0.0.1:{port}/retrieve"
    finally:
        server.should_exit = True
        thread.join()


def build(lag: int, url: str | None, prompts: int, *, runners: int = 1):
    retriever = (
        {"kind": "bm25"} if url is None else {"kind": "http", "http": {"url": url, "max_concurrency": 256}}
    )
    config = (
        IGPOConfig()
        .environment(
            "search",
            env_config={"corpus": "world", "world": WORLD, "max_turn_tokens": 16, "retriever": retriever},
        )
        .training(
            model_path="tiny",
            lr=5e-5,
            prompts_per_iteration=prompts,
            max_weight_lag=lag,
            engine={"kv_cache_gib": 0.5},
        )
        .env_runners(num_env_runners=runners)
    )
    return config.build_algo()


def compare(url: str | None, prompts: int, iterations: int) -> float:
    """Synchronous seconds over those with lag 1, median of neighbours in time."""
    synchronous, lagging = build(0, url, prompts), build(1, url, prompts)
    ratios = []
    for iteration in range(iterations + 1):
        seconds = []
        for algorithm in (synchronous, lagging):
            started = time.perf_counter()
            result = algorithm.train()["igpo"]
            seconds.append(time.perf_counter() - started)
        print(
            f"synchronous {seconds[0]:6.2f} s   lag {result['weight_lag']:.0f} {seconds[1]:6.2f} s   "
            f"(sampling {result['seconds_sample']:.2f} s, learning {result['seconds_learn']:.2f} s)",
            flush=True,
        )
        if iteration:
            ratios.append(seconds[0] / seconds[1])
    synchronous.stop()
    lagging.stop()
    return statistics.median(ratios)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--iterations", type=int, default=6)
    args = parser.parse_args()

    import ray

    logging.disable(logging.WARNING)
    ray.init(
        address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR
    )
    local = compare(None, args.prompts, args.iterations)
    with far_away_retriever(LATENCY) as url:
        remote = compare(url, args.prompts, args.iterations)
    ray.shutdown()
    print(
        f"{args.prompts} x 8 rollouts: lag 1 is {local:.2f} x as fast with local tools, {remote:.2f} x with "
        f"{LATENCY} s a call"
    )


if __name__ == "__main__":
    main()
