"""Changing classes: what a new class gets, what the others keep, and how every step goes back."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from support.tiny_bundle import (
    ATTRIBUTES,
    NOISE,
    PER_CLASS,
    RULE,
    SEED,
    UNSEEN,
    class_table,
    draw_pictures,
    features_of,
    fit_tiny,
    lift_of,
    make_tiny_bundle,
    rows_of,
    synthesize_of,
)
from zsl_runtime.backends.ort import OrtBackend
from zsl_runtime.bundle import Bundle
from zsl_runtime.class_table import ClassTable
from zsl_runtime.errors import ArtefactError, UsageError
from zsl_runtime.generations import add_classes, fit_epochs, list_classes, prune, refit, remove_classes, undo
from zsl_runtime.head import RULES, class_noise, fold

NEW = {"heron": [0, 7, 1, 1, 7, 1], "cuckoo": [5, 0, 5, 0, 0, 5]}
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def originals(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bundle")
    return {rule: make_tiny_bundle(folder / rule, rule=rule) for rule in RULES}


@pytest.fixture(params=RULES)
def bundle(request, originals, tmp_path) -> Bundle:
    """A bundle of each rule of the head."""
    return Bundle.open(shutil.copytree(originals[request.param], tmp_path / "tiny"))


@pytest.fixture
def fitted(originals, tmp_path) -> Bundle:
    return Bundle.open(shutil.copytree(originals["fit"], tmp_path / "fitted"))


@pytest.fixture
def computed(originals, tmp_path) -> Bundle:
    """A bundle whose head's rows come from attributes."""
    return Bundle.open(shutil.copytree(originals["rows"], tmp_path / "computed"))


def new_classes(*names: str) -> ClassTable:
    raw = np.array([NEW[name] for name in names], dtype=np.float64)
    return ClassTable(names, np.zeros(len(names), dtype=bool), raw, ATTRIBUTES)


def accuracy(bundle: Bundle) -> dict[str, float]:
    """Class name -> share of drawn pictures of it that the bundle's head recognises, computed without any graph."""
    generation = bundle.current()
    labels = np.repeat(np.arange(len(generation.table)), 50)
    x = lift_of(features_of(draw_pictures(generation.table, labels, seed=99)))
    found = fold(generation.head, generation.table.seen).scores(x).argmax(axis=1)
    return {name: float((found[labels == j] == j).mean()) for j, name in enumerate(generation.table.names)}


def heads_equal(first, second) -> bool:
    pairs = zip((*first.weights, *first.biases), (*second.weights, *second.biases), strict=True)
    return (first.gamma, first.temperature) == (second.gamma, second.temperature) and all(
        np.array_equal(a, b) for a, b in pairs
    )


def test_classes_are_listed_in_the_order_of_their_columns(bundle):
    rows = list_classes(bundle)
    assert [row.name for row in rows] == list(class_table().names)
    assert [row.split for row in rows] == ["seen"] * 5 + ["unseen"] * 3
    assert [row.row for row in rows] == list(range(8))


@pytest.mark.parametrize("fit", ["new", "full"])
def test_added_classes_are_recognised_on_pictures_and_the_others_still_are(bundle, fit):
    before = accuracy(bundle)
    change = add_classes(bundle, new_classes("heron", "cuckoo"), fit=fit)
    after = accuracy(bundle)
    assert list(after) == [*class_table().names, "heron", "cuckoo"]
    assert min(after.values()) > 0.95
    assert all(after[name] >= before[name] - 0.03 for name in before)
    generation = bundle.current()
    assert change.generation.number == generation.number == 2
    assert (generation.parent, generation.action, generation.seed) == (1, "add", SEED)
    assert generation.table.seen.tolist() == [True] * 5 + [False] * 5
    np.testing.assert_array_equal(generation.table.raw[8:], [NEW["heron"], NEW["cuckoo"]])


def test_the_fast_fit_leaves_the_old_rows_as_they_were_bit_for_bit(bundle):
    old = bundle.current().head
    add_classes(bundle, new_classes("heron"))
    head = bundle.current().head
    assert heads_equal(head.take(np.arange(8)), old)


def test_a_full_fit_gives_the_head_that_training_with_the_class_would_have_given(bundle):
    """Same seed and class name, same synthetic features: the reference is fitted without any graph, from the start."""
    add_classes(bundle, new_classes("heron", "cuckoo"), fit="full")
    head = bundle.current().head
    whole = class_table().append(new_classes("heron", "cuckoo"))
    expected = fit_tiny(whole, seed=0, lift=True, rule=bundle.head_rule)
    assert (head.gamma, head.temperature) == (expected.gamma, expected.temperature)
    for ours, theirs in zip((*head.weights, *head.biases), (*expected.weights, *expected.biases), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-3)


