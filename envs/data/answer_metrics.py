"""Metrics of an answer, in two dialects, and one for all scripts (definitions: Outcome).

- `f1_paper`, `em_paper`: lower-case, every ASCII punctuation character becomes a space, white space
  collapsed. F1 is over the *set* of words. Exact match is equality of the normalised strings (the official
  code's `val_type='em'`).
- `f1_squad`, `em_squad`: SQuAD v1.1 normalisation (lower-case, punctuation deleted, articles removed). F1 is
  over the *multiset* of words, and HotpotQA's rule holds: yes, no and noanswer match only themselves.
- `f1_chars`: for scripts without blanks between words (Chinese, Thai), where both dialects take a whole
  sentence for one word. Compatibility forms are folded (NFKC), lower-case, punctuation of any script becomes
  a space. F1 is over the *multiset* of units: each character of such a script, and each word of the others.
  Two texts that hold nothing but punctuation count as 1 if they are equal.

Every metric is the maximum over the gold aliases, lies in [0, 1], and is 0 for a rollout without an answer.
For the answer "the red fox" and the gold answer "red fox", `em_paper` is 0, `f1_paper` is 2 * 2 / (3 + 2) =
0.8, and `em_squad` and `f1_squad` are 1.
"""

from __future__ import annotations

import difflib
import math
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from envs.data.unspaced import split_unspaced
from envs.errors import InputError
from envs.user_code import called, import_function, taken_arguments

LARGEST_OUTCOME = 1e30
"""Bound of outcomes and penalties; credit refuses larger rewards, whose squares would leave float64."""

AnswerMetric = Callable[..., float]
"""(prediction, golds) -> value."""

OUTCOME_ARGUMENTS = ("answer", "golds", "question", "turns", "metadata", "prediction")
"""What an outcome of one's own may take, by name. `prediction` is the answer too."""

_PUNCTUATION_TO_SPACE = str.maketrans(dict.fromkeys(string.punctuation, " "))
_DELETE_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_CLOSED_ANSWERS = ("yes", "no", "noanswer")


@lru_cache(4096)  # the metrics normalise the same answers, and so do the rollouts of a group
def normalise_paper(text: str) -> str:
    """Lower-cases, turns ASCII punctuation into spaces, collapses white space; keeps articles.

    (official IGPO code)
    """
    return " ".join(text.lower().translate(_PUNCTUATION_TO_SPACE).split())


@lru_cache(4096)
def normalise_squad(text: str) -> str:
    """Lower-cases, deletes ASCII punctuation and `a`, `an`, `the`, collapses white space (SQuAD v1.1)."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_DELETE_PUNCTUATION)).split())


def f1_paper(prediction: str, golds: Sequence[str]) -> float:
    """F1 between the sets of words, the maximum over `golds`; 0 where either side has no word."""
    words = set(normalise_paper(prediction).split())
    return _best(golds, lambda gold: _f1_of_sets(words, set(normalise_paper(gold).split())))


def em_paper(prediction: str, golds: Sequence[str]) -> float:
    """1.0 if the normalised prediction equals a normalised gold, else 0.0."""
    normalised = normalise_paper(prediction)
    return _best(golds, lambda gold: float(normalised == normalise_paper(gold)))


def f1_squad(prediction: str, golds: Sequence[str]) -> float:
    """F1 between the multisets of words, the maximum over `golds`.

    yes, no and noanswer match only themselves (HotpotQA).
    """
    normalised = normalise_squad(prediction)
    return _best(golds, lambda gold: _f1_of_multisets(normalised, normalise_squad(gold)))


def em_squad(prediction: str, golds: Sequence[str]) -> float:
    """1.0 if the normalised prediction equals a normalised gold, else 0.0."""
    normalised = normalise_squad(prediction)
    return _best(golds, lambda gold: float(normalised == normalise_squad(gold)))


@lru_cache(4096)
def units(text: str) -> tuple[str, ...]:
    """What `f1_chars` compares: single characters of scripts without blanks, words of all others."""
    folded = unicodedata.normalize("NFKC", text).lower().translate(_PUNCTUATION_TO_SPACE)
    plain = "".join(" " if unicodedata.category(c).startswith("P") else c for c in folded)
    return tuple(split_unspaced(plain))


def f1_chars(prediction: str, golds: Sequence[str]) -> float:
    """F1 between the multisets of `units`, the maximum over `golds`."""
    found = units(prediction)

    def score(gold: str) -> float:
        wanted = units(gold)
        if not found and not wanted:
            return float(prediction.split() == gold.split())
        return _f1_of_counts(found, wanted)

    return _best(golds, score)


METRICS: dict[str, AnswerMetric] = {
    "f1_paper": f1_paper,
    "em_paper": em_paper,
    "f1_squad": f1_squad,
    "em_squad": em_squad,
    "f1_chars": f1_chars,
}

OUTCOMES: dict[str, AnswerMetric] = {"f1": f1_paper, "em": em_paper, **METRICS}
"""The names that the `outcome` setting accepts besides a user's own `module:function`."""


