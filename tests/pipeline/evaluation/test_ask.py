"""`igpo ask` says which words of a question the policy has never seen."""

from transformers import AutoTokenizer

from envs.engine.models import resolve_model
from pipeline.evaluation.ask import unknown_words


def test_words_that_the_embedded_policy_does_not_know():
    tokenizer = AutoTokenizer.from_pretrained(resolve_model("tiny"))
    assert unknown_words(tokenizer, "king of mother of France ?") == ["king", "France"]
    assert unknown_words(tokenizer, "trade of mother of fata ?") == []


def test_a_tokenizer_that_spells_any_word(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(resolve_model("tiny"))
    tokenizer.unk_token = None
    assert unknown_words(tokenizer, "king") == []
