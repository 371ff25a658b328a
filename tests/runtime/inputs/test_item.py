"""Files that are left out, by kind."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsl_runtime.inputs.item import HIDDEN, MOST_KINDS, OTHER, PLAIN, Tally


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("a/b/notes.txt", ".txt"),
        ("NOTES.TXT", ".txt"),
        ("data.tar.gz", ".gz"),
        ("a.b/README", PLAIN),
        ("end.", PLAIN),
        (".DS_Store", HIDDEN),
        ("a/._photo.jpg", HIDDEN),
        ("Dr. Who went to the sea", OTHER),
        ("odd.a\nb", OTHER),
        (os.fsdecode(b"odd.\xe9"), OTHER),
    ],
)
def test_kinds(path, kind):
    tally = Tally()
    tally.skip(path)
    assert dict(tally.kinds) == {kind: 1}


@given(st.lists(st.text(max_size=20)))
def test_every_file_is_counted_once(names):
    tally = Tally()
    for name in names:
        tally.skip(name)
    assert tally.skipped == sum(tally.kinds.values()) == len(names)
    assert all(kind.isprintable() for kind in tally.kinds)


def test_kinds_are_few_however_many_suffixes_there_are():
    tally = Tally()
    for i in range(3 * MOST_KINDS):
        tally.skip(f"part.{i}")
    assert len(tally.kinds) == MOST_KINDS + 1
    assert tally.kinds[OTHER] == 2 * MOST_KINDS
    tally.skip("part.7")
    assert tally.kinds[".7"] == 2
