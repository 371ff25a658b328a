"""What methods share: running a module over rows, and the tensors of what was trained."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from support.tiny_features import tiny_training_data
from support.tiny_run import make_tiny_trained
from zsl_train.methods.base import Dims, run_batched, run_rows


class Sum(nn.Module):
    """Two inputs of the same rows -> their sum, noting the block sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = []

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        assert a.dtype == b.dtype == torch.float32
        self.blocks.append(len(a))
        return a + b


@pytest.mark.parametrize(("rows", "blocks"), [(0, [0]), (1, [1]), (4, [4]), (9, [4, 4, 1])])
def test_rows_go_through_in_blocks_and_none_is_a_block_too(rows, blocks):
    module = Sum()
    a, b = np.random.default_rng(0).random((rows, 3)).astype(np.float16), np.ones((rows, 3))
    got = run_batched(module, a, b, batch_size=4)
    assert module.blocks == blocks
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, a.astype(np.float32) + 1)
    assert got.shape == (rows, 3)


def test_arrays_may_be_read_only_reversed_or_strided():
    a = np.arange(12, dtype=np.float32).reshape(4, 3)
    b = np.ones((8, 3), np.float32)
    a.flags.writeable = False
    np.testing.assert_array_equal(run_batched(Sum(), a, a[::-1]), a + a[::-1])
    np.testing.assert_array_equal(run_batched(Sum(), a, b[::2]), a + 1)


def test_the_sizes_of_training_data():
    data = tiny_training_data()
    assert data.dims == Dims(
        regions=4, channels=12, attributes=6, word_width=5, classes=8, seen=int(data.table.seen.sum())
    )
    assert data.dims.seen == len(set(data.labels.tolist()))
    assert Dims(**data.dims.to_dict()) == data.dims


@pytest.mark.parametrize("rule", ["fit", "rows"])
@pytest.mark.parametrize("lift", [True, False])
def test_tensors_go_by_part_and_back(lift, rule):
    one, other = make_tiny_trained(lift=lift, rule=rule), make_tiny_trained(lift=lift, rule=rule)
    state = one.state_dict()
    maker = "synthesizer" if rule == "fit" else "rows"
    assert {key.split(".")[0] for key in state} == {"embedder", maker} | ({"lift"} if lift else set())
    assert one.head_rule == rule
    other.load_state_dict(state)
    assert all(torch.equal(value, state[key]) for key, value in other.state_dict().items())
    before = {key: value.clone() for key, value in state.items()}
    for module in one.modules().values():
        for parameter in module.parameters():
            parameter.data.fill_(9.0)
    assert all(torch.equal(value, before[key]) for key, value in state.items())  # a copy, not a view


def test_rows_of_a_trained_model_are_computed_without_gradients():
    trained = make_tiny_trained(lift=False, rule="rows")
    semantic = np.random.default_rng(0).random((3, 6), dtype=np.float32)
    semantic.flags.writeable = False
    weight, bias = run_rows(trained.rows, semantic)
    assert (weight.dtype, weight.shape, bias.dtype, bias.shape) == (np.float32, (3, 10), np.float32, (3,))
    with torch.no_grad():
        np.testing.assert_array_equal(weight, trained.rows(torch.from_numpy(semantic.copy()))[0])


def test_tensors_of_a_part_that_is_not_there_are_refused():
    with pytest.raises(RuntimeError, match=r"belong to none of embedder, synthesizer, such as lift\."):
        make_tiny_trained(lift=False).load_state_dict(make_tiny_trained(lift=True).state_dict())
