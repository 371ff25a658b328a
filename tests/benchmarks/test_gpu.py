"""The benchmark of cards: what it does without one, that it measures right answers only, and that its parts work."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from support.drivers import pretend_driver
from support.tiny_bundle import class_table, draw_pictures, features_of
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.head.head import fold
from zsl_runtime.machine.cards import Driver

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
NO_CARD = Driver("", "", (), "there is no NVIDIA driver (libcuda.so.1 is not found): install it")


@pytest.fixture(scope="module")
def gpu():
    before = list(sys.path)
    spec = importlib.util.spec_from_file_location("zsl_bench_gpu", BENCHMARKS / "gpu.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    sys.path[:] = before


@pytest.fixture(scope="module")
def original(shared_bundle) -> Path:
    return shared_bundle(lift=False, precisions=("fp32", "fp16"))


def run(gpu, monkeypatch, capsys, *words) -> tuple[int, dict, str]:
    pretend_driver(monkeypatch, NO_CARD)
    out = Path(words[words.index("--out") + 1])
    code = gpu.main([str(word) for word in words])
    return code, json.loads(out.read_text()), capsys.readouterr().out


def test_without_a_card_everything_is_skipped_by_name(gpu, monkeypatch, capsys, tmp_path):
    code, report, out = run(gpu, monkeypatch, capsys, "--out", tmp_path / "deep" / "r.json")
    assert code == 4
    assert set(report["sections"]) == set(gpu.SECTIONS)
    for name in gpu.SECTIONS:
        assert report["sections"][name] == {"skipped": NO_CARD.problem}
        assert f"skipped {name}: {NO_CARD.problem}\n" in out
    assert report["machine"]["cards"] == []
    assert "card: none; driver none" in out


def test_words_that_mean_nothing_are_refused(gpu, tmp_path):
    for words in (["--sections", "speed"], ["--device", "gpu"], ["--batches", "0"]):
        with pytest.raises(SystemExit) as caught:
            gpu.main(words)
        assert caught.value.code == 2


def test_the_whole_script_on_the_cpu(gpu, original, monkeypatch, capsys, tmp_path):
    """Everything but what needs a card, on a bundle of nothing: it is the script that is tried."""
    monkeypatch.setattr(gpu, "PHOTOGRAPHS", 32)
    monkeypatch.setattr(gpu, "ADDITIONS", 1)
    words = ("--device", "cpu", "--bundle", original, "--batches", "1,3", "--seconds", "0.05", "--out", tmp_path / "r")
    code, report, out = run(gpu, monkeypatch, capsys, *words)
    assert code == 0, out
    sections = report["sections"]
    for name in ("tests", "rtx", "backbones", "pixels"):
        assert "needs a card" in sections[name]["skipped"]
    for about in ("ort fp32", "ort fp16"):
        line = sections["latency"]["lines"][about]["batches"]["3"]
        assert 0 < line["p50_ms"] <= line["p90_ms"] <= line["p99_ms"]
        assert line["rounds"] >= 40
    assert sections["end_to_end"]["lines"]["ort fp32"]["3"]["photographs_per_second"] > 0
    load = sections["reload"]
    assert (load["failed"], load["wrong"], load["generations"]) == ([], 0, [1, 2])
    assert load["calls"] > 10
    assert load["longest_ms"] > 0
    assert len(load["reload_ms"]) == 1
    assert report["wrong"] == []
    assert len(Bundle.open(original).current().table) == 8  # classes were added to a copy


def test_a_wrong_answer_has_no_speed(gpu, shared_bundle, own_bundle, monkeypatch, capsys, tmp_path):
    path = own_bundle(lift=False, precisions=("fp32", "fp16"))
    content = (shared_bundle(lift=False, seed=3) / "model.onnx").read_bytes()
    (path / "model.fp16.onnx").write_bytes(content)
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"]["model.fp16.onnx"] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    (path / "manifest.json").write_text(json.dumps(manifest))
    pointer = json.loads((path / "classes/CURRENT").read_text())
    pointer["manifest_sha256"] = hashlib.sha256((path / "manifest.json").read_bytes()).hexdigest()
    (path / "classes/CURRENT").write_text(json.dumps(pointer) + "\n")
    words = ("--device", "cpu", "--bundle", path, "--sections", "latency", "--batches", "2", "--seconds", "0.02")
    code, report, out = run(gpu, monkeypatch, capsys, *words, "--out", tmp_path / "r.json")
    assert code == 3
    latency = report["sections"]["latency"]
    assert set(latency["lines"]) == {"ort fp32"}
    assert "features are off" in latency["wrong"]["ort fp16"]
    assert "WRONG ANSWERS: ort fp16" in out


def opened(gpu, call, begin=None):
    return sys.modules["gpu_contenders"].Opened(call, begin, "a library")


def test_the_check_finds_every_kind_of_wrong_answer(gpu, original):
    tools = sys.modules["gpu_contenders"]
    bundle = Bundle.open(original)
    generation = bundle.current()
    head = fold(generation.head, generation.table.seen)
    pictures = draw_pictures(class_table(), np.arange(8), seed=3)
    wanted = features_of(pictures)
    right = lambda given: (head.scores(features_of(given)), features_of(given))  # noqa: E731
    tools.check(opened(gpu, right), "fp32", pictures, wanted, head)
    wrong = [
        lambda given: (head.scores(wanted[: len(given)]), features_of(given) * 1.01),
        lambda given: (head.scores(features_of(given)) + 1, features_of(given)),
        lambda given: (head.scores(features_of(given)), np.full_like(features_of(given), np.nan)),
        lambda given: right(given) if len(given) > 1 else (head.scores(wanted[1:2]), wanted[1:2]),
    ]
    for call in wrong:
        with pytest.raises(tools.WrongAnswerError):
            tools.check(opened(gpu, call), "fp32", pictures, wanted, head)
    same = np.repeat(pictures[:1], 8, axis=0)
    with pytest.raises(tools.WrongAnswerError, match="all the same"):
        tools.check(opened(gpu, right), "fp32", same, features_of(same), head)


def test_percentiles_are_of_single_calls_and_throughput_is_overlapped(gpu):
    tools = sys.modules["gpu_contenders"]
    now, flying = [0.0], []

    def call(pictures):
        calls.append(1)
        now[0] += 0.001 * (1 + len(calls) % 10)

    def begin(pictures):
        flying.append(1)
        assert len(flying) <= 2
        now[0] += 0.0005
        return SimpleNamespace(result=flying.pop)

    calls: list[int] = []
    found = tools.time_call(opened(gpu, call, begin), np.zeros((4, 1)), seconds=0.1, clock=lambda: now[0])
    assert found["p50_ms"] == pytest.approx(5.5, abs=0.6)
    assert found["p99_ms"] == pytest.approx(10, abs=0.2)
    assert found["one_after_the_other_per_second"] == pytest.approx(4 / 0.0055, rel=0.03)
    assert found["overlapped_per_second"] == pytest.approx(4 / 0.0005, rel=0.01)
    assert flying == []


def test_contenders_run_in_turns_and_one_without_room_does_not_end_the_others(gpu):
    tools = sys.modules["gpu_contenders"]
    now, order = [0.0], []

    def takes(name, seconds, most=10**6):
        def call(pictures):
            order.append(name)
            now[0] += seconds * 1.01 ** len(order)  # a machine that becomes slower
            if order.count(name) > most:
                raise MemoryError("no room")

        return opened(gpu, call)

    ways = {"a": takes("a", 1e-6), "b": takes("b", 0.5e-6), "c": takes("c", 1e-6, most=20)}
    lines, failed = tools.time_in_turns(ways, np.zeros((4, 1)), seconds=0.0, clock=lambda: now[0])
    assert order[:30] == ["a", "b", "c"] * 10
    assert failed == {"c": "MemoryError: no room"}
    assert set(lines) == {"a", "b"}
    assert lines["b"]["times_as_fast_as_the_first"] == pytest.approx(2.0, rel=0.011)
    assert lines["a"]["rounds"] == 40


def test_what_pytest_reported_is_read(gpu, tmp_path):
    path = tmp_path / "t.xml"
    case = '<testcase classname="a" name="{}">{}</testcase>'
    skip = '<skipped message="no card"/>'
    cases = case.format("x", "") + case.format("y", "<failure/>") + case.format("z", skip)
    path.write_text(f"<testsuites><testsuite>{cases}</testsuite></testsuites>")
    assert gpu.read_junit(path) == {"passed": 1, "failed": ["a::y"], "skipped_tests": {"a::z": "no card"}}
    path.write_text(f"<testsuites><testsuite>{case.format('z', skip)}</testsuite></testsuites>")
    with pytest.raises(gpu.Skipped, match="no card"):
        gpu.read_junit(path)


def test_the_bundle_that_is_made_goes_through_the_real_export_and_torch_agrees(gpu, tmp_path):
    """With a tiny backbone in the place of ResNet-101."""
    from gpu_bundle import export, make_run

    from support.big_bundle import Sizes
    from support.tiny_run import TinyBackbone

    tools = sys.modules["gpu_contenders"]
    pictures = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), dtype=np.uint8)
    sizes = Sizes(seen=6, unseen=2, replay=5, features=12, lift=0, attributes=8, noise=8, synthetic=10)
    made = make_run(TinyBackbone(), pictures, sizes, hidden=16)
    bundle = Bundle.open(export(made, tmp_path / "b", ("fp32",), 1))
    generation = bundle.current()
    head = fold(generation.head, generation.table.seen)
    names = [one.name for one in tools.contenders(bundle, made, None, ["fp32"])]
    assert names == ["ort fp32", "torch eager fp32", "torch compile fp32"]
    on_card = [one.name for one in tools.contenders(bundle, made, 0, ["fp32", "fp16"])]
    assert on_card == [
        f"{name} {precision}{more}"
        for precision in ("fp32", "fp16")
        for name, more in (
            ("tensorrt", " cuda graphs"),
            ("tensorrt", " no cuda graphs"),
            ("ort-cuda", ""),
            ("torch eager", ""),
            ("torch compile", ""),
        )
    ]
    ort, eager = (one for one in tools.contenders(bundle, made, None, ["fp32"]) if "compile" not in one.name)
    with ort.open() as first, eager.open() as second:
        _, wanted = first.call(pictures[:8])
        tools.check(second, "fp32", pictures[:8], wanted, head)


def test_backbones_are_timed_when_they_are_right(gpu, monkeypatch):
    """On the CPU, with a tiny one: what runs on a card but for its graphs."""
    import gpu_backbones
    import torch

    from support.tiny_run import TinyBackbone

    tools, backbone = sys.modules["gpu_contenders"], TinyBackbone().eval()
    lines = gpu_backbones.time_backbone(backbone, "cpu", (1, 3))
    assert {precision: set(batches) for precision, batches in lines.items()} == {"fp32": {"1", "3"}, "fp16": {"1", "3"}}
    for batches in lines.values():
        for batch, line in batches.items():
            assert set(line) == {"eager_ms", "eager_pictures_per_second"}
            assert line["eager_pictures_per_second"] == pytest.approx(1000 * int(batch) / line["eager_ms"], rel=0.05)
    real = gpu_backbones.HalfBackbone.forward
    for wrong in (1.1, float("nan")):
        monkeypatch.setattr(gpu_backbones.HalfBackbone, "forward", lambda self, x, by=wrong: real(self, x) * by)
        with pytest.raises(tools.WrongAnswerError, match="regions in fp16 are off by"):
            gpu_backbones.time_backbone(backbone, "cpu", (1,))
    assert not torch.backends.cudnn.benchmark


@pytest.mark.gpu
def test_on_a_card_of_this_machine(gpu, tmp_path):
    """The sections that take seconds; the whole report is `make bench-gpu`."""
    from zsl_runtime.machine.cards import driver

    if not driver().cards:
        pytest.skip(driver().problem)
    code = gpu.main(["--sections", "pixels", "--out", str(tmp_path / "r.json")])
    assert code in {0, 4}
