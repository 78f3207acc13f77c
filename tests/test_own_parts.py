"""The parts of one's own that docs/your_own_parts.md shows: short files that work as they stand."""

import hashlib
import importlib
import inspect
import re
import statistics
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import yaml
from chat_tokenizers import QWEN2, chat_tokenizer
from scripted_engine import ids, tiny_task

from algorithms.credit import advantages, sample_group
from algorithms.credit.group import Group
from algorithms.credit.own_estimator import find_preset
from algorithms.igpo.config import IGPOConfig
from envs.data.corpus import Corpus, Document
from envs.errors import InputError
from envs.retrieval.build import build_retriever
from envs.retrieval.config import RetrieverSettings
from envs.search.config import SearchEnvSettings
from envs.search.episode import SearchEpisode
from envs.search.task import SearchTask
from envs.search.trajectory import Termination
from envs.user_code import code_hash, import_function
from pipeline.experiment.keys import shortened

PAGE = (Path(__file__).parents[1] / "docs" / "your_own_parts.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
FILES = {
    text.splitlines()[0].removeprefix("# "): text
    for kind, text in BLOCKS
    if kind == "python" and text.startswith("# my_")
}
LIMITS = {"max_turn_tokens": 500, "max_observation_tokens": 500, "max_context_tokens": 9000}
WORLD = {"train_questions": 20, "heldout_questions": 10}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The page's files in the current folder, which is searched without being on PYTHONPATH."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    find_preset.cache_clear()
    yield tmp_path
    find_preset.cache_clear()
    for name in [name for name in sys.modules if name.startswith(("my_", "own_"))]:
        del sys.modules[name]
    importlib.invalidate_caches()


def settings_of(module):
    """The YAML block of the page that names the module."""
    text = next(text for kind, text in BLOCKS if kind == "yaml" and f"{module}:" in text)
    return yaml.safe_load(text)


def own(folder, name, text):
    """`text` as the module `name`."""
    (folder / f"{name}.py").write_text(text)
    importlib.invalidate_caches()


def test_the_page_shows_each_part_in_at_most_30_lines():
    parts = ("credit", "preset", "retriever", "protocol", "outcome", "tool", "roles")
    assert set(FILES) == {f"my_{part}.py" for part in parts}
    assert {name: text.count("\n") for name, text in FILES.items() if text.count("\n") > 30} == {}


def test_the_page_lists_every_column_of_a_group():
    table = PAGE[PAGE.index("| column |") : PAGE.index("- Gains are made")]
    assert set(re.findall(r"`(\w+)`", re.sub(r"\|[^|]*\|$", "", table, flags=re.MULTILINE))) == {
        field.name for field in fields(Group)
    }


def test_the_estimator_of_the_page():
    """Two rollouts of the sample find evidence; none asks twice. z of 1, 0, -1: +-1.2247 and 0."""
    preset = find_preset("my_credit:evidence_first")
    group = sample_group()
    z = 1.0 / (np.sqrt(2 / 3) + 1e-6)
    expected = [z + 0.5, z + 0.5, z, 0.5, 0.0, -z]
    np.testing.assert_allclose(preset.estimator(group), expected, rtol=1e-12)


def test_the_preset_of_the_page_brings_its_settings():
    config = IGPOConfig().training(preset="my_preset:TWICE").rl_module(model_path="tiny")
    config.validate()
    assert config.credit_config().gain_basis == "prob"
    assert config.loss_settings().clip_high == 0.28
    assert config.preset_settings.name == "my_preset:TWICE" and config.preset_settings.estimator


def test_a_part_whose_code_changes_is_another_one(folder):
    """Its file, or a file of one's own that it imports; not a package that is installed."""
    (folder / "parts" / "deep").mkdir(parents=True)
    files = {
        "own_part.py": "import numpy, own_helper, envs.errors\ndef f(): from parts.deep import rules\n",
        "own_helper.py": "import own_part\n",
        "own_other.py": "ONE = 1\n",
        "parts/__init__.py": "",
        "parts/deep/__init__.py": "",
        "parts/deep/rules.py": "from . import more\nfrom ..shared import TWO\n",
        "parts/deep/more.py": "broken = \n",
        "parts/shared.py": "TWO = 2\n",
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    import_function("own_part:f", "outcome")
    before = code_hash("own_part:f")
    names = ["own_helper", "parts", "parts.deep", "parts.deep.more", "parts.deep.rules", "parts.shared"]
    read = {name: name.replace(".", "/") + ".py" for name in names}
    sources = "".join(f"\0{name}\0{files[file]}" for name, file in read.items() if files.get(file))
    assert before == hashlib.sha256((files["own_part.py"] + sources).encode()).hexdigest()[:12]
    (folder / "own_other.py").write_text("ONE = 2\n")
    assert code_hash("own_part:f") == before, "which nothing imports"
    for name in (
        "own_part.py",
        "own_helper.py",
        "parts/__init__.py",
        "parts/deep/more.py",
        "parts/shared.py",
    ):
        (folder / name).write_text(files[name] + "# changed\n")
        assert code_hash("own_part:f") != before, name
        (folder / name).write_text(files[name])
    assert code_hash("own_part:f") == before


def test_what_a_part_imports_from_another_folder_is_its_code_too(folder, tmp_path_factory, monkeypatch):
    """A folder on the path, and a package in it; not an installed one, nor what an installed one hides."""
    shared, site = tmp_path_factory.mktemp("shared"), tmp_path_factory.mktemp("venv") / "site-packages"
    (shared / "own_shared").mkdir()
    site.mkdir()
    (site / "own_installed.py").write_text("A = 1\n")
    files = {
        folder / "own_part.py": "import own_installed\nfrom own_shared.scores import f\n",
        shared / "own_shared" / "scores.py": "from own_deeper import TWO\ndef f(): return TWO\n",
        shared / "own_deeper.py": "TWO = 2\n",
        shared / "own_installed.py": "A = 2\n",
    }
    for file, text in files.items():
        file.write_text(text)
    for place in (shared, site):
        monkeypatch.syspath_prepend(str(place))
    importlib.invalidate_caches()
    import_function("own_part:f", "outcome")
    before = code_hash("own_part:f")
    deeper, scores = files[shared / "own_deeper.py"], files[shared / "own_shared" / "scores.py"]
    sources = f"{files[folder / 'own_part.py']}\0own_deeper\0{deeper}\0own_shared.scores\0{scores}"
    assert before == hashlib.sha256(sources.encode()).hexdigest()[:12]


def test_a_part_of_one_file_has_the_hash_of_that_file(folder):
    import_function("my_outcome:careful", "outcome")
    assert code_hash("my_outcome:careful") == hashlib.sha256(FILES["my_outcome.py"].encode()).hexdigest()[:12]
    import_function("statistics:mean", "outcome")
    source = inspect.getsource(statistics).encode()
    assert code_hash("statistics:mean") == hashlib.sha256(source).hexdigest()[:12], "of Python's own alone"


@pytest.mark.parametrize("find", [lambda path: import_function(path, "outcome"), find_preset])
def test_a_module_that_another_stands_in_for_is_named_by_its_file(folder, find):
    own(folder, "statistics", "def credit(): pass")
    sys.modules["statistics"] = statistics
    with pytest.raises(ValueError, match=re.escape(f"({statistics.__file__}) has no 'credit'")):
        find("statistics:credit")
    with pytest.raises(ValueError, match=re.escape("module 'sys' (built into Python) has no 'credit'")):
        find("sys:credit")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("def f(group): return [0.0] * 3", "returned 3 numbers; return one number for each of the 6 turns"),
        ("def f(group): return [[0.0], [0.0] * 2, [0.0]]", "of [1, 2, 1] numbers for rollouts of [3, 2, 1]"),
        ("def f(group): return group.gains_M", "of rollout a, turn 2 is nan; return a finite number"),
        ("def f(group): return [1e31] * 6", "turn 0 is 1e+31; rewards must lie within"),
        ("def f(group): return 0.0", "returned a value of type float; return one number"),
        ("def f(group): return ['x'] * 6", "returned a value of type list; return one number"),
        ("def f(group): return group.gians_M", "it failed in own_credit.py, line 1: AttributeError: 'Group' "
         "object has no attribute 'gians_M'; did you mean 'gains_M'?"),
        ("def f(): return 0", "it failed: TypeError: f() takes 0 positional arguments"),
        ("f = 3", "is of type int: name a function of one group, or a `Preset`"),
        ("def g(group): pass", "has no 'f'"),
        ("def f(group): return dict.fromkeys(range(6), 0.0)", "returned a value of type dict; return one"),
        ("def f(group): return {0.0}", "returned a value of type set; return one number"),
        ("import nothing_like_it", "can't be imported (ModuleNotFoundError: No module named"),
        ("import sys; sys.exit(0)", "can't be imported (SystemExit: 0)"),
        ("def f(group) return", "can't be imported (SyntaxError"),
    ],
)  # fmt: skip
def test_an_estimator_that_cannot_work_is_refused_before_a_run(folder, code, said):
    own(folder, "own_credit", code)
    config = IGPOConfig().training(preset="own_credit:f").rl_module(model_path="tiny")
    with pytest.raises(InputError, match=re.escape(said)) as caught:
        config.validate()
    assert "own_credit:f" in str(caught.value) and "\n" not in str(caught.value)


