"""Roles: their settings, the rule for who speaks next, and the policy that speaks for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from pydantic import Field

from envs.search.trajectory import ActionKind, Rollout
from envs.settings import Settings, tracked_name
from envs.user_code import import_function, taken_arguments


class RoleSettings(Settings):
    """One agent. The first of `roles` speaks first; who speaks next is `envs.search.roles.next_speaker`."""

    name: str = Field(description="the agent's id")
    instruction: str = Field("", description="its system prompt; empty: the protocol's own for its actions")
    actions: list[Literal["search", "answer", "message", "draft"]] = Field(
        ["search", "answer"],
        min_length=1,
        description="what it may do; `search` stands for every tool, `draft` is an answer that goes to "
        "another role as a message",
    )
    policy: str = Field("default_policy", description="the RLModule that speaks for it")
    reads: str | None = Field(None, description="the role whose tool results it sees in that role's place")
    to: str | None = Field(
        None, description="who gets its messages; None: the role it `reads`, else the answering role"
    )
    max_context_tokens: int | None = Field(
        None, ge=32, description="tokens of its own context; None: those of `env_config.max_context_tokens`"
    )

    @property
    def shown_actions(self) -> tuple[str, ...]:
        """What the protocol tells the role that it may do: a draft is written as an answer is."""
        return tuple("answer" if action == "draft" else action for action in self.actions)

    @property
    def writes_to_others(self) -> bool:
        return "message" in self.actions or "draft" in self.actions


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
    - After a message or a draft: the role in `to`, else the role that the speaker reads, else the answering
      role.
    - After anything else (an error): the speaker tries again.

    With a searcher and a reader (`reads: searcher`), the order is searcher (tool call), reader (message),
    searcher, and so on.
    """
    if kind is ActionKind.TOOL:
        return next((role.name for role in roles if role.reads == speaker.name), speaker.name)
    if kind is ActionKind.MESSAGE:
        return speaker.to or speaker.reads or answering_role(roles).name
    return speaker.name


RULE_ARGUMENTS = ("speaker", "action", "turns", "roles", "question")
"""What a rule of one's own may take, by name."""


def speaker_rule(
    path: str | None, roles: Sequence[RoleSettings]
) -> Callable[[RoleSettings, ActionKind, Rollout], str]:
    """The rule for who speaks next: `next_speaker`, or a function of one's own at `path`.

    That takes any of `speaker` (a role's name), `action` (`tool`, `message` or `malformed`), `turns` (all so
    far), `roles` (the names) and `question`, and returns a role's name.

    Raises:
        InputError: it cannot be imported, or takes something else.
    """
    if path is None:
        return lambda speaker, kind, rollout: next_speaker(speaker, kind, roles)
    function = import_function(path, "next_speaker")
    _, taken = taken_arguments(function, path, "next_speaker", RULE_ARGUMENTS)
    names = [role.name for role in roles]

    def rule(speaker: RoleSettings, kind: ActionKind, rollout: Rollout) -> str:
        offered = {
            "speaker": speaker.name, "action": str(kind), "turns": list(rollout.turns),
            "roles": list(names), "question": rollout.question.text,
        }  # fmt: skip
        listener = function(**{name: offered[name] for name in taken})
        if listener not in names:
            raise ValueError(
                f"next_speaker {path!r} returned {listener!r:.60}; return the name of a role: "
                f"{', '.join(names)}"
            )
        if kind is ActionKind.MESSAGE and listener == speaker.name:
            raise ValueError(
                f"next_speaker {path!r} gave {listener}'s message back to {listener}; name another role"
            )
        return listener

    return rule


def check_roles(roles: Sequence[RoleSettings], *, has_rule: bool = False) -> None:
    """Checks the roles against one another. `has_rule`: a rule of one's own says who speaks next.

    Raises:
        ValueError: `reads` or `to` names no other role, two roles read the same one, a message would go back
            to its writer, a role may both answer and draft, or has a name whose messages would look like the
            environment's, or a name or policy that RLlib could take for a key of its own; two names or
            policies would share their metrics; or, under the built-in rule, a role can never speak, or can
            never reach one that may answer.
    """
    names = [role.name for role in roles]
    _check_metrics("roles", names)
    _check_metrics("policies of roles", [role.policy for role in roles])
    for role in roles:
        if role.name in ("tool", "error"):
            raise ValueError(
                f"a role can't be called {role.name}: its messages would look like those of the environment"
            )
        for key, name in (("name", role.name), ("policy", role.policy)):
            if name.startswith("__"):
                raise ValueError(
                    f"role {role.name}: `{key}` is {name!r}; take one that does not begin with two "
                    "underscores, as RLlib's own keys do (__all__, __all_modules__)"
                )
        for key, other in (("reads", role.reads), ("to", role.to)):
            if other is not None and (other not in names or other == role.name):
                raise ValueError(
                    f"role {role.name}: `{key}` is {other!r}; name another of the roles {', '.join(names)}"
                )
        if (
            not has_rule
            and role.writes_to_others
            and next_speaker(role, ActionKind.MESSAGE, roles) == role.name
        ):
            raise ValueError(f"role {role.name} may write messages, but to whom? Name the role in `to`")
        if "draft" in role.actions and "answer" in role.actions:
            raise ValueError(
                f"role {role.name} may both `answer` and `draft`: its answer either ends the rollout or goes "
                "on as a draft; leave one of them out"
            )
        readers = [reader.name for reader in roles if reader.reads == role.name]
        if len(readers) > 1:
            raise ValueError(
                f"roles {' and '.join(readers)} both read what {role.name} finds: let one of them do it"
            )
    if not has_rule:
        _check_ways(roles)


def _check_metrics(what: str, names: Sequence[str]) -> None:
    """Raises ValueError where two names differ only in what a tracker does not know in names of metrics."""
    first: dict[str, str] = {}
    for name in names:
        other = first.setdefault(tracked_name(name), name)
        if other != name:
            raise ValueError(
                f"{what} {other!r:.60} and {name!r:.60} would share their metrics: MLflow knows letters, "
                "digits, blanks and _ - . : / alone in names; rename one"
            )


def _check_ways(roles: Sequence[RoleSettings]) -> None:
    """Checks that the built-in rule leads from the first role to every other, and from each to an answer."""
    following = {role.name: _may_follow(role, roles) for role in roles}
    first = roles[0].name
    for role in roles:
        if role.name not in _reached(first, following):
            raise ValueError(
                f"role {role.name} can never speak: nothing leads from {first} to it; name it in another "
                "role's `to`, give it `reads`, or leave it out"
            )
    answering = {role.name for role in roles if "answer" in role.actions}
    for role in roles:
        reached = _reached(role.name, following)
        if not answering & reached:
            raise ValueError(
                f"from role {role.name} the turn goes round {', '.join(sorted(reached))} and never to a role "
                "that may answer; name one in `to`"
            )


def _may_follow(role: RoleSettings, roles: Sequence[RoleSettings]) -> set[str]:
    """The names of the roles that may speak after `role`."""
    kinds = {"search": ActionKind.TOOL, "message": ActionKind.MESSAGE, "draft": ActionKind.MESSAGE}
    return {next_speaker(role, kinds[action], roles) for action in role.actions if action in kinds}


def _reached(start: str, following: dict[str, set[str]]) -> set[str]:
    """The names that are reached from `start`, itself included."""
    reached, new = {start}, {start}
    while new:
        new = {after for name in new for after in following[name]} - reached
        reached |= new
    return reached
