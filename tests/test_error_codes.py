"""docs/errors.md: written from the source, complete, and one class a code."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from support.scripts import load_tool

ROOT = Path(__file__).parents[1]
error_codes = load_tool("error_codes")

# A code that belongs to two classes has two exit codes. No new one.
KNOWN_IN_TWO = {
    "E-BUNDLE-PATH": "a bundle that is not there is a wrong argument, a file that leads out of one is damage",
    "E-ENGINE-CAPABILITY": "asked for by name it is a wrong argument, the card's own is what there is",
    "E-ENGINE-LOAD": "a stored plan is an artefact, one that was built just now shows that the library fails",
    "E-RUN": "a run folder that is damaged is an artefact, --resume without a run a wrong argument",
}
# Never raised: beginnings that code or prose compares with.
BEGINNINGS = {"E-BUNDLE-", "E-GAUSSIAN-"}


@pytest.fixture(scope="module")
def codes():
    return error_codes.Codes(ROOT)


def test_the_page_is_what_the_source_says(codes):
    page = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    assert page == error_codes.page(codes), "run: python tools/error_codes.py"
    assert [line for line in page.splitlines() if len(line) > 120 and not line.startswith("|")] == []


def test_check_says_whether_the_page_is_current(codes, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(error_codes, "PAGE", tmp_path / "errors.md")
    monkeypatch.setattr(error_codes, "Codes", lambda: codes)
    assert error_codes.main(["--check"]) == 1
    assert error_codes.main([]) == 0
    assert error_codes.main(["--check"]) == 0
    (tmp_path / "errors.md").write_text("something else")
    assert error_codes.main(["--check"]) == 1
    assert "python tools/error_codes.py" in capsys.readouterr().err


def test_every_code_is_spelled_alike(codes):
    assert len({site.code for site in codes.sites}) > 150
    assert [site for site in codes.sites if not re.fullmatch("E-[A-Z0-9-]+", site.code)] == []
    assert [site for site in codes.sites if site.code.endswith("-")] == []


def test_no_code_belongs_to_two_classes(codes):
    kinds = defaultdict(set)
    for site in codes.sites:
        kinds[site.code].add(site.kind)
    assert {code for code, found in kinds.items() if len(found) > 1} == set(KNOWN_IN_TWO)


def test_every_code_that_the_source_spells_is_listed(codes):
    """Found in another way, so that no way of raising is overlooked."""
    spelled = {
        node.value
        for source in codes.sources
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and re.fullmatch("E-[A-Z0-9-]+", node.value)
    }
    listed = {site.code for site in codes.sites}
    assert spelled - BEGINNINGS - set(error_codes.PRINTED) == listed - set(error_codes.PRINTED)


def test_exit_codes_are_those_of_the_classes(codes):
    from zsl_runtime import errors

    kinds = {
        name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, errors.ZslError)
    }
    assert {site.kind for site in codes.sites} - {what for what, _ in error_codes.PRINTED.values()} <= kinds
    assert {kind: codes.exit_code(kind) for kind in kinds} == {kind: getattr(errors, kind).exit_code for kind in kinds}


def test_pages_and_docstrings_mention_only_codes_that_exist(codes):
    known = {site.code for site in codes.sites}
    files = [path for path in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")) if path.name != "CHANGELOG.md"]
    files += [ROOT / source.name for source in codes.sources]
    wrong = {}
    for path in files:
        for code in re.findall(r"\bE-[A-Z][A-Z0-9-]*", path.read_text(encoding="utf-8")):
            if code not in known and not any(one.startswith(code) and code.endswith("-") for one in known):
                wrong.setdefault(path.name, set()).add(code)
    assert wrong == {}


# --- the ways in which a code gets into a call ------------------------------------------------------------------------

ERRORS = """
EXIT_BUG, EXIT_USAGE = 1, 2
class ZslError(Exception):
    exit_code = EXIT_BUG
class UsageError(ZslError):
    exit_code = EXIT_USAGE
class GateError(ZslError):
    exit_code = 3
class NearError(GateError):
    pass
"""


def found(tmp_path: Path, **files: str) -> list:
    """The sites of packages with these modules."""
    for package in error_codes.PACKAGES:
        (tmp_path / package).mkdir(parents=True)
    (tmp_path / error_codes.HOME).write_text(ERRORS)
    for name, text in files.items():
        (tmp_path / "train" / "zsl_train" / f"{name}.py").write_text(text)
    return error_codes.Codes(tmp_path).sites


def test_a_code_is_found_wherever_it_comes_from(tmp_path):
    sites = found(
        tmp_path,
        one="""
A, B = "E-A", "E-B"
def plain(x):
    code = "E-LOCAL"
    raise UsageError(code, f"{x} of {x} is wrong")
def constant():
    raise NearError(B, "what" + " it is")
def either(x):
    raise UsageError("E-LEFT" if x else A, "this")
def outer():
    def inner(*, code):
        raise GateError(code=code, message="that")
    inner(code="E-GIVEN")
def again(error):
    raise UsageError(error.code, error.message)
class Kept:
    def method(self, place, code):
        raise UsageError(code, "there")
""",
        two="""
import click
from zsl_train.one import B as OTHER, Kept
def there(kept):
    kept.method("here", "E-PLACE")
    raise errors.UsageError("not ours")
def imported():
    raise UsageError(OTHER, "those")
""",
    )
    assert {(site.code, site.kind, site.message) for site in sites} == {
        ("E-LOCAL", "UsageError", "… of … is wrong"),
        ("E-B", "NearError", "what it is"),
        ("E-LEFT", "UsageError", "this"),
        ("E-A", "UsageError", "this"),
        ("E-GIVEN", "GateError", "that"),
        ("E-PLACE", "UsageError", "there"),
        ("E-B", "UsageError", "those"),
    }
    assert {site.file.rpartition("/")[2] for site in sites if site.code == "E-PLACE"} == {"two.py"}


@pytest.mark.parametrize(
    "text",
    [
        "raise UsageError('E-' + name, 'x')",
        "raise UsageError(nowhere, 'x')",
        "def f(code='E-X'):\n    raise UsageError(code, 'x')\nf()",
    ],
)
def test_a_code_that_cannot_be_read_is_an_error(tmp_path, text):
    with pytest.raises(SystemExit, match=r"one\.py, line \d"):
        found(tmp_path, one=text)


def test_the_tool_runs_by_itself():
    command = [sys.executable, "-I", ROOT / "tools" / "error_codes.py", "--check"]
    assert subprocess.run(command, check=False).returncode == 0
