"""The folder that ships: manifest, graphs, and generations of (classes + head) with one commit point.

Nothing is loaded before its hash was compared. A reader never locks; a writer holds the lock on `.lock`, writes
everything under temporary names, and replaces `classes/CURRENT` last. Hashes prove integrity, not trust.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from zsl_runtime.bundle.generation import Generation, Probe
from zsl_runtime.bundle.manifest import (
    CLASSES,
    CURRENT,
    EXPLAIN,
    GAUSSIAN,
    HISTORY,
    LARGEST,
    LARGEST_GENERATION,
    MANIFEST,
    PROBE,
    READOUT,
    REPLAY,
    SIGNATURE,
    check_manifest,
    check_version,
)
from zsl_runtime.bundle.reading import (
    MOST_OF_HISTORY,
    MOST_OF_MANIFEST,
    MOST_OF_POINTER,
    OLD_CACHE,
    check_places,
    parsed,
    read_whole,
    size_and_sha256,
    size_of,
)
from zsl_runtime.bundle.signatures import (
    check_files,
    check_fixed,
    check_generation,
    check_newest,
    fixed_files,
    generation_signature,
    required_keys,
)
from zsl_runtime.bundle.signing import check_taken, sign_generation
from zsl_runtime.errors import ArtefactError, UsageError, from_os_error
from zsl_runtime.head.fitting import Replay
from zsl_runtime.head.gaussian import Gaussian
from zsl_runtime.head.readout import Readout
from zsl_runtime.machine.storage import (
    TEMPORARY,
    exclusive,
    remove,
    stage,
    sync_folder,
    write_whole,
)
from zsl_runtime.machine.threads import checked_threads

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import Literal

    from zsl_runtime.bundle.signatures import Keys
    from zsl_runtime.bundle.signing import Signer
    from zsl_runtime.head.head import View
    from zsl_runtime.head.semantic_rule import SemanticRule


LAST_GENERATION = 10**15  # a number that fits the name of a file
READ_ATTEMPTS = 5  # a reader meets a writer that commits and prunes between two of its own reads at most now and then


class Pointer(NamedTuple):
    """What classes/CURRENT says."""

    generation: int
    sha256: str
    manifest_sha256: str

    def to_bytes(self) -> bytes:
        """The file's content."""
        return (json.dumps(self._asdict()) + "\n").encode()


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: its manifest, checked, and the way to everything else in it.

    Attributes:
        path: the folder.
        manifest: content of manifest.json (docs/formats.md).
        manifest_sha256: of the manifest's bytes; CURRENT holds it too.
        views: the head's views.
        rule: raw attributes -> semantic vectors.
        keys: by one of which this bundle, and every generation that is read, must be signed; None demands nothing.
        signer: who signs the generations that are made.

    """

    path: Path
    manifest: dict[str, Any]
    manifest_sha256: str
    views: tuple[View, ...]
    rule: SemanticRule
    keys: Keys | None = None
    signer: Signer | None = None

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        verify: bool | Iterable[str] = True,
        require_signature: str | os.PathLike[str] | Literal[False] | None = None,
        signer: Signer | None = None,
    ) -> Bundle:
        """Open a bundle and check it.

        Args:
            path: the bundle's folder or a file inside it.
            verify: compare the size and sha256 of every file that labels depend on, or only of the graphs named here.
                Manifest, CURRENT and the generation in force are checked in any case; what labels are explained with
                is checked when it is used.
            require_signature: a file or folder of public keys and certificates, one of which must have signed the
                bundle and the generation in force, before anything of them is believed; None for those that
                $ZSL_REQUIRE_SIGNATURE names, if it names any; False demands nothing. See docs/security.md.
            signer: who signs the generations that are made; what they are made from must be signed as well, by them or
                by whoever else is trusted.

        Raises:
            UsageError: E-BUNDLE-PATH when nothing is there; E-KEY; E-SIGN, the signer is not trusted here.
            ArtefactError: E-BUNDLE-... (exit 5) when it is not a bundle, is of a newer version, or differs from what
                was exported by a single byte; E-SIGNATURE, E-SIGNATURE-OLD.
            BackendError: E-PACKAGE, signatures are demanded and the extra `verify` is not installed.
            SystemProblem: a file cannot be read.

        """
        folder = _find_folder(Path(path))
        check_places(folder)
        keys = _keys(folder, require_signature, signer)
        data = read_whole(folder / MANIFEST, folder, MOST_OF_MANIFEST)
        digest = hashlib.sha256(data).hexdigest()
        signed = {} if keys is None else check_fixed(folder, digest, keys)
        manifest = parsed(data, str(folder / MANIFEST), "E-BUNDLE-MANIFEST")
        check_version(manifest, folder)
        if _read_pointer(folder).manifest_sha256 != digest:
            raise ArtefactError(
                "E-BUNDLE-HASH", f"{folder / MANIFEST} was changed after the export (sha256 differs); export it again"
            )
        views, rule = check_manifest(manifest, folder)
        if keys is not None:
            check_files(folder, signed, fixed_files(digest, manifest["files"]), keys)
        bundle = cls(folder, manifest, digest, views, rule, keys, signer)
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
        """How heads are made: `gaussian`, `fit` or `rows` (`zsl_runtime.head.head`)."""
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

    @property
    def explains(self) -> bool:
        """Whether the bundle holds what a label is explained with; older exports do not."""
        return EXPLAIN in self.manifest

    @property
    def explain_files(self) -> tuple[str, ...]:
        """The files that labels are explained with, and that no label depends on."""
        given = self.manifest.get(EXPLAIN, {})
        return tuple(given[key] for key in ("readout", "graph") if given.get(key) is not None)

    @property
    def explain_graph(self) -> Path | None:
        """Path of the graph that tells where attention lies; None for models without attention."""
        name = self.manifest.get(EXPLAIN, {}).get("graph")
        return None if name is None else self.file(name)

    @property
    def regions(self) -> int:
        """R, over which attention lies; 0 where there is no graph that tells it."""
        return int(self.manifest.get(EXPLAIN, {}).get("regions", 0))

    def verify(self, threads: int | None = None) -> None:
        """Compare every file that labels depend on with the manifest, several at a time; errors as of `verify_file`.

        Args:
            threads: that may read and hash; None for all CPUs this process may use.

        """
        with self.verifying(threads):
            pass

    @contextlib.contextmanager
    def verifying(self, threads: int | None = None) -> Iterator[None]:
        """Compare every file that labels depend on with the manifest while the block runs, and wait at its end.

        Hashing leaves Python's lock to others, so the block may prepare what does not need the files. Arguments and
        errors are those of `verify`; of several damaged files the first of the manifest is told.
        """
        names = [name for name in self.manifest["files"] if name not in self.explain_files]
        largest_first = sorted(names, key=lambda name: -self.manifest["files"][name]["bytes"])
        pool = ThreadPoolExecutor(max(1, min(checked_threads(threads), len(names))), thread_name_prefix="zsl-hash")
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
            ArtefactError: E-BUNDLE-HASH, E-BUNDLE-MISSING, E-BUNDLE-PATH (it is a link) or E-BUNDLE-FILE (a pipe, a
                device, or too large).
            SystemProblem: it cannot be read.

        """
        path, expected = self.file(name), self.manifest["files"][name]
        size, digest = size_of(path, self.path), ""
        if size == expected["bytes"]:
            size, digest = size_and_sha256(path, self.path)
        digest = digest if size == expected["bytes"] else f"{size} bytes"
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
                return self._in_force(number, digest)
            except ArtefactError:
                # A writer may have committed and pruned since CURRENT was read; only then is it worth a second look.
                before = number, digest
                number, digest = self.pointer()
                if (number, digest) == before:
                    raise
        raise ArtefactError("E-BUNDLE-CURRENT", f"{self.path} changed {READ_ATTEMPTS} times while it was read; retry")

    def _in_force(self, number: int, sha256: str) -> Generation:
        """The generation in force; where signatures are demanded, it is none that was in force before and put back."""
        generation = self.generation(number, sha256)
        if self.keys is not None:
            check_newest(self.path, self.manifest_sha256, number, sha256)
        return generation

    def generation(self, number: int, sha256: str) -> Generation:
        """Read one generation and compare its hash.

        Raises:
            ArtefactError: E-BUNDLE-MISSING, E-BUNDLE-HASH or E-BUNDLE-GENERATION; E-SIGNATURE where signatures are
                demanded.

        """
        path = self.generation_path(number)
        data = read_whole(path, self.path, LARGEST_GENERATION)
        if hashlib.sha256(data).hexdigest() != sha256:
            raise ArtefactError("E-BUNDLE-HASH", f"{path} was changed after it was written; copy the bundle again")
        if self.keys is not None:
            check_generation(self.path, self.manifest_sha256, number, sha256, self.keys)
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

    def check_explains(self) -> None:
        """UsageError E-EXPLAIN unless the bundle holds what a label is explained with."""
        if not self.explains:
            raise UsageError(
                "E-EXPLAIN",
                f"{self.path} was exported without what labels are explained with; export the run again with this "
                "zsl-deploy, without --no-explain",
            )

    def readout(self) -> Readout:
        """What attributes are read by.

        Raises:
            UsageError: E-EXPLAIN when the bundle holds none.
            ArtefactError: E-BUNDLE-HASH, E-BUNDLE-READOUT.

        """
        self.check_explains()
        path = self.file(READOUT)
        readout = Readout.from_bytes(self._checked(READOUT), where=str(path))
        if readout.weight.shape != (self.manifest["dims"]["A"], self.manifest["dims"]["D"]):
            raise ArtefactError("E-BUNDLE-READOUT", f"{path} holds numbers of another width; export the model again")
        return readout

    def probe(self) -> Probe:
        """The inputs with known answers; ArtefactError E-BUNDLE-PROBE, E-BUNDLE-MISSING."""
        path = self.file(PROBE)
        return Probe.from_bytes(read_whole(path, self.path, LARGEST[PROBE]), where=str(path))

    def _checked(self, name: str) -> bytes:
        """Content of a file that the manifest lists; ArtefactError E-BUNDLE-HASH when it is not the exported one."""
        path = self.file(name)
        data = read_whole(path, self.path, LARGEST[name])
        if hashlib.sha256(data).hexdigest() != self.manifest["files"][name]["sha256"]:
            raise ArtefactError("E-BUNDLE-HASH", f"{path} is not the exported file; copy or export the bundle again")
        return data

    def history(self) -> tuple[list[dict[str, Any]], list[int]]:
        """What was done to the classes: the lines of history.jsonl, and the numbers of lines that cannot be read.

        A line of a generation beyond CURRENT is of a change that was cut off before it was made: it is left out.
        """
        in_force = _read_pointer(self.path).generation  # before the history, to which writers add first
        lines = self._history_lines()
        entries, broken = [], []
        for number, line in enumerate(lines, start=1):
            try:
                entry = parsed(line, HISTORY, "E-BUNDLE-HISTORY")
            except ArtefactError:
                broken.append(number)
                continue
            if not _beyond(entry, in_force):
                entries.append(entry)
        return entries, broken

    def leftovers(self) -> list[Path]:
        """Temporary files and generation files beyond CURRENT: of a writer at work, or of a killed one.

        And the rows of classes that an older zsl-deploy kept beside the bundle's own files.
        """
        number, _ = self.pointer()
        found = [path for folder in (self.path, self.path / CLASSES) for path in folder.glob(f"{TEMPORARY}*")]
        if (self.path / OLD_CACHE / "rows.json").is_file():
            found.append(self.path / OLD_CACHE)
        numbers = self.generation_numbers()
        kept = {generation_signature(self.path, n).name for n in numbers if n <= number}
        signatures = (path for path in (self.path / CLASSES).glob("*.sig") if re.fullmatch(r"\d{6,}", path.stem))
        found += [path for path in signatures if path.name not in kept]
        return sorted(found + [self.generation_path(n) for n in numbers if n > number])

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Be the only writer; waits for another one and says so on stderr once. What a killed writer left is removed.

        Raises:
            ArtefactError: E-BUNDLE-PATH or E-BUNDLE-FILE where a folder or lock of it leads elsewhere.
            SystemProblem: the bundle is not writable, or its file system cannot lock.

        """
        check_places(self.path)
        with exclusive(self.path):
            for leftover in self.leftovers():
                _remove(leftover)
            yield

    def commit(self, generation: Generation, entry: Mapping[str, Any]) -> None:
        """Make `generation` the one in force. Call it with `lock` held.

        All that needs space is written under temporary names first; then the generation, the history and CURRENT are
        renamed into place. Whenever this is cut off, the bundle is the old or the new one: a line of the history whose
        generation never came into force is no longer there after the next commit, and nobody reads it before.

        Args:
            generation: its number must be one more than that of the generation in force.
            entry: JSON data for history.jsonl; number, action, when (UTC) and sha256 are added.

        Raises:
            UsageError: E-GENERATION when the number does not follow; E-SIGN, signatures are demanded and nobody signs.
            ArtefactError, BackendError: as `Signer.sign`.
            SystemProblem: the system said no (full disk, read-only); the bundle is unchanged and holds no litter.

        """
        self.check_signable()
        number, _ = self.pointer()
        if generation.number != number + 1:
            raise UsageError(
                "E-GENERATION", f"generation {generation.number} cannot follow {number}; read the bundle again"
            )
        data = checked_size(generation.to_bytes())
        digest = hashlib.sha256(data).hexdigest()
        pointer = Pointer(generation.number, digest, self.manifest_sha256).to_bytes()
        target, signature = self.generation_path(generation.number), generation_signature(self.path, generation.number)
        history = self._history_before(number)
        made: list[Path] = []
        try:
            for folder, content in (
                (self.path / CLASSES, data),
                (self.path / CLASSES, pointer),
                (self.path, history + file_entry(generation, digest, entry)),
            ):
                made.append(stage(folder, content))
            if self.signer is not None:
                args = (self.signer, self.path, self.manifest_sha256, generation.number, digest)
                made.append(stage(self.path / CLASSES, sign_generation(*args, place=made[0])))
                made[3].replace(signature)
            made[0].replace(target)
            sync_folder(self.path / CLASSES)
            made[2].replace(self.path / HISTORY)
            sync_folder(self.path)
            made[1].replace(self.path / CLASSES / CURRENT)
            sync_folder(self.path / CLASSES)
        except BaseException as error:
            told = len(made) >= 3 and not made[2].exists()  # the history has its line already
            _clear(made)  # before anything is read, which may fail as well
            # An interrupt may come between the rename of CURRENT and the next line, so look which one is in force.
            committed = _read_pointer(self.path).generation == generation.number
            if not committed:
                _clear((target, signature))
            if told and not committed:  # nobody would read the line, but whoever looks into the file should not find it
                with contextlib.suppress(OSError):
                    write_whole(self.path / HISTORY, history)
            if isinstance(error, OSError):
                state = "made" if committed else "not made, the bundle is unchanged"
                raise from_os_error(error, f"finish the change ({state}): the system refused") from error
            raise
        if self.keys is not None:  # remembered as if it had been read
            check_newest(self.path, self.manifest_sha256, generation.number, digest)

    def signature_names(self) -> tuple[str, ...]:
        """Names of the signatures that are there, of what is fixed and of generations; they need not be good ones."""
        places = (self.path / SIGNATURE, *(generation_signature(self.path, n) for n in self.generation_numbers()))
        return tuple(place.relative_to(self.path).as_posix() for place in places if os.path.lexists(place))

    def is_signed(self) -> bool:
        """Whether there is a signature of what is fixed; it need not be a good one."""
        return os.path.lexists(self.path / SIGNATURE)

    def check_signable(self) -> None:
        """Refuse to make a generation that would be refused here at once: UsageError E-SIGN."""
        if self.keys is not None and self.signer is None:
            raise UsageError(
                "E-SIGN",
                f"signatures by {self.keys.place} are demanded, and what would be made of {self.path} would have none; "
                "give --sign KEY, the private key of one that may sign",
            )

    def drop(self, numbers: Sequence[int]) -> None:
        """Delete generation files. Call it with `lock` held; never with the number in force."""
        for number in numbers:
            _remove(self.generation_path(number))
            _remove(generation_signature(self.path, number))
        sync_folder(self.path / CLASSES)

    def _history_lines(self) -> list[bytes]:
        """Lines of history.jsonl, none where it is not there; ArtefactError E-BUNDLE-PATH or E-BUNDLE-FILE."""
        path = self.path / HISTORY
        if not os.path.lexists(path):
            return []
        return read_whole(path, self.path, MOST_OF_HISTORY).splitlines()

    def _history_before(self, number: int) -> bytes:
        """The history's bytes up to generation `number`, ready for one more line: one that was cut off is closed."""
        return b"".join(line + b"\n" for line in self._history_lines() if not _beyond(_object_or_empty(line), number))


