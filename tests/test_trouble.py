"""The table of trouble from the field names tests; each of them is there."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs/inside/trouble.md"


def test_every_case_has_a_test_that_is_there():
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    cases = [row for row in rows if not row.startswith("| case |")]
    assert len(cases) > 40
    gone = []
    for row in cases:
        named = re.findall(r"`([a-z0-9_/]+\.py)::(test_[a-z0-9_]+)`", row.rsplit(" | ", 1)[1])
        assert named, row
        for file, name in named:
            path = TESTS.parent / file
            if not path.is_file() or f"\ndef {name}(" not in path.read_text(encoding="utf-8"):
                gone.append(f"{file}::{name}")
    assert not gone
