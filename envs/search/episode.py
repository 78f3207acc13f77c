"""One rollout as a state machine: it tracks the speaker, carries out decisions and ends the rollout.

It uses no RLlib, no engine and no threads. `decide` returns the tool calls to carry out, and `observe` reads
their results. `SearchEnv` wraps both for `reset` and `step`. The rollout loop calls them itself, so tools run
while other rollouts decode.

    episode = SearchEpisode(task, question, rollout_id="r0", group_id="g0")
    observation = episode.start()                     # the first prompt, and the agent that reads it
    while observation is not None:
        ids = ...                                     # the agent's decision
        for call in episode.decide(ids, completed=True):
            task.tools(call)
        observation = episode.observe()               # None: the rollout has ended

(definitions: Objects, Outcome)
"""

from __future__ import annotations

from dataclasses import dataclass

from envs.data.answer_metrics import answer_metrics
from envs.data.question import Question
from envs.search.protocols.base import Action
from envs.search.roles import RoleSettings
from envs.search.task import SearchTask
from envs.search.tools.builtin import searched_text
from envs.search.trajectory import ActionKind, Rollout, Termination, ToolCall, Turn

PERMISSIONS = {ActionKind.TOOL: "search", ActionKind.ANSWER: "answer", ActionKind.MESSAGE: "message"}
"""The entry of a role's `actions` that permits each kind of action."""
MAX_TOKEN_CHARACTERS = 256
"""No tokenizer has a longer token; the longest are runs of blanks."""


@dataclass(slots=True)
class AgentObservation:
    """The observation of the agent that speaks next: token ids to append to its context."""

    agent: str
    ids: list[int]


@dataclass(slots=True)
class _Context:
    """One agent's context so far: its length in tokens and its last decision (empty before the first)."""

    length: int
    last_decision: list[int]


