"""Region features of all pictures, computed once and kept on disk in half precision.

A store is one folder ``features/<fingerprint>`` of the cache folder:

- ``regions.f16``: (n, R, V) little-endian float16, allocated whole before the first picture;
- ``state.u8``: (n,) uint8, 0 to do, 1 done, 2 unreadable;
- ``problems.jsonl``: why pictures are unreadable;
- ``about.json``: what this is, for people.

A picture is marked in ``state.u8`` only after its features are on disk, so that a killed run or a power cut costs the
last seconds and nothing else. Batches are the same ones whether a run was interrupted or not, and so are the features.
"""

from __future__ import annotations

import contextlib
import copy
import errno
import hashlib
import json
import os
import shutil
import stat
import sys
import time
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Self, TextIO

import numpy as np
import torch

from zsl_runtime.errors import ArtefactError, InputError, SystemProblem, UsageError, from_os_error
from zsl_runtime.labelling.ahead import in_order
from zsl_runtime.machine.cache import needed_cache
from zsl_runtime.machine.storage import (
    LOCK,
    allocate,
    hold,
    mapped_or_read,
    open_plain,
    remove,
    sync_file,
    write_whole,
)
from zsl_runtime.machine.threads import checked_threads
from zsl_runtime.machine.untrusted import GIB, UnfitError, parse_json, read_file
from zsl_runtime.pixels.pixels import prepare
from zsl_train.data.roles import check_roles
from zsl_train.devices import CPU, exact_products

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from zsl_runtime.pixels.pixels import PixelSpec
    from zsl_train.backbones.base import Backbone
    from zsl_train.data.feature_file import FeatureFile
    from zsl_train.data.image_set import ImageSet

FORMAT = 1
OPEN, DONE, UNREADABLE = 0, 1, 2
# Measured on one core: 4 pictures at a time fit the processor's cache, 16 take twice as long each.
BATCH = 4
CARD_BATCH = 64
COMMIT_SECONDS = 2.0
LINE_SECONDS = 30.0  # between two progress lines where there is no terminal
MOST = GIB  # bytes of what a store says of its pictures, and of the problems they had
POOL_BLOCK = 64  # pictures averaged at a time


@dataclass(frozen=True)
class FeatureStore:
    """Region features of the pictures of an ImageSet, row for row.

    Attributes:
        folder: where they are.
        fingerprint: of backbone, weights, pixels and pictures (hexadecimal); for a feature file, of that.
        regions: (n, R, V) float16, a read-only memory map, or an array for a feature file. Rows of unreadable pictures
            are zero.
        ok: (n,) bool, False for unreadable pictures: leave those rows out.
        problems: one line per unreadable picture.

    """

    folder: Path
    fingerprint: str
    regions: NDArray[np.float16]
    ok: NDArray[np.bool_]
    problems: tuple[str, ...]

    def pooled(self) -> NDArray[np.float32]:
        """Mean over the regions: (n, V) float32, computed in blocks so that the store never is in memory whole."""
        out = np.empty((self.regions.shape[0], self.regions.shape[2]), dtype=np.float32)
        for start in range(0, len(out), POOL_BLOCK):
            rows = slice(start, start + POOL_BLOCK)
            out[rows] = self.regions[rows].mean(axis=1, dtype=np.float32)
        return out


def given_store(file: FeatureFile) -> FeatureStore:
    """The rows of a feature file as a store; every row can be read."""
    ok = np.ones(len(file), dtype=np.bool_)
    return FeatureStore(file.path, f"{FORMAT} {file.path.name} {file.sha256}", file.values, ok, ())


def fingerprint(image_set: ImageSet, backbone: Backbone) -> str:
    """Hash of all that region features depend on: 64 hexadecimal digits.

    Pictures count by the folder they are in, name, size and time of change (ns), as make and rsync do it, not
    by content: reading every byte would cost a second run minutes on a large set, where it should start at once. A
    moved or copied folder is extracted again.
    """
    digest = hashlib.sha256()
    head = {
        "format": FORMAT,
        "backbone": backbone.name,
        "weights": backbone.weights_sha256,
        "pixels": backbone.pixels.to_dict(),
        "regions": backbone.regions,
        "channels": backbone.channels,
        "root": os.fspath(image_set.root.resolve()),
    }
    digest.update(json.dumps(head, sort_keys=True).encode())
    for path in image_set.paths:
        try:
            status = (image_set.root / path).stat()
            facts = f"{status.st_size} {status.st_mtime_ns}"
        except OSError:
            facts = "missing"  # reported as unreadable later
        digest.update(f"\n{facts} {path}".encode())
    return digest.hexdigest()


