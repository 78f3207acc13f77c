"""The rollout log on another file system, `memory://` standing for an object store: written, read, killed,
mended.
"""

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.arrow import ArrowFSWrapper
from rollout_log_samples import records, train_1
from tiny_policy import write_experiment
from typer.testing import CliRunner

import pipeline.cli.igpo
from envs.errors import InputError
from pipeline.analysis import AnalysisError, locate_run, open_run
from pipeline.cli.app import make_app
from pipeline.cli.log.sql import compact_command, sql_command
from pipeline.experiment.experiment import load_experiments
from pipeline.rollout_log.folder import LocalFolder, RemoteFolder, RolloutLogError, join, open_folder
from pipeline.rollout_log.manifest import load_manifest
from pipeline.rollout_log.rows import RunInfo
from pipeline.rollout_log.store import RolloutLogStore, compact
from pipeline.rollout_log.writer import RolloutLogWriter
from pipeline.run_directory.directory import RunDirectory

app = make_app("SQL")
app.command("sql")(sql_command)
app.command("compact")(compact_command)
ITERATIONS = "SELECT DISTINCT iteration FROM turns ORDER BY ALL"


@pytest.fixture
def bucket(request):
    """A URL under which nothing lies yet."""
    url = f"memory://bucket/{request.node.name}"
    yield url
    filesystem, path = fsspec.url_to_fs(url)
    if filesystem.exists(path):
        filesystem.rm(path, recursive=True)


def record_of(iteration):
    record = train_1()
    record.iteration = iteration
    return record


def test_a_log_in_a_bucket_reads_like_a_local_one(bucket, tmp_path):
    for location in (bucket, tmp_path):
        with RolloutLogWriter(location, "run-1", 1) as writer:
            for record in records():
                writer.write(record, {"kl": 0.5})
    with open_run(bucket) as remote, open_run(tmp_path) as local:
        for query in (
            "SELECT * FROM turns ORDER BY ALL",
            "SELECT * EXCLUDE (written_at) FROM iterations ORDER BY ALL",
        ):
            assert remote.sql(query).fetchall() == local.sql(query).fetchall() != []
        assert remote.named("credit_auroc").fetchall() == local.named("credit_auroc").fetchall()
        with pytest.raises(AnalysisError, match="disabled by configuration|does not exist"):
            remote.sql("SELECT * FROM 'memory://bucket/other.parquet'").fetchall()
    assert [len(load_manifest(bucket).of(table)) for table in ("turns", "runs")] == [1, 1]


def test_a_bucket_is_read_while_it_is_written_and_after_a_resume(bucket):
    writer = RolloutLogWriter(bucket, "run-1", 1, merge_every=2)
    writer.write(record_of(1))
    writer.flush()
    run = open_run(bucket)
    for iteration in (2, 3):
        writer.write(record_of(iteration))
        writer.flush()
        assert run.sql(ITERATIONS).fetchall() == [(i + 1,) for i in range(iteration)]
    writer.close("interrupted")
    with RolloutLogWriter(bucket, "run-1", 2, info=RunInfo(resumed_from_iteration=2)) as writer:
        writer.write(record_of(3))
    assert run.sql("SELECT DISTINCT attempt, iteration FROM turns ORDER BY ALL").fetchall() == [
        (1, 1),
        (1, 2),
        (2, 3),
    ]


def test_a_missing_or_short_object_is_named(bucket):
    with RolloutLogWriter(bucket, "run-1", 1) as writer:
        writer.write(record_of(1))
    folder = open_folder(bucket)
    (file,) = load_manifest(bucket).of("turns")
    whole = folder.read(file.path)
    folder.filesystem.pipe_file(f"{folder._root}/{file.path}", whole[:100])
    with pytest.raises(
        AnalysisError, match=f"{file.path} has 100 bytes, {file.bytes} were written: it is damaged"
    ):
        open_run(bucket)
    folder.delete(file.path)
    with pytest.raises(AnalysisError, match=f"{file.path} is missing"):
        open_run(bucket)
    with pytest.raises(AnalysisError, match=f"no rollout log in {bucket}/other"):
        open_run(f"{bucket}/other")


class KilledError(BaseException):
    """Stands for `kill -9`."""


def test_killed_at_any_step_a_bucket_shows_every_row_once(bucket, monkeypatch):
    filesystem = type(fsspec.filesystem("memory"))
    stop_at, died, seen = 0, True, set()
    while died:
        steps = iter(range(10_000))

        def dying(function, steps=steps, stop_at=stop_at):
            def step(*args, **kwargs):
                if next(steps) == stop_at:
                    raise KilledError
                return function(*args, **kwargs)

            return step

        url = f"{bucket}/{stop_at}"
        with monkeypatch.context() as patch:
            for name in ("_open", "mv", "rm_file"):
                patch.setattr(filesystem, name, dying(getattr(filesystem, name)))
            died = False
            try:
                store = RolloutLogStore(url, "run-1")
                for iteration in (1, 2, 3):
                    store.append({"iterations": pa.table({"iteration": [iteration]})}, f"i{iteration}")
                    if iteration == 2:
                        store.merge()
                store.merge(everything=True)
                store.close()
            except KilledError:
                died = True
        stop_at += 1
        try:
            load_manifest(url)
        except RolloutLogError as error:
            assert died and "no rollout log" in str(error)
            continue
        compact(url)
        folder = open_folder(url)
        files = load_manifest(url).files
        iterations = [
            row["iteration"] for file in files for row in pq.read_table(folder.open(file.path)).to_pylist()
        ]
        assert iterations == list(range(1, len(iterations) + 1))
        assert set(folder.names("iterations")) == {file.path for file in files}
        seen.add(len(iterations))
    assert seen == {1, 2, 3} and stop_at > 15


