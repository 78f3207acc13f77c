"""MLflow's store in a folder of runs, made by a process that may be killed in the middle."""

import sqlite3

import mlflow.store.db.utils as tables
import pytest
from mlflow import MlflowClient
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from pipeline.tracking.local_store import local_store, make_store


@pytest.fixture
def killed(monkeypatch):
    """Kills what makes a store after its first tables, once."""
    upgrade = tables._upgrade_db

    def killed(engine):
        monkeypatch.setattr(tables, "_upgrade_db", upgrade)
        raise KeyboardInterrupt

    monkeypatch.setattr(tables, "_upgrade_db", killed)


def test_a_store_is_there_as_a_whole_or_not_at_all(tmp_path, killed):
    file = tmp_path / "mlflow.db"
    with pytest.raises(KeyboardInterrupt):
        make_store(file)
    assert not file.exists()
    make_store(file)
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow.db"]
    client = MlflowClient(tracking_uri=f"sqlite:///{file}")
    assert client.create_run("0").info.status == "RUNNING"
    before = file.read_bytes()
    make_store(file)
    assert file.read_bytes() == before


def test_half_a_store_is_named_with_what_to_do(tmp_path, monkeypatch):
    """As MLflow alone leaves it when it is killed between two steps of its migrations."""
    file = tmp_path / "mlflow.db"
    SqlAlchemyStore(f"sqlite:///{file}", "./mlruns").engine.dispose()
    with sqlite3.connect(file) as store:
        store.execute("DROP TABLE spans")
        store.execute("UPDATE alembic_version SET version_num = '451aebb31d03'")
    SqlAlchemyStore._engine_map.clear()
    with (
        pytest.raises(RuntimeError, match=r"mlflow\.db is half a store, .*: move it away"),
        local_store(file),
    ):
        MlflowClient(tracking_uri=f"sqlite:///{file}").search_experiments()
