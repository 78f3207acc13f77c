"""Two adapters of the embedded policy through the real command line: train, resume, evaluate."""

import json
from pathlib import Path

import pytest
from command import Command

from envs.engine.lora import read_adapter
from envs.engine.models import resolve_model
from pipeline.analysis import open_run

pytestmark = pytest.mark.slow

FILE, MINUTES = "igpo_multi_agent_lora.yaml", 60
POLICIES = ("reader", "searcher")
SMALL = [
    f"--set={assignment}"
    for assignment in (
        "storage_path=runs", "prompts_per_iteration=4", "group_size=4", "evaluation_interval=2",
        "evaluation_questions=20", "lr=1e-2", "engine.kv_cache_gib=0.25", "engine.max_num_seqs=32",
        "policies.searcher.lora.rank=4", "policies.reader.lora.rank=2",
    )
]  # fmt: skip


def train(folder: Path, iterations: int, *more: str) -> Path:
    """Trains, and returns the newest run."""
    stop = json.dumps({"training_iteration": iterations})
    command = Command(folder, "train", "file", FILE, *SMALL, "--stop", stop, *more)
    assert command.end(20 * MINUTES) == 0, command.output.read_text()
    return max((folder / "runs/igpo_multi_agent_lora").glob("*/run.json")).parent


def adapters(run: Path) -> dict:
    return {policy: read_adapter(run / "checkpoints/last/hf" / policy) for policy in POLICIES}


@pytest.mark.timeout(60 * MINUTES)
def test_two_adapters_learn_and_their_checkpoint_is_evaluated_and_restored(tmp_path):
    base = Path(resolve_model("tiny"), "model.safetensors").stat().st_size
    run = train(tmp_path, 2)
    learned = adapters(run)
    assert {policy: lora.rank for policy, (lora, _) in learned.items()} == {"reader": 2, "searcher": 4}
    for policy, (_, tensors) in learned.items():
        moved = [name for name, tensor in tensors.items() if "lora_B" in name and tensor.abs().max() > 0]
        assert moved, f"{policy} has learned nothing: its B is still 0"
    saved = [path for path in (run / "checkpoints/last").resolve().rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in saved) < base, "AdamW's moments included"
    with open_run(run) as log:
        # Each turn was sampled by its role's adapters, as the learner had pushed them.
        gaps = log.sql(
            "SELECT iteration, agent, avg(logp_gap_mean) FROM turns WHERE split = 'train' GROUP BY ALL"
        ).fetchall()
        ((own_score,),) = log.sql(
            "SELECT avg(em_squad) FROM episodes WHERE split = 'heldout' AND iteration = 2"
        ).fetchall()
    assert {(iteration, agent) for iteration, agent, _ in gaps} == {
        (i, agent) for i in (1, 2) for agent in POLICIES
    }
    assert all(gap < 1e-4 for _, _, gap in gaps), gaps

    last = str((run / "checkpoints/last").resolve())
    evaluated = Command(tmp_path, "evaluate", last, "--episodes", "20", "--out", "scores.json")
    assert evaluated.end(10 * MINUTES) == 0, evaluated.output.read_text()
    scores = json.loads((tmp_path / "scores.json").read_text())["summary"]["scores"]
    assert scores["em_squad"]["mean"] == pytest.approx(own_score), scores

    restored = train(tmp_path, 3, "--restore", last)
    assert restored != run
    for policy, (_, tensors) in adapters(restored).items():
        assert any(bool((tensor != learned[policy][1][name]).any()) for name, tensor in tensors.items())
    with open_run(restored) as log:
        iterations = log.sql("SELECT DISTINCT iteration FROM turns WHERE split = 'train'").fetchall()
    assert iterations == [(3,)]
