"""Where the Hugging Face folders of a checkpoint are written."""

from pathlib import Path

from pyarrow.fs import LocalFileSystem, SubTreeFileSystem

from algorithms.igpo.weights.export import folder_of, located


def test_a_folder_of_another_file_system_is_filled_there(tmp_path, monkeypatch):
    here, bucket = tmp_path / "here", tmp_path / "bucket"
    for folder in (here, bucket):
        folder.mkdir()
    monkeypatch.chdir(here)
    with folder_of("runs/checkpoint/hf", SubTreeFileSystem(str(bucket), LocalFileSystem())) as folder:
        (folder / "policy").mkdir()
        (folder / "policy" / "config.json").write_text("{}")
    assert (bucket / "runs/checkpoint/hf/policy/config.json").read_text() == "{}"
    assert not list(here.iterdir()) and not folder.exists()


def test_a_folder_of_this_machine_is_that_folder(tmp_path):
    for path in (None, tmp_path, str(tmp_path), f"file://{tmp_path}"):
        with folder_of(str(tmp_path), located(path)[0]) as folder:
            assert folder == Path(tmp_path)
    filesystem, path = located("mock:///bucket/runs")
    assert not isinstance(filesystem, LocalFileSystem) and path == "bucket/runs"
