"""The loop: order of writing, stopping, best and last, interrupts, and going on after a crash without a gap
or a repeat.
"""

import io
import json
import os
import signal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from algorithms.igpo.iteration_record import IterationRecord
from envs.data.question import Question
from envs.errors import InputError
from envs.search.trajectory import Rollout, Termination
from pipeline.evaluation.heldout_scores import Score, load_scores
from pipeline.evaluation.intervals import paired_difference
from pipeline.experiment.experiment import CheckpointSettings
from pipeline.run_directory.checkpoints import Checkpoints, read_note
from pipeline.run_directory.directory import RunDirectory
from pipeline.training.loop import TrainingLoop, reached
from pipeline.training.progress import Progress, before_and_after, describe, duration, nothing_learned
from pipeline.training.run_logger import RunLogger


class FakeAlgorithm:
    """Held-out EM is `em_of(iteration)` of the questions; `on_train(algorithm)` runs inside each train()."""

    def __init__(
        self, em_of=lambda iteration: min(iteration, 10) / 10, interval=2, on_train=None, questions=10
    ):
        self.iteration = 0
        self.records, self.callbacks = [], []
        self.em_of, self.interval, self.on_train, self.questions = em_of, interval, on_train, questions
        self.calls = []

    def train(self):
        if self.on_train:
            self.on_train(self)
        self.iteration += 1
        self.calls.append(f"train {self.iteration}")
        self.records = [self._record("train")]
        result = {"training_iteration": self.iteration, "igpo": {"em": 0.5, "f1": 0.6, "gain_mean": 0.01}}
        if self.interval and self.iteration % self.interval == 0:
            self.records.append(self._record("heldout"))
            result["evaluation"] = self._scores()
        self.on_trained(result)
        for callback in self.callbacks:
            callback.on_train_result(algorithm=self, result=result)
        return result

    def evaluate(self):
        self.calls.append(f"evaluate {self.iteration}")
        self.records.append(self._record("heldout"))
        scores = self._scores()
        self.on_evaluated()
        for callback in self.callbacks:
            callback.on_evaluate_end(algorithm=self, evaluation_metrics=scores)
        return scores

    def on_trained(self, result):
        pass

    def on_evaluated(self):
        pass

    def fail(self):
        """As `IGPO` does where `train()` or `evaluate()` raises."""
        for callback in self.callbacks:
            callback.on_failure(algorithm=self)
        raise RuntimeError("7 of 10 tool calls failed")

    def save_to_path(self, path):
        self.calls.append(f"save {self.iteration}")
        os.makedirs(path, exist_ok=True)
        with open(os.path.join(path, "state.json"), "w") as file:
            json.dump({"iteration": self.iteration}, file)
        return path

    def restore_from_path(self, path):
        with open(os.path.join(path, "state.json")) as file:
            self.iteration = json.load(file)["iteration"]

    def stop(self):
        self.calls.append("stop")

    def _scores(self):
        em = self.em_of(self.iteration)
        return {"em_squad": em, "f1_squad": em, "questions": float(self.questions), "em_squad_hops_1": em}

    def _record(self, split):
        right = round(self.em_of(self.iteration) * self.questions)
        rollouts = [
            Rollout(
                id=f"{split}-{self.iteration}-{n}",
                group_id=f"{split}-{self.iteration}-{n}",
                question=Question(id=f"q{n}", text="?", golds=["a"], hops=1 + n % 2),
                split=split,
                termination=Termination.ANSWERED,
                metrics={name: float(n < right) for name in ("f1_paper", "em_paper", "f1_squad", "em_squad")},
            )
            for n in range(self.questions)
        ]
        return IterationRecord(
            iteration=self.iteration, split=split, weights_version=self.iteration, rollouts=rollouts
        )


class FakeTracker:
    def __init__(self):
        self.logged, self.committed = [], []

    def log_iteration(self, iteration, result):
        self.logged.append((iteration, sorted(result.keys() & {"igpo", "evaluation"})))

    def log_rollouts(self, record):
        pass

    def commit(self, iteration):
        self.committed.append(iteration)


class Log:
    def __init__(self):
        self.rows, self.flushed = [], 0

    def write(self, record, metrics=None):
        self.rows.append((record.iteration, record.split))

    def flush(self):
        self.flushed = len(self.rows)


