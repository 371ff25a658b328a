"""Where does the time of labelling a photograph go: decoding, pixels, network, head? And what is it in all?

JPEG photographs of 500 x 375 pixels, EfficientNet-Lite2 at 260 px on ONNX Runtime, 11 classes. The stages are timed in
turns, each alone, decoding and pixels on one thread; `predict` reads ahead in threads. Network and `predict` use all
CPUs.
"""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from turns import Contender

from zsl_runtime import Classifier
from zsl_runtime.backends.opening import open_backend
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.pixels.pixels import decode, resize_crop

PICTURES = 32


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


@pytest.mark.parametrize("batch", [1, 8, 32])
def bench_stages(measure_in_turns, classifier, stages, photographs, batch):
    """All stages in turns, and `predict` with them: what takes how much of it is a matter of ratios."""
    paths, decoded = photographs[:batch], stages["decoded"][:batch]
    squares, lifted = stages["squares"][:batch], stages["lifted"][:batch]
    snapshot = classifier.snapshot()
    calls = {
        "1_decode": lambda: [decode(path) for path in paths],
        "2_pixels": lambda: np.stack([resize_crop(picture, classifier.pixels) for picture in decoded]),
        "3_network": lambda: classifier.score_with(snapshot, squares),
        "4_head": lambda: snapshot.best(snapshot.head.scores(lifted), 5),
        "5_predict": lambda: classifier.predict(paths, batch_size=batch),
    }
    measure_in_turns(
        {name: Contender(call) for name, call in calls.items()},
        things=batch,
        unit="pictures",
        against="5_predict",
        named=lambda name: f"bench_{name}[{batch}]",
    )
