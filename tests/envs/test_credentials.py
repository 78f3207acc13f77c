"""Credentials are found wherever they stand, and nothing else is touched."""

import pytest

from envs.credentials import (
    has_credentials,
    masked,
    masked_values,
    read_key,
    refuse_credentials,
    refuse_credentials_in,
)
from envs.errors import InputError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://user:PASS@host/x", "http://***@host/x"),
        ("s3://KEY:SE/CRE+T@bucket/a", "s3://***@bucket/a"),
        ("http://u:p@ss@h", "http://***@h"),
        ("http://token@h and ftp://a:b@c.", "http://***@h and ftp://***@c."),
        ("('http://u:p@h:80/x', 3)", "('http://***@h:80/x', 3)"),
        ("http://h/x?token=abc&y=1", "http://h/x?token=***&y=1"),
        ("https://h?access_key=K&secret_key=S", "https://h?access_key=***&secret_key=***"),
        ("https://h/a?X-Amz-Signature=0a1b", "https://h/a?X-Amz-Signature=***"),
    ],
)
def test_addresses(text, expected):
    assert masked(text) == expected and has_credentials(text)
    with pytest.raises(InputError) as refused:
        refuse_credentials(text, "rollout_log", "elsewhere")
    assert expected in str(refused.value) and text not in str(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        "http://host:8000/a@b",
        "http://host/a@b",
        "http://host:80 and me@x",
        "http://host?x=me@x",
        "http://[::1]:80/x",
        "s3://b/p?endpoint_override=http%3A//x",
        "sqlite:///runs/mlflow.db",
        "a@b.c, x?key",
    ],
)
def test_nothing_else(text):
    assert masked(text) == text and not has_credentials(text)
    refuse_credentials(text, "rollout_log", "elsewhere")


def test_values_of_the_environment_wherever_they_stand(monkeypatch, tmp_path):
    monkeypatch.setenv("SOME_API_KEY", "canary-1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:can%20ary@h")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path))
    monkeypatch.setenv("SHORT_TOKEN", "yes")
    assert masked("x canary-1y") == "x ***y"
    assert masked("can%20ary, can ary") == "***, ***"
    assert masked(f"yes {tmp_path}") == f"yes {tmp_path}"
    assert masked_values({"a": ["canary-1", 2, None], "canary-1": {"b": "no"}}) == {
        "a": ["***", 2, None],
        "canary-1": {"b": "no"},
    }


@pytest.mark.parametrize("key", ["with blank", "tail\x7f", "zeile\numbruch", "schlüssel"])
def test_a_key_that_no_header_can_carry_is_not_quoted(monkeypatch, key):
    monkeypatch.setenv("MY_KEY", key)
    with pytest.raises(InputError, match="MY_KEY holds, as its character") as refused:
        read_key("MY_KEY", "serper.dev", "retriever `web`")
    assert key not in str(refused.value)


def test_a_key_is_read_without_the_line_break_behind_it_and_masked_ever_after(monkeypatch):
    monkeypatch.setenv("MINE", " canary-2\r\n")
    assert read_key("MINE", "serper.dev", "retriever `web`") == "canary-2"
    monkeypatch.delenv("MINE")
    assert masked("canary-2") == "***"


def test_settings_are_searched_to_the_bottom():
    with pytest.raises(InputError, match=r"config\.a\.b: hdfs://\*\*\*@h carries credentials"):
        refuse_credentials_in({"a": {"b": [1, "hdfs://u:p@h"]}}, "config")
