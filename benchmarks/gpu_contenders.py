"""What runs the model on a card, each as one call from ready pictures in host memory to scores in host memory."""

from __future__ import annotations

import copy
import time
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from turns import Clock, in_turns
from turns import Contender as Turn

from zsl_runtime.head.head import fold

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from zsl_runtime.bundle.bundle import Bundle
    from zsl_runtime.head.head import FoldedHead
    from zsl_train.training.run_folder import Run

Answer = tuple[np.ndarray, np.ndarray]  # scores (N, C), features (N, F)
WARM_UP = 10
ROUNDS = (40, 2000)  # at least and at most
SECONDS = 3.0  # that one line of the report measures, where ROUNDS allow it
# Of a row of features, in root mean square lengths of the rows, against float32 on the CPU, by what is computed in.
TOLERANCE = {"fp32": 1e-3, "fp16": 5e-2, "int8": 1.0}
PERCENTILES = {"p50_ms": 0.5, "p90_ms": 0.9, "p99_ms": 0.99}


class WrongAnswerError(Exception):
    """A contender does not give the answers: it has no speed."""


class NotHereError(Exception):
    """A contender cannot be run on this machine; the message says why."""


class Contender(NamedTuple):
    """One way to run the model.

    Attributes:
        name: for the report and for --only.
        precision: fp32, fp16 or int8.
        open: a context manager: gives the call, (pictures) -> Answer, and perhaps `begin`, (pictures) -> something with
            `result()`, of what overlaps batches. NotHereError when it cannot be run.

    """

    name: str
    precision: str
    open: Callable[[], Any]


class Opened(NamedTuple):
    """An opened contender.

    Attributes:
        call: pictures -> Answer.
        begin: of one that overlaps batches, else None.
        library: name and version.

    """

    call: Callable[[np.ndarray], Answer]
    begin: Callable[[np.ndarray], Any] | None
    library: str


def head_of(bundle: Bundle) -> FoldedHead:
    """The head in force."""
    generation = bundle.current()
    return fold(generation.head, generation.table.seen)


def contenders(bundle: Bundle, run: Run | None, card: int | None, precisions: Sequence[str]) -> list[Contender]:
    """All of them, in the order of the report.

    Args:
        bundle: the model.
        run: what it was exported from, for torch; None leaves torch out.
        card: N of `cuda:N`; None for the CPU, which is only to try this script.
        precisions: that the bundle holds.

    """
    found = []
    for precision in precisions:
        if card is not None:
            for graphs in (True, False):
                name = f"tensorrt {precision} {'cuda graphs' if graphs else 'no cuda graphs'}"
                found.append(Contender(name, precision, _tensorrt(bundle, precision, card, graphs=graphs)))
        if precision != "int8":
            backend, device = ("ort", "cpu") if card is None else ("ort-cuda", f"cuda:{card}")
            found.append(Contender(f"{backend} {precision}", precision, _ours(bundle, backend, device, precision)))
            if run is not None:
                for compiled in (False, True):
                    name = f"torch {'compile' if compiled else 'eager'} {precision}"
                    found.append(Contender(name, precision, _torch(bundle, run, card, precision, compiled=compiled)))
    return found


def _ours(bundle: Bundle, backend: str, device: str, precision: str) -> Callable[[], Any]:
    @contextmanager
    def opened() -> Iterator[Opened]:
        from zsl_runtime.backends.opening import open_backend
        from zsl_runtime.errors import ZslError

        try:
            one = open_backend(backend, bundle, device=device, precision=precision)
        except ZslError as error:
            raise NotHereError(str(error)) from None
        head = head_of(bundle)
        try:
            yield Opened(lambda pictures: one.run(pictures, head), None, one.library)
        finally:
            one.close()

    return opened


def _tensorrt(bundle: Bundle, precision: str, card: int, *, graphs: bool) -> Callable[[], Any]:
    @contextmanager
    def opened() -> Iterator[Opened]:
        from zsl_runtime.backends import tensorrt
        from zsl_runtime.errors import ZslError
        from zsl_runtime.machine.threads import usable_cpus

        try:
            one = tensorrt.open_on_card(bundle, usable_cpus(), precision, card, graphs=graphs)
        except ZslError as error:
            raise NotHereError(str(error)) from None
        head = head_of(bundle)
        try:
            yield Opened(
                lambda pictures: one.run(pictures, head), lambda pictures: one.begin(pictures, head), one.library
            )
        finally:
            one.close()

    return opened


