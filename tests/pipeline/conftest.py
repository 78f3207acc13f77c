"""Calls commands in this process."""

import errno
import os
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory):
    """MLflow's tables, made once: it takes seconds."""
    from mlflow import MlflowClient

    folder = tmp_path_factory.mktemp("store")
    MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}").search_experiments()
    return folder / "mlflow.db"


@contextmanager
def _no_ray(*arguments):
    """What is wrong has to be found beside its start."""
    yield SimpleNamespace(wait=lambda: pytest.fail("Ray was started"))


@pytest.fixture
def run(monkeypatch):
    """Calls a command in this process, its logging untouched, and returns (exit code, what it said)."""
    monkeypatch.setattr("pipeline.logging.configure_logging", lambda verbosity: None)
    monkeypatch.setattr("pipeline.logging.configure_ray_logging", lambda verbosity: None)
    monkeypatch.setattr("pipeline.training.launch.starting_ray", _no_ray)

    def call(*arguments, app=None):
        import pipeline.cli.rllib

        app = app or pipeline.cli.rllib.app
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result.exit_code, " ".join(result.output.split())

    return call


@pytest.fixture
def full_disk(monkeypatch):
    """What is written does not get to the disk."""

    def fail(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("envs.durable.os.fsync", fail)


@pytest.fixture
def refused(run):
    """What a command says that must end with one sentence and exit code 2."""

    def call(*arguments, **options):
        code, said = run(*arguments, **options)
        assert code == 2, said
        assert said.count("error:") == 1
        return said.partition("error: ")[2]

    return call
