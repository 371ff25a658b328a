"""Files of measured times: pytest-benchmark's own, and what this project's benchmarks make of them.

What is read, in milliseconds of one call:

- pytest-benchmark (`--benchmark-json`, `--benchmark-save`): `benchmarks`, a list, with `stats`; percentiles are those
  of `stats.data` where it was saved, else median and quartiles alone. Benchmarks of one `group` are peers.
- `extra_info.in_turns` (benchmarks/conftest.py): contenders that ran in turns, each with `p50_ms` and so on.
- `extra_info.stages_ms`: stage -> milliseconds, parts of one call.
- `make bench`, benchmarks/cpu.py, benchmarks/gpu.py: objects with `p50_ms` anywhere in the file; `times_as_fast` (`as`,
  `median`, `low`, `high`) tells a ratio to another one, and so do `best_peer` and `eager` (`name`, `times_as_fast`).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from zsl_runtime.errors import UsageError, from_os_error
from zsl_runtime.machine.untrusted import MIB, UnfitError, parse_json, read_given

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

MOST_BYTES = 256 * MIB
MOST_TIMES = 20_000  # measured things in one file
DEEPEST = 24
QUANTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}
STAGE = re.compile(r"^(?P<file>[^\[]*?)(?P<number>\d+)_(?P<stage>[^\[]+)(?P<case>\[.*\])?$")


class Ratio(NamedTuple):
    """How many times as fast one thing is as another: median and quartiles over the rounds."""

    to: str
    median: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Timed:
    """One thing that was timed.

    Attributes:
        name: of it.
        group: of peers; '' without.
        percentiles: of QUANTILES, those that are known, in milliseconds of one call.
        quartiles: first and third, in milliseconds; None where they are not known.
        rounds: how many calls were timed; None where that was not noted.
        ratios: to others.
        stages: part -> milliseconds, where the parts of one call were noted.
        more: other figures that were noted.

    """

    name: str
    group: str
    percentiles: Mapping[str, float]
    quartiles: tuple[float, float] | None = None
    rounds: int | None = None
    ratios: tuple[Ratio, ...] = ()
    stages: Mapping[str, float] = field(default_factory=dict)
    more: Mapping[str, float] = field(default_factory=dict)

    @property
    def median(self) -> float:
        """Milliseconds."""
        return self.percentiles["p50"]


@dataclass(frozen=True)
class Measured:
    """One file.

    Attributes:
        name: of the file.
        about: what it says of machine, versions and date, in words.
        times: what was timed, in the order of the file.

    """

    name: str
    about: Mapping[str, str]
    times: tuple[Timed, ...]


class Split(NamedTuple):
    """Stages that were timed each alone, and the whole that they are parts of."""

    name: str
    stages: tuple[tuple[str, float], ...]
    whole: float


def read_measured(path: Path, name: str) -> Measured:
    """The times of a file.

    Args:
        path: of it.
        name: what it is called in the report.

    Raises:
        UsageError: E-BENCHMARK when there is no such file, it is no JSON, or holds no times.
        SystemProblem: E-SYSTEM when it cannot be read.

    """
    try:
        data = read_given(path, MOST_BYTES)
    except FileNotFoundError:
        raise UsageError("E-BENCHMARK", f"there is no file {path}; {EXPECTED}") from None
    except UnfitError as error:
        raise UsageError("E-BENCHMARK", f"{path} {error}; {EXPECTED}") from None
    except OSError as error:
        raise from_os_error(error, "read the measurements") from error
    return replace(parse_measured(data, str(path)), name=name)


EXPECTED = "give what pytest --benchmark-json or `make bench` wrote"


def parse_measured(data: bytes, name: str) -> Measured:
    """The times of a file in memory; errors are those of `read_measured`."""
    try:
        document = parse_json(data, deepest=DEEPEST)
    except UnfitError as error:
        raise UsageError("E-BENCHMARK", f"{name} {error}; {EXPECTED}") from None
    if not isinstance(document, dict):
        raise UsageError("E-BENCHMARK", f"{name} holds {type(document).__name__}, no times; {EXPECTED}")
    listed = document.get("benchmarks")
    found = list(_plain(listed) if isinstance(listed, list) else _noted(document, ()))
    if not found:
        raise UsageError("E-BENCHMARK", f"{name} holds no times; {EXPECTED}")
    if len(found) > MOST_TIMES:
        raise UsageError("E-BENCHMARK", f"{name} times {len(found):,} things, at most {MOST_TIMES:,} can be shown")
    return Measured(name, dict(_about(document)), tuple(found))


# --- pytest-benchmark -------------------------------------------------------------------------------------------------


def _plain(listed: list[Any]) -> Iterator[Timed]:
    """Benchmarks as pytest-benchmark lists them."""
    for one in listed:
        if not isinstance(one, dict):
            continue
        info = one.get("extra_info")
        info = info if isinstance(info, dict) else {}
        turns = info.get("in_turns")
        if isinstance(turns, dict):
            yield from _noted(turns, ())
            continue
        timed = _of_stats(one, info)
        if timed is not None:
            yield timed


def _of_stats(one: Mapping[str, Any], info: Mapping[str, Any]) -> Timed | None:
    stats = one.get("stats")
    stats = stats if isinstance(stats, dict) else {}
    name = _words(one.get("fullname")) or _words(one.get("name")) or "without a name"
    data = stats.get("data")
    times = [1000 * t for t in data if _positive(t)] if isinstance(data, list) else []
    quartiles = None
    if times:
        percentiles = {key: float(np.quantile(times, at)) for key, at in QUANTILES.items()}
        quartiles = (float(np.quantile(times, 0.25)), float(np.quantile(times, 0.75)))
    elif _positive(stats.get("median")):
        percentiles = {"p50": 1000 * stats["median"]}
        if _positive(stats.get("q1")) and _positive(stats.get("q3")):
            quartiles = (1000 * stats["q1"], 1000 * stats["q3"])
    else:
        return None
    rounds = stats.get("rounds")
    return Timed(
        name,
        _words(one.get("group")),
        percentiles,
        quartiles,
        rounds if type(rounds) is int and rounds > 0 else len(times) or None,
        tuple(_ratios(info)),
        _figures(info.get("stages_ms")),
        {key: value for key, value in _figures(info).items() if not key.endswith("_ms")},
    )


# --- what this project notes ------------------------------------------------------------------------------------------


def _noted(value: Any, way: tuple[str, ...]) -> Iterator[Timed]:
    """Every object with `p50_ms` below a value, called by the keys that lead to it."""
    if isinstance(value, list):
        for place, one in enumerate(value):
            yield from _noted(one, (*way, str(place)))
    if not isinstance(value, dict):
        return
    if _positive(value.get("p50_ms")):
        yield _of_figures(value, way)
        return
    for key, one in value.items():
        yield from _noted(one, (*way, key))


def _of_figures(value: Mapping[str, Any], way: tuple[str, ...]) -> Timed:
    percentiles = {key: float(value[f"{key}_ms"]) for key in QUANTILES if _positive(value.get(f"{key}_ms"))}
    rounds = value.get("rounds")
    inner = [key for key in way if key not in {"figures", "contenders", "networks", "sections", "results"}]
    # A number by itself, such as that of a batch, is no name.
    own = inner[-2:] if inner and inner[-1].isdigit() else inner[-1:]
    name, group = ", ".join(own) or "without a name", ", ".join(inner[: len(inner) - len(own)])
    more = {key: one for key, one in _figures(value).items() if not key.endswith("_ms") and key != "rounds"}
    return Timed(
        name,
        group,
        percentiles,
        rounds=rounds if type(rounds) is int and rounds > 0 else None,
        ratios=tuple(_ratios(value)),
        stages=_figures(value.get("stages_ms")),
        more=more,
    )


def _ratios(value: Mapping[str, Any]) -> Iterator[Ratio]:
    """Ratios that were noted: `times_as_fast`, and peers by name."""
    own = value.get("times_as_fast")
    if isinstance(own, dict) and _words(own.get("as")):
        yield from _ratio(own["as"], own)
    for key in ("best_peer", "eager"):
        peer = value.get(key)
        if isinstance(peer, dict) and _words(peer.get("name")) and isinstance(peer.get("times_as_fast"), dict):
            yield from _ratio(peer["name"], peer["times_as_fast"])


def _ratio(to: str, value: Mapping[str, Any]) -> Iterator[Ratio]:
    if _positive(value.get("median")):
        ends = [float(value[key]) if _positive(value.get(key)) else None for key in ("low", "high")]
        yield Ratio(to, float(value["median"]), *ends)


def _figures(value: Any) -> dict[str, float]:
    """The plain positive numbers of an object."""
    if not isinstance(value, dict):
        return {}
    return {key: float(one) for key, one in value.items() if _positive(one)}


def _positive(value: Any) -> bool:
    """Whether it is a time that can be drawn: not 0, not infinite, and no year."""
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and 1e-12 < value < 1e12 and math.isfinite(value)
    )


def _words(value: Any) -> str:
    return value if isinstance(value, str) else ""


# --- the file itself, and stages --------------------------------------------------------------------------------------


def _about(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Machine, versions, date."""
    for key in ("date", "datetime", "when"):
        if _words(document.get(key)):
            yield "date", document[key]
            break
    machine = document.get("machine") or document.get("machine_info")
    if isinstance(machine, dict):
        cpu = machine.get("cpu")
        known = {**machine, **({"processor": cpu.get("brand_raw")} if isinstance(cpu, dict) else {})}
        for key in ("processor", "usable_cpus", "system", "python_version", "load_average", "cards"):
            if known.get(key):
                value = known[key]
                words = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
                yield key.replace("_", " "), words
    versions = document.get("versions")
    if isinstance(versions, dict):
        yield "versions", ", ".join(f"{key} {value}" for key, value in versions.items())
    elif _words(document.get("version")):
        yield "pytest-benchmark", document["version"]


