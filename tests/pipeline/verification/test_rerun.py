"""What of a run can be run again, and the reasons why not."""

import json

import pytest
from rollout_log_samples import records
from tiny_policy import write_experiment

from envs.errors import InputError
from pipeline.experiment.experiment import load_experiment
from pipeline.experiment.resolved import config_hash
from pipeline.rollout_log.rows import RunInfo
from pipeline.rollout_log.writer import RolloutLogWriter
from pipeline.run_directory.checkpoints import NOTE
from pipeline.run_directory.directory import RunDirectory
from pipeline.verification.same_weights import compare_weights
from pipeline.verification.starting_points import plan_rerun
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
        ([], {"facts": {"own_code": {"mine:f": "1"}}}, (None, None), "the file of `mine:f` has changed"),
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
