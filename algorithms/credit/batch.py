"""The input and output of credit: a flat, ragged batch of turns.

Nothing is padded, so cost and memory grow with the number of turns. Array names end in their dimensions: N
rollouts, M turns (those of rollout 0 in time order, then those of rollout 1, ...), P groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from algorithms.credit.config import BEYOND, LARGEST_REWARD

BELIEF_BOUND = 1.001
"""A belief may exceed 1 by rounding, since the score that it is made of may exceed 0."""
FAINT_GAIN_STD = 1e-3
"""Standard deviation of raw gains, in units of the gain basis, below which a group with equal outcomes learns
from noise.
"""


def _unset() -> np.ndarray:
    return np.zeros(0)


@dataclass(eq=False)
class TurnBatch:
    """Rewards of a batch of rollouts, turn by turn.

    The rollouts of a group need not be adjacent. A turn without a gain (the final turn, a turn that was cut
    off, a turn whose score is missing) has `gain_bearing_M` False; a gain of 0 is still a gain. Everything is
    converted to float64 or int64 and checked here.

    Raises:
        ValueError: lengths that do not fit, a rollout without turns, a final turn that bears a gain, or an
            outcome or gain that is not finite or beyond `LARGEST_REWARD`. The message names the rollout (its
            id, else its position) and the turn, counted from 0.
    """

    group_N: np.ndarray
    """Integer label of the rollout's group (its prompt)."""
    turns_N: np.ndarray
    """T_i, at least 1."""
    outcome_N: np.ndarray
    """o_i, paid at the last turn."""
    gains_M: np.ndarray
    """Raw information gain g_i,t. Values where `gain_bearing_M` is False are ignored and become NaN."""
    gain_bearing_M: np.ndarray
    malformed_N: np.ndarray = field(default_factory=_unset)
    """Whether the rollout ended malformed (read by `ig_gate: valid_format`); empty: none did."""
    turn_limit_N: np.ndarray = field(default_factory=_unset)
    """Whether the rollout spent its turns without an answer (read by `drop_gains_at_turn_limit`); empty: none
    did."""
    unanswered_N: np.ndarray = field(default_factory=_unset)
    """Whether the rollout ended without an answer, for whatever reason (read by `normalisation: returns`);
    empty: all answered."""
    last_belief_N: np.ndarray = field(default_factory=_unset)
    """Belief after the rollout's last scored turn, in [0, 1] (read by `outcome_baseline: belief` and
    `normalisation: returns`); empty: unknown."""
    without_belief_N: np.ndarray = field(default_factory=_unset)
    """Whether the rollout's question is played without belief (read by `outcome_baseline: belief`); empty:
    none is."""
    role_M: np.ndarray = field(default_factory=_unset)
    """Integer label of the turn's author (read by `turn_index`); empty: one role."""
    rollout_ids_N: Sequence[str] | None = None
    """Names of rollouts for error messages."""

    rollout_M: np.ndarray = field(init=False, repr=False)
    """Position of the turn's rollout, 0 to N - 1."""
    last_N: np.ndarray = field(init=False, repr=False)
    """Flat position of the rollout's last turn."""

    def __post_init__(self):
        self.group_N = np.asarray(self.group_N, dtype=np.int64)
        num_rollouts = self.group_N.size
        self.turns_N = _sized("turns_N", self.turns_N, np.int64, num_rollouts)
        self.outcome_N = _sized("outcome_N", self.outcome_N, np.float64, num_rollouts)
        self._refuse(self.turns_N < 1, "has no turns; leave it out of the batch")
        self._refuse(~np.isfinite(self.outcome_N), "has an outcome that is not finite")
        for rollout in np.flatnonzero(np.abs(self.outcome_N) > LARGEST_REWARD):
            raise ValueError(
                f"rollout {self._name(rollout)} has the outcome {self.outcome_N[rollout]}; {BEYOND}"
            )
        num_turns = int(self.turns_N.sum())
        self.gain_bearing_M = _sized("gain_bearing_M", self.gain_bearing_M, np.bool_, num_turns)
        gains_M = _sized("gains_M", self.gains_M, np.float64, num_turns)
        self.malformed_N = _optional("malformed_N", self.malformed_N, np.bool_, num_rollouts)
        self.turn_limit_N = _optional("turn_limit_N", self.turn_limit_N, np.bool_, num_rollouts)
        self.unanswered_N = _optional("unanswered_N", self.unanswered_N, np.bool_, num_rollouts)
        if np.size(self.last_belief_N):
            self.last_belief_N = _sized("last_belief_N", self.last_belief_N, np.float64, num_rollouts)
            self._refuse(np.abs(self.last_belief_N) > BELIEF_BOUND, "has a last belief that is not in [0, 1]")
        self.without_belief_N = _optional("without_belief_N", self.without_belief_N, np.bool_, num_rollouts)
        self.role_M = _optional("role_M", self.role_M, np.int64, num_turns)
        if self.rollout_ids_N is not None and len(self.rollout_ids_N) != num_rollouts:
            raise ValueError(
                f"rollout_ids_N has {len(self.rollout_ids_N)} entries for {num_rollouts} rollouts"
            )
        self.rollout_M = np.repeat(np.arange(num_rollouts), self.turns_N)
        self.last_N = np.cumsum(self.turns_N) - 1
        self._refuse(
            self.gain_bearing_M[self.last_N],
            "has a gain on its final turn, which is paid the outcome instead",
        )
        bad_M = self.gain_bearing_M & ~(np.abs(gains_M) <= LARGEST_REWARD)
        if bad_M.any():
            flat = int(np.argmax(bad_M))
            rollout = int(self.rollout_M[flat])
            turn = flat - int(self.last_N[rollout] - self.turns_N[rollout] + 1)
            no_gain = "a turn without a gain is False in gain_bearing_M (None in a list of gains)"
            raise ValueError(
                f"rollout {self._name(rollout)}, turn {turn}: the gain is {gains_M[flat]}; "
                + (BEYOND if np.isfinite(gains_M[flat]) else no_gain)
            )
        self.gains_M = np.where(self.gain_bearing_M, gains_M, np.nan)

    @classmethod
    def from_lists(
        cls, groups: Sequence[int], outcomes: Sequence[float], gains: Sequence[Sequence[float | None]], **more
    ) -> TurnBatch:
        """Makes a batch of one list of gains per rollout.

        Args:
            groups: label of each rollout's prompt.
            outcomes: o_i of each rollout.
            gains: one entry for every turn but the last, so T_i = len(gains[i]) + 1; None marks a turn that
                bears no gain.
            more: further fields (`malformed_N`, `turn_limit_N`, `unanswered_N`, `last_belief_N`,
                `without_belief_N`, `role_M`, `rollout_ids_N`).

        Raises:
            ValueError: the three lists differ in length, or whatever the class refuses.
        """
        if not len(groups) == len(outcomes) == len(gains):
            raise ValueError(
                f"one group, outcome and list of gains per rollout: got {len(groups)} groups, "
                f"{len(outcomes)} outcomes and {len(gains)} lists of gains"
            )
        flat = [gain for gains_T in gains for gain in (*gains_T, None)]
        return cls(
            group_N=np.asarray(groups),
            turns_N=np.array([len(gains_T) + 1 for gains_T in gains], dtype=np.int64),
            outcome_N=np.asarray(outcomes, dtype=np.float64),
            gains_M=np.array([np.nan if gain is None else gain for gain in flat], dtype=np.float64),
            gain_bearing_M=np.array([gain is not None for gain in flat], dtype=np.bool_),
            **more,
        )

    @property
    def num_rollouts(self) -> int:
        """N."""
        return self.group_N.size

    def split(self, values_M: np.ndarray) -> list[np.ndarray]:
        """Cuts a flat array of turns into one array per rollout."""
        return np.split(values_M, self.last_N[:-1] + 1) if self.num_rollouts else []

    def last_belief(self, setting: str) -> np.ndarray:
        """Returns belief after the last scored turn of every rollout; NaN where its question has no belief.

        `setting` is the setting that reads it, named in errors.

        Raises:
            ValueError: one is missing.
        """
        if self.last_belief_N.size != self.num_rollouts:
            raise ValueError(
                f"{setting} needs last_belief_N, the belief after the last scored turn of each rollout"
            )
        self._refuse(
            ~np.isfinite(self.last_belief_N) & ~self.without_belief_N,
            f"has no belief score, which {setting} needs",
        )
        return self.last_belief_N

    def _name(self, rollout: int) -> str:
        return str(rollout) if self.rollout_ids_N is None else str(self.rollout_ids_N[rollout])

    def _refuse(self, bad_N: np.ndarray, what: str) -> None:
        if bad_N.any():
            raise ValueError(f"rollout {self._name(int(np.argmax(bad_N)))} {what}")


