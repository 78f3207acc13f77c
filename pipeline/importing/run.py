"""`import_rollouts`: a run directory of rollouts that another framework made.

All that reads a rollout log reads it: SQL, `show`, `browse`, `report`, `recredit`.
"""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from algorithms.credit import Preset, turn_batch
from algorithms.credit.own_estimator import assign
from algorithms.igpo.iteration_record import IterationRecord, group_credits, turn_credits
from algorithms.igpo.learner.credit_input import rollout_facts, scored_rollout
from algorithms.igpo.metrics import training_metrics
from envs.data.question import AliasRule
from envs.engine.base import EngineSettings
from envs.engine.models import naming_shipped_code, resolve_model
from envs.errors import InputError
from envs.search.protocols.build import load_tokenizer
from envs.search.trajectory import Rollout
from pipeline.experiment.experiment import IMPORT, check_name
from pipeline.experiment.resolved import config_hash
from pipeline.importing.belief import PLACE, BeliefQueries, open_engine, score
from pipeline.importing.conversation import Conversation, read_conversations
from pipeline.importing.rollout import make_rollout, uses_answer_tags
from pipeline.importing.told import what_was_left_out, what_was_read
from pipeline.rollout_log.rows import RunInfo
from pipeline.rollout_log.writer import RolloutLogWriter
from pipeline.run_directory.directory import FINISHED, RunDirectory
from pipeline.run_directory.provenance import facts

MAX_ANSWER_TOKENS = 32
"""Longest gold answer that is scored."""
SCORING = "scoring belief"
"""What `begin` is told when the run is there and its steps come one after the other."""


@dataclass(frozen=True)
class Scoring:
    """How belief is scored.

    Attributes:
        model: Hugging Face folder, hub name, `tiny` or `smollm2`: the policy that wrote the rollouts, or
            another model.
        engine: settings of the engine that scores.
        dtype: "float32" or "bfloat16".
        answer_template: text around `{answer}`; None: the paper's where a rollout answers in `<answer>` tags,
            else the answer alone.
        trust_remote_code: whether the model may run code that its repository ships.
        tools_as_text: whether tools, their calls and results are scored as text
            (`pipeline.importing.tool_text`) and not as the chat template shows them.
    """

    model: str
    engine: EngineSettings
    dtype: str = "float32"
    answer_template: str | None = None
    trust_remote_code: bool = False
    tools_as_text: bool = False


@dataclass(frozen=True)
class Imported:
    """What `import_rollouts` did."""

    run: RunDirectory
    words: str
    """The words around `{answer}` in which gold answers were scored."""
    without_thoughts: int
    """Rollouts whose earlier thoughts the chat template leaves out."""


def import_rollouts(
    source: str | Path,
    scoring: Scoring,
    preset: Preset,
    *,
    name: str,
    runs_dir: Path,
    skip_bad: bool = False,
    fields: Mapping[str, str] | None = None,
    begin: Callable[[str, int], Callable[[int], object]] = lambda phase, total: lambda number: None,
    tell: Callable[[str], object] = lambda line: None,
) -> Imported:
    """Reads, scores and credits the rollouts of `source`, and writes them as a run, step after step.

    Args:
        source: a file of conversations (`pipeline.importing.conversation`).
        scoring: how belief is scored.
        preset: the estimator, which says whom the model stands for: the policy or a reference.
        name: name of the run.
        runs_dir: folder of all runs.
        skip_bad: whether to leave out rollouts that cannot be read, shown by the chat template, or are too
            long.
        fields: our names of fields with those that the records have (`pipeline.importing.fields`).
        begin: called with what begins and the number of rollouts; what it returns is called with the number
            that were done, some at a time.
        tell: called before scoring with what was read from which fields, and what was left out.

    Raises:
        InputError: the name is none, the rollouts cannot be read, or do not fit into the model's context;
            with `skip_bad`, none can be used.
    """
    rule: AliasRule = preset.env.get("alias_rule", "max")
    check_name(name, f"--name {name!r}")
    folder = resolve_model(scoring.model, "--model")
    left_out: list[InputError] = []
    conversations = read_conversations(source, left_out.append if skip_bad else None, fields)
    tell(what_was_read(conversations))
    words = scoring.answer_template
    if words is None and not uses_answer_tags(conversations):
        words = PLACE
    queries = BeliefQueries(
        load_tokenizer(folder),
        words,
        alias_rule=rule,
        max_answer_tokens=MAX_ANSWER_TOKENS,
        tools_as_text=scoring.tools_as_text,
    )
    advance = begin("tokenising", len(conversations))
    steps: defaultdict[int, list[tuple[Conversation, Rollout]]] = defaultdict(list)
    room = _room(folder, scoring.trust_remote_code)
    lengths: list[tuple[int, str]] = []
    for conversation in conversations:
        advance(1)
        rollout = make_rollout(conversation, lambda text: len(queries.chat.plain.ids(text)))
        try:
            length = queries.check(conversation, rollout, room if skip_bad else sys.maxsize)
        except InputError as error:
            left_out.append(error)
            continue
        steps[conversation.step].append((conversation, rollout))
        lengths.append((length, conversation.where))
    if left_out and not skip_bad:
        bad, total = len(left_out), len(conversations)
        others = f" ({bad} of {total} are bad: `--skip-bad` leaves them out)" if bad < total else ""
        raise InputError(f"{left_out[0]}{others}")
    if left_out:
        tell(what_was_left_out(left_out))
    if not steps:
        raise InputError(f"{source}: no rollout is left: {left_out[0]}")
    tokens = _longest(lengths, room)
    begin("loading the model", 0)
    engine = (
        open_engine(
            folder,
            scoring.engine,
            tokens=tokens,
            dtype=scoring.dtype,
            trust_remote_code=scoring.trust_remote_code,
        )
        if tokens
        else None
    )
    settings = _settings(source, scoring, preset, rule, queries.words)
    everything = (turn for members in steps.values() for _, rollout in members for turn in rollout.turns)
    agents = dict.fromkeys(turn.agent for turn in everything)
    settings["env_config"]["roles"] = [{"name": agent} for agent in agents]
    with _new_run(settings, name, runs_dir) as (run, log):
        advance = begin(SCORING, len(lengths))
        for step, members in sorted(steps.items()):
            started = time.perf_counter()
            for number in score(engine, queries, members, preset.belief_policy):
                advance(number)
            record = _credited(step, [rollout for _, rollout in members], preset, rule)
            record.seconds = {"score": time.perf_counter() - started}
            log.write(record, training_metrics(record.rollouts, record.credit, record.groups))
            run.note(iteration=step)
    return Imported(run, queries.words, queries.without_thoughts)


