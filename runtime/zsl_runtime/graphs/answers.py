"""What a backend answers for a batch, and how one that works beside the caller is asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from zsl_runtime.arrays import Floats


class Best(NamedTuple):
    """The best columns of each row: largest first, ties in column order: `zsl_runtime.head.head.best_columns`.

    Attributes:
        columns: (N, k) int64.
        scores: of them, (N, k) float32.

    """

    columns: NDArray[np.int64]
    scores: Floats


class Answer(NamedTuple):
    """What was wanted of a batch; None for the rest.

    Attributes:
        scores: log-probabilities (N, C) float32.
        features: (N, F) float32.
        best: the best columns of the scores.

    """

    scores: Floats | None
    features: Floats | None = None
    best: Best | None = None


class Pending(Protocol):
    """A batch that was begun."""

    def result(self) -> Answer:
        """Wait for the answer; BackendError when the batch failed. It may be called again."""
        ...


class Done(NamedTuple):
    """A batch that was done when it was begun."""

    answer: Answer

    def result(self) -> Answer:
        """The answer."""
        return self.answer
