"""zsl-infer --sort-into: pictures end in the folders of their classes, and results are as ever."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import signal
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from support.tiny_bundle import SEEN, UNSEEN, as_regions, class_table, draw_pictures
from zsl_runtime.labelling import sorting
from zsl_runtime.labelling.results import Sink

TABLE = class_table()
NAMES = SEEN + UNSEEN
PICTURES = draw_pictures(TABLE, np.arange(8), seed=21)


@pytest.fixture
def bundle(shared_bundle) -> Path:
    return shared_bundle()


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too, by its path there."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_pictures_are_sorted_and_results_are_as_without(infer, bundle, photos, tmp_path):
    _, expected, _ = infer(photos, "--engine", bundle)
    (photos / "bad.jpg").write_bytes(b"no picture")
    code, out, err = infer(photos, "--engine", bundle, "--sort-into", tmp_path / "sorted")
    assert (code, out) == (6, expected)
    assert tree(tmp_path / "sorted") == {
        f"{name}/{number}.png": (photos / f"{number}.png").read_bytes() for number, name in enumerate(NAMES)
    }
    assert err[-3:-1] == [f"sorted into {str(tmp_path / 'sorted')!r}: 8 copied", "not sorted: 1 could not be read"]
    code, out, err = infer(photos, "--engine", bundle, "--sort-into", tmp_path / "sorted")
    assert (code, out) == (6, expected)
    assert err[-3].endswith(": 0 copied, 8 were there before")
    assert len(tree(tmp_path / "sorted")) == 8


def test_what_is_less_probable_is_unsure(infer, bundle, photos, tmp_path):
    _, out, _ = infer(photos, "--engine", bundle, "--format", "jsonl")
    chances = {
        Path(one["path"]).name: one["predictions"][0]["probability"] for one in map(json.loads, out.splitlines())
    }
    limit = sorted(chances.values())[4]
    _, out, err = infer(photos, "--engine", bundle, "--sort-into", tmp_path / "sorted", "--min-probability", limit)
    found = tree(tmp_path / "sorted")
    unsure = {name for name, chance in chances.items() if chance < limit * (1 - 1e-6)}
    assert {name.partition("/")[2] for name in found if name.startswith("unsure/")} == unsure
    assert len(found) == 8
    assert f"{len(unsure)} of them in 'unsure'" in err[-2]


def test_a_folder_within_what_is_labelled_is_left_out_the_next_time(infer, bundle, photos, monkeypatch):
    monkeypatch.chdir(photos)
    code, expected, _ = infer(".", "--engine", bundle, "--sort-into", "sorted")
    assert code == 0
    before = tree(photos)
    (photos / "way in").symlink_to("sorted")
    for paths in (["."], ["*"], ["**"], sorted(path.name for path in photos.iterdir())):
        code, out, err = infer(*paths, "--engine", bundle, "--sort-into", "sorted")
        assert code == 0
        assert [line.split(b",")[2:] for line in out.splitlines()] == [
            line.split(b",")[2:] for line in expected.splitlines()
        ]
        assert err[-2].endswith(": 0 copied, 8 were there before")
        assert {name: data for name, data in tree(photos).items() if not name.startswith("way in")} == before


def test_what_is_named_in_the_folder_itself_is_labelled_and_stays_where_it_is(infer, bundle, photos, tmp_path):
    infer(photos, "--engine", bundle, "--sort-into", tmp_path / "sorted")
    before = tree(tmp_path / "sorted")
    one = tmp_path / "sorted" / NAMES[0] / "0.png"
    code, out, err = infer(one, "--engine", bundle, "--sort-into", tmp_path / "sorted", "--topk", 1)
    assert code == 0
    assert len(out.splitlines()) == 2
    assert "not sorted: 1 lie in it already" in err
    code, _, err = infer(tmp_path / "sorted", "--engine", bundle, "--sort-into", tmp_path / "sorted")
    assert code == 2
    assert err[0].startswith("error: E-NO-IMAGES: ")
    assert tree(tmp_path / "sorted") == before


def test_pictures_in_archives_are_extracted(infer, bundle, photos, tmp_path):
    data = {number: (photos / f"{number}.png").read_bytes() for number in range(8)}
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for number in (0, 1, 2):
            archive.writestr(f"x/{number}.png", data[number])
        archive.writestr("y/0.png", data[0] + b"behind its end")
    with tarfile.open(tmp_path / "b.tar.gz", "w:gz") as archive:
        for number in (3, 4):
            info = tarfile.TarInfo(f"../{number}.png")
            info.size = len(data[number])
            archive.addfile(info, io.BytesIO(data[number]))
    arguments = [tmp_path / "a.zip", tmp_path / "b.tar.gz", "--engine", bundle, "--sort-into", tmp_path / "sorted"]
    code, _, _ = infer(*arguments, "--link", "hard", "--batch-size", 2)
    assert code == 0
    found = tree(tmp_path / "sorted")
    assert sorted(found.values()) == sorted([*(data[number] for number in range(5)), data[0] + b"behind its end"])
    assert {Path(name).parts[0] for name in found} == set(NAMES[:5])
    assert infer(*arguments)[2][-2].endswith(": 0 copied, 6 were there before")


@pytest.mark.parametrize("link", ["hard", "symbolic"])
def test_links_in_place_of_copies(infer, bundle, photos, tmp_path, link, monkeypatch):
    monkeypatch.chdir(photos)
    infer("0.png", "--engine", bundle, "--sort-into", tmp_path / "sorted", "--link", link)
    made = tmp_path / "sorted" / NAMES[0] / "0.png"
    assert made.is_symlink() == (link == "symbolic")
    assert made.samefile("0.png")


def test_an_interrupted_run_sorts_every_picture_once_it_is_gone_on_with(infer, bundle, photos, tmp_path, monkeypatch):
    for number in range(40):
        shutil.copy(photos / f"{number % 8}.png", photos / f"more{number:02d}.png")
    arguments = [photos, "--engine", bundle, "--batch-size", 2, "--sort-into", tmp_path / "sorted"]
    real, calls = Sink.write, []

    def write(self, data, batch):
        real(self, data, batch)
        calls.append(len(batch))
        if len(calls) == 5:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Sink, "write", write)
        code, _, err = infer(*arguments, "--output", tmp_path / "out")
    assert code == 130
    some = len(tree(tmp_path / "sorted"))
    assert 4 <= some < 48
    assert any(line.endswith(f": {some} copied") for line in err)
    code, _, err = infer(*arguments, "--output", tmp_path / "out", "--resume")
    assert code == 0
    assert sorted(Path(name).name for name in tree(tmp_path / "sorted")) == sorted(
        path.name for path in photos.iterdir()
    )
    code, _, err = infer(*arguments[:-2], "--output", tmp_path / "other", "--sort-into", tmp_path / "sorted")
    assert err[-2].endswith(": 0 copied, 48 were there before")


def test_a_full_disk_says_what_was_done_before(infer, bundle, photos, tmp_path, monkeypatch):
    copy, copied = sorting.copy_synced, []

    def until_full(source, path):
        copied.append(source)
        if len(copied) == 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        copy(source, path)

    monkeypatch.setattr(sorting, "copy_synced", until_full)
    arguments = [photos, "--engine", bundle, "--batch-size", 2, "--sort-into", tmp_path / "sorted"]
    code, _, err = infer(*arguments, "--output", tmp_path / "out")
    assert code == 2
    assert err[0].startswith("the results of 2 pictures are in ")
    assert err[1] == f"sorted into {str(tmp_path / 'sorted')!r}: 3 copied"
    assert err[2].startswith("error: E-SYSTEM: could not put ")
    assert "No space left on device; free space" in err[2]
    assert len(tree(tmp_path / "sorted")) == 3
    assert infer(*arguments, "--output", tmp_path / "out", "--resume")[0] == 0
    assert len(tree(tmp_path / "sorted")) == 8


def test_a_cascade_sorts_by_its_last_labels(infer, bundle, photos, tmp_path):
    code, out, _ = infer(
        photos, "--engine", bundle, "--cascade", "--topk", 1, "--format", "jsonl", "--sort-into", tmp_path / "sorted"
    )
    assert code == 0
    expected = {
        f"{one['predictions'][0]['class']}/{Path(one['path']).name}" for one in map(json.loads, out.splitlines())
    }
    assert set(tree(tmp_path / "sorted")) == expected
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(photos / "0.png", "0.png")
    code, _, err = infer(tmp_path / "a.tar", "--engine", bundle, "--cascade", "--sort-into", tmp_path / "other")
    assert code == 2
    assert err[-1].startswith("error: E-SORT-INTO: ")
    assert not (tmp_path / "other").exists()


def test_shares_sort_into_one_folder_or_each_into_its_own_and_are_merged(infer, bundle, photos, tmp_path):
    (tmp_path / "other").symlink_to("sorted")  # as a machine may call it
    for index in range(3):
        folder = tmp_path / ("other" if index else "sorted")
        code, _, _ = infer(
            *(photos, "--engine", bundle, "--shard", f"{index}/3", "--output", tmp_path / f"part-{index}"),
            *("--sort-into", folder),
        )
        assert code == 0
    assert len(tree(tmp_path / "sorted")) == 8
    _, expected, _ = infer(photos, "--engine", bundle)
    code, out, _ = infer("--merge", *sorted(tmp_path.glob("part-?")))
    assert (code, out) == (0, expected)


def test_pictures_of_a_store_are_written_and_tasks_go_there_whole(infer, bundle, photos, tmp_path):
    memory = pytest.importorskip("fsspec").filesystem("memory")
    for number in range(3):
        memory.pipe_file(f"/sorting/{number}.png", (photos / f"{number}.png").read_bytes())
    try:
        tasks = ["--format", "label-studio", "--output", "memory://sorting/tasks.json"]
        code, _, err = infer("memory://sorting", "--engine", bundle, "--sort-into", tmp_path / "sorted", *tasks)
        assert code == 0, err
        assert tree(tmp_path / "sorted") == {
            f"{name}/{number}.png": (photos / f"{number}.png").read_bytes() for number, name in enumerate(NAMES[:3])
        }
        found = json.loads(memory.cat_file("/sorting/tasks.json"))
        assert [one["data"]["image"] for one in found] == [f"memory://sorting/{number}.png" for number in range(3)]
    finally:
        memory.rm("/sorting", recursive=True)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--link", "hard"], "--link hard is for --sort-into"),
        (["--sort-into", "s3://bucket/x"], "expected a folder of a disk"),
        (["--sort-into", os.devnull], "is no folder"),
    ],
)
def test_options_that_do_not_go_together(infer, bundle, photos, flags, told):
    code, out, err = infer(photos, "--engine", bundle, *flags)
    assert (code, out, len(err)) == (2, b"", 1)
    assert err[0].startswith("error: E-SORT-INTO: ")
    assert told in err[0]


def test_rows_of_features_cannot_be_sorted(infer, shared_bundle, tmp_path):
    rows = shared_bundle(kind="backbone_features")
    np.save(tmp_path / "rows.npy", as_regions(PICTURES))
    code, _, err = infer(tmp_path / "rows.npy", "--engine", rows, "--sort-into", tmp_path / "sorted")
    assert code == 2
    assert err[-1].startswith("error: E-SORT-INTO: this model takes rows of features")
    assert not (tmp_path / "sorted").exists()