def _room(folder: str, trust_remote_code: bool) -> int:
    """The tokens that the model takes.

    Raises:
        InputError: it needs code that is not trusted.
    """
    from transformers import AutoConfig

    with naming_shipped_code(folder):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code).get_text_config()
    return getattr(config, "max_position_embeddings", None) or sys.maxsize


def _longest(lengths: list[tuple[int, str]], room: int) -> int:
    """The tokens of the longest context and answer, of the lengths and places of the rollouts.

    Raises:
        InputError: the model has no room for it.
    """
    longest, where = max(lengths)
    if longest > room:
        many = sum(length > room for length, _ in lengths)
        raise InputError(
            f"{many} of {len(lengths)} rollouts are too long for the model, which has room for {room} "
            f"tokens: {where} takes {longest} with a gold answer (`--skip-bad` leaves them out)"
        )
    return longest


def _credited(step: int, rollouts: list[Rollout], preset: Preset, alias_rule: AliasRule) -> IterationRecord:
    """The record of one step's rollouts, group after group."""
    groups: defaultdict[str, list[Rollout]] = defaultdict(list)
    for rollout in rollouts:
        groups[rollout.group_id].append(rollout)
    ordered = [rollout for members in groups.values() for rollout in members]
    scored = [scored_rollout(rollout) for rollout in ordered]
    told = [rollout_facts(rollout, [None] * rollout.num_turns) for rollout in ordered]
    batch = turn_batch(scored, preset.credit, alias_rule)
    credit = assign(preset, preset.credit, scored, told, batch)
    record = IterationRecord(step, "train", step, ordered, turn_credits(ordered, batch, credit))
    firsts = [members[0] for members in groups.values()]
    record.groups = group_credits(firsts, [_are_identical(m) for m in groups.values()], credit.groups)
    return record


def _are_identical(members: Sequence[Rollout]) -> bool:
    """Whether all rollouts hold the same texts, but for what came back after the last turn."""

    def texts(rollout: Rollout) -> list[str]:
        return [text for turn in rollout.turns for text in (turn.decision_text, turn.observation_text)][:-1]

    first, *others = map(texts, members)
    return all(other == first for other in others)


def _settings(
    source: str | Path, scoring: Scoring, preset: Preset, rule: AliasRule, words: str
) -> dict[str, Any]:
    """`config` of the run, in the names that an experiment file has for them."""
    return {
        "preset": preset.name,
        **asdict(preset.credit),
        "model_path": scoring.model,
        "model_dtype": scoring.dtype,
        "engine": scoring.engine.model_dump(exclude_defaults=True),
        "env_config": {
            "questions": str(source),
            "alias_rule": rule,
            "max_answer_tokens": MAX_ANSWER_TOKENS,
            "answer_template": words,
            "tools_as_text": scoring.tools_as_text,
        },
    }


@contextmanager
def _new_run(
    settings: dict[str, Any], name: str, runs_dir: Path
) -> Generator[tuple[RunDirectory, RolloutLogWriter]]:
    """A new run directory with its log, which hold how the import ended; held until then."""
    resolved = {"run": IMPORT, "config": settings, "storage_path": str(runs_dir)}
    run = RunDirectory.create(runs_dir, name, {name: resolved}, facts())
    info = RunInfo(
        name=name,
        config=resolved,
        config_hash=config_hash(settings),
        model=settings["model_path"],
        versions=run.metadata["versions"],
        hardware={key: str(value) for key, value in run.metadata["hardware"].items()},
    )
    with run.lock():
        run.begin_attempt(None)
        how = "failed"
        try:
            with RolloutLogWriter(run.rollouts, run.run_id, 1, info=info) as log:
                yield run, log
            how = FINISHED
        except KeyboardInterrupt:
            how = "interrupted"
            raise
        finally:
            run.end_attempt(how, run.metadata["iteration"])