@pytest.fixture
def setting(tmp_path):
    run = RunDirectory.create(tmp_path, "demo", {"demo": {"config": {}}})
    output = io.StringIO()

    def loop(algorithm, **changes):
        run.begin_attempt(None)
        values = {
            "run_logger": RunLogger(Log(), FakeTracker(), run.path), "stop": {"training_iteration": 6},
            "progress": Progress(Console(file=output, width=120), 6), "checkpoint": CheckpointSettings(),
        }  # fmt: skip
        loop = TrainingLoop(algorithm=algorithm, run=run, **{**values, **changes})
        algorithm.callbacks.append(loop.run_logger)
        return loop

    return run, loop, output


def test_a_run_from_start_to_end(setting):
    run, make, output = setting
    algorithm = FakeAlgorithm(em_of=lambda i: {0: 0.1, 2: 0.5, 4: 0.9, 6: 0.7}.get(i, 0.0))
    loop = make(algorithm)
    ending = loop.run_to_end()
    assert (
        ending.how == "finished" and ending.iteration == 6 and "training_iteration reached 6" in ending.reason
    )
    assert algorithm.calls[:3] == ["evaluate 0", "train 1", "save 1"]
    assert [call for call in algorithm.calls if call.startswith("save")] == [f"save {i}" for i in range(1, 7)]
    assert algorithm.calls.count("evaluate 6") == 0, "the algorithm's own evaluation at 6 is the final one"
    assert loop.run_logger.log.rows[:4] == [(0, "heldout"), (1, "train"), (2, "train"), (2, "heldout")]
    assert loop.run_logger.tracker.committed == [0, 1, 2, 3, 4, 5, 6]
    assert (run.checkpoints / "best").resolve().name == "iteration_000004"
    assert (run.checkpoints / "last").resolve().name == "iteration_000006"
    assert load_scores(run.path / "heldout_before.json")[0] == 0
    assert np.mean([score.em for score in ending.before.values()]) == pytest.approx(0.1)
    assert np.mean([score.em for score in ending.after.values()]) == pytest.approx(0.7)
    text = output.getvalue()
    assert "iteration 3/6 · EM 0.500 · F1 0.600 · gain +0.010 · ETA" in text and "best so far" in text


def test_a_sign_of_a_collapse_is_told_at_its_iteration_and_counted(setting):
    _, make, output = setting
    algorithm, counted = FakeAlgorithm(), []
    algorithm.on_trained = lambda result: result["igpo"].update(
        answered_share=0.2 if algorithm.iteration > 6 else 1.0, turns_mean=2.0
    )
    loop = make(algorithm, stop={"training_iteration": 9})
    loop.run_logger.tracker.log_iteration = lambda iteration, result: counted.append(result.get("igpo"))
    loop.run_to_end()
    assert (
        "iteration 8, truncated: share of rollouts without an answer, most of them out of turns or tokens "
        "0.53 (before: 0.0)" in output.getvalue().replace("\n", " ")
    )
    assert [metrics["collapse_signs"] for metrics in counted if metrics] == [0.0] * 7 + [1.0, 0.0]


@pytest.mark.parametrize(
    ("saved", "trained", "told"), [(3.5, 4.0, True), (0.8, 0.4, False), (3.5, 60.0, False), (3.5, 17.5, True)]
)
def test_who_saves_slowly_learns_once_how_to_save_less_often(setting, monkeypatch, saved, trained, told):
    _, make, output = setting
    algorithm = FakeAlgorithm()
    algorithm.on_trained = lambda result: result["igpo"].update(seconds_total=trained)
    loop, clock = make(algorithm), [0.0]
    save = loop._save

    def slowly(*, best):
        save(best=best)
        clock[0] += saved

    monkeypatch.setattr(loop, "_save", slowly)
    monkeypatch.setattr("pipeline.training.loop.time.perf_counter", lambda: clock[0])
    loop.run_to_end()
    said = " ".join(output.getvalue().split())
    sentence = f"the checkpoint took {saved:.1f} s beside {trained:.1f} s of training: with"
    assert said.count(sentence) == int(told)


def test_the_best_checkpoint_says_what_chose_it(setting):
    run, make, _ = setting
    make(FakeAlgorithm(em_of=lambda i: {0: 0.1, 2: 0.5, 4: 0.9, 6: 0.7}.get(i, 0.0))).run_to_end()
    compared = run.metadata["compared_iterations"]
    chosen = read_note(run.checkpoints / "best")["selection"]
    assert compared == [2, 4, 6] and chosen["compared_iterations"] == [2, 4]
    assert chosen["metric"] == "em_squad" and len(chosen["questions"]) > 0
    assert "selection" not in read_note(run.checkpoints / "last")


