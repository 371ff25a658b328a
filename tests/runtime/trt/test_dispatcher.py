"""The execution of engines, on a card and a TensorRT that are none and stricter than real ones."""

from __future__ import annotations

import gc
import shutil
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.fake_card import FakeCard
from support.fake_cuda import cudaError_t
from support.tiny_bundle import as_regions, class_table, draw_pictures, features_of, lift_of
from zsl_runtime.backends.opening import open_backend
from zsl_runtime.backends.tensorrt import open_on_card
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.errors import ArtefactError, BackendError, UsageError
from zsl_runtime.graphs.ports import InputPort
from zsl_runtime.head.head import FoldedHead, best_columns, fold
from zsl_runtime.trt.dispatcher import Limits

TABLE = class_table()
PICTURES = draw_pictures(TABLE, np.arange(8).repeat(9), seed=5)  # 72
FEATURES = features_of(PICTURES)


@pytest.fixture(scope="module")
def bundles(shared_bundle, tmp_path_factory) -> dict[tuple[str, bool], Bundle]:
    """Copies: engines are stored in them."""
    folder = tmp_path_factory.mktemp("bundles")
    return {
        (kind, lift): Bundle.open(shutil.copytree(shared_bundle(kind=kind, lift=lift), folder / f"{kind}{lift}"))
        for kind in ("images", "backbone_features")
        for lift in (True, False)
    }


@pytest.fixture
def bundle(bundles) -> Bundle:
    return bundles["images", True]


@pytest.fixture
def head(bundle) -> FoldedHead:
    return fold(bundle.current().head, TABLE.seen)


@pytest.fixture(autouse=True)
def own_cache_and_no_engines(monkeypatch, tmp_path, bundles):
    monkeypatch.setenv("ZSL_CACHE", str(tmp_path / "cache"))
    for bundle in bundles.values():
        shutil.rmtree(bundle.path / "engines", ignore_errors=True)


@pytest.fixture(params=[0, 1, None])
def card(request, monkeypatch):
    """Work is done by chance before anybody waits (two seeds), or only then."""
    made = FakeCard(monkeypatch, seed=request.param)
    yield made
    made.check()


@pytest.fixture
def one(monkeypatch):
    made = FakeCard(monkeypatch)
    yield made
    made.check()


def log_probabilities(features: np.ndarray, head: FoldedHead, *, lift: bool = True) -> np.ndarray:
    """The definition, in float64."""
    x = (lift_of(features) if lift else features).astype(np.float64)
    exp = np.exp(x @ head.weight.T.astype(np.float64) + head.bias + head.class_bias)
    with np.errstate(divide="ignore"):
        return np.log(exp / exp.sum(axis=1, keepdims=True))


def check_scores(found, count: int, head: FoldedHead, begin: int = 0) -> None:
    expected = log_probabilities(FEATURES[begin : begin + count], head)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=2e-5)


def other_head(head: FoldedHead, seed: int, classes: int = 8) -> FoldedHead:
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((classes, head.weight.shape[1]), dtype=np.float32)
    return FoldedHead(weight, rng.standard_normal(classes, dtype=np.float32), np.zeros(classes, np.float32))


# --- answers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["images", "backbone_features"])
@pytest.mark.parametrize("lift", [True, False])
def test_scores_and_features_are_those_of_the_definition(bundles, card, kind, lift):
    bundle = bundles[kind, lift]
    card.add_engine(bundle)
    head = fold(bundle.current().head, TABLE.seen)
    backend = open_backend("tensorrt", bundle, threads=1)
    shape = (8, 8, 3) if kind == "images" else (4, 3)
    assert backend.input_port() == InputPort(kind, "uint8" if kind == "images" else "float32", shape)
    for rows in (1, 3, 3, 3, 24, 72):
        inputs = PICTURES[:rows] if kind == "images" else as_regions(PICTURES[:rows])
        scores, features = backend.run(inputs, head)
        assert (scores.dtype, features.dtype) == (np.float32, np.float32)
        np.testing.assert_allclose(features, FEATURES[:rows], atol=2e-6)
        np.testing.assert_allclose(scores, log_probabilities(FEATURES[:rows], head, lift=lift), atol=2e-5)
        np.testing.assert_allclose(backend.features(inputs), features, atol=1e-6)
    assert (backend.device, backend.precision, backend.library) == ("cuda:0", "fp32", "tensorrt 11.4.0.106 on Fake 0")
    backend.close()


