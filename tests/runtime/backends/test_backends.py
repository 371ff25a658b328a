"""Every backend keeps one contract: the same numbers as NumPy on a model that NumPy can compute, the same refusals."""

from __future__ import annotations

import re
import subprocess
import sys
import threading

import numpy as np
import pytest

from support.tiny_bundle import (
    ATTRIBUTES,
    FEATURE,
    NOISE,
    as_regions,
    class_table,
    draw_pictures,
    features_of,
    lift_of,
    rows_of,
    synthesize_of,
)
from support.usable import FROM_GRAPHS, usable_backend
from zsl_runtime.backends.opening import open_backend
from zsl_runtime.backends.ort import OrtBackend
from zsl_runtime.backends.table import BACKENDS
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.errors import ArtefactError, BackendError, UsageError
from zsl_runtime.graphs.ports import InputPort
from zsl_runtime.head.head import FoldedHead, fold

TABLE = class_table()
PICTURES = draw_pictures(TABLE, np.arange(8).repeat(3), seed=5)


@pytest.fixture(scope="module")
def bundles(shared_bundle) -> dict[tuple[str, bool], Bundle]:
    return {
        (kind, lift): Bundle.open(shared_bundle(kind=kind, lift=lift))
        for kind in ("images", "backbone_features")
        for lift in (True, False)
    }


@pytest.fixture(params=FROM_GRAPHS)
def name(request) -> str:
    return usable_backend(request.param)


def log_probabilities(features: np.ndarray, head: FoldedHead, *, lift: bool) -> np.ndarray:
    """The definition, in float64."""
    x = (lift_of(features) if lift else features).astype(np.float64)
    exp = np.exp(x @ head.weight.T.astype(np.float64) + head.bias + head.class_bias)
    with np.errstate(divide="ignore"):
        return np.log(exp / exp.sum(axis=1, keepdims=True))


@pytest.mark.parametrize("kind", ["images", "backbone_features"])
@pytest.mark.parametrize("lift", [True, False])
@pytest.mark.parametrize("rows", [1, 3, 24])
def test_run_gives_the_scores_and_features_of_the_definition(bundles, name, kind, lift, rows):
    bundle = bundles[kind, lift]
    generation = bundle.current()
    head = fold(generation.head, generation.table.seen)
    inputs = PICTURES[:rows] if kind == "images" else as_regions(PICTURES[:rows])
    backend = open_backend(name, bundle, threads=1)
    scores, features = backend.run(inputs, head)
    expected = features_of(PICTURES[:rows])
    assert (scores.dtype, features.dtype) == (np.float32, np.float32)
    np.testing.assert_allclose(features, expected, atol=2e-6)
    np.testing.assert_allclose(scores, log_probabilities(expected, head, lift=lift), atol=2e-5)
    assert np.array_equal(backend.features(inputs), features)


def test_the_number_of_classes_is_free_and_filters_give_minus_infinity(bundles, name):
    bundle = bundles["images", True]
    head = fold(bundle.current().head, TABLE.seen)
    for rows in ([4], [7, 0, 2], list(range(8)) * 3):
        few = FoldedHead(head.weight[rows], head.bias[rows], head.class_bias[rows])
        keep = np.arange(len(rows)) % 2 == 0
        scores, _ = open_backend(name, bundle, threads=1).run(PICTURES, few.only(keep))
        assert scores.shape == (len(PICTURES), len(rows))
        assert np.isneginf(scores[:, ~keep]).all()
        expected = log_probabilities(features_of(PICTURES), few.only(keep), lift=True)
        np.testing.assert_allclose(scores[:, keep], expected[:, keep], atol=2e-5)


def test_synthesizer_and_lift_equal_numpy(bundles, name):
    rng = np.random.default_rng(0)
    semantic = rng.random((11, len(ATTRIBUTES)), dtype=np.float32)
    noise = rng.standard_normal((11, NOISE), dtype=np.float32)
    backend = open_backend(name, bundles["images", True], threads=1)
    features = backend.synthesize(semantic, noise)
    np.testing.assert_allclose(features, synthesize_of(semantic, noise), atol=2e-6)
    np.testing.assert_allclose(backend.lift(features), lift_of(features), atol=2e-6)
    without = open_backend(name, bundles["images", False], threads=1)
    assert without.lift(features) is features


