"""Words are explained as docs/glossary.md has them, in a checkout and in a wheel alike."""

from __future__ import annotations

import re
import shutil
import textwrap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsl_runtime.cli import glossary
from zsl_runtime.cli.glossary import explain, read_glossary
from zsl_runtime.errors import ArtefactError, UsageError

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")


def test_every_entry_is_read_whole():
    """Against the lines of the page themselves, without the pattern that the command uses."""
    entries, name = {}, ""
    for line in PAGE.splitlines()[4:]:
        if line.startswith((": ", "  ")):
            entries[name].append(line[2:])
        elif line:
            name = line
            entries[name] = []
    wanted = {
        name: " ".join(" ".join(lines).replace("`", "").replace("*", "").split()) for name, lines in entries.items()
    }
    assert len(wanted) >= 30
    assert read_glossary() == wanted


@pytest.mark.parametrize("word", ["generation", "Generation", " generations ", "GENERATION"])
def test_a_word_is_found_in_any_case_and_number(word):
    assert explain(word).startswith("generation\n    One state of a bundle's classes.")


def test_each_word_of_an_entry_and_words_of_several_letters():
    assert explain("unseen") == explain("seen")
    assert explain("run folder").startswith("run folder\n")
    assert explain("class   means").startswith("class mean\n")
    assert explain("h").startswith("H\n")
    assert max(map(len, explain("head").splitlines())) <= 80


def test_an_unknown_word_names_one_like_it_and_all():
    with pytest.raises(
        UsageError, match=r"^E-WORD: 'generatoin' is not explained \(did you mean generation\?\); "
    ) as caught:
        explain("generatoin")
    assert "AUSUC" in caught.value.message
    assert "seen, unseen" in caught.value.message


@given(st.text(max_size=30))
def test_any_text_is_explained_or_refused(word):
    try:
        assert explain(word).count("\n") >= 1
    except UsageError as error:
        assert error.code == "E-WORD"  # noqa: PT017


def test_an_installed_package_reads_its_own_copy(tmp_path, monkeypatch):
    monkeypatch.setattr(glossary, "SOURCE", tmp_path / "none")
    monkeypatch.setattr(glossary, "SHIPPED", tmp_path / "glossary.md")
    with pytest.raises(ArtefactError, match="E-GLOSSARY"):
        explain("head")
    shutil.copy(ROOT / "docs" / "glossary.md", tmp_path / "glossary.md")
    assert textwrap.dedent(explain("head").partition("\n")[2]).startswith("The last step of a model")


def test_the_build_puts_the_page_where_it_is_read():
    (folder,) = re.findall(
        r"install\(FILES docs/glossary\.md DESTINATION (\S+)\)", (ROOT / "CMakeLists.txt").read_text()
    )
    assert glossary.SHIPPED.relative_to(glossary.SHIPPED.parents[1]) == Path(folder, "glossary.md")


def test_the_page_of_the_shell_shows_what_is_printed():
    page = (ROOT / "docs" / "how-to" / "shell.md").read_text(encoding="utf-8")
    assert textwrap.indent(explain("generation"), "    ") in page
