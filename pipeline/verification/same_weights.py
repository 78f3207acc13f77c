"""Whether two folders hold the same weights, byte for byte."""

from __future__ import annotations

from pathlib import Path

WEIGHTS = "*.safetensors"


def compare_weights(before: Path, now: Path) -> tuple[int, int]:
    """(tensors, those that differ or that one side lacks) of the modules in two folders."""
    tensors = [_tensors(folder) for folder in (before, now)]
    names = tensors[0].keys() | tensors[1].keys()
    return len(names), sum(tensors[0].get(name) != tensors[1].get(name) for name in names)


def _tensors(folder: Path) -> dict[str, bytes]:
    """The bytes of every tensor below `folder`, with its shape and type, by file and name."""
    import torch
    from safetensors import safe_open

    found = {}
    for file in sorted(folder.rglob(WEIGHTS)):
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 (not a dict)
                tensor = opened.get_tensor(name).contiguous()
                kind = f"{tensor.dtype} {tuple(tensor.shape)}".encode()
                content = tensor.flatten().view(torch.uint8).numpy().tobytes()
                found[f"{file.relative_to(folder)}/{name}"] = kind + content
    return found
