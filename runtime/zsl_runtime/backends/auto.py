"""`auto`: which of the installed backends is fastest here, measured when a bundle is first used and then remembered.

The choice is between backends that give the same answers in the same precision; it never changes the precision. It is a
small file in the bundle's engines folder or, where the bundle cannot be written, in the user's cache folder. Its name
stands for everything the choice depends on, so another machine or another version measures for itself. Whoever
comes first decides: what is remembered stays until the file is removed, and so do the last bits of the scores.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from zsl_runtime.backends.table import BACKENDS, version_of
from zsl_runtime.bundle.reading import ENGINES
from zsl_runtime.errors import ArtefactError, BackendError, UsageError
from zsl_runtime.graphs.precisions import file_key
from zsl_runtime.head.head import fold
from zsl_runtime.machine import cards
from zsl_runtime.machine.cache import cache_folder
from zsl_runtime.machine.storage import stage
from zsl_runtime.machine.untrusted import MIB, UnfitError, check_folder, parse_object, read_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from zsl_runtime.arrays import Floats
    from zsl_runtime.backends.base import Backend
    from zsl_runtime.bundle.bundle import Bundle
    from zsl_runtime.head.head import FoldedHead


Open: TypeAlias = "Callable[[str], Backend]"

MOST_OF_CHOICE = MIB  # bytes
FORMAT = 1
ROWS = 8  # inputs in one timed batch: what a Classifier gives the graph at once
BUDGET = 1.0  # seconds that one backend is timed for, in turns with the others, after two runs that do not count
MOST_RUNS = 20
FAILURES = (BackendError, ArtefactError, UsageError)  # the last one: the probe is not what it takes
MARGIN = 0.97  # of the time of a backend that stands before it in BACKENDS, at most, makes another one faster
CPUINFO = Path("/proc/cpuinfo")


class Tolerance(NamedTuple):
    """How far a backend may be off before it is not chosen.

    Attributes:
        probe: Euclidean distance of a row of features from the probe's, in root mean square lengths of the rows.
        rows: the same from what the first backend gives, where that is the yardstick.
        margin: another best class is a tie when its log-probability is nearer than this to the right one's.

    """

    probe: float
    rows: float
    margin: float


# Two backends round other sums. In int8 a rounding moves an activation by 1 part in 256, and 100 layers pass that on.
# What a precision costs in accuracy is measured by the export; from the probe's features, which are of fp32, it is only
# seen here that they are not something else altogether.
TOLERANCES = {
    "fp32": Tolerance(1e-3, 1e-3, 1e-3),
    "fp16": Tolerance(0.1, 0.05, 0.05),
    "bf16": Tolerance(0.2, 0.1, 0.1),
    "int8": Tolerance(1.0, 0.15, 0.25),
}


class Choice(NamedTuple):
    """What was measured and chosen.

    Attributes:
        chosen: name of a backend.
        seconds: for a batch of ROWS inputs, of each backend that could be chosen.
        left_out: why each of the others could not.
        path: the file that remembers it; None when it is not remembered.

    """

    chosen: str
    seconds: dict[str, float]
    left_out: dict[str, str]
    path: Path | None = None


class Answers(NamedTuple):
    """Log-probabilities (n, C) and features (n, F) of the probe's n inputs, float32."""

    scores: Floats
    features: Floats


def choose(
    bundle: Bundle, candidates: Sequence[str], opener: Open, *, precision: str, threads: int, card: int = 0
) -> str:
    """The backend that `auto` stands for: the remembered one, or the fastest that agrees with the probe.

    Where the probe has no inputs nothing can be checked, and it is the first candidate.

    Args:
        bundle: whose model graph is to be run.
        candidates: installed backends that run `precision`, in order of preference; two or more.
        opener: opens one of them; all that agree are open together while they are timed, and closed before the end.
        precision: of the model graph.
        threads: that one call may use.
        card: on which those run that run on one.

    Raises:
        BackendError: E-BACKEND-PROBE when no candidate gives the probe's answers.
        ArtefactError: E-BUNDLE-... when the probe or the generation in force cannot be read.

    """
    known = remembered(bundle, candidates, precision=precision, card=card)
    if known is not None:
        return known.chosen
    probe = bundle.probe()
    inputs = probe.pixels if probe.pixels is not None else probe.inputs
    if inputs is None or len(inputs) == 0:
        return candidates[0]
    generation = bundle.current()
    head = fold(generation.head, generation.table.seen)
    choice = measure(candidates, opener, inputs, probe.features, head, precision=precision)
    _remember(bundle, choice, _facts(bundle, candidates, precision, card), threads)
    kept = remembered(bundle, candidates, precision=precision, card=card)
    return (kept or choice).chosen  # another process may have been first


