"""What of a run can be run again, and the reasons why not."""

import json
from types import SimpleNamespace

import pytest
from rollout_log_samples import Q1, answer, records, rollout
from tiny_policy import write_experiment

from algorithms.igpo.iteration_record import IterationRecord
from envs.errors import InputError
from pipeline.analysis.collapse_watch import CollapseWatch
from pipeline.experiment.experiment import load_experiment
from pipeline.experiment.resolved import config_hash
from pipeline.rollout_log.rows import RunInfo
from pipeline.rollout_log.writer import RolloutLogWriter
from pipeline.run_directory.checkpoints import NOTE
from pipeline.run_directory.directory import RunDirectory
from pipeline.verification.rerun import rerun
from pipeline.verification.same_weights import compare_weights
from pipeline.verification.starting_points import Rerun, plan_rerun
from pipeline.verification.what_changed import what_changed


@pytest.fixture
def make_run(tmp_path):
    """A run of two logged iterations; `saved` are the iterations of its checkpoints."""

    def make(*saved, hash_of_log=None, facts=None, **settings):
        experiment = load_experiment(write_experiment(tmp_path / "demo.yaml", "tiny", **settings))
        resolved = experiment.resolved()
        run = RunDirectory.create(tmp_path / "runs", "demo", resolved, facts)
        info = RunInfo(config_hash=hash_of_log or config_hash(resolved["demo"]["config"]))
        with RolloutLogWriter(run.rollouts, run.run_id, 1, info=info) as log:
            for record in records():
                log.write(record, {"kl": 0.5})
        for iteration in saved:
            folder = run.checkpoints / f"iteration_{iteration:06d}"
            folder.mkdir()
            note = {"schema_version": 1, "algorithm": "IGPO", "iteration": iteration}
            (folder / NOTE).write_text(json.dumps(note))
        return run

    return make


def test_the_last_checkpoint_that_the_log_goes_on_from(make_run):
    run = make_run(1, 2)
    found = plan_rerun(run, None, None)
    assert (found.start, found.iterations, found.last) == (1, 1, 2)
    assert found.checkpoint == run.checkpoints / "iteration_000001"
    assert found.kept_weights == run.checkpoints / "iteration_000002" / "hf"
    assert found.logged == {(1, "train"), (1, "heldout"), (2, "train"), (2, "heldout")}
    from_the_first = plan_rerun(run, 0, 2)
    assert (from_the_first.start, from_the_first.last, from_the_first.checkpoint) == (0, 2, None)


def test_a_run_with_its_last_checkpoint_alone_begins_at_its_first_weights(make_run):
    found = plan_rerun(make_run(2), None, None)
    assert (found.start, found.iterations, found.checkpoint, found.kept_weights) == (0, 1, None, None)


def test_with_a_lag_the_next_rollouts_are_in_the_checkpoint(make_run):
    assert plan_rerun(make_run(max_weight_lag=1), None, None).iterations == 2


@pytest.mark.parametrize(
    "saved, settings, asked, reason",
    [
        ([1], {}, (2, None), r"--after 2: .* no checkpoint of iteration 2 .* after 0, 1\.$"),
        ([1], {}, (1, 2), r"--iterations 2: .* ends with iteration 2, so after iteration 1 there are 1\.$"),
        ([], {"hash_of_log": "other"}, (None, None), "iteration 1 .* under other settings .*hash other, now"),
        (
            [2],
            {"facts": {"restored_from": "/gone"}},
            (None, None),
            "keeps nothing .*--keep-checkpoints-num 2",
        ),
        (
            [],
            {"facts": {"own_code": {"mine:f": "1"}}},
            (None, None),
            "the file of `mine:f`, or one that it imports, has",
        ),
    ],
)
def test_why_a_run_cannot_be_verified(make_run, saved, settings, asked, reason):
    with pytest.raises(InputError, match=reason):
        plan_rerun(make_run(*saved, **settings), *asked)


def test_weights_are_compared_bit_by_bit(tmp_path):
    import torch
    from safetensors.torch import save_file

    tensors = {"a": torch.tensor([1.0, float("nan")]), "b": torch.tensor([[1.0]], dtype=torch.bfloat16)}
    for name, changed in (
        ("before", {}),
        ("same", {}),
        ("sign", {"a": torch.tensor([-0.0])}),
        ("less", None),
    ):
        (tmp_path / name / "policy").mkdir(parents=True)
        kept = tensors | changed if changed is not None else {"a": tensors["a"]}
        save_file(kept, tmp_path / name / "policy" / "model.safetensors")
    found = [compare_weights(tmp_path / "before", tmp_path / name) for name in ("same", "sign", "less")]
    assert found == [(2, 0), (2, 1), (2, 1)]


def test_what_changed_since_the_run_began(make_run):
    versions, hardware = {"torch": "1.0"}, {"processor": "an abacus", "cores": 3}
    run = make_run(facts={"versions": versions, "hardware": hardware, "git_commit": "abc+changes"})
    changed = what_changed(run, plan_rerun(run, None, None).plan.config)
    assert any(fact.startswith("torch: 1.0, now ") for fact in changed)
    assert any(fact.startswith("processor: an abacus, now ") for fact in changed)
    assert not any("omp_num_threads" in fact for fact in changed), "the run did not note them"
    assert changed[-1] == "the code had changes then that its commit does not have"


def test_a_sign_of_a_collapse_comes_again(tmp_path, monkeypatch):
    """The watch compares with the iterations before, which are not run again."""
    metrics = [{"em_sampled": 0.4, "entropy": 0.5}] * 6 + [{"em_sampled": 0.4, "entropy": 3.0}] * 2
    watch = CollapseWatch()
    signs = [float(len(watch.add(at, each))) for at, each in enumerate(metrics, 1)]
    assert signs == [0, 0, 0, 0, 0, 0, 1, 0]

    def record(iteration):
        return IterationRecord(iteration, "train", iteration, [rollout("r", "g", Q1, [answer(0, "Rome")])])

    class Trained:
        """Trains iteration 7 as the run did."""

        iteration, callbacks = 6, []

        def train(self):
            self.iteration, self.records = 7, [record(7)]
            for each in self.callbacks:
                each.on_train_result(algorithm=self, result={"igpo": dict(metrics[6])})

        def stop(self):
            pass

    with RolloutLogWriter(tmp_path / "run-1" / "rollouts", "run-1", 1) as log:
        for iteration, (each, count) in enumerate(zip(metrics, signs, strict=True), 1):
            log.write(record(iteration), each | {"collapse_signs": count, "seconds_log": 0.0})
    monkeypatch.setattr("pipeline.verification.rerun.build_algorithm", lambda *_, **__: Trained())
    run = SimpleNamespace(path=tmp_path / "run-1", run_id="run-1", checkpoints=tmp_path / "none")
    plan = SimpleNamespace(config=None)
    verdict = rerun(Rerun(run, plan, None, 6, 1, False, {(7, "train")}), tmp_path / "again", lambda _: None)
    assert verdict.is_equal, verdict.rows.first
    assert verdict.rows.values["metrics"] == 6  # name and value of em_sampled, entropy and collapse_signs
