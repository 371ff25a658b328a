"""What a method is: a function from training data to the few modules that are shipped.

A method is one module with these names (see `zsl_train.methods.METHODS`):

- ``Config``: a frozen dataclass of its settings, each with its source (paper, published code or ours);
- ``PRESETS``: name -> settings that differ from the defaults of Config;
- ``stages(config, dims)``: the stages of a training, whose lengths are settings (`zsl_train.methods.lengths`);
- ``build(config, dims) -> Trained``: the shipped modules, untrained, with the right shapes (to load weights into);
- ``fit(data, config, session, seed) -> Trained``: the training algorithm;
- ``HEAD``, where preset `default` ships another head than the published one: ``gaussian``;
- ``PUBLISHED_HEAD = False``, where there is no other than that;
- ``FOLDS``, where a recipe that says nothing takes another number of validation folds than usual;
- ``SNAPSHOTS``, where it compares other shares of the last stage than usual;
- ``variants(config)``, where validation classes choose among several settings: the Configs to choose from;
- ``settle(config, folds, pooled, labels, semantic)``, where they choose in closed form: the Config with nothing open;
- ``keep_views(trained, config, names)``, where a training finds out which of its views are of use: leaves the others
  out, for a run's head has the views that all its trainings have;
- ``WORDS = True``, where it looks at the word vectors of the attributes;
- ``RETIRED``: settings that older versions had and that runs of theirs still name.

Whatever is chosen is chosen once, for all folds of a run: scores of folds with settings of their own do not compare.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from zsl_runtime.head.gaussian import Gaussian
from zsl_runtime.head.head import View

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from zsl_runtime.head.class_table import ClassTable
    from zsl_runtime.head.gaussian import Gaussian
    from zsl_runtime.head.head import View
    from zsl_train.data.pictures import Pictures
    from zsl_train.means import Means

SHEET, SHEET_FIGURES = "reconstructions.png", "reconstructions.json"  # of a method that rebuilds pictures


@dataclass(frozen=True)
class Dims:
    """The sizes that fix a method's networks.

    Attributes:
        regions: R, regions of one picture (1 for plain feature vectors).
        channels: V, backbone channels.
        attributes: A.
        word_width: W, width of the attribute word vectors.
        classes: C, seen and unseen classes known while training.
        seen: S of them; 0 in runs of earlier versions, which did not note it. No network depends on it.

    """

    regions: int
    channels: int
    attributes: int
    word_width: int
    classes: int
    seen: int = 0

    @classmethod
    def of(cls, regions: NDArray[Any], semantic: NDArray[Any], words: NDArray[Any], table: ClassTable) -> Dims:
        """From region features (n, R, V), semantic vectors (C, A), word vectors (A, W) and the classes."""
        return cls(
            regions=int(regions.shape[1]),
            channels=int(regions.shape[2]),
            attributes=int(semantic.shape[1]),
            word_width=int(words.shape[1]),
            classes=len(table),
            seen=int(table.seen.sum()),
        )

    def to_dict(self) -> dict[str, int]:
        """Plain data for run.json."""
        return asdict(self)


@dataclass(frozen=True)
class TrainingData:
    """Everything a method may look at while training. No test picture is in it.

    Attributes:
        regions: (n_all, R, V) float16, usually a memory map; only `rows` of it may be read.
        rows: (n,) int64, the training pictures.
        labels: (n,) int64, their classes: rows of `table`; all of them seen.
        table: the C classes, seen and unseen.
        semantic: (C, A) float32 semantic vectors (the semantic rule applied).
        word_vectors: (A, W) float32 attribute word vectors, unnormalised.
        pictures: the training pictures themselves, decoded when they are asked for; None where there are features only.

    """

    regions: NDArray[np.float16]
    rows: NDArray[np.int64]
    labels: NDArray[np.int64]
    table: ClassTable
    semantic: NDArray[np.float32]
    word_vectors: NDArray[np.float32]
    pictures: Pictures | None = None

    @property
    def dims(self) -> Dims:
        """The sizes of this data."""
        return Dims.of(self.regions, self.semantic, self.word_vectors, self.table)


@dataclass(frozen=True)
class Conventional:
    """How the classifier of the unseen classes alone (T1_czsl) is fitted, where its settings are its own.

    Attributes:
        views: as `Trained.views`, of the same columns.
        synthetic_per_class: synthetic features drawn for each class.

    """

    views: tuple[View, ...]
    synthetic_per_class: int


@dataclass
class Trained:
    """The modules that are kept after training, all in eval mode and on the CPU.

    A method gives a `synthesizer`, `rows`, or neither where it has no head of its own. A training that ships the
    Gaussian head puts `means` in their place (`zsl_train.head.gaussian.finish`).

    Attributes:
        embedder: region features (B, R, V) float32 -> features f (B, F). One with attention for each attribute also has
            `attend`: (B, R, V) -> (B, A, R), which over the regions sums to 1; maps of a label are made of it.
        lift: f (B, F) -> lifted x (B, D); None when the head looks at f itself.
        synthesizer: semantic (M, A), noise (M, Z) -> synthetic f (M, F); the head is fitted on them (rule `fit`).
        noise_width: Z; 0 without a synthesizer.
        feature_width: F.
        lifted_width: D (equal to F without a lift).
        views: the column ranges of x that heads look at, with how each is fitted. With `rows` there is one, of all
            columns, and it is not fitted.
        synthetic_per_class: synthetic features drawn for each class without photographs; 0 without a synthesizer.
        rows: semantic (M, A) -> a class's weights (M, D) and bias (M,); the head's rows come from it, and nothing is
            synthesized or fitted (the head rule `rows`).
        replay: regions (B, R, V), noise (B, K, Z) -> (B, K, F): K rows of each picture that a head is fitted on, where
            these are not f itself (a sampled latent, say). It runs on the embedder's tensors and has none of its own.
        replay_per_class: with `replay`, rows of each seen class; a class with fewer pictures has several of each.
        means: semantic (M, A) -> a class's mean (M, D) in canonical coordinates; rows follow from it and `gaussian`
            (the head rule `gaussian`). The lift is the one linear layer that takes f to these coordinates.
        gaussian: with `means`, what turns means into rows.
        parts: name -> classifier inside the training that does not ship but is scored beside what does, under that
            name: (regions (B, R, V) float32, semantic (C, A) float32) -> scores (B, C), for any classes, those that the
            training never heard of included; before gamma, in eval mode. Of several trainings of one run (its folds and
            the final one) all have the same names. They are no part of `state_dict`, so the tensors that only they have
            belong into the state of a stage (`Session.loop`): a training that is resumed must give them again.
        czsl: with a synthesizer, how the classifier behind T1_czsl is fitted; None: as the head.

    """

    embedder: nn.Module
    lift: nn.Module | None
    synthesizer: nn.Module | None
    noise_width: int
    feature_width: int
    lifted_width: int
    views: tuple[View, ...]
    synthetic_per_class: int
    rows: nn.Module | None = None
    replay: nn.Module | None = None
    replay_per_class: int = 0
    means: Means | None = None
    gaussian: Gaussian | None = None
    parts: dict[str, nn.Module] = field(default_factory=dict)
    czsl: Conventional | None = None

    def __post_init__(self) -> None:
        makers = [one for one in (self.synthesizer, self.rows, self.means) if one is not None]
        assert len(makers) <= 1, "one of synthesizer, rows and means makes the head"
        assert (self.means is None) == (self.gaussian is None), "means are made into rows by `gaussian`"

    @property
    def head_rule(self) -> str:
        """How heads are made of these modules: `gaussian`, `rows` or `fit`."""
        if self.synthesizer is not None:
            return "fit"
        return "gaussian" if self.rows is None else "rows"

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Tensors of all modules, keys ``embedder.*``, ``lift.*``, ``means.*``, and so on."""
        return {
            f"{part}.{key}": tensor.detach().clone().contiguous()
            for part, module in self.modules().items()
            for key, tensor in module.state_dict().items()
        }

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Load what `state_dict` gave; keys and shapes must match exactly (RuntimeError otherwise)."""
        parts = self.modules()
        unknown = sorted(key for key in state if key.partition(".")[0] not in parts)
        if unknown:
            raise RuntimeError(f"{len(unknown)} tensors belong to none of {', '.join(parts)}, such as {unknown[0]}")
        for part, module in parts.items():
            prefix = f"{part}."
            module.load_state_dict({k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)})

    def modules(self) -> dict[str, nn.Module]:
        """The modules by part name."""
        parts = {
            "embedder": self.embedder,
            "synthesizer": self.synthesizer,
            "rows": self.rows,
            "means": self.means,
            "lift": self.lift,
        }
        return {name: module for name, module in parts.items() if module is not None}

    def eval(self) -> Trained:
        """Switch every module to eval mode and freeze it; returns self."""
        for module in (*self.modules().values(), *self.parts.values()):
            module.eval().requires_grad_(requires_grad=False)
        return self

    def cpu(self) -> Trained:
        """Bring every module to the CPU; returns self."""
        for module in (*self.modules().values(), *self.parts.values()):
            module.cpu()
        return self


def device_of(module: nn.Module) -> torch.device:
    """Where a module's tensors lie; the CPU for one that has none."""
    return next((tensor.device for tensor in (*module.parameters(), *module.buffers())), torch.device("cpu"))


def run_rows(module: nn.Module, semantic: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Apply the `rows` of a Trained: semantic (M, A) -> weights (M, D) and biases (M,), float32."""
    with torch.inference_mode():
        weight, bias = module(torch.from_numpy(semantic.copy()).to(device_of(module)))
    return weight.numpy(force=True), bias.numpy(force=True)


def run_batched(module: nn.Module, *inputs: NDArray[Any], batch_size: int = 256) -> NDArray[np.float32]:
    """Apply `module` to rows in blocks without gradients.

    Args:
        module: takes one tensor per input.
        inputs: arrays with the same number of rows N, perhaps 0; float16 is widened to float32.
        batch_size: rows a block.

    Returns:
        (N, ...) float32.

    """
    import numpy as np

    blocks, device = [], device_of(module)
    with torch.inference_mode():
        for start in range(0, max(1, len(inputs[0])), batch_size):  # no rows are one empty block: it has the width
            # Copied: torch takes neither read-only arrays nor negative strides.
            part = [torch.from_numpy(np.array(x[start : start + batch_size], np.float32, order="C")) for x in inputs]
            blocks.append(module(*(one.to(device) for one in part)).numpy(force=True))
    return np.concatenate(blocks)