@pytest.mark.parametrize("lift", [True, False])
def test_rows_equal_numpy(shared_bundle, name, lift):
    semantic = np.random.default_rng(0).random((11, len(ATTRIBUTES)), dtype=np.float32)
    bundle = Bundle.open(shared_bundle(rule="rows", lift=lift))
    backend = open_backend(name, bundle, threads=1)
    for given, expected in zip(backend.rows(semantic), rows_of(semantic, lift=lift), strict=True):
        assert (given.dtype, given.shape) == (np.float32, expected.shape)
        np.testing.assert_allclose(given, expected, atol=1e-4)
    for wrong in (semantic.astype(np.float64), semantic[:, :5], semantic[:0], semantic * np.nan):
        with pytest.raises(UsageError, match="E-INPUT-ARRAY"):
            backend.rows(wrong)
    with pytest.raises(ArtefactError, match="E-BUNDLE-GRAPH: this bundle has no synthesizer"):
        backend.synthesize(semantic, semantic)


def test_a_graph_of_fitted_heads_has_no_rows(bundles, name):
    with pytest.raises(ArtefactError, match="E-BUNDLE-GRAPH: this bundle has no rows"):
        open_backend(name, bundles["images", True], threads=1).rows(np.ones((1, 6), np.float32))


def test_adding_classes_does_not_need_the_model_graph(bundles, tmp_path):
    """A graph is loaded when it is first used: here the model's file is no graph at all."""
    bundle = bundles["images", True]
    graphs = {part: bundle.graph(part) for part in ("model", "synthesizer", "lift")}
    graphs["model"] = tmp_path / "model.onnx"
    graphs["model"].write_bytes(b"no graph")
    backend = OrtBackend(graphs, 1)
    features = backend.synthesize(np.ones((2, 6), np.float32), np.zeros((2, 4), np.float32))
    assert backend.lift(features).shape == (2, 2 * FEATURE)
    with pytest.raises(ArtefactError) as caught:
        backend.features(PICTURES)
    assert (caught.value.code, caught.value.exit_code) == ("E-BUNDLE-GRAPH", 5)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "port"),
    [
        ("images", InputPort("images", "uint8", (8, 8, 3))),
        ("backbone_features", InputPort("backbone_features", "float32", (4, 3))),
    ],
)
def test_the_input_is_what_the_graph_says(bundles, name, kind, port):
    assert open_backend(name, bundles[kind, True], threads=1).input_port() == port


def test_wrong_arrays_are_refused_at_the_boundary(bundles, name):
    backend = open_backend(name, bundles["images", True], threads=1)
    regions = open_backend(name, bundles["backbone_features", True], threads=1)
    nan = as_regions(PICTURES)
    nan[2, 1, 0] = np.nan
    semantic, noise = np.ones((2, 6), np.float32), np.zeros((2, 4), np.float32)
    calls = [
        (backend.features, PICTURES.astype(np.float32)),
        (backend.features, PICTURES[:, :, :, :2]),
        (backend.features, PICTURES[0]),
        (backend.features, PICTURES[:0]),
        (backend.features, PICTURES.tolist()),
        (regions.features, as_regions(PICTURES).astype(np.float64)),
        (regions.features, nan),
        (backend.synthesize, semantic[:1], noise),
        (backend.synthesize, semantic[:, :5], noise),
        (backend.synthesize, semantic, noise.astype(np.float64)),
        (backend.lift, np.zeros((3, FEATURE + 1), np.float32)),
    ]
    for function, *arrays in calls:
        with pytest.raises(UsageError) as caught:
            function(*arrays)
        assert caught.value.code == "E-INPUT-ARRAY"
    head = fold(bundles["images", True].current().head, TABLE.seen)
    with pytest.raises(UsageError, match=r"model graph have different lengths: .*'head_bias': 7"):
        backend.run(PICTURES, FoldedHead(head.weight, head.bias[:7], head.class_bias))
    head = fold(bundles["images", False].current().head, TABLE.seen)
    with pytest.raises(UsageError, match="head_weight is float32"):
        OrtBackend({"model": bundles["images", True].graph("model")}, 1).run(PICTURES, head)


