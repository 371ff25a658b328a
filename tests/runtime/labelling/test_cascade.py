"""The cascade: which pictures are confident, what they teach, what is written, and what is left behind."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from scipy.special import log_softmax as scipy_log_softmax
from scipy.stats import entropy as scipy_entropy

from support.softmax import naive_fit
from support.tiny_bundle import (
    ATTRIBUTES,
    NOISE,
    PER_CLASS,
    RULE,
    SEEN,
    UNSEEN,
    as_regions,
    class_table,
    colour_matrix,
    draw_pictures,
    features_of,
    lift_of,
    synthesize_of,
    tiny_replay,
)
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.bundle.generation import Generation
from zsl_runtime.classes.changes import add_classes
from zsl_runtime.cli.infer import main
from zsl_runtime.errors import ArtefactError, InputError, SystemProblem, UsageError
from zsl_runtime.head.class_table import ClassTable
from zsl_runtime.head.fitting import class_noise
from zsl_runtime.head.head import FitSettings, Head, View, fold
from zsl_runtime.labelling.cascade import Cascade, confident_part, entropy
from zsl_runtime.labelling.classifier import CONFIDENT, Classifier
from zsl_runtime.labelling.snapshot import Scored, Snapshot

TABLE = class_table()
PICTURES = draw_pictures(TABLE, np.arange(8), seed=21)
PROGRAM = [sys.executable, "-c", "import sys; from zsl_runtime.cli.infer import main; sys.exit(main())"]


@pytest.fixture(scope="module")
def path(shared_bundle) -> Path:
    return shared_bundle()


@pytest.fixture(scope="module")
def row_path(shared_bundle) -> Path:
    return shared_bundle(kind="backbone_features", lift=False)


@pytest.fixture(scope="module")
def classifier(path):
    with Classifier.open(path, threads=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def rows(row_path):
    with Classifier.open(row_path, threads=1) as opened:
        yield opened


@pytest.fixture
def infer(capfdbinary):
    """Run the command in this process: (exit code, stdout, stderr lines)."""

    def run(*arguments: object) -> tuple[int, str, list[str]]:
        code = main([str(argument) for argument in arguments])
        captured = capfdbinary.readouterr()
        return code, captured.out.decode(), captured.err.decode().splitlines()

    return run


def blurred_pictures(count: int, seed: int) -> np.ndarray:
    """Pictures of all classes in turn, mixed with grey by different amounts: some are harder than others."""
    labels = np.arange(count) % len(TABLE)
    rng = np.random.default_rng(seed)
    share = rng.uniform(0, 0.75, (count, 1, 1, 1))
    return np.rint((1 - share) * draw_pictures(TABLE, labels, seed) + share * 90).astype(np.uint8)


def marked_rows(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Region features (720, 4, 3) of pictures that look other than the synthesized ones, and their labels.

    Photographs of neighbouring classes differ along a direction that no attribute describes. Half of each class are
    clear; the others lie a little beyond the border to the neighbour, and only that direction tells what they are.
    """
    centres = RULE.apply(TABLE.raw) @ colour_matrix()
    pattern = np.where(np.arange(centres.shape[1]) % 3, 1.0, -1.0)
    direction = pattern - np.linalg.pinv(centres, rcond=1e-4) @ (centres @ pattern)
    direction *= 0.6 / np.linalg.norm(direction)
    np.testing.assert_allclose(centres @ direction, 0, atol=1e-6)
    labels = np.repeat(np.arange(len(TABLE)), 90)
    neighbour = labels ^ 1
    hard = np.where(np.arange(len(labels)) % 2, 0.52, 0.0)[:, None]
    x = centres[labels] + hard * (centres[neighbour] - centres[labels])
    x = x + np.where(labels % 2, 1, -1)[:, None] * direction
    x = x + 0.02 * np.random.default_rng(seed).standard_normal(x.shape)
    return x.astype(np.float32).reshape(-1, 4, 3), labels


