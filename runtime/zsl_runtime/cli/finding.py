"""One line of what `zsl-doctor` and `zsl-train --check-data` found, and checks that may break off."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from zsl_runtime.errors import ArtefactError, ZslError
from zsl_runtime.extras import reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

OK, NOTE, FAILED, BROKEN = "ok", "note", "FAILED", "BROKEN"


class Finding(NamedTuple):
    """One line of the report: `state` is ok, note, FAILED (on this machine) or BROKEN."""

    state: str
    text: str


def guarded(what: str, look: Callable[[], Iterable[Finding]], state: str = NOTE) -> Iterator[Finding]:
    """What a check finds. If it breaks off, one line says so in place of the rest, and nothing is raised.

    Args:
        what: is looked at, for that line.
        look: the check.
        state: of that line; a file of ours that is damaged is BROKEN where another failure is FAILED.

    """
    try:
        yield from look()
    except ZslError as error:
        broken = state == FAILED and isinstance(error, ArtefactError)
        yield Finding(BROKEN if broken else state, str(error))
    except (Exception, SystemExit) as error:  # some libraries end the program when they are imported
        yield Finding(state, f"{what}: this check broke off, {said(error)}")


def said(error: BaseException) -> str:
    """What an error says, in one line, whatever kind it is."""
    if isinstance(error, ZslError):
        return str(error)
    try:
        text = reason(error)
    except Exception:  # its __str__ is as broken as what it tells of
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
