"""Encodes texts as unit vectors with a sentence encoder.

The encoder is a sentence-transformers folder, or a plain Hugging Face folder (mean pooling).
"""

from __future__ import annotations

import hashlib
import logging
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from envs.errors import InputError
from envs.git_lfs import refuse_pointers_of_model

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from envs.retrieval.config import DenseSettings

logger = logging.getLogger(__name__)

NEEDS_EXTRA = 'retrievers `dense` and `hybrid` need the extra `dense`: pip install "igpo-rllib[dense]"'
HUB_SECONDS = 10.0
"""Time limit for asking the hub whether it has an encoder; the retries of its client would take minutes."""


class Encoder:
    """Encodes queries and passages. Thread-safe: it encodes one batch at a time.

    Code that comes with a model is never run (`trust_remote_code` is off).

    Args:
        settings: the encoder, its prefixes and its device.

    Raises:
        InputError: the extra `dense` is not installed, there is no encoder at `settings.encoder`, or this
            machine does not have the device.
    """

    def __init__(self, settings: DenseSettings):
        try:
            import sentence_transformers  # noqa: F401
        except ImportError as error:
            raise InputError(NEEDS_EXTRA) from error
        _check_device(settings.device)
        self._model = _load(settings.encoder, settings.device)
        self._settings = settings
        self.dimensions: int = self._model.get_embedding_dimension() or 0
        self._lock = threading.Lock()

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that decides the vectors: a hash of the weights, the modules, the prefixes.

        It does not depend on the place of the files.
        """
        import torch

        digest = hashlib.sha256()
        for name, tensor in sorted(self._model.state_dict().items()):
            digest.update(name.encode())
            # As bytes, because NumPy has no bfloat16.
            digest.update(tensor.cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
        return {
            "weights": digest.hexdigest()[:32],
            "modules": " ".join(str(self._model).split()),
            "max_tokens": self._model.max_seq_length,
            "query_prefix": self._settings.query_prefix,
            "passage_prefix": self._settings.passage_prefix,
        }

    def queries(self, texts: list[str]) -> np.ndarray:
        """Unit vectors [queries, dimensions], float32."""
        return self._encode([self._settings.query_prefix + text for text in texts])

    def passages(self, texts: list[str]) -> np.ndarray:
        """Unit vectors [passages, dimensions], float32."""
        return self._encode([self._settings.passage_prefix + text for text in texts])

    def _encode(self, texts: list[str]) -> np.ndarray:
        # A policy may write half of a surrogate pair.
        valid = [text.encode("utf-8", "replace").decode() for text in texts]
        with self._lock:
            vectors = self._model.encode(
                valid,
                batch_size=self._settings.batch_size,
                normalize_embeddings=True,
                show_progress_bar=False,
            )
        return np.asarray(vectors, dtype=np.float32).reshape(len(texts), self.dimensions)


def _check_device(device: str) -> None:
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # no driver; a build without it
        raise InputError(
            f"retriever.dense.device: {device} can't be used on this machine ({_first_line(error)}): "
            "set `device: cpu`"
        ) from error


def _load(encoder: str, device: str) -> SentenceTransformer:
    """Loads an encoder from a folder or the hub. A model that is downloaded already needs no connection."""
    from sentence_transformers import SentenceTransformer

    folder = Path(encoder).expanduser()
    is_folder = folder.is_dir()
    if not is_folder and (encoder.startswith((".", "/", "~")) or encoder.count("/") != 1):
        raise InputError(
            f"retriever.dense.encoder: {encoder} does not exist: give a sentence-transformers folder or a "
            "hub name (OWNER/NAME)"
        )
    if is_folder:
        for part in [folder, *(path for path in folder.iterdir() if path.is_dir())]:  # one folder per module
            refuse_pointers_of_model(part, "retriever.dense.encoder: the file")
    options: dict[str, Any] = {"device": device, "trust_remote_code": False}
    try:
        return SentenceTransformer(str(folder) if is_folder else encoder, local_files_only=True, **options)
    except (OSError, ValueError, RuntimeError) as error:
        if is_folder:
            raise _unusable(encoder, error) from error
    logger.warning("retriever.dense.encoder %s is no folder here: asking the Hugging Face hub", encoder)
    _ask_hub(encoder)
    try:
        return SentenceTransformer(encoder, **options)
    except (OSError, ValueError, RuntimeError) as error:
        raise _unusable(encoder, error) from error


def _ask_hub(name: str) -> None:
    """Raises InputError where the hub cannot be reached or has no such model."""
    from huggingface_hub import HfApi

    try:
        HfApi().model_info(name, timeout=HUB_SECONDS)
    except Exception as error:  # the exception types change with the hub's HTTP library
        raise InputError(
            f"retriever.dense.encoder: {name} is no folder here, and the Hugging Face hub does not give it "
            f"({_first_line(error)}): give a folder"
        ) from error


def _unusable(encoder: str, error: Exception) -> InputError:
    return InputError(f"retriever.dense.encoder: nothing to encode with at {encoder} ({_first_line(error)})")


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
