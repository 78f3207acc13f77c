"""Settings of the generated world (`env_config.world`)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from envs.settings import Settings


class WorldSettings(Settings):
    """The generated multi-hop world (`corpus: world`): same settings, same bytes on every machine."""

    seed: int = Field(0, ge=0, description="another seed is another world")
    entities: int = Field(100, ge=10, description="number of entities, one document each")
    hops: dict[Annotated[int, Field(ge=1)], Annotated[float, Field(ge=0, allow_inf_nan=False)]] = Field(
        default_factory=lambda: {1: 0.15, 2: 0.45, 3: 0.4}, description="share of questions by hops"
    )
    train_questions: int = Field(1500, ge=1, le=1_000_000, description="training questions")
    heldout_questions: int = Field(500, ge=1, le=1_000_000, description="held-out questions")
    relations: int = Field(
        4, ge=1, le=8, description="kinds of relations between entities; questions have up to one hop more"
    )
    graded_evidence: float = Field(
        0.0, ge=0, le=1, description="how far documents on the path narrow the answer; 0: not at all"
    )
    yes_no: float = Field(0.0, ge=0, le=1, description="share of yes/no questions")
    comparison: float = Field(
        0.0, ge=0, le=1, description="share of questions that ask which of two has a value"
    )
    unordered: float = Field(
        0.0, ge=0, le=1, description="share of chain questions that tell their hops one by one, out of order"
    )
    side_chains: int = Field(
        0, ge=0, le=7, description="chains of hops that lead elsewhere, told in each such question"
    )
    distractors: int = Field(0, ge=0, description="documents about people whom no question asks for")
    noise: int = Field(0, ge=0, description="sentences per document that answer nothing")
    aliases: int = Field(
        0, ge=0, le=5, description="further names of each value; a document uses any of them, gold are all"
    )
    collisions: int = Field(0, ge=0, description="pairs of entities that share a name")
