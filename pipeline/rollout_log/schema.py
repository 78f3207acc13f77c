"""Arrow schemas of the rollout log: the one place that names its tables, columns and their meaning.

Every column carries a description (`igpo schema` prints them, the documentation is generated from them).
`SCHEMA_VERSION` is in each file's metadata and in a column of each row. To change a schema: adding a
nullable column raises the version, and old files read as null there; renaming, removing or redefining a
column is not done.
"""

from __future__ import annotations

from typing import NamedTuple

import pyarrow as pa

SCHEMA_VERSION = 3
"""1: the first. 2: the table `tokens`; `failed` and `credits` of `tool_calls`. 3: `collapsed_or_identical` of
`groups`."""

VERSION_KEY = b"igpo.schema_version"
DESCRIPTION_KEY = b"description"

STRINGS = pa.list_(pa.string())
NUMBERS = pa.list_(pa.float64())
NAMED_NUMBERS = pa.map_(pa.string(), pa.float64())
NAMED_STRINGS = pa.map_(pa.string(), pa.string())
TIME = pa.timestamp("us")


class Column(NamedTuple):
    """One column. `description` is one sentence; "null" in it says when the column has no value."""

    name: str
    type: pa.DataType
    description: str


def _schema(description: str, columns: list[Column]) -> pa.Schema:
    fields = [pa.field(c.name, c.type, metadata={DESCRIPTION_KEY: c.description.encode()}) for c in columns]
    return pa.schema(
        fields, metadata={DESCRIPTION_KEY: description.encode(), VERSION_KEY: str(SCHEMA_VERSION).encode()}
    )


_RUN = [
    Column("run_id", pa.string(), "Identity of the run; the name of its folder."),
    Column("attempt", pa.int32(), "1 for the fresh run; each resume counts one up."),
]
_VERSION = [Column("schema_version", pa.int32(), "Version of these schemas that wrote the row.")]
_KEYS = [
    *_RUN,
    Column("iteration", pa.int32(), "Training iteration, from 1; 0 is the evaluation before training."),
    Column("split", pa.string(), "`train`, or `heldout` for evaluation rollouts."),
    *_VERSION,
]
_EPISODE_KEYS = [
    *_KEYS,
    Column(
        "episode_id", pa.string(), "Identity of the rollout, unique within an attempt's iteration and split."
    ),
    Column("group_id", pa.string(), "Identity of its group: all rollouts of one prompt in one iteration."),
    Column("question_id", pa.string(), "Identity of the question in its data set."),
]

RUNS = _schema(
    "One row per attempt of a run: what was run, with what, on what.",
    [
        *_RUN,
        *_VERSION,
        Column("name", pa.string(), "Name of the experiment, the key of its YAML file."),
        Column(
            "resumed_from_iteration",
            pa.int32(),
            "Iteration of the checkpoint that the attempt went on from; null for attempt 1.",
        ),
        Column("started_at", TIME, "Start of the attempt, UTC."),
        Column("ended_at", TIME, "End of the attempt, UTC; null while it runs and for one that was killed."),
        Column(
            "status",
            pa.string(),
            "`finished`, `interrupted` or `failed`; null while it runs and for one that was killed.",
        ),
        Column("seed", pa.int64(), "Seed of the run; null if none was set."),
        Column("model", pa.string(), "The policy's model as configured."),
        Column(
            "retriever",
            pa.string(),
            "Identity of the retriever as JSON: `kind`, parameters, `top_k`; of a server what it says of "
            "itself.",
        ),
        Column(
            "corpus",
            pa.string(),
            "Identity of the corpus as JSON: `source`, and `content_hash` and `documents` where they are "
            "here.",
        ),
        Column(
            "config_hash",
            pa.string(),
            "Short hash of `config.config`, as in run.json and MLflow; equal hashes mean equal settings.",
        ),
        Column("config", pa.string(), "The resolved experiment as JSON: `config->>'$.config.lr'`."),
        Column("versions", NAMED_STRINGS, "Package name to version."),
        Column("hardware", NAMED_STRINGS, "Cores, memory, accelerators."),
        Column(
            "mlflow_run_id",
            pa.string(),
            "The MLflow run; null if MLflow had not answered before the attempt ended.",
        ),
    ],
)