def answer_metrics(prediction: str | None, golds: Sequence[str]) -> dict[str, float]:
    """All metrics by name; zeros for None (a rollout that ended without an answer)."""
    if prediction is None:
        return dict.fromkeys(METRICS, 0.0)
    return dict(_metrics_of(prediction, tuple(golds)))


@lru_cache(4096)  # the rollouts of a group give the same answers
def _metrics_of(prediction: str, golds: tuple[str, ...]) -> dict[str, float]:
    return {name: metric(prediction, golds) for name, metric in METRICS.items()}


def outcome_function(name: str) -> AnswerMetric:
    """The function that rewards an answer.

    Args:
        name: `f1` (the paper's), `em`, the full name of a metric, or `module:function` of a user's own. That
            takes any of `answer` (or `prediction`), `golds`, `question` (its text), `turns` (of
            `envs.search.trajectory.Turn`) and `metadata`, and returns a finite number; any other result
            raises ValueError at the call. Two parameters of other names are answer and golds.

    Raises:
        InputError: an unknown name (the message suggests the nearest one), a module that cannot be imported,
            no such function, or one that wants something else.
    """
    if name in OUTCOMES:
        return OUTCOMES[name]
    if ":" not in name:
        near = difflib.get_close_matches(name, OUTCOMES, n=1)
        raise InputError(
            f"unknown outcome {name!r}"
            + (f", did you mean {near[0]!r}?" if near else "")
            + f" Known: {', '.join(OUTCOMES)}, or `module:function` for your own"
        )
    return _user_function(name)


def _user_function(path: str) -> AnswerMetric:
    function = import_function(path, "outcome")
    plain, taken = taken_arguments(function, path, "outcome", OUTCOME_ARGUMENTS, ("answer", "golds"))

    def outcome(
        prediction: str,
        golds: Sequence[str],
        *,
        question: str = "",
        turns: Sequence[Any] = (),
        metadata: Mapping[str, Any] | None = None,
    ) -> float:
        offered = {
            "answer": prediction, "prediction": prediction, "golds": list(golds),
            "question": question, "turns": turns, "metadata": metadata or {},
        }  # fmt: skip
        named = {name: offered[name] for name in taken}
        value = called(path, "outcome", function, *(offered[name] for name in plain), **named)
        try:
            number = float(value)
        except (TypeError, ValueError) as error:
            raise ValueError(f"outcome {path!r} must return a number, returned {value!r:.80}") from error
        if not math.isfinite(number):
            raise ValueError(f"outcome {path!r} must return a finite number, returned {number}")
        if abs(number) > LARGEST_OUTCOME:
            raise ValueError(
                f"outcome {path!r} must return a number within +-{LARGEST_OUTCOME:g}, returned {number}"
            )
        return number

    return outcome


def _best(golds: Sequence[str], score: Callable[[str], float]) -> float:
    if not golds:
        raise ValueError("no gold answers to compare with")
    return max(score(gold) for gold in golds)


def _f1_of_sets(prediction: set[str], gold: set[str]) -> float:
    common = len(prediction & gold)
    return 2 * common / (len(prediction) + len(gold)) if common else 0.0


def _f1_of_multisets(prediction: str, gold: str) -> float:
    if prediction != gold and (prediction in _CLOSED_ANSWERS or gold in _CLOSED_ANSWERS):
        return 0.0
    return _f1_of_counts(prediction.split(), gold.split())


def _f1_of_counts(prediction: Sequence[str], gold: Sequence[str]) -> float:
    common = sum((Counter(prediction) & Counter(gold)).values())
    return 2 * common / (len(prediction) + len(gold)) if common else 0.0