def measure(
    candidates: Sequence[str],
    opener: Open,
    inputs: NDArray[np.generic],
    expected: Floats,
    head: FoldedHead,
    *,
    precision: str,
    clock: Callable[[], float] = time.perf_counter,
) -> Choice:
    """Check each candidate, then time those that agree, in turns.

    In turns, since a machine may become slower or faster meanwhile: then the order would decide who is fastest.
    In fp32 each must give the probe's features and best classes. In other precisions the first must be near the probe's
    features, and the others must agree with the first.

    Args:
        candidates: names of backends, in order of preference.
        opener: opens one of them.
        inputs: (n, ...) of the probe, as the model graph takes them.
        expected: features (n, F) float32 of the probe.
        head: folded, of the generation in force.
        precision: a key of TOLERANCES.
        clock: seconds.

    Raises:
        BackendError: E-BACKEND-PROBE when no candidate agrees.
        ArtefactError: E-BUNDLE-... when one finds the graph invalid; the others are not given it.

    """
    left_out: dict[str, str] = {}
    agreeing: dict[str, Backend] = {}
    judge = _Judge(inputs, expected, head, precision)
    with ExitStack() as stack:
        for name in candidates:
            with ExitStack() as own:  # closes one that does not agree before the next is opened
                try:
                    backend = own.enter_context(closing(opener(name)))
                    difference = judge.difference(backend)
                except FAILURES as error:
                    if error.code.startswith("E-BUNDLE-"):  # what one calls invalid may be the end of the next
                        raise
                    difference = str(error)
                if difference:
                    left_out[name] = difference
                else:
                    agreeing[name] = backend
                    stack.enter_context(own.pop_all())
        times = _in_turns(agreeing, inputs, head, clock, left_out)
    if not times:
        reasons = "; ".join(f"{name}: {why}" for name, why in left_out.items())
        raise BackendError(
            "E-BACKEND-PROBE",
            f"no installed backend gives the answers this bundle was shipped with ({reasons}); "
            "examine it with zsl-doctor BUNDLE, or choose one with --backend",
        )
    best = next(iter(times))
    for name in times:
        if _is_faster(times[name], times[best]):
            best = name
    return Choice(best, {name: min(of) for name, of in times.items()}, left_out)


class _Judge:
    """Whether one backend after the other gives the answers; arguments are those of `measure`."""

    def __init__(self, inputs: NDArray[np.generic], expected: Floats, head: FoldedHead, precision: str) -> None:
        self.inputs, self.expected, self.head, self.precision = inputs, expected, head, precision
        self.wanted: Answers | None = None

    def difference(self, backend: Backend) -> str:
        """How it differs by more than is allowed, in words; '' when it does not."""
        allowed, exact = TOLERANCES[self.precision], self.precision == "fp32"
        found = Answers(*backend.run(self.inputs, self.head))
        wanted = self.wanted
        if wanted is None:
            wanted = Answers(self.head.scores(backend.lift(self.expected)) if exact else found.scores, self.expected)
        first = wanted.features is self.expected
        difference = disagreement(found, wanted, allowed.probe if first else allowed.rows, allowed.margin)
        if exact:
            self.wanted = wanted
        elif first and not difference:
            self.wanted = found  # the yardstick of the others
        return difference


def _in_turns(
    backends: dict[str, Backend],
    inputs: NDArray[np.generic],
    head: FoldedHead,
    clock: Callable[[], float],
    left_out: dict[str, str],
) -> dict[str, list[float]]:
    """Seconds of runs of one batch, each round one of every backend that has not used up its BUDGET.

    The first two runs do not count. A backend that fails goes to `left_out`.
    """
    batch = np.ascontiguousarray(inputs[np.arange(ROWS) % len(inputs)])
    times: dict[str, list[float]] = {name: [] for name in backends}

    def run(name: str) -> None:
        started = clock()
        try:
            backends[name].run(batch, head)
        except FAILURES as error:
            left_out[name] = str(error)
            del times[name]
            return
        times[name].append(clock() - started)

    for name in backends:
        run(name)
    for of in times.values():
        of.clear()
    while going := [name for name, of in times.items() if len(of) < MOST_RUNS and sum(of) < BUDGET]:
        for name in going:
            run(name)
    return times


def _is_faster(times: Sequence[float], best: Sequence[float]) -> bool:
    """Whether a backend is faster by more than MARGIN: by the fastest run of the rounds that both were in.

    What else runs here only ever makes a run slower. A round that one of them was not in may have been a quiet one.
    """
    rounds = min(len(times), len(best))
    return min(times[:rounds]) < MARGIN * min(best[:rounds])


