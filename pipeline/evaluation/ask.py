"""`igpo ask`: one question answered by a saved policy, each turn shown as soon as it is written."""

from __future__ import annotations

import math
from copy import copy
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.padding import Padding
from rich.text import Text

from envs.data.answer_metrics import outcome_function
from envs.data.question import Question
from envs.errors import InputError
from envs.search.trajectory import ActionKind, Rollout, Turn
from pipeline.terminal import Console

if TYPE_CHECKING:
    from envs.engine.base import Generate, Generated, RolloutEngine
    from envs.search.episode import SearchEpisode
    from pipeline.evaluation.saved_policy import Policy


def ask(
    policy: Policy,
    text: str,
    console: Console,
    *,
    golds: list[str] | None = None,
    temperature: float = 0.0,
    seed: int = 0,
) -> Rollout:
    """Answers `text`, printing each turn, and returns the rollout.

    With `golds`, it also prints the belief in the right answer after each turn.

    Raises:
        InputError: `text` is empty.
    """
    from envs.engine.base import Generate
    from envs.runner.job import turn_seed
    from envs.search.environment import SearchEnv

    if not text.strip():
        raise InputError("the question is empty.")
    task = copy(policy.task)
    task.settings = task.settings.model_copy(update={"outcome": "em_squad"})
    task.outcome = outcome_function("em_squad")  # one's own may read what this question does not have
    env = SearchEnv(task)
    # Without a gold answer, a placeholder takes the room of the scoring suffix.
    question = Question(id="ask", text=text, golds=golds or ["unknown"])
    observations, _ = env.reset(options={"question": question})
    episode = env.episode
    contexts: dict[str, list[int]] = {}
    console.print(Text.assemble(("question  ", "bold"), text))
    if unknown := unknown_words(policy.task.protocol.tokenizer, text):
        known = next(iter(policy.task.heldout_questions), None)
        like = f"; it answers questions like: {known.text}" if known else ""
        told = f"          the policy does not know {', '.join(unknown)}{like}"
        console.print(Text(told, style="yellow"), soft_wrap=True)
    has_belief = bool(episode.templates.golds_K)
    if golds and not has_belief:
        console.print(Text("          the right answer is too long to score belief in it", style="dim"))
    belief = _belief(policy, episode) if golds and has_belief else None
    if belief is not None:
        console.print(Text(f"          belief in the right answer {belief:.3f}", style="dim"))
    while not episode.done:
        for agent, ids in observations.items():
            contexts.setdefault(agent, []).extend(ids.tolist())
        speaker = episode.agent
        engine = policy.loop.engines[policy.task.policy_of(speaker)]
        request = Generate(
            f"ask/{episode.rollout.num_turns}",
            context_ids=contexts[speaker],
            max_tokens=episode.max_decision_tokens,
            stop_token_ids=policy.task.protocol.stop_token_ids,
            temperature=temperature,
            seed=turn_seed((seed,), episode.rollout.num_turns),
            stop_strings=policy.task.protocol.stop_strings,
        )
        with console.status(f"{speaker} is writing turn {episode.rollout.num_turns} ..."):
            decision = _generate(engine, request)
        contexts[speaker] += decision.ids
        observations, *_ = env.step({speaker: np.asarray(decision.ids, dtype=np.int32)})
        turn = episode.rollout.turns[-1]
        _show(turn, console)
        if belief is not None and not episode.done:
            after = _belief(policy, episode)
            gain = math.log(after) - math.log(belief)
            console.print(
                Text(f"          belief {belief:.3f} → {after:.3f}, gain {gain:+z.3f}", style="dim")
            )
            belief = after
    rollout = episode.rollout
    if rollout.answer is None:
        console.print(Text(f"no answer ({str(rollout.termination).replace('_', ' ')})", style="yellow"))
    elif golds:
        right = rollout.metrics["em_squad"] == 1.0
        console.print(
            Text("right", style="green") if right else Text(f"wrong; right: {' / '.join(golds)}", style="red")
        )
    return rollout


def _show(turn: Turn, console: Console) -> None:
    head = Text(f"turn {turn.index} {turn.agent}", style="bold cyan")
    match turn.action:
        case ActionKind.TOOL:
            call = turn.tool_calls[0]
            query = turn.query if turn.query is not None else str(call.arguments)
            head.append(f"  {call.tool}: ", style="default").append(query)
        case ActionKind.ANSWER:
            head.append("  answer: ", style="default").append(turn.answer or "", style="bold green")
        case ActionKind.MESSAGE:
            head.append("  message", style="default")
        case _:
            error = f": {turn.parse_error}" if turn.parse_error else ""
            head.append(f"  {turn.action.replace('_', ' ')}{error}", style="yellow")
    console.print(head)
    console.print(Padding(Text(turn.decision_text.strip(), style="italic"), (0, 0, 0, 10)))
    if turn.observation_text.strip():
        console.print(Padding(Text(turn.observation_text.strip(), style="dim"), (0, 0, 0, 10)))


def unknown_words(tokenizer: Any, text: str) -> list[str]:
    """The words of `text` that the tokenizer has no token for; none where it can spell any word."""
    unknown = tokenizer.unk_token_id
    if unknown is None:
        return []
    return [word for word in text.split() if unknown in tokenizer.encode(word, add_special_tokens=False)]


def _belief(policy: Policy, episode: SearchEpisode) -> float:
    """b_t after the history so far (definitions: Belief and information gain)."""
    from envs.runner.belief import BeliefQuery

    history = np.asarray(episode.history, dtype=np.int32)
    ((belief,),) = policy.beliefs([BeliefQuery([history], episode.templates.suffixes_K)])
    return float(belief)


def _generate(engine: RolloutEngine, request: Generate) -> Generated:
    """Returns the answer of an idle engine."""
    engine.submit(request)
    results: list[Any] = []
    while not results:
        results += engine.step()
    return results[0]