ITERATIONS = _schema(
    "One row per iteration and split: where the time went, and every metric of the training result.",
    [
        *_KEYS,
        Column("written_at", TIME, "When the row was written, UTC."),
        Column("weights_version", pa.int64(), "Version of the weights that sampled the rollouts."),
        Column("rollouts", pa.int32(), "Rollouts of this iteration and split."),
        Column("groups", pa.int32(), "Groups of this iteration and split."),
        Column(
            "seconds",
            NAMED_NUMBERS,
            "Phase (generate, tools, score, learn, push, ...) to wall-clock seconds: `seconds['learn']`.",
        ),
        Column(
            "metrics",
            NAMED_NUMBERS,
            "Metric to value as in the training result: `metrics['kl']`. `em` is of the rollouts trained on "
            "(under `dapo` of the kept groups), `em_sampled` of all that were sampled.",
        ),
    ],
)

EPISODES = _schema(
    "One row per rollout: the question, the answer, how it ended and what it was worth.",
    [
        *_EPISODE_KEYS,
        Column("question", pa.string(), "The question's text."),
        Column("golds", STRINGS, "Gold answers (aliases)."),
        Column("data_source", pa.string(), "Data set that the question comes from."),
        Column("hops", pa.int32(), "Reasoning hops that the question needs; null where not known."),
        Column("gold_document_ids", STRINGS, "Evidence documents in hop order; empty where not known."),
        Column("question_metadata", pa.string(), "What else the data set says about the question, as JSON."),
        Column("answer", pa.string(), "The content of the last turn's answer; null if there was none."),
        Column("termination", pa.string(), "`answered`, `malformed`, `turn_limit` or `token_limit`."),
        Column("outcome", pa.float64(), "Outcome reward o."),
        Column("f1_paper", pa.float64(), "F1 in the paper's dialect (set of words), maximum over aliases."),
        Column("em_paper", pa.float64(), "Exact match in the paper's dialect."),
        Column("f1_squad", pa.float64(), "F1 as SQuAD v1.1 and HotpotQA compute it."),
        Column("em_squad", pa.float64(), "Exact match as SQuAD v1.1 and HotpotQA compute it."),
        Column("other_metrics", NAMED_NUMBERS, "Metrics beyond those four: `other_metrics['f1_chars']`."),
        Column("turns", pa.int32(), "Number of turns, the final one included."),
        Column(
            "gain_turns",
            pa.int32(),
            "Number of gain-bearing turns: completed turns except the final one; 0 without belief.",
        ),
        Column("tool_calls", pa.int32(), "Number of tool calls."),
        Column("tool_errors", pa.int32(), "Number of tool calls that failed."),
        Column("decision_tokens", pa.int64(), "Tokens that the policy sampled."),
        Column("observation_tokens", pa.int64(), "Tokens of observations."),
        Column(
            "scored_golds",
            STRINGS,
            "The aliases that belief is scored on; `scores` columns follow this order; empty: without "
            "belief.",
        ),
        Column(
            "initial_scores",
            NUMBERS,
            "s_0 per scored alias: mean log-probability of the gold tokens after the prompt alone.",
        ),
        Column(
            "belief_initial",
            pa.float64(),
            "b_0, belief in the gold answer before the first turn; null without credit.",
        ),
        Column(
            "belief_final", pa.float64(), "Belief after the last gain-bearing turn; null if there is none."
        ),
        Column("gain_total", pa.float64(), "Sum of the gains; null if there is none."),
        Column("scorer", pa.string(), "Who scored belief: `current` policy or a `reference`."),
        Column(
            "weights_version",
            pa.int64(),
            "Version of the weights that sampled the first turn; null for an episode without turns.",
        ),
        Column("config_hash", pa.string(), "Hash of the run's settings, as in `runs`."),
        Column("retriever", pa.string(), "Identity of the retriever, as in `runs`."),
        Column(
            "seconds",
            pa.float64(),
            "Wall-clock seconds from the first prompt to the end; null for an import.",
        ),
    ],
)

