"""How often a model is right: figures against loops over photographs, and the calls from Python."""

from __future__ import annotations

import json
from collections import defaultdict
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import zsl_runtime
from support.tiny_bundle import as_regions, class_table, draw_pictures
from support.usable import FROM_GRAPHS, usable_backend
from zsl_runtime.backends.opening import open_backend
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.errors import InputError, UsageError
from zsl_runtime.graphs.answers import Answer
from zsl_runtime.head.class_table import ClassTable
from zsl_runtime.labelling.classifier import Classifier
from zsl_runtime.labelling.evaluation import LETTERS, Noted, evaluation, note
from zsl_runtime.labelling.snapshot import Scored

TABLE = class_table()
COUNTS = (5, 1, 4, 3, 2, 6, 4, 5)
TRUE = np.repeat(np.arange(8), COUNTS)
LABELS = np.where(np.arange(len(TRUE)) % 4 == 0, (TRUE + 3) % 8, TRUE)  # some photographs are not what they are called


@pytest.fixture(scope="module")
def photographs() -> np.ndarray:
    return draw_pictures(TABLE, TRUE, seed=31)


@pytest.fixture(scope="module")
def classifier(shared_bundle):
    with Classifier.open(shared_bundle(rule="gaussian"), "ort", threads=2) as opened:
        yield opened


def log_softmax(scores: np.ndarray) -> np.ndarray:
    shifted = scores - scores.max(axis=1, keepdims=True)
    return (shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))).astype(np.float32)


def mean_by_class(flags, labels) -> float | None:
    """In a plain loop."""
    of = defaultdict(list)
    for flag, label in zip(flags, labels, strict=True):
        of[label].append(bool(flag))
    return 100 * sum(sum(one) / len(one) for one in of.values()) / len(of) if of else None


def slow_figures(scores: np.ndarray, labels: np.ndarray, seen: np.ndarray) -> dict[str, float | None]:
    """Every figure of (n, C) scores by looking at one photograph after the other."""
    ranked = [sorted(range(scores.shape[1]), key=lambda j, row=row: (-row[j], j)) for row in scores]
    rows = list(zip(ranked, labels, strict=True))
    s, u = (
        mean_by_class([order[0] == y for order, y in rows if seen[y] == kind], [y for y in labels if seen[y] == kind])
        for kind in (True, False)
    )
    strange = [(order, y) for order, y in rows if not seen[y]]
    return {
        "accuracy": mean_by_class([order[0] == y for order, y in rows], labels),
        "S": s,
        "U": u,
        "H": None if s is None or u is None else 2 * s * u / (s + u) if s + u else 0.0,
        "T1": mean_by_class(
            [next(j for j in order if not seen[j]) == y for order, y in strange], [y for _, y in strange]
        ),
        "top5": mean_by_class([y in order[:5] for order, y in rows], labels) if scores.shape[1] > 5 else None,
    }


def evaluated(scores: np.ndarray, labels: np.ndarray, seen: np.ndarray):
    table = ClassTable(tuple(f"class {j}" for j in range(len(seen))), seen, np.ones((len(seen), 1)), ("a",))
    batch = Scored([(str(i), None) for i in range(len(labels))], scores, np.empty((0, 0), np.float32))
    return evaluation(note(batch, labels, seen), table)


def some_scores(seed: int, count: int, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, len(seen), count)
    scores = rng.standard_normal((count, len(seen)))
    scores[np.arange(count), labels] += 1.5
    return log_softmax(scores), labels


# --- figures ----------------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**32), st.integers(1, 40), st.lists(st.booleans(), min_size=1, max_size=9).map(np.array))
def test_figures_are_those_of_a_loop_over_photographs(seed, count, seen):
    scores, labels = some_scores(seed, count, seen)
    found = evaluated(scores, labels, seen)
    assert {letter: one.value for letter, one in found.figures.items()} == pytest.approx(
        slow_figures(scores, labels, seen)
    )
    assert tuple(found.figures) == LETTERS
    assert found.photographs == count
    assert found.counts.sum() == count
    predicted = scores.argmax(axis=1)
    assert set(found.names) == {f"class {j}" for j in {*labels.tolist(), *predicted.tolist()}}
    for i, of in enumerate(found.names):
        for k, to in enumerate(found.names):
            pairs = [(f"class {y}", f"class {p}") for y, p in zip(labels, predicted, strict=True)]
            assert found.counts[i, k] == pairs.count((of, to))
    json.dumps(found.to_dict())  # plain data


