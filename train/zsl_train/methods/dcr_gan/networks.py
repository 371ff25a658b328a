"""DCR-GAN: its networks, and the two modules that ship."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from zsl_train.nets import GAN_SLOPE, Generator

if TYPE_CHECKING:
    from zsl_train.methods.base import Dims
    from zsl_train.methods.dcr_gan.config import Config

METRIC_SLOPE = 0.01  # negative slope in MN and SRN (docs/methods.md 4.1)
SILENT = 1e-3  # the one column of a dead F1: so small that no weight on it matters; not 0, which no export can compare


class TwoLayers(nn.Module):
    """inputs -> hidden -> LeakyReLU -> outputs -> output activation: MN, SRN, F1 and F2 alike."""

    def __init__(self, inputs: int, hidden: int, outputs: int, slope: float, output: str = "linear") -> None:
        super().__init__()
        self.slope = slope
        self.output = output
        self.first = nn.Linear(inputs, hidden)
        self.last = nn.Linear(hidden, outputs)

    def forward(self, rows: Tensor) -> Tensor:
        """(B, inputs) -> (B, outputs)."""
        found: Tensor = self.last(F.leaky_relu(self.first(rows), self.slope))
        if self.output == "sigmoid":
            return found.sigmoid()
        return found.relu() if self.output == "relu" else found


def rectifier(config: Config, attributes: int) -> TwoLayers:
    """SRN: A -> 2 A -> L."""
    return TwoLayers(attributes, 2 * attributes, config.searched_width, METRIC_SLOPE, config.rectify_output)


def regressors(config: Config, dims: Dims) -> dict[str, TwoLayers]:
    """`semantic`, F1: F -> A, and, where there is a searched space, `searched`, F2: F -> L."""
    hidden = config.regressor_hidden
    made = {"semantic": TwoLayers(dims.channels, hidden, dims.attributes, GAN_SLOPE, config.semantic_output)}
    if config.use_searched:
        made["searched"] = TwoLayers(dims.channels, hidden, config.searched_width, GAN_SLOPE)
    return made


class Lift(nn.Module):
    """f -> [f, F1(f), F2(f)], the columns of the views; without those that have no view.

    An F1 that says nothing of the pictures has no columns (`drop`), or one that is the same for all (`prior`): on it
    the published classifier learns its bias, how often each class occurs, and nothing else.

    Args:
        semantic: F1.
        searched: F2.

    """

    def __init__(self, semantic: TwoLayers | None, searched: TwoLayers | None) -> None:
        super().__init__()
        self.semantic = semantic
        self.searched = searched
        self.register_buffer("prior", None)
        self.prior: Tensor | None

    def silence(self, *, prior: bool) -> Lift:
        """Leave F1 out; where it ships as a prior, with one column that is the same for all. Returns self."""
        self.semantic = None
        self.prior = torch.full((1,), SILENT) if prior else None
        return self

    def widths(self, features: int) -> dict[str, int]:
        """Columns of each view for F features, in order (`head_views`)."""
        found = {"visual": features}
        if self.semantic is not None:
            found["semantic"] = self.semantic.last.out_features
        elif self.prior is not None:
            found["prior"] = 1
        return found if self.searched is None else found | {"searched": self.searched.last.out_features}

    def forward(self, features: Tensor) -> Tensor:
        """(B, F) -> (B, D)."""
        columns = [features]
        if self.semantic is not None:
            columns.append(self.semantic(features))
        elif self.prior is not None:
            columns.append(0 * features[:, :1] + self.prior)
        if self.searched is not None:
            columns.append(self.searched(features))
        return torch.cat(columns, dim=1)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Tensors without F1 are of a lift that was silenced."""
        if self.semantic is not None and not any(key.startswith(f"{prefix}semantic.") for key in state_dict):
            self.silence(prior=f"{prefix}prior" in state_dict)
        super()._load_from_state_dict(state_dict, prefix, *rest)


class Synthesizer(nn.Module):
    """Semantic vector and noise -> synthetic f, by way of the rectified vector where there is one."""

    def __init__(self, generator: Generator, rectify: TwoLayers | None) -> None:
        super().__init__()
        self.generator = generator
        self.rectify = rectify

    def forward(self, semantic: Tensor, noise: Tensor) -> Tensor:
        """(M, A), (M, Z) -> (M, F)."""
        condition = semantic if self.rectify is None else torch.cat([semantic, self.rectify(semantic)], dim=1)
        return self.generator(noise, condition)  # type: ignore[no-any-return]
