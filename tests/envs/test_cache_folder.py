"""The cache folder: where it is, and folders that appear in it whole or not at all."""

from pathlib import Path

import pytest

from envs.cache_folder import cache_directory, write_directory
from envs.errors import InputError


def test_a_failed_write_leaves_nothing_behind(tmp_path):
    def fail(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise OSError("disk full")

    with pytest.raises(InputError, match="disk full"):
        write_directory(tmp_path / "index", fail)
    assert list(tmp_path.iterdir()) == []


def test_the_first_of_two_writers_wins(tmp_path):
    def write(folder: Path) -> None:
        (tmp_path / "index").mkdir()
        (tmp_path / "index" / "theirs").write_text("x")
        (folder / "ours").write_text("x")

    write_directory(tmp_path / "index", write)
    assert [file.name for file in tmp_path.rglob("*")] == ["index", "theirs"]


def test_cache_directory(monkeypatch):
    monkeypatch.setenv("IGPO_CACHE", "~/somewhere")
    assert cache_directory() == Path.home() / "somewhere"
    monkeypatch.delenv("IGPO_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache_directory() == Path("/x/igpo-rllib")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_directory() == Path.home() / ".cache" / "igpo-rllib"
