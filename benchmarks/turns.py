"""Contenders that are compared run in turns: A B C, A B C, ..., and each round gives a ratio.

Run one after the other, the order decides who is fastest: on a shared machine the load changes within seconds, and
processors become slower as they become warm. In turns all contenders have the same luck in every round, and the median
of the rounds' ratios does not see the rounds in which one of them was disturbed. Nothing is timed that was not right.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

WARM_UP = (
    2  # rounds that do not count: the first pays for memory and lazy initialisation, the second tells how long one is
)
ROUNDS = (3, 300)  # at least and at most
QUANTILES = {"p50_ms": 0.5, "p90_ms": 0.9, "p99_ms": 0.99}
PLACES = 4  # digits that are kept of a time in milliseconds, and of a ratio


class Contender(NamedTuple):
    """One of those that are compared.

    Attributes:
        call: what is timed.
        check: takes what the call gave and raises AssertionError unless it is right; None where that is checked before.
        setup: is run before each call and not timed.

    """

    call: Callable[[], Any]
    check: Callable[[Any], None] | None = None
    setup: Callable[[], None] | None = None


class Ratio(NamedTuple):
    """How many times as fast one contender is as another: median and quartiles over the rounds."""

    median: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float]:
        """Plain data for a file of results."""
        return {name: round(value, PLACES) for name, value in self._asdict().items()}


@dataclass(frozen=True)
class Turns:
    """What was measured.

    Attributes:
        seconds: contender -> one time for each round; the rounds are the same for all.
        failed: contender -> why it has no times: what it raised while it was measured.

    """

    seconds: dict[str, list[float]]
    failed: dict[str, str]

    @property
    def rounds(self) -> int:
        """How many rounds counted."""
        return min((len(of) for of in self.seconds.values()), default=0)

    def median(self, name: str) -> float:
        """Seconds of a contender's median call."""
        return float(np.median(self.seconds[name]))

    def times_as_fast(self, name: str, as_other: str) -> Ratio:
        """How many times as fast `name` is as `as_other`, by the ratios within the rounds."""
        ratios = np.array(self.seconds[as_other]) / np.array(self.seconds[name])
        low, median, high = (float(np.quantile(ratios, at)) for at in (0.25, 0.5, 0.75))
        return Ratio(median, low, high)

    def figures(self, name: str, things: int, unit: str) -> dict[str, float]:
        """Percentiles in milliseconds of a contender that does `things` a call, and what its median call does."""
        times = np.array(self.seconds[name])
        found = {key: round(1000 * float(np.quantile(times, at)), PLACES) for key, at in QUANTILES.items()}
        return found | {f"{unit}_per_second": round(things / self.median(name), 1), "rounds": self.rounds}


class Clock(NamedTuple):
    """What time is taken from, and how one waits; others in tests."""

    now: Callable[[], float] = time.perf_counter
    sleep: Callable[[float], None] = time.sleep


def in_turns(
    contenders: Mapping[str, Contender],
    *,
    seconds: float,
    rounds: tuple[int, int] = ROUNDS,
    warm_up: int = WARM_UP,
    pause: float = 0.0,
    settle: bool = False,
    keep_going: tuple[type[Exception], ...] = (),
    clock: Clock | None = None,
) -> Turns:
    """Check each contender, then time all of them in turns.

    Args:
        contenders: by name, in the order of each round.
        seconds: that the rounds take together, where `rounds` allows it.
        rounds: at least and at most.
        warm_up: rounds that do not count, at least 1: in the first of them results are checked.
        pause: seconds before each call. Threads of some libraries go on spinning for some 50 ms after a call, which the
            next contender would pay for.
        settle: make each call twice and time the second: what the contender before it left in caches and in the CPU's
            clock is not its successor's then.
        keep_going: what a contender may raise without ending the others: it is left out from then on.
        clock: another one than the system's.

    Raises:
        AssertionError: a contender's result is wrong; nothing has been timed then.

    """
    clock = clock or Clock()
    times: dict[str, list[float]] = {name: [] for name in contenders}
    failed: dict[str, str] = {}

    def take(name: str, check: Callable[[Any], None] | None = None) -> None:
        one = contenders[name]
        try:
            if one.setup:
                one.setup()
            if pause:
                clock.sleep(pause)
            if settle:
                one.call()
            started = clock.now()
            result = one.call()
            times[name].append(clock.now() - started)
        except keep_going as error:
            failed[name] = f"{type(error).__name__}: {error}"
            del times[name]
            return
        if check:
            check(result)

    for name, one in contenders.items():
        take(name, one.check)
    for _ in range(warm_up - 1):
        for name in list(times):
            take(name)
    for of in times.values():
        of.clear()
    least, most = rounds
    began, done = clock.now(), 0
    while done < least or (done < most and clock.now() - began < seconds):
        for name in list(times):
            take(name)
        done += 1
    return Turns(times, failed)