def extract(
    image_set: ImageSet,
    backbone: Backbone,
    *,
    cache: Path | None = None,
    batch_size: int | None = None,
    threads: int | None = None,
    progress: TextIO | None = None,
    device: torch.device = CPU,
) -> FeatureStore:
    """Region features of all pictures: from the store where it has them, else computed and kept.

    Pictures are decoded in threads while the network runs. An interrupted extraction continues where it was; a second
    process that wants the same features waits for the first. Unreadable pictures are reported, one line each, and the
    rest is done.

    Args:
        image_set: the pictures.
        backbone: the frozen network.
        cache: folder for stores; None is the user's cache folder (`zsl_runtime.machine.cache.needed_cache`).
        batch_size: pictures a forward pass; None is as many as suit the device.
        threads: decoding threads; None is one per usable processor.
        progress: where progress and reports are written; None is stderr. A terminal gets a bar, else plain lines.
        device: that the network runs on.

    Raises:
        SystemProblem: E-DISK-FULL, or E-SYSTEM for other refusals. What is done is kept.
        UsageError: E-DATA-UNREADABLE when no picture can be read; E-DATA-NO-TRAINING when a seen class has no readable
            picture to train on.
        ArtefactError: E-FEATURES when the backbone's output does not fit half precision.

    """
    stream = sys.stderr if progress is None else progress
    key = fingerprint(image_set, backbone)
    shape = (len(image_set), backbone.regions, backbone.channels)
    files = _Files((cache or needed_cache()) / "features" / key[:32], shape)
    try:
        if files.is_complete():
            print(f"features: {shape[0]} pictures reused from {files.folder}", file=stream)
        else:
            threads = checked_threads(threads)
            batch_size = batch_size or (BATCH if device.type == "cpu" else CARD_BATCH)
            _fill(files, image_set, backbone, stream, batch_size=batch_size, threads=threads, device=device)
        store = files.open(key, image_set)
    except OSError as error:
        raise _refusal(error, files) from error
    for problem in store.problems:
        print(f"unreadable, left out: {problem}", file=stream)
    if not store.ok.any():
        raise UsageError(
            "E-DATA-UNREADABLE", f"none of the {shape[0]} pictures below {image_set.root} can be read; replace them"
        )
    check_roles(image_set.labels[store.ok], image_set.role[store.ok], image_set.table)
    return store


def _refusal(error: OSError, files: _Files) -> SystemProblem:
    """One line for what the system refused, with the space it takes when that is the trouble."""
    if error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
        return from_os_error(error, "keep the region features")
    there = next(folder for folder in (files.folder, *files.folder.parents) if folder.is_dir())
    free = shutil.disk_usage(there).free
    return SystemProblem(
        "E-DISK-FULL",
        f"the region features take {files.size / 1e6:,.1f} MB in {files.folder}, where {free / 1e6:,.1f} MB are free "
        f"({error.strerror}); free space, or set ZSL_CACHE to a folder on a larger disk, and run the command again: "
        "pictures that are done stay done",
    )


@dataclass(frozen=True)
class _Files:
    """The files of one store."""

    folder: Path
    shape: tuple[int, int, int]

    @property
    def size(self) -> int:
        """Bytes of regions.f16."""
        return 2 * self.shape[0] * self.row_size

    @property
    def row_size(self) -> int:
        """Numbers of one picture."""
        return self.shape[1] * self.shape[2]

    @property
    def regions(self) -> Path:
        return self.folder / "regions.f16"

    @property
    def state(self) -> Path:
        return self.folder / "state.u8"

    @property
    def problems(self) -> Path:
        return self.folder / "problems.jsonl"

    def read_state(self) -> NDArray[np.uint8]:
        """(n,) state; pictures count as to do where the files are missing, cut short or not of this size."""
        state = np.zeros(self.shape[0], dtype=np.uint8)
        if _plain(self.regions) and _plain(self.state) and self.regions.lstat().st_size == self.size:
            known = np.frombuffer(_content(self.state)[: len(state)], dtype=np.uint8)
            state[: len(known)] = np.where(known <= UNREADABLE, known, OPEN)
        return state

    def drop_links(self) -> None:
        """Remove what is no plain file of this store alone: what is written in place must not be written elsewhere."""
        for path in (self.regions, self.state, self.problems):
            with contextlib.suppress(FileNotFoundError):
                if not _plain(path) or path.lstat().st_nlink > 1:
                    remove(path)

    def is_complete(self) -> bool:
        return bool(self.read_state().all())

    def read_problems(self) -> dict[int, str]:
        """The recorded reasons by row; lines that a crash damaged are skipped."""
        reasons = {}
        for line in _content(self.problems).splitlines():
            with contextlib.suppress(ValueError, TypeError):
                row, reason = parse_json(line, halves=True)
                reasons[row] = str(reason)
        return reasons

    def open(self, key: str, image_set: ImageSet) -> FeatureStore:
        """The finished store."""
        state = self.read_state()
        regions: NDArray[np.float16] = mapped_or_read(
            lambda: np.memmap(self.regions, dtype="<f2", mode="r", shape=self.shape),
            lambda: np.fromfile(self.regions, dtype="<f2").reshape(self.shape),
        )
        reasons = self.read_problems()
        problems = (
            reasons.get(int(row), f"{image_set.root / image_set.paths[row]}, for a reason that was not recorded")
            for row in np.flatnonzero(state == UNREADABLE)
        )
        return FeatureStore(self.folder, key, regions, state == DONE, tuple(problems))