def test_refit_with_the_seed_of_the_export_reproduces_its_head(bundle):
    exported = bundle.current().head
    change = refit(bundle)
    assert (change.generation.action, change.generation.seed, change.names) == ("refit", SEED, ())
    for ours, theirs in zip(bundle.current().head.weights, exported.weights, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-3)
    refit(bundle, seed=SEED + 1)
    moved = max(np.abs(a - b).max() for a, b in zip(bundle.current().head.weights, exported.weights, strict=True))
    assert moved > 0.01 if bundle.head_rule == "fit" else moved < 1e-5
    assert bundle.current().seed == SEED + 1
    assert min(accuracy(bundle).values()) > 0.95


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kind", ["images", "backbone_features"])
@pytest.mark.parametrize("lift", [True, False])
def test_every_kind_of_bundle_takes_classes(tmp_path, kind, lift, rule):
    bundle = Bundle.open(make_tiny_bundle(tmp_path / "tiny", kind=kind, lift=lift, rule=rule))
    change = add_classes(bundle, new_classes("heron"))
    assert change.fits.get("heron", 1.0) > 0.95
    generation = bundle.current()
    x = features_of(draw_pictures(generation.table, np.full(20, 8), seed=4))
    scores = fold(generation.head, generation.table.seen).scores(lift_of(x) if lift else x)
    assert (scores.argmax(axis=1) == 8).mean() > 0.9


def test_adding_loads_neither_the_model_graph_nor_the_probe(bundle):
    for name in ("model.onnx", "probe.safetensors"):
        (bundle.path / name).unlink()
    assert add_classes(bundle, new_classes("heron"), fit="full").generation.number == 2
    assert accuracy(bundle)["heron"] > 0.95


def test_a_computed_row_is_that_of_the_definition_and_nothing_is_fitted_or_drawn(computed):
    ticks = []
    change = add_classes(computed, new_classes("heron", "cuckoo"), seed=3, advance=ticks.append)
    head = computed.current().head
    weight, bias = rows_of(RULE.apply(new_classes("heron", "cuckoo").raw), lift=True)
    np.testing.assert_allclose(head.weights[0][8:], weight, atol=1e-4)
    np.testing.assert_allclose(head.biases[0][8:], bias, atol=1e-4)
    assert (change.fits, ticks, fit_epochs(computed)) == ({}, [], 0)
    states = [head]
    for fit, seed in (("full", 3), ("new", 4)):
        undo(computed)
        add_classes(computed, new_classes("heron", "cuckoo"), fit=fit, seed=seed)
        states.append(computed.current().head)
    assert heads_equal(states[0], states[1])
    assert heads_equal(states[0], states[2])


def test_a_graph_whose_rows_do_not_fit_is_told(computed, monkeypatch):
    for wrong in (lambda s: (np.zeros((len(s), 3), np.float32), np.zeros(len(s), np.float32)), rows_of_nan):
        monkeypatch.setattr(OrtBackend, "rows", lambda _, semantic, wrong=wrong: wrong(semantic))
        for action in (lambda: add_classes(computed, new_classes("heron")), lambda: refit(computed)):
            with pytest.raises(ArtefactError, match="E-GRAPH-OUTPUT: the rows of classes"):
                action()
    assert computed.current().number == 1


def rows_of_nan(semantic):
    weight, bias = rows_of(semantic, lift=True)
    bias[0] = np.nan
    return weight, bias


def test_how_well_a_class_fits_is_measured_on_its_own_synthetic_features(fitted):
    """A twin of `wren`, told from it by the noise alone, takes part of what is like it, and the figure says so."""
    wren = class_table().raw[class_table().index("wren")]
    twin = ClassTable(("twin",), np.array([False]), wren[None] * 1.001, ATTRIBUTES)
    change = add_classes(fitted, twin)
    generation = fitted.current()
    semantic = np.repeat(RULE.apply(twin.raw), PER_CLASS, axis=0)
    x = lift_of(synthesize_of(semantic, class_noise(SEED, "twin", PER_CLASS, NOISE)))
    found = fold(generation.head, generation.table.seen).scores(x).argmax(axis=1)
    assert change.fits == {"twin": pytest.approx((found == 8).mean())}
    assert 0.1 < change.fits["twin"] < 0.9


