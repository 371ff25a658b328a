"""Parity on whatever is present: every backend and precision that this machine can run, against what was exported.

The yardstick for the probe is what the bundle recorded at its export, where the graph in float32 was held against
PyTorch; for labelled pictures it is the first backend here that agrees with the probe. Works without torch, so that it
can be run where the bundle is used. A comparison that compared nothing is a failure.
"""

from __future__ import annotations

import datetime as dt
import json
import math
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from zsl_export.compare import FLOAT16, MIN_SCORE_SCALE, Limits, agree, batches, compare, reference_scores
from zsl_runtime.backends.devices import Device, check_card, parse_device, trouble
from zsl_runtime.backends.opening import open_backend, open_small_graphs
from zsl_runtime.backends.table import BACKENDS, version_of
from zsl_runtime.bundle.reading import MOST_OF_MANIFEST, read_whole
from zsl_runtime.errors import ArtefactError, BackendError, GateError, SystemProblem, ZslError, from_os_error
from zsl_runtime.graphs.precisions import PRECISIONS, file_key
from zsl_runtime.head.head import fold
from zsl_runtime.machine import cards
from zsl_runtime.machine.storage import write_whole
from zsl_runtime.machine.untrusted import UnfitError, parse_object
from zsl_train.scoring.evaluate import score

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from zsl_export.compare import Agreement, Comparison
    from zsl_export.labelled import Labelled
    from zsl_runtime.backends.base import Backend
    from zsl_runtime.bundle.bundle import Bundle
    from zsl_runtime.head.head import FoldedHead

    Floats = NDArray[np.floating[Any]]
    Tell = Callable[[str], None]

PARITY = "parity.json"
FORMAT = 1  # of an entry under `verified` in it
FIGURES = ("T1", "U", "S", "H")
DECIDING = ("H", "T1", "S")  # the first that can be known decides
# Two processors round other sums, so float32 is given ten times what the export allows on one and the same. Lower
# precisions must be near enough that nothing is broken; what they cost is measured on labelled pictures.
LIMITS = {
    "fp32": Limits(row_error=1e-3, cosine_min=0.999, tie_margin=1e-3),
    "fp16": FLOAT16,
    "bf16": Limits(row_error=0.1, cosine_min=0.98, tie_margin=0.1),
    "int8": Limits(row_error=1.0, cosine_min=0.8, tie_margin=0.25),
}
MAX_DROP = {"fp32": 0.5, "bf16": 0.5, "fp16": 0.5, "int8": 1.0}  # points of the deciding figure


@dataclass(frozen=True)
class Part:
    """What one backend made of one set of inputs, against the yardstick.

    Attributes:
        inputs: `probe` or `labelled`.
        results: features, scores and best class.

    """

    inputs: str
    results: tuple[Comparison | Agreement, ...]

    def faults(self) -> list[str]:
        """What did not pass, in words."""
        return [f"{self.inputs}: {result}" for result in self.results if not result.passed]


@dataclass(frozen=True)
class Judged:
    """One backend in one precision.

    Attributes:
        backend: a key of BACKENDS.
        precision: of the model graph.
        device: where it ran.
        library: name and version.
        parts: one for each set of inputs.
        figures: T1, U, S and H on the labelled pictures, in percent; None what cannot be known; empty without them.
        change: of the deciding figure against the yardstick, in points; None without labelled pictures.
        problem: why it could not be run to its end; '' when it was.
        faults: everything that did not pass.
        yardstick: the others were held against it on the labelled pictures; it was not compared with itself.

    """

    backend: str
    precision: str
    device: str
    library: str
    parts: tuple[Part, ...] = ()
    figures: dict[str, float | None] = field(default_factory=dict)
    change: float | None = None
    problem: str = ""
    faults: tuple[str, ...] = ()
    yardstick: bool = False

    @property
    def passed(self) -> bool:
        """Whether all that was compared is within the limits."""
        return (bool(self.parts) or self.yardstick) and not self.faults and not self.problem