def test_a_shortened_message_keeps_its_reason():
    """A long question or list goes, then the end."""
    text = f"question '{'x' * 90}' and [{'1, ' * 40}2]: a reason; {'more ' * 30}"
    assert shortened(text, 120) == (
        "question 'xxxxxxxxxxxxxxxxxxx...xxxxxxxx' and [1, 1, 1, 1, 1, 1, 1... 1, 1, 2]: a reason; "
        "more more more more more..."
    )


def test_a_dot_for_the_colon():
    with pytest.raises(ValueError, match="written `module:function`: my_credit:evidence_first$"):
        find_preset("my_credit.evidence_first")


def test_advantages_of_lists_by_the_estimator_of_the_page():
    """z of 1, 0 is +-0.999998; evidence and queries are not known, so only the outcome counts."""
    text = next(text for kind, text in BLOCKS if kind == "python" and "import advantages" in text)
    find_preset("my_credit:evidence_first")  # makes the current folder importable, as `python` does
    names = {}
    exec(text, names)
    z = 0.5 / (0.5 + 1e-6)
    for found in (names["by_function"], names["by_name"]):
        assert [array.tolist() for array in found] == [[z, z, z], [-z, -z]]
    with pytest.raises(ValueError, match="preset .* is of type int: name a function of one group"):
        advantages([1.0], [[]], 3)


