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


@pytest.mark.parametrize(
    ("for_cpus", "torchvision", "wants"), [(False, "", True), (False, "0.28.0", False), (True, "", False)]
)
def test_a_vllm_for_gpus_wants_torchvision(installed, monkeypatch, for_cpus, torchvision, wants):
    installed(torch="2.13.0+cu130", vllm="0.32.0", torchvision=torchvision)
    monkeypatch.setattr(companions, "vllm_is_for_cpus", lambda: for_cpus)
    said = companions.missing_companion()
    assert (said is not None) == wants
    assert not wants or said.startswith("vLLM 0.32.0 for GPUs starts no engine without torchvision")
