"""Ranges, rounding and noise of layers against NumPy; the search; and a real TensorRT parser, where there is one."""

from __future__ import annotations

import uuid

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from support.engines import RTX
from zsl_export import quantize
from zsl_export.graphs import Graph
from zsl_export.quantize import (
    CPU,
    TENSORRT,
    VARIANTS,
    Extremes,
    Original,
    activations,
    feature_error,
    layer_noise,
    observe,
    quantisable,
    rounded_weights,
    scale_of,
    with_shapes,
)
from zsl_runtime.errors import UsageError
from zsl_runtime.graphs.ports import Port
from zsl_runtime.trt.library import find_library

SIDE = 4


def small_model(rng) -> onnx.ModelProto:
    """Two 1x1 convolutions, an activation, a shortcut; then an addition and a product that are not the backbone's."""
    f = TensorProto.FLOAT
    constants = {
        "w1": rng.normal(size=(3, 3, 1, 1)), "w2": rng.normal(size=(3, 3, 1, 1)), "b": rng.normal(size=3),
        "low": np.array(0.0), "high": np.array(6.0), "shift": np.array(0.5), "mean": np.array(128.0),
    }  # fmt: skip
    nodes = [
        helper.make_node("Cast", ["images"], ["float"], name="cast", to=f),
        helper.make_node("Transpose", ["float"], ["chw"], name="transpose", perm=[0, 3, 1, 2]),
        helper.make_node("Div", ["chw", "mean"], ["x"], name="div"),
        helper.make_node("Conv", ["x", "w1", "b"], ["y1"], name="first"),
        helper.make_node("Clip", ["y1", "low", "high"], ["z1"], name="clip"),
        helper.make_node("Conv", ["z1", "w2", "b"], ["y2"], name="second"),
        helper.make_node("Add", ["z1", "y2"], ["sum"], name="shortcut"),
        helper.make_node("GlobalAveragePool", ["sum"], ["pooled"], name="pool"),
        helper.make_node("Add", ["pooled", "shift"], ["shifted"], name="not the backbone's"),
        helper.make_node("Flatten", ["shifted"], ["features"], name="flatten"),
        helper.make_node("Gemm", ["features", "head_weight", "bias"], ["logits"], name="head", transB=1),
        helper.make_node("Add", ["head_bias", "class_bias"], ["bias"], name="bias"),
        helper.make_node("LogSoftmax", ["logits"], ["scores"], name="softmax"),
    ]
    nodes[-3], nodes[-2] = nodes[-2], nodes[-3]
    graph = helper.make_graph(
        nodes,
        "small",
        [
            helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", SIDE, SIDE, 3]),
            helper.make_tensor_value_info("head_weight", f, ["C", 3]),
            helper.make_tensor_value_info("head_bias", f, ["C"]),
            helper.make_tensor_value_info("class_bias", f, ["C"]),
        ],
        [
            helper.make_tensor_value_info("scores", f, ["N", "C"]),
            helper.make_tensor_value_info("features", f, ["N", 3]),
        ],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    model.ir_version = 10
    return with_shapes(model)


CONTRACT = Graph(
    None,
    inputs=(
        Port("images", "uint8", ("N", SIDE, SIDE, 3)),
        Port("head_weight", "float32", ("C", 3)),
        Port("head_bias", "float32", ("C",)),
        Port("class_bias", "float32", ("C",)),
    ),
    outputs=(Port("scores", "float32", ("N", "C")), Port("features", "float32", ("N", 3))),
)


@pytest.fixture(scope="module")
def small():
    rng = np.random.default_rng(4)
    model = small_model(rng)
    pictures = rng.integers(0, 256, (9, SIDE, SIDE, 3), np.uint8)
    return model, quantisable(model), pictures


def layers_of(model, pictures):
    """The same in NumPy float64: x, first output, behind the clip, second output, sum; each (n, 3, SIDE, SIDE)."""
    value = {one.name: numpy_helper.to_array(one).astype(np.float64) for one in model.graph.initializer}
    x = pictures.transpose(0, 3, 1, 2) / 128.0

    def convolve(x, weight):
        return np.einsum("ok,nkhw->nohw", weight[:, :, 0, 0], x) + value["b"][:, None, None]

    y1 = convolve(x, value["w1"])
    z1 = np.clip(y1, 0, 6)
    y2 = convolve(z1, value["w2"])
    return {"x": x, "y1": y1, "z1": z1, "y2": y2, "sum": z1 + y2}, value, convolve


def test_what_is_quantised_hangs_on_convolutions_alone(small):
    _, nodes, _ = small
    assert [node.name for node in nodes] == ["first", "clip", "second", "shortcut"]
    assert activations(nodes) == ["x", "y1", "z1", "y2", "sum"]


def test_extremes_are_those_of_each_picture(small):
    model, nodes, pictures = small
    found = observe(model, nodes, pictures, 1)
    layers, _, _ = layers_of(model, pictures)
    assert found.low.shape == (9, 5)
    for column, name in enumerate(found.names):
        flat = layers[name].reshape(9, -1)
        np.testing.assert_allclose(found.low[:, column], flat.min(axis=1), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(found.high[:, column], flat.max(axis=1), rtol=1e-5, atol=1e-5)


def test_ranges_of_extremes():
    found = Extremes(("a",), np.array([[-1.0], [-3.0]], np.float32), np.array([[2.0], [8.0]], np.float32))
    assert found.ranges("minmax") == {"a": (-3.0, 8.0)}
    assert found.ranges("mean") == {"a": (-2.0, 5.0)}


@given(st.floats(-100, 100), st.floats(0, 100), st.booleans())
def test_every_number_of_a_range_is_held_to_half_a_step(low, width, symmetric):
    scale, zero = scale_of(low, low + width, symmetric=symmetric)
    least, most = (-127, 127) if symmetric else (0, 255)
    values = np.linspace(min(low, 0), max(low + width, 0), 50)
    codes = np.clip(np.rint(values / scale) + zero, least, most)
    assert np.abs((codes - zero) * scale - values).max() <= scale * 1.001
    assert scale_of(0.0, 0.0, symmetric=symmetric)[1] == 0


def test_weights_are_rounded_by_output_channel():
    weight = np.array([[[[1.27]], [[-0.333]]], [[[0.0]], [[0.0]]], [[[127.0]], [[50.4]]]])
    np.testing.assert_allclose(
        rounded_weights(weight)[..., 0, 0], [[1.27, -0.33], [0, 0], [127, 50]], rtol=1e-6, atol=1e-9
    )


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda one: one.name)
def test_noise_of_a_layer_is_that_of_numpy(small, variant):
    model, nodes, pictures = small
    layers, value, convolve = layers_of(model, pictures)
    ranges = {name: (float(one.min()), float(one.max())) for name, one in layers.items()}
    found = layer_noise(Original(CONTRACT, model, nodes), variant, ranges, pictures, 1)

    def rounded(name):
        scale, zero = scale_of(*ranges[name], symmetric=variant.symmetric)
        least, most = (-128, 127) if variant.symmetric else (0, 255)
        return (np.clip(np.rint(layers[name] / scale) + zero, least, most) - zero) * scale

    first = np.clip(convolve(rounded("x"), rounded_weights(value["w1"])), 0, 6)
    second = convolve(rounded("z1"), rounded_weights(value["w2"]))
    wanted = {
        "first": np.square(first - layers["z1"]).sum() / np.square(layers["z1"]).sum(),
        "second": np.square(second - layers["y2"]).sum() / np.square(layers["y2"]).sum(),
    }
    assert found == pytest.approx(wanted, rel=0.02)
    assert list(found) == sorted(wanted, key=wanted.get, reverse=True)


def test_the_error_of_features():
    reference = np.array([[0.0, 0.0], [0.0, 4.0]])
    assert feature_error(reference, reference) == 0
    assert feature_error(reference, reference + np.array([3.0, 0.0])) == pytest.approx(np.sqrt(18 / 8))
    assert feature_error(np.ones((3, 2)), np.ones((3, 2))) == 0
    assert feature_error(np.ones((3, 2)), np.zeros((3, 2))) == 1


def test_a_graph_without_convolutions(small, tmp_path):
    model, _, pictures = small
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    for node in bare.graph.node:
        if node.op_type == "Conv":
            node.op_type, node.name = "Relu", f"{node.name} no more"
            del node.input[1:]
    with pytest.raises(UsageError, match="E-PRECISION-INT8"):
        quantize.quantize_graph(CONTRACT, bare, pictures, tmp_path, lambda _: {}, threads=1, tell=print)


@pytest.fixture(scope="module")
def quantised(small, tmp_path_factory):
    model, _, pictures = small
    folder = tmp_path_factory.mktemp("small")

    def asked(*_given):
        raise AssertionError("the address of the network card was asked for")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(uuid, "uuid1", asked)
        found = quantize.quantize_graph(
            CONTRACT, model, pictures, folder, lambda name: {"graph": f'"{name}"'}, threads=1, tell=lambda _: None
        )
        assert uuid.uuid1 is asked
    return {one.variant: one for one in found}, folder


def test_both_files_are_written_and_nothing_else(quantised):
    found, folder = quantised
    assert sorted(path.name for path in folder.iterdir()) == ["model.int8-cpu.onnx", "model.int8-trt.onnx"]
    for one in found.values():
        assert one.layers == 2
        assert one.chosen in one.tried
        assert one.chosen.error == min(candidate.error for candidate in one.tried)
        assert 0 < one.chosen.error < 0.2
        assert one.path.name in str(one)


def test_an_activation_is_folded_into_the_range_for_the_cpu_and_kept_for_tensorrt(quantised):
    found, _ = quantised
    kept = {
        variant: sum(node.op_type == "Clip" for node in onnx.load(one.path).graph.node)
        for variant, one in found.items()
    }
    assert kept == {CPU: 0, TENSORRT: 1}


def test_layers_that_hurt_stay_in_float(small, tmp_path, monkeypatch):
    """The candidate with the noisiest layers in float is chosen when it is much better, and its layers are in float."""
    model, _, pictures = small
    monkeypatch.setattr(quantize, "EXCLUDED", (1,))
    errors = iter([0.5, 0.6, 0.1] * len(VARIANTS))
    monkeypatch.setattr(quantize, "feature_error", lambda *_: next(errors))
    monkeypatch.setattr(quantize, "QUARTER", 1)
    found = quantize.quantize_graph(CONTRACT, model, pictures, tmp_path, lambda _: {}, threads=1, tell=print)
    for one in found:
        assert one.chosen.floats == tuple(one.noise)[:1]
        assert one.chosen.ranges == "minmax"
        (loose,) = (node for node in onnx.load(one.path).graph.node if node.name == one.chosen.floats[0])
        weights = {tensor.name for tensor in onnx.load(one.path).graph.initializer}
        assert loose.input[1] in weights  # float32, not behind a DequantizeLinear


@pytest.fixture(scope="module")
def parse():
    """What NVIDIA's own parser says of a file: its complaints."""
    if RTX.version is None:
        pytest.skip(f"TensorRT-RTX, whose parser needs no card: {RTX.reason}")
    trt = find_library("rtx").module

    def complaints(path) -> list[str]:
        builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, trt.Logger(trt.Logger.ERROR))
        parser.parse_from_file(str(path))
        return [parser.get_error(number).desc() for number in range(parser.num_errors)]

    return complaints


@pytest.mark.parametrize("name", ["model.onnx", "model.fp16.onnx", "model.int8-trt.onnx"])
def test_tensorrt_parses_it(parse, precise, name):
    assert parse(precise.bundle / name) == []


def test_tensorrt_parses_a_shortcut(parse, quantised):
    assert parse(quantised[0][TENSORRT].path) == []
