"""What all commands have in common: -h, --version, examples at the end of their help, and files after the cursor."""

from __future__ import annotations

import os
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import click

from zsl_runtime.errors import SHELLS
from zsl_runtime.streams import one_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# What a line does, in a few words, and the line as it can be typed where `birds` is data, `run` a run and `bundle` a
# bundle (README). Tests parse every one, and hold both to EXAMPLE_WIDTH; the slow ones run them on the drawn birds.
Example: TypeAlias = tuple[str, str]
EXAMPLE_WIDTH = 78  # letters, behind two spaces: so that nothing is broken on a terminal of 80

HELP = ["-h", "--help"]
WORDS = "Words are explained by zsl-doctor --explain WORD, and in the documentation's docs/glossary.md."
# The first word of what stands for a value in a help text (FILE of FILE.csv|FILE.xlsx), and what shells offer there.
# Engines are files in a bundle.
PLACES = {**dict.fromkeys(("BUNDLE", "FILE", "PATHS", "RUN", "WEIGHTS"), "file"), "DIR": "dir", "FOLDER": "dir"}
REQUIRE = "ZSL_REQUIRE_SIGNATURE"  # that of zsl_runtime.bundle.signatures, which --help need not load
DEMANDED = f"{__name__}.require_signature"  # among what a command line said: the keys of --require-signature
FIRST_WORD = re.compile("[A-Z]+")


class _Place(click.types.StringParamType):
    """Text that names a file or a folder: taken as it is, completed by the shell."""

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def shell_complete(self, _context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[Any]:
        """Leave it to the shell to list files, or folders."""
        from click.shell_completion import CompletionItem

        return [CompletionItem(incomplete, type=self._kind)]


class _Taught(click.Command):
    """A command whose help ends with examples."""

    examples: Sequence[Example] = ()

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples as they are, never wrapped, and then the epilog."""
        if self.examples:
            with formatter.section("Examples"):
                indent = " " * formatter.current_indent
                for said, line in self.examples:
                    formatter.write(f"{indent}# {said}\n{indent}{line}\n")
        super().format_epilog(ctx, formatter)


class Command(_Taught):
    """A command with all that they have in common.

    Args:
        name: that it is called by.
        examples: for the end of its help.
        settings: of click's Command.

    """

    def __init__(self, name: str | None, *, examples: Sequence[Example] = (), **settings: Any) -> None:
        super().__init__(name, **_habits(name, settings))
        self.examples = examples
        for parameter in self.params:
            word = FIRST_WORD.search(parameter.metavar or (parameter.name or "").upper())
            place = PLACES.get(word[0]) if word else None
            if place and type(parameter.type) is click.types.StringParamType:
                parameter.type = _Place(place)

    def invoke(self, ctx: click.Context) -> Any:
        """Run it, with no more threads than the machine has CPUs; before any library is imported that starts some."""
        from zsl_runtime.machine.threads import limit_environment

        for note in limit_environment():
            click.echo(one_line(note), err=True)
        with _demanding(ctx.meta.get(DEMANDED)):
            return super().invoke(ctx)


@contextmanager
def _demanding(keys: str | None) -> Iterator[None]:
    """Demand signatures by these keys of every bundle, in other processes too: by the variable that a site sets."""
    if keys is None:
        yield
        return
    before = os.environ.get(REQUIRE)
    os.environ[REQUIRE] = keys
    try:
        yield
    finally:
        if before is None:
            del os.environ[REQUIRE]
        else:
            os.environ[REQUIRE] = before


class Group(_Taught, click.Group):
    """A command of commands, each of which has all that they have in common, too; `examples` as of a Command."""

    command_class = Command

    def __init__(self, name: str | None = None, *, examples: Sequence[Example] = (), **settings: Any) -> None:
        super().__init__(name, **_habits(name, settings))
        self.examples = examples


def _habits(name: str | None, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of a command with what all of them have."""
    own = name is not None and name.startswith("zsl-")  # no subcommand, of which a shell knows nothing
    context = {"help_option_names": HELP, **(settings.get("context_settings") or {})}
    params = [*(settings.get("params") or ()), *([_completion_option()] if own else []), _version_option()]
    return {"epilog": WORDS, **settings, "context_settings": context, "params": params}


def _completion_option() -> click.Option:
    return click.Option(
        ["--completion"],
        type=click.Choice(SHELLS),
        is_eager=True,
        expose_value=False,
        callback=_tell_completion,
        help="Print the script by which this shell completes our commands, and exit (docs/how-to/shell.md).",
    )


def _tell_completion(context: click.Context, _parameter: click.Parameter, shell: str | None) -> None:
    if shell is not None and not context.resilient_parsing:
        from zsl_runtime.cli.completion import scripts

        click.echo(scripts(shell), nl=False)
        context.exit()


def _version_option() -> click.Option:
    return click.Option(
        ["--version"],
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_tell_version,
        help="Say which version this is and exit.",
    )


def _tell_version(context: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        from zsl_runtime import __version__

        click.echo(f"{context.find_root().info_name}, zsl-deploy {__version__}")
        context.exit()
