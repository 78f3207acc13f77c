"""Splits a question file into parts that share no evidence.

Two questions that rest on the same passage belong to the same part, and so do all that hang together by a
chain of such pairs. Otherwise a policy could have read in training what a held-out question asks for.
"""

from __future__ import annotations

from collections.abc import Sequence

import networkx as nx
import numpy as np

from envs.data.corpus import folded_title
from envs.data.sources.field_names import STANDARD, FieldNames
from envs.data.sources.question_shapes import Unusable, read_parts, shape_of
from envs.errors import InputError


def split_by_evidence(
    records: Sequence[dict], numbers: Sequence[int | None], seed: int = 0, names: FieldNames = STANDARD
) -> list[list[dict]]:
    """Splits `records` into parts that share no supporting title.

    Questions that hang together are dealt out whole, in random order: to the first part until it has its
    number, then to the second, and so on. What exceeds a part's number is left out, so that the parts stay
    apart. Within a part, the order is random.

    Args:
        records: objects of a question file. `evidence_titles` names their evidence; one without titles hangs
            together with no other.
        numbers: records of each part; None, at the end only, takes all that are left.
        seed: decides the draw.
        names: what the records call the parts of a question.

    Returns:
        One list of records per number.

    Raises:
        InputError: there are too few records that share no evidence with the other parts.
    """
    rng = np.random.default_rng(seed)
    bundles = _bundles(records, names)
    left = [bundles[k] for k in rng.permutation(len(bundles))]
    parts = []
    for place, number in enumerate(numbers):
        part: list[int] = []
        while left and (number is None or len(part) < number):
            part += left.pop()
        if not part or (number is not None and len(part) < number):
            raise InputError(
                f"part {place + 1} gets {len(part)} of {number or 'the last'} questions: {len(records)} "
                f"questions make {len(bundles)} bundles that share no evidence; ask for fewer"
            )
        part = [part[k] for k in rng.permutation(len(part))]
        parts.append([records[n] for n in part[:number]])
    return parts


def evidence_titles(record: dict, names: FieldNames = STANDARD) -> list[str]:
    """The supporting titles that a record names, in whichever form its data set has them."""
    told = (record.get("metadata") or {}).get("supporting_titles")
    if told is None:
        try:
            told = read_parts(record, shape_of(record, names), names, "a question").titles
        except (InputError, Unusable):  # no question that can be read: its evidence is not known
            return []
    return list(told or [])


def _bundles(records: Sequence[dict], names: FieldNames) -> list[list[int]]:
    """Returns the positions of records that hang together by their evidence."""
    graph = nx.Graph()
    graph.add_nodes_from(range(len(records)))
    for n, record in enumerate(records):
        graph.add_edges_from((n, f"title {folded_title(title)}") for title in evidence_titles(record, names))
    bundles = [sorted(n for n in found if isinstance(n, int)) for found in nx.connected_components(graph)]
    return sorted(bundles)
