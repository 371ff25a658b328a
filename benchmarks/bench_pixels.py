"""Is the compiled resize and crop faster than Pillow and NumPy, for the same bytes? Is direct JPEG decoding?

Pictures of 500 x 375 pixels, decoded, become one uint8 batch (N, P, P, 3). `native-...` is one call of
`resize_crop_batch` on one thread by each of the kernels that this CPU can run, `native-threads` the fastest ones on all
CPUs that this process may use, `pillow` and `numpy` what one writes without us. `torch` is the call that
torchvision.transforms.v2.Resize makes for tensors, on one thread; `torchvision` needs an environment of its own
(README.md here). Neither promises our bytes: they are held to a mean difference, which goes into the results.
"""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
from PIL import Image

from zsl_runtime import _native
from zsl_runtime.machine.threads import usable_cpus
from zsl_runtime.pixels import jpeg
from zsl_runtime.pixels.pixels import PixelSpec, decode, resize_crop_batch, resize_crop_reference

BATCH = 8
SPECS = {"224 of 256": PixelSpec(256, 224), "260": PixelSpec(260, 260)}
MEAN_DIFFERENCE = 0.5  # grey levels of 256, of libraries that round otherwise; another resampling is off by far more


def by_kernels(name):
    def way(pictures, spec):
        out = np.empty((len(pictures), spec.crop, spec.crop, 3), dtype=np.uint8)
        _native.resize_crop_batch(pictures, spec.resize, out, 1, name)
        return out

    return way


def by_threads(pictures, spec):
    return resize_crop_batch(pictures, spec, threads=usable_cpus())


def resized(picture, spec):
    """(width, height) after the resize, and (left, top) of the crop."""
    height, width = picture.shape[:2]
    short = min(height, width)
    size = spec.resize * width // short, spec.resize * height // short
    left, top = ((side - spec.crop) // 2 for side in size)
    return size, (left, top)


def by_pillow(pictures, spec):
    """What one writes with Pillow; for these shapes its passes come in the order of our definition."""
    out = []
    for picture in pictures:
        size, (left, top) = resized(picture, spec)
        image = Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR)
        out.append(np.asarray(image.crop((left, top, left + spec.crop, top + spec.crop))))
    return np.stack(out)


def by_numpy(pictures, spec):
    """The definition itself."""
    return np.stack([resize_crop_reference(picture, spec) for picture in pictures])


def by_torch(pictures, spec):
    """From and to NumPy without a copy, channels last, as torchvision does it fastest."""
    import torch

    squares = []
    for picture in pictures:
        (width, height), (left, top) = resized(picture, spec)
        channels_last = torch.from_numpy(picture).permute(2, 0, 1)[None]
        large = torch.nn.functional.interpolate(
            channels_last, size=(height, width), mode="bilinear", antialias=True, align_corners=False
        )
        squares.append(large[0, :, top : top + spec.crop, left : left + spec.crop].permute(1, 2, 0))
    return torch.stack(squares).numpy()


def by_torchvision(pictures, spec):
    import torch
    from torchvision.transforms import v2

    whole = v2.Compose([v2.Resize(spec.resize, antialias=True), v2.CenterCrop(spec.crop)])
    squares = [whole(torch.from_numpy(picture).permute(2, 0, 1)).permute(1, 2, 0) for picture in pictures]
    return torch.stack(squares).numpy()


EXACT = {f"native-{name}": by_kernels(name) for name in _native.kernels()} | {
    "native-threads": by_threads,
    "pillow": by_pillow,
    "numpy": by_numpy,
}
NEAR = {"torch": by_torch, "torchvision": by_torchvision}


@pytest.fixture(scope="module")
def pictures():
    """Soft pictures with noise: on pure noise a library that rounds otherwise would look worse than it is."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (BATCH, 25, 34, 3), dtype=np.uint8)
    made = []
    for one in coarse:
        soft = np.asarray(Image.fromarray(one).resize((500, 375), Image.Resampling.BICUBIC)).astype(int)
        made.append(np.clip(soft + rng.integers(-20, 21, soft.shape), 0, 255).astype(np.uint8))
    return made


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("way", EXACT)
def bench_resize_and_crop(measure, pictures, way, spec):
    np.testing.assert_array_equal(EXACT[way](pictures, SPECS[spec]), by_numpy(pictures, SPECS[spec]))
    measure(lambda: EXACT[way](pictures, SPECS[spec]), things=BATCH, unit="pictures")


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("way", NEAR)
def bench_resize_and_crop_by_others(measure, benchmark, pictures, way, spec):
    torch = pytest.importorskip("torch")
    if way == "torchvision":
        pytest.importorskip("torchvision", exc_type=(ImportError, RuntimeError))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            apart = np.abs(NEAR[way](pictures, SPECS[spec]).astype(int) - by_numpy(pictures, SPECS[spec]))
            assert apart.mean() <= MEAN_DIFFERENCE
            benchmark.extra_info |= {"mean_difference": round(float(apart.mean()), 4), "most": int(apart.max())}
            measure(lambda: NEAR[way](pictures, SPECS[spec]), things=BATCH, unit="pictures")
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("way", ["pillow", "direct"])
def bench_decode_jpeg(measure, monkeypatch, pictures, way):
    """`decode` of JPEG bytes with and without the extra `jpeg`."""
    files = []
    for picture in pictures:
        stream = io.BytesIO()
        Image.fromarray(picture).save(stream, "JPEG", quality=90, subsampling=2)
        files.append(stream.getvalue())
    expected = [np.asarray(Image.open(io.BytesIO(file))) for file in files]
    if way == "pillow":
        monkeypatch.setattr(jpeg, "_trusted_library", lambda: None)
    elif jpeg._trusted_library() is None:
        pytest.skip("the extra `jpeg` is not installed, or does not give Pillow's bytes here")
    for file, picture in zip(files, expected, strict=True):
        np.testing.assert_array_equal(decode(file), picture)
    measure(lambda: [decode(file) for file in files], things=BATCH, unit="pictures")
