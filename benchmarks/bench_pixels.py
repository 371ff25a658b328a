"""Is the compiled resize and crop faster than Pillow and NumPy, for the same bytes? Is direct JPEG decoding?

Pictures of 500 x 375 pixels, decoded, become one uint8 batch (N, P, P, 3). `native-...` is one call of
`resize_crop_batch` on one thread by each of the kernels that this CPU can run, `native-threads` the fastest ones on all
CPUs that this process may use, `pillow` and `numpy` what one writes without us. `torch` is the call that
torchvision.transforms.v2.Resize makes for tensors, on one thread; `torchvision` needs an environment of its own
(README.md here). Neither promises our bytes: they are held to a mean difference, which goes into the results.
All ways are timed in turns.
"""

from __future__ import annotations

import io
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec

import numpy as np
import pytest
from PIL import Image
from turns import Contender

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


def exact(wanted):
    return lambda squares: np.testing.assert_array_equal(squares, wanted)


def near(wanted):
    def check(squares):
        assert np.abs(squares.astype(int) - wanted).mean() <= MEAN_DIFFERENCE

    return check


@pytest.mark.filterwarnings("ignore")  # torch and torchvision deprecate what they use
@pytest.mark.parametrize("spec", SPECS)
def bench_resize_and_crop(measure_in_turns, pictures, spec):
    wanted = by_numpy(pictures, SPECS[spec])
    found = {name: Contender(partial(way, pictures, SPECS[spec]), exact(wanted)) for name, way in EXACT.items()}
    notes, missing = {}, {}
    for name, way in NEAR.items():
        try:
            apart = np.abs(way(pictures, SPECS[spec]).astype(int) - wanted)
        except (ImportError, RuntimeError) as error:  # torchvision beside a torch it was not built with
            missing[name] = " ".join(str(error).split())
            continue
        notes[name] = {"mean_difference": round(float(apart.mean()), 4), "most": int(apart.max())}
        found[name] = Contender(partial(way, pictures, SPECS[spec]), near(wanted))
    with torch_on_one_thread():
        measure_in_turns(
            found,
            things=BATCH,
            unit="pictures",
            against="pillow",
            named=lambda name: f"bench_resize_and_crop[{name}-{spec}]",
            missing=missing,
            notes=notes,
        )


@contextmanager
def torch_on_one_thread():
    """Where torch is installed; the others' threads are asked for in each call."""
    if find_spec("torch") is None:
        yield
        return
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def bench_decode_jpeg(measure_in_turns, pictures):
    """`decode` of JPEG bytes with and without the extra `jpeg`."""
    files = []
    for picture in pictures:
        stream = io.BytesIO()
        Image.fromarray(picture).save(stream, "JPEG", quality=90, subsampling=2)
        files.append(stream.getvalue())
    expected = [np.asarray(Image.open(io.BytesIO(file))) for file in files]

    def check(decoded):
        for picture, wanted in zip(decoded, expected, strict=True):
            np.testing.assert_array_equal(picture, wanted)

    def by_pillow():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(jpeg, "_trusted_library", lambda: None)
            return [decode(file) for file in files]

    found, missing = {"pillow": Contender(by_pillow, check)}, {}
    if jpeg._trusted_library() is None:
        missing["direct"] = "the extra `jpeg` is not installed, or does not give Pillow's bytes here"
    else:
        found["direct"] = Contender(lambda: [decode(file) for file in files], check)
    measure_in_turns(
        found,
        things=BATCH,
        unit="pictures",
        against="pillow",
        named=lambda name: f"bench_decode_jpeg[{name}]",
        missing=missing,
    )