@pytest.mark.parametrize("flavour", ["tensorrt", "tensorrt-rtx"])
def test_both_libraries_go_one_way(bundle, head, flavour, monkeypatch):
    card = FakeCard(monkeypatch, flavour)
    card.add_engine(bundle)
    backend = open_backend("tensorrt", bundle, threads=1)
    for _ in range(3):
        check_scores(backend.run(PICTURES[:5], head)[0], 5, head)
    assert (card.cuda.launched > 0) is (flavour == "tensorrt")  # the other one records its graphs itself
    backend.close()
    card.check()


def test_the_number_of_classes_is_free_and_filters_cost_no_upload(bundle, head, card):
    card.add_engine(bundle)
    backend = open_backend("tensorrt", bundle, threads=1)
    for rows in ([4], [7, 0, 2], list(range(8)) * 3):
        few = FoldedHead(head.weight[rows], head.bias[rows], head.class_bias[rows])
        backend.run(PICTURES[:24], few)
        reserved = card.cuda.calls.count("cudaMalloc")
        for keep in (np.arange(len(rows)) % 2 == 0, np.arange(len(rows)) == 0):
            scores, _ = backend.run(PICTURES[:24], few.only(keep))
            assert np.isneginf(scores[:, ~keep]).all()
            expected = log_probabilities(FEATURES[:24], few.only(keep))
            np.testing.assert_allclose(scores[:, keep], expected[:, keep], atol=2e-5)
        assert card.cuda.calls.count("cudaMalloc") == reserved
    backend.close()


@pytest.mark.parametrize("count", [1, 3, 8])
def test_best_columns_are_those_of_the_cpu_ties_included(bundle, head, card, count):
    card.add_engine(bundle)
    twice = np.array([0, 3, 3, 1, 1, 1, 6, 0])  # classes with the same row have the same score
    tied = FoldedHead(head.weight[twice], head.bias[twice], np.zeros(8, np.float32)).only(np.arange(8) != 7)
    backend = open_on_card(bundle, 1, "fp32", 0)
    scores, _ = backend.run(PICTURES, tied)
    answer = backend.begin(list(PICTURES), tied, count).result()
    assert answer.scores is None
    assert answer.features is None
    assert np.array_equal(answer.best.columns, best_columns(scores, count))
    assert np.array_equal(answer.best.scores, np.take_along_axis(scores, answer.best.columns, axis=1))
    assert (answer.best.columns.dtype, answer.best.scores.dtype) == (np.int64, np.float32)
    both = backend.begin(list(PICTURES), tied, count, features=True).result()
    assert both.scores is None
    assert np.array_equal(both.best.columns, answer.best.columns)
    np.testing.assert_allclose(both.features, FEATURES, atol=2e-5)
    backend.close()


def test_without_kernels_or_for_many_columns_the_card_does_not_rank(bundle, head, monkeypatch):
    card = FakeCard(monkeypatch, kernels=False)
    card.add_engine(bundle)
    backend = open_on_card(bundle, 1, "fp32", 0)
    assert not backend.ranks(1)
    with pytest.raises(UsageError, match="E-TOPK"):
        backend.begin(PICTURES, head, 2)
    check_scores(backend.begin(PICTURES, head).result().scores, 72, head)
    backend.close()
    card.check()
    card = FakeCard(monkeypatch)
    backend = open_on_card(bundle, 1, "fp32", 0)
    assert backend.ranks(64)
    assert not backend.ranks(65)


