"""SP-AEN's G for photographs: F(x) back to a picture of 128 px, judged by pixels and a comparator.

Published is a fixed inverter of AlexNet's fc6 (Dosovitskiy and Brox) to 256 px and CaffeNet's conv5 as the comparator.
Their weights can be given as files; without them, this is a variant: a smaller decoder trained from scratch, compared
in an early map of the frozen backbone (docs/methods.md 3.5).
"""

from __future__ import annotations

import copy
import io
import json
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from zsl_runtime.errors import ArtefactError
from zsl_train.backbones.base import read_weights
from zsl_train.data.pictures import SIDE
from zsl_train.devices import CPU, current, tensor_of
from zsl_train.methods.base import SHEET, SHEET_FIGURES
from zsl_train.methods.sp_aen.config import SLOPE, Config
from zsl_train.methods.sp_aen.decoder import Decoder

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from zsl_train.data.pictures import Pictures

INVERTED = 4096  # width of fc6, which the head of G gives to its picture part
CAFFE_MEAN = (104.0, 117.0, 123.0)  # BGR grey levels that CaffeNet's pictures are centred at
PADDING = (1, 2, 1, 2)  # 3 px as published, 224 to 227; on which sides is not known, and both pictures have the same
GREY, SPREAD = 128.0, 64.0  # the decoder's 0 and 1 in grey levels
SHEET_COLUMNS = 4  # pairs side by side on the sheet


