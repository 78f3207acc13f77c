"""Rollouts of another framework become a run."""

import gc
import json
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

from algorithms.credit import advantages
from envs.errors import InputError
from pipeline.analysis import open_run
from pipeline.analysis.report.overview import glance
from pipeline.analysis.report.reported_runs import reported_runs
from pipeline.cli.igpo import app
from pipeline.importing import belief
from pipeline.importing.belief import score
from pipeline.viewer.run_list import runs_in
from tests.support.chat_tokenizers import chat_tokenizer

GOLDS = ["Malmö", "Malmo, Sweden"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tokenizer = chat_tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=512, initializer_range=0.2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def conversation(*turns, **others):
    messages = [{"role": "user", "content": "Where was its author born?"}]
    for decision, *observation in turns:
        messages.append({"role": "assistant", "content": decision})
        messages += [{"role": "user", "content": text} for text in observation]
    return {"messages": messages, "golden_answers": GOLDS, "step": 1, **others}


RECORDS = [
    conversation(
        ("<search>a</search>", "By Ann."), ("<search>Ann</search>", "Of Malmö."), ("<answer>Malmö</answer>",)
    ),
    conversation(("<search>a</search>", "By Ann."), ("<answer>Oslo</answer>",)),
    conversation(("<search>trees</search>", "Plants.")),
    conversation(("<answer>Malmö</answer>",), step=7, reward=0.25),
]


def run_igpo(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def imported(tmp_path, model, *options, records=RECORDS):
    file = tmp_path / "rollouts.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return run_igpo(
        "import",
        file,
        "--model",
        model,
        "--engine",
        "transformers",
        "--runs-dir",
        tmp_path / "runs",
        *options,
    )


def plain_score(model, messages, before, gold, after):
    """Mean log-probability of the gold tokens, by one plain pass over everything."""
    tokenizer, policy = AutoTokenizer.from_pretrained(model), AutoModelForCausalLM.from_pretrained(model)
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    head, body, tail = (
        tokenizer(part, add_special_tokens=False)["input_ids"] for part in (text + before, gold, after)
    )
    ids = torch.tensor([[*head, *body, *tail]])
    with torch.no_grad():
        logp = policy(ids).logits.float().log_softmax(-1)
    places = range(len(head), len(head) + len(body))
    return float(np.mean([logp[0, k - 1, ids[0, k]].item() for k in places]))


def test_belief_gain_and_advantage_of_each_turn(tmp_path, model):
    """Belief by hand from the scores of a plain forward; credit as from the library's own function."""
    result = imported(tmp_path, model)
    assert result.exit_code == 0, result.output
    assert "4 rollouts and 2 prompts" in result.output
    assert "answer\\n</think>\\n<answer>\\n{answer}\\n</answer>" in result.output
    assert "the only rollout of its prompt, so that no outcome is there to compare: 1" in result.output
    before, after = "<think>\nNow there's enough information to answer\n</think>\n<answer>\n", "\n</answer>"
    with open_run("imported", runs_dir=tmp_path / "runs") as run:
        rows = run.sql(
            "SELECT scores, gain, advantage FROM turns WHERE iteration = 1 ORDER BY episode_id, turn_index"
        ).fetchall()
        ((initial,),) = run.sql("SELECT DISTINCT initial_scores FROM episodes WHERE iteration = 1").fetchall()
        outcomes = run.sql("SELECT outcome FROM episodes ORDER BY iteration, episode_id").fetchall()
    messages = RECORDS[0]["messages"]
    scores = [
        [plain_score(model, messages[:end], before, gold, after) for gold in GOLDS] for end in (1, 3, 5)
    ]
    np.testing.assert_allclose([initial, rows[0][0], rows[1][0]], scores, atol=1e-4)
    best = np.max(scores, axis=1)
    assert [rows[0][1], rows[1][1]] == pytest.approx(np.diff(best), abs=2e-4)
    gains = [[rows[0][1], rows[1][1]], [rows[3][1]], []]
    expected = np.concatenate(advantages(outcomes=[1.0, 0.0, 0.0], gains=gains, preset="igpo"))
    assert [row[2] for row in rows] == pytest.approx(expected)
    assert [outcome for (outcome,) in outcomes] == [1.0, 0.0, 0.0, 0.25]


def test_turns_belong_to_the_agents_that_messages_name(tmp_path, model):
    """Indices of turns count by agent; without a name a turn is the assistant's."""

    def named(*names):
        record = conversation(
            ("<search>a</search>", "By Ann."), ("It is by Ann.",), ("<answer>Malmö</answer>",)
        )
        turns = [message for message in record["messages"] if message["role"] == "assistant"]
        for turn, name in zip(turns, names, strict=False):
            turn["name"] = name
        return record

    records = [named("searcher", "reader", "searcher"), named("searcher", "reader")]
    result = imported(tmp_path, model, records=records)
    assert result.exit_code == 0, result.output
    with open_run("imported", runs_dir=tmp_path / "runs") as run:
        rows = run.sql("SELECT agent, agent_turn_index FROM turns ORDER BY episode_id, turn_index").fetchall()
        ((roles,),) = run.sql("SELECT config ->> '$.config.env_config.roles[*].name' FROM runs").fetchall()
    both = [("searcher", 0), ("reader", 0)]
    assert rows == [*both, ("searcher", 1), *both, ("assistant", 0)]
    assert roles == ["searcher", "reader", "assistant"]


def test_the_run_is_read_like_any_other(tmp_path, monkeypatch, model):
    monkeypatch.chdir(tmp_path)
    imported(tmp_path, model, "--preset", "igpo_returns", "--name", "theirs")
    runs = ("--runs-dir", tmp_path / "runs")
    again = run_igpo("recredit", "theirs", *runs)
    assert again.exit_code == 0 and "largest difference of a turn │ 0" in " ".join(again.output.split())
    for command in (
        ("recredit", "theirs", "--preset", "grpo"),
        ("show", "theirs", "--best"),
        ("report", "theirs"),
        ("runs",),
        ("sql", "theirs", "--named", "gain_by_turn"),
    ):
        result = run_igpo(*command, *runs)
        assert result.exit_code == 0, (command, result.output)
    refused = run_igpo("counterfactual", "theirs", *runs)
    assert refused.exit_code == 2 and "what was imported has none" in " ".join(refused.output.split())
    refused = run_igpo("verify", "theirs", *runs)
    assert refused.exit_code == 2 and "its rollouts were imported" in " ".join(refused.output.split())


def test_what_was_not_measured_is_left_out(tmp_path, model):
    imported(tmp_path, model)
    with open_run("imported", runs_dir=tmp_path / "runs") as run:
        for table, columns in (
            ("episodes", ["seconds"]),
            ("turns", ["seconds_generate", "seconds_tool", "seconds_score"]),
            ("tool_calls", ["seconds"]),
        ):
            for column in columns:
                assert run.sql(f"SELECT count(*) > 0, count({column}) FROM {table}").fetchall() == [(True, 0)]
        parts = glance(run, reported_runs(run))
    assert "Seconds per iteration" not in [line.name for part in parts for line in part.measures]
    shown = run_igpo("show", "imported", "--best", "--runs-dir", tmp_path / "runs").output
    assert " s, " not in shown and "prompt to end" not in shown and " tokens" in shown


def test_a_last_turn_without_an_answer_says_why_it_has_no_gain(tmp_path, model):
    """As in training, whose last turn before the limit has none; an answer needs no reason."""
    ended = conversation(("<search>a</search>", "By Ann."), ("<search>Ann</search>", "Of Malmö."))
    imported(tmp_path, model, records=[ended, RECORDS[0]])
    runs = ("--runs-dir", tmp_path / "runs")
    with open_run("imported", runs_dir=tmp_path / "runs") as run:
        rows = run.sql("SELECT episode_id, gain IS NULL FROM turns ORDER BY ALL").fetchall()
    assert [is_null for _, is_null in rows] == [False, True, False, False, True]
    names = list(dict.fromkeys(name for name, _ in rows))
    assert run_igpo("show", "imported", names[0], *runs).output.count("no gain: last turn") == 1
    assert "no gain" not in run_igpo("show", "imported", names[1], *runs).output
    unscored = conversation(("<search>a</search>", "By Ann."), ("A",), golden_answers="x" * 200)
    imported(tmp_path, model, "--name", "unscored", records=[unscored])
    shown = run_igpo("show", "unscored", "--best", *runs).output
    assert shown.count("no gain: no gold answer is short enough to score") == 1


def test_each_call_is_shown_with_its_own_result(tmp_path, model):
    ask, answer = RECORDS[0]["messages"][0], RECORDS[0]["messages"][-1]
    calls = [
        {"id": name, "type": "function", "function": {"name": name, "arguments": {"query": f"for {name}"}}}
        for name in ("one", "two")
    ]
    results = [
        {"role": "tool", "tool_call_id": "two", "content": "Of Malmö."},
        {"role": "tool", "tool_call_id": "one", "content": ""},
        {"role": "user", "content": "Go on."},
    ]
    messages = [ask, {"role": "assistant", "content": "", "tool_calls": calls}, *results, answer]
    record = {"messages": messages, "golden_answers": GOLDS}
    result = imported(tmp_path, model, "--tool-calls", "text", records=[record])
    assert result.exit_code == 0, result.output
    shown = run_igpo("show", "imported", "--best", "--runs-dir", tmp_path / "runs").output
    lines = [line.strip() for line in shown.splitlines()]
    assert any(line.startswith("turn 0 assistant  2 calls ") for line in lines)
    place = lines.index("one: for one")
    assert lines[place : place + 5] == ["one: for one", "(empty)", "two: for two", "Of Malmö.", "Go on."]


def test_trace_is_credited_on_a_references_belief(tmp_path, model):
    """As in training: the log says whose belief it is, and recredit asks for an import that fits."""
    runs = ("--runs-dir", tmp_path / "runs")
    for preset, scorer, other, cure in (
        ("igpo", "current", "trace", "`igpo import ... --model REFERENCE --preset trace`"),
        ("trace", "reference", "igpo", "`igpo import ... --preset igpo`"),
    ):
        imported(tmp_path, model, "--preset", preset, "--name", preset)
        with open_run(preset, runs_dir=tmp_path / "runs") as run:
            assert run.sql("SELECT DISTINCT scorer FROM episodes").fetchall() == [(scorer,)]
        assert run_igpo("recredit", preset, *runs).exit_code == 0
        refused = run_igpo("recredit", preset, "--preset", other, *runs)
        said = " ".join(refused.output.split())
        assert refused.exit_code == 2 and f"import the rollouts again, with {cure}" in said
        assert "train with" not in said


def test_an_answer_is_scored_in_the_words_that_are_given(tmp_path, model):
    imported(tmp_path, model, "--answer-template", "It is {answer}.")
    with open_run("imported", runs_dir=tmp_path / "runs") as run:
        ((initial,),) = run.sql("SELECT DISTINCT initial_scores FROM episodes WHERE iteration = 1").fetchall()
    expected = [plain_score(model, RECORDS[0]["messages"][:1], "It is ", gold, ".") for gold in GOLDS]
    assert initial == pytest.approx(expected, abs=1e-4)


def test_settings_of_the_engine_are_passed_on(tmp_path, model, monkeypatch):
    seen = []

    def open_engine(folder, settings, **further):
        seen.append(settings)
        raise InputError("far enough")

    monkeypatch.setattr("pipeline.importing.run.open_engine", open_engine)
    changes = ("--set", "engine.max_num_seqs=3", "--set", "engine.gpu_memory_utilization=0.4")
    assert "far enough" in str(imported(tmp_path, model, *changes).output)
    assert (seen[0].kind, seen[0].max_num_seqs, seen[0].gpu_memory_utilization) == ("transformers", 3, 0.4)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("lr=3", "an import takes settings of its engine alone"),
        ("engine.kv_cach=3", "unknown key `engine.kv_cach`. Did you mean `kv_cache_gib`?"),
        ("engine.kv_cache_gib=-3", "`engine.kv_cache_gib`: Input should be greater than 0 (got -3)"),
    ],
)
def test_a_setting_that_an_import_does_not_have_is_refused(tmp_path, model, change, said):
    result = imported(tmp_path, model, "--set", change)
    assert result.exit_code == 2 and said in " ".join(result.output.split())


