"""The user's cache folder: what can be made again and has no place in a bundle or a run folder."""

from __future__ import annotations

import functools
import os
from pathlib import Path

from zsl_runtime.errors import UsageError, from_os_error
from zsl_runtime.machine.notes import note_once
from zsl_runtime.machine.storage import scratch_folder

_CHOICE = "ZSL_CACHE"


def cache_folder() -> Path | None:
    """Where derived files go: ``$ZSL_CACHE``, else ``$XDG_CACHE_HOME/zsl-deploy``, else ``~/.cache/zsl-deploy``.

    A relative ``$XDG_CACHE_HOME`` is ignored, as its specification asks. The folder is not created here.

    Returns:
        None where there is none: ``$ZSL_CACHE`` names the home of nobody, or the user has no home folder, as in
        containers. Then nothing is remembered.

    """
    chosen = os.environ.get(_CHOICE)
    if chosen:
        return _expanded(chosen)
    xdg = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if xdg.is_absolute():
        return xdg / "zsl-deploy"
    home = _home()
    return None if home is None else home / ".cache" / "zsl-deploy"


def needed_cache() -> Path:
    """The cache folder for what a command cannot go without; where there is none, a folder of this process alone.

    The latter is for users without a home folder, or with one that they cannot write to: it lies in $TMPDIR, is told
    once on stderr, and goes when the process ends. A folder that ``$ZSL_CACHE`` names is taken as it is.

    Raises:
        UsageError: E-CACHE, ``$ZSL_CACHE`` names the home of nobody.
        SystemProblem: there is no place for temporary files either.

    """
    folder, chosen = cache_folder(), os.environ.get(_CHOICE)
    if folder is None and chosen:
        raise UsageError("E-CACHE", f"ZSL_CACHE is {chosen!r}, and there is no such home folder; name another folder")
    if folder is not None and (chosen or _usable(folder)):
        return folder
    return _of_this_process(f"{folder} cannot be written to" if folder else "this user has no home folder")


def _expanded(chosen: str) -> Path | None:
    """A path that may begin with ~ or ~USER; None where that home is not known."""
    if chosen == "~" or chosen.startswith(("~/", f"~{os.sep}")):
        home = _home()
        return None if home is None else home / chosen[2:]
    path = os.path.expanduser(chosen)  # noqa: PTH111  # pathlib raises where this leaves the name as it is
    return None if path.startswith("~") else Path(path)


def _home() -> Path | None:
    """The user's home folder: ``$HOME``, where that is a whole path, else that of the list of users; None without."""
    home = os.environ.get("HOME", "") if os.name == "posix" else os.path.expanduser("~")  # noqa: PTH111
    if not os.path.isabs(home) and os.name == "posix":  # noqa: PTH117
        import pwd

        try:
            home = pwd.getpwuid(os.getuid()).pw_dir
        except (KeyError, OSError):
            return None
    return Path(home) if os.path.isabs(home) else None  # noqa: PTH117


def _usable(folder: Path) -> bool:
    """Whether files can be made in a folder, which is made if need be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)


@functools.cache
def _of_this_process(why: str) -> Path:
    import atexit
    import contextlib

    held = contextlib.ExitStack()
    try:
        folder, owner = held.enter_context(scratch_folder("zsl-cache-")), os.getpid()
    except OSError as error:
        raise from_os_error(error, f"make a folder for temporary files ({why}): set ZSL_CACHE to a folder") from error

    def remove() -> None:
        if os.getpid() == owner:  # not in a process that was forked from it
            held.close()

    atexit.register(remove)
    note_once(
        "cache",
        f"there is no cache folder ({why}): what is computed on the way lies in {folder} and goes at the end; set "
        "ZSL_CACHE to a folder to keep it",
    )
    return folder
