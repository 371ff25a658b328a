"""Explains answers of one bundle: reads attributes, splits differences of scores, and looks where attention lies."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from zsl_runtime.backends.opening import open_explain_graph
from zsl_runtime.bundle.manifest import EXPLAIN
from zsl_runtime.explaining.contributions import pair_of, split
from zsl_runtime.explaining.explanation import Explanation
from zsl_runtime.explaining.maps import evened
from zsl_runtime.head.head import best_columns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from zsl_runtime.arrays import Doubles, Floats
    from zsl_runtime.bundle.bundle import Bundle
    from zsl_runtime.bundle.generation import Generation
    from zsl_runtime.explaining.contributions import Pair
    from zsl_runtime.head.class_table import ClassTable
    from zsl_runtime.head.head import FoldedHead

MOST_PAIRS = 1024  # pairs of classes that are kept; one takes 4 to 16 KB


class Answered(NamedTuple):
    """What a model made of n pictures.

    Attributes:
        names: of the pictures.
        inputs: (n, ...) as the model takes them.
        scores: (n, C) float32, log-probabilities.
        x: (n, D) float32, their lifted features.

    """

    names: Sequence[str]
    inputs: NDArray[np.generic]
    scores: Floats
    x: Floats


class Explainer:
    """What a bundle explains its labels with. Any number of threads may ask at once.

    Args:
        bundle: opened; what is needed of it is read and its hashes are compared here and when maps are first asked for.
        threads: that the graph of attention may use; None for all CPUs.

    Raises:
        UsageError: E-EXPLAIN when the bundle holds nothing to explain with.
        ArtefactError: E-BUNDLE-HASH, E-BUNDLE-READOUT, E-BUNDLE-GAUSSIAN.
        BackendError: E-BACKEND-MISSING.

    """

    def __init__(self, bundle: Bundle, threads: int | None = None) -> None:
        self.readout = bundle.readout()
        self._rule = bundle.rule
        self._gaussian = bundle.gaussian() if bundle.head_rule == "gaussian" else None
        self._attention = open_explain_graph(bundle, threads=threads)
        self._centres, self._pixels = bundle.manifest[EXPLAIN].get("centres"), bundle.manifest["pixels"]
        self._pairs: OrderedDict[tuple[int, int], Pair] = OrderedDict()
        self._of: tuple[Generation, FoldedHead, ClassTable] | None = None
        self._lock = threading.Lock()

    @property
    def has_maps(self) -> bool:
        """Whether the model has attention to look at."""
        return self._attention is not None

    def explain(self, generation: Generation, head: FoldedHead, answered: Answered) -> list[Explanation]:
        """Why each picture got its label.

        Args:
            generation: in force when the pictures were labelled.
            head: of it, folded, with the filter that they were labelled under.
            answered: the pictures.

        Raises:
            ArtefactError: E-BUNDLE-GRAPH, E-BUNDLE-HASH of the graph of attention.
            BackendError: E-BACKEND-LOAD, E-BACKEND-RUN.

        """
        if not len(answered.names):
            return []
        scores = answered.scores.astype(np.float64)
        rivals = min(2, int(np.isfinite(head.class_bias).sum()))
        best = best_columns(answered.scores, rivals)
        read = self.readout.read(answered.x)
        maps = self._maps(answered.inputs)
        out = []
        for place, name in enumerate(answered.names):
            there = None if maps is None else dict(zip(generation.table.attributes, maps[place], strict=True))
            answer, *others = (int(column) for column in best[place])
            mine = scores[place, answer]
            plain = Explanation(
                name, generation.table.names[answer], None, math.exp(mine), 0.0, 0.0, (), 0.0, 0.0, there
            )
            if others:
                (rival,) = others
                pair, table = self._pair(generation, head, answer, rival)
                spoken, rest = split(pair, table, answered.x[place], read[place])
                plain = replace(
                    plain,
                    rival=table.names[rival],
                    rival_probability=math.exp(scores[place, rival]),
                    difference=float(mine - scores[place, rival]),
                    spoken=spoken,
                    rest=rest,
                    seen_handicap=pair.seen_handicap,
                )
            out.append(plain)
        return out

    def close(self) -> None:
        """Let go of the graph of attention."""
        if self._attention is not None:
            self._attention.close()

    def _pair(self, generation: Generation, head: FoldedHead, answer: int, rival: int) -> tuple[Pair, ClassTable]:
        """How two classes are told apart; kept for the pictures that come, as long as classes and filter stay."""
        with self._lock:
            if self._of is None or self._of[0] is not generation or self._of[1] is not head:
                # What is a mark of something unknown is no number that a class could differ in.
                raw = np.where(self._rule.missing(generation.table.raw), np.nan, generation.table.raw)
                self._of = generation, head, replace(generation.table, raw=raw, notes=())
                self._pairs.clear()
            table, found = self._of[2], self._pairs.get((answer, rival))
            if found is None:
                found = pair_of(head, table, self.readout, (answer, rival), self._where(generation, answer, rival))
                self._pairs[answer, rival] = found
                if len(self._pairs) > MOST_PAIRS:
                    self._pairs.popitem(last=False)
            return found, table

    def _where(self, generation: Generation, answer: int, rival: int) -> Doubles | None:
        """(2, D) where two classes lie, by the head rule `gaussian`."""
        if self._gaussian is None or generation.means is None:
            return None
        return self._gaussian.posterior(generation.means.take(np.array([answer, rival], np.int64)))

    def _maps(self, inputs: NDArray[np.generic]) -> Floats | None:
        """(n, A, k, k) where attention lies; None for models without, or whose regions are no square."""
        if self._attention is None:
            return None
        maps = self._attention.maps(inputs)
        side = math.isqrt(maps.shape[2])
        if side * side != maps.shape[2]:
            return None
        square = maps.reshape(*maps.shape[:2], side, side)
        if self._centres is None or self._pixels is None:
            return square
        first, step = self._centres
        return evened(square, first, step, self._pixels["crop"])
