"""What is said of an experiment before Ray, model and engines are loaded."""

import json
import subprocess
import sys

import pytest
import yaml

from envs.errors import InputError
from pipeline.experiment import before_start
from pipeline.experiment.before_start import check_start
from pipeline.experiment.experiment import load_experiments

CORPUS = '{"id": "1", "contents": "\\"A\\"\\na text"}\n'
QUESTIONS = '{"id": "q", "question": "?", "golden_answers": ["a"]}\n'


@pytest.fixture(autouse=True)
def fresh():
    before_start._look_at.cache_clear()


def experiment(folder, corpus=CORPUS, questions=QUESTIONS, **config):
    (folder / "corpus.jsonl").write_text(corpus)
    (folder / "questions.jsonl").write_text(questions)
    env = {"corpus": str(folder / "corpus.jsonl"), "questions": str(folder / "questions.jsonl")}
    keys = {"run": "IGPO", "config": {"model_path": "tiny", "env_config": env, **config}}
    (folder / "demo.yaml").write_text(yaml.safe_dump({"demo": keys}))
    (found,) = load_experiments(folder / "demo.yaml")
    return found


def test_sound_files_pass(tmp_path):
    check_start(experiment(tmp_path))


def test_names_of_ones_own_are_known(tmp_path):
    found = experiment(
        tmp_path,
        corpus='{"key": "1", "words": "a text"}\n',
        questions='{"uid": "q", "asked": "?", "gold": "a"}\n',
    )
    with pytest.raises(InputError, match="corpus.jsonl:1"):
        check_start(found)
    names = {
        "env_config.corpus_fields": {"id": "key", "text": "words"},
        "env_config.fields": {"id": "uid", "question": "asked", "answers": "gold"},
    }
    changes = [f"{key}={json.dumps(value)}" for key, value in names.items()]
    check_start(load_experiments(tmp_path / "demo.yaml", changes)[0])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"corpus": CORPUS + "{\n"}, "corpus.jsonl:2: not valid JSON"),
        ({"corpus": CORPUS + '{"id": "2"}\n'}, "corpus.jsonl:2"),
        ({"questions": QUESTIONS + '{"id": "r", "question": "?"}\n'}, "questions.jsonl:2"),
        ({"questions": QUESTIONS * 2}, "id 'q' was already used at"),
        ({"model_path": None}, "`config.model_path` is missing: name a Hugging Face folder or hub name"),
    ],
)
def test_a_fault_is_told_with_its_place(tmp_path, change, said):
    with pytest.raises(InputError, match=said.replace("(", "\\(")):
        check_start(experiment(tmp_path, **change))


@pytest.mark.parametrize("model", ["me/smollm2", "tiny", "gpt2", "m" * 5000])
def test_other_models_are_left_to_the_hub(tmp_path, model):
    check_start(experiment(tmp_path, model_path=model))


def test_a_misspelt_model_is_told(tmp_path):
    found = experiment(tmp_path, model_path="smolm2")
    with pytest.raises(InputError, match="model_path smolm2 is no folder here; did you mean `smollm2`[?]$"):
        check_start(found)


def test_a_missing_file_is_told(tmp_path):
    found = experiment(tmp_path)
    (tmp_path / "corpus.jsonl").unlink()
    with pytest.raises(InputError, match="corpus .*corpus.jsonl does not exist"):
        check_start(found)


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("outcome", {"outcome": "own_nowhere:f"}),
        ("protocol", {"protocol": "own_nowhere:f"}),
        ("next_speaker", {"next_speaker": "own_nowhere:f"}),
        ("tool", {"tools": ["search", "own_nowhere:f"]}),
        ("retriever", {"retriever": {"kind": "own_nowhere:f"}}),
    ],
)
def test_a_part_of_ones_own_that_is_not_there_is_told(tmp_path, what, change):
    experiment(tmp_path)
    changes = [f"env_config.{key}={json.dumps(value)}" for key, value in change.items()]
    (found,) = load_experiments(tmp_path / "demo.yaml", changes)
    with pytest.raises(InputError) as error:
        check_start(found)
    assert str(error.value) == (
        f"{what} 'own_nowhere:f': module 'own_nowhere' can't be imported (No module named 'own_nowhere'): is "
        "its file in this folder, or its folder on PYTHONPATH?"
    )


def test_nothing_heavy_is_loaded_before_it(tmp_path):
    experiment(tmp_path, corpus=CORPUS + "{\n")
    code = (
        "import sys\nfrom pipeline.cli.rllib import app\nfrom typer.testing import CliRunner\n"
        f"result = CliRunner().invoke(app, ['train', 'file', {str(tmp_path / 'demo.yaml')!r}])\n"
        "assert result.exit_code == 2 and 'corpus.jsonl:2' in result.output, result.output\n"
        "assert not {'ray', 'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
