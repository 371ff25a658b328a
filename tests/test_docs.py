"""The pages of docs/: what mkdocs.yml names, where links lead, what commands they show; quick, and without mkdocs.

`make docs` builds them, and fails at whatever mkdocs warns of and at a formula that cannot be drawn.
"""

from __future__ import annotations

import ast
import importlib.util
import re
from importlib import import_module
from pathlib import Path

import click
import pytest
import yaml

from support.command_lines import commands, flags, parse, typed

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = {path.relative_to(DOCS).as_posix(): path.read_text(encoding="utf-8") for path in sorted(DOCS.rglob("*.md"))}
SETTINGS = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
ELSEWHERE = re.compile(r"(?:https?:)?//[\w.-]+\.\w+")


def named(entry: object) -> list[str]:
    """The pages of a part of the nav, in order."""
    if isinstance(entry, str):
        return [entry]
    return [page for one in (entry.values() if isinstance(entry, dict) else entry) for page in named(one)]


def prose(text: str) -> str:
    """A page without its code blocks and code spans."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^(?: {4}).*$", "", text, flags=re.MULTILINE)
    return re.sub(r"`[^`\n]*`", "", text)


def anchors(text: str) -> set[str]:
    """What a link can point to in a page, after Python-Markdown's own rule for headings."""
    titles = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    plain = [re.sub(r"[^\w\s-]", "", re.sub(r"[`*$]", "", title)).strip().lower() for title in titles]
    return {re.sub(r"[-\s]+", "-", title) for title in plain}


def given(value: object) -> list[str]:
    """Every text in a setting, keys included."""
    if isinstance(value, dict):
        return [text for pair in value.items() for one in pair for text in given(one)]
    if isinstance(value, list):
        return [text for one in value for text in given(one)]
    return [value] if isinstance(value, str) else []


# --- mkdocs.yml -----------------------------------------------------------------------------------------------------


def test_every_page_is_in_the_nav_once():
    assert sorted(named(SETTINGS["nav"])) == sorted(PAGES)


def test_the_four_kinds_of_pages_are_there():
    assert [next(iter(entry)) for entry in SETTINGS["nav"]] == [
        "Start",
        "Tutorial",
        "How-to guides",
        "Reference",
        "Explanation",
    ]


def test_nothing_is_loaded_from_elsewhere():
    assert SETTINGS["theme"]["font"] is False
    assert not {"analytics", "consent", "social"} & set(SETTINGS.get("extra", {}))
    assert [text for text in given(SETTINGS) if ELSEWHERE.search(text)] == []
    assert "mermaid" not in (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    files = [*SETTINGS["extra_css"], *SETTINGS["extra"]["polyfills"], *SETTINGS.get("extra_javascript", ())]
    for file in files:
        assert not ELSEWHERE.search((DOCS / file).read_text(encoding="utf-8"))
    # Without one of this name the plugin for pages on the disk takes its own from another host.
    assert any("iframe-worker" in file for file in SETTINGS["extra"]["polyfills"])
    for name, text in PAGES.items():
        assert not re.search(r"<(?:script|img|link|iframe)\b|!\[[^\]]*\]\(\s*(?:https?:)?//", prose(text)), name
        assert "```mermaid" not in text


def test_the_pages_are_built_with_the_tests():
    assert re.search(r"^test:.*\bdocs\b", MAKEFILE, re.MULTILINE)
    assert re.search(r"^\.PHONY:.*\bdocs\b", MAKEFILE, re.MULTILINE)  # there is a folder of that name
    (recipe,) = re.findall(r"^docs:.*\n((?:\t.+\n)+)", MAKEFILE, re.MULTILINE)
    assert "mkdocs build --strict" in recipe
    assert "docs" in re.search(r"^EXTRAS := (.+)$", MAKEFILE, re.MULTILINE)[1].split(",")
    assert SETTINGS["site_dir"] == "build/site"
    assert (ROOT / SETTINGS["hooks"][0]).exists()


# --- pages ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for link in LINK.findall(prose(PAGES[page])):
        if ELSEWHERE.match(link):
            continue
        path, _, anchor = link.partition("#")
        target = (DOCS / page).parent.joinpath(path).resolve() if path else DOCS / page
        assert target.is_file(), link
        assert DOCS in target.parents, f"{link} is not part of the site"
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), link


@pytest.mark.parametrize("page", PAGES)
def test_lines_are_short(page):
    lines = PAGES[page].splitlines()
    assert [line for line in lines if len(line) > 120 and not line.startswith("|") and "://" not in line] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_page_has_one_title(page):
    text = re.sub(r"^```.*?^```$", "", PAGES[page], flags=re.MULTILINE | re.DOTALL)
    assert text.startswith("# ")
    assert len(re.findall(r"^# ", text, re.MULTILINE)) == 1


@pytest.mark.parametrize("page", PAGES)
def test_every_command_can_be_typed(page):
    for words in typed(PAGES[page]):
        parse(words)
    known = set().union(*map(flags, commands().values()))
    spans = re.findall(r"`(zsl-[^`\n]+)`", PAGES[page])
    assert {word for span in spans for word in span.split() if word.startswith("--")} <= known


def test_the_guides_show_commands_and_real_options():
    guides = {name: text for name, text in PAGES.items() if name.startswith("how-to/")}
    assert len(guides) >= 5
    assert {words[0] for text in guides.values() for words in typed(text)} == set(commands())
    known = set().union(*map(flags, commands().values()))
    for name, text in guides.items():
        assert typed(text), name
        assert set(re.findall(r"`(--[a-z-]+)", text)) <= known, name


def test_python_in_pages_is_python():
    for text in PAGES.values():
        for code in re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            ast.parse(code)


