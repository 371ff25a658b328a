"""What zsl-doctor says of cards, their libraries and engines: on machines with everything, some of it, nothing."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest

from support.drivers import pretend_driver
from support.fake_ort_cuda import DRIVER, FakeOrt
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.cli import doctor_cards
from zsl_runtime.cli.doctor import main
from zsl_runtime.graphs.ports import ports_of
from zsl_runtime.machine.cards import Driver
from zsl_runtime.trt import library
from zsl_runtime.trt.facts import Facts, Profile, Stored, this_platform
from zsl_runtime.trt.library import Installed
from zsl_runtime.trt.store import engines_of, mark_verified, store

NOTHING = Driver("", "", (), "there is no NVIDIA driver (libcuda.so.1 is not found): install it")
RTX = Installed("tensorrt-rtx", "1.7.1.116", None, 'pip install "zsl-deploy[rtx]"')
FULL = Installed("tensorrt", None, "not installed here", 'pip install "zsl-deploy[tensorrt]"')


@pytest.fixture
def bundle(own_bundle, tmp_path, monkeypatch) -> Bundle:
    monkeypatch.setenv("ZSL_CACHE", str(tmp_path / "cache"))
    return Bundle.open(own_bundle())


@pytest.fixture
def rtx_machine(monkeypatch) -> None:
    """Two cards and TensorRT-RTX."""
    pretend_driver(monkeypatch, DRIVER)
    monkeypatch.setattr(library, "installed", lambda: [FULL, RTX])


def put(bundle: Bundle, *, trusted: bool = True, **changes) -> Stored:
    """An engine of these facts; the plan is no plan, which nothing here looks at."""
    facts = Facts(
        graph_sha256=bundle.manifest["files"]["model.onnx"]["sha256"],
        part="model",
        flavour="tensorrt-rtx",
        version="1.7.1.116",
        compute_capabilities=("8.9",),
        gpu=None,
        precision="fp32",
        profiles=(Profile(1, 1, 8), Profile(1, 64, 64)),
        max_classes=20000,
        host_code=False,
    )
    path = store(bundle.path, replace(facts, **changes), b"plan" * 10, ports_of(bundle, "model"), trusted=trusted)
    return next(one for one in engines_of(bundle) if one.path == path)


def test_cards_and_driver_are_listed(monkeypatch, capsys):
    pretend_driver(monkeypatch, DRIVER)
    monkeypatch.setitem(sys.modules, "onnxruntime", FakeOrt())
    assert main([]) == 0
    out = capsys.readouterr().out
    for fact in (
        "ok      NVIDIA driver 580.65.06, which runs CUDA up to 13.0",
        "ok      cuda:0 is NVIDIA Test 1, compute capability 8.9, 24.0 GiB of memory",
        "ok      cuda:1 is NVIDIA Test 2, compute capability 9.0",
        "ok      backend ort-cuda on cuda:0 (NVIDIA Test 1): fp32, fp16",
    ):
        assert fact in out


def test_a_machine_with_nothing_gets_a_line_for_everything_where_it_is_asked_for(monkeypatch, capsys):
    pretend_driver(monkeypatch, NOTHING)
    monkeypatch.setattr(library, "installed", lambda: [FULL, RTX._replace(version=None, reason="not installed here")])
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    assert main(["--cards"]) == 0
    out = capsys.readouterr().out
    for line in (
        f"no NVIDIA card: {NOTHING.problem}",
        'no tensorrt: not installed here; pip install "zsl-deploy[tensorrt]"',
        'no tensorrt-rtx: not installed here; pip install "zsl-deploy[rtx]"',
        'no cuda.bindings: not installed here; pip install "zsl-deploy[tensorrt]"',
        "no backend ort-cuda: ",
    ):
        assert f"note    {line}" in out
    assert "left out" not in out


CARD_WORDS = ("nvidia", "cuda", "tensorrt", "card")


@pytest.mark.parametrize("argument", [False, True], ids=["machine", "bundle"])
def test_a_machine_with_nothing_is_not_told_of_cards_but_that_this_was_left_out(bundle, monkeypatch, capsys, argument):
    pretend_driver(monkeypatch, NOTHING)
    monkeypatch.setattr(library, "installed", lambda: pytest.fail("a library of cards was imported"))
    assert main([str(bundle.path)] if argument else []) == 0
    *report, last = capsys.readouterr().out.splitlines()
    assert len(report) > (12 if argument else 5)
    assert [line for line in report if any(word in line.lower() for word in CARD_WORDS)] == []
    assert last.startswith("ok      cards, CUDA and TensorRT are left out: there is no NVIDIA card here, nor a driver")
    assert "--cards" in last


@pytest.mark.parametrize(
    "driver",
    [
        Driver("580.65.06", "13.0", (), "the driver shows no card: see to it that nvidia-smi lists one"),
        Driver("", "13.0", (), "NVIDIA's driver does not start: cuInit says error (999); install"),
    ],
)
def test_a_driver_without_a_card_is_spoken_of(monkeypatch, capsys, driver):
    pretend_driver(monkeypatch, driver)
    assert main([]) == 0
    out = capsys.readouterr().out
    assert f"note    no NVIDIA card: {driver.problem}" in out
    assert "no backend ort-cuda" in out or "backend ort-cuda" in out
    assert "left out" not in out


def test_engines_on_a_machine_without_a_card_are_counted_and_damage_is_found(bundle, monkeypatch, capsys):
    stored = put(bundle)
    put(bundle, version="1.6.0.1")
    pretend_driver(monkeypatch, NOTHING)
    assert main([str(bundle.path)]) == 0
    assert "ok      2 of 2 TensorRT engines are as they were built; there is no card to run them\n" in (
        capsys.readouterr().out
    )
    stored.path.write_bytes(b"plan" * 9 + b"plam")
    assert main([str(bundle.path)]) == 5
    out = capsys.readouterr().out
    assert f"BROKEN  engine {stored.path.stem}: E-ENGINE-HASH" in out
    assert "1 of 2 TensorRT engines" in out


def test_the_real_libraries_are_described():
    """Whatever is installed where the tests run: a version, or a reason with the line that installs it."""
    for finding in (*doctor_cards.libraries(), *doctor_cards.cards()):
        assert finding.state in {"ok", "note"}
        assert finding.state == "ok" or "install" in finding.text or "nvidia-smi" in finding.text
    version, reason = doctor_cards.bindings()
    assert bool(version) != bool(reason)


def test_a_library_that_is_there_without_a_card_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", FakeOrt())
    pretend_driver(monkeypatch, NOTHING)
    finding = doctor_cards.on_card("ort-cuda")
    assert finding.state == "note"
    assert f"its library is there, but {NOTHING.problem}" in finding.text


def engines(bundle: Bundle) -> list[tuple[str, str]]:
    return [tuple(finding) for finding in doctor_cards.engines(bundle)]


def test_an_engine_for_this_machine_fits(bundle, rtx_machine):
    assert "no engines in it" in engines(bundle)[0][1]
    stored = put(bundle)
    ((state, text),) = engines(bundle)
    assert state == "ok"
    assert f"engine {stored.path.stem}: model in fp32, tensorrt-rtx 1.7.1.116, compute capability 8.9" in text
    assert text.endswith("fits this machine, not yet run anywhere")
    mark_verified(stored, "NVIDIA Test 1")
    assert engines(bundle)[0][1].endswith("fits this machine, passed the probe on NVIDIA Test 1")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"compute_capabilities": ("12.0",)}, "the card here has compute capability 8.9, 9.0"),
        ({"version": "1.6.0.1"}, "tensorrt-rtx here is 1.7.1.116"),
        ({"flavour": "tensorrt", "version": "11.4.0.106"}, "tensorrt is not usable here"),
        ({"graph_sha256": "0" * 64}, "it is of another export of the model"),
        ({"platform": "windows-amd64"}, f"this is {this_platform()}"),
    ],
)
def test_an_engine_for_something_else_does_not_fit_and_it_says_why(bundle, rtx_machine, changes, reason):
    put(bundle, **changes)
    ((state, text),) = engines(bundle)
    assert state == "note"
    assert f"; not for this machine: {reason}" in text


def test_an_engine_of_somebody_else_and_a_machine_without_a_card(bundle, rtx_machine, monkeypatch):
    put(bundle, trusted=False)
    ((state, text),) = engines(bundle)
    assert state == "note"
    assert "was not built by you on this machine" in text
    pretend_driver(monkeypatch, NOTHING)
    assert "there is no card" in engines(bundle)[0][1]


def test_a_damaged_engine_is_broken(bundle, rtx_machine, capsys):
    stored = put(bundle)
    stored.path.write_bytes(b"plan" * 9 + b"plam")
    ((state, text),) = engines(bundle)
    assert state == "BROKEN"
    assert "E-ENGINE-HASH" in text
    assert main([str(bundle.path)]) == 5
    assert "E-ENGINE-HASH" in capsys.readouterr().out
