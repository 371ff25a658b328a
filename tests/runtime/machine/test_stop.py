"""The first signal asks, the second one insists, and afterwards everything is as before."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from zsl_runtime.errors import Terminated
from zsl_runtime.machine.stop import Stop, stopping


@pytest.fixture(autouse=True)
def handlers():
    """SIGTERM and SIGHUP as `run_command` sets them; all as they were, afterwards."""

    def terminate(_number, _frame):
        raise Terminated

    before = signal.signal(signal.SIGTERM, terminate), signal.signal(signal.SIGINT, signal.default_int_handler)
    hang_up = signal.signal(signal.SIGHUP, terminate)
    yield (terminate, signal.default_int_handler)
    signal.signal(signal.SIGTERM, before[0])
    signal.signal(signal.SIGINT, before[1])
    signal.signal(signal.SIGHUP, hang_up)


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    ("number", "kind"),
    [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated), (signal.SIGHUP, Terminated)],
)
def test_the_first_signal_only_asks_and_check_raises_it(handlers, number, kind):
    stop = Stop()
    with stopping(stop):
        stop.check()
        assert not stop.requested
        send(number)
        assert stop.requested
        with pytest.raises(kind) as caught:
            stop.check()
        assert type(caught.value) is kind
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == handlers


def test_the_second_signal_is_raised_at_once(handlers):
    stop = Stop()
    with stopping(stop):
        send(signal.SIGINT)
        with pytest.raises(Terminated):
            send(signal.SIGTERM)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == handlers


def test_what_is_ignored_stays_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    stop = Stop()
    with stopping(stop):
        send(signal.SIGINT)
    assert not stop.requested
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_in_another_thread_nothing_changes(handlers):
    inside = []

    def run() -> None:
        with stopping(Stop()):
            inside.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert inside == [signal.default_int_handler]


def test_a_program_asks_without_a_signal_and_the_end_of_a_block_does():
    with Stop() as stop:
        assert not stop.requested
    assert stop.requested
    stop.check()  # nothing to raise