def test_synthesizer_lift_and_rows_run_on_the_cpu(bundle, one):
    one.add_engine(bundle)
    backend = open_backend("tensorrt", bundle, threads=1)
    np.testing.assert_allclose(backend.lift(FEATURES), lift_of(FEATURES), atol=2e-6)
    assert backend.synthesize(np.ones((2, 6), np.float32), np.zeros((2, 4), np.float32)).shape == (2, 12)
    with pytest.raises(ArtefactError, match="no rows"):
        backend.rows(np.ones((1, 6), np.float32))
    assert one.cuda.calls == ["cudaGetDeviceCount"]  # nothing was loaded onto the card
    backend.close()


def test_wrong_arrays_are_refused_before_the_card_sees_them(bundles, one):
    for kind in ("images", "backbone_features"):
        one.add_engine(bundles[kind, True])
    backend = open_on_card(bundles["images", True], 1, "fp32", 0)
    regions = open_on_card(bundles["backbone_features", True], 1, "fp32", 0)
    head = fold(bundles["images", True].current().head, TABLE.seen)
    nan = as_regions(PICTURES)
    nan[2, 1, 0] = np.nan
    wrong = [PICTURES.astype(np.float32), PICTURES[:, :, :, :2], PICTURES[0], PICTURES[:0], [], PICTURES.tolist()]
    wrong += [[PICTURES[0], PICTURES[0, :4]], "rows", [PICTURES[0].tolist()]]
    for rows in wrong:
        with pytest.raises(UsageError, match="E-INPUT-ARRAY"):
            backend.begin(rows, head)
    for rows in (as_regions(PICTURES).astype(np.float64), nan, list(nan)):
        with pytest.raises(UsageError, match="E-INPUT-ARRAY"):
            regions.begin(rows, head)
    for bad in (
        FoldedHead(head.weight, head.bias[:7], head.class_bias),
        FoldedHead(head.weight[:, :5], head.bias, head.class_bias),
        FoldedHead(head.weight * np.nan, head.bias, head.class_bias),
        FoldedHead(head.weight.astype(np.float64), head.bias, head.class_bias),
    ):
        for call in (lambda bad=bad: backend.begin(PICTURES, bad), lambda bad=bad: backend.hold(bad)):
            with pytest.raises(UsageError, match="E-INPUT-ARRAY"):
                call()
    assert "cudaMemcpyAsync" not in one.cuda.calls
    backend.close()
    regions.close()


def test_more_classes_than_the_engine_takes_are_refused(bundle, head, one):
    one.add_engine(bundle, classes=9)
    backend = open_on_card(bundle, 1, "fp32", 0)
    with pytest.raises(UsageError, match="there are 10 classes, and the engine takes 9") as caught:
        backend.run(PICTURES, other_head(head, 0, 10))
    assert caught.value.code == "E-HEAD-CLASSES"
    check_scores(backend.run(PICTURES, head)[0], 72, head)
    backend.close()


# --- profiles, graphs, lanes ----------------------------------------------------------------------------------------


def test_the_profile_is_chosen_by_the_batch_and_batches_are_padded_to_powers_of_two(bundle, head, one):
    one.add_engine(bundle, profiles=((1, 1, 6), (4, 16, 24)))
    backend = open_on_card(bundle, 1, "fp32", 0, graphs=False)
    ran = []
    for rows in (1, 2, 3, 5, 6, 7, 9, 17, 24):
        check_scores(backend.run(PICTURES[:rows], head)[0], rows, head)
        ran.append((one.trt.profiles[-1], one.trt.buckets[-1]))
    assert ran == [(0, 1), (0, 2), (0, 4), (0, 6), (0, 6), (1, 8), (1, 16), (1, 24), (1, 24)]
    check_scores(backend.run(PICTURES, head)[0], 72, head)  # more than the engine takes at once
    assert one.trt.buckets[-3:] == [24, 24, 24]
    backend.close()


