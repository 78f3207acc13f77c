"""Roles: their settings, the rule for who speaks next, and the policy that speaks for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from envs.search.trajectory import ActionKind
from envs.settings import Settings


class RoleSettings(Settings):
    """One agent. The first of `roles` speaks first; who speaks next is `envs.search.roles.next_speaker`."""

    name: str = Field(description="agent id")
    instruction: str = Field("", description="its system prompt; empty: the protocol's own for its actions")
    actions: list[Literal["search", "answer", "message"]] = Field(["search", "answer"], min_length=1)
    policy: str = Field("default_policy", description="the RLModule that speaks for it")
    reads: str | None = Field(None, description="the role whose tool results it sees in that role's place")
    to: str | None = Field(
        None, description="who gets its messages; None: the role it `reads`, else the answering role"
    )


class RolePolicies:
    """RLlib's `policy_mapping_fn`: agent id to module id, from the roles. Small, and can be pickled."""

    def __init__(self, policy_of: dict[str, str]):
        self.policy_of = policy_of

    def __call__(self, agent_id: str, episode=None, *args, **kwargs) -> str:
        return self.policy_of[agent_id]


def answering_role(roles: Sequence[RoleSettings]) -> RoleSettings:
    """The first role that may answer. Belief is scored in its view (definitions: Belief and information
    gain).
    """
    return next(role for role in roles if "answer" in role.actions)


def next_speaker(speaker: RoleSettings, kind: ActionKind, roles: Sequence[RoleSettings]) -> str:
    """The name of the role that speaks after `speaker`.

    - After a tool call: the role that `reads` the speaker, else the speaker itself.
    - After a message: the role in `to`, else the role that the speaker reads, else the answering role.
    - After anything else (an error): the speaker tries again.

    With a searcher and a reader (`reads: searcher`), the order is searcher (tool call), reader (message),
    searcher, and so on.
    """
    if kind is ActionKind.TOOL:
        return next((role.name for role in roles if role.reads == speaker.name), speaker.name)
    if kind is ActionKind.MESSAGE:
        return speaker.to or speaker.reads or answering_role(roles).name
    return speaker.name


def check_roles(roles: Sequence[RoleSettings]) -> None:
    """Checks the roles against one another.

    Raises:
        ValueError: `reads` or `to` names no other role, two roles read the same one, a message would go back
            to its writer, or a role has a name whose messages would look like the environment's.
    """
    names = [role.name for role in roles]
    for role in roles:
        if role.name in ("tool", "error"):
            raise ValueError(
                f"a role can't be called {role.name}: its messages would look like those of the environment"
            )
        for key, other in (("reads", role.reads), ("to", role.to)):
            if other is not None and (other not in names or other == role.name):
                raise ValueError(
                    f"role {role.name}: `{key}` is {other!r}; name another of the roles {', '.join(names)}"
                )
        if "message" in role.actions and next_speaker(role, ActionKind.MESSAGE, roles) == role.name:
            raise ValueError(f"role {role.name} may write messages, but to whom? Name the role in `to`")
        readers = [reader.name for reader in roles if reader.reads == role.name]
        if len(readers) > 1:
            raise ValueError(
                f"roles {' and '.join(readers)} both read what {role.name} finds: let one of them do it"
            )
