"""`--precision`: what is in the bundle, what it answers, what it cost, and every way it is refused."""

from __future__ import annotations

import errno
import json
import os
import signal
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch

from support.tiny_photographs import TEST, lay_out_photographs
from support.tiny_run import SEEN, UNSEEN, TinyBackbone, know_tiny, make_tiny_run, save_tiny_run
from zsl_export import accuracy as accuracy_module
from zsl_export import bundle_of_run, parity, quantize
from zsl_export.bundle_of_run import export_run
from zsl_export.cli import cli, main
from zsl_export.half import emulate, half_graph, run_emulated
from zsl_export.parity import reference_rows, reference_scores
from zsl_runtime.backends.ort import OrtBackend
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.cli.doctor import main as doctor
from zsl_runtime.errors import GateError, SystemProblem, UsageError
from zsl_runtime.head.head import fold
from zsl_runtime.labelling.classifier import Classifier
from zsl_train.data.given import GivenFeatures

FILES = {
    "fp32": "model.onnx",
    "fp16": "model.fp16.onnx",
    "int8-cpu": "model.int8-cpu.onnx",
    "int8-trt": "model.int8-trt.onnx",
}
LOWER = ("fp16", "int8-cpu", "int8-trt")


def trained_on(run, count: int):
    """The run, saying on how many pictures it was trained."""
    run.scores = {**run.scores, "protocol": {"pictures": {"train": count}}}
    return run


@pytest.fixture
def run():
    """A run whose kept pictures are all it was trained on."""
    return trained_on(make_tiny_run(), 70)


def written(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# What is there.


def test_the_manifest_lists_every_precision_and_the_hashes(precise):
    manifest = Bundle.open(precise.bundle).manifest
    assert manifest["precisions"] == FILES
    assert manifest["default_precision"] == "fp32"
    assert manifest["graphs"]["model"] == "model.onnx"
    assert manifest["format_version"] == 1
    assert set(FILES.values()) <= set(manifest["files"])
    bundle = Bundle.open(precise.bundle)
    for name in FILES.values():
        bundle.verify_file(name)


def test_a_bundle_of_fp32_alone_says_nothing_new(exported):
    manifest = Bundle.open(exported.bundle).manifest
    assert not {"precisions", "default_precision"} & set(manifest)
    report = json.loads((exported.bundle / "parity.json").read_text())
    assert "precisions" not in report
    assert set(report["sections"][0]["results"][0]) == {
        *("what", "rows", "scale", "max", "mean", "p99", "row_error", "cosine_min", "passed")
    }


@pytest.mark.parametrize("precision", FILES)
def test_every_graph_takes_and_gives_what_the_contract_says(precise, precision):
    model = onnx.load(precise.bundle / FILES[precision])
    kinds = {
        port.name: (port.type.tensor_type.elem_type, len(port.type.tensor_type.shape.dim))
        for port in (*model.graph.input, *model.graph.output)
    }
    f, u = onnx.TensorProto.FLOAT, onnx.TensorProto.UINT8
    assert kinds == {
        "images": (u, 4), "head_weight": (f, 2), "head_bias": (f, 1), "class_bias": (f, 1), "scores": (f, 2),
        "features": (f, 2),
    }  # fmt: skip
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 20)]
    props = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert props["graph"] == FILES[precision]


@pytest.mark.parametrize("precision", LOWER)
@pytest.mark.parametrize("batch", [1, 5])
def test_lower_precisions_answer_nearly_as_pytorch_does_at_other_batch_sizes_and_classes(precise, precision, batch):
    run = precise.run
    head = fold(run.generation.head, run.generation.table.seen)
    pictures = run.pictures[:batch]
    features, lifted = (rows[:batch] for rows in reference_rows(run))
    scores, given = precise.engine(precision).run(pictures, head)
    assert scores.dtype == given.dtype == np.float32
    limit = 1e-2 if precision == "fp16" else 0.1
    for wanted, found in ((features, given), (reference_scores(lifted, head), scores)):
        result = parity.compare("rows", wanted, found)
        assert result.row_error < limit
        assert result.cosine_min > 0.99
    assert np.abs(given - features).max() > 1e-6  # it is another precision


