"""What is OpenVINO's own: its settings, bf16, its silence, and memory it shares with the caller."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from support.tiny_bundle import class_table, draw_pictures, features_of
from zsl_runtime.backends import openvino as ours
from zsl_runtime.backends.onnx_graphs import reason
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.errors import ArtefactError, BackendError, UsageError
from zsl_runtime.head.head import fold

ROOT = Path(__file__).parents[3]
TABLE = class_table()
PICTURES = draw_pictures(TABLE, np.arange(8), seed=5)


@pytest.fixture(scope="module")
def bundle(shared_bundle) -> Bundle:
    return Bundle.open(shared_bundle())


@pytest.fixture
def graphs(bundle):
    return {part: bundle.graph(part) for part in ("model", "synthesizer", "rows", "lift")}


@pytest.fixture
def installed():
    try:
        return ours.import_openvino()
    except BackendError:
        pytest.skip("openvino is not installed")


class Recorder:
    """In place of openvino.Core: keeps the settings."""

    def __init__(self, capabilities: list[str]) -> None:
        self.capabilities = capabilities
        self.compiled: list[tuple[bytes, str, dict]] = []

    def get_property(self, device: str, name: str) -> list[str]:
        assert (device, name) == ("CPU", "OPTIMIZATION_CAPABILITIES")
        return self.capabilities

    def compile_model(self, path: str, device: str, settings: dict) -> object:
        self.compiled.append((Path(path).read_bytes(), device, settings))
        raise RuntimeError("seen enough")


@pytest.fixture
def core(monkeypatch):
    def put(capabilities: list[str]) -> Recorder:
        recorder = Recorder(capabilities)
        onnx = SimpleNamespace(load=lambda path: path, convert=lambda model: model)
        manager = SimpleNamespace(load_by_framework={"onnx": onnx}.__getitem__)
        module = SimpleNamespace(
            Core=lambda: recorder,
            get_version=lambda: "2030.1-999-abc",
            frontend=SimpleNamespace(FrontEndManager=lambda: manager),
        )
        monkeypatch.setattr(ours, "import_openvino", lambda: module)
        return recorder

    return put


@pytest.mark.parametrize(("precision", "hint"), [("fp32", "f32"), ("fp16", "f32"), ("int8", "f32"), ("bf16", "bf16")])
def test_nothing_is_left_to_its_defaults(core, graphs, precision, hint):
    recorder = core(["FP32", "BF16"])
    backend = ours.OpenVinoBackend(graphs, 3, precision)
    assert (backend.library, backend.precision) == ("openvino 2030.1", precision)
    for part, call in {
        "model": lambda: backend.features(PICTURES),
        "lift": lambda: backend.lift(np.zeros((1, 12), np.float32)),
    }.items():
        with pytest.raises(BackendError, match=r"E-BACKEND-LOAD: openvino 2030.1 cannot load .*: seen enough"):
            call()
        file, device, settings = recorder.compiled.pop()
        assert (file, device) == (graphs[part].read_bytes(), "CPU")
        assert settings["INFERENCE_PRECISION_HINT"] == (hint if part == "model" else "f32")
        assert (settings["INFERENCE_NUM_THREADS"], settings["NUM_STREAMS"]) == (3, 1)
        assert settings["ENABLE_CPU_PINNING"] is False
        assert "CACHE_DIR" not in settings


def test_bf16_needs_a_cpu_that_has_it(core, graphs):
    core(["FP32", "INT8"])
    with pytest.raises(BackendError, match=r"AVX512_BF16 or AMX.*use --precision fp32, or int8") as caught:
        ours.OpenVinoBackend(graphs, 1, "bf16")
    assert (caught.value.code, caught.value.exit_code) == ("E-PRECISION-CPU", 4)


def test_bf16_as_this_cpu_can(installed, graphs):
    if "BF16" not in installed.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        with pytest.raises(BackendError, match="E-PRECISION-CPU"):
            ours.OpenVinoBackend(graphs, 1, "bf16")
        return
    features = ours.OpenVinoBackend(graphs, 1, "bf16").features(PICTURES)
    np.testing.assert_allclose(features, features_of(PICTURES), atol=0.02)


def test_the_settings_are_taken(installed, graphs):
    backend = ours.OpenVinoBackend(graphs, 1)
    compiled = backend._graph("model").compiled
    assert compiled.get_property("INFERENCE_PRECISION_HINT") == installed.Type.f32
    assert compiled.get_property("INFERENCE_NUM_THREADS") == 1
    assert compiled.get_property("NUM_STREAMS") == 1
    assert compiled.get_property("ENABLE_CPU_PINNING") is False


def test_a_file_that_is_no_graph_and_a_graph_of_another_kind(installed, graphs, tmp_path, capfd):
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(ArtefactError) as caught:
        ours.OpenVinoBackend({**graphs, "model": tmp_path / "model.onnx"}, 1).features(PICTURES)
    assert (caught.value.code, caught.value.exit_code) == ("E-BUNDLE-GRAPH", 5)
    assert "\n" not in str(caught.value)
    assert "Exception from" not in str(caught.value)
    with pytest.raises(ArtefactError, match="E-BUNDLE-GRAPH"):
        ours.OpenVinoBackend({"model": graphs["lift"]}, 1).features(PICTURES)
    assert capfd.readouterr() == ("", "")


def test_a_graph_that_fails_while_running(installed, tmp_path, capfd, monkeypatch):
    """Five rows are added to whatever comes, and the library hands out memory it never wrote where it is not five."""
    onnx = pytest.importorskip("onnx")
    helper, float_ = onnx.helper, onnx.TensorProto.FLOAT
    five = onnx.numpy_helper.from_array(np.ones((5, 12), np.float32), "five")
    graph = helper.make_graph(
        [helper.make_node("Add", ["features", "five"], ["lifted"])],
        "lift",
        [helper.make_tensor_value_info("features", float_, ["M", 12])],
        [helper.make_tensor_value_info("lifted", float_, ["K", 12])],
        [five],
    )
    path = tmp_path / "lift.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    backend = ours.OpenVinoBackend({"lift": path}, 1)
    with pytest.raises(ArtefactError, match="E-BUNDLE-GRAPH"):
        backend.lift(np.zeros((2, 12), np.float32))
    monkeypatch.setattr("zsl_runtime.graphs.sealed.check_graph", lambda *_, **__: None)  # or it had not been seen
    for _ in range(2):
        with pytest.raises(BackendError, match="lift graph") as caught:
            backend.lift(np.zeros((2, 12), np.float32))
        assert (caught.value.code, caught.value.exit_code) == ("E-BACKEND-RUN", 4)
        assert "\n" not in str(caught.value)
    assert backend.lift(np.ones((5, 12), np.float32)).shape == (5, 12)  # a later call is none the worse
    assert capfd.readouterr() == ("", "")


DROPPED_ELSEWHERE = """
import gc, os, signal, sys, threading
import numpy as np
from zsl_runtime.backends.openvino import OpenVinoBackend

