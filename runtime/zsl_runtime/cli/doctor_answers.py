"""Whether a bundle gives its answers on this machine: every precision it holds, by every backend that runs it here.

The export compared and measured on its own machine. Elsewhere other instructions compute: without VNNI, sums of
products of 8-bit numbers are cut off, and int8 may give other labels. So the probe is run in each precision, and held
against the answers that were recorded at the export, by bounds that follow from what the export measured there; and in
lower precisions against the reference backend, which computes the same file without such instructions. Measured in
int8, EfficientNet-Lite2, worst of 48 pictures: 0.10 of a row's length from the reference with VNNI, 0.44 without.
"""

from __future__ import annotations

import math
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from zsl_runtime.backends.auto import TOLERANCES
from zsl_runtime.backends.devices import find_card, trouble
from zsl_runtime.backends.opening import open_backend
from zsl_runtime.backends.table import BACKENDS, installed_of
from zsl_runtime.bundle.reading import MOST_OF_MANIFEST, read_whole
from zsl_runtime.cli.finding import BROKEN, FAILED, NOTE, OK, Finding, said
from zsl_runtime.errors import ArtefactError, BackendError, UsageError, ZslError
from zsl_runtime.graphs.precisions import PRECISIONS, file_key, held_precisions
from zsl_runtime.head.head import fold
from zsl_runtime.machine.processor import processor
from zsl_runtime.machine.untrusted import UnfitError, parse_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from zsl_runtime.arrays import Floats
    from zsl_runtime.backends.base import Backend
    from zsl_runtime.bundle.bundle import Bundle
    from zsl_runtime.bundle.generation import Generation, Probe
    from zsl_runtime.head.head import FoldedHead

PARITY, REFERENCE = "parity.json", "reference"
# Of what the export measured or allowed on its machine. float32: other CPUs round other sums. int8: it measured the
# root mean square over some 50 pictures, and here it is the worst of a few.
LEEWAY = {"fp32": 10.0, "fp16": 2.0, "int8": 3.0}
AGREEMENT = {"fp16": 0.99, "bf16": 0.98, "int8": 0.95}  # with the labels of fp32, where the export did not measure it
CHANGES = 2.0  # times as many labels may change as the export says, but one in any case
LARGEST = 1e6
NOT_HERE = ("E-PRECISION-CPU", "E-ENGINE-MISSING")  # nothing is wrong: it is not for this CPU, or not for a card


class Bound(NamedTuple):
    """How far answers may be from those that were recorded.

    Attributes:
        features: largest distance of a row, in root mean square lengths of the recorded rows.
        source: of that, in words.
        rows: largest distance from what the reference makes of the same file, likewise.
        margin: another best class is a tie when its log-probability is nearer than this to the recorded one's.
        others: how many best classes may be others.

    """

    features: float
    source: str
    rows: float
    margin: float
    others: int


class Asked(NamedTuple):
    """What every backend is asked.

    Attributes:
        probe: with what was recorded.
        inputs: of it.
        head: that the recorded scores are of; None to ask for features alone.
        bounds: by precision.

    """

    probe: Probe
    inputs: NDArray[np.generic]
    head: FoldedHead | None
    bounds: dict[str, Bound]


@dataclass(frozen=True)
class Judged:
    """One precision by one backend.

    Attributes:
        precision: of the model graph.
        backend: a key of BACKENDS.
        text: what is to be said.
        passed: None where it could not be run.
        state: of one that could not be run.
        features: (n, F) that the reference gave.
        invalid: the graph is none, and nothing else is given it.

    """

    precision: str
    backend: str
    text: str
    passed: bool | None
    state: str = FAILED
    features: Floats | None = None
    invalid: bool = False


