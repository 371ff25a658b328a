"""What a backend answers for a batch, and how one that works beside the caller is asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol, cast

from zsl_runtime.backends import Backend

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from zsl_runtime.head import FoldedHead

    Floats = NDArray[np.float32]


class Best(NamedTuple):
    """The best columns of each row: largest first, ties in column order, as `zsl_runtime.head.best_columns` has them.

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


class Overlapping(Backend, Protocol):
    """A backend that works on a batch while the caller prepares the next one."""

    @property
    def in_flight(self) -> int:
        """How many batches one caller does well to have begun."""
        ...

    def begin(
        self, rows: NDArray[np.generic] | Sequence[NDArray[np.generic]], head: FoldedHead, best: int = 0
    ) -> Pending:
        """Begin a batch.

        Args:
            rows: array (n, ...) or n arrays, as `input_port` says; they are copied before this returns.
            head: of C classes.
            best: only this many best columns of each row are wanted, no scores and no features; 0 for scores and
                features. It must be one for which `ranks` says yes.

        Raises:
            UsageError: E-INPUT-ARRAY, E-HEAD-CLASSES.
            BackendError: as `run`.

        """
        ...

    def ranks(self, best: int) -> bool:
        """Whether it finds this many best columns by itself."""
        ...

    def hold(self, head: FoldedHead) -> None:
        """Make ready for a head, so that the first batch with it does not wait; errors as of `run`."""
        ...


def overlapping(backend: Backend) -> Overlapping | None:
    """The backend, when it works beside the caller."""
    return cast("Overlapping", backend) if hasattr(backend, "begin") else None
