"""Where the time of a run goes: wall and CPU time of each stage, added up over all threads."""

from __future__ import annotations

import threading
import time
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, NamedTuple

from zsl_runtime.machine.threads import usable_cpus

if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import Self, TypeVar

    T = TypeVar("T")

FIND, DECODE, PIXELS, MODEL, HEAD, OUTPUT = "find", "decode", "pixels", "model", "head", "output"
STAGES = (FIND, DECODE, PIXELS, MODEL, HEAD, OUTPUT)
_NOTHING = nullcontext()


class NoProfile:
    """Takes no notes; the base of `Profile`, so that a run need not ask whether anybody wants them."""

    def stage(self, _name: str) -> AbstractContextManager[object]:
        """A block of one stage."""
        return _NOTHING

    def over(self, _name: str, items: Generator[T]) -> Generator[T]:
        """The items, the making of each being one block of a stage."""
        return items

    def begin(self) -> None:
        """The model is loaded: what the process uses from now on is work of the stages."""

    def end(self, _pictures: int, _unit: str, *, first: float, starved: float, blocked: float) -> list[str]:  # noqa: ARG002
        """The report, as lines for a terminal; arguments as in `Report`."""
        return []


NO_PROFILE = NoProfile()


class Spent(NamedTuple):
    """Seconds of one stage, added up over threads.

    Attributes:
        wall: from the beginning of each block to its end; threads side by side count twice.
        work: of CPUs.

    """

    wall: float
    work: float


class Report(NamedTuple):
    """A finished profile.

    Attributes:
        pictures: how many.
        cpus: that the process may use.
        wall: seconds from `begin` to `end`.
        stages: seconds of each stage.
        first: seconds that the model waited for its first batch.
        starved: seconds that it waited for later ones.
        blocked: seconds that it waited because nobody had taken its answers.

    """

    pictures: int
    cpus: int
    wall: float
    stages: dict[str, Spent]
    first: float
    starved: float
    blocked: float

    @property
    def bound(self) -> float:
        """Seconds that the work of all stages takes at least: its sum over the CPUs."""
        return sum(spent.work for spent in self.stages.values()) / self.cpus

    def lines(self, unit: str) -> list[str]:
        """The table for a terminal."""
        count = max(self.pictures, 1)
        table = [f"{'stage':<8}{'wall s':>10}{'CPU s':>10}{'CPU ms per ' + unit.removesuffix('s'):>20}"]
        table += [
            f"{name:<8}{spent.wall:>10.2f}{spent.work:>10.2f}{1000 * spent.work / count:>20.3f}"
            for name, spent in self.stages.items()
        ]
        rate = self.pictures / max(self.wall, 1e-9)
        share = 100 * self.bound / max(self.wall, 1e-9)
        return [
            *table,
            (
                f"the model waited {self.first:.2f} s for the first batch, {self.starved:.2f} s for later ones, "
                f"{self.blocked:.2f} s for the output"
            ),
            (
                f"{self.pictures} {unit} in {self.wall:.2f} s, {rate:.1f} {unit}/s; the work of all stages takes "
                f"{self.cpus} CPUs at least {self.bound:.2f} s ({share:.0f} % of the time)"
            ),
        ]


class Profile(NoProfile):
    """Adds up stages; every method may be called from several threads.

    A stage's work is the CPU time of the thread that is in it. The model has threads of its own, so its work is what
    the process used from `begin` to `end` and no other stage did; the little that Python needs to pass things from one
    thread to another is in there.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._spent = dict.fromkeys(STAGES, Spent(0.0, 0.0))
        self.begin()

    def begin(self) -> None:
        """The model is loaded: what the process uses from now on is work of the stages."""
        self._wall, self._process = time.perf_counter(), time.process_time()
        self._others = self._work_of_others()

    def stage(self, name: str) -> AbstractContextManager[object]:
        """A block of one stage."""
        return _Block(self, name)

    def over(self, name: str, items: Generator[T]) -> Generator[T]:
        """The items, the making of each being one block of a stage."""
        try:
            while True:
                with self.stage(name):
                    item = next(items, _END)
                if item is _END:
                    return
                yield item  # type: ignore[misc]
        finally:
            items.close()

    def add(self, name: str, wall: float, work: float) -> None:
        """Count one block."""
        with self._lock:
            before = self._spent[name]
            self._spent[name] = Spent(before.wall + wall, before.work + work)

    def end(self, pictures: int, unit: str, *, first: float, starved: float, blocked: float) -> list[str]:
        """The report, as lines for a terminal; arguments as in `Report`."""
        return self.report(pictures, first=first, starved=starved, blocked=blocked).lines(unit)

    def report(self, pictures: int, *, first: float, starved: float, blocked: float) -> Report:
        """Everything that happened since `begin`; arguments as in `Report`."""
        wall, process = time.perf_counter() - self._wall, time.process_time() - self._process
        model = max(process - (self._work_of_others() - self._others), 0.0)
        stages = dict(self._spent) | {MODEL: Spent(self._spent[MODEL].wall, model)}
        return Report(pictures, usable_cpus(), wall, stages, first, starved, blocked)

    def _work_of_others(self) -> float:
        with self._lock:
            return sum(spent.work for name, spent in self._spent.items() if name != MODEL)


_END = object()


class _Block:
    """One entry and exit of a stage in one thread."""

    def __init__(self, profile: Profile, name: str) -> None:
        self._profile = profile
        self._name = name

    def __enter__(self) -> Self:
        self._wall, self._work = time.perf_counter(), time.thread_time()
        return self

    def __exit__(self, *_: object) -> None:
        self._profile.add(self._name, time.perf_counter() - self._wall, time.thread_time() - self._work)