def answers(bundle: Bundle, first: Generation | None, *, cards: bool) -> Iterator[Finding]:
    """Run the probe in every precision by every backend, and compare with what the exported model gave.

    Args:
        bundle: its files are as exported.
        first: Generation 1, whose answers were recorded; without it only features are compared.
        cards: also by what runs on card 0.

    Raises:
        ArtefactError: E-BUNDLE-PROBE, E-BUNDLE-MISSING.

    """
    probe = bundle.probe()
    inputs = probe.pixels if probe.pixels is not None else probe.inputs
    kind = "pictures" if bundle.manifest["pixels"] is not None else "rows"
    if inputs is None or len(inputs) == 0:
        yield Finding(NOTE, f"probe: no {kind} were kept at export, so the model's answers cannot be checked")
        return
    stated, problem = read_stated(bundle)
    if problem:
        yield Finding(NOTE, f"{problem}; the usual bounds are used")
    yield Finding(OK, f"probe: {len(inputs)} {kind} with recorded answers, which each precision must give here, too")
    if first is None:
        yield Finding(NOTE, "probe: the exported generation is gone or unchecked, so top-1 answers are not compared")
    head = None if first is None else fold(first.head, first.table.seen)
    recorded = "fp32" if "fp32" in bundle.precisions else bundle.default_precision
    asked = Asked(probe, inputs, head, {one: bound(one, recorded, stated, probe) for one in PRECISIONS})
    invalid: set[str] = set()  # files that one library calls so: no other is given them
    for precision in PRECISIONS:
        names = [name for name in BACKENDS if _can_run(bundle, name, precision, cards=cards)]
        judged: list[Judged] = []
        for name in sorted(names, key=lambda name: name != REFERENCE):
            file = bundle.precisions[file_key(name, precision)]
            if file in invalid:
                continue
            yardstick = judged[0].features if judged and judged[0].passed and precision != "fp32" else None
            judged.append(_judge(bundle, name, precision, asked, yardstick))
            if judged[-1].invalid:
                invalid.add(file)
        yield from verdicts(judged, bundle.path)
        if not names and precision in held_precisions(bundle):
            yield Finding(NOTE, f"probe: not run in {precision}: no backend that runs it is installed")


def _can_run(bundle: Bundle, name: str, precision: str, *, cards: bool) -> bool:
    """Whether a backend is there that runs a file of the bundle in this precision; not whether it works."""
    held = precision in BACKENDS[name].precisions and file_key(name, precision) in bundle.precisions
    return held and (cards if BACKENDS[name].device == "cuda" else bool(installed_of([name])))


def _judge(bundle: Bundle, name: str, precision: str, asked: Asked, exact: Floats | None) -> Judged:
    """Open a backend, run the probe, compare; `exact` (n, F) is what the reference made of the same file."""
    about = f"{precision} by {name}"
    try:
        backend = _opened(bundle, name, precision)
    except (BackendError, UsageError, ArtefactError) as error:
        state = OK if error.code in NOT_HERE else NOTE
        return Judged(precision, name, f"probe: not run in {about}, {error.message}", None, state)
    except (Exception, SystemExit) as error:
        return Judged(precision, name, f"probe: {about} cannot be opened, {said(error)}", None)
    try:
        with closing(backend):
            scores, features = _run(backend, asked)
        passed, text = compare(asked.probe, features, scores, asked.bounds[precision], exact)
    except (Exception, SystemExit) as error:
        state = BROKEN if isinstance(error, ArtefactError) else FAILED
        invalid = isinstance(error, ArtefactError) and error.code.startswith("E-BUNDLE-")
        return Judged(precision, name, f"probe: {about} cannot be run, {said(error)}", None, state, invalid=invalid)
    return Judged(precision, name, f"probe: {about}, {text}", passed, features=features if name == REFERENCE else None)


def _run(backend: Backend, asked: Asked) -> tuple[Floats | None, Floats]:
    """Scores (n, C), if there is a head to compare them under, and features (n, F)."""
    if asked.head is None:
        return None, backend.features(asked.inputs)
    return backend.run(asked.inputs, asked.head)


