"""Tools: schemas from signatures, results and errors by hand, time-outs, concurrency, a user's own
function."""

import contextlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from typing import Annotated

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field
from scripted_retriever import ScriptedRetriever

from envs.data.corpus import Corpus, Document
from envs.errors import InputError
from envs.retrieval.base import Hit, PricedHits, RetrieverError
from envs.retrieval.bm25 import BM25Retriever
from envs.search.config import SearchEnvSettings
from envs.search.tools.base import Tool, Toolbox, ToolError, as_result
from envs.search.tools.builtin import (
    AT_ONCE_DOCUMENTS,
    build_toolbox,
    open_tool,
    search_tool,
    searched_text,
    user_tool,
)
from envs.search.tools.calculator import evaluate
from envs.search.trajectory import ToolCall

MIRA = Hit("d0", "mira", "mother toma", 2.0)
TOMA = Hit("d1", "toma", "toma is red", 1.0)
RETRIEVER = ScriptedRetriever(
    {"mira": [MIRA, TOMA], "toma": [TOMA], "down": RetrieverError("the server is down")}
)
CORPUS = Corpus([Document("d0", "mira", "one two three four"), Document("d1", "", "alone")])


def call(tool: Tool, **arguments) -> ToolCall:
    return Toolbox([tool])(ToolCall(tool.name, arguments))


def search(**arguments) -> ToolCall:
    return call(search_tool(lambda: RETRIEVER, top_k=2), **arguments)


def test_search_shows_documents_and_logs_their_ids():
    done = search(query=" mira ")
    assert done.error is None and done.result_text == "mira: mother toma\ntoma is red"
    assert (done.document_ids, done.document_scores) == (["d0", "d1"], [2.0, 1.0])
    assert done.seconds > 0 and not done.failed


def test_several_queries_are_one_batch():
    RETRIEVER.queries.clear()
    done = search(queries=["toma", "nobody"])
    assert done.result_text == "toma:\ntoma is red\n\nnobody:\nnothing found"
    assert done.document_ids == ["d1"] and RETRIEVER.queries == ["toma", "nobody"]


def test_ids_are_shown_where_documents_can_be_opened():
    assert (
        call(search_tool(lambda: RETRIEVER, 1, show_ids=True), query="mira").result_text
        == "[d0] mira: mother toma"
    )


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({}, "search needs a query: a text that is not empty"),
        ({"query": "  "}, "search needs a query: a text that is not empty"),
        ({"query": 7}, "search: bad argument `query`: Input should be a valid string"),
        ({"query": "a", "topk": 100}, "search: bad argument `topk`: search takes `query`, `queries`"),
        (
            {"queries": ["a"] * 17},
            "search: bad argument `queries`: Tuple should have at most 16 items after validation, not 17",
        ),
    ],
)
def test_bad_arguments_are_the_policys_own_errors(arguments, message):
    done = search(**arguments)
    assert (done.error, done.failed) == (message, False)


def test_an_unknown_tool_is_the_policys_own_error():
    done = Toolbox([search_tool(lambda: RETRIEVER, 1)])(ToolCall("browse", {}))
    assert (done.error, done.failed) == ("unknown tool 'browse', known: search", False)


def test_a_failed_search_is_a_failure():
    done = search(query="down")
    assert (done.error, done.failed) == ("the search failed: the server is down", True)


def test_what_a_search_cost_is_kept():
    class Paid:
        identity = {}

        def search(self, queries, top_k):
            return PricedHits([[MIRA]], credits=2)

    assert call(search_tool(Paid, 1), query="mira").credits == 2
    assert search(query="mira").credits == 0


class Counting(BM25Retriever):
    """BM25 that notes who asks."""

    def __init__(self, corpus, documents=None):
        super().__init__(corpus)
        if documents is not None:
            self.identity["documents"] = documents
        self.threads = []

    def search(self, queries, top_k):
        self.threads.append(threading.current_thread())
        return super().search(queries, top_k)


