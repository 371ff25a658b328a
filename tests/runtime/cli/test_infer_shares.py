"""zsl-infer --shard and --merge as the tasks of an array meet them."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from support.lone import IMPORTS, program
from support.tiny_bundle import as_regions, class_table, draw_pictures

TABLE = class_table()
PICTURES = draw_pictures(TABLE, np.arange(8), seed=21)
PROGRAM = program("zsl-infer")


def rows_of(data: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(data.decode(), newline="")))


@pytest.fixture
def photos(tmp_path):
    """40 pictures in folders, one that cannot be read, a zip file with 8 and two tar files."""
    folder = tmp_path / "photos"
    for number in range(40):
        place = folder / f"day {number % 3}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(PICTURES[number % 8]).save(place / f"{number},\n.png")
    (folder / "bad.jpg").write_bytes(b"no picture")
    one = (folder / "day 0" / "0,\n.png").read_bytes()
    with zipfile.ZipFile(folder / "z.zip", "w") as archive:
        for number in range(8):
            archive.writestr(f"{number}.png", one)
    for name in ("a.tar", "b.tar.gz"):
        with tarfile.open(folder / name, f"w:{'gz' if name.endswith('gz') else ''}") as archive:
            for number in range(3):
                info = tarfile.TarInfo(f"{number}.png")
                info.size = len(one)
                archive.addfile(info, io.BytesIO(one))
    return folder


@pytest.fixture
def bundle(shared_bundle):
    return shared_bundle(rule="gaussian")


def shared(infer, tmp_path, count, *words, code=(0, 6)):
    """Label every share; their outputs."""
    paths = [tmp_path / f"part-{index}" for index in range(count)]
    for index, path in enumerate(paths):
        assert infer(*words, "--shard", f"{index}/{count}", "--output", path)[0] in code
    return paths


@pytest.mark.parametrize("format_", ["csv", "jsonl"])
@pytest.mark.parametrize("count", [1, 3, 60])
def test_merged_shares_are_the_bytes_of_one_run(infer, bundle, photos, tmp_path, format_, count):
    """60 shares are more than there are pictures in some: these have a header alone.

    One picture a batch, since ONNX Runtime rounds by what else is in one; the test below is of larger batches.
    """
    words = [photos, f"{photos}/*.zip", f"{photos}/*.tar*", "--engine", bundle, "--format", format_, "--backend", "ort"]
    words += ["--batch-size", 1]
    code, _, err = infer(*words, "--output", tmp_path / "whole")
    assert code == 6
    assert err[-1].startswith("labelled 54 of 55 pictures, ")
    paths = shared(infer, tmp_path, count, *words)
    assert sum(path.stat().st_size for path in paths) > (tmp_path / "whole").stat().st_size - 1
    code, out, err = infer("--merge", *paths[1:], paths[0], "--output", tmp_path / "merged")
    assert (code, out) == (6, b"")
    assert err == [f"merged {count} shares: 55 answers, of which 1 could not be read"]
    assert (tmp_path / "merged").read_bytes() == (tmp_path / "whole").read_bytes()
    code, out, _ = infer("--merge", *paths)
    assert out == (tmp_path / "whole").read_bytes()


def test_in_larger_batches_merged_shares_are_one_run_to_rounding(infer, bundle, photos, tmp_path):
    words = [photos, "--engine", bundle, "--backend", "ort"]
    whole = rows_of(infer(*words)[1])
    merged = rows_of(infer("--merge", *shared(infer, tmp_path, 3, *words))[1])
    assert [{**row, "probability": ""} for row in merged] == [{**row, "probability": ""} for row in whole]
    mine, wanted = ([float(row["probability"]) for row in rows] for rows in (merged, whole))
    np.testing.assert_allclose(mine, wanted, rtol=1e-3)


def test_the_end_says_which_share_it_was(infer, bundle, photos, tmp_path):
    code, _, err = infer(photos, "--engine", bundle, "--shard", "1/2", "--output", tmp_path / "p")
    told = json.loads((tmp_path / "p.share").read_bytes().partition(b"\n")[0])
    assert (told["index"], told["count"], told["units"]) == (1, 2, 41)
    done = told["items"]
    assert 10 < done < 31
    bad = int(code == 6)
    assert err[-1].startswith(f"labelled {done - bad} of {done} pictures of share 1/2, ")


def test_a_share_on_stdout_is_as_in_a_file(infer, bundle, photos, tmp_path):
    words = [photos, "--engine", bundle, "--shard", "0/2"]
    infer(*words, "--output", tmp_path / "p")
    assert infer(*words)[1] == (tmp_path / "p").read_bytes()


def test_a_list_on_stdin_is_shared_out_by_its_names(bundle, photos, tmp_path):
    names = sorted(str(path) for path in photos.rglob("*.png"))
    listing = "\0".join([*names, str(photos / "z.zip")]).encode()
    environment = {**os.environ, "PYTHONPATH": IMPORTS}

    def run(*words):
        done = subprocess.run(
            [*PROGRAM, "-", "-0", "--engine", bundle, "--backend", "ort", "--batch-size", "1", *words],
            input=listing,
            env=environment,
            check=True,
            capture_output=True,
        )
        return done.stdout

    whole = run()
    for index in range(2):
        run("--shard", f"{index}/2", "--output", tmp_path / f"p{index}")
    merged = subprocess.run(
        [*PROGRAM, "--merge", tmp_path / "p0", tmp_path / "p1"], env=environment, check=True, capture_output=True
    )
    assert merged.stdout == whole
    assert len({row["path"] for row in rows_of(whole)}) == 48


def test_rows_of_feature_files_are_shared_out(infer, shared_bundle, tmp_path):
    bundle = shared_bundle(kind="backbone_features")
    np.save(tmp_path / "f.npy", np.concatenate([as_regions(PICTURES)] * 4))
    words = [tmp_path / "f.npy", "--engine", bundle, "--backend", "ort", "--batch-size", 1]
    whole = infer(*words)[1]
    paths = shared(infer, tmp_path, 3, *words, code=(0,))
    assert infer("--merge", *paths)[:2] == (0, whole)
    sizes = [
        json.loads(path.with_name(f"{path.name}.share").read_bytes().partition(b"\n")[0])["items"] for path in paths
    ]
    assert sum(sizes) == 32
    assert min(sizes) > 0


def test_a_share_is_gone_on_with_and_a_finished_one_left_alone(infer, bundle, photos, tmp_path):
    words = [photos, "--engine", bundle, "--shard", "0/2", "--output", tmp_path / "p", "--resume"]
    assert infer(*words)[0] in (0, 6)
    before = (tmp_path / "p").stat().st_mtime_ns
    assert infer(*words)[2] == [f"{tmp_path}/p is complete: nothing to resume; leave --resume out to label again"]
    assert (tmp_path / "p").stat().st_mtime_ns == before
    words[4] = "1/2"
    code, _, err = infer(*words)
    assert code == 2
    assert "E-RESUME" in err[0]
    assert "is complete and is that of share 0/2, not of share 1/2" in err[0]
    (tmp_path / "p.share").unlink()
    code, _, err = infer(*words)
    assert (code, "is the output of another run, not of share 1/2" in err[0]) == (2, True)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--shard", "2/2"], "E-SHARE: --shard '2/2': of 2 the last is 1/2"),
        (["--shard", "one"], "E-SHARE: --shard 'one': expected I/N"),
        (["--shard", "0/2", "--cascade"], "E-SHARE: a cascade labels all pictures together"),
    ],
)
def test_what_is_no_share(infer, bundle, photos, words, told):
    code, out, err = infer(photos, "--engine", bundle, *words)
    assert (code, out, len(err)) == (2, b"", 1)
    assert told in err[0]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--merge", "none"], "E-MERGE: there is no file 'none'"),
        (["--merge", "part-0"], "E-MERGE: 1 of 2 shares were given; 1/2 is missing"),
        (
            ["--merge", "part-0", "part-1", "--topk", "3"],
            "E-MERGE: --merge takes outputs and --output alone; leave --topk",
        ),
        (["--merge", "part-0", "part-1", "--engine", "b"], "leave --engine out"),
        (["--merge", "part-0", "part-1", "--shard", "0/2"], "leave --shard out"),
        (["--merge", "part-0", "part-1", "--resume"], "leave --resume out"),
        (["part-0", "part-1"], "E-USAGE: Missing option '--engine'"),
        (
            ["--merge", "part-0", "part-1", "--output", "./part-0"],
            "E-OUTPUT: --output './part-0' is one of the outputs",
        ),
        (["--merge"], "E-USAGE: Missing argument 'PATHS...'"),
    ],
)
def test_what_cannot_be_merged(infer, bundle, photos, tmp_path, monkeypatch, words, told):
    shared(infer, tmp_path, 2, photos, "--engine", bundle)
    monkeypatch.chdir(tmp_path)
    code, out, err = infer(*words)
    assert (code, out, len(err)) == (2, b"", 1)
    assert told in err[0]


def test_an_older_file_stays_where_a_merge_is_refused(infer, bundle, photos, tmp_path):
    paths = shared(infer, tmp_path, 2, photos, "--engine", bundle)
    (tmp_path / "out.csv").write_text("before")
    assert infer("--merge", paths[0], "--output", tmp_path / "out.csv")[0] == 2
    assert (tmp_path / "out.csv").read_text() == "before"
    assert [path.name for path in tmp_path.glob("*tmp*")] == []
