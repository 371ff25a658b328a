"""Changing classes: what a new class gets, what the others keep, and how every step goes back."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

from support.tiny_bundle import (
    ATTRIBUTES,
    RULE,
    SEED,
    UNSEEN,
    canonical_of,
    class_table,
    draw_pictures,
    features_of,
    fit_tiny,
    lift_of,
    means_of,
    rows_of,
    tiny_gaussian,
)
from zsl_runtime.backends.ort import OrtBackend
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.bundle.generation import Generation
from zsl_runtime.classes.changes import (
    add_classes,
    fit_epochs,
    list_classes,
    prune,
    refit,
    remove_classes,
    teach_classes,
    undo,
)
from zsl_runtime.errors import ArtefactError, UsageError
from zsl_runtime.head.class_table import ClassTable
from zsl_runtime.head.gaussian import MOST_PHOTOGRAPHS, ClassMeans, Evidence
from zsl_runtime.head.head import RULES, fold

NEW = {"heron": [0, 7, 1, 1, 7, 1], "cuckoo": [5, 0, 5, 0, 0, 5]}


@pytest.fixture(params=RULES)
def bundle(request, own_bundle) -> Bundle:
    """A bundle of each rule of the head."""
    return Bundle.open(own_bundle(rule=request.param))


@pytest.fixture
def fitted(own_bundle) -> Bundle:
    return Bundle.open(own_bundle("fitted", rule="fit"))


@pytest.fixture
def computed(own_bundle) -> Bundle:
    """A bundle whose head's rows come from attributes."""
    return Bundle.open(own_bundle("computed", rule="rows"))


@pytest.fixture
def gaussian(own_bundle) -> Bundle:
    """A bundle in which every class is a mean."""
    return Bundle.open(own_bundle("gaussian", rule="gaussian"))


def new_classes(*names: str) -> ClassTable:
    raw = np.array([NEW[name] for name in names], dtype=np.float64)
    return ClassTable(names, np.zeros(len(names), dtype=bool), raw, ATTRIBUTES)


def accuracy(bundle: Bundle) -> dict[str, float]:
    """Class name -> share of drawn pictures of it that the bundle's head recognises, computed without any graph."""
    generation = bundle.current()
    labels = np.repeat(np.arange(len(generation.table)), 50)
    features = features_of(draw_pictures(generation.table, labels, seed=99))
    x = canonical_of(features) if bundle.head_rule == "gaussian" else lift_of(features)
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


def test_added_classes_are_recognised_on_pictures_and_the_others_still_are(bundle):
    before = accuracy(bundle)
    change = add_classes(bundle, new_classes("heron", "cuckoo"))
    after = accuracy(bundle)
    assert list(after) == [*class_table().names, "heron", "cuckoo"]
    assert min(after.values()) > 0.95
    assert all(after[name] >= before[name] - 0.03 for name in before)
    generation = bundle.current()
    assert change.generation.number == generation.number == 2
    assert (generation.parent, generation.action, generation.seed) == (1, "add", SEED)
    assert generation.table.seen.tolist() == [True] * 5 + [False] * 5
    np.testing.assert_array_equal(generation.table.raw[8:], [NEW["heron"], NEW["cuckoo"]])


@pytest.mark.parametrize("rule", ["rows", "gaussian"])
def test_the_old_rows_stay_as_they_were_bit_for_bit(own_bundle, rule):
    bundle = Bundle.open(own_bundle(rule=rule))
    old = bundle.current()
    add_classes(bundle, new_classes("heron"))
    assert heads_equal(bundle.current().head.take(np.arange(8)), old.head)
    remove_classes(bundle, ["heron"])
    assert tensors(bundle.current()) == tensors(old)


def tensors(generation) -> list[bytes]:
    """Every array of a generation, bit for bit."""
    means = generation.means
    arrays = [generation.table.raw, generation.table.seen, *generation.head.weights, *generation.head.biases]
    return [
        array.tobytes() for array in (*arrays, *(() if means is None else (means.prior, means.counts, means.totals)))
    ]