@dataclass(frozen=True)
class Verified:
    """The comparison of a bundle on one machine.

    Attributes:
        generation: whose head was used.
        inputs: kind -> number of rows.
        source: what the labelled pictures are; '' without them.
        recorded: what the export said of PyTorch, from parity.json; empty where that cannot be read.
        judged: what was run.
        skipped: `backend precision` -> why it was not.

    """

    generation: int
    inputs: dict[str, int]
    source: str
    recorded: dict[str, Any]
    judged: tuple[Judged, ...]
    skipped: dict[str, str]

    @property
    def passed(self) -> bool:
        """Whether something was run, and all of it passed."""
        return any(one.parts for one in self.judged) and all(one.passed for one in self.judged)

    def lines(self) -> list[str]:
        """The table for the user."""
        given = ", ".join(f"{count} {kind}" for kind, count in self.inputs.items())
        out = [f"generation {self.generation}, {given}{f' ({self.source})' if self.source else ''}"]
        columns = ("features", "cosine", "scores", "same best")
        out.append(
            f"{'backend':<10}{'device':<8}{'precision':<10}"
            + "".join(f"{name:>11}" for name in columns)
            + "".join(f"{name:>8}" for name in (*FIGURES, "change"))
        )
        if self.recorded:
            out.append(f"{'PyTorch':<10}{'':<8}{'fp32':<10}" + _recorded_cells(self.recorded))
        for one in self.judged:
            out.append(f"{one.backend:<10}{one.device:<8}{one.precision:<10}" + _cells(one))
            out += [f"  {fault}" for fault in (*one.faults, *([one.problem] if one.problem else ()))]
        out += [f"skipped {name}: {why}" for name, why in self.skipped.items()]
        return out

    def to_dict(self) -> dict[str, Any]:
        """Plain data for parity.json."""
        return {
            "format": FORMAT,
            "when": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            "passed": self.passed,
            "generation": self.generation,
            "inputs": self.inputs,
            "labelled": self.source or None,
            "reference": "what the bundle recorded at its export; labelled pictures: the first row that passed",
            "limits": {name: asdict(limits) for name, limits in LIMITS.items()},
            "rows": [_plain(asdict(one) | {"passed": one.passed}) for one in self.judged],
            "skipped": self.skipped,
        }


def _recorded_cells(recorded: dict[str, Any]) -> str:
    shown = f"{recorded['row_error']:>11.1e}{recorded['cosine_min']:>11.6f}{recorded['scores']:>11.1e}"
    return f"{shown}{recorded['share']:>11.1%}   recorded at the export, against ONNX Runtime there"


def _cells(one: Judged) -> str:
    if not one.parts and not one.yardstick:
        return "   FAIL"
    features, scores = (max((_row_error(part.results[at]) for part in one.parts), default=0.0) for at in (0, 1))
    cosine = min((getattr(part.results[0], "cosine_min", 0.0) for part in one.parts), default=1.0)
    share = min((getattr(part.results[2], "share", 0.0) for part in one.parts), default=1.0)
    compared = f"{features:>11.1e}{cosine:>11.6f}{scores:>11.1e}{share:>11.1%}"
    points = [one.figures.get(name) for name in FIGURES]
    figures = "".join(f"{'-':>8}" if value is None else f"{value:>8.2f}" for value in points)
    change = f"{'-':>8}" if one.change is None else f"{one.change:>+8.2f}"
    verdict = "FAIL" if not one.passed else "ok" if one.parts else "the yardstick"
    return f"{compared}{figures}{change}   {verdict}  {one.library}"


def _row_error(result: Comparison | Agreement) -> float:
    return float(getattr(result, "row_error", 0.0))