@dataclass(frozen=True, eq=False)
class GroupStatistics:
    """One entry per group, in ascending order of its label."""

    group_P: np.ndarray
    size_P: np.ndarray
    """Rollouts."""
    outcome_mean_P: np.ndarray
    outcome_std_P: np.ndarray
    """Population standard deviation; exactly 0 for one rollout or equal outcomes."""
    gain_count_P: np.ndarray
    gain_mean_P: np.ndarray
    """Mean raw gain, without gated ones; NaN where the group has no gain."""
    gain_std_P: np.ndarray
    collapsed_outcome_P: np.ndarray
    """Under the outcome alone every advantage would be 0."""
    collapsed_P: np.ndarray
    """Every advantage is 0."""

    @property
    def collapsed_or_faint_P(self) -> np.ndarray:
        """`collapsed_P`, or collapsed under the outcome alone with gains of noise (`FAINT_GAIN_STD`)."""
        return self.collapsed_P | (self.collapsed_outcome_P & (self.gain_std_P < FAINT_GAIN_STD))


@dataclass(frozen=True, eq=False)
class Credit:
    """The advantages of a `TurnBatch` and how they came about: float64, in its order."""

    gains_M: np.ndarray
    """Raw gains; NaN on turns that bear none."""
    normalised_gains_M: np.ndarray
    """Normalised gains; 0 where gated, NaN on turns that bear none."""
    normalised_outcome_N: np.ndarray
    advantages_M: np.ndarray
    """A_i,t, for every decision token of the turn."""
    clip_scale_M: np.ndarray
    """Factor of the turn's clip bounds; 1 unless `turn_clip_scale` is set."""
    groups: GroupStatistics


def _optional(name: str, values, dtype, size: int) -> np.ndarray:
    return np.zeros(size, dtype) if np.size(values) == 0 else _sized(name, values, dtype, size)


def _sized(name: str, values, dtype, size: int) -> np.ndarray:
    array = np.asarray(values, dtype=dtype)
    if array.shape != (size,):
        raise ValueError(
            f"{name} has shape {array.shape}, expected ({size},): rewards and turns must have the same length"
        )
    return array