def test_a_small_index_is_searched_on_the_spot_and_once_for_equal_queries():
    retriever = Counting(CORPUS)
    box = Toolbox([search_tool(lambda: retriever, 1)])
    calls = [ToolCall("search", {"query": query}) for query in ("three", " three ", "alone", "three")]
    for each in calls:
        assert box.call_at_once(each)
        each.document_ids.append("mine")  # no call sees what was done to another's result
    assert [each.document_ids for each in calls] == [
        ["d0", "mine"],
        ["d0", "mine"],
        ["d1", "mine"],
        ["d0", "mine"],
    ]
    assert [each.result_text for each in calls] == ["mira: one two three four"] * 2 + [
        "alone",
        "mira: one two three four",
    ]
    assert retriever.threads == [threading.current_thread()] * 2


def test_a_large_index_is_searched_in_a_thread_once_for_equal_queries():
    retriever = Counting(CORPUS, documents=AT_ONCE_DOCUMENTS + 1)
    box = Toolbox([search_tool(lambda: retriever, 1)])
    calls = [ToolCall("search", {"query": "three"}) for _ in range(2)]
    assert not any(box.call_at_once(each) for each in calls) and retriever.threads == []
    assert [box(each).document_ids for each in calls] == [["d0"], ["d0"]]
    assert len(retriever.threads) == 1 and threading.current_thread() not in retriever.threads


def test_another_retriever_is_searched_in_a_thread_each_time():
    RETRIEVER.queries.clear()
    calls = [ToolCall("search", {"query": "mira"}) for _ in range(2)]
    other = Toolbox([search_tool(lambda: RETRIEVER, 1), Tool(evaluate, "evaluate")])
    assert not other.call_at_once(calls[0]) and not other.call_at_once(ToolCall("evaluate", {}))
    assert other.call_at_once(ToolCall("unknown", {}))
    assert [other(each).document_ids for each in calls] == [["d0"], ["d0"]]
    assert RETRIEVER.queries == ["mira", "mira"]


def test_what_was_searched_for():
    assert searched_text({"query": "a"}) == "a"
    assert searched_text({"query": "a", "queries": ["b", 3, ""]}) == "a\nb"
    assert (
        searched_text({"query": 5}) is None
        and searched_text({"queries": "b"}) is None
        and searched_text({}) is None
    )


def test_the_schema_says_what_the_signature_says():
    def weather(city: Annotated[str, Field(description="a city's name")], days: int = 1) -> str:
        """Tell the weather
        of a city.

        Not shown.
        """

    assert Tool(weather, "weather").schema == {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Tell the weather of a city.",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "a city's name"},
                    "days": {"type": "integer", "default": 1},
                },
                "required": ["city"],
                "additionalProperties": False,
            },
        },
    }


def test_the_schema_of_search():
    parameters = search_tool(lambda: RETRIEVER, 1).schema["function"]["parameters"]
    assert parameters["properties"]["query"] == {
        "type": "string",
        "default": "",
        "description": "what to look for",
    }
    assert parameters["properties"]["queries"]["items"] == {"type": "string"} and "required" not in parameters


def test_parameters_need_types():
    with pytest.raises(InputError, match="tool 'untyped': its parameter 'x' needs a name and a type"):
        Tool(untyped, "untyped")
    with pytest.raises(InputError, match="'more' needs a name and a type"):
        Tool(lambda *more: 1, "rest")
    with pytest.raises(InputError, match="'_x' needs a name and a type"):
        Tool(hidden, "hidden")


def test_parameters_have_types_that_json_carries():
    with pytest.raises(InputError, match="tool 'locked': JSON can't carry a parameter's type: .*Event"):
        user_tool(locked)
    with pytest.raises(InputError, match="tool 'called': JSON can't carry a parameter's type"):
        user_tool(called)
    with pytest.raises(InputError, match="tool 'forward': a type of its parameters is not known .*Nowhere"):
        user_tool(forward)


