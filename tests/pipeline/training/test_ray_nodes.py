"""A run over several Ray nodes: driver on a head node without CPUs, learner on one node, env runner on
another. The network has no interface but `lo`, and the cluster takes no one without its token. Nodes are
killed.
"""

import json
import time
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from command import Command
from ray_nodes import PORT, Network, Node
from tiny_policy import write_experiment, write_policy

pytestmark = pytest.mark.slow

ADDRESS = f"127.0.0.1:{PORT}"
TOKEN = "0123456789abcdef" * 4


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """`node(last, resources)` adds a node to a cluster, `rllib(...)` is a driver on its head node."""
    folder = tmp_path_factory.mktemp("nodes")
    write_experiment(
        folder / "demo.yaml",
        write_policy(folder / "policy"),
        evaluation_interval=0,
        num_env_runners=1,
        num_learners=1,
        custom_resources_per_env_runner={"samples": 1},
        custom_resources_per_learner={"learns": 1},
        engine={"kind": "transformers", "max_num_seqs": 32},
    )
    with ExitStack() as stack:
        sockets = stack.enter_context(TemporaryDirectory(prefix="ray", dir="/tmp"))  # their paths are short
        network = Network()
        stack.callback(network.close)
        environment = {
            "HOME": str(folder),  # no token there
            "RAY_TMPDIR": sockets,
            "GLOO_SOCKET_IFNAME": "lo",
            "PYTHONPATH": str(Path(__file__).parents[3]),
        }
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}

        def node(last, resources, unseen=None):
            started = Node(network, folder, f"127.0.0.{last}", resources, environment | token, unseen)
            stack.callback(started.kill)
            return started

        def rllib(stop, *arguments, token=token):
            return Command(
                folder,
                *("train", "file", "demo.yaml", "--stop", json.dumps({"training_iteration": stop})),
                *arguments,
                environment=environment | {"RAY_ADDRESS": ADDRESS} | token,
                prefix=network.prefix,
            )

        node(1, None)
        rllib.node, rllib.folder = node, folder
        yield rllib


def test_a_driver_without_the_token_is_told_in_seconds(lab):
    started = time.monotonic()
    refused = lab(1, token={"RAY_AUTH_MODE": "disabled"})  # Ray sets the mode of a process that ran one
    assert refused.end(60) == 2, refused.said
    assert time.monotonic() - started < 60, "15 s and what a busy machine takes to import Ray"
    assert refused.said.count("error:") == 1 and "Traceback" not in refused.said
    assert f"RAY_ADDRESS={ADDRESS}: the cluster refuses this process: it wants a token" in refused.said
    wrong = lab(1, token={"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN[::-1]})
    assert wrong.end(60) == 2 and "the token of RAY_AUTH_TOKEN is not its own" in wrong.said, wrong.said


def test_a_run_over_nodes_outlives_one_and_says_which_it_cannot_do_without(lab):
    runs = lab.folder / "runs"  # on the driver's disk, which the learners' nodes do not see
    runs.mkdir()
    learner, runner = lab.node(2, {"learns": 1}, runs), lab.node(3, {"samples": 1})
    run = lab(1000)
    run.wait_for_iteration(after=1)
    assert [name.split()[0] for name in runner.actors] == ["IGPOEnvRunner"], run.said
    assert learner.actors and "IGPOEnvRunner" not in " ".join(learner.actors), run.said

    # The env runner's node goes: the run waits, and goes on when another joins.
    runner.kill()
    run.wait_for("waiting for an env runner, at most 1800 s (env_runner_restore_timeout_s)")
    before = max(run.iterations)
    runner = lab.node(4, {"samples": 1})
    run.wait_for_iteration(after=before)
    assert [name.split()[0] for name in runner.actors] == ["IGPOEnvRunner"], run.said

    # The learner's node goes, and with it what the run knows beyond its checkpoint: it ends, and is resumed.
    learner.kill()
    assert run.end() == 1, run.said
    assert "the run failed: " in run.said and "Traceback" not in run.said, run.said
    said = run.said.split("the run failed: ")[1]
    assert "a learner is lost: " in said and "--resume" in said, run.said
    (last,) = lab.folder.glob("runs/demo/*/checkpoints/last/igpo_checkpoint.json")
    saved = json.loads(last.read_text())["iteration"]
    assert saved >= before, "an iteration is lost at most"
    lab.node(5, {"learns": 1}, runs)
    again = lab(saved + 1, "--resume")
    assert again.end() == 0, again.said
    assert again.iterations == [saved + 1]
    exported = last.parent / "hf" / "default_policy"
    names = {"config.json", "model.safetensors", "tokenizer.json"}
    assert names <= {path.name for path in exported.iterdir()}
    assert not list(Path("/tmp").glob("igpo-export-*"))
