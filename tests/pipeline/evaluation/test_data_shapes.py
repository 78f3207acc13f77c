"""`igpo data describe` and `rllib evaluate` on every shape of questions, and over files, folders and gzip."""

import json

import pytest
from command import Command
from data_shapes import (
    ANSWERS,
    DOCUMENTS,
    OWN_CORPUS_NAMES,
    OWN_NAMES,
    QUESTION_SOURCES,
    beir,
    contents_jsonl,
    nq_open,
    own_corpus_csv,
    own_csv,
    saved_corpus,
    title_text_gz,
)
from tiny_policy import write_experiment, write_policy
from typer.testing import CliRunner

import pipeline.cli.igpo
import pipeline.cli.rllib
from pipeline.analysis import open_run


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    texts = [*ANSWERS, *(text for _, _, text in DOCUMENTS)]  # or a run is refused: its words are unknown
    return write_policy(tmp_path_factory.mktemp("policy"), *texts)


def run(app, *words):
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result.output


def evaluated(folder, policy, sources, **env):
    """The episodes that `rllib evaluate` makes of all `sources` together."""
    (folder / "train.jsonl").write_text('{"question": "Where does the blue lake lie?", "answer": ["Peru"]}')
    settings = {
        "questions": str(folder / "train.jsonl"),
        "heldout_questions": sources[0],
        "max_turns": 1,
        **env,
    }
    engine = {"kind": "transformers"}
    file = write_experiment(folder / "demo.yaml", policy, engine=engine, env=settings)
    asked = [word for source in sources for word in ("--questions", source)]
    run(pipeline.cli.rllib.app, "evaluate", policy, "--config", file, *asked, "--out", folder / "scores.json")
    return json.loads((folder / "scores.json").read_text())["episodes"]


def test_every_shape_of_questions_is_described_and_evaluated(tmp_path, policy):
    sources = [writer(tmp_path) for writer in QUESTION_SOURCES]
    for source, (shape, *_) in zip(sources, QUESTION_SOURCES.values(), strict=True):
        assert f"{shape} " in run(pipeline.cli.igpo.app, "data", "describe", source)
    corpus = contents_jsonl(tmp_path)
    episodes = evaluated(tmp_path, policy, sources, corpus=corpus)
    assert len(episodes) == 2 * len(sources)


@pytest.mark.slow
@pytest.mark.parametrize("names", [None, OWN_NAMES], ids=["shapes", "own_names"])
def test_a_run_learns_from_every_shape(tmp_path, policy, names):
    """`rllib train file` with a mixture of all of them, an equal share of the draws each."""
    heldout = tmp_path / "heldout.jsonl"
    heldout.write_text('{"question": "Where does the blue lake lie?", "answer": ["Peru"]}')
    writers = [*QUESTION_SOURCES] if names is None else [own_csv, nq_open]
    sources = [writer(tmp_path) for writer in writers]
    settings = {
        "questions": dict.fromkeys(sources, 1),
        "heldout_questions": str(heldout),
        "corpus": contents_jsonl(tmp_path),
        "max_turns": 1,
    }
    file = write_experiment(
        tmp_path / "demo.yaml",
        policy,
        env=settings | ({"fields": names} if names else {}),
        iterations=1,
        prompts_per_iteration=2 * len(sources),
        evaluation_interval=0,
        num_env_runners=0,
        engine={"kind": "transformers", "max_num_seqs": 32},
    )
    train = Command(tmp_path, "train", "file", str(file))
    assert train.end() == 0, train.said
    with open_run(next(tmp_path.glob("runs/demo/*/run.json")).parent) as log:
        asked = log.sql("SELECT DISTINCT question_id FROM episodes").fetchall()
    assert len(asked) == 2 * len(sources), asked


@pytest.mark.parametrize("writer", [title_text_gz, beir, saved_corpus], ids=lambda writer: writer.__name__)
def test_a_corpus_in_another_shape_is_searched(tmp_path, policy, writer):
    (tmp_path / "questions").mkdir()
    questions = own_csv(tmp_path / "questions")
    episodes = evaluated(tmp_path, policy, [questions], corpus=writer(tmp_path), fields=OWN_NAMES)
    assert [episode["question_id"] for episode in episodes] == ["0", "1"]


def test_a_corpus_and_questions_with_names_of_ones_own(tmp_path, policy):
    names = [word for part, name in OWN_NAMES.items() for word in ("--field", f"{part}={name}")]
    source = own_csv(tmp_path)
    said = run(pipeline.cli.igpo.app, "data", "describe", source, *names)
    assert "named by `fields` 2" in said
    settings = {"fields": OWN_NAMES, "corpus": own_corpus_csv(tmp_path), "corpus_fields": OWN_CORPUS_NAMES}
    assert len(evaluated(tmp_path, policy, [source], **settings)) == 2
