"""What may stand in place of a file: everything that a file system has, and that is none of ours."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def to_pipe(path: Path, _victim: Path) -> None:
    """Whoever opens it to read waits for a writer."""
    os.mkfifo(path)


def to_socket(path: Path, _victim: Path) -> None:
    """It cannot be opened."""
    here = os.open(".", os.O_RDONLY)
    try:
        os.chdir(path.parent)  # the name of a socket may have 107 letters
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.fchdir(here)
        os.close(here)


def to_folder(path: Path, _victim: Path) -> None:
    """It can be opened and not read."""
    path.mkdir()


def to_link(path: Path, victim: Path) -> None:
    """To a file outside of which it has the content."""
    path.symlink_to(victim)


def to_zero(path: Path, _victim: Path) -> None:
    """Reading it never ends."""
    path.symlink_to("/dev/zero")


def to_nowhere(path: Path, victim: Path) -> None:
    """Writing to it would make a file elsewhere."""
    path.symlink_to(victim.with_name("nowhere"))


def to_itself(path: Path, _victim: Path) -> None:
    """Following it never ends."""
    path.symlink_to(path.name)


def to_terabyte(path: Path, _victim: Path) -> None:
    """It takes no room on the disk."""
    with path.open("wb") as file:
        file.truncate(1 << 40)


def to_hard_link(path: Path, victim: Path) -> None:
    """A plain file, which is a file outside as well: it may be read, and never be written in place."""
    os.link(victim, path)


KINDS = (to_pipe, to_socket, to_folder, to_link, to_zero, to_nowhere, to_itself, to_terabyte)