def test_chance_is_what_guessing_gives():
    """Scores that say nothing, many times over."""
    rng, seen = np.random.default_rng(0), np.array([True] * 6 + [False] * 3)
    labels = np.repeat(np.arange(9), 4000)
    found = evaluated(log_softmax(rng.standard_normal((len(labels), 9))), labels, seen).figures
    assert {letter: one.chance for letter, one in found.items()} == pytest.approx(
        {"accuracy": 100 / 9, "S": 100 / 9, "U": 100 / 9, "H": 100 / 9, "T1": 100 / 3, "top5": 500 / 9}
    )
    for one in found.values():
        assert one.value == pytest.approx(one.chance, abs=5 * one.spread)
        assert 0 < one.spread < 0.6


def test_the_spread_of_a_class_alone_is_that_of_a_share():
    seen = np.array([True, False])
    labels = np.zeros(25, np.int64)
    scores = log_softmax(np.where(np.arange(25)[:, None] < 20, [[2.0, 0]], [[0, 2.0]]))
    found = evaluated(scores, labels, seen).figures
    assert found["S"].value == pytest.approx(80)
    assert found["S"].spread == found["accuracy"].spread == pytest.approx(100 * np.sqrt(0.8 * 0.2 / 24))
    assert found["U"] == (None, None, None, 0, 0, 2)
    assert found["T1"] == (None, None, None, 0, 0, 1)
    assert (found["H"].value, found["H"].spread, found["H"].chance) == (None, None, None)


def test_a_single_photograph_has_no_spread():
    scores, labels = log_softmax(np.eye(3)), np.arange(3)
    found = evaluated(scores, labels, np.array([True, False, False])).figures
    assert [found[letter].value for letter in ("accuracy", "S", "U", "H", "T1")] == [100] * 5
    assert found["S"].spread is None
    assert [found[letter].spread for letter in ("accuracy", "U", "H", "T1")] == [0] * 4  # as alike as can be


def test_without_unseen_classes_there_is_no_u_and_no_t1():
    found = evaluated(log_softmax(np.eye(2)), np.arange(2), np.array([True, True])).figures
    assert found["S"].value == 100
    assert (found["U"].value, found["H"].value, found["T1"].value) == (None, None, None)


def test_calibration_is_of_the_class_that_was_given():
    labels, seen = np.array([0, 1, 1, 0]), np.array([True, False])
    chance = np.array([[0.9, 0.1], [0.9, 0.1], [0.2, 0.8], [0.95, 0.05]])
    found = evaluated(np.log(chance).astype(np.float32), labels, seen).calibration
    assert found.confidence == pytest.approx(100 * (0.9 + 0.9 + 0.8 + 0.95) / 4)
    assert found.right == 75
    assert sum(one.pictures for one in found.bins) == 4
    assert found.error == pytest.approx(100 * (abs(1 - 0.8) / 4 + 2 * abs(0.5 - 0.9) / 4 + abs(1 - 0.95) / 4))


def test_a_probability_that_rounding_lifts_above_one_is_one():
    nothing = np.zeros(1, np.int64)
    noted = Noted(nothing, nothing, np.array([1 + 1e-7]), nothing, np.ones(1, np.bool_), np.ones(1))
    table = ClassTable(("a",), np.array([True]), np.ones((1, 1)), ("a",))
    assert evaluation(noted, table).calibration.confidence == 100


# --- from Python ------------------------------------------------------------------------------------------------------


def expected(classifier: Classifier, inputs: np.ndarray, labels: np.ndarray) -> dict[str, float | None]:
    scores, _ = classifier.score(inputs)
    return slow_figures(scores, labels, classifier.class_table.seen)


@pytest.mark.parametrize("batch_size", [None, 1, 7])
def test_a_classifier_is_evaluated_on_pairs(classifier, photographs, batch_size):
    pairs = [(picture, TABLE.names[label]) for picture, label in zip(photographs, LABELS, strict=True)]
    done = []
    found = zsl_runtime.evaluate(classifier, iter(pairs), batch_size, done.append)
    wanted = expected(classifier, photographs, LABELS)
    assert {letter: one.value for letter, one in found.figures.items()} == pytest.approx(wanted)
    assert 30 < found.figures["H"].value < 90
    assert sum(done) == found.photographs == len(LABELS)
    assert found.unreadable == ()
    best = [one.names[0] for one in classifier.predict(list(photographs), topk=1)]
    for one in found.classes:
        own = [best[i] for i in range(len(best)) if TABLE.names[LABELS[i]] == one.name]
        assert (one.pictures, one.right) == (len(own), own.count(one.name))
        assert one.seen == bool(TABLE.seen[TABLE.index(one.name)])
        if one.mistaken:
            assert one.mistaken == max(own.count(other) for other in own if other != one.name)
            assert own.count(one.mistaken_for) == one.mistaken


