"""Who speaks next, with two and with three roles."""

from pathlib import Path

import pytest
import yaml
from chat_tokenizers import QWEN2, chat_tokenizer

from envs.search.config import SearchEnvSettings
from envs.search.episode import SearchEpisode
from envs.search.roles import RoleSettings, check_roles, next_speaker
from envs.search.task import SearchTask
from envs.search.trajectory import ActionKind, Termination

TEAM = [
    {"name": "planner", "instruction": "Plan the searches.", "actions": ["message"], "to": "searcher"},
    {"name": "searcher", "actions": ["search", "message"], "to": "answerer"},
    {"name": "answerer", "actions": ["answer", "message"], "to": "searcher", "policy": "answering"},
]


def roles(*settings):
    return [RoleSettings(**one) for one in settings]


def test_the_rule():
    team = roles(*TEAM)
    planner, searcher, answerer = team
    assert next_speaker(planner, ActionKind.MESSAGE, team) == "searcher"
    assert next_speaker(searcher, ActionKind.TOOL, team) == "searcher"
    assert next_speaker(searcher, ActionKind.MESSAGE, team) == "answerer"
    assert next_speaker(answerer, ActionKind.MESSAGE, team) == "searcher"
    assert next_speaker(answerer, ActionKind.MALFORMED, team) == "answerer"
    pair = roles({"name": "searcher"}, {"name": "reader", "actions": ["message"], "reads": "searcher"})
    assert next_speaker(pair[0], ActionKind.TOOL, pair) == "reader"
    assert next_speaker(pair[1], ActionKind.MESSAGE, pair) == "searcher"
    scout = roles(
        {"name": "scout", "actions": ["search", "message"]}, {"name": "answerer", "actions": ["answer"]}
    )
    assert next_speaker(scout[0], ActionKind.MESSAGE, scout) == "answerer"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ([{"name": "a", "to": "b"}], "role a: `to` is 'b'; name another of the roles a"),
        ([{"name": "a", "reads": "a"}], "role a: `reads` is 'a'"),
        ([{"name": "tool"}], "a role can't be called tool"),
        ([{"name": "__all__"}], "role __all__: `name` is '__all__'"),
        ([{"name": "a", "policy": "__all_modules__"}], "role a: `policy` is '__all_modules__'"),
        (
            [{"name": "a b?"}, {"name": "a b!"}],
            "^roles 'a b[?]' and 'a b!' would share their metrics: MLflow knows letters, digits, blanks and "
            "_ - . : / alone in names; rename one$",
        ),
        (
            [{"name": "a", "policy": "p(1)"}, {"name": "b", "policy": "p[1]"}],
            r"policies of roles 'p\(1\)' and 'p\[1\]' would share their metrics",
        ),
        ([{"name": "a", "actions": ["answer", "message"]}], "role a may write messages, but to whom"),
        (
            [{"name": "a"}, {"name": "b", "reads": "a"}, {"name": "c", "reads": "a"}],
            "roles b and c both read what a finds",
        ),
        (
            [{"name": "a", "actions": ["answer", "draft"], "to": "b"}, {"name": "b"}],
            "both `answer` and `draft`",
        ),
        (
            [{"name": "a"}, {"name": "critic", "actions": ["message"], "to": "a"}],
            "role critic can never speak: nothing leads from a to it; name it in another role's `to`",
        ),
        (
            [
                {"name": "a", "actions": ["search"]},
                {"name": "b", "actions": ["message"], "reads": "a"},
                {"name": "c"},
            ],
            "role c can never speak: nothing leads from a to it",
        ),
        (
            [
                {"name": "a", "actions": ["message", "answer"], "to": "b"},
                {"name": "b", "actions": ["message"], "to": "c"},
                {"name": "c", "actions": ["message"], "to": "b"},
            ],
            "from role b the turn goes round b, c and never to a role that may answer; name one in `to`",
        ),
    ],
)
def test_roles_that_lead_nowhere_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        check_roles(roles(*settings))


def test_a_rule_of_ones_own_may_lead_anywhere():
    check_roles(roles({"name": "a"}, {"name": "critic", "actions": ["message"], "to": "a"}), has_rule=True)


def test_planner_searcher_and_answerer(tmp_path):
    chat_tokenizer(QWEN2).save_pretrained(tmp_path)
    limits = {"max_turn_tokens": 500, "max_observation_tokens": 500, "max_context_tokens": 9000}
    world = {"train_questions": 20, "heldout_questions": 10}
    settings = SearchEnvSettings(protocol="igpo", tokenizer=str(tmp_path), roles=TEAM, world=world, **limits)
    task = SearchTask(settings)
    question = next(question for question in task.train_questions if question.hops == 1)
    episode = SearchEpisode(task, question, rollout_id="r", group_id="g")
    seen = episode.start()
    assert seen.agent == "planner" and "Plan the searches." in task.protocol.text(seen.ids)
    name, gold = question.metadata["entity"], question.golds[0]
    script = [
        ("planner", f"<message>look for {name}</message>"),
        ("searcher", f'<tool_call>{{"name": "search", "arguments": {{"query": "{name}"}}}}</tool_call>'),
        ("searcher", '<tool_call>{"name": "search"</tool_call>'),  # no JSON: an error that the searcher sees
        ("searcher", f"<message>it is {gold}</message>"),
        ("answerer", f"<answer>{gold}</answer>"),
    ]
    shown = [task.protocol.text(seen.ids)]
    for agent, text in script:
        assert episode.agent == agent
        for call in episode.decide(task.protocol.tokenizer(text + "<|im_end|>")["input_ids"], completed=True):
            task.tools(call)
        seen = episode.observe()
        shown.append("" if seen is None else task.protocol.text(seen.ids))
    assert f"<message>\nlook for {name}\n</message>" in shown[1]
    assert (
        f"<tool_response>\n{task.corpus.by_id(question.gold_document_ids[0]).text}\n</tool_response>"
        in shown[2]
    )
    assert "<tool_response>\nthe tool call is not valid JSON" in shown[3]
    assert f"<message>\nit is {gold}\n</message>" in shown[4]
    rollout = episode.rollout
    assert rollout.termination is Termination.ANSWERED and rollout.outcome == 1.0
    assert [turn.policy for turn in rollout.turns] == ["default_policy"] * 4 + ["answering"]
    assert rollout.turns[2].tool_calls[0].error and not rollout.turns[2].tool_calls[0].failed
    # Belief is scored in the answerer's view: its prompt, then every turn in time order.
    history = task.protocol.text(episode.history)
    assert history.startswith(
        task.protocol.text(task.protocol.prompt("", question.text, ["answer", "message"]))
    )
    assert [history.index(text) for _, text in script] == sorted(history.index(text) for _, text in script)


def test_the_roles_that_the_documentation_shows_are_valid():
    page = (Path(__file__).parents[3] / "docs" / "multi_agent.md").read_text()
    blocks = [yaml.safe_load(block.partition("```")[0]) for block in page.split("```yaml\n")[1:]]
    shown = [roles(*(block.get("env_config") or block)["roles"]) for block in blocks]
    assert [[role.name for role in team] for team in shown] == [
        ["searcher", "reader"],
        ["planner", "searcher", "answerer"],
        ["searcher", "reader"],
        ["searcher", "reader"],
    ]
    for team in shown:
        check_roles(team)
