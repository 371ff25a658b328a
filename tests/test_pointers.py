"""Comments point into the repository only: to sections of docs/methods.md and ARCHITECTURE.md, and to files there."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("train", "export", "runtime", "tests", "benchmarks", "tools", "docs")
KINDS = {".py", ".pyi", ".toml", ".md", ".cpp", ".h", ".cu", ".cmake", ".txt"}
# Pages that lay beside the repository once. Written so that this file does not mention them itself.
GONE = tuple(f"{name}.md" for name in ("METHODS", "DESIGN"))
SECTIONS = re.compile(r"docs/methods\.md((?:(?:,| and| to| or)? \d+(?:\.\d+)?)*)")
TITLES = re.compile(r'ARCHITECTURE\.md, "([^"]+)"')
FILES = re.compile(rf"(?<![\w./-])(?:(?:{'|'.join(ROOMS)})/[\w./-]*\w\.\w+|[A-Z]{{4,}}\.md)\b")
RESULTS = "benchmarks/results/"  # what benchmarks say they write need not be there yet
HEADING = re.compile(r"^#+ (\d+(?:\.\d+)?) \S", re.MULTILINE)


def sources() -> list[Path]:
    """Everything written by hand but CHANGELOG, which tells what was."""
    found = [path for room in ROOMS for path in (ROOT / room).rglob("*") if path.suffix in KINDS and path.is_file()]
    pages = [path for path in ROOT.iterdir() if path.suffix in KINDS and path.name != "CHANGELOG.md"]
    return sorted([*found, *pages])


def remarks(path: Path) -> str:
    """Comments and docstrings of a Python file, comments of a recipe, the whole of any other text."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".toml":
        return "\n".join(re.findall(r"#(.*)", text))
    if path.suffix not in {".py", ".pyi"}:
        return text
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = [ast.get_docstring(node) or "" for node in ast.walk(ast.parse(text)) if isinstance(node, kinds)]
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return "\n".join([*docstrings, *(token.string for token in tokens if token.type == tokenize.COMMENT)])


def pointed(text: str) -> list[str]:
    """Numbers of the sections of docs/methods.md that a text points to; a line may end anywhere in between."""
    flat = re.sub(r"\s+(?:# )?", " ", text)
    return [number for tail in SECTIONS.findall(flat) for number in re.findall(r"\d+(?:\.\d+)?", tail)]


def missing(path: Path, text: str, sections: set[str], titles: set[str]) -> list[str]:
    """What a text points to in vain."""
    flat = re.sub(r"\s+(?:# )?", " ", text)
    wrong = [f"{path.name}: docs/methods.md {one}" for one in pointed(text) if one not in sections]
    wrong += [f'{path.name}: ARCHITECTURE.md, "{one}"' for one in TITLES.findall(flat) if one not in titles]
    named = [one for one in FILES.findall(text) if not one.startswith(RESULTS)]
    return wrong + [f"{path.name}: {one}" for one in named if not (ROOT / one).exists()]


def headings() -> tuple[set[str], set[str]]:
    """Section numbers of docs/methods.md, and titles of ARCHITECTURE.md."""
    methods = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    architecture = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    titles = re.findall(r"^#+ (.+)$", architecture, re.MULTILINE)
    return set(HEADING.findall(methods)), {*titles, *(re.sub(r" \(.*\)$", "", title) for title in titles)}


def test_every_pointer_names_a_section_or_a_file_that_exists():
    sections, titles = headings()
    assert {"1", "1.7", "7.5"} <= sections
    texts = {path: remarks(path) for path in sources()}
    assert sum(len(pointed(text)) for text in texts.values()) > 50
    assert [wrong for path, text in texts.items() for wrong in missing(path, text, sections, titles)] == []


def test_sections_of_methods_are_numbered_in_order():
    page = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    found = HEADING.findall(page)
    assert set(re.findall(r"section\s(\d+(?:\.\d+)?)", page)) <= set(found)
    assert found == sorted(set(found), key=lambda number: [int(part) for part in number.split(".")])


def test_pages_that_are_not_here_are_mentioned_nowhere():
    assert len(sources()) > 200
    assert [(path.name, one) for path in sources() for one in GONE if one in path.read_text(encoding="utf-8")] == []


@pytest.mark.parametrize(
    "text",
    [
        "see docs/methods.md 9.9",
        "see docs/methods.md 1.4 and\n    9.9",
        "see docs/methods.md\n# 9.9",
        'see ARCHITECTURE.md, "Nowhere"',
        "see docs/nowhere.md",
        "see tests/nowhere/test_nothing.py",
        "see NOWHERE.md",
    ],
)
def test_a_pointer_that_leads_nowhere_is_found(text):
    assert len(missing(Path("some.py"), text, *headings())) == 1