def test_advantages_of_lists_give_an_estimator_its_gains_by_group():
    seen = []

    def last(group):
        seen.append(group)
        return group.gains_M * 0 + 1 if not np.isnan(group.gains_M).any() else np.nan_to_num(group.gains_M)

    found = advantages([1.0, 0.0, 0.5, 0.0], [[0.5, None], [], [0.25], [0.125]], last, groups=[7, 7, 3, 3])
    assert [array.tolist() for array in found] == [[0.5, 0.0, 0.0], [0.0], [0.25, 0.0], [0.125, 0.0]]
    first, second = seen[-2:]
    assert (first.outcomes_N.tolist(), second.outcomes_N.tolist()) == ([0.5, 0.0], [1.0, 0.0])
    assert second.turns_N.tolist() == [3, 1] and second.actions_M == ["tool", "tool", "answer", "answer"]
    np.testing.assert_array_equal(second.beliefs_after_M, [np.nan] * 4)


def test_what_only_real_data_can_explain_is_no_reason_to_refuse(folder):
    own(folder, "own_data", "def f(group): return [group.metadata['level']] * group.num_turns")
    assert find_preset("own_data:f").estimator


RETRIEVER = "class R:\n    def __init__(self, corpus): pass\n    def search(self, queries, top_k): "


def test_the_retriever_of_the_page():
    settings = RetrieverSettings(**settings_of("my_retriever")["env_config"]["retriever"])
    corpus = Corpus(
        [Document("a", "Foo", "a red fox"), Document("b", "", "a red hen"), Document("c", "", "x")]
    )
    retriever = build_retriever(settings, corpus)
    ((best, second), none) = retriever.search(["red FOX", "zebra"], 3)
    assert (best.document_id, best.title, best.score, second.score) == ("a", "Foo", 1.0, 0.5)
    assert none == []
    assert retriever.identity["kind"] == "my_retriever:SharedWords"
    assert retriever.identity["corpus_hash"] == corpus.content_hash
    assert len(retriever.identity["code"]) == 12


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return []", "`search` returned 0 lists for 1 queries"),
        ("return None", "`search` returned NoneType for 1 queries"),
        ("return [['zz']]", "returned 'zz' for a document, and no document of the corpus has this id"),
        ("return [['a'] * (top_k + 1)]", "returned 3 documents where top_k is 2"),
        ("return ['a']", "the hits of a query are str"),
        ("from envs.retrieval.base import Hit; return [[Hit(5, None, None, 1.0)]]", "are texts, its score"),
        ("from envs.retrieval.base import Hit; return [[Hit('a', '', '', float('nan'))]]", "a finite number"),
    ],
)
def test_wrong_answers_of_a_retriever_are_told_in_a_sentence(folder, body, said):
    own(folder, "own_search", RETRIEVER + body)
    retriever = build_retriever(RetrieverSettings(kind="own_search:R"), Corpus([Document("a", "", "x")]))
    with pytest.raises(InputError, match=re.escape(said)):
        retriever.search(["x"], 2)