def test_half_precision_is_where_it_belongs(precise):
    model = onnx.load(precise.bundle / "model.fp16.onnx")
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    half = {name for name, kind in kinds.items() if kind == onnx.TensorProto.FLOAT16}
    assert {"backbone.inner.conv.weight", "embedder.project.linear.weight", "lift.hidden.linear.weight"} <= half
    assert kinds["embedder.queries"] == onnx.TensorProto.FLOAT  # attention stays
    assert kinds["backbone.mean"] == onnx.TensorProto.FLOAT
    assert (precise.bundle / "model.fp16.onnx").stat().st_size < (precise.bundle / "model.onnx").stat().st_size * 1.2


@pytest.mark.parametrize(("precision", "kind"), [("int8-cpu", "UINT8"), ("int8-trt", "INT8")])
def test_the_convolution_is_in_8_bits_and_the_rest_is_not(precise, precision, kind):
    model = onnx.load(precise.bundle / FILES[precision])
    made = {name: node for node in model.graph.node for name in node.output}
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    (convolution,) = (node for node in model.graph.node if node.op_type == "Conv")
    activation, weight = (made[name] for name in convolution.input[:2])
    assert (activation.op_type, weight.op_type) == ("DequantizeLinear", "DequantizeLinear")
    assert constants[activation.input[2]].data_type == getattr(onnx.TensorProto, kind)
    assert constants[weight.input[0]].data_type == onnx.TensorProto.INT8
    assert list(constants[weight.input[1]].dims) == [12]  # one scale an output channel
    symmetric = precision == "int8-trt"
    bias_is_quantised = len(convolution.input) == 3 and convolution.input[2] in made
    assert bias_is_quantised != symmetric
    if symmetric:
        zeros = [constants[node.input[2]] for node in made.values() if node.op_type == "DequantizeLinear"]
        assert all(not onnx.numpy_helper.to_array(zero).any() for zero in zeros)
    assert all(made[name].op_type != "DequantizeLinear" for node in model.graph.node if node.op_type == "Gemm"
               for name in node.input if name in made)  # fmt: skip


def test_what_it_cost_is_told_and_kept(precise):
    report = json.loads((precise.bundle / "parity.json").read_text())["precisions"]
    assert set(report) == {"fp16", "int8-cpu", "int8-trt", "accuracy"}
    figures = report["accuracy"]
    assert figures["held_out"]
    assert figures["pictures"] == figures["of"] == TEST * len(SEEN + UNSEEN)
    assert figures["deciding"] == "H"
    assert list(figures["precisions"]) == ["fp32", *LOWER]
    for one in figures["precisions"].values():
        assert {"T1", "U", "S", "H", "agreement", "drop", "limit", "passed"} == set(one)
    assert figures["precisions"]["fp32"]["agreement"] == 1.0
    assert report["fp16"]["judged"].endswith("float16 on the CPU")
    assert report["fp16"]["limits"]["row_error"] == parity.FLOAT16.row_error
    assert any("rounded" in section["graph"] for section in report["fp16"]["sections"])
    for name in ("int8-cpu", "int8-trt"):
        assert report[name]["calibration"]["pictures"] == 40
        assert report[name]["calibration"]["role"] == "training"
        assert report[name]["layers"] == 1
    assert "accuracy on 35 of 35 held-out test photographs, by which nothing was chosen:" in precise.told
    assert "note: int8 is calibrated on all 40 pictures; 300 or more are better" in precise.told
    assert [line.split()[0] for line in precise.told.splitlines() if line.startswith("  int8")] == list(LOWER[1:])


def test_the_figures_are_those_of_a_classifier_on_the_same_pictures(precise):
    """T1 and H once more, counted by hand from what the runtime answers in fp32."""
    from PIL import Image

    table = precise.run.generation.table
    rights = {}
    with Classifier.open(precise.bundle) as classifier:
        for index, name in enumerate(table.names):
            files = sorted((precise.data / "images" / name).iterdir())
            chosen = [file for file in files if not table.seen[index] or int(file.stem) >= 8]
            pictures = np.stack([np.asarray(Image.open(file)) for file in chosen])
            scores, _ = classifier.score(pictures)
            unseen = np.flatnonzero(~table.seen)
            rights[name] = (
                (scores.argmax(1) == index).mean(),
                (unseen[scores[:, unseen].argmax(1)] == index).mean(),
            )
    seen = 100 * np.mean([rights[name][0] for name in SEEN])
    unseen = 100 * np.mean([rights[name][0] for name in UNSEEN])
    found = json.loads((precise.bundle / "parity.json").read_text())["precisions"]["accuracy"]["precisions"]["fp32"]
    assert found["S"] == pytest.approx(seen)
    assert found["U"] == pytest.approx(unseen)
    assert found["T1"] == pytest.approx(100 * np.mean([rights[name][1] for name in UNSEEN]))
    assert found["H"] == pytest.approx(2 * seen * unseen / (seen + unseen) if seen + unseen else 0)


