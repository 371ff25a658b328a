"""Trainings side by side: order, threads, the first failure, stopping."""

import threading
import time

import pytest
import torch

from zsl_train.training.side_by_side import Stopped, side_by_side, torch_threads


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def patient(started: threading.Event | None = None):
    """A job that goes on until it is told to stop."""

    def job(check):
        if started is not None:
            started.set()
        for _ in range(2000):
            check()
            time.sleep(0.01)
        pytest.fail("was not stopped")

    return job


def test_results_come_in_the_order_of_the_jobs_and_two_run_at_a_time():
    running, most, lock = set(), [], threading.Lock()
    first_two = threading.Barrier(2, timeout=60)

    def job_of(index):
        def job(check):
            check()
            with lock:
                running.add(index)
                most.append(len(running))
            if index < 2:
                first_two.wait()
            time.sleep(0.05 * (4 - index))
            with lock:
                running.remove(index)
            return index

        return job

    assert side_by_side([job_of(i) for i in range(4)]) == [0, 1, 2, 3]
    assert max(most) == 2


def test_every_job_has_its_share_of_the_threads_and_the_number_comes_back():
    both = threading.Barrier(2, timeout=20)

    def job(_):
        both.wait()
        return torch.get_num_threads()

    assert side_by_side([job, job]) == [1, 1]
    assert torch.get_num_threads() == 2
    assert side_by_side([lambda _: torch.get_num_threads()]) == [2]
    assert side_by_side([]) == []


def test_what_a_job_computes_does_not_depend_on_its_neighbours():
    def job_of(seed):
        def job(_):
            generator = torch.Generator().manual_seed(seed)
            x = torch.randn(64, 300, generator=generator, requires_grad=True)
            for _ in range(20):
                (x @ x.T).softmax(dim=1).square().sum().backward()
            return x.grad

        return job

    together = side_by_side([job_of(seed) for seed in range(4)])
    torch.set_num_threads(1)
    for seed, found in enumerate(together):
        assert torch.equal(found, job_of(seed)(None))


def test_the_first_failure_stops_the_others_and_is_raised():
    started = threading.Event()

    def failing(_):
        assert started.wait(20)
        raise ValueError("not today")

    with pytest.raises(ValueError, match="not today"):
        side_by_side([patient(started), failing, patient(), patient()])
    assert torch.get_num_threads() == 2


def test_an_interrupt_stops_all_jobs(monkeypatch):
    started = threading.Event()

    def interrupted(*_, **__):
        assert started.wait(20)
        raise KeyboardInterrupt

    monkeypatch.setattr("zsl_train.training.side_by_side.wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        side_by_side([patient(started), patient()])


def test_jobs_one_after_the_other_are_never_told_to_stop():
    torch.set_num_threads(1)

    def job(check):
        check()
        return torch.get_num_threads()

    assert side_by_side([job, job, job]) == [1, 1, 1]
    assert issubclass(Stopped, Exception)


def test_torch_has_as_many_threads_afterwards_as_before():
    before = torch.get_num_threads()
    inside = []

    def fail() -> None:
        with torch_threads(before + 1):
            inside.append(torch.get_num_threads())
            raise ValueError("x")

    with pytest.raises(ValueError, match="x"):
        fail()
    assert (inside, torch.get_num_threads()) == ([before + 1], before)