def test_a_bucket_runs_once_is_recorded_and_then_is_one_launch(bundle, head, one):
    one.add_engine(bundle)
    backend = open_on_card(bundle, 1, "fp32", 0)
    enqueued = []
    for rows in (5, 6, 8, 7, 2, 2, 5):
        check_scores(backend.run(PICTURES[:rows], head)[0], rows, head)
        enqueued.append((len(one.trt.buckets), one.cuda.launched))
    assert enqueued == [(1, 0), (2, 1), (2, 2), (2, 3), (3, 3), (4, 4), (4, 5)]
    backend.close()


def test_graphs_can_be_switched_off(bundle, head, one):
    one.add_engine(bundle)
    backend = open_on_card(bundle, 1, "fp32", 0, graphs=False)
    for _ in range(4):
        check_scores(backend.run(PICTURES[:5], head)[0], 5, head)
    assert one.cuda.launched == 0
    backend.close()


@pytest.mark.parametrize(
    ("function", "status"),
    [
        ("cudaStreamBeginCapture", cudaError_t.cudaErrorStreamCaptureUnsupported),
        ("cudaStreamEndCapture", cudaError_t.cudaErrorStreamCaptureInvalidated),
        ("cudaGraphInstantiate", cudaError_t.cudaErrorMemoryAllocation),
    ],
)
def test_where_nothing_can_be_recorded_it_runs_without(bundle, head, card, function, status):
    card.add_engine(bundle)
    backend = open_on_card(bundle, 1, "fp32", 0)
    card.cuda.fail(function, status)
    for _ in range(4):
        check_scores(backend.run(PICTURES[:5], head)[0], 5, head)
    assert card.cuda.calls.count("cudaStreamBeginCapture") == 1
    backend.close()


def test_contexts_are_few_and_are_used_again(bundle, head, card):
    card.add_engine(bundle)
    backend = open_on_card(bundle, 1, "fp32", 0, limits=Limits(contexts=2))
    for rows in (1, 2, 4, 8, 16, 32) * 3:
        for _ in range(2):
            check_scores(backend.run(PICTURES[:rows], head)[0], rows, head)
    assert card.trt.alive["context"] <= 4  # two at work, and what is left of each profile
    assert card.trt.contexts <= 4
    backend.close()


def test_two_batches_are_at_work_at_once_and_neither_disturbs_the_other(bundle, head, card):
    card.add_engine(bundle)
    backend = open_on_card(bundle, 1, "fp32", 0)
    rows = [np.array(picture) for picture in PICTURES[:16]]
    for begin in range(0, 48, 8):
        first = backend.begin(rows[:8], head)
        second = backend.begin(rows[8:], head, 3)
        for row in rows:
            row[:] = 0  # they were copied
        check_scores(first.result().scores, 8, head, begin)
        assert np.array_equal(
            second.result().best.columns,
            best_columns(log_probabilities(FEATURES[begin + 8 : begin + 16], head).astype(np.float32), 3),
        )
        rows = [np.array(picture) for picture in PICTURES[begin + 8 : begin + 24]]
    assert len(card.cuda.streams) == 3  # two lanes, and the uploads
    backend.close()


def test_who_finds_no_lane_takes_that_of_the_oldest_batch(bundle, head, card):
    card.add_engine(bundle)
    backend = open_on_card(bundle, 1, "fp32", 0)
    begun = [backend.begin(PICTURES[i : i + 4], head) for i in range(20)]
    assert len(card.cuda.streams) == 1 + Limits().lanes
    for i in (19, 0, 7, *range(20)):  # in any order, and twice
        check_scores(begun[i].result().scores, 4, head, i)
    backend.close()


# --- heads ----------------------------------------------------------------------------------------------------------


