"""What every way to run the graphs of a bundle offers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, cast

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from zsl_runtime.arrays import Floats, Lift
    from zsl_runtime.graphs.answers import Pending
    from zsl_runtime.graphs.ports import InputPort
    from zsl_runtime.head.head import FoldedHead


class Backend(Protocol):
    """One way to run a bundle's graphs. Every method may be called from several threads at once.

    A graph is loaded by the first call that needs it, so that adding classes never loads the model itself.

    All methods raise BackendError E-BACKEND-LOAD or E-BACKEND-RUN (exit 4) when the library cannot load or run a
    graph, ArtefactError E-BUNDLE-GRAPH (exit 5) for a graph that breaks the bundle's contract, and UsageError
    E-INPUT-ARRAY for an array of the wrong dtype or shape, without rows, or with numbers that are not finite.
    """

    @property
    def name(self) -> str:
        """A key of BACKENDS."""
        ...

    @property
    def library(self) -> str:
        """Name and version, for the user."""
        ...

    @property
    def device(self) -> str:
        """Where the model graph runs: `cpu`, or such as `cuda:0`."""
        ...

    @property
    def precision(self) -> str:
        """In which the model graph runs, one of PRECISIONS; the other graphs always run in fp32."""
        ...

    def input_port(self) -> InputPort:
        """What `run` and `features` take."""
        ...

    def run(self, inputs: NDArray[np.generic], head: FoldedHead) -> tuple[Floats, Floats]:
        """Inputs (N, ...) as `input_port` says -> log-probabilities (N, C) and features (N, F), float32."""
        ...

    def features(self, inputs: NDArray[np.generic]) -> Floats:
        """Inputs (N, ...) as `input_port` says -> features (N, F) float32; no head is needed."""
        ...

    def synthesize(self, semantic: Floats, noise: Floats) -> Floats:
        """Semantic vectors (M, A), rule applied, and noise (M, Z) -> features (M, F), all float32."""
        ...

    def rows(self, semantic: Floats) -> tuple[Floats, Floats]:
        """Semantic vectors (M, A), rule applied -> weights (M, D) and biases (M,) of the classes' rows, float32."""
        ...

    def means(self, semantic: Floats) -> Floats:
        """Semantic vectors (M, A), rule applied -> the classes' means (M, D) in canonical coordinates, float32."""
        ...

    def lift(self, features: Floats) -> Floats:
        """Features (M, F) -> lifted features (M, D), float32; the features themselves when the bundle has no lift."""
        ...

    def close(self) -> None:
        """Let go of the graphs. Calling a method afterwards loads them again."""
        ...


class Overlapping(Backend, Protocol):
    """A backend that works on a batch while the caller prepares the next one."""

    @property
    def in_flight(self) -> int:
        """How many batches one caller does well to have begun."""
        ...

    def begin(
        self,
        rows: NDArray[np.generic] | Sequence[NDArray[np.generic]],
        head: FoldedHead,
        best: int = 0,
        *,
        features: bool = False,
    ) -> Pending:
        """Begin a batch.

        Args:
            rows: array (n, ...) or n arrays, as `input_port` says; they are copied before this returns.
            head: of C classes.
            best: only this many best columns of each row are wanted, no scores; 0 for scores and features. It must be
                one for which `ranks` says yes.
            features: with `best`, features are wanted as well.

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


def lifted(lift: Lift, features: Floats) -> Floats:
    """Features (N, F) through a `lift`, which takes finite ones only: NaN (D,) for a row that holds other numbers."""
    good = np.isfinite(features).all(axis=1, keepdims=True)
    if np.all(good):
        return lift(features)
    return np.where(good, lift(np.where(good, features, np.float32(0))), np.float32(np.nan))


def overlapping(backend: Backend) -> Overlapping | None:
    """The backend, when it works beside the caller."""
    return cast("Overlapping", backend) if hasattr(backend, "begin") else None
