"""The Python API: right answers, one snapshot a call, new generations without loading graphs again."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import zsl_runtime
from support.tiny_bundle import (
    SEEN,
    UNSEEN,
    as_regions,
    class_table,
    draw_pictures,
    features_of,
    lift_of,
)
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.errors import ArtefactError, BackendError, InputError, UsageError
from zsl_runtime.head.head import fold
from zsl_runtime.labelling.classifier import Classifier

TABLE = class_table()
PICTURES = draw_pictures(TABLE, np.arange(8), seed=11)


@pytest.fixture(scope="module")
def path(shared_bundle) -> Path:
    return shared_bundle()


@pytest.fixture(scope="module")
def classifier(path):
    with Classifier.open(path, threads=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def rows(shared_bundle):
    with Classifier.open(shared_bundle(kind="backbone_features", lift=False), threads=2) as opened:
        yield opened


def probabilities(path: Path, classes: np.ndarray) -> np.ndarray:
    """(8, C) by the definition in float64, over the classes (C,) bool only."""
    head = fold(Bundle.open(path).current().head, TABLE.seen)
    logits = lift_of(features_of(PICTURES)).astype(np.float64) @ head.weight.T + head.bias + head.class_bias
    exp = np.where(classes, np.exp(logits), 0)
    return exp / exp.sum(axis=1, keepdims=True)


def png(picture: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("classes", "keep"),
    [
        ("all", np.ones(8, dtype=bool)),
        ("seen", TABLE.seen),
        ("unseen", ~TABLE.seen),
        (["wren", "tit"], np.isin(TABLE.names, ["wren", "tit"])),
        (("gull",), np.isin(TABLE.names, ["gull"])),
    ],
)
@pytest.mark.parametrize("topk", [1, 3, 100])
def test_predictions_are_the_best_classes_of_the_definition(path, classifier, classes, keep, topk):
    expected = probabilities(path, keep)
    predictions = classifier.predict(list(PICTURES), topk=topk, classes=classes)
    assert len(predictions) == 8
    for row, prediction in zip(expected, predictions, strict=True):
        order = np.argsort(-row, kind="stable")[: min(topk, keep.sum())]
        assert prediction.names == tuple(TABLE.names[j] for j in order)
        assert prediction.seen == tuple(TABLE.seen[j] for j in order)
        np.testing.assert_allclose(prediction.probabilities, row[order], rtol=1e-4)


def test_pictures_of_each_class_are_recognised(classifier):
    assert [p.names[0] for p in classifier.predict(PICTURES)] == list(SEEN + UNSEEN)


def test_every_kind_of_source_gives_the_same_answer(classifier, tmp_path):
    file = tmp_path / "a.png"
    file.write_bytes(png(PICTURES[5]))
    sources = [file, str(file), png(PICTURES[5]), Image.fromarray(PICTURES[5]), PICTURES[5]]
    predictions = classifier.predict(iter(sources))
    assert predictions == [predictions[0]] * 5
    assert predictions[0].names[0] == "wren"
    assert classifier.predict([]) == []


@pytest.mark.parametrize("batch_size", [1, 3, 8, 100])
def test_batches_keep_the_order(classifier, batch_size):
    predictions = classifier.predict([png(p) for p in PICTURES] * 3, topk=1, batch_size=batch_size)
    assert [p.names[0] for p in predictions] == list(SEEN + UNSEEN) * 3


def test_equal_scores_come_in_table_order(classifier):
    scores = np.log(np.array([[0.1, 0.2, 0.1, 0.2, 0.1, 0.1, 0.1, 0.1]], dtype=np.float32))
    (best,) = classifier.snapshot().best(scores, 4)
    assert best.names == ("tit", "gull", "robin", "crow")


def test_scores_and_features_are_those_of_the_definition(path, classifier):
    scores, features = classifier.score(PICTURES, classes="unseen")
    np.testing.assert_allclose(features, features_of(PICTURES), atol=2e-6)
    assert np.isneginf(scores[:, TABLE.seen]).all()
    np.testing.assert_allclose(np.exp(scores), probabilities(path, ~TABLE.seen), atol=1e-5)


def test_feature_rows_are_labelled(rows):
    regions = as_regions(PICTURES)
    assert [p.names[0] for p in rows.predict(regions.astype(np.float64))] == list(SEEN + UNSEEN)
    assert rows.pixels is None
    bad = regions.copy()
    bad[3, 0, 0] = np.inf
    with pytest.raises(InputError, match="image 3") as caught:
        rows.predict(bad)
    assert caught.value.code == "E-ROW-VALUE"
    with pytest.raises(InputError) as caught:
        rows.predict([PICTURES[0]])
    assert caught.value.code == "E-ROW-SHAPE"


def test_what_it_says_about_itself(classifier):
    assert classifier.generation == 1
    assert classifier.class_table.names == SEEN + UNSEEN
    assert (classifier.pixels.resize, classifier.pixels.crop) == (8, 8)
    assert classifier.manifest["method"] == "tiny"
    assert classifier.input_port == ("images", "uint8", (8, 8, 3))
    assert classifier.backend.name == "ort"
    classifier.warmup()


def test_an_unreadable_picture_names_its_place(classifier):
    with pytest.raises(InputError, match="image 2: picture of 4 bytes") as caught:
        classifier.predict([PICTURES[0], PICTURES[1], b"text"], batch_size=1)
    assert caught.value.code == "E-IMAGE-FORMAT"


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_what_cannot_be_read_keeps_its_place_when_it_is_skipped(classifier, tmp_path, batch_size):
    given = [b"text", PICTURES[0], tmp_path / "none.jpg", b"", *PICTURES[1:4], np.zeros((3, 3)), PICTURES[4]]
    found = classifier.predict(iter(given), topk=2, batch_size=batch_size, errors="skip")
    assert len(found) == len(given)
    bad = [j for j, one in enumerate(found) if one.error is not None]
    assert bad == [0, 2, 3, 7]
    for j in bad:
        assert (found[j].names, found[j].seen, found[j].probabilities, found[j].confident) == ((), (), (), None)
        assert isinstance(found[j].error, InputError)
        assert found[j].error.message.startswith(f"image {j}: ")
    assert found[0].error.code == "E-IMAGE-FORMAT"
    good = [one for one in found if one.error is None]
    assert [one.names for one in good] == [one.names for one in classifier.predict(PICTURES[:5], topk=2)]


def test_nothing_but_unreadable_pictures_are_skipped_to_the_end(classifier):
    """More of them than are kept back to fill a batch."""
    found = classifier.predict([b"x"] * 600, errors="skip")
    assert [one.error.message.partition(":")[0] for one in found] == [f"image {j}" for j in range(600)]
    assert classifier.predict([], errors="skip") == []


def test_what_the_pictures_themselves_raise_is_not_skipped(classifier):
    def broken():
        yield b"text"
        raise InputError("E-ROW-FILE", "the list is cut off")

    with pytest.raises(InputError, match="the list is cut off"):
        classifier.predict(broken(), errors="skip")


def test_rows_that_are_none_are_skipped_too(rows):
    regions = as_regions(PICTURES).copy()
    regions[3, 0, 0] = np.inf
    found = rows.predict(regions, topk=1, errors="skip")
    assert found[3].error.code == "E-ROW-VALUE"
    assert [one.names for one in found] == [(name,) if j != 3 else () for j, name in enumerate(SEEN + UNSEEN)]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"topk": 0}, "E-TOPK"),
        ({"errors": "ignore"}, "E-ERRORS"),
        ({"batch_size": 0}, "E-BATCH"),
        ({"classes": "sean"}, "E-FILTER"),
        ({"classes": []}, "E-FILTER-EMPTY"),
        ({"classes": ["wren", "dodo"]}, "E-CLASS-UNKNOWN"),
    ],
)
def test_wrong_arguments_are_usage_errors(classifier, arguments, code):
    with pytest.raises(UsageError) as caught:
        classifier.predict(PICTURES, **arguments)
    assert caught.value.code == code


@pytest.mark.parametrize("single", ["a.jpg", Path("a.jpg"), b"bytes", Image.new("RGB", (8, 8))])
def test_a_single_picture_is_not_taken_for_a_list(classifier, single):
    with pytest.raises(UsageError, match=r"\[picture\]") as caught:
        classifier.predict(single)
    assert caught.value.code == "E-IMAGES"


def test_opening_refuses_what_cannot_be(path, tmp_path):
    with pytest.raises(UsageError):
        Classifier.open(tmp_path / "missing")
    with pytest.raises(BackendError) as caught:
        Classifier.open(path, device="cuda:0")
    assert (caught.value.code, caught.value.exit_code) == ("E-DEVICE", 4)
    with pytest.raises(UsageError):
        Classifier.open(path, backend="magic")


@pytest.mark.parametrize("part", ["model.onnx", "classes/000001.safetensors"])
def test_a_changed_byte_is_refused(own_bundle, part):
    folder = own_bundle()
    data = bytearray((folder / part).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / part).write_bytes(data)
    with pytest.raises(ArtefactError) as caught:
        Classifier.open(folder)
    assert caught.value.code == "E-BUNDLE-HASH"


def test_a_graph_that_contradicts_the_manifest_is_refused(path, monkeypatch):
    bundle = Bundle.open(path)
    for key, value in (
        ("pixels", {"version": 1, "resize": 16, "crop": 16}),
        ("input", bundle.manifest["input"] | {"shape": ["N", 9, 9, 3]}),
    ):
        broken = replace(bundle, manifest=bundle.manifest | {key: value})
        monkeypatch.setattr(Bundle, "open", lambda _path, broken=broken, **_: broken)
        with pytest.raises(ArtefactError, match=r"manifest says|expected uint8 \(N, (9, 9|16, 16), 3\)") as caught:
            Classifier.open(path)
        assert caught.value.code in ("E-BUNDLE-INPUT", "E-BUNDLE-GRAPH")  # of the manifest alone; of manifest and graph


def test_closed_means_closed(path):
    opened = Classifier.open(path, threads=1)
    with opened as same:
        assert same is opened
    with pytest.raises(UsageError) as caught:
        opened.predict(PICTURES)
    assert caught.value.code == "E-CLOSED"


# --- generations ----------------------------------------------------------------------------------------------------


def without(bundle: Bundle, name: str) -> None:
    """Commit a generation that lacks one class."""
    now = bundle.current()
    rows = np.array([j for j, known in enumerate(now.table.names) if known != name])
    with bundle.lock():
        table, head = now.table.take(rows), now.head.take(rows)
        bundle.commit(replace(now, number=now.number + 1, parent=now.number, table=table, head=head), {"names": [name]})


def test_reload_takes_the_new_generation_and_loads_no_graph(own_bundle):
    folder = own_bundle()
    with Classifier.open(folder, threads=1) as classifier:
        assert classifier.reload() is False
        without(Bundle.open(folder), "wren")
        assert classifier.predict(PICTURES[5:6], topk=1)[0].names == ("wren",)
        (folder / "model.onnx").unlink()
        assert classifier.reload() is True
        assert classifier.reload() is False
        assert classifier.generation == 2
        assert "wren" not in classifier.class_table.names
        assert classifier.predict(PICTURES[5:6], topk=1)[0].names != ("wren",)
        assert len(classifier.predict(PICTURES, topk=9)[0].names) == 7


def test_a_damaged_new_generation_leaves_the_old_one_in_use(own_bundle):
    folder = own_bundle()
    with Classifier.open(folder, threads=1) as classifier:
        without(Bundle.open(folder), "wren")
        (folder / "classes" / "000002.safetensors").write_bytes(b"damaged")
        with pytest.raises(ArtefactError):
            classifier.reload()
        assert classifier.generation == 1
        assert classifier.predict(PICTURES[5:6], topk=1)[0].names == ("wren",)


def test_a_predict_in_flight_finishes_on_the_generation_it_began_with(own_bundle):
    """Pictures arrive slowly; between the first and the last a class disappears and `reload` is called."""
    folder = own_bundle()
    with Classifier.open(folder, threads=1) as classifier:

        def slowly():
            yield from PICTURES
            without(Bundle.open(folder), "gull")
            assert classifier.reload()
            yield from PICTURES

        predictions = classifier.predict(slowly(), topk=8, batch_size=1)
        assert len(predictions) == 16
        assert all("gull" in p.names for p in predictions)
        assert all("gull" not in p.names for p in classifier.predict(PICTURES, topk=8))


def test_threads_predict_while_another_reloads(own_bundle):
    """Names, flags and number of classes always belong to one generation."""
    folder = own_bundle()
    bundle = Bundle.open(folder)
    answers, failures = [], []
    stop = threading.Event()
    with Classifier.open(folder, threads=1) as classifier:

        def work() -> None:
            try:
                while not stop.is_set():
                    answers.append(classifier.predict(PICTURES, topk=8, batch_size=8))
            except Exception as error:
                failures.append(error)

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            for name in ("wren", "tit", "crow"):
                without(bundle, name)
                assert classifier.reload()
        finally:
            stop.set()
            for thread in threads:
                thread.join()
    assert failures == []
    counts = {len(p.names) for answer in answers for p in answer}
    assert counts <= {8, 7, 6, 5}
    for answer in answers:
        assert len({frozenset(p.names) for p in answer}) == 1


# --- the package ----------------------------------------------------------------------------------------------------


def test_the_package_is_lazy_and_needs_no_torch(own_bundle, tmp_path):
    """Classify in a process where torch, onnx and scipy cannot be imported."""
    path = own_bundle()
    picture = tmp_path / "a.png"
    picture.write_bytes(png(PICTURES[5]))
    program = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "onnx", "scipy", "sklearn", "zsl_train", "zsl_export"):
            raise ImportError(f"{{name}} is refused here")
sys.meta_path.insert(0, Refuse())
import zsl_runtime
assert not any(heavy in sys.modules for heavy in ("numpy", "PIL", "onnxruntime")), "not lazy"
with zsl_runtime.Classifier.open({str(path)!r}, threads=1) as classifier:
    print(classifier.predict([{str(picture)!r}], topk=1)[0].names[0])
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (done.stdout.strip(), done.stderr) == ("wren", "")


def test_the_package_names_what_it_has():
    assert set(zsl_runtime.__all__) <= set(dir(zsl_runtime))
    assert zsl_runtime.Classifier is Classifier
    assert all(getattr(zsl_runtime, name) is not None for name in zsl_runtime.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Klassifier'"):
        zsl_runtime.Klassifier  # noqa: B018


def test_the_version_is_that_of_the_wheel_or_of_a_checkout():
    built = (Path(zsl_runtime.__file__).parent / "_version.py").is_file()
    assert zsl_runtime.__version__ == (version("zsl-deploy") if built else "0.1.0.dev0")
