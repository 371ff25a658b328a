"""Slow and obviously right: the graphs as they were written, without any rewriting, and the head in NumPy float64.

The yardstick of the other backends, and a way to find out whether one of them is the cause of a strange answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from zsl_runtime.backends.base import lifted
from zsl_runtime.backends.ort import OrtBackend
from zsl_runtime.graphs.ports import check_head
from zsl_runtime.machine.processes import OfThisProcess

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from zsl_runtime.arrays import Floats
    from zsl_runtime.backends.onnx_graphs import Graphs
    from zsl_runtime.graphs.ports import InputPort
    from zsl_runtime.head.head import FoldedHead


def open_graphs(graphs: Graphs, threads: int, precision: str) -> ReferenceBackend:
    """Open the graphs of a bundle; BackendError E-BACKEND-MISSING when onnxruntime is not installed."""
    return ReferenceBackend(graphs, threads, precision)


class ReferenceBackend(OfThisProcess):
    """Features from the unoptimised ONNX graphs, scores from the formula.

    Args:
        graphs: `model`, `means`, `synthesizer`, `rows`, `lift` -> ONNX file, or None where there is none.
        threads: inside one operator.
        precision: of the file behind `model`; a quantised one is computed in float32 between its roundings.

    Raises:
        BackendError: E-BACKEND-MISSING when onnxruntime is not installed.

    """

    name = "reference"
    device = "cpu"

    def __init__(self, graphs: Graphs, threads: int, precision: str = "fp32") -> None:
        super().__init__()
        self.precision = precision
        self._graphs = OrtBackend(graphs, threads, precision, optimize=False)
        self.library = f"NumPy {np.__version__} over unoptimised graphs in {self._graphs.library}"

    def input_port(self) -> InputPort:
        """What `run` and `features` take."""
        return self._graphs.input_port()

    def run(self, inputs: NDArray[np.generic], head: FoldedHead) -> tuple[Floats, Floats]:
        """Inputs (N, ...) -> log-probabilities (N, C) and features (N, F), float32."""
        check_head(head)
        features = self._graphs.features(inputs)
        x = lifted(self._graphs.lift, features).astype(np.float64)
        with np.errstate(invalid="ignore", over="ignore"):  # what is no number is told by whoever asked
            logits = x @ head.weight.T.astype(np.float64) + head.bias + head.class_bias  # (N, C)
            shifted = logits - logits.max(axis=1, keepdims=True)
        scores = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        return scores.astype(np.float32), features

    def features(self, inputs: NDArray[np.generic]) -> Floats:
        """Inputs (N, ...) -> features (N, F) float32."""
        return self._graphs.features(inputs)

    def synthesize(self, semantic: Floats, noise: Floats) -> Floats:
        """Semantic vectors (M, A) and noise (M, Z) -> features (M, F), all float32."""
        return self._graphs.synthesize(semantic, noise)

    def rows(self, semantic: Floats) -> tuple[Floats, Floats]:
        """Semantic vectors (M, A) -> weights (M, D) and biases (M,) of the classes' rows, all float32."""
        return self._graphs.rows(semantic)

    def means(self, semantic: Floats) -> Floats:
        """Semantic vectors (M, A) -> the classes' means (M, D) in canonical coordinates, float32."""
        return self._graphs.means(semantic)

    def lift(self, features: Floats) -> Floats:
        """Features (M, F) -> lifted features (M, D), float32; the features themselves when there is no lift."""
        return self._graphs.lift(features)

    def close(self) -> None:
        """Let go of the loaded graphs."""
        self._graphs.close()
