"""Makes the seed corpus: small whole files of every kind that a door takes. `python -m fuzz.seeds` in tests/ writes it.

It is committed, so that a change of a writer cannot change what the doors are tried with; old crashers lie beside it.
"""

from __future__ import annotations

import gzip
import io
import json
import shutil
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Iterator

sys.path.insert(0, str(Path(__file__).parents[1]))

from fuzz.doors import CORPUS, _run, maker, room, tiny
from support import tiffs
from support.sheets import sheet, text_row, write_book
from support.signing import cert_pem, certificate, fixed, of_generation, public_pem, signature, statement
from support.tiny_bundle import ATTRIBUTES, make_tiny_bundle

RNG = np.random.default_rng(5)
PIXELS = (np.add.outer(np.arange(12), np.arange(16))[..., None] * [5, 9, 3] % 256).astype(np.uint8)  # (12, 16, 3)
RGB = Image.fromarray(PIXELS)
CSV = 'name,{},split\nheron,7,1,0,7,1,1,unseen\n"cuckoo, common",0,5,0,0,5,2,unseen\n'.format(",".join(ATTRIBUTES))
TRAINING = "name,split,wing,tail length,red\nant,seen,1,2.5,0\nbee,seen,0,1e2,1\ncat,unseen,3,0,1\n"


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def pictures() -> Iterator[tuple[str, str, bytes]]:
    grey, alpha = RGB.convert("L"), RGB.convert("RGBA")
    alpha.putalpha(grey)
    wide = Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 200)
    exif = Image.Exif()
    exif[0x0112] = 6
    palette = RGB.quantize(16)
    frames = {"save_all": True, "append_images": [RGB.rotate(90), RGB.rotate(180)]}
    yield from (
        ("picture-jpeg", "plain", saved(RGB, "JPEG")),
        ("picture-jpeg", "progressive", saved(RGB, "JPEG", progressive=True, exif=exif, icc_profile=b"x" * 200)),
        ("picture-jpeg", "grey", saved(grey, "JPEG", quality=20)),
        ("picture-jpeg", "cmyk", saved(RGB.convert("CMYK"), "JPEG")),
        ("picture-jpeg", "full", saved(RGB, "JPEG", subsampling=0, restart_marker_blocks=1, comment=b"made by us")),
        ("picture-png", "rgb", saved(RGB, "PNG")),
        ("picture-png", "alpha", saved(alpha, "PNG", exif=exif)),
        ("picture-png", "palette", saved(palette, "PNG", transparency=3)),
        ("picture-png", "bit", saved(grey.convert("1"), "PNG")),
        ("picture-png", "wide", saved(wide, "PNG")),
        ("picture-png", "animated", saved(RGB, "PNG", **frames)),
        ("picture-webp", "lossy", saved(RGB, "WEBP", quality=30)),
        ("picture-webp", "lossless", saved(RGB, "WEBP", lossless=True)),
        ("picture-webp", "alpha", saved(alpha, "WEBP", exif=exif.tobytes())),
        ("picture-webp", "animated", saved(RGB, "WEBP", **frames)),
        ("picture-tiff", "raw", saved(RGB, "TIFF")),
        ("picture-tiff", "lzw", saved(RGB, "TIFF", compression="tiff_lzw")),
        ("picture-tiff", "deflate", saved(alpha, "TIFF", compression="tiff_adobe_deflate")),
        ("picture-tiff", "jpeg", saved(RGB, "TIFF", compression="jpeg")),
        ("picture-tiff", "group4", saved(grey.convert("1"), "TIFF", compression="group4")),
        ("picture-tiff", "packbits", saved(palette, "TIFF", compression="packbits")),
        ("picture-tiff", "wide", saved(wide, "TIFF")),
        ("picture-tiff", "pages", saved(grey, "TIFF", save_all=True, append_images=[grey])),
        ("picture-tiff", "big", tiffs.tiff([tiffs.page(PIXELS.tobytes(), 16, 12, (8, 8, 8))], "<", big=True)),
        ("picture-tiff", "sub", tiffs.tiff([tiffs.page(bytes(4), 2, 2, t330=[tiffs.page(bytes(9), 3, 3)])])),
        ("picture-gif", "plain", saved(palette, "GIF")),
        ("picture-gif", "animated", saved(palette, "GIF", transparency=1, **frames)),
        ("picture-bmp", "rgb", saved(RGB, "BMP")),
        ("picture-bmp", "palette", saved(palette, "BMP")),
        ("picture-bmp", "bit", saved(grey.convert("1"), "BMP")),
        ("picture-bmp", "alpha", saved(alpha, "BMP")),
        ("picture-ppm", "rgb", saved(RGB, "PPM")),
        ("picture-ppm", "grey", saved(grey, "PPM")),
        ("picture-ppm", "bit", saved(grey.convert("1"), "PPM")),
        ("picture-ppm", "text", b"P3\n# ours\n2 2\n255\n1 2 3 4 5 6\n7 8 9 10 11 12\n"),
        ("picture-ppm", "wide", b"P5 3 2 65535\n" + bytes(range(12))),
        ("picture-avif", "plain", saved(RGB, "AVIF", quality=40)),
        ("picture-avif", "alpha", saved(alpha, "AVIF", quality=40)),
        ("picture-jp2", "plain", saved(RGB, "JPEG2000")),
        ("picture-jp2", "stream", saved(grey, "JPEG2000", no_jp2=True)),
    )


