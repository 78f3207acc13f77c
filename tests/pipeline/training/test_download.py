"""A model of the hub is downloaded before the run starts, and one sees it."""

import io
import time
from types import SimpleNamespace

import pytest
from rich.console import Console

from envs.errors import InputError
from pipeline.training import download
from pipeline.training.download import download_model

NAME = "owner/model"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub with one model, whose second half comes when a line was printed; notes what is asked for."""
    home = tmp_path / "models--owner--model"
    sizes = {"config.json": 1000, "model.safetensors": 3_000_000, "pytorch_model.bin": 9, "onnx/a.json": 9}
    asked = []

    def snapshot_download(name, *, dry_run=False, allow_patterns=None):
        assert name == NAME
        if dry_run:
            here = home / "snapshots" / "abc"
            return [
                SimpleNamespace(
                    filename=file,
                    file_size=size,
                    local_path=str(here / file),
                    will_download=not (home / "blobs" / file).exists(),
                )
                for file, size in sizes.items()
            ]
        asked.append(allow_patterns)
        time.sleep(0.1)
        (home / "blobs").mkdir(parents=True)
        for file in allow_patterns:
            if snapshot_download.breaks:
                raise OSError("the line is cut\nand more")
            (home / "blobs" / file).write_bytes(b"x" * sizes[file])
        return str(home)

    snapshot_download.breaks, snapshot_download.asked = False, asked
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    monkeypatch.setattr(download, "EVERY", 0.01)
    return snapshot_download


@pytest.mark.parametrize("terminal", [False, True])
def test_a_download_is_seen(hub, terminal):
    said = io.StringIO()
    download_model(NAME, Console(file=said, force_terminal=terminal, color_system=None, width=200))
    assert hub.asked == [["config.json", "model.safetensors"]]
    assert "downloading owner/model, 0.0 GB, to " in said.getvalue()
    assert terminal or "downloading: 0.0 of 0.0 GB\n" in said.getvalue()
    download_model(NAME, Console(file=said))
    assert len(hub.asked) == 1, "it is there"


@pytest.mark.parametrize(
    ("weights", "wanted"),
    [
        (["model.safetensors"], ["model.safetensors"]),
        (
            ["model-00001-of-00001.safetensors", "model.safetensors.index.json"],
            ["model-00001-of-00001.safetensors", "model.safetensors.index.json"],
        ),
        ([], ["consolidated.safetensors", "consolidated.safetensors.index.json"]),  # alone: all there is
    ],
)
def test_mistral_s_own_weights_stay_there_where_they_come_twice(weights, wanted):
    names = ["config.json", "consolidated.safetensors", "consolidated.safetensors.index.json", *weights]
    needed = download._needed([SimpleNamespace(filename=name) for name in names])
    assert [file.filename for file in needed] == ["config.json", *wanted]


def test_a_download_that_breaks_off(hub):
    hub.breaks = True
    with pytest.raises(
        InputError, match="owner/model: the download broke off: the line is cut; the same comm"
    ):
        download_model(NAME, Console(file=io.StringIO()))


def test_a_folder_and_a_hub_out_of_reach_download_nothing(hub, monkeypatch):
    download_model("tiny", Console(file=io.StringIO()))

    def nothing(*_, **__):
        raise ConnectionError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", nothing)
    download_model(NAME, Console(file=io.StringIO()))
    assert hub.asked == []