def test_a_retriever_that_raises_is_a_failed_search(folder):
    from envs.retrieval.base import RetrieverError

    own(folder, "own_fault", RETRIEVER + "return 1 / 0")
    retriever = build_retriever(RetrieverSettings(kind="own_fault:R"), Corpus([Document("a", "", "x")]))
    with pytest.raises(RetrieverError, match="own_fault:R failed: ZeroDivisionError"):
        retriever.search(["x"], 2)


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"kind": "bm52"}, "did you mean `bm25`"),
        ({"kind": "my_retriever"}, "`module:function` for your own"),
        ({"kind": "bm25", "arguments": {"x": 1}}, "`arguments` are for a retriever of your own"),
    ],
)
def test_settings_of_a_retriever_that_mean_nothing_are_refused(section, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        RetrieverSettings(**section)


def chat_task(folder, **settings):
    chat_tokenizer(QWEN2).save_pretrained(folder)
    return SearchTask(SearchEnvSettings(**{"tokenizer": str(folder), "world": WORLD, **LIMITS, **settings}))


def play(task, question, script):
    """Plays the decisions; returns the episode, and who was to speak before each."""
    episode = SearchEpisode(task, question, rollout_id="r", group_id="g")
    episode.start()
    spoke = []
    for text in script:
        spoke.append(episode.agent)
        for call in episode.decide(task.protocol.tokenizer(text + "<|im_end|>")["input_ids"], completed=True):
            task.tools(call)
        episode.observe()
    return episode, spoke


def test_the_protocol_of_the_page(folder):
    task = chat_task(folder, **settings_of("my_protocol")["env_config"])
    question = next(question for question in task.train_questions if question.hops == 1)
    script = [f"<find>{question.metadata['entity']}</find>", f"<answer>{question.golds[0]}</answer>"]
    episode, _ = play(task, question, script)
    rollout = episode.rollout
    assert rollout.termination is Termination.ANSWERED and rollout.outcome == 1.0
    assert rollout.turns[0].query == question.metadata["entity"]
    assert f"<found>{rollout.turns[0].observation_text}</found>" in task.protocol.text(episode.history)


UNREAD = (
    FILES["my_protocol.py"]
    .replace("FindProtocol", "P")
    .replace('"<answer>", "</answer>"', '"<find>", "</find>"')
)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("class P:\n    def __init__(self, tokenizer): pass", "lacks name, tokenizer, stop_token_ids"),
        ("class P:\n    def __init__(self): pass",
         "'own_protocol:P' failed (TypeError: P.__init__() takes 1 positional argument but 2 were given)"),
        ("class P:\n    def __init__(self, tokenizer):\n        int('x')",
         "protocol 'own_protocol:P' failed (ValueError: invalid literal for int() with base 10: 'x', "
         "own_protocol.py, line 3)"),
        (UNREAD, "`parse` reads tool '' in the answer 'Rome' that `decision` wrote"),
    ],
)  # fmt: skip
def test_a_protocol_that_cannot_work_is_refused_before_a_run(folder, code, said):
    own(folder, "own_protocol", code)
    with pytest.raises(InputError, match=re.escape(said)):
        chat_task(folder, protocol="own_protocol:P")


