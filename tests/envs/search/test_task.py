"""What a search task refuses."""

import pytest

from envs.engine.models import resolve_model
from envs.errors import InputError
from envs.search.config import SearchEnvSettings
from envs.search.task import SearchTask
from envs.world.config import WorldSettings

SMALL = {"train_questions": 200, "heldout_questions": 100}


def test_words_that_the_embedded_policy_lacks_are_refused():
    folder = resolve_model("tiny")
    with pytest.raises(InputError, match="the tokenizer does not know the world's words .*yes"):
        SearchTask(SearchEnvSettings(tokenizer=folder, world=WorldSettings(yes_no=0.5, **SMALL)))
    SearchTask(SearchEnvSettings(tokenizer=folder, world=WorldSettings(graded_evidence=0.5, **SMALL)))
