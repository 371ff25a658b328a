"""One table of the doors through which files and words of others come in, for all drivers (test_doors.py, run.py).

A door is a function that reads bytes with exactly the reader that the commands use. It returns when they are taken, and
raises one of the errors that a user is meant to meet when they are refused; anything else is a finding. `corpus/NAME/`
holds what it starts from, and every input that once broke it.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import os
import re
import shutil
import tempfile
import unicodedata
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from zsl_runtime.errors import ArtefactError, BackendError, InputError, SystemProblem, UsageError, ZslError
from zsl_runtime.head.names import TURNING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

CORPUS = Path(__file__).parent / "corpus"
FORGED = "error: E-FORGED"  # what hostile texts of mutate.py would like to print as a line of its own
MIB = 1 << 20
READ = (UsageError, ArtefactError, InputError, SystemProblem)


class Finding(AssertionError):  # noqa: N818  # it reads better so
    """A door did what it must not."""


@dataclass(frozen=True)
class Door:
    """One way in.

    Attributes:
        name: of its folder in the corpus.
        target: reads bytes.
        refuses: kinds of errors by which it may refuse.
        mebibytes: that one input of up to 64 KiB may take beyond what the process had before.
        seconds: that one input may take.
        inputs: how many `make fuzz` tries at least.

    """

    name: str
    target: Callable[[bytes], None]
    refuses: tuple[type[ZslError], ...] = READ
    mebibytes: int = 64
    seconds: int = 10
    inputs: int = 100_000

    @property
    def corpus(self) -> list[Path]:
        """Its files, seeds and old crashers."""
        return sorted(path for path in (CORPUS / self.name).iterdir() if path.is_file())

    def try_one(self, data: bytes) -> bool:
        """Whether `data` is taken; False when it is refused as it should be; Finding, or what it raised, otherwise."""
        try:
            self.target(data)
        except self.refuses as error:
            check_lines(f"error: {error}")
            return False
        return True


def check_lines(text: str) -> None:
    """Finding when what is printed could be taken for something else, or does something to a terminal."""
    for line in text.split("\n"):
        odd = sorted({f"U+{ord(c):04X}" for c in line if unicodedata.category(c) in {"Cc", "Zl", "Zp"} or c in TURNING})
        if odd:
            raise Finding(f"a line holds {', '.join(odd)}: {line[:300]!a}")
        if line.startswith(FORGED):
            raise Finding(f"a forged line: {line[:300]!a}")


# --- where files are put ----------------------------------------------------------------------------------------------


@functools.cache
def room() -> Path:
    """A folder of this process."""
    import atexit

    memory = Path("/dev/shm")  # many small files a second
    place = memory if os.access(memory, os.W_OK) else None
    folder, owner = Path(tempfile.mkdtemp(prefix="zsl-fuzz-", dir=place)), os.getpid()

    def remove() -> None:
        if os.getpid() == owner:
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return folder


def put(name: str, data: bytes) -> Path:
    """A file of this content."""
    path = room() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


@functools.cache
def tiny() -> Path:
    """A bundle of this process, which targets may damage and must mend: as it was packed, so that hashes fit."""
    os.environ["ZSL_CACHE"] = str(room() / "cache")
    folder = room() / "tiny"
    shutil.unpack_archive(CORPUS.parent / "bundle.zip", folder)
    manifest_of(folder), classes_of(folder)  # as they are now
    return folder


@functools.cache
def manifest_of(bundle: Path) -> bytes:
    return (bundle / "manifest.json").read_bytes()


@functools.cache
def classes_of(bundle: Path) -> bytes:
    return (bundle / "classes" / "000001.safetensors").read_bytes()


def fill(
    bundle: Path, manifest: bytes | None = None, classes: bytes | None = None, current: bytes | None = None
) -> None:
    """Give the bundle these files, and hashes that fit, as somebody who means harm would."""
    made = (manifest_of(bundle) if manifest is None else manifest, classes_of(bundle) if classes is None else classes)
    pointer = {"generation": 1, "sha256": hashlib.sha256(made[1]).hexdigest()}
    pointer["manifest_sha256"] = hashlib.sha256(made[0]).hexdigest()
    (bundle / "manifest.json").write_bytes(made[0])
    (bundle / "classes" / "000001.safetensors").write_bytes(made[1])
    (bundle / "classes" / "CURRENT").write_bytes((json.dumps(pointer) + "\n").encode() if current is None else current)


def run(main: Callable[[list[str]], int], argv: Iterable[str]) -> None:
    """Run a command in this process: what it prints is looked at, and so is its exit code.

    Raises:
        UsageError: it refused.
        Finding: it forged a line, or met a bug of ours.

    """
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(list(argv))
    if code == 1:
        raise Finding(err.getvalue()[-3000:])
    check_lines(err.getvalue())
    if code:
        raise UsageError("E-REFUSED", f"exit code {code}")


def raise_first(results: Iterable[object]) -> None:
    """Raise the first error among what a reader gave in place of inputs."""
    errors = [one for one in results if isinstance(one, InputError)]
    for error in errors[:50]:
        check_lines(str(error))
    if errors:
        raise errors[0]


# --- pictures ---------------------------------------------------------------------------------------------------------


def picture(data: bytes) -> None:
    from zsl_runtime.pixels.pixels import PixelSpec, prepare

    made = prepare(data, PixelSpec(resize=36, crop=32))
    assert made.shape == (32, 32, 3)


def native(data: bytes) -> None:
    """Calls of the compiled core that follow from `data`; under sanitizers with `run.py --core`."""
    from fuzz.native import call

    call(data)


# --- bundles ----------------------------------------------------------------------------------------------------------


def manifest(data: bytes) -> None:
    from zsl_runtime.bundle.bundle import Bundle

    folder = tiny()
    fill(folder, manifest=data)
    Bundle.open(folder)


def opened(data: bytes) -> None:
    """A manifest that fits its hashes, and all that a classifier makes of it."""
    import numpy as np

    from zsl_runtime.labelling.classifier import Classifier

    folder = tiny()
    fill(folder, manifest=data)
    with Classifier.open(folder, "ort", threads=1) as classifier:
        classifier.predict([np.zeros((8, 8, 3), np.uint8)])


def listing(data: bytes) -> None:
    """A generation that fits its hash, as `zsl-classes list` shows it to people."""
    from zsl_runtime.cli.classes import main

    folder = tiny()
    fill(folder, classes=data)
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        code = main(["list", "--engine", str(folder)])
    if code == 1:
        raise Finding(out.getvalue()[-3000:])
    check_lines(out.getvalue())
    if code:
        raise UsageError("E-REFUSED", f"exit code {code}")


def current(data: bytes) -> None:
    from zsl_runtime.bundle.bundle import Bundle

    folder = tiny()
    for letter, whole in ((b"c", classes_of(folder)), (b"f", manifest_of(folder))):  # hashes that fit
        data = data.replace(letter * 64, hashlib.sha256(whole).hexdigest().encode())
    fill(folder, current=data)
    Bundle.open(folder, verify=False)


def generation(data: bytes) -> None:
    from zsl_runtime.bundle.bundle import Bundle
    from zsl_runtime.head.head import fold

    folder = tiny()
    fill(folder, classes=data)
    held = Bundle.open(folder, verify=False).current()
    fold(held.head, held.table.seen)


@functools.cache
def maker() -> object:
    """The private key that signs the corpus."""
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.derive_private_key(20261126, ec.SECP256R1())


@functools.cache
def trusted() -> object:
    from zsl_runtime.bundle.signatures import read_keys

    return read_keys(CORPUS / "keys" / "seed-both")


@functools.cache
def _signed_by_the_maker() -> object:
    from zsl_runtime.bundle.signatures import parse_signature

    return parse_signature((CORPUS / "signature" / "seed-key").read_bytes())


def signature(data: bytes) -> None:
    """model.sig where keys are demanded: taken only if it covers what was signed, file by file."""
    from zsl_runtime.bundle.signatures import check_files, check_fixed, fixed_files, statement_of

    folder = tiny()
    digest = hashlib.sha256(manifest_of(folder)).hexdigest()
    place = folder / "model.sig"
    place.write_bytes(data)
    try:
        covered = check_fixed(folder, digest, trusted())
    finally:
        place.unlink()
    check_files(folder, covered, fixed_files(digest, json.loads(manifest_of(folder))["files"]), trusted())
    if covered != statement_of(_signed_by_the_maker()):
        raise Finding(f"a signature of {covered} was taken")


def statement(data: bytes) -> None:
    """What is signed, if the maker's key signs anything whatever."""
    from support.signing import envelope
    from zsl_runtime.bundle.signatures import check_generation

    folder = tiny()
    place = folder / "classes" / "000001.sig"
    place.write_text(json.dumps(envelope(maker(), data)), encoding="utf-8")
    digests = (hashlib.sha256(one).hexdigest() for one in (manifest_of(folder), classes_of(folder)))
    try:
        check_generation(folder, next(digests), 1, next(digests), trusted())
    finally:
        place.unlink()


