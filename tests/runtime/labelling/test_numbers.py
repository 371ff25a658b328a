"""Answers that are NaN or infinite: told like what cannot be read, never lost, never counted, never taught."""

from __future__ import annotations

import csv
import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.tiny_bundle import SEEN, UNSEEN, as_regions, canonical_of, class_table, draw_pictures, features_of
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.cli.classes import main as zsl_classes
from zsl_runtime.cli.evaluate import main as zsl_eval
from zsl_runtime.cli.infer import main as zsl_infer
from zsl_runtime.errors import BackendError, InputError
from zsl_runtime.graphs.answers import Answer, Best
from zsl_runtime.labelling import scoring
from zsl_runtime.labelling.classifier import Classifier
from zsl_runtime.labelling.numbers import MOST_IN_VAIN, Judge, answered
from zsl_runtime.labelling.photographs import gather
from zsl_runtime.labelling.reading import ReadItem

NAMES = SEEN + UNSEEN
REGIONS = as_regions(draw_pictures(class_table(), np.arange(8), seed=11))
HUGE = np.full((4, 3), 3e38, np.float32)  # finite, and its features are not


@pytest.fixture(params=["fit", "gaussian"])
def bundle(request, shared_bundle):
    return shared_bundle(kind="backbone_features", rule=request.param)


def with_huge(*places: int) -> np.ndarray:
    regions = REGIONS.copy()
    regions[list(places)] = HUGE
    return regions


@pytest.mark.parametrize("backend", ["ort", "openvino", "reference"])
@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_a_row_whose_scores_are_no_numbers_keeps_its_place_and_is_told(bundle, backend, batch_size):
    with Classifier.open(bundle, backend, threads=1) as classifier:
        found = classifier.predict(with_huge(2, 5), topk=1, batch_size=batch_size, errors="skip")
        assert [one.names for one in found] == [() if j in (2, 5) else (name,) for j, name in enumerate(NAMES)]
        assert [(one.error.code, one.error.message[:8]) for one in found if one.error] == [
            ("E-ANSWER-VALUE", "image 2:"),
            ("E-ANSWER-VALUE", "image 5:"),
        ]
        with pytest.raises(InputError, match="E-ANSWER-VALUE: image 2: "):
            classifier.predict(with_huge(2, 5), topk=1, batch_size=batch_size)
        with pytest.raises(InputError, match="E-ANSWER-VALUE: image 0: "):
            classifier.predict([HUGE])
        with pytest.raises(BackendError, match=r"E-BACKEND-VALUE: .* all of 3 inputs"):
            classifier.predict([HUGE] * 3, errors="skip", batch_size=batch_size)
        with pytest.raises(InputError, match="E-ANSWER-VALUE: row 4: "):
            classifier.score(with_huge(4))
        with pytest.raises(BackendError, match="E-BACKEND-VALUE"):
            classifier.score(with_huge(*range(8)))


def run(capfdbinary, main, *arguments: object) -> tuple[int, str, list[str]]:
    code = main([str(word) for word in arguments])
    captured = capfdbinary.readouterr()
    return code, captured.out.decode(), captured.err.decode().splitlines()


def test_the_command_tells_such_rows_in_csv_and_json_and_does_not_count_them(capfdbinary, bundle, tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, with_huge(1))
    code, out, err = run(capfdbinary, zsl_infer, path, "--engine", bundle, "--topk", 1)
    assert code == 6
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["path"] for row in rows] == [f"{path}#{j}" for j in range(8) if j != 1]
    assert err[0].startswith(f"error: E-ANSWER-VALUE: '{path}#1': the model gives NaN or infinity")
    assert err[1].startswith("labelled 7 of 8 rows, ")
    assert "not readable: 1 without an answer that is a number (E-ANSWER-VALUE)" in err
    code, out, _ = run(capfdbinary, zsl_infer, path, "--engine", bundle, "--topk", 1, "--format", "jsonl")
    lines = [json.loads(line) for line in out.splitlines()]
    assert code == 6
    assert [line["error"]["code"] for line in lines if "error" in line] == ["E-ANSWER-VALUE"]
    assert lines[1]["path"] == f"{path}#1"
    np.save(path, with_huge(*range(8)))
    code, out, err = run(capfdbinary, zsl_infer, path, "--engine", bundle, "--topk", 1)
    assert (code, len(out.splitlines())) == (4, 1)
    assert err[-1].startswith("error: E-BACKEND-VALUE: the model gives NaN or infinity for all of 8 inputs")


def test_what_an_earlier_sitting_labelled_speaks_for_the_model(capfdbinary, bundle, tmp_path, monkeypatch):
    """The rest are two rows without an answer: inputs at fault, and not the model."""
    path, out = tmp_path / "x.npy", tmp_path / "out.csv"
    np.save(path, with_huge(6, 7))
    words = (path, "--engine", bundle, "--output", out, "--batch-size", 3, "--threads", 1)
    done = []
    real = Classifier.score_with

    def stops_at_the_third(self, snapshot, inputs):
        done.append(1)
        if len(done) == 3:
            raise KeyboardInterrupt
        return real(self, snapshot, inputs)

    with monkeypatch.context() as patch:
        patch.setattr(Classifier, "score_with", stops_at_the_third)
        assert run(capfdbinary, zsl_infer, *words)[0] == 130
    code, _, err = run(capfdbinary, zsl_infer, *words, "--resume")
    assert code == 6
    assert sum(line.startswith("error: E-ANSWER-VALUE") for line in err) == 2
    assert len(list(csv.DictReader(io.StringIO(out.read_text())))) == 6 * 5


