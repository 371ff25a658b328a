"""What zsl-eval says of distances, against scikit-learn and counts by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.metrics import roc_auc_score

from support.tiny_bundle import as_regions, class_table, draw_pictures
from zsl_runtime.accuracy import auroc
from zsl_runtime.cli.evaluate import main
from zsl_runtime.labelling.classifier import Classifier
from zsl_runtime.labelling.evaluation import evaluate
from zsl_runtime.labelling.how_far import Group, HowFar, Looks, how_far

TABLE = class_table()
LABELS = np.arange(16) % len(TABLE)
PICTURES = draw_pictures(TABLE, LABELS, 9)
STRANGE = np.random.default_rng(3).integers(0, 256, PICTURES[:5].shape, dtype=np.uint8)
numbers = st.lists(st.integers(0, 9).map(float), min_size=1, max_size=20)


@given(numbers, numbers)
def test_the_area_is_that_of_scikit_learn(higher, lower):
    truth = np.repeat([1, 0], [len(higher), len(lower)])
    assert auroc(np.array(higher), np.array(lower)) == pytest.approx(roc_auc_score(truth, higher + lower))


def test_without_either_there_is_no_area():
    assert auroc(np.empty(0), np.ones(2)) is auroc(np.ones(2), np.empty(0)) is None


def looks(*distances: float, probability: float = 0.9) -> Looks:
    return Looks(np.array(distances), np.full(len(distances), probability))


def test_kinds_of_photographs_are_counted_apart():
    seen = np.array([True, True, True, False])
    found = how_far(looks(1, 2, 6, 4), seen, looks(3, 7, probability=0.5), 5.0)
    assert found == HowFar(5.0, Group(3, 2.0, 1), Group(1, 4.0, 0), Group(2, 5.0, 1), 6 / 8, 1.0)
    assert how_far(looks(1, 2), seen[:2], None, None) == HowFar(None, Group(2, 1.5, None), None, None)


def test_a_head_that_tells_no_distances_has_probabilities_alone():
    silent = Looks(np.full(2, np.nan), np.array([0.9, 0.4]))
    assert how_far(silent, np.ones(2, bool), None, None) is None
    strange = Looks(np.full(1, np.nan), np.array([0.5]))
    assert how_far(silent, np.ones(2, bool), strange, None) == HowFar(None, None, None, None, None, 0.5)


@pytest.fixture
def places(tmp_path):
    """Class folders, and a folder of what is no class, one file of which is no picture."""
    for place, (picture, label) in enumerate(zip(PICTURES, LABELS, strict=True)):
        (tmp_path / "birds" / TABLE.names[label]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(tmp_path / "birds" / TABLE.names[label] / f"{place}.png")
    (tmp_path / "odd" / "deep").mkdir(parents=True)
    for place, picture in enumerate(STRANGE):
        Image.fromarray(picture).save(tmp_path / "odd" / "deep" / f"{place}.png")
    return tmp_path / "birds", tmp_path / "odd"


def run(capsys, *words: object) -> tuple[int, str, str]:
    code = main([*map(str, words), "--backend", "ort", "--threads", "1"])
    return code, *capsys.readouterr()


def test_the_command_says_it_of_each_kind(shared_bundle, places, capsys):
    bundle = shared_bundle(rule="gaussian")
    (places[1] / "none.png").write_bytes(b"no picture")
    code, out, err = run(capsys, bundle, places[0], "--unknown", places[1], "--format", "json", "--batch-size", 3)
    assert code == 6
    found = json.loads(out)
    with Classifier.open(bundle, "ort", threads=1) as classifier:
        known, strange = classifier.predict(list(PICTURES)), classifier.predict(list(STRANGE))
        beyond = classifier.snapshot().distances.beyond
    told = found["distances"]
    assert told["beyond"] == beyond
    for name, chosen in (("seen", TABLE.seen[LABELS]), ("unseen", ~TABLE.seen[LABELS])):
        own = [one for one, is_one in zip(known, chosen, strict=True) if is_one]
        assert told[name]["photographs"] == len(own)
        assert told[name]["median"] == pytest.approx(np.median([one.distance for one in own]))
        assert told[name]["far"] == sum(one.far for one in own)
    assert told["unknown"]["photographs"] == told["unknown"]["far"] == 5
    truth = np.repeat([0, 1], [16, 5])
    for key, values in (
        ("by_distance", [one.distance for one in known + strange]),
        ("by_probability", [-one.probabilities[0] for one in known + strange]),
    ):
        assert told[key] == pytest.approx(roc_auc_score(truth, values))
    assert [one["code"] for one in found["unreadable"]] == ["E-IMAGE-FORMAT"]
    assert err.count("error: E-IMAGE-FORMAT") == 1
    assert "looked at 21 of 22 photographs" in err
    _, plain, _ = run(capsys, bundle, places[0], "--format", "json")
    plain = json.loads(plain)
    assert {**plain["distances"], "unknown": told["unknown"]} == {**told, "by_distance": None, "by_probability": None}
    assert plain["figures"] == found["figures"]


def test_the_report_says_it_in_words(shared_bundle, places, capsys):
    lines = run(capsys, shared_bundle(rule="gaussian"), places[0], "--unknown", places[1])[1].splitlines()
    start = lines.index("distance   median  unlike anything known")
    assert [line.split()[0] for line in lines[start + 1 : start + 4]] == ["seen", "unseen", "unknown"]
    assert lines[start + 1].endswith("  0 of 10 (0.0%)")
    assert lines[start + 3].endswith("  5 of 5 (100.0%)")
    assert lines[start + 4].startswith("distance: in standard deviations, to the nearest class; unlike anything known:")
    assert lines[start + 6].startswith("unknown ones told from the others (AUROC; 0.5 is chance): 1.000 by distance, ")
    old = run(capsys, shared_bundle(rule="gaussian", held=False), places[0])[1].splitlines()
    start = old.index("distance   median  unlike anything known")
    assert old[start + 1].endswith("  not known of the 10 in this bundle")
    assert old[start + 3] == "distance: in standard deviations, to the nearest class"
    other = run(capsys, shared_bundle(rule="rows"), places[0])[1]
    assert "distance" not in other
    other = run(capsys, shared_bundle(rule="rows"), places[0], "--unknown", places[1])[1]
    assert "unknown ones told from the others (AUROC; 0.5 is chance): " in other
    assert "by distance" not in other


def test_an_unknown_photograph_that_cannot_be_read_is_not_laid_at_the_door_of_the_truth(shared_bundle, places, capsys):
    (places[1] / "bad.png").write_bytes(b"none")
    code, out, _ = run(capsys, shared_bundle(rule="gaussian"), places[0], "--unknown", places[1])
    assert code == 6
    assert "; 1 could not be read, of these or of the unknown ones\n" in out
    name = next(one for one in places[0].iterdir() if one.is_dir() and any(one.iterdir()))
    (name / "bad.png").write_bytes(b"none")
    assert "; 1 could not be read\n" in run(capsys, shared_bundle(rule="gaussian"), places[0], "--known-only")[1]


def test_unknown_photographs_that_are_none_are_an_error(shared_bundle, places, capsys, tmp_path):
    bundle = shared_bundle(rule="gaussian")
    code, out, err = run(capsys, bundle, places[0], "--unknown", tmp_path / "nowhere")
    assert (code, out) == (2, "")
    assert "nowhere" in err
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_bytes(b"none")
    code, out, err = run(capsys, bundle, places[0], "--unknown", tmp_path / "bad")
    assert (code, out) == (2, "")
    assert "error: E-PHOTOS-EMPTY: none of 1 unknown photographs can be read; the first one: E-IMAGE-FORMAT" in err


def test_rows_of_features_may_be_unknown_as_well(shared_bundle, tmp_path, capsys):
    bundle = shared_bundle(kind="backbone_features", rule="gaussian")
    for name, picture in (("birds/crow", PICTURES[:1]), ("birds/gull", PICTURES[1:2]), ("odd", STRANGE)):
        (tmp_path / name).mkdir(parents=True)
        np.save(tmp_path / name / "rows.npy", as_regions(picture).reshape(len(picture), 4, 3))
    code, out, _ = run(capsys, bundle, tmp_path / "birds", "--unknown", tmp_path / "odd", "--format", "json")
    assert code == 0
    assert json.loads(out)["distances"]["unknown"]["far"] == 5


def test_from_python(shared_bundle):
    with Classifier.open(shared_bundle(rule="gaussian"), "ort", threads=1) as classifier:
        pairs = [(picture, TABLE.names[label]) for picture, label in zip(PICTURES, LABELS, strict=True)]
        found = evaluate(classifier, pairs).distances
    assert (found.seen.photographs, found.unseen.photographs, found.unknown) == (10, 6, None)
