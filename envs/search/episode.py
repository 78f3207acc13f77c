"""One rollout as a state machine: whose turn it is, what a decision does, what is seen next, and how it ends
(SPEC §1-3).

No RLlib, no engine, no threads: `decide` says which tools to call, `observe` takes what they returned.
`SearchEnv` wraps it for `reset`/`step`; the rollout loop calls the two halves itself, so that tools run while
other rollouts decode.
"""

from __future__ import annotations

from dataclasses import dataclass

from envs.data.answer_metrics import answer_metrics
from envs.data.question import Question
from envs.errors import InputError
from envs.search.protocols.base import Action
from envs.search.roles import RoleSettings, next_speaker
from envs.search.task import SearchTask
from envs.search.tools.builtin import searched_text
from envs.search.trajectory import ActionKind, Rollout, Termination, ToolCall, Turn

PERMISSIONS = {ActionKind.TOOL: "search", ActionKind.ANSWER: "answer", ActionKind.MESSAGE: "message"}
"""What a role must have in its `actions` to do it."""


@dataclass(slots=True)
class Seen:
    """What the next speaker sees: `ids` to append to its context."""

    agent: str
    ids: list[int]


@dataclass(slots=True)
class _Context:
    """One agent's context so far: its length and its last decision (empty before the first)."""

    length: int
    last_decision: list[int]