def _plain(value: Any) -> Any:
    """JSON data: numbers that are none become null, and limits, which are said once, are left out."""
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items() if name != "limits"}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def verify_bundle(
    bundle: Bundle,
    *,
    data: Path | None = None,
    device: str = "auto",
    max_drop: float | None = None,
    threads: int = 1,
    tell: Tell = lambda _: None,
) -> Verified:
    """Run every backend and precision that can be run here, and compare what they make of the same inputs.

    Args:
        bundle: whose hashes were checked.
        data: labelled pictures (`zsl_export.labelled`); without them the probe alone is compared.
        device: `auto` is the CPU and card 0 as far as there is one; `cpu` the CPU alone; `cuda:N` the CPU and that
            card, on which something must run.
        max_drop: points of accuracy that any of them may lose; None takes MAX_DROP.
        threads: for the CPU.
        tell: gets a line for the user now and then.

    Raises:
        GateError: E-PARITY-EMPTY when there is nothing to compare: no inputs, or nothing that runs here.
        BackendError: E-DEVICE when the card that was named cannot be used.
        UsageError: E-DEVICE-NAME, and what `read_labelled` raises.
        ArtefactError: E-BUNDLE-... for a probe or a generation that cannot be read.

    """
    where = parse_device(device)
    if where.kind == "cuda":
        check_card(where.card)
    generation = bundle.current()
    head = fold(generation.head, generation.table.seen)
    sets = _probe_set(bundle, head, threads)
    labelled = None
    if data is not None:
        from zsl_export.labelled import read_labelled

        labelled = read_labelled(bundle, data, generation.table)
        if labelled.unreadable:
            tell(f"{labelled.unreadable} labelled pictures cannot be read and are left out")
    if not sets and labelled is None:
        raise GateError(
            "E-PARITY-EMPTY",
            f"nothing to compare: {bundle.path} was exported without the probe's inputs; give labelled pictures with "
            "--data DIR",
        )
    names, skipped = contenders(bundle, where)
    judge = _Judge(sets, head, labelled, generation.table.seen, max_drop)
    for name, precision in names:
        tell(f"running {name} {precision} ...")
        try:
            opened = open_backend(name, bundle, device=_device_of(name, where), threads=threads, precision=precision)
        except BackendError as error:
            if error.code == "E-PRECISION-CPU":
                skipped[f"{name} {precision}"] = error.message
            else:
                judge.broken(name, precision, where, error)
            continue
        with closing(opened) as backend:
            judge.run(backend)
    if not any(one.parts for one in judge.done):
        reasons = [f"{name}: {why}" for name, why in skipped.items()]
        reasons += [f"{one.backend} {one.precision}: {one.problem}" for one in judge.done]
        raise GateError(
            "E-PARITY-EMPTY",
            "nothing was compared: there is nothing to compare with, or nothing runs here"
            f"{': ' if reasons else ''}{'; '.join(reasons)}",
        )
    if where.kind == "cuda" and not any(one.parts and BACKENDS[one.backend].device == "cuda" for one in judge.done):
        reasons = [f"{name}: {why}" for name, why in skipped.items() if BACKENDS[name.split()[0]].device == "cuda"]
        reasons += [one.problem for one in judge.done if one.problem]
        raise BackendError("E-DEVICE", f"{where} cannot be used: {'; '.join(reasons)}")
    inputs = {name: len(one.inputs) for name, one in sets.items()}
    if labelled is not None:
        inputs |= {"labelled": len(labelled.labels)}
    source = "" if labelled is None else f"{labelled.source}, of {labelled.of}"
    return Verified(generation.number, inputs, source, recorded(bundle), tuple(judge.done), skipped)


def contenders(bundle: Bundle, where: Device) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """(backend, precision) of all that can be run here, those of the CPU first, and why the others cannot."""
    found: list[tuple[str, str]] = []
    skipped: dict[str, str] = {}
    card = None if where.kind == "cpu" else cards.driver().card(where.card)
    for name, kind in sorted(BACKENDS.items(), key=lambda item: item[1].device != "cpu"):
        held = [one for one in PRECISIONS if file_key(name, one) in bundle.precisions]
        for precision in (one for one in held if one in kind.precisions):
            why = ""
            if kind.device == "cpu":
                missing = version_of(kind.packages) is None
                why = f"none of {', '.join(kind.packages)} is installed" if missing else ""
            elif where.kind == "cpu":
                why = "the CPU alone was asked for"
            elif card is None:
                why = cards.driver().problem
            else:
                error = trouble(name, bundle, precision, card)
                why = error.message if error else ""
            if why:
                skipped[f"{name} {precision}"] = why
            else:
                found.append((name, precision))
    return found, skipped