def test_the_best_of_a_dead_attempt_beyond_the_checkpoint_is_no_score_to_beat(setting):
    """`last` was removed, as the message of a damaged one says, and `best` was left."""
    run, make, output = setting
    make(FakeAlgorithm(em_of=lambda i: 0.9)).run_to_end()
    (run.checkpoints / "last").unlink()
    make(FakeAlgorithm(em_of=lambda i: 0.2)).run_to_end()
    assert read_note(run.checkpoints / "best")["best_score"] == pytest.approx(0.2)


def test_a_checkpoint_that_is_saved_again_keeps_what_was_noted_of_it(setting):
    """Ctrl-C during the iteration whose held-out scores are the best: it is saved as `best`, then as last."""
    run, make, _ = setting

    def interrupt(algorithm):
        if algorithm.iteration == 1:
            os.kill(os.getpid(), signal.SIGINT)

    make(FakeAlgorithm(on_train=interrupt)).run_to_end()
    note = read_note(run.checkpoints / "best")
    assert note["iteration"] == 2 and note["selection"]["compared_iterations"] == [2]
    assert "state.json" in note["files"]
    (run.checkpoints / "last" / "state.json").unlink()
    with pytest.raises(InputError, match="state.json is missing"):
        Checkpoints(run.checkpoints).check_last()


def test_the_log_is_on_disk_before_a_checkpoint_counts(setting, monkeypatch):
    run, make, _ = setting
    log, linked = Log(), []
    link = Checkpoints._link

    def watched(self, name, target):
        assert log.flushed == len(log.rows) > 0
        linked.append(target.name)
        link(self, name, target)

    monkeypatch.setattr(Checkpoints, "_link", watched)
    make(FakeAlgorithm(), run_logger=RunLogger(log, FakeTracker(), run.path)).run_to_end()
    assert linked[-1] == "iteration_000006"


def test_final_evaluation_where_the_interval_misses_the_end(setting):
    run, make, _ = setting
    algorithm = FakeAlgorithm(interval=4)
    ending = make(algorithm).run_to_end()
    assert algorithm.calls[-2:] == ["evaluate 6", "save 6"] and ending.after["q5"].em == 1.0
    assert (run.checkpoints / "best").resolve().name == "iteration_000006"


@pytest.mark.parametrize(
    "frequency, at_end, saved",
    [(0, True, [6]), (0, False, []), (4, True, [4, 6]), (4, False, [4]), (1, True, [1, 2, 3, 4, 5, 6])],
)  # fmt: skip
def test_checkpoint_frequency(setting, frequency, at_end, saved):
    _, make, _ = setting
    algorithm = FakeAlgorithm(interval=None)
    checkpoint = CheckpointSettings(
        checkpoint_frequency=frequency, checkpoint_at_end=at_end, num_to_keep=None
    )
    make(algorithm, checkpoint=checkpoint, evaluate=False).run_to_end()
    assert [call for call in algorithm.calls if call.startswith("save")] == [f"save {i}" for i in saved]
    assert not [call for call in algorithm.calls if call.startswith("evaluate")]


def test_stop_by_heldout_score_and_by_time(setting):
    _, make, _ = setting
    ending = make(FakeAlgorithm(), stop={"training_iteration": 50, "evaluation/em_squad": 0.4}).run_to_end()
    assert ending.iteration == 4 and "evaluation/em_squad reached 0.4" in ending.reason
    ending = make(FakeAlgorithm(), stop={}, time_budget_s=1e-9).run_to_end()
    assert ending.iteration == 0 and "time budget" in ending.reason


def test_ctrl_c_once_finishes_the_iteration_and_saves(setting):
    run, make, output = setting

    def interrupt(algorithm):
        if algorithm.iteration == 2:
            os.kill(os.getpid(), signal.SIGINT)

    handler = signal.getsignal(signal.SIGINT)
    ending = make(
        FakeAlgorithm(on_train=interrupt), checkpoint=CheckpointSettings(checkpoint_frequency=0)
    ).run_to_end()
    assert (ending.how, ending.reason, ending.iteration) == ("interrupted", "Ctrl-C", 3)
    assert (run.checkpoints / "last").resolve().name == "iteration_000003"
    assert "Ctrl-C: finishing this iteration" in output.getvalue()
    assert signal.getsignal(signal.SIGINT) is handler


