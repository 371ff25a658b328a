"""The commands of pyproject.toml, and whether a line that stands in a page could be typed."""

from __future__ import annotations

import functools
import re
import shlex
import tomllib
from importlib import import_module
from pathlib import Path

import click

PROJECT = Path(__file__).parents[2] / "pyproject.toml"
SCRIPTS = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]["scripts"]
# In an indented block, where output is indented further, or behind a prompt.
CODE = re.compile(r"^(?: {4}(?! )|\$ )(.*\bzsl-.*)$", re.MULTILINE)


@functools.cache
def commands() -> dict[str, click.Command]:
    """The commands of pyproject.toml, by name."""
    found = {}
    for name, target in SCRIPTS.items():
        module = import_module(target.partition(":")[0])
        assert callable(module.main)
        (found[name],) = {
            one for one in vars(module).values() if isinstance(one, click.Command) and one.name == name
        }  # each command knows its own name, so that usage lines are right however it is started
    return found


def parse(words: list[str]) -> None:
    """Let click parse a command line; it raises for an unknown flag, a missing one or a wrong value."""
    command, arguments = commands()[words[0]], words[1:]
    try:
        context = command.make_context(words[0], list(arguments))
    except click.exceptions.Exit as done:  # of --version and the like, which do all that they do while it is parsed
        if done.exit_code:
            raise
        return
    if isinstance(command, click.Group):
        name, sub, rest = command.resolve_command(context, arguments)
        sub.make_context(name, rest, parent=context)


def flags(command: click.Command) -> set[str]:
    """Every flag of a command and of the commands below it."""
    found = {flag for option in command.params for flag in (*option.opts, *option.secondary_opts)}
    for sub in command.commands.values() if isinstance(command, click.Group) else ():
        found |= flags(sub)
    return found | {"--help"}


def typed(text: str) -> list[list[str]]:
    """Our commands in the code blocks of a page, each as its words: of a pipe, our part of it."""
    found = []
    for line in CODE.findall(re.sub(r"\\\n\s*", "", text)):
        try:
            words = shlex.split(line, comments=True)
        except ValueError:  # an apostrophe in a message: nobody could type this line
            continue
        part: list[str] = []
        for word in [*words, "|"]:
            if word in {"|", "&&", "&", ";"}:
                if part and part[0] in SCRIPTS:
                    found.append(part[: next((n for n, one in enumerate(part) if one in {"<", ">"}), len(part))])
                part = []
            else:
                part.append(word)
    return found