@pytest.mark.parametrize("optimize", [True, False])
def test_a_graph_that_fails_while_running_is_a_backend_error(optimize, tmp_path, capfd, monkeypatch):
    """Reshape to 5 columns cannot be done with a row of 12; the graph's declared shapes do not show it."""
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    value = lambda label: helper.make_tensor_value_info(label, onnx.TensorProto.FLOAT, ["M", 12])  # noqa: E731
    shape = onnx.numpy_helper.from_array(np.array([-1, 5]), "shape")
    lifted = helper.make_tensor_value_info("lifted", onnx.TensorProto.FLOAT, ["K", 5])
    nodes = [helper.make_node("Reshape", ["features", "shape"], ["lifted"])]
    graph = helper.make_graph(nodes, "lift", [value("features")], [lifted], [shape])
    path = tmp_path / "lift.onnx"
    opset = [helper.make_opsetid("", 17)]
    path.write_bytes(helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString())
    backend = OrtBackend({"lift": path}, 1, optimize=optimize)
    with pytest.raises(ArtefactError, match="E-BUNDLE-GRAPH"):
        backend.lift(np.zeros((1, 12), np.float32))
    monkeypatch.setattr("zsl_runtime.graphs.sealed.check_graph", lambda *_, **__: None)  # or it had not been seen
    with pytest.raises(BackendError, match="lift graph") as caught:
        backend.lift(np.zeros((1, 12), np.float32))
    assert caught.value.code == "E-BACKEND-RUN"
    assert caught.value.exit_code == 4
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("kind", "said", "remedy"),
    [
        (RuntimeError, "env.cc:327 pthread_create failed, error code: 11", "free some, or raise the limit"),
        (RuntimeError, "Load model from b/model.onnx failed:std::bad_alloc", "free some, or raise the limit"),
        (RuntimeError, "Unsupported model IR version: 99", "--upgrade"),
        (TypeError, "__init__() got an unexpected keyword argument", "--upgrade"),  # a version that we do not know
    ],
)
def test_what_onnx_runtime_fails_for_is_said_once_and_not_to_stdout(bundles, kind, said, remedy, monkeypatch, capfd):
    """By itself it prints "EP Error" to stdout, among the results, and tries the same provider once more."""

    def refuse(*_arguments):
        raise kind(said)

    monkeypatch.setattr("onnxruntime.InferenceSession._create_inference_session", refuse)
    backend = OrtBackend({"model": bundles["images", True].graph("model")}, 1)
    with pytest.raises(BackendError, match=re.escape(said)) as caught:
        backend.features(PICTURES)
    assert caught.value.code == "E-BACKEND-LOAD"
    assert remedy in str(caught.value)
    assert ("upgrade" in str(caught.value)) == (remedy == "--upgrade")
    assert capfd.readouterr() == ("", "")


def test_a_graph_with_other_ports_breaks_the_contract(bundles):
    graphs = {"model": bundles["images", True].graph("lift"), "lift": None, "synthesizer": None}
    backend = OrtBackend(graphs, 1)
    for call in (
        lambda: backend.features(PICTURES),
        lambda: backend.synthesize(np.ones((1, 6), np.float32), np.ones((1, 4), np.float32)),
    ):
        with pytest.raises(ArtefactError) as caught:
            call()
        assert caught.value.code == "E-BUNDLE-GRAPH"


def test_names_devices_and_threads_are_checked(bundles):
    bundle = bundles["images", True]
    assert open_backend("auto", bundle).name == "ort"
    on_cpu = open_backend("ort", bundle, device="cpu")
    assert on_cpu.library.startswith("onnxruntime ")
    assert on_cpu.device == "cpu"
    with pytest.raises(UsageError, match=rf"auto, {', '.join(BACKENDS)}"):
        open_backend("magic", bundle)
    with pytest.raises(UsageError, match="at least 1"):
        open_backend("ort", bundle, threads=0)


@pytest.mark.parametrize(
    ("name", "library", "extra"),
    [
        ("auto", "onnxruntime", "cpu"),
        ("ort", "onnxruntime", "cpu"),
        ("reference", "onnxruntime", "cpu"),
        ("openvino", "openvino", "openvino"),
    ],
)
def test_a_missing_library_is_named_with_its_install_line(bundles, name, library, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(BackendError, match=rf'pip install "zsl-deploy\[{extra}\]"') as caught:
        open_backend(name, bundles["images", True])
    assert (caught.value.code, caught.value.exit_code) == ("E-BACKEND-MISSING", 4)


def test_threads_are_given_to_onnxruntime_and_nothing_spins(bundles):
    session = OrtBackend({"lift": bundles["images", True].graph("lift")}, 3)._graph("lift").session
    options = session.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (3, 1)
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert options.get_session_config_entry("session.inter_op.allow_spinning") == "0"
    assert session.get_providers() == ["CPUExecutionProvider"]


def test_many_threads_share_one_backend(bundles, name):
    bundle = bundles["images", True]
    head = fold(bundle.current().head, TABLE.seen)
    backend = open_backend(name, bundle, threads=1)
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(backend.run(PICTURES, head)[0])) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 8
    assert all(np.array_equal(answer, answers[0]) for answer in answers)


def test_a_closed_backend_opens_again_when_used(bundles, name):
    backend = open_backend(name, bundles["images", True], threads=1)
    before = backend.features(PICTURES)
    backend.close()
    assert np.array_equal(backend.features(PICTURES), before)


def test_importing_the_table_imports_no_backend():
    program = "import sys, zsl_runtime.backends.opening; print({'onnxruntime', 'openvino', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
