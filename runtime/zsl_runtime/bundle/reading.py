"""The files of a bundle, which may be of anybody's making: opened through `machine.untrusted` and here alone.

Each is a plain file that lies in the bundle by folders that are no links, and is no larger than it can be.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zsl_runtime.bundle.manifest import CLASSES, LARGEST_FILE
from zsl_runtime.errors import ArtefactError, from_os_error
from zsl_runtime.machine.holder import SUFFIX
from zsl_runtime.machine.storage import LOCK
from zsl_runtime.machine.untrusted import (
    KIB,
    MIB,
    UnfitError,
    check_folder,
    check_regular,
    parse_object,
    read_file,
    sha256_within,
)

if TYPE_CHECKING:
    from pathlib import Path

OLD_CACHE = "cache"  # where zsl-deploy kept rows of classes to fit others on, while it fitted them alone
ENGINES = "engines"
# Bytes that a file may have. A manifest is as long as its attributes and their ranges, a history as long as a bundle is
# old, about 300 bytes a change.
MOST_OF_MANIFEST, MOST_OF_POINTER, MOST_OF_HISTORY = 8 * MIB, 4 * KIB, 256 * MIB


def read_whole(path: Path, bundle: Path, most: int = LARGEST_FILE) -> bytes:
    """Content of a file of a bundle.

    Args:
        path: the file.
        bundle: the folder that it must lie in.
        most: bytes that it may have.

    Raises:
        ArtefactError: E-BUNDLE-MISSING; E-BUNDLE-PATH for a link; E-BUNDLE-FILE for what is no plain file or too large.
        SystemProblem: it cannot be read.

    """
    try:
        return read_file(path, most, within=bundle)
    except UnfitError as error:
        raise unfit(path, error) from None
    except OSError as error:
        raise _unread(path, error) from error


def size_and_sha256(path: Path, bundle: Path) -> tuple[int, str]:
    """Bytes and hex sha256 of a file of a bundle; arguments and errors are those of `read_whole`."""
    try:
        return sha256_within(path, LARGEST_FILE, within=bundle)
    except UnfitError as error:
        raise unfit(path, error) from None
    except OSError as error:
        raise _unread(path, error) from error


def size_of(path: Path, bundle: Path) -> int:
    """Bytes of a file of a bundle; arguments and errors are those of `read_whole`."""
    try:
        return check_regular(path, within=bundle).st_size
    except UnfitError as error:
        raise unfit(path, error) from None
    except OSError as error:
        raise _unread(path, error) from error


def parsed(data: bytes, where: str, code: str) -> dict[str, Any]:
    """The JSON object that `data` is; ArtefactError `code` for anything else. `where` names the file."""
    try:
        return parse_object(data)
    except UnfitError as error:
        raise ArtefactError(code, f"{where} {error}; copy the bundle again") from None


def check_places(bundle: Path) -> None:
    """Refuse a bundle in which a folder or lock that writers use leads elsewhere.

    Raises:
        ArtefactError: E-BUNDLE-PATH for a link, E-BUNDLE-FILE for another thing than there should be.
        SystemProblem: it cannot be looked at.

    """
    for name in (CLASSES, ENGINES, OLD_CACHE):
        place = bundle / name
        try:
            check_folder(place)
        except UnfitError as error:
            if error.link or name == CLASSES:  # a file in place of the others is in nobody's way
                raise unfit(place, error) from None
        except OSError as error:
            raise from_os_error(error, "look into the bundle") from error
    for name in (LOCK, f"{LOCK}{SUFFIX}"):
        place = bundle / name
        try:
            check_regular(place)
        except UnfitError as error:
            raise unfit(place, error) from None
        except FileNotFoundError:
            continue
        except OSError as error:
            raise from_os_error(error, "look into the bundle") from error


def unfit(path: Path, error: UnfitError) -> ArtefactError:
    """What to say of a file of a bundle that cannot be one."""
    if error.link:
        return ArtefactError("E-BUNDLE-PATH", f"{path} {error}; a bundle holds no links: copy the files, not links")
    if error.folder:
        return _missing(path)
    return ArtefactError("E-BUNDLE-FILE", f"{path} {error}; copy the whole bundle again")


def _unread(path: Path, error: OSError) -> Exception:
    if isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError):
        return _missing(path)
    return from_os_error(error, "read the bundle")


def _missing(path: Path) -> ArtefactError:
    return ArtefactError("E-BUNDLE-MISSING", f"{path} is missing; copy the whole bundle again")