def test_the_outcome_of_the_page_reads_turns_and_metadata(folder):
    settings = settings_of("my_outcome")["env_config"]
    task = tiny_task(folder / "tokenizer", max_turns=6, **settings)
    question = next(question for question in task.train_questions if question.hops == 1)
    assert "hops" not in question.metadata, "the world knows them, and says them to an outcome"
    episode = SearchEpisode(task, question, rollout_id="r", group_id="g")
    episode.start()
    name = question.metadata["entity"]
    for text in [f"<search> {name} mother <end>"] * 3 + [f"<answer> {question.golds[0]} <end>"]:
        for call in episode.decide(ids(task, text), completed=True):
            task.tools(call)
        episode.observe()
    assert episode.rollout.outcome == pytest.approx(1.0 - 0.05 * 2)


@pytest.mark.parametrize(
    ("code", "value"),
    [
        ("def f(prediction, golds): return len(prediction) + len(golds)", 5.0),
        ("def f(a, b): return len(a) + len(b)", 5.0),
        ("def f(a, b, question): return len(a) + len(question)", 5.0),
        ("def f(golds, answer): return len(answer) - len(golds)", 1.0),
        ("def f(**facts): return len(facts)", 6.0),
        ("def f(a, b, **facts): return 10 * len(a) + len(b) + len(facts) / 8", 32.5),
        ("def f(a, question, **facts): return 10 * len(a) + len(question) + len(facts) / 8", 32.375),
        ("def f(answer, golds, **facts): return 10 * len(answer) + len(golds) + len(facts) / 8", 32.5),
        ("def f(*, question, golds): return len(question) - len(golds)", 0.0),
    ],
)
def test_an_outcome_gets_what_its_parameters_name(folder, code, value):
    from envs.data.answer_metrics import outcome_function

    own(folder, "own_outcome", code)
    assert outcome_function("own_outcome:f")("abc", ["x", "y"], question="??") == value


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("def f(answer, golds):\n    return {}['x']", "failed (KeyError: 'x', own_outcome.py, line 2)"),
        (
            "import nothing_like_it",
            "(ModuleNotFoundError: No module named 'nothing_like_it', own_outcome.py, line 1)",
        ),
        ("import sys\nsys.exit(0)", "(SystemExit: 0, own_outcome.py, line 2)"),
    ],
)
def test_an_outcome_that_fails_says_where(folder, code, said):
    from envs.data.answer_metrics import outcome_function

    own(folder, "own_outcome", code)
    with pytest.raises(InputError, match=re.escape(said)) as caught:
        outcome_function("own_outcome:f")("abc", ["x"])
    assert "outcome 'own_outcome:f'" in str(caught.value) and "PYTHONPATH" not in str(caught.value)


def test_an_outcome_that_wants_something_else_is_refused(folder):
    from envs.data.answer_metrics import outcome_function

    own(folder, "own_wish", "def f(answer, golds, reader): return 0")
    with pytest.raises(
        InputError, match="its parameter `reader` is not known; it may take answer, golds, question"
    ):
        outcome_function("own_wish:f")
    own(folder, "own_wish_of_one", "def f(text, **facts): return 0")
    with pytest.raises(InputError, match="its parameter `text` is not known"):
        outcome_function("own_wish_of_one:f")


def test_the_tool_of_the_page(folder):
    task = chat_task(folder, **settings_of("my_tool")["env_config"])
    question = task.train_questions[0]
    script = [
        '<tool_call>{"name": "founded", "arguments": {"city": "Rome"}}</tool_call>',
        '<tool_call>{"name": "founded", "arguments": {"city": "Ur"}}</tool_call>',
    ]
    rollout = play(task, question, script)[0].rollout
    assert rollout.turns[0].observation_text == "Rome was founded in -753"
    assert rollout.turns[1].tool_calls[0].error == "Ur is not in the table; known: Rome, Berlin"


def test_the_roles_of_the_page(folder):
    task = chat_task(folder, **settings_of("my_roles")["env_config"])
    say = "<message>well</message>"
    script = [say, say, say, "<message>and?</message>", "<tool_call>{</tool_call>", say]
    assert play(task, task.train_questions[0], script)[1] == [
        "searcher", "critic", "searcher", "writer", "searcher", "searcher",
    ]  # fmt: skip


def test_a_rule_that_names_no_role_says_so(folder):
    own(folder, "own_rule", "def f(action): return 'nobody'")
    task = chat_task(folder, protocol="igpo", next_speaker="own_rule:f")
    with pytest.raises(
        ValueError, match="'own_rule:f' returned 'nobody'; return the name of a role: searcher"
    ):
        play(task, task.train_questions[0], ["<tool_call>{</tool_call>"])