def keys(data: bytes) -> None:
    """A file of public keys and certificates."""
    from zsl_runtime.bundle.signatures import read_keys

    place = room() / "keys.pem"
    place.write_bytes(data)
    read_keys(place)


def history(data: bytes) -> None:
    from zsl_runtime.bundle.bundle import Bundle
    from zsl_runtime.cli.doctor import _generations, _leftovers

    folder = tiny()
    fill(folder)
    (folder / "history.jsonl").write_bytes(data)
    bundle = Bundle.open(folder, verify=False)
    held = bundle.current()
    for finding in (*_generations(bundle, replace(held, number=3, parent=2), []), *_leftovers(bundle)):
        check_lines(finding.text)


def account(data: bytes) -> None:
    """A history, as `zsl-classes explain` tells it."""
    from zsl_runtime.bundle.bundle import Bundle
    from zsl_runtime.classes.account import accounts
    from zsl_runtime.cli.explain import lines
    from zsl_runtime.streams import one_line

    folder = tiny()
    fill(folder)
    (folder / "history.jsonl").write_bytes(data)
    for one in accounts(Bundle.open(folder, verify=False), ["robin", "wren"]):
        json.dumps(one.to_dict(), allow_nan=False)
        for line in lines(one):
            check_lines(one_line(line))


