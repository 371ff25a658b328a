"""One line of what `zsl-doctor` and `zsl-train --check-data` found."""

from __future__ import annotations

from typing import NamedTuple

OK, NOTE, BROKEN = "ok", "note", "BROKEN"


class Finding(NamedTuple):
    """One line of the report: `state` is ok, note or BROKEN."""

    state: str
    text: str
