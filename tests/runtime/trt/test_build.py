"""Building engines: for real with TensorRT-RTX, which needs no card, and against a stand-in for TensorRT 10 and 11."""

from __future__ import annotations

import hashlib
import io
import itertools
import re
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support import fake_builder
from support.drivers import pretend_driver
from support.engines import facts_of, library_of, needs_rtx
from support.fake_builder import BuilderFlag, FakeTensorRT, MemoryPoolType
from support.tiny_bundle import ATTRIBUTES
from support.tiny_precisions import add_precisions
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.classes.changes import add_classes
from zsl_runtime.errors import ArtefactError, BackendError, UsageError
from zsl_runtime.graphs.check import check_graph
from zsl_runtime.graphs.ports import Port, Ports, ports_of
from zsl_runtime.head.class_table import ClassTable
from zsl_runtime.machine.cards import Card, Driver
from zsl_runtime.trt.build import (
    Shape,
    build,
    build_for_bundle,
    check_engine,
    check_header,
    check_network,
    check_profiles,
    choose_capabilities,
    known_capabilities,
    ranges,
)
from zsl_runtime.trt.facts import Profile
from zsl_runtime.trt.library import find_library
from zsl_runtime.trt.progress import BuildProgress
from zsl_runtime.trt.store import find, read_plan

if TYPE_CHECKING:
    from pathlib import Path

CARD = Card(0, "NVIDIA L4", "8.9", 24 << 30)
PROFILES = (Profile(1, 1, 8), Profile(1, 64, 64))
PORTS = Ports(
    (
        Port("images", "uint8", ("N", 8, 8, 3)),
        Port("head_weight", "float32", ("C", 24)),
        Port("head_bias", "float32", ("C",)),
        Port("class_bias", "float32", ("C",)),
    ),
    (Port("scores", "float32", ("N", "C")), Port("features", "float32", ("N", 12))),
)


@pytest.fixture
def alone(tmp_path, monkeypatch) -> None:
    """A cache folder of its own, and no card."""
    monkeypatch.setenv("ZSL_CACHE", str(tmp_path / "cache"))
    pretend_driver(monkeypatch, Driver("", "", (), "there is no NVIDIA driver"))


@pytest.fixture
def bundle(own_bundle, alone) -> Bundle:
    """A tiny bundle that may be changed, without a card."""
    return Bundle.open(own_bundle("bundle"))


@pytest.fixture
def with_card(bundle, monkeypatch) -> Bundle:
    pretend_driver(monkeypatch, Driver("580", "13.0", (CARD,), ""))
    return bundle


def fake(version: str = "11.4.0.106", **changes) -> FakeTensorRT:
    return FakeTensorRT(version, PORTS, **changes)


def built(module: FakeTensorRT, path: Path, **changes) -> bytes:
    wanted = {"ports": PORTS, "profiles": PROFILES, "max_classes": 20_000, "precision": "fp32"}
    return build(library_of(module), path, **{**wanted, "compute_capabilities": ("8.9",), **changes})


# --- the calls ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["10.13.3.9", "11.4.0.106"])
def test_both_versions_of_the_full_library_get_the_same_calls(with_card, version):
    module = fake(version)
    stored = build_for_bundle(with_card, library_of(module), "fp32", shape=Shape(2, 16, 32), workspace_bytes=1 << 28)
    assert module.called("create_network") == [(1 << 1,)]  # the flag that 10 needs and 11 takes
    assert module.called("clear_flag") == [(BuilderFlag.TF32,)]
    assert module.called("set_flag") == []  # neither host code nor version compatibility
    assert module.called("set_memory_pool_limit") == [(MemoryPoolType.WORKSPACE, 1 << 28)]
    assert [profile["images"] for profile in module.profiles] == [
        ((1, 8, 8, 3), (1, 8, 8, 3), (8, 8, 8, 3)),
        ((2, 8, 8, 3), (16, 8, 8, 3), (32, 8, 8, 3)),
    ]
    assert all(profile["head_weight"] == ((1, 24), (200, 24), (20_000, 24)) for profile in module.profiles)
    assert all(profile["class_bias"] == ((1,), (200,), (20_000,)) for profile in module.profiles)
    assert module.called("deserialize_cuda_engine") == [(False,)]  # engine_host_code_allowed
    assert read_plan(stored) == b"ftrt a plan"
    assert (stored.facts.gpu, stored.facts.compute_capabilities) == ("NVIDIA L4", ("8.9",))
    assert (stored.facts.version, stored.facts.profiles) == (version, (Profile(1, 1, 8), Profile(2, 16, 32)))
    assert stored.ports == PORTS == ports_of(with_card, "model")
    assert stored.verified_on == ()