def description(data: bytes) -> None:
    """A text that attributes are drafted from, and the table that comes of it."""
    from zsl_runtime.bundle.bundle import Bundle
    from zsl_runtime.cli.draft import lines, summary
    from zsl_runtime.drafting.proposal import propose
    from zsl_runtime.drafting.text import read_description
    from zsl_runtime.head.class_file import read_class_csv
    from zsl_runtime.streams import one_line

    folder = tiny()
    fill(folder)
    bundle = Bundle.open(folder, verify=False)
    text = read_description(put("bird.txt", data))
    draft, template = propose(bundle, "heron", text, None)
    for line in (*lines(draft, template, bundle.current().table, text), *summary(draft)):
        check_lines(one_line(line))
    found = read_class_csv("heron.csv", attributes=bundle.attributes, need_split=False, data=template.csv(mark=True))
    if found.raw[0].tolist() != draft.row.tolist():
        raise Finding("the table of a draft is read as another one")


def probe(data: bytes) -> None:
    from zsl_runtime.bundle.generation import Probe

    Probe.from_bytes(data, where="probe.safetensors")


def replay(data: bytes) -> None:
    from zsl_runtime.head.fitting import Replay

    Replay.from_bytes(data, where="replay.safetensors")


def gaussian(data: bytes) -> None:
    from zsl_runtime.head.gaussian import Gaussian

    Gaussian.from_bytes(data, where="gaussian.safetensors")


def readout(data: bytes) -> None:
    from zsl_runtime.head.readout import Readout

    Readout.from_bytes(data, where="readout.safetensors")


def graph(data: bytes) -> None:
    """A file that claims to be a graph, as it is walked before any library sees it."""
    from zsl_runtime.graphs.check import check_graph
    from zsl_runtime.graphs.parts import PARTS

    for part in PARTS[1:]:
        with contextlib.suppress(ArtefactError):
            check_graph(data, where="part.onnx", part=part)
            return
    check_graph(data, where="model.onnx", part=PARTS[0])


def _graph_run(data: bytes, backend: str) -> None:
    """A graph that fits its hash: what passes the check may not end the library that runs it."""
    import numpy as np

    from zsl_runtime.labelling.classifier import Classifier

    folder = tiny()
    kept = (folder / "model.onnx").read_bytes()
    said = json.loads(manifest_of(folder))
    said["files"]["model.onnx"] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    fill(folder, manifest=json.dumps(said).encode())
    (folder / "model.onnx").write_bytes(data)
    try:
        with Classifier.open(folder, backend, threads=1) as classifier:
            classifier.predict([np.zeros((8, 8, 3), np.uint8), np.full((9, 7, 3), 255, np.uint8)])
    finally:
        (folder / "model.onnx").write_bytes(kept)


