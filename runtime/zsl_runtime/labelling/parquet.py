"""`zsl-infer --format parquet`: a row for each picture, with real types (docs/formats.md). pyarrow comes with an extra.

The best class has columns of its own, for a filter or a join; all that were asked for are lists, best first.
"""

from __future__ import annotations

import os
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zsl_runtime.labelling.made import Origin

# Of a row group, whichever is reached first: what a reader unpacks at once, and what is held here until it is written.
GROUP_ROWS, GROUP_BYTES = 65_536, 64 << 20
COMPRESSION = "zstd"


class ParquetMaker:
    """Writes answers as Parquet.

    Args:
        stream: written to.
        origin: told in the file, as metadata whose keys begin with `zsl.`.

    Raises:
        ImportError: without pyarrow.

    """

    def __init__(self, stream: IO[bytes], origin: Origin) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._table = pa.Table
        names = {f"zsl.{name}": readable(str(value))[0] for name, value in origin._asdict().items()}
        self._schema = pa.schema(
            [
                pa.field("path", pa.string(), nullable=False),
                ("class", pa.string()),
                ("split", pa.string()),
                ("probability", pa.float64()),
                ("classes", pa.list_(pa.string())),
                ("splits", pa.list_(pa.string())),
                ("probabilities", pa.list_(pa.float64())),
                ("distance", pa.float64()),
                ("far", pa.bool_()),
                ("pass", pa.string()),
                ("error_code", pa.string()),
                ("error_message", pa.string()),
                ("path_bytes", pa.binary()),
            ],
            metadata=names,
        )
        self._writer = pq.ParquetWriter(stream, self._schema, compression=COMPRESSION)
        self._concat = pa.concat_tables
        self._waiting: list[Any] = []

    def add(self, answers: Sequence[dict[str, Any]]) -> None:
        """Take some answers, and write a row group when enough are there."""
        if not answers:
            return
        self._waiting.append(self._table.from_pylist([row_of(one) for one in answers], schema=self._schema))
        rows = sum(table.num_rows for table in self._waiting)
        if rows >= GROUP_ROWS or sum(table.nbytes for table in self._waiting) >= GROUP_BYTES:
            self._write()

    def finish(self) -> None:
        """Write the rest, and where the row groups lie."""
        self._write()
        self._writer.close()

    def _write(self) -> None:
        if self._waiting:
            table = self._concat(self._waiting)
            self._waiting = []
            self._writer.write_table(table, row_group_size=max(table.num_rows, 1))


def row_of(answer: dict[str, Any]) -> dict[str, Any]:
    """The row of one answer, as `encode_jsonl` writes that; columns without a value are left out."""
    path, raw = readable(answer["path"])
    predictions = answer.get("predictions", ())
    best = predictions[0] if predictions else {}
    error = answer.get("error", {})
    return {
        "path": path,
        "path_bytes": raw,
        "class": best.get("class"),
        "split": best.get("split"),
        "probability": best.get("probability"),
        "classes": [one["class"] for one in predictions],
        "splits": [one["split"] for one in predictions],
        "probabilities": [one["probability"] for one in predictions],
        "distance": answer.get("distance"),
        "far": answer.get("far"),
        "pass": answer.get("pass"),
        "error_code": error.get("code"),
        "error_message": error.get("message"),
    }


def readable(path: str) -> tuple[str, bytes | None]:
    r"""A path as text can hold it, with `\xe9` for a byte that is no UTF-8; and then its bytes, else None."""
    try:
        path.encode()
    except UnicodeEncodeError:
        raw = os.fsencode(path)
        return raw.decode("utf-8", "backslashreplace"), raw
    return path, None
