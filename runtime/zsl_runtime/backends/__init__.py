"""The ways to run a bundle's graphs, by name. The library of each is imported when it is opened, not before."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple, Protocol, cast

from zsl_runtime.errors import BackendError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from zsl_runtime.backends.auto import Open
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
        device: `cpu` or `cuda`: where the model graph runs. The module of a backend of the CPU has `open_graphs(graphs,
            threads, precision)`, that of a card `open_on_card(bundle, threads, precision, card)` and `check(bundle,
            precision, card)`, which raises what stands against it and loads nothing onto the card.

    """

    module: str
    packages: tuple[str, ...]
    precisions: tuple[str, ...]
    fast: bool
    device: str = "cpu"


ORT_PACKAGES = ("onnxruntime", "onnxruntime-gpu")  # never both: they overwrite each other's files
TENSORRT_PACKAGES = ("tensorrt", "tensorrt-cu13-bindings", "tensorrt-rtx", "tensorrt-rtx-cu13-bindings")

# In the order in which they are preferred where nothing was measured.
BACKENDS = {
    "tensorrt": Kind(
        "zsl_runtime.backends.tensorrt", TENSORRT_PACKAGES, ("fp32", "fp16", "int8"), fast=True, device="cuda"
    ),
    "ort-cuda": Kind("zsl_runtime.backends.ort_cuda", ("onnxruntime-gpu",), ("fp32", "fp16"), fast=True, device="cuda"),
    "ort": Kind("zsl_runtime.backends.ort", ORT_PACKAGES, ("fp32", "fp16", "int8"), fast=True),
    "openvino": Kind("zsl_runtime.backends.openvino", ("openvino",), ("fp32", "fp16", "bf16", "int8"), fast=True),
    "reference": Kind("zsl_runtime.backends.reference", ORT_PACKAGES, ("fp32", "fp16", "int8"), fast=False),
}
SMALL_PARTS = ("means", "synthesizer", "rows", "lift")  # the graphs of bundles but the model graph
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


def open_backend(
    name: str,
    bundle: Bundle,
    *,
    device: str = "auto",
    threads: int | None = None,
    precision: str | None = None,
    trust_engine: bool = False,
) -> Backend:
    """Open one way to run the graphs of a bundle.

    Args:
        name: a key of BACKENDS, or `auto`: the fastest of those that can be used on `device`, measured on this machine
            when the bundle is first used (`zsl_runtime.backends.auto`).
        bundle: where the graphs are; its hashes have been checked.
        device: `cpu`; `cuda:N` (`cuda` is `cuda:0`), which is used or is an error; or `auto`. With `auto` a backend
            that is named runs where it runs, on card 0 if that is a card; and the backend `auto` is chosen among those
            of the CPU and those of card 0 that can be used: a card that cannot be used is passed over.
        threads: that one call may use; None for all CPUs this process may use.
        precision: of the model graph, one of PRECISIONS; None for the bundle's default.
        trust_engine: load an engine of TensorRT, where that is named, though this user did not build it here; loading
            one runs its code.

    Raises:
        UsageError: E-BACKEND-NAME, E-THREADS, E-PRECISION-NAME, E-DEVICE-NAME; E-DEVICE-BACKEND for a backend that does
            not run on this kind of device; E-PRECISION when the bundle does not hold it.
        BackendError: E-DEVICE for a card that cannot be used, E-BACKEND-MISSING when the library is not installed,
            E-PRECISION-BACKEND when it does not run this precision, E-PRECISION-CPU when this CPU does not; with `auto`
            also E-BACKEND-PROBE when none that is installed gives the answers of the probe.

    """
    from zsl_runtime.backends.devices import parse_device

    where = parse_device(device)
    threads = _checked_threads(threads)
    if name not in BACKENDS and name != "auto":
        raise UsageError("E-BACKEND-NAME", f"there is no backend {name!r}; choose auto, {', '.join(BACKENDS)}")
    precision = bundle.default_precision if precision is None else precision
    if name != "auto":
        if where.kind not in {"auto", BACKENDS[name].device}:
            able = [other for other, kind in BACKENDS.items() if kind.device == where.kind]
            raise UsageError(
                "E-DEVICE-BACKEND",
                f"backend {name} does not run on {where}; leave --device out, or use --backend {' or '.join(able)}",
            )
        return _open(name, bundle, where.card, threads, precision, trust_engine=trust_engine)
    candidates, _ = candidates_for(bundle, device, precision)
    opener: Open = lambda one: _open(one, bundle, where.card, threads, precision)  # noqa: E731
    if len(candidates) == 1:
        return opener(candidates[0])
    from zsl_runtime.backends.auto import choose

    return opener(choose(bundle, candidates, opener, precision=precision, threads=threads, card=where.card))