def _torch(bundle: Bundle, run: Run, card: int | None, precision: str, *, compiled: bool) -> Callable[[], Any]:
    """The module behind the exported graph: fp16 is the same mixture of half and single precision."""

    @contextmanager
    def opened() -> Iterator[Opened]:
        import torch

        from zsl_export.graphs import model_graph
        from zsl_export.half import half_graph

        if card is not None and not torch.cuda.is_available():
            raise NotHereError(f"torch {torch.__version__} does not see a card; install its CUDA build")
        device = torch.device("cpu" if card is None else f"cuda:{card}")
        make = model_graph if precision == "fp32" else half_graph
        module = copy.deepcopy(make(run.backbone, run.trained).module).to(device)  # the others are open beside it
        head = head_of(bundle)
        arrays = (head.weight, head.bias, head.class_bias)
        with ExitStack() as stack:
            before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
            stack.callback(_set_tf32, *before)
            _set_tf32(False, False)  # fp32 is fp32, as in all others here
            stack.callback(torch.compiler.reset)
            # The same memory for inputs of one size: pinned, so that the copy is as fast as it can be.
            parameters = [torch.from_numpy(array).to(device) for array in arrays]
            mode = None if card is None else "reduce-overhead"  # with CUDA graphs, as ours
            called = torch.compile(module, dynamic=False, mode=mode) if compiled else module
            staging: dict[int, torch.Tensor] = {}

            def call(pictures: np.ndarray) -> Answer:
                given = torch.from_numpy(pictures)
                if card is not None:
                    pinned = staging.get(len(pictures))
                    if pinned is None:
                        pinned = staging[len(pictures)] = torch.empty_like(given).pin_memory()
                    pinned.copy_(given)
                    given = pinned.to(device, non_blocking=True)
                with torch.inference_mode():
                    scores, features = called(given, *parameters)
                return scores.cpu().numpy(), features.cpu().numpy()

            try:
                yield Opened(call, None, f"torch {torch.__version__}")
            finally:
                module.to("cpu")

    return opened


def _set_tf32(matmul: bool, cudnn: bool) -> None:
    import torch

    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, cudnn


def check(opened: Opened, precision: str, pictures: np.ndarray, wanted: np.ndarray, head: FoldedHead) -> None:
    """WrongAnswerError unless features and scores are right, of one batch and of one row.

    Args:
        opened: the contender.
        precision: a key of TOLERANCE.
        pictures: (N, P, P, 3).
        wanted: features (N, F) in float32 on the CPU.
        head: without a lift before it.

    """
    scale = float(np.sqrt((wanted.astype(np.float64) ** 2).sum(axis=1).mean()))
    if wanted.std(axis=0).max() < 1e-3 * np.abs(wanted).max():
        raise WrongAnswerError("the pictures' features are all the same: nothing could be told from them")
    for count in (len(pictures), 1):
        scores, features = opened.call(pictures[:count])
        off = float(np.linalg.norm(features.astype(np.float64) - wanted[:count], axis=1).max())
        if not off <= TOLERANCE[precision] * scale:  # NaN is not, either
            raise WrongAnswerError(f"features are off by {off / scale:.1e} of their length")
        by_hand = head.scores(features)
        if not np.abs(scores - by_hand).max() <= 1e-2 * max(1.0, float(np.abs(by_hand).max())):
            raise WrongAnswerError(f"scores are off by {np.abs(scores - by_hand).max():.1e}")


def time_in_turns(
    opened: Mapping[str, Opened],
    pictures: np.ndarray,
    *,
    seconds: float = SECONDS,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    """Of each contender: percentiles of one call in milliseconds; and pictures a second with two batches in flight.

    The contenders run in turns. A call ends when its scores are in host memory, so that nothing is left to wait for.
    What overlaps batches does so in a stretch of its own behind that.

    Args:
        opened: by name; they have been checked.
        pictures: one batch.
        seconds: for each contender.
        clock: another one than the system's.

    Returns:
        The figures by name, and why a contender has none: out of memory, say.

    """
    found = in_turns(
        {name: Turn(partial(one.call, pictures)) for name, one in opened.items()},
        seconds=seconds * len(opened),
        rounds=ROUNDS,
        warm_up=WARM_UP,
        keep_going=(Exception,),
        clock=Clock(clock),
    )
    first = next(iter(found.seconds), None)
    lines = {}
    for name, times in found.seconds.items():
        line = {key: round(1000 * float(np.quantile(times, at)), 4) for key, at in PERCENTILES.items()}
        line |= {
            "rounds": found.rounds,
            "one_after_the_other_per_second": round(len(pictures) * len(times) / sum(times), 1),
        }
        if name != first and first is not None:
            line["times_as_fast_as_the_first"] = round(found.times_as_fast(name, first).median, 4)
        begin = opened[name].begin
        if begin is not None:
            line["overlapped_per_second"] = _overlapped(begin, pictures, found.rounds, clock)
        lines[name] = line
    return lines, found.failed


def _overlapped(
    begin: Callable[[np.ndarray], Any], pictures: np.ndarray, rounds: int, clock: Callable[[], float]
) -> float:
    """Pictures a second, two batches in flight."""
    pending = []
    started = clock()
    for _ in range(rounds):
        pending.append(begin(pictures))
        if len(pending) == 2:
            pending.pop(0).result()
    for one in pending:
        one.result()
    return round(len(pictures) * rounds / (clock() - started), 1)


def time_call(
    opened: Opened, pictures: np.ndarray, *, seconds: float = SECONDS, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """The figures of a contender that is alone; raises what it failed with as RuntimeError."""
    lines, failed = time_in_turns({"": opened}, pictures, seconds=seconds, clock=clock)
    if failed:
        raise RuntimeError(failed[""])
    return lines[""]