TURNS = _schema(
    "One row per turn: what was decided, what came back, what belief it moved and what credit training gave "
    "it.",
    [
        *_EPISODE_KEYS,
        Column("turn_index", pa.int32(), "Position in the episode in time order, from 0, whoever wrote it."),
        Column("agent", pa.string(), "The role that wrote the turn."),
        Column("agent_turn_index", pa.int32(), "Position among the turns of this agent, from 0."),
        Column("policy", pa.string(), "The RLModule that spoke for the agent."),
        Column("is_final", pa.bool_(), "Whether this is the episode's last turn."),
        Column("action", pa.string(), "`tool`, `answer`, `message`, `malformed` or `cut_off`."),
        Column("decision_text", pa.string(), "The sampled tokens as text."),
        Column("tool", pa.string(), "Tool of the first call; null if the turn called none."),
        Column("query", pa.string(), "What was searched for; null if nothing was."),
        Column("answer", pa.string(), "The answer that the turn gave; null if none."),
        Column("parse_error", pa.string(), "What was malformed; null if nothing was."),
        Column("observation_text", pa.string(), "What came back."),
        Column("observation_cut", pa.bool_(), "Whether the observation was shortened to the token limit."),
        Column(
            "neutralised_tags", pa.int32(), "Protocol tags inside the observation that were made harmless."
        ),
        Column("document_ids", STRINGS, "Documents that the turn retrieved, best first."),
        Column("document_scores", NUMBERS, "The retriever's scores of these documents."),
        Column(
            "gold_hit",
            pa.bool_(),
            "Whether a gold document that no earlier turn retrieved was retrieved; null where not known.",
        ),
        Column(
            "scores",
            NUMBERS,
            "s_t per scored alias after the observation, full precision; null without a gain.",
        ),
        Column("scorer", pa.string(), "Who scored belief: `current` policy or a `reference`."),
        Column(
            "weights_version",
            pa.int64(),
            "Version of the weights that sampled (and, for `current`, scored) the turn.",
        ),
        Column(
            "belief_before", pa.float64(), "b_{t-1} in (0, 1], of the final turn too; null without credit."
        ),
        Column("belief_after", pa.float64(), "b_t in (0, 1]; null where the turn bears no gain."),
        Column(
            "gain", pa.float64(), "Information gain g_t in the run's basis; null where the turn bears none."
        ),
        Column(
            "normalised_gain",
            pa.float64(),
            "Gain after normalisation over the group; null where the turn bears none.",
        ),
        Column(
            "advantage",
            pa.float64(),
            "Advantage that training gave each decision token; null for evaluation.",
        ),
        Column(
            "logp_gap_mean",
            pa.float64(),
            "Mean |learner - sampler| log-probability over the decision tokens; null for evaluation and for "
            "turns of a policy that does not learn.",
        ),
        Column("decision_tokens", pa.int32(), "Tokens that the policy sampled."),
        Column("observation_tokens", pa.int32(), "Tokens of the observation."),
        Column("tool_calls", pa.int32(), "Number of tool calls."),
        Column("tool_errors", pa.int32(), "Number of tool calls that failed."),
        Column("tool_error", pa.string(), "The first failed call's error; null if none failed."),
        Column("seconds_generate", pa.float64(), "Seconds from request to last token; null for an import."),
        Column("seconds_tool", pa.float64(), "Seconds in tools; null for an import."),
        Column("seconds_score", pa.float64(), "Seconds of belief scoring; null for an import."),
    ],
)