def _keys(folder: Path, require: str | os.PathLike[str] | Literal[False] | None, signer: Signer | None) -> Keys | None:
    """By whom a bundle and its generations must be signed, where that is demanded, or where somebody signs on top."""
    demanded = None if require is False else required_keys(require, folder)
    if signer is None:
        return demanded
    if demanded is None:
        return signer.own
    check_taken(signer, demanded, generation=True)
    return demanded


def _find_folder(path: Path) -> Path:
    """The bundle that `path` is, or that holds the file `path`."""
    try:
        exists = path.exists()
    except OSError as error:
        raise from_os_error(error, "look for the bundle") from error
    if not exists:
        if re.match(r"[a-z0-9]+:/[^/]", path.as_posix()):
            raise UsageError(
                "E-BUNDLE-PATH", f"{path}: a bundle is opened on the disk; copy it from the store first (docs/scale.md)"
            )
        raise UsageError("E-BUNDLE-PATH", f"there is no {path}; give the folder that zsl-export --out wrote")
    candidates = (path,) if path.is_dir() else path.absolute().parents[:2]
    for folder in candidates:
        if (folder / MANIFEST).is_file():
            return folder
    raise ArtefactError(
        "E-BUNDLE-NOT", f"{path} is not a bundle: it has no {MANIFEST}; give the folder zsl-export wrote"
    )


