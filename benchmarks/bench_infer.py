"""Where does the time of labelling a photograph go: decoding, pixels, network, head? And what is it in all?

JPEG photographs of 500 x 375 pixels, EfficientNet-Lite2 at 260 px on ONNX Runtime, 11 classes. The stages run one after
the other, decoding and pixels on one thread; `predict` reads ahead in threads. Network and `predict` use all CPUs.
"""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from zsl_runtime import Classifier
from zsl_runtime.backends.opening import open_backend
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.pixels.pixels import decode, resize_crop

PICTURES = 32
BATCHES = pytest.mark.parametrize("batch", [1, 8, 32])


@pytest.fixture(scope="module")
def photographs(line, tmp_path_factory):
    """Files of the size that cameras' thumbnails and CUB's pictures have."""
    folder = tmp_path_factory.mktemp("photographs")
    drawn = sorted((line.data / "images").rglob("*.jpg"))[:PICTURES]
    paths = [folder / f"{number:02d}.jpg" for number in range(PICTURES)]
    for source, path in zip(drawn, paths, strict=True):
        with Image.open(source) as image:
            image.resize((500, 375), Image.Resampling.BICUBIC).save(path, quality=90)
    return paths


@pytest.fixture(scope="module")
def classifier(line):
    with Classifier.open(line.bundle) as opened:
        yield opened


@pytest.fixture(scope="module")
def stages(line, classifier, photographs):
    """What each stage makes of all photographs, checked against `predict`."""
    decoded = [decode(path) for path in photographs]
    squares = np.stack([resize_crop(picture, classifier.pixels) for picture in decoded])
    backend = open_backend("ort", Bundle.open(line.bundle))
    lifted = backend.lift(backend.features(squares))
    backend.close()
    snapshot = classifier.snapshot()
    for found, wanted in zip(
        snapshot.best(snapshot.head.scores(lifted), 5), classifier.predict(photographs), strict=True
    ):
        assert found.names[0] == wanted.names[0]
        np.testing.assert_allclose(found.probabilities, wanted.probabilities, rtol=1e-4)
    return {"decoded": decoded, "squares": squares, "lifted": lifted}


@BATCHES
def bench_1_decode(measure, photographs, batch):
    measure(lambda: [decode(path) for path in photographs[:batch]], things=batch, unit="pictures")


@BATCHES
def bench_2_pixels(measure, classifier, stages, batch):
    decoded = stages["decoded"][:batch]
    measure(
        lambda: np.stack([resize_crop(picture, classifier.pixels) for picture in decoded]),
        things=batch,
        unit="pictures",
    )


@BATCHES
def bench_3_network(measure, classifier, stages, batch):
    squares, snapshot = stages["squares"][:batch], classifier.snapshot()
    measure(lambda: classifier.score_with(snapshot, squares), things=batch, unit="pictures")


@BATCHES
def bench_4_head(measure, classifier, stages, batch):
    lifted, snapshot = stages["lifted"][:batch], classifier.snapshot()
    measure(lambda: snapshot.best(snapshot.head.scores(lifted), 5), things=batch, unit="pictures")


@BATCHES
def bench_5_predict(measure, classifier, stages, photographs, batch):
    paths = photographs[:batch]
    measure(lambda: classifier.predict(paths, batch_size=batch), things=batch, unit="pictures")