def candidates_for(bundle: Bundle, device: str, precision: str) -> tuple[list[str], dict[str, str]]:
    """Among which backends `auto` chooses, in order of preference, and why each other fast one is none of them.

    Args:
        bundle: whose model is to be run.
        device: as of `open_backend`.
        precision: of the model graph.

    Raises:
        UsageError: E-DEVICE-NAME, E-PRECISION-NAME; E-PRECISION when the bundle does not hold it.
        BackendError: E-DEVICE when `device` is a card that cannot be used.

    """
    from zsl_runtime.backends.devices import find_card, no_backend, parse_device, trouble

    where = parse_device(device)
    if precision not in PRECISIONS:
        raise _no_precision(precision)
    found: list[str] = []
    left_out: dict[str, str] = {}
    if where.kind != "cpu":
        card, problem = find_card(where.card)
        for name, kind in BACKENDS.items():
            if kind.device != "cuda" or not kind.fast:
                continue
            # Where there is no card, libraries are imported only to tell all that is missing to whoever asked for one.
            error = trouble(name, bundle, precision, card) if card is not None or where.kind == "cuda" else None
            if error is not None or card is None:
                left_out[name] = error.message if error else problem
            else:
                found.append(name)
        if where.kind == "cuda":
            if not found:
                raise no_backend(where, problem, left_out)
            return found, left_out
    if not found or _installed(_fast(precision, "cpu")):
        try:
            model_file(bundle, precision)  # or says what there is
        except UsageError:
            if not found:
                raise
            return found, left_out  # a bundle exported for cards alone
        found += fast(precision)
    return found, left_out


def _open(name: str, bundle: Bundle, card: int, threads: int, precision: str, *, trust_engine: bool = False) -> Backend:
    """Open the backend `name` on the CPU or on a card, whichever it runs on."""
    if BACKENDS[name].device == "cpu":
        return open_graphs(name, {**_small_graphs(bundle), "model": model_file(bundle, precision)}, threads, precision)
    check_precision(name, precision)
    trust = {"trusted": True} if trust_engine and name == "tensorrt" else {}
    return cast("Backend", import_module(BACKENDS[name].module).open_on_card(bundle, threads, precision, card, **trust))


def open_small_graphs(bundle: Bundle, *, threads: int | None = None) -> Backend:
    """Open all graphs of a bundle but the model graph: what classes are added with.

    Always the same backend, the first fast one of the CPU that is installed, so that the same seed gives the same head.

    Raises:
        UsageError: E-THREADS.
        BackendError: E-BACKEND-MISSING when no fast backend is installed.

    """
    missing: list[BackendError] = []
    # Opened rather than looked up: the packages' metadata take longer to read than a class takes to add.
    for name in _fast("fp32", "cpu"):
        try:
            return open_graphs(name, _small_graphs(bundle), _checked_threads(threads), "fp32")
        except BackendError as error:
            if error.code != "E-BACKEND-MISSING":
                raise
            missing.append(error)
    raise missing[0]


def open_graphs(name: str, graphs: Mapping[str, Path | None], threads: int, precision: str) -> Backend:
    """Open graph files with the backend `name`, a key of BACKENDS of the CPU; errors as of `open_backend`."""
    check_precision(name, precision)
    return cast("Backend", import_module(BACKENDS[name].module).open_graphs(graphs, threads, precision))


def check_precision(name: str, precision: str) -> None:
    """BackendError E-PRECISION-BACKEND unless the backend `name` runs `precision`."""
    if precision not in BACKENDS[name].precisions:
        others = [other for other, kind in BACKENDS.items() if precision in kind.precisions]
        raise BackendError(
            "E-PRECISION-BACKEND",
            f"backend {name} does not run {precision} (but {', '.join(BACKENDS[name].precisions)}); "
            f"use --backend {' or '.join(others)}, or another precision",
        )


def fast(precision: str) -> list[str]:
    """The fast backends of the CPU that run `precision` and are installed, in order; when none is, the first one."""
    able = _fast(precision, "cpu")
    return _installed(able) or able[:1]


def _fast(precision: str, device: str) -> list[str]:
    kinds = BACKENDS.items()
    return [name for name, kind in kinds if kind.fast and kind.device == device and precision in kind.precisions]


def _installed(names: Iterable[str]) -> list[str]:
    return [name for name in names if version_of(BACKENDS[name].packages)]


def version_of(packages: Iterable[str]) -> str | None:
    """Name and version of the first of these distributions that is installed; nothing of it is imported."""
    from importlib.metadata import PackageNotFoundError, version

    for package in packages:
        try:
            return f"{package} {version(package)}"
        except PackageNotFoundError:
            continue
    return None


def file_key(name: str, precision: str) -> str:
    """Key of Bundle.precisions for the file that the backend `name` runs `precision` from; '' for none."""
    if name == "tensorrt":
        from zsl_runtime.trt.engines import TENSORRT_FILES

        return TENSORRT_FILES.get(precision, "")
    return FILES.get(precision, "")


def model_file(bundle: Bundle, precision: str) -> Path:
    """The file that the model graph runs from in `precision`; UsageError E-PRECISION-NAME, E-PRECISION."""
    if precision not in PRECISIONS:
        raise _no_precision(precision)
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


def _no_precision(name: str) -> UsageError:
    return UsageError("E-PRECISION-NAME", f"there is no precision {name!r}; choose {', '.join(PRECISIONS)}")


def held_precisions(bundle: Bundle) -> list[str]:
    """The precisions whose files the bundle holds for a CPU, its default first; bf16, which is no file, is left out."""
    held = [precision for precision in PRECISIONS if precision != "bf16" and FILES[precision] in bundle.precisions]
    return sorted(held, key=lambda precision: precision != bundle.default_precision)


def _small_graphs(bundle: Bundle) -> dict[str, Path | None]:
    return {part: bundle.graph(part) for part in SMALL_PARTS}


def _checked_threads(threads: int | None) -> int:
    """As given, at least 1 (UsageError E-THREADS), or all CPUs that this process may use."""
    if threads is None:
        from zsl_runtime.threads import usable_cpus

        return usable_cpus()
    if threads < 1:
        raise UsageError("E-THREADS", f"{threads} threads were asked for; give at least 1")
    return threads