def _object_or_empty(line: bytes) -> dict[str, Any]:
    """A line of the history; an empty object for one that cannot be read."""
    try:
        return parsed(line, HISTORY, "E-BUNDLE-HISTORY")
    except ArtefactError:
        return {}


def _beyond(entry: Mapping[str, Any], number: int) -> bool:
    """Whether a line of the history is of a generation after `number`, which a killed writer did not get into force."""
    own = entry.get("number")
    return type(own) is int and own > number


def _clear(paths: Iterable[Path]) -> None:
    """Remove what is there of some files; what stays goes with the next change."""
    for path in paths:
        with contextlib.suppress(OSError):
            path.unlink()


def _read_pointer(folder: Path) -> Pointer:
    path = folder / CLASSES / CURRENT
    data = read_whole(path, folder, MOST_OF_POINTER)
    value = parsed(data, str(path), "E-BUNDLE-CURRENT")
    try:
        pointer = Pointer(**value)
        whole = type(pointer.generation) is int and 1 <= pointer.generation <= LAST_GENERATION
        # Compared byte for byte: a changed blank or key is damage too, though JSON would not mind it.
        if whole and pointer.to_bytes() == data:
            return pointer
    except TypeError:
        pass
    raise ArtefactError(
        "E-BUNDLE-CURRENT", f"{path} was not written by zsl-classes or zsl-export; copy the bundle again"
    )


def checked_size(data: bytes) -> bytes:
    """The file of a generation; UsageError E-GENERATION where nobody would read it again."""
    if len(data) > LARGEST_GENERATION:
        raise UsageError(
            "E-GENERATION",
            f"the classes would take {len(data):,} bytes, where at most {LARGEST_GENERATION:,} can be; give fewer",
        )
    return data


def file_entry(generation: Generation, digest: str, entry: Mapping[str, Any]) -> bytes:
    """One line of history.jsonl."""
    when = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    own = {"number": generation.number, "action": generation.action, "when": when, "seed": generation.seed}
    return (json.dumps({**own, **entry, "sha256": digest}, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _remove(path: Path) -> None:
    """Delete a file or a folder with all that is in it; it may be gone already."""
    try:
        remove(path)
    except OSError as error:
        raise from_os_error(error, "remove what is no longer needed") from error
