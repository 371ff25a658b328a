"""The same bundle, photographs, backend and machine give the same bytes; where they do not, the bound is this."""

from __future__ import annotations

import csv
import io
import subprocess
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from support.lone import program
from support.tiny_bundle import as_regions, class_table, draw_pictures
from zsl_runtime.cli.infer import main as zsl_infer
from zsl_runtime.labelling.classifier import Classifier
from zsl_runtime.machine.native import load_native
from zsl_runtime.pixels import PixelSpec, prepare, resize_crop_reference

BACKENDS = ("ort", "openvino", "reference")
# Of a probability between batches of other sizes, other neighbours or other threads: float32 sums in another order
# (docs/inside/labelling.md has what was measured).
BOUND = 5e-6
COUNT = 45  # no batch size below divides it
PICTURES = draw_pictures(class_table(), np.arange(COUNT) % 8, seed=5)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for number, picture in enumerate(PICTURES):
        Image.fromarray(picture).resize((37, 41)).save(folder / f"{number:02}.png")
    (folder / "20b.png").write_bytes(b"no picture")  # shifts no other one's answer
    return folder


def words(photos, bundle, backend: str, *more: object) -> list[str]:
    given = (photos, "--engine", bundle, "--backend", backend, "--quiet", "--threads", 2, *more)
    return [str(word) for word in given]


def labelled(tmp_path, name: str, arguments: list[str]) -> bytes:
    out = tmp_path / name
    assert zsl_infer([*arguments, "--output", str(out)]) == 6
    return out.read_bytes()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_run_again_and_one_in_another_process_give_the_same_bytes(shared_bundle, photos, tmp_path, backend):
    arguments = words(photos, shared_bundle(), backend)
    first = labelled(tmp_path, "first", arguments)
    assert labelled(tmp_path, "again", arguments) == first
    done = subprocess.run([*program("zsl-infer"), *arguments], capture_output=True, check=False, timeout=500)
    assert (done.returncode, done.stdout) == (6, first)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("stop", [1, 3])
def test_a_run_that_was_stopped_and_resumed_gives_the_bytes_of_one_that_was_not(
    shared_bundle, photos, tmp_path, monkeypatch, backend, stop
):
    """Batches begin where the last whole one ended, so each picture has the neighbours that it would have had."""
    arguments = words(photos, shared_bundle(rule="gaussian"), backend, "--batch-size", 7)
    whole = labelled(tmp_path, "whole", arguments)
    calls, real = [], Classifier.score_with

    def stops(self, snapshot, inputs):
        calls.append(len(inputs))
        if len(calls) > stop:
            raise KeyboardInterrupt
        return real(self, snapshot, inputs)

    out = tmp_path / "resumed"
    with monkeypatch.context() as patch:
        patch.setattr(Classifier, "score_with", stops)
        assert zsl_infer([*arguments, "--output", str(out)]) == 130
    assert not out.exists()
    assert labelled(tmp_path, "resumed", [*arguments, "--resume"]) == whole


def probabilities(table: bytes) -> tuple[list[str], np.ndarray]:
    rows = list(csv.DictReader(io.StringIO(table.decode())))
    return [f"{row['path']} {row['rank']} {row['class']}" for row in rows], np.array(
        [float(row["probability"]) for row in rows]
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_batch_sizes_and_threads_stay_within_the_bound(shared_bundle, photos, tmp_path, backend):
    arguments = words(photos, shared_bundle(), backend, "--topk", 2)
    names, wanted = probabilities(labelled(tmp_path, "8", arguments))
    for size, threads in ((1, 1), (2, 1), (5, 2), (44, 1), (64, 2)):
        given = labelled(tmp_path, f"{size}", [*arguments, "--batch-size", str(size), "--threads", str(threads)])
        found, chances = probabilities(given)
        assert found == names
        assert np.abs(chances - wanted).max() <= BOUND


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["images", "backbone_features"])
def test_neighbours_and_order_stay_within_the_bound_and_the_same_batch_is_the_same_bits(shared_bundle, backend, kind):
    given = PICTURES if kind == "images" else as_regions(PICTURES)
    with Classifier.open(shared_bundle(kind=kind), backend, "cpu", threads=2) as classifier:
        scores, features = classifier.score(given)
        for _ in range(3):
            again = classifier.score(given)
            assert (again[0].tobytes(), again[1].tobytes()) == (scores.tobytes(), features.tobytes())
        order = np.random.default_rng(1).permutation(COUNT)
        for rows in (order, order[:1], order[:7], np.repeat(order[:2], 9)):
            found, vectors = classifier.score(given[rows])
            assert np.abs(np.exp(found) - np.exp(scores[rows])).max() <= BOUND
            np.testing.assert_allclose(vectors, features[rows], rtol=0, atol=1e-6 * np.abs(features).max())


def how_far(one) -> str:
    """The last two cells of a line."""
    if one.distance is None:
        return ","
    return f"{float(f'{one.distance:.4g}')},{'true' if one.far else 'false'}"


@pytest.mark.parametrize("rule", ["fit", "gaussian"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_class_and_the_command_say_the_same(shared_bundle, photos, tmp_path, backend, rule):
    bundle = shared_bundle(rule=rule)
    table = labelled(tmp_path, "out", words(photos, bundle, backend, "--topk", 3))
    with Classifier.open(bundle, backend, "cpu", threads=2) as classifier:
        paths = sorted(path for path in photos.iterdir() if path.name != "20b.png")
        found = classifier.predict(paths, topk=3)
        with ThreadPoolExecutor(4) as pool:  # calls beside each other do not touch
            assert list(pool.map(lambda _: classifier.predict(paths, topk=3), range(6))) == [found] * 6
    lines = [
        f"{path},{rank},{name},{'seen' if seen else 'unseen'},{float(f'{chance:.6g}')},{how_far(one)}"
        for path, one in zip(paths, found, strict=True)
        for rank, (name, seen, chance) in enumerate(zip(one.names, one.seen, one.probabilities, strict=True), 1)
    ]
    assert table.decode().splitlines()[1:] == lines


def test_pixels_are_the_same_bytes_by_all_instruction_sets_and_threads(photos, monkeypatch):
    spec, path = PixelSpec(24, 20), photos / "03.png"
    wanted = resize_crop_reference(np.asarray(Image.open(path)), spec).tobytes()
    for kernels in load_native().kernels():
        monkeypatch.setenv("ZSL_SIMD", kernels)
        with ThreadPoolExecutor(4) as pool:
            assert set(pool.map(lambda _: prepare(path, spec).tobytes(), range(16))) == {wanted}