def test_ctrl_c_twice_stops_now(setting):
    run, make, _ = setting

    def interrupt(algorithm):
        if algorithm.iteration == 2:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        make(FakeAlgorithm(on_train=interrupt)).run_to_end()
    assert (run.checkpoints / "last").resolve().name == "iteration_000002"


class Crash(Exception):
    pass


def visible(rows, resumed_from):
    """(iteration, split) of the rows that no later attempt superseded."""
    return [
        (iteration, split)
        for attempt, iteration, split in rows
        if not any(later > attempt and start < iteration for later, start in resumed_from.items())
    ]


@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_whatever_dies_when_the_visible_log_has_no_gap_and_no_repeat(data, tmp_path_factory):
    """Kill the run after any number of effects, several times; what the log shows afterwards is one clean
    run.
    """
    run = RunDirectory.create(tmp_path_factory.mktemp("runs"), "demo", {"demo": {"config": {}}})
    frequency = data.draw(st.integers(1, 3), label="frequency")
    rows, resumed_from = [], {}

    for attempt in range(1, 6):
        budget = data.draw(st.integers(1, 25), label="effects") if attempt < 5 else 10**6
        algorithm = FakeAlgorithm(interval=2)
        last = run.checkpoints / "last"
        if last.exists():
            algorithm.restore_from_path(last)
        before = load_scores(run.path / "heldout_before.json")
        resumed_from[attempt] = algorithm.iteration if algorithm.iteration or before else -1
        spent = 0

        def effect(limit=budget):
            nonlocal spent
            spent += 1
            if spent > limit:
                raise Crash

        class Disk(Log):
            def write(self, record, metrics=None, attempt=attempt, effect=effect):
                effect()
                rows.append((attempt, record.iteration, record.split))
                effect()

        class Dying(FakeTracker):
            def log_iteration(self, iteration, result, effect=effect):
                effect()

            def commit(self, iteration, effect=effect):
                effect()

        save = algorithm.save_to_path

        def dying_save(path, save=save, effect=effect):
            effect()
            save(path)
            effect()

        algorithm.save_to_path = dying_save
        run.begin_attempt(resumed_from[attempt])
        loop = TrainingLoop(
            algorithm=algorithm,
            run=run,
            run_logger=RunLogger(Disk(), Dying(), run.path, visible(rows, resumed_from)),
            progress=Progress(Console(file=io.StringIO()), 5),
            stop={"training_iteration": 5},
            checkpoint=CheckpointSettings(checkpoint_frequency=frequency),
        )
        algorithm.callbacks.append(loop.run_logger)
        try:
            loop.run_to_end()
        except Crash:
            continue
        break

    wanted = [
        (0, "heldout"),
        *((i, "train") for i in range(1, 6)),
        (2, "heldout"),
        (4, "heldout"),
        (5, "heldout"),
    ]
    assert sorted(visible(rows, resumed_from)) == sorted(wanted)


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_the_rollouts_that_stopped_a_run_are_on_disk_before_it_ends(setting, split, caplog):
    """Once each, whether training or an evaluation raised, and an iteration that was logged before is not
    logged again.
    """
    _, make, _ = setting
    algorithm = FakeAlgorithm(interval=3)

    def on_trained(result):
        if algorithm.iteration == 3:
            algorithm.records = [r for r in algorithm.records if split == "heldout" or r.split == "train"]
            algorithm.fail()

    algorithm.on_trained = on_trained
    loop = make(algorithm)
    with pytest.raises(RuntimeError, match="tool calls failed"):
        loop.run_to_end()
    done = [(0, "heldout"), (1, "train"), (2, "train"), (3, "train")]
    log, tracker = loop.run_logger.log, loop.run_logger.tracker
    assert log.rows == (done if split == "train" else [*done, (3, "heldout")])
    assert log.flushed == len(log.rows) and tracker.committed == [0, 1, 2]
    assert "rollouts of iteration 3 (train): igpo sql " in caplog.text


def test_the_rollouts_of_a_last_evaluation_that_stopped_the_run_are_on_disk(setting):
    _, make, _ = setting
    algorithm = FakeAlgorithm(interval=None)

    def on_evaluated():
        if algorithm.iteration:
            algorithm.fail()

    algorithm.on_evaluated = on_evaluated
    loop = make(algorithm, stop={"training_iteration": 1})
    with pytest.raises(RuntimeError, match="tool calls failed"):
        loop.run_to_end()
    log = loop.run_logger.log
    assert log.rows == [(0, "heldout"), (1, "train"), (1, "heldout")] and log.flushed == 3