def test_one_text_gives_the_beliefs_of_its_messages(tmp_path, model):
    """A dump as verl's, with fields of other names, against the same rollout as messages."""
    tags = [f"<tool_response>\n{text}\n</tool_response>" for text in ("By Ann.", "Of Malmö.")]
    turns = [("<search>a</search>", tags[0]), ("<search>b</search>", tags[1]), ("<answer>Malmö</answer>",)]
    output = "".join(
        decision + "".join(f"\nuser\n{text}\nassistant\n" for text in seen) for decision, *seen in turns
    )
    dump = {"input": "user\nWhere was its author born?\nassistant\n", "output": output, "step": 1}
    dump |= {"label": {"right": GOLDS}, "exact": 0.25}
    fields = ("--field", "golden_answers=label.right", "--field", "reward=exact")
    for name, record, options in (("text", dump, fields), ("list", conversation(*turns, reward=0.25), ())):
        result = imported(tmp_path, model, "--name", name, *options, records=[record])
        assert result.exit_code == 0, result.output
    rows = []
    for name in ("text", "list"):
        with open_run(name, runs_dir=tmp_path / "runs") as run:
            rows.append(run.sql("SELECT decision_text, scores, outcome FROM turns JOIN episodes "
                                "USING (episode_id) ORDER BY turn_index").fetchall())  # fmt: skip
    assert rows[0] == rows[1] and len(rows[0]) == 3 and rows[0][1][1] is not None


