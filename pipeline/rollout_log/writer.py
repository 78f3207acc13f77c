"""`RolloutLogWriter` writes the rollout log in the background; its calls return at once.

    info = RunInfo(name="igpo", config=config)
    with RolloutLogWriter(run_folder / "rollouts", run_id, attempt=1, info=info) as log:
        for record in algorithm.records:
            log.write(record, metrics)
        log.flush()  # before a checkpoint counts as saved: its iterations must be in the log

One background thread turns records into Parquet; a bounded queue slows the trainer down rather than fill the
memory when the disk cannot keep up. An error in the thread is raised by the next call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from queue import Queue
from threading import Thread

from algorithms.igpo.iteration_record import IterationRecord
from pipeline.rollout_log.folder import Location, RolloutLogError
from pipeline.rollout_log.rows import RunInfo, now, run_row, table, tables_of
from pipeline.rollout_log.store import RolloutLogStore

QUEUE_RECORDS = 8
_END = None


class RolloutLogWriter:
    """Writes one attempt of one run's log. A record must not be changed after it was handed over.

    Args:
        location: a folder, or a URL of any file system that fsspec or pyarrow knows.
        run_id: the run.
        attempt: 1 for a fresh run; a resumed one counts up and needs `info.resumed_from_iteration`.
        info: the attempt's row in `runs`.
        merge_every: iterations after which parts are merged; `close` merges all.

    Raises:
        RolloutLogError: the folder holds another run or this attempt already, or another process writes it.
    """

    def __init__(
        self,
        location: Location,
        run_id: str,
        attempt: int,
        *,
        info: RunInfo | None = None,
        merge_every: int = 50,
    ):
        info = info or RunInfo()
        if (attempt == 1) != (info.resumed_from_iteration is None):
            raise ValueError(
                f"attempt {attempt} with resumed_from_iteration={info.resumed_from_iteration}: the first "
                "attempt resumes from nothing, every later one from the iteration of its checkpoint"
            )
        if merge_every < 1:
            raise ValueError(f"merge_every is {merge_every}, it must be at least 1")
        self.run_id = run_id
        self.attempt = attempt
        self.info = info
        self._merge_every = merge_every
        self._merged_up_to: int | None = None
        self._written: set[tuple[int, str]] = set()
        self._failure: BaseException | None = None
        self._closed = False
        self._row = run_row(run_id, attempt, info, now())
        self._store = RolloutLogStore(location, run_id)
        try:
            self._store.begin_attempt(
                attempt, self._row["started_at"].isoformat(), table("runs", [self._row])
            )
        except BaseException:
            self._store.close()
            raise
        self._queue: Queue[Callable[[], None] | None] = Queue(QUEUE_RECORDS)
        self._thread = Thread(target=self._work, name="rollout-log", daemon=True)
        self._thread.start()

    def write(self, record: IterationRecord, metrics: Mapping[str, float] | None = None) -> None:
        """Hands over one iteration's record of one split and the flat metrics of its training result (for
        `iterations`).

        Raises RolloutLogError if an earlier record could not be written.
        """
        self._check()
        key = (record.iteration, record.split)
        if key in self._written:
            raise ValueError(
                f"iteration {record.iteration} of split {record.split!r} was already written by attempt "
                f"{self.attempt}"
            )
        self._written.add(key)
        numbers = dict(metrics or {})
        self._queue.put(lambda: self._write(record, numbers))

    @property
    def has_iterations(self) -> bool:
        """Whether any attempt has written an iteration."""
        return bool(self._store.manifest.of("iterations"))

    def note_mlflow_run(self, mlflow_run_id: str) -> None:
        """Enters the MLflow run into the attempt's row of `runs`.

        From any thread; a log that is closed stays as it is.
        """
        if not self._closed:
            self._queue.put(lambda: self._note(mlflow_run_id))

    def flush(self) -> None:
        """Returns when everything handed over is on disk. Raises RolloutLogError if that failed."""
        self._check()
        self._queue.join()
        self._check()

    def close(self, status: str = "finished") -> None:
        """Writes the rest, notes the ending (`finished`, `interrupted` or `failed`) and merges the log."""
        if self._closed:
            return
        self._closed = True
        self._queue.put(_END)
        self._thread.join()
        try:
            if self._failure is None:
                self._store.replace_run_row(
                    self.attempt, table("runs", [self._row | {"ended_at": now(), "status": status}])
                )
                self._store.merge(everything=True)
        finally:
            self._store.close()
        self._raise_failure()

    def __enter__(self) -> RolloutLogWriter:
        return self

    def __exit__(self, kind, error, traceback) -> None:
        if kind is None:
            self.close()
        else:
            self.close("interrupted" if issubclass(kind, KeyboardInterrupt) else "failed")

    def _check(self) -> None:
        if self._closed:
            raise RolloutLogError(f"the log of {self._store.folder} is closed")
        self._raise_failure()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            where = self._store.folder
            raise RolloutLogError(
                f"the rollout log in {where} could not be written: {self._failure}"
            ) from self._failure

    def _work(self) -> None:
        while (job := self._queue.get()) is not _END:
            try:
                if self._failure is None:
                    job()
            except (
                BaseException
            ) as error:  # Raised by the trainer's next call; the thread stays to keep the queue moving.
                self._failure = error
            finally:
                self._queue.task_done()

    def _note(self, mlflow_run_id: str) -> None:
        self._row |= {"mlflow_run_id": mlflow_run_id}
        self._store.replace_run_row(self.attempt, table("runs", [self._row]))

    def _write(self, record: IterationRecord, metrics: dict[str, float]) -> None:
        tables = tables_of(record, metrics, self.run_id, self.attempt, self.info)
        self._store.append(tables, f"i{record.iteration:06d}-{record.split}-a{self.attempt}")
        self._store.delete_retired()
        if self._merged_up_to is None:
            self._merged_up_to = record.iteration - 1
        if record.iteration - self._merged_up_to >= self._merge_every:
            self._store.merge()
            self._merged_up_to = record.iteration
