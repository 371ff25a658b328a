"""Stage 1: SCEN, attention over regions trained by a local and a global classification loss."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from zsl_train.devices import capturable, current, repeated, tensor_of
from zsl_train.methods.sc_egg.embedder import Embedder, compress_mlp
from zsl_train.methods.sc_egg.steps import stage_steps
from zsl_train.methods.session import Rng, Session

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from zsl_train.methods.base import TrainingData
    from zsl_train.methods.sc_egg.config import Config


class Scen(nn.Module):
    """Local and global embedding network (LEN and GEN; paper Eq. 1-5)."""

    def __init__(self, words: Tensor, embedder: Embedder, classes: int, config: Config, rng: Rng) -> None:
        super().__init__()
        attributes, width = words.shape
        channels = embedder.compression.query.shape[1]
        self.embedder = embedder
        self.words = nn.Parameter(F.normalize(words, dim=1) if config.normalise_words else words.clone())
        self.w_alpha = nn.Parameter(torch.zeros(width, channels))  # attention starts uniform (docs/methods.md 2.2)
        self.w_beta = nn.Parameter(config.w_beta_std * rng.normal(width, channels))
        self.classifier = nn.Linear(channels, classes)
        self.first = nn.Linear(attributes, max(1, attributes // 2))
        self.last = nn.Linear(max(1, attributes // 2), 1)
        for layer in (self.classifier, self.first, self.last):
            # torch's default for linear layers, drawn from our generator so that it can be reproduced
            bound = 1 / math.sqrt(layer.in_features)
            with torch.no_grad():
                layer.weight.copy_((2 * rng.uniform(*layer.weight.shape) - 1) * bound)
                layer.bias.copy_((2 * rng.uniform(*layer.bias.shape) - 1) * bound)

    def maps(self, regions: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised regions (B, R, V) -> attention (B, R, A) and attribute evidence k_n . r (B, R, A)."""
        attributes = len(self.words)
        both = regions @ torch.cat([self.words @ self.w_alpha, self.words @ self.w_beta]).T  # one product for both
        return both[..., :attributes].softmax(dim=1), both[..., attributes:]

    def evidence(self, attention: Tensor, regional: Tensor) -> Tensor:
        """Paper Eq. 2: e_n = sum_r alpha_nr (k_n . r_r), from both (B, R, A) of `maps`.  -> (B, A)."""
        return (attention * regional).sum(dim=1)

    def local_scores(self, attention: Tensor, regional: Tensor, semantic: Tensor) -> Tensor:
        """Paper Eq. 3: p_l = a(y) . e.  -> (B, C)."""
        return self.evidence(attention, regional) @ semantic.T

    def global_feature(self, attention: Tensor, regions: Tensor) -> Tensor:
        """The compression that stage 1's global loss trains: always the MLP (docs/methods.md 2.2). -> (B, V)."""
        return compress_mlp(attention, regions, self.first, self.last)

    def write_embedder(self) -> None:
        """Copy what inference needs (V W_alpha and the MLP) into the embedder."""
        compression = self.embedder.compression
        with torch.no_grad():
            compression.query.copy_(self.words @ self.w_alpha)
            if self.embedder.beside is not None:
                compression.keys.copy_(self.words @ self.w_beta)
            if compression.pooling == "mlp":
                compression.first.load_state_dict(self.first.state_dict())
                compression.last.load_state_dict(self.last.state_dict())


