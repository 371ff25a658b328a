"""What a profile adds up, with clocks that the test turns."""

from __future__ import annotations

import threading
import time

import pytest

from zsl_runtime.labelling import profiling
from zsl_runtime.labelling.profiling import (
    DECODE,
    FIND,
    HEAD,
    MODEL,
    NO_PROFILE,
    OUTPUT,
    PIXELS,
    STAGES,
    Profile,
    Report,
    Spent,
)


@pytest.fixture
def clock(monkeypatch):
    """Wall, thread and process time that only go on when the test says so."""
    now = {"wall": 50.0, "thread": 3.0, "process": 7.0}
    monkeypatch.setattr(time, "perf_counter", lambda: now["wall"])
    monkeypatch.setattr(time, "thread_time", lambda: now["thread"])
    monkeypatch.setattr(time, "process_time", lambda: now["process"])
    monkeypatch.setattr(profiling, "usable_cpus", lambda: 2)
    return now


def spend(clock, wall: float, thread: float, process: float | None = None) -> None:
    clock["wall"] += wall
    clock["thread"] += thread
    clock["process"] += thread if process is None else process


def test_stages_add_up_and_the_model_has_what_no_other_stage_did(clock):
    profile = Profile()
    with profile.stage(DECODE):
        spend(clock, 1, 0.5)  # while the graph is loaded
    spend(clock, 2, 2)
    profile.begin()
    for _ in range(2):
        with profile.stage(DECODE):
            spend(clock, 3, 2)
        with profile.stage(PIXELS):
            spend(clock, 1, 1)
        with profile.stage(MODEL):
            spend(clock, 4, 0.1, 8)
        with profile.stage(HEAD):
            spend(clock, 0.5, 0.25)
        with profile.stage(OUTPUT):
            spend(clock, 0.25, 0.125)
    report = profile.report(20, first=1.0, starved=0.5, blocked=0.25)
    assert report.stages == {
        FIND: Spent(0, 0),
        DECODE: Spent(7, 4.5),
        PIXELS: Spent(2, 2),
        MODEL: Spent(8, 16),
        HEAD: Spent(1, 0.5),
        OUTPUT: Spent(0.5, 0.25),
    }
    assert report.wall == 17.5
    assert report.bound == (4.5 + 2 + 16 + 0.5 + 0.25) / 2


def test_the_table_has_a_line_a_stage_the_waits_the_rate_and_the_bound():
    stages = {name: Spent(2.0 * i, 1.0 * i) for i, name in enumerate(STAGES)}
    lines = Report(50, 2, 10.0, stages, first=0.5, starved=0.125, blocked=0.0).lines("pictures")
    assert lines[0].split() == ["stage", "wall", "s", "CPU", "s", "CPU", "ms", "per", "picture"]
    assert [line.split() for line in lines[1:7]] == [
        [name, f"{2 * i:.2f}", f"{i:.2f}", f"{20 * i:.3f}"] for i, name in enumerate(STAGES)
    ]
    assert lines[7] == "the model waited 0.50 s for the first batch, 0.12 s for later ones, 0.00 s for the output"
    assert lines[8] == (
        "50 pictures in 10.00 s, 5.0 pictures/s; the work of all stages takes 2 CPUs at least 7.50 s (75 % of the time)"
    )


def test_an_empty_run_has_a_table_too(clock):
    assert len(Profile().end(0, "pictures", first=0.0, starved=0.0, blocked=0.0)) == 9


def test_threads_add_to_the_same_stage():
    profile = Profile()

    def work() -> None:
        for _ in range(500):
            profile.add(PIXELS, 1.0, 0.5)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert profile.report(1, first=0, starved=0, blocked=0).stages[PIXELS] == Spent(2000, 1000)


def test_a_block_that_fails_is_counted_and_its_error_goes_on(clock):
    profile = Profile()

    def fail() -> None:
        with profile.stage(DECODE):
            spend(clock, 1, 1)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert profile.report(1, first=0, starved=0, blocked=0).stages[DECODE] == Spent(1, 1)


def test_making_items_is_a_stage_and_their_use_is_not(clock):
    closed = []

    def items():
        try:
            for i in range(3):
                spend(clock, 2, 1)
                yield i
        finally:
            closed.append(True)

    profile = Profile()
    for _ in profile.over(FIND, items()):
        spend(clock, 100, 100)
    assert profile.report(3, first=0, starved=0, blocked=0).stages[FIND] == Spent(6, 3)
    early = profile.over(FIND, items())
    next(early)
    early.close()
    assert closed == [True, True]


def test_without_a_profile_nothing_is_noted():
    items = (i for i in range(3))
    assert NO_PROFILE.over(FIND, items) is items
    assert NO_PROFILE.stage(DECODE) is NO_PROFILE.stage(MODEL)
    NO_PROFILE.begin()
    assert NO_PROFILE.end(3, "pictures", first=0, starved=0, blocked=0) == []