def disagreement(found: Answers, wanted: Answers, rows: float, margin: float) -> str:
    """How `found` differs from `wanted` by more than a Tolerance allows, in words; '' when it does not."""
    if found.features.shape != wanted.features.shape or found.scores.shape != wanted.scores.shape:
        return f"features {found.features.shape} and scores {found.scores.shape} are not of the expected shapes"
    if not np.isfinite(found.features).all() or np.isnan(found.scores).any():
        return "its features or scores are not numbers"
    scale = float(np.sqrt((wanted.features.astype(np.float64) ** 2).sum(axis=1).mean())) or 1.0
    apart = np.linalg.norm(found.features.astype(np.float64) - wanted.features, axis=1)  # (n,)
    if apart.max() > rows * scale:
        return f"its features differ by {apart.max() / scale:.1e} of their length"
    top = found.scores.argmax(axis=1, keepdims=True)  # (n, 1)
    behind = wanted.scores.max(axis=1) - np.take_along_axis(wanted.scores, top, axis=1)[:, 0]
    wrong = int((behind > margin).sum())
    return f"{wrong} of {len(behind)} best classes are others" if wrong else ""


def remembered(bundle: Bundle, candidates: Sequence[str], *, precision: str, card: int = 0) -> Choice | None:
    """What was chosen between just these candidates on this machine; None when nothing readable says so."""
    facts = _facts(bundle, candidates, precision, card)
    for folder in _folders(bundle):
        choice = _read(folder / _name(facts), facts)
        if choice is not None:
            return choice
    return None


def _facts(bundle: Bundle, candidates: Sequence[str], precision: str, card: int = 0) -> dict[str, Any]:
    """Everything that a choice is kept for, as JSON data.

    The number of threads is not among it: answers would change with --threads where backends round differently.
    """
    held = bundle.precisions
    keys = sorted({key for name in candidates if (key := file_key(name, precision)) in held})
    facts = {
        "format": FORMAT,
        "graph": "+".join(bundle.manifest["files"][held[key]]["sha256"] for key in keys),
        "precision": precision,
        "cpu": cpu_name(),
        "backends": {name: version_of(BACKENDS[name].packages) or "" for name in candidates},
    }
    if any(BACKENDS[name].device == "cuda" for name in candidates):
        facts |= {"card": str(cards.driver().card(card)), "driver": cards.driver().version}
    return facts


def cpu_name(cpuinfo: Path = CPUINFO) -> str:
    """The processor's name and, where it can be read, a digest of its instruction sets: virtual machines hide some."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    said: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        said.setdefault(name.strip(), value.strip())  # of the first processor
    name = said.get("model name") or platform.processor() or platform.machine()
    flags = said.get("flags") or said.get("Features")
    return f"{name} {hashlib.sha256(flags.encode()).hexdigest()[:8]}" if flags else name


def _name(facts: dict[str, Any]) -> str:
    return f"auto-{hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]}.json"


def _folders(bundle: Bundle) -> Iterator[Path]:
    """Where a choice is looked for and written, in this order."""
    yield bundle.path / ENGINES
    kept = cache_folder()
    if kept is not None:
        yield kept / ENGINES


def _read(path: Path, facts: dict[str, Any]) -> Choice | None:
    """The choice of one file; None unless it is whole and of these very facts."""
    try:
        said = parse_object(read_file(path, MOST_OF_CHOICE))
    except (OSError, UnfitError):
        return None
    if any(said.get(name) != value for name, value in facts.items()):
        return None
    seconds, left_out = said.get("seconds"), said.get("left_out")
    if not isinstance(seconds, dict) or not isinstance(left_out, dict) or not isinstance(said.get("chosen"), str):
        return None
    if (
        said["chosen"] not in seconds
        or {*seconds, *left_out} != set(facts["backends"])
        or not all(type(value) is float for value in seconds.values())
    ):
        return None
    return Choice(said["chosen"], seconds, {name: str(why) for name, why in left_out.items()}, path)


def _remember(bundle: Bundle, choice: Choice, facts: dict[str, Any], threads: int) -> None:
    """Write the choice where it can be written; where nothing can, the next use measures again."""
    content = {
        **facts,
        "threads": threads,
        "chosen": choice.chosen,
        "seconds": choice.seconds,
        "left_out": choice.left_out,
    }
    data = (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()
    for folder in _folders(bundle):
        try:
            if folder.parent == bundle.path:
                check_folder(folder)
            folder.mkdir(parents=True, exist_ok=True)
            _put(folder / _name(facts), data, facts)
        except (OSError, UnfitError):
            continue
        return


def _put(path: Path, data: bytes, facts: dict[str, Any]) -> None:
    """Give `path` this content, whole, unless it has a readable choice by now. If it gets lost, it is found anew."""
    partial = stage(path.parent, data)
    try:
        try:
            os.link(partial, path)  # fails where there is one, as a rename does not
        except FileExistsError:
            if _read(path, facts) is None:
                partial.replace(path)
        except OSError:  # a file system without links
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