def test_criteria():
    result = {"training_iteration": 3, "igpo": {"em": 0.5}}
    assert reached({"igpo/em": 0.5}, result) == "igpo/em reached 0.5 (stop at 0.5)"
    assert reached({"igpo/em": 0.51, "evaluation/em_squad": 0.0, "training_iteration": 4}, result) is None


def test_paired_difference_by_hand():
    before = {f"q{n}": Score(0.0, 0.0) for n in range(4)}
    after = {f"q{n}": Score(1.0, 0.5) for n in range(1, 5)}
    difference = paired_difference(before, after)
    assert (difference.mean, difference.low, difference.high, difference.questions) == (1.0, 1.0, 1.0, 3)
    assert paired_difference(before, after, metric="f1").mean == 0.5
    assert paired_difference({}, after) is None


def test_the_interval_is_the_normal_one_for_many_questions():
    rng = np.random.default_rng(1)
    before = {str(n): Score(float(rng.random() < 0.3), 0.0) for n in range(2000)}
    after = {str(n): Score(float(rng.random() < 0.5), 0.0) for n in range(2000)}
    differences = np.array([after[q].em - before[q].em for q in before])
    half = 1.96 * differences.std() / np.sqrt(2000)
    found = paired_difference(before, after)
    assert found.mean == pytest.approx(differences.mean())
    assert found.low == pytest.approx(differences.mean() - half, abs=0.003)
    assert found.high == pytest.approx(differences.mean() + half, abs=0.003)


def test_the_table_and_the_words():
    before = {f"q{n}": Score(0.0, 0.25, 1 + n % 2) for n in range(4)}
    after = {f"q{n}": Score(float(n % 2), 0.5, 1 + n % 2) for n in range(4)}
    console = Console(file=io.StringIO(), width=100)
    console.print(before_and_after(before, after))
    text = console.file.getvalue()
    assert "EM, 2-hop" in text and "+1.000" in text and "[+1.000, +1.000]" in text and "+0.250" in text
    assert [duration(seconds) for seconds in (4.4, 185, 3723)] == ["4s", "3:05", "1:02:03"]
    metrics = {
        "em": 0.25,
        "f1": 0.5,
        "gain_mean": -0.01,
        "collapse_share_outcome": 0.62,
        "collapse_share": 0.08,
        "tokens_per_second": 1234.5,
    }
    assert describe(metrics) == "EM 0.250 · F1 0.500 · gain -0.010 · collapsed 62% → 8% · 1,234 tok/s"


def test_the_live_line_on_a_terminal():
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with Progress(console, 3) as progress:
        progress.starting(0)
        progress.iteration(1, {"em": 0.5})
        progress.message("a line that stays")
    assert "a line that stays" in console.file.getvalue()


def test_an_evaluation_after_the_end_is_tracked(setting):
    """Interrupted at 2 and resumed where 2 is the end: the held-out scores of 2 are all that is
    left to make.
    """
    _, make, _ = setting
    algorithm = FakeAlgorithm(interval=100)
    algorithm.iteration = 2
    loop = make(algorithm, stop={"training_iteration": 2})
    loop._before = (0, {})
    ending = loop.run_to_end()
    assert algorithm.calls[0] == "evaluate 2" and ending.how == "finished"
    tracker = loop.run_logger.tracker
    assert tracker.logged == [(2, ["evaluation"])] and tracker.committed == [2]


def scores(*em):
    return {f"q{number}": Score(value, value) for number, value in enumerate(em)}


def test_a_run_that_learned_nothing_points_to_doctor_and_warm_start():
    nothing = nothing_learned(scores(*[0.0] * 20), scores(*[0.0] * 20), "./model")
    assert "no held-out question was answered right" in nothing
    assert "`igpo doctor`" in nothing and "`igpo warm-start`" in nothing and "./model" in nothing
    same = nothing_learned(scores(*[0.0, 1.0] * 10), scores(*[0.0, 1.0] * 10), "./model")
    assert "did not rise beyond chance" in same
    assert nothing_learned(scores(*[0.0] * 20), scores(*[1.0] * 20), "./model") is None


def test_no_score_of_0_is_called_the_best_so_far():
    out = io.StringIO()
    progress = Progress(Console(file=out, width=200), 3)
    for em in (0.0, 0.1):
        progress.evaluation("after iteration 1", {"em_squad": em, "f1_squad": em}, best=True)
    first, second = out.getvalue().splitlines()
    assert "best so far" not in first and "best so far" in second
