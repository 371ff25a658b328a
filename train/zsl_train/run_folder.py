"""The run folder: what zsl-train writes and zsl-export reads (ARCHITECTURE.md, Run folder)."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zsl_runtime
from zsl_runtime.bundle import Generation
from zsl_runtime.class_table import SemanticRule
from zsl_runtime.errors import ArtefactError, UsageError, from_os_error
from zsl_runtime.head import Replay
from zsl_runtime.storage import LOCK, exclusive, parse_tensors, sha256_of, tensor_bytes, write_whole

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    from zsl_train.backbones.base import Backbone
    from zsl_train.data.image_set import ImageSet
    from zsl_train.methods.base import Dims, Trained
    from zsl_train.recipe import Recipe

RUN_FORMAT = 1


@dataclass
class Run:
    """A finished training run, ready to export.

    Attributes:
        recipe: the resolved recipe as plain data.
        method: the method's name.
        trained: embedder, lift, synthesizer in eval mode with their weights.
        backbone: uint8 pictures (N, P, P, 3) -> region features (N, R, V), with its weights.
        dims: sizes the method was built for.
        generation: class table and head as they are shipped (number 1).
        replay: real seen-class features for later head fits.
        semantic_rule: attributes -> semantic vectors.
        scores: content of scores.json.
        pictures: (n, P, P, 3) uint8, the first `probe_count` for the probe, the rest for the parity gate.
        picture_labels: (n,) int64 rows of the class table.
        probe_count: number of probe pictures.
        seed: the seed heads are fitted with.
        info: content of run.json.

    """

    recipe: dict[str, Any]
    method: str
    trained: Trained
    backbone: Backbone
    dims: Dims
    generation: Generation
    replay: Replay
    semantic_rule: SemanticRule
    scores: dict[str, Any]
    pictures: NDArray[np.uint8]
    picture_labels: NDArray[np.int64]
    probe_count: int
    seed: int
    info: dict[str, Any]


def read_json(path: Path, what: str) -> dict[str, Any]:
    """Read a JSON object; ArtefactError E-RUN when it is missing or broken."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtefactError(
            "E-RUN", f"{path} is missing: {path.parent} is not a {what}; give the folder that zsl-train --out wrote"
        ) from None
    except ValueError:
        raise ArtefactError("E-RUN", f"{path} is not valid JSON; the run is damaged: train it again") from None
    if not isinstance(data, dict):
        raise ArtefactError("E-RUN", f"{path} holds {type(data).__name__}, expected an object; train it again")
    return data


PACKAGES = ("torch", "numpy", "pillow", "safetensors", "scipy", "scikit-learn")
FILES = ("weights.safetensors", "backbone.safetensors", "generation.safetensors", "replay.safetensors", "pictures.safetensors")


def versions() -> dict[str, str]:
    """Python and the packages a run depends on."""
    found = {"python": ".".join(map(str, sys.version_info[:3])), "zsl-deploy": zsl_runtime.__version__}
    return found | {name: importlib.metadata.version(name) for name in PACKAGES}