def test_a_run_names_its_log_elsewhere(bucket, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    directory = RunDirectory.create("runs", "demo", {"demo": {}}, rollout_log=bucket)
    assert directory.rollouts == f"{bucket}/demo/{directory.run_id}"
    writer = RolloutLogWriter(directory.rollouts, directory.run_id, 1)
    for iteration in (1, 2):
        writer.write(record_of(iteration))
    writer.flush()
    for name in ("last", "demo", directory.run_id, str(directory.path)):
        location = locate_run(name)
        assert location.folder.resolve() == directory.path and str(location.log) == directory.rollouts
    run = CliRunner().invoke(app, ["sql", "last", "SELECT count(*) AS turns FROM turns", "--format", "csv"])
    assert run.stdout == "turns\n20\n", run.output
    with directory.lock():
        busy = CliRunner().invoke(app, ["compact", "last"])
    assert busy.exit_code == 2 and "works in this run directory" in busy.stderr
    by_url = CliRunner().invoke(app, ["compact", directory.rollouts])
    assert by_url.exit_code == 2 and "name the run's folder instead" in by_url.stderr
    done = CliRunner().invoke(app, ["compact", "last"])
    assert done.exit_code == 0 and "11 files before, 6 after" in done.stdout, done.output


def test_what_needs_the_runs_folder_refuses_the_url_of_its_log(bucket, tmp_path, monkeypatch, refused):
    """The working directory is another run's, which nothing may take for the URL's."""
    with RolloutLogWriter(bucket, "run-1", 1) as writer:
        writer.write(record_of(1))
    monkeypatch.chdir(RunDirectory.create(tmp_path, "other", {"other": {}}).path)
    for command in ("compact", "track", "verify", "counterfactual"):
        said = refused(command, bucket, app=pipeline.cli.igpo.app)
        assert f"{bucket}: name the run's folder instead, which " in said


def test_a_folder_of_its_own_for_all_logs(tmp_path):
    directory = RunDirectory.create(
        tmp_path / "runs", "demo", {"demo": {}}, rollout_log=str(tmp_path / "logs")
    )
    with RolloutLogWriter(directory.rollouts, directory.run_id, 1) as writer:
        writer.write(record_of(1))
    assert (tmp_path / "logs" / "demo" / directory.run_id / "manifest.json").exists()
    assert open_run("last", runs_dir=tmp_path / "runs").sql(ITERATIONS).fetchall() == [(1,)]


@pytest.mark.parametrize("host", ["", "localhost"])
def test_a_url_of_this_machine_is_its_folder(tmp_path, monkeypatch, host):
    monkeypatch.chdir(tmp_path)
    logs = tmp_path / "all logs"
    file = write_experiment(tmp_path / "demo.yaml", "tiny")
    (experiment,) = load_experiments(file, [f"rollout_log=file://{host}{tmp_path}/all%20logs"])
    assert experiment.rollout_log == str(logs)
    for location in (experiment.rollout_log, f"file://{host}{tmp_path}/all%20logs"):
        directory = RunDirectory.create("runs", "demo", {"demo": {}}, rollout_log=location)
        assert directory.rollouts == str(logs / "demo" / directory.run_id)
    with RolloutLogWriter(directory.rollouts, directory.run_id, 1) as writer:
        writer.write(record_of(1))
    assert not (tmp_path / "file:").exists()
    monkeypatch.chdir("/")
    assert open_run("last", runs_dir=tmp_path / "runs").sql(ITERATIONS).fetchall() == [(1,)]
    done = CliRunner().invoke(app, ["compact", str(directory.path)])
    assert done.exit_code == 0 and str(logs) in done.stdout.replace("\n", ""), done.output


def test_a_slash_too_few_is_told_before_anything_is_written(tmp_path):
    file = write_experiment(tmp_path / "demo.yaml", "tiny")
    for key in ("rollout_log", "storage_path"):
        with pytest.raises(
            InputError, match="has three slashes, file:///scratch/logs; or write its path alone"
        ):
            load_experiments(file, [f"{key}=file://scratch/logs"])


def test_urls(tmp_path):
    assert isinstance(open_folder(f"file://{tmp_path}"), LocalFolder) and str(
        open_folder(f"file://{tmp_path}")
    ) == str(tmp_path)
    s3 = RemoteFolder("s3://bucket/runs?region=eu-west-1")  # By pyarrow, where s3fs is not installed.
    assert (
        isinstance(s3.filesystem, ArrowFSWrapper)
        and s3.path("turns/x.parquet") == "s3://bucket/runs/turns/x.parquet"
    )
    assert (
        join("s3://bucket/runs/?region=eu-west-1", "demo", "1") == "s3://bucket/runs/demo/1?region=eu-west-1"
    )
    with pytest.raises(InputError, match="nosuch://bucket: no file system for this URL"):
        open_folder("nosuch://bucket")
