"""docs/tutorial.md, followed to the letter on fewer photographs: its commands run, and print the lines it shows."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

import zsl_runtime.head.held_out
import zsl_runtime.machine.threads
import zsl_train.training.timing
from support.line import draw_few_species, read_csv, succeed
from zsl_export.cli import main as zsl_export
from zsl_runtime.cli.classes import main as zsl_classes
from zsl_runtime.cli.evaluate import main as zsl_eval
from zsl_runtime.cli.infer import main as zsl_infer
from zsl_train.cli import main as train_command

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = {
    "zsl-train": train_command,
    "zsl-export": zsl_export,
    "zsl-eval": zsl_eval,
    "zsl-infer": zsl_infer,
    "zsl-classes": zsl_classes,
}
NUMBER = re.compile(r"[-+]?\d+(\.\d+)?(e[-+]?\d+)?")


def steps() -> list[tuple[str, list[str]]]:
    """Each command of the page, with the lines that it is said to print."""
    found = []
    for block in re.findall(r"^```console\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL):
        for command in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            words, *shown = command.splitlines()
            found.append((words, [line for line in shown if line != "..."]))
    return found


def shown_by_readme() -> list[str]:
    """The lines of README's six commands that are no commands: what these print. Broken lines are put together."""
    section = README.partition("## Six commands")[2].partition("\n## ")[0].partition("```python")[0]
    whole = re.sub(r"\n {8}(?! )", " ", section)
    lines = [line.strip() for line in whole.splitlines() if line.startswith("    ")]
    return [line for line in lines if not line.startswith("zsl-")]


def shape(line: str, names: list[str]) -> str:
    """A line without what differs from data to data and from machine to machine: names, numbers, spaces, paths."""
    for name in names:
        line = line.replace(name, "NAME")
    line = re.sub(r"/\S*/(?=bundle)", "/PATH/", line)
    line = re.sub(r"\S+(?=/\d+\.jpg)|\S+/NAME(?=/\d+\.jpg)", "FOLDER", line)
    line = re.sub(r"backend \S+ \(.*?\)", "backend", line)
    line = re.sub(r",true$", ",false", line)  # far, as few classes as there are here
    line = re.sub(r"(?<= )-(?= )", "0", line)  # what cannot be known of a single photograph
    line = re.sub(r"^verdict: .*", "verdict:", line)  # of so few photographs another one
    return " ".join(NUMBER.sub("0", line).split())


def is_shown(wanted: str, printed: list[str]) -> bool:
    """Whether a line of the page is among those printed; `...` in it stands for anything."""
    parts = [part.strip() for part in wanted.split("...")]
    pattern = re.compile(".*".join(map(re.escape, parts)))
    return any(pattern.fullmatch(line) for line in printed)


@pytest.fixture
def desk(tmp_path, monkeypatch, trainings_draw_no_page):
    """An empty folder to work in, and a cache of its own; here a training draws its page."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("zsl_train.cli.draw_page", trainings_draw_no_page)
    monkeypatch.setenv("ZSL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(zsl_runtime.machine.threads, "usable_cpus", lambda: 1)
    monkeypatch.setattr(zsl_train.training.timing, "ENOUGH_SECONDS", 0.05)
    monkeypatch.setattr(zsl_runtime.head.held_out, "LEAST", 10)  # held-out photographs of the few that are drawn
    return tmp_path


def follow(words: str) -> list[str]:
    """Run a command of the page; the lines that it printed."""
    name, *arguments = shlex.split(words)
    if name == "head":
        return Path(arguments[1]).read_text(encoding="utf-8").splitlines()[: -int(arguments[0])]
    if "field_guide" in words:
        draw_few_species(Path(arguments[2]))
        return []
    said = succeed(COMMANDS[name], *arguments)
    return [*said.out.decode().splitlines(), *said.err.splitlines()]


def test_the_tutorial_works_as_it_is_written(desk, capsys):
    names = sorted(every_species(), key=len, reverse=True)
    everything: list[str] = []
    for words, shown in steps():
        if words.startswith(("make ", ". ")):
            continue  # tried on a fresh clone before each release (docs/releasing.md)
        printed = follow(words.replace("Honey Plumewren", "Rowan Forktail"))  # of the few species that are drawn here
        lines = [shape(line, names) for line in printed]
        for line in shown:
            assert is_shown(shape(line, names), lines), (words, line, printed)
        everything += lines
    assert len(shown_by_readme()) >= 6
    for line in shown_by_readme():
        assert is_shown(shape(line, names), everything), line
    (snippet,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    exec(snippet, {})
    assert "Rowan Forktail" in capsys.readouterr().out
    assert {row["rank"] for row in read_csv(desk / "labels.csv")} == {"1"}


def every_species() -> list[str]:
    """The names of all species that the field guide can draw."""
    from zsl_train.data.field_guide import folder

    return [one.name for kind in (folder.SEEN, folder.UNSEEN, folder.NEW) for one in folder.read_species(kind)]
