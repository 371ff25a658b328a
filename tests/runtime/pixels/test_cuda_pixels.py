"""The card's kernels give the reference's bytes: on a card where there is one, else through a driver that is none.

`fake_cuda.cpp` stands in for libcuda: it runs the same device functions on the CPU, with the launches that were asked
for. What it cannot show is that the machine code made by nvcc does what the source says; the `gpu` tests do.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest

from support.fake_driver import run_with
from zsl_runtime import _native
from zsl_runtime.errors import BackendError, InputError, UsageError
from zsl_runtime.pixels.cuda_pixels import CudaPixels, DevicePicture
from zsl_runtime.pixels.pixels import PixelSpec, resize_crop_reference
from zsl_runtime.trt.cuda import Cuda, DeviceMemory, Stream


def why_no_card() -> str:
    """Why there is nothing to test; "" where a card ought to work. Kernels that a card refuses are no reason."""
    try:
        CudaPixels()
    except BackendError as error:
        absent = re.search(r"E-CUDA-KERNELS|no NVIDIA driver|start the NVIDIA|find the card", str(error))
        return str(error) if absent else ""
    return ""


def pictures(count: int = 12) -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    sizes = [(1, 1), (375, 500), (500, 333), (3, 900), (700, 2), (64, 64), (500, 375), (375, 500)]
    sizes += [tuple(rng.integers(1, 120, 2)) for _ in range(count - len(sizes))]
    return [np.clip(rng.integers(-100, 356, (*size, 3)), 0, 255).astype(np.uint8) for size in sizes]


# --- on a card ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def on_card() -> CudaPixels:
    if reason := why_no_card():
        pytest.skip(reason)
    return CudaPixels()


@pytest.mark.gpu
@pytest.mark.parametrize(("resize", "crop"), [(256, 224), (260, 260), (9, 5), (1, 1), (700, 33)])
def test_a_card_gives_the_reference_s_bytes(on_card, resize, crop):
    spec = PixelSpec(resize, crop)
    expected = np.stack([resize_crop_reference(one, spec) for one in pictures()])
    assert np.array_equal(on_card.resize_crop_batch(pictures(), spec), expected)


@pytest.mark.gpu
def test_a_card_takes_large_and_many_pictures(on_card):
    rng = np.random.default_rng(0)
    spec = PixelSpec(256, 224)
    large = rng.integers(0, 256, (3000, 4000, 3), dtype=np.uint8)
    assert np.array_equal(on_card.resize_crop_batch([large], spec)[0], resize_crop_reference(large, spec))
    small = [rng.integers(0, 256, (3 + i % 5, 4 + i % 3, 3), dtype=np.uint8) for i in range(70_000)]
    spec = PixelSpec(3, 2)
    result = on_card.resize_crop_batch(small, spec)
    for i in (0, 1, 65_534, 65_535, 65_536, 69_999):
        assert np.array_equal(result[i], resize_crop_reference(small[i], spec))


@pytest.mark.gpu
def test_on_a_card_several_threads_resize_what_lies_there_and_write_nothing_beside_it(on_card):
    """Each on a stream of its own, between guards; pictures of one size among others."""
    try:
        cuda = Cuda(0)
    except BackendError as error:
        pytest.skip(str(error))
    specs = [PixelSpec(256, 224), PixelSpec(9, 5), PixelSpec(64, 64)]
    given = pictures(24)
    wanted = {spec: np.stack([resize_crop_reference(one, spec) for one in given]) for spec in specs}
    wrong: list[object] = []

    def resize(spec: PixelSpec) -> None:
        stream, guard = Stream(cuda), 4096
        size = wanted[spec].nbytes
        there, out = [DeviceMemory(cuda, one.nbytes) for one in given], DeviceMemory(cuda, size + 2 * guard)
        back = np.full(out.bytes, 0xA5, np.uint8)
        for one, held in zip(given, there, strict=True):
            cuda.copy_to_card(held.address, one.ctypes.data, one.nbytes, stream)
        cuda.copy_to_card(out.address, back.ctypes.data, back.nbytes, stream)
        places = [DevicePicture(held.address, *one.shape[:2]) for one, held in zip(given, there, strict=True)]
        on_card.resize_crop_pointers(places, spec, out.address + guard, stream.address)
        cuda.copy_to_host(back.ctypes.data, out.address, back.nbytes, stream)
        stream.synchronize()
        squares = back[guard:-guard].reshape(wanted[spec].shape)
        wrong.extend([spec] if (back[:guard] != 0xA5).any() or (back[-guard:] != 0xA5).any() else [])
        wrong.extend((spec, at) for at in range(len(given)) if not np.array_equal(squares[at], wanted[spec][at]))
        for held in (*there, out, stream):
            held.close()

    def work(turn: int) -> None:
        try:
            with cuda.current():
                for spec in (*specs[turn % 3 :], *specs[: turn % 3]) * 3:
                    resize(spec)
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(turn,)) for turn in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# --- with a driver that is none -------------------------------------------------------------------------------------

PROGRAM = """
import ctypes, sys
import numpy as np
from zsl_runtime.pixels.cuda_pixels import CudaPixels, DevicePicture
from zsl_runtime.errors import ZslError
from zsl_runtime.pixels.pixels import PixelSpec, resize_crop_reference

