"""`zsl-classes draft` as a user types it: what it writes, what it says, and that it adds nothing."""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import io
import json
from pathlib import Path

import pytest

from support.tiny_bundle import ATTRIBUTES
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.cli.classes import main
from zsl_runtime.cli.draft import HOW_GOOD, WIDTH
from zsl_runtime.drafting.encoder import PACKAGE, Encoder
from zsl_runtime.head.class_file import read_class_csv

TEXT = "A blue bird. Its head is of a bright green, with a red bill."


@pytest.fixture
def engine(shared_bundle) -> str:
    return str(shared_bundle(rule="gaussian"))


@pytest.fixture
def text(tmp_path):
    def written(content: str | bytes = TEXT) -> str:
        path = tmp_path / "bird.txt"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return written


def run(capsys, *argv: str) -> tuple[int, str, str]:
    code = main(["draft", *argv])
    said = capsys.readouterr()
    return code, said.out, said.err


def hashes(folder: str) -> dict[str, str]:
    return {str(one): hashlib.sha256(one.read_bytes()).hexdigest() for one in Path(folder).rglob("*") if one.is_file()}


def test_a_table_goes_to_a_file_and_what_the_text_says_is_printed(capsys, engine, text, tmp_path):
    before = hashes(engine)
    target = tmp_path / "heron.csv"
    words = ["--engine", engine, "heron", "--from-text", text(), "--without-names", "--output", str(target)]
    code, out, err = run(capsys, *words)
    assert code == 0
    assert hashes(engine) == before
    table = read_class_csv(target, attributes=ATTRIBUTES, need_split=False)
    row = dict(zip(ATTRIBUTES, table.raw[0], strict=True))
    assert table.names == ("heron",)
    mean = dict(zip(ATTRIBUTES, Bundle.open(engine).current().table.raw.mean(axis=0), strict=True))
    assert out.splitlines() == [
        "     draft      mean  attribute, below the sentence that says it",
        '"A blue bird."',
        f"{row['blue']:10.2f}{mean['blue']:10.2f}  blue",
        '"Its head is of a bright green, with a red bill."',
        f"{row['red']:10.2f}{mean['red']:10.2f}  red",
        f"{row['green']:10.2f}{mean['green']:10.2f}  green",
    ]
    assert max(map(len, out.splitlines())) <= WIDTH
    assert "the text says 3 of 6 attributes" in err
    assert "like names" not in err
    assert HOW_GOOD in err
    assert err.splitlines()[-1] == (
        f"wrote {target}: correct it, then zsl-classes similar or add --attributes {target}; nothing was added"
    )


def test_how_good_drafts_are_said_to_be_is_what_was_measured():
    results = Path(__file__).parents[3] / "benchmarks" / "results" / "drafts.json"
    found = json.loads(results.read_text(encoding="utf-8"))
    rank = found["150 known classes"]["draft"]
    added = [found[title]["rows"] for title in ("added to CUB, fc1000 features", "added to cub20")]
    draft, true = ([f"{one[kind]['newcomers']:.0f}%" for one in added] for kind in ("draft", "true row"))
    assert f"of {len(found['species'])} bird species" in HOW_GOOD
    assert f"of {rank['row_without_mean']:.2f} beyond what all birds share" in HOW_GOOD
    assert f"in {' and '.join(draft)} of their photographs" in HOW_GOOD
    assert f"by hand in {' and '.join(true)}: correct it" in HOW_GOOD


def test_without_a_file_the_table_goes_to_stdout_and_nothing_else(capsys, engine, text):
    code, out, err = run(capsys, "--engine", engine, "heron", "--from-text", text(), "--without-names")
    assert code == 0
    rows = list(csv.reader(io.StringIO(out)))
    assert rows[0] == ["name", *ATTRIBUTES]
    assert rows[-1][0] == "heron"
    assert [row[0] for row in rows[-3:-1]] == ["# draft: rests on", "# draft: sentence"]
    assert "wrote" not in err