def test_heads_come_and_go_and_the_engine_stays(bundle, head, card):
    card.add_engine(bundle)
    backend = open_on_card(bundle, 1, "fp32", 0)
    for seed in range(6):
        new = other_head(head, seed, 8 + seed)
        backend.hold(new)
        for _ in range(3):
            check_scores(backend.run(PICTURES[:9], new)[0], 9, new)
        if seed == 2:
            used = card.cuda.used()
    assert card.cuda.used() <= used + 4096  # class counts grow a little; heads do not pile up
    assert card.trt.contexts <= 1 + Limits().heads  # those of heads that are gone are made ready again
    check_scores(backend.run(PICTURES[:9], head)[0], 9, head)
    backend.close()


def test_a_head_that_is_at_work_stays_on_the_card(bundle, head, card):
    card.add_engine(bundle)
    backend = open_on_card(bundle, 1, "fp32", 0, limits=Limits(heads=0))
    begun = [(backend.begin(PICTURES[:4], new), new) for new in (other_head(head, seed) for seed in range(4))]
    for pending, new in begun:
        check_scores(pending.result().scores, 4, new)
    assert [backend.hold(other_head(head, seed)) for seed in range(3)] == [None] * 3
    backend.close()


def test_a_head_that_is_held_is_not_copied_again(bundle, head, one):
    one.add_engine(bundle)
    backend = open_on_card(bundle, 1, "fp32", 0)
    backend.hold(head)
    copies = one.cuda.calls.count("cudaMemcpyAsync")
    backend.run(PICTURES[:4], head)
    assert one.cuda.calls.count("cudaMemcpyAsync") - copies == 4  # rows and class bias there, scores and features back
    backend.run(PICTURES[:4], head)
    assert one.cuda.calls.count("cudaMemcpyAsync") - copies == 7  # the class bias is there already
    backend.close()


# --- failures -------------------------------------------------------------------------------------------------------


NEEDED = 6  # pieces of memory for a larger batch with a larger head: weight, bias, rows, scores, features, between


@pytest.mark.parametrize("calls_before", range(NEEDED + 1))
def test_out_of_memory_is_told_and_the_next_batch_runs(bundle, head, one, calls_before):
    one.add_engine(bundle)
    backend = open_on_card(bundle, 1, "fp32", 0)
    check_scores(backend.run(PICTURES[:2], head)[0], 2, head)
    real, count = one.cuda.cudaMalloc, [0]

    def malloc(size):
        count[0] += 1
        return real(size) if count[0] <= calls_before else (cudaError_t.cudaErrorMemoryAllocation, None)

    one.cuda.cudaMalloc = malloc
    wide = other_head(head, 1, 30)
    if calls_before >= NEEDED:
        check_scores(backend.run(PICTURES[:30], wide)[0], 30, wide)
    else:
        with pytest.raises(BackendError, match="smaller --batch-size") as caught:
            backend.run(PICTURES[:30], wide)
        assert (caught.value.code, caught.value.exit_code) == ("E-CUDA-MEMORY", 4)
    one.cuda.cudaMalloc = real
    for rows in (30, 30, 2, 1):
        check_scores(backend.run(PICTURES[:rows], head)[0], rows, head)
    backend.close()


def test_a_second_lane_without_memory_is_done_without(bundle, head, one):
    one.add_engine(bundle)
    backend = open_on_card(bundle, 1, "fp32", 0)
    first = backend.begin(PICTURES[:30], head)
    one.cuda.memory = one.cuda.used()  # full
    second = backend.begin(PICTURES[30:60], head)
    third = backend.begin(PICTURES[1:31], head)
    check_scores(second.result().scores, 30, head, 30)
    check_scores(first.result().scores, 30, head)
    check_scores(third.result().scores, 30, head, 1)
    backend.close()