def _fill(
    files: _Files,
    image_set: ImageSet,
    backbone: Backbone,
    stream: TextIO,
    *,
    batch_size: int,
    threads: int,
    device: torch.device,
) -> None:
    """Compute what the store lacks, under its lock."""
    files.folder.mkdir(parents=True, exist_ok=True)
    with _locked(files.folder, stream):
        files.drop_links()
        state = files.read_state()
        if state.all():
            return
        about = {"backbone": backbone.name, "pictures": os.fspath(image_set.root.resolve()), "shape": files.shape}
        write_whole(files.folder / "about.json", (json.dumps(about) + "\n").encode())
        batches = [np.arange(i, min(i + batch_size, len(state))) for i in range(0, len(state), batch_size)]
        batches = [rows for rows in batches if (state[rows] == OPEN).any()]
        began = time.monotonic()
        # A copy: the backbone itself stays on the CPU, where it is exported.
        network = backbone if device.type == "cpu" else copy.deepcopy(backbone).to(device)
        with (
            _Writer(files, state) as writer,
            contextlib.closing(_decoded(image_set, backbone.pixels, batches, threads)) as decoded,
            _progress(stream, len(state), sum(map(len, batches))) as advance,
            torch.inference_mode(),
            exact_products(),
        ):
            for rows, (pictures, errors) in zip(batches, decoded, strict=True):
                regions = network(torch.from_numpy(pictures).to(device)).to(torch.float16).cpu().numpy()
                paths = [image_set.root / image_set.paths[row] for row in rows]
                writer.write(rows, regions, errors | _endless(regions, paths, errors, state))
                advance(len(rows))
        seconds = time.monotonic() - began
        count = sum(map(len, batches))
        print(
            f"features: {count} pictures in {seconds:.1f} s ({count / seconds:.1f} a second), kept in {files.folder}",
            file=stream,
        )


def _endless(
    regions: NDArray[np.float16], paths: list[Path], errors: dict[int, InputError], state: NDArray[np.uint8]
) -> dict[int, InputError]:
    """Pictures of a batch whose features are no numbers, by position; none where no other picture has any either.

    Then the network is at fault and not the picture, and whoever writes the features says so.
    """
    bad = np.flatnonzero(~np.isfinite(regions).all(axis=(1, 2))).tolist()
    bad = [position for position in bad if position not in errors]
    if len(bad) + len(errors) == len(paths) and not (state == DONE).any():
        return {}
    problem = "the network's features of it are over 65504 or not a number; look at the picture, or leave it out"
    return {position: InputError("E-ANSWER-VALUE", f"{str(paths[position])!r}: {problem}") for position in bad}


@contextlib.contextmanager
def _locked(folder: Path, stream: TextIO) -> Iterator[None]:
    """Hold the store's lock, which the system drops when the process dies, however it dies."""
    waiting = "features: another process extracts the same features; waiting for it"
    with hold(folder / LOCK, waiting=waiting, say=lambda text: print(text, file=stream)):
        yield


