"""The real thing: engines built and run on the card at hand. Skipped, by name, where that cannot be.

`make_real_bundle` is the tiny bundle, so a run takes seconds; the model's cost is measured by the benchmarks.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from support.tiny_bundle import as_regions, class_table, draw_pictures, features_of, lift_of, make_tiny_bundle
from zsl_runtime.backends.devices import find_card
from zsl_runtime.backends.tensorrt import check, open_on_card, rebuild
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.errors import BackendError, UsageError, ZslError
from zsl_runtime.head.head import FoldedHead, best_columns, fold
from zsl_runtime.labelling.classifier import Classifier
from zsl_runtime.trt.library import CHOICES, find_library

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.gpu

TABLE = class_table()
PICTURES = draw_pictures(TABLE, np.arange(8).repeat(9), seed=5)  # 72
FEATURES = features_of(PICTURES)


@pytest.fixture(scope="module", params=[choice for choice in CHOICES if choice != "auto"])
def library(request) -> str:
    """Each library that can be used with card 0, which `auto` stands for while the tests run."""
    card, problem = find_card(0)
    if card is None:
        pytest.skip(problem)
    try:
        found = find_library(request.param)
        check(None, "fp32", card)
    except ZslError as error:
        pytest.skip(str(error))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("zsl_runtime.backends.tensorrt.find_library", lambda: found)
        yield request.param


@pytest.fixture(scope="module", params=["images", "backbone_features"])
def bundle(request, library, tmp_path_factory) -> Bundle:
    """A bundle with an engine for this card."""
    path = tmp_path_factory.mktemp("real") / "b"
    bundle = Bundle.open(make_tiny_bundle(path, kind=request.param))
    try:
        with (path.parent / "build.log").open("w") as log:
            rebuild(bundle, "cuda:0", "fp32", 64, log)
    except (BackendError, UsageError) as error:
        if error.code in {"E-ENGINE-CAPABILITY", "E-DEVICE"}:  # TensorRT-RTX and a data centre's card
            pytest.skip(str(error))
        raise
    return bundle


@pytest.fixture
def inputs(bundle) -> np.ndarray:
    return PICTURES if bundle.manifest["input"]["name"] == "images" else as_regions(PICTURES)


def log_probabilities(head: FoldedHead) -> np.ndarray:
    exp = np.exp(lift_of(FEATURES).astype(np.float64) @ head.weight.T + head.bias + head.class_bias)
    with np.errstate(divide="ignore"):
        return np.log(exp / exp.sum(axis=1, keepdims=True))


@pytest.mark.parametrize("graphs", [True, False])
def test_scores_features_and_best_columns(bundle, inputs, graphs):
    head = fold(bundle.current().head, TABLE.seen)
    backend = open_on_card(bundle, 1, "fp32", 0, graphs=graphs)
    for _ in range(3):  # plain, recorded, launched
        for rows in (1, 3, 8, 9, 64, 72):
            scores, features = backend.run(inputs[:rows], head)
            np.testing.assert_allclose(features, FEATURES[:rows], atol=1e-4)  # TF32 is off
            np.testing.assert_allclose(scores, log_probabilities(head)[:rows], atol=1e-3)
            best = backend.begin(list(inputs[:rows]), head, 3).result().best if backend.ranks(3) else None
            if best is not None:
                assert np.array_equal(best.columns, best_columns(scores, 3))
                np.testing.assert_array_equal(best.scores, np.take_along_axis(scores, best.columns, axis=1))
    backend.close()
    backend.close()


def test_class_counts_are_free_up_to_twenty_thousand(bundle, inputs):
    backend = open_on_card(bundle, 1, "fp32", 0)
    rng = np.random.default_rng(0)
    width = backend._opened().engine.widths[0]
    for classes in (1, 2, 201, 20_000):
        weight = rng.standard_normal((classes, width), dtype=np.float32) / 10
        head = FoldedHead(weight, np.zeros(classes, np.float32), np.zeros(classes, np.float32))
        scores, _ = backend.run(inputs[:5], head)
        np.testing.assert_allclose(scores, head.scores(lift_of(FEATURES[:5])), atol=1e-3)
    backend.close()


def test_threads_predict_while_another_reloads(bundle, inputs, tmp_path):
    """Every answer is whole, and right for the generation that it belongs to."""
    import shutil

    path: Path = tmp_path / "copy"
    shutil.copytree(bundle.path, path)
    copy = Bundle.open(path)
    answers, failures, stop = [], [], threading.Event()
    with Classifier.open(copy, "tensorrt", threads=1, trust_engine=True) as classifier:

        def work(size: int) -> None:
            try:
                while not stop.is_set():
                    answers.append(classifier.predict(inputs[:24], topk=1, batch_size=size))
            except Exception as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(size,)) for size in (1, 5, 24)]
        for thread in threads:
            thread.start()
        try:
            for name in ("wren", "tit"):
                now = copy.current()
                rows = np.array([j for j, known in enumerate(now.table.names) if known != name])
                with copy.lock():
                    table, head = now.table.take(rows), now.head.take(rows)
                    copy.commit(replace(now, number=now.number + 1, parent=now.number, table=table, head=head), {})
                assert classifier.reload()
                before = len(answers)
                while len(answers) < before + 6 and not failures:
                    stop.wait(0.001)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
    assert failures == []
    names = [TABLE.names[j] for j in np.arange(8).repeat(9)[:24]]
    for answer in answers:
        wrong = [(given.names[0], name) for given, name in zip(answer, names, strict=True) if given.names[0] != name]
        assert {name for _, name in wrong} <= {"wren", "tit"}  # those that were taken away