GROUPS = _schema(
    "One row per group (all rollouts of one prompt in one iteration): spread of outcomes and gains, and "
    "collapse.",
    [
        *_KEYS,
        Column("group_id", pa.string(), "Identity of the group."),
        Column("question_id", pa.string(), "Identity of the question in its data set."),
        Column("size", pa.int32(), "G, rollouts in the group."),
        Column("outcome_mean", pa.float64(), "Mean outcome."),
        Column("outcome_std", pa.float64(), "Population standard deviation of the outcomes."),
        Column("gain_count", pa.int32(), "Gain-bearing turns in the group, without those of gated rollouts."),
        Column("gain_mean", pa.float64(), "Mean of these gains; null without one."),
        Column("gain_std", pa.float64(), "Population standard deviation of these gains; 0 without one."),
        Column(
            "collapsed_outcome", pa.bool_(), "Whether every advantage would be 0 under the outcome alone."
        ),
        Column("collapsed", pa.bool_(), "Whether every advantage that training used is 0."),
        Column(
            "collapsed_or_faint",
            pa.bool_(),
            "`collapsed`, or collapsed under the outcome with a gain std below 1e-3.",
        ),
        Column(
            "collapsed_or_identical",
            pa.bool_(),
            "`collapsed`, or all rollouts are equal token for token; null in logs of versions 1 and 2.",
        ),
    ],
)

TOOL_CALLS = _schema(
    "One row per tool call: what was asked of which tool, what came back, how long it took.",
    [
        *_EPISODE_KEYS,
        Column("turn_index", pa.int32(), "The turn that made the call."),
        Column("call_index", pa.int32(), "Position among the turn's calls, from 0."),
        Column("agent", pa.string(), "The role that made the call."),
        Column("tool", pa.string(), "Name of the tool."),
        Column("arguments", pa.string(), "Arguments as JSON."),
        Column("result_text", pa.string(), "What the tool returned."),
        Column("document_ids", STRINGS, "Documents returned, best first."),
        Column("document_scores", NUMBERS, "The retriever's scores of these documents."),
        Column("error", pa.string(), "Why the call gave no result; null if it worked."),
        Column(
            "failed",
            pa.bool_(),
            "Whether the error was not the policy's own: server down, time out, a tool that broke.",
        ),
        Column(
            "credits",
            pa.float64(),
            "What a paid service took for the call; 0 where it is free or was cached.",
        ),
        Column("seconds", pa.float64(), "Wall-clock seconds; null for an import."),
    ],
)

TOKENS = _schema(
    "One row per token of a training rollout, as it was trained on; only with `log_tokens: true`.",
    [
        *_EPISODE_KEYS,
        Column("turn_index", pa.int32(), "The turn that wrote the token, or before which it came."),
        Column("agent", pa.string(), "The role that wrote the turn."),
        Column("position", pa.int32(), "Position among the tokens that the agent saw and wrote, from 0."),
        Column(
            "is_decision",
            pa.bool_(),
            "Whether the agent wrote the token; otherwise it is prompt or observation.",
        ),
        Column("token_id", pa.int32(), "Id in the policy's vocabulary."),
        Column("text", pa.string(), "The token decoded alone."),
        Column(
            "sampler_logp",
            pa.float32(),
            "Log-probability that the rollout engine returned; null off decisions.",
        ),
        Column(
            "learner_logp",
            pa.float32(),
            "The learner's before its update; null off decisions and where not trained on.",
        ),
    ],
)

TABLES: dict[str, pa.Schema] = {
    "runs": RUNS,
    "iterations": ITERATIONS,
    "episodes": EPISODES,
    "turns": TURNS,
    "groups": GROUPS,
    "tool_calls": TOOL_CALLS,
    "tokens": TOKENS,
}
"""Table name to schema."""


def describe(table: str) -> tuple[str, list[Column]]:
    """Returns the table's description and its columns in order."""
    schema = TABLES[table]
    columns = [Column(field.name, field.type, field.metadata[DESCRIPTION_KEY].decode()) for field in schema]
    return schema.metadata[DESCRIPTION_KEY].decode(), columns
