"""The folder that ships: manifest, graphs, and generations of (classes + head) with one commit point.

Nothing is loaded before its hash was compared. A reader never locks; a writer holds an exclusive flock on `.lock`,
writes everything under temporary names, and replaces `classes/CURRENT` last. Hashes prove integrity, not trust.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import json
import os
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from zsl_runtime.class_table import ClassTable, SemanticRule
from zsl_runtime.errors import ArtefactError, SystemProblem, UsageError, from_os_error
from zsl_runtime.gaussian import ClassMeans, Gaussian
from zsl_runtime.head import Head, Replay, View
from zsl_runtime.manifest import (
    CLASSES,
    CURRENT,
    GAUSSIAN,
    HISTORY,
    MANIFEST,
    PROBE,
    REPLAY,
    check_manifest,
    check_names,
    check_version,
    format_for,
    require,
)
from zsl_runtime.storage import (
    TEMPORARY,
    exchange,
    exclusive,
    parse_tensors,
    sha256_of,
    stage,
    sync_folder,
    temporary_name,
    tensor_bytes,
    write_synced,
)
from zsl_runtime.threads import usable_cpus

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

_OLD = "old-"  # marks a bundle that was moved aside, where two names cannot be swapped in one step
OLD_CACHE = "cache"  # where zsl-deploy kept rows of classes to fit others on, while it fitted them alone
READ_ATTEMPTS = 5  # a reader meets a writer that commits and prunes between two of its own reads at most now and then


@dataclass(frozen=True)
class Generation:
    """One immutable state of a bundle's classes and head.

    Attributes:
        number: 1 at export, then counting up.
        parent: the number of the generation that `undo` goes back to; 0 when there is none.
        table: C classes.
        head: of the same C classes.
        seed: with which the head was fitted; only recorded where nothing is fitted.
        action: what made it: export, add, teach, remove, undo or refit.
        parent_sha256: of the parent's file, so that going back is checked as well; empty when there is no parent.
        means: of the rule `gaussian`, what is known of each class; None by the other rules.

    """

    number: int
    parent: int
    table: ClassTable
    head: Head
    seed: int
    action: str
    parent_sha256: str = ""
    means: ClassMeans | None = None

    def __post_init__(self) -> None:
        sizes = {len(self.table), len(self.head), *(() if self.means is None else (len(self.means),))}
        if len(self.table) == 0 or len(sizes) > 1 or not 0 <= self.parent < self.number:
            raise UsageError(
                "E-GENERATION",
                f"generation {self.number} with parent {self.parent}, {len(self.table)} classes, a head of "
                f"{len(self.head)}{'' if self.means is None else f' and {len(self.means)} means'}; expected at least "
                "one class, a head (and means) of the same size and 0 <= parent < number",
            )

    def to_bytes(self) -> bytes:
        """The safetensors file (ARCHITECTURE.md, Bundle)."""
        tensors: dict[str, NDArray[Any]] = {"seen": self.table.seen.astype(np.uint8), "raw": self.table.raw}
        for k, (weight, bias) in enumerate(zip(self.head.weights, self.head.biases, strict=True)):
            tensors[f"head.{k}.weight"] = weight
            tensors[f"head.{k}.bias"] = bias
        if self.means is not None:
            tensors |= {f"means.{one.name}": getattr(self.means, one.name) for one in fields(ClassMeans)}
        metadata = {
            "number": str(self.number),
            "parent": str(self.parent),
            "parent_sha256": self.parent_sha256,
            "names": json.dumps(self.table.names, ensure_ascii=False),
            "attributes": json.dumps(self.table.attributes, ensure_ascii=False),
            "gamma": repr(float(self.head.gamma)),
            "temperature": repr(float(self.head.temperature)),
            "seed": str(self.seed),
            "action": self.action,
        }
        return tensor_bytes(tensors, metadata)

    @classmethod
    def from_bytes(cls, data: bytes, views: Sequence[View], *, where: str) -> Generation:
        """Read what `to_bytes` wrote.

        Args:
            data: the whole file.
            views: the K views of the head; they are in the manifest (or the run), not in the file.
            where: file name for messages.

        Raises:
            ArtefactError: E-BUNDLE-GENERATION for anything `to_bytes` cannot have written with these views.

        """
        code = "E-BUNDLE-GENERATION"
        tensors, metadata = parse_tensors(data, code=code, where=where)
        try:
            names, attributes = _names(metadata["names"]), _names(metadata["attributes"])
            known = any(name.startswith("means.") for name in tensors)
            _check_tensors(tensors, _generation_layout(len(names), len(attributes), views, means=known))
            table = ClassTable(names, tensors["seen"].astype(np.bool_), tensors["raw"], attributes)
            head = Head(
                tuple(views),
                tuple(tensors[f"head.{k}.weight"] for k in range(len(views))),
                tuple(tensors[f"head.{k}.bias"] for k in range(len(views))),
                float(metadata["gamma"]),
                float(metadata["temperature"]),
            )
            return cls(
                number=int(metadata["number"]),
                parent=int(metadata["parent"]),
                table=table,
                head=head,
                seed=int(metadata["seed"]),
                action=metadata["action"],
                parent_sha256=metadata["parent_sha256"],
                means=ClassMeans(*(tensors[f"means.{one.name}"] for one in fields(ClassMeans))) if known else None,
            )
        except (KeyError, ValueError, UsageError) as error:
            reason = f"no {error} in its metadata" if isinstance(error, KeyError) else getattr(error, "message", error)
            raise ArtefactError(code, f"{where} is not a generation of this model: {reason}; export it again") from None

    @classmethod
    def read(cls, path: Path, views: Sequence[View]) -> Generation:
        """`from_bytes` of a file whose hash is not known (a run folder's generation.safetensors)."""
        return cls.from_bytes(_read_bytes(path), views, where=str(path))


class Probe(NamedTuple):
    """A few inputs with what the exported model made of them under Generation 1.

    Attributes:
        pixels: (n, P, P, 3) uint8, or None (no pictures kept, or a model of feature vectors).
        inputs: (n, R, V) float32 of a model of feature vectors, or None.
        features: (n, F) float32.
        scores: (n, C) float32.
        top1: (n,) int64.

    """

    pixels: NDArray[np.uint8] | None
    inputs: NDArray[np.float32] | None
    features: NDArray[np.float32]
    scores: NDArray[np.float32]
    top1: NDArray[np.int64]

    def to_bytes(self) -> bytes:
        """The safetensors file."""
        return tensor_bytes({name: value for name, value in self._asdict().items() if value is not None}, {})

    @classmethod
    def from_bytes(cls, data: bytes, *, where: str) -> Probe:
        """Read what `to_bytes` wrote; ArtefactError E-BUNDLE-PROBE for anything else."""
        code = "E-BUNDLE-PROBE"
        tensors, _ = parse_tensors(data, code=code, where=where)
        layout: dict[str, tuple[Any, tuple[int | None, ...]]] = {
            "features": (np.float32, (None, None)),
            "scores": (np.float32, (None, None)),
            "top1": (np.int64, (None,)),
        }
        if "pixels" in tensors:
            layout["pixels"] = (np.uint8, (None, None, None, 3))
        if "inputs" in tensors:
            layout["inputs"] = (np.float32, (None, None, None))
        try:
            _check_tensors(tensors, layout)
        except ValueError as error:
            raise ArtefactError(code, f"{where}: {error}; export it again") from None
        if len({len(array) for array in tensors.values()}) != 1:
            raise ArtefactError(code, f"the tensors of {where} have different numbers of rows; export it again")
        return cls(tensors.get("pixels"), tensors.get("inputs"), *(tensors[k] for k in ("features", "scores", "top1")))


class _Pointer(NamedTuple):
    """What classes/CURRENT says."""

    generation: int
    sha256: str
    manifest_sha256: str

    def to_bytes(self) -> bytes:
        return (json.dumps(self._asdict()) + "\n").encode()


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: its manifest, checked, and the way to everything else in it.

    Attributes:
        path: the folder.
        manifest: content of manifest.json (ARCHITECTURE.md, Bundle).
        manifest_sha256: of the manifest's bytes; CURRENT holds it too.
        views: the head's views.
        rule: raw attributes -> semantic vectors.

    """

    path: Path
    manifest: dict[str, Any]
    manifest_sha256: str
    views: tuple[View, ...]
    rule: SemanticRule

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, verify: bool | Iterable[str] = True) -> Bundle:
        """Open a bundle and check it.

        Args:
            path: the bundle's folder or a file inside it.
            verify: compare the size and sha256 of every file the manifest lists, or only of the graphs named here.
                Manifest, CURRENT and the generation in force are checked in any case.

        Raises:
            UsageError: E-BUNDLE-PATH when nothing is there.
            ArtefactError: E-BUNDLE-... (exit 5) when it is not a bundle, is of a newer version, or differs from what
                was exported by a single byte.
            SystemProblem: a file cannot be read.

        """
        folder = _find_folder(Path(path))
        data = _read_bytes(folder / MANIFEST)
        manifest = _parse_object(data, str(folder / MANIFEST), "E-BUNDLE-MANIFEST")
        check_version(manifest, folder)
        digest = hashlib.sha256(data).hexdigest()
        if _read_pointer(folder).manifest_sha256 != digest:
            raise ArtefactError(
                "E-BUNDLE-HASH", f"{folder / MANIFEST} was changed after the export (sha256 differs); export it again"
            )
        views, rule = check_manifest(manifest, folder)
        bundle = cls(folder, manifest, digest, views, rule)
        if verify is True:
            bundle.verify()
        for name in map(manifest["graphs"].get, () if isinstance(verify, bool) else verify):
            if name is not None:
                bundle.verify_file(name)
        bundle.current()
        return bundle

    @property
    def attributes(self) -> tuple[str, ...]:
        """The A attribute names."""
        return tuple(self.manifest["attributes"])

    @property
    def head_rule(self) -> str:
        """How heads are made: `gaussian`, `fit` or `rows` (`zsl_runtime.head`)."""
        return str(self.manifest["head"]["rule"])

    @property
    def seed(self) -> int:
        """The seed that Generation 1 was fitted with, and the default of later fits."""
        return int(self.manifest["head"]["seed"])

    def file(self, name: str) -> Path:
        """Path of a file that the manifest lists; ArtefactError E-BUNDLE-MISSING when it does not list it."""
        if name not in self.manifest["files"]:
            raise ArtefactError("E-BUNDLE-MISSING", f"{self.path} holds no {name}; export the model again")
        return self.path / name

    def graph(self, part: str) -> Path | None:
        """Path of graph `part` (model, means, synthesizer, rows, lift), None when the model has none.

        The model graph is that of `graphs.model`, in fp32 where the bundle holds it; `model_graph` has the others.
        """
        name = self.manifest["graphs"].get(part)
        return None if name is None else self.file(name)

    @property
    def precisions(self) -> dict[str, str]:
        """Files of the model graph by what they are in: fp32, fp16, int8-cpu, int8-trt; those that the bundle holds."""
        held = self.manifest.get("precisions") or {"fp32": self.manifest["graphs"]["model"]}
        return {str(kind): str(name) for kind, name in held.items()}

    @property
    def default_precision(self) -> str:
        """The precision that runs where none is asked for: fp32, fp16 or int8."""
        return str(self.manifest.get("default_precision", "fp32"))

    def model_graph(self, kind: str) -> Path | None:
        """Path of the model graph in `kind`, a key of `precisions`; None when the bundle has none."""
        name = self.precisions.get(kind)
        return None if name is None else self.file(name)

    def verify(self, threads: int | None = None) -> None:
        """Compare every listed file with the manifest, several at a time; errors as of `verify_file`.

        Args:
            threads: that may read and hash; None for all CPUs this process may use.

        """
        with self.verifying(threads):
            pass

    @contextlib.contextmanager
    def verifying(self, threads: int | None = None) -> Iterator[None]:
        """Compare every listed file with the manifest while the block runs, and wait for the result at its end.

        Hashing leaves Python's lock to others, so the block may prepare what does not need the files. Arguments and
        errors are those of `verify`; of several damaged files the first of the manifest is told.
        """
        names = list(self.manifest["files"])
        largest_first = sorted(names, key=lambda name: -self.manifest["files"][name]["bytes"])
        pool = ThreadPoolExecutor(max(1, min(threads or usable_cpus(), len(names))), thread_name_prefix="zsl-hash")
        try:
            checks = {name: pool.submit(self.verify_file, name) for name in largest_first}
            yield
            for name in names:
                checks[name].result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def verify_file(self, name: str) -> None:
        """Compare one listed file with the manifest.

        Raises:
            ArtefactError: E-BUNDLE-MISSING, E-BUNDLE-PATH (it leads out of the bundle) or E-BUNDLE-HASH.
            SystemProblem: it cannot be read.

        """
        path, expected = self.file(name), self.manifest["files"][name]
        if not path.is_file():
            raise ArtefactError("E-BUNDLE-MISSING", f"{path} is missing; copy the whole bundle again")
        if not path.resolve().is_relative_to(self.path.resolve()):
            raise ArtefactError("E-BUNDLE-PATH", f"{path} is a link out of the bundle; copy the files, not links")
        try:
            size = path.stat().st_size
            digest = sha256_of(path) if size == expected["bytes"] else f"{size} bytes"
        except OSError as error:
            raise from_os_error(error, "read the bundle") from error
        if digest != expected["sha256"]:
            raise ArtefactError(
                "E-BUNDLE-HASH",
                f"{path} is not the exported file ({digest[:12]}, expected {expected['sha256'][:12]} and "
                f"{expected['bytes']} bytes); copy or export the bundle again",
            )

    def pointer(self) -> tuple[int, str]:
        """Number and sha256 of the generation in force, as CURRENT says now.

        Raises:
            ArtefactError: E-BUNDLE-CURRENT, E-BUNDLE-MISSING, or E-BUNDLE-CHANGED when another bundle was put in this
                place since it was opened.

        """
        pointer = _read_pointer(self.path)
        if pointer.manifest_sha256 != self.manifest_sha256:
            raise ArtefactError(
                "E-BUNDLE-CHANGED", f"{self.path} was replaced by another export while it was open; open it again"
            )
        return pointer.generation, pointer.sha256

    def current(self) -> Generation:
        """Read the generation in force; safe while a writer replaces it.

        Raises:
            ArtefactError: as `pointer`, or E-BUNDLE-GENERATION, E-BUNDLE-HASH, E-BUNDLE-MISSING for its file.

        """
        number, digest = self.pointer()
        for _ in range(READ_ATTEMPTS):
            try:
                return self.generation(number, digest)
            except ArtefactError:
                # A writer may have committed and pruned since CURRENT was read; only then is it worth a second look.
                before = number, digest
                number, digest = self.pointer()
                if (number, digest) == before:
                    raise
        raise ArtefactError("E-BUNDLE-CURRENT", f"{self.path} changed {READ_ATTEMPTS} times while it was read; retry")

    def generation(self, number: int, sha256: str) -> Generation:
        """Read one generation and compare its hash.

        Raises:
            ArtefactError: E-BUNDLE-MISSING, E-BUNDLE-HASH or E-BUNDLE-GENERATION.

        """
        path = self.generation_path(number)
        data = _read_bytes(path)
        if hashlib.sha256(data).hexdigest() != sha256:
            raise ArtefactError("E-BUNDLE-HASH", f"{path} was changed after it was written; copy the bundle again")
        generation = Generation.from_bytes(data, self.views, where=str(path))
        means = generation.means is not None
        own = generation.table.attributes == self.attributes and means == (self.head_rule == "gaussian")
        if generation.number != number or not own:
            raise ArtefactError(
                "E-BUNDLE-GENERATION", f"{path} holds generation {generation.number} of another model; copy it again"
            )
        return generation

    def generation_path(self, number: int) -> Path:
        """Where generation `number` lies or would lie."""
        return self.path / CLASSES / f"{number:06d}.safetensors"

    def generation_numbers(self) -> tuple[int, ...]:
        """Numbers of the generation files that are there, ascending; those of killed writers too."""
        found = (re.fullmatch(r"(\d{6,})\.safetensors", path.name) for path in (self.path / CLASSES).iterdir())
        return tuple(sorted(int(match[1]) for match in found if match))

    def replay(self) -> Replay:
        """The real features that heads are fitted on; ArtefactError E-BUNDLE-HASH, -REPLAY or -MISSING."""
        path = self.file(REPLAY)
        replay = Replay.from_bytes(self._checked(REPLAY), where=str(path))
        if replay.features.shape[1] != self.manifest["dims"]["F"]:
            raise ArtefactError("E-BUNDLE-REPLAY", f"{path} holds features of another width; export the model again")
        return replay

    def gaussian(self) -> Gaussian:
        """What turns means into rows, by the rule `gaussian`; ArtefactError E-BUNDLE-HASH, -GAUSSIAN or -MISSING."""
        path = self.file(GAUSSIAN)
        gaussian = Gaussian.from_bytes(self._checked(GAUSSIAN), where=str(path))
        if len(gaussian.scale) != self.manifest["dims"]["D"]:
            raise ArtefactError("E-BUNDLE-GAUSSIAN", f"{path} holds numbers of another width; export the model again")
        return gaussian

    def probe(self) -> Probe:
        """The inputs with known answers; ArtefactError E-BUNDLE-PROBE, E-BUNDLE-MISSING."""
        path = self.file(PROBE)
        return Probe.from_bytes(_read_bytes(path), where=str(path))

    def _checked(self, name: str) -> bytes:
        """Content of a file that the manifest lists; ArtefactError E-BUNDLE-HASH when it is not the exported one."""
        path = self.file(name)
        data = _read_bytes(path)
        if hashlib.sha256(data).hexdigest() != self.manifest["files"][name]["sha256"]:
            raise ArtefactError("E-BUNDLE-HASH", f"{path} is not the exported file; copy or export the bundle again")
        return data

    def history(self) -> tuple[list[dict[str, Any]], list[int]]:
        """What was done to the classes: the lines of history.jsonl, and the numbers of lines that cannot be read."""
        try:
            lines = (self.path / HISTORY).read_bytes().splitlines()
        except FileNotFoundError:
            return [], []
        entries, broken = [], []
        for number, line in enumerate(lines, start=1):
            try:
                entries.append(_parse_object(line, HISTORY, "E-BUNDLE-HISTORY"))
            except ArtefactError:
                broken.append(number)
        return entries, broken

    def leftovers(self) -> list[Path]:
        """Temporary files and generation files beyond CURRENT: of a writer at work, or of a killed one.

        And the rows of classes that an older zsl-deploy kept beside the bundle's own files.
        """
        number, _ = self.pointer()
        found = [path for folder in (self.path, self.path / CLASSES) for path in folder.glob(f"{TEMPORARY}*")]
        if (self.path / OLD_CACHE / "rows.json").is_file():
            found.append(self.path / OLD_CACHE)
        return sorted(found + [self.generation_path(n) for n in self.generation_numbers() if n > number])

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Be the only writer; waits for another one and says so on stderr once. What a killed writer left is removed.

        Raises:
            SystemProblem: the bundle is not writable, or its file system cannot lock.

        """
        with exclusive(self.path):
            for leftover in self.leftovers():
                _remove(leftover)
            yield

    def commit(self, generation: Generation, entry: Mapping[str, Any]) -> None:
        """Make `generation` the one in force. Call it with `lock` held.

        All that needs space is written under temporary names first; then the generation, CURRENT and the history are
        renamed into place. Whenever this is cut off, the bundle is the old or the new one.

        Args:
            generation: its number must be one more than that of the generation in force.
            entry: JSON data for history.jsonl; number, action, when (UTC) and sha256 are added.

        Raises:
            UsageError: E-GENERATION when the number does not follow.
            SystemProblem: the system said no (full disk, read-only); the bundle is unchanged and holds no litter.

        """
        number, _ = self.pointer()
        if generation.number != number + 1:
            raise UsageError(
                "E-GENERATION", f"generation {generation.number} cannot follow {number}; read the bundle again"
            )
        data = generation.to_bytes()
        digest = hashlib.sha256(data).hexdigest()
        pointer = _Pointer(generation.number, digest, self.manifest_sha256).to_bytes()
        target = self.generation_path(generation.number)
        made: list[Path] = []
        try:
            for folder, content in (
                (self.path / CLASSES, data),
                (self.path / CLASSES, pointer),
                (self.path, self._history_with(_entry(generation, digest, entry))),
            ):
                made.append(stage(folder, content))
            made[0].replace(target)
            sync_folder(self.path / CLASSES)
            made[1].replace(self.path / CLASSES / CURRENT)
            sync_folder(self.path / CLASSES)
            made[2].replace(self.path / HISTORY)
            sync_folder(self.path)
        except BaseException as error:
            # An interrupt may come between the rename of CURRENT and the next line, so look which one is in force.
            committed = _read_pointer(self.path).generation == generation.number
            for path in (*made, *(() if committed else (target,))):
                path.unlink(missing_ok=True)
            if isinstance(error, OSError):
                state = "made" if committed else "not made, the bundle is unchanged"
                raise from_os_error(error, f"finish the change ({state}): the system refused") from error
            raise

    def drop(self, numbers: Sequence[int]) -> None:
        """Delete generation files. Call it with `lock` held; never with the number in force."""
        for number in numbers:
            _remove(self.generation_path(number))
        sync_folder(self.path / CLASSES)

    def _history_with(self, line: bytes) -> bytes:
        """The history's bytes with one more line; a last line that was cut off is closed first."""
        try:
            before = (self.path / HISTORY).read_bytes()
        except FileNotFoundError:
            before = b""
        return before + (b"" if before.endswith(b"\n") or not before else b"\n") + line


def write_bundle(
    dest: str | os.PathLike[str],
    *,
    manifest: Mapping[str, Any],
    files: Mapping[str, Path | bytes],
    generation: Generation,
    loose: Mapping[str, bytes] | None = None,
    force: bool = False,
) -> Path:
    """Write a new bundle; `dest` is whole or, whatever happens, as it was.

    Args:
        dest: the folder to make. Its parents are made too.
        manifest: all of manifest.json but `format_version` and `files`, which are filled in.
        files: what the manifest will list: name in the bundle -> content, or a file to copy.
        generation: number 1.
        loose: name -> content of files that may be written anew later, so that the manifest does not list them.
        force: replace a bundle that is there; without it that is an error. The old one is removed after the new one
            stands in its place. A folder that is not a bundle is never replaced.

    Returns:
        The bundle's folder.

    Raises:
        UsageError: E-BUNDLE-EXISTS (needs force), E-BUNDLE-DEST (something else is there), E-GENERATION (number not 1).
        ArtefactError: E-BUNDLE-MANIFEST or E-BUNDLE-PATH when the manifest or a name could not be read back.
        SystemProblem: the system said no; nothing is left behind.

    """
    if generation.number != 1:
        raise UsageError("E-GENERATION", f"a new bundle begins with generation 1, not {generation.number}")
    target = Path(dest).resolve()
    loose = loose or {}
    check_names({**files, **loose}, target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _clean_siblings(target)
        check_dest(target, force=force)
        building = temporary_name(target)
        try:
            building.mkdir()
            with exclusive(building):
                _fill(building, manifest, files, generation)
                for name, content in loose.items():
                    write_synced(building / name, content)
                sync_folder(building)
                _put_in_place(building, target, force=force)
        except BaseException:
            shutil.rmtree(building, ignore_errors=True)
            raise
    except OSError as error:
        raise from_os_error(error, "write the bundle") from error
    return target


def _fill(folder: Path, manifest: Mapping[str, Any], files: Mapping[str, Path | bytes], generation: Generation) -> None:
    """Write every file of a bundle into `folder` and wait until all are on the disk."""
    listed = {}
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            write_synced(path, content)
        else:
            shutil.copyfile(content, path)
            with path.open("rb") as copy:
                os.fsync(copy.fileno())
        listed[name] = {"sha256": sha256_of(path), "bytes": path.stat().st_size}
    whole = {"format_version": format_for(manifest), **manifest, "files": listed}
    views, _ = check_manifest(whole, folder)
    means = (generation.means is not None) == (whole["head"]["rule"] == "gaussian")
    if generation.head.views != views or list(generation.table.attributes) != whole["attributes"] or not means:
        raise UsageError("E-GENERATION", "the generation's views, attributes or means are not those of the manifest")
    data = (json.dumps(whole, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()
    write_synced(folder / MANIFEST, data)
    (folder / CLASSES).mkdir()
    state = generation.to_bytes()
    digest = hashlib.sha256(state).hexdigest()
    write_synced(folder / CLASSES / f"{generation.number:06d}.safetensors", state)
    write_synced(folder / CLASSES / CURRENT, _Pointer(1, digest, hashlib.sha256(data).hexdigest()).to_bytes())
    write_synced(folder / HISTORY, _entry(generation, digest, {"names": generation.table.names}))
    for sub in (*{(folder / name).parent for name in files}, folder / CLASSES, folder):
        sync_folder(sub)


def _put_in_place(building: Path, target: Path, *, force: bool) -> None:
    """Give the finished folder its name; an old bundle is removed after the new one stands."""
    if not (force and _is_bundle(target)):
        try:
            building.rename(target)  # replaces nothing but an empty folder
        except OSError as error:
            if target.exists():
                raise _exists(target) from error
            raise
        sync_folder(target.parent)
        return
    with exclusive(target):
        if exchange(building, target):
            old = building
        else:
            old = temporary_name(target, _OLD)
            target.rename(old)
            try:
                building.rename(target)
            except BaseException:
                old.rename(target)
                raise
        sync_folder(target.parent)
    shutil.rmtree(old)


def check_dest(target: Path, *, force: bool) -> None:
    """Refuse a place where `write_bundle` would not write: UsageError E-BUNDLE-EXISTS or E-BUNDLE-DEST."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not _is_bundle(target):
        raise UsageError(
            "E-BUNDLE-DEST", f"{target} is there and is not a bundle, so it is not replaced; choose another place"
        )
    if not force:
        raise _exists(target)


def _exists(target: Path) -> UsageError:
    return UsageError("E-BUNDLE-EXISTS", f"{target} exists; give --force to replace it, or choose another place")


def _is_bundle(path: Path) -> bool:
    return (path / MANIFEST).is_file() and (path / CLASSES).is_dir()


def export_leftovers(target: Path) -> list[Path]:
    """Folders beside the bundle `target` in which it is being written, or was when its writer was killed."""
    pattern = re.compile(rf"{re.escape(TEMPORARY + target.name)}-({_OLD})?[0-9a-f]{{8}}")
    return sorted(path for path in target.parent.iterdir() if pattern.fullmatch(path.name) and path.is_dir())


def _clean_siblings(target: Path) -> None:
    """Remove what killed writers of this very bundle left beside it, and put an old bundle back that lost its place.

    What cannot be removed (a writer at work holds its lock, or it is another user's) stays: it is in nobody's way.
    """
    for path in export_leftovers(target):
        with contextlib.suppress(OSError, SystemProblem), exclusive(path, wait=False):
            if not target.exists() and path.name.startswith(f"{TEMPORARY}{target.name}-{_OLD}"):
                path.rename(target)
            else:
                shutil.rmtree(path)


def _find_folder(path: Path) -> Path:
    """The bundle that `path` is, or that holds the file `path`."""
    try:
        exists = path.exists()
    except OSError as error:
        raise from_os_error(error, "look for the bundle") from error
    if not exists:
        raise UsageError("E-BUNDLE-PATH", f"there is no {path}; give the folder that zsl-export --out wrote")
    candidates = (path,) if path.is_dir() else path.absolute().parents[:2]
    for folder in candidates:
        if (folder / MANIFEST).is_file():
            return folder
    raise ArtefactError(
        "E-BUNDLE-NOT", f"{path} is not a bundle: it has no {MANIFEST}; give the folder zsl-export wrote"
    )


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise ArtefactError("E-BUNDLE-MISSING", f"{path} is missing; copy the whole bundle again") from None
    except OSError as error:
        raise from_os_error(error, "read the bundle") from error


def _parse_object(data: bytes, where: str, code: str) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ArtefactError(code, f"{where} is not readable JSON ({error}); copy the bundle again") from None
    if not isinstance(value, dict):
        raise ArtefactError(code, f"{where} holds {type(value).__name__}, expected a JSON object; copy it again")
    return value


def _read_pointer(folder: Path) -> _Pointer:
    path = folder / CLASSES / CURRENT
    data = _read_bytes(path)
    value = _parse_object(data, str(path), "E-BUNDLE-CURRENT")
    try:
        pointer = _Pointer(**value)
        whole = type(pointer.generation) is int and pointer.generation >= 1
        # Compared byte for byte: a changed blank or key is damage too, though JSON would not mind it.
        if whole and pointer.to_bytes() == data:
            return pointer
    except TypeError:
        pass
    raise ArtefactError(
        "E-BUNDLE-CURRENT", f"{path} was not written by zsl-classes or zsl-export; copy the bundle again"
    )


def _names(text: str) -> tuple[str, ...]:
    """Different strings from their JSON list."""
    names = json.loads(text)
    require(isinstance(names, list) and all(isinstance(name, str) for name in names), "names are not a list of strings")
    require(len(set(names)) == len(names), "names are not unique")
    return tuple(names)


def _generation_layout(
    count: int, attributes: int, views: Sequence[View], *, means: bool
) -> dict[str, tuple[Any, tuple[int | None, ...]]]:
    layout: dict[str, tuple[Any, tuple[int | None, ...]]] = {
        "seen": (np.uint8, (count,)),
        "raw": (np.float64, (count, attributes)),
    }
    for k, view in enumerate(views):
        layout[f"head.{k}.weight"] = (np.float32, (count, view.stop - view.start))
        layout[f"head.{k}.bias"] = (np.float32, (count,))
    if means:
        width = max(view.stop for view in views)
        layout |= {
            "means.prior": (np.float32, (count, width)),
            "means.counts": (np.int64, (count,)),
            "means.totals": (np.float64, (None, width)),
        }
    return layout


def _check_tensors(
    tensors: Mapping[str, NDArray[Any]], layout: Mapping[str, tuple[Any, tuple[int | None, ...]]]
) -> None:
    """ValueError unless the tensors are exactly those of the layout, and finite; None in a shape is any length."""
    require(set(tensors) == set(layout), f"the tensors are {sorted(tensors)}, expected {sorted(layout)}")
    for name, (dtype, shape) in layout.items():
        array = tensors[name]
        fits = array.ndim == len(shape) and all(b in {None, a} for a, b in zip(array.shape, shape, strict=True))
        text = f"{name} is {array.dtype} {array.shape}, expected {np.dtype(dtype)} {shape}"
        require(array.dtype == dtype and fits, text.replace("None", "any"))
        require(np.isfinite(array).all(), f"{name} holds NaN or infinity")


def _entry(generation: Generation, digest: str, entry: Mapping[str, Any]) -> bytes:
    """One line of history.jsonl."""
    when = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    own = {"number": generation.number, "action": generation.action, "when": when, "seed": generation.seed}
    return (json.dumps({**own, **entry, "sha256": digest}, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _remove(path: Path) -> None:
    """Delete a file or a folder with all that is in it; it may be gone already."""
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise from_os_error(error, "remove what is no longer needed") from error