def _device_of(name: str, where: Device) -> str:
    return "cpu" if BACKENDS[name].device == "cpu" else f"cuda:{where.card}"


@dataclass(frozen=True)
class _Set:
    """Inputs with what is right.

    Attributes:
        inputs: (n, ...) as the model takes them.
        features: (n, F).
        scores: (n, C) log-probabilities.

    """

    inputs: NDArray[np.generic]
    features: Floats
    scores: Floats


def _probe_set(bundle: Bundle, head: FoldedHead, threads: int) -> dict[str, _Set]:
    """The probe with what was recorded of it, scored in float64 by the head in force; empty without its inputs."""
    probe = bundle.probe()
    inputs = probe.pixels if probe.pixels is not None else probe.inputs
    if inputs is None or len(inputs) == 0:
        return {}
    lifted = probe.features
    if bundle.graph("lift") is not None:
        with closing(open_small_graphs(bundle, threads=threads)) as small:
            lifted = small.lift(probe.features)
    return {"probe": _Set(inputs, probe.features, reference_scores(lifted, head))}


class _Judge:
    """Runs one backend after the other; the first that passes on the probe is the yardstick for labelled pictures."""

    def __init__(
        self,
        sets: dict[str, _Set],
        head: FoldedHead,
        labelled: Labelled | None,
        seen: NDArray[np.bool_],
        max_drop: float | None,
    ) -> None:
        self.sets, self.head, self.labelled, self.seen, self.max_drop = dict(sets), head, labelled, seen, max_drop
        self.done: list[Judged] = []
        self._figures: dict[str, float | None] = {}  # of the yardstick

    def broken(self, name: str, precision: str, where: Device, error: ZslError) -> None:
        """Note a backend that is there and cannot be opened: that is a failure, not an absence."""
        self.done.append(Judged(name, precision, _device_of(name, where), "", problem=str(error)))

    def run(self, backend: Backend) -> None:
        """Run all inputs through a backend and note how it did."""
        about = (backend.name, backend.precision, backend.device, backend.library)
        limits = LIMITS[backend.precision]
        parts: list[Part] = []
        figures: dict[str, float | None] = {}
        faults: list[str] = []
        yardstick = False
        try:
            for name, right in self.sets.items():
                features, scores = self._answers(backend, right.inputs)
                parts.append(_compare(name, right, features, scores, limits))
                if name == "labelled":
                    figures = self._score(scores)
            if self.labelled is not None and "labelled" not in self.sets:
                features, scores = self._answers(backend, self.labelled.pictures)
                figures = self._score(scores)
                yardstick = not any(part.faults() for part in parts)
                if yardstick:
                    self.sets["labelled"], self._figures = _Set(self.labelled.pictures, features, scores), figures
        except (ZslError, FloatingPointError) as error:
            if isinstance(error, ZslError) and error.code.startswith("E-BUNDLE-"):
                raise  # a graph that is none is given to no other library
            self.done.append(Judged(*about, parts=tuple(parts), problem=str(error)))
            return
        faults += [fault for part in parts for fault in part.faults()]
        change = self._change(figures)
        allowed = MAX_DROP[backend.precision] if self.max_drop is None else self.max_drop
        if change is not None and change < -allowed:
            faults.append(f"accuracy: {self._deciding()} falls by {-change:.2f} points, at most {allowed:g}")
        self.done.append(Judged(*about, tuple(parts), figures, change, "", tuple(faults), yardstick))

    def _answers(self, backend: Backend, inputs: NDArray[np.generic]) -> tuple[Floats, Floats]:
        """Features (n, F) and scores (n, C), in batches of several sizes."""
        found = [backend.run(inputs[block], self.head) for block in batches(len(inputs))]
        return np.concatenate([rows for _, rows in found]), np.concatenate([scores for scores, _ in found])

    def _score(self, scores: Floats) -> dict[str, float | None]:
        assert self.labelled is not None
        found = score(scores, self.labelled.labels, self.seen, 0.0, 1.0)  # gamma and temperature are in the head
        return {name: found[name] for name in FIGURES}

    def _deciding(self) -> str | None:
        return next((name for name in DECIDING if self._figures.get(name) is not None), None)

    def _change(self, figures: dict[str, float | None]) -> float | None:
        name = self._deciding()
        after, before = (figures.get(name), self._figures.get(name)) if name else (None, None)
        return None if after is None or before is None else after - before