def _opened(bundle: Bundle, name: str, precision: str) -> Backend:
    """A backend on the CPU, or on card 0; what `open_backend` raises."""
    if BACKENDS[name].device == "cpu":
        return open_backend(name, bundle, device="cpu", precision=precision)
    card, problem = find_card(0)
    error: ZslError | None = trouble(name, bundle, precision, card)
    if error is None and card is None:
        error = BackendError("E-DEVICE", problem)
    if error is not None:
        raise error
    return open_backend(name, bundle, device="cuda:0", precision=precision)


def compare(
    probe: Probe, features: Floats, scores: Floats | None, allowed: Bound, exact: Floats | None = None
) -> tuple[bool, str]:
    """Whether answers are within their bound of the recorded ones, and how far they are off, in words.

    Args:
        probe: with what was recorded, n rows.
        features: (n, F).
        scores: (n, C), or None to compare features alone.
        allowed: the bound.
        exact: (n, F) of the same file by the reference, or None.

    """
    off = _distance(features, probe.features, probe)
    good = off <= allowed.features  # NaN is not
    text = f"features differ by {off:.1e} of their length (at most {allowed.features:.1e}, {allowed.source})"
    if exact is not None:
        off = _distance(features, exact, probe)
        good = good and off <= allowed.rows
        text += f", and by {off:.1e} from the reference (at most {allowed.rows:.1e})"
    if scores is None:
        return good, text
    if scores.shape != probe.scores.shape or np.isnan(scores).any():
        return False, f"{text}; its scores {scores.shape} are not numbers like those recorded {probe.scores.shape}"
    rows = np.arange(len(scores))
    top = scores.argmax(axis=1)
    behind = probe.scores.max(axis=1) - probe.scores[rows, top]
    same = (top == probe.top1) | (behind <= allowed.margin)
    count, least = int(same.sum()), len(same) - allowed.others
    few = f" (at least {least})" if allowed.others else ""
    return good and count >= least, f"{text}; {count} of {len(same)} top-1 answers are as shipped{few}"


def _distance(features: Floats, wanted: Floats, probe: Probe) -> float:
    """Of the worst row, in root mean square lengths of the recorded rows; infinite for another shape."""
    if features.shape != wanted.shape:
        return math.inf
    return float(np.linalg.norm(features.astype(np.float64) - wanted, axis=1).max()) / _length(probe.features)


def verdicts(judged: Sequence[Judged], path: object) -> Iterator[Finding]:
    """The findings about one precision.

    Where nobody gives the recorded answers, the file itself is at fault, if what computes exactly was among those who
    ran it: float32, or the reference, which runs a graph as it is written. Else it is the machine, or the library.
    """
    ran = [one for one in judged if one.passed is not None]
    good = [one for one in ran if one.passed]
    exact = any(one.precision == "fp32" or one.backend == REFERENCE for one in ran)
    for one in judged:
        if one.passed:
            yield Finding(OK, one.text)
        elif one.passed is None:
            yield Finding(one.state, one.text + (_advice(one, good) if one.state == FAILED else ""))
        elif good or not exact:
            yield Finding(FAILED, one.text + _advice(one, good))
        else:
            yield Finding(BROKEN, f"{one.text}; no backend gives what was recorded: export {path} again")


def _advice(one: Judged, good: Sequence[Judged]) -> str:
    """What to do about a precision that fails on this machine."""
    others = [other.backend for other in good if BACKENDS[other.backend].fast]
    what = f"--precision {one.precision} with --backend {one.backend}"
    instead = f"use --backend {' or '.join(others)}" if others else "use another --precision"
    cpu = processor()
    lacks = one.precision == "int8" and cpu.flags and not cpu.int8 and BACKENDS[one.backend].device == "cpu"
    why = "; this CPU has no VNNI, without which sums in int8 may be cut off" if lacks else ""
    return f"; do not use {what} on this machine, {instead}{why}"


# --- bounds ---------------------------------------------------------------------------------------------------------


