"""A precision is asked for by name: which file runs, how near its answers are, and what is said when there is none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from support.tiny_bundle import class_table, draw_pictures, features_of, lift_of, make_tiny_bundle
from support.tiny_precisions import add_precisions, quantised_features_of
from support.usable import FROM_GRAPHS, usable_backend
from zsl_runtime.backends.opening import open_backend, open_small_graphs
from zsl_runtime.backends.table import BACKENDS
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.cli.doctor import main as doctor
from zsl_runtime.cli.infer import main as infer
from zsl_runtime.errors import ArtefactError, BackendError, UsageError
from zsl_runtime.graphs.precisions import held_precisions
from zsl_runtime.head.head import fold
from zsl_runtime.labelling.classifier import Classifier

if TYPE_CHECKING:
    from pathlib import Path

TABLE = class_table()
PICTURES = draw_pictures(TABLE, np.arange(8).repeat(3), seed=5)


@pytest.fixture(scope="module")
def original(shared_bundle) -> Path:
    return shared_bundle(precisions=("fp32", "fp16", "int8-cpu"))


@pytest.fixture(scope="module")
def bundle(original) -> Bundle:
    return Bundle.open(original)


@pytest.fixture
def copy(own_bundle) -> Path:
    return own_bundle("b", precisions=("fp32", "fp16", "int8-cpu"))


@pytest.fixture(params=FROM_GRAPHS)
def name(request) -> str:
    return usable_backend(request.param)


@pytest.mark.parametrize(
    ("precision", "expected", "atol"),
    [("fp32", features_of, 2e-6), ("fp16", features_of, 3e-3), ("int8", quantised_features_of, 1e-5)],
)
def test_every_backend_runs_every_file(bundle, name, precision, expected, atol):
    backend = open_backend(name, bundle, threads=1, precision=precision)
    assert backend.precision == precision
    assert backend.device == ("cpu" if BACKENDS[name].device == "cpu" else "cuda:0")
    head = fold(bundle.current().head, TABLE.seen)
    scores, features = backend.run(PICTURES, head)
    assert (scores.dtype, features.dtype) == (np.float32, np.float32)
    np.testing.assert_allclose(features, expected(PICTURES), atol=atol)
    np.testing.assert_allclose(scores, head.scores(lift_of(features)), atol=2e-4)
    if precision != "fp32":  # it is another file indeed
        assert np.abs(features - features_of(PICTURES)).max() > 1e-5
    for rows in (1, 5):
        np.testing.assert_allclose(backend.features(PICTURES[:rows]), features[:rows], atol=2e-6)


def test_the_bundles_default_runs_when_nothing_is_asked_for(bundle, copy):
    assert open_backend("ort", bundle).precision == "fp32"
    other = Bundle.open(add_precisions(copy, ["int8-cpu", "fp32"], default="int8"))
    assert open_backend("ort", other).precision == "int8"
    assert open_backend("ort", other, precision="fp32").precision == "fp32"
    assert held_precisions(other) == ["int8", "fp32"]


def test_a_bundle_of_before_holds_fp32(shared_bundle):
    old = Bundle.open(shared_bundle())
    assert (old.precisions, old.default_precision) == ({"fp32": "model.onnx"}, "fp32")
    assert old.model_graph("fp32") == old.graph("model")
    assert old.model_graph("fp16") is None
    with Classifier.open(old.path) as classifier:
        assert classifier.backend.precision == "fp32"


def test_what_the_bundle_lacks_is_one_line_with_the_command_that_makes_it(bundle, copy):
    with pytest.raises(UsageError) as caught:
        Classifier.open(make_tiny_bundle(copy, force=True), precision="int8")
    assert caught.value.code == "E-PRECISION"
    assert caught.value.message == (
        f"{copy} holds fp32 and no int8; take one of those, or export it: "
        f"zsl-export RUN --precision fp32,int8 --out {copy} --force"
    )
    small = Bundle.open(add_precisions(copy, ["int8-cpu"], default="int8"))
    with pytest.raises(UsageError, match=r"holds int8 and no fp32, which bf16 is run from; .*--precision int8,fp32 "):
        open_backend("auto", small, precision="bf16")
    with pytest.raises(UsageError, match=r"E-PRECISION-NAME: .*'fp8'; choose fp32, fp16, bf16, int8"):
        open_backend("auto", bundle, precision="fp8")


@pytest.mark.parametrize("name", ["ort", "reference"])
def test_a_backend_that_does_not_run_it_says_who_does(bundle, name):
    with pytest.raises(BackendError, match="use --backend openvino, or another precision") as caught:
        open_backend(name, bundle, precision="bf16")
    assert (caught.value.code, caught.value.exit_code) == ("E-PRECISION-BACKEND", 4)


def test_classes_are_added_by_the_same_graphs_whatever_the_model_runs_in(bundle, copy):
    small = Bundle.open(add_precisions(copy, ["int8-cpu"], default="int8"))
    semantic, noise = np.ones((2, 6), np.float32), np.ones((2, 4), np.float32)
    one, other = (open_small_graphs(opened, threads=1) for opened in (bundle, small))
    assert np.array_equal(one.synthesize(semantic, noise), other.synthesize(semantic, noise))
    with pytest.raises(ArtefactError, match="no model graph"):
        one.features(PICTURES)
    with pytest.raises(UsageError, match="E-THREADS"):
        open_small_graphs(bundle, threads=0)


def test_the_command_says_what_ran_and_what_it_could_run(original, tmp_path, capfd):
    rows = tmp_path / "photo.png"
    from PIL import Image

    Image.fromarray(PICTURES[0]).save(rows)
    assert infer([str(rows), "--engine", str(original), "--precision", "int8", "--backend", "ort"]) == 0
    out, err = capfd.readouterr()
    assert out.splitlines()[1].split(",")[2] == "robin"
    assert ") on cpu, int8, generation 1" in err
    assert infer([str(rows), "--engine", str(original), "--precision", "bf16", "--backend", "ort"]) == 4
    assert capfd.readouterr().err.startswith("error: E-PRECISION-BACKEND: ")
    assert infer(["--help"]) == 0
    out = capfd.readouterr().out
    assert "[fp32|fp16|bf16|int8]" in out
    assert f"[auto|{'|'.join(BACKENDS)}]" in "".join(out.split())


def test_the_doctor_lists_precisions_and_backends(original, copy, capsys):
    assert doctor([str(original)]) == 0
    said = capsys.readouterr().out
    assert "holds fp32, fp16, int8, and runs fp32 by default; auto is ort" in said
    assert "8 of 8 top-1 answers are as shipped" in said
    assert "backend ort on the CPU, by onnxruntime " in said
    assert "backend openvino" in said  # on the CPU, or how to install it
    add_precisions(copy, ["int8-cpu"], default="int8")
    assert doctor([str(copy)]) == 0
    assert "ok      probe: int8 by ort, features differ by " in capsys.readouterr().out
    add_precisions(copy, ["fp32", "int8-trt"], default="int8")
    assert doctor([str(copy)]) == 0
    assert "note    holds no int8 model for a CPU (fp32, int8-trt)" in capsys.readouterr().out