@pytest.mark.parametrize("rule", ["fit", "rows"])
def test_adding_gives_the_head_that_training_with_the_class_would_have_given(own_bundle, rule):
    """Same seed and class name, same synthetic features: the reference is fitted without any graph, from the start."""
    bundle = Bundle.open(own_bundle(rule=rule))
    add_classes(bundle, new_classes("heron", "cuckoo"))
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
    assert moved > 0.01 if bundle.head_rule == "fit" else moved < 1e-4
    assert bundle.current().seed == SEED + 1
    assert min(accuracy(bundle).values()) > 0.95


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kind", ["images", "backbone_features"])
@pytest.mark.parametrize("lift", [True, False])
def test_every_kind_of_bundle_takes_classes(own_bundle, kind, lift, rule):
    bundle = Bundle.open(own_bundle(kind=kind, lift=lift, rule=rule))
    change = add_classes(bundle, new_classes("heron"))
    assert set(change.neighbours) == ({"heron"} if rule == "gaussian" else set())
    generation = bundle.current()
    x = features_of(draw_pictures(generation.table, np.full(20, 8), seed=4))
    lifted = lift_of(x) if lift else x
    scores = fold(generation.head, generation.table.seen).scores(canonical_of(x) if rule == "gaussian" else lifted)
    assert (scores.argmax(axis=1) == 8).mean() > 0.9


def test_adding_loads_neither_the_model_graph_nor_the_probe(bundle):
    for name in ("model.onnx", "probe.safetensors"):
        (bundle.path / name).unlink()
    assert add_classes(bundle, new_classes("heron")).generation.number == 2
    assert accuracy(bundle)["heron"] > 0.95


def test_a_computed_row_is_that_of_the_definition_and_nothing_is_fitted_or_drawn(computed):
    ticks = []
    change = add_classes(computed, new_classes("heron", "cuckoo"), seed=3, advance=ticks.append)
    head = computed.current().head
    weight, bias = rows_of(RULE.apply(new_classes("heron", "cuckoo").raw), lift=True)
    np.testing.assert_allclose(head.weights[0][8:], weight, atol=1e-4)
    np.testing.assert_allclose(head.biases[0][8:], bias, atol=1e-4)
    assert (change.neighbours, ticks, fit_epochs(computed)) == ({}, [], 0)
    undo(computed)
    add_classes(computed, new_classes("heron", "cuckoo"), seed=4)
    assert heads_equal(head, computed.current().head)


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


def test_the_history_tells_what_was_done(bundle):
    add_classes(bundle, new_classes("heron"), seed=3)
    add_classes(bundle, new_classes("cuckoo"))
    remove_classes(bundle, ["wren", "robin"])
    undo(bundle)
    entries, damaged = bundle.history()
    assert damaged == []
    assert [entry["action"] for entry in entries] == ["export", "add", "add", "remove", "undo"]
    assert [entry["names"] for entry in entries[1:]] == [["heron"], ["cuckoo"], ["wren", "robin"], ["robin", "wren"]]
    assert [entry.get("rule") for entry in entries] == [None, *[bundle.head_rule] * 4]
    assert [entry["seed"] for entry in entries] == [SEED, 3, SEED, SEED, SEED]
    assert all(0 <= entry["seconds"] < 60 for entry in entries[1:])
    assert entries[4]["equals"] == 3


def test_rows_that_an_older_version_kept_go_with_the_next_change(fitted):
    folder = fitted.path / "cache"
    folder.mkdir()
    (folder / "rows.bin").write_bytes(b"x")
    remove_classes(fitted, ["wren"])
    assert folder.is_dir()  # somebody else's
    (folder / "rows.json").write_bytes(b"{}")
    assert fitted.leftovers() == [folder]
    remove_classes(fitted, ["tit"])
    assert not folder.exists()


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
    add_classes(bundle, ClassTable(("robin",), np.array([False]), raw, ATTRIBUTES))
    assert list_classes(bundle)[-1] == ("robin", "unseen", 7, 0 if bundle.head_rule == "gaussian" else None)
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
        (one(raw=np.full((1, 6), np.inf)), {}, "E-ATTRIBUTE-VALUE", "'heron'"),
        (one(raw=np.full((1, 6), np.nan)), {}, "E-ATTRIBUTE-VALUE", "'heron'"),
        (one(names=(), seen=np.zeros(0, dtype=bool), raw=np.zeros((0, 6))), {}, "E-CLASSES-EMPTY", "at least one"),
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


