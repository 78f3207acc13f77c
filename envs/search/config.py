"""Settings of the search environment (`env_config` in an experiment file), validated before anything starts."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveFloat, model_validator

from envs.data.question_filter import QuestionFilter
from envs.retrieval.config import RetrieverSettings
from envs.search.roles import check_roles
from envs.settings import Settings


class WorldSettings(Settings):
    """The generated multi-hop world (`corpus: world`): same settings, same bytes on every machine."""

    seed: int = 0
    entities: int = Field(100, ge=10, description="number of entities, one document each")
    hops: dict[int, float] = Field(default_factory=lambda: {1: 0.15, 2: 0.45, 3: 0.4}, description="share of questions by hops")
    train_questions: int = Field(1500, ge=1)
    heldout_questions: int = Field(500, ge=1)
    relations: int = Field(4, ge=1, le=8, description="kinds of relations between entities; questions have up to one hop more")
    graded_evidence: float = Field(0.0, ge=0, le=1, description="how much documents on the way say about the answer; 0: nothing")
    yes_no: float = Field(0.0, ge=0, le=1, description="share of yes/no questions")
    comparison: float = Field(0.0, ge=0, le=1, description="share of questions who of two has a value")
    distractors: int = Field(0, ge=0, description="documents about people whom no question asks for")
    noise: int = Field(0, ge=0, description="sentences per document that answer nothing")
    aliases: int = Field(0, ge=0, le=5, description="further names of each value; a document uses any of them, gold are all")
    collisions: int = Field(0, ge=0, description="pairs of entities that share a name")


class RoleSettings(Settings):
    """One agent. The first of `roles` speaks first; who speaks next is `envs.search.roles.next_speaker`."""

    name: str = Field(description="agent id")
    instruction: str = Field("", description="its system prompt; empty: the protocol's own for its actions")
    actions: list[Literal["search", "answer", "message"]] = Field(["search", "answer"], min_length=1)
    policy: str = Field("default_policy", description="the RLModule that speaks for it")
    reads: str | None = Field(None, description="the role whose tool results it sees in that role's place")
    to: str | None = Field(None, description="who gets its messages; None: the role it `reads`, else the answering role")


class SearchEnvSettings(Settings):
    """Everything that defines the task: questions, corpus, retriever, protocol, roles, limits, outcome."""

    corpus: str = Field("world", description="`world` (generated), a JSONL file of id, contents, or `remote` (the retriever's)")
    questions: str | dict[str, PositiveFloat] | None = Field(
        None, description="training: FlashRAG JSONL, IGPO/verl Parquet, hf:NAME[:CONFIG][@SPLIT], or {source: weight, ...}"
    )
    question_filter: QuestionFilter = QuestionFilter()
    curriculum_prompts: int = Field(0, ge=0, description="prompts over which the hops asked for grow to the most; 0: off")
    heldout_questions: str | None = Field(None, description="held-out questions; None: a share of `questions`, split by hash")
    heldout_share: float = Field(0.2, gt=0, lt=1, description="share split off by hash when `heldout_questions` is None")
    world: WorldSettings = WorldSettings()
    retriever: RetrieverSettings = RetrieverSettings()
    protocol: Literal["tiny", "chat_short", "igpo", "search_r1", "chat"] = "tiny"
    worked_examples: bool = Field(True, description="`chat_short` shows some in its prompt; after a warm start none are needed")
    tokenizer: str | None = Field(None, description="folder of the tokenizer; None: the policy's (`model_path`)")
    roles: list[RoleSettings] = Field(default_factory=lambda: [RoleSettings(name="searcher")], min_length=1)
    tools: list[str] = Field(["search"], min_length=1, description="`search`, `open`, `calculator`, or `module:function`")
    tool_timeout: float = Field(60.0, gt=0, description="seconds after which a tool call counts as failed")
    max_turns: int = Field(6, ge=1, description="turns of all roles together")
    max_turn_tokens: int = Field(32, ge=1, description="decision tokens per turn")
    max_observation_tokens: int = Field(128, ge=1, description="tokens of observation text per turn")
    max_context_tokens: int = Field(512, ge=32, description="tokens of any agent's context, the longest scoring suffix included")
    outcome: str = Field("f1", description="`f1` (paper dialect), `em`, `f1_squad`, or module:function of (prediction, golds)")
    format_penalty: float = -1.0
    truncation_penalty: float = 0.0
    alias_rule: Literal["first", "max", "mean"] = "max"
    max_answer_tokens: int = Field(32, ge=1, description="longer gold answers are not scored under `max` and `mean`")

    @model_validator(mode="after")
    def _check(self):
        names = [role.name for role in self.roles]
        if len(set(names)) != len(names):
            raise ValueError(f"roles must have different names, got {names}")
        if not any("answer" in role.actions for role in self.roles):
            raise ValueError("no role may `answer`: add `answer` to one role's actions")
        check_roles(self.roles)
        if self.corpus == "remote" and self.retriever.kind not in ("http", "web"):
            raise ValueError(f"retriever `{self.retriever.kind}` searches `corpus`, so that can't be `remote`: give a JSONL file")
        if self.corpus != "remote" and self.retriever.kind == "web":
            raise ValueError("retriever `web` finds pages of the web, not documents of `corpus`: set that to `remote`")
        if self.retriever.patience > self.tool_timeout:
            raise ValueError(
                f"retriever.{self.retriever.kind}.retry_for ({self.retriever.patience:g} s) is longer than tool_timeout "
                f"({self.tool_timeout:g} s), which would end a search before: raise tool_timeout"
            )
        if self.corpus == "remote" and "open" in self.tools:
            raise ValueError("the tool `open` reads documents of `corpus`, so that can't be `remote`: give a JSONL file")
        if self.corpus != "world" and not self.questions:
            raise ValueError("`questions` is needed when `corpus` is a file: a FlashRAG JSONL or IGPO Parquet path")
        return self
