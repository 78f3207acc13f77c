"""Settings of the search environment (`env_config` of an experiment file), validated before the start."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, model_validator

from envs.data.answer_metrics import LARGEST_OUTCOME
from envs.data.question import AliasRule
from envs.data.question_filter import QuestionFilter
from envs.data.sources.field_names import STANDARD, STANDARD_DOCUMENTS, DocumentFieldNames, FieldNames
from envs.retrieval.config import RetrieverSettings
from envs.search.roles import RoleSettings, check_roles
from envs.settings import ImportPath, Settings, known_or_own
from envs.world.config import WorldSettings


class SearchEnvSettings(Settings):
    """Everything that defines the task: questions, corpus, retriever, protocol, roles, limits, outcome."""

    corpus: str = Field(
        "world",
        description="`world` (generated), a file, folder or hub name of documents, or `remote` (the "
        "retriever's)",
    )
    corpus_fields: DocumentFieldNames = STANDARD_DOCUMENTS
    questions: str | dict[str, PositiveFloat] | None = Field(
        None,
        description="training: a file, a folder, FOLDER@SPLIT, hf:NAME[:CONFIG][@SPLIT], or {source: "
        "weight, ...}",
    )
    fields: FieldNames = STANDARD
    question_filter: QuestionFilter = QuestionFilter()
    curriculum_prompts: int = Field(
        0, ge=0, description="prompts over which the allowed hops grow to the most; 0: off"
    )
    heldout_questions: str | None = Field(
        None, description="held-out questions; None: a share of `questions`, split by hash"
    )
    heldout_share: float = Field(
        0.2, gt=0, lt=1, description="share split off by hash when `heldout_questions` is None"
    )
    world: WorldSettings = WorldSettings()
    retriever: RetrieverSettings = RetrieverSettings()
    protocol: Annotated[
        Literal["tiny", "chat_short", "igpo", "search_r1", "chat"] | ImportPath,
        known_or_own("tiny", "chat_short", "igpo", "search_r1", "chat"),
    ] = Field("tiny", description="how the policy writes (docs/protocols.md); `module:function` for your own")
    worked_examples: bool = Field(
        True, description="`chat_short` shows some in its prompt; not needed after a warm start"
    )
    tokenizer: str | None = Field(
        None, description="folder of the tokenizer; None: the policy's (`model_path`)"
    )
    roles: list[RoleSettings] = Field(default_factory=lambda: [RoleSettings(name="searcher")], min_length=1)
    next_speaker: ImportPath | None = Field(
        None, description="`module:function` that says which role speaks next; None: the built-in rule"
    )
    tools: list[str] = Field(
        ["search"], min_length=1, description="`search`, `open`, `calculator`, or `module:function`"
    )
    tool_timeout: float = Field(60.0, gt=0, description="seconds after which a tool call counts as failed")
    max_turns: int = Field(6, ge=1, description="turns of all roles together")
    max_turn_tokens: int = Field(32, ge=1, description="decision tokens per turn")
    max_observation_tokens: int = Field(128, ge=1, description="tokens of observation text per turn")
    max_context_tokens: int = Field(
        512, ge=32, description="tokens of any agent's context, the longest scoring suffix included"
    )
    outcome: str = Field(
        "f1",
        description="`f1` (paper dialect), `em`, `f1_squad`, `f1_chars` (for scripts without blanks between "
        "words), or `module:function` of any of answer, golds, question, turns, metadata",
    )
    format_penalty: float = Field(
        -1.0, ge=-LARGEST_OUTCOME, le=LARGEST_OUTCOME, description="outcome of a malformed rollout"
    )
    truncation_penalty: float = Field(
        0.0,
        ge=-LARGEST_OUTCOME,
        le=LARGEST_OUTCOME,
        description="outcome of a rollout that ran out of turns or tokens",
    )
    alias_rule: AliasRule = Field("max", description="how the scores of several gold answers become one")
    max_answer_tokens: int = Field(
        32,
        ge=1,
        description="longer gold answers are not scored under `max` and `mean`; without a shorter one, or "
        "under `first`, one of up to 4 times as many tokens is",
    )

    @model_validator(mode="after")
    def _check(self):
        names = [role.name for role in self.roles]
        if len(set(names)) != len(names):
            raise ValueError(f"roles must have different names, got {names}")
        if not any("answer" in role.actions for role in self.roles):
            raise ValueError("no role may `answer`: add `answer` to one role's actions")
        check_roles(self.roles, has_rule=self.next_speaker is not None)
        for role in self.roles:
            if (role.max_context_tokens or 0) > self.max_context_tokens:
                raise ValueError(
                    f"role {role.name}: its max_context_tokens ({role.max_context_tokens}) is more than all "
                    f"agents may have ({self.max_context_tokens}): raise env_config.max_context_tokens"
                )
        may_be_remote = self.retriever.kind in ("http", "web") or self.retriever.is_own
        if self.corpus == "remote" and not may_be_remote:
            raise ValueError(
                f"retriever `{self.retriever.kind}` searches `corpus`, so that can't be `remote`: give a "
                "JSONL file"
            )
        if self.corpus != "remote" and self.retriever.kind == "web":
            raise ValueError(
                "retriever `web` finds pages of the web, not documents of `corpus`: set that to `remote`"
            )
        if self.retriever.patience > self.tool_timeout:
            raise ValueError(
                f"retriever.{self.retriever.kind}.retry_for ({self.retriever.patience:g} s) is longer than "
                f"tool_timeout ({self.tool_timeout:g} s), which would end a search before: raise tool_timeout"
            )
        if self.corpus == "remote" and "open" in self.tools:
            raise ValueError(
                "the tool `open` reads documents of `corpus`, so that can't be `remote`: give a JSONL file"
            )
        if self.corpus != "world" and not self.questions:
            raise ValueError(
                "`questions` is needed when `corpus` is a file: name a file of questions, or a data set"
            )
        return self
