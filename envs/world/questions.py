"""The texts of the world's questions: chains, yes or no, and comparisons.

``color of mother of mira ?`` asks for the end of a chain. ``is color of mother of mira red ?`` needs the
chain's documents; ``who has color red , mira or toma ?`` needs one of two. The last two kinds can be guessed
half the time. They exist to test whether belief and credit are robust to guessing.
"""

from __future__ import annotations

import numpy as np

from envs.data.question import Question
from envs.world.chain import Chain
from envs.world.facts import Facts
from envs.world.text import value_names
from envs.world.words import ATTRIBUTES, VALUES

MAX_DRAWS = 200


def document_id(entity: int) -> str:
    """Returns the id of the entity's document."""
    return f"world-{entity:04d}"


def chain_question(facts: Facts, chain: Chain, id: str) -> Question:
    """Returns the question that asks for the end of `chain`, such as ``color of mother of mira ?``."""
    path, keys = facts.path(chain), chain.keys
    return Question(
        id=id,
        text=" of ".join([*reversed(keys), facts.names[chain.entity]]) + " ?",
        golds=facts.value_names(path[-1], keys[-1]),
        data_source="world",
        hops=chain.hops,
        gold_document_ids=[document_id(entity) for entity in path],
        metadata={"kind": "chain", "entity": facts.names[chain.entity], "keys": keys},
    )


def vary(facts: Facts, chain: Chain, id: str, seen: set[str], rng: np.random.Generator) -> Question:
    """Draws the kind of a question by the shares in the settings, and makes that question from `chain`.

    Args:
        facts: the facts of the world.
        chain: the chain that the question starts from.
        id: the question's id.
        seen: the texts of the questions so far; the new one is added. A comparison whose texts all exist
            falls back to the chain's question.
        rng: decides the kind and what the kind draws.
    """
    settings = facts.settings
    draw = int(rng.integers(0, 1_000_000))
    question = chain_question(facts, chain, id)
    if draw < round(settings.yes_no * 1_000_000):
        question = yes_no(facts, chain, id, rng)
    elif draw < round((settings.yes_no + settings.comparison) * 1_000_000):
        question = comparison(facts, chain, id, seen, rng) or question
    seen.add(question.text)
    return question


def yes_no(facts: Facts, chain: Chain, id: str, rng: np.random.Generator) -> Question:
    """Asks whether the chain ends in a certain value: in half of the cases the right one, else another."""
    plain, attribute = chain_question(facts, chain, id), ATTRIBUTES[chain.attribute]
    value = int(facts.values_WA[facts.path(chain)[-1], chain.attribute])
    is_right = bool(rng.integers(2))
    if not is_right:
        value = (value + 1 + int(rng.integers(len(VALUES[attribute]) - 1))) % len(VALUES[attribute])
    asked = value_names(attribute, value, facts.settings.aliases)
    plain.text = f"is {plain.text.removesuffix(' ?')} {asked[0]} ?"
    plain.golds = ["yes" if is_right else "no"]
    plain.metadata |= {"kind": "yes_no", "asked": asked}
    return plain


def comparison(
    facts: Facts, chain: Chain, id: str, seen: set[str], rng: np.random.Generator
) -> Question | None:
    """Asks which of two entities has a value. One of them is the chain's entity, and has it.

    Returns:
        None where `MAX_DRAWS` draws of the other entity give no text that is not in `seen`.
    """
    attribute, values_W = ATTRIBUTES[chain.attribute], facts.values_WA[:, chain.attribute]
    for _ in range(MAX_DRAWS):
        other = int(rng.integers(len(facts.names)))
        if values_W[other] == values_W[chain.entity]:
            continue
        pair = [chain.entity, other] if rng.integers(2) else [other, chain.entity]
        asked = value_names(attribute, int(values_W[chain.entity]), facts.settings.aliases)
        first, second = (facts.names[entity] for entity in pair)
        text = f"who has {attribute} {asked[0]} , {first} or {second} ?"
        if text not in seen:
            return Question(
                id=id,
                text=text,
                golds=[facts.names[chain.entity]],
                data_source="world",
                hops=2,
                gold_document_ids=[document_id(entity) for entity in pair],
                metadata={
                    "kind": "comparison",
                    "names": [first, second],
                    "keys": [attribute],
                    "asked": asked,
                },
            )
    return None