def test_a_workbook_is_written_where_its_name_says_so(capsys, engine, text, tmp_path):
    pytest.importorskip("openpyxl")
    target = tmp_path / "heron.xlsx"
    words = ["--engine", engine, "heron", "--from-text", text(), "--without-names", "--output", str(target)]
    assert run(capsys, *words)[0] == 0
    assert read_class_csv(target, attributes=ATTRIBUTES, need_split=False).names == ("heron",)


def test_the_classes_whose_names_count_are_told(capsys, engine, text, monkeypatch):
    """Through a small seam in place of the encoder: names that share a letter are alike, and these have like rows."""
    import numpy as np

    table = Bundle.open(engine).current().table
    rows = table.raw / np.linalg.norm(table.raw, axis=1, keepdims=True)
    wren = rows[table.names.index("wren")]
    monkeypatch.setattr(Encoder, "when_needed", staticmethod(lambda: lambda texts: np.vstack([rows, wren])))
    code, _, err = run(capsys, "--engine", engine, "Second Wren", "--from-text", text())
    assert code == 0
    assert "and from classes with like names: wren, " in err


@pytest.mark.parametrize(
    ("name", "content", "code", "told"),
    [
        ("heron", "", 2, "E-DRAFT-TEXT"),
        ("heron", b"\x89PNG\r\n", 2, "E-DRAFT-TEXT"),
        ("heron", "a" * 70_000, 2, "E-DRAFT-TEXT"),
        ("heron", "Un petit oiseau.", 2, "E-DRAFT-TEXT"),
        ("wren", TEXT, 2, "E-CLASS-EXISTS"),
        ("a/b", TEXT, 2, "E-CLASS-NAME"),
        ("", TEXT, 2, "E-CLASS-NAME"),
        ("# heron", TEXT, 2, "E-CLASS-NAME"),
    ],
)
def test_what_cannot_be_drafted_is_one_line_and_writes_nothing(
    capsys, engine, text, tmp_path, name, content, code, told
):
    target = tmp_path / "out.csv"
    words = ["--engine", engine, name, "--from-text", text(content), "--without-names", "--output", str(target)]
    got, out, err = run(capsys, *words)
    assert (got, out, len(err.splitlines())) == (code, "", 1)
    assert told in err
    assert not target.exists()


def test_a_file_that_is_there_is_kept(capsys, engine, text, tmp_path):
    target = tmp_path / "heron.csv"
    target.write_text("mine")
    words = ["--engine", engine, "heron", "--from-text", text(), "--without-names", "--output", str(target)]
    code, _, err = run(capsys, *words)
    assert (code, target.read_text()) == (2, "mine")
    assert "E-OUTPUT-EXISTS" in err
    assert run(capsys, *words, "--force")[0] == 0
    assert target.read_text(encoding="utf-8-sig").startswith("name,")
    code, _, err = run(capsys, *words[:-1], str(tmp_path / "heron.txt"))
    assert (code, "E-OUTPUT" in err) == (2, True)


def test_a_text_that_is_not_there_is_a_problem_of_the_system(capsys, engine, tmp_path):
    words = ["--engine", engine, "heron", "--from-text", str(tmp_path / "none.txt"), "--without-names"]
    code, _, err = run(capsys, *words)
    assert code == 2
    assert "none.txt" in err


def test_without_the_extra_names_need_it_is_told_with_what_does_without(capsys, engine, text, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == PACKAGE else find(name, *rest))
    code, out, err = run(capsys, "--engine", engine, "heron", "--from-text", text())
    assert (code, out) == (4, "")
    assert "E-PACKAGE" in err
    assert "--without-names" in err


@pytest.mark.slow
def test_with_the_extra_names_count(capsys, engine, text):
    pytest.importorskip(PACKAGE)
    code, out, err = run(capsys, "--engine", engine, "Tree Sparrow", "--from-text", text())
    assert code == 0
    assert out.splitlines()[-1].startswith("Tree Sparrow,")
    assert "the text says 3 of 6" in err