def untyped(x):
    return x


def hidden(_x: str): ...


def locked(x: threading.Event): ...


def called(x: Callable): ...


def forward(x: "Nowhere"): ...  # ty: ignore[unresolved-reference]  # noqa: F821


class Unawaited:
    """Awaitable, as what an async function returns before it is awaited."""

    def __await__(self):
        return iter(())


def test_results_of_other_types_are_shown_as_json():
    def facts(n: int) -> dict:
        return {"n": n, "ü": [1.5, None]}

    assert call(Tool(facts, "facts"), n="2").result_text == '{"n": 2, "ü": [1.5, null]}'


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"b", "a"}, '["a", "b"]'),
        (np.array([1.5, 2.0]), "[1.5, 2.0]"),
        ({"n": np.float32(0.5)}, '{"n": 0.5}'),
        (date(2026, 1, 2), '"2026-01-02"'),
    ],
)
def test_what_json_lacks_is_shown_the_same_in_every_process(value, text):
    assert as_result(value).text == text


@pytest.mark.parametrize("value", [iter([1]), (n for n in range(2)), object(), {"n": object()}, Unawaited()])
def test_a_result_that_says_nothing_is_refused(value):
    with pytest.raises(TypeError, match="a tool returned .*: return text, or a value that JSON can hold"):
        as_result(value)


def test_open_reads_pages():
    tool = open_tool(CORPUS, page_characters=9)
    assert call(tool, document_id="d0").result_text == "mira (page 1 of 3)\none two"
    done = call(tool, document_id="d0", page=3)
    assert done.result_text == "mira (page 3 of 3)\nfour" and done.document_ids == ["d0"]
    assert call(tool, document_id="d1").result_text == "(page 1 of 1)\nalone"
    assert call(tool, document_id="d0", page=4).error == "document 'd0' ends with page 3"
    assert call(tool, document_id="d7").error == "no document has the id 'd7'"
    assert not call(tool, document_id="d7").failed
    assert call(tool, document_id="d0", page=0).error.startswith("open: bad argument `page`")


@pytest.mark.parametrize(
    "expression, value",
    [
        ("(1884 + 3) * 2", 3774),
        ("-7 // 2", -4),
        ("2 ** 10 % 7", 2),
        ("max(1, 2.5) / 2", 1.25),
        ("sqrt(16)", 4.0),
        ("2**-1", 0.5),
        ("10**400", 10**400),
        ("max(10**400, 1)", 10**400),
        ("round(1234, -2)", 1200),
        ("round(2.675, 2)", 2.67),
    ],
)
def test_arithmetic(expression, value):
    assert evaluate(expression) == value


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "1 +",
        "x",
        "True",
        "'a' * 9",
        "(1).real",
        "__import__('os')",
        "[1][0]",
        "1 / 0",
        "9**9**9",
        "(-8) ** 0.5",
        "1e308 * 10",
        "max()",
        "round(1, ndigits=2)",
        "sqrt(-1)",
        "(" * 99,
        "9" * 201,
        "3**999999",
        "10**400 / 3",
        "round(5, -9**9)",
        "round(1.5, 9**9)",
        "1 if 1 else 2",
        "lambda: 1",
        "1 << 9",
    ],
)
def test_whatever_is_not_arithmetic_is_refused(expression):
    with pytest.raises(ValueError):
        evaluate(expression)


@given(st.text(alphabet="0123456789.+-*/%() eabsroundmix,", max_size=60))
def test_the_calculator_answers_or_refuses_in_no_time(expression):
    started = time.perf_counter()
    with contextlib.suppress(ValueError):
        assert isinstance(evaluate(expression), int | float)
    assert time.perf_counter() - started < 0.5