def bundles() -> Iterator[tuple[str, str, bytes]]:
    for rule in ("gaussian", "fit", "rows"):
        folder = tiny() if rule == "gaussian" else make_tiny_bundle(room() / rule, rule=rule)
        whole = json.loads((folder / "manifest.json").read_bytes())
        text = json.dumps(whole, ensure_ascii=False).encode()
        yield "manifest", rule, text
        if rule == "gaussian":
            yield "opened", rule, text
            scaled = {**whole, "precisions": {"fp32": "model.onnx"}, "default_precision": "fp32"}
            yield "opened", "precisions", json.dumps(scaled).encode()
            yield "gaussian", rule, (folder / "gaussian.safetensors").read_bytes()
            for door in ("generation", "listing"):
                yield door, rule, (folder / "classes" / "000001.safetensors").read_bytes()
            pointer = {"generation": 1, "sha256": "c" * 64, "manifest_sha256": "f" * 64}
            yield "current", rule, (json.dumps(pointer) + "\n").encode()
            yield "probe", rule, (folder / "probe.safetensors").read_bytes()
            line = (folder / "history.jsonl").read_bytes()
            for door in ("history", "account"):
                yield door, rule, line + line.replace(b'"number": 1', b'"number": 2').replace(b"export", b"add")
        if rule == "fit":
            yield "replay", rule, (folder / "replay.safetensors").read_bytes()
        for part in ("model", "lift", "means", "synthesizer", "rows"):
            if (folder / f"{part}.onnx").exists():
                yield "graph", f"{rule}-{part}", (folder / f"{part}.onnx").read_bytes()
                if rule == "gaussian" and part == "model":
                    yield "graph-ort", rule, (folder / f"{part}.onnx").read_bytes()
                    yield "graph-openvino", rule, (folder / f"{part}.onnx").read_bytes()
    explaining = make_tiny_bundle(room() / "explain", rule="gaussian", explain=True)
    yield "manifest", "explain", json.dumps(json.loads((explaining / "manifest.json").read_bytes())).encode()
    yield "readout", "gaussian", (explaining / "readout.safetensors").read_bytes()
    yield "gaussian", "held", (explaining / "gaussian.safetensors").read_bytes()
    yield "graph", "loop", _loop()
    yield (
        "probe",
        "rows",
        (make_tiny_bundle(room() / "rows-of-features", kind="backbone_features") / "probe.safetensors").read_bytes(),
    )
    profile = {"min_batch": 1, "opt_batch": 8, "max_batch": 32}
    facts = {
        "graph_sha256": json.loads((tiny() / "manifest.json").read_bytes())["files"]["model.onnx"]["sha256"],
        "part": "model",
        "flavour": "tensorrt",
        "version": "10.13.0",
        "compute_capabilities": ["8.9"],
        "gpu": "NVIDIA L4",
        "precision": "fp32",
        "profiles": [profile],
        "max_classes": 100,
        "host_code": False,
        "platform": "linux-x86_64",
    }
    port = {"name": "images", "dtype": "uint8", "shape": ["N", 8, 8, 3]}
    engine = {
        "format": 1,
        "facts": facts,
        "plan": {"sha256": "0" * 64, "bytes": 4},
        "builder": "tensorrt 10.13.0",
        "built_at": "2026-01-02T03:04:05+00:00",
        "build_seconds": 1.5,
        "inputs": [port],
        "outputs": [],
        "verified": {"probe": True, "on": "NVIDIA L4"},
    }
    yield "sidecar", "plan", json.dumps(engine, indent=1).encode()
    choice = {"threads": 1, "chosen": "ort", "seconds": {"ort": 0.1, "openvino": 0.2}, "left_out": {}}
    yield "auto", "choice", json.dumps(choice, indent=1).encode()
    told = {"row_error": 1e-6, "cosine_min": 0.99, "share": 1.0}
    results = [{"what": name, **told} for name in ("features", "scores", "best class")]
    stated = {"limits": {"row_error": 1e-3}, "sections": [{"name": "probe", "results": results}]}
    lower = {"fp16": {"limits": {"row_error": 0.01}, "agreement": 0.99}}
    yield "parity", "whole", json.dumps({"passed": True, **stated, "precisions": lower, "verified": []}).encode()