# --- photographs ----------------------------------------------------------------------------------------------------


def evidence(name: str, count: int, seed: int = 3) -> dict[str, Evidence]:
    """What `count` drawn pictures of a class say, in float64."""
    table = class_table().append(new_classes(*NEW))
    x = canonical_of(features_of(draw_pictures(table, np.full(count, table.index(name)), seed)))
    return {name: Evidence(count, x.sum(axis=0, dtype=np.float64))}


def test_a_new_class_lies_where_attributes_and_photographs_together_say(gaussian):
    said = evidence("heron", 3)
    change = add_classes(gaussian, new_classes("heron", "cuckoo"), photographs=said)
    generation = gaussian.current()
    assert generation.means.counts.tolist() == [40] * 5 + [0] * 3 + [3, 0]
    assert change.photographs == {"heron": 3}
    np.testing.assert_array_equal(generation.means.totals[-1], said["heron"].total)
    prior = means_of(RULE.apply(new_classes("heron", "cuckoo").raw)).astype(np.float64)
    d, s = tiny_gaussian().variance, tiny_gaussian().scale
    mean = prior.copy()
    mean[0] += d / (d + 1 / 3) * (said["heron"].total / 3 - prior[0])
    np.testing.assert_allclose(generation.head.weights[0][8:], s * mean, atol=1e-4)
    np.testing.assert_allclose(generation.head.biases[0][8:], -0.5 * (s * mean * mean).sum(axis=1), rtol=1e-5)
    assert gaussian.history()[0][-1]["photographs"] == {"heron": 3}


def test_teaching_moves_the_taught_rows_alone_and_is_undone_to_the_bit(gaussian):
    old = gaussian.current()
    change = teach_classes(gaussian, evidence("wren", 5) | evidence("tit", 2))
    new = gaussian.current()
    assert (change.names, change.photographs) == (("tit", "wren"), {"wren": 5, "tit": 42})
    assert set(change.neighbours) == {"tit", "wren"}
    assert (new.action, new.seed, new.parent) == ("teach", old.seed, 1)
    moved = [j for j in range(8) if not heads_equal(new.head.take(np.array([j])), old.head.take(np.array([j])))]
    assert moved == [1, 5]
    assert [row.photographs for row in list_classes(gaussian)] == [40, 42, 40, 40, 40, 5, 0, 0]
    assert gaussian.history()[0][-1]["photographs"] == {"wren": 5, "tit": 2}
    back = undo(gaussian)
    assert (back.names, back.photographs) == (("tit", "wren"), {"tit": 40, "wren": 0})
    assert tensors(gaussian.current()) == tensors(old)


def test_photographs_may_come_in_portions_and_before_or_after_others(gaussian):
    first, second = evidence("wren", 3, seed=1)["wren"], evidence("wren", 4, seed=2)["wren"]
    heads = []
    for portions in ([first, second], [second, first], [Evidence(7, first.total + second.total)]):
        for number, portion in enumerate(portions):
            teach_classes(gaussian, {"wren": portion})
            if number == 0:
                teach_classes(gaussian, evidence("crow", 2))
        assert gaussian.current().means.counts[5] == 7
        heads.append(gaussian.current().head)
        for _ in range(len(portions) + 1):
            undo(gaussian)
    assert heads_equal(heads[0], heads[1])
    assert heads_equal(heads[0], heads[2])


