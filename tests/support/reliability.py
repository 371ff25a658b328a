"""Figures of the fault suite: how many points were tried, how many survived, in files that docs/reliability.md is of.

They are written where the variable ZSL_FAULTS_OUT names a folder, as `make faults` does; tests alone only count.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import subprocess
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

POINTS = int(os.environ.get("ZSL_FAULT_POINTS", "100"))  # of each command
OUT = os.environ.get("ZSL_FAULTS_OUT", "")
ROOT = Path(__file__).resolve().parents[2]


class Tally:
    """Counts the points of one case.

    Args:
        file: name of the JSON file, without its ending.
        case: what is tried.

    """

    def __init__(self, file: str, case: str) -> None:
        self._file, self._case = file, case
        self._ways: Counter[str] = Counter()
        self._notes: Counter[str] = Counter()
        self._failed: list[str] = []
        self._tried = 0

    @contextmanager
    def point(self, way: str) -> Iterator[None]:
        """One point, chosen in this way: what fails inside is counted, and told at the end."""
        self._tried += 1
        self._ways[way] += 1
        try:
            yield
        except Exception as error:  # whatever it is, the other points are tried, too
            self._failed.append(f"{way}: {type(error).__name__}: {error}"[:2000])
        if self._tried % 50 == 0:
            self._write()

    def note(self, what: str, count: int = 1) -> None:
        """How a point ended, or what else is counted."""
        self._notes[what] += count

    def end(self) -> None:
        """Write what was counted; AssertionError when a point failed, and when there was none."""
        self._write()
        assert self._tried, "no point was tried"
        assert not self._failed, f"{len(self._failed)} of {self._tried} points: {self._failed[:5]}"

    def _write(self) -> None:
        test = os.environ.get("PYTEST_CURRENT_TEST", "").partition(" ")[0]
        entry = {
            "tried": self._tried,
            "survived": self._tried - len(self._failed),
            "points": dict(self._ways),
            "ended": dict(self._notes),
            "test": test,
        }
        if OUT:
            record(Path(OUT) / f"{self._file}.json", self._case, entry)


def record(path: Path, case: str, entry: dict[str, object]) -> None:
    """Put the figures of one case into a file, beside those of others."""
    path.parent.mkdir(parents=True, exist_ok=True)
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"cases": {}}
    known["machine"] = f"{len(os.sched_getaffinity(0))} CPUs"
    known["command"] = f"make faults FAULT_POINTS={POINTS}"
    entry = {"date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"), "commit": _commit(), **entry}
    known["cases"][case] = entry
    path.write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _commit() -> str:
    given = os.environ.get("ZSL_FAULTS_COMMIT")
    asked = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    return given or subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip() or "unknown"