def graph_ort(data: bytes) -> None:
    _graph_run(data, "ort")


def graph_openvino(data: bytes) -> None:
    _graph_run(data, "openvino")


def sidecar(data: bytes) -> None:
    from zsl_runtime.bundle.bundle import Bundle
    from zsl_runtime.trt.facts import Facts, key
    from zsl_runtime.trt.store import engines_of, find, read_sidecar

    folder = tiny()
    name = "0" * 16
    with contextlib.suppress(Exception):
        said = json.loads(data)
        name = key(Facts(**said["facts"]))  # its name fits what it says
    path = folder / "engines" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    path.with_suffix(".engine").write_bytes(b"plan")
    try:
        bundle = Bundle.open(folder, verify=False)
        engines_of(bundle)
        with contextlib.suppress(ArtefactError):
            find(bundle, flavour="tensorrt", version="10.13.0", compute_capability="8.9", precision="fp32", classes=8)
        read_sidecar(path)
    finally:
        shutil.rmtree(folder / "engines")


def auto(data: bytes) -> None:
    """What `auto` keeps of its choice."""
    from zsl_runtime.backends import auto as module
    from zsl_runtime.bundle.bundle import Bundle

    folder = tiny()
    bundle = Bundle.open(folder, verify=False)
    facts = module._facts(bundle, ["ort", "openvino"], "fp32")
    path = folder / "engines" / module._name(facts)
    path.parent.mkdir(exist_ok=True)
    with contextlib.suppress(Exception):
        data = json.dumps({**json.loads(data), **facts}).encode()  # those of this machine
    path.write_bytes(data)
    try:
        module.remembered(bundle, ["ort", "openvino"], precision="fp32")
    finally:
        shutil.rmtree(folder / "engines")


# --- tables -----------------------------------------------------------------------------------------------------------


def classes(data: bytes) -> None:
    """The table of new classes, of a model's attributes."""
    from support.tiny_bundle import ATTRIBUTES
    from zsl_runtime.head.class_file import read_class_csv

    table = read_class_csv(put("classes.csv", data), attributes=ATTRIBUTES, need_split=False)
    check_lines("\n".join(table.notes))


def training_classes(data: bytes) -> None:
    """The table of a data folder, whose columns are its attributes."""
    from zsl_runtime.head.class_file import read_class_csv

    table = read_class_csv(put("classes.csv", data), need_split=True)
    check_lines("\n".join(table.notes))


def workbook(data: bytes) -> None:
    from support.tiny_bundle import ATTRIBUTES
    from zsl_runtime.head.class_file import read_class_csv

    read_class_csv(put("classes.xlsx", data), attributes=ATTRIBUTES, need_split=False)


def added(data: bytes) -> None:
    """What `zsl-classes similar` says of a table: it has the words of `add`, and changes nothing."""
    from zsl_runtime.cli.classes import main

    folder = tiny()
    fill(folder)
    path = put("new.csv", data)
    run(main, ["similar", "--engine", str(folder), "--attributes", str(path)])


def truth(data: bytes) -> None:
    """A table of photographs and their classes, and a split."""
    from zsl_runtime.bundle.bundle import Bundle
    from zsl_runtime.labelling.reading import reader_of
    from zsl_runtime.labelling.truth import check_classes, find_truth, with_role

    folder = tiny()
    fill(folder)
    put("a.png", b"x")
    path = put("truth.csv", data)
    said = find_truth(path, reader_of(Bundle.open(folder, verify=False)))
    check_lines("\n".join(said.notes))
    with contextlib.suppress(UsageError):
        check_classes(said, ["robin", "tit"], known_only=True)
    with_role(said, path, "test")


def stdin_list(data: bytes) -> None:
    """Paths on stdin."""
    from zsl_runtime.inputs.files import read_list
    from zsl_runtime.machine.stop import Stop

    path = put("list", data)
    for null in (False, True):
        handle = os.open(path, os.O_RDONLY)
        try:
            assert "" not in list(read_list(handle, null=null, stop=Stop()))
        finally:
            os.close(handle)


# --- arrays and archives ----------------------------------------------------------------------------------------------