def _compare(name: str, right: _Set, features: Floats, scores: Floats, limits: Limits) -> Part:
    return Part(
        name,
        (
            compare("features", right.features, features, limits=limits),
            compare("scores", right.scores, scores, min_scale=MIN_SCORE_SCALE, limits=limits),
            agree("best class", right.scores, scores, limits),
        ),
    )


# --- parity.json ----------------------------------------------------------------------------------------------------


def recorded(bundle: Bundle) -> dict[str, Any]:
    """How far ONNX Runtime was from PyTorch when the bundle was exported; empty where parity.json does not say."""
    with suppress(ZslError, ValueError, KeyError, TypeError, IndexError, AttributeError):
        said = parse_object(read_whole(bundle.path / PARITY, bundle.path, MOST_OF_MANIFEST))
        results = {one["what"]: one for one in said["sections"][0]["results"]}
        return {
            "row_error": float(results["features"]["row_error"]),
            "cosine_min": float(results["features"]["cosine_min"]),
            "scores": float(results["scores"]["row_error"]),
            "share": float(results["best class"]["share"]),
        }
    return {}


def keep(bundle: Bundle, verified: Verified) -> str:
    """Put a comparison into parity.json, in place of the last one of the same machine; returns what became of it.

    Older bundles list parity.json in their manifest, which fixes it: they are left as they are.
    """
    path = bundle.path / PARITY
    if PARITY in bundle.manifest["files"]:
        return f"{path} was fixed at the export by an older version, so it stays as it is; export again to have it kept"
    machine = this_machine()
    try:
        with bundle.lock():
            said: dict[str, Any] = {}
            with suppress(UnfitError, ArtefactError):
                said = parse_object(read_whole(path, bundle.path, MOST_OF_MANIFEST))
            before = said.get("verified")
            entries = [one for one in before if isinstance(one, dict)] if isinstance(before, list) else []
            others = [one for one in entries if one.get("machine") != machine]
            said["verified"] = [*others, {"machine": machine, **verified.to_dict()}]
            write_whole(path, (json.dumps(said, indent=1, allow_nan=False) + "\n").encode())
    except SystemProblem as error:
        return f"parity.json was not updated: {error.message}"
    except OSError as error:
        return f"parity.json was not updated: {from_os_error(error, 'write').message}"
    return f"updated {path}"


def this_machine() -> dict[str, str]:
    """What the figures depend on, without the machine's name."""
    import platform

    from zsl_runtime.backends.auto import cpu_name

    driver = cards.driver()
    shown = "; ".join(f"cuda:{card.index} {card}" for card in driver.cards)
    return {"cpu": cpu_name(), "system": platform.system(), "cards": shown, "driver": driver.version}


def gate(verified: Verified, path: Path) -> None:
    """GateError E-PARITY, naming what is off, unless all that was compared passed."""
    failed = [one for one in verified.judged if not one.passed]
    if failed:
        said = "; ".join(f"{one.backend} {one.precision}: {'; '.join(one.faults) or one.problem}" for one in failed)
        raise GateError(
            "E-PARITY",
            f"{path} does not give its answers here: {said}; use another --backend or --precision, or export it again",
        )


def verify_command(
    folder: str, *, data: str | None, device: str, max_drop: float | None, say: Tell, tell: Tell
) -> None:
    """`zsl-export --verify`: the table through `say`, all else through `tell`; raises as `verify_bundle` and `gate`."""
    from pathlib import Path

    from zsl_runtime.bundle.bundle import Bundle
    from zsl_runtime.machine.threads import usable_cpus

    bundle = Bundle.open(folder)
    verified = verify_bundle(
        bundle,
        data=None if data is None else Path(data),
        device=device,
        max_drop=max_drop,
        threads=usable_cpus(),
        tell=tell,
    )
    for line in verified.lines():
        say(line)
    tell(keep(bundle, verified))
    gate(verified, bundle.path)
