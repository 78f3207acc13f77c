"""`MlflowTracker`: MLflow as the training loop and the launcher use it.

Three guarantees:

- A step is never logged twice, nor lost. Points and traces are spooled to `logs/` and sent only once
  `commit` says that the checkpoint that contains them is on disk; a resumed run drops what the dead attempt
  spooled beyond its checkpoint, asks MLflow which steps have arrived, and sends the rest.
- A resumed run is the same MLflow run. It is found by its tag `igpo.run_id`.
- An unreachable server stops nothing. One background thread sends, and tries again until the run ends; it
  warns once.
"""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from algorithms.igpo.iteration_record import IterationRecord
from envs.credentials import masked
from envs.proxies import proxy_for, spare_loopback
from pipeline.tracking.delivery import Connection, Delivery
from pipeline.tracking.local_store import local_store
from pipeline.tracking.names import HELDOUT_METRIC, HELDOUT_PREFIX, metrics_of, parameters_of
from pipeline.tracking.registry import register
from pipeline.tracking.settings import TrackingSettings
from pipeline.tracking.spool import Spool, TraceSpool
from pipeline.tracking.stored_run import FoundRun, RunInStore, configure_mlflow_logging, find_or_create
from pipeline.tracking.traces import sample, send_trace, trace_of

logger = logging.getLogger(__name__)

EM_TAG = "igpo.em"
"""The newest held-out exact match, as a tag, so that lists of runs show it."""
MLFLOW_STATUS = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}


