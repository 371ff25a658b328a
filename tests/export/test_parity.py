"""The gate lets right graphs through, stops wrong ones whatever is wrong, and its figures are what they say."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from support.tiny_run import make_tiny_run
from zsl_export.compare import MAX_ROW_ERROR, MAX_TIE_MARGIN
from zsl_export.graphs import EXAMPLE_SIZES
from zsl_export.parity import (
    BATCH_SIZES,
    EXTRA_CLASSES,
    agree,
    batches,
    compare,
    gate,
    measure,
    other_head,
    reference_rows,
    reference_scores,
)
from zsl_runtime.errors import GateError
from zsl_runtime.head.head import FoldedHead, fold

ROWS = arrays.arrays(
    np.float64,
    st.tuples(st.integers(1, 6), st.integers(1, 5)),
    elements=st.floats(-100, 100, width=32, allow_subnormal=False),
)


# The figures.


def test_figures_of_a_comparison_worked_out_by_hand():
    reference = np.array([[3.0, 4.0], [0.0, 5.0], [5.0, 0.0], [-3.0, 4.0]])
    given = reference.copy()
    given[1] = [0.3, 5.4]
    result = compare("x", reference, given)
    assert (result.rows, result.max, result.mean) == (4, pytest.approx(0.4), pytest.approx(0.7 / 8))
    assert result.scale == pytest.approx(np.sqrt(100 / 8))
    assert result.row_error == pytest.approx(0.5 / 5)
    assert result.cosine_min == pytest.approx(27 / (5 * np.hypot(0.3, 5.4)))
    # Linear interpolation between the two largest of eight errors, at position 0.99 * 7.
    assert result.p99 == pytest.approx(0.3 + (0.4 - 0.3) * 0.93)
    assert not result.passed


@pytest.mark.parametrize(("error", "passes"), [(0.99 * MAX_ROW_ERROR, True), (1.01 * MAX_ROW_ERROR, False)])
def test_the_limit_is_a_share_of_the_scale(error, passes):
    reference = 250 * np.eye(4)
    given = reference.copy()
    given[2, 3] += 250 * error
    assert compare("x", reference, given).passed is passes


def test_a_short_row_that_points_elsewhere_fails_by_its_cosine():
    reference = np.array([[1.0, 0.0], [1e-6, 0.0]])
    given = np.array([[1.0, 0.0], [0.0, 1e-6]])
    result = compare("x", reference, given)
    assert result.row_error < MAX_ROW_ERROR
    assert result.cosine_min == 0
    assert not result.passed


@given(ROWS, st.floats(0.01, 1000))
def test_equal_arrays_pass_and_errors_do_not_depend_on_the_unit(rows, unit):
    if not rows.any():
        with pytest.raises(GateError, match="E-PARITY-EMPTY"):
            compare("x", rows, rows)
        return
    assert compare("x", rows, rows).passed
    wrong = rows + 0.1
    one, two = compare("x", rows, wrong), compare("x", unit * rows, unit * wrong)
    assert one.row_error == pytest.approx(two.row_error, rel=1e-6)
    assert one.max == pytest.approx(two.max / unit, rel=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_none_fails(value):
    reference = np.ones((3, 2))
    given = reference.copy()
    given[1, 1] = value
    assert not compare("x", reference, given).passed
    assert not compare("x", given, reference).passed
    assert compare("x", reference, given).max == np.inf


def test_classes_left_out_agree_only_where_both_leave_them_out():
    reference = np.log([[0.5, 0.5, 1.0], [0.25, 0.75, 1.0]])
    reference[:, 2] = -np.inf
    result = compare("scores", reference, reference, min_scale=1.0)
    assert result.passed
    assert result.scale == 1.0
    assert not compare("scores", reference, np.where(np.isinf(reference), -50.0, reference), min_scale=1.0).passed


@pytest.mark.parametrize("reference", [np.zeros((0, 4)), np.zeros((3, 4)), np.full((2, 2), -np.inf)])
def test_a_comparison_of_nothing_fails(reference):
    with pytest.raises(GateError, match="E-PARITY-EMPTY: nothing to compare for x") as caught:
        compare("x", reference, reference)
    assert caught.value.exit_code == 3


def test_another_shape_fails():
    with pytest.raises(GateError, match=r"E-PARITY-SHAPE: x gives \(3, 2\), the reference gives \(3, 4\)"):
        compare("x", np.ones((3, 4)), np.ones((3, 2)))


def test_best_classes_may_differ_only_at_a_tie():
    tie = MAX_TIE_MARGIN * 2  # the root mean square below is 2
    reference = np.full((4, 3), -2.0)
    reference[0, 1] += 0.5 * tie
    given = reference.copy()
    given[0] = [-2.0 + tie, -2.0, -2.0]
    close = agree("best class", reference, given)
    assert close.share == 0.75
    assert close.margins == (pytest.approx(0.5 * tie, rel=1e-6),)
    assert close.passed
    reference[0, 1] += 2 * tie
    wide = agree("best class", reference, given)
    assert wide.margins == (pytest.approx(2.5 * tie, rel=1e-3),)
    assert not wide.passed
    assert "75.00% agree, 1 differ by margins up to" in str(wide)


@given(st.integers(0, 200))
def test_batches_cover_every_row_once_in_sizes_that_were_not_traced(count):
    blocks = batches(count)
    assert [row for block in blocks for row in range(block.start, block.stop)] == list(range(count))
    sizes = [block.stop - block.start for block in blocks]
    assert all(size == BATCH_SIZES[i % 3] for i, size in enumerate(sizes[:-1]))
    assert EXAMPLE_SIZES["N"] not in BATCH_SIZES


# The gate over exported graphs.


def test_right_graphs_pass_and_the_verdict_says_what_was_compared(exported):
    parity = measure(exported.run, exported.engine())
    gate(parity)
    model, other, synthesizer, lift = parity.sections
    assert model.inputs == {"probe pictures": 6, "other pictures": 64}
    assert model.batch_sizes == {1: 4, 3: 4, 16: 3, 6: 1}
    assert EXAMPLE_SIZES["N"] not in model.batch_sizes
    assert (model.classes, other.classes) == (7, 7 + EXTRA_CLASSES)
    assert set(other.batch_sizes) >= set(BATCH_SIZES)
    assert (synthesizer.inputs, lift.inputs) == ({"random rows": 70}, {"random rows": 70})
    assert [result.what for result in lift.results] == ["view feature", "view hidden"]
    assert parity.faults() == []
    # Equal to the last bit would mean that PyTorch was compared with itself.
    assert 0 < model.results[0].max < 1e-5


def test_the_reference_is_pytorch_module_by_module(exported):
    run = exported.run
    features, lifted = reference_rows(run)
    with torch.inference_mode():
        wanted = run.trained.embedder(run.backbone(torch.from_numpy(run.pictures)))
        np.testing.assert_allclose(features, wanted.numpy(), atol=1e-6)
        np.testing.assert_allclose(lifted, run.trained.lift(wanted).numpy(), atol=1e-6)
    head = fold(run.generation.head, run.generation.table.seen)
    logits = torch.from_numpy(lifted) @ torch.from_numpy(head.weight).T + torch.from_numpy(head.bias + head.class_bias)
    scores = torch.log_softmax(logits, dim=1)
    np.testing.assert_allclose(reference_scores(lifted, head), scores.numpy(), atol=1e-5)


def test_the_other_head_has_more_classes_new_rows_and_a_filter(exported):
    head = fold(exported.run.generation.head, exported.run.generation.table.seen)
    other = other_head(head, 3)
    assert len(other.bias) == len(head.bias) + EXTRA_CLASSES
    assert 0 < np.isneginf(other.class_bias).sum() < len(other.bias)
    assert np.array_equal(other.weight[: len(head.bias)], head.weight)
    assert {tuple(row) for row in other.weight[len(head.bias) :]}.isdisjoint({tuple(row) for row in head.weight})


@pytest.mark.parametrize(
    ("part", "weight", "wrong"),
    [
        ("model", "backbone.conv.weight", "model.onnx features"),
        ("synthesizer", "synthesizer.outer.weight", "synthesizer.onnx features"),
        ("lift", "lift.hidden.weight", "lift.onnx view hidden"),
    ],
)
def test_a_perturbed_graph_fails(exported, tmp_path, part, weight, wrong):
    model = onnx.load(exported.bundle / f"{part}.onnx")
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == weight)
    values = onnx.numpy_helper.to_array(tensor)
    tensor.CopyFrom(onnx.numpy_helper.from_array((values * np.float32(1.01)).astype(np.float32), weight))
    onnx.save(model, tmp_path / "wrong.onnx")
    with pytest.raises(GateError, match=r"E-PARITY: onnxruntime [\d.]+ and PyTorch .* disagree") as caught:
        gate(measure(exported.run, exported.engine(**{part: tmp_path / "wrong.onnx"})))
    assert wrong in caught.value.message
    assert caught.value.exit_code == 3


class Defective:
    """Exported graphs run with one defect."""

    library = "defective 1.0"

    def __init__(self, engine) -> None:
        self.engine = engine
        self.synthesize, self.lift = engine.synthesize, engine.lift

    def run(self, inputs, head):
        return self.engine.run(inputs, head)


class BakedBatch(Defective):
    """Rows beyond those of the traced example repeat the last one."""

    def run(self, inputs, head):
        rows = np.minimum(np.arange(len(inputs)), EXAMPLE_SIZES["N"] - 1)
        return self.engine.run(inputs[rows], head)


class BakedClasses(Defective):
    """A class count other than the run's own is cut down to it, the rest is impossible."""

    def run(self, inputs, head):
        scores, features = self.engine.run(inputs, FoldedHead(head.weight[:7], head.bias[:7], head.class_bias[:7]))
        missing = np.full((len(scores), len(head.bias) - 7), -np.inf, dtype=np.float32)
        return np.concatenate([scores, missing], axis=1), features


