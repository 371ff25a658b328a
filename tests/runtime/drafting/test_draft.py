"""A drafted row against the textbook's formulas, written out for small tables."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.tiny_bundle import class_table
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.drafting import draft as drafting
from zsl_runtime.drafting.draft import CHANCE, MOST, NOISE, SHARPER, UNSAID_NOISE, USUAL, draft_row, spoken
from zsl_runtime.drafting.evidence import Told, told
from zsl_runtime.drafting.phrases import phrases
from zsl_runtime.drafting.proposal import propose
from zsl_runtime.errors import UsageError
from zsl_runtime.head.class_file import read_class_csv
from zsl_runtime.head.class_table import ClassTable

ATTRIBUTES = ("wing_color=brown", "wing_color=grey", "bill_shape=hooked", "bill_shape=cone", "tail_length=long")


def table_of(raw: np.ndarray, attributes=ATTRIBUTES, names=None, seen=None) -> ClassTable:
    names = tuple(names or (f"bird {chr(97 + j)}" for j in range(len(raw))))
    seen = np.ones(len(raw), dtype=bool) if seen is None else seen
    return ClassTable(names, seen, np.asarray(raw, dtype=np.float64), attributes)


def some_rows(classes: int = 12, seed: int = 0) -> np.ndarray:
    """Hooked bills go with grey wings, the tail is by itself."""
    rng = np.random.default_rng(seed)
    grey = rng.uniform(0, 1, classes)
    hooked = np.clip(grey + 0.05 * rng.standard_normal(classes), 0, 1)
    return np.stack([1 - grey, grey, hooked, 1 - hooked, rng.uniform(0, 1, classes)], axis=1)


def test_what_the_text_says_moves_a_row_as_a_normal_distribution_is_moved_by_observations():
    """mu + S H' (H S H' + N)^-1 (y - H mu), every matrix written out."""
    raw = some_rows()
    table = table_of(raw)
    found = told("The wings are grey.", phrases(ATTRIBUTES))
    spread = raw.std(axis=0)
    count = len(raw)
    residual = (raw - (raw.sum(axis=0) - raw) / (count - 1)) / spread
    covariance = residual.T @ residual / count
    covariance = (1 - CHANCE) * covariance + CHANCE * np.diag(np.diag(covariance))
    look = np.eye(5)[:2]  # at the colours of wings
    noise = np.diag([UNSAID_NOISE, NOISE])
    prior = raw.mean(axis=0)
    target = np.array([np.quantile(raw[:, 0], USUAL), np.quantile(raw[:, 1], MOST)])
    gain = covariance @ look.T @ np.linalg.inv(look @ covariance @ look.T + noise)
    wanted = prior + SHARPER * spread * (gain @ ((target - prior[:2]) / spread[:2]))
    draft = draft_row("new bird", "The wings are grey.", table, None)
    assert draft.row == pytest.approx(wanted, abs=0.006)  # two or three digits
    assert draft.row[2] > prior[2] + 0.02  # what goes along with grey wings
    assert draft.said.tolist() == [False, True, False, False, False]
    assert draft.known.tolist() == [True, True, False, False, False]
    assert draft.sentences == ("The wings are grey.",) * 2 + ("",) * 3
    assert draft.alike == ()
    assert found.known.tolist() == draft.known.tolist()


def kinds(texts):
    """An encoder that knows the last word alone: owls are owls."""
    vectors = np.zeros((len(texts), 3), np.float32)
    for row, text in enumerate(texts):
        vectors[row, ("owl", "duck").index(text.split()[-1]) if text.split()[-1] in {"owl", "duck"} else 2] = 1
    return vectors


def nothing(texts):
    """An encoder to which every name is as far from every other one."""
    return np.eye(len(texts), 40, dtype=np.float32)


def of_two_kinds() -> ClassTable:
    raw = np.tile(some_rows(8), (1, 1))
    raw[:4, 4], raw[4:, 4] = 0.9 + 0.01 * np.arange(4), 0.1 + 0.01 * np.arange(4)
    raw[:4, :4], raw[4:, :4] = [0.1, 0.9, 0.9, 0.1] + raw[:4, :4] / 50, [0.9, 0.1, 0.1, 0.9] + raw[4:, :4] / 50
    return table_of(raw, names=[f"{letter}_owl" for letter in "abcd"] + [f"{letter}_duck" for letter in "abcd"])


def test_classes_with_like_names_count_where_they_have_like_rows():
    table = of_two_kinds()
    text = "The bill is hooked."
    owl = draft_row("Snowy_Owl", text, table, lambda texts: kinds([one.casefold() for one in texts]))
    assert set(owl.alike) <= set(table.names[:4])
    assert owl.row[4] == pytest.approx(table.raw[:, 4].max())  # sharpened, and no more than any class has
    plain = draft_row("Snowy_Owl", text, table, None)
    assert plain.row[4] < owl.row[4] - 0.1
    same = draft_row("Snowy_Owl", text, table, nothing)
    assert same.row == pytest.approx(plain.row)
    assert same.alike == ()


def test_names_that_mislead_are_not_followed():
    """Leaving one class out after the other shows that names have nothing to do with rows here."""
    table = table_of(some_rows(10, seed=3), names=[f"{k} {'owl' if k % 2 else 'duck'}" for k in range(10)])
    weights, residual = drafting._by_names("new owl", table, kinds)
    spread = table.raw.std(axis=0)
    errors = {}
    for width in drafting.WIDTHS:
        error = 0.0
        for j in range(10):
            others = [k for k in range(10) if k != j]
            alike = np.array([float(k % 2 == j % 2) for k in others])
            share = np.ones(9) if width is None else np.exp(alike / width)
            guess = share @ table.raw[others] / share.sum()
            error += (((table.raw[j] - guess) / spread) ** 2).sum()
        errors[width] = error
    best = min(errors, key=errors.get)
    assert ((residual / spread) ** 2).sum() == pytest.approx(errors[best])
    assert (np.ptp(weights) == 0) == (best is None)


def test_of_very_many_classes_those_with_like_names_stay(monkeypatch):
    monkeypatch.setattr(drafting, "MOST_CLASSES", 8)
    table = of_two_kinds()
    many = table_of(
        np.concatenate([some_rows(40, seed=5), table.raw]), names=[*(f"plant {k}" for k in range(40)), *table.names]
    )
    some = drafting._some("Snowy_Owl", many)
    assert len(some) == 8
    assert {"a_owl", "b_owl", "c_owl", "d_owl"} <= set(some.names)
    assert list(some.names) == [name for name in many.names if name in some.names]
    assert drafting._some("Snowy_Owl", table) is table
    draft = draft_row("Snowy_Owl", "The bill is hooked.", many, lambda texts: kinds([one.casefold() for one in texts]))
    assert set(draft.alike) <= set(some.names)


TICKS = np.array(
    [
        [1, 0, 1, 0, 0],
        [0, 1, 1, 0, 1],
        [1, 0, 0, 1, 0],
        [0, 1, 0, 1, 1],
        [1, 0, 0, 1, 0.8],
        [0, 1, 1, 0, 1],
    ]
)


def test_a_table_of_ticks_gets_ticks_and_one_of_a_group():
    table = table_of(TICKS)
    draft = draft_row("new", "Wings brown. The tail is long.", table, None)
    assert draft.row.tolist() == [1, 0, *draft.row[2:4], 1]
    assert sorted(draft.row[2:4]) == [0, 1]
    both = draft_row("new", "Wings brown and grey.", table, None)
    assert sorted(both.row[:2]) == [0, 1]
    none = draft_row("new", "Wings brown. The tail is long.", table_of(TICKS * 0.9), None)
    assert not set(none.row) <= {0, 1}


def test_attributes_that_all_classes_have_alike_stay():
    raw = some_rows()
    raw[:, 1] = 0.25
    assert draft_row("new", "Wings grey, bill hooked.", table_of(raw), None).row[1] == 0.25


@pytest.mark.parametrize(
    ("table", "text", "code"),
    [
        (table_of(some_rows(2)), "Wings grey.", "E-DRAFT-CLASSES"),
        (table_of(some_rows()), "Ein kleiner Vogel mit spitzen Flossen.", "E-DRAFT-TEXT"),
        (table_of(some_rows(), attributes=("a1", "a2", "a3", "a4", "a5")), "Wings grey.", "E-DRAFT-ATTRIBUTES"),
    ],
)
def test_what_no_draft_can_be_made_of_is_refused(table, text, code):
    with pytest.raises(UsageError) as caught:
        draft_row("new", text, table, None)
    assert caught.value.code == code


def test_a_text_in_the_language_of_the_table_does_whatever_that_is():
    table = table_of(some_rows(), attributes=("Flügel=braun", "Flügel=grau", "Schnabel=krumm", "größe", "Schwanz=lang"))
    draft = draft_row("neu", "Der Schnabel ist krumm, die Flügel grau.", table, None)
    assert draft.said.tolist() == [False, True, True, False, False]


@given(
    st.integers(3, 9),
    st.sampled_from([1e-30, 1e-3, 1.0, 1e6, 1e30]),
    st.text(max_size=60),
    st.integers(0, 2**32 - 1),
)
def test_whatever_the_numbers_are_a_draft_lies_among_those_of_known_classes(classes, size, text, seed):
    rng = np.random.default_rng(seed)
    raw = size * rng.standard_normal((classes, 5)) * rng.integers(0, 2, (1, 5))
    table = table_of(raw)
    draft = draft_row("new", f"The wings are grey. {text}", table, nothing)
    assert ((draft.row >= raw.min(axis=0)) & (draft.row <= raw.max(axis=0))).all()
    assert set(draft.said[draft.said]) <= set(draft.known[draft.said])


def test_names_are_encoded_as_they_are_said():
    assert [spoken(name) for name in ("Fish_Crow", "029.American_Crow", "  Crow ", "007")] == [
        "Fish Crow",
        "American Crow",
        "Crow",
        "007",
    ]


def test_a_proposal_is_a_table_that_add_reads_with_what_each_value_rests_on(shared_bundle, tmp_path):
    bundle = Bundle.open(shared_bundle(rule="gaussian"))
    names = class_table().attributes
    draft, template = propose(bundle, "heron", 'It is blue, "quite" blue; its top is bright.', None)
    path = tmp_path / "heron.csv"
    path.write_bytes(template.csv(mark=True))
    table = read_class_csv(path, attributes=bundle.attributes, need_split=False)
    assert table.names == ("heron",)
    assert table.raw[0].tolist() == draft.row.tolist()
    rows = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8-sig"))))
    rests = dict(zip(names, next(row for row in rows if row[0] == "# draft: rests on")[1:], strict=True))
    sentence = dict(zip(names, next(row for row in rows if row[0] == "# draft: sentence")[1:], strict=True))
    assert (rests["blue"], rests["bright top"], rests["red"]) == ("text", "text", "guess")
    assert (sentence["blue"], sentence["red"]) == ('It is blue, "quite" blue', "")
    book = tmp_path / "heron.xlsx"
    pytest.importorskip("openpyxl")
    book.write_bytes(template.workbook())
    assert read_class_csv(book, attributes=bundle.attributes, need_split=False).raw[0].tolist() == draft.row.tolist()


def test_a_sentence_cannot_be_a_formula_in_a_spreadsheet(shared_bundle):
    bundle = Bundle.open(shared_bundle(rule="gaussian"))
    _, template = propose(bundle, "heron", "=HYPERLINK(1) blue.", None)
    line = next(one for one in template.csv(mark=False).decode().splitlines() if one.startswith("# draft: sentence"))
    assert "'=HYPERLINK(1) blue." in line


def test_told_has_plain_shapes():
    found = told("Nothing.", phrases(ATTRIBUTES))
    assert isinstance(found, Told)
    assert found.sentence == ("",) * 5
