"""Measures `igpo serve-retriever` for many clients at once: requests a second, and how long one waits.

    python -m benchmarks.retrieval.server_clients passages.jsonl                    # BM25, 64 and 200 clients

Each client asks one query, waits for the answer, and asks the next, as rollouts do. Queries are the first
words of passages drawn at random. `joined` is the server as it is: what waits becomes one search. `alone` is
the same server with a thread for each request. The server is a process of its own on loopback, the clients
are tasks of one event loop; both share this machine, so with few cores the clients' own work is in the
numbers. `server CPU` is the server's processor time per request, which other work hardly touches.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import psutil

SERVER = """
import sys, uvicorn
from concurrent.futures import ThreadPoolExecutor
from envs.data.corpus import load_corpus
from envs.retrieval.bm25 import BM25Retriever
from envs.retrieval.serving import server

class Alone:
    def __init__(self, retriever):
        self.retriever, self.threads = retriever, ThreadPoolExecutor(40)
    def submit(self, queries, top_k):
        return self.threads.submit(self.retriever.search, queries, top_k)

if sys.argv[3] == "alone":
    server.JoinedSearches = Alone
retriever = BM25Retriever(load_corpus(sys.argv[1]))
uvicorn.run(server.retrieval_app(retriever, 3), host="127.0.0.1", port=int(sys.argv[2]),
            log_level="warning", timeout_keep_alive=75)
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus")
    parser.add_argument("--clients", type=int, nargs="+", default=[64, 200])
    parser.add_argument("--requests", type=int, default=4000, help="of all clients together")
    args = parser.parse_args()
    queries = queries_of(args.corpus)
    print(f"{args.requests} requests; milliseconds")
    print(
        f"{'searches':>8} {'clients':>8} {'requests/s':>11} {'p50':>8} {'p99':>8} {'longest':>8} "
        f"{'server CPU':>11} {'failed':>7}"
    )
    for way in ("joined", "alone"):
        measure(args, queries, way)


def measure(args: argparse.Namespace, queries: list[str], way: str) -> None:
    """Prints a row for each number of clients, of a server that searches in that way."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen([sys.executable, "-c", SERVER, args.corpus, str(port), way], env=os.environ)
    try:
        asyncio.run(wait_for(port))
        for clients in args.clients:
            before = cpu_seconds(server.pid)
            wall, times, failed = asyncio.run(ask(port, queries, clients, args.requests))
            p50, p99 = np.quantile(times, [0.5, 0.99]) * 1000
            rate, longest = args.requests / wall, max(times) * 1000
            cpu = (cpu_seconds(server.pid) - before) / args.requests * 1000
            print(
                f"{way:>8} {clients:>8} {rate:>11,.0f} {p50:>8.1f} {p99:>8.1f} {longest:>8.1f} {cpu:>11.2f} "
                f"{failed:>7}",
                flush=True,
            )
    finally:
        server.terminate()
        server.wait()


def cpu_seconds(pid: int) -> float:
    """The processor's time that a process has had, which other work on the machine hardly touches."""
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


def queries_of(corpus: str, count: int = 1000, words: int = 6) -> list[str]:
    lines = Path(corpus).read_text(encoding="utf-8").splitlines()
    chosen = np.random.default_rng(0).choice(len(lines), min(count, len(lines)), replace=False)
    return [" ".join(json.loads(lines[k])["contents"].split()[:words]) for k in chosen]


async def wait_for(port: int, seconds: float = 120) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        for _ in range(int(seconds * 4)):
            try:
                await client.get(f"http://127.0.0.1:{port}/health")
                return
            except httpx.TransportError:
                await asyncio.sleep(0.25)
    raise TimeoutError("the server did not come up")


async def ask(port: int, queries: list[str], clients: int, requests: int) -> tuple[float, list[float], int]:
    """Returns seconds of all requests, seconds of each, and the number that failed."""
    times: list[float] = []
    numbers = iter(range(requests))
    failed = 0
    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
    async with httpx.AsyncClient(trust_env=False, limits=limits, timeout=60) as client:

        async def one_client() -> None:
            nonlocal failed
            for number in numbers:
                body = {"queries": [queries[number % len(queries)]], "topk": 3}
                started = time.perf_counter()
                try:
                    answer = await client.post(f"http://127.0.0.1:{port}/retrieve", json=body)
                    failed += answer.status_code != 200
                except httpx.TransportError:
                    failed += 1
                times.append(time.perf_counter() - started)

        started = time.perf_counter()
        await asyncio.gather(*(one_client() for _ in range(clients)))
        return time.perf_counter() - started, times, failed


if __name__ == "__main__":
    main()