held = [OpenVinoBackend({"lift": sys.argv[1]}, 1)]
held[0].lift(np.zeros((2, 12), np.float32))


def drop():
    held.clear()
    gc.collect()


thread = threading.Thread(target=drop)
thread.start()
thread.join()
try:
    os.kill(os.getpid(), signal.SIGINT)
    signal.pause()
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="signals of POSIX")
def test_ctrl_c_after_a_backend_was_dropped_in_another_thread(installed, graphs):
    """The device's stack for signals goes with it; it must not have been the main thread's."""
    command = [sys.executable, "-X", "faulthandler", "-c", DROPPED_ELSEWHERE, str(graphs["lift"])]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode, ended.stdout) == (0, "interrupted\n"), ended.stderr


def test_arrays_of_any_layout_and_results_that_stay(installed, bundle, graphs):
    """Memory is shared with the caller for the length of a call: neither side may see the other's later changes."""
    head = fold(bundle.current().head, TABLE.seen)
    backend = ours.OpenVinoBackend(graphs, 1)
    scores, features = backend.run(PICTURES, head)
    kept = scores.copy(), features.copy()
    turned = np.asfortranarray(PICTURES)
    frozen = PICTURES.copy()
    frozen.flags.writeable = False
    for inputs in (turned, frozen, np.repeat(PICTURES, 2, axis=0)[::2]):
        again = backend.run(inputs, head)
        assert all(np.array_equal(one, other) for one, other in zip(again, kept, strict=True))
    given = PICTURES.copy()
    backend.run(given, head)
    given[:] = 0
    backend.run(PICTURES[::-1], head)
    assert np.array_equal(given, np.zeros_like(given))
    assert np.array_equal(scores, kept[0])
    assert np.array_equal(features, kept[1])
    with pytest.raises(UsageError, match="E-INPUT-ARRAY"):
        backend.run(PICTURES.astype(np.float64), head)


def test_threads_with_batches_of_their_own_do_not_mix_them_up(installed, graphs):
    backend = ours.OpenVinoBackend(graphs, 2)
    wrong = []

    def work(rows: int) -> None:
        for turn in range(20):
            pictures = np.roll(PICTURES, turn, axis=0)[:rows]
            if not np.allclose(backend.features(pictures), features_of(pictures), atol=2e-6):
                wrong.append(rows)

    threads = [threading.Thread(target=work, args=[rows]) for rows in range(1, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert 1 <= len(backend._graph("model")._idle) <= 6


def test_its_import_leaves_no_trace(installed, tmp_path):
    """The package's own import writes an identifier to the home folder and tells a server; ours must do neither."""
    program = (
        "import sys; from zsl_runtime.backends.openvino import import_openvino; ov = import_openvino();"
        "print(sorted(m for m in sys.modules if 'telemetry' in m or m.startswith(('torch', 'openvino.tools.ovc'))));"
        "import importlib.util as u; print(u.find_spec('openvino.tools.ovc') is not None)"
    )
    home = tmp_path / "home"
    home.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "HOME": str(home), "PYTHONPATH": str(ROOT / "runtime")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "[]\nTrue\n"
    assert list(home.iterdir()) == []


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("Exception from src/a.cpp:1:\nCheck 'x' failed at b.cpp:2:\nwhat is wrong\nmore", "what is wrong"),
        ("Exception from src/a.cpp:1:\n", "Exception from src/a.cpp:1:"),
        ("one line", "one line"),
        ("", "RuntimeError"),
    ],
)
def test_of_a_long_message_the_line_that_says_something_is_kept(said, expected):
    assert reason(RuntimeError(said)) == expected
