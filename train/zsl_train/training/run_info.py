"""run.json and the other files of a run folder, by name; what reads them needs no torch."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from zsl_runtime.errors import ArtefactError, from_os_error
from zsl_runtime.machine.untrusted import GIB, MIB, UnfitError, parse_json, read_file

if TYPE_CHECKING:
    from pathlib import Path

RUN_FORMAT = 1
MOST_OF_TEXT, MOST_OF_TENSORS, MOST_OF_LOG = 16 * MIB, 4 * GIB, GIB  # bytes
DAMAGED = "the run is damaged: train it again with --force"
# What networks and dataclasses raise that are built of other numbers and texts than they know.
UNFIT = (LookupError, TypeError, ValueError, RuntimeError, AttributeError, ArithmeticError, AssertionError)
INFO, RECIPE, SCORES, LOG, SPLIT, CHECKPOINT = (
    "run.json",
    "recipe.toml",
    "scores.json",
    "log.jsonl",
    "split.csv",
    "checkpoint",
)
REPORT = "report.txt"  # what the command said at its end, for people; nothing reads it
PAGE = "report.html"  # the same in pictures, likewise


def read_info(folder: Path) -> dict[str, Any]:
    """Content of run.json; that of a finished run is checked against the hash in it.

    Raises:
        ArtefactError: E-RUN when it is missing, broken, changed or of a newer format.
        SystemProblem: E-SYSTEM when it cannot be read.

    """
    path = folder / INFO
    try:
        info = parse_json(read_file(path, MOST_OF_TEXT, within=folder))
    except (FileNotFoundError, NotADirectoryError):
        raise ArtefactError(
            "E-RUN", f"{path} is missing: {folder} is not a run folder; give the folder that zsl-train --out wrote"
        ) from None
    except OSError as error:
        raise from_os_error(error, "read the run") from error
    except UnfitError as error:
        raise ArtefactError("E-RUN", f"{path} {error}; {DAMAGED}") from None
    if not isinstance(info, dict):
        raise ArtefactError("E-RUN", f"{path} holds {type(info).__name__}, expected an object; {DAMAGED}")
    known = info.get("format")
    if type(known) is int and known > RUN_FORMAT:
        raise ArtefactError(
            "E-RUN", f"{folder} has run format {known}, this version reads up to {RUN_FORMAT}; update zsl-deploy"
        )
    written = info.pop("sha256", None)
    if info.get("state") == "finished" and written != _info_hash(info):
        raise ArtefactError("E-RUN", f"{path} has changed since zsl-train wrote it; {DAMAGED}")
    return info


def info_bytes(info: dict[str, Any]) -> bytes:
    """The run.json of this content, with its hash in it."""
    return json_bytes({**info, "sha256": _info_hash(info)})


def _info_hash(info: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(info, sort_keys=True).encode()).hexdigest()


def json_bytes(data: dict[str, Any]) -> bytes:
    """Readable JSON."""
    return (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode()
