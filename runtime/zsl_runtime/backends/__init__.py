"""The ways to run a bundle's graphs, by name. The library of each is imported when it is opened, not before."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple, Protocol, cast

from zsl_runtime.errors import BackendError, UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from zsl_runtime.bundle import Bundle
    from zsl_runtime.head import FoldedHead

    Floats = NDArray[np.float32]

BACKENDS = {
    "ort": "zsl_runtime.backends.ort",
    "reference": "zsl_runtime.backends.reference",
}
AUTO = "ort"  # the only fast one so far
DEVICES = ("auto", "cpu")


class InputPort(NamedTuple):
    """What the model graph takes.

    Attributes:
        name: `images` or `backbone_features`.
        dtype: `uint8` or `float32`.
        shape: of one row: (P, P, 3) or (R, V).

    """

    name: str
    dtype: str
    shape: tuple[int, ...]


class Backend(Protocol):
    """One way to run a bundle's graphs. Every method may be called from several threads at once.

    A graph is loaded by the first call that needs it, so that adding classes never loads the model itself.

    All methods raise BackendError E-BACKEND-LOAD or E-BACKEND-RUN (exit 4) when the library cannot load or run a
    graph, ArtefactError E-BUNDLE-GRAPH (exit 5) for a graph that breaks the bundle's contract, and UsageError
    E-INPUT-ARRAY for an array of the wrong dtype or shape, without rows, or with numbers that are not finite.
    """

    name: str
    library: str  # name and version, for the user

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

    def lift(self, features: Floats) -> Floats:
        """Features (M, F) -> lifted features (M, D), float32; the features themselves when the bundle has no lift."""
        ...

    def close(self) -> None:
        """Let go of the graphs. Calling a method afterwards loads them again."""
        ...


def open_backend(name: str, bundle: Bundle, *, device: str = "auto", threads: int | None = None) -> Backend:
    """Open one way to run the graphs of a bundle.

    Args:
        name: a key of BACKENDS, or `auto`.
        bundle: where the graphs are; its hashes have been checked.
        device: `cpu`, or `auto`, which is the CPU here.
        threads: that one call may use; None for all CPUs this process may use.

    Raises:
        UsageError: E-BACKEND-NAME, E-THREADS.
        BackendError: E-DEVICE for another device, E-BACKEND-MISSING when the library is not installed.

    """
    if device not in DEVICES:
        raise BackendError(
            "E-DEVICE", f"device {device!r} is not supported; this version runs on {' or '.join(DEVICES)} only"
        )
    if threads is not None and threads < 1:
        raise UsageError("E-THREADS", f"{threads} threads were asked for; give at least 1")
    chosen = AUTO if name == "auto" else name
    if chosen not in BACKENDS:
        raise UsageError("E-BACKEND-NAME", f"there is no backend {name!r}; choose auto, {', '.join(BACKENDS)}")
    from zsl_runtime.threads import usable_cpus

    opened = import_module(BACKENDS[chosen]).open_bundle(bundle, threads or usable_cpus())
    return cast("Backend", opened)
