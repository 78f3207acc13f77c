"""Moves a learner's state between its GPU and host memory (`engine.placement: colocated`).

From and to pinned memory a GPU copies by itself, at the speed of the bus, while the next copy is prepared. A
buffer is pinned for the first way to host memory and used again at each later one: pinning takes longer
than copying.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Iterable, Iterator

import torch

logger = logging.getLogger(__name__)

SMALL = 2**20
"""Tensors of fewer bytes are not pinned: they may share a page of memory, which can be pinned once only."""


def named_tensors(module: torch.nn.Module, prefix: str) -> Iterator[tuple[str, torch.Tensor]]:
    """Yields parameters and buffers of a module, tied ones once."""
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        yield f"{prefix} {name}", tensor


class PinnedBuffers:
    """Host memory for tensors that come and go. A tensor is known by its name.

    Args:
        pin: False where there is no GPU to copy by itself.
    """

    def __init__(self, *, pin: bool = True):
        self._pin = pin
        self._buffers: dict[str, torch.Tensor] = {}

    def move(self, named: Iterable[tuple[str, torch.Tensor]], device: torch.device) -> None:
        """Moves the data of named tensors in place, to `device` or, where that is the CPU, to their buffers.

        Every copy is complete when it returns.
        """
        tensors = list(named)
        used = {tensor.device for _, tensor in tensors} | {device}
        for name, tensor in tensors:
            if device.type == "cpu":
                tensor.data = self._buffer(name, tensor.data).copy_(tensor.data, non_blocking=self._pin)
            else:
                tensor.data = tensor.data.to(device, non_blocking=self._pin)
        for one in used:
            if one.type == "cuda":
                torch.cuda.synchronize(one)

    def _buffer(self, name: str, like: torch.Tensor) -> torch.Tensor:
        buffer = self._buffers.get(name)
        if buffer is None or buffer.shape != like.shape or buffer.dtype != like.dtype:
            buffer = self._buffers[name] = torch.empty(like.shape, dtype=like.dtype)
            if self._pin and buffer.nbytes >= SMALL:
                self._pin_memory(buffer)
        return buffer

    def _pin_memory(self, buffer: torch.Tensor) -> None:
        # `pin_memory=True` would take the next power of two.
        address = buffer.data_ptr()
        code = torch.cuda.cudart().cudaHostRegister(address, buffer.nbytes, 0)
        if int(code):
            self._pin = False
            logger.warning("host memory cannot be pinned (CUDA error %d): swaps are slower", int(code))
            return
        # Before its memory is freed: what stays pinned is lost to the machine, and cannot be pinned again.
        weakref.finalize(buffer, _unpin, address).atexit = False


def _unpin(address: int) -> None:
    torch.cuda.cudart().cudaHostUnregister(address)
