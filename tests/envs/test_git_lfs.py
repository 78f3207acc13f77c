"""Git LFS pointers in the place of questions, models, tokenizers and encoders."""

import pytest

from envs.data.questions import load_questions
from envs.engine.models import resolve_model
from envs.errors import InputError
from envs.git_lfs import refuse_pointers_of_model
from envs.search.protocols.build import load_tokenizer

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0a\nsize 99\n"
SAID = "is a Git LFS pointer, not the file itself: run `git lfs pull` in its repository"


@pytest.mark.parametrize("name", ["questions.jsonl", "questions.parquet"])
def test_questions(tmp_path, name):
    path = tmp_path / name
    path.write_text(POINTER)
    with pytest.raises(InputError) as caught:
        load_questions(path)
    assert str(caught.value) == f"question file {path} {SAID}"


def test_a_folder_of_a_data_set(tmp_path):
    pytest.importorskip("datasets")
    (tmp_path / "train.parquet").write_text(POINTER)
    with pytest.raises(InputError, match="is a Git LFS pointer"):
        load_questions(f"hf:{tmp_path}")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "tokenizer.model"])
def test_a_model(tmp_path, name):
    for file in ("config.json", "model.safetensors", "tokenizer.json"):
        (tmp_path / file).write_text("{}")
    (tmp_path / name).write_text(POINTER)
    with pytest.raises(InputError) as caught:
        resolve_model(str(tmp_path))
    assert str(caught.value) == f"model file {tmp_path / name} {SAID}"


def test_a_tokenizer(tmp_path):
    (tmp_path / "tokenizer.json").write_text(POINTER)
    with pytest.raises(InputError) as caught:
        load_tokenizer(str(tmp_path))
    assert str(caught.value) == f"tokenizer file {tmp_path / 'tokenizer.json'} {SAID}"


def test_weights_that_are_not_read_may_be_pointers(tmp_path):
    (tmp_path / "pytorch_model.bin").write_text(POINTER)
    with pytest.raises(InputError, match="Git LFS pointer"):
        refuse_pointers_of_model(tmp_path, "model file")
    (tmp_path / "model.safetensors").write_text("")
    refuse_pointers_of_model(tmp_path, "model file")
