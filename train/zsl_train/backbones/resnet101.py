"""ResNet-101 as torchvision has it: same state_dict keys, shapes and arithmetic, so its weight files load.

Source: He et al., Deep Residual Learning for Image Recognition (2015), table 1; stride on the 3x3 convolution of a
bottleneck as in torchvision ("ResNet v1.5"). torchvision itself does not import beside the CPU build of torch.
"""

from __future__ import annotations

import hashlib
import http.client
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, cast

from torch import Tensor, nn
from torch.nn import functional

from zsl_runtime.errors import SystemProblem, from_os_error
from zsl_runtime.machine.cache import cache_folder, needed_cache
from zsl_runtime.machine.storage import replacing
from zsl_train.backbones.base import Backbone

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCKS = (3, 4, 23, 3)  # bottlenecks of the four stages
WIDTHS = (64, 128, 256, 512)  # channels inside them
EXPANSION = 4

SERVER = "https://download.pytorch.org/models/"
# The first eight digits of a file's sha256 are part of its name.
PUBLISHED = {"IMAGENET1K_V1": "resnet101-63fe2227.pth", "IMAGENET1K_V2": "resnet101-cd907fc2.pth"}
# V1 is what the published zero-shot codes call "ImageNet-pretrained"; V2 came years later, from another training.
DEFAULT = "IMAGENET1K_V1"
DOWNLOAD_BLOCK = 1 << 20  # bytes
TIMEOUT = 30.0  # seconds without an answer


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions around a shortcut."""

    def __init__(self, channels: int, width: int, stride: int, *, project: bool) -> None:
        """Args: input channels; inner width (output is 4 width); stride; whether the shortcut is a convolution."""
        super().__init__()
        out = width * EXPANSION
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.downsample = (
            nn.Sequential(nn.Conv2d(channels, out, 1, stride=stride, bias=False), nn.BatchNorm2d(out))
            if project
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, h, w) -> (N, 4 width, h / stride, w / stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = functional.relu(self.bn1(self.conv1(x)))
        x = functional.relu(self.bn2(self.conv2(x)))
        return functional.relu(self.bn3(self.conv3(x)) + shortcut)


class ResNet101(Backbone):
    """The convolutions of ResNet-101: pictures of 224 (or 448) px -> 7x7 (14x14) regions of 2048 channels."""

    name: ClassVar[str] = "resnet101"
    sizes: ClassVar[tuple[int, ...]] = (224, 448)
    stride: ClassVar[int] = 32
    # ImageNet's statistics, published as fractions of white.
    grey_mean: ClassVar[tuple[float, float, float]] = (255 * 0.485, 255 * 0.456, 255 * 0.406)
    grey_std: ClassVar[tuple[float, float, float]] = (255 * 0.229, 255 * 0.224, 255 * 0.225)
    channels: ClassVar[int] = WIDTHS[-1] * EXPANSION
    classifier: ClassVar[str] = "fc."

    def __init__(self, size: int) -> None:
        """Build the network with arbitrary weights for pictures of `size` px."""
        super().__init__(size)
        self.conv1 = nn.Conv2d(3, WIDTHS[0], 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        channels = WIDTHS[0]
        for number, (count, width) in enumerate(zip(BLOCKS, WIDTHS, strict=True), start=1):
            stride = 1 if number == 1 else 2
            stage = [Bottleneck(channels, width, stride, project=True)]
            channels = width * EXPANSION
            stage += [Bottleneck(channels, width, 1, project=False) for _ in range(count - 1)]
            self.add_module(f"layer{number}", nn.Sequential(*stage))

    @classmethod
    def find_weights(cls, weights: str | Path | None) -> Path:
        """A path as given; ``IMAGENET1K_V1`` (the default) or ``_V2`` from the cache folder, downloaded once."""
        name = DEFAULT if weights is None else str(weights)
        if name not in PUBLISHED:
            return Path(name)
        file = PUBLISHED[name]
        target = cls.cached(name)
        if not target.is_file():
            target = needed_cache() / target.parent.name / target.name
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                download(SERVER + file, target, sha256_prefix=file.removesuffix(".pth").rsplit("-", 1)[1])
            except OSError as error:
                raise from_os_error(error, "keep the downloaded weights") from error
        return target

    @staticmethod
    def cached(name: str = DEFAULT) -> Path:
        """Where the published weights `name` lie once they were downloaded."""
        return (cache_folder() or needed_cache()) / "weights" / PUBLISHED[name]

    def early_map(self, x: Tensor) -> Tensor:
        """(N, 3, h, w) -> (N, 512, h / 8, w / 8): the second of the four stages."""
        x = functional.relu(self.bn1(self.conv1(x)))
        x = functional.max_pool2d(x, 3, stride=2, padding=1)
        for number in (1, 2):
            x = cast("Tensor", self.get_submodule(f"layer{number}")(x))
        return x

    def feature_map(self, x: Tensor) -> Tensor:
        """(N, 3, P, P) -> (N, 2048, P / 32, P / 32)."""
        x = functional.relu(self.bn1(self.conv1(x)))
        x = functional.max_pool2d(x, 3, stride=2, padding=1)
        for number in range(1, len(BLOCKS) + 1):
            x = cast("Tensor", self.get_submodule(f"layer{number}")(x))
        return x


def download(url: str, target: Path, sha256_prefix: str) -> None:
    """Fetch a file, check its hash, and only then give it its name.

    Args:
        url: where it is.
        target: the file to write, in a folder that exists.
        sha256_prefix: how its sha256 begins, in hexadecimal.

    Raises:
        SystemProblem: E-DOWNLOAD when the server cannot be reached or sends something else.
        OSError: when the file cannot be written; nothing is left of it.

    """
    digest = hashlib.sha256()
    with replacing(target) as partial:
        with partial.open("r+b") as file:
            for block in _blocks(url):
                digest.update(block)
                file.write(block)
        if not digest.hexdigest().startswith(sha256_prefix):
            reason = f"got a file whose sha256 {digest.hexdigest()[:12]}... does not begin with {sha256_prefix}"
            raise _no_download(url, reason)


def _blocks(url: str) -> Iterator[bytes]:
    """What the server sends."""
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as reply:  # noqa: S310  # our own constant, https
            while block := reply.read(DOWNLOAD_BLOCK):
                yield block
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # it is the server's answer too, with an open connection
        raise _no_download(url, str(error)) from error


def _no_download(url: str, reason: str) -> SystemProblem:
    return SystemProblem(
        "E-DOWNLOAD",
        f"could not fetch {url} ({reason}); this needs a network: try again, or without one take --backbone "
        "efficientnet_lite2, whose weights came with zsl-deploy[train], or a copy of that file with --weights FILE",
    )