def test_a_call_that_takes_too_long_fails_and_holds_nobody_up():
    release = threading.Event()

    def slow(seconds: float) -> str:
        release.wait(seconds)
        return "late"

    toolbox = Toolbox([Tool(slow, "slow")], timeout=0.1)
    started = time.perf_counter()
    calls = [
        ToolCall("slow", {"seconds": 30}),
        ToolCall("slow", {"seconds": 0}),
        ToolCall("slow", {"seconds": 30}),
    ]
    with ThreadPoolExecutor(3) as pool:
        done = list(pool.map(toolbox, calls))
    release.set()
    assert time.perf_counter() - started < 5
    assert [c.error for c in done] == ["slow took longer than 0.1 s", None, "slow took longer than 0.1 s"]
    assert [c.failed for c in done] == [True, False, True] and done[0].result_text == ""


def test_a_time_out_of_the_tools_own_is_not_ours():
    def connect(host: str) -> str:
        raise TimeoutError("no route")

    assert call(user_tool(connect), host="x").error == "connect failed: TimeoutError: no route"
    with pytest.raises(TimeoutError, match="no route"):
        call(Tool(connect, "connect"), host="x")


def test_a_users_tool_may_fail_or_say_why_not(caplog):
    def lookup(word: str) -> str:
        """Look a word up."""
        if word == "secret":
            raise ToolError("lookup: that word is not for you")
        return {"a": "b"}[word]

    tool = user_tool(lookup)
    assert tool.schema["function"]["description"] == "Look a word up."
    assert call(tool, word="a").result_text == "b"
    refused, broken = call(tool, word="secret"), call(tool, word="x")
    assert (refused.error, refused.failed) == ("lookup: that word is not for you", False)
    assert (broken.error, broken.failed) == ("lookup failed: KeyError: 'x'", True)
    assert "Traceback" in caplog.text


def test_a_users_tool_cannot_end_the_run():
    def table(word: str) -> dict:
        return {(word, 1): 2}

    def leaves(word: str) -> str:
        raise SystemExit(3)

    done = call(user_tool(table), word="x")
    assert (
        done.failed
        and done.error == "table failed: TypeError: keys must be str, int, float, bool or None, not tuple"
    )
    done = call(user_tool(leaves), word="x")
    assert done.failed and done.error == "leaves failed: SystemExit: 3"


def test_a_bug_in_a_tool_of_ours_is_raised():
    retriever = ScriptedRetriever({"mira": KeyError("a bug")})
    with pytest.raises(KeyError, match="a bug"):
        call(search_tool(lambda: retriever, 1), query="mira")


def settings(**changes) -> SearchEnvSettings:
    return SearchEnvSettings(**changes)


def test_tools_by_name_and_by_import_path(tmp_path, monkeypatch):
    (tmp_path / "my_tools.py").write_text(
        "def double(x: int) -> int:\n    '''Twice as much.'''\n    return 2 * x\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    toolbox = build_toolbox(
        settings(tools=["search", "open", "calculator", "my_tools:double"]), lambda: RETRIEVER, CORPUS
    )
    assert [schema["function"]["name"] for schema in toolbox.schemas] == [
        "search",
        "open",
        "calculator",
        "double",
    ]
    assert toolbox(ToolCall("double", {"x": 4})).result_text == "8"
    assert toolbox(ToolCall("calculator", {"expression": "6 * 7"})).result_text == "42"
    assert toolbox(ToolCall("calculator", {"expression": "six"})).error.startswith("calculator: only numbers")
    assert toolbox(ToolCall("search", {"query": "toma"})).result_text == "[d1] toma is red"


@pytest.mark.parametrize(
    "tools, message",
    [
        (["serch"], "unknown tool 'serch'. Known: search, open, calculator"),
        (["no_such_module:f"], "can't be imported"),
        (["math:sine"], "did you mean 'sin'"),
        (["search", "search"], "different names"),
        (["asyncio:open_connection"], "must be a plain function"),
        (["builtins:dict"], "must be a plain function"),
    ],
)
def test_tools_that_cannot_be_built(tools, message):
    with pytest.raises(InputError, match=message):
        build_toolbox(settings(tools=tools), lambda: RETRIEVER, CORPUS)
