"""ONNX Runtime on a card: asked in the one way that cannot end on the CPU, and right; and on a real card, if any."""

from __future__ import annotations

import subprocess
import sys
import threading

import numpy as np
import onnxruntime
import pytest

from support.drivers import pretend_driver
from support.fake_ort_cuda import DRIVER, PROVIDER, FakeOrt
from support.tiny_bundle import class_table, draw_pictures, features_of, lift_of
from support.usable import usable_backend
from zsl_runtime.backends import ort_cuda
from zsl_runtime.backends.opening import open_backend, open_small_graphs
from zsl_runtime.backends.ort_cuda import KEPT_HEADS, OrtCudaBackend
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.errors import ArtefactError, BackendError, UsageError
from zsl_runtime.head.head import FoldedHead, fold
from zsl_runtime.labelling.classifier import Classifier

TABLE = class_table()
PICTURES = draw_pictures(TABLE, np.arange(8).repeat(3), seed=5)


@pytest.fixture(scope="module")
def bundle(shared_bundle) -> Bundle:
    return Bundle.open(shared_bundle(precisions=("fp32", "fp16")))


@pytest.fixture
def ort(monkeypatch) -> FakeOrt:
    """The stand-in as the module onnxruntime, on a machine with two cards."""
    fake = FakeOrt()
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    pretend_driver(monkeypatch, DRIVER)
    return fake


def head_of(bundle: Bundle) -> FoldedHead:
    generation = bundle.current()
    return fold(generation.head, generation.table.seen)


def big_head(seed: int = 0) -> FoldedHead:
    """Of so many classes that its weights stay on the card."""
    weight = np.random.default_rng(seed).standard_normal((1000, 24), dtype=np.float32)
    assert weight.nbytes >= ort_cuda.RESIDENT
    return FoldedHead(weight, np.zeros(1000, np.float32), np.zeros(1000, np.float32))


def test_the_session_holds_cuda_alone_and_falls_back_to_nothing(ort, bundle):
    """What the stand-in asserts of every session, and what the options are."""
    backend = open_backend("ort-cuda", bundle, device="cuda:1", threads=1)
    scores, features = backend.run(PICTURES, head_of(bundle))
    np.testing.assert_allclose(features, features_of(PICTURES), atol=2e-6)
    np.testing.assert_allclose(scores, head_of(bundle).scores(lift_of(features)), atol=2e-5)
    ((_, [(name, options)]),) = [call for call in ort.calls if call[0] == "InferenceSession"]
    assert name == PROVIDER
    assert options["device_id"] == "1"
    assert options["use_tf32"] == "0"  # fp32 is fp32
    assert (backend.name, backend.device, backend.precision) == ("ort-cuda", "cuda:1", "fp32")
    assert backend.library == f"onnxruntime {onnxruntime.__version__}"


def test_only_the_model_runs_on_the_card(ort, bundle):
    """Heads must not depend on it: synthesizer and lift are the CPU's, as where classes are added."""
    backend = open_backend("ort-cuda", bundle, threads=1)
    semantic, noise = np.ones((3, 6), np.float32), np.ones((3, 4), np.float32)
    small = open_small_graphs(bundle, threads=1)
    assert small.name == "ort"
    features = backend.synthesize(semantic, noise)
    assert np.array_equal(features, small.synthesize(semantic, noise))
    assert np.array_equal(backend.lift(features), small.lift(features))
    assert all(call[1] == ["CPUExecutionProvider"] for call in ort.calls if call[0] == "InferenceSession")


@pytest.mark.parametrize("honest", [True, False])
def test_missing_libraries_are_an_error_and_no_run_on_the_cpu(ort, bundle, honest, capsys):
    """Whether ONNX Runtime refuses, or quietly gives a session of the CPU all the same."""
    ort.libraries, ort.honest = False, honest
    backend = open_backend("ort-cuda", bundle, device="cuda:0", threads=1)
    with pytest.raises(BackendError, match=r'libcudnn.so.9.*pip install "zsl-deploy\[gpu\]"') as caught:
        backend.features(PICTURES)
    assert caught.value.code in {"E-BACKEND-LOAD", "E-DEVICE"}
    assert caught.value.exit_code == 4
    assert capsys.readouterr().out == ""  # stdout is for results
    assert not any(call[0] == "run_with_iobinding" for call in ort.calls)


def test_a_run_that_fails_is_told_and_the_next_one_works(ort, bundle):
    backend = open_backend("ort-cuda", bundle, threads=1)
    ort.fails = RuntimeError("[ONNXRuntimeError] : 6 : CUDA failure 2: out of memory ; GPU=0")
    with pytest.raises(BackendError, match="out of memory") as caught:
        backend.features(PICTURES)
    assert caught.value.code == "E-BACKEND-RUN"
    assert backend.features(PICTURES).shape == (24, 12)