# --- reference and glossary -----------------------------------------------------------------------------------------


def test_the_reference_has_every_command_and_every_promised_name():
    pages = PAGES["reference/commands.md"]
    assert set(re.findall(r":prog_name: (\S+)", pages)) == set(commands())
    for module, name, prog in re.findall(r":module: (\S+)\n +:command: (\S+)\n +:prog_name: (\S+)", pages):
        assert getattr(import_module(module), name) is commands()[prog]
    python = set(re.findall(r"^::: (\S+)$", PAGES["reference/python.md"], re.MULTILINE))
    runtime, errors = import_module("zsl_runtime"), import_module("zsl_runtime.errors")
    promised = {f"zsl_runtime.{name}" for name in runtime.__all__ if not name.startswith("_")}
    kinds = {
        name
        for name, one in vars(errors).items()
        if isinstance(one, type) and issubclass(one, errors.ZslError) and one is not errors.ZslError
    }
    assert python >= promised | {f"zsl_runtime.errors.{name}" for name in kinds}
    pixels = import_module("zsl_runtime.pixels").__all__
    assert {name.rpartition(".")[2] for name in python} >= set(pixels)
    for name in python:
        module, _, attribute = name.rpartition(".")
        assert hasattr(import_module(module), attribute), name


def test_the_glossary_is_in_order_and_has_the_words_of_the_commands():
    words = re.findall(r"^([^\n:#]+)\n: ", PAGES["glossary.md"], re.MULTILINE)
    assert words == sorted(words, key=str.lower)
    terms = {word.strip() for entry in words for word in entry.split(",")}
    assert terms >= {
        "generation",
        "probe",
        "head",
        "lift",
        "synthesizer",
        "parity",
        "engine",
        "bundle",
        "seen",
        "unseen",
    }
    assert terms >= {"T1", "U", "S", "H", "AUSUC", "gamma", "evidence", "replay", "recipe", "preset", "fold"}


def test_a_line_that_cannot_be_typed_is_found():
    block = "    find x | zsl-infer - --null --engine b < y\n        zsl-infer output\n    it isn't zsl-infer\n"
    assert typed(block) == [["zsl-infer", "-", "--null", "--engine", "b"]]
    assert typed("```console\n$ zsl-doctor b\nzsl-doctor says\n```\n") == [["zsl-doctor", "b"]]
    with pytest.raises(Exception, match="No such option"):
        parse(typed("    zsl-infer x --engine b --fast\n")[0])


# --- what the build does besides mkdocs -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hooks():
    pytest.importorskip("mkdocs", reason="the extra docs is not installed")
    spec = importlib.util.spec_from_file_location("docs_hooks", ROOT / SETTINGS["hooks"][0])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_formula_can_be_drawn(hooks):
    formulas = [formula for text in PAGES.values() for formula in re.findall(r"\$\$?([^$]+)\$\$?", prose(text))]
    assert len(formulas) > 150
    for formula in formulas:
        drawn = hooks.mathml(formula, block=False)
        assert drawn.startswith("<math")
        assert "\\" not in drawn


def test_words_in_formulas_stand_upright(hooks):
    assert "<mtext>softmax</mtext>" in hooks.mathml(r"\mathrm{softmax}_r(x)", block=False)
    assert "<mo>arg</mo>" in hooks.mathml(r"\arg\max_y x", block=False)


@pytest.mark.parametrize("formula", [r"x^{", r"\nonsense x", r"\left( x"])
def test_a_formula_that_cannot_be_drawn_ends_the_build(hooks, formula):
    with pytest.raises(ValueError, match="cannot be drawn"):
        hooks.with_formulas(rf'<p><span class="arithmatex">\({formula}\)</span></p>')


def test_pointers_become_links(hooks):
    text = "See docs/errors.md and (docs/versioning.md), `docs/errors.md`.\n\n    docs/errors.md\n"
    found = hooks.linked(text, "how-to/add-classes.md", DOCS)
    assert found.startswith("See [Error codes](../errors.md) and ([Versions and what they promise](../versioning.md)),")
    assert found.endswith(", `docs/errors.md`.\n\n    docs/errors.md\n")
    with pytest.raises(ValueError, match="not there"):
        hooks.linked("See docs/nowhere.md.", "index.md", DOCS)


def test_the_pages_of_commands_show_their_examples(hooks):
    pages = [found for page in PAGES.values() for found in hooks.GENERATED.findall(page)]
    commands_shown = [getattr(import_module(module), name) for module, name in pages]
    assert {command.name for command in commands_shown} == set(commands())
    inner = click.Command("inner", help="It is inner.")
    inner.examples = (("one thing", "zsl-x inner a \\\n      b"), ("another", "zsl-x inner c"))
    outer = click.Group("zsl-x", help="It is outer.", commands=[inner])
    for _ in range(2):  # of a server of pages, every time that one changes
        hooks.show_examples(outer)
        assert outer.help == "It is outer."
        assert inner.help == (
            "It is inner.\n\n**Examples:**\n\n"
            "    # one thing\n    zsl-x inner a \\\n          b\n    # another\n    zsl-x inner c"
        )


@pytest.mark.parametrize(
    "tag",
    [
        '<script src="https://a.example/x.js">',
        '<link rel="stylesheet" href="//a.example/x.css">',
        "<style>@import url(https://a.example/x.css)</style>",
        "<img alt='' src=http://a.example/x.png>",
    ],
)
def test_what_would_be_loaded_from_elsewhere_is_found(hooks, tag):
    assert hooks.FETCHED.search(f"<p>{tag}</p>")
    assert not hooks.FETCHED.search('<a href="https://a.example">a link</a> <script src="assets/x.js"></script>')
