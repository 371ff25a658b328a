"""The ways to run a bundle's graphs, by name. The library of each is imported when it is opened, not before."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple, Protocol, cast

from zsl_runtime.errors import BackendError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from zsl_runtime.bundle import Bundle
    from zsl_runtime.head import FoldedHead

    Floats = NDArray[np.float32]


class Kind(NamedTuple):
    """What is known of a backend before its library is imported.

    Attributes:
        module: where it is.
        packages: any of these distributions brings its library.
        precisions: of the model graph that it runs.
        fast: `auto` may choose it.

    """

    module: str
    packages: tuple[str, ...]
    precisions: tuple[str, ...]
    fast: bool


ORT_PACKAGES = ("onnxruntime", "onnxruntime-gpu")  # never both: they overwrite each other's files

# In the order in which they are preferred where nothing was measured.
BACKENDS = {
    "ort": Kind("zsl_runtime.backends.ort", ORT_PACKAGES, ("fp32", "fp16", "int8"), fast=True),
    "openvino": Kind("zsl_runtime.backends.openvino", ("openvino",), ("fp32", "fp16", "bf16", "int8"), fast=True),
    "reference": Kind("zsl_runtime.backends.reference", ORT_PACKAGES, ("fp32", "fp16", "int8"), fast=False),
}
DEVICES = ("auto", "cpu")
PRECISIONS = ("fp32", "fp16", "bf16", "int8")
FILES = {"fp32": "fp32", "fp16": "fp16", "bf16": "fp32", "int8": "int8-cpu"}  # precision -> key of Bundle.precisions


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

    @property
    def name(self) -> str:
        """A key of BACKENDS."""
        ...

    @property
    def library(self) -> str:
        """Name and version, for the user."""
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

    def lift(self, features: Floats) -> Floats:
        """Features (M, F) -> lifted features (M, D), float32; the features themselves when the bundle has no lift."""
        ...

    def close(self) -> None:
        """Let go of the graphs. Calling a method afterwards loads them again."""
        ...


def open_backend(
    name: str, bundle: Bundle, *, device: str = "auto", threads: int | None = None, precision: str | None = None
) -> Backend:
    """Open one way to run the graphs of a bundle.

    Args:
        name: a key of BACKENDS, or `auto`: the fastest of those that are installed, measured on this machine when the
            bundle is first used (`zsl_runtime.backends.auto`).
        bundle: where the graphs are; its hashes have been checked.
        device: `cpu`, or `auto`, which is the CPU here.
        threads: that one call may use; None for all CPUs this process may use.
        precision: of the model graph, one of PRECISIONS; None for the bundle's default.

    Raises:
        UsageError: E-BACKEND-NAME, E-THREADS, E-PRECISION-NAME; E-PRECISION when the bundle does not hold it.
        BackendError: E-DEVICE for another device, E-BACKEND-MISSING when the library is not installed,
            E-PRECISION-BACKEND when it does not run this precision, E-PRECISION-CPU when this CPU does not; with `auto`
            also E-BACKEND-PROBE when none that is installed gives the answers of the probe.

    """
    if device not in DEVICES:
        raise BackendError(
            "E-DEVICE", f"device {device!r} is not supported; this version runs on {' or '.join(DEVICES)} only"
        )
    threads = _checked_threads(threads)
    if name not in BACKENDS and name != "auto":
        raise UsageError("E-BACKEND-NAME", f"there is no backend {name!r}; choose auto, {', '.join(BACKENDS)}")
    precision = bundle.default_precision if precision is None else precision
    graphs = {**_small_graphs(bundle), "model": model_file(bundle, precision)}
    if name != "auto":
        return open_graphs(name, graphs, threads, precision)
    from zsl_runtime.backends.auto import Open, choose

    candidates = fast(precision)
    opener: Open = lambda one: open_graphs(one, graphs, threads, precision)  # noqa: E731
    if len(candidates) == 1:
        return opener(candidates[0])
    return opener(choose(bundle, candidates, opener, precision=precision, threads=threads))


def open_small_graphs(bundle: Bundle, *, threads: int | None = None) -> Backend:
    """Open all graphs of a bundle but the model graph: what classes are added with.

    Always the same backend, the first fast one that is installed, so that the same seed gives the same head.

    Raises:
        UsageError: E-THREADS.
        BackendError: E-BACKEND-MISSING when no fast backend is installed.

    """
    return open_graphs(fast("fp32")[0], _small_graphs(bundle), _checked_threads(threads), "fp32")


def open_graphs(name: str, graphs: dict[str, Path | None], threads: int, precision: str) -> Backend:
    """Open graph files with the backend `name`, a key of BACKENDS; errors as of `open_backend`."""
    if precision not in BACKENDS[name].precisions:
        others = [other for other, kind in BACKENDS.items() if precision in kind.precisions]
        raise BackendError(
            "E-PRECISION-BACKEND",
            f"backend {name} does not run {precision} (but {', '.join(BACKENDS[name].precisions)}); "
            f"use --backend {' or '.join(others)}, or another precision",
        )
    return cast("Backend", import_module(BACKENDS[name].module).open_graphs(graphs, threads, precision))


def fast(precision: str) -> list[str]:
    """The fast backends that run `precision` and are installed, in order; when none is, the first one that runs it."""
    able = [name for name, kind in BACKENDS.items() if kind.fast and precision in kind.precisions]
    return [name for name in able if version_of(BACKENDS[name].packages)] or able[:1]


def version_of(packages: Iterable[str]) -> str | None:
    """Name and version of the first of these distributions that is installed; nothing of it is imported."""
    from importlib.metadata import PackageNotFoundError, version

    for package in packages:
        try:
            return f"{package} {version(package)}"
        except PackageNotFoundError:
            continue
    return None


def model_file(bundle: Bundle, precision: str) -> Path:
    """The file that the model graph runs from in `precision`; UsageError E-PRECISION-NAME, E-PRECISION."""
    if precision not in PRECISIONS:
        raise UsageError("E-PRECISION-NAME", f"there is no precision {precision!r}; choose {', '.join(PRECISIONS)}")
    path = bundle.model_graph(FILES[precision])
    if path is None:
        held = held_precisions(bundle)
        needed = FILES[precision].partition("-")[0]
        raise UsageError(
            "E-PRECISION",
            f"{bundle.path} holds {', '.join(held) or 'no precision for a CPU'} and no {needed}"
            f"{f', which {precision} is run from' if needed != precision else ''}; take one of those, or export it: "
            f"zsl-export RUN --precision {','.join([*held, needed])} --out {bundle.path} --force",
        )
    return path


def held_precisions(bundle: Bundle) -> list[str]:
    """The precisions whose files the bundle holds for a CPU, its default first; bf16, which is no file, is left out."""
    held = [precision for precision in PRECISIONS if precision != "bf16" and FILES[precision] in bundle.precisions]
    return sorted(held, key=lambda precision: precision != bundle.default_precision)


def _small_graphs(bundle: Bundle) -> dict[str, Path | None]:
    return {part: bundle.graph(part) for part in ("synthesizer", "rows", "lift")}


def _checked_threads(threads: int | None) -> int:
    """As given, at least 1 (UsageError E-THREADS), or all CPUs that this process may use."""
    if threads is None:
        from zsl_runtime.threads import usable_cpus

        return usable_cpus()
    if threads < 1:
        raise UsageError("E-THREADS", f"{threads} threads were asked for; give at least 1")
    return threads