def test_a_class_with_photographs_may_go_and_takes_nobody_else_s_along(gaussian):
    teach_classes(gaussian, evidence("wren", 5))
    before = gaussian.current()
    remove_classes(gaussian, ["tit"])
    kept = np.array([0, 2, 3, 4, 5, 6, 7])
    after = gaussian.current()
    assert after.means.counts.tolist() == [40, 40, 40, 40, 5, 0, 0]
    np.testing.assert_array_equal(after.means.totals, before.means.totals[[0, 2, 3, 4, 5]])
    assert heads_equal(after.head, before.head.take(kept))
    refit(gaussian)
    assert heads_close(gaussian.current().head, after.head)  # photographs are counted in a head made from the start


def heads_close(first, second) -> bool:
    pairs = zip((*first.weights, *first.biases), (*second.weights, *second.biases), strict=True)
    return all(np.allclose(a, b, rtol=1e-4, atol=1e-3) for a, b in pairs)


@pytest.mark.parametrize(
    ("photographs", "code", "told"),
    [
        ({}, "E-CLASSES-EMPTY", "nothing to learn"),
        (
            {"wrenn": Evidence(1, np.zeros(10))},
            "E-CLASS-UNKNOWN",
            "photographs of 'wrenn' (did you mean wren?), and no class of that name is in the model (add it",
        ),
        ({"wren": Evidence(0, np.zeros(10))}, "E-EVIDENCE", "at least 1"),
        ({"wren": Evidence(-1, np.zeros(10))}, "E-EVIDENCE", "-1 photographs"),
        ({"wren": Evidence(1.5, np.zeros(10))}, "E-EVIDENCE", "1.5 photographs"),
        ({"wren": Evidence(1, np.zeros(9))}, "E-EVIDENCE", "shape (9,)"),
        ({"wren": Evidence(1, np.full(10, np.nan))}, "E-EVIDENCE", "10 finite numbers"),
        ({"wren": Evidence(1, np.full(10, 1e300))}, "E-EVIDENCE", "6.7e+299 away"),
        ({"tit": Evidence(MOST_PHOTOGRAPHS, np.zeros(10))}, "E-EVIDENCE", f"no more than {MOST_PHOTOGRAPHS}"),
        ({"tit": Evidence(2**70, np.zeros(10))}, "E-EVIDENCE", f"no more than {MOST_PHOTOGRAPHS}"),
    ],
)
def test_what_says_nothing_that_can_be_is_refused_and_nothing_changes(gaussian, photographs, code, told):
    with pytest.raises(UsageError) as caught:
        teach_classes(gaussian, photographs)
    assert caught.value.code == code
    assert told in caught.value.message
    if code == "E-EVIDENCE" and "wren" in photographs:
        with pytest.raises(UsageError, match="E-EVIDENCE"):
            add_classes(gaussian, new_classes("heron"), photographs={"heron": photographs["wren"]})
    assert gaussian.current().number == 1
    assert gaussian.leftovers() == []


def test_sums_that_overflow_together_are_refused(gaussian):
    huge = Evidence(MOST_PHOTOGRAPHS // 4, np.full(10, 1.5e308))
    means = gaussian.current().means.taught({5: huge})
    with pytest.raises(UsageError, match="E-EVIDENCE"):
        means.taught({5: huge})


@pytest.mark.parametrize("rule", ["fit", "rows"])
def test_a_bundle_without_statistics_says_what_to_do_instead(own_bundle, rule):
    bundle = Bundle.open(own_bundle(rule=rule))
    for action in (
        lambda: teach_classes(bundle, evidence("wren", 1)),
        lambda: add_classes(bundle, new_classes("heron"), photographs=evidence("heron", 1)),
    ):
        with pytest.raises(UsageError, match=r"E-HEAD-RULE: .* holds no statistics .* train it again"):
            action()
    assert bundle.current().number == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda m: {"counts": np.where(m.counts == 40, -1, m.counts)},
        lambda m: {"counts": np.where(np.arange(8) == 0, MOST_PHOTOGRAPHS + 1, m.counts)},
        lambda m: {"counts": np.zeros(8, np.int64)},
        lambda m: {"counts": m.counts.astype(np.int32)},
        lambda m: {"counts": m.counts[:7]},
        lambda m: {"totals": m.totals[1:]},
        lambda m: {"totals": m.totals[:, 1:]},
        lambda m: {"totals": m.totals * np.nan},
        lambda m: {"totals": m.totals.astype(np.float32)},
        lambda m: {"prior": m.prior * np.float32(np.inf)},
        lambda m: {"prior": m.prior[:, :9]},
        lambda m: {"prior": m.prior[:7]},
        lambda m: {"prior": m.prior.astype(np.float64)},
    ],
)
def test_a_generation_whose_means_are_none_is_refused(gaussian, change):
    """Whoever wrote it, its hash fits: `to_bytes` of means that nobody checked."""
    generation = gaussian.current()
    means = {name: getattr(generation.means, name) for name in ("prior", "counts", "totals")} | change(generation.means)
    for name, value in means.items():
        object.__setattr__(generation.means, name, value)
    with pytest.raises(ArtefactError, match="E-BUNDLE-GENERATION") as caught:
        Generation.from_bytes(generation.to_bytes(), gaussian.views, where="x.safetensors")
    assert "\n" not in str(caught.value)


