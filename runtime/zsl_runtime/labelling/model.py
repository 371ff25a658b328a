"""What reads and scores, as those see it that are built on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from zsl_runtime.arrays import Floats
    from zsl_runtime.bundle.bundle import Bundle
    from zsl_runtime.graphs.answers import Pending
    from zsl_runtime.head.distance import Found
    from zsl_runtime.inputs.item import Source
    from zsl_runtime.labelling.snapshot import Snapshot


class Model(Protocol):
    """An opened bundle: `zsl_runtime.Classifier` is one, and says what each of these does and raises."""

    @property
    def bundle(self) -> Bundle:
        """What was opened."""
        ...

    @property
    def threads(self) -> int:
        """How many may run the graph, and as many decode pictures."""
        ...

    @property
    def in_flight(self) -> int:
        """How many batches may be at work at once."""
        ...

    def read(self, source: Source) -> NDArray[np.generic]:
        """One picture or row as the graph takes it; InputError."""
        ...

    def canonical(self, inputs: NDArray[np.generic]) -> Floats:
        """Lifted features (N, D) of prepared inputs."""
        ...

    def score_with(self, snapshot: Snapshot, inputs: NDArray[np.generic]) -> tuple[Floats, Floats]:
        """Log-probabilities (N, C) and features (N, F) of prepared inputs."""
        ...

    def measure(self, snapshot: Snapshot, features: Floats) -> Found | None:
        """How far pictures with features (N, F) are from the classes; None where the head does not tell."""
        ...

    def begin(self, snapshot: Snapshot, rows: Sequence[NDArray[np.generic]], topk: int | None) -> Pending:
        """Queue a batch."""
        ...
