"""The rollout loop: advances many rollouts at once, so none waits for another's turn, tool or score.

One thread steps the engines. When a turn of a rollout ends, other threads carry out its tool calls while the
engines decode other rollouts; tools that answer at once are called directly. Belief scoring is a request to
an engine like any other, so it overlaps with both. One rollout of two turns:

    Generate turn 0 | ScoreAnswer after the prompt
    tools of turn 0
    Generate turn 1 | ScoreAnswer after turn 0
    the answer ends the rollout; the final turn is not scored
"""

from __future__ import annotations

import queue
import time
from collections import defaultdict
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from envs.engine.base import Generate, Generated, RolloutEngine, Scored
from envs.runner.belief import BeliefQuery, enter_scores
from envs.runner.episode_record import EpisodeRecord
from envs.runner.job import RolloutJob, turn_seed
from envs.runner.score_requests import ScoreRequests
from envs.search.episode import AgentObservation, SearchEpisode
from envs.search.task import SearchTask
from envs.search.tools.base import RunningCall


@dataclass
class LoopSeconds:
    """Wall-clock seconds of one call of `run`. The time of an engine step is divided among its requests."""

    generate: float = 0.0
    score: float = 0.0
    tools: float = 0.0
    """Time in which the engines were idle, because every running rollout waited for its tools."""
    host: float = 0.0
    """Parsing, tokenising, tools that answer at once, bookkeeping."""


@dataclass(eq=False)
class _Live:
    """A rollout in progress."""

    job: RolloutJob
    state: SearchEpisode
    record: EpisodeRecord
    started: float
    contexts: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    turn_started: float = 0.0
    open_scores: int = 0
    ended: bool = False
    scores: dict[tuple[int, int], float] = field(default_factory=dict)
    """s_t(a^k) by (turn, alias); turn -1 is the prompt alone."""
    unscored_contexts: list[np.ndarray] = field(default_factory=list)
    """The histories to score (prompt, then each gain-bearing turn), where the learner's side scores them."""

    @property
    def is_scored(self) -> bool:
        return self.job.score_beliefs and not self.state.rollout.without_belief

    def see(self, observation: AgentObservation) -> None:
        self.contexts[observation.agent] += observation.ids
        self.record.see(observation.agent, observation.ids)


class RolloutLoop:
    """Makes rollouts with one engine per policy.

    Args:
        task: the parts that the episodes share.
        engines: {policy id: engine}, with the policy of every role.
        scores_on_engine: whether the engines score belief. If not, records carry a `BeliefQuery` for the
            learner's side.
    """

    def __init__(self, task: SearchTask, engines: dict[str, RolloutEngine], *, scores_on_engine: bool = True):
        self.task = task
        self.engines = engines
        self.scores_on_engine = scores_on_engine

    def run(self, jobs: list[RolloutJob]) -> tuple[list[EpisodeRecord], LoopSeconds]:
        """Makes the rollouts of `jobs`.

        Returns:
            Their records, in the order of `jobs`, and the time spent.

        Raises:
            ValueError: two jobs have the same rollout id.
            RuntimeError: a score is not finite.
        """
        if len({job.rollout_id for job in jobs}) != len(jobs):
            raise ValueError("rollout ids must be different")
        return _Run(self, jobs).finish()