class NoFilter(Defective):
    """class_bias is ignored."""

    def run(self, inputs, head):
        return self.engine.run(inputs, replace(head, class_bias=np.zeros_like(head.class_bias)))


class SwappedRows(Defective):
    """Full batches come back in another order."""

    def run(self, inputs, head):
        scores, features = self.engine.run(inputs, head)
        return (scores[::-1], features[::-1]) if len(inputs) == 16 else (scores, features)


class OneNan(Defective):
    """A single score of a single picture is no number."""

    def run(self, inputs, head):
        scores, features = self.engine.run(inputs, head)
        if len(inputs) == 3:
            scores[2, 4] = np.nan
        return scores, features


class Narrow(Defective):
    """The synthesizer forgets a column."""

    def __init__(self, engine) -> None:
        super().__init__(engine)
        self.synthesize = lambda semantic, noise: engine.synthesize(semantic, noise)[:, 1:]


@pytest.mark.parametrize("defect", [BakedBatch, BakedClasses, NoFilter, SwappedRows, OneNan, Narrow])
def test_every_kind_of_defect_fails(exported, defect):
    gate(measure(exported.run, Defective(exported.engine())))
    with pytest.raises(GateError, match="E-PARITY"):
        gate(measure(exported.run, defect(exported.engine())))


