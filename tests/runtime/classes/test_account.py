"""What is told of a class, against numbers worked out another way."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.tiny_bundle import ATTRIBUTES, CANONICAL, PER_CLASS, class_table, tiny_gaussian
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.classes.account import (
    AHEAD,
    CONTRADICTED,
    LEAST_APART,
    MOST_APART,
    NEAR,
    Alike,
    _steps,
    accounts,
    set_apart,
)
from zsl_runtime.classes.changes import add_classes, remove_classes, teach_classes, undo
from zsl_runtime.errors import UsageError
from zsl_runtime.head.class_table import ClassTable
from zsl_runtime.head.gaussian import Evidence
from zsl_runtime.head.readout import LEAST_QUALITY, Readout

HERON = [0.0, 7.0, 1.0, 1.0, 7.0, 1.0]


@pytest.fixture
def bundle(own_bundle) -> Bundle:
    return Bundle.open(own_bundle(rule="gaussian"))


def new_class(name: str, row: list[float]) -> ClassTable:
    return ClassTable((name,), np.zeros(1, dtype=bool), np.array([row]), ATTRIBUTES)


def evidence(count: int, mean: float | np.ndarray) -> Evidence:
    return Evidence(count, count * (np.zeros(CANONICAL) + mean))


def test_a_class_of_training_rests_on_its_photographs_and_an_unseen_one_on_attributes_alone(bundle):
    crow, owl = accounts(bundle, ["crow", "eagle owl"])
    assert (crow.name, crow.split, crow.row, crow.rule, crow.attributes) == ("crow", "seen", 2, "gaussian", 6)
    assert (crow.rests.photographs, crow.rests.trained) == (PER_CLASS, PER_CLASS)
    assert (owl.split, owl.row) == ("unseen", 6)
    assert owl.rests[:4] == (0, 0, 0.0, None)
    assert owl.rests.left == pytest.approx(1)
    assert [(one.number, one.action, one.photographs) for one in owl.history] == [(1, "export", 0)]
    assert (owl.contradicted, owl.readable, owl.unreadable) == (None, None, 0)


def test_what_is_left_uncertain_is_what_bayes_says(bundle):
    """Precisions add up: 1/d before, n more of n photographs of variance 1; coordinates by their weight."""
    add_classes(bundle, new_class("heron", HERON))
    teach_classes(bundle, {"heron": evidence(3, 1.0)})
    (heron,) = accounts(bundle, ["heron"])
    d, s = tiny_gaussian().variance, tiny_gaussian().scale
    for count, left in ((3, heron.rests.left), (3 + AHEAD, heron.rests.left_then)):
        assert left == pytest.approx((s / (1 / d + count)).sum() / (s * d).sum())


def test_how_far_photographs_moved_a_mean_is_what_a_draw_says(bundle):
    """In standard deviations of the score that tells the place before from the place after."""
    add_classes(bundle, new_class("heron", HERON))
    before = bundle.current()
    there = before.means.prior[-1] + np.linspace(-8, 8, CANONICAL)
    teach_classes(bundle, {"heron": evidence(5, there)})
    after = bundle.current()
    (heron,) = accounts(bundle, ["heron"])
    direction = (after.head.weights[0][-1] - before.head.weights[0][-1]).astype(float)
    place = {}
    for generation in (before, after):
        place[generation.number] = generation.head.weights[0][-1].astype(float) / tiny_gaussian().scale
    drawn = np.random.default_rng(0).standard_normal((100_000, CANONICAL)) * np.sqrt(after.head.temperature)
    apart = (place[3] - place[2]) @ direction / (drawn @ direction).std()
    assert heron.rests.moved == pytest.approx(apart, rel=0.02)
    assert heron.rests.moved > 1
    assert heron.rests.moved_less is None  # no other class was taught on site: nothing says what is usual


def test_movement_is_compared_among_classes_of_one_split(own_bundle):
    bundle = Bundle.open(own_bundle(rule="gaussian"))
    for k in range(1, 8):
        add_classes(bundle, new_class(f"c{k}", HERON))
    prior = bundle.current().means.prior[-1].astype(float)
    teach_classes(bundle, {f"c{k}": evidence(4, prior + k) for k in range(1, 8)})
    told = {one.name: one.rests.moved_less for one in accounts(bundle, [f"c{k}" for k in range(1, 8)])}
    assert told == {f"c{k}": pytest.approx((k - 1) / 6) for k in range(1, 8)}


def test_photographs_of_training_and_of_the_site_are_counted_apart(bundle):
    teach_classes(bundle, {"crow": evidence(5, 0.0), "wren": evidence(2, 0.0)})
    teach_classes(bundle, {"crow": evidence(1, 0.0)})
    crow, wren = accounts(bundle, ["crow", "wren"])
    assert crow.rests[:2] == (PER_CLASS + 6, PER_CLASS)
    assert wren.rests[:2] == (2, 0)
    assert [(one.number, one.action, one.photographs) for one in crow.history] == [
        (1, "export", 0),
        (2, "teach", 5),
        (3, "teach", 1),
    ]
    undo(bundle)
    (crow,) = accounts(bundle, ["crow"])
    assert crow.rests[:2] == (PER_CLASS + 5, PER_CLASS)
    assert crow.history[-1].action == "undo"


def test_a_class_of_training_that_was_removed_and_described_again_has_none_of_its_photographs(bundle):
    table = class_table()
    remove_classes(bundle, ["crow"])
    add_classes(bundle, new_class("crow", table.raw[2].tolist()))
    teach_classes(bundle, {"crow": evidence(3, 0.0)})
    (crow,) = accounts(bundle, ["crow"])
    assert (crow.split, *crow.rests[:2]) == ("unseen", 3, 0)
    assert [one.action for one in crow.history] == ["export", "remove", "add", "teach"]


def test_without_a_history_the_photographs_of_training_are_not_told_apart(bundle):
    teach_classes(bundle, {"crow": evidence(5, 0.0)})
    (bundle.path / "history.jsonl").unlink()
    crow, wren = accounts(bundle, ["crow", "wren"])
    assert crow.rests[:2] == (PER_CLASS + 5, None)
    assert wren.rests[:2] == (0, 0)
    assert crow.history == ()


def test_lines_of_the_history_that_cannot_be_read_are_counted(bundle):
    path = bundle.path / "history.jsonl"
    path.write_bytes(path.read_bytes() + b"{not json\n" + b'{"number": "one", "names": ["crow"]}\n')
    (crow,) = accounts(bundle, ["crow"])
    assert crow.unreadable == 1
    assert crow.history[-1] == (0, "?", "?", 0)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5) | st.just("crow"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4) | st.just("crow"), inner),
    max_leaves=6,
)
KEYS = st.sampled_from(["number", "action", "when", "names", "photographs", "other"])


@given(st.lists(st.dictionaries(KEYS, anything), max_size=4))
def test_whatever_the_history_holds_is_told_as_text_and_whole_numbers(entries):
    for step in _steps(entries, "crow"):
        assert [type(value) for value in step] == [int, str, str, int]


def test_the_neighbours_are_those_that_an_addition_tells_and_more_of_them(bundle):
    change = add_classes(bundle, new_class("heron", HERON))
    (heron,) = accounts(bundle, ["heron"])
    assert heron.neighbours[:3] == change.neighbours["heron"]
    assert len(heron.neighbours) == NEAR


@pytest.mark.parametrize("rule", ["fit", "rows"])
def test_other_heads_tell_how_alike_attributes_are_and_nothing_of_photographs(shared_bundle, rule):
    (crow,) = accounts(Bundle.open(shared_bundle(rule=rule)), ["crow"])
    assert (crow.rule, crow.rests, crow.contradicted) == (rule, None, None)
    raw = np.maximum(class_table().raw, 0)
    cosine = raw @ raw[2] / np.linalg.norm(raw, axis=1) / np.linalg.norm(raw[2])
    wanted = np.sort(np.delete(cosine, 2))[::-1][:NEAR]
    assert [type(one) for one in crow.neighbours] == [Alike] * NEAR
    assert [one.cosine for one in crow.neighbours] == pytest.approx(wanted, abs=1e-6)
    columns = [class_table().names.index(one.name) for one in crow.neighbours]
    assert cosine[columns] == pytest.approx(wanted, abs=1e-6)
    assert crow.neighbours[0].name == "eagle owl"


def test_what_sets_a_class_apart_is_what_differs_most_in_its_unit():
    raw = np.array([[1.0, 50, 1, 0.3], [0, 60, 1, 0], [0, 40, 1, 0], [1, 0, 1, 0]])
    table = ClassTable(("a", "b", "c", "d"), np.ones(4, dtype=bool), raw, ("tick", "size", "same", "rare"))
    found = set_apart(table, 0, ["b", "c"])
    # Ticks go from 0 to 1, the size to 60. `rare` is a third of a tick, though no other class has any of it.
    assert [(one.attribute, one.own, one.near, one.all) for one in found] == [
        ("tick", 1.0, 0.0, 0.5),
        ("rare", 0.3, 0.0, 0.075),
    ]
    assert [one.difference for one in found] == pytest.approx([1, 0.3])
    of_d = set_apart(table, 3, ["a", "b"])
    assert [one.attribute for one in of_d] == ["size", "tick", "rare"]
    assert [one.difference for one in of_d] == pytest.approx([-55 / 60, 0.5, -0.15])
    raw[0, 3] = 3 * LEAST_APART - 0.01
    assert "rare" not in {one.attribute for one in set_apart(table, 3, ["a", "b", "c"])}
    assert set_apart(table, 0, []) == ()


@given(st.integers(2, 6), st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_whatever_the_numbers_are_differences_are_finite_and_sorted(classes, attributes, seed):
    rng = np.random.default_rng(seed)
    raw = rng.standard_normal((classes, attributes)) * 10.0 ** rng.integers(-30, 38, attributes)
    raw[:, 0] = 1.0
    names = tuple(f"c{j}" for j in range(classes))
    table = ClassTable(names, np.ones(classes, dtype=bool), raw, tuple(f"a{k}" for k in range(attributes)))
    found = set_apart(table, 0, names[1:3])
    sizes = [abs(one.difference) for one in found]
    assert len(found) <= MOST_APART
    assert np.isfinite(sizes).all()
    assert sizes == sorted(sizes, reverse=True)
    assert "a0" not in {one.attribute for one in found}


UNIT = 3.0  # of every attribute over the classes of a read-out's fit


def readout_of(quality: float = 0.9, weight: float = 0.01) -> Readout:
    """Attribute n is read off coordinate n."""
    weights = np.zeros((len(ATTRIBUTES), CANONICAL), np.float32)
    weights[range(len(ATTRIBUTES)), range(len(ATTRIBUTES))] = weight
    ones = np.ones(len(ATTRIBUTES), np.float32)
    place = np.ones(CANONICAL, np.float32)
    return Readout(weights, 0 * ones, quality * ones, UNIT * ones, 0 * place, place)


def shown(values: list[float], weight: float = 0.01) -> np.ndarray:
    """Where photographs lie that read so."""
    where = np.zeros(CANONICAL)
    where[: len(values)] = np.array(values) / weight
    return where


def test_photographs_that_say_something_else_than_the_table_are_told(bundle):
    """With a great many of them all that is left is what the read-out gets wrong of unknown classes."""
    add_classes(bundle, new_class("heron", HERON))
    read = list(HERON)
    read[1] = -5.0
    teach_classes(bundle, {"heron": evidence(10**9, shown(read))})
    (heron,) = accounts(bundle, ["heron"], readout_of())
    assert heron.readable == len(ATTRIBUTES)
    (odd,) = heron.contradicted
    assert (odd.attribute, odd.table) == (ATTRIBUTES[1], 7.0)
    assert odd.read == pytest.approx(-5.0)
    assert odd.quality == pytest.approx(0.9)
    assert odd.deviations == pytest.approx(12 / (UNIT * np.sqrt(1 - 0.9**2)), rel=1e-3)


def test_one_photograph_contradicts_less_and_a_bad_reading_nothing(bundle):
    add_classes(bundle, new_class("heron", HERON))
    read = list(HERON)
    read[1] = -5.0
    teach_classes(bundle, {"heron": evidence(1, shown(read))})
    (heron,) = accounts(bundle, ["heron"], readout_of())
    temperature = bundle.current().head.temperature
    wrong = np.sqrt(UNIT**2 * (1 - 0.9**2) + temperature * 0.01**2)
    assert [one.deviations for one in heron.contradicted] == [pytest.approx(12 / wrong, rel=1e-3)]
    (heron,) = accounts(bundle, ["heron"], readout_of(quality=LEAST_QUALITY - 0.01))
    assert (heron.contradicted, heron.readable) == ((), 0)
    (heron,) = accounts(bundle, ["heron"], readout_of(weight=10.0))  # one picture differs from another by far more
    assert all(one.attribute != ATTRIBUTES[0] or one.deviations >= CONTRADICTED for one in heron.contradicted)
    (owl,) = accounts(bundle, ["eagle owl"], readout_of())
    assert owl.contradicted is None


def test_names_are_told_once_in_the_order_given_and_must_be_known(bundle):
    assert [one.name for one in accounts(bundle, ["wren", "crow", " wren "])] == ["wren", "crow"]
    with pytest.raises(UsageError, match="did you mean wren"):
        accounts(bundle, ["crow", "wrenn"])
    with pytest.raises(UsageError) as caught:
        accounts(bundle, [])
    assert caught.value.code == "E-CLASSES-EMPTY"


def test_the_only_class_has_no_neighbours(bundle):
    remove_classes(bundle, class_table().names[1:])
    (robin,) = accounts(bundle, ["robin"])
    assert (robin.neighbours, robin.apart) == ((), ())


def test_plain_data_is_json(bundle):
    teach_classes(bundle, {"crow": evidence(2, 3.0)})
    (crow,) = accounts(bundle, ["crow"], readout_of())
    plain = json.loads(json.dumps(crow.to_dict(), allow_nan=False))
    assert plain["rests"]["photographs"] == PER_CLASS + 2
    assert plain["neighbours"][0] == crow.neighbours[0]._asdict()
    assert [one["attribute"] for one in plain["apart"]] == [one.attribute for one in crow.apart]
    assert [one["action"] for one in plain["history"]] == ["export", "teach"]
    assert isinstance(plain["contradicted"], list)