class _Run:
    """The state of one call of `RolloutLoop.run`."""

    def __init__(self, loop: RolloutLoop, jobs: list[RolloutJob]):
        self.loop, self.task, self.engines = loop, loop.task, loop.engines
        self.steppers = list({id(engine.stepped): engine for engine in loop.engines.values()}.values())
        """One engine of those that a step advances together."""
        self.seconds = LoopSeconds()
        self.tools_done: queue.SimpleQueue[Future] = queue.SimpleQueue()
        self.open_calls: dict[Future, tuple[_Live, RunningCall]] = {}
        """Running tool calls, the oldest first."""
        self.open_tools: dict[_Live, int] = {}
        """Number of them that each rollout waits for."""
        self.generating: dict[str, _Live] = {}
        """Request id to the rollout whose turn is being written."""
        self.scores: ScoreRequests[tuple[_Live, int, float]] = ScoreRequests()
        """Asked for by rollout, turn and time of submission."""
        self.live = [self._start(job) for job in jobs]
        self.num_open = sum(not live.ended for live in self.live)

    def finish(self) -> tuple[list[EpisodeRecord], LoopSeconds]:
        started = time.perf_counter()
        for live in self.live:
            if not live.ended:
                self._request_turn(live)
            if live.is_scored and not live.ended:
                self._request_scores(live, -1)
        while self.num_open:
            self._step_engines()
            self._collect_tools(block=not any(engine.is_busy for engine in self.engines.values()))
        records = [self._record(live) for live in self.live]
        seconds = self.seconds
        seconds.host = time.perf_counter() - started - seconds.generate - seconds.score - seconds.tools
        return records, seconds

    def _start(self, job: RolloutJob) -> _Live:
        state = SearchEpisode(
            self.task, job.question, rollout_id=job.rollout_id, group_id=job.group_id, split=job.split
        )
        live = _Live(job, state, EpisodeRecord(state.rollout), started=time.perf_counter())
        prompt = state.start()
        if prompt is None:
            live.ended = True
        else:
            live.see(prompt)
        return live

    def _request_turn(self, live: _Live) -> None:
        state = live.state
        turn = state.rollout.num_turns
        request_id = f"turn/{live.job.rollout_id}/{turn}"
        live.turn_started = time.perf_counter()
        self.generating[request_id] = live
        self.engines[self.task.policy_of(state.agent)].submit(
            Generate(
                request_id,
                context_ids=list(live.contexts[state.agent]),
                max_tokens=state.max_decision_tokens,
                stop_token_ids=self.task.protocol.stop_token_ids,
                temperature=live.job.temperature,
                seed=turn_seed(live.job.seed_parts, turn),
                stop_strings=self.task.protocol.stop_strings,
            )
        )

    def _request_scores(self, live: _Live, turn: int) -> None:
        """Requests the score of every alias after `turn` (-1: after the prompt alone)."""
        context = live.state.history
        if not self.loop.scores_on_engine:
            live.unscored_contexts.append(np.asarray(context, dtype=np.int32))
            return
        engine = self.engines[self.task.answering_role.policy]
        name, asker = f"score/{live.job.rollout_id}/{turn}", (live, turn, time.perf_counter())
        scores_K = self.scores.ask(engine, name, context, live.state.templates.suffixes_K, asker)
        for k, score in enumerate(scores_K):
            if score is None:
                live.open_scores += 1
            else:
                live.scores[turn, k] = score

    def _step_engines(self) -> None:
        for engine in self.steppers:
            if not engine.is_busy:
                continue
            num_generating, started = self._num_generating(engine), time.perf_counter()
            results = engine.step()
            elapsed = time.perf_counter() - started
            num_scored = sum(isinstance(result, Scored) for result in results)
            share = num_scored / max(1, num_scored + num_generating)
            self.seconds.score += share * elapsed
            self.seconds.generate += (1 - share) * elapsed
            for result in results:
                if isinstance(result, Scored):
                    self._take_score(result)
                else:
                    self._take_decision(self.generating.pop(result.request_id), result)

    def _num_generating(self, engine: RolloutEngine) -> int:
        """Counts the open turns that a step of `engine` advances, also those of other policies on it."""
        policies = (self.task.policy_of(live.state.agent) for live in self.generating.values())
        return sum(self.engines[policy].stepped is engine.stepped for policy in policies)

    def _take_score(self, scored: Scored) -> None:
        for (live, turn, submitted), k in self.scores.take(scored):
            live.scores[turn, k] = scored.score
            live.open_scores -= 1
            if turn >= 0:
                live.state.rollout.turns[turn].seconds_score += time.perf_counter() - submitted
            self._close_if_complete(live)

    def _take_decision(self, live: _Live, decision: Generated) -> None:
        state, ids = live.state, decision.ids
        live.contexts[state.agent] += ids
        calls = state.decide(ids, completed=self.task.protocol.is_complete(ids))
        turn = state.rollout.turns[-1]
        turn.seconds_generate = time.perf_counter() - live.turn_started
        turn.weights_version = self.engines[turn.policy].weights_version
        live.record.write(turn.agent, decision, turn.weights_version)
        waiting = [call for call in calls if not self.task.tools.call_at_once(call)]
        if not waiting:
            self._observe(live)
            return
        self.open_tools[live] = len(waiting)
        for call in waiting:
            running = self.task.tools.start(call)
            self.open_calls[running.future] = live, running
            running.future.add_done_callback(self.tools_done.put)

    def _collect_tools(self, *, block: bool) -> None:
        """Takes the results of tool calls and goes on with their rollouts.

        With `block` it waits for the first result, at most until the oldest call reaches its time limit.
        """
        while self.open_calls:
            started = time.perf_counter()
            oldest, (_, running) = next(iter(self.open_calls.items()))
            left = running.started + self.task.tools.timeout - started
            try:
                future = self.tools_done.get(block, max(0.0, left))
            except queue.Empty:
                if left > 0 and not block:
                    return
                future = oldest
            if block:
                self.seconds.tools += time.perf_counter() - started
                block = False
            if future not in self.open_calls:
                continue  # a call that reached its time limit before
            live, running = self.open_calls.pop(future)
            self.task.tools.finish(running)
            self.open_tools[live] -= 1
            if not self.open_tools[live]:
                del self.open_tools[live]
                self._observe(live)

    def _observe(self, live: _Live) -> None:
        state = live.state
        turn = state.rollout.turns[-1]
        if turn.tool_calls:
            turn.seconds_tool = max(call.seconds for call in turn.tool_calls)
        seen = state.observe()
        if seen is None:
            live.ended = True
            self._close_if_complete(live)
            return
        live.see(seen)
        if live.is_scored:
            self._request_scores(live, turn.index)
        self._request_turn(live)

    def _close_if_complete(self, live: _Live) -> None:
        if live.ended and not live.open_scores:
            live.state.rollout.seconds = time.perf_counter() - live.started
            self.num_open -= 1

    def _record(self, live: _Live) -> EpisodeRecord:
        """Returns the record of a rollout that has ended and is scored."""
        rollout = live.state.rollout
        if not live.is_scored or not rollout.turns:
            return live.record
        if not self.loop.scores_on_engine:
            live.record.query = BeliefQuery(live.unscored_contexts, live.state.templates.suffixes_K)
        else:
            aliases = range(len(rollout.scored_golds_K))
            moments = (-1, *(turn.index for turn in rollout.gain_bearing_turns))
            scores_T1K = np.array([[live.scores[moment, k] for k in aliases] for moment in moments])
            enter_scores(rollout, scores_T1K, "current")
        return live.record