def _rows(path: Path) -> None:
    from zsl_runtime.inputs.feature_rows import RowFiles, check_row

    files = RowFiles((1, 4), "res101.mat")
    count = files.count([str(path)])
    for number, item in enumerate(files.items([str(path)])):
        if isinstance(item.source, InputError):
            raise item.source
        if number < 3:
            check_row(item.source, (1, 4))
        elif number > 100:
            break
    assert count >= 0


def npy(data: bytes) -> None:
    _rows(put("rows.npy", data))


def mat(data: bytes) -> None:
    _rows(put("rows.mat", data))


def _members(path: Path) -> None:
    from zsl_runtime.inputs.item import Tally
    from zsl_runtime.inputs.shards import count_members, members

    tally = Tally()
    count_members(str(path), (".png", ".jpg"), Tally())
    found = []
    for number, item in enumerate(members(str(path), (".png", ".jpg"), tally)):
        found.append(item.source if isinstance(item.source, InputError) else None)
        if number > 2000:
            break
    check_lines("\n".join(tally.notes))
    raise_first(found)


def zip_shard(data: bytes) -> None:
    _members(put("shard.zip", data))


def tar_shard(data: bytes) -> None:
    _members(put("shard.tar", data))


def gz_shard(data: bytes) -> None:
    _members(put("shard.tar.gz", data))


# --- interrupted work -------------------------------------------------------------------------------------------------


def partial(data: bytes) -> None:
    """The state beside an unfinished answer file."""
    from zsl_runtime.labelling.results import open_partial

    folder = room() / "partial"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "out.csv.partial").write_bytes(b"path,rank\na.png,1\n")
    (folder / "out.csv.partial.state").write_bytes(data)
    with open_partial(str(folder / "out.csv"), {"topk": 1}, resume=True, build="x"):
        pass


def claim(data: bytes) -> None:
    """The file that says who writes, where a file system has no locks."""
    from zsl_runtime.machine.holder import is_held, read_claim

    path = put("claim/.lock.holder", data)
    read_claim(path)
    is_held(path.with_name(".lock"))


# --- training ---------------------------------------------------------------------------------------------------------


def recipe(data: bytes) -> None:
    from zsl_train.methods import find_method
    from zsl_train.recipe import make_recipe, method_config, read_recipe

    made = make_recipe(read_recipe(put("recipe.toml", data)), {}, {})
    module = find_method(made.method)
    method_config(module.Config, module.PRESETS, made)


@functools.cache
def _run() -> Path:
    from support import tiny_run
    from zsl_train import backbones, methods

    methods.METHODS["tiny"] = tiny_run
    backbones.BACKBONES["tiny"] = tiny_run.TinyBackbone
    return tiny_run.save_tiny_run(tiny_run.make_tiny_run(), room() / "run")


def run_info(data: bytes) -> None:
    """run.json, with a hash that fits."""
    from zsl_train.training.run_folder import info_bytes, load_run

    folder = _run()
    with contextlib.suppress(Exception):
        said = json.loads(data)
        said.pop("sha256", None)
        data = info_bytes(said)
    (folder / "run.json").write_bytes(data)
    load_run(folder)


def checkpoint(data: bytes) -> None:
    """A checkpoint of a stage."""
    import torch

    from zsl_train.methods.session import Session

    torch.set_num_threads(1)
    path = put("checkpoint/stage.pt", data)
    layer = torch.nn.Linear(2, 2)
    session = Session.__new__(Session)
    session._restore(path, "stage", 10, 10, {"layer": layer, "steps": torch.optim.Adam(layer.parameters())})


def weights(data: bytes) -> None:
    """Weights of a backbone that a user gives."""
    import torch

    from zsl_train.backbones.base import read_weights

    torch.set_num_threads(1)
    kind = ".safetensors" if data[8:9] == b"{" else ".pth"
    read_weights(put(f"weights{kind}", data))


def arrays(data: bytes) -> None:
    """What a training keeps between its steps."""
    from zsl_train.training.stored import load_array, load_arrays

    if data.startswith(b"PK"):
        load_arrays(put("stored.npz", data))
    else:
        load_array(put("stored.npy", data))


def trials(data: bytes) -> None:
    """What `--budget` tried before it was interrupted."""
    from zsl_train.training.budget import Board, told

    board = Board(put("budget.json", data))
    assert board.final >= 0
    check_lines("\n".join(told(one) for one in board.trials.values() if not one.why and one.over))


