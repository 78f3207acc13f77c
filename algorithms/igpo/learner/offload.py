"""Room on a learner's device: what is not needed there for now waits in host memory."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import contextmanager

import torch

HOST = torch.device("cpu")


def move_moments(optimizers: Iterable[torch.optim.Optimizer], device: torch.device) -> None:
    """Moves what `optimizers` remember of each parameter."""
    for optimizer in optimizers:
        for state in optimizer.state.values():
            for name, value in state.items():
                if isinstance(value, torch.Tensor):
                    state[name] = value.to(device)


@contextmanager
def moments_on(device: torch.device, optimizers: Iterable[torch.optim.Optimizer]) -> Generator[None]:
    """What `optimizers` remember is on `device` for as long as the context lasts, else in host memory."""
    move_moments(optimizers, device)
    yield
    move_moments(optimizers, HOST)