class BalancedBatches:
    """Class-balanced batches: min(batch, #classes) classes, max(1, batch // #classes) pictures of each.

    Published code's rule (docs/methods.md 2.3), for any number of classes; a class with fewer pictures repeats some.
    """

    def __init__(self, labels: NDArray[np.int64], batch: int, rng: Rng) -> None:
        self.members = [tensor_of(np.flatnonzero(labels == c)) for c in np.unique(labels)]
        self.batch = batch
        self.rng = rng
        self.sizes = torch.tensor([len(one) for one in self.members])
        self.table = nn.utils.rnn.pad_sequence(self.members, batch_first=True, padding_value=-1)  # (classes, most)

    def draw(self) -> Tensor:
        """Positions into `labels`, int64."""
        count = len(self.members)
        draw = self.draw_at_once if self.table.is_cuda else self.draw_in_turn
        return draw(min(self.batch, count), max(1, self.batch // count))

    def draw_in_turn(self, classes: int, each: int) -> Tensor:
        """`each` pictures of each of `classes` classes, one class after the other."""
        chosen = self.rng.permutation(len(self.members))[:classes]
        return torch.cat([self._some(self.members[c], each) for c in chosen.tolist()])

    def draw_at_once(self, classes: int, each: int) -> Tensor:
        """The same in a few operations on whole tensors, none of which waits for a card; other draws than `draw`."""
        chosen = self.rng.permutation(len(self.members))[:classes]
        table, sizes = self.table[chosen], self.sizes[chosen].unsqueeze(1)
        order = self.rng.uniform(*table.shape).masked_fill(table < 0, 2.0).argsort(dim=1)  # members first, shuffled
        again = (self.rng.uniform(classes, each) * sizes).long()  # with repetitions, for classes with fewer pictures
        places = torch.arange(each, device=table.device).clamp_max(table.shape[1] - 1)
        return table.gather(1, torch.where(sizes < each, again, order[:, places])).flatten()

    def _some(self, members: Tensor, each: int) -> Tensor:
        if each <= len(members):
            return members[self.rng.permutation(len(members))[:each]]
        return members[self.rng.integers(len(members), each)]


def embedding_optimiser(parameters: list[nn.Parameter], config: Config) -> torch.optim.Optimizer:
    """Of stages 1 and 2."""
    if config.optimiser == "adam":
        return torch.optim.Adam(
            parameters,
            lr=config.learning_rate_embedding,
            weight_decay=config.weight_decay,
            fused=True,
            capturable=capturable(),
        )
    return torch.optim.RMSprop(
        parameters,
        lr=config.learning_rate_embedding,
        weight_decay=config.weight_decay,
        momentum=config.momentum,
        capturable=capturable(),
    )


def regions_of(data: TrainingData, positions: Tensor) -> Tensor:
    """Region features of the training pictures at `positions` (B,): (B, R, V) float32."""
    rows = data.rows[positions.numpy(force=True)]
    return tensor_of(np.asarray(data.regions[rows], dtype=np.float32))


class RegionBatches:
    """Region features of training pictures, batch by batch: from the store, or from a card that has room for them all.

    Args:
        data: the training pictures.

    """

    ROOM = 0.5  # of the card's free memory

    def __init__(self, data: TrainingData) -> None:
        self._data = data
        self._kept: Tensor | None = None  # (n, R, V) float16
        size = 2 * len(data.rows) * data.dims.regions * data.dims.channels
        if current().type == "cuda" and size < self.ROOM * torch.cuda.mem_get_info()[0]:
            self._kept = tensor_of(np.asarray(data.regions[data.rows]))

    def __call__(self, positions: Tensor) -> Tensor:
        """Those at `positions` (B,): (B, R, V) float32."""
        return regions_of(self._data, positions) if self._kept is None else self._kept[positions].float()

    def repeated(self, body: Callable[[int], Mapping[str, Tensor]], rng: Rng) -> Callable[[int], Mapping[str, Tensor]]:
        """A step on these batches, recorded where nothing is read from the store in it."""
        return body if self._kept is None else repeated(body, rng.generator)


def region_mean(data: TrainingData, embedder: Embedder, block: int = 64) -> Tensor:
    """Mean over all training regions after channel normalisation: (V,)."""
    total = torch.zeros(data.dims.channels, dtype=torch.float64)
    for start in range(0, len(data.rows), block):
        positions = torch.arange(start, min(start + block, len(data.rows)))
        total += embedder.normalise(regions_of(data, positions)).double().mean(dim=1).sum(dim=0)
    return (total / len(data.rows)).float()


def embed_all(data: TrainingData, embed: Callable[[Tensor], Tensor], block: int = 64) -> Tensor:
    """`embed` applied to the regions of every training picture, in order: (n, F)."""
    with torch.no_grad():
        return torch.cat(
            [
                embed(regions_of(data, torch.arange(start, min(start + block, len(data.rows)))))
                for start in range(0, len(data.rows), block)
            ]
        )


def train_scen(data: TrainingData, config: Config, session: Session, seed: int) -> Scen:
    """Stage 1: local and global classification loss, class-balanced batches."""
    rng = Rng(seed)
    evidence = config.feature == "evidence"
    embedder = Embedder(data.dims.attributes, data.dims.channels, config.pooling, evidence=evidence)
    if config.centre_regions:
        embedder.centre.copy_(region_mean(data, embedder))
    scen = Scen(tensor_of(data.word_vectors), embedder, data.dims.classes, config, rng)
    semantic = tensor_of(data.semantic)
    keep = torch.ones(len(data.table), dtype=torch.bool)
    if config.classes_in_softmax == "seen":
        keep = tensor_of(data.table.seen)
    column = torch.cumsum(keep, 0) - 1  # class -> its column among the kept ones
    labels, kept = column[tensor_of(data.labels)], keep.nonzero().squeeze(1)
    own = [p for name, p in scen.named_parameters() if not name.startswith("embedder.")]
    optimiser = embedding_optimiser(own, config)
    batches, read = BalancedBatches(data.labels, config.embedding_batch, rng), RegionBatches(data)

    def body(_: int) -> dict[str, Tensor]:
        chosen = batches.draw()
        regions = embedder.normalise(read(chosen))
        target = labels[chosen]
        attention, evidence = scen.maps(regions)
        losses = {"local": F.cross_entropy(scen.local_scores(attention, evidence, semantic)[:, kept], target)}
        if config.global_weight > 0:
            scores = scen.classifier(scen.global_feature(attention, regions))
            losses["global"] = config.global_weight * F.cross_entropy(scores[:, kept], target)
        optimiser.zero_grad()
        torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        return losses

    steps = stage_steps("stage1", config, data)
    session.loop("scen", steps, {"scen": scen, "optimiser": optimiser, "rng": rng}, read.repeated(body, rng))
    return scen
