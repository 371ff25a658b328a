"""What a backbone is: a frozen network from pictures to region features; and how weight files get into it."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self, cast

import torch
from torch import Tensor, nn

from zsl_runtime.errors import ArtefactError, UsageError
from zsl_runtime.pixels.pixels import PixelSpec

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

# Counters that BatchNorm keeps for training only. Weight files saved by old versions of torch lack them.
COUNTER = ".num_batches_tracked"
NAMED_KEYS = 3  # how many keys an error message names
SHORTCUT = "downsample"  # of a residual block: it runs beside convolutions that are counted


class Centres(NamedTuple):
    """Where the regions of a square lie along one side, in pixels of it: region i is centred at first + i step."""

    first: float
    step: float


class Backbone(nn.Module, ABC):
    """Frozen network: uint8 pictures -> float32 region features. Normalisation is inside.

    Always in eval mode: `train()` does not switch BatchNorm to batch statistics, and no parameter takes a gradient.

    Class attributes:
        name: its name in `zsl_train.backbones.BACKBONES`.
        sizes: picture sides P it can be built for, in pixels; the first is the default.
        stride: pixels between two regions.
        channels: V.
        grey_mean, grey_std: of red, green and blue, in grey levels 0..255; pictures are normalised with them.
        classifier: prefix of the weight file's keys that belong to its ImageNet classifier and are left out.

    Attributes:
        pixels: how pictures must be prepared for it.
        regions: R, a square grid in row order.

    """

    name: ClassVar[str]
    sizes: ClassVar[tuple[int, ...]]
    stride: ClassVar[int]
    grey_mean: ClassVar[tuple[float, float, float]]
    grey_std: ClassVar[tuple[float, float, float]]
    channels: ClassVar[int]
    classifier: ClassVar[str]

    mean: Tensor
    std: Tensor

    def __init__(self, size: int) -> None:
        """Build the network with arbitrary weights for pictures of `size` px."""
        super().__init__()
        self.pixels = PixelSpec(size, size)
        self.regions = (-(-size // self.stride)) ** 2
        for name, values in (("mean", self.grey_mean), ("std", self.grey_std)):
            # Not persistent: the state_dict holds exactly the published tensors. On the CPU even where the network is
            # built without memory of its own, to be filled by load_weights.
            buffer = torch.tensor(values, device="cpu").view(1, 3, 1, 1)
            self.register_buffer(name, buffer, persistent=False)
        self._weights_sha256: str | None = None

    @classmethod
    @abstractmethod
    def find_weights(cls, weights: str | Path | None) -> Path:
        """The weight file for what the user asked for; None means the published default."""

    @abstractmethod
    def feature_map(self, x: Tensor) -> Tensor:
        """Normalised pictures (N, 3, P, P) -> last map (N, V, height, width)."""

    def early_map(self, x: Tensor) -> Tensor:
        """Normalised pictures (N, 3, h, w) of any size -> a map in which near pictures look alike (`Comparator`).

        The last map, unless a backbone knows an earlier one, which keeps more of the picture.
        """
        return self.feature_map(x)

    def centres(self) -> Centres:
        """Where the regions lie, from the paddings and strides of the layers: they are not the equal tiles of a square.

        EfficientNet-Lite2 at 260 px has centres from 3.5 to 259.5; ResNet-101 at 224 px from 0.5 to 192.5.
        """
        place, jump = 0.0, 1
        for name, layer in self.named_modules():
            if not isinstance(layer, nn.Conv2d) or SHORTCUT in name:
                continue
            uneven = getattr(layer, "uneven", None)  # padding before and after, where torch's own has no words for it
            before = int(layer.padding[0]) if uneven is None else uneven[0]
            place += ((layer.kernel_size[0] - 1) / 2 - before) * jump
            jump *= layer.stride[0]
        # Pooling between convolutions, no layer of its own in ResNet-101, is padded evenly: it moves no centre.
        return Centres(place + 0.5, float(self.stride))

    def forward(self, images: Tensor) -> Tensor:
        """Region features of pictures.

        Args:
            images: (N, P, P, 3) uint8, RGB, as `zsl_runtime.pixels.prepare` gives them.

        Returns:
            (N, R, V) float32; region r is row r // width, column r % width of the grid.

        """
        # Floats first: TensorRT transposes no bytes.
        x = (images.float().permute(0, 3, 1, 2) - self.mean) / self.std  # (N, 3, P, P)
        return self.feature_map(x).flatten(2).transpose(1, 2)

    def train(self, mode: bool = True) -> Self:  # noqa: ARG002  # the signature is torch's
        """Stay in eval mode, whatever the caller's loop does with its modules."""
        return super().train(mode=False)

    @property
    def weights_sha256(self) -> str:
        """Hash of the names, shapes and values of all weights: the same for the same weights in any kind of file."""
        if self._weights_sha256 is None:
            self._weights_sha256 = _hash_tensors(self.state_dict())
        return self._weights_sha256

    def load_weights(self, state: Mapping[str, Any], source: str) -> Self:
        """Take over published or saved weights and freeze them.

        Args:
            state: tensors by key; the classifier and BatchNorm's counters are ignored, half precision is widened.
            source: where they come from, for messages.

        Raises:
            ArtefactError: E-WEIGHTS when keys, shapes or values do not fit.

        """
        own = self.state_dict()
        expected = {k: v for k, v in own.items() if not k.endswith(COUNTER)}
        given = {k: v for k, v in state.items() if not (k.endswith(COUNTER) or k.startswith(self.classifier))}
        _check_weights(expected, given, f"{source}: not weights of {self.name}")
        loaded = {k: v.detach().to(torch.float32, copy=True).contiguous() for k, v in given.items()}
        loaded |= {k: torch.tensor(0) for k in own.keys() - expected.keys()}
        self.load_state_dict(loaded, assign=True)
        self._weights_sha256 = None
        self.requires_grad_(requires_grad=False)
        return self.eval()