def report_material(data: bytes) -> None:
    """What a run kept for its report, of six classes with three attributes."""
    from zsl_train.training.material import Material

    Material.from_bytes(data, classes=6, attributes=3, where="report.safetensors")


def measurements(data: bytes) -> None:
    """Times that a program measured, and the stages they are split into."""
    from zsl_train.reports.measurements import parse_measured, splits

    found = parse_measured(data, "bench.json")
    assert all(one.median > 0 for one in found.times)
    splits(found)


def word_vectors(data: bytes) -> None:
    from zsl_train.data.word_vectors import load_word_vectors

    loaded = load_word_vectors(put("words.txt", data), ("red", "green blue", "bright top"))
    check_lines("\n".join(loaded.notes))


def split_file(data: bytes) -> None:
    """att_splits.mat"""
    from zsl_train.data.att_splits import index_base, positions, read_split_file

    split = read_split_file(put("att_splits.mat", data))
    with contextlib.suppress(UsageError):
        positions(split, 80, index_base(split, 80))


def features(data: bytes) -> None:
    """res101.mat"""
    from zsl_train.data.feature_file import read_feature_file

    read_feature_file(put("features/res101.mat", data), room())


def numbered(data: bytes) -> None:
    """Lists of an archive: numbers and names."""
    from zsl_train.data.cub import _percentages
    from zsl_train.data.text_lists import read_numbered

    path = put("list.txt", data)
    with contextlib.suppress(UsageError):
        _percentages(path, 2, 3)
    read_numbered(path, "E-CUB-FILE")


def data_folder(data: bytes) -> None:
    """Tables of a data folder: `%%` separates classes.csv, split.csv and attributes.csv."""
    from zsl_train.data.open import open_image_set

    folder = room() / "folder"
    if not folder.exists():
        for name in ("ant/1.png", "ant/2.png", "bee/1.png", "bee/2.png", "cat/1.png"):
            (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "images" / name).write_bytes(b"x")
    parts = dict(zip(("classes.csv", "split.csv", "attributes.csv"), data.split(b"%%"), strict=False))
    for name in ("classes.csv", "split.csv", "attributes.csv"):
        (folder / name).unlink(missing_ok=True)
        if name in parts:
            (folder / name).write_bytes(parts[name])
    images = open_image_set(folder, None, 0)
    check_lines("\n".join(images.notes))


def problems(data: bytes) -> None:
    """What an extraction notes of pictures that it could not read."""
    from zsl_train.data.feature_store import _Files

    put("store/problems.jsonl", data)
    put("store/state.u8", data[:5])
    put("store/regions.f16", bytes(2 * 5))
    files = _Files(room() / "store", (5, 1, 1))
    files.read_problems()
    files.is_complete()


def parity(data: bytes) -> None:
    """parity.json, which may be written anew and so has no hash."""
    from zsl_export.verify import recorded
    from zsl_runtime.bundle.bundle import Bundle
    from zsl_runtime.cli.doctor_answers import read_stated

    folder = tiny()
    fill(folder)
    bundle = Bundle.open(folder, verify=False)
    kept = (folder / "parity.json").read_bytes()
    (folder / "parity.json").write_bytes(data)
    try:
        recorded(bundle)
        _, wrong = read_stated(bundle)
        check_lines(wrong)
    finally:
        (folder / "parity.json").write_bytes(kept)


@functools.cache
def _triton() -> object:
    """The model as a server of Triton would have loaded it."""
    from support.fake_triton import fake_utils, load_model
    from zsl_export.to_triton import Repository, write_repository

    fill(tiny())
    repository, name = write_repository(str(tiny()), room() / "repository", Repository())
    return load_model(repository, name, fake_utils())


def triton(data: bytes) -> None:
    """A request to Triton: parameters as JSON (of plain values, as Triton has them), a line feed, a picture file."""
    from support.fake_triton import Request, encoded

    head, _, picture = data.partition(b"\n")
    settings: dict[str, object] = {}
    with contextlib.suppress(ValueError, RecursionError):
        said = json.loads(head)
        settings = (
            {k: v for k, v in said.items() if isinstance(v, (bool, int, float, str))} if type(said) is dict else {}
        )
    (response,) = _triton().execute([Request(encoded(picture, picture[:9]), settings)])
    if response.has_error():
        if "E-BUG" in response.error().message():
            raise Finding(response.error().message())
        raise UsageError("E-REFUSED", response.error().message())
    made = {one.name(): one.as_numpy() for one in response.output_tensors()}
    check_lines("\n".join(one.decode() for one in made["error"].reshape(-1)))