@pytest.mark.parametrize(("precision", "cleared"), [("fp32", 1), ("fp16", 1), ("int8", 0)])
def test_float32_is_float32_but_beside_int8(bundle, precision, cleared):
    module = fake()
    built(module, bundle.path / "model.onnx", precision=precision)
    assert len(module.called("clear_flag")) == cleared
    assert module.called("set_memory_pool_limit") == []


def test_operators_are_asked_for_before_anything_is_parsed(bundle):
    module = fake(unsupported=("LogSoftmax", "Relu"))
    with pytest.raises(BackendError, match=r"does not take 'LogSoftmax', 'Relu' of .*model\.onnx") as caught:
        built(module, bundle.path / "model.onnx")
    assert (caught.value.code, caught.value.exit_code) == ("E-ENGINE-OPERATOR", 4)
    assert module.called("parse") == []
    assert ("MatMul",) in module.called("supports_operator")


@pytest.mark.parametrize(
    ("fails", "code", "pattern"),
    [
        ("builder", "E-ENGINE-BUILD", r"could not make a builder: pybind11.*; no device"),
        ("parse", "E-ENGINE-BUILD", r"could not read .*: Resize /layer/Resize: no device"),
        ("node", "E-ENGINE-OPERATOR", r"does not take .*: Resize /layer/Resize: no device"),
        ("profile", "E-ENGINE-BUILD", r"could not serve the shapes \{'images': "),
        ("build", "E-ENGINE-BUILD", r"could not build the engine: Error Code 10: no device; see what zsl-doctor says$"),
        ("empty", "E-ENGINE-BUILD", r"the plan is empty"),
        ("load", "E-ENGINE-LOAD", r"does not load the plan it built: no device"),
    ],
)
def test_what_the_library_says_is_in_our_error(with_card, fails, code, pattern):
    module = fake(fails=fails, said="no device")
    with pytest.raises(BackendError, match=pattern) as caught:
        build_for_bundle(with_card, library_of(module), "fp32")
    assert (caught.value.code, caught.value.exit_code) == (code, 4)
    assert "\n" not in str(caught.value)
    assert not (with_card.path / "engines").exists()


def changed(**changes) -> Ports:
    """PORTS with another first output or input."""
    return Ports(
        (PORTS.inputs[0]._replace(**changes.get("input", {})), *PORTS.inputs[1:]),
        (PORTS.outputs[0]._replace(**changes.get("output", {})), *PORTS.outputs[1:]),
    )


OTHERS = [
    (changed(input={"name": "pictures"}), r"its inputs are .*'pictures'"),
    (changed(input={"dtype": "float32"}), r"input 'images' is float32 .*, expected uint8"),
    (changed(input={"shape": ("N", 9, 8, 3)}), r"is uint8 \(-1, 9, 8, 3\), expected uint8 \(-1, 8, 8, 3\)"),
    (changed(input={"shape": (4, 8, 8, 3)}), r"\(4, 8, 8, 3\), expected uint8 \(-1, 8, 8, 3\)"),
    (changed(output={"name": "logits"}), r"its outputs are 'features', 'logits', expected 'scores', 'features'"),
    (changed(output={"dtype": "float16"}), r"output 'scores' is float16"),
    (changed(output={"shape": ("N", 5)}), r"\(-1, 5\), expected float32 \(-1, -1\)"),
]