def splits(measured: Measured) -> list[Split]:
    """What is split into stages: by `stages_ms`, or numbered things whose ratio is to one whole, numbered as well."""
    found = [Split(one.name, tuple(one.stages.items()), one.median) for one in measured.times if len(one.stages) > 1]
    by_name = {(one.group, one.name): one for one in measured.times}
    parts: dict[tuple[str, str], list[tuple[int, str, float]]] = {}
    for one in measured.times:
        own = STAGE.match(one.name)
        for ratio in one.ratios:
            place = _whole_of(one, ratio.to, by_name)
            whole = STAGE.match(place[1]) if place else None
            if own and whole and own["file"] == whole["file"] and own["case"] == whole["case"] and place:
                parts.setdefault(place, []).append((int(own["number"]), own["stage"], one.median))
    for place, stages in parts.items():
        if len(stages) > 1:
            found.append(
                Split(place[1], tuple((stage, time) for _, stage, time in sorted(stages)), by_name[place].median)
            )
    return found


def _whole_of(one: Timed, to: str, known: Mapping[tuple[str, str], Timed]) -> tuple[str, str] | None:
    """Where the thing that a ratio is to stands; its name may lack the file that is part of one's own."""
    prefix = one.name.rpartition("::")[0]
    for name in (to, f"{prefix}::{to}"):
        if (one.group, name) in known:
            return one.group, name
    return None
