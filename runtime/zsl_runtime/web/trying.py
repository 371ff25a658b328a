"""A copy of a bundle to try things on, which goes away in the end."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from zsl_runtime.errors import from_os_error
from zsl_runtime.machine.storage import LOCK, TEMPORARY

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def copied(bundle: Path) -> Iterator[Path]:
    """A copy in the folder for temporary files, while the block runs.

    Raises:
        SystemProblem: there is no room for it.

    """
    with tempfile.TemporaryDirectory(prefix="zsl-demo-", ignore_cleanup_errors=True) as folder:
        place = Path(folder) / bundle.resolve().name
        try:
            shutil.copytree(bundle, place, ignore=shutil.ignore_patterns(f"{LOCK}*", f"{TEMPORARY}*"), symlinks=True)
            for one in (place, *place.rglob("*")):  # a bundle that is read-only is not so as a copy
                if not one.is_symlink():
                    one.chmod(0o700 if one.is_dir() else 0o600)
        except (OSError, shutil.Error) as error:
            raise from_os_error(_first(error), "copy the bundle to try things on") from error
        yield place


def _first(error: OSError) -> OSError:
    """Of several errors of a copy the first: shutil has them as texts."""
    if isinstance(error, shutil.Error) and error.args and error.args[0]:
        return OSError(str(error.args[0][0][-1]))
    return error