@pytest.mark.parametrize("backend", FROM_GRAPHS)
def test_every_backend_and_rows_of_features_say_the_same(shared_bundle, photographs, backend):
    rows = as_regions(photographs)
    pairs = [(row, TABLE.names[label]) for row, label in zip(rows, LABELS, strict=True)]
    bundle = shared_bundle(kind="backbone_features", rule="gaussian")
    with Classifier.open(bundle, usable_backend(backend), threads=1) as opened:
        found = zsl_runtime.evaluate(opened, pairs)
        wanted = expected(opened, rows, LABELS)
    assert {letter: one.value for letter, one in found.figures.items()} == pytest.approx(wanted)


class Beside:
    """A backend that works beside the caller, as those of a card do: batches are begun before answers are taken."""

    in_flight = 3

    def __init__(self, backend) -> None:
        self._backend = backend
        self.begun, self.most = 0, 0

    def __getattr__(self, name):
        return getattr(self._backend, name)

    def ranks(self, _best) -> bool:
        return True

    def begin(self, rows, head, best=0, *, features=False):
        assert best == 0, "all scores are wanted"
        self.begun += 1
        self.most = max(self.most, self.begun)
        answer = Answer(*self._backend.run(np.stack(rows), head))

        def result():
            self.begun -= 1
            return answer

        return SimpleNamespace(result=result)


def test_batches_are_begun_ahead_on_a_backend_that_works_beside_the_caller(shared_bundle, photographs):
    bundle = Bundle.open(shared_bundle(rule="gaussian"))
    beside = Beside(open_backend("ort", bundle, threads=1))
    pairs = [(picture, TABLE.names[label]) for picture, label in zip(photographs, LABELS, strict=True)]
    with Classifier(bundle, beside, 1) as opened:
        found = zsl_runtime.evaluate(opened, pairs, batch_size=4)
        wanted = expected(opened, photographs, LABELS)
    assert {letter: one.value for letter, one in found.figures.items()} == pytest.approx(wanted)
    assert (beside.most, beside.begun) == (3, 0)


def test_what_cannot_be_read_is_left_out_and_told(classifier, photographs, tmp_path):
    Image.fromarray(photographs[0]).save(tmp_path / "0.png")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    name = TABLE.names[TRUE[0]]
    pairs = [(tmp_path / "bad.png", "wren"), (tmp_path / "0.png", name), (b"x", "tit"), (photographs[1], name)]
    found = zsl_runtime.evaluate(classifier, pairs, batch_size=2)
    assert found.photographs == 2
    assert [one.name for one in found.classes] == [name]
    (first, error), (second, other) = found.unreadable
    assert (first, second) == (str(tmp_path / "bad.png"), "photograph 2")
    assert isinstance(error, InputError)
    assert str(tmp_path / "bad.png") in error.message
    assert other.message.startswith("'photograph 2': ")
    assert found.to_dict()["unreadable"][0] == {"path": first, "code": error.code, "message": error.message}


def test_without_a_single_photograph_there_is_nothing_to_say(classifier):
    for pairs in ([], [(b"x", "wren"), (b"y", "tit")]):
        with pytest.raises(UsageError, match=f"E-PHOTOS-EMPTY: none of {len(pairs)} photographs") as caught:
            zsl_runtime.evaluate(classifier, pairs)
        assert ("the first one: E-IMAGE" in caught.value.message) == bool(pairs)


def test_a_class_that_is_not_there_and_a_batch_of_nothing_are_refused(classifier, photographs):
    with pytest.raises(UsageError, match="E-CLASS-UNKNOWN: class 'wrenn'"):
        zsl_runtime.evaluate(classifier, [(photographs[0], "wren"), (photographs[0], "wrenn")])
    with pytest.raises(UsageError, match="E-BATCH"):
        zsl_runtime.evaluate(classifier, [], batch_size=0)


def test_classes_that_were_added_count_as_unseen(own_bundle, photographs):
    heron = ClassTable(("heron",), np.array([False]), np.array([[0, 7, 1, 1, 7, 1.0]]), TABLE.attributes)
    with Classifier.open(own_bundle(rule="gaussian"), "ort", threads=1) as opened:
        opened.add(heron)
        found = zsl_runtime.evaluate(opened, [(photographs[0], "heron"), (photographs[0], TABLE.names[TRUE[0]])])
    by_name = {one.name: one.seen for one in found.classes}
    assert by_name == {"heron": False, TABLE.names[TRUE[0]]: True}
    assert found.figures["U"].classes == 1
    assert (found.figures["U"].competing, found.figures["T1"].competing) == (9, 4)
