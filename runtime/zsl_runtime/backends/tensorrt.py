"""TensorRT and TensorRT-RTX on an NVIDIA card: the model from a stored engine, the small graphs on the CPU.

The engine has no head inside: weight, bias and class bias are inputs that stay on the card, so that another head is
other addresses and neither another engine nor a pause. Plans are found, and built, by `zsl_runtime.trt`.
"""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING

import numpy as np

from zsl_runtime.errors import ArtefactError, UsageError
from zsl_runtime.graphs.ports import HEAD_INPUTS, check_array, check_head
from zsl_runtime.head.head import FoldedHead, fold
from zsl_runtime.machine.native import has_kernels
from zsl_runtime.machine.processes import OfThisProcess, only_here
from zsl_runtime.trt.cuda import Cuda
from zsl_runtime.trt.dispatcher import LIMITS, OVERLAP, Dispatcher, DispatcherClosedError, Limits
from zsl_runtime.trt.engine import Engine
from zsl_runtime.trt.facts import build_command
from zsl_runtime.trt.library import find_library
from zsl_runtime.trt.store import find, mark_verified, read_plan
from zsl_runtime.trt.topk import MOST, CudaTopK
from zsl_runtime.trt.trust import check_trust

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import IO

    from numpy.typing import NDArray

    from zsl_runtime.arrays import Floats
    from zsl_runtime.backends.base import Backend
    from zsl_runtime.bundle.bundle import Bundle
    from zsl_runtime.graphs.answers import Pending
    from zsl_runtime.graphs.ports import InputPort
    from zsl_runtime.machine.cards import Card
    from zsl_runtime.trt.dispatcher import Dispatched, Parts
    from zsl_runtime.trt.facts import Stored
    from zsl_runtime.trt.library import Library


def check(bundle: Bundle | None, precision: str, card: Card | None) -> None:
    """Say what stands against running here, without loading anything onto the card.

    Args:
        bundle: whose model is to be run; None to look at the libraries alone.
        precision: of the model.
        card: where; None to look at the libraries alone.

    Raises:
        BackendError: E-BACKEND-MISSING, with the line that installs what is missing.
        UsageError: E-PRECISION when the bundle does not hold it.
        ArtefactError: E-ENGINE-... when the bundle has no engine for this card and library that may be loaded.

    """
    from zsl_runtime.trt.cuda import import_cuda

    library = find_library()
    import_cuda()
    if bundle is not None and card is not None:
        stored = find(
            bundle,
            flavour=library.flavour,
            version=library.version,
            compute_capability=card.compute_capability,
            precision=precision,
            gpu=card.name,
        )
        check_trust(stored, False)


def rebuild(bundle: Bundle, device: str, precision: str | None, batch_size: int, stream: IO[str]) -> Stored:
    """Build the engine of a bundle's model for the card that it is to run on, and keep it beside the bundle.

    Args:
        bundle: open.
        device: as of `open_backend`.
        precision: fp32, fp16 or int8; None for the bundle's default.
        batch_size: the engine takes batches of this size or larger ones.
        stream: where to say what is being built, and how far it is.

    Raises:
        ZslError: what `zsl_runtime.trt.build.build_for_bundle` raises; BackendError E-BACKEND-MISSING, E-DEVICE.

    """
    from zsl_runtime.backends.devices import parse_device
    from zsl_runtime.trt.build import DEFAULT_MAX_BATCH, MAX_BATCH, Shape, build_for_bundle
    from zsl_runtime.trt.progress import BuildProgress

    library = find_library()
    cuda = Cuda(parse_device(device).card)
    precision = precision or bundle.default_precision
    stream.write(f"building the {precision} engine with {library} for {cuda.name}; this may take minutes\n")
    stream.flush()
    with cuda.current():
        stored = build_for_bundle(
            bundle,
            library,
            precision,
            shape=Shape(max_batch=max(DEFAULT_MAX_BATCH, min(batch_size, MAX_BATCH))),
            compute_capabilities=(cuda.compute_capability,),
            progress=BuildProgress(stream, f"engine in {precision}"),
        )
    stream.write(f"wrote {stored.path} ({stored.bytes / 1e6:.1f} MB) in {stored.build_seconds:.1f} s\n")
    stream.flush()
    return stored


