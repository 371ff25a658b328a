"""What may be given to a library, and every way in which a graph may not."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from support import hostile_graphs
from support.hostile_graphs import WIDTH, lift, node, with_work
from support.signed import change_file
from support.usable import FROM_GRAPHS, usable_backend
from zsl_runtime.backends.opening import open_backend, open_small_graphs
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.cli.classes import main as classes
from zsl_runtime.cli.doctor import main as doctor
from zsl_runtime.cli.infer import main as infer
from zsl_runtime.errors import ArtefactError
from zsl_runtime.graphs.check import PIXEL, ROW, check_graph
from zsl_runtime.graphs.parts import EXPLAIN, PARTS
from zsl_runtime.graphs.ports import ports_of

if TYPE_CHECKING:
    from pathlib import Path

HOSTILE = hostile_graphs.lifts()
HOSTILE["text"].graph.initializer.append(numpy_helper.from_array(np.array(["a"], dtype=object), "words"))
LIFT = lift().SerializeToString()


def refused(data: bytes, part: str = "lift") -> str:
    """What is said of a graph that may not be run."""
    with pytest.raises(ArtefactError, match=r"^E-BUNDLE-GRAPH: 'it' is not a graph that may be run: ") as caught:
        check_graph(data, where="it", part=part)
    assert caught.value.exit_code == 5
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000
    return str(caught.value)


def test_the_honest_graph_may_be_run():
    found = check_graph(LIFT, where="it", part="lift")
    assert (found.operators, found.nodes) == ({"Relu", "Concat"}, 2)
    assert found.row_bytes == 2 * WIDTH * 4
    assert check_graph(with_work(node("Neg", "before", "one")).SerializeToString(), where="it", part="lift").nodes == 4


@pytest.mark.parametrize("name", HOSTILE)
def test_each_way_to_harm_is_refused_at_once(name):
    data = HOSTILE[name].SerializeToString()
    started = time.process_time()  # of a CPU, whatever else the machine does
    refused(data)
    assert time.process_time() - started < 2


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("loop", "an attribute of operator 'Loop': a graph inside a node"),
        ("function", "it has functions of its own"),
        ("foreign operator", "operator 'com.microsoft::Gelu' is none of ONNX's own"),
        ("external constant", "a constant: its numbers lie in another file"),
        ("external sparse", "it has sparse constants"),
        ("constant of shape", "operator 'ConstantOfShape' is in no graph of ours"),
        ("expand", "values that are always the same, of 3,433 MiB"),
        ("expand by row", "it makes a value of"),
        ("doubling", "it makes a value of"),
        ("many at once", "it makes values at one moment of"),
        ("long work", "multiplications, where such a model takes at most"),
        ("pad", "Pad adds"),
        ("in a circle", "is given 'b' before that is made"),
        ("made twice", "'one' is made twice"),
        ("one row alone", "input 'features' is float32"),
        ("a lie about a value", "it tells that 'positive' is float32"),
        ("metadata", "it has metadata 'ort_config'"),
        ("training", "it has training information"),
        ("text", "it holds text"),
    ],
)
def test_it_is_said_what_is_wrong(name, said):
    assert said in refused(HOSTILE[name].SerializeToString())


@pytest.mark.parametrize("kind", ["images", "backbone_features"])
@pytest.mark.parametrize("rule", ["fit", "rows", "gaussian"])
def test_graphs_of_bundles_keep_the_contract_of_their_manifest(shared_bundle, kind, rule):
    bundle = Bundle.open(shared_bundle(kind=kind, rule=rule, precisions=("fp32", "fp16", "int8-cpu")))
    for part in [part for part in PARTS if bundle.graph(part) is not None]:
        files = [bundle.graph(part)] if part != "model" else [bundle.path / name for name in bundle.precisions.values()]
        for path in files:
            for ports in (None, ports_of(bundle, part)):
                found = check_graph(path.read_bytes(), where="it", part=part, ports=ports)
                nodes = onnx.load(path).graph.node
                assert (found.operators, found.nodes) == ({one.op_type for one in nodes}, len(nodes))
    other = ports_of(bundle, "model")
    wide = other._replace(outputs=(other.outputs[0], other.outputs[1]._replace(shape=("N", 13))))
    with pytest.raises(ArtefactError, match=r"output 'features' is float32 \(N, 12\), expected float32 \(N, 13\)"):
        check_graph(bundle.graph("model").read_bytes(), where="it", ports=wide)


def test_the_graph_of_attention_keeps_the_contract_of_its_manifest(shared_bundle):
    bundle = Bundle.open(shared_bundle(rule="gaussian", explain=True))
    data, ports = bundle.explain_graph.read_bytes(), ports_of(bundle, EXPLAIN)
    assert [port.shape for port in ports.outputs] == [("N", 6, 4)]
    for one in (None, ports):
        assert "Softmax" in check_graph(data, where="it", part=EXPLAIN, ports=one).operators
    wide = ports._replace(outputs=(ports.outputs[0]._replace(shape=("N", 6, 9)),))
    with pytest.raises(ArtefactError, match=r"output 'maps' is float32 \(N, 6, 4\), expected float32 \(N, 6, 9\)"):
        check_graph(data, where="it", part=EXPLAIN, ports=wide)
    with pytest.raises(ArtefactError, match="its inputs are"):
        check_graph(bundle.graph("model").read_bytes(), where="it", part=EXPLAIN, ports=ports)


# --- pictures -------------------------------------------------------------------------------------------------------


def pictures(side: int = 32, kernel: int = 3, **attributes) -> bytes:
    """A model of pictures with one convolution and a pooling."""
    attributes = {"kernel_shape": [kernel] * 2, "pads": [1] * 4, "strides": [1, 1], **attributes}
    info = helper.make_tensor_value_info
    nodes = [
        node("Cast", "images", "floats", to=TensorProto.FLOAT),
        node("Transpose", "floats", "planes", perm=[0, 3, 1, 2]),
        node("Conv", "planes weight", "maps", **attributes),
        node("MaxPool", "maps", "pooled", kernel_shape=[2, 2], strides=[2, 2]),
        node("ReduceMean", "pooled inside", "features", keepdims=0),
        node("Gemm", "features head_weight head_bias", "logits", transB=1),
        node("Add", "logits class_bias", "sums"),
        node("LogSoftmax", "sums", "scores", axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "model",
        [
            info("images", TensorProto.UINT8, ["N", side, side, 3]),
            info("head_weight", TensorProto.FLOAT, ["C", 8]),
            info("head_bias", TensorProto.FLOAT, ["C"]),
            info("class_bias", TensorProto.FLOAT, ["C"]),
        ],
        [info("scores", TensorProto.FLOAT, ["N", "C"]), info("features", TensorProto.FLOAT, ["N", 8])],
        [
            numpy_helper.from_array(np.zeros((8, 3, kernel, kernel), np.float32), "weight"),
            numpy_helper.from_array(np.array([2, 3]), "inside"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()


def test_sizes_and_work_of_a_convolution_are_those_that_are_worked_out_by_hand():
    found = check_graph(pictures(), where="it")
    unrolled = 4 * 3 * 3 * 3 * 32 * 32 // 2  # of one picture of the two
    assert found.row_bytes == 4 * 8 * 32 * 32 + unrolled
    conv, cast, transpose, pool, mean = 8 * 32 * 32 * 27, 3072, 3072, 8 * 16 * 16 * 4, 8 * 16 * 16
    head = 3 * 8 + 3 + 4 * 3  # 3 classes
    assert found.work == conv + cast + transpose + pool + mean + head
    assert found.row_bytes < ROW + PIXEL * 32 * 32


@pytest.mark.parametrize(
    "attributes",
    [
        {"pads": [10**9] * 4},
        {"pads": [60] * 4},
        {"pads": [-1, 0, 0, 0]},
        {"pads": [1, 1]},
        {"strides": [0, 1]},
        {"strides": [2**40, 1]},
        {"dilations": [2**31, 1]},
        {"dilations": [4, 4]},
        {"group": 0},
        {"group": 3},
        {"group": -1},
        {"kernel_shape": [2**31, 3]},
        {"kernel_shape": [5, 5]},
        {"kernel_shape": [3]},
        {"auto_pad": "SAME_UPPER"},
        {"strange": 1},
    ],
)
def test_attributes_of_a_convolution_that_ours_do_not_have(attributes):
    assert "Conv" in refused(pictures(**attributes), "model")


@pytest.mark.parametrize(
    ("op", "values", "said"),
    [
        ("QuantizeLinear", (np.inf, np.uint8(0)), "a scale that is not above 0"),
        ("QuantizeLinear", (np.nan, np.uint8(0)), "a scale that is not above 0"),
        ("QuantizeLinear", (0.0, np.uint8(0)), "a scale that is not above 0"),
        ("QuantizeLinear", (-1.0, np.uint8(0)), "a scale that is not above 0"),
        ("QuantizeLinear", (1e-45, np.uint8(0)), "a scale that is not above 0"),
        ("QuantizeLinear", (1.0, np.int32(0)), "gives int32"),
        ("QuantizeLinear", (1.0, np.zeros(3, np.uint8)), "no constants of one shape"),
        ("Clip", (2.0, np.float32(1.0)), "Clip has the limits 2 and 1"),
        ("Clip", (np.nan, np.float32(1.0)), "Clip has the limits nan and 1"),
        ("Clip", (1.0, np.float32([1.0])), "no constant number of its type"),
    ],
)
def test_numbers_that_libraries_stumble_over(op, values, said):
    model = with_work(node(op, "features fa b", "q"), node("DequantizeLinear", "q fa b", "one"))
    if op == "Clip":
        model.graph.node[3].CopyFrom(node("Neg", "q", "one"))
    for name, value in zip(("fa", "b"), values, strict=True):
        array = np.asarray(value) if name == "b" else np.float32(value)
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    assert said in refused(model.SerializeToString())


def test_a_kernel_as_large_as_the_picture_is_refused():
    assert "Conv" in refused(pictures(side=256, kernel=100), "model")


# --- every way in ---------------------------------------------------------------------------------------------------


@pytest.fixture
def no_library(monkeypatch):
    """No library is given anything: what it is given would be loaded."""

    def given_something(*_arguments, **_options):
        raise AssertionError("a library was given a graph")

    monkeypatch.setattr("onnxruntime.InferenceSession.__init__", given_something)
    monkeypatch.setattr("zsl_runtime.backends.openvino.OpenVinoBackend._load", given_something)


def hostile(path: Path, part: str = "model", name: str = "loop") -> Path:
    """A bundle one of whose graphs is not one of ours, with the right hashes."""
    graph = onnx.load(path / f"{part}.onnx")
    for entry in HOSTILE[name].graph.node:
        if entry.op_type in {"Loop", "ConstantOfShape"}:
            graph.graph.node.append(entry)
    change_file(path, f"{part}.onnx", graph.SerializeToString())
    return path


@pytest.mark.parametrize("name", [*FROM_GRAPHS, "auto"])
def test_no_backend_loads_it(own_bundle, name, no_library, monkeypatch):
    backend = "auto" if name == "auto" else usable_backend(name)
    if name == "auto":
        monkeypatch.setattr("zsl_runtime.backends.opening.fast", lambda _: ["ort", "openvino"])
    bundle = Bundle.open(hostile(own_bundle("b")))
    inputs = bundle.probe().pixels
    with pytest.raises(ArtefactError, match=r"E-BUNDLE-GRAPH: .*model\.onnx' is not a graph that may be run"):
        open_backend(backend, bundle, threads=1).features(inputs)


@pytest.mark.parametrize("part", ["synthesizer", "lift"])
def test_nor_do_those_who_add_classes(own_bundle, part, no_library):
    bundle = Bundle.open(hostile(own_bundle("b"), part))
    small = open_small_graphs(bundle, threads=1)
    semantic, noise = np.ones((1, 6), np.float32), np.ones((1, 4), np.float32)
    calls = {"lift": (small.lift, np.zeros((1, WIDTH), np.float32)), "synthesizer": (small.synthesize, semantic, noise)}
    function, *arrays = calls[part]
    with pytest.raises(ArtefactError, match="E-BUNDLE-GRAPH"):
        function(*arrays)


def test_commands_say_it_in_one_line_and_end_with_5(own_bundle, tmp_path, no_library, capsys):
    path = hostile(own_bundle("b"))
    rows = tmp_path / "crow.csv"
    rows.write_text("name,red,green,blue,bright top,bright left,größe\nheron,1,2,3,1,1,1\n", encoding="utf-8")
    (tmp_path / "photos").mkdir()
    from PIL import Image

    Image.new("RGB", (8, 8)).save(tmp_path / "photos/a.png")
    assert infer([str(tmp_path / "photos"), "--engine", str(path)]) == 5
    out, err = capsys.readouterr()
    assert out.splitlines()[1:] == []
    assert err.count("E-BUNDLE-GRAPH") == 1
    assert doctor([str(path)]) == 5
    assert "a graph inside a node" in capsys.readouterr().out
    hostile(path, "lift")
    before = {file.name: file.read_bytes() for file in (path / "classes").iterdir()}
    assert classes(["add", "--engine", str(path), "--attributes", str(rows)]) == 5
    assert "E-BUNDLE-GRAPH" in capsys.readouterr().err
    assert {file.name: file.read_bytes() for file in (path / "classes").iterdir()} == before


def test_what_one_library_calls_invalid_is_given_to_no_other(own_bundle, monkeypatch, capsys):
    """The first says so of a graph that passed the check; neither auto nor the doctor asks the next one."""
    usable_backend("openvino")
    usable_backend("ort")

    def invalid(*_arguments, **_options):
        raise RuntimeError("[ONNXRuntimeError] : 10 : INVALID_GRAPH : This is an invalid model")

    def next_one(*_arguments, **_options):
        raise AssertionError("another library was given the graph")

    monkeypatch.setattr("onnxruntime.InferenceSession.__init__", invalid)
    monkeypatch.setattr("zsl_runtime.backends.openvino.OpenVinoBackend._load", next_one)
    monkeypatch.setattr("zsl_runtime.backends.opening.fast", lambda _: ["ort", "openvino"])
    path = own_bundle("b")
    with pytest.raises(ArtefactError, match=r"E-BUNDLE-GRAPH: .*: onnxruntime .* says .*INVALID_GRAPH"):
        open_backend("auto", Bundle.open(path), threads=1)
    assert doctor([str(path)]) == 5
    told = capsys.readouterr().out
    assert told.count("E-BUNDLE-GRAPH") == 1
    assert "another library" not in told


# --- any bytes ------------------------------------------------------------------------------------------------------

SMALL = [model.SerializeToString() for model in (lift(), *HOSTILE.values()) if model.ByteSize() < 20_000]


def code_of(data: bytes, part: str) -> str:
    """Of the error that these bytes give; '' when they may be run."""
    started = time.process_time()
    try:
        check_graph(data, where="it", part=part)
        found = ""
    except ArtefactError as error:
        found = error.code if len(str(error)) < 2000 else "a long message"
    return found if time.process_time() - started < 5 else "slow"


@given(st.binary(max_size=300), st.sampled_from(PARTS))
def test_any_bytes_are_a_graph_or_are_not(data, part):
    assert code_of(data, part) in {"", "E-BUNDLE-GRAPH"}


@given(st.data())
def test_a_changed_graph_may_be_run_or_is_refused(data):
    whole = bytearray(data.draw(st.sampled_from(SMALL)))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(whole)))
    for damaged in (bytes(whole), bytes(whole[:cut])):
        assert code_of(damaged, "lift") in {"", "E-BUNDLE-GRAPH"}
