"""fp16: the model graph with weights and arithmetic in half precision, and what stays in float32.

Half: the backbone behind its normalisation of pictures, and the linear layers of embedder and lift. Float32: inputs
and outputs of the graph, the normalisation of pictures, L2 norms, attention, scalers, the head and its log-softmax:
they cost next to nothing, and half precision would lose small differences of large numbers there. Float32 too is a lift
to canonical coordinates (head rule `gaussian`). Half would do for answers: measured on CUB's fc1000 features and on 20
species by pooled EfficientNet-Lite2, shrinkage 0.5 to 0.001, rows are off by 7e-4 to 2.5e-3 of the scale (a backbone in
half: 1.5e-2) and 99.96 % or more of the best classes are the same. But it saves nothing (a thousandth of the
arithmetic or less), with little shrinkage a coordinate is off by up to 0.08 standard deviations, and photographs are
made evidence by `lift.onnx`, which is float32: so what is taught and what is labelled go through the same numbers.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from zsl_export.graphs import model_graph

if TYPE_CHECKING:
    from typing import Any

    import numpy as np
    from numpy.typing import NDArray

    from zsl_export.graphs import Graph
    from zsl_train.backbones.base import Backbone
    from zsl_train.data.given import GivenFeatures
    from zsl_train.methods.base import Trained

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


class HalfBackbone(nn.Module):
    """A backbone that normalises pictures in float32 and computes in the dtype of its weights."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        # Copies: 123.675 is none of the numbers that half precision holds.
        self.mean, self.std = (nn.Buffer(part.clone(), persistent=False) for part in (backbone.mean, backbone.std))
        self.inner = fold_norms(backbone).half()
        self.pixels, self.regions, self.channels = backbone.pixels, backbone.regions, backbone.channels

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(N, P, P, 3) uint8 -> (N, R, V) float32, as the backbone itself."""
        # Floats first: TensorRT transposes no bytes.
        x = (images.float().permute(0, 3, 1, 2) - self.mean) / self.std
        dtype = next(self.inner.parameters()).dtype
        regions: torch.Tensor = self.inner.feature_map(x.to(dtype))
        return regions.float().flatten(2).transpose(1, 2)


class HalfLinear(nn.Module):
    """A linear layer that computes in the dtype of its weights, float32 outside."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = copy.deepcopy(linear).half()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in) float32 -> (..., out) float32."""
        y: torch.Tensor = self.linear(x.to(self.linear.weight.dtype))
        return y.float()


def half_graph(backbone: Backbone | GivenFeatures, trained: Trained) -> Graph:
    """The graph behind `model.fp16.onnx`, in eval mode: the contract is that of `model.onnx`."""
    graph = model_graph(backbone, trained)
    module = copy.deepcopy(graph.module)
    stays = {"lift"} if trained.means is not None else set()
    for name in [one for one in _called_linears(module, graph) if one not in stays]:
        module.set_submodule(name, HalfLinear(module.get_submodule(name)))  # type: ignore[arg-type]
    if backbone.pixels is not None:
        module.backbone = HalfBackbone(backbone)
    return replace(graph, module=module.eval().requires_grad_(requires_grad=False))


def halved(graph: Graph) -> list[str]:
    """Names of the graph's tensors that are in half precision."""
    return [name for name, tensor in graph.module.state_dict().items() if tensor.dtype == torch.float16]


def _called_linears(module: nn.Module, graph: Graph) -> list[str]:
    """Linear layers that are called; of one whose weights are used by themselves, those stay as they are."""
    called: dict[int, int] = {}
    hooks = [
        part.register_forward_hook(lambda part, *_: called.update({id(part): called.get(id(part), 0) + 1}))
        for part in module.modules()
        if isinstance(part, nn.Linear)
    ]
    with torch.inference_mode():
        module(*graph.example().values())
    for hook in hooks:
        hook.remove()
    return [name for name, part in module.named_modules() if id(part) in called]


def fold_norms(backbone: Backbone) -> Backbone:
    """A copy of a backbone with every BatchNorm behind a convolution folded into it, in float32.

    In half precision the fold would round twice, and variances may be beyond what it holds.
    """
    folded = copy.deepcopy(backbone)
    made: dict[int, nn.Module] = {}
    kept: list[Any] = []  # outputs stay alive: the id of a dead one may come again
    pairs: list[tuple[nn.Module, nn.Module]] = []

    def after_convolution(part: nn.Module, _: Any, output: torch.Tensor) -> None:
        made[id(output)] = part
        kept.append(output)

    def before_norm(part: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if id(inputs[0]) in made:
            pairs.append((made[id(inputs[0])], part))

    hooks = [
        part.register_forward_hook(after_convolution) for part in folded.modules() if isinstance(part, CONVOLUTIONS)
    ]
    hooks += [part.register_forward_pre_hook(before_norm) for part in folded.modules() if isinstance(part, NORMS)]
    with torch.inference_mode():
        side = backbone.pixels.crop
        folded.feature_map(torch.zeros(1, 3, side, side))
    for hook in hooks:
        hook.remove()
    names = {id(part): name for name, part in folded.named_modules()}
    for convolution, norm in pairs:
        _fold(convolution, norm)
        folded.set_submodule(names[id(norm)], nn.Identity())
    return folded


def _fold(convolution: Any, norm: Any) -> None:
    weight, bias = fuse_conv_bn_weights(
        convolution.weight, convolution.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    convolution.weight = nn.Parameter(weight.detach(), requires_grad=False)
    convolution.bias = nn.Parameter(bias.detach(), requires_grad=False)


def emulate(graph: Graph) -> nn.Module:
    """The graph's module as a GPU runs it, in float32: what enters and leaves each layer is rounded to half precision.

    Sums inside a layer stay in float32, as tensor cores accumulate. A number beyond 65504 becomes infinite, as there.
    ONNX Runtime on the CPU computes half-precision graphs in float32 and would hide both.
    """
    module = copy.deepcopy(graph.module)
    half = [part for part in module.modules() if isinstance(part, (HalfBackbone, HalfLinear))]
    leaves = [leaf for part in half for leaf in part.modules() if not list(leaf.children())]
    module.float()
    for leaf in leaves:
        leaf.register_forward_pre_hook(lambda _, inputs: tuple(_rounded(x) for x in inputs))
        leaf.register_forward_hook(lambda _, __, output: _rounded(output))
    return module


def _rounded(x: torch.Tensor) -> torch.Tensor:
    return x.half().float()


def run_emulated(
    module: nn.Module, pictures: NDArray[np.uint8] | NDArray[np.float32], batch: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Features (n, F) and lifted features (n, D) of pictures (n, ...) by an emulated module."""
    import numpy as np

    features, lifted = [], []
    with torch.inference_mode():
        for start in range(0, len(pictures), batch):
            block = torch.from_numpy(np.ascontiguousarray(pictures[start : start + batch]))
            rows = module.embedder(module.backbone(block))  # type: ignore[operator]
            features.append(rows.numpy())
            lifted.append(module.lift(rows).numpy())  # type: ignore[operator]
    return np.concatenate(features), np.concatenate(lifted)
