"""A rollout as Rich renderables: what `igpo show` prints and `igpo browse` shows in its panes."""

from __future__ import annotations

import json
import re
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from pipeline.analysis.trajectories import Trajectory
from pipeline.terminal import visible
from pipeline.viewer.lanes import render_lanes
from pipeline.viewer.pieces import GOLD, belief_bar, with_golds

INDENT = (0, 0, 0, 3)
_TAG = re.compile(r"</?\w+>")


def render_trajectory(trajectory: Trajectory) -> RenderableType:
    """The whole rollout: question and verdict, the lanes of several agents, then its turns."""
    lanes = [render_lanes(trajectory)] if len(trajectory.agents) > 1 else []
    return Group(_heading(trajectory.episode), *lanes, render_turns(trajectory))


def render_turns(trajectory: Trajectory) -> RenderableType:
    """Every turn with its evidence (gold answers marked), belief, credit and seconds; `●` where it found new
    gold evidence.
    """
    episode, seconds = trajectory.episode, trajectory.episode["seconds"]
    footer = [] if seconds is None else [Text(f"{seconds:.2f} s from prompt to end", style="dim")]
    turns = [
        _turn(
            turn,
            listener,
            episode["golds"],
            trajectory.calls.get(turn["turn_index"], []),
            _credit(turn, parts, trajectory.unit, _why_no_gain(turn, episode)),
        )
        for turn, listener, parts in zip(
            trajectory.turns_T, trajectory.listeners_T, trajectory.parts_T, strict=True
        )
    ]
    return Group(*turns, Rule(style="dim"), *footer)


def golds_line(episode: dict[str, Any]) -> str:
    return " / ".join(visible(gold) for gold in episode["golds"])


def worth(episode: dict[str, Any]) -> str:
    """The rollout's scores on one line."""
    hops = "" if episode["hops"] is None else f", {episode['hops']} hops"
    scores = f"outcome {number(episode['outcome'], '+.2f')}, F1 {number(episode['f1_squad'], '.2f')}"
    return f"{scores}, gain in all {number(episode['gain_total'])}{hops}"


def verdict(episode: dict[str, Any]) -> Text:
    """Whether the answer is right, in words and colour, and the answer, on one line."""
    if episode["answer"] is None:
        return Text(f"no answer ({(episode['termination'] or 'unknown').replace('_', ' ')})", style="yellow")
    right = episode["em_squad"] == 1
    mark = ("✓ right", "green") if right else ("✗ wrong", "red")
    return Text.assemble(mark, "  ", visible(episode["answer"]).replace("\n", " "))


def _heading(episode: dict[str, Any]) -> RenderableType:
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    where = f"{episode['run_id']}, iteration {episode['iteration']}, {episode['split']}"
    facts.add_row("episode", Text(visible(f"{episode['episode_id']}  ({where})")))
    facts.add_row("question", Text(visible(episode["question"]), style="bold"))
    facts.add_row("gold", Text.assemble((golds_line(episode), GOLD)))
    facts.add_row("answer", verdict(episode))
    facts.add_row("worth", Text(worth(episode)))
    return facts


def _turn(
    turn: dict[str, Any],
    listener: str | None,
    golds: list[str],
    calls: list[dict[str, Any]],
    credit: RenderableType,
) -> RenderableType:
    by_call = _are_told_apart(calls, turn)
    title = _turn_title(turn, listener, f"{len(calls)} calls" if by_call else "")
    parts: list[RenderableType] = [Rule(title, align="left", style="dim")]
    parts.append(Padding(Text(visible(turn["decision_text"].strip()), style="italic"), INDENT))
    for problem in (turn["parse_error"], turn["tool_error"]):
        if problem:
            parts.append(Padding(Text(visible(problem), style="yellow"), INDENT))
    if by_call:
        parts += [Padding(_call(call, golds), INDENT) for call in calls]
        if besides := _besides(calls, turn["observation_text"]):
            parts.append(Padding(with_golds(visible(besides), golds), INDENT))
    elif turn["observation_text"].strip():
        cut = "\n(shortened to the token limit)" if turn["observation_cut"] else ""
        parts.append(
            Padding(
                with_golds(visible(turn["observation_text"].strip()), golds).append(cut, style="dim"), INDENT
            )
        )
    parts.append(Padding(credit, INDENT))
    return Group(*parts)