def hashes(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


# --- confidence -----------------------------------------------------------------------------------------------------


@given(
    arrays(np.float64, st.tuples(st.integers(1, 5), st.integers(1, 7)), elements=st.floats(-40, 40)),
    st.integers(0, 2**32 - 1),
)
def test_entropy_is_that_of_the_probabilities(logits, seed):
    out = np.random.default_rng(seed).random(logits.shape) < 0.3
    out[:, 0] = False
    scores = scipy_log_softmax(np.where(out, -np.inf, logits), axis=1).astype(np.float32)
    np.testing.assert_allclose(entropy(scores), scipy_entropy(np.exp(scores.astype(np.float64)), axis=1), atol=1e-6)
    assert (entropy(scores) >= 0).all()


def test_entropy_of_known_distributions():
    with np.errstate(divide="ignore"):
        scores = np.log(np.array([[1, 0, 0, 0], [0.25] * 4, [0.5, 0.5, 0, 0]], dtype=np.float32))
    np.testing.assert_allclose(entropy(scores), [0, np.log(4), np.log(2)], atol=1e-7)
    assert not np.signbit(entropy(scores)).any()


@given(st.lists(st.sampled_from([0.0, 0.1, 0.5, 2.0]) | st.floats(0, 5), max_size=60), st.floats(0, 1))
def test_the_confident_are_the_share_of_lowest_entropy(values, share):
    entropies = np.array(values, dtype=np.float64)
    chosen = confident_part(entropies, share)
    assert chosen.shape == entropies.shape
    assert abs(chosen.sum() - share * len(values)) < 1 + 1e-6
    assert chosen.sum() <= share * len(values) + 1e-6
    if chosen.any() and not chosen.all():
        border = entropies[chosen].max()
        assert border <= entropies[~chosen].min()
        ties = np.flatnonzero(entropies == border)  # of equal ones the first come first
        assert chosen[ties].tolist() == sorted(chosen[ties].tolist(), reverse=True)


@given(st.lists(st.floats(0, 5), unique=True, max_size=60))
def test_half_of_them_are_those_below_the_median(values):
    """Li et al., section 4.2: the threshold is "smaller than the median of all entropies"."""
    entropies = np.array(values, dtype=np.float64)
    below = entropies < np.median(entropies) if values else np.zeros(0, dtype=bool)
    np.testing.assert_array_equal(confident_part(entropies, CONFIDENT), below)


def test_a_share_that_floating_point_makes_a_little_less_is_whole():
    for hundredths in range(101):
        assert confident_part(np.arange(100.0), hundredths / 100).sum() == hundredths


# --- the two passes -------------------------------------------------------------------------------------------------


def by_hand(path: Path, pictures: np.ndarray, share: float, keep: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The cascade in float64, step by step: probabilities (N, C) and which pictures are confident (N,)."""
    generation = Bundle.open(path).current()
    head, views = generation.head, generation.head.views

    def probabilities(weights, biases, x):
        logits = np.zeros((len(x), len(TABLE)))
        for view, weight, bias in zip(views, weights, biases, strict=True):
            logits += view.weight * (x[:, view.start : view.stop] @ np.asarray(weight, float).T + bias)
        logits = (logits - head.gamma * TABLE.seen) / head.temperature
        return np.exp(scipy_log_softmax(np.where(keep, logits, -np.inf), axis=1))

    x = lift_of(features_of(pictures)).astype(float)
    first = probabilities(head.weights, head.biases, x)
    uncertainty = [-sum(p * np.log(p) for p in row if p > 0) for row in first]
    confident = np.zeros(len(x), dtype=bool)
    for i in sorted(range(len(x)), key=lambda i: uncertainty[i])[: int(share * len(x))]:
        confident[i] = True

    replay = tiny_replay(TABLE, 0)
    support, labels = [lift_of(replay.features.astype(np.float32))], [replay.labels.astype(np.int64)]
    for j in np.flatnonzero(~TABLE.seen):
        noise = class_noise(generation.seed, TABLE.names[j], PER_CLASS, NOISE)
        semantic = np.repeat(RULE.apply(TABLE.raw)[j : j + 1], PER_CLASS, axis=0)
        support.append(lift_of(synthesize_of(semantic, noise)))
        labels.append(np.full(PER_CLASS, j))
    support.append(x[confident])
    labels.append(first[confident].argmax(axis=1))
    fitted = [
        naive_fit(
            np.concatenate(support)[:, view.start : view.stop],
            np.concatenate(labels),
            len(TABLE),
            view.fit,
            np.random.default_rng([generation.seed, k]),
        )
        for k, view in enumerate(views)
    ]
    second = probabilities([weight for weight, _ in fitted], [bias for _, bias in fitted], x)
    return np.where(confident[:, None], first, second), confident


@pytest.mark.parametrize(
    ("classes", "keep"),
    [
        ("all", np.ones(8, dtype=bool)),
        ("unseen", ~TABLE.seen),
        (["wren", "tit", "crow"], np.isin(TABLE.names, ["wren", "tit", "crow"])),
    ],
)
@pytest.mark.parametrize("share", [0.5, 0.8])
def test_it_is_the_cascade_by_hand(path, classifier, classes, keep, share):
    pictures = blurred_pictures(45, seed=3)
    expected, confident = by_hand(path, pictures, share, keep)
    given_ = classifier.cascade(list(pictures), share, topk=8, classes=classes, batch_size=7)
    assert [p.confident for p in given_] == confident.tolist()
    assert 0 < confident.sum() < 45
    for prediction, chances in zip(given_, expected, strict=True):
        assert len(prediction.names) == keep.sum()
        assert prediction.names[0] == TABLE.names[chances.argmax()]
        columns = [TABLE.index(name) for name in prediction.names]
        np.testing.assert_allclose(prediction.probabilities, chances[columns], atol=2e-3)
        assert prediction.seen == tuple(TABLE.seen[columns])
    # The yardstick tells the second head from the first.
    plain = classifier.predict(list(pictures), topk=8, classes=classes)
    moved = [abs(p.probabilities[0] - q.probabilities[0]) for p, q in zip(plain, given_, strict=True)]
    assert max(moved) > 0.02


def test_it_corrects_labels_where_photographs_lie_beside_the_synthesized_features(rows):
    x, labels = marked_rows(seed=0)
    truth = np.array(TABLE.names)[labels]
    plain = np.array([p.names[0] for p in rows.predict(list(x), topk=1)])
    answers = rows.cascade(list(x), topk=1)
    final = np.array([p.names[0] for p in answers])
    confident = np.array([p.confident for p in answers])
    assert (plain == truth).mean() < 0.65
    assert (final == truth).mean() > (plain == truth).mean() + 0.12
    np.testing.assert_array_equal(final[confident], plain[confident])
    assert (plain[confident] == truth[confident]).mean() > 0.95


def test_the_confident_keep_their_very_probabilities(classifier):
    pictures = list(blurred_pictures(30, seed=4))
    plain, answers = classifier.predict(pictures), classifier.cascade(pictures)
    assert sum(answer.confident for answer in answers) == 15
    for before, after in zip(plain, answers, strict=True):
        assert not after.confident or replace(after, confident=None) == before


def test_same_batch_same_answers(classifier):
    pictures = list(blurred_pictures(30, seed=5))
    assert classifier.cascade(pictures) == classifier.cascade(pictures)


@pytest.mark.parametrize(("share", "confident"), [(0.0, False), (1.0, True)])
def test_nobody_or_everybody_confident_is_the_first_pass(classifier, share, confident):
    pictures = list(blurred_pictures(10, seed=6))
    answers = classifier.cascade(pictures, share)
    assert {answer.confident for answer in answers} == {confident}
    assert [replace(answer, confident=None) for answer in answers] == classifier.predict(pictures)


def test_a_single_picture_and_none(classifier):
    pictures = list(blurred_pictures(1, seed=7))
    (answer,) = classifier.cascade(pictures)
    assert replace(answer, confident=None) == classifier.predict(pictures)[0]
    assert classifier.cascade([]) == []


def test_fewer_pictures_than_a_batch(classifier):
    pictures = list(blurred_pictures(3, seed=8))
    small, large = (classifier.cascade(pictures, 0.7, batch_size=size) for size in (1, 64))
    assert [answer.names for answer in small] == [answer.names for answer in large]
    assert [answer.confident for answer in small].count(True) == 2


def test_it_takes_the_generation_that_was_in_force_and_its_classes(own_bundle):
    path = own_bundle()
    pictures = list(blurred_pictures(24, seed=9))
    with Classifier.open(path, threads=1) as classifier:
        before = classifier.cascade(pictures)
        new = ClassTable(("zebra finch",), np.array([False]), np.array([[3.0, 0, 3, 0, 3, 3]]), ATTRIBUTES)
        add_classes(Bundle.open(path), new)
        assert classifier.cascade(pictures) == before
        classifier.reload()
        names = {name for p in classifier.cascade(pictures, topk=9) for name in p.names}
        assert names == {*SEEN, *UNSEEN, "zebra finch"}


def test_the_bundle_is_what_it_was(own_bundle, tmp_path, infer):
    path = own_bundle(kind="backbone_features")
    np.save(tmp_path / "a.npy", as_regions(blurred_pictures(20, seed=10)))
    before = hashes(path)
    assert infer(tmp_path / "a.npy", "--engine", path, "--cascade")[0] == 0
    with Classifier.open(path) as classifier:
        classifier.cascade(list(as_regions(blurred_pictures(20, seed=10))))
    assert hashes(path) == before


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_is_from_0_to_1(classifier, share):
    with pytest.raises(UsageError, match="E-CONFIDENT"):
        classifier.cascade(list(PICTURES), share)


def test_arguments_are_checked_as_in_predict(classifier):
    for code, arguments in {
        "E-TOPK": {"topk": 0},
        "E-BATCH": {"batch_size": 0},
        "E-FILTER": {"classes": "both"},
        "E-CLASS-UNKNOWN": {"classes": ["dodo"]},
    }.items():
        with pytest.raises(UsageError) as caught:
            classifier.cascade(list(PICTURES), **arguments)
        assert caught.value.code == code
    with pytest.raises(UsageError, match="E-IMAGES"):
        classifier.cascade(PICTURES[0].tobytes())
    with pytest.raises(InputError, match="image 1: "):
        classifier.cascade([PICTURES[0], b"no picture"])
    with pytest.raises(UsageError, match="E-ERRORS"):
        classifier.cascade(list(PICTURES), errors="ignore")


def test_what_cannot_be_read_is_skipped_and_the_others_are_labelled_as_without_it(classifier):
    pictures = list(blurred_pictures(12, seed=8))
    given_ = [b"no picture", *pictures[:7], b"", *pictures[7:]]
    found = classifier.cascade(given_, 0.5, batch_size=5, errors="skip")
    assert [j for j, one in enumerate(found) if one.error is not None] == [0, 8]
    assert [found[j].error.message.partition(":")[0] for j in (0, 8)] == ["image 0", "image 8"]
    assert [(found[j].names, found[j].confident) for j in (0, 8)] == [((), None)] * 2
    assert [one for one in found if one.error is None] == classifier.cascade(pictures, 0.5, batch_size=5)
    assert [one.error.code for one in classifier.cascade([b"x"], errors="skip")] == ["E-IMAGE-FORMAT"]


@pytest.mark.parametrize(
    ("rule", "told"),
    [("rows", "teach it: label without a cascade"), ("gaussian", "with `zsl-classes teach --photos DIR`")],
)
def test_a_head_that_is_not_fitted_has_no_cascade(shared_bundle, rule, told):
    with (
        Classifier.open(shared_bundle(kind="backbone_features", rule=rule), threads=1) as classifier,
        pytest.raises(UsageError, match="E-HEAD-RULE") as caught,
    ):
        classifier.cascade([])
    assert told in caught.value.message


def test_a_bundle_that_cannot_be_fitted_is_refused_before_a_picture_is_read(rows, monkeypatch):
    replay = tiny_replay(TABLE, 0)
    keep = replay.labels != 2
    few = replace(replay, features=replay.features[keep], labels=replay.labels[keep])
    monkeypatch.setattr(Bundle, "replay", lambda self: few)
    read = iter([np.zeros((4, 3), np.float32)])
    with pytest.raises(ArtefactError, match="E-REPLAY-CLASS"):
        rows.cascade(read)
    assert len(list(read)) == 1


# --- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path) -> Path:
    """20 pictures, two that cannot be read, and something else."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, picture in enumerate(blurred_pictures(20, seed=11)):
        Image.fromarray(picture).save(folder / f"{i:02d}.png")
    (folder / "05b.png").write_bytes(b"damaged")
    (folder / "19b.png").write_bytes(b"")
    (folder / "notes.txt").touch()
    return folder


def test_json_lines_say_which_pass_a_label_is_of(infer, path, photos, classifier):
    names = [photos / f"{i:02d}.png" for i in range(20)]
    code, out, err = infer(photos, "--engine", path, "--cascade", "--format", "jsonl", "--topk", 2)
    assert code == 6
    answers = [json.loads(line) for line in out.splitlines()]
    assert [answer["path"] for answer in answers] == sorted(str(photos / n.name) for n in photos.glob("*.png"))
    assert [Path(a["path"]).name for a in answers if "error" in a] == ["05b.png", "19b.png"]
    assert all("transductive" not in answer for answer in answers if "error" in answer)
    labelled = [answer for answer in answers if "error" not in answer]
    assert all(answer["transductive"] is True for answer in labelled)
    expected = classifier.cascade(names, topk=2)
    assert [a["pass"] for a in labelled] == ["confident" if p.confident else "relabelled" for p in expected]
    assert [a["pass"] for a in labelled].count("confident") == 10
    assert [[one["class"] for one in a["predictions"]] for a in labelled] == [list(p.names) for p in expected]
    assert err[0] == "files of other kinds skipped: 1"
    assert err[1].startswith("cascade: 10 of 20 are confident (entropy up to ")
    assert err[1].endswith(
        "), the rest is relabelled by a head fitted on 330 rows; transductive: labels depend on what else is "
        "labelled in this run"
    )
    assert [line.split(":")[1] for line in err[2:4]] == [" E-IMAGE-FORMAT", " E-IMAGE-EMPTY"]
    assert err[4].startswith("labelled 20 of 22 pictures, ")


def test_csv_has_the_same_labels_and_its_header(infer, path, photos, tmp_path):
    _, out, _ = infer(photos, "--engine", path, "--cascade", "--format", "jsonl", "--confident", 0.3)
    wanted = [(a["path"], one["class"]) for a in map(json.loads, out.splitlines()) for one in a.get("predictions", [])]
    target = tmp_path / "out.csv"
    code, out, err = infer(photos, "--engine", path, "--cascade", "--confident", 0.3, "--output", target)
    assert (code, out) == (6, "")
    assert any("transductive" in line for line in err)
    text = target.read_text(encoding="utf-8")
    assert text.splitlines()[0] == "path,rank,class,split,probability,distance,far"
    assert [(row["path"], row["class"]) for row in csv.DictReader(io.StringIO(text))] == wanted


def test_filter_topk_and_least_probability(infer, path, photos):
    options = ("--engine", path, "--cascade", "--classes", "unseen", "--format", "jsonl")
    _, out, _ = infer(photos, *options, "--topk", 9)
    whole = [a["predictions"] for a in map(json.loads, out.splitlines()) if "predictions" in a]
    assert all({one["class"] for one in some} == set(UNSEEN) for some in whole)
    _, out, _ = infer(photos, *options, "--topk", 9, "--min-probability", 0.2)
    some = [a["predictions"] for a in map(json.loads, out.splitlines()) if "predictions" in a]
    assert some == [[one for one in rows if one["probability"] >= 0.2] for rows in whole]
    assert sum(map(len, some)) < sum(map(len, whole))


def test_without_a_cascade_nothing_says_transductive(infer, path, photos):
    _, out, err = infer(photos, "--engine", path, "--format", "jsonl")
    assert '"transductive"' not in out
    assert '"pass"' not in out
    assert not any(line.startswith("cascade: ") for line in err)


def test_nothing_but_unreadable_pictures(infer, path, tmp_path):
    (tmp_path / "a.png").touch()
    code, out, err = infer(tmp_path, "--engine", path, "--cascade")
    assert (code, out) == (6, "path,rank,class,split,probability,distance,far\n")
    assert err[0].startswith("cascade: 0 of 0 are confident, so all labels are those of the first pass")


def test_everybody_confident_is_said(infer, path, photos):
    _, _, err = infer(photos, "--engine", path, "--cascade", "--confident", 1)
    assert "20 of 20 are confident" in err[1]
    assert "nothing to relabel" in err[1]


@pytest.mark.parametrize("arguments", [("--confident", "0.4"), ("--cascade", "--confident", "nan")])
def test_a_share_needs_a_cascade_and_a_number(infer, path, photos, arguments):
    code, out, err = infer(photos, "--engine", path, *arguments)
    assert (code, out) == (2, "")
    assert len(err) == 1
    assert err[0].startswith("error: E-CONFIDENT: ")


def test_feature_rows_keep_their_order_and_names(infer, row_path, tmp_path):
    x, _ = marked_rows(seed=1)
    x[7] = np.nan
    np.save(tmp_path / "x.npy", x)
    code, out, _ = infer(tmp_path / "x.npy", "--engine", row_path, "--cascade", "--topk", 1)
    assert code == 6
    names = [row["path"] for row in csv.DictReader(io.StringIO(out))]
    assert names == [f"{tmp_path / 'x.npy'}#{i}" for i in range(len(x)) if i != 7]


# --- memory and what is left behind ---------------------------------------------------------------------------------


def peak_of(count: int, width: int = 256) -> int:
    """Bytes of memory at most in use while `count` generated rows (width,) go through a cascade."""
    rng = np.random.default_rng(0)
    table = ClassTable(("a", "b", "c"), np.array([True, True, False]), np.eye(3) + 1, ("x", "y", "z"))
    view = View("feature", 0, width, 1.0, FitSettings(epochs=1, batch_size=256))
    head = Head((view,), (rng.standard_normal((3, width)).astype(np.float32),), (np.zeros(3, np.float32),))
    snapshot = Snapshot(Generation(1, 0, table, head, 0, "export"), fold(head, table.seen))
    base = rng.standard_normal((30, width)).astype(np.float32), np.arange(30) % 3
    tracemalloc.start()
    try:
        with Cascade(snapshot, lambda: base, lambda f: f, 0.5) as cascade:
            for start in range(0, count, 64):
                features = rng.standard_normal((min(64, count - start), width)).astype(np.float32)
                entries = [(f"{start + i}.png", None) for i in range(len(features))]
                cascade.add(Scored(entries, snapshot.head.scores(features), features))
            assert cascade.refit().confident == count // 2
            answered = sum(len(block) for block in cascade.answers(1))
        assert answered == count
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_hardly_grows_with_the_number_of_pictures():
    """A row takes 1024 bytes here, and 512 more among the rows that are fitted on: none of it stays in memory."""
    few, many = peak_of(2_100), peak_of(10_500)
    assert (many - few) / 8_400 < 64


def open_nameless(process: subprocess.Popen, folder: Path) -> list[int]:
    """Sizes of the files without a name that a process has open in a folder."""
    sizes = []
    for link in Path(f"/proc/{process.pid}/fd").iterdir():
        try:
            target = link.readlink()
            if target.parent == folder and target.name.endswith("(deleted)"):
                sizes.append(link.stat().st_size)
        except OSError:
            continue
    return sizes


def leftovers(folder: Path) -> list[str]:
    """Ours; ONNX Runtime writes a file of its own, `.ses`, when it is imported."""
    return [path.name for path in folder.iterdir() if path.name != ".ses"]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="looks at open files in /proc")
@pytest.mark.parametrize(
    ("number", "code", "word"),
    [
        (signal.SIGINT, 130, b"interrupted\n"),
        (signal.SIGTERM, 143, b"terminated\n"),
        (signal.SIGKILL, -signal.SIGKILL, b""),
    ],
)
def test_interrupted_in_the_middle_leaves_no_temporary_file(own_bundle, tmp_path, number, code, word):
    row_path = own_bundle(kind="backbone_features", lift=False)
    np.save(tmp_path / "many.npy", np.zeros((400_000, 4, 3), np.float16))
    spool = tmp_path / "spool"
    spool.mkdir()
    arguments = [str(tmp_path / "many.npy"), "--engine", str(row_path), "--cascade"]
    with subprocess.Popen(
        [*PROGRAM, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"TMPDIR": str(spool)},
    ) as child:
        deadline = time.monotonic() + 60
        while sum(size > 20_000 for size in open_nameless(child, spool)) < 3:
            assert time.monotonic() < deadline
            assert child.poll() is None
            time.sleep(0.01)
        child.send_signal(number)
        _, err = child.communicate(timeout=60)
    assert (child.returncode, err) == (code, word)
    assert leftovers(spool) == []


def test_a_full_disk_is_one_line(own_bundle, tmp_path):
    row_path = own_bundle(kind="backbone_features", lift=False)
    x, _ = marked_rows(seed=2)
    np.save(tmp_path / "x.npy", np.concatenate([x] * 10))
    spool = tmp_path / "spool"
    spool.mkdir()
    done = subprocess.run(
        [
            *PROGRAM,
            str(tmp_path / "x.npy"),
            "--engine",
            str(row_path),
            "--cascade",
            "--output",
            str(tmp_path / "o.csv"),
        ],
        env=os.environ | {"TMPDIR": str(spool)},
        capture_output=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000)),
    )
    assert done.returncode == 2
    assert done.stderr.count(b"\n") == 1
    assert done.stderr.startswith(b"error: E-SYSTEM: could not keep the features of the first pass in ")
    assert str(spool).encode() in done.stderr
    assert leftovers(spool) == []
    assert not (tmp_path / "o.csv").exists()


def test_without_a_folder_for_temporary_files_it_says_so(rows, monkeypatch):
    def nowhere(*_args, **_options):
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "TemporaryFile", nowhere)
    with pytest.raises(SystemProblem, match="E-SYSTEM"):
        rows.cascade([])
