"""The exported file keeps its contract, says nothing about the machine it was made on, and refuses what it must."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn

from support import tiny_run as tiny
from zsl_export import to_onnx
from zsl_export.bundle_of_run import graph_metadata
from zsl_export.graphs import EXAMPLE_SIZES, Graph, lift_graph, model_graph, synthesizer_graph
from zsl_export.to_onnx import OPSET, check, export_graph
from zsl_runtime.errors import GateError, UsageError
from zsl_runtime.graphs.ports import Port

WIDTH = tiny.FEATURE + tiny.HIDDEN


@pytest.fixture(scope="module")
def graph(exported):
    return model_graph(exported.run.backbone, exported.run.trained)


@pytest.fixture(scope="module")
def path(exported):
    return exported.bundle / "model.onnx"


@pytest.fixture(scope="module")
def model(path):
    return onnx.load(path)


def scale_graph(module: nn.Module) -> Graph:
    """A graph of one input and one output, both (M, 4)."""
    port = Port("x", "float32", ("M", 4))
    return Graph(module.eval(), inputs=(port,), outputs=(port._replace(name="y"),))


def expected_scores(graph, images, weight, bias, class_bias):
    """The contract of model.onnx in NumPy float64 over the modules' own outputs."""
    module = graph.module
    with torch.inference_mode():
        features = module.embedder(module.backbone(torch.from_numpy(images)))
        x = module.lift(features).numpy().astype(np.float64)
    logits = x @ weight.T.astype(np.float64) + bias + class_bias
    top = logits.max(axis=1, keepdims=True)
    return logits - top - np.log(np.exp(logits - top).sum(axis=1, keepdims=True)), features.numpy()


@pytest.mark.parametrize(("pictures", "classes"), [(1, 1), (1, 7), (3, 2), (5, 50)])
def test_the_graph_computes_its_contract_at_sizes_it_was_not_traced_at(graph, path, pictures, classes):
    rng = np.random.default_rng(pictures * 100 + classes)
    images = rng.integers(0, 256, (pictures, tiny.SIDE, tiny.SIDE, 3), dtype=np.uint8)
    weight = rng.normal(size=(classes, WIDTH)).astype(np.float32)
    bias, class_bias = rng.normal(size=(2, classes)).astype(np.float32)
    class_bias[1:2] = -np.inf
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    scores, features = session.run(
        ["scores", "features"],
        {"images": images, "head_weight": weight, "head_bias": bias, "class_bias": class_bias},
    )
    wanted_scores, wanted_features = expected_scores(graph, images, weight, bias, class_bias)
    np.testing.assert_allclose(features, wanted_features, atol=1e-5)
    np.testing.assert_allclose(scores, wanted_scores, atol=1e-5)
    np.testing.assert_allclose(np.exp(scores).sum(axis=1), 1, atol=1e-5)


def test_the_file_has_the_contract_s_ports(model):
    ports = {
        value.name: (
            value.type.tensor_type.elem_type,
            [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim],
        )
        for value in (*model.graph.input, *model.graph.output)
    }
    assert ports == {
        "images": (onnx.TensorProto.UINT8, ["N", 16, 16, 3]),
        "head_weight": (onnx.TensorProto.FLOAT, ["C", 18]),
        "head_bias": (onnx.TensorProto.FLOAT, ["C"]),
        "class_bias": (onnx.TensorProto.FLOAT, ["C"]),
        "scores": (onnx.TensorProto.FLOAT, ["N", "C"]),
        "features": (onnx.TensorProto.FLOAT, ["N", 10]),
    }


def test_batch_norm_is_folded_and_the_head_is_one_product(model):
    kinds = [node.op_type for node in model.graph.node]
    assert "BatchNormalization" not in kinds
    assert kinds.count("Conv") == 1
    using_head = [node.op_type for node in model.graph.node if "head_weight" in node.input]
    assert using_head == ["Gemm"]
    assert [entry.version for entry in model.opset_import] == [OPSET]


def test_metadata_is_json_about_the_model_and_the_only_text_in_the_file(path, model):
    facts = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert set(facts) == {"graph", "pixels", "dims", "versions", "exporter"}
    assert facts["graph"] == "model.onnx"
    assert facts["pixels"] == {"resize": 16, "crop": 16, "version": 1}
    assert facts["dims"] == {"F": 10, "D": 18, "A": 6, "Z": 4}
    assert facts["exporter"]["licence"] == "Apache-2.0"
    assert facts["versions"]["opset"] == OPSET
    data = path.read_bytes()
    # torch writes the stack trace of every node; it names files of the machine that exported.
    assert b".py" not in data
    assert b"tiny" not in data.lower()


