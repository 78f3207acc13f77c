"""The commit of a run is that of the code that runs, or not said."""

import os
import subprocess

import pytest

from pipeline.run_directory import provenance

CLONE = "pipeline/run_directory/provenance.py"
WHEEL = f".venv/lib/python3.11/site-packages/{CLONE}"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Makes a repository with one commit, in which this package lies as `file`; returns the commit."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.delenv("IGPO_GIT_COMMIT", raising=False)

    def git(*arguments: str) -> str:
        who = ("-c", "user.name=one", "-c", "user.email=one@example.org")
        command = ("git", "-C", str(tmp_path), *who, *arguments)
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def build(file: str, ignored: str) -> str:
        (tmp_path / ".gitignore").write_text(ignored)
        (tmp_path / "own.py").write_text("one\n")
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).write_text("code\n")
        monkeypatch.setattr(provenance, "__file__", str(tmp_path / file))
        git("init", "--quiet")
        git("add", ".gitignore", "own.py", *((file,) if file == CLONE else ()))
        git("commit", "--quiet", "--message", "one")
        return git("rev-parse", "HEAD")

    return build


def test_a_clone_names_its_commit_and_whether_something_differs(project, tmp_path, monkeypatch):
    commit = project(CLONE, ".venv\n")
    monkeypatch.setenv("IGPO_GIT_COMMIT", "abc")
    assert len(commit) == 40 and provenance.git_commit() == commit
    (tmp_path / "own.py").write_text("two\n")
    assert provenance.git_commit() == f"{commit}+changes"


@pytest.mark.parametrize("ignored", [".venv\n", ""])
def test_an_environment_in_another_project_s_clone_does_not_name_that_project_s(
    project, tmp_path, monkeypatch, ignored
):
    project(WHEEL, ignored)
    (tmp_path / "own.py").write_text("two\n")
    assert provenance.git_commit() is None
    monkeypatch.setenv("IGPO_GIT_COMMIT", "abc")
    assert provenance.git_commit() == "abc"