def test_the_history_tells_what_was_done(bundle):
    add_classes(bundle, new_classes("heron"), seed=3)
    add_classes(bundle, new_classes("cuckoo"), fit="full")
    remove_classes(bundle, ["wren", "robin"])
    undo(bundle)
    entries, damaged = bundle.history()
    assert damaged == []
    assert [entry["action"] for entry in entries] == ["export", "add", "add", "remove", "undo"]
    assert [entry["names"] for entry in entries[1:]] == [["heron"], ["cuckoo"], ["wren", "robin"], ["robin", "wren"]]
    how = ["new", "full"] if bundle.head_rule == "fit" else ["rows", "rows"]
    assert [entry.get("fit") for entry in entries] == [None, *how, None, None]
    assert [entry["seed"] for entry in entries] == [SEED, 3, SEED, SEED, SEED]
    if bundle.head_rule == "fit":
        assert entries[1]["fits"].keys() == {"heron"}
        assert 0.9 < entries[1]["fits"]["heron"] <= 1
    assert all(0 <= entry["seconds"] < 60 for entry in entries[1:])
    assert entries[4]["equals"] == 3


def test_removing_takes_rows_out_and_fits_nothing(bundle):
    old = bundle.current()
    change = remove_classes(bundle, ["tit", "eagle owl", "tit"])
    kept = np.array([0, 2, 3, 4, 5, 7])
    assert change.names == ("tit", "eagle owl")
    assert bundle.current().table.names == tuple(old.table.names[j] for j in kept)
    assert heads_equal(bundle.current().head, old.head.take(kept))


def test_a_seen_class_that_was_removed_comes_back_as_an_unseen_one(bundle):
    raw = class_table().raw[:1]
    remove_classes(bundle, ["robin"])
    add_classes(bundle, ClassTable(("robin",), np.array([False]), raw, ATTRIBUTES), fit="full")
    assert list_classes(bundle)[-1] == ("robin", "unseen", 7)
    assert min(accuracy(bundle).values()) > 0.95


def test_undo_walks_back_to_the_export_and_no_further(bundle):
    states = [bundle.current()]
    for action in (
        lambda: add_classes(bundle, new_classes("heron")),
        lambda: remove_classes(bundle, ["robin"]),
        lambda: refit(bundle, seed=5),
    ):
        action()
        states.append(bundle.current())
    for steps, expected in enumerate(reversed(states[:-1]), start=1):
        change = undo(bundle)
        current = bundle.current()
        assert (current.number, current.action) == (4 + steps, "undo")
        assert current.table.names == expected.table.names
        assert (current.seed, current.parent) == (expected.seed, expected.parent)
        assert heads_equal(current.head, expected.head)
        assert change.names == {1: (), 2: ("robin",), 3: ("heron",)}[steps]
    with pytest.raises(UsageError, match="nothing to undo") as caught:
        undo(bundle)
    assert caught.value.code == "E-UNDO-NONE"
    assert bundle.current().number == 7


def test_a_change_after_an_undo_is_undone_to_where_it_began(bundle):
    add_classes(bundle, new_classes("heron"))
    undo(bundle)
    add_classes(bundle, new_classes("cuckoo"))
    undo(bundle)
    assert bundle.current().table.names == class_table().names
    with pytest.raises(UsageError, match="E-UNDO-NONE"):
        undo(bundle)


def test_undo_goes_to_no_generation_that_was_changed_or_pruned(bundle):
    add_classes(bundle, new_classes("heron"))
    remove_classes(bundle, ["wren"])
    target = bundle.generation_path(2)
    content = bytearray(target.read_bytes())
    content[-1] ^= 1
    target.write_bytes(content)
    with pytest.raises(ArtefactError, match="E-BUNDLE-HASH"):
        undo(bundle)
    assert prune(bundle, 1) == (2,)
    with pytest.raises(UsageError, match="E-UNDO-PRUNED"):
        undo(bundle)
    assert bundle.current().number == 3


def test_prune_keeps_what_undo_reaches_first_and_the_export(bundle):
    for name in ("wren", "tit", "gull", "crow"):
        remove_classes(bundle, [name])
    undo(bundle)  # 6 equals 4; 5 can no longer be reached
    assert prune(bundle, 3) == (4, 5)  # 6 is in force, undo reaches 3 and then 2
    assert bundle.generation_numbers() == (1, 2, 3, 6)
    assert prune(bundle, 9) == ()
    assert prune(bundle, 1) == (2, 3)
    assert bundle.generation_numbers() == (1, 6)
    assert Bundle.open(bundle.path).current().number == 6
    with pytest.raises(UsageError, match="E-PRUNE"):
        prune(bundle, 0)


