"""How far pictures are from the classes, whichever way they are labelled, against loops over the drawn bundle."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from support.tiny_bundle import canonical_of, class_table, draw_pictures, features_of, tiny_gaussian
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.classes.changes import teach_classes
from zsl_runtime.cli.classes import main as zsl_classes
from zsl_runtime.cli.infer import main as zsl_infer
from zsl_runtime.head.class_table import ClassTable
from zsl_runtime.head.gaussian import Evidence
from zsl_runtime.labelling.classifier import Classifier

TABLE = class_table()
LABELS = np.arange(24) % len(TABLE)
PICTURES = draw_pictures(TABLE, LABELS, 77)
STRANGE = np.random.default_rng(0).integers(0, 256, PICTURES[:6].shape, dtype=np.uint8)  # no colours of any class


def run(capsys, command, *words: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command."""
    code = command([str(word) for word in words])
    return code, *capsys.readouterr()


def distances_of(pictures: np.ndarray, bundle: Bundle) -> np.ndarray:
    """To the nearest posterior mean, one picture and one class at a time."""
    where = tiny_gaussian().posterior(bundle.current().means)
    rows = canonical_of(features_of(pictures)).astype(np.float64)
    return np.array([min(np.sqrt(np.mean((row - mean) ** 2)) for mean in where) for row in rows])


@pytest.fixture
def bundle(shared_bundle):
    return Bundle.open(shared_bundle(rule="gaussian"))


def test_predictions_say_how_far_they_are_and_what_is_strange_is_far(bundle):
    with Classifier.open(bundle, "ort", threads=1) as classifier:
        known = classifier.predict(list(PICTURES), batch_size=5)
        strange = classifier.predict(list(STRANGE))
    np.testing.assert_allclose([one.distance for one in known], distances_of(PICTURES, bundle), rtol=1e-5)
    np.testing.assert_allclose([one.distance for one in strange], distances_of(STRANGE, bundle), rtol=1e-5)
    beyond = bundle.gaussian().held[99]
    assert [one.far for one in known] == [one.distance > beyond for one in known]
    assert sum(one.far for one in known) <= 1
    assert all(one.far for one in strange)


@pytest.mark.parametrize("classes", ["all", "seen", "unseen", ["crow"]], ids=str)
def test_all_classes_count_whichever_compete(bundle, classes):
    with Classifier.open(bundle, "ort", threads=1) as classifier:
        found = classifier.predict(list(PICTURES), topk=1, classes=classes)
    np.testing.assert_allclose([one.distance for one in found], distances_of(PICTURES, bundle), rtol=1e-5)


def test_a_class_that_learns_comes_nearer_with_the_next_reload(own_bundle):
    bundle = Bundle.open(own_bundle(rule="gaussian"))
    with Classifier.open(bundle, "ort", threads=1) as classifier:
        (before,) = classifier.predict([STRANGE[0]])
        x = canonical_of(features_of(STRANGE[:1]))[0].astype(np.float64)
        teach_classes(bundle, {TABLE.names[-1]: Evidence(50, 50 * x)})
        assert classifier.predict([STRANGE[0]])[0].distance == before.distance
        classifier.reload()
        (after,) = classifier.predict([STRANGE[0]])
    assert after.distance < 1 < before.distance
    assert (before.far, after.far) == (True, False)


def test_an_older_bundle_tells_distances_and_not_what_is_far(shared_bundle, bundle):
    with Classifier.open(shared_bundle(rule="gaussian", held=False), "ort", threads=1) as classifier:
        found = classifier.predict(list(STRANGE))
    np.testing.assert_allclose([one.distance for one in found], distances_of(STRANGE, bundle), rtol=1e-5)
    assert {one.far for one in found} == {None}


@pytest.mark.parametrize("rule", ["fit", "rows"])
def test_other_heads_tell_neither(shared_bundle, rule):
    with Classifier.open(shared_bundle(rule=rule), "ort", threads=1) as classifier:
        found = classifier.predict(list(PICTURES[:2]))
        assert classifier.measure(classifier.snapshot(), np.zeros((1, 12), np.float32)) is None
    assert {(one.distance, one.far) for one in found} == {(None, None)}


def test_a_picture_that_cannot_be_read_is_at_no_distance(bundle):
    with Classifier.open(bundle, "ort", threads=1) as classifier:
        found = classifier.predict([PICTURES[0], b"none", PICTURES[1]], errors="skip")
    assert [one.distance is None for one in found] == [False, True, False]
    assert [one.far for one in found] == [False, None, False]


@pytest.mark.parametrize("backend", ["ort", "reference", "openvino"])
def test_every_backend_tells_the_same(bundle, backend):
    if backend == "openvino":
        pytest.importorskip("openvino")
    with Classifier.open(bundle, backend, threads=1) as classifier:
        found = classifier.predict([*PICTURES, *STRANGE])
    wanted = distances_of(np.concatenate([PICTURES, STRANGE]), bundle)
    np.testing.assert_allclose([one.distance for one in found], wanted, rtol=1e-5)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "photos").mkdir()
    for name, pictures in (("known", PICTURES[6:12]), ("strange", STRANGE)):
        for place, picture in enumerate(pictures):
            Image.fromarray(picture).save(tmp_path / "photos" / f"{name}{place}.png")
    return tmp_path / "photos"


