"""What a person may call a policy, for `igpo ask`, `rllib evaluate` and `igpo counterfactual --policy`."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from rollout_log_samples import write_run

import pipeline.cli.igpo
import pipeline.cli.rllib
from envs.errors import InputError
from pipeline.cli.policy import policy_named
from pipeline.run_directory.checkpoints import Checkpoints

RUN_ID = "20260101-000000-aaaa"
CHECKPOINTS = Path("runs") / "igpo" / RUN_ID / "checkpoints"
A_MODEL = "a model is a folder, a hub name (OWNER/NAME), `tiny` or `smollm2`."
NO_SUCH = "there is no such run (`igpo runs` lists them), checkpoint or model"
NO_POLICY = "this folder is no run, checkpoint or Hugging Face model"


@pytest.fixture
def run_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = write_run(tmp_path / "runs" / "igpo", run_id=RUN_ID)
    (folder / "run.json").write_text("{}")
    return folder


def save(*iterations, best=None):
    """Checkpoints without weights; `best` among them."""
    CHECKPOINTS.mkdir(exist_ok=True)
    checkpoints = Checkpoints(CHECKPOINTS, None)
    for iteration in iterations:
        saver = SimpleNamespace(save_to_path=lambda path: None)
        checkpoints.save(saver, iteration, {}, best=iteration == best)


def test_a_run_names_its_last_checkpoint(run_folder):
    with pytest.raises(InputError, match=r"last: this run has no checkpoint yet: .*checkpoints/last"):
        policy_named("last")
    save(3)
    for words in ("last", "igpo", RUN_ID, "runs/igpo", f"runs/igpo/{RUN_ID}"):
        assert policy_named(words) == str(CHECKPOINTS / "last"), words
    for words in ("tiny", "smollm2", "org/model", str(CHECKPOINTS / "last")):
        assert policy_named(words) == words


@pytest.mark.parametrize(
    ("iterations", "best", "told"),
    [
        ((4,), None, ""),
        ((4,), 4, ", and the best"),
        ((2, 4), 2, f"; the best, of iteration 2, is {CHECKPOINTS / 'best'}"),
    ],
)
def test_it_says_which_checkpoint_that_is(run_folder, capsys, iterations, best, told):
    save(*iterations, best=best)
    policy_named("igpo")
    last = CHECKPOINTS / "last"
    assert capsys.readouterr().out == f"policy  {last}, the last checkpoint, of iteration 4{told}\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("nowhere", f"{NO_SUCH}: {A_MODEL}"),
        ("./nowhere", f"{NO_SUCH}: {A_MODEL}"),
        ("some/folder/nowhere", f"{NO_SUCH}: {A_MODEL}"),
        ("igpoo", f"{NO_SUCH}; did you mean runs/igpo?"),
        ("igpo/nope", f"{NO_SUCH}; did you mean runs/igpo?"),
        ("runs/igpo/nope", f"{NO_SUCH}; did you mean runs/igpo?"),
        ("runs/igpo/20260101", f"{NO_SUCH}; did you mean runs/igpo/{RUN_ID}?"),
        (f"{CHECKPOINTS}/lst", f"{NO_SUCH}; did you mean {CHECKPOINTS}/last?"),
        (str(CHECKPOINTS), f"{NO_POLICY}; did you mean {CHECKPOINTS}/last?"),
        ("runs", f"{NO_POLICY}; `igpo runs` lists the runs."),
    ],
)
def test_what_is_none_is_refused_in_the_words_that_were_typed(refused, run_folder, words, said):
    save(3)
    if words == "runs":
        (Path("runs") / "igpo").rename("elsewhere")
    assert refused("ask", words, "Who?", app=pipeline.cli.igpo.app) == f"{words}: {said}"
    assert refused("evaluate", words) == f"{words}: {said}"


def test_the_policy_of_a_counterfactual_is_named_alike(refused, monkeypatch, run_folder):
    monkeypatch.setattr("pipeline.analysis.offline.counterfactual.iteration_with_tokens", lambda *_: 1)
    monkeypatch.setattr("pipeline.analysis.offline.counterfactual.logged_rollouts", lambda *_: [])
    said = refused("counterfactual", RUN_ID, "--policy", "nowhere", app=pipeline.cli.igpo.app)
    assert said == f"nowhere: {NO_SUCH}: {A_MODEL}"


def test_adapters_without_their_base(refused, run_folder):
    Path("adapters").mkdir()
    Path("adapters", "adapter_config.json").write_text("{}")
    said = refused("ask", "./adapters", "Who?", app=pipeline.cli.igpo.app)
    assert said.startswith("policy ./adapters holds adapters without their base: give the checkpoint")


def test_a_checkpoint_to_restore_that_is_none_says_where_they_are(refused):
    said = refused("train", "file", "conf/igpo.yaml", "--restore", "nowhere")
    assert said == (
        "nowhere: there is no such checkpoint folder: name RUN/checkpoints/last or .../best (`igpo runs` "
        "lists the runs)."
    )
