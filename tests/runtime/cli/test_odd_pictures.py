"""zsl-infer meets the pictures that the field brings: told with exit 6, or labelled as what they show."""

from __future__ import annotations

import csv
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from support.tiffs import page, tiff
from support.tiny_bundle import SEEN, class_table, draw_pictures
from zsl_runtime.cli.infer import main

ROBIN = draw_pictures(class_table(), np.arange(1), seed=21)[0]  # of the first class


def grey() -> np.ndarray:
    """The picture's luminance by hand, 0 to 255."""
    return np.asarray(Image.fromarray(ROBIN).convert("L"))


def twelve_bits(says: bool) -> bytes:
    samples = (grey().astype(np.uint16) * 16 + 15).astype("<u2")
    height, width = samples.shape
    tags = {"t281": 4095} if says else {}
    return tiff([page(samples.tobytes(), width, height, 16, **tags)])


def nef() -> bytes:
    preview = np.ascontiguousarray(ROBIN[::4, ::4])
    height, width = ROBIN.shape[:2]
    raw = page(bytes(2 * width * height), width, height, 16, t262=32803)
    return tiff([page(preview.tobytes(), preview.shape[1], preview.shape[0], (8, 8, 8), t254=1, t330=[raw])])


def noted() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(ROBIN).save(stream, "PNG")
    data, body = stream.getvalue(), b"Comment\0\0" + zlib.compress(bytes(3 << 20))
    note = struct.pack(">I", len(body)) + b"zTXt" + body + struct.pack(">I", zlib.crc32(b"zTXt" + body))
    return data[:33] + note + data[33:]


@pytest.fixture
def infer(capfd, shared_bundle, tmp_path):
    def run(files: dict[str, bytes]) -> tuple[int, dict[str, str], list[str]]:
        for name, data in files.items():
            (tmp_path / name).write_bytes(data)
        paths = [str(tmp_path / name) for name in files]
        code = main(["--quiet", "--engine", str(shared_bundle()), "--topk", "1", *paths])
        out, err = capfd.readouterr()
        answers = {row["path"].rpartition("/")[2]: row["class"] for row in csv.DictReader(io.StringIO(out))}
        return code, answers, err.splitlines()

    return run


def test_what_cannot_be_the_photograph_is_told_and_the_rest_is_labelled(infer):
    code, answers, err = infer(
        {
            "DSC_0001.NEF": nef(),
            "renamed.tif": nef(),
            "dark.tif": twelve_bits(says=False),
            "IMG_0001.heic": struct.pack(">I", 24) + b"ftypheic" + bytes(4) + b"mif1heic" + bytes(40),
            "noted.png": noted(),
        }
    )
    assert code == 6
    assert answers == {"noted.png": SEEN[0]}
    assert [line.split(":")[1].strip() for line in err[:4]] == [
        "E-IMAGE-PREVIEW",
        "E-IMAGE-PREVIEW",
        "E-IMAGE-RANGE",
        "E-IMAGE-KIND",
    ]
    assert all("'" in line and ";" in line for line in err[:4])
    assert len(err) == 5  # and how many were labelled


def test_twelve_bits_that_are_told_are_labelled_like_the_same_picture_of_eight(infer):
    stream = io.BytesIO()
    Image.fromarray(grey()).save(stream, "PNG")
    code, answers, err = infer({"eight.png": stream.getvalue(), "twelve.tif": twelve_bits(says=True)})
    assert code == 0
    assert answers["twelve.tif"] == answers["eight.png"]
    assert not [line for line in err if line.startswith("error")]