@pytest.mark.parametrize(("ports", "pattern"), OTHERS)
def test_a_graph_that_is_not_the_manifest_s_is_refused_before_it_is_built(with_card, ports, pattern):
    module = FakeTensorRT("11.4.0.106", ports)
    with pytest.raises(ArtefactError, match=pattern) as caught:
        build_for_bundle(with_card, library_of(module), "fp32")
    assert (caught.value.code, caught.value.exit_code) == ("E-BUNDLE-GRAPH", 5)
    assert module.called("build_serialized_network") == []


@pytest.mark.parametrize(("ports", "pattern"), OTHERS)
def test_a_plan_that_is_not_the_manifest_s_is_not_kept(with_card, ports, pattern):
    with pytest.raises(ArtefactError, match=pattern) as caught:
        build_for_bundle(with_card, library_of(fake(engine_ports=ports)), "fp32")
    assert (caught.value.code, caught.value.exit_code) == ("E-ENGINE-PORTS", 5)
    assert not (with_card.path / "engines").exists()


def test_profiles_of_a_plan_are_compared(bundle):
    module = fake()
    built(module, bundle.path / "model.onnx")
    engine = module.Runtime(None).deserialize_cuda_engine(b"")
    check_engine(library_of(module), engine, PORTS, PROFILES, 20_000)
    with pytest.raises(ArtefactError, match=r"profile 1 of 'images' is .*, expected"):
        check_engine(library_of(module), engine, PORTS, (PROFILES[0], Profile(1, 32, 64)), 20_000)
    with pytest.raises(ArtefactError, match=r"profile 0 of 'head_weight' is"):
        check_engine(library_of(module), engine, PORTS, PROFILES, 10_000)
    with pytest.raises(ArtefactError, match="it has 2 profiles, expected 1"):
        check_engine(library_of(module), engine, PORTS, PROFILES[:1], 20_000)


def test_a_changed_file_is_not_built_from(with_card):
    with (with_card.path / "model.onnx").open("r+b") as file:
        file.write(b"\x09")
    with pytest.raises(ArtefactError, match="E-BUNDLE-HASH"):
        build_for_bundle(with_card, library_of(fake()), "fp32")


def test_weights_in_another_file_are_refused(tmp_path):
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1000]) for name in "xy"]
    weights = numpy_helper.from_array(np.zeros(1000, dtype=np.float32), "weights")
    graph = helper.make_graph([helper.make_node("Add", ["x", "weights"], ["y"])], "g", value[:1], value[1:], [weights])
    onnx.save_model(
        helper.make_model(graph), tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0
    )
    with pytest.raises(ArtefactError, match=r"E-BUNDLE-GRAPH: .*its numbers lie in another file"):
        built(fake(), tmp_path / "m.onnx")


# --- options --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape",
    [
        Shape(0, 1, 1),
        Shape(-1, 1, 1),
        Shape(2, 1, 4),
        Shape(1, 5, 4),
        Shape(8, None, 4),
        Shape(1, 1, 5000),
        Shape(1, 1, 0),
        Shape(max_classes=20_001),
        Shape(max_classes=0),
        Shape(True, True, True),
        Shape(1.0, 2, 2),  # type: ignore[arg-type]
    ],
)
def test_nonsense_is_refused_before_the_library_sees_it(shape):
    with pytest.raises(UsageError) as caught:
        shape.profiles()
    assert (caught.value.code, caught.value.exit_code) == ("E-ENGINE-PROFILE", 2)


