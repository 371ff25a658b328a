"""zsl-infer --explain: the answers are as ever, and beside them lies why; what cannot be is refused in one line."""

from __future__ import annotations

import io
import json
import os
import re
import resource
import signal
import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from support.forked import allow_fork, become_nobody, forked
from support.tiny_bundle import as_regions, class_table, draw_pictures
from zsl_runtime.cli.infer import main
from zsl_runtime.labelling.results import Sink

if TYPE_CHECKING:
    from pathlib import Path

TABLE = class_table()
PICTURES = draw_pictures(TABLE, np.arange(8), seed=21)
PROGRAM = [sys.executable, "-c", "import sys; from zsl_runtime.cli.infer import main; sys.exit(main())"]


@pytest.fixture
def bundle(shared_bundle) -> Path:
    return shared_bundle(rule="gaussian", explain=True)


@pytest.fixture
def photos(tmp_path) -> Path:
    """One picture of each class, two of them of one name."""
    folder = tmp_path / "photos"
    for number, picture in enumerate(PICTURES):
        (folder / f"f{number // 2}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(folder / f"f{number // 2}" / f"{number % 2}.png")
    return folder


def sheets_in(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "sheets").iterdir())


@pytest.mark.parametrize("format_", ["csv", "jsonl", "csv-safe"])
def test_answers_are_as_ever_and_each_has_a_sheet(infer, bundle, photos, tmp_path, format_) -> None:
    plain = infer(photos, "--engine", bundle, "--format", format_)
    code, out, err = infer(photos, "--engine", bundle, "--format", format_, "--explain", tmp_path / "why")
    assert (code, out) == (0, plain[1])
    assert err[-1] == f"explained 8 pictures: {tmp_path / 'why' / 'index.html'}"
    assert sheets_in(tmp_path / "why") == [f"{place + 1:06d}-f{place // 2}-{place % 2}.png" for place in range(8)]
    page = (tmp_path / "why" / "index.html").read_text("utf-8")
    for place in range(8):
        assert str(photos / f"f{place // 2}" / f"{place % 2}.png") in page
    assert page.count("<article") == 8
    assert 'class="map"' in page


def test_pictures_of_archives_and_those_that_cannot_be_read(infer, bundle, tmp_path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for number, picture in enumerate(PICTURES[:2]):
            data = io.BytesIO()
            Image.fromarray(picture).save(data, "PNG")
            archive.writestr(f"{number}/x.png", data.getvalue())
        archive.writestr("2/x.png", b"no picture")
    code, _, err = infer(tmp_path / "a.zip", "--engine", bundle, "--explain", tmp_path / "why")
    assert code == 6
    assert sheets_in(tmp_path / "why") == ["000001-0-x.png", "000002-1-x.png"]
    assert "1 could not be read" in (tmp_path / "why" / "index.html").read_text("utf-8")
    assert "explained 2 pictures" in err[-1]


def test_classes_that_a_filter_leaves_are_the_only_ones_told_of(infer, bundle, photos, tmp_path) -> None:
    infer(photos, "--engine", bundle, "--classes", "unseen", "--explain", tmp_path / "why")
    page = (tmp_path / "why" / "index.html").read_text("utf-8")
    assert "<bdi>eagle owl</bdi>" in page
    assert "<bdi>crow</bdi>" not in page
    assert "handicap" not in page.split("<main")[1]


def test_rows_of_features_have_sheets_without_pictures(infer, shared_bundle, tmp_path) -> None:
    np.save(tmp_path / "rows.npy", as_regions(PICTURES))
    engine = shared_bundle(kind="backbone_features", rule="gaussian", explain=True)
    code, _, err = infer(tmp_path / "rows.npy", "--engine", engine, "--explain", tmp_path / "why")
    assert code == 0
    assert "explained 8 rows" in err[-1]
    assert "--photo:url" not in (tmp_path / "why" / "index.html").read_text("utf-8")


def test_a_folder_among_the_pictures_is_passed_over(infer, bundle, photos) -> None:
    code, _, err = infer(photos, "--engine", bundle, "--explain", photos / "why")
    assert code == 0
    assert len(sheets_in(photos / "why")) == 8
    assert "labelled 8 of 8 pictures" in err[0]


def test_a_share_of_the_pictures_has_its_own_folder(infer, bundle, photos, tmp_path) -> None:
    for share in range(2):
        code, *_ = infer(
            photos, "--engine", bundle, "--shard", f"{share}/2", "--output", tmp_path / f"{share}.csv",
            "--explain", tmp_path / f"why{share}",
        )  # fmt: skip
        assert code == 0
    assert len(sheets_in(tmp_path / "why0")) + len(sheets_in(tmp_path / "why1")) == 8


def test_far_pictures_are_said_to_be_unlike_anything(infer, bundle, tmp_path) -> None:
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "night.png")
    _, out, _ = infer(tmp_path / "night.png", "--engine", bundle, "--format", "jsonl", "--explain", tmp_path / "why")
    assert json.loads(out)["far"] is True
    assert "Unlike anything known:" in (tmp_path / "why" / "index.html").read_text("utf-8")


def refusal(err: list[str], code: str) -> str:
    (line,) = err
    assert line.startswith(f"error: {code}:"), line
    return line


def test_what_cannot_be_explained_is_refused_before_anything_is_made(infer, shared_bundle, bundle, photos, tmp_path):
    why = tmp_path / "why"
    code, out, err = infer(photos, "--engine", shared_bundle(rule="gaussian"), "--explain", why)
    assert (code, out) == (2, b"")
    assert "export the run again" in refusal(err, "E-EXPLAIN")
    fitted = shared_bundle(explain=True)
    assert "leave --cascade" in refusal(
        infer(photos, "--engine", fitted, "--cascade", "--explain", why)[2], "E-EXPLAIN"
    )
    going_on = infer(photos, "--engine", bundle, "--resume", "--output", tmp_path / "o.csv", "--explain", why)
    assert "leave --resume" in refusal(going_on[2], "E-EXPLAIN")
    refusal(infer(photos, "--engine", bundle, "--explain", "s3://bucket/why")[2], "E-EXPLAIN-FOLDER")
    assert not why.exists()


def test_a_folder_that_holds_something_is_left_alone(infer, bundle, photos, tmp_path) -> None:
    why = tmp_path / "why"
    assert infer(photos, "--engine", bundle, "--explain", why)[0] == 0
    before = (why / "index.html").read_bytes()
    code, out, err = infer(photos, "--engine", bundle, "--explain", why)
    assert (code, out) == (2, b"")
    assert "which is not replaced; give an empty or a new folder" in refusal(err, "E-EXPLAIN-FOLDER")
    assert (why / "index.html").read_bytes() == before


def test_where_there_is_nothing_to_label_no_folder_is_left(infer, bundle, tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    code, *_ = infer(tmp_path / "empty", "--engine", bundle, "--explain", tmp_path / "why")
    assert code == 2
    assert not (tmp_path / "why").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_leaves_whole_sheets_and_a_page(infer, bundle, photos, tmp_path, monkeypatch, number, code):
    real = Sink.write

    def write(self, data, batch):
        real(self, data, batch)
        if batch:
            monkeypatch.setattr(Sink, "write", real)
            os.kill(os.getpid(), number)

    monkeypatch.setattr(Sink, "write", write)
    found, *_ = infer(photos, "--engine", bundle, "--batch-size", 2, "--explain", tmp_path / "why")
    assert found == code
    for name in sheets_in(tmp_path / "why"):
        assert re.fullmatch(r"00000\d-f\d-\d\.png", name)
        with Image.open(tmp_path / "why" / "sheets" / name) as image:
            image.load()
    assert 2 <= len(sheets_in(tmp_path / "why")) < 8
    assert "It was stopped before" in (tmp_path / "why" / "index.html").read_text("utf-8")


def test_a_full_disk_is_said_in_one_line_and_leaves_nothing_half_written(bundle, photos, tmp_path) -> None:
    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))

    arguments = [photos, "--engine", bundle, "--backend", "ort", "--explain", tmp_path / "why"]
    done = subprocess.run([*PROGRAM, *map(str, arguments)], capture_output=True, check=False, preexec_fn=limit)
    assert done.returncode == 2
    assert b"error: E-SYSTEM: could not write a sheet" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "why").exists()


@allow_fork
def test_a_folder_that_cannot_be_written_to_is_said_in_one_line(bundle, photos, tmp_path) -> None:
    (tmp_path / "closed").mkdir(mode=0o555)

    def label() -> int:
        return main([str(photos), "--engine", str(bundle), "--explain", str(tmp_path / "closed" / "why")])

    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    outcome = forked(label, **become_nobody())
    assert outcome.code in {2, 5}
    if outcome.code == 2:
        assert "E-SYSTEM" in outcome.stderr or "E-BUNDLE" in outcome.stderr
    assert list((tmp_path / "closed").iterdir()) == []