rng = np.random.default_rng(5)
held = ctypes.CDLL("libcuda.so.1").fake_cuda_held
try:
    card = CudaPixels()
    for resize, crop in [(40, 33), (9, 9), (1, 1), (70, 3)]:
        spec = PixelSpec(resize, crop)
        sizes = [(1, 1), (50, 40), (3, 300), (200, 2), (40, 50), (33, 64), (50, 40)]  # one of them twice
        pictures = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
        expected = np.stack([resize_crop_reference(one, spec) for one in pictures])
        assert np.array_equal(card.resize_crop_batch(pictures, spec), expected)

        out = np.zeros_like(expected)
        places = [DevicePicture(one.ctypes.data, *one.shape[:2]) for one in pictures]
        card.resize_crop_pointers(places, spec, out.ctypes.data)
        assert np.array_equal(out, expected)
        assert held() == 2  # the context and the module
    many = [np.full((1, 1, 3), i % 251, dtype=np.uint8) for i in range(66_000)]
    assert np.array_equal(card.resize_crop_batch(many, PixelSpec(1, 1))[:, 0, 0, 0], np.arange(66_000) % 251)
    assert card.resize_crop_batch([], PixelSpec(8, 8)).shape == (0, 8, 8, 3)
    print("equal")
except ZslError as error:
    print(error)
card = None
print("held", held())
"""


@pytest.fixture
def fake_driver(driver_folder):
    """A function that runs PROGRAM with the stand-in for libcuda and returns its lines."""
    return lambda failing="": run_with(driver_folder, PROGRAM, failing)


def test_the_device_functions_and_launches_give_the_reference_s_bytes(fake_driver):
    assert fake_driver() == ["equal", "held 0"]


@pytest.mark.parametrize(
    ("failing", "said"),
    [
        ("cuInit", "no CUDA-capable device"),
        ("cuModuleLoadData", "load the kernels"),
        ("cuMemAllocAsync", "reserve memory"),
        ("cuLaunchKernel", "start the resize"),
    ],
)
def test_a_driver_that_fails_is_told_and_nothing_is_kept(fake_driver, failing, said):
    line, held = fake_driver(failing)
    assert line.startswith("E-CUDA: could not ")
    assert said in line
    assert held == "held 0"


# --- without a card -------------------------------------------------------------------------------------------------


def test_without_a_card_the_error_says_what_is_missing():
    if not why_no_card():
        pytest.skip("there is a card")
    with pytest.raises(BackendError, match=r"nvcc|driver|card") as caught:
        CudaPixels()
    assert caught.value.code in {"E-CUDA", "E-CUDA-KERNELS"}
    assert caught.value.exit_code == 4
    assert "\n" not in str(caught.value)


def test_a_build_without_nvcc_says_so(monkeypatch):
    monkeypatch.setattr(_native, "has_cuda_kernels", lambda: False)
    with pytest.raises(BackendError, match="without nvcc") as caught:
        CudaPixels()
    assert caught.value.code == "E-CUDA-KERNELS"


def test_a_missing_core_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "zsl_runtime._native", None)
    with pytest.raises(BackendError, match="pip install") as caught:
        CudaPixels()
    assert caught.value.code == "E-NATIVE"


@pytest.fixture
def unopened() -> CudaPixels:
    """Without a driver: what is checked before anything is sent to a card."""
    made = object.__new__(CudaPixels)
    made._error = _native.CudaError
    return made


def test_wrong_arguments_are_refused_before_the_card_sees_them(unopened):
    spec = PixelSpec(8, 8)
    with pytest.raises(InputError, match="picture 0"):
        unopened.resize_crop_batch([np.zeros((4, 4), np.uint8)], spec)
    with pytest.raises(UsageError, match="expected") as caught:
        unopened.resize_crop_batch([np.zeros((4, 4, 3), np.uint8)], spec, out=np.zeros((1, 8, 8, 3)))
    assert caught.value.code == "E-PIXELS-OUT"
    for bad, out in [(DevicePicture(0, 4, 4), 64), (DevicePicture(64, 0, 4), 64), (DevicePicture(64, 4, 4), 0)]:
        with pytest.raises(UsageError) as caught:
            unopened.resize_crop_pointers([bad], spec, out)
        assert caught.value.code == "E-PIXELS-POINTER"


def test_the_core_links_against_nothing_of_cuda():
    reader = shutil.which("readelf")
    if reader is None:
        pytest.skip("no readelf")
    listed = subprocess.run([reader, "-d", _native.__file__], capture_output=True, text=True, check=True).stdout
    needed = re.findall(r"\(NEEDED\).*\[(.+)\]", listed)
    assert needed
    assert not [name for name in needed if re.search("cu|nv", name)]
