"""One array out of an .npy file, and which arrays hold numbers: the rule of training and of labelling alike."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Any

import numpy as np

from zsl_runtime.machine.storage import mapped_or_read

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

# Floats, whole numbers and truth values (0 and 1) of any size and byte order; no complex ones, dates, texts or records.
NUMBERS = "fiub"


class NpyError(ValueError):
    """What is wrong with the file, without its name."""


def open_array(path: str | Path) -> NDArray[Any]:
    """The array of an .npy file, memory-mapped where that can be: rows are read when they are asked for.

    A damaged header that promises terabytes is an error and no allocation; what would run as a program is not read.

    Raises:
        NpyError: it is no .npy file, damaged or cut off, or holds Python objects.
        OSError: it cannot be opened.

    """
    if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116  # a pipe would be waited for
        raise NpyError("it is no file")
    try:
        # Where it cannot be mapped, its size was compared with the header already.
        array: NDArray[Any] = mapped_or_read(
            lambda: np.lib.format.open_memmap(path, mode="r"), lambda: np.load(path, allow_pickle=False)
        )
    except OSError as error:
        if error.errno is not None:
            raise
        raise NpyError(_reason(error)) from error
    except Exception as error:  # the header is parsed as Python text and fails in as many ways as that has
        raise NpyError(_reason(error)) from error
    return array


def _reason(error: Exception) -> str:
    """What NumPy says, in one line; in our words where it is what people save by mistake."""
    if isinstance(error, (MemoryError, RecursionError)) and not str(error):
        return "its header is nested too deeply to be one"  # what Python's parser raises then, and takes no memory
    line = next(iter(str(error).splitlines()), "") or type(error).__name__
    if "Python objects" in line or "Object arrays" in line:  # as of a pandas table with a column of text
        return "it holds Python objects in place of numbers: make numbers of them by array.astype('float32')"
    if "got b'PK" in line:
        return "it is an archive of arrays, as numpy.savez writes it: take the array of features out of it"
    return line