def test_weights_stay_on_the_card_and_everything_else_is_copied(ort, bundle):
    backend = open_backend("ort-cuda", bundle, threads=1)
    head = big_head()
    for _ in range(3):
        scores, features = backend.run(PICTURES, head)
    np.testing.assert_allclose(scores, head.scores(lift_of(features)), atol=1e-4)
    assert ort.copied.count(head.weight.nbytes) == 1
    assert ort.copied.count(PICTURES.nbytes) == 3
    filtered = head.only(np.arange(1000) % 2 == 0)  # the same weights, another bias
    assert np.isneginf(backend.run(PICTURES, filtered)[0][:, 1::2]).all()
    assert ort.copied.count(head.weight.nbytes) == 1
    others = [big_head(seed) for seed in range(1, KEPT_HEADS + 2)]
    for other in (*others, others[-1]):
        scores, features = backend.run(PICTURES, other)
        np.testing.assert_allclose(scores, other.scores(lift_of(features)), atol=1e-4)
    assert len(backend._graph("model")._heads) == KEPT_HEADS
    assert ort.copied.count(head.weight.nbytes) == 1 + len(others)
    backend.features(PICTURES)  # its one class of zeros takes no place
    assert {id(array) for array, _ in backend._graph("model")._heads.values()} == {id(h.weight) for h in others[-2:]}


def test_threads_share_one_session(ort, bundle):
    backend = open_backend("ort-cuda", bundle, threads=1)
    heads = [big_head(seed) for seed in range(3)]
    found: list[tuple[int, np.ndarray]] = []

    def label(at: int) -> None:
        found.extend((at, backend.run(PICTURES, heads[at])[0]) for _ in range(4))

    threads = [threading.Thread(target=label, args=(at % 3,)) for at in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 24
    for at, scores in found:
        np.testing.assert_allclose(scores, heads[at].scores(lift_of(features_of(PICTURES))), atol=1e-4)


def test_fp16_is_its_file_and_int8_is_refused(ort, bundle):
    half = open_backend("ort-cuda", bundle, threads=1, precision="fp16").features(PICTURES)
    assert 1e-5 < np.abs(half - features_of(PICTURES)).max() < 3e-3
    with pytest.raises(BackendError, match="E-PRECISION-BACKEND"):
        open_backend("ort-cuda", bundle, threads=1, precision="int8")
    fp16 = {"model": bundle.model_graph("fp16")}
    with pytest.raises(ArtefactError, match="no synthesizer"):
        OrtCudaBackend(fp16, 1, "fp16").synthesize(np.ones((1, 6), np.float32), np.ones((1, 4), np.float32))


def test_a_card_that_is_not_there_is_no_device(ort, bundle):
    with pytest.raises(BackendError, match="cuda:2 cannot be used: the driver shows 2 cards") as caught:
        open_backend("ort-cuda", bundle, device="cuda:2")
    assert (caught.value.code, caught.value.exit_code) == ("E-DEVICE", 4)


def test_the_build_for_cpus_is_told_from_the_one_for_cards(monkeypatch, bundle):
    """With the real library: this is what a machine without onnxruntime-gpu says."""
    if PROVIDER in onnxruntime.get_available_providers():
        pytest.skip("onnxruntime-gpu is installed")
    pretend_driver(monkeypatch, DRIVER)
    line = r'pip uninstall --yes onnxruntime && pip install "zsl-deploy\[gpu\]"'
    with pytest.raises(BackendError, match=line) as caught:
        open_backend("ort-cuda", bundle)
    assert (caught.value.code, caught.value.exit_code) == ("E-BACKEND-MISSING", 4)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(
        BackendError, match=r'needs onnxruntime-gpu, which is not installed here; pip install "zsl-deploy\[gpu\]"'
    ):
        open_backend("ort-cuda", bundle)


def test_wrong_arrays_are_refused_before_anything_is_copied(ort, bundle):
    backend = open_backend("ort-cuda", bundle, threads=1)
    for wrong in (PICTURES.astype(np.float32), PICTURES[:0], PICTURES[0]):
        with pytest.raises(UsageError, match="E-INPUT-ARRAY"):
            backend.features(wrong)
    assert ort.copied == []
    backend.features(PICTURES[:, ::-1, ::-1])  # a view with gaps is copied whole
    np.testing.assert_allclose(
        backend.features(PICTURES[:, ::-1]), features_of(np.ascontiguousarray(PICTURES[:, ::-1])), atol=2e-6
    )


def test_importing_the_module_imports_no_onnxruntime():
    program = "import sys, zsl_runtime.backends.ort_cuda; print('onnxruntime' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


# --- on a card ------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_card_gives_the_numbers_of_the_cpu_and_prints_nothing(bundle, precision, capfd):
    usable_backend("ort-cuda")
    head = head_of(bundle)
    wanted = open_backend("ort", bundle, device="cpu", precision=precision).run(PICTURES, head)
    with Classifier.open(bundle, backend="ort-cuda", device="cuda:0", precision=precision) as classifier:
        for rows in (24, 1, 3):
            scores, features = classifier.score(PICTURES[:rows])
            atol = 1e-5 if precision == "fp32" else 3e-3
            np.testing.assert_allclose(features, wanted[1][:rows], atol=atol)
            np.testing.assert_allclose(scores, wanted[0][:rows], atol=100 * atol)
        session = classifier.backend._graph("model").session
        assert session.get_providers()[0] == PROVIDER
    assert capfd.readouterr() == ("", "")


@pytest.mark.gpu
def test_a_card_takes_other_heads_without_a_new_session(bundle):
    usable_backend("ort-cuda")
    backend = open_backend("ort-cuda", bundle, device="cuda:0")
    for seed in range(KEPT_HEADS + 2):
        head = big_head(seed)
        scores, features = backend.run(PICTURES, head)
        np.testing.assert_allclose(scores, head.scores(lift_of(features)), atol=1e-4)