def test_the_doctor_lists_the_precisions(precise, capsys):
    assert doctor([str(precise.bundle)]) == 0
    said = capsys.readouterr().out
    assert "and runs fp32 by default" in said
    assert all(name in said.partition("holds ")[2].partition(" and runs")[0] for name in ("fp32", "fp16", "int8"))


def test_without_fp32_the_default_stands_where_the_model_is_looked_for(run, precise_before, tmp_path):
    bundle = Bundle.open(export_run(run, tmp_path / "b", precisions=("fp16",), max_drop=100.0))
    assert bundle.manifest["graphs"]["model"] == "model.fp16.onnx"
    assert bundle.manifest["precisions"] == {"fp16": "model.fp16.onnx"}
    assert bundle.manifest["default_precision"] == "fp16"
    assert not (bundle.path / "model.onnx").exists()
    assert doctor([str(bundle.path)]) == 0


# From where the photographs come.


def test_kept_pictures_calibrate_when_they_are_all_there_were(run, precise_before, tmp_path):
    """And without labelled photographs agreement is what is judged."""
    told = []
    bundle = export_run(run, tmp_path / "b", precisions=("int8", "fp32"), tell=told.append)
    report = json.loads((bundle / "parity.json").read_text())["precisions"]
    assert report["int8-cpu"]["calibration"]["source"] == "kept by the run"
    assert report["int8-cpu"]["calibration"]["pictures"] == 70
    assert not report["accuracy"]["held_out"]
    assert report["accuracy"]["precisions"]["int8-cpu"]["limit"] == 0.95
    assert any(line.startswith("no labelled photographs that were held out: the run does not say") for line in told)
    assert Bundle.open(bundle).manifest["default_precision"] == "int8"


def test_int8_without_photographs(precise_before, tmp_path):
    with pytest.raises(UsageError, match=r"E-CALIBRATION: .*the run keeps 0, and the run does not say.*--data DIR"):
        export_run(make_tiny_run(), tmp_path / "b", precisions=("int8",))
    assert written(tmp_path) == []


def test_int8_when_the_data_is_gone(precise_before, tmp_path):
    run = trained_on(make_tiny_run(), 1000)
    run.info["data"] = str(tmp_path / "gone")
    run.folder = tmp_path / "run"
    run.folder.mkdir()
    (run.folder / "split.csv").write_text("image,role\n")
    with pytest.raises(UsageError, match=r"E-CALIBRATION: .*keeps 70, and its data cannot be read .E-DATA-LAYOUT"):
        export_run(run, tmp_path / "b", precisions=("fp32", "int8"))
    assert written(tmp_path) == ["run"]


def test_the_photographs_may_have_moved(precise_before, tmp_path):
    run = make_tiny_run()
    data = lay_out_photographs(run, tmp_path / "old", tmp_path / "run")
    data.rename(tmp_path / "new")
    with pytest.raises(UsageError, match="E-CALIBRATION"):
        export_run(run, tmp_path / "b", precisions=("int8",))
    bundle = export_run(run, tmp_path / "b", precisions=("int8",), data=str(tmp_path / "new"), max_drop=100.0)
    report = json.loads((bundle / "parity.json").read_text())["precisions"]
    assert report["accuracy"]["held_out"]
    assert report["int8-cpu"]["calibration"]["source"] == "read again from the data folder"


