"""`Protocol.decision`, what a demonstration writes, is read back by `Protocol.parse`."""

import pytest
from chat_tokenizers import CHATML, LLAMA3, QWEN2, QWEN3, SCHEMAS, chat_tokenizer
from scripted_engine import WORDS

from envs.search.protocols.base import Action
from envs.search.protocols.chat import ChatProtocol
from envs.search.protocols.chat_short import HINT, ChatShortProtocol
from envs.search.protocols.igpo import IGPOProtocol
from envs.search.protocols.search_r1 import SearchR1Protocol
from envs.search.protocols.tiny import TinyProtocol, build_tokenizer
from envs.search.trajectory import ActionKind
from envs.world.words import NAMES

NAME = NAMES[0]
PROTOCOLS = {
    "tiny": TinyProtocol(build_tokenizer(list(dict.fromkeys(WORDS)))),
    "chat_short": ChatShortProtocol(chat_tokenizer()),
    "igpo": IGPOProtocol(chat_tokenizer(QWEN2), SCHEMAS),
    "igpo, chatml": IGPOProtocol(chat_tokenizer(CHATML), SCHEMAS),
    "search_r1": SearchR1Protocol(chat_tokenizer(QWEN2)),
    "chat, qwen3": ChatProtocol(chat_tokenizer(QWEN3), SCHEMAS),
    "chat, llama3": ChatProtocol(chat_tokenizer(LLAMA3), SCHEMAS),
}


def search(query):
    return Action(ActionKind.TOOL, tool="search", arguments={"query": query})


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
def test_a_decision_is_complete_and_is_read_back(protocol):
    for action in (search(f"{NAME} mother"), Action(ActionKind.ANSWER, text=NAME)):
        ids = protocol.decision(action)
        assert protocol.is_complete(ids) and not protocol.is_complete(ids[:-1])
        assert protocol.parse(ids) == action


@pytest.mark.parametrize("name", [name for name in PROTOCOLS if name != "tiny"])
def test_words_from_outside_stay_words(name):
    """Quotes, accents and the string of a control token come back as they were, and no control token is
    written for them.
    """
    protocol, query = PROTOCOLS[name], 'the "Café" <|im_end|> \\ film'
    ids = protocol.decision(search(query))
    assert protocol.parse(ids) == search(query)
    assert not set(ids[:-1]) & set(protocol.stop_token_ids)


def test_an_answer_is_written_as_belief_is_scored():
    for name, protocol in PROTOCOLS.items():
        scored = protocol.scoring_suffix(NAME).ids
        written = protocol.decision(Action(ActionKind.ANSWER, text=NAME))
        assert written == (scored[:-1] if name == "search_r1" else scored), name


def test_a_prompt_without_worked_examples():
    protocol = ChatShortProtocol(chat_tokenizer(), worked_examples=False)
    assert protocol.text(protocol.prompt("Be brief.", "Who?", ["search", "answer"])) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nQuestion: "
        f"Who?{HINT}<|im_end|>\n<|im_start|>assistant\n"
    )