@pytest.mark.parametrize("times", [1, 2])
def test_a_run_that_tensorrt_refuses_is_told_with_its_own_words(bundle, head, one, times):
    one.add_engine(bundle)
    backend = open_on_card(bundle, 1, "fp32", 0)
    one.trt.refusals = times
    for _ in range(times):
        with pytest.raises(BackendError, match="CUDA said no to a kernel") as caught:
            backend.run(PICTURES[:4], head)
        assert (caught.value.code, caught.value.exit_code) == ("E-BACKEND-RUN", 4)
    for _ in range(3):
        check_scores(backend.run(PICTURES[:4], head)[0], 4, head)
    one.trt.refusals = 1
    check_scores(backend.run(PICTURES[:4], head)[0], 4, head)  # a graph: TensorRT is not asked
    with pytest.raises(BackendError, match="E-BACKEND-RUN"):
        backend.run(PICTURES[:2], head)
    for _ in range(3):
        check_scores(backend.run(PICTURES[:2], head)[0], 2, head)
    backend.close()


def test_a_run_that_is_refused_while_it_is_recorded_runs_unrecorded(bundle, head, one):
    one.add_engine(bundle)
    backend = open_on_card(bundle, 1, "fp32", 0)
    backend.run(PICTURES[:4], head)
    one.trt.refusals = 1
    for _ in range(3):
        check_scores(backend.run(PICTURES[:4], head)[0], 4, head)
    assert one.cuda.launched == 0
    backend.close()


@pytest.mark.parametrize("kind", ["enqueue", "copy", "topk"])
@pytest.mark.parametrize("warm", [True, False])
def test_a_card_that_is_lost_is_told_at_once_and_ever_after(bundle, head, card, kind, warm):
    card.add_engine(bundle)
    backend = open_on_card(bundle, 1, "fp32", 0)
    if warm:
        for _ in range(3):
            backend.begin(PICTURES[:4], head, 2).result()
    card.cuda.break_down(kind)
    for _ in range(3):
        with pytest.raises(BackendError, match="go on with a backend of the CPU") as caught:
            backend.begin(PICTURES[:4], head, 2).result()
        assert (caught.value.code, caught.value.exit_code) == ("E-CUDA-LOST", 4)
    with pytest.raises(BackendError, match="E-CUDA-LOST"):
        backend.hold(other_head(head, 1))
    backend.close()  # raises nothing
    on_cpu = open_backend("ort", bundle, threads=1)
    check_scores(on_cpu.run(PICTURES[:4], head)[0], 4, head)
    with pytest.raises(BackendError, match=r"E-CUDA-LOST|E-DEVICE"):
        backend.run(PICTURES[:4], head)
    card.cuda.lost = None


def test_an_engine_that_is_none_is_told_with_the_library_s_words(bundle, one, tmp_path):
    path = one.add_engine(bundle)
    one.trt.Runtime = _Refusing
    backend = open_on_card(bundle, 1, "fp32", 0)
    with pytest.raises(ArtefactError, match=r"E-ENGINE-LOAD: tensorrt 11.4.0.106 does not load .* magicTag") as caught:
        backend.input_port()
    assert str(path) in caught.value.message


class _Refusing:
    def __init__(self, logger) -> None:
        self.logger = logger

    def deserialize_cuda_engine(self, serialized_engine):
        self.logger.log(self.logger.Severity.ERROR, "magicTag is wrong")


# --- opening and closing --------------------------------------------------------------------------------------------


def test_closing_finishes_what_was_begun_and_a_call_opens_it_again(bundle, head, card):
    card.add_engine(bundle)
    backend = open_on_card(bundle, 1, "fp32", 0)
    begun = [backend.begin(PICTURES[i : i + 4], head, best) for i, best in enumerate((0, 2, 0))]
    backend.close()
    backend.close()
    card.check()
    check_scores(begun[0].result().scores, 4, head)
    check_scores(begun[2].result().scores, 4, head, 2)
    assert begun[1].result().best.columns.shape == (4, 2)
    check_scores(backend.run(PICTURES, head)[0], 72, head)
    backend.close()