def _are_told_apart(calls: list[dict[str, Any]], turn: dict[str, Any]) -> bool:
    """Whether a turn has several calls, and not all that came back stands with the first of them."""
    if len(calls) < 2 or turn["observation_cut"]:
        return False
    return calls[0]["result_text"] != turn["observation_text"]


def _call(call: dict[str, Any], golds: list[str]) -> Text:
    """A call and its own result."""
    arguments = json.loads(call["arguments"])
    asked = arguments.get("query", call["arguments"]) if isinstance(arguments, dict) else call["arguments"]
    text = Text.assemble(visible(call["tool"]), ": ", (visible(str(asked)), "bold"), "\n")
    if found := call["result_text"].strip():
        return text.append_text(with_golds(visible(found), golds))
    return text.append("(empty)", style="dim")


def _besides(calls: list[dict[str, Any]], observation: str) -> str:
    """What came back that is no call's result, but for tags."""
    for call in calls:
        observation = observation.replace(call["result_text"].strip(), "", 1)
    return _TAG.sub("", observation).strip()


def _turn_title(turn: dict[str, Any], listener: str | None, calls: str = "") -> Text:
    """Who does what; of several `calls` their number."""
    what = calls or visible(turn["tool"] or turn["action"])
    who = f"turn {turn['turn_index']} {turn['agent']}" + (f" → {listener}" if listener else "")
    title = Text.assemble((visible(who), "bold cyan"), "  ", what)
    said = turn["query"] or turn["answer"]
    if said and not calls:
        title.append(": ").append(visible(said), style="bold")
    if turn["gold_hit"]:
        title.append("  ● evidence", style="green")
    return title


def _why_no_gain(turn: dict[str, Any], episode: dict[str, Any]) -> str | None:
    """Why a turn that was credited has no gain; an answer never has one."""
    if turn["gain"] is not None or turn["advantage"] is None or turn["action"] == "answer":
        return None
    if not episode["scored_golds"]:
        return "no gold answer is short enough to score"
    if turn["action"] == "cut_off":
        return "the turn was cut off"
    return "last turn" if turn["is_final"] else None


def _credit(
    turn: dict[str, Any], parts: tuple[float, float] | None, unit: str, no_gain: str | None
) -> RenderableType:
    """Belief, gain in `unit` or why there is none, the advantage and its `parts` (of the gains, of the
    outcome), and seconds.
    """
    lines = [Text(f"no gain: {no_gain}", style="dim")] if no_gain else []
    if turn["gain"] is not None:
        belief = Text(f"belief {turn['belief_before']:.3f} ").append_text(
            belief_bar(turn["belief_before"], turn["belief_after"])
        )
        lines.append(belief.append(f" {turn['belief_after']:.3f}"))
    numbers = Text()
    for name, after in (("gain", unit), ("advantage", "")):
        if turn[name] is not None:
            numbers.append(f"{name} ").append(number(turn[name]), style=_sign_style(turn[name]))
            numbers.append(f"{after}   ")
    if parts is not None:
        gains, outcome = (number(part) for part in parts)
        lines.append(numbers.append(f"= {gains} gains from here on, {outcome} outcome", style="dim"))
        numbers = Text()
    measured = {phase: turn[f"seconds_{phase}"] for phase in ("generate", "tool", "score")}
    seconds = ", ".join(f"{phase} {value:.2f}" for phase, value in measured.items() if value is not None)
    length = f"{turn['decision_tokens']} tokens"
    lines.append(numbers.append(f"{seconds} s, {length}" if seconds else length, style="dim"))
    return Group(*lines)


def _sign_style(value: float) -> str:
    return "green" if value > 0 else "red" if value < 0 else ""


def number(value: float | None, form: str = "+z.3f") -> str:
    return "–" if value is None else format(value, form)