class MlflowTracker:
    """Tracks one run.

    The store is `MLFLOW_TRACKING_URI` where that is set, else `mlflow.db` and `mlartifacts` in the
    folder of all runs, two above `run_dir`.

    Args:
        run_dir: the run's directory.
        name: becomes the MLflow experiment.
        run_id: becomes the name of the MLflow run.
        config: becomes its parameters.
        resumed_from_iteration: iteration of the checkpoint; None for a fresh run.
        tags: added to the run's tags.
        settings: what MLflow gets beside metrics; None: the defaults.
        grid_id: shared by the trials of one grid search, which become children of one run of that name.
        title: what the MLflow run's name begins with, before `run_id`.
        datasets: what was searched and asked (`RunInStore.datasets`).
    """

    def __init__(
        self,
        run_dir: str | os.PathLike[str],
        *,
        name: str,
        run_id: str,
        config: Mapping[str, Any],
        resumed_from_iteration: int | None = None,
        tags: Mapping[str, str] | None = None,
        settings: TrackingSettings | None = None,
        grid_id: str | None = None,
        title: str = "",
        datasets: Sequence[Mapping[str, str]] = (),
    ):
        self.run_dir = Path(run_dir).resolve()
        self.run_id = run_id
        self.settings = settings or TrackingSettings()
        self._home = self.run_dir.parent.parent
        self._server = os.environ.get("MLFLOW_TRACKING_URI")
        if self._server:
            spare_loopback(self._server)
        proxy = proxy_for(self._server) if self._server else None
        self._resumed_from = resumed_from_iteration
        self._wanted = RunInStore(
            experiment=name,
            run_id=run_id,
            tags={
                "igpo.checkpoints": str(self.run_dir / "checkpoints"),
                **{k: masked(str(v)) for k, v in (tags or {}).items()},
            },
            parameters=parameters_of(config),
            artifacts=None if self._server else (self._home / "mlartifacts").as_uri(),
            title=title,
            datasets=tuple(datasets),
            grid_id=grid_id,
        )
        self._monitor: Any = None
        """MLflow's monitor of this machine, once the store has answered."""
        self._found: FoundRun | None = None
        self._arrived_up_to = self._heldout_up_to = -1
        self._closed = self._complete = False
        self._spool = Spool(self.run_dir / "logs" / "metrics.jsonl", resumed_from_iteration)
        self._traces = TraceSpool(self.run_dir / "logs" / "traces.jsonl", resumed_from_iteration)
        self._delivery = Delivery(
            self._connect,
            f"{self.tracking_uri} through {proxy} ({proxy.way_around})" if proxy else self.tracking_uri,
            f"metrics are kept in {self._spool.path} until it is back",
        )
        if resumed_from_iteration is not None:
            self.commit(resumed_from_iteration)
        self._delivery.start()

    @property
    def tracking_uri(self) -> str:
        return self._server or f"sqlite:///{self._store_file}"

    @property
    def _store_file(self) -> Path:
        """The local store, where there is no server."""
        return self._home / "mlflow.db"

    @property
    def ui_command(self) -> str:
        """The command that shows the store, or where to look for a server's.

        MLflow's UI opens in its view for GenAI, without runs, until the view of models is chosen in it.
        """
        if self._server and self._server.startswith("http"):
            return f"open {shlex.quote(self._server)}"
        store = self._server or f"sqlite:///{os.path.relpath(self._store_file)}"
        return f"mlflow ui --backend-store-uri {shlex.quote(store)}  # in it, choose Model training"

    @property
    def mlflow_run_id(self) -> str | None:
        """Known once the store has answered for the first time."""
        return self._found.run_id if self._found else None

    def when_known(self, tell: Callable[[str], object]) -> None:
        """Calls `tell` with the MLflow run's id, from the background, as soon as the store has answered."""
        self._delivery.put(lambda connection: tell(connection.run_id))

    def log_iteration(self, iteration: int, result: Mapping[str, Any]) -> None:
        """Keeps the metrics of one `train()` result until `commit`.

        Durable on return: call it before the checkpoint.
        """
        self._spool.add(iteration, metrics_of(result, iteration))

    def log_rollouts(self, record: IterationRecord) -> None:
        """Keeps a sample of an iteration's rollouts until `commit`; they become traces.

        Durable on return, as `log_iteration`.
        """
        chosen = sample(record, self.settings.traces_per_iteration, self.run_id)
        if chosen:
            self._traces.add([trace_of(rollout) for rollout in chosen])

    def commit(self, iteration: int) -> None:
        """Sends everything up to and including `iteration`: the checkpoint that contains it is on disk."""
        for point in self._spool.take(iteration):
            self._delivery.put(lambda connection, point=point: self._send(connection, point))
        traces = self._traces.take(iteration)
        for trace in traces:
            self._delivery.put(lambda connection, trace=trace: self._send_trace(connection, trace))
        if traces:
            self._delivery.put(lambda connection: self._traces.tidy())

    def log_artifact(self, path: str | os.PathLike[str], folder: str | None = None) -> None:
        """Uploads a file into the run's artifacts.

        It is read later, from the background. Raises FileNotFoundError.
        """
        path = Path(path).resolve()
        if not path.is_file():
            raise FileNotFoundError(f"no file {path} to keep as an MLflow artifact")
        self._delivery.put(
            lambda connection: connection.client.log_artifact(connection.run_id, str(path), folder)
        )

    def register_model(self, folder: str | os.PathLike[str]) -> None:
        """Uploads a model's folder and registers it, where the settings name a model.

        It is read later, from the background.
        """
        name, folder = self.settings.register_model, Path(folder).resolve()
        if name is not None:
            self._delivery.put(lambda connection: register(connection, name, folder))

    def flush(self, timeout: float = 60.0) -> bool:
        """Waits until everything committed has been sent; False if that took more than `timeout` seconds."""
        return self._delivery.flush(timeout)

    def close(self, status: str = "finished", timeout: float = 60.0) -> bool:
        """Sends what is committed and ends the MLflow run. `status`: `finished`, `interrupted` or `failed`.

        Waits at most about `timeout` seconds for a store that does not answer, and asks it again every
        second. What was not sent stays in the spool; `igpo track RUN` sends it.

        Returns:
            Whether the store has everything.
        """
        if self._closed:
            return self._complete
        self._closed = True
        if self._monitor is not None:
            self._monitor.finish()
        self._delivery.put(lambda connection: self._end(connection, MLFLOW_STATUS[status]))
        self._delivery.put(lambda connection: self._traces.tidy(at_end=True))
        self._complete = self._delivery.close(timeout)
        if not self._complete:
            logger.warning(
                "MLflow at %s did not take everything; what is left is in %s: igpo track %s sends it",
                self.tracking_uri,
                self._spool.path.parent,
                shlex.quote(str(self.run_dir)),
            )
        return self._complete

    def _end(self, connection: Connection, status: str) -> None:
        connection.client.set_terminated(connection.run_id, status)
        if self._found and self._found.parent_id:  # The grid is as its latest trial.
            connection.client.set_terminated(self._found.parent_id, status)

    def _connect(self) -> Connection:
        from mlflow import MlflowClient

        configure_mlflow_logging()
        with nullcontext() if self._server else local_store(self._store_file):
            client = MlflowClient(tracking_uri=self.tracking_uri)
            found = find_or_create(client, self._wanted, self._resumed_from)
        self._arrived_up_to, self._heldout_up_to = found.arrived_up_to, found.heldout_up_to
        if self._resumed_from is not None and found.arrived_up_to > self._resumed_from:
            self._delivery.warn_once(
                f"MLflow already has iterations up to {found.arrived_up_to}, this attempt resumed from "
                f"{self._resumed_from}: their points stay those of the earlier attempt"
            )
        self._found = found
        if self.settings.system_metrics and self._monitor is None:
            self._monitor = self._monitored(found.run_id)
        return Connection(client, found.run_id, found.experiment_id)

    def _send_trace(self, connection: Connection, trace: dict[str, Any]) -> None:
        send_trace(connection, trace)
        self._traces.sent(trace["id"])

    def _monitored(self, run_id: str) -> Any:
        """Starts MLflow's own thread, which samples this machine and sends to the run."""
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        monitor = SystemMetricsMonitor(run_id, resume_logging=True, tracking_uri=self.tracking_uri)
        monitor.start()
        return monitor

    def _send(self, connection: Connection, point: dict[str, Any]) -> None:
        from mlflow.entities import Metric

        step = point["iteration"]
        # The evaluation at the end of a run may follow, under the same step, a point that has long arrived.
        metrics = {
            name: value
            for name, value in point["metrics"].items()
            if step > (self._heldout_up_to if name.startswith(HELDOUT_PREFIX) else self._arrived_up_to)
        }
        if not metrics:
            return
        points = [Metric(key, value, point["timestamp"], step) for key, value in metrics.items()]
        connection.client.log_batch(connection.run_id, metrics=points)
        self._arrived_up_to = max(self._arrived_up_to, step)
        if any(name.startswith(HELDOUT_PREFIX) for name in metrics):
            self._heldout_up_to = step
        if HELDOUT_METRIC in metrics:
            connection.client.set_tag(connection.run_id, EM_TAG, f"{metrics[HELDOUT_METRIC]:.3f}")
