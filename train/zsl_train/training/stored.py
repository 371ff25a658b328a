"""Arrays that a training keeps in its checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from zsl_runtime.errors import ArtefactError
from zsl_runtime.machine.untrusted import check_archive, opened
from zsl_train.methods.session import write_atomic

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from zsl_runtime.arrays import Floats


def write_bytes(path: Path, data: bytes) -> None:
    """Write a small file under a temporary name and rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)

    def write(temporary: Path) -> None:
        temporary.write_bytes(data)

    write_atomic(path, write)


def save_array(path: Path, array: Floats) -> None:
    """Write an .npy under a temporary name and rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.save(file, array)

    write_atomic(path, write)


def load_array(path: Path) -> Floats:
    """Read what `save_array` wrote; ArtefactError E-CHECKPOINT when it is damaged."""
    try:
        with opened(path) as file:
            array: Floats = np.load(file, allow_pickle=False)
    except Exception as error:  # the header is parsed as Python text and fails in as many ways as that has
        raise _damaged(path, error) from error
    return array


def save_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write an .npz under a temporary name and rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # its own keywords are none of our names

    write_atomic(path, write)


def load_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Read what `save_arrays` wrote; ArtefactError E-CHECKPOINT when it is damaged."""
    try:
        # The file is opened here, because np.load leaves it open when it fails.
        with opened(path) as file:
            check_archive(file)
            with np.load(file, allow_pickle=False) as arrays:
                return dict(arrays)
    except Exception as error:  # so it is here, and behind it zip's reader
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> ArtefactError:
    return ArtefactError(
        "E-CHECKPOINT", f"{path} cannot be read ({error}); run zsl-train again with --force to start over"
    )
