"""The real thing: engines built and run on the card at hand. Skipped, by name, where that cannot be.

The same tests run with TensorRT, with TensorRT-RTX, and with a kernel of ours in the place of an engine
(`support.card_kernels`), for which a card and nvcc are enough: all is real then but the engine. The bundle is the tiny
one, so a run takes seconds; the model's cost is measured by the benchmarks.
"""

from __future__ import annotations

import gc
import threading
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from support.card_kernels import CardKernels
from support.tiny_bundle import as_regions, class_table, draw_pictures, features_of, lift_of, make_tiny_bundle
from zsl_runtime.backends.devices import find_card
from zsl_runtime.backends.tensorrt import check, open_on_card, rebuild
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.errors import BackendError, UsageError, ZslError
from zsl_runtime.head.head import FoldedHead, best_columns, fold
from zsl_runtime.labelling.classifier import Classifier
from zsl_runtime.machine.native import has_kernels
from zsl_runtime.trt.cuda import Cuda, DeviceMemory
from zsl_runtime.trt.dispatcher import Limits
from zsl_runtime.trt.library import CHOICES, find_library

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.gpu

TABLE = class_table()
PICTURES = draw_pictures(TABLE, np.arange(8).repeat(9), seed=5)  # 72
FEATURES = features_of(PICTURES)


OURS = "kernels of ours"
MIB = 2**20


@pytest.fixture(scope="module", params=[OURS, *(choice for choice in CHOICES if choice != "auto")])
def library(request, tmp_path_factory) -> Iterator[str | CardKernels]:
    """Each library that can be used with card 0, which `auto` stands for while the tests run; ours is the object."""
    card, problem = find_card(0)
    if card is None:
        pytest.skip(problem)
    folder = tmp_path_factory.mktemp("library")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZSL_CACHE", str(folder / "cache"))  # where engines are trusted
        if request.param == OURS:
            if not has_kernels():
                pytest.skip("zsl-deploy was built without nvcc: there are no kernels to find best columns with")
            try:
                ours = CardKernels(folder)
            except ZslError as error:
                pytest.skip(str(error))
            patch.setattr("zsl_runtime.backends.tensorrt.find_library", lambda: ours.library)
            yield ours
            gc.collect()
            ours.check()
            ours.queue.close()
            return
        try:
            found = find_library(request.param)
            check(None, "fp32", card)
        except ZslError as error:
            pytest.skip(str(error))
        patch.setattr("zsl_runtime.backends.tensorrt.find_library", lambda: found)
        yield request.param


@pytest.fixture(scope="module", params=["images", "backbone_features"])
def bundle(request, library, tmp_path_factory) -> Bundle:
    """A bundle with an engine for this card."""
    path = tmp_path_factory.mktemp("real") / "b"
    bundle = Bundle.open(make_tiny_bundle(path, kind=request.param))
    if isinstance(library, CardKernels):
        library.add_engine(bundle)
        return bundle
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


def log_probabilities(head: FoldedHead, features: np.ndarray = FEATURES) -> np.ndarray:
    """The definition, in float64."""
    logits = lift_of(features).astype(np.float64) @ head.weight.T.astype(np.float64) + head.bias + head.class_bias
    exp = np.exp(logits - logits.max(axis=1, keepdims=True))
    with np.errstate(divide="ignore"):
        return np.log(exp / exp.sum(axis=1, keepdims=True))


def other_head(seed: int, classes: int = 8) -> FoldedHead:
    """Of random rows, over features and their positive part."""
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((classes, 2 * FEATURES.shape[1]), dtype=np.float32) / 4
    return FoldedHead(weight, rng.standard_normal(classes, dtype=np.float32), np.zeros(classes, np.float32))


@pytest.mark.parametrize("graphs", [True, False])
def test_scores_features_and_best_columns(bundle, inputs, graphs, library):
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
    if isinstance(library, CardKernels):  # which is told of every run but those of a graph
        before = len(library.trt.buckets)
        for rows in (8, 7, 6, 8, 8):
            np.testing.assert_allclose(backend.run(inputs[:rows], head)[1], FEATURES[:rows], atol=1e-4)
        assert (len(library.trt.buckets) - before <= 2) is graphs
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


def test_batches_overlap_and_none_disturbs_another(bundle, inputs):
    """Rows are overwritten as soon as they were given, and more batches are begun than there are lanes."""
    heads = [fold(bundle.current().head, TABLE.seen), other_head(1), other_head(2, 300)]
    backend = open_on_card(bundle, 1, "fp32", 0)
    for _ in range(4):
        begun = []
        for at in range(9):
            rows = np.array(inputs[at : at + 16])
            begun.append(backend.begin(list(rows), heads[at % 3]))
            rows[:] = 0
        for at in (8, 0, 5, *range(9)):
            found = begun[at].result()
            np.testing.assert_allclose(found.features, FEATURES[at : at + 16], atol=1e-4)
            expected = log_probabilities(heads[at % 3], FEATURES[at : at + 16])
            np.testing.assert_allclose(found.scores, expected, atol=1e-3)
    backend.close()