def test_a_backend_that_is_dropped_gives_everything_back(bundle, head, card):
    card.add_engine(bundle)
    backend = open_on_card(bundle, 1, "fp32", 0)
    backend.run(PICTURES, head)
    assert card.cuda.held()
    del backend
    gc.collect()
    card.check()


def test_every_call_is_for_the_card_that_was_asked_for_and_the_thread_keeps_its_own(bundle, head, monkeypatch):
    card = FakeCard(monkeypatch, devices=("8.6", "8.9"))
    card.add_engine(bundle, gpu="Fake 1")
    backend = open_backend("tensorrt", bundle, device="cuda:1", threads=1)
    assert (backend.device, backend.library) == ("cuda:1", "tensorrt 11.4.0.106 on Fake 1")
    for _ in range(3):
        check_scores(backend.run(PICTURES[:9], head)[0], 9, head)
    assert card.cuda.used(0) == 0
    assert card.cuda.used(1) > 0
    assert card.cuda.cudaGetDevice()[1] == 0
    backend.close()
    card.check()
    with pytest.raises(ArtefactError, match=r"E-ENGINE-MISMATCH: .* compute capability 8\.6"):
        open_backend("tensorrt", bundle, device="cuda:0", threads=1)
    with pytest.raises(BackendError, match="CUDA shows 2 cards") as caught:
        open_backend("tensorrt", bundle, device="cuda:2", threads=1)
    assert (caught.value.code, caught.value.exit_code) == ("E-DEVICE", 4)


# --- from several threads -------------------------------------------------------------------------------------------

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("run"), st.integers(1, 40), st.integers(0, 3)),
        st.tuples(st.just("best"), st.integers(1, 12), st.integers(0, 3)),
        st.tuples(st.just("overlap"), st.integers(1, 9), st.integers(0, 3)),
        st.tuples(st.just("hold"), st.just(0), st.integers(0, 3)),
        st.tuples(st.just("close"), st.just(0), st.just(0)),
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=25, deadline=None)
@given(st.lists(STEPS, min_size=1, max_size=3), st.integers(0, 2**16), st.integers(1, 3))
def test_any_sequence_of_calls_from_several_threads_gives_right_answers(bundles, threads, seed, lanes):
    bundle = bundles["images", True]
    own = fold(bundle.current().head, TABLE.seen)
    heads = [own, other_head(own, 1), other_head(own, 2, 11), own.only(~TABLE.seen)]
    wrong: list[BaseException] = []
    with pytest.MonkeyPatch.context() as patch:
        card = FakeCard(patch, seed=seed)
        card.add_engine(bundle)
        backend = open_on_card(bundle, 1, "fp32", 0, limits=Limits(lanes, contexts=2, heads=1))

        def work(steps):
            try:
                for what, rows, which in steps:
                    step(what, rows, heads[which])
            except BaseException as error:
                wrong.append(error)

        def step(what, rows, head):
            expected = log_probabilities(FEATURES[:rows], head)
            if what == "run":
                np.testing.assert_allclose(backend.run(PICTURES[:rows], head)[0], expected, atol=2e-5)
            elif what == "best":
                found = backend.begin(PICTURES[:rows], head, 2).result().best
                np.testing.assert_allclose(found.scores, -np.sort(-expected, axis=1)[:, :2], atol=2e-5)
            elif what == "overlap":
                begun = [backend.begin(list(PICTURES[i : i + rows]), head) for i in range(3)]
                for i, pending in enumerate(begun):
                    check_scores(pending.result().scores, rows, head, i)
            elif what == "hold":
                backend.hold(head)
            else:
                backend.close()

        workers = [threading.Thread(target=work, args=(steps,), daemon=True) for steps in threads]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(60)
        assert not any(worker.is_alive() for worker in workers), "somebody waits for ever"
        assert wrong == []
        backend.close()
        card.check()