class FromScratch(nn.Module):
    """fc6-like vector (B, 4096) -> grey levels (B, 3, 128, 128): five up-convolutions, a 3x3 between them.

    Up-convolutions are 4x4 of stride 2 as published, half as many of them wide; LeakyReLU(0.3) between.

    Args:
        channels: c; the maps are 4096/16 at 4 px, then c at 8, c/2 at 16, c/4 at 32, c/8 at 64, and 3 at 128.

    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        widths = [INVERTED // 16, *(channels >> power for power in range(4))]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.ConvTranspose2d(before, after, 4, 2, 1), nn.LeakyReLU(SLOPE)]
            layers += [nn.Conv2d(after, after, 3, padding=1), nn.LeakyReLU(SLOPE)]
        self.layers = nn.Sequential(*layers, nn.ConvTranspose2d(widths[-1], 3, 4, 2, 1))

    def forward(self, inverted: Tensor) -> Tensor:
        """(B, 4096) -> (B, 3, 128, 128)."""
        return GREY + SPREAD * self.layers(inverted.view(len(inverted), -1, 4, 4))  # type: ignore[no-any-return]


def multiply_adds(hidden: int, channels: int, attributes: int) -> int:
    """Of one picture through G's head and the decoder trained from scratch, once forward."""
    widths = [INVERTED // 16, *(channels >> power for power in range(4))]
    total, side = hidden * (attributes + INVERTED), 4
    for before, after in pairwise(widths):
        total += side**2 * 16 * before * after + (2 * side) ** 2 * 9 * after**2
        side *= 2
    return total + side**2 * 16 * widths[-1] * 3


class Inverter(nn.Module):
    """The published picture part: fc6 (B, 4096) -> grey levels of 256 px, halved to 128 (docs/methods.md 3.5).

    Three linear layers of 4096, then up-convolutions 4x4 of stride 2 with 3x3 ones between the first. Weight files have
    the keys `dense.{0,1,2}` and `up.{0..5}`, `conv.{0,1,2}`, each with weight and bias in PyTorch's layout; what comes
    out is BGR around CAFFE_MEAN, as its authors' network gives it.
    """

    UP = ((256, 256), (512, 256), (256, 128), (128, 64), (64, 32), (32, 3))
    CONV = ((256, 512), (256, 256), (128, 128))

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.ModuleList(nn.Linear(INVERTED, INVERTED) for _ in range(3))
        self.up = nn.ModuleList(nn.ConvTranspose2d(before, after, 4, 2, 1) for before, after in self.UP)
        self.conv = nn.ModuleList(nn.Conv2d(before, after, 3, padding=1) for before, after in self.CONV)

    def forward(self, inverted: Tensor) -> Tensor:
        """(B, 4096) -> (B, 3, 128, 128)."""
        x = inverted
        for layer in self.dense:
            x = F.leaky_relu(layer(x), SLOPE)
        x = x.view(len(x), -1, 4, 4)
        for number, layer in enumerate(self.up):
            x = layer(x)
            if number < len(self.up) - 1:
                x = F.leaky_relu(x, SLOPE)
            if number < len(self.conv):
                x = F.leaky_relu(self.conv[number](x), SLOPE)
        levels = x + x.new_tensor(CAFFE_MEAN).view(3, 1, 1)
        return F.avg_pool2d(levels.flip(1), 2)


class CaffeNetConv5(nn.Module):
    """The published comparator: CaffeNet's convolutions up to conv5 with its ReLU.

    Sizes are Caffe's, which rounds up in pooling: of 227 px, conv1 makes 55, pool1 27, pool2 and conv5 13. The
    published pictures of 224 px are padded to 227; ours of 128 px likewise to 131 (31, 15, 7), after the mean is taken
    off.

    Weight files have the keys `conv1` to `conv5`, each with weight and bias in PyTorch's (and Caffe's) layout; other
    layers in the file are left out.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 96, 11, 4)
        self.conv2 = nn.Conv2d(96, 256, 5, padding=2, groups=2)
        self.conv3 = nn.Conv2d(256, 384, 3, padding=1)
        self.conv4 = nn.Conv2d(384, 384, 3, padding=1, groups=2)
        self.conv5 = nn.Conv2d(384, 256, 3, padding=1, groups=2)

    def forward(self, levels: Tensor) -> Tensor:
        """Grey levels (N, 3, h, w), RGB -> (N, 256, h', w')."""
        x = F.pad(levels.flip(1) - levels.new_tensor(CAFFE_MEAN).view(3, 1, 1), PADDING)
        for layer in (self.conv1, self.conv2):
            x = F.max_pool2d(F.relu(layer(x)), 3, 2, ceil_mode=True)
            x = F.local_response_norm(x, 5, 1e-4, 0.75)
        return F.relu(self.conv5(F.relu(self.conv4(F.relu(self.conv3(x))))))


def load_frozen(module: nn.Module, path: str, what: str) -> nn.Module:
    """Fill a module from a weight file and freeze it.

    Args:
        module: whose tensors the file must hold, others are left out.
        path: of the file (`read_weights`).
        what: for messages.

    Raises:
        UsageError: E-WEIGHTS-FILE when there is no such file.
        ArtefactError: E-WEIGHTS when it does not hold these tensors.

    """
    state = read_weights(Path(path))
    for key, wanted in module.state_dict().items():
        given = state.get(key)
        if not isinstance(given, Tensor) or given.shape != wanted.shape or not bool(given.isfinite().all()):
            found = f"{tuple(given.shape)}" if isinstance(given, Tensor) else "nothing of that name"
            raise ArtefactError(
                "E-WEIGHTS",
                f"{path} does not hold the weights of {what}: {key} is {found}, expected finite {tuple(wanted.shape)}; "
                "give a file with exactly these tensors",
            )
    module.load_state_dict({key: state[key].float() for key in module.state_dict()})
    return module.requires_grad_(requires_grad=False)


class PictureDecoder(Decoder):
    """G: d -> hidden -> 4096, LeakyReLU(0.3) after both, then the picture part; its losses against the pictures.

    Args:
        attributes: d.
        config: widths, weights and weight files.
        pictures: to rebuild.
        rows: (n,) the training pictures among them.

    """

    def __init__(self, attributes: int, config: Config, pictures: Pictures, rows: NDArray[np.int64]) -> None:
        super().__init__()
        self.config = config
        self.first = nn.Linear(attributes, config.hidden)
        self.last = nn.Linear(config.hidden, INVERTED)
        self.picture: nn.Module = FromScratch(config.decoder_channels)
        if config.inverter_weights:
            self.picture = load_frozen(Inverter(), config.inverter_weights, "the inverter")
        if config.comparator_weights:
            comparator = load_frozen(CaffeNetConv5(), config.comparator_weights, "the comparator")
        else:  # a copy: the backbone stays on the CPU, where folds side by side share it
            comparator = pictures.comparator if current() == CPU else copy.deepcopy(pictures.comparator).to(current())
        # In a tuple: neither is a part of what is trained and saved.
        self._frozen = (comparator, pictures)
        self._rows = rows

    def forward(self, embedding: Tensor) -> Tensor:
        """F(x) (B, d) -> grey levels (B, 3, 128, 128), not clipped."""
        hidden = F.leaky_relu(self.first(embedding), SLOPE)
        return self.picture(F.leaky_relu(self.last(hidden), SLOPE))  # type: ignore[no-any-return]

    def losses(self, embedding: Tensor, features: Tensor, rows: Tensor) -> dict[str, Tensor]:  # noqa: ARG002  # Decoder
        """Mean squared error of pixels (grey levels) and of the comparator's map, weighted (paper, Eq. 3)."""
        comparator, pictures = self._frozen
        levels = tensor_of(pictures.read(self._rows[rows.numpy(force=True)])).permute(0, 3, 1, 2).float()
        rebuilt = self(embedding)
        losses = {"pixels": self.config.pixel_weight * F.mse_loss(rebuilt, levels)}
        if self.config.perceptual_weight > 0:
            with torch.no_grad():
                wanted = comparator(levels)
            losses["perceptual"] = self.config.perceptual_weight * F.mse_loss(comparator(rebuilt), wanted)
        return losses

    def rebuild(self, embedding: Tensor) -> Tensor:
        """F(x) (B, d) -> pictures (B, 128, 128, 3) uint8."""
        levels: Tensor = self(embedding)
        return levels.clamp(0, 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def sheet(pictures: NDArray[np.uint8], rebuilt: NDArray[np.uint8], rows: NDArray[np.int64]) -> dict[str, bytes]:
    """A PNG of pairs, picture left and reconstruction right, and the figures behind it.

    Args:
        pictures: (n, 128, 128, 3).
        rebuilt: likewise.
        rows: (n,) which pictures of the data they are.

    Returns:
        name -> content of two files; the error is the mean square over pixels in 0..1, as in the paper's Table 3.

    """
    count = len(pictures)
    lines = -(-count // SHEET_COLUMNS)
    canvas = np.full((lines * SIDE, SHEET_COLUMNS * 2 * SIDE, 3), 255, np.uint8)
    for place, pair in enumerate(zip(pictures, rebuilt, strict=True)):
        top, left = place // SHEET_COLUMNS * SIDE, place % SHEET_COLUMNS * 2 * SIDE
        canvas[top : top + SIDE, left : left + 2 * SIDE] = np.concatenate(pair, axis=1)
    with io.BytesIO() as file:
        Image.fromarray(canvas).save(file, "PNG")
        png = file.getvalue()
    errors = ((pictures.astype(np.float64) - rebuilt) / 255) ** 2
    figures = {
        "pictures": "held-out training pictures, in the order of the sheet; each left, its reconstruction right",
        "rows": rows.tolist(),
        "mean_squared_error": float(errors.mean()),
        "each": errors.mean(axis=(1, 2, 3)).tolist(),
    }
    return {SHEET: png, SHEET_FIGURES: (json.dumps(figures, indent=1) + "\n").encode()}
