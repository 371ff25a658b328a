"""The thin layer over CUDA's runtime API: every status is looked at, everything is given back once.

On a card that is none; and the same on a real one, where there is one.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from contextlib import suppress

import numpy as np
import pytest

from support.drivers import pretend_driver
from support.fake_card import FakeCard
from support.fake_cuda import Misuse, cudaError_t
from zsl_runtime.backends.devices import find_card
from zsl_runtime.errors import BackendError, ZslError
from zsl_runtime.machine.cards import Driver
from zsl_runtime.machine.native import has_kernels
from zsl_runtime.trt.cuda import FATAL, Cuda, DeviceMemory, Event, PinnedMemory, Stream


@pytest.fixture
def card(monkeypatch):
    made = FakeCard(monkeypatch, devices=("8.9", "9.0"), seed=None)
    yield made
    made.check()


def test_a_card_tells_its_name_capability_and_memory(card):
    first, second = Cuda(0), Cuda(1)
    assert (first.name, first.compute_capability) == ("Fake 0", "8.9")
    assert (second.name, second.compute_capability) == ("Fake 1", "9.0")
    with second.current():
        held = DeviceMemory(second, 1000)
        assert second.memory() == ((1 << 30) - 1000, 1 << 30)
        held.close()


@pytest.mark.parametrize(
    ("index", "status", "said"),
    [
        (2, None, "CUDA shows 2 cards, counted from 0"),
        (-1, None, "CUDA shows 2 cards"),
        (0, cudaError_t.cudaErrorInsufficientDriver, "could not count the cards: an invented InsufficientDriver"),
        (0, cudaError_t.cudaErrorNoDevice, "could not count the cards: an invented NoDevice"),
    ],
)
def test_a_card_that_is_not_there_is_told(card, monkeypatch, index, status, said):
    pretend_driver(monkeypatch, Driver("580.1", "13.0", (), ""))
    if status is not None:
        card.cuda.fail("cudaGetDeviceCount", status)
    with pytest.raises(BackendError, match=said) as caught:
        Cuda(index)
    assert (caught.value.code, caught.value.exit_code) == ("E-DEVICE", 4)
    assert caught.value.message.endswith("; or run on the CPU with --device cpu and without --backend")
    assert "zsl-doctor" not in caught.value.message


def test_without_a_driver_the_words_are_those_of_the_doctor(card, monkeypatch):
    card.cuda.fail("cudaGetDeviceCount", cudaError_t.cudaErrorInsufficientDriver)
    pretend_driver(monkeypatch, Driver("", "", (), "there is no NVIDIA driver: install it"))
    with pytest.raises(
        BackendError, match=r"^E-DEVICE: cuda:0 cannot be used: there is no NVIDIA driver: install it; or"
    ):
        Cuda(0)


def test_a_thread_keeps_its_own_card(card):
    cuda = Cuda(1)
    seen = []

    def work() -> None:
        before = card.cuda.cudaGetDevice()[1]
        with cuda.current():
            inside = card.cuda.cudaGetDevice()[1]
            with cuda.current():
                pass
            assert card.cuda.cudaGetDevice()[1] == 1
        seen.append((before, inside, card.cuda.cudaGetDevice()[1]))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [(0, 1, 0)] * 3
    with pytest.raises(KeyError), cuda.current():
        raise KeyError
    assert card.cuda.cudaGetDevice()[1] == 0


@pytest.mark.parametrize("kind", [DeviceMemory, PinnedMemory])
def test_memory_is_given_back_once(card, kind):
    cuda = Cuda(0)
    held = kind(cuda, 300)
    assert held.bytes == 300
    assert held.address > 0
    held.close()
    held.close()
    assert card.cuda.held() == {}


def test_copies_go_there_and_back_in_the_order_of_the_stream(card):
    cuda = Cuda(0)
    stream, there = Stream(cuda), DeviceMemory(cuda, 64)
    mine, back = PinnedMemory(cuda, 64), PinnedMemory(cuda, 64)
    values = mine.view(np.float32, (4, 4))
    values[...] = np.arange(16).reshape(4, 4)
    event = Event(cuda)
    cuda.copy_to_card(there.address, mine.address, 64, stream)
    cuda.copy_to_host(back.address, there.address, 64, stream)
    event.record(stream)
    assert not np.array_equal(back.view(np.float32, (4, 4)), values)  # nobody has waited
    event.synchronize()
    assert np.array_equal(back.view(np.float32, (4, 4)), values)
    stream.synchronize()
    for held in (event, there, mine, back, stream):
        held.close()


def test_a_recorded_graph_runs_as_often_as_it_is_launched(card):
    cuda = Cuda(0)
    stream, there = Stream(cuda), DeviceMemory(cuda, 16)
    mine, back = PinnedMemory(cuda, 16), PinnedMemory(cuda, 16)
    with stream.capturing() as graphs:
        cuda.copy_to_card(there.address, mine.address, 16, stream)
        cuda.copy_to_host(back.address, there.address, 16, stream)
    (graph,) = graphs
    for value in (3, 4):
        mine.view(np.uint8, (16,))[:] = value
        graph.launch(stream)
        stream.synchronize()
        assert (back.view(np.uint8, (16,)) == value).all()
    for held in (graph, graph, there, mine, back, stream):
        held.close()


def test_an_error_inside_a_recording_ends_it_and_is_the_one_that_is_raised(card):
    cuda = Cuda(0)
    stream = Stream(cuda)
    with pytest.raises(KeyError, match="mine"), stream.capturing() as graphs:
        raise KeyError("mine")
    assert graphs == []
    stream.synchronize()  # it is an ordinary stream again
    stream.close()


@pytest.mark.parametrize("function", ["cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphInstantiate"])
def test_a_recording_that_fails_leaves_nothing_behind(card, function):
    cuda = Cuda(0)
    stream = Stream(cuda)
    card.cuda.fail(function, cudaError_t.cudaErrorStreamCaptureInvalidated)
    with pytest.raises(BackendError, match="CUDA graph") as caught, stream.capturing():
        pass
    assert caught.value.code == "E-CUDA"
    stream.close()


@pytest.mark.parametrize(
    ("status", "code", "remedy"),
    [
        (cudaError_t.cudaErrorMemoryAllocation, "E-CUDA-MEMORY", "smaller --batch-size"),
        (cudaError_t.cudaErrorIllegalAddress, "E-CUDA-LOST", "backend of the CPU"),
        (cudaError_t.cudaErrorECCUncorrectable, "E-CUDA-LOST", "nvidia-smi"),
        (cudaError_t.cudaErrorInvalidValue, "E-CUDA", "zsl-doctor"),
    ],
)
def test_every_status_becomes_one_line_with_a_code_and_what_to_do(card, status, code, remedy):
    cuda = Cuda(1)
    with cuda.current():
        card.cuda.fail("cudaMalloc", status)
        with pytest.raises(BackendError) as caught:
            DeviceMemory(cuda, 3 << 20)
    error = caught.value
    assert (error.code, error.exit_code) == (code, 4)
    assert error.message.startswith("cuda:1 could not reserve 3.0 MiB on the card: an invented ")
    assert status.name in error.message
    assert remedy in error.message
    assert "\n" not in str(error)
    assert (status.name in FATAL) is (code == "E-CUDA-LOST")


def test_the_stand_in_is_strict(card):
    """What the other tests rest on: each misuse is seen. (And forgotten, for the fixture looks for them.)"""
    cuda = Cuda(0)
    fake = card.cuda
    stream, other, there = Stream(cuda), Stream(cuda), DeviceMemory(cuda, 64)
    mine = PinnedMemory(cuda, 64)

    def twice() -> None:
        fake.cudaFree(there.address)
        fake.cudaFree(there.address)

    def two_streams() -> None:
        cuda.copy_to_card(there.address, mine.address, 64, stream)
        cuda.copy_to_card(there.address, mine.address, 64, other)

    def too_far() -> None:
        cuda.copy_to_card(there.address + 32, mine.address, 64, stream)

    def queued() -> None:
        cuda.copy_to_card(there.address, mine.address, 64, stream)
        fake.cudaFree(there.address)

    def queued_pinned() -> None:
        cuda.copy_to_card(there.address, mine.address, 64, stream)
        fake.cudaFreeHost(mine.address)

    def other_card() -> None:
        with Cuda(1).current():
            stream.synchronize()

    def not_pinned() -> None:
        cuda.copy_to_host(np.zeros(64, np.uint8).ctypes.data, there.address, 64, stream)

    def gone() -> None:
        fake.cudaStreamSynchronize(12345)

    for misuse in (two_streams, too_far, queued, queued_pinned, other_card, not_pinned, gone, twice):
        with pytest.raises(Misuse):
            misuse()
        stream.synchronize()
        other.synchronize()
    there.handle = None
    assert len(fake.misuses) == 8
    fake.misuses.clear()
    for held in (mine, stream, other):
        held.close()


# --- on a card ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real() -> Cuda:
    card, problem = find_card(0)
    if card is None:
        pytest.skip(problem)
    try:
        return Cuda(0)
    except ZslError as error:
        pytest.skip(str(error))


@pytest.mark.gpu
def test_a_real_card_is_the_one_that_the_driver_shows(real):
    card, _ = find_card(0)
    assert (real.name, real.compute_capability) == (card.name, card.compute_capability)
    with real.current():
        free, total = real.memory()
    assert 0 < free <= total <= card.memory_bytes
    with pytest.raises(BackendError, match="E-DEVICE: cuda:99 cannot be used: CUDA shows"):
        Cuda(99)


@pytest.mark.gpu
def test_on_a_real_card_copies_go_there_and_back_and_a_graph_repeats_them(real):
    count = 1 << 22
    with real.current():
        stream, there, event = Stream(real), DeviceMemory(real, count), Event(real)
        mine, back = PinnedMemory(real, count), PinnedMemory(real, count)
        assert there.address % 256 == 0
        given, found = (held.view(np.uint8, (count,)) for held in (mine, back))

        def queue() -> None:
            real.copy_to_card(there.address, mine.address, count, stream)
            real.copy_to_host(back.address, there.address, count, stream)

        rng = np.random.default_rng(0)
        given[:] = rng.integers(0, 256, count, dtype=np.uint8)
        queue()
        event.record(stream)
        event.synchronize()
        assert np.array_equal(found, given)
        found[:] = 0
        with stream.capturing() as graphs:
            queue()
        stream.synchronize()
        assert not found.any()  # it was recorded, not run
        for _ in range(3):
            given[:] = rng.integers(0, 256, count, dtype=np.uint8)
            graphs[0].launch(stream)
            stream.synchronize()
            assert np.array_equal(found, given)
        for held in (*graphs, event, there, mine, back, stream):
            held.close()
            held.close()


@pytest.mark.gpu
def test_on_a_real_card_a_recording_that_fails_leaves_an_ordinary_stream(real):
    with real.current():
        stream, there, mine = Stream(real), DeviceMemory(real, 64), PinnedMemory(real, 64)

        def queue_and_fail() -> None:
            with stream.capturing():
                real.copy_to_card(there.address, mine.address, 64, stream)
                raise KeyError("mine")

        def spoil() -> None:
            with stream.capturing(), suppress(BackendError):
                stream.synchronize()  # not while it is recorded

        with pytest.raises(KeyError, match="mine"):
            queue_and_fail()
        with pytest.raises(BackendError, match="CUDA graph"):
            spoil()
        real.copy_to_card(there.address, mine.address, 64, stream)
        stream.synchronize()
        for held in (there, mine, stream):
            held.close()


@pytest.mark.gpu
def test_on_a_real_card_memory_that_is_not_there_is_told_and_nothing_is_lost(real):
    with real.current():
        with pytest.raises(BackendError, match="smaller --batch-size") as caught:
            DeviceMemory(real, 1 << 50)
        assert caught.value.code == "E-CUDA-MEMORY"
        held = DeviceMemory(real, 1 << 20)
        held.close()


LOSE = """
from zsl_runtime.errors import BackendError
from zsl_runtime.trt.cuda import Cuda, DeviceMemory, Stream
from zsl_runtime.trt.topk import CudaTopK

cuda = Cuda(0)
with cuda.current():
    stream, held = Stream(cuda), DeviceMemory(cuda, 1 << 20)
    CudaTopK(0).launch(256, 1, 64, 1, held.address, held.address, held.address, stream.address)
    for call in (stream.synchronize, lambda: DeviceMemory(cuda, 64), held.close):
        try:
            call()
            print("nothing")
        except BackendError as error:
            print(error.code, "cudaErrorIllegalAddress" in error.message)
"""


@pytest.mark.gpu
def test_a_real_card_whose_context_is_gone_is_lost_for_the_process_and_for_no_other(real):
    """A kernel that reads where nothing is. In a process of its own, for it cannot use the card afterwards."""
    if not has_kernels():
        pytest.skip("zsl-deploy was built without nvcc: there is no kernel to break the context with")
    done = subprocess.run([sys.executable, "-c", LOSE], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["E-CUDA-LOST True"] * 3, done.stderr
    assert done.returncode == 0, done.stderr
    with real.current():
        DeviceMemory(real, 64).close()
