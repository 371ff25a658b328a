"""The split of a score difference: it adds up, attributes speak for the class that has more of them, and no others."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls

from zsl_runtime.errors import ArtefactError, UsageError
from zsl_runtime.explaining import Explanation, Readout, Spoken, pair_of, split
from zsl_runtime.explaining.nonnegative import nonnegative
from zsl_runtime.head.class_table import ClassTable
from zsl_runtime.head.head import FoldedHead
from zsl_runtime.head.readout import LEAST_QUALITY


def readout(rng: np.random.Generator, attributes: int, width: int, quality: float = 0.9) -> Readout:
    return Readout(
        rng.standard_normal((attributes, width)).astype(np.float32),
        rng.standard_normal(attributes).astype(np.float32),
        np.full(attributes, quality, np.float32),
        rng.uniform(0.1, 1, attributes).astype(np.float32),
        rng.standard_normal(width).astype(np.float32),
        rng.uniform(0.5, 2, width).astype(np.float32),
    )


@given(seed=st.integers(0, 2**31), rows=st.integers(1, 40), columns=st.integers(1, 30))
@settings(max_examples=60, deadline=None)
def test_nonnegative_least_squares_are_those_of_scipy(seed: int, rows: int, columns: int) -> None:
    rng = np.random.default_rng(seed)
    ridge = 1e-3
    matrix, wanted = rng.standard_normal((rows, columns)), rng.standard_normal(rows)
    found = nonnegative(matrix.T @ matrix + ridge * np.eye(columns), matrix.T @ wanted)
    # A ridge is that many more rows.
    taller = np.concatenate([matrix, np.sqrt(ridge) * np.eye(columns)])
    expected, _ = nnls(taller, np.concatenate([wanted, np.zeros(columns)]))
    assert found == pytest.approx(expected, abs=1e-7 * max(1, expected.max()))
    assert (found >= 0).all()


def test_nonnegative_least_squares_of_nothing_and_of_one_that_would_be_below() -> None:
    assert nonnegative(np.zeros((0, 0)), np.zeros(0)).shape == (0,)
    assert nonnegative(np.eye(2), np.array([-1.0, 3.0])).tolist() == [0, 3]
    same = np.array([[1.001, 1.0], [1.0, 1.001]])  # two columns that are nearly one share it
    assert nonnegative(same, np.array([1.0, 1.0])) == pytest.approx([1 / 2.001] * 2)


@given(
    seed=st.integers(0, 2**31),
    classes=st.integers(2, 6),
    attributes=st.integers(1, 12),
    width=st.integers(1, 20),
    known=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_contributions_rest_and_handicap_are_the_difference_of_scores(
    seed: int, classes: int, attributes: int, width: int, known: bool
) -> None:
    rng = np.random.default_rng(seed)
    seen = rng.integers(0, 2, classes).astype(np.bool_)
    head = FoldedHead(
        rng.standard_normal((classes, width)).astype(np.float32),
        rng.standard_normal(classes).astype(np.float32),
        np.where(seen, np.float32(-0.7), np.float32(0)).astype(np.float32),
    )
    raw = rng.integers(0, 3, (classes, attributes)).astype(np.float64)
    table = ClassTable(tuple(f"c{i}" for i in range(classes)), seen, raw, tuple(f"a{i}" for i in range(attributes)))
    x = rng.standard_normal(width).astype(np.float32)
    rows = readout(rng, attributes, width)
    means = rng.standard_normal((2, width)) if known else None
    pair = pair_of(head, table, rows, (0, 1), means)
    spoken, rest = split(pair, table, x, rows.read(x[None])[0])
    scores = head.scores(x[None])[0]
    together = sum(one.contribution for one in spoken) + rest + pair.seen_handicap
    scale = 1 + sum(abs(one.contribution) for one in spoken) + abs(rest)
    assert together == pytest.approx(scores[0] - scores[1], abs=2e-5 * scale)
    assert pair.seen_handicap == pytest.approx(-0.7 * (int(seen[0]) - int(seen[1])), abs=1e-6)
    sizes = [abs(one.contribution) for one in spoken]
    assert sizes == sorted(sizes, reverse=True)
    for one in spoken:
        assert one.answer != one.rival
        halfway = (one.answer + one.rival) / 2
        for_answer = (one.read - halfway) * (one.answer - one.rival)
        assert one.contribution * for_answer >= 0  # who is read nearer to the answer speaks for it


def crows_and_gulls(quality: float = LEAST_QUALITY / 2) -> tuple[FoldedHead, ClassTable, Readout]:
    head = FoldedHead(np.array([[2, 0], [0, 0]], np.float32), np.array([-2, 0], np.float32), np.zeros(2, np.float32))
    raw = np.array([[1.0, 5.0, 1.0], [0.0, 5.0, 0.0]])
    table = ClassTable(("crow", "gull"), np.ones(2, np.bool_), raw, ("black", "large", "wet"))
    rows = Readout(
        np.array([[0.5, 0], [0, 1], [-0.3, 0]], np.float32),
        np.array([0.25, 0, 0], np.float32),
        np.array([0.9, 0.9, quality], np.float32),
        np.ones(3, np.float32),
        np.zeros(2, np.float32),
        np.ones(2, np.float32),
    )
    return head, table, rows


@pytest.mark.parametrize("means", [None, np.array([[2.0, 0.0], [0.0, 0.0]])])
def test_an_attribute_that_is_the_whole_difference_says_all_of_it(means: np.ndarray | None) -> None:
    head, table, rows = crows_and_gulls()
    pair = pair_of(head, table, rows, (0, 1), means)
    assert pair.attributes.tolist() == [0]  # `large` is the same in both, `wet` cannot be read
    # Scores are 2x - 2, equal at 1, where 0.5 + 0.25 is read; halfway in the table is 0.5.
    x = np.array([2, 7], np.float32)
    spoken, rest = split(pair, table, x, rows.read(x[None])[0])
    assert [(one.attribute, one.answer, one.rival) for one in spoken] == [("black", 1, 0)]
    assert spoken[0].read == pytest.approx(1.25 - 0.25)
    assert spoken[0].contribution == pytest.approx(2 / 1.1)  # the ridge leaves one part in eleven to the rest
    assert spoken[0].contribution + rest == pytest.approx(2)


def test_an_attribute_that_the_model_holds_the_wrong_way_round_says_nothing() -> None:
    head, table, rows = crows_and_gulls(quality=0.9)
    pair = pair_of(head, table, rows, (0, 1), np.array([[2.0, 0.0], [0.0, 0.0]]))
    assert pair.attributes.tolist() == [0]  # of a typical crow less `wet` is read than of a gull


def test_small_differences_of_the_table_count_less_than_large_ones() -> None:
    head, table, _ = crows_and_gulls()
    same = Readout(
        np.array([[0.5, 0], [0.5, 0]], np.float32),
        np.zeros(2, np.float32),
        *(np.ones(2, np.float32) for _ in range(2)),
        *(np.ones(2, np.float32) for _ in range(2)),
    )
    table = ClassTable(table.names, table.seen, np.array([[1.0, 0.5], [0.0, 0.4]]), ("black", "dark"))
    pair = pair_of(head, table, same, (0, 1))
    assert pair.attributes.tolist() == [0, 1]
    assert pair.factor[0] > 50 * pair.factor[1] > 0


def test_a_readout_comes_back_from_its_bytes() -> None:
    rows = readout(np.random.default_rng(0), 3, 4)
    again = Readout.from_bytes(rows.to_bytes(), where="readout.safetensors")
    for name, array in vars(rows).items():
        assert (getattr(again, name) == array).all()
    x = np.ones((2, 4), np.float32)
    assert again.read(x)[0] == pytest.approx(rows.weight.sum(axis=1) + rows.offset)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("weight", np.full((3, 4), np.nan, np.float32)),
        ("offset", np.zeros(2, np.float32)),
        ("quality", np.full(3, 1.5, np.float32)),
        ("spread", np.zeros(4, np.float32)),
        ("centre", np.zeros(3, np.float32)),
        ("unit", np.full(3, -1, np.float32)),
        ("spread", np.ones(4, np.float64)),
    ],
)
def test_a_readout_that_cannot_be_is_refused(name: str, value: np.ndarray) -> None:
    rows = vars(readout(np.random.default_rng(0), 3, 4)) | {name: value}
    with pytest.raises(UsageError) as caught:
        Readout(**rows)
    assert caught.value.code == "E-READOUT"


def test_other_bytes_are_no_readout() -> None:
    for data in (b"", b"{}", Readout(*(np.ones(s, np.float32) for s in ((1, 1), 1, 1, 1, 1, 1))).to_bytes()[:-1]):
        with pytest.raises(ArtefactError) as caught:
            Readout.from_bytes(data, where="readout.safetensors")
        assert caught.value.code == "E-BUNDLE-READOUT"


def test_an_explanation_is_plain_data() -> None:
    spoken = Spoken("red crown", 0.5, 0.9, 1.0, 0.0)
    one = Explanation(
        "a.jpg", "crow", "gull", 0.7, 0.2, 1.25, (spoken,), 0.75, 0.0, {"red crown": np.ones((2, 2), np.float32) / 4}
    )
    assert one.to_dict() == {
        "name": "a.jpg",
        "answer": "crow",
        "rival": "gull",
        "probability": 0.7,
        "rival_probability": 0.2,
        "difference": 1.25,
        "spoken": [{"attribute": "red crown", "contribution": 0.5, "read": 0.9, "answer": 1.0, "rival": 0.0}],
        "rest": 0.75,
        "seen_handicap": 0.0,
        "maps": {"red crown": [[0.25, 0.25], [0.25, 0.25]]},
    }