def test_means_are_of_bundles_of_means_alone(own_bundle, gaussian):
    """A generation of another rule in this bundle, and the other way round."""
    digest = hashlib.sha256
    plain = replace(gaussian.current(), means=None).to_bytes()
    gaussian.generation_path(1).write_bytes(plain)
    with pytest.raises(ArtefactError, match="E-BUNDLE-GENERATION"):
        gaussian.generation(1, digest(plain).hexdigest())
    other = Bundle.open(own_bundle("rows", rule="rows"))
    means = ClassMeans.without_photographs(np.zeros((8, other.views[0].stop), np.float32))
    whole = replace(other.current(), means=means).to_bytes()
    other.generation_path(1).write_bytes(whole)
    with pytest.raises(ArtefactError, match="E-BUNDLE-GENERATION"):
        other.generation(1, digest(whole).hexdigest())


TEACH_FOR_EVER = """
import sys
import time
import numpy as np
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.head.gaussian import Evidence
from zsl_runtime.classes.changes import prune, teach_classes
bundle = Bundle.open(sys.argv[1])
def cycle():
    teach_classes(bundle, {"wren": Evidence(1, np.full(10, 2.0)), "tit": Evidence(2, np.full(10, 3.0))})
    prune(bundle, 2)
cycle()
begin = time.perf_counter()
cycle()
print(time.perf_counter() - begin, flush=True)
while True:
    cycle()
"""


@pytest.mark.slow
def test_a_teacher_killed_at_random_moments_has_taught_a_lesson_wholly_or_not_at_all(gaussian):
    rng = np.random.default_rng(0)
    start = gaussian.current().means
    for _ in range(15):
        with subprocess.Popen(
            [sys.executable, "-c", TEACH_FOR_EVER, gaussian.path],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={"OMP_NUM_THREADS": "1"},
        ) as teacher:
            cycle_seconds = float(teacher.stdout.readline() or teacher.stderr.read())
            time.sleep(rng.uniform(0, 2 * cycle_seconds))
            teacher.send_signal(signal.SIGKILL)
        means = Bundle.open(gaussian.path).current().means
        lessons = int(means.counts[5])
        assert lessons >= 2
        assert means.counts[1] == 40 + 2 * lessons
        np.testing.assert_array_equal(means.totals[5], np.full(10, 2.0 * lessons))
        np.testing.assert_allclose(means.totals[1], start.totals[1] + 3.0 * lessons)
    teach_classes(gaussian, {"wren": Evidence(1, np.zeros(10))})
    assert gaussian.current().means.counts[5] == lessons + 1
    assert not list(gaussian.path.rglob(".tmp-*"))


ADD_FOR_EVER = """
import sys
import time
import numpy as np
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.head.class_table import ClassTable
from zsl_runtime.classes.changes import add_classes, prune, remove_classes, undo
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
            env={"OMP_NUM_THREADS": "1"},
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
