"""Lists of numbered lines and columns, as archives and folders have them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zsl_runtime.errors import UsageError, from_os_error
from zsl_runtime.head.table import read_table
from zsl_runtime.machine.untrusted import MIB, UnfitError, read_given

if TYPE_CHECKING:
    from pathlib import Path

LARGEST = 512 * MIB


def read_lines(path: Path, code: str) -> list[str]:
    """Lines of an archive's text file that are not blank, stripped; at least one.

    Args:
        path: the file.
        code: of the error for this kind of archive.

    Raises:
        UsageError: `code`: it is not there, not text, or empty.
        SystemProblem: E-SYSTEM when it cannot be read.

    """
    try:
        text = read_given(path, LARGEST, pipes=False).decode()
    except UnfitError as error:
        raise damaged_list(path, f"it {error}", code) from None
    except FileNotFoundError:
        raise UsageError(code, f"the archive lacks {path}; extract it again, whole") from None
    except OSError as error:
        raise from_os_error(error, "read the archive") from error
    except UnicodeDecodeError:
        raise damaged_list(path, "it is not text", code) from None
    found = [line.strip() for line in text.splitlines() if line.strip()]
    if not found:
        raise damaged_list(path, "it is empty", code)
    return found


def damaged_list(path: Path, reason: str, code: str) -> UsageError:
    """What stands against a file of an archive, and what to do."""
    return UsageError(code, f"{path}: {reason}; the archive is damaged: extract it again")


def read_numbered(path: Path, code: str) -> tuple[str, ...]:
    """What stands behind the numbers of lines ``number value`` that count from 1; errors as of `read_lines`."""
    values = []
    for number, line in enumerate(read_lines(path, code), start=1):
        cells = line.split(maxsplit=1)
        if len(cells) != 2 or cells[0] != str(number):
            raise damaged_list(path, f"line {number} is {line[:60]!r}, expected '{number} ' and a value", code)
        values.append(cells[1])
    return tuple(values)


def read_columns(path: Path, names: tuple[str, str]) -> list[tuple[int, tuple[str, str]]]:
    """(line number, the two named cells, stripped) of every row of a table; other columns are ignored.

    Raises:
        UsageError: E-CSV when it is no table, lacks a column or has a row of another width, E-CSV-COLUMNS, E-XLSX.
        SystemProblem: E-SYSTEM when it cannot be opened.

    """
    return read_table(path, names).columns(names)
