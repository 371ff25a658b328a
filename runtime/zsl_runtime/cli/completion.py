"""What a shell offers at TAB beyond what click knows, and the scripts that teach it: `--completion SHELL`.

At TAB the shell runs the command, so nothing here imports a library, and whatever goes wrong offers nothing: an error
would stand in the middle of the line that is being typed.
"""

from __future__ import annotations

import json
import os
from typing import IO, TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from click.shell_completion import CompletionItem

    Offer = Callable[[click.Context, click.Parameter, str], list[CompletionItem[str]]]

COMMANDS = ("zsl-train", "zsl-export", "zsl-infer", "zsl-eval", "zsl-classes", "zsl-doctor", "zsl-demo", "zsl-report")
CARDS = 64  # that are looked for
LARGEST_HEADER = 64 << 20  # bytes, of a generation's names among others
# As click's, but that a value is one word to bash whatever is in it: the names of classes have spaces.
BASH = """\
%(complete_func)s() {
    local IFS=$'\\n' line type value current="${COMP_WORDS[COMP_CWORD]}"
    COMPREPLY=()
    while read -r line; do
        type="${line%%%%,*}" value="${line#*,}"
        if [[ $type == dir ]]; then
            compopt -o dirnames
        elif [[ $type == file ]]; then
            compopt -o default
        elif [[ $type == plain ]]; then
            [[ $current == [\\'\\"]* ]] || printf -v value %%q "$value"
            COMPREPLY+=("$value")
        fi
    done < <(COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD=$COMP_CWORD %(complete_var)s=bash_complete "$1" 2> /dev/null)
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""


def variable(name: str) -> str:
    """The variable by which a shell asks a command."""
    return f"_{name}_COMPLETE".replace("-", "_").upper()


def scripts(shell: str) -> str:
    """The script that teaches a shell to complete all our commands."""
    return "\n".join(script(shell, name) for name in COMMANDS)


def script(shell: str, name: str) -> str:
    """The script that teaches a shell to complete one command."""
    from click.shell_completion import BashComplete, get_completion_class

    class Bash(BashComplete):
        source_template = BASH

    kind = Bash if shell == "bash" else get_completion_class(shell)
    assert kind is not None
    made = kind(click.Command(name), {}, name, variable(name))
    return made.source_template % made.source_vars()


# --- what is offered ------------------------------------------------------------------------------------------------


def offered(*words: str) -> Offer:
    """These words, for a value that may be another one as well."""
    return lambda _context, _parameter, incomplete: _items(words, incomplete)


def devices(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Auto, the CPU and the cards that this machine has."""
    cards = [f"cuda:{number}" for number in range(CARDS) if os.path.exists(f"/dev/nvidia{number}")]  # noqa: PTH110
    return _items(("auto", "cpu", *cards), incomplete)


def class_names(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """The classes of the bundle that --engine names on the same line; without those that are there already."""
    engine = context.params.get("engine")
    given = context.params.get(parameter.name or "")
    before = set(given) if isinstance(given, (list, tuple)) else set[str]()
    try:
        names = names_of(os.path.expanduser(os.path.expandvars(engine))) if engine else ()  # noqa: PTH111
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        names = ()  # no bundle, or a damaged one
    return _items([name for name in names if name not in before], incomplete)


def names_of(engine: str) -> Sequence[str]:
    """The names of a bundle's classes, read as fast as can be: nothing is checked.

    Args:
        engine: the bundle, or a file in it.

    Raises:
        OSError, ValueError, KeyError, TypeError, AttributeError: it is no bundle, or damaged.

    """
    classes = next(
        (
            os.path.join(folder, "classes")  # noqa: PTH118
            for folder in (engine, *_around(os.path.abspath(engine)))  # noqa: PTH100
            if os.path.isfile(os.path.join(folder, "classes", "CURRENT"))  # noqa: PTH113, PTH118
        ),
        "",
    )
    with open(os.path.join(classes, "CURRENT"), "rb") as file:  # noqa: PTH118
        number = int(json.loads(file.read(LARGEST_HEADER))["generation"])
    with open(os.path.join(classes, f"{number:06d}.safetensors"), "rb") as file:  # noqa: PTH118
        names = json.loads(json.loads(_header(file))["__metadata__"]["names"])
    return [name for name in names if isinstance(name, str) and name.isprintable()]


def _around(path: str) -> Iterable[str]:
    """The two folders around a file: those of an engine in its bundle."""
    first = os.path.dirname(path)  # noqa: PTH120
    return first, os.path.dirname(first)  # noqa: PTH120


def _header(file: IO[bytes]) -> bytes:
    size = int.from_bytes(file.read(8), "little")
    if size > LARGEST_HEADER:
        raise ValueError("a header is not as large as that")
    return file.read(size)


def _items(words: Iterable[str], incomplete: str) -> list[CompletionItem[str]]:
    from click.shell_completion import CompletionItem

    beginning = incomplete.casefold()
    return [CompletionItem(word) for word in words if word.casefold().startswith(beginning)]