class _Writer:
    """Writes features, and then, in this order for good, the record that they are there."""

    def __init__(self, files: _Files, state: NDArray[np.uint8]) -> None:
        self.files = files
        self.state = state
        self.committed = time.monotonic()
        self.new_problems: list[str] = []

    def __enter__(self) -> Self:
        """Allocate the whole file, so that a full disk is known before the first picture."""
        with contextlib.ExitStack() as stack:
            self.state_fd = _opened(self.files.state, stack)
            # First, so that a record that was not believed (see read_state) cannot come back with the allocated file.
            os.pwrite(self.state_fd, self.state.tobytes(), 0)
            os.ftruncate(self.state_fd, len(self.state))
            sync_file(self.state_fd, self.files.state)
            notes = open_plain(self.files.problems, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            self.problems = stack.enter_context(open(notes, "a", encoding="utf-8"))
            self.regions_fd = _opened(self.files.regions, stack)
            try:
                allocate(self.regions_fd, self.files.size)
            except OSError:
                if not self.state.any():
                    # Some file systems keep the part that they could give.
                    self.files.regions.unlink()
                raise
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """Commit what is done, however the extraction ended."""
        with self.stack:
            self.commit()

    def write(self, rows: NDArray[np.int64], regions: NDArray[np.float16], errors: dict[int, InputError]) -> None:
        """Take over one batch.

        Args:
            rows: (B,) consecutive row numbers.
            regions: (B, R, V).
            errors: by position in the batch, for unreadable pictures.

        """
        regions[list(errors)] = 0
        if not np.isfinite(regions).all():
            raise ArtefactError(
                "E-FEATURES",
                f"the backbone's features of pictures {rows[0]}..{rows[-1]} do not fit half precision (over 65504 or "
                "not a number); its weights are damaged or belong to another network: give others with --weights",
            )
        _write_all(self.regions_fd, regions.astype("<f2", copy=False).tobytes(), 2 * int(rows[0]) * self.files.row_size)
        self.state[rows] = DONE
        for position, error in errors.items():
            self.state[rows[position]] = UNREADABLE
            self.new_problems.append(json.dumps([int(rows[position]), str(error)]) + "\n")
        if time.monotonic() - self.committed > COMMIT_SECONDS:
            self.commit()

    def commit(self) -> None:
        """Make everything so far durable, the record last."""
        sync_file(self.regions_fd, self.files.regions)
        if self.new_problems:
            # On a line of their own, should a kill have cut the last one short.
            self.problems.write("\n" + "".join(self.new_problems))
            self.problems.flush()
            sync_file(self.problems.fileno(), self.files.problems)
            self.new_problems.clear()
        os.pwrite(self.state_fd, self.state.tobytes(), 0)
        sync_file(self.state_fd, self.files.state)
        self.committed = time.monotonic()


def _plain(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except FileNotFoundError:
        return False


def _content(path: Path) -> bytes:
    """A small file of a store; empty where it is not there, or is none."""
    try:
        return read_file(path, MOST)
    except (UnfitError, FileNotFoundError):
        return b""


def _opened(path: Path, stack: contextlib.ExitStack) -> int:
    descriptor = open_plain(path, mode=0o644)
    stack.callback(os.close, descriptor)
    return descriptor


def _write_all(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _decoded(
    image_set: ImageSet, spec: PixelSpec, batches: list[NDArray[np.int64]], threads: int
) -> Generator[tuple[NDArray[np.uint8], dict[int, InputError]]]:
    """Decode batches in threads, a few ahead of the one that is asked for: pictures (B, P, P, 3) and errors.

    An unreadable picture is black, so that the others' batch has the same shape whatever happens.
    """
    paths = (image_set.root / image_set.paths[row] for rows in batches for row in rows)
    ahead = 2 * threads + max(map(len, batches))
    with contextlib.closing(in_order(lambda path: _decode(path, spec), paths, workers=threads, ahead=ahead)) as results:
        for rows in batches:
            yield _stacked(list(islice(results, len(rows))), spec)


def _decode(path: Path, spec: PixelSpec) -> NDArray[np.uint8] | InputError:
    try:
        return prepare(path, spec)
    except InputError as error:
        return error


def _stacked(
    results: list[NDArray[np.uint8] | InputError], spec: PixelSpec
) -> tuple[NDArray[np.uint8], dict[int, InputError]]:
    pictures = np.zeros((len(results), spec.crop, spec.crop, 3), dtype=np.uint8)
    errors = {}
    for position, result in enumerate(results):
        if isinstance(result, InputError):
            errors[position] = result
        else:
            pictures[position] = result
    return pictures, errors


@contextlib.contextmanager
def _progress(stream: TextIO, total: int, todo: int) -> Iterator[Callable[[int], None]]:
    """Progress of `todo` out of `total` pictures: a bar with rate and time left on a terminal, else plain lines."""
    if not stream.isatty():
        yield _Lines(stream, total, todo).advance
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
    with Progress(TextColumn("features"), *columns, console=Console(file=stream)) as bar:
        task = bar.add_task("features", total=total, completed=total - todo, rate="")
        began, done = time.monotonic(), 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            bar.update(task, advance=count, rate=f"{done / (time.monotonic() - began):.1f} a second")

        yield advance


class _Lines:
    """Progress for logs: a plain line now and then."""

    def __init__(self, stream: TextIO, total: int, todo: int) -> None:
        self.stream, self.total, self.todo = stream, total, todo
        self.done = 0
        self.began = self.told = time.monotonic()

    def advance(self, count: int) -> None:
        self.done += count
        now = time.monotonic()
        if now - self.told >= LINE_SECONDS:
            rate = self.done / (now - self.began)
            left = (self.todo - self.done) / rate
            print(
                f"features: {self.total - self.todo + self.done} of {self.total} pictures, {rate:.1f} a second, "
                f"{left:.0f} s left",
                file=self.stream,
                flush=True,
            )
            self.told = now
