"""What is told of classes before they are added is what comes out when they are."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
import pytest

from support.tiny_bundle import ATTRIBUTES, RULE, class_table
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.classes.changes import add_classes
from zsl_runtime.classes.newcomers import MOST_TOLD, SHOWN
from zsl_runtime.classes.similar import similar_classes, unit_rows
from zsl_runtime.errors import UsageError
from zsl_runtime.head.class_table import ClassTable

if TYPE_CHECKING:
    from pathlib import Path

HERON = [0, 7, 1, 1, 7, 1]
CUCKOO = [5, 0, 5, 0, 0, 25]  # size 25, in training 0 to 2, and no attribute above 9
TWIN = [6, 6, 0, 0, 1, 1]  # of the wren
NEARLY = [6, 6, 0.1, 0, 1, 1]


def classes(**rows: list[float]) -> ClassTable:
    raw = np.array(list(rows.values()), dtype=np.float64).reshape(len(rows), len(ATTRIBUTES))
    return ClassTable(tuple(rows), np.zeros(len(rows), dtype=bool), raw, ATTRIBUTES)


def hashes(bundle: Path) -> dict[str, str]:
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in bundle.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "new",
    [
        classes(heron=HERON),
        classes(heron=HERON, cuckoo=CUCKOO, nearly=NEARLY),
        classes(twin=TWIN, heron=HERON, other=HERON),
        classes(**{f"c{j}": row for j, row in enumerate(np.random.default_rng(0).uniform(0, 9, (MOST_TOLD + 9, 6)))}),
    ],
    ids=["one", "several", "twins", "many"],
)
def test_neighbours_and_notes_are_those_of_the_change_and_the_bundle_is_not_changed(own_bundle, new):
    path = own_bundle(rule="gaussian")
    before = hashes(path)
    found = similar_classes(Bundle.open(path), new)
    assert hashes(path) == before
    change = add_classes(Bundle.open(path), new)
    assert found.neighbours == change.neighbours
    assert list(found.neighbours) == list(new.names[:MOST_TOLD])
    assert found.notes == change.notes
    assert found.expected


def test_the_generation_in_force_counts_and_so_do_photographs(own_bundle):
    """After a change the answer is of the classes that are there then."""
    bundle = Bundle.open(own_bundle(rule="gaussian"))
    add_classes(bundle, classes(nearly=NEARLY))
    found = similar_classes(bundle, classes(twin=TWIN))
    assert {one.name for one in found.neighbours["twin"][:2]} == {"wren", "nearly"}
    assert found.neighbours == add_classes(bundle, classes(twin=TWIN)).neighbours


def test_newcomers_are_held_against_each_other(shared_bundle):
    found = similar_classes(Bundle.open(shared_bundle(rule="gaussian")), classes(a=HERON, b=CUCKOO, c=NEARLY, d=TWIN))
    assert {name: {one.name for one in near} for name, near in found.newcomers.items()} == {
        name: set("abcd") - {name} for name in "abcd"
    }
    apart = {(name, one.name): one for name, near in found.newcomers.items() for one in near}
    for (first, second), one in apart.items():
        back = apart[second, first]
        assert one.distance == pytest.approx(back.distance)
        assert (one.lost, one.taken) == pytest.approx((back.taken, back.lost))
    assert found.newcomers["c"][0].name == "d"
    for name, near in found.neighbours.items():
        for one in near:
            assert one.name not in "abcd" or one in found.newcomers[name]
    alone = similar_classes(Bundle.open(shared_bundle(rule="gaussian")), classes(a=HERON))
    assert alone.newcomers == {}


@pytest.mark.parametrize("rule", ["fit", "rows"])
def test_of_other_heads_the_cosine_of_attributes_is_told(shared_bundle, rule):
    new = classes(heron=HERON, twin=TWIN)
    found = similar_classes(Bundle.open(shared_bundle(rule=rule)), new)
    assert not found.expected
    raw = np.maximum(np.concatenate([class_table().raw, new.raw]), 0)  # the rule of the tiny bundle
    names = (*class_table().names, "heron", "twin")
    for j, name in enumerate(names):
        if name in new.names:
            cosines = {
                other: float(raw[j] @ raw[k] / np.linalg.norm(raw[j]) / np.linalg.norm(raw[k]))
                for k, other in enumerate(names)
                if k != j
            }
            best = sorted(cosines, key=cosines.get, reverse=True)[:SHOWN]
            assert [one.name for one in found.neighbours[name]] == best
            assert [one.cosine for one in found.neighbours[name]] == pytest.approx([cosines[one] for one in best])
    assert found.neighbours["twin"][0] == ("wren", pytest.approx(1))
    assert [[one.name for one in near] for near in found.newcomers.values()] == [["twin"], ["heron"]]
    assert list(found.twins) == ["twin"]
    assert found.confusable == {}
    assert similar_classes(Bundle.open(shared_bundle(rule=rule)), classes(heron=HERON)).newcomers == {}


def test_vectors_of_nothing_are_like_nothing():
    table = classes(nothing=[0, 0, 0, 0, 0, -1], x=[3, 4, 0, 0, 0, 0])
    np.testing.assert_allclose(unit_rows(table, RULE), [[0] * 6, [0.6, 0.8, 0, 0, 0, 0]], rtol=1e-7)


@pytest.mark.parametrize(
    ("new", "code"),
    [
        (classes(wren=HERON), "E-CLASS-EXISTS"),
        (classes(), "E-CLASSES-EMPTY"),
        (classes(x=[0, 0, 0, 0, 0, -1]), "E-ATTRIBUTE-ZERO"),
        (classes(x=[np.nan, 0, 0, 0, 0, 1]), "E-ATTRIBUTE-VALUE"),
        (ClassTable(("x",), np.zeros(1, bool), np.ones((1, 2)), ("a", "b")), "E-ATTRIBUTES"),
    ],
)
def test_what_could_not_be_added_is_refused(shared_bundle, new, code):
    with pytest.raises(UsageError, match=code):
        similar_classes(Bundle.open(shared_bundle(rule="gaussian")), new)


@pytest.mark.parametrize(
    ("rule", "rows", "advice"),
    [
        ("gaussian", {"heron": HERON}, "this class may be added as it is"),
        ("gaussian", {"heron": HERON, "x": [9, 0, 0, 0, 0, 2]}, "these classes may be added as they are"),
        ("gaussian", {"cuckoo": CUCKOO}, "before you add them: check the attributes of 'cuckoo' that are far outside "),
        ("gaussian", {"twin": TWIN}, "before you add them: give 'twin' attributes of their own"),
        (
            "gaussian",
            {"nearly": NEARLY},
            "before you add them: describe what sets 'nearly' apart, or add them with photographs (--photos)",
        ),
        (
            "gaussian",
            {"twin": TWIN, "cuckoo": CUCKOO},
            "before you add them: check the attributes of 'cuckoo' that are far outside training; give 'twin' ",
        ),
        ("rows", {"heron": HERON}, "nothing in the attributes stands against adding this class"),
        ("rows", {"heron": HERON, "x": [9, 0, 0, 0, 0, 2]}, "nothing in the attributes stands against adding these "),
        ("fit", {"twin": TWIN}, "before you add them: give 'twin' attributes of their own"),
    ],
)
def test_the_advice_says_whether_to_add_them_and_what_to_do_else(shared_bundle, rule, rows, advice):
    found = similar_classes(Bundle.open(shared_bundle(rule=rule)), classes(**rows))
    assert found.advice.startswith(advice)
    assert "\n" not in found.advice