def test_exporting_is_quiet_leaves_one_file_and_gives_the_same_bytes_again(
    exported, graph, path, tmp_path, capfd, recwarn
):
    export_graph(graph, tmp_path / "again.onnx", graph_metadata(exported.run, "model.onnx"))
    printed = capfd.readouterr()
    assert (printed.out, printed.err, len(recwarn)) == ("", "", 0)
    assert [entry.name for entry in tmp_path.iterdir()] == ["again.onnx"]
    assert (tmp_path / "again.onnx").read_bytes() == path.read_bytes()


class Dropping(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(x, 0.5, training=True)


class Drawing(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.randn_like(x)


@pytest.mark.parametrize(("module", "operator"), [(Drawing(), "RandomNormalLike"), (Dropping(), "Dropout")])
def test_a_graph_that_draws_its_own_noise_is_refused(module, operator, tmp_path):
    with pytest.raises(GateError, match=rf"E-GRAPH-CONTRACT: .*operator {operator} is not allowed") as caught:
        export_graph(scale_graph(module), tmp_path / "x.onnx", {})
    assert caught.value.exit_code == 3
    assert list(tmp_path.iterdir()) == []


class Halving(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :2].half()


def test_a_wrong_output_is_named_with_what_was_expected(tmp_path):
    with pytest.raises(GateError, match=r"output y is FLOAT16 \('M', 2\), expected float32 \('M', 4\)"):
        export_graph(scale_graph(Halving()), tmp_path / "x.onnx", {})
    assert list(tmp_path.iterdir()) == []


def test_a_renamed_input_and_a_fixed_batch_are_faults(model, graph):
    broken = onnx.ModelProto()
    broken.CopyFrom(model)
    broken.graph.output[1].type.tensor_type.shape.dim[0].dim_value = 2
    with pytest.raises(GateError, match=r"output features is FLOAT \(2, 10\), expected float32 \('N', 10\)"):
        check(broken, graph)
    broken.CopyFrom(model)
    broken.graph.input[0].name = "pictures"
    with pytest.raises(GateError, match=r"inputs \['pictures', 'head_weight'.*expected \['images'"):
        check(broken, graph)


def test_what_the_onnx_checker_finds_is_a_fault(model, graph):
    broken = onnx.ModelProto()
    broken.CopyFrom(model)
    broken.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(GateError, match="NoSuchOperator"):
        check(broken, graph)


def test_another_operator_set_and_outside_weights_are_faults(model, graph):
    broken = onnx.ModelProto()
    broken.CopyFrom(model)
    broken.opset_import.append(onnx.helper.make_opsetid("com.example", 1))
    broken.graph.initializer[0].data_location = onnx.TensorProto.EXTERNAL
    with pytest.raises(GateError, match=r"operator sets .*com\.example.*weights lie outside the file"):
        check(broken, graph)


class Vast(nn.Module):
    """More weights than an ONNX file holds, in four bytes of memory."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.zeros(1).expand(2**20, 600))


def test_a_model_over_two_gibibytes_is_refused_before_tracing(tmp_path):
    assert to_onnx.MAX_BYTES < 2**31
    with pytest.raises(UsageError, match=r"E-GRAPH-SIZE: the weights behind y take 2\.3 GiB"):
        export_graph(scale_graph(Vast()), tmp_path / "big.onnx", {})


def test_examples_are_seeded_and_named_as_the_inputs(graph):
    one, two = graph.example(), graph.example()
    assert {name: tuple(tensor.shape) for name, tensor in one.items()} == {
        "images": (EXAMPLE_SIZES["N"], 16, 16, 3),
        "head_weight": (EXAMPLE_SIZES["C"], 18),
        "head_bias": (EXAMPLE_SIZES["C"],),
        "class_bias": (EXAMPLE_SIZES["C"],),
    }
    assert one["images"].dtype == torch.uint8
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_the_synthesizer_and_lift_graphs_are_their_modules(exported):
    trained = exported.run.trained
    semantic, noise = torch.rand(3, tiny.ATTRIBUTES), torch.randn(3, tiny.NOISE)
    features = synthesizer_graph(trained, tiny.ATTRIBUTES).module(semantic, noise)
    assert torch.equal(features, trained.synthesizer(semantic, noise))
    assert torch.equal(lift_graph(trained).module(features), trained.lift(features))


def test_there_is_no_lift_graph_without_a_lift():
    assert lift_graph(tiny.make_tiny_trained(lift=False)) is None


class Erf(nn.Module):
    """An operator that no graph of ours has."""

    def forward(self, x):
        return torch.erf(x)


def test_an_export_that_the_runtime_would_refuse_fails_itself(tmp_path):
    with pytest.raises(GateError, match=r"E-GRAPH-CONTRACT: .*operator 'Erf' is in no graph of ours"):
        export_graph(scale_graph(Erf()), tmp_path / "x.onnx", {})
    assert list(tmp_path.iterdir()) == []