class RunWriter:
    """An open run folder. One process at a time writes to it.

    Args:
        folder: of the run; created by `begin`.
        force: throw away what is there, finished or not.

    """

    def __init__(self, folder: Path, *, force: bool) -> None:
        self.folder = folder
        self.force = force
        self.info: dict[str, Any] = {}
        self._began = time.time()
        if folder.exists() and not folder.is_dir():
            raise UsageError("E-RUN-EXISTS", f"{folder} is a file; give --out a folder that does not exist yet")
        if folder.exists() and any(entry.name != LOCK for entry in folder.iterdir()):
            self._check_existing()

    def _check_existing(self) -> None:
        if not (self.folder / "run.json").is_file():
            raise UsageError(
                "E-RUN-EXISTS", f"{self.folder} is not empty and not a run folder; give --out an empty or a new folder"
            )
        state = read_json(self.folder / "run.json", "run folder").get("state")
        if state == "finished" and not self.force:
            raise UsageError(
                "E-RUN-EXISTS", f"{self.folder} holds a finished run; add --force to replace it, or give another --out"
            )

    def begin(self, recipe: Recipe, config: Any, fingerprint: str) -> None:
        """Create the folder, or go on with an unfinished run of the same recipe and data.

        Raises:
            UsageError: E-RUN-RECIPE when the unfinished run depends on other settings or data.

        """
        existing = self.folder / "run.json"
        if self.force and existing.is_file():
            for entry in self.folder.iterdir():
                if entry.is_dir():
                    shutil.rmtree(entry)
                elif entry.name != LOCK:
                    entry.unlink()
        elif existing.is_file():
            known = read_json(existing, "run folder").get("fingerprint")
            if known != fingerprint:
                raise UsageError(
                    "E-RUN-RECIPE",
                    f"{self.folder} holds an unfinished run with other settings or data; repeat the command that began "
                    "it to resume, or add --force to start over",
                )
        self.info = {
            "format": RUN_FORMAT,
            "state": "unfinished",
            "fingerprint": fingerprint,
            "versions": versions(),
            "config": dataclasses.asdict(config),
        }
        self._write("run.json", json_bytes(self.info))
        self._write("recipe.toml", toml_bytes(recipe.to_dict()))

    def log(self, line: dict[str, Any]) -> None:
        """Append one line to log.jsonl."""
        stamped = {"t": round(time.time() - self._began, 2), **line}
        try:
            with (self.folder / "log.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(stamped) + "\n")
        except OSError as error:
            raise from_os_error(error, "write the log") from error

    def finish(self, files: dict[str, bytes], scores: dict[str, Any], info: dict[str, Any]) -> None:
        """Write everything; run.json says `finished` only after all the rest is on disk; then drop the checkpoints."""
        for name, data in files.items():
            self._write(name, data)
        self._write("scores.json", json_bytes(scores))
        hashes = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
        self.info |= {"state": "finished", "files": hashes, **info}
        self._write("run.json", json_bytes(self.info))
        shutil.rmtree(self.folder / "checkpoint", ignore_errors=True)

    def _write(self, name: str, data: bytes) -> None:
        try:
            write_whole(self.folder / name, data)
        except OSError as error:
            raise from_os_error(error, f"write {name} in {self.folder}") from error

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Create the folder and lock it against a second zsl-train; UsageError E-RUN-BUSY when there is one."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise from_os_error(error, "create the run folder") from error
        try:
            lock = exclusive(self.folder, wait=False)
            lock.__enter__()
        except BlockingIOError:
            raise UsageError(
                "E-RUN-BUSY", f"another zsl-train is writing to {self.folder}; wait for it or give another --out"
            ) from None
        try:
            yield
        finally:
            lock.__exit__(None, None, None)


def json_bytes(data: dict[str, Any]) -> bytes:
    """Readable JSON."""
    return (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode()


def toml_bytes(data: dict[str, Any]) -> bytes:
    """TOML text."""
    import tomli_w

    return tomli_w.dumps(data).encode()


def save_run(
    writer: RunWriter,
    *,
    trained: Trained,
    backbone: Backbone,
    dims: Dims,
    generation: Generation,
    replay: Replay,
    rule: SemanticRule,
    recipe: Recipe,
    scores: dict[str, Any],
    pictures: NDArray[np.uint8],
    picture_labels: NDArray[np.int64],
    images: ImageSet,
) -> None:
    """Fill the run folder with all that export needs, even if the photographs move away."""
    from zsl_train.data.folder import write_split

    def tensors(state: dict[str, Any]) -> bytes:
        return tensor_bytes({key: value.contiguous().numpy() for key, value in state.items()}, {})

    write_split(images, writer.folder / "split.csv")
    writer.finish(
        {
            "weights.safetensors": tensors(trained.state_dict()),
            "backbone.safetensors": tensors(backbone.state_dict()),
            "generation.safetensors": generation.to_bytes(),
            "replay.safetensors": replay.to_bytes(),
            "pictures.safetensors": tensor_bytes({"pictures": pictures, "labels": picture_labels}, {}),
        },
        scores,
        {
            "method": recipe.method,
            "dims": dims.to_dict(),
            "backbone": {"name": backbone.name, "size": backbone.pixels.crop, "weights_sha256": backbone.weights_sha256},
            "pixels": backbone.pixels.to_dict(),
            "semantic_rule": rule.to_dict(),
            "probe_pictures": recipe.probe_pictures,
            "seed": recipe.seed,
        },
    )


def load_run(path: Path) -> Run:
    """Read a finished run folder and rebuild its modules.

    Raises:
        ArtefactError: E-RUN when it is no run folder, unfinished, incomplete, changed or of a newer format.

    """
    import torch

    from zsl_train import backbones
    from zsl_train.methods import find_method
    from zsl_train.methods.base import Dims

    info = read_json(path / "run.json", "run folder")
    _check_info(path, info)
    recipe = _read_toml(path / "recipe.toml")
    blobs = {name: (path / name).read_bytes() for name in FILES}
    method = find_method(str(info["method"]))
    dims = Dims(**info["dims"])
    trained = method.build(method.Config(**info["config"]), dims)

    def torch_state(name: str) -> dict[str, torch.Tensor]:
        arrays, _ = parse_tensors(blobs[name], code="E-RUN", where=str(path / name))
        return {key: torch.from_numpy(value.copy()) for key, value in arrays.items()}

    trained.load_state_dict(torch_state("weights.safetensors"))
    pictures, _ = parse_tensors(blobs["pictures.safetensors"], code="E-RUN", where=str(path / "pictures.safetensors"))
    known = info["backbone"]
    return Run(
        recipe=recipe,
        method=info["method"],
        trained=trained.eval(),
        backbone=backbones.rebuild(known["name"], known["size"], torch_state("backbone.safetensors")),
        dims=dims,
        generation=Generation.from_bytes(
            blobs["generation.safetensors"], trained.views, where=str(path / "generation.safetensors")
        ),
        replay=Replay.from_bytes(blobs["replay.safetensors"], where=str(path / "replay.safetensors")),
        semantic_rule=SemanticRule(**info["semantic_rule"]),
        scores=read_json(path / "scores.json", "run folder"),
        pictures=pictures["pictures"],
        picture_labels=pictures["labels"],
        probe_count=int(info["probe_pictures"]),
        seed=int(info["seed"]),
        info=info,
    )


def _check_info(path: Path, info: dict[str, Any]) -> None:
    if int(info.get("format", 0)) > RUN_FORMAT:
        raise ArtefactError(
            "E-RUN", f"{path} has run format {info['format']}, this version reads up to {RUN_FORMAT}; update zsl-deploy"
        )
    if info.get("state") != "finished":
        raise ArtefactError("E-RUN", f"{path} is an unfinished run; repeat its zsl-train command to resume it")
    for name in FILES:
        file = path / name
        if not file.is_file():
            raise ArtefactError("E-RUN", f"{file} is missing; train the run again")
        if sha256_of(file) != info.get("files", {}).get(name):
            raise ArtefactError("E-RUN", f"{file} has changed since zsl-train wrote it; train the run again")


def _read_toml(path: Path) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtefactError("E-RUN", f"{path} cannot be read ({error}); train the run again") from error