class SearchEpisode:
    """One rollout of `question`. Call `start`, then `decide` and `observe` in turn until `done`.

    Attributes:
        rollout: the trace so far.
        history: ids that belief is scored on: the answering role's prompt, then all turns and observations in
            time order, as first tokenised (SPEC §2).
        max_decision_tokens: how many tokens the next decision may take.
        done: whether the rollout has ended; then `rollout.termination` and `rollout.outcome` are set.
    """

    def __init__(
        self, task: SearchTask, question: Question, *, rollout_id: str, group_id: str, split: str = "train"
    ):
        self._task = task
        self._settings = task.settings
        self._protocol = task.protocol
        self._roles = task.roles
        self._contexts: dict[str, _Context] = {}
        self._found: set[str] = set()
        self._action = Action(ActionKind.CUT_OFF)
        self._cut_off = False
        self.templates = task.answer_templates(question)
        self.rollout = Rollout(
            rollout_id, group_id, question, split=split, scored_golds_K=self.templates.golds_K
        )
        self.history: list[int] = task.prompt(task.answering_role, question)
        self.agent = task.settings.roles[0].name
        self.max_decision_tokens = 0
        self.done = False
        # Room for the longest scoring suffix and the glue of one observation is reserved, so every completed
        # turn is scored.
        self._limit = self._settings.max_context_tokens - self.templates.longest - task.glue

    def start(self) -> Seen:
        """The first speaker's prompt.

        Raises:
            InputError: the prompt leaves no room for a decision.
        """
        seen = Seen(self.agent, self._open_context(self.agent))
        self.max_decision_tokens = self._room_for_decision()
        if self.max_decision_tokens < 1:
            raise InputError(
                f"question {self.rollout.question.id}: its prompt of {len(seen.ids)} tokens and scoring "
                "suffix of "
                f"{self.templates.longest} leave no room in "
                f"max_context_tokens={self._settings.max_context_tokens}: raise it"
            )
        return seen

    def decide(self, ids: list[int], *, completed: bool) -> list[ToolCall]:
        """Takes the speaker's decision; `completed` is False where it was cut before its stop token.

        Returns:
            the tool calls to carry out before `observe`; empty where there is nothing to call.
        """
        role = self._roles[self.agent]
        self._cut_off = not completed
        self._action = (
            self._permitted(self._protocol.parse(ids), role) if completed else Action(ActionKind.CUT_OFF)
        )
        action = self._action
        turn = Turn(
            index=self.rollout.num_turns,
            agent=role.name,
            policy=role.policy,
            decision_text=self._protocol.text(ids),
            action=action.kind,
            query=searched_text(action.arguments) if action.kind is ActionKind.TOOL else None,
            answer=action.text if action.kind is ActionKind.ANSWER else None,
            parse_error=(action.error or None) if action.kind is ActionKind.MALFORMED else None,
            num_decision_tokens=len(ids),
        )
        self.rollout.turns.append(turn)
        self.history += ids
        context = self._contexts[self.agent]
        context.length += len(ids)
        context.last_decision = ids
        if action.kind is ActionKind.TOOL:
            turn.tool_calls = [ToolCall(action.tool or "", action.arguments, error=action.error or None)]
        return [call for call in turn.tool_calls if call.error is None]

    def observe(self) -> Seen | None:
        """After the tool calls of `decide` were carried out: what the next speaker sees, or None where the
        rollout has ended.
        """
        turn = self.rollout.turns[-1]
        if turn.action is ActionKind.TOOL:
            self._mark_gold(turn)
        termination = self._termination()
        if termination is None:
            seen = self._next_observation(turn)
            self.max_decision_tokens = self._room_for_decision()
            if self.max_decision_tokens >= 1:
                return seen
            termination = Termination.TOKEN_LIMIT
        self._finish(turn, termination)
        return None

    def _permitted(self, action: Action, role: RoleSettings) -> Action:
        wanted = PERMISSIONS.get(action.kind)
        if wanted is None or wanted in role.actions:
            return action
        return Action(
            ActionKind.MALFORMED, error=f"{role.name} may not {wanted}, only {', '.join(role.actions)}"
        )

    def _termination(self) -> Termination | None:
        action = self._action
        if self._cut_off:
            return Termination.TOKEN_LIMIT
        if action.kind is ActionKind.ANSWER:
            return Termination.ANSWERED
        is_last = self.rollout.num_turns >= self._settings.max_turns
        if action.kind is ActionKind.MALFORMED and (action.ends_rollout or is_last):
            return Termination.MALFORMED
        return Termination.TURN_LIMIT if is_last else None

    def _next_observation(self, turn: Turn) -> Seen:
        speaker, action = self.agent, self._action
        listener = next_speaker(self._roles[speaker], action.kind, self._settings.roles)
        if action.kind is ActionKind.TOOL:
            call = turn.tool_calls[0]
            sender, text = ("error", call.error) if call.error else ("tool", call.result_text)
        elif action.kind is ActionKind.MESSAGE:
            sender, text = speaker, action.text
        else:
            sender, text = "error", action.error
        text = text.encode(
            errors="replace"
        ).decode()  # a server may send half a surrogate pair, which no tokenizer takes
        prompt = [] if listener in self._contexts else self._open_context(listener)
        room = self._room(listener) if listener == speaker else min(self._room(listener), self._room(speaker))
        limit = max(0, min(self._settings.max_observation_tokens, room))
        context = self._contexts[listener]
        seen = self._protocol.observation(
            text, decision_ids=context.last_decision, sender=sender, max_tokens=limit
        )
        context.length += len(seen.ids)
        turn.observation_text, turn.observation_cut = seen.text, seen.cut
        turn.neutralised_tags, turn.num_observation_tokens = seen.neutralised_tags, len(seen.ids)
        self.history += self._in_history(turn, text, sender, limit, seen.ids if listener == speaker else None)
        self.agent = listener
        return Seen(listener, prompt + seen.ids)

    def _in_history(
        self, turn: Turn, text: str, sender: str, limit: int, seen_ids: list[int] | None
    ) -> list[int]:
        """The observation as belief's history carries it.

        A message stands there already, as the decision it was.
        """
        decision = self._contexts[turn.agent].last_decision
        if turn.action is ActionKind.MESSAGE:
            return self._protocol.reopen(decision)
        if seen_ids is not None:
            return seen_ids
        return self._protocol.observation(text, decision_ids=decision, sender=sender, max_tokens=limit).ids

    def _mark_gold(self, turn: Turn) -> None:
        gold = set(self.rollout.question.gold_document_ids)
        retrieved = {document for call in turn.tool_calls for document in call.document_ids}
        turn.gold_hit = bool((retrieved - self._found) & gold) if gold else None
        self._found |= retrieved

    def _finish(self, turn: Turn, termination: Termination) -> None:
        rollout, settings = self.rollout, self._settings
        rollout.termination = termination
        rollout.answer = turn.answer if termination is Termination.ANSWERED else None
        rollout.metrics = answer_metrics(rollout.answer, rollout.question.golds)
        if termination is Termination.ANSWERED:
            rollout.outcome = float(self._task.outcome(rollout.answer or "", rollout.question.golds))
        else:
            rollout.outcome = settings.truncation_penalty if rollout.is_truncated else settings.format_penalty
        self.done = True

    def _open_context(self, agent: str) -> list[int]:
        ids = self._task.prompt(self._roles[agent], self.rollout.question)
        self._contexts[agent] = _Context(length=len(ids), last_decision=[])
        return ids

    def _room_for_decision(self) -> int:
        return min(self._settings.max_turn_tokens, self._room(self.agent))

    def _room(self, agent: str) -> int:
        return self._limit - max(len(self.history), self._contexts[agent].length)