def test_a_wrong_wrapper_fails_although_onnx_runtime_does_what_it_says(exported, monkeypatch):
    """The reference does not go through `zsl_export.graphs`, so the gate also judges that."""
    swapped = torch.nn.Sequential(exported.run.trained.embedder, torch.nn.Softmax(dim=1))
    run = replace(exported.run, trained=replace(exported.run.trained, embedder=swapped))
    assert "model.onnx features" in " ".join(measure(run, exported.engine()).faults())


@pytest.mark.parametrize(("pictures", "probe"), [(0, 0), (5, 0)])
def test_a_run_without_pictures_cannot_pass(exported, pictures, probe):
    run = replace(exported.run, pictures=exported.run.pictures[:pictures], probe_count=probe)
    with pytest.raises(GateError, match="E-PARITY-EMPTY"):
        measure(run, exported.engine())


def test_few_pictures_are_enough_and_are_counted(exported):
    run = replace(exported.run, pictures=exported.run.pictures[:2], probe_count=6)
    model = measure(run, exported.engine()).sections[0]
    assert (model.inputs, model.batch_sizes) == ({"probe pictures": 2, "other pictures": 0}, {1: 2})


def test_the_verdict_is_json_with_limits_and_figures(exported):
    content = json.loads((exported.bundle / "parity.json").read_text())
    assert content["passed"] is True
    assert content["traced_at"] == EXAMPLE_SIZES
    assert content["limits"]["row_error"] == MAX_ROW_ERROR
    assert set(content["versions"]) >= {"torch", "onnx", "onnxruntime", "opset"}
    features, scores, best = content["sections"][0]["results"]
    assert set(features) >= {"max", "mean", "p99", "scale", "row_error", "cosine_min", "rows", "passed"}
    assert (features["rows"], scores["rows"], best["share"]) == (70, 70, 1.0)


def test_the_graphs_of_another_run_fail_one_and_all(exported):
    other = make_tiny_run(seed=1)
    faults = measure(other, exported.engine()).faults()
    assert {fault.split(" ")[0] for fault in faults} == {"model.onnx", "synthesizer.onnx", "lift.onnx"}
