"""Which engines this user built or saw pass the probe; only those are loaded without `--trust-engine`."""

from __future__ import annotations

import contextlib
import os
import shlex
import stat
from typing import TYPE_CHECKING

from zsl_runtime.errors import ArtefactError
from zsl_runtime.machine.cache import cache_folder
from zsl_runtime.machine.storage import replacing
from zsl_runtime.machine.untrusted import MIB, UnfitError, read_file

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from zsl_runtime.trt.facts import Stored


MOST_OF_NOTES = 16 * MIB  # bytes: 240,000 plans
TRUSTED, VERIFIED = "trusted-engines", "verified-engines"  # in the user's cache folder, a line a plan


def check_trust(stored: Stored, trusted: bool) -> None:
    """Refuse a plan that somebody else may have made: loading it is running their code.

    Args:
        stored: the plan.
        trusted: the user said `--trust-engine`.

    Raises:
        ArtefactError: E-ENGINE-TRUST when neither this user built it here, of this graph and in this precision, nor
            `trusted`.

    """
    if trusted or is_own(stored, noted_lines(TRUSTED)):
        return
    kept = cache_folder()
    if kept is None:
        raise ArtefactError(
            "E-ENGINE-TRUST",
            f"{stored.path} is not trusted, because no cache folder lists the engines you built (this user has no home "
            "folder), and loading an engine runs its code; set ZSL_CACHE to a folder and build the engine again with "
            "zsl-export BUNDLE --format engine, or add --trust-engine",
        )
    record = kept / TRUSTED
    if record.exists() and not _own(record):
        raise ArtefactError(
            "E-ENGINE-TRUST",
            f"{stored.path} is not trusted, because others can write the list of the engines you built, {record}, or "
            f"its folder; close them (chmod go-w {shlex.quote(str(record.parent))} {shlex.quote(str(record))}) and "
            "build the engine again with zsl-export BUNDLE --format engine, or add --trust-engine",
        )
    raise ArtefactError(
        "E-ENGINE-TRUST",
        f"{stored.path} was not built by you on this machine ({stored.builder}, {stored.built_at}), and loading an "
        "engine runs its code; build your own with zsl-export BUNDLE --format engine, or, if you know where it comes "
        "from, add --trust-engine",
    )


def own_line(sha256: str, name: str) -> str:
    """How a plan that this user built is noted: with the name that stands for all its facts (`facts.key`).

    A plan of another bundle or precision is this user's, too; beside a description that was changed it is not that one.
    """
    return f"{sha256} {name}"


def is_own(stored: Stored, lines: Collection[str]) -> bool:
    """Whether the lines of TRUSTED have a plan with these facts; those of before had no facts."""
    return own_line(stored.sha256, stored.path.stem) in lines or stored.sha256 in lines


def add_note(name: str, line: str) -> None:
    """Add a line to a file of the user's cache folder that only the user can write; nothing where there is none."""
    kept = cache_folder()
    if kept is None:
        return
    path = kept / name
    if line in noted_lines(name):
        return
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    content = b""
    with contextlib.suppress(UnfitError):  # it is begun anew
        content = read_file(path, MOST_OF_NOTES) if path.is_file() and _own(path) else b""
    with replacing(path, mode=0o600) as partial:
        partial.write_bytes(content + line.encode() + b"\n")


def noted_lines(name: str) -> set[str]:
    """Lines of such a file; none where somebody else could have written them."""
    kept = cache_folder()
    if kept is None:
        return set()
    path = kept / name
    try:
        if not _own(path):
            return set()
        return set(read_file(path, MOST_OF_NOTES).decode(errors="replace").splitlines())
    except (OSError, UnfitError):
        return set()


def _own(path: Path) -> bool:
    """Whether a file and its folder are this user's, and nobody else may write them (where the system has owners)."""
    if not hasattr(os, "getuid"):
        return True
    file, folder = path.lstat(), path.parent.stat()
    closed = not folder.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    own_folder = closed and folder.st_uid == os.getuid()
    sticky = bool(folder.st_mode & stat.S_ISVTX) and folder.st_uid in {0, os.getuid()}  # others cannot replace a file
    return file.st_uid == os.getuid() and not file.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and (own_folder or sticky)


def verified_on(sha256: str) -> Iterator[str]:
    """Cards on which this user saw the plan pass the probe."""
    for line in noted_lines(VERIFIED):
        digest, _, gpu = line.partition(" ")
        if digest == sha256:
            yield gpu