@settings(max_examples=50)
@given(st.integers(-2, 5000), st.none() | st.integers(-2, 5000), st.integers(-2, 5000), st.integers(-2, 30_000))
def test_profiles_are_in_order_or_refused(least, best, most, classes):
    shape = Shape(least, best, most, classes)
    right = 1 <= least <= (most if best is None else best) <= most <= 4096 and 1 <= classes <= 20_000
    if not right:
        with pytest.raises(UsageError, match="E-ENGINE-PROFILE"):
            shape.profiles()
        return
    latency, throughput = shape.profiles()
    assert (latency.min_batch, latency.opt_batch, latency.max_batch) == (1, 1, min(8, most))
    assert (throughput.min_batch, throughput.max_batch) == (least, most)
    for found in ranges(PORTS.inputs, throughput, classes).values():
        assert all(1 <= a <= b <= c for a, b, c in zip(*found, strict=True))


def test_no_profile_and_an_unknown_letter():
    with pytest.raises(UsageError, match="at least one profile"):
        check_profiles((), 5)
    with pytest.raises(UsageError, match="input 'x' has the size 'Q'"):
        ranges((Port("x", "float32", ("N", "Q")),), PROFILES[0], 5)


def test_an_empty_workspace(bundle):
    with pytest.raises(UsageError, match="E-ENGINE-WORKSPACE"):
        built(fake(), bundle.path / "model.onnx", workspace_bytes=0)


def test_the_full_library_builds_on_the_card_at_hand_alone(bundle):
    full = library_of(fake())
    assert choose_capabilities(full, (), CARD) == choose_capabilities(full, ("8.9",), CARD) == ("8.9",)
    with pytest.raises(UsageError, match=r"for the card at hand alone \(NVIDIA L4, 8\.9\), not for 9\.0") as caught:
        choose_capabilities(full, ("9.0",), CARD)
    assert caught.value.code == "E-ENGINE-CAPABILITY"
    with pytest.raises(BackendError, match=r"there is no NVIDIA driver; without a card build with --trt rtx") as caught:
        build_for_bundle(bundle, full, "fp32")
    assert (caught.value.code, caught.value.exit_code) == ("E-DEVICE", 4)


@needs_rtx
def test_capabilities_that_rtx_is_given(bundle):
    rtx = find_library("rtx")
    known = known_capabilities(rtx)
    assert {"7.5", "8.0", "8.6", "8.9", "12.0"} <= set(known)
    assert known_capabilities(library_of(fake())) == ()
    assert choose_capabilities(rtx, ("12.0", "8.6"), None) == ("8.6", "12.0")
    assert choose_capabilities(rtx, (), None) == tuple(one for one in known if one != "7.5")
    assert choose_capabilities(rtx, (), CARD) == ("8.9",)
    for wrong in (("9.0",), ("8.9", "8.9"), ("",), ("sm89",)):
        with pytest.raises(UsageError, match=r"choose from 7\.5, 8\.0"):
            choose_capabilities(rtx, wrong, None)
    with pytest.raises(BackendError, match=r"does not support this card \(NVIDIA H200, compute capability 9\.0\)"):
        choose_capabilities(rtx, (), Card(0, "NVIDIA H200", "9.0", 1))


# --- progress -------------------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_a_bar_and_a_log_a_line_now_and_then(bundle):
    ticks = iter(range(0, 1000, 4))
    for stream, pattern in (
        (Terminal(), r"\r\x1b\[K\[#+-+\] it: Building 1/3, \d+ s.*\r\x1b\[K$"),
        (io.StringIO(), r"^it: Building \d/3, \d+ s\n$"),
    ):
        progress = BuildProgress(stream, "it", clock=lambda: next(ticks))
        built(fake(), bundle.path / "model.onnx", progress=progress)
        assert re.search(pattern, stream.getvalue(), re.DOTALL), stream.getvalue()


def test_a_short_build_says_nothing_in_a_log(bundle):
    stream = io.StringIO()
    built(fake(), bundle.path / "model.onnx", progress=BuildProgress(stream))
    assert stream.getvalue() == ""