class Stated(NamedTuple):
    """What the export says of itself in parity.json, as far as it can be read.

    Attributes:
        limits: precision -> largest distance of a row that its gate let through.
        error: of int8, root mean square of the features' error over that of their spread.
        agreement: precision -> share of pictures with the label of fp32.

    """

    limits: dict[str, float]
    error: float | None
    agreement: dict[str, float]


def read_stated(bundle: Bundle) -> tuple[Stated, str]:
    """What parity.json states, and what is wrong with it in words, or ''."""
    nothing = Stated({}, None, {})
    path = bundle.path / PARITY
    try:
        content = parse_json(read_whole(path, bundle.path, MOST_OF_MANIFEST))
    except UnfitError as error:
        return nothing, f"{path} cannot be read ({error})"
    except ZslError as error:
        return nothing, f"{path} cannot be read ({said(error)})"
    if not isinstance(content, dict):
        return nothing, f"{path} is not what an export writes"
    lower = _at(content, "precisions")
    limits = {
        name: value
        for name, of in (("fp32", content), ("fp16", _at(lower, "fp16")))
        if (value := _number(_at(of, "limits", "row_error"))) is not None
    }
    shares = {
        name: value
        for name, key in (("fp16", "fp16"), ("int8", "int8-cpu"))
        if (value := _number(_at(lower, "accuracy", "precisions", key, "agreement"))) is not None and value <= 1
    }
    problem = "" if content.get("passed") is True else f"{path} does not say that the export passed its own comparison"
    return Stated(limits, _number(_at(lower, "int8-cpu", "feature_error")), shares), problem


def bound(precision: str, recorded: str, stated: Stated, probe: Probe) -> Bound:
    """How far answers in `precision` may be from recorded ones: what is usual, or less where the export was nearer.

    Args:
        precision: that is run here.
        recorded: that the recorded answers are of.
        stated: by the export.
        probe: with the recorded answers.

    """
    own = TOLERANCES[precision]
    if precision == recorded != "fp32":
        changes = _changes(precision, stated, probe)
        return Bound(own.rows, "two ways to run one file", own.rows, own.margin, changes)
    rougher = max(precision, recorded, key=lambda one: TOLERANCES[one].probe)
    usual = TOLERANCES[rougher]
    features, source = usual.probe, f"as usual in {rougher}"
    if recorded == "fp32":
        found = stated.limits.get(precision)
        told = "allowed"
        if precision == "int8" and stated.error is not None:
            found, told = stated.error * _spread(probe.features) / _length(probe.features), "measured"
        if found is not None and LEEWAY[precision] * found <= features:
            features, source = LEEWAY[precision] * found, f"{LEEWAY[precision]:g} times what the export {told}"
    exact = precision == recorded
    return Bound(features, source, own.rows, usual.margin, 0 if exact else _changes(rougher, stated, probe))


def _changes(precision: str, stated: Stated, probe: Probe) -> int:
    """How many of the probe's labels may be others in a lower precision."""
    share = 1 - stated.agreement.get(precision, AGREEMENT[precision])
    return max(1, math.ceil(round(CHANGES * share * len(probe.top1), 6)))


def _length(rows: Floats) -> float:
    """Root mean square length of rows (n, F)."""
    return float(np.sqrt((rows.astype(np.float64) ** 2).sum(axis=1).mean())) or 1.0


def _spread(rows: Floats) -> float:
    """Root mean square distance of rows (n, F) from their mean, of which they are a sample; infinite for a single one.

    A single row tells nothing of how far others are from it.
    """
    if len(rows) < 2:
        return math.inf
    away = rows.astype(np.float64) - rows.mean(axis=0, dtype=np.float64)
    return float(np.sqrt((away**2).sum() / (len(rows) - 1)))


def _at(content: Any, *names: str) -> Any:
    for name in names:
        content = content.get(name) if isinstance(content, dict) else None
    return content


def _number(value: Any) -> float | None:
    """A number that is one and above 0, else None: Python's JSON has NaN, Infinity, true and whole numbers without end.

    No share or distance is above LARGEST.
    """
    good = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= LARGEST
    return float(value) if good else None
