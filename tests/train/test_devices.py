"""The device of a training: what is asked for, what is there, and what lies where."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from zsl_runtime.errors import GateError, UsageError
from zsl_train.devices import (
    CPU,
    MOST_GRAPHS,
    Recorded,
    computing,
    described,
    exact_products,
    find_device,
    repeated,
    tensor_of,
)
from zsl_train.methods.session import Session


@pytest.fixture
def cards(monkeypatch):
    """A machine with so many cards."""

    def pretend(count: int, built_for: str | None = "13.0") -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.version, "cuda", built_for)

    return pretend


@pytest.mark.parametrize(
    ("asked", "count", "found"),
    [("auto", 0, "cpu"), ("cpu", 2, "cpu"), ("auto", 2, "cuda:0"), ("cuda", 1, "cuda:0"), ("cuda:1", 2, "cuda:1")],
)
def test_the_device_that_is_asked_for(cards, asked, count, found):
    cards(count)
    assert find_device(asked) == torch.device(found)


@pytest.mark.parametrize(
    ("asked", "count", "said"),
    [
        ("gpu", 1, "--device 'gpu'; expected auto, cpu, cuda, or cuda:N"),
        ("cuda:x", 1, "expected auto, cpu, cuda"),
        ("cuda:-1", 1, "expected auto, cpu, cuda"),
        ("auto:1", 1, "expected auto, cpu, cuda"),
        ("", 1, "expected auto, cpu, cuda"),
        ("cuda", 0, "it finds no card it can use.*; give cpu"),
        ("cuda:2", 2, "this machine has 2 card.*; give cuda:0 to cuda:1"),
        ("cuda:7", 1, "this machine has 1 card.*; give cuda:0$"),
    ],
)
def test_a_device_that_is_not_there(cards, asked, count, said):
    cards(count)
    with pytest.raises(UsageError, match=f"E-TRAIN-DEVICE: {said}" if said.startswith("--") else said):
        find_device(asked)


def test_a_torch_for_the_cpu_alone_is_told(cards):
    cards(0, None)
    with pytest.raises(UsageError, match=r"E-TRAIN-DEVICE.*this torch was built for the CPU alone"):
        find_device("cuda")


def test_arrays_become_tensors_where_the_training_computes():
    array = np.arange(6, dtype=np.int64)
    assert tensor_of(array).device == CPU
    with computing(CPU):
        assert tensor_of(array).data_ptr() == array.ctypes.data  # shared
    with computing(torch.device("meta")):
        found = tensor_of(array)
        assert (found.device.type, found.dtype, tuple(found.shape)) == ("meta", torch.int64, (6,))
        assert torch.zeros(2).device.type == "meta"
    assert torch.zeros(2).device == CPU


def test_convolutions_are_exact_while_features_are_computed():
    before = torch.backends.cudnn.allow_tf32
    with exact_products():
        assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.allow_tf32 == before


def test_the_cpu_is_named():
    assert described(CPU)


@pytest.mark.parametrize("kinds", [(torch.float32, torch.float32), (torch.float32, torch.float64)])
def test_losses_are_averaged_over_the_steps_of_a_line(tmp_path, kinds):
    lines = []

    def body(step: int) -> dict[str, torch.Tensor]:
        return {"a": torch.tensor(float(step), dtype=kinds[0]), "b": torch.tensor(-2.0 * step, dtype=kinds[1])}

    Session(tmp_path, lines.append).loop("stage", 50, {}, body)
    told = [(line["step"], line["a"], line["b"]) for line in lines if "step" in line]
    means = [np.mean(range(20)), np.mean(range(20, 40)), np.mean(range(40, 50))]
    assert told == [(step, mean, -2 * mean) for step, mean in zip((20, 40, 50), means, strict=True)]


def test_a_loss_that_is_no_number_ends_the_step_it_comes_in(tmp_path):
    done = []

    def body(step: int) -> dict[str, torch.Tensor]:
        done.append(step)
        return {"a": torch.tensor(1.0 if step < 3 else torch.nan)}

    with pytest.raises(GateError, match=r"E-DIVERGED.*step 4"):
        Session(tmp_path, lambda _: None).loop("stage", 50, {}, body)
    assert done == [0, 1, 2, 3]


@pytest.mark.gpu
def test_losses_on_a_card_are_looked_at_line_by_line(tmp_path):
    if not torch.cuda.is_available():
        pytest.skip("no card that torch can use")
    done, lines = [], []

    def body(step: int) -> dict[str, torch.Tensor]:
        done.append(step)
        return {"a": torch.tensor(float(step) if step < 33 else torch.nan, device="cuda")}

    with pytest.raises(GateError, match=r"E-DIVERGED.*step 34"):
        Session(tmp_path, lines.append).loop("stage", 100, {}, body)
    assert done == list(range(40))
    assert [line["a"] for line in lines if "step" in line] == [9.5]


@pytest.fixture
def recorder(monkeypatch):
    """Recorded steps on a card that is not there: a graph, when it is played, does again what it heard."""
    told = []

    class Graph:
        def register_generator_state(self, generator) -> None:
            told.append(generator)

        def replay(self) -> None:
            told.append(f"played {self.heard}")

    @contextlib.contextmanager
    def listening(graph, **_):
        graph.heard = len(told)
        yield

    stream = SimpleNamespace(wait_stream=lambda other: None)
    stand_ins = {"CUDAGraph": Graph, "graph": listening, "Stream": lambda: stream, "current_stream": lambda: stream}
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: contextlib.nullcontext())
    return told


def test_a_step_is_recorded_after_some_and_played_from_then_on_each_phase_apart(recorder):
    done = []

    def body(step: int) -> dict[str, torch.Tensor]:
        done.append(step)
        return {"a": torch.tensor(float(step))}

    step = Recorded(body, "generator", phase=lambda number: number >= 6)
    losses = [float(step(number)["a"]) for number in range(12)]
    # Three steps are done, the fourth is recorded: of each phase.
    assert done == [0, 1, 2, 3, 6, 7, 8, 9]
    assert losses == [0, 1, 2, 3, 3, 3, 6, 7, 8, 9, 9, 9]
    assert recorder.count("generator") == 2
    assert len([one for one in recorder if one.startswith("played")]) == 6


def test_graphs_of_phases_that_are_over_are_let_go(recorder):
    step = Recorded(lambda number: {"a": torch.tensor(float(number))}, "generator", phase=lambda number: number // 5)
    for number in range(25):
        step(number)
        assert len(step._graphs) <= MOST_GRAPHS
    assert recorder.count("generator") == 5


def test_on_the_cpu_a_step_stays_the_step():
    def body(step: int) -> dict[str, torch.Tensor]:
        return {"a": torch.tensor(float(step))}

    assert repeated(body, torch.Generator()) is body
