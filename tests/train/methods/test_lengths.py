"""How long trainings are: steps, estimates, the time budget, caps; for stages of every kind."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsl_train.methods.lengths import Once, Stage, cap_epochs, estimate, names, plan, size, step_seconds


@dataclass(frozen=True)
class Config:
    first_epochs: float = 20.0
    first_steps: int = 0
    epochs: float = 2.0
    steps: int = 0
    other: int = 1


FIRST = Stage("first", 64, 0.5, 30)
ONLY = Stage("", 32, 0.25, 20, loops=2)
EVERYTHING = Stage("first", 0, 0.5, 30)  # every step sees all pictures
CONFIGS = st.builds(
    Config,
    first_epochs=st.floats(0, 300),
    first_steps=st.integers(0, 9000),
    epochs=st.floats(0, 300),
    steps=st.integers(0, 9000),
)


def stage(name: str) -> st.SearchStrategy[Stage]:
    return st.builds(
        Stage,
        st.just(name),
        st.integers(0, 200),
        st.floats(1e-3, 10),
        st.integers(1, 500),
        st.integers(1, 3),
    )


STAGES = st.one_of(st.tuples(stage("first"), stage("")), st.tuples(stage("")))


def test_an_epoch_is_as_many_steps_as_there_are_batches():
    config = Config()
    assert plan((FIRST, ONLY), config, 640) == {"first": 200, "": 80}
    assert plan((FIRST, ONLY), replace(config, first_steps=7, steps=9), 640) == {"first": 7, "": 9}
    assert plan((FIRST, ONLY), replace(config, epochs=0.001), 1) == {"first": 1, "": 1}
    assert plan((EVERYTHING,), config, 640) == {"first": 20}
    assert names((FIRST, ONLY)) == {"first_epochs", "first_steps", "epochs", "steps"}


def test_caps_hold_for_epochs_and_for_steps():
    def capped(config: Config, epochs: float) -> list[int]:
        return list(plan((FIRST, ONLY), cap_epochs((FIRST, ONLY), config, epochs, 640), 640).values())

    assert capped(Config(), 1) == [10, 40]
    assert capped(Config(), 1000) == [200, 80]
    assert capped(Config(first_steps=5000, steps=9), 3) == [30, 9]
    assert capped(Config(), 0.001) == [1, 1]


def test_what_is_done_once_has_no_length_but_takes_time():
    once = Once(lambda count: 3 + 0.01 * count)
    assert names((once,)) == set()
    assert plan((once,), None, 100) == {}
    assert estimate((once,), None, 100) == pytest.approx(4)
    assert size((once,), Config(), 100, 0.1) == cap_epochs((once,), Config(), 0.1, 100) == Config()
    both = (once, ONLY)
    assert estimate(both, Config(steps=40), 100) == pytest.approx(4 + 10)
    assert size(both, Config(steps=40), 100, 9).steps == 20
    assert size(both, Config(steps=40), 100, 2).steps == 1  # it cannot be had for less


@given(STAGES, CONFIGS, st.integers(1, 20000), st.floats(0.0, 5000))
def test_a_sized_training_has_enough_steps_and_is_never_longer_than_the_budget(stages, config, count, seconds):
    sized = size(stages, config, count, seconds)
    asked = [max(one.steps(config, count), one.shortest) for one in stages]
    after = list(plan(stages, sized, count).values())
    assert all(1 <= short <= long for short, long in zip(after, asked, strict=True))
    least = sum(one.seconds for one in stages)  # every stage runs one step, whatever it takes
    assert estimate(stages, sized, count) <= (seconds + least) * (1 + 1e-9)
    if sum(n * one.seconds for n, one in zip(asked, stages, strict=True)) <= seconds:
        assert after == asked
    elif min(after) > 1:  # all are shortened alike, to whole steps
        shares = [(n / wanted, (n + 1) / wanted) for n, wanted in zip(after, asked, strict=True)]
        assert max(low for low, _ in shares) <= min(high for _, high in shares) + 1e-9
    assert replace(sized, **{name: getattr(config, name) for name in names(stages)}) == config


@given(STAGES, CONFIGS, st.integers(1, 20000), st.floats(0.01, 100))
def test_a_capped_training_is_never_longer_than_the_cap_nor_than_asked(stages, config, count, epochs):
    capped = plan(stages, cap_epochs(stages, config, epochs, count), count)
    for one in stages:
        assert 1 <= capped[one.name] <= one.steps(config, count)
        assert capped[one.name] <= max(1, round(one.loops * epochs * count / (one.batch or count)))


def test_steps_cost_their_products_and_their_updates():
    assert step_seconds(2e9) - step_seconds(1e9) == pytest.approx(step_seconds(3e9) - step_seconds(2e9))
    assert step_seconds(1e9, rate=1e9) - step_seconds(0.0) == pytest.approx(2.0)
    assert step_seconds(1e9, updates=3) - step_seconds(1e9, updates=2) == pytest.approx(step_seconds(0.0))
