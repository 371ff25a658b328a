"""The ways to run a bundle's graphs, by name. The library of each is imported when it is opened, not before."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, cast

from zsl_runtime.backends.table import BACKENDS, check_precision, fast, fast_of, installed_of
from zsl_runtime.errors import BackendError, UsageError
from zsl_runtime.graphs.parts import EXPLAIN, SMALL_PARTS
from zsl_runtime.graphs.precisions import PRECISIONS, model_file, no_precision
from zsl_runtime.machine.threads import checked_threads

if TYPE_CHECKING:
    from zsl_runtime.backends.auto import Open
    from zsl_runtime.backends.base import Backend
    from zsl_runtime.backends.onnx_graphs import GraphBackend, Graphs
    from zsl_runtime.bundle.bundle import Bundle
    from zsl_runtime.graphs.sealed import GraphFile


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
        threads: that one call may use, cut to the CPUs of the machine; None for all CPUs this process may use.
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
    threads = checked_threads(threads)
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
        raise no_precision(precision)
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
    if not found or installed_of(fast_of(precision, "cpu")):
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
        from zsl_runtime.graphs.sealed import graph_file

        model = graph_file(bundle, "model", model_file(bundle, precision))
        return open_graphs(name, {**_small_graphs(bundle), "model": model}, threads, precision)
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
    return _first(_small_graphs(bundle), threads)


def open_explain_graph(bundle: Bundle, *, threads: int | None = None) -> GraphBackend | None:
    """Open the graph that tells where attention lies, on the CPU, as `open_small_graphs`; None where there is none.

    Errors as of `open_small_graphs`. Its hash is compared when it is first used.
    """
    from zsl_runtime.graphs.sealed import graph_file

    file = graph_file(bundle, EXPLAIN, bundle.explain_graph)
    return None if file is None else cast("GraphBackend", _first({EXPLAIN: file}, threads))


def _first(graphs: Graphs, threads: int | None) -> Backend:
    """Graphs by the first fast backend of the CPU that is installed."""
    missing: list[BackendError] = []
    # Opened rather than looked up: the packages' metadata take longer to read than a class takes to add.
    for name in fast_of("fp32", "cpu"):
        try:
            return open_graphs(name, graphs, checked_threads(threads), "fp32")
        except BackendError as error:
            if error.code != "E-BACKEND-MISSING":
                raise
            missing.append(error)
    raise missing[0]


def open_graphs(name: str, graphs: Graphs, threads: int, precision: str) -> Backend:
    """Open graph files with the backend `name`, a key of BACKENDS of the CPU; errors as of `open_backend`."""
    check_precision(name, precision)
    return cast("Backend", import_module(BACKENDS[name].module).open_graphs(graphs, threads, precision))


def _small_graphs(bundle: Bundle) -> dict[str, GraphFile | None]:
    from zsl_runtime.graphs.sealed import graph_file

    return {part: graph_file(bundle, part, bundle.graph(part)) for part in SMALL_PARTS}