@pytest.mark.parametrize("error", [KeyboardInterrupt, BrokenPipeError])
def test_what_comes_up_while_progress_is_told_ends_the_build(bundle, error):
    class Broken(BuildProgress):
        def step(self, phase: str, done: int) -> None:
            raise error

    module = fake()
    with pytest.raises(error):
        built(module, bundle.path / "model.onnx", progress=Broken(sys.stderr, quiet=True))


# --- for real -------------------------------------------------------------------------------------------------------


@needs_rtx
def test_every_graph_of_a_bundle_builds_in_every_precision(bundle):
    rtx = find_library("rtx")
    add_precisions(bundle.path, ("fp32", "fp16"))
    both = Bundle.open(bundle.path)
    told = Terminal()
    made = {}
    for precision in ("fp32", "fp16"):
        # A clock that runs: on a quick machine the whole build lies between two moments at which something is drawn.
        progress = BuildProgress(told, precision, clock=map(float, itertools.count()).__next__)
        made[precision] = build_for_bundle(
            both, rtx, precision, shape=Shape(max_batch=4), compute_capabilities=("8.9",), progress=progress
        )
        found = find(both, flavour="tensorrt-rtx", version=rtx.version, compute_capability="8.9", precision=precision)
        assert found == made[precision]
        assert read_plan(found).startswith(b"vtrt")
        assert found.facts.gpu is None
    assert made["fp32"].path != made["fp16"].path
    assert "fp16: " in told.getvalue()
    for part in ("synthesizer", "lift"):
        stored = build_for_bundle(both, rtx, "fp32", part=part, compute_capabilities=("8.9",))
        assert (stored.facts.part, stored.facts.max_classes) == (part, 0)
        assert stored.ports == ports_of(both, part)
    with pytest.raises(UsageError, match="in fp32 alone"):
        build_for_bundle(both, rtx, "fp16", part="lift", compute_capabilities=("8.9",))


@needs_rtx
@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize(("rule", "parts"), [("gaussian", ("means", "lift")), ("rows", ("rows", "lift"))])
def test_the_small_graphs_of_other_head_rules_build(own_bundle, rule, parts):
    bundle = Bundle.open(own_bundle(rule=rule))
    for part in parts:
        stored = build_for_bundle(bundle, find_library("rtx"), "fp32", part=part, compute_capabilities=("8.9",))
        assert (stored.facts.part, stored.facts.max_classes) == (part, 0)
        assert stored.ports == ports_of(bundle, part)
        assert read_plan(stored).startswith(b"vtrt")


@needs_rtx
@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("rule", ["fit", "gaussian"])
def test_a_hundred_classes_more_are_served_by_the_same_plan(own_bundle, rule):
    bundle, rtx = Bundle.open(own_bundle(rule=rule)), find_library("rtx")
    made = build_for_bundle(bundle, rtx, "fp32", compute_capabilities=("8.9",))
    before = hashlib.sha256(made.path.read_bytes()).hexdigest()
    assert before == made.sha256
    raw = np.random.default_rng(0).uniform(0, 9, (100, len(ATTRIBUTES)))
    add_classes(bundle, ClassTable(tuple(f"new {i}" for i in range(100)), np.zeros(100, dtype=bool), raw, ATTRIBUTES))
    again = Bundle.open(bundle.path)
    found = find(
        again,
        flavour="tensorrt-rtx",
        version=rtx.version,
        compute_capability="8.9",
        precision="fp32",
        classes=len(again.current().table),
    )
    assert (found.path, len(again.current().table)) == (made.path, 108)
    assert hashlib.sha256(read_plan(found)).hexdigest() == before
    # And it takes them: the head is an input, its classes are dynamic in both profiles.
    width = bundle.manifest["dims"]["D"]
    assert [port.shape for port in found.ports.inputs[1:]] == [("C", width), ("C",), ("C",)]
    assert found.facts.max_classes == 20_000


