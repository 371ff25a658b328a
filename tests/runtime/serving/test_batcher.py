"""Several callers at once, classes that come meanwhile, and every number against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.served import FILES, PICTURES, check, newcomer
from support.tiny_bundle import class_table
from zsl_runtime import Classifier, add_classes
from zsl_runtime.classes.changes import undo
from zsl_runtime.errors import UsageError, ZslError
from zsl_runtime.serving.batcher import Asked, Batcher, Square


@pytest.fixture
def opened(own_bundle):
    path = own_bundle("served", rule="gaussian")
    said: list[str] = []
    with Classifier.open(path, threads=2) as classifier:
        yield classifier, Batcher(classifier, said.append, most_bytes=10_000), said


def test_files_and_squares_of_several_callers_get_what_numpy_says(opened):
    classifier, batcher, _ = opened
    squares = [Square(one) for one in PICTURES]
    asked = [Asked(FILES[:3]), Asked(squares[3:], topk=2), Asked(FILES, 100, "unseen"), Asked(squares[:1], 1, "seen")]
    answers = batcher.answer(asked)
    check(classifier.bundle, answers[0], PICTURES[:3], 5)
    check(classifier.bundle, answers[1], PICTURES[3:], 2)
    check(classifier.bundle, answers[2], PICTURES, 3, "unseen")
    check(classifier.bundle, answers[3], PICTURES[:1], 1, "seen")
    assert all(answer.distances is not None for answer in answers)


def test_a_bad_picture_is_told_in_its_place_and_the_others_are_labelled(opened):
    classifier, batcher, _ = opened
    bad = [b"", b"no picture", FILES[0][:-30], b"\xff" * 10_001]
    mixed, only_bad, none_bad = batcher.answer([Asked([bad[0], FILES[1], bad[1], FILES[2]]), Asked(bad), Asked(FILES)])
    good = [1, 3]
    check(classifier.bundle, mixed._replace(**rows_of(mixed, good)), PICTURES[[1, 2]], 5)
    assert [text.partition(":")[0] for text in mixed.errors] == ["E-IMAGE-EMPTY", "", "E-IMAGE-FORMAT", ""]
    for one, places in ((mixed, [0, 2]), (only_bad, [0, 1, 2, 3])):
        for place in places:
            assert one.names[place].tolist() == [""] * 5
            assert one.ids[place].tolist() == [-1] * 5
            assert not one.probabilities[place].any()
            assert one.distances[place].tolist() == [-1.0] * 5
            assert (one.distance[place], one.far[place]) == (-1.0, False)
            assert not one.seen[place].any()
    assert [text.partition(":")[0] for text in only_bad.errors] == [
        *("E-IMAGE-EMPTY", "E-IMAGE-FORMAT", "E-IMAGE-DECODE", "E-IMAGE-HUGE")
    ]
    assert "picture of 10001 bytes; at most 10000 are taken here" in only_bad.errors[3]
    check(classifier.bundle, none_bad, PICTURES, 5)


def rows_of(one, places) -> dict:
    arrays = ("names", "ids", "seen", "probabilities", "distances", "distance", "far")
    return {name: getattr(one, name)[places] for name in arrays} | {"errors": tuple(one.errors[i] for i in places)}


def test_a_bad_picture_alone_still_has_an_answer(opened):
    (one,) = opened[1].answer([Asked([b"x"], topk=3)])
    assert one.errors[0].startswith("E-IMAGE-FORMAT: ")
    assert one.ids.shape == one.distances.shape == (1, 3)
    assert opened[1].answer([]) == []


def test_classes_that_come_and_go_are_taken_over_between_two_answers(opened):
    classifier, batcher, said = opened
    for change in (lambda: add_classes(classifier.bundle, newcomer("dodo")), lambda: undo(classifier.bundle)):
        change()
        (one,) = batcher.answer([Asked(FILES, topk=9)])
        check(classifier.bundle, one, PICTURES, 9 if classifier.bundle.current().number == 2 else 8)
    assert said == ["generation 2: 9 classes", "generation 3: 8 classes"]


def test_where_the_next_generation_cannot_be_read_the_one_before_goes_on(opened):
    classifier, batcher, said = opened
    current = classifier.bundle.path / "classes" / "CURRENT"
    whole = current.read_bytes()
    current.write_bytes(b"{}")
    (one,) = batcher.answer([Asked(FILES)])
    batcher.answer([Asked(FILES)])
    assert one.generation == 1
    assert len(said) == 1
    assert said[0].startswith("generation 1 stays in use: E-BUNDLE-CURRENT: ")
    current.write_bytes(whole)
    add_classes(classifier.bundle, newcomer("dodo"))
    (one,) = batcher.answer([Asked(FILES, topk=9)])
    check(classifier.bundle, one, PICTURES, 9)
    assert said[1:] == ["generation 2: 9 classes"]
    current.unlink()
    assert batcher.answer([Asked(FILES)])[0].generation == 2
    assert len(said) == 3


def test_a_filter_that_leaves_no_class_is_that_callers_error_alone(own_bundle):
    path = own_bundle("served", rule="gaussian")
    with Classifier.open(path) as classifier:
        classifier.remove([name for name in class_table().names if name not in {"robin", "tit"}])
        answers = Batcher(classifier, print).answer([Asked(FILES[:1], classes="unseen"), Asked(FILES[:1])])
    assert isinstance(answers[0], ZslError)
    assert answers[0].code == "E-FILTER-EMPTY"
    assert answers[1].names.shape == (1, 2)


@pytest.mark.parametrize("rule", ["gaussian", "rows"])
def test_rows_for_which_the_model_has_no_number_are_told_one_by_one(shared_bundle, rule):
    """Even where one caller sends nothing else, and beside another caller."""
    with Classifier.open(shared_bundle(kind="backbone_features", rule=rule)) as classifier:
        batcher = Batcher(classifier, print)
        near = np.random.default_rng(0).random((2, *classifier.input_port.shape), dtype=np.float32)
        far = np.full_like(near, 3e38)
        odd, fine = batcher.answer([Asked([Square(one) for one in far]), Asked([Square(one) for one in near])])
        (alone,) = batcher.answer([Asked([Square(one) for one in far])])
        expected = classifier.predict(list(near))
    for one in (odd, alone):
        assert [text.partition(":")[0] for text in one.errors] == ["E-ANSWER-VALUE"] * 2
        assert one.names.tolist() == [[""] * 5] * 2
    assert fine.names.tolist() == [list(prediction.names) for prediction in expected]
    for one in (odd, fine, alone):
        assert np.isfinite(one.probabilities).all()
        assert one.distances is None or np.isfinite(one.distances).all()


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"topk": 0}, "E-TOPK"),
        ({"topk": True}, "E-TOPK"),
        ({"topk": 2.5}, "E-TOPK"),
        ({"topk": "5"}, "E-TOPK"),
        ({"classes": "new"}, "E-FILTER"),
        ({"classes": ["robin"]}, "E-FILTER"),
        ({"classes": None}, "E-FILTER"),
    ],
)
def test_what_nobody_can_ask_for(options, code):
    with pytest.raises(UsageError) as caught:
        Asked([b""], **options)
    assert caught.value.code == code


def test_other_head_rules_have_no_distances(shared_bundle):
    for rule in ("rows", "fit"):
        with Classifier.open(shared_bundle(rule=rule)) as classifier:
            (one,) = Batcher(classifier, print).answer([Asked(FILES)])
            expected = classifier.predict(FILES)
        assert one.distances is None
        assert one.names.tolist() == [list(prediction.names) for prediction in expected]


SOURCES = st.lists(
    st.one_of(
        st.integers(0, len(FILES) - 1).map(lambda place: ("file", place)),
        st.integers(0, len(FILES) - 1).map(lambda place: ("square", place)),
        st.binary(max_size=40).map(lambda data: ("bad", data)),
    ),
    max_size=6,
)


@settings(max_examples=40)
@given(st.lists(st.tuples(SOURCES, st.integers(1, 10), st.sampled_from(("all", "seen", "unseen"))), max_size=5))
def test_nobodys_answer_depends_on_who_else_asks(alone_and_together, calls):
    batcher = alone_and_together
    kinds = {"file": lambda place: FILES[place], "square": lambda place: Square(PICTURES[place]), "bad": bytes}
    asked = [Asked([kinds[kind](one) for kind, one in sources], topk, classes) for sources, topk, classes in calls]
    for one, together in zip(asked, batcher.answer(asked), strict=True):
        (alone,) = batcher.answer([one])
        assert together.names.tolist() == alone.names.tolist()
        assert together.errors == alone.errors
        assert len(together.errors) == len(one.sources)
        np.testing.assert_allclose(together.probabilities, alone.probabilities, atol=2e-5)  # of another batch
        np.testing.assert_allclose(together.distances, alone.distances, rtol=1e-4)
        bad = [text != "" for text in together.errors]
        assert bad == [isinstance(source, bytes) and source not in FILES for source in one.sources]


@pytest.fixture(scope="module")
def alone_and_together(shared_bundle):
    with Classifier.open(shared_bundle(rule="gaussian"), threads=1) as classifier:
        yield Batcher(classifier, print)
