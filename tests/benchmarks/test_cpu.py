"""`make bench-cpu`: what its file says, that wrong answers end it, and that contenders not here are named."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from support.tiny_bundle import class_table, draw_pictures, features_of, mixing_matrix
from support.tiny_precisions import quantised_features_of
from zsl_runtime.backends.table import version_of
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.head.head import fold
from zsl_runtime.machine.processor import processor

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
PICTURES = draw_pictures(class_table(), np.arange(8), 1)


@pytest.fixture(scope="module")
def cpu():
    before = list(sys.path)
    spec = importlib.util.spec_from_file_location("zsl_bench_cpu", BENCHMARKS / "cpu.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    sys.path[:] = before


class Tiny(torch.nn.Module):
    """The tiny bundle's model, without a lift."""

    def forward(self, pictures, weight, bias, class_bias):
        quarters = pictures.reshape(-1, 2, 4, 2, 4, 3).float() / 255
        features = quarters.mean(dim=(2, 4)).reshape(-1, 12) @ torch.from_numpy(mixing_matrix(0))
        return torch.log_softmax(features @ weight.T + bias + class_bias, dim=1), features


@pytest.fixture
def network(cpu, shared_bundle, monkeypatch):
    """In the place of ResNet-101: the tiny model in two precisions."""
    bundle = Bundle.open(shared_bundle(lift=False, precisions=("fp32", "int8-cpu")))
    generation = bundle.current()
    features = features_of(PICTURES)
    made = cpu.engine.Network(
        Tiny().eval(),
        {"fp32": bundle.path / "model.onnx", "bf16": bundle.path / "model.onnx"}
        | {"int8": bundle.path / "model.int8-cpu.onnx"},
        PICTURES,
        fold(generation.head, generation.table.seen),
        {"fp32": features, "bf16": features, "int8": quantised_features_of(PICTURES).astype(np.float32)},
    )
    monkeypatch.setattr(cpu.engine, "make_network", lambda *_: made)
    monkeypatch.setattr(cpu.engine, "PAUSE", 0.0)
    return made


def measured(cpu, out, *contenders) -> int:
    words = ["--networks", "resnet101", "--seconds", "0.01", "--out", str(out)]
    return cpu.main([*words, "--contenders", ",".join(contenders)])


def test_the_file_says_how_fast_each_is_and_against_whom_and_on_what(cpu, network, tmp_path, capsys):
    out = tmp_path / "deep" / "cpu.json"
    names = ["torch eager", "plain ort fp32", "plain ort int8", "ours ort fp32", "ours ort int8"]
    assert measured(cpu, out, *names) == 0
    said = json.loads(out.read_text())
    found = said["networks"]["resnet101"]["contenders"]
    assert list(found) == names
    for name, one in found.items():
        assert one["rounds"] >= 5
        assert one["pictures_per_second"] == pytest.approx(8000 / one["p50_ms"], rel=0.02)
        assert ("eager" in one) == (name != "torch eager")
    for name, peer in (("ours ort fp32", "plain ort fp32"), ("ours ort int8", "plain ort int8")):
        assert found[name]["best_peer"]["name"] == peer
        ratio = found[name]["best_peer"]["times_as_fast"]
        assert 0 < ratio["low"] <= ratio["median"] <= ratio["high"]
    assert "best_peer" not in found["plain ort int8"]
    machine = said["machine"]
    assert machine["processor"] == processor().name
    assert set(machine["flags"]) <= processor().flags
    assert ("avx512_bf16" in machine["flags"]) == ("avx512_bf16" in processor().flags)
    assert machine["usable_cpus"] >= 1
    assert len(machine["load_average_before"]) == len(machine["load_average_after"]) == 3
    assert {"numpy", "onnxruntime", "torch"} <= set(said["versions"])
    assert "times plain ort fp32" in capsys.readouterr().out


def test_what_is_not_here_is_named(cpu, network, tmp_path, monkeypatch):
    monkeypatch.setattr(cpu.engine, "processor", lambda: processor(tmp_path / "none"))
    monkeypatch.setattr(cpu.engine.shutil, "which", lambda _: None)
    out = tmp_path / "cpu.json"
    assert measured(cpu, out, "torch compile", "plain openvino bf16", "ours ort fp32") == 0
    found = json.loads(out.read_text())["networks"]["resnet101"]
    assert found["missing"] == {
        "torch compile": "torch.compile needs a C++ compiler",
        "plain openvino bf16": "this CPU has no bf16 instructions",
    }
    assert list(found["contenders"]) == ["ours ort fp32"]


def test_all_that_openvino_runs_is_checked_in_its_precision(cpu, network):
    if not version_of(["openvino"]):
        pytest.skip("openvino is not installed")
    for name in ("plain openvino fp32", "plain openvino int8", "ours openvino fp32", "ours openvino int8"):
        with cpu.engine.opened(network, name) as call:
            cpu.engine.check(network, name, call())


def test_a_wrong_answer_leaves_no_file(cpu, network, tmp_path, capsys):
    network.features["int8"][:] += 1.0
    out = tmp_path / "cpu.json"
    assert measured(cpu, out, "ours ort fp32", "ours ort int8") == 3
    assert not out.exists()
    assert "WRONG ANSWER, so nothing is kept: ours ort int8: off by" in capsys.readouterr().err


def test_words_that_mean_nothing_are_refused(cpu):
    for words in (["--networks", "vgg"], ["--contenders", "ours abacus"]):
        with pytest.raises(SystemExit) as caught:
            cpu.main(words)
        assert caught.value.code == 2
