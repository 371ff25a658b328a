"""zsl-infer and zsl-eval on object stores: fsspec's store in memory, and s3fs with a server of this machine.

The server (moto) is of the extra `slow`, and so is its test.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import signal
import socket
import subprocess
import sys
import tarfile
import time
import urllib.request
import zipfile
from importlib.util import find_spec

import fsspec
import numpy as np
import pytest
from PIL import Image

from support.lone import IMPORTS
from support.tiny_bundle import SEEN, UNSEEN, class_table, draw_pictures
from zsl_runtime.cli import evaluate, infer
from zsl_runtime.inputs import stores
from zsl_runtime.labelling.results import Sink

MEMORY = fsspec.filesystem("memory")
NAMES = SEEN + UNSEEN


def encoded(number: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(draw_pictures(class_table(), np.array([number % 8]), seed=number)[0]).save(stream, "PNG")
    return stream.getvalue()


PICTURES = [encoded(number) for number in range(24)]


@pytest.fixture
def files():
    """Path -> bytes: class folders of three pictures each, one that cannot be read, a zip and a tar file."""
    made = {f"photos/{NAMES[number % 8]}/{number}.png": data for number, data in enumerate(PICTURES)}
    made["photos/robin/bad.jpg"] = b"no picture"
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for number in range(6):
            archive.writestr(f"{number}.png", PICTURES[number])
    made["more/z.zip"] = packed.getvalue()
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for number in range(6):
            info = tarfile.TarInfo(f"{number}.png")
            info.size = len(PICTURES[number])
            archive.addfile(info, io.BytesIO(PICTURES[number]))
    made["more/t.tar"] = packed.getvalue()
    return made


@pytest.fixture
def here(files, tmp_path):
    """The same on the disk."""
    for name, data in files.items():
        path = tmp_path / "here" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return tmp_path / "here"


@pytest.fixture
def there(files, monkeypatch):
    """The same in the store in memory."""
    if MEMORY.ls("/"):
        MEMORY.rm("/", recursive=True)
    for name, data in files.items():
        MEMORY.pipe(f"/b/{name}", data)
    monkeypatch.setattr(stores, "PAUSE", 0.001)
    return "memory://b"


@pytest.fixture
def run(capfdbinary):
    """Run a command in this process: (exit code, stdout, stderr lines)."""

    def run(command, *arguments: object) -> tuple[int, bytes, list[str]]:
        code = command.main([*map(str, arguments)])
        captured = capfdbinary.readouterr()
        return code, captured.out, captured.err.decode().splitlines()

    return run


@pytest.fixture
def options(shared_bundle):
    return ["--engine", shared_bundle(rule="gaussian"), "--backend", "ort"]


def as_there(data: bytes, here: object) -> bytes:
    return data.replace(str(here).encode(), b"memory://b")


PATHS = ["photos", "photos/*/1*.png", "more/z.zip", "more/t.tar"]


@pytest.mark.parametrize("format_", ["csv", "jsonl"])
def test_labels_are_those_of_the_same_files_on_the_disk(run, options, here, there, format_):
    options += ["--format", format_, "--quiet"]
    code, wanted, told = run(infer, *(here / path for path in PATHS), *options)
    assert code == 6
    code, out, _ = run(infer, *(f"{there}/{path}" for path in PATHS), *options)
    assert code == 6

    def of_pictures(data):  # the words of the one that cannot be read differ
        return [line for line in data.splitlines() if b'"error"' not in line]

    assert of_pictures(out) == of_pictures(as_there(wanted, here))
    assert len(of_pictures(out)) == (1 + 47 * 5 if format_ == "csv" else 47)
    assert told[-1].startswith("labelled 47 of 48 pictures, ")


def test_an_output_lies_there_whole(run, options, here, there):
    code, wanted, _ = run(infer, here / "photos", *options)
    code, out, _ = run(infer, f"{there}/photos", *options, "--output", "memory://b/out/labels.csv")
    assert (code, out) == (6, b"")
    assert MEMORY.cat("/b/out/labels.csv") == as_there(wanted, here)
    assert MEMORY.ls("/b/out", detail=False) == ["/b/out/labels.csv"]


def test_shares_in_a_store_are_merged_there(run, options, here, there):
    options += ["--batch-size", 1]
    _, wanted, _ = run(infer, here / "photos", here / "more/z.zip", *options)
    parts = [f"memory://b/out/{index}.csv" for index in range(3)]
    for index, part in enumerate(parts):
        run(infer, f"{there}/photos", f"{there}/more/z.zip", *options, "--shard", f"{index}/3", "--output", part)
    code, out, err = run(infer, "--merge", *parts, "--output", "memory://b/out/all.csv")
    assert (code, out) == (6, b"")
    assert err == ["merged 3 shares: 31 answers, of which 1 could not be read"]
    assert MEMORY.cat("/b/out/all.csv") == as_there(wanted, here)
    MEMORY.rm("/b/out/1.csv.share")
    code, _, err = run(infer, "--merge", *parts)
    assert (code, len(err)) == (2, 1)
    assert "E-MERGE: 'memory://b/out/1.csv.share' cannot be read: there is none" in err[0]


def test_an_interruption_leaves_nothing_in_the_store_and_says_so(run, options, there, monkeypatch):
    real, calls = Sink.write, []

    def write(self, data, batch):
        real(self, data, batch)
        calls.append(len(batch))
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Sink, "write", write)
    words = [f"{there}/photos", *options, "--batch-size", 2, "--shard", "0/1", "--output", "memory://b/out/l.csv"]
    code, _, err = run(infer, *words)
    assert code == 130
    assert "nothing was written: what goes to a store is put there when all is done" in err
    assert not MEMORY.exists("/b/out")
    code, _, err = run(infer, *words, "--resume")
    assert code == 2
    assert "E-RESUME: 'memory://b/out/l.csv' is in a store, where nothing is before all is" in err[0]


def test_pictures_that_cannot_be_fetched_are_told_and_the_rest_is_labelled(run, options, there, monkeypatch):
    real = MEMORY.cat_file

    def cat_file(path, **named):
        if path.endswith("/9.png"):
            raise ConnectionResetError("cut midway")
        return real(path, **named)

    monkeypatch.setattr(type(MEMORY), "cat_file", staticmethod(cat_file))
    code, out, err = run(infer, f"{there}/photos", *options)
    assert code == 6
    assert len({row["path"] for row in csv.DictReader(io.StringIO(out.decode(), newline=""))}) == 23
    assert "error: E-STORE-READ: 'memory://b/photos/tit/9.png' cannot be read: cut midway; see that it is there" in (
        " ".join(err)
    )
    assert any("1 not to be read from their store (E-STORE-READ)" in line for line in err)


def test_a_bundle_in_a_store_is_to_be_copied(run, there):
    code, _, err = run(infer, f"{there}/photos", "--engine", "s3://bucket/birds.bundle")
    assert (code, len(err)) == (2, 1)
    assert "a bundle is opened on the disk; copy it from the store first" in err[0]


def test_accuracy_is_that_of_the_same_files_on_the_disk(run, shared_bundle, here, there, tmp_path):
    bundle, words = shared_bundle(rule="gaussian"), ["--backend", "ort", "--format", "json"]
    wanted = json.loads(run(evaluate, bundle, here / "photos", *words)[1])
    found = json.loads(run(evaluate, bundle, f"{there}/photos", *words)[1])
    table = tmp_path / "table.csv"
    lines = [f"{there}/photos/{NAMES[number % 8]}/{number}.png,{NAMES[number % 8]}\n" for number in range(24)]
    table.write_text(f"path,class\n{''.join(lines)}", encoding="utf-8")
    listed = json.loads(run(evaluate, bundle, table, *words)[1])
    for other in (found, listed):
        assert {key: value for key, value in other.items() if key.startswith(("accuracy", "S", "U", "H"))} == {
            key: value for key, value in wanted.items() if key.startswith(("accuracy", "S", "U", "H"))
        }
    assert "E-TRUTH" in run(evaluate, bundle, f"{there}/none", *words)[2][0]
    assert "is a file: copy a table to the disk" in run(evaluate, bundle, f"{there}/more/t.tar", *words)[2][0]


def test_only_the_store_that_was_named_is_opened_and_none_for_files_of_the_disk(run, options, here, there, monkeypatch):
    real, opened = fsspec.filesystem, []
    monkeypatch.setattr(fsspec, "filesystem", lambda kind, **named: opened.append(kind) or real(kind, **named))
    stores._opened.cache_clear()
    run(infer, here / "photos", *options)
    assert opened == []
    run(infer, f"{there}/photos", *options)
    assert opened == ["memory"]


def test_files_of_the_disk_need_no_fsspec(here, options):
    program = "import sys; from zsl_runtime.cli.infer import main; main(); print('fsspec' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program, here / "photos" / "robin", *options, "--output", os.devnull],
        env={**os.environ, "PYTHONPATH": IMPORTS},
        capture_output=True,
        check=True,
    )
    assert done.stdout == b"False\n"


# --- s3 -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def s3(files, tmp_path):
    """Environment of a client of an s3 server of this machine that has the files in the bucket `birds`."""
    for package in ("moto", "flask", "s3fs"):
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed; it is of the extra slow")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
        "PYTHONPATH": IMPORTS,
        "AWS_ENDPOINT_URL": address,
        "AWS_DEFAULT_REGION": "us-east-1",
        "HOME": str(tmp_path),
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "y",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    try:
        for _ in range(300):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(address, timeout=5).close()
                break
            time.sleep(0.1)
        folder = tmp_path / "put"
        for name, data in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        python(
            environment,
            "import fsspec, sys; fs = fsspec.filesystem('s3'); fs.mkdir('birds'); "
            "fs.put(sys.argv[1] + '/', 'birds', recursive=True)",
            folder,
        )
        yield environment
    finally:
        server.kill()
        server.wait()


def python(environment, program, *words, check=True):
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, words)],
        env=environment,
        capture_output=True,
        check=check,
        timeout=300,
    )


def command(environment, name, *words):
    module = {"zsl-infer": "infer", "zsl-eval": "evaluate"}[name]
    done = python(
        environment, f"import sys; from zsl_runtime.cli.{module} import main; sys.exit(main())", *words, check=False
    )
    return done.returncode, done.stdout, done.stderr.decode().splitlines()


@pytest.mark.slow
def test_labels_from_and_to_a_server_of_s3(s3, options, here, run):
    wanted = run(infer, *(here / path for path in PATHS), *options, "--quiet")[1].replace(
        str(here).encode(), b"s3://birds"
    )
    words = [*(f"s3://birds/{path}" for path in PATHS), *options, "--quiet"]
    code, out, err = command(s3, "zsl-infer", *words)
    assert (code, out) == (6, wanted), err
    code, out, err = command(s3, "zsl-infer", *words, "--output", "s3://birds/out/labels.csv")
    assert (code, out) == (6, b"")
    got = python(s3, "import fsspec, sys; sys.stdout.buffer.write(fsspec.filesystem('s3').cat('birds/out/labels.csv'))")
    assert got.stdout == wanted
    code, out, _ = command(s3, "zsl-eval", options[1], "s3://birds/photos", "--backend", "ort", "--format", "json")
    assert (code, json.loads(out)["accuracy"] > 0.5) == (6, True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "change", "told"),
    [
        ("s3://birds/none/*.jpg", {}, "E-INPUT-MISSING: there is no 's3://birds/none/*.jpg'"),
        ("s3://no-such-bucket/a.jpg", {}, "E-INPUT-MISSING: there is no 's3://no-such-bucket/a.jpg'"),
        (
            "s3://birds/photos",
            {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"},
            "E-STORE: 's3://birds/photos' cannot be looked",
        ),
        ("s3://birds/photos", {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "E-STORE: 's3://birds/photos'"),
    ],
)
def test_what_is_wrong_with_a_server_of_s3_is_one_line(s3, options, path, change, told):
    code, out, err = command({**s3, **change}, "zsl-infer", path, *options)
    assert (code, out, len(err)) == (2, b"", 1), err
    assert told in err[0]