def open_on_card(
    bundle: Bundle,
    threads: int,
    precision: str,
    card: int,
    *,
    trusted: bool = False,
    graphs: bool = True,
    limits: Limits = LIMITS,
) -> TensorRtBackend:
    """Open the engine of a bundle.

    Args:
        bundle: its hashes have been checked.
        threads: of the small graphs on the CPU.
        precision: fp32, fp16 or int8.
        card: its number.
        trusted: load an engine that somebody else may have built: that is running their code.
        graphs: record CUDA graphs.
        limits: how much is kept on the card.

    Raises:
        BackendError: E-BACKEND-MISSING, E-DEVICE.
        UsageError: E-PRECISION when the bundle does not hold it.
        ArtefactError: E-ENGINE-MISSING, -MISMATCH, -HASH, -TRUST.

    """
    library = find_library()
    cuda = Cuda(card)
    stored = find(
        bundle,
        flavour=library.flavour,
        version=library.version,
        compute_capability=cuda.compute_capability,
        precision=precision,
        gpu=cuda.name,
        classes=len(bundle.current().table),
    )
    check_trust(stored, trusted)
    return TensorRtBackend(
        bundle, stored, library, cuda, threads, precision, graphs=graphs, limits=limits, trusted=trusted
    )


class TensorRtBackend(OfThisProcess):
    """Runs the model graph of a bundle from a stored plan on one card.

    The plan is loaded by the first call that needs it. One that was built without a card must give the probe's answers
    before anything else; that is noted beside it.

    Args:
        bundle: it belongs to.
        stored: the plan; found for this library and card, and trusted.
        library: that built it.
        cuda: the card.
        threads: of the small graphs.
        precision: of the plan.
        graphs: record CUDA graphs.
        limits: how much is kept on the card.
        trusted: load a plan that replaced it meanwhile, though somebody else may have built that.

    """

    name = "tensorrt"
    in_flight = OVERLAP

    def __init__(  # noqa: PLR0917  # in the order of their making
        self,
        bundle: Bundle,
        stored: Stored,
        library: Library,
        cuda: Cuda,
        threads: int,
        precision: str,
        *,
        graphs: bool = True,
        limits: Limits = LIMITS,
        trusted: bool = False,
    ) -> None:
        super().__init__()
        self.precision = precision
        self.library = f"{library} on {cuda.name}"
        self.device = f"cuda:{cuda.index}"
        self.stored = stored
        self._bundle, self._trt, self._cuda = bundle, library, cuda
        self._threads, self._graphs, self._limits, self._trusted = threads, graphs, limits, trusted
        self._lock = threading.Lock()
        self._dispatcher: Dispatcher | None = None
        self._finalizer: weakref.finalize[..., TensorRtBackend] | None = None
        self._on_cpu: Backend | None = None
        self._no_head: FoldedHead | None = None
        self._ranks = has_kernels()

    def input_port(self) -> InputPort:
        """What `run` and `features` take, as the engine itself says."""
        return self._opened().engine.input

    def run(self, inputs: NDArray[np.generic], head: FoldedHead) -> tuple[Floats, Floats]:
        """Inputs (N, ...) -> log-probabilities (N, C) and features (N, F), float32."""
        answer = self.begin(inputs, head).result()
        assert answer.scores is not None
        assert answer.features is not None
        return answer.scores, answer.features

    def features(self, inputs: NDArray[np.generic]) -> Floats:
        """Inputs (N, ...) -> features (N, F) float32."""
        if self._no_head is None:
            width = self._opened().engine.widths[0]
            self._no_head = FoldedHead(np.zeros((1, width), np.float32), *np.zeros((2, 1), np.float32))
        answer = self._begin(inputs, self._no_head, 0, scores=False, features=True).result()
        assert answer.features is not None
        return answer.features

    def begin(
        self,
        rows: NDArray[np.generic] | Sequence[NDArray[np.generic]],
        head: FoldedHead,
        best: int = 0,
        *,
        features: bool = False,
    ) -> Pending:
        """Begin a batch, as `zsl_runtime.backends.base.Overlapping` says."""
        if best and not self.ranks(best):
            raise UsageError("E-TOPK", f"{best} best columns are not found on the card; ask for scores")
        return self._begin(rows, head, best, scores=not best, features=features or not best)

    def ranks(self, best: int) -> bool:
        """Whether this many best columns are found on the card."""
        return self._ranks and best <= MOST

    def hold(self, head: FoldedHead) -> None:
        """Copy a head to the card, beside those that are in use."""
        while True:
            dispatcher = self._opened()
            _check_head(dispatcher.engine, head)
            try:
                dispatcher.hold(head)
            except DispatcherClosedError:  # by another thread, just now
                continue
            return

    def synthesize(self, semantic: Floats, noise: Floats) -> Floats:
        """Semantic vectors (M, A) and noise (M, Z) -> features (M, F), all float32."""
        return self._small().synthesize(semantic, noise)

    def rows(self, semantic: Floats) -> tuple[Floats, Floats]:
        """Semantic vectors (M, A) -> weights (M, D) and biases (M,) of the classes' rows, all float32."""
        return self._small().rows(semantic)

    def means(self, semantic: Floats) -> Floats:
        """Semantic vectors (M, A) -> the classes' means (M, D) in canonical coordinates, float32."""
        return self._small().means(semantic)

    def lift(self, features: Floats) -> Floats:
        """Features (M, F) -> lifted features (M, D), float32; the features themselves when there is no lift."""
        return features if self._bundle.graph("lift") is None else self._small().lift(features)

    def close(self) -> None:
        """Let go of the engine and of everything on the card; batches that were begun are finished first.

        In a forked child nothing is done: what is on the card is the parent's.
        """
        if not self.is_at_home:
            return
        with self._lock:
            self._dispatcher = None
            finalizer, self._finalizer = self._finalizer, None
            small, self._on_cpu = self._on_cpu, None
        if finalizer is not None:
            finalizer()
        if small is not None:
            small.close()

    def _begin(
        self,
        rows: NDArray[np.generic] | Sequence[NDArray[np.generic]],
        head: FoldedHead,
        best: int,
        *,
        scores: bool,
        features: bool,
    ) -> Dispatched | Parts:
        while True:
            dispatcher = self._opened()
            _check(dispatcher.engine, rows, head)
            try:
                return dispatcher.begin(rows, head, best=best, scores=scores, features=features)
            except DispatcherClosedError:  # by another thread, just now
                continue

    def _small(self) -> Backend:
        """The small graphs, by the same backend of the CPU that classes are added with."""
        from zsl_runtime.backends.opening import open_small_graphs

        with self._lock:
            if self._on_cpu is None:
                self._on_cpu = open_small_graphs(self._bundle, threads=self._threads)
            return self._on_cpu

    def _opened(self) -> Dispatcher:
        self.check_at_home()
        dispatcher = self._dispatcher
        if dispatcher is not None:
            return dispatcher
        with self._lock:
            if self._dispatcher is None:
                dispatcher = self._open()
                # Whoever forgets to close gives the card's memory back when the backend is gone, or Python ends.
                self._finalizer = weakref.finalize(self, only_here(dispatcher.close))
                self._dispatcher = dispatcher
            return self._dispatcher

    def _open(self) -> Dispatcher:
        """Load the engine; and hold it against the probe when it never ran on such a card."""
        plan = read_plan(self.stored, trusted=self._trusted)
        with self._cuda.current():
            engine = Engine(self._trt, plan, str(self.stored.path))
        del plan
        try:
            topk = CudaTopK(self._cuda.index) if self._ranks else None
            dispatcher = Dispatcher(self._cuda, engine, topk, graphs=self._graphs, limits=self._limits)
        except BaseException:
            engine.close()
            raise
        try:
            if self.stored.facts.gpu is None and self._cuda.name not in self.stored.verified_on:
                self._hold_against_the_probe(dispatcher)
        except BaseException:
            dispatcher.close()
            raise
        return dispatcher

    def _hold_against_the_probe(self, dispatcher: Dispatcher) -> None:
        """ArtefactError E-ENGINE-PROBE unless the engine gives the answers that the bundle was shipped with."""
        from zsl_runtime.backends.auto import TOLERANCES, Answers, disagreement

        capability = (self._cuda.compute_capability,)
        command = build_command(
            self._bundle.path, self.precision, flavour=self._trt.flavour, compute_capabilities=capability
        )
        probe = self._bundle.probe()
        inputs = probe.pixels if probe.pixels is not None else probe.inputs
        if inputs is None or len(inputs) == 0:
            raise ArtefactError(
                "E-ENGINE-PROBE",
                f"{self.stored.path} was built without a card and never ran, and the bundle has no inputs to try it on "
                f"(--no-probe-images); build it on this machine: {command}",
            )
        generation = self._bundle.current()
        head = fold(generation.head, generation.table.seen)
        _check(dispatcher.engine, inputs, head)
        answer = dispatcher.begin(inputs, head).result()
        assert answer.scores is not None
        assert answer.features is not None
        allowed = TOLERANCES[self.precision]
        # In fp32 the scores follow from the probe's features; in other precisions, from the engine's own.
        features = probe.features if self.precision == "fp32" else answer.features
        wanted = Answers(head.scores(self._lift_unlocked(features)), probe.features)
        difference = disagreement(Answers(answer.scores, answer.features), wanted, allowed.probe, allowed.margin)
        if difference:
            raise ArtefactError(
                "E-ENGINE-PROBE",
                f"{self.stored.path} does not give the answers this bundle was shipped with on {self._cuda.name}: "
                f"{difference}; build it again ({command}), or use another --backend",
            )
        mark_verified(self.stored, self._cuda.name)

    def _lift_unlocked(self, features: Floats) -> Floats:
        """As `lift`, while the lock is held."""
        if self._bundle.graph("lift") is None:
            return features
        from zsl_runtime.backends.opening import open_small_graphs

        small = open_small_graphs(self._bundle, threads=self._threads)
        try:
            return small.lift(features)
        finally:
            small.close()


def _check(engine: Engine, rows: NDArray[np.generic] | Sequence[NDArray[np.generic]], head: FoldedHead) -> None:
    """UsageError E-INPUT-ARRAY unless rows and head are what the engine takes."""
    _check_head(engine, head)
    (port,) = (port for port in engine.inputs if port.name not in HEAD_INPUTS)
    if isinstance(rows, np.ndarray):
        check_array(port, rows)
    elif not isinstance(rows, (list, tuple)) or not rows:
        raise UsageError("E-INPUT-ARRAY", f"{port.name} is {type(rows).__name__}; expected rows, at least one")
    else:
        for row in rows:
            check_array(port, row[None] if isinstance(row, np.ndarray) else row)


def _check_head(engine: Engine, head: FoldedHead) -> None:
    """UsageError E-INPUT-ARRAY unless the head is what the engine takes."""
    check_head(head)
    given = dict(zip(HEAD_INPUTS, (head.weight, head.bias, head.class_bias), strict=True))
    known = HEAD_INPUTS if head.is_finite else ("class_bias",)
    for port in engine.inputs:
        if port.name in given:
            check_array(port, given[port.name], known)
