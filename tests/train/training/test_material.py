"""What a run keeps for its report comes back as it was; whatever else a file holds is one error."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from support.reported import make_reported
from zsl_runtime.errors import ArtefactError
from zsl_runtime.machine.storage import parse_tensors, tensor_bytes
from zsl_train.training.material import Material

CLASSES, ATTRIBUTES = 6, 3
MADE = make_reported(tuple(f"class {k}" for k in range(CLASSES)), np.arange(CLASSES) < 4).material
WHOLE = replace(MADE, lacking={"maps": "because"})


def read(data: bytes, classes: int = CLASSES, attributes: int = ATTRIBUTES) -> Material:
    return Material.from_bytes(data, classes=classes, attributes=attributes, where="report.safetensors")


@pytest.mark.parametrize(
    "parts", [{}, {"answers": None, "maps": None, "photographs": {}}, {"plane": None}, {"maps": None}]
)
def test_it_comes_back_as_it_was(parts):
    whole = replace(WHOLE, **parts)
    got = read(whole.to_bytes())
    for name in ("answers", "plane", "maps"):
        one, other = getattr(got, name), getattr(whole, name)
        assert (one is None) == (other is None)
        for field in fields(other) if other is not None else ():
            np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name))
    assert got.photographs == whole.photographs
    assert got.lacking == whole.lacking


def test_the_same_material_gives_the_same_bytes():
    assert WHOLE.to_bytes() == read(WHOLE.to_bytes()).to_bytes()


def test_of_another_run_it_is_refused():
    for sizes in ({"classes": CLASSES - 1}, {"attributes": 2}):
        with pytest.raises(ArtefactError) as caught:
            read(WHOLE.to_bytes(), **sizes)
        assert caught.value.code == "E-RUN"


def changed(key: str, change) -> bytes:
    tensors, metadata = parse_tensors(WHOLE.to_bytes(), code="", where="")
    tensors = dict(tensors)
    tensors[key] = change(tensors[key].copy())
    return tensor_bytes(tensors, metadata)


def put(value: float):
    def change(array: np.ndarray) -> np.ndarray:
        array.reshape(-1)[0] = value
        return array

    return change


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("answers.labels", put(CLASSES)),
        ("answers.labels", put(-1)),
        ("answers.best", put(CLASSES)),
        ("answers.best_seen", put(-2)),
        ("answers.lines", put(-1)),
        ("answers.probability", put(np.nan)),
        ("answers.of_truth", put(2.0)),
        ("answers.lead", put(np.inf)),
        ("answers.lead", lambda array: array[:-1]),
        ("answers.lead", lambda array: array.astype(np.float64)),
        ("answers.best", lambda array: array[:, :0]),
        ("plane.seen", put(np.nan)),
        ("plane.seen", lambda array: array[:, :3]),
        ("plane.unseen_labels", put(CLASSES)),
        ("plane.means", put(np.inf)),
        ("plane.shares", put(1.5)),
        ("maps.values", put(-0.1)),
        ("maps.values", lambda array: array[..., :2]),
        ("maps.attributes", put(ATTRIBUTES)),
        ("maps.pictures", put(10_000)),
        ("photographs.rows", put(10_000)),
        ("photographs.ends", put(-5)),
        ("photographs.ends", put(1 << 40)),
        ("photographs.ends", lambda array: array[::-1]),
        ("photographs.jpeg", lambda array: array.astype(np.int32)),
    ],
)
def test_what_cannot_have_been_written_is_refused(key, change):
    with pytest.raises(ArtefactError) as caught:
        read(changed(key, change))
    assert caught.value.code == "E-RUN"
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["answers.lead", "plane.told", "maps.values", "photographs.ends"])
def test_a_part_that_is_not_whole_is_refused(key):
    tensors, metadata = parse_tensors(WHOLE.to_bytes(), code="", where="")
    with pytest.raises(ArtefactError, match="missing"):
        read(tensor_bytes({name: array for name, array in tensors.items() if name != key}, metadata))


@settings(max_examples=60)
@given(st.data())
def test_any_change_of_its_bytes_is_refused_or_can_be_read(data):
    whole = bytearray(WHOLE.to_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(whole)))
    try:
        got = read(bytes(whole[:cut] if data.draw(st.booleans()) else whole))
    except ArtefactError as error:
        got = None if error.code == "E-RUN" else error
    assert got is None or isinstance(got, Material)


@pytest.mark.parametrize("key", sorted(parse_tensors(WHOLE.to_bytes(), code="", where="")[0]))
def test_a_single_number_in_place_of_an_array_is_refused(key):
    tensors, metadata = parse_tensors(WHOLE.to_bytes(), code="", where="")
    arrays = {name: tensor.reshape(-1)[:1].reshape(()) if name == key else tensor for name, tensor in tensors.items()}
    with pytest.raises(ArtefactError) as caught:
        read(save(arrays, metadata))
    assert caught.value.code == "E-RUN"
