"""Questions that tell their hops one by one, out of order, so that the order has to be worked out.

``color of mother of friend of mira ?`` tells its hops in order, the last one first. Out of order, and with a
side chain, it reads::

    mother friend . rival zira . color mother . friend mira . teacher rival ?

Each hop is two words: what it asks for, and of whom, which is a person or whoever another hop leads to. So
``mother friend`` is the mother of the friend. The order is found from the goal. One hop alone asks for an
attribute, ``color mother``, so it is the last. Before it comes the hop that asks for a mother, ``mother
friend``, and before that ``friend mira``, which names a person: the search begins there. A side chain, here
``rival zira`` and ``teacher rival``, is as long on the way and begins with a person too, but the goal does
not lead back to it.

Without side chains, whoever takes any hop that can be taken finds the order on the way, because a hop waits
for the one before it. With them, some hops that can be taken lead nowhere, and nobody can tell which without
going through the question from its end. So a plan saves searches only with side chains.
"""

from __future__ import annotations

import numpy as np

from envs.data.question import Question
from envs.errors import InputError
from envs.world.chain import Chain
from envs.world.config import WorldSettings
from envs.world.facts import Facts
from envs.world.questions import chain_question


def check_unordered(settings: WorldSettings) -> None:
    """Raises InputError where side chains stand alone, or lack relations that their question does not use."""
    if not settings.side_chains:
        return
    if not settings.unordered:
        raise InputError(
            f"world.side_chains is {settings.side_chains}, but only questions told out of order have side "
            "chains: set world.unordered above 0"
        )
    hops = max(hops for hops, share in settings.hops.items() if share > 0)
    needed = (hops - 1) * (1 + settings.side_chains)
    if needed > settings.relations:
        raise InputError(
            f"world.side_chains {settings.side_chains} needs {needed} relations for questions of {hops} "
            f"hops, but there are {settings.relations}: raise world.relations (at most 8), or lower the hops"
        )


def unordered_question(facts: Facts, chain: Chain, id: str, rng: np.random.Generator) -> Question:
    """Returns the question that asks for the end of `chain`, its hops told out of order.

    Its `metadata` holds `told`, the pairs [what is asked for, of whom] in the order of the text, and `kind`
    "unordered". A question of one hop has no order and no side chain: it is the chain's plain question.

    Args:
        facts: the facts of the world; its `side_chains` says how many chains that lead elsewhere are told
            too.
        chain: the chain.
        id: the question's id.
        rng: decides the side chains, and the order. The first hop is never told first.
    """
    question = chain_question(facts, chain, id)
    if chain.hops == 1:
        return question
    told = linked(facts.names[chain.entity], chain.keys)
    first, taken = told[0], facts.path(chain)
    unused = [word for word in facts.relations if word not in chain.keys]
    unused = [unused[k] for k in rng.permutation(len(unused))]
    for number in range(facts.settings.side_chains):
        person = chain.entity
        while person in taken:
            person = int(rng.integers(len(facts.names)))
        taken.append(person)
        length = len(chain.relations)
        told = told + linked(facts.names[person], unused[number * length : (number + 1) * length])
    order = [first]
    while order[0] == first:
        order = [told[k] for k in rng.permutation(len(told))]
    question.text = " . ".join(f"{key} {whom}" for key, whom in order) + " ?"
    question.metadata |= {"kind": "unordered", "told": [list(hop) for hop in order]}
    return question


def linked(name: str, keys: list[str]) -> list[tuple[str, str]]:
    """Returns each key with whom it is asked of: the first `name`, each later one the key before it."""
    return list(zip(keys, [name, *keys[:-1]], strict=True))
