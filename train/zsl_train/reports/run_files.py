"""What a report reads of a run folder, finished or not, of this version or an older one."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import tomllib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from zsl_runtime.errors import ArtefactError, from_os_error
from zsl_runtime.machine.storage import parse_tensors
from zsl_runtime.machine.untrusted import GIB, MIB, UnfitError, parse_names, parse_object, read_file
from zsl_train.training.material import MATERIAL, MOST_OF_MATERIAL, Material
from zsl_train.training.run_info import DAMAGED, LOG, RECIPE, SCORES, SPLIT, read_info

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from zsl_runtime.arrays import Bools

GENERATION = "generation.safetensors"
SHEET = "reconstructions.png"
MOST_OF_SHEET = 16 * MIB
MOST_OF_LOG, MOST_LINES = 256 * MIB, 500_000


@dataclass(frozen=True)
class RunFiles:
    """A run, as far as its folder tells.

    Attributes:
        folder: of the run.
        info: content of run.json.
        recipe: content of recipe.toml.
        scores: content of scores.json; None while the run is unfinished.
        names: its classes; none while it is unfinished.
        seen: (C,) which of them are seen.
        attributes: their names.
        pictures: names of the lines of split.csv.
        split: hash of split.csv, which says whose pictures are the same; '' where there is none.
        log: lines of log.jsonl that can be read, in their order.
        material: what was kept for the report; None for an older or an unfinished run.
        sheet: the PNG file of rebuilt pictures, if there is one.

    """

    folder: Path
    info: dict[str, Any]
    recipe: dict[str, Any]
    scores: dict[str, Any] | None
    names: tuple[str, ...]
    seen: Bools
    attributes: tuple[str, ...]
    pictures: tuple[str, ...]
    split: str = ""
    log: list[dict[str, Any]] = field(default_factory=list)
    material: Material | None = None
    sheet: bytes | None = None

    @property
    def title(self) -> str:
        """Method, preset, and the folder's name."""
        method, preset = self.recipe.get("method", "?"), self.recipe.get("preset", "?")
        return f"{method} ({preset}), {self.folder.name or self.folder}"


def read_run(folder: Path) -> RunFiles:
    """Everything that the folder holds for a report; files that a report can do without may be missing.

    Raises:
        ArtefactError: E-RUN when it is no run folder, or one of its files is not as it was written.
        SystemProblem: E-SYSTEM when it cannot be read.

    """
    info = read_info(folder)
    done = info.get("state") == "finished"
    listed = info.get("files") if done else {}
    if not isinstance(listed, dict):
        raise ArtefactError("E-RUN", f"{folder} lists no files in run.json; {DAMAGED}")
    recipe = _recipe(_read(folder, RECIPE, 16 * MIB, listed), folder)
    if not done:
        return RunFiles(folder, info, recipe, None, (), np.zeros(0, np.bool_), (), (), log=list(_log(folder)))
    scores = _object(_needed(_read(folder, SCORES, 16 * MIB, listed), folder, SCORES), folder / SCORES)
    names, seen, attributes = _classes(_needed(_read(folder, GENERATION, 4 * GIB, listed), folder, GENERATION), folder)
    split = _read(folder, SPLIT, GIB, {})  # its hash is not noted by all versions
    kept = _read(folder, MATERIAL, MOST_OF_MATERIAL, listed)
    return RunFiles(
        folder=folder,
        info=info,
        recipe=recipe,
        scores=scores,
        names=names,
        seen=seen,
        attributes=attributes,
        pictures=_pictures(split),
        split="" if split is None else hashlib.sha256(split).hexdigest(),
        log=list(_log(folder)),
        material=None
        if kept is None
        else Material.from_bytes(kept, classes=len(names), attributes=len(attributes), where=str(folder / MATERIAL)),
        sheet=_read(folder, SHEET, MOST_OF_SHEET, {}),
    )


def _read(folder: Path, name: str, most: int, listed: Mapping[str, Any]) -> bytes | None:
    """A file of the run, held to its hash where that is known; None when it is not there."""
    path = folder / name
    try:
        data = read_file(path, most, within=folder)
    except FileNotFoundError:
        return None
    except UnfitError as error:
        raise ArtefactError("E-RUN", f"{path} {error}; {DAMAGED}") from None
    except OSError as error:
        raise from_os_error(error, "read the run") from error
    if name in listed and hashlib.sha256(data).hexdigest() != listed[name]:
        raise ArtefactError("E-RUN", f"{path} has changed since zsl-train wrote it; train the run again")
    return data


def _needed(data: bytes | None, folder: Path, name: str) -> bytes:
    if data is None:
        raise ArtefactError("E-RUN", f"{folder / name} is missing; train the run again")
    return data


def _object(data: bytes, path: Path) -> dict[str, Any]:
    try:
        return parse_object(data)
    except UnfitError as error:
        raise ArtefactError("E-RUN", f"{path} {error}; {DAMAGED}") from None


def _recipe(data: bytes | None, folder: Path) -> dict[str, Any]:
    """Content of recipe.toml; of a run that was killed before it was written, nothing."""
    if data is None:
        return {}
    try:
        return tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:
        said = str(error).partition("\n")[0]
        raise ArtefactError("E-RUN", f"{folder / RECIPE} is no TOML ({said}); {DAMAGED}") from None


def _classes(data: bytes, folder: Path) -> tuple[tuple[str, ...], Bools, tuple[str, ...]]:
    """Names, which are seen, and the attributes, of generation.safetensors."""
    where = folder / GENERATION
    tensors, metadata = parse_tensors(data, code="E-RUN", where=str(where))
    try:
        names, attributes = parse_names(metadata["names"]), parse_names(metadata["attributes"])
        seen = tensors["seen"]
    except (UnfitError, KeyError) as error:
        raise ArtefactError("E-RUN", f"{where} names no classes ({error}); {DAMAGED}") from None
    if seen.shape != (len(names),) or seen.dtype != np.uint8:
        raise ArtefactError("E-RUN", f"{where} does not say which classes are seen; {DAMAGED}")
    return names, seen.astype(np.bool_), attributes


def _pictures(data: bytes | None) -> tuple[str, ...]:
    """First column of split.csv; nothing where it cannot be read."""
    if data is None:
        return ()
    try:
        rows = list(csv.reader(io.StringIO(data.decode(errors="replace"), newline="")))
    except csv.Error:
        return ()
    return tuple(row[0] if row else "" for row in rows[1:])


def _log(folder: Path) -> Iterator[dict[str, Any]]:
    """Lines of log.jsonl that are JSON objects: the last one of a run that was killed is none."""
    data = _read(folder, LOG, MOST_OF_LOG, {})
    for line in (data or b"").decode(errors="replace").splitlines()[:MOST_LINES]:
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            yield {key: one for key, one in value.items() if not isinstance(one, float) or math.isfinite(one)}
