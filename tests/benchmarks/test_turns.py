"""Contenders in turns, on machines whose clock is ours: the order does not decide who is fastest."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def turns():
    spec = importlib.util.spec_from_file_location("zsl_bench_turns", BENCHMARKS / "turns.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


class Machine:
    """Work of some seconds takes `slowness` times as long, which changes by `factor` with every call."""

    def __init__(self, factor: float = 1.0) -> None:
        self.time, self.slowness, self.factor, self.calls = 0.0, 1.0, factor, []

    def work(self, name: str, seconds: float):
        def call() -> str:
            self.calls.append(name)
            self.time += seconds * self.slowness
            self.slowness *= self.factor
            return name

        return call

    def sleep(self, seconds: float) -> None:
        self.time += seconds

    def clock(self, turns):
        return turns.Clock(lambda: self.time, self.sleep)


def contenders(turns, machine, **seconds):
    return {name: turns.Contender(machine.work(name, of)) for name, of in seconds.items()}


def test_in_turns_a_machine_that_slows_down_gives_the_right_ratio_and_one_after_the_other_a_wrong_one(turns):
    """Each call takes 1 % longer than the one before it: after 40 rounds the machine is at a third of its speed."""
    machine = Machine(1.01)
    found = turns.in_turns(
        contenders(turns, machine, a=1.0, b=0.8, c=1.6), seconds=1e9, rounds=(3, 40), clock=machine.clock(turns)
    )
    assert machine.calls == ["a", "b", "c"] * 42  # two rounds do not count
    assert found.rounds == 40
    assert found.times_as_fast("b", "a").median == pytest.approx(1.25, rel=0.011)
    assert found.times_as_fast("a", "c").median == pytest.approx(1.6, rel=0.021)
    apart = Machine(1.01)
    alone = {}
    for name, seconds in (("a", 1.0), ("b", 0.8), ("c", 1.6)):
        one = turns.in_turns(
            contenders(turns, apart, **{name: seconds}), seconds=1e9, rounds=(3, 40), clock=apart.clock(turns)
        )
        alone[name] = one.median(name)
    assert alone["a"] / alone["b"] < 0.85  # b, which is faster by a quarter, would be slower
    assert alone["c"] / alone["a"] > 3.5


def test_rounds_in_which_one_was_disturbed_do_not_decide(turns):
    """Every third call of `a` meets another program that takes the CPUs for long."""
    machine = Machine()
    plain = machine.work("a", 1.0)

    def disturbed():
        if len(machine.calls) % 6 == 0:
            machine.time += 30.0
        return plain()

    both = {"a": turns.Contender(disturbed), "b": turns.Contender(machine.work("b", 0.5))}
    found = turns.in_turns(both, seconds=1e9, rounds=(3, 30), clock=machine.clock(turns))
    ratio = found.times_as_fast("b", "a")
    assert ratio.median == pytest.approx(2.0)
    assert ratio.low == pytest.approx(2.0)
    assert ratio.high > 2.0  # and the spread tells of it
    assert np.mean(found.seconds["a"]) / np.mean(found.seconds["b"]) > 10


def test_a_wrong_answer_has_no_speed(turns):
    machine = Machine()

    def check(result):
        assert result == "right"

    both = contenders(turns, machine, good=1.0) | {"bad": turns.Contender(machine.work("wrong", 0.1), check)}
    with pytest.raises(AssertionError):
        turns.in_turns(both, seconds=10, clock=machine.clock(turns))
    assert machine.calls == ["good", "wrong"]


@pytest.mark.parametrize(("seconds", "rounds", "wanted"), [(30, (3, 300), 10), (1, (3, 300), 3), (1e6, (3, 50), 50)])
def test_as_many_rounds_as_the_time_allows(turns, seconds, rounds, wanted):
    machine = Machine()
    given = contenders(turns, machine, a=1.0, b=1.5)
    found = turns.in_turns(given, seconds=seconds, rounds=rounds, pause=0.25, clock=machine.clock(turns))
    assert found.rounds == wanted
    assert found.seconds["a"] == pytest.approx([1.0] * wanted)  # the pause is not in it
    assert machine.time == pytest.approx((wanted + 2) * 3.0)


def test_what_the_one_before_left_behind_can_be_settled_first(turns):
    """`b` is slow right after `a`, which flushed its caches, and quick after itself."""
    machine = Machine()
    quick, slow = machine.work("b", 0.5), machine.work("b", 1.5)

    def after_others():
        return quick() if machine.calls[-1] == "b" else slow()

    both = {"a": turns.Contender(machine.work("a", 1.0)), "b": turns.Contender(after_others)}
    plain = turns.in_turns(both, seconds=0.0, rounds=(9, 9), clock=machine.clock(turns))
    assert plain.times_as_fast("b", "a").median == pytest.approx(1 / 1.5)
    settled = turns.in_turns(both, seconds=0.0, rounds=(9, 9), settle=True, clock=machine.clock(turns))
    assert settled.times_as_fast("b", "a").median == pytest.approx(2.0)
    assert machine.calls[-4:] == ["a", "a", "b", "b"]


def test_what_is_set_up_is_not_timed(turns):
    machine = Machine()
    one = {"a": turns.Contender(machine.work("a", 1.0), setup=lambda: machine.sleep(5.0))}
    found = turns.in_turns(one, seconds=60, clock=machine.clock(turns))
    assert found.seconds["a"] == [1.0] * 10


def test_one_that_fails_is_left_out_and_the_others_go_on(turns):
    machine = Machine()

    def fails():
        if machine.calls.count("b") > 4:
            raise MemoryError("no room")
        return machine.work("a", 1.0)()

    both = {"a": turns.Contender(fails), "b": turns.Contender(machine.work("b", 1.0))}
    found = turns.in_turns(both, seconds=20, rounds=(10, 10), keep_going=(MemoryError,), clock=machine.clock(turns))
    assert found.failed == {"a": "MemoryError: no room"}
    assert list(found.seconds) == ["b"]
    assert found.rounds == 10
    machine.calls.clear()
    with pytest.raises(MemoryError):
        turns.in_turns(both, seconds=20, clock=machine.clock(turns))


def test_figures_are_percentiles_and_things_a_second(turns):
    found = turns.Turns({"a": [0.001 * ms for ms in range(1, 102)]}, {})
    assert found.figures("a", 8, "pictures") == {
        "p50_ms": 51.0,
        "p90_ms": 91.0,
        "p99_ms": 100.0,
        "pictures_per_second": 156.9,
        "rounds": 101,
    }
    assert turns.Ratio(1.23456, 1.0, 2.0).to_dict() == {"median": 1.2346, "low": 1.0, "high": 2.0}