def one(**changes) -> ClassTable:
    good = {"names": ("heron",), "seen": np.array([False]), "raw": np.ones((1, 6)), "attributes": ATTRIBUTES}
    return ClassTable(**{**good, **changes})


@pytest.mark.parametrize(
    ("table", "options", "code", "told"),
    [
        (one(names=("wren",)), {}, "E-CLASS-EXISTS", "'wren'"),
        (one(attributes=ATTRIBUTES[::-1]), {}, "E-ATTRIBUTES", "order"),
        (one(seen=np.array([True])), {}, "E-CLASSES-SPLIT", "unseen"),
        (one(raw=np.zeros((1, 6))), {}, "E-ATTRIBUTE-ZERO", "'heron'"),
        (one(raw=np.full((1, 6), -1.0)), {}, "E-ATTRIBUTE-ZERO", "'heron'"),
        (one(names=(), seen=np.zeros(0, dtype=bool), raw=np.zeros((0, 6))), {}, "E-CLASSES-EMPTY", "at least one"),
        (one(), {"fit": "fast"}, "E-FIT", "'fast'"),
        (one(), {"seed": -1}, "E-SEED", "-1"),
    ],
)
def test_what_cannot_be_added_is_refused_and_nothing_changes(bundle, table, options, code, told):
    with pytest.raises(UsageError) as caught:
        add_classes(bundle, table, **options)
    assert caught.value.code == code
    assert told in caught.value.message
    assert bundle.current().number == 1
    assert bundle.leftovers() == []


def test_what_cannot_be_removed_is_refused(bundle):
    with pytest.raises(UsageError, match="E-CLASS-UNKNOWN"):
        remove_classes(bundle, ["wren", "dodo"])
    for names in (class_table().names, []):
        with pytest.raises(UsageError, match="E-CLASSES-EMPTY"):
            remove_classes(bundle, names)
    assert bundle.current().number == 1
    remove_classes(bundle, class_table().names[:7])
    assert bundle.current().table.names == (UNSEEN[-1],)


ADD_FOR_EVER = """
import sys
import time
import numpy as np
from zsl_runtime.bundle import Bundle
from zsl_runtime.class_table import ClassTable
from zsl_runtime.generations import add_classes, prune, remove_classes, undo
bundle = Bundle.open(sys.argv[1])
table = ClassTable(("heron",), np.array([False]), np.array([[0, 7, 1, 1, 7, 1.0]]), bundle.attributes)
if "heron" in bundle.current().table.names:
    remove_classes(bundle, ["heron"])
def cycle():
    add_classes(bundle, table)
    undo(bundle)
    prune(bundle, 2)
cycle()
begin = time.perf_counter()
cycle()
print(time.perf_counter() - begin, flush=True)
while True:
    cycle()
"""


@pytest.mark.slow
def test_killed_at_random_moments_the_bundle_stays_usable(fitted):
    """Twenty-five writers, one after the other on the same bundle, each killed within the time of two of its cycles."""
    bundle = fitted
    rng = np.random.default_rng(0)
    numbers = [1]
    for _ in range(25):
        with subprocess.Popen(
            [sys.executable, "-c", ADD_FOR_EVER, bundle.path],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={"PYTHONPATH": str(ROOT / "runtime"), "OMP_NUM_THREADS": "1"},
        ) as writer:
            cycle_seconds = float(writer.stdout.readline() or writer.stderr.read())
            time.sleep(rng.uniform(0, 2 * cycle_seconds))
            writer.send_signal(signal.SIGKILL)
        again = Bundle.open(bundle.path)
        generation = again.current()
        assert generation.table.names in {class_table().names, (*class_table().names, "heron")}
        assert all(json.loads(line) for line in (bundle.path / "history.jsonl").read_text().splitlines())
        numbers.append(generation.number)
    assert numbers == sorted(numbers)
    assert numbers[-1] > 100  # each made two cycles of two changes before it was killed
    if "heron" in generation.table.names:
        remove_classes(again, ["heron"])
    assert add_classes(again, new_classes("heron", "cuckoo")).generation.number > numbers[-1]
    assert min(accuracy(again).values()) > 0.95
    assert not list(bundle.path.rglob(".tmp-*"))