def test_filters_and_ties_are_those_of_the_cpu(bundle, inputs):
    """Classes with the same row have the same score, and their order is that of the columns."""
    own = fold(bundle.current().head, TABLE.seen)
    twice = np.array([0, 3, 3, 1, 1, 1, 6, 0])
    tied = FoldedHead(own.weight[twice], own.bias[twice], np.zeros(8, np.float32)).only(np.arange(8) != 7)
    backend = open_on_card(bundle, 1, "fp32", 0)
    if not backend.ranks(8):
        pytest.skip("the card does not rank")
    for _ in range(3):
        scores, _ = backend.run(inputs, tied)
        best = backend.begin(inputs, tied, 8).result().best
        assert np.isneginf(scores[:, 7]).all()
        assert np.array_equal(best.columns, best_columns(scores, 8))
        np.testing.assert_array_equal(best.scores, np.take_along_axis(scores, best.columns, axis=1))
    backend.close()


def test_any_calls_from_several_threads_give_right_answers(bundle, inputs):
    """As test_dispatcher.py does on the stand-in, whose interleavings are invented; here they are the card's."""
    heads = [fold(bundle.current().head, TABLE.seen), other_head(1), other_head(2, 37), other_head(3, 1000)]
    backend = open_on_card(bundle, 1, "fp32", 0, limits=Limits(lanes=3, contexts=2, heads=1))
    wrong: list[BaseException] = []

    def step(rng: np.random.Generator) -> None:
        rows, head = int(rng.integers(1, 73)), heads[rng.integers(len(heads))]
        expected = log_probabilities(head, FEATURES[:rows])
        kind = rng.integers(8)
        if kind == 0:
            backend.hold(head)
        elif kind == 1:
            backend.close()
        elif kind < 5:
            np.testing.assert_allclose(backend.run(inputs[:rows], head)[0], expected, atol=1e-3)
        elif backend.ranks(3):
            found = backend.begin(inputs[:rows], head, 1 + rows % 3).result().best
            wanted = -np.sort(-expected, axis=1)[:, : 1 + rows % 3]
            np.testing.assert_allclose(found.scores, wanted, atol=1e-3)

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        try:
            for _ in range(60):
                step(rng)
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(seed,), daemon=True) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not any(thread.is_alive() for thread in threads), "somebody waits for ever"
    assert wrong == []
    backend.close()


def test_what_was_taken_of_the_card_is_given_back(bundle, inputs):
    cuda = Cuda(0)
    free = []
    for seed in range(6):
        backend = open_on_card(bundle, 1, "fp32", 0)
        for classes in (8, 20_000):
            for rows in (1, 8, 64, 72):
                backend.run(inputs[:rows], other_head(seed, classes))
        backend.close()
        with cuda.current():
            free.append(cuda.memory()[0])
    assert free[0] - free[-1] < 4 * MIB, free  # what the libraries keep, they keep from the first on


def test_a_batch_for_which_there_is_no_memory_is_told_and_the_next_one_runs(bundle, inputs):
    cuda = Cuda(0)
    backend = open_on_card(bundle, 1, "fp32", 0)
    small, large = other_head(1), other_head(2, 20_000)
    np.testing.assert_allclose(backend.run(inputs[:2], small)[0], log_probabilities(small, FEATURES[:2]), atol=1e-3)
    hogs: list[DeviceMemory] = []
    try:
        with cuda.current():
            size = cuda.memory()[0]
            while size >= MIB:  # all that is free, down to what the driver hands out at once
                with suppress(BackendError):
                    hogs.append(DeviceMemory(cuda, size))
                    continue
                size //= 2
        with pytest.raises(BackendError) as caught:
            backend.run(inputs[:64], large)
        assert caught.value.code in {"E-CUDA-MEMORY", "E-BACKEND-RUN"}
        assert caught.value.exit_code == 4
        np.testing.assert_allclose(backend.run(inputs[:2], small)[0], log_probabilities(small, FEATURES[:2]), atol=1e-3)
    finally:
        with cuda.current():
            for hog in hogs:
                hog.close()
    for head, rows in ((large, 64), (small, 72)):
        expected = log_probabilities(head, FEATURES[:rows])
        np.testing.assert_allclose(backend.run(inputs[:rows], head)[0], expected, atol=1e-3)
    backend.close()