def test_a_cascade_learns_nothing_of_them(capfdbinary, shared_bundle, tmp_path):
    bundle, path = shared_bundle(kind="backbone_features", rule="fit"), tmp_path / "x.npy"
    np.save(path, with_huge(3))
    code, out, err = run(capfdbinary, zsl_infer, path, "--engine", bundle, "--cascade", "--topk", 1)
    assert code == 6
    assert [row["class"] for row in csv.DictReader(io.StringIO(out))] == [n for j, n in enumerate(NAMES) if j != 3]
    assert err[0].startswith("cascade: 3 of 7 are confident")
    assert err[1].startswith(f"error: E-ANSWER-VALUE: '{path}#3'")


def test_evaluation_leaves_them_out_and_tells(capfdbinary, bundle, tmp_path):
    for j, name in enumerate(NAMES):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "x.npy", with_huge(0)[[j, j]] if j == 0 else REGIONS[[j, j]])
    code, out, err = run(capfdbinary, zsl_eval, bundle, tmp_path)
    assert code == 6
    assert sum("E-ANSWER-VALUE" in line for line in err) >= 2
    assert "14" in out


def test_no_such_photograph_moves_a_classs_mean(capfdbinary, own_bundle, tmp_path):
    bundle = own_bundle(kind="backbone_features", rule="gaussian")
    with Classifier.open(bundle, "ort", threads=1) as classifier:
        evidence, skipped = gather(classifier, {"wren": [REGIONS[0], HUGE, REGIONS[1]]})
        assert (evidence["wren"].count, len(skipped)) == (2, 1)
        wanted = canonical_of(features_of(draw_pictures(class_table(), np.arange(8), seed=11))[:2]).sum(axis=0)
        np.testing.assert_allclose(evidence["wren"].total, wanted, rtol=1e-4, atol=1e-3)
        assert str(skipped[0][1]).startswith("E-ANSWER-VALUE: photograph 1 of class 'wren': the model gives NaN")
        with pytest.raises(BackendError, match=r"E-BACKEND-VALUE: .* all of 2 inputs"):
            gather(classifier, {"wren": [HUGE, HUGE]})
        with pytest.raises(InputError, match="E-ANSWER-VALUE"):
            classifier.teach({"wren": [REGIONS[0], HUGE]})
    before = Bundle.open(bundle).pointer()
    (tmp_path / "photos" / "wren").mkdir(parents=True)
    np.save(tmp_path / "photos" / "wren" / "a.npy", np.stack([REGIONS[5], HUGE]))
    code, _, err = run(capfdbinary, zsl_classes, "teach", "--engine", bundle, "--photos", tmp_path / "photos")
    assert code == 6
    assert any("E-ANSWER-VALUE" in line for line in err)
    assert Bundle.open(bundle).pointer() != before
    assert np.isfinite(Bundle.open(bundle).current().head.weights[0]).all()
    np.save(tmp_path / "photos" / "wren" / "a.npy", np.stack([HUGE, HUGE]))
    before = Bundle.open(bundle).pointer()
    code, _, err = run(capfdbinary, zsl_classes, "teach", "--engine", bundle, "--photos", tmp_path / "photos")
    assert (code, Bundle.open(bundle).pointer()) == (4, before)


VALUES = st.sampled_from([0.0, -1.0, -np.inf, np.inf, np.nan, 3e38, 1e-45])


@given(
    st.lists(st.tuples(st.booleans(), st.lists(VALUES, min_size=3, max_size=3)), min_size=1, max_size=6), st.booleans()
)
def test_entries_and_rows_stay_together_whatever_the_scores(rows, by_card):
    """Against a loop over the rows that looks at each number."""
    batch = [
        ReadItem(str(j), np.zeros(1) if readable else InputError("E-IMAGE-OPEN", "gone"))
        for j, (readable, _) in enumerate(rows)
    ]
    scores = np.array([values for readable, values in rows if readable], np.float32).reshape(-1, 3)
    best = Best(np.zeros((len(scores), 1), np.int64), np.sort(scores)[:, -1:])  # NaN is sorted behind all else
    answer = Answer(None, None, best) if by_card else Answer(scores)
    entries, good = Judge().sort(batch, answer)
    wanted = []
    for readable, values in rows:
        has = not any(np.isnan(v) for v in values) and max(values) not in (np.inf, -np.inf)
        wanted.append("E-IMAGE-OPEN" if not readable else None if has else "E-ANSWER-VALUE")
    assert [None if error is None else error.code for _, error in entries] == wanted
    kept = [code is None for code in wanted if code != "E-IMAGE-OPEN"]
    assert (all(kept) and good is None) or good.tolist() == kept


def test_a_model_that_never_gives_a_number_is_not_asked_for_ever():
    rows = (ReadItem(str(j), np.zeros(1, np.float32)) for j in range(10**9))
    empty = np.full((100, 3), np.nan, np.float32)
    model = SimpleNamespace(score_with=lambda _snapshot, given: (empty[: len(given)], empty[: len(given)]))
    snapshot = SimpleNamespace(table=[1, 2, 3])
    told = 0
    with pytest.raises(BackendError, match="E-BACKEND-VALUE"):  # noqa: PT012
        for batch in scoring.score(model, snapshot, rows, batch_size=100):
            told += len(batch.entries)
    assert told == MOST_IN_VAIN - 100


def test_classes_that_a_filter_leaves_out_are_no_fault():
    assert answered(np.array([[-np.inf, 0.0], [-np.inf, -np.inf], [np.nan, 0]], np.float32)).tolist() == [
        True,
        False,
        False,
    ]
    assert answered(np.zeros((0, 3), np.float32)).tolist() == []
