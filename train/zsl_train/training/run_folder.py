"""The run folder: what zsl-train writes and zsl-export reads (docs/formats.md)."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import time
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import zsl_runtime
from zsl_runtime.bundle.generation import Generation
from zsl_runtime.errors import ArtefactError, SystemProblem, UsageError, from_os_error
from zsl_runtime.head.fitting import Replay
from zsl_runtime.head.gaussian import Gaussian
from zsl_runtime.head.head import View
from zsl_runtime.head.semantic_rule import SemanticRule
from zsl_runtime.machine.storage import (
    LOCK,
    TEMPORARY,
    exclusive,
    open_plain,
    parse_tensors,
    remove,
    tensor_bytes,
    unshare,
    write_whole,
)
from zsl_runtime.machine.untrusted import UnfitError, check_folder, parse_object, read_file
from zsl_train.methods.base import SHEET, SHEET_FIGURES
from zsl_train.training.material import MATERIAL
from zsl_train.training.run_info import (
    CHECKPOINT,
    DAMAGED,
    INFO,
    LOG,
    MOST_OF_LOG,
    MOST_OF_TENSORS,
    MOST_OF_TEXT,
    PAGE,
    RECIPE,
    REPORT,
    RUN_FORMAT,
    SCORES,
    SPLIT,
    UNFIT,
    info_bytes,
    json_bytes,
    read_info,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from zsl_train.backbones.base import Backbone
    from zsl_train.data.given import GivenFeatures
    from zsl_train.data.image_set import ImageSet
    from zsl_train.methods.base import Dims, Trained
    from zsl_train.recipe import Recipe
    from zsl_train.training.material import Material


@dataclass
class Run:
    """A finished training run, ready to export.

    Attributes:
        recipe: the resolved recipe as plain data.
        method: the method's name.
        trained: embedder, lift, and synthesizer, rows or means, in eval mode with their weights.
        backbone: uint8 pictures (N, P, P, 3) -> region features (N, R, V), with its weights; of a run trained on a
            feature file, what says which features those are.
        dims: sizes the method was built for.
        generation: class table and head as they are shipped (number 1).
        replay: real seen-class features for later head fits; empty where the head is not fitted.
        semantic_rule: attributes -> semantic vectors.
        scores: content of scores.json.
        pictures: what the model graph takes, the first `probe_count` for the probe, the rest for the parity gate:
            pictures (n, P, P, 3) uint8, or rows of the feature file (n, R, V) float32.
        picture_labels: (n,) int64 rows of the class table.
        probe_count: number of probe pictures.
        seed: the seed heads are fitted with, where they are fitted.
        info: content of run.json.
        folder: the run folder; None for a run that was not read from one.

    """

    recipe: dict[str, Any]
    method: str
    trained: Trained
    backbone: Backbone | GivenFeatures
    dims: Dims
    generation: Generation
    replay: Replay
    semantic_rule: SemanticRule
    scores: dict[str, Any]
    pictures: NDArray[np.uint8] | NDArray[np.float32]
    picture_labels: NDArray[np.int64]
    probe_count: int
    seed: int
    info: dict[str, Any]
    folder: Path | None = None


PACKAGES = ("torch", "numpy", "pillow", "safetensors", "scipy")
TENSORS = (
    "weights.safetensors",
    "backbone.safetensors",
    "generation.safetensors",
    "replay.safetensors",
    "pictures.safetensors",
)
SITTING = "trained_before"  # of the line of log.jsonl with which a sitting begins to train: seconds of the earlier ones
KEPT = (SHEET, SHEET_FIGURES)
READ = (*TENSORS, RECIPE, SCORES)  # what load_run reads besides run.json, where their hashes are
STATISTICS = "gaussian.safetensors"  # of a run that ships the Gaussian head: read as well


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """zsl-deploy, Python and the packages that a run, or what is made from it, depends on."""
    found = {"zsl-deploy": zsl_runtime.__version__, "python": platform.python_version()}
    return found | {name: importlib.metadata.version(name) for name in packages}


class RunWriter:
    """An open run folder. One process at a time writes to it.

    Args:
        folder: of the run; created by `exclusive`.
        force: throw away the run that is there, finished or not.

    Raises:
        UsageError: E-RUN-EXISTS when something else is there, or a finished run and no `force`.
        ArtefactError: E-RUN when the run that is there cannot be read and `force` is not given.

    """

    def __init__(self, folder: Path, *, force: bool) -> None:
        self.folder = folder
        self.force = force
        self._info: dict[str, Any] = {}
        self._hashes: dict[str, str] = {}
        self._began = time.monotonic()  # the time of day may be set while this runs
        self._check_existing()

    def _check_existing(self) -> None:
        if not self.folder.exists():
            return
        if not self.folder.is_dir():
            raise UsageError("E-RUN-EXISTS", f"{self.folder} is a file; give --out a folder that does not exist yet")
        if not (self.folder / INFO).is_file():
            # What a killed writer left before the first run.json is no reason to refuse.
            if any(not entry.name.startswith((LOCK, TEMPORARY)) for entry in self.folder.iterdir()):
                raise UsageError(
                    "E-RUN-EXISTS",
                    f"{self.folder} is not empty and not a run folder; give --out an empty or a new folder",
                )
        elif not self.force and read_info(self.folder).get("state") == "finished":
            self._drop_checkpoints()
            raise UsageError(
                "E-RUN-EXISTS", f"{self.folder} holds a finished run; add --force to replace it, or give another --out"
            )

    def _drop_checkpoints(self) -> None:
        """Remove the checkpoints of a finished run, whose writer was killed before it came to that."""
        if (self.folder / CHECKPOINT).exists():
            with contextlib.suppress(OSError, SystemProblem), exclusive(self.folder, wait=False):
                shutil.rmtree(self.folder / CHECKPOINT, ignore_errors=True)

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Create the folder and lock it against a second zsl-train.

        Raises:
            UsageError: E-RUN-BUSY when another process holds it; E-RUN-EXISTS when another finished it meanwhile.
            SystemProblem: E-SYSTEM when the folder cannot be made or written to.

        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise from_os_error(error, "create the run folder") from error
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(exclusive(self.folder, wait=False))
            except BlockingIOError:
                raise UsageError(
                    "E-RUN-BUSY", f"another zsl-train is writing to {self.folder}; wait for it or give another --out"
                ) from None
            self._check_existing()
            yield

    def begin(self, recipe: Recipe, config: Any, fingerprint: str) -> None:
        """Start the run, or go on with an unfinished one of the same recipe and data. Call it within `exclusive`.

        Args:
            recipe: what the run depends on; written out with all settings of `config`.
            config: the method's settings.
            fingerprint: hash of everything the run depends on.

        Raises:
            UsageError: E-RUN-RECIPE when the unfinished run depends on other settings or data.
            SystemProblem: E-SYSTEM when the folder cannot be written to.

        """
        before: dict[str, Any] = {}
        if self.force:
            self._clear()
        elif (self.folder / INFO).is_file():
            before = read_info(self.folder)
            if before.get("fingerprint") != fingerprint:
                raise UsageError(
                    "E-RUN-RECIPE",
                    f"{self.folder} holds an unfinished run with other settings or data; repeat the command that began "
                    "it to resume, or add --force to start over",
                )
        self._check_places()
        for leftover in self.folder.glob(f"{TEMPORARY}*"):
            remove(leftover)
        self._info = {
            "format": RUN_FORMAT,
            "state": "unfinished",
            "fingerprint": fingerprint,
            "versions": versions(),
            **_earlier_builds(before),
            "config": dataclasses.asdict(config),
        }
        self._write(INFO, info_bytes(self._info))
        self._write(RECIPE, toml_bytes(recipe.resolved(config).to_dict()))

    def _check_places(self) -> None:
        """See to it that what is written in place, or below a folder of the run, goes nowhere else.

        Raises:
            ArtefactError: E-RUN when a folder or the log of the run is a link, or no such thing.
            SystemProblem: E-SYSTEM when the system refuses.

        """
        try:
            check_folder(self.folder / CHECKPOINT)
            unshare(self.folder / LOG)
        except UnfitError as error:
            raise ArtefactError(
                "E-RUN", f"the {CHECKPOINT} folder or the {LOG} of {self.folder} {error}; {DAMAGED}"
            ) from None
        except OSError as error:
            raise from_os_error(error, "write the run") from error

    def _clear(self) -> None:
        """Remove what a run consists of, and nothing else that may lie in its folder: checkpoints first.

        run.json stays until it is replaced: killed on the way, this leaves a run folder that says what it lacks.
        """
        try:
            remove(self.folder / CHECKPOINT)
            for name in (LOG, SPLIT, STATISTICS, REPORT, PAGE, MATERIAL, *KEPT, *READ):
                (self.folder / name).unlink(missing_ok=True)
        except OSError as error:
            raise from_os_error(error, "replace the run, remove") from error

    def log(self, line: dict[str, Any]) -> None:
        """Append one line to log.jsonl; `t` in it is seconds since this process began."""
        stamped = {"t": round(time.monotonic() - self._began, 2), **line}
        try:
            handle = open_plain(self.folder / LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            with open(handle, "a", encoding="utf-8") as file:
                file.write(json.dumps(stamped) + "\n")
        except OSError as error:
            raise from_os_error(error, "write the log") from error

    def begin_training(self) -> float:
        """Mark in log.jsonl that training begins, or goes on; returns how many seconds earlier sittings trained.

        Each counts up to the last line that it logged: what came after it was lost with the sitting.
        """
        before = trained_before(self.folder / LOG)
        self.log({SITTING: round(before, 2)})
        return before

    def keep(self, name: str, content: bytes) -> None:
        """Write a file of KEPT, which a method makes beside its weights."""
        assert name in KEPT, name
        self._write(name, content)

    def finish(self, files: dict[str, bytes], scores: dict[str, Any], info: dict[str, Any]) -> None:
        """Write everything; run.json says `finished` only after all the rest is on disk; then drop the checkpoints.

        Args:
            files: content by name.
            scores: content of scores.json.
            info: more of run.json.

        """
        for name, data in files.items():
            self._write(name, data)
        self._write(SCORES, json_bytes(scores))
        hashes = {name: digest for name, digest in self._hashes.items() if name != INFO}
        self._info |= {"state": "finished", "files": hashes, **info}
        self._write(INFO, info_bytes(self._info))
        shutil.rmtree(self.folder / CHECKPOINT, ignore_errors=True)

    def _write(self, name: str, data: bytes) -> None:
        try:
            write_whole(self.folder / name, data)
        except OSError as error:
            raise from_os_error(error, f"write {name} in {self.folder}") from error
        self._hashes[name] = hashlib.sha256(data).hexdigest()


def trained_before(log: Path) -> float:
    """Seconds that the sittings trained whose lines `log` holds; what cannot be read of it counts for nothing."""
    before, began, last = 0.0, None, 0.0
    try:
        lines = read_file(log, MOST_OF_LOG).decode(errors="replace").splitlines()
    except (OSError, UnfitError):
        return 0.0
    for line in lines:
        try:
            entry = parse_object(line.encode())
            at, marked = float(entry["t"]), entry.get(SITTING)
            if marked is not None:
                before, began = float(marked), at
            last = at
        except (ValueError, TypeError, KeyError, AttributeError):
            continue  # the line that a kill cut off
    return before if began is None else before + max(0.0, last - began)


def _earlier_builds(before: dict[str, Any]) -> dict[str, list[str]]:
    """Which builds of zsl-deploy had their part in a run before this one goes on with it, if others had."""
    earlier = [*before.get("earlier_builds", []), before.get("versions", {}).get("zsl-deploy")]
    others = [build for build in dict.fromkeys(earlier) if build not in {None, zsl_runtime.__version__}]
    return {"earlier_builds": others} if others else {}


def toml_bytes(data: dict[str, Any]) -> bytes:
    """TOML text."""
    import tomli_w

    return tomli_w.dumps(data).encode()


def save_run(
    writer: RunWriter,
    *,
    trained: Trained,
    backbone: Backbone | GivenFeatures,
    dims: Dims,
    generation: Generation,
    replay: Replay,
    rule: SemanticRule,
    recipe: Recipe,
    scores: dict[str, Any],
    pictures: NDArray[np.uint8] | NDArray[np.float32],
    picture_labels: NDArray[np.int64],
    images: ImageSet,
    material: Material | None = None,
) -> None:
    """Fill the run folder with all that export and report need, even if the photographs move away."""
    from zsl_train.data.folder import write_split

    def tensors(state: dict[str, Any]) -> bytes:
        return tensor_bytes({key: value.contiguous().numpy() for key, value in state.items()}, {})

    statistics = {} if trained.gaussian is None else {STATISTICS: trained.gaussian.to_bytes()}
    write_split(images, writer.folder / SPLIT)
    writer.finish(
        {
            **statistics,
            "weights.safetensors": tensors(trained.state_dict()),
            "backbone.safetensors": tensors(backbone.state_dict()),
            "generation.safetensors": generation.to_bytes(),
            "replay.safetensors": replay.to_bytes(),
            "pictures.safetensors": tensor_bytes({"pictures": pictures, "labels": picture_labels}, {}),
            **({} if material is None else {MATERIAL: material.to_bytes()}),
        },
        scores,
        {
            "method": recipe.method,
            "dims": dims.to_dict(),
            "views": [view.to_dict() for view in trained.views],  # a method may leave one out that proved useless
            "backbone": _backbone_facts(backbone),
            "pixels": None if backbone.pixels is None else backbone.pixels.to_dict(),
            "semantic_rule": rule.to_dict(),
            "probe_pictures": recipe.probe_pictures,
            "seed": recipe.seed,
            **({} if trained.means is None else {"gaussian": trained.means.shape.to_dict()}),
            # Where the photographs were, for what an export may want to read again; no part of the fingerprint.
            **({} if images.directory is None else {"data": str(images.directory)}),
        },
    )


def _backbone_facts(backbone: Backbone | GivenFeatures) -> dict[str, Any]:
    """What run.json must know to rebuild it."""
    if backbone.pixels is None:
        return backbone.facts()
    return {"name": backbone.name, "size": backbone.pixels.crop, "weights_sha256": backbone.weights_sha256}


def _rebuild_backbone(known: dict[str, Any], state: dict[str, Tensor]) -> Backbone | GivenFeatures:
    from zsl_train import backbones
    from zsl_train.data import given

    if known["name"] == given.NAME:
        return given.GivenFeatures(**{key: value for key, value in known.items() if key != "name"})
    return backbones.rebuild(known["name"], known["size"], state)


def load_run(path: Path) -> Run:
    """Read a finished run folder and rebuild its modules.

    Raises:
        ArtefactError: E-RUN when it is no run folder, unfinished, incomplete, changed, of a newer format, or made by a
            version of zsl-deploy with other methods or settings.

    """
    info = read_info(path)
    if info.get("state") != "finished":
        raise ArtefactError("E-RUN", f"{path} is an unfinished run; repeat its zsl-train command to resume it")
    if not isinstance(info.get("files"), dict):
        raise ArtefactError("E-RUN", f"{path / INFO} lists no files; {DAMAGED}")
    wanted = (*READ, STATISTICS) if "gaussian" in info else READ
    blobs = {name: _read_checked(path / name, info) for name in wanted}
    try:
        return _rebuild(path, info, blobs)
    except (UsageError, *UNFIT) as error:
        # Every byte is as it was written, so whoever wrote it knew other methods, settings or networks.
        reason = error.message if isinstance(error, UsageError) else f"{type(error).__name__}: {error}"
        raise ArtefactError(
            "E-RUN",
            f"{path} cannot be rebuilt: {reason}; zsl-deploy {_build_of(info)} trained it, this is "
            f"{zsl_runtime.__version__}: use that version, or train the run again",
        ) from error


def _build_of(info: dict[str, Any]) -> str:
    """Which zsl-deploy trained a run, as far as it says so."""
    versions = info.get("versions")
    return str(versions.get("zsl-deploy")) if isinstance(versions, dict) else "an unknown version"


def _rebuild(path: Path, info: dict[str, Any], blobs: dict[str, bytes]) -> Run:
    import torch

    from zsl_train.head.modules import shipped
    from zsl_train.means import Shape
    from zsl_train.methods import find_method
    from zsl_train.methods.base import Dims

    def tensors(name: str) -> dict[str, NDArray[Any]]:
        return parse_tensors(blobs[name], code="E-RUN", where=str(path / name))[0]

    def torch_state(name: str) -> dict[str, torch.Tensor]:
        return {key: torch.from_numpy(value.copy()) for key, value in tensors(name).items()}

    method = find_method(info["method"])
    dims = Dims(**info["dims"])
    retired = getattr(method, "RETIRED", ())
    settings = {name: value for name, value in info["config"].items() if name not in retired}
    trained = method.build(method.Config(**settings), dims)
    if "gaussian" in info:
        gaussian = Gaussian.from_bytes(blobs[STATISTICS], where=str(path / STATISTICS))
        trained = shipped(trained, Shape(**info["gaussian"]), dims.attributes, gaussian)
    trained.load_state_dict(torch_state("weights.safetensors"))
    if "views" in info:
        trained.views = tuple(View.from_dict(view) for view in info["views"])
        trained.lifted_width = max(view.stop for view in trained.views)  # columns of no view may be left out, too
        trained.czsl = None  # T1_czsl was scored while training, and is of those columns
    pictures = tensors("pictures.safetensors")
    return Run(
        recipe=tomllib.loads(blobs[RECIPE].decode()),
        method=info["method"],
        trained=trained.eval(),
        backbone=_rebuild_backbone(info["backbone"], torch_state("backbone.safetensors")),
        dims=dims,
        generation=Generation.from_bytes(
            blobs["generation.safetensors"], trained.views, where=str(path / "generation.safetensors")
        ),
        replay=Replay.from_bytes(blobs["replay.safetensors"], where=str(path / "replay.safetensors")),
        semantic_rule=SemanticRule.from_dict(info["semantic_rule"]),
        scores=parse_object(blobs[SCORES]),
        pictures=pictures["pictures"],
        picture_labels=pictures["labels"],
        probe_count=info["probe_pictures"],
        seed=info["seed"],
        info=info,
        folder=path,
    )


def _read_checked(file: Path, info: dict[str, Any]) -> bytes:
    """Content of a file of the run, as it was when run.json was written."""
    try:
        data = read_file(file, MOST_OF_TENSORS if file.suffix == ".safetensors" else MOST_OF_TEXT, within=file.parent)
    except UnfitError as error:
        raise ArtefactError("E-RUN", f"{file} {error}; {DAMAGED}") from None
    except FileNotFoundError:
        raise ArtefactError("E-RUN", f"{file} is missing; train the run again") from None
    except OSError as error:
        raise from_os_error(error, "read the run") from error
    if hashlib.sha256(data).hexdigest() != info["files"].get(file.name):
        raise ArtefactError("E-RUN", f"{file} has changed since zsl-train wrote it; train the run again")
    return data
