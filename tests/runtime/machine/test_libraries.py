"""What libraries would do by themselves is switched off, and what the user has set stays; the commands: contracts."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import onnxruntime
import pytest

from zsl_runtime.backends import ort
from zsl_runtime.machine import libraries
from zsl_runtime.machine.libraries import tame_libraries, tame_matplotlib, tame_onnxruntime, tame_torch


@pytest.mark.parametrize(
    ("given", "found"), [(None, "CACHE/cuda"), ("", "CACHE/cuda"), ("/mine", "/mine")], ids=["unset", "empty", "set"]
)
def test_what_the_driver_compiles_goes_to_the_cache_folder_where_there_is_a_card(monkeypatch, tmp_path, given, found):
    monkeypatch.setenv("ZSL_CACHE", str(tmp_path))
    monkeypatch.setattr(libraries, "DRIVERS", (str(tmp_path),))
    monkeypatch.setenv("CUDA_CACHE_PATH", given or "")
    if given is None:
        monkeypatch.delenv("CUDA_CACHE_PATH")
    tame_libraries()
    assert os.environ["CUDA_CACHE_PATH"] == found.replace("CACHE", str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_without_a_card_nothing_is_said_of_it(monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_CACHE_PATH", "")
    monkeypatch.delenv("CUDA_CACHE_PATH")
    monkeypatch.setattr(libraries, "DRIVERS", (str(tmp_path / "no card"),))
    tame_libraries()
    assert "CUDA_CACHE_PATH" not in os.environ


@pytest.mark.parametrize("cache", ["there", "to be made/deep", "file", "file/below"])
@pytest.mark.parametrize(
    ("tame", "name", "below"),
    [(tame_torch, "TORCHINDUCTOR_CACHE_DIR", "torch"), (tame_matplotlib, "MPLCONFIGDIR", "matplotlib")],
)
def test_libraries_get_a_folder_in_the_cache_folder_where_one_can_be_made(
    monkeypatch, tmp_path, cache, tame, name, below
):
    (tmp_path / "there").mkdir()
    (tmp_path / "file").touch(mode=0o600)
    monkeypatch.setenv("ZSL_CACHE", str(tmp_path / cache))
    monkeypatch.setenv(name, "")
    monkeypatch.delenv(name)
    tame()
    chosen = os.environ.get(name)
    assert chosen == (None if "file" in cache else str(tmp_path / cache / below))
    if chosen is not None:
        Path(chosen).mkdir(parents=True)  # as they do


@pytest.mark.parametrize(("said", "asked"), [("1", True), (None, True), ("", True), ("0", False)])
def test_onnx_runtime_is_asked_by_its_own_call_too(monkeypatch, said, asked):
    """On Windows it reads no variable, and a program may have imported it first."""
    if said is None:
        monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    else:
        monkeypatch.setenv("ORT_DISABLE_TELEMETRY", said)
    calls = []
    tame_onnxruntime(SimpleNamespace(disable_telemetry_events=lambda: calls.append(1)))
    assert bool(calls) == asked
    tame_onnxruntime(SimpleNamespace())  # one without


def test_every_backend_of_onnx_runtime_asks_it(monkeypatch):
    calls = []
    monkeypatch.setattr(onnxruntime, "disable_telemetry_events", lambda: calls.append(1))
    assert ort.import_onnxruntime() is onnxruntime
    assert calls == [1]