# --- words of a command line ------------------------------------------------------------------------------------------

COMMANDS = ("infer", "classes", "eval", "doctor", "train", "export")
NEVER = re.compile(r"--(out|output|write|force|sign|serve|daemon)")  # would write files of any name


def command_line(data: bytes) -> None:
    """A command and its words, a line each; what would be written goes nowhere."""
    import importlib

    modules = dict(zip(COMMANDS, ("infer", "classes", "evaluate", "doctor"), strict=False))
    name, *words = os.fsdecode(data.replace(b"\0", b"")).split("\n")
    if name not in COMMANDS or any(NEVER.match(word) for word in words):
        return
    module = f"zsl_runtime.cli.{modules[name]}" if name in modules else f"zsl_{name}.cli"
    here = Path.cwd()
    empty = room() / "empty"
    empty.mkdir(exist_ok=True)
    fill(tiny())
    os.chdir(empty)
    try:
        link = empty / "b.bundle"
        if not link.exists():
            link.symlink_to(tiny())
            shutil.copy(CORPUS / "picture-png" / "seed-rgb", empty / "x.png")
            shutil.copy(CORPUS / "added" / "seed-commas", empty / "new.csv")
            (empty / "truth.csv").write_bytes(b"path,class\nx.png,robin\n")
        run(importlib.import_module(module).main, words)
    finally:
        os.chdir(here)


_PICTURES = ("jpeg", "png", "webp", "tiff", "gif", "bmp", "ppm", "avif", "jp2")
DOORS = {
    door.name: door
    for door in (
        *(Door(f"picture-{kind}", picture, (InputError,), mebibytes=1024, inputs=20_000) for kind in _PICTURES),
        Door("native", native, (), mebibytes=768, inputs=20_000),
        Door("manifest", manifest),
        Door("opened", opened, (*READ, BackendError), inputs=5_000, mebibytes=256),
        Door("listing", listing, inputs=20_000),
        Door("current", current),
        Door("generation", generation),
        Door("signature", signature),
        Door("statement", statement, inputs=20_000),
        Door("keys", keys),
        Door("history", history, inputs=20_000),
        Door("account", account, inputs=20_000),
        Door("description", description, inputs=20_000),
        Door("probe", probe),
        Door("replay", replay),
        Door("gaussian", gaussian),
        Door("readout", readout),
        Door("graph", graph),
        Door("graph-ort", graph_ort, (*READ, BackendError), inputs=5_000, mebibytes=512, seconds=30),
        Door("graph-openvino", graph_openvino, (*READ, BackendError), inputs=5_000, mebibytes=512, seconds=60),
        Door("sidecar", sidecar),
        Door("auto", auto),
        Door("classes", classes),
        Door("training-classes", training_classes),
        Door("workbook", workbook, inputs=5_000, mebibytes=512),
        Door("added", added, inputs=5_000),
        Door("truth", truth),
        Door("list", stdin_list),
        Door("npy", npy),
        Door("mat", mat, inputs=20_000, mebibytes=512),
        Door("zip", zip_shard, inputs=50_000, mebibytes=768),
        Door("tar", tar_shard, mebibytes=512),
        Door("tar-gz", gz_shard, inputs=50_000, mebibytes=512),
        Door("partial", partial, inputs=20_000),
        Door("claim", claim),
        Door("recipe", recipe),
        Door("run", run_info, inputs=5_000),
        Door("checkpoint", checkpoint, inputs=5_000, mebibytes=256),
        Door("weights", weights, inputs=5_000, mebibytes=256),
        Door("arrays", arrays, inputs=20_000),
        Door("trials", trials),
        Door("report-material", report_material),
        Door("measurements", measurements, inputs=20_000),
        Door("word-vectors", word_vectors, mebibytes=256),
        Door("split-file", split_file, inputs=20_000, mebibytes=512),
        Door("features", features, inputs=20_000, mebibytes=512),
        Door("numbered", numbered),
        Door("data-folder", data_folder, inputs=20_000),
        Door("problems", problems),
        Door("parity", parity),
        Door("triton", triton, inputs=5_000, mebibytes=1024),
        Door("command-line", command_line, (*READ, BackendError), inputs=5_000, mebibytes=512, seconds=30),
    )
}