class Comparator(nn.Module):
    """Grey levels (N, 3, h, w), float32 in 0..255, RGB -> the early map of a frozen backbone.

    Gradients pass through it to the picture; its weights take none.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, levels: Tensor) -> Tensor:
        """(N, 3, h, w) -> (N, channels, h', w')."""
        return self.backbone.early_map((levels - self.backbone.mean) / self.backbone.std)


def _check_weights(expected: Mapping[str, Tensor], given: Mapping[str, Any], complaint: str) -> None:
    """Refuse weights that do not fit: missing or unexpected keys, other shapes, values that are no numbers."""
    missing = sorted(expected.keys() - given.keys())
    unexpected = sorted(given.keys() - expected.keys())
    if missing or unexpected:
        raise ArtefactError(
            "E-WEIGHTS",
            f"{complaint}: {len(missing)} of {len(expected)} tensors are missing{_some(missing)}, {len(unexpected)} "
            f"are unexpected{_some(unexpected)}; give a weight file of exactly this network",
        )
    for key, wanted in expected.items():
        tensor = given[key]
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point() or tensor.shape != wanted.shape:
            found = f"{tensor.dtype} {tuple(tensor.shape)}" if isinstance(tensor, Tensor) else type(tensor).__name__
            raise ArtefactError(
                "E-WEIGHTS",
                f"{complaint}: {key} is {found}, expected floating point {tuple(wanted.shape)}; "
                "give a weight file of exactly this network",
            )
        if not bool(torch.isfinite(tensor).all()):
            raise ArtefactError(
                "E-WEIGHTS", f"{complaint}: {key} holds values that are not finite; the file is damaged: get it again"
            )


def _some(keys: Collection[str]) -> str:
    """The first few keys in brackets, or nothing."""
    if not keys:
        return ""
    return f" ({', '.join(list(keys)[:NAMED_KEYS])}{', ...' if len(keys) > NAMED_KEYS else ''})"


def _hash_tensors(state: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for key in sorted(state):
        if not key.endswith(COUNTER):
            tensor = state[key].detach().cpu().contiguous()
            digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def read_weights(path: Path) -> dict[str, Any]:
    """Tensors of a weight file: ``.safetensors``, or what `torch.save` wrote (any code in it is refused).

    Raises:
        UsageError: E-WEIGHTS-FILE when there is no such file.
        ArtefactError: E-WEIGHTS when it cannot be read as tensors by name.

    """
    if not path.is_file():
        raise UsageError("E-WEIGHTS-FILE", f"no weight file at {path}; give the path of a file that exists")
    try:
        state = _read_tensors(path)
    except Exception as error:  # unpickling foreign bytes fails in ways nobody lists
        first = str(error).strip().split("\n")[0][:120]
        raise ArtefactError(
            "E-WEIGHTS",
            f"{path} cannot be read as weights ({type(error).__name__}: {first}); expected a .pth file of tensors or a "
            ".safetensors file; get the file again",
        ) from error
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise ArtefactError(
            "E-WEIGHTS", f"{path} holds {type(state).__name__}, expected tensors by name; give a state_dict file"
        )
    return cast("dict[str, Any]", state)


def _read_tensors(path: Path) -> object:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)