def test_zsl_infer_tells_it_of_each_picture_and_counts_what_is_far(bundle, folder, capsys):
    code, out, err = run(capsys, zsl_infer, folder, "--engine", bundle.path, "--backend", "ort", "--format", "jsonl")
    assert code == 0
    lines = [json.loads(line) for line in out.splitlines()]
    wanted = distances_of(np.concatenate([PICTURES[6:12], STRANGE]), bundle)
    np.testing.assert_allclose([one["distance"] for one in lines], wanted, rtol=1e-3)
    assert [one["far"] for one in lines] == [False] * 6 + [True] * 6
    told = "unlike anything known, farther from every class than 99 % of held-out pictures: 6 of 12"
    assert told in err.splitlines()
    _, rows, _ = run(capsys, zsl_infer, folder, "--engine", bundle.path, "--backend", "ort", "--topk", 2)
    header, *rows = (line.split(",") for line in rows.splitlines())
    assert header[5:] == ["distance", "far"]
    told = [(str(one["distance"]), json.dumps(one["far"])) for one in lines for _ in range(2)]
    assert [tuple(row[5:]) for row in rows] == told
    _, _, err = run(capsys, zsl_infer, folder, "--engine", bundle.path, "--backend", "ort", "--quiet")
    assert "unlike" not in err


def test_nothing_is_counted_where_nobody_can_tell(shared_bundle, folder, capsys):
    path = shared_bundle(rule="gaussian", held=False)
    _, out, err = run(capsys, zsl_infer, folder, "--engine", path, "--backend", "ort", "--topk", 1)
    assert "unlike" not in err
    assert all(row.split(",")[5] and not row.split(",")[6] for row in out.splitlines()[1:])


def test_shares_put_together_say_the_same(bundle, folder, tmp_path, capsys):
    common = ["--engine", bundle.path, "--backend", "ort", "--topk", 1]
    _, whole, _ = run(capsys, zsl_infer, folder, *common)
    parts = [tmp_path / f"{k}.csv" for k in range(3)]
    for k, part in enumerate(parts):
        assert run(capsys, zsl_infer, folder, *common, "--shard", f"{k}/3", "--output", part)[0] == 0
    assert run(capsys, zsl_infer, "--merge", *parts, "--output", tmp_path / "all.csv")[0] == 0
    assert (tmp_path / "all.csv").read_text() == whole


# --- photographs that are said to show a class ----------------------------------------------------------------------

NEW = ClassTable(("dipper",), np.array([False]), np.array([[0, 6, 0, 6, 0, 1.0]]), TABLE.attributes)
WARNED = (
    "3 of 4 photographs of class {!r} are unlike anything known, the class itself included (farther from every class "
    "than 99 % of held-out photographs); see whether they show it: {}"
)


def of_new(count: int) -> list[np.ndarray]:
    return list(draw_pictures(NEW, np.zeros(count, np.int64), 5))


def test_photographs_of_a_new_class_that_are_unlike_anything_known_are_told(own_bundle):
    with Classifier.open(own_bundle(rule="gaussian"), "ort", threads=1) as classifier:
        assert all(one.far for one in classifier.predict(of_new(4)))  # nothing known is near, and yet nothing is told:
        change = classifier.add(NEW, {"dipper": of_new(4)})
        assert not [note for note in change.notes if "unlike" in note]
        classifier.undo()
        change = classifier.add(NEW, {"dipper": [STRANGE[0], *of_new(1), *STRANGE[1:3]]})
    places = ", ".join(f"photograph {k} of class 'dipper'" for k in (0, 2, 3))
    assert WARNED.format("dipper", places) in change.notes


def test_photographs_that_teach_and_are_unlike_anything_known_are_told(own_bundle):
    known = PICTURES[6:12]
    labels = [TABLE.names[int(j)] for j in LABELS[6:12]]
    with Classifier.open(own_bundle(rule="gaussian"), "ort", threads=1) as classifier:
        change = classifier.teach({name: [picture] for name, picture in zip(labels, known, strict=True)})
        assert not [note for note in change.notes if "unlike" in note]
        change = classifier.teach({"crow": [STRANGE[0]]})
    (note,) = change.notes
    assert note.startswith("1 of 1 photograph of class 'crow' is unlike anything known")


def test_an_older_bundle_warns_of_nothing(own_bundle):
    with Classifier.open(own_bundle(rule="gaussian", held=False), "ort", threads=1) as classifier:
        assert classifier.teach({"crow": [STRANGE[0]]}).notes == ()


def test_zsl_classes_warns_and_does_it_all_the_same(own_bundle, tmp_path, capsys):
    path = own_bundle(rule="gaussian")
    (tmp_path / "new.csv").write_text(
        f"name,{','.join(TABLE.attributes)}\ndipper,{','.join(map(str, NEW.raw[0]))}\n", encoding="utf-8"
    )
    for name in ("dipper", "crow"):
        (tmp_path / name / name).mkdir(parents=True)
        mixed = [*STRANGE[:5], PICTURES[9]] if name == "crow" else [*STRANGE[:3], *of_new(1)]
        for place, picture in enumerate(mixed):
            Image.fromarray(picture).save(tmp_path / name / name / f"{place}.png")
    common = ["--engine", path, "--backend", "ort", "--photos"]
    code, out, err = run(capsys, zsl_classes, "add", *common, tmp_path / "dipper", "--attributes", tmp_path / "new.csv")
    assert code == 0
    named = ", ".join(repr(str(tmp_path / "dipper" / "dipper" / f"{k}.png")) for k in range(3))
    assert "warning: " + WARNED.format("dipper", named) in err.splitlines()
    assert err.splitlines()[-1].endswith("above; zsl-classes undo takes the change back")
    assert "generation 2: 9 classes" in out
    code, out, err = run(capsys, zsl_classes, "teach", *common, tmp_path / "crow")
    assert code == 0
    assert "5 of 6 photographs of class 'crow' are unlike anything known" in err
    assert f"see whether they show it: '{tmp_path / 'crow' / 'crow' / '0.png'}'" in err
    assert "2.png' and 2 more" in err
