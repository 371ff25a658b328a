"""Memory of labelling does not depend on how many pictures there are."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tracemalloc
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from support.tiny_bundle import SIDE
from zsl_runtime.inputs.files import find_files, list_entries, pictures
from zsl_runtime.inputs.item import SHARD_SUFFIXES, Tally
from zsl_runtime.labelling.ahead import Ahead
from zsl_runtime.labelling.reading import Reader, read_ahead
from zsl_runtime.labelling.results import open_partial, undone
from zsl_runtime.labelling.scoring import score
from zsl_runtime.machine.stop import Stop
from zsl_runtime.pixels.pixels import SUFFIXES, PixelSpec

if TYPE_CHECKING:
    from pathlib import Path

FEW, MANY = 100, 2000
NAME_BYTES = 200  # a folder's names are in memory at once, sorted, and nothing else of a picture is
RESIDENT_BYTES = 1500  # beyond that the system's allocator keeps some of what was freed
MEASURED = """
import resource, sys
from zsl_runtime.cli.infer import main
code = main(sys.argv[1:])
print("PEAK", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
sys.exit(code)
"""

pytestmark = pytest.mark.slow


def folder_of(folder: Path, count: int) -> Path:
    """As many small pictures, which are links to the same one."""
    folder.mkdir()
    Image.fromarray(np.full((SIDE, SIDE, 3), 7, np.uint8)).save(folder / "000000.png")
    for number in range(1, count):
        os.link(folder / "000000.png", folder / f"{number:06d}.png")
    return folder


def shard_of(path: Path, folder: Path) -> Path:
    """The pictures of a folder, each with its bytes."""
    with tarfile.open(path, "w") as archive:
        for file in sorted(folder.iterdir()):
            info = tarfile.TarInfo(file.name)
            info.size = file.stat().st_size
            with file.open("rb") as stream:
                archive.addfile(info, stream)
    return path


def peak_of(paths: list[str], out: Path, handle: int = -1) -> int:
    """Bytes at most in use while pictures go from the disk through an engine that does nothing into a file."""
    stop, tally = Stop(), Tally()
    engine = SimpleNamespace(score_with=lambda _snapshot, rows: (np.zeros((len(rows), 1), np.float32),) * 2)
    tracemalloc.start()
    try:
        entries = list_entries(handle, SUFFIXES, null=False, stop=stop, tally=tally)
        items = pictures(find_files(paths, SUFFIXES, SHARD_SUFFIXES, entries), SUFFIXES, tally)
        reader = Reader(PixelSpec(SIDE, SIDE), (SIDE, SIDE, 3))
        with (
            open_partial(str(out), {}, resume=False) as partial,
            read_ahead(reader, undone(items, partial.state), workers=2, batch_size=8, stop=stop) as rows,
            Ahead(score(engine, SimpleNamespace(table=["one"]), rows, batch_size=8), depth=1) as batches,
        ):
            for entries_of_batch, scores, *_ in batches:
                assert len(scores) == len(entries_of_batch)
                partial.write(b"line\n" * len(scores), entries_of_batch)
            partial.complete = True
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", ["folder", "list", "shard"])
def test_what_python_holds_is_bounded(tmp_path, kind):
    peaks = []
    for count in (FEW, FEW, MANY):  # the first one pays for what is loaded once
        out, folder = tmp_path / f"{len(peaks)}.out", folder_of(tmp_path / f"{len(peaks)}", count)
        if kind == "folder":
            peaks.append(peak_of([str(folder)], out))
        elif kind == "shard":
            peaks.append(peak_of([str(shard_of(folder.with_suffix(".tar"), folder))], out))
        else:
            (tmp_path / "list").write_text("".join(f"{path}\n" for path in sorted(folder.iterdir())))
            with (tmp_path / "list").open("rb") as stream:
                peaks.append(peak_of(["-"], out, stream.fileno()))
        assert out.read_bytes() == b"line\n" * count
    _, few, many = peaks
    assert (many - few) / (MANY - FEW) < (NAME_BYTES if kind == "folder" else NAME_BYTES / 4)


def test_the_process_does_not_grow(own_bundle, tmp_path):
    bundle = own_bundle()
    peaks = []
    for count in (FEW, MANY):
        folder = folder_of(tmp_path / f"{count}", count)
        arguments = [str(folder), "--engine", str(bundle), "--threads", "2", "--output", str(tmp_path / "out.csv")]
        done = subprocess.run([sys.executable, "-c", MEASURED, *arguments], capture_output=True, text=True, check=True)
        peaks.append(1024 * int(done.stdout.split()[-1]))
    assert (peaks[1] - peaks[0]) / (MANY - FEW) < RESIDENT_BYTES
