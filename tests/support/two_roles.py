"""A searcher and a reader of its documents: roles, what a script lets them say, and what a log keeps."""

from envs.runner.replay import LoggedTurn

PAIR = [
    {"name": "searcher", "actions": ["search", "answer"]},
    {"name": "reader", "actions": ["message"], "reads": "searcher"},
]


def in_turn(searches):
    """A script for `ScriptedEngine`: the searcher's turns before turn `searches` search, the next answers."""

    def script(context, turn):
        if "<reader>" in context:
            return "<message> mother <end>"
        return "<search> mother <end>" if turn < searches else "<answer> red <end>"

    return script


def logged_turns(rollout, tokens):
    """What a log keeps of a rollout; `tokens` are those of `turn_tokens`."""
    return [
        LoggedTurn(turn.agent, own.context_ids_C.tolist(), own.decision_ids_L.tolist(), turn.tool_calls)
        for turn in rollout.turns
        if (own := tokens[rollout.id, turn.index])
    ]