def test_other_data_is_refused(precise_before, tmp_path):
    run = make_tiny_run()
    data = lay_out_photographs(run, tmp_path / "data", tmp_path / "run")
    next((data / "images" / "robin").iterdir()).unlink()
    with pytest.raises(UsageError, match="E-SPLIT-MISSING"):
        export_run(run, tmp_path / "b", precisions=("fp16",), data=str(data))
    (run.folder / "split.csv").unlink()
    with pytest.raises(UsageError, match="E-RUN-SPLIT"):
        export_run(run, tmp_path / "b", precisions=("fp16",), data=str(data))


def test_a_damaged_photograph_is_left_out(precise_before, tmp_path):
    run = make_tiny_run()
    data = lay_out_photographs(run, tmp_path / "data", tmp_path / "run")
    for number in (0, 9):  # one to train on, one to test
        (data / "images" / "robin" / f"{number}.png").write_bytes(b"no picture")
    bundle = export_run(run, tmp_path / "b", precisions=("int8",), max_drop=100.0)
    report = json.loads((bundle / "parity.json").read_text())["precisions"]
    assert report["int8-cpu"]["calibration"]["pictures"] == 39
    assert (report["accuracy"]["pictures"], report["accuracy"]["of"]) == (34, 35)


def test_a_run_on_a_feature_file(tmp_path):
    given = replace(make_tiny_run(), backbone=GivenFeatures("f.mat", "0" * 64, 16, 12))
    with pytest.raises(UsageError, match=r"E-PRECISION-INT8: .*trained on a feature file has none; leave int8 out"):
        export_run(given, tmp_path / "b", precisions=("fp32", "int8"))
    with pytest.raises(UsageError, match="E-DATA-FEATURES"):
        export_run(given, tmp_path / "b", precisions=("fp32", "fp16"), data=str(tmp_path))


def test_a_model_without_anything_to_halve(tmp_path, monkeypatch):
    given = replace(make_tiny_run(lift=False), backbone=GivenFeatures("f.mat", "0" * 64, 16, 12))
    monkeypatch.setattr(bundle_of_run, "halved", lambda graph: [])
    with pytest.raises(UsageError, match="E-PRECISION-FP16: nothing in this model would be in half precision"):
        export_run(given, tmp_path / "b", precisions=("fp16",))


# The gates.


def test_an_accuracy_that_falls_too_far_is_refused(precise, precise_before, tmp_path, monkeypatch):
    """An int8 file that takes every class for the next."""

    class Shuffled(OrtBackend):
        def run(self, inputs, head):
            scores, features = super().run(inputs, head)
            damaged = "int8-trt" in str(self._graphs["model"])
            return (np.roll(scores, 1, axis=1) if damaged else scores), features

    monkeypatch.setattr(bundle_of_run, "OrtBackend", Shuffled)
    told = []
    with pytest.raises(GateError, match=r"E-ACCURACY: .*int8-trt \(H falls .*, at most 1\).*--max-drop") as caught:
        export_run(precise.run, tmp_path / "b", precisions=("fp32", "int8"), tell=told.append)
    assert caught.value.exit_code == 3
    assert written(tmp_path) == []
    assert any("FAIL (H falls by" in line for line in told)


def test_answers_that_are_no_numbers_are_refused(run, precise_before, tmp_path, monkeypatch):
    class Broken(OrtBackend):
        def run(self, inputs, head):
            scores, features = super().run(inputs, head)
            return (scores * np.nan if "int8-cpu" in str(self._graphs["model"]) else scores), features

    monkeypatch.setattr(bundle_of_run, "OrtBackend", Broken)
    with pytest.raises(GateError, match=r"E-ACCURACY: .*int8-cpu .0.0% agree, at least 95%.*--data DIR"):
        export_run(run, tmp_path / "b", precisions=("int8",))
    assert written(tmp_path) == []


class Loud(TinyBackbone):
    """Between its layers numbers are too large for half precision."""

    def feature_map(self, x):
        return self.norm(self.conv(x)) / 1e5


def test_half_precision_that_overflows_is_seen():
    """ONNX Runtime on the CPU would not notice: it computes half-precision graphs in float32."""
    run = make_tiny_run()
    backbone = Loud()
    backbone.load_state_dict(run.backbone.state_dict())
    backbone.norm.weight.data *= 1e5
    run = replace(run, backbone=backbone)
    wanted, _ = reference_rows(run)
    assert np.isfinite(wanted).all()
    graph = half_graph(backbone, run.trained)
    assert torch.isfinite(graph.module.backbone.inner.conv.weight).all()
    features, _ = run_emulated(emulate(graph), run.pictures, 8)
    assert not np.isfinite(features).all()
    assert not parity.compare("features", wanted, features, limits=parity.FLOAT16).passed