@pytest.mark.slow
def test_vllm_scores_as_transformers_does(tmp_path):
    """The real engine on a pretrained model, by the real command line."""
    file = tmp_path / "rollouts.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    scores = {}
    for engine in ("vllm", "transformers"):
        options = (
            "--model",
            "smollm2",
            "--engine",
            engine,
            "--name",
            engine,
            "--runs-dir",
            tmp_path / "runs",
        )
        command = [sys.executable, "-m", "pipeline.cli.igpo", "import", file, *options]
        subprocess.run([str(word) for word in command], check=True, timeout=600)
        with open_run(engine, runs_dir=tmp_path / "runs") as run:
            rows = run.sql(
                "SELECT scores FROM turns WHERE scores IS NOT NULL ORDER BY episode_id, turn_index"
            )
            scores[engine] = [row[0] for row in rows.fetchall()]
    np.testing.assert_allclose(scores["vllm"], scores["transformers"], atol=1e-3)
    assert len(scores["vllm"]) == 3


def with_message(k, message):
    """The first record with another message in the place of its k-th."""
    messages = [message if place == k else m for place, m in enumerate(RECORDS[0]["messages"])]
    return RECORDS[0] | {"messages": messages}


CALL = {"type": "function", "function": {"name": "search", "arguments": {"query": "a"}}}


