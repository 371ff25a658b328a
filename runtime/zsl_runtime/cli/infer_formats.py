"""What `--format` of `zsl-infer` means: how answers are encoded, and what must be given with it."""

from __future__ import annotations

import os
from functools import partial
from typing import IO, TYPE_CHECKING, NamedTuple

import click

from zsl_runtime.errors import BackendError, UsageError
from zsl_runtime.streams import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from zsl_runtime.bundle.bundle import Bundle
    from zsl_runtime.labelling.made import Maker, Origin
    from zsl_runtime.labelling.reading import Reader
    from zsl_runtime.labelling.snapshot import Labelled

FORMATS = ("csv", "csv-safe", "jsonl", "parquet", "label-studio")
LOCAL_FILES = "/data/local-files/?d="  # where Label Studio serves files of its own machine, once that is allowed
PARQUET = ".parquet"
MADE = ("parquet", "label-studio")  # of JSON lines, when all is labelled


class Written(NamedTuple):
    """How answers are written.

    Attributes:
        encode: the lines of some answers.
        header: before the first of them.
        make: of formats that are made of such lines, what does that; of a stream and the generation.

    """

    encode: Callable[[Iterable[Labelled]], bytes]
    header: bytes = b""
    make: Callable[[IO[bytes], int], Maker] | None = None


def check_format(
    format_: str, output: str | None, paths: Sequence[str], *, prefix: str | None, root: str | None
) -> None:
    """UsageError for options that do not go with a format; BackendError for a package that is not here.

    Args:
        format_: one of FORMATS.
        output: where to.
        paths: what is labelled.
        prefix: of --label-studio-prefix.
        root: of --label-studio-root.

    """
    if format_ != "label-studio" and (prefix is not None or root is not None):
        option = "--label-studio-prefix" if prefix is not None else "--label-studio-root"
        raise UsageError("E-FORMAT", f"{option} is for --format label-studio; give that, or leave it out")
    if format_ == "parquet":
        _check_parquet(output)
    elif output is not None and output.lower().endswith(PARQUET):
        raise UsageError("E-FORMAT", f"--output {output!r} would be {format_}; give --format parquet, or another name")
    if root is not None:
        _check_root(root, paths)


def _check_parquet(output: str | None) -> None:
    from zsl_runtime.labelling.results import is_stream

    if output is None or is_stream(output):
        where = "stdout" if output is None else f"{output!r}, which is no plain file"
        raise UsageError("E-FORMAT", f"Parquet is no text and does not go to {where}; give --output FILE.parquet")
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        from zsl_runtime.extras import wanting

        raise BackendError("E-PACKAGE", f"--format parquet needs {wanting('pyarrow', error, 'parquet')}") from None


def _check_root(root: str, paths: Sequence[str]) -> None:
    from zsl_runtime.inputs.item import in_store
    from zsl_runtime.labelling.label_studio import url_of

    if not os.path.isdir(root):  # noqa: PTH112
        raise UsageError("E-FORMAT", f"--label-studio-root {root!r} is no folder; give the one that is served")
    outside = [path for path in paths if path != "-" and not in_store(path) and url_of(path, "", root) is None]
    if outside:
        raise UsageError(
            "E-FORMAT",
            f"{outside[0]!r} does not lie in --label-studio-root {root!r}, from where Label Studio is to show it; give "
            "a folder around all PATHS",
        )


def written_as(
    format_: str, bundle: Bundle, reader: Reader, *, min_probability: float, prefix: str | None, root: str | None
) -> Written:
    """How answers are written in a format; UsageError E-FORMAT for tasks of a model that takes no pictures."""
    from zsl_runtime.labelling.results import csv_header, encode_csv, encode_jsonl

    if format_ in {"csv", "csv-safe"}:
        safe = format_ == "csv-safe"
        return Written(partial(encode_csv, min_probability=min_probability, safe=safe), csv_header())
    encode = partial(encode_jsonl, min_probability=min_probability)
    if format_ == "jsonl":
        return Written(encode)
    if format_ == "label-studio" and reader.pixels is None:
        raise UsageError(
            "E-FORMAT", "this model takes rows of features, and Label Studio shows pictures; give another --format"
        )

    def make(stream: IO[bytes], generation: int) -> Maker:
        from zsl_runtime import __version__
        from zsl_runtime.labelling.made import Origin

        origin = Origin(bundle.path.resolve().name, bundle.manifest_sha256, generation, __version__)
        return maker(stream, format_, origin, prefix=prefix, root=root)

    return Written(encode, make=make)


def maker(stream: IO[bytes], format_: str, origin: Origin, *, prefix: str | None, root: str | None) -> Maker:
    """What makes a file of JSON lines."""
    if format_ == "parquet":
        from zsl_runtime.labelling.parquet import ParquetMaker

        return ParquetMaker(stream, origin)
    from zsl_runtime.labelling.label_studio import LabelStudioMaker

    return LabelStudioMaker(
        stream,
        origin,
        prefix=LOCAL_FILES if prefix is None else prefix,
        root=os.sep if root is None else root,
        tell=lambda line: click.echo(one_line(line), err=True),
    )