def test_a_failed_parity_in_half_precision(run, precise_before, tmp_path, monkeypatch):
    monkeypatch.setattr(parity, "FLOAT16", parity.Limits(1e-9, 1.0, 1e-9))
    with pytest.raises(GateError, match=r"E-PARITY: .*model.fp16.onnx.*the model needs float32; leave fp16 out"):
        export_run(run, tmp_path / "b", precisions=("fp32", "fp16"))
    assert written(tmp_path) == []


# Whole or absent.


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_calibration_leaves_nothing(number, run, precise_before, tmp_path, monkeypatch, capfd):
    know_tiny(monkeypatch)
    place = save_tiny_run(run, tmp_path / "run")
    monkeypatch.setattr(quantize, "observe", lambda *given: os.kill(os.getpid(), number))
    code = main([str(place), "--out", str(tmp_path / "b"), "--precision", "int8"])
    assert code == (130 if number == signal.SIGINT else 143)
    assert written(tmp_path) == ["run"]


def test_a_full_disk_is_one_line_and_leaves_nothing(run, precise_before, tmp_path, monkeypatch):
    def full(path, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(quantize, "write_whole", full)
    with pytest.raises(SystemProblem, match=r"E-SYSTEM: could not write the bundle.*No space left.*free space"):
        export_run(run, tmp_path / "b", precisions=("fp32", "int8"))
    assert written(tmp_path) == []


# The command.


def test_the_command(run, precise_before, tmp_path, monkeypatch, capfd):
    know_tiny(monkeypatch)
    place = save_tiny_run(run, tmp_path / "run")
    words = ["--precision", " int8, FP32,fp16", "--max-drop", "50"]
    assert main([str(place), "--out", str(tmp_path / "b"), *words]) == 0
    printed = capfd.readouterr()
    assert printed.out == f"{tmp_path / 'b'}\n"
    assert "no labelled photographs that were held out" in printed.err
    manifest = Bundle.open(tmp_path / "b").manifest
    assert list(manifest["precisions"]) == ["int8-cpu", "int8-trt", "fp32", "fp16"]
    assert manifest["default_precision"] == "int8"
    assert manifest["graphs"]["model"] == "model.onnx"


@pytest.mark.parametrize(
    ("words", "pattern"),
    [
        (["--precision", ""], "'' is no precision; known are fp32, fp16, int8"),
        (["--precision", "fp32,"], "'' is no precision"),
        (["--precision", "int-8"], "did you mean int8?"),
        (["--precision", "fp16,fp16"], "'fp16' is listed twice"),
        (["--precision", "bf16"], "'bf16' is no file of a bundle"),
        (["--max-drop", "1"], "--max-drop: only for fp16 and int8"),
        (["--data", "x", "--max-drop", "1"], "--data and --max-drop: only for fp16 and int8"),
        (["--precision", "fp16", "--max-drop", "-1"], "-1.0 is not a number of points from 0 to 100"),
        (["--precision", "fp16", "--max-drop", "nan"], "nan is not a number of points"),
    ],
)
def test_wrong_usage(words, pattern, capfd):
    assert main(["run", "--out", "b", *words]) == 2
    error = capfd.readouterr().err
    assert error.startswith("error: E-USAGE: ")
    assert pattern in error
    assert error.count("\n") == 1


def test_limits_are_those_that_help_says():
    assert accuracy_module.MAX_DROP == {"fp16": 0.5, "int8-cpu": 1.0, "int8-trt": 1.0}
    (option,) = (one for one in cli.params if one.name == "max_drop")
    assert "0.5 for fp16, 1 for int8" in option.help


def test_the_tiny_model_has_accuracy_to_lose(precise):
    found = json.loads((precise.bundle / "parity.json").read_text())["precisions"]["accuracy"]["precisions"]
    assert found["fp32"]["H"] > 30
    assert all(abs(found[name]["drop"]) < 20 for name in LOWER)
