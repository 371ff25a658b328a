"""Inputs that are large in one way: what takes time or memory by their square would show."""

from __future__ import annotations

import io
import json
import struct
import tarfile
import time
import zipfile

import numpy as np
import pytest

from fuzz.doors import CORPUS, DOORS
from support.sheets import sheet, text_row, write_book
from support.tiny_bundle import ATTRIBUTES
from zsl_runtime.errors import ZslError

SECONDS = 15.0  # of a CPU, whatever else the machine does; most take less than one
HEADER = f"name,{','.join(ATTRIBUTES)}"
ROW = "heron,1,2,3,4,5,6"


def _columns(count: int) -> bytes:
    return f"{HEADER},{','.join(f'c{k}' for k in range(count))}\n{ROW},{','.join('1' * count)}\n".encode()


def _rows(count: int) -> bytes:
    return "\n".join([HEADER, *(f"c{k},1,2,3,4,5,6" for k in range(count))]).encode()


def _tar(count: int) -> bytes:
    member = tarfile.TarInfo("a.txt")
    one = member.tobuf(tarfile.USTAR_FORMAT)
    return one * count + bytes(1024)


def _zip(count: int, name: bytes = b"a.txt") -> bytes:
    """A table of contents of many entries, all of one member."""
    local = struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 0, 0, 0, 0, 0, 0, len(name), 0) + name
    entry = struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, 20, 0, 0, 0, 0, 0, 0, 0, len(name), 0, 0, 0, 0, 0, 0) + name
    at = len(local)
    table = entry * count
    count_ = min(count, 0xFFFF)
    end64 = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, len(table), at)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, at + len(table), 1)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count_, count_, len(table), 0xFFFFFFFF, 0)
    return local + table + end64 + locator + end


def _book(tmp_path, *, merged: int = 0, dimension: str = "A1:G2", row: int = 2) -> bytes:
    rows = text_row(1, HEADER.split(",")) + text_row(row, ROW.split(","))
    first = sheet(rows, dimension=dimension)
    cells = "".join(f'<mergeCell ref="A{k}:B{k}"/>' for k in range(10, 10 + merged))
    first = first.replace("</worksheet>", f'<mergeCells count="{merged}">{cells}</mergeCells></worksheet>')
    return write_book(tmp_path / "x.xlsx", first).read_bytes()


def _generation(count: int) -> bytes:
    data = (CORPUS / "generation" / "seed-gaussian").read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header["__metadata__"]["names"] = json.dumps([f"n{k}" for k in range(count)])
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


LARGE = {
    "columns": ("classes", lambda _: _columns(300_000)),
    "rows": ("classes", lambda _: _rows(200_000)),
    "one line of commas": ("classes", lambda _: b"," * 3_000_000),
    "one quoted cell": ("classes", lambda _: HEADER.encode() + b'\n"' + b"a" * 10_000_000),
    "one long name": ("classes", lambda _: HEADER.encode() + b"\n" + b"e\xcc\x81" * 1_000_000 + b",1,2,3,4,5,6\n"),
    "blank lines": ("classes", lambda _: HEADER.encode() + b"\n" * 3_000_000 + ROW.encode()),
    "spaces": ("classes", lambda _: b" " * 5_000_000 + HEADER.encode()),
    "sep and spaces": ("classes", lambda _: b"\n" * 200_000 + b"sep" + b" " * 200_000 + b"=;"),
    "digits": ("classes", lambda _: f"{HEADER}\nheron,{'1,' * 5}{'9' * 1_000_000}x\n".encode()),
    "brackets": ("manifest", lambda _: b"[" * 5_000_000),
    "objects": ("manifest", lambda _: b'{"a":' * 1_000_000 + b"1" + b"}" * 1_000_000),
    "keys": ("manifest", lambda _: json.dumps({f"k{k}": {} for k in range(200_000)}).encode()),
    "digits of JSON": ("current", lambda _: b'{"generation": ' + b"9" * 1_000_000 + b"}"),
    "names of classes": ("generation", lambda _: _generation(200_000)),
    "lines of history": ("history", lambda _: b'{"number": 1}\n' * 200_000),
    "brackets of history": ("history", lambda _: (b"[" * 2_000 + b"\n") * 500),
    "tar members": ("tar", lambda _: _tar(300_000)),
    "zip entries": ("zip", lambda _: _zip(300_000)),
    "zip entries of one picture": ("zip", lambda _: _zip(60_000, b"a.png")),
    "merged cells": ("workbook", lambda tmp_path: _book(tmp_path, merged=200_000)),
    "a huge dimension": ("workbook", lambda tmp_path: _book(tmp_path, dimension="A1:XFD1048576")),
    "a far row": ("workbook", lambda tmp_path: _book(tmp_path, row=1_048_576)),
    "a farther row": ("workbook", lambda tmp_path: _book(tmp_path, row=1 << 31)),
    "nested axes": ("npy", lambda _: _npy(b"(" * 60_000)),
    "many axes": ("npy", lambda _: _npy(b"(" + b"1," * 30_000 + b")")),
    "states": ("partial", lambda _: (CORPUS / "partial" / "seed-one").read_bytes() * 20_000),
    "a list without lines": ("list", lambda _: b"a" * 3_000_000),
    "a list of lines": ("list", lambda _: b"a\n" * 500_000),
    "digits of PPM": ("picture-ppm", lambda _: b"P3\n2 2\n255\n" + b"1" * 5_000_000),
    "comments of PPM": ("picture-ppm", lambda _: b"P6\n" + b"#x\n" * 500_000 + b"2 2 255\n" + bytes(12)),
    "nodes": ("graph", lambda _: b"\x08\x08" + b"\x3a\x83\x80\x80\x02" + b"\x0a\x02\x22\x00" * (1 << 20)),
    "cells of MATLAB": ("mat", lambda _: _cells(50_000)),
}


def _npy(shape: bytes) -> bytes:
    text = b"{'descr': '<f4', 'fortran_order': False, 'shape': " + shape + b", }\n"
    return b"\x93NUMPY\x02\0" + len(text).to_bytes(4, "little") + text


def _cells(count: int) -> bytes:
    import scipy.io

    stream = io.BytesIO()
    cells = np.empty(count, dtype=object)
    cells[:] = "a"
    scipy.io.savemat(stream, {"c": cells, "features": np.ones((4, 2))})
    return stream.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize("what", sorted(LARGE))
def test_what_is_large_takes_seconds(what, tmp_path):
    name, make = LARGE[what]
    data = make(tmp_path)
    began = time.process_time()
    said = ""
    try:
        DOORS[name].target(data)
    except ZslError as error:
        said = str(error)
    assert len(said) < 3000
    assert time.process_time() - began < SECONDS


def test_archives_made_here_are_what_they_seem(tmp_path):
    with zipfile.ZipFile(io.BytesIO(_zip(70_000))) as archive:
        assert len(archive.infolist()) == 70_000
    (tmp_path / "x.tar").write_bytes(_tar(5))
    with tarfile.open(tmp_path / "x.tar") as archive:
        assert archive.getnames() == ["a.txt"] * 5