def _loop() -> bytes:
    """A graph with another one in an attribute of a node."""
    from onnx import TensorProto, helper

    inside = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["d"]), helper.make_node("Identity", ["x"], ["y"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [1]),
        ],
        [
            helper.make_tensor_value_info("d", TensorProto.BOOL, []),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, [1]),
        ],
    )
    graph = helper.make_graph(
        [helper.make_node("Loop", ["n", "b", "a"], ["z"], body=inside)],
        "g",
        [helper.make_tensor_value_info("a", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, [1])],
        [
            helper.make_tensor("n", TensorProto.INT64, [], [3]),
            helper.make_tensor("b", TensorProto.BOOL, [], [True]),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def tables() -> Iterator[tuple[str, str, bytes]]:
    for door in ("classes", "added"):
        yield door, "commas", CSV.encode()
        yield door, "semicolons", ("sep=;\r\n" + CSV.replace('"cuckoo, common"', "cuckoo").replace(",", ";")).encode()
        yield door, "utf16", CSV.replace('"cuckoo, common"', "cuckoo").replace(",", "\t").encode("utf-16")
    yield "training-classes", "plain", TRAINING.encode()
    yield "training-classes", "noted", ("# ours\n" + TRAINING.replace(",", ";").replace("2.5", "2,5")).encode()
    path = CORPUS / "x.xlsx"
    rows = [line.split(",") for line in CSV.replace('"cuckoo, common"', "cuckoo").splitlines()]
    write_book(path, sheet("".join(text_row(number, row) for number, row in enumerate(rows, 1)), dimension="A1:H3"))
    yield "workbook", "ours", path.read_bytes()
    import openpyxl

    book = openpyxl.Workbook()
    for row in rows:
        book.active.append([float(cell) if cell.isdecimal() else cell for cell in row])
    book.active["B2"].number_format = "0%"
    book.active["C2"].number_format = "000"
    book.active.merge_cells("A5:B6")
    book.active.row_dimensions[2].hidden = True
    book.create_sheet("other")
    book.save(path)
    yield "workbook", "openpyxl", path.read_bytes()
    path.unlink()
    words = 'A red bird, 28 to 31 cm; the top is bright green, with no blue.\n\nIts grö\u00dfe is "=1", rarely green.'
    yield "description", "bird", words.encode()
    yield "truth", "plain", b"path,class,image,role\na.png,robin,a.png,test\nb.png,tit,b.png,train\n./a.png,,c,val\n"
    yield "list", "paths", b"\xef\xbb\xbfa.png\r\nb c.png\n\xff\xfe.png\n\n/nowhere/x.png"
    yield "list", "null", b"a.png\0b\nc.png\0"


def made(write: object, *args: object, **options: object) -> bytes:
    stream = io.BytesIO()
    write(stream, *args, **options)
    return stream.getvalue()


def arrays() -> Iterator[tuple[str, str, bytes]]:
    import scipy.io
    import scipy.sparse

    from support.tiny_xlsa17 import FEATURES, make_pair

    rows = RNG.standard_normal((3, 4)).astype(np.float32)
    yield "npy", "float32", made(np.save, rows)
    yield "npy", "fortran", made(np.save, np.asfortranarray(rows.astype(">f8")))
    yield "npy", "regions", made(np.save, (rows * 10).astype(np.int16)[:, None])
    yield "npy", "version2", made(lambda f: np.lib.format.write_array(f, rows.astype(bool), version=(2, 0)))
    yield "arrays", "one", made(np.save, rows)
    yield "arrays", "several", made(np.savez, a=rows, b=np.arange(3))
    yield "mat", "five", made(scipy.io.savemat, {"features": rows.T})
    yield "mat", "packed", made(scipy.io.savemat, {"features": rows.T, "labels": np.arange(3)}, do_compression=True)
    yield "mat", "sparse", made(scipy.io.savemat, {"features": scipy.sparse.csc_matrix(rows.T)})
    yield "mat", "four", made(scipy.io.savemat, {"features": rows.T}, format="4")
    yield "mat", "cells", made(scipy.io.savemat, {"features": rows.T, "c": np.array(["a", "bc"], dtype=object)})
    yield "mat", "seven", _hdf5(rows)
    folder = make_pair(CORPUS / "xlsa")
    for door, name in (("split-file", "att_splits.mat"), ("features", FEATURES)):
        content = scipy.io.loadmat(folder / name)
        kept = {key: value for key, value in content.items() if not key.startswith("__")}
        if door == "features":
            kept = {
                "features": kept["features"][:, :6],
                "labels": kept["labels"][:6],
                "image_files": kept["image_files"][:6],
            }
        yield door, "packed", made(scipy.io.savemat, kept, do_compression=True)
        yield door, "plain", made(scipy.io.savemat, {k: v[:20] if door == "split-file" else v for k, v in kept.items()})
        (folder / name).unlink()
    folder.rmdir()


def _hdf5(rows: np.ndarray) -> bytes:
    import h5py

    stream = io.BytesIO()
    with h5py.File(stream, "w", userblock_size=512, libver="earliest") as file:
        data = file.create_dataset("features", data=rows.astype(np.float64))
        data.attrs["MATLAB_class"] = np.bytes_("double")
    data = bytearray(stream.getvalue())
    data[:128] = b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM"
    return bytes(data)


def archives() -> Iterator[tuple[str, str, bytes]]:
    png = saved(RGB.resize((3, 2)), "PNG")
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a/1.png", png)
        archive.writestr("a/2.png", png, zipfile.ZIP_DEFLATED)
        archive.writestr("größe.png", png, zipfile.ZIP_BZIP2)
        link = zipfile.ZipInfo("link.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "a/1.png")
        archive.writestr("readme.txt", "x")
        archive.comment = b"ours"
    yield "zip", "plain", stream.getvalue()
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive, archive.open("1.png", "w", force_zip64=True) as member:
        member.write(png)
    yield "zip", "zip64", stream.getvalue()
    for kind, form in (("gnu", tarfile.GNU_FORMAT), ("pax", tarfile.PAX_FORMAT), ("ustar", tarfile.USTAR_FORMAT)):
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w", format=form) as archive:
            for name, what in (("a/1.png", ""), ("b" * 60 + "/" + "c" * 60 + ".png", ""), ("l.png", "a/1.png")):
                member = tarfile.TarInfo(name)
                member.size = 0 if what else len(png)
                member.type, member.linkname = (tarfile.SYMTYPE, what) if what else (tarfile.REGTYPE, "")
                if form == tarfile.PAX_FORMAT:
                    member.pax_headers = {"comment": "größe", "mtime": "1.5"}
                archive.addfile(member, None if what else io.BytesIO(png))
        whole = stream.getvalue().rstrip(b"\0")
        whole += bytes(-len(whole) % 512 + 1024)
        yield "tar", kind, whole
        yield "tar-gz", kind, gzip.compress(whole, mtime=0)


def work() -> Iterator[tuple[str, str, bytes]]:
    import hashlib
    import os

    import torch

    from zsl_runtime.labelling.results import STATE_FORMAT, chained

    torch.manual_seed(0)
    answers = b"path,rank\na.png,1\n"
    state = {
        "items": 1,
        "unreadable": 0,
        "bytes": len(answers),
        "names": chained("", ["a.png"]),
        "data": hashlib.sha256(answers).hexdigest(),
    }
    header = {"format": STATE_FORMAT, "options": {"topk": 1}, "build": "0.1.0"}
    yield "triton", "png", b'{"topk": 2, "classes": "seen"}\n' + saved(RGB.resize((9, 8)), "PNG")
    yield "triton", "jpeg", b"{}\n" + saved(RGB, "JPEG", quality=20)
    yield "native", "calls", b"any bytes are calls"
    yield "partial", "one", (json.dumps(header) + "\n" + json.dumps(state) + "\n").encode()
    said = {"host": "h", "space": "s", "pid": os.getpid(), "started": "1", "token": "t"}
    yield "claim", "holder", json.dumps({**said, "pid": 1}).encode()
    yield (
        "recipe",
        "gan",
        b'method = "f-clswgan"\npreset = "paper"\nfolds = 3\nsnapshots = [0.5, 1.0]\n[settings]\nhidden = 64\n',
    )
    yield "recipe", "closed", 'method = "gfzsl"\nwords = "größe.txt"\nhead = "gaussian"\nseed = 4\n'.encode()
    yield "run", "tiny", (_run() / "run.json").read_bytes()
    layer = torch.nn.Linear(2, 2)
    steps = torch.optim.Adam(layer.parameters())
    state = {"layer": layer.state_dict(), "steps": steps.state_dict()}
    stream = io.BytesIO()
    torch.save({"step": 3, "whole": 10, "device": "cpu", "state": state}, stream)
    yield "checkpoint", "step3", stream.getvalue()
    stream = io.BytesIO()
    torch.save(layer.state_dict(), stream)
    yield "weights", "zip", stream.getvalue()
    stream = io.BytesIO()
    torch.save(layer.state_dict(), stream, _use_new_zipfile_serialization=False)
    yield "weights", "old", stream.getvalue()
    from safetensors.torch import save

    yield "weights", "tensors", save(layer.state_dict())
    trial = {
        "method": "gfzsl",
        "settings": {"epochs": 2},
        "validation_H": 40.5,
        "seconds": 3.0,
        "final": 9.5,
        "why": "",
    }
    other = {"method": "eszsl", "settings": {}, "validation_H": None, "seconds": 0.0, "final": 0.0, "why": "no time"}
    yield "trials", "two", json.dumps({"used": 12.5, "trials": [trial, other]}, indent=2).encode()
    from support.reported import make_reported

    reported = make_reported(tuple("abcdef"), np.arange(6) < 4, labels=np.arange(6)).material
    assert reported is not None
    yield "report-material", "whole", reported.to_bytes()
    times = {"median": 0.2, "q1": 0.1, "q3": 0.3, "rounds": 3, "data": [0.1, 0.2, 0.3]}
    turns = {
        "b_1_a[1]": {"p50_ms": 1.5, "times_as_fast": {"as": "b_2_b[1]", "median": 2.0, "low": 1.9, "high": 2.1}},
        "b_2_b[1]": {"p50_ms": 3.0, "p90_ms": 4.0, "rounds": 9},
    }
    benchmarks = [
        {"name": "t", "fullname": "x.py::t", "group": "g", "extra_info": {"stages_ms": {"r": 1}}, "stats": times},
        {"name": "u", "extra_info": {"in_turns": turns}, "stats": {}},
    ]
    machine = {"system": "Linux", "cpu": {"brand_raw": "a CPU"}}
    yield "measurements", "plain", json.dumps({"machine_info": machine, "benchmarks": benchmarks}).encode()
    yield "measurements", "figures", json.dumps({"date": "2026", "machine": {}, "figures": turns}).encode()
    yield "word-vectors", "glove", b"red 0.1 0.2\ngreen 1 2\nblue -1 3e-1\nbright 0 1\n. 1 1\n"
    yield "word-vectors", "word2vec", b"4 2\nred 0.1 0.2\ngreen 1 2\nblue -1 3\ntop 0 1\n"
    binary = b"3 2\n" + b"".join(
        w + b" " + np.array([1, 2], "<f4").tobytes() + b"\n" for w in (b"red", b"top", b"blue")
    )
    yield "word-vectors", "binary", binary
    yield "word-vectors", "packed", gzip.compress(b"red 0.1 0.2\ngreen 1 2\n", mtime=0)
    yield "word-vectors", "array", made(np.save, np.ones((3, 2), np.float32))
    yield "numbered", "names", "1 001.Black_footed\n2 002.Größe\n".encode()
    yield "numbered", "percentages", b"1 2.5 0\n0 0 100\n"
    table = b"image,role\nant/1.png,train\nant/2.png,test\nbee/1.png,train\nbee/2.png,val\ncat/1.png,test\n"
    words = b"name,words\nwing,wing bird\ntail length,tail length\nred,red\n"
    yield "data-folder", "whole", b"%%".join((TRAINING.encode(), table, words))
    yield "data-folder", "alone", TRAINING.encode()
    yield "problems", "two", b'[1, "E-IMAGE-DECODE: damaged"]\n[3, "E-IMAGE-EMPTY: zero"]\n'
    for number, words in enumerate(
        (
            ("infer", "x.png", "--engine", "b.bundle", "--topk", "3", "--format", "jsonl", "--classes", "seen"),
            ("classes", "similar", "--engine", "b.bundle", "--attributes", "new.csv", "--format", "csv"),
            ("classes", "list", "--engine", "b.bundle", "--format", "table"),
            ("eval", "truth.csv", "--engine", "b.bundle", "--classes", "all", "--known-only"),
            ("doctor", "--explain", "gamma"),
            ("train", "--data", "x", "--method", "gfzsl", "--epochs", "2", "--budget", "20m", "--set", "hidden=3"),
            ("export", "run", "--precision", "fp32,fp16", "--format", "engine", "--max-drop", "1.5"),
        )
    ):
        yield "command-line", str(number), "\n".join(words).encode()


def signatures() -> Iterator[tuple[str, str, bytes]]:
    """Of the bundle that was just packed; the certificate lasts for a hundred years."""
    folder, chain = tiny(), [certificate("Maker", maker(), days=(-1, 36_500))]
    yield "keys", "both", public_pem(maker()) + cert_pem(*chain)
    yield "keys", "key", public_pem(maker())
    yield "signature", "key", signature(maker(), fixed(folder))
    yield "signature", "certificate", signature(maker(), fixed(folder), chain=chain)
    yield "signature", "less", signature(maker(), of_generation(folder, 1))
    yield "statement", "generation", statement(of_generation(folder, 1))
    yield "statement", "other", statement(fixed(folder))


def main() -> None:
    bundle = make_tiny_bundle(room() / "made", rule="gaussian")
    (bundle / ".lock").unlink(missing_ok=True)
    shutil.make_archive(str(CORPUS.parent / "bundle"), "zip", bundle)
    for source in (pictures, bundles, tables, arrays, archives, work, signatures):
        for door, name, data in source():
            folder = CORPUS / door
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"seed-{name}").write_bytes(data)


if __name__ == "__main__":
    main()
