"""A disk that fills up under a run: one sentence with the place, whatever library met it."""

import errno
import io
import logging
import os
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from envs.disk_errors import disk_trouble
from pipeline.logging import log_to_file

RUN = Path("/runs/demo/1")


class FullDisk(io.RawIOBase):
    """A file on a full disk."""

    def writable(self):
        return True

    def write(self, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def by_hand():
    FullDisk().write(b"x")


def by_pickle():
    pickle.dump(b"x" * 100_000, FullDisk())


def by_torch():
    torch.save({"a": torch.zeros(100_000)}, FullDisk())


def by_arrow():
    pq.write_table(pa.table({"a": np.random.default_rng(0).random(100_000)}), FullDisk())


@pytest.mark.parametrize("write", [by_hand, by_pickle, by_torch, by_arrow])
def test_every_library_s_words_for_a_full_disk(write):
    with pytest.raises(Exception) as caught:
        write()
    told = disk_trouble(caught.value, RUN)
    assert told and told.startswith(f"{RUN}: No space left on device: free some space")


def test_the_first_cause_counts_and_its_file_is_named():
    try:
        try:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/runs/demo/1/x.parquet")
        except OSError as error:
            raise RuntimeError("the log's thread died") from error
    except RuntimeError as error:
        assert disk_trouble(error, RUN).startswith("/runs/demo/1/x.parquet: No space left on device")


@pytest.mark.parametrize(
    "error", [ValueError("x"), OSError(errno.ECONNREFUSED, "refused"), KeyError("disk"), RuntimeError("CUDA")]
)
def test_other_errors_are_none_of_the_disk(error):
    assert disk_trouble(error, RUN) is None


def test_a_log_file_on_a_full_disk_says_so_once(tmp_path, capsys, monkeypatch):
    """49 tracebacks of `logging` stood before the sentence that counts."""
    monkeypatch.setattr(
        logging.FileHandler, "_open", lambda self: io.TextIOWrapper(io.BufferedWriter(FullDisk(), 10))
    )
    with log_to_file(tmp_path / "driver.log"):
        for _ in range(49):
            logging.getLogger("pipeline.x").warning("x" * 10_000)
    said = capsys.readouterr().err
    assert said.count("driver.log is cut from here on: No space left on device") == 1
    others = [line for line in said.splitlines() if set(line) != {"x"}]  # a console may show the messages
    assert "Traceback" not in said and len(others) == 1