@pytest.fixture(scope="module")
def deaf(model, tmp_path_factory):
    """The model with a template of words alone: without a call in it, belief would be of another
    conversation.
    """
    folder = tmp_path_factory.mktemp("deaf") / "model"
    shutil.copytree(model, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = (
        "{% for m in messages if m.role != 'tool' %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("record", "lost"),
    [
        (with_message(1, {"role": "assistant", "content": "a", "tool_calls": [CALL]}), "calls of tools"),
        (with_message(2, {"role": "tool", "content": "By Ann."}), "a message of role tool"),
        (RECORDS[0] | {"tools": [{"name": "search"}]}, "the tools that it is given"),
    ],
)
def test_what_the_chat_template_leaves_out_is_told(tmp_path, deaf, record, lost):
    result = imported(tmp_path, deaf, records=[record])
    said = " ".join(result.output.split())
    assert result.exit_code == 2 and f"does not show {lost}: score with the model that wrote" in said
    assert said.endswith("or show it as text, with --tool-calls text")
    assert imported(tmp_path, deaf, "--tool-calls", "text", records=[record]).exit_code == 0
    result = imported(tmp_path, deaf, records=[RECORDS[0], record])
    said = " ".join(result.output.split())
    assert result.exit_code == 2 and said.endswith("(1 of 2 are bad: `--skip-bad` leaves them out)")


def test_a_template_that_refuses_messages_of_tools(tmp_path, deaf):
    strict = tmp_path / "strict"
    shutil.copytree(deaf, strict)
    tokenizer = AutoTokenizer.from_pretrained(strict)
    refusal = (
        "{% for m in messages if m.role == 'tool' %}{{ raise_exception('Roles must alternate') }}{% endfor %}"
    )
    tokenizer.chat_template = refusal + tokenizer.chat_template
    tokenizer.save_pretrained(strict)
    record = with_message(2, {"role": "tool", "content": "By Ann."})
    result = imported(tmp_path, strict, records=[record])
    said = " ".join(result.output.split())
    assert result.exit_code == 2 and "Roles must alternate" in said and "with --tool-calls text" in said
    assert imported(tmp_path, strict, "--tool-calls", "text", records=[record]).exit_code == 0


def test_calls_as_text_are_scored_as_if_they_had_been_written_so(tmp_path, deaf):
    """Two calls at once, their results, and the tools, against the same text in plain messages."""
    ask, answer = RECORDS[0]["messages"][0], RECORDS[0]["messages"][-1]
    with_calls = [
        ask,
        {"role": "assistant", "content": "I look.", "tool_calls": [CALL, CALL]},
        {"role": "tool", "content": "By Ann."},
        {"role": "tool", "content": ""},
        answer,
    ]
    tool = {"type": "function", "function": {"name": "search"}}
    call = '<tool_call>{"name": "search", "arguments": {"query": "a"}}</tool_call>'
    plain = [
        {"role": "system", "content": f"# Tools\n\n<tools>\n{json.dumps(tool)}\n</tools>"},
        ask,
        {"role": "assistant", "content": f"I look.\n{call}\n{call}"},
        {
            "role": "user",
            "content": "<tool_response>\nBy Ann.\n</tool_response>\n<tool_response>\n\n</tool_response>",
        },
    ]
    before, after = "<think>\nNow there's enough information to answer\n</think>\n<answer>\n", "\n</answer>"
    record = {"messages": with_calls, "golden_answers": GOLDS, "tools": [tool]}
    result = imported(tmp_path, deaf, "--tool-calls", "text", records=[record])
    assert result.exit_code == 0, result.output
    with open_run("imported", runs_dir=tmp_path / "runs") as run:
        ((scores,), _) = run.sql("SELECT scores FROM turns ORDER BY turn_index").fetchall()
        calls = run.sql("SELECT tool, result_text FROM tool_calls ORDER BY call_index").fetchall()
    expected = [plain_score(deaf, plain, before, gold, after) for gold in GOLDS]
    assert scores == pytest.approx(expected, abs=1e-4)
    assert calls == [("search", "By Ann."), ("search", "")]


def test_ctrl_c_leaves_the_steps_that_are_done(tmp_path, model, monkeypatch):
    scored = []

    def score_once(engine, queries, members, policy):
        if scored:
            raise KeyboardInterrupt
        scored.append(members)
        return score(engine, queries, members, policy)

    monkeypatch.setattr("pipeline.importing.run.score", score_once)
    assert "interrupted: the steps that were done are in" in imported(tmp_path, model).output
    with open_run("imported", runs_dir=tmp_path / "runs") as run:
        assert run.sql("SELECT iteration, rollouts FROM iterations").fetchall() == [(1, 3)]
        assert run.sql("SELECT status FROM runs").fetchall() == [("interrupted",)]


def test_only_the_contexts_that_are_being_scored_are_in_memory(tmp_path, model, monkeypatch):
    alive = []

    class CountingScorer(belief.PrefixScorer):
        def score(self, queries):
            gc.collect()
            alive.append(sum(isinstance(one, belief.BeliefQuery) for one in gc.get_objects()))
            return super().score(queries)

    monkeypatch.setattr(belief, "PrefixScorer", CountingScorer)
    monkeypatch.setattr(belief, "AT_ONCE", 2)
    assert imported(tmp_path, model).exit_code == 0
    assert max(alive) == 2  # of four rollouts


def test_the_commands_at_the_end_name_a_path_with_blanks(tmp_path, model):
    (tmp_path / "my rollouts").mkdir()
    said = imported(tmp_path / "my rollouts", model).output
    commands = [shlex.split(line) for line in said.splitlines() if line.startswith("  igpo ")]
    (run,) = runs_in(tmp_path / "my rollouts" / "runs")
    folder = str(tmp_path / "my rollouts" / "runs" / "imported" / run.run_id)
    assert [words[1:3] for words in commands] == [[name, folder] for name in ("report", "show", "recredit")]


def test_a_running_import_is_listed_as_running(tmp_path, model, monkeypatch):
    seen = []

    def look_and_score(*given):
        seen.append([run.status for run in runs_in(tmp_path / "runs")])
        return score(*given)

    monkeypatch.setattr("pipeline.importing.run.score", look_and_score)
    assert imported(tmp_path, model).exit_code == 0
    assert seen == [["running"], ["running"]]
    assert [run.status for run in runs_in(tmp_path / "runs")] == ["finished"]


LONG = conversation(("<search>a</search>", "x" * 600), ("y",))


@pytest.mark.parametrize(
    ("options", "records", "message"),
    [
        (("--answer-template", "It is so."), RECORDS, "it must contain {answer} once"),
        ((), [LONG], "1 of 1 rollouts are too long for the model, which has room for 512"),
        (("--preset", "igpoo"), RECORDS, "did you mean 'igpo'"),
        (("--name", "../away"), RECORDS, "use letters, digits"),
    ],
)
def test_what_cannot_be_imported_is_told(tmp_path, model, options, records, message):
    result = imported(tmp_path, model, *options, records=records)
    assert message in " ".join(result.output.split())
    assert result.exit_code == 2


def test_bad_rollouts_can_be_left_out(tmp_path, model):
    """One that cannot be read, and one that is too long."""
    unreadable = RECORDS[0] | {"reward": "high"}
    result = imported(tmp_path, model, "--skip-bad", records=[*RECORDS, unreadable, LONG])
    assert result.exit_code == 0, result.output
    said = " ".join(result.output.split())
    assert "4 rollouts and 2 prompts" in said and "left out, with the reason: 2" in said
    assert "rollouts.jsonl:5: `reward` must be a finite number" in said
    assert "rollouts.jsonl:6: it takes" in said and "the model has room for 512" in said
    assert "5 rollouts read; gold answers: `golden_answers` (5)" in said
    nothing = imported(tmp_path, model, "--skip-bad", records=[LONG])
    assert nothing.exit_code == 2 and "no rollout is left" in " ".join(nothing.output.split())


def test_a_gold_answer_that_is_too_long_bears_no_gain(tmp_path, model):
    unscored = conversation(("<answer>A</answer>",), golden_answers="x" * 200)
    result = imported(tmp_path, model, records=[unscored])
    assert result.exit_code == 0 and "short enough to score: 1" in result.output


def test_the_alias_rule_is_the_presets(tmp_path, model):
    """`igpo_official` scores the first alias alone."""
    imported(tmp_path, model, "--preset", "igpo_official")
    with open_run("imported", runs_dir=tmp_path / "runs") as run:
        assert run.sql("SELECT DISTINCT scored_golds FROM episodes").fetchall() == [(GOLDS[:1],)]


def test_what_only_the_last_turn_holds_is_in_no_context(tmp_path, model):
    """Its thought is not shown by the template, and nothing is scored after it."""
    thought = {"role": "assistant", "content": "Malmö", "reasoning_content": "of Malmö"}
    result = imported(tmp_path, model, records=[with_message(5, thought)])
    assert result.exit_code == 0 and "earlier thoughts" not in result.output
