"""The doctor's check of proxies; that of a Ray cluster is tested beside the clusters."""

import re

import pytest

from pipeline.doctor.checks import cheap_checks
from pipeline.doctor.findings import Finding, Subject
from pipeline.experiment.experiment import load_experiments

REMOTE = ("env_config.retriever={kind: http, http: {url: 'http://search.lab:8000/retrieve'}}",)


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "mlflow_tracking_uri"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def subject(*overrides: str) -> Subject:
    experiment = load_experiments("conf/igpo.yaml", list(overrides))[0]
    return Subject(experiment, experiment.algorithm_config())


@pytest.mark.parametrize(
    "overrides, environment, status, message",
    [
        ((), {"ALL_PROXY": "socks5://p:1"}, "ok", "none stands before the servers that this run asks"),
        (REMOTE, {}, "ok", "none stands before"),
        (
            REMOTE,
            {"HTTP_PROXY": "p:1"},
            "ok",
            "retriever search.lab through the proxy p:1 of HTTP_PROXY;",
        ),
        (REMOTE, {"ALL_PROXY": "socks5://p:1"}, "fail", "p:1 of ALL_PROXY, .*; or NO_PROXY=search.lab asks"),
        (REMOTE, {"ALL_PROXY": "socks5://p:1", "NO_PROXY": ".lab"}, "ok", "none stands before"),
        (
            (),
            {"ALL_PROXY": "socks5://p:1", "MLFLOW_TRACKING_URI": "http://m:5000"},
            "warn",
            r"requests\[socks\]'; or NO_PROXY=m asks",
        ),
        ((), {"ALL_PROXY": "socks5://p:1", "MLFLOW_TRACKING_URI": "http://127.0.0.1:5000"}, "ok", "none"),
        (("model_path=Qwen/Qwen3-0.6B",), {"HTTPS_PROXY": "p:1"}, "ok", "model hub huggingface.co through"),
        (("model_path=Qwen/Qwen3-0.6B",), {"all_proxy": "socks5://p:1"}, "fail", "of all_proxy"),
    ],
)
def test_proxies_before_the_servers_of_a_run(monkeypatch, overrides, environment, status, message):
    monkeypatch.setattr("envs.proxies.find_spec", lambda name: None)
    monkeypatch.setattr("pipeline.doctor.machine.find_spec", lambda name: None)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    found = next(finding for finding in cheap_checks(subject(*overrides)) if finding.name == "proxies")
    assert found.status == status
    assert re.search(message, found.message), found.message
    assert status == "fail" or "not looked at: whether a proxy lets requests pass" in found.message


def test_a_check_of_ones_own_comes_before_the_model():
    def fails(subject: Subject) -> Finding:
        return Finding("mine", "fail", "no")

    assert [finding.name for finding in cheap_checks(subject(), also=[fails])] == ["environment", "mine"]