@needs_rtx
def test_the_stand_in_has_no_name_that_the_real_one_has_not():
    real, stand_in = find_library("rtx").module, fake()
    for name in ("ILogger", "IProgressMonitor", "Builder", "OnnxParser", "Runtime", "NetworkDefinitionCreationFlag"):
        assert hasattr(real, name) == hasattr(stand_in, name) is True
    calls = {
        "Builder": ["create_network", "create_builder_config", "create_optimization_profile"],
        "INetworkDefinition": ["num_inputs", "num_outputs", "get_input", "get_output"],
        "IBuilderConfig": ["clear_flag", "set_memory_pool_limit", "add_optimization_profile", "progress_monitor"],
        "IOptimizationProfile": ["set_shape", "__bool__"],
        "OnnxParser": ["supports_operator", "parse", "num_errors", "get_error"],
        "ParserError": ["code", "desc", "node_name", "node_operator"],
        "Runtime": ["deserialize_cuda_engine", "engine_host_code_allowed"],
        "ICudaEngine": [
            "num_io_tensors",
            "get_tensor_name",
            "get_tensor_mode",
            "get_tensor_dtype",
            "get_tensor_shape",
            "num_optimization_profiles",
            "get_tensor_profile_shape",
        ],
    }
    for one, names in calls.items():
        assert [name for name in names if not hasattr(getattr(real, one), name)] == [], one
    for kind in ("DataType", "BuilderFlag", "MemoryPoolType", "TensorIOMode", "ErrorCode"):
        ours = getattr(fake_builder, kind).__members__
        assert set(ours) <= set(getattr(real, kind).__members__), kind


@needs_rtx
def test_the_builder_s_own_reason_is_in_our_error(bundle):
    with pytest.raises(BackendError, match=r"E-ENGINE-BUILD: TensorRT could not build the engine: .*Turing \(SM75\)"):
        build_for_bundle(bundle, find_library("rtx"), "fp32", compute_capabilities=("7.5",))


@needs_rtx
def test_a_real_network_is_compared_with_the_manifest(bundle, monkeypatch):
    rtx = find_library("rtx")
    wrong = changed(output={"shape": ("N", 5)})
    checked = check_graph((bundle.path / "model.onnx").read_bytes(), where="it")
    monkeypatch.setattr("zsl_runtime.trt.build.check_graph", lambda *_, **__: checked)  # which would see it before
    with pytest.raises(ArtefactError, match=r"output 'scores' is float32 \(-1, -1\), expected float32 \(-1, 5\)"):
        build(
            rtx,
            bundle.path / "model.onnx",
            ports=wrong,
            profiles=PROFILES,
            max_classes=5,
            precision="fp32",
            compute_capabilities=("8.9",),
        )


@needs_rtx
def test_a_real_build_can_be_interrupted(bundle):
    class Broken(BuildProgress):
        def step(self, phase: str, done: int) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_for_bundle(
            bundle,
            find_library("rtx"),
            "fp32",
            compute_capabilities=("8.9",),
            progress=Broken(sys.stderr, quiet=True),
        )
    assert not (bundle.path / "engines").exists()


@needs_rtx
def test_a_header_that_is_none():
    with pytest.raises(BackendError, match="MALFORMED_ENGINE"):
        check_header(find_library("rtx"), b"x" * 64)


def test_the_check_of_a_network_stands_alone():
    module = fake()
    network = module.Builder(library_logger(module)).create_network(2)
    check_network(network, PORTS, where="it")
    with pytest.raises(ArtefactError, match="it: its inputs are"):
        check_network(network, Ports(PORTS.inputs[1:], PORTS.outputs), where="it")


def library_logger(module: FakeTensorRT):
    from zsl_runtime.trt.library import Messages

    return Messages(library_of(module)).logger


def test_facts_of_a_bundle_are_those_of_its_file(bundle):
    assert facts_of(bundle).graph_sha256 == bundle.manifest["files"]["model.onnx"]["sha256"]