class SearchEpisode:
    """One rollout of `question`. Call `start`, then `decide` and `observe` in turn until `done`.

    Args:
        task: the parts that all episodes share.
        question: the question to answer.
        rollout_id: unique id of the rollout.
        group_id: id of the group; its rollouts share the question.
        split: "train" or "heldout".

    Attributes:
        rollout: the trace so far.
        history: token ids that belief is scored on: the answering role's prompt, then all turns and
            observations in time order, as first tokenised (definitions: Belief and information gain).
        agent: the agent that speaks next.
        templates: the gold answers to score, and the suffixes that score them; none where the question is
            played without belief.
        max_decision_tokens: the token budget of the next decision.
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
        self._limit = task.token_limit(self.templates)

    def start(self) -> AgentObservation | None:
        """Starts the rollout with the first speaker's prompt.

        Returns:
            None where the prompt leaves no room for a decision: the rollout has ended, without a turn, at the
            token limit.
        """
        prompt = AgentObservation(self.agent, self._open_context(self.agent))
        self.max_decision_tokens = self._room_for_decision()
        if self.max_decision_tokens >= 1:
            return prompt
        self._finish(None, Termination.TOKEN_LIMIT)
        return None

    def decide(self, ids: list[int], *, completed: bool) -> list[ToolCall]:
        """Takes the speaker's decision.

        Args:
            ids: the token ids that the engine sampled.
            completed: False where the token budget ended the decision before its stop token.

        Returns:
            The tool calls to carry out before `observe`; often none.
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

    def observe(self) -> AgentObservation | None:
        """Makes the next observation, once the tool calls of `decide` have been carried out.

        Returns:
            None where the rollout has ended.
        """
        turn = self.rollout.turns[-1]
        if turn.action is ActionKind.TOOL:
            self._mark_gold(turn)
        termination = self._termination()
        if termination is None:
            observation = self._next_observation(turn)
            self.max_decision_tokens = self._room_for_decision()
            if self.max_decision_tokens >= 1:
                return observation
            malformed = turn.action is ActionKind.MALFORMED  # the first that applies (definitions: Outcome)
            termination = Termination.MALFORMED if malformed else Termination.TOKEN_LIMIT
        self._finish(turn, termination)
        return None

    def _permitted(self, action: Action, role: RoleSettings) -> Action:
        wanted = PERMISSIONS.get(action.kind)
        if wanted is None or wanted in role.actions:
            return action
        if action.kind is ActionKind.ANSWER and "draft" in role.actions:
            return Action(ActionKind.MESSAGE, text=action.text)
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

    def _next_observation(self, turn: Turn) -> AgentObservation:
        speaker, action = self.agent, self._action
        listener = self._task.next_speaker(self._roles[speaker], action.kind, self.rollout)
        if action.kind is ActionKind.TOOL:
            call = turn.tool_calls[0]
            sender, text = ("error", call.error) if call.error else ("tool", call.result_text)
        elif action.kind is ActionKind.MESSAGE:
            sender, text = speaker, action.text
        else:
            sender, text = "error", action.error
        # Cut before it is tokenised: a tokenizer takes seconds and gigabytes for a text of megabytes.
        whole, text = text, text[: MAX_TOKEN_CHARACTERS * self._settings.max_observation_tokens]
        # A server may send half of a surrogate pair, which no tokenizer accepts.
        text = text.encode(errors="replace").decode()
        prompt = [] if listener in self._contexts else self._open_context(listener)
        room = min(self._shared_room(listener), self._shared_room(speaker), self._own_room(listener))
        limit = max(0, min(self._settings.max_observation_tokens, room))
        context = self._contexts[listener]
        shown = self._protocol.observation(
            text, decision_ids=context.last_decision, sender=sender, max_tokens=limit
        )
        context.length += len(shown.ids)
        turn.observation_text, turn.observation_cut = shown.text, shown.cut or len(text) < len(whole)
        turn.neutralised_tags, turn.num_observation_tokens = shown.neutralised_tags, len(shown.ids)
        self.history += self._in_history(
            turn, text, sender, limit, shown.ids if listener == speaker else None
        )
        self.agent = listener
        return AgentObservation(listener, prompt + shown.ids)

    def _in_history(
        self, turn: Turn, text: str, sender: str, limit: int, shown_ids: list[int] | None
    ) -> list[int]:
        """The ids by which the observation continues `history`.

        A message is in the history already, as the decision of its writer, so only the next turn is opened.
        `shown_ids` are the ids that the speaker itself sees; None where another agent sees the observation.
        """
        decision = self._contexts[turn.agent].last_decision
        if turn.action is ActionKind.MESSAGE:
            return self._protocol.reopen(decision)
        if shown_ids is not None:
            return shown_ids
        return self._protocol.observation(text, decision_ids=decision, sender=sender, max_tokens=limit).ids

    def _mark_gold(self, turn: Turn) -> None:
        gold = set(self.rollout.question.gold_document_ids)
        retrieved = {document for call in turn.tool_calls for document in call.document_ids}
        turn.gold_hit = bool((retrieved - self._found) & gold) if gold else None
        self._found |= retrieved

    def _finish(self, turn: Turn | None, termination: Termination) -> None:
        rollout, settings = self.rollout, self._settings
        rollout.termination = termination
        rollout.answer = turn.answer if turn and termination is Termination.ANSWERED else None
        rollout.metrics = answer_metrics(rollout.answer, rollout.question.golds)
        if termination is Termination.ANSWERED:
            rollout.outcome = float(self._task.reward(rollout, rollout.answer or ""))
        else:
            rollout.outcome = settings.truncation_penalty if rollout.is_truncated else settings.format_penalty
        self.done = True

    def _open_context(self, agent: str) -> list[int]:
        ids = self._task.prompt(self._roles[agent], self.rollout.question)
        self._contexts[agent] = _Context(length=len(ids), last_decision=[])
        return ids

    def _room_for_decision(self) -> int:
        room = min(self._shared_room(self.agent), self._own_room(self.agent))
        return min(self._settings.max_turn_tokens, room)

    def _shared_room(self, agent: str) -> int:
        """Tokens until the agent's context, or the history that belief is scored on, is full."""
        return self._limit - max(len(self.history), self._contexts[agent].length)

    def _own_room(self, agent: str) -> int:
        return self._task.own_limit(self._roles[agent]) - self._contexts[agent].length
