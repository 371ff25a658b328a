"""Arrays that a selection keeps: they come back, and a damaged file is one line."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsl_runtime.errors import ArtefactError
from zsl_train.training.stored import load_array, load_arrays, save_array, save_arrays

ARRAYS = {"held": np.arange(6.0, dtype=np.float32).reshape(2, 3), "classes": np.arange(4), "generated8": np.eye(2)}


def test_an_array_survives_its_file(tmp_path):
    array = np.random.default_rng(0).random((3, 4)).astype(np.float32)
    save_array(tmp_path / "new" / "a.npy", array)
    np.testing.assert_array_equal(load_array(tmp_path / "new" / "a.npy"), array)


def test_arrays_survive_their_file(tmp_path):
    save_arrays(tmp_path / "new" / "case.npz", ARRAYS)
    found = load_arrays(tmp_path / "new" / "case.npz")
    assert found.keys() == ARRAYS.keys()
    assert all(found[key].dtype == ARRAYS[key].dtype and np.array_equal(found[key], ARRAYS[key]) for key in ARRAYS)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["case.npz"]


@pytest.mark.parametrize("damage", ["empty", "half", "words", "an npy", "changed"])
def test_a_damaged_file_of_a_fold_is_one_line(tmp_path, damage):
    path = tmp_path / "case.npz"
    save_arrays(path, ARRAYS)
    whole = path.read_bytes()
    place = whole.index(ARRAYS["held"].tobytes()) + 5
    changes = {
        "empty": b"",
        "half": whole[: len(whole) // 2],
        "words": b"no arrays at all",
        "changed": whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :],
    }
    if damage == "an npy":
        with path.open("wb") as file:
            np.save(file, ARRAYS["held"])
    else:
        path.write_bytes(changes[damage])
    check_damaged(path)


def check_damaged(path) -> None:
    with pytest.raises(ArtefactError) as caught:
        load_arrays(path)
    assert caught.value.code == "E-CHECKPOINT"
    assert "\n" not in str(caught.value)
    assert f"{path} cannot be read" in caught.value.message
    assert "run zsl-train again with --force to start over" in caught.value.message


@given(st.data())
@settings(max_examples=60)
def test_a_changed_byte_of_a_fold_s_file_is_found_or_changes_nothing(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "fuzzed.npz"
    save_arrays(path, ARRAYS)
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        found = load_arrays(path)
    except ArtefactError as error:
        assert error.code == "E-CHECKPOINT"  # noqa: PT017  # both outcomes are fine
    else:
        assert all(np.array_equal(found[key], ARRAYS[key]) for key in found)
