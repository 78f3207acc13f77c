"""Phase `learning`: the learner's tokens per second, its share of the GPU's peak, and its memory beside what
`igpo estimate` says.
"""

from __future__ import annotations

from typing import Any

from benchmarks.gpu.results import add_result, write_result
from benchmarks.learning.learner_throughput import measure, options
from pipeline.estimate.capacity import memory_of
from pipeline.estimate.machines import GIB, GPUS
from pipeline.estimate.model import model_of
from pipeline.estimate.workload import Expected, workload_of


def estimated_gib(config: Any) -> float:
    """The memory of one learner on a GPU by `igpo estimate`."""
    work = workload_of(config, Expected(turns=1, turn_tokens=1, observation_tokens=1), on_cpu=False)
    return memory_of(model_of(config), work, GPUS["h100"].memory).learner / GIB


def main() -> None:
    parser = options(__doc__)
    add_result(parser)
    args = parser.parse_args()
    found, config = measure(args)
    write_result(args.result, found | {"estimated_gib": estimated_gib(config)})


if __name__ == "__main__":
    main()
