"""`zsl-infer --merge`: the outputs of all shares of a run, put together; JSON lines also as what is made of them."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import IO, TYPE_CHECKING, cast

import click

from zsl_runtime.cli.infer_formats import MADE, check_format, maker
from zsl_runtime.errors import InputError, UsageError
from zsl_runtime.streams import one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zsl_runtime.labelling.made import Origin

WITH_MERGE = frozenset({"paths", "merge", "output", "quiet", "format_", "label_studio_prefix", "label_studio_root"})
TOGETHER = {
    b"PAR1": "is Parquet, of which all shares can be read together as one table",
    b'[\n{"': "holds tasks of Label Studio, which takes the files of all shares one after the other",
}


def merge_outputs(
    paths: Sequence[str], output: str | None, format_: str, *, quiet: bool, prefix: str | None, root: str | None
) -> int:
    """Put the outputs of all shares together; the exit code is that of one whole run.

    Raises:
        UsageError: E-MERGE, E-OUTPUT, E-FORMAT.

    """
    from zsl_runtime.inputs.item import in_store
    from zsl_runtime.labelling.merging import SUFFIX, merge
    from zsl_runtime.labelling.results import open_output

    asked = _asked()
    others = [option for name, option in asked.items() if name not in WITH_MERGE]
    if others:
        raise UsageError("E-MERGE", f"--merge takes outputs and --output alone; leave {', '.join(others)} out")
    check_format(format_, output, (), prefix=prefix, root=root)
    if output is not None and os.path.realpath(output) in map(os.path.realpath, paths):
        raise UsageError("E-OUTPUT", f"--output {output!r} is one of the outputs to merge; give another file")
    with ExitStack() as stack:
        if any(map(in_store, paths)):
            from zsl_runtime.inputs.stores import brought

            paths = tuple(stack.enter_context(brought(paths, SUFFIX)))
        origin = _origin(paths, format_ if "format_" in asked else None)
        stream = stack.enter_context(open_output(output))
        if format_ in MADE:
            from zsl_runtime.labelling.made import MergedLines, Origin

            made = MergedLines(maker(stream, format_, origin or Origin("", "", 0, ""), prefix=prefix, root=root))
            done = merge(paths, cast("IO[bytes]", made))
            made.finish()
        else:
            done = merge(paths, stream)
    for line in () if quiet else done.notes:
        click.echo(one_line(line), err=True)
    click.echo(
        f"merged {done.shares} shares: {done.items} answers, of which {done.unreadable} could not be read", err=True
    )
    return InputError.exit_code if done.unreadable else 0


def _asked() -> dict[str, str]:
    """The options on the command line, by the names of their parameters."""
    from click.core import ParameterSource

    context = click.get_current_context()
    return {
        parameter.name or "": parameter.opts[0]
        for parameter in context.command.params
        if context.get_parameter_source(parameter.name or "") is ParameterSource.COMMANDLINE
    }


def _origin(paths: Sequence[str], format_: str | None) -> Origin | None:
    """What the first share says of all, whom `merge` compares; None where nothing is said, which `merge` tells.

    Raises:
        UsageError: E-MERGE for a file that need not be merged, or a format that this one cannot become.

    """
    from zsl_runtime.labelling.made import Origin
    from zsl_runtime.labelling.merging import read_facts

    facts = read_facts(paths[0])
    if facts is None:
        _check_kind(paths[0])
        return None
    own = facts.options.get("--format", "csv")
    if format_ is not None and format_ != own and not (own == "jsonl" and format_ in MADE):
        raise UsageError(
            "E-MERGE",
            f"the shares were written as {own}, of which no {format_} can be made; leave --format out, or label the "
            "shares with --format jsonl, of which parquet and label-studio can",
        )
    said = facts.options
    return Origin("", str(said.get("bundle", "")), int(said.get("generation", 0)), str(said.get("zsl-deploy", "")))


def _check_kind(path: str) -> None:
    """UsageError E-MERGE for the output of a share that is whole by itself."""
    try:
        with open(path, "rb") as file:
            beginning = file.read(4)
    except OSError:
        return  # which `merge` tells
    if beginning in TOGETHER:
        raise UsageError(
            "E-MERGE", f"{path!r} {TOGETHER[beginning]}; or label with --format jsonl, and merge with --format parquet"
        )
