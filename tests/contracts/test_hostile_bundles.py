"""Whatever a bundle is made of, every command answers: in time, in one line, with a code that is documented.

A bundle may come from anybody. Each of its files and folders is replaced by everything that a file system has (pipes,
links, devices, sockets, folders, files of a terabyte), and each of its documents is changed at random.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import os
import shutil
import signal
import struct
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.no_files import KINDS, to_hard_link, to_pipe
from support.tiny_bundle import ATTRIBUTES, as_regions, class_table, draw_pictures
from zsl_export import cli as export_cli
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.classes.changes import add_classes
from zsl_runtime.cli import classes as classes_cli
from zsl_runtime.cli import doctor as doctor_cli
from zsl_runtime.cli import evaluate as evaluate_cli
from zsl_runtime.cli import infer as infer_cli
from zsl_runtime.head.class_table import ClassTable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(os.name == "nt", reason="pipes, links and signals of Unix")

DOCUMENTED = {0, 2, 4, 5, 6}
SECONDS = 30  # that a command may take; it takes a tenth of one
CURRENT, GENERATION = "classes/CURRENT", "classes/000002.safetensors"
NEEDED = ("manifest.json", CURRENT, GENERATION)  # by every command
LISTED = ("model.onnx", "means.onnx", "lift.onnx", "gaussian.safetensors", "probe.safetensors")
BESIDE = (
    "history.jsonl",
    "parity.json",
    ".lock",
    ".lock.holder",
    f"engines/{'0' * 16}.json",
    f"engines/{'0' * 16}.engine",
)
FOLDERS = ("classes", "engines", "cache")
EVERY = (*NEEDED, *LISTED, *BESIDE, *FOLDERS)


class Ran(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


class Place(NamedTuple):
    """A bundle to change, what the commands take beside it, and a file that nothing may touch."""

    bundle: Path
    rows: Path
    table: Path
    labelled: Path
    victim: Path


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory, shared_bundle: Callable[..., Path]) -> Path:
    """A bundle of feature rows that classes were added to once, and what to give the commands, in one folder."""
    folder = tmp_path_factory.mktemp("hostile")
    shutil.copytree(shared_bundle(kind="backbone_features", rule="gaussian"), folder / "bundle")
    table = class_table()
    bundle = Bundle.open(folder / "bundle")
    add_classes(bundle, ClassTable(("owl",), np.array([False]), table.raw[:1] + 1, table.attributes))
    np.save(folder / "rows.npy", as_regions(draw_pictures(table, np.arange(3), 5)))
    with (folder / "new.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("name", *ATTRIBUTES), ("newcomer", *range(6))])
    for name in ("robin", "tit"):
        (folder / "labelled" / name).mkdir(parents=True)
        np.save(folder / "labelled" / name / "rows.npy", as_regions(draw_pictures(table, np.arange(2), 6)))
    return folder


@pytest.fixture
def place(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A copy of it of one's own."""
    monkeypatch.setenv("ZSL_CACHE", str(tmp_path / "cache"))
    shutil.copytree(original, tmp_path / "all")
    (tmp_path / "victim").write_bytes(b"precious\n" * 100)
    folder = tmp_path / "all"
    return Place(folder / "bundle", folder / "rows.npy", folder / "new.csv", folder / "labelled", tmp_path / "victim")


def commands(place: Place) -> dict[str, tuple[Callable[[list[str]], int], list[str]]]:
    """Every command that opens a bundle, by its name."""
    bundle, table = ["--engine", str(place.bundle)], ["--attributes", str(place.table)]
    backend = ["--backend", "ort", "--threads", "1"]
    change = classes_cli.main
    return {
        "list": (change, ["list", *bundle]),
        "similar": (change, ["similar", *bundle, *table]),
        "template": (change, ["template", *bundle, "--output", str(place.rows.with_name("t.csv")), "heron"]),
        "add": (change, ["add", *bundle, *table]),
        "teach": (change, ["teach", *bundle, "--photos", str(place.labelled)]),
        "remove": (change, ["remove", *bundle, "owl"]),
        "undo": (change, ["undo", *bundle]),
        "refit": (change, ["refit", *bundle]),
        "prune": (change, ["prune", *bundle, "--keep", "1"]),
        "infer": (infer_cli.main, [str(place.rows), *bundle, *backend]),
        "eval": (evaluate_cli.main, [str(place.labelled), *bundle, *backend]),
        "doctor": (doctor_cli.main, [str(place.bundle)]),
        "engine": (export_cli.main, [str(place.bundle), "--format", "engine"]),
    }


def run(place: Place, name: str) -> Ran:
    """Run a command in this process; whoever waits for something is stopped."""
    main, argv = commands(place)[name]
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8", "surrogateescape"), io.StringIO()

    def late(_number: int, _frame: object) -> None:
        raise TimeoutError(f"{name} takes more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(argv)
            out.flush()
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return Ran(code, out.buffer.getvalue().decode("utf-8", "replace"), err.getvalue())


def check(ran: Ran, what: str, codes: set[int] = DOCUMENTED) -> None:
    """One line that says what is wrong, or none; nothing of it does anything to a terminal."""
    assert ran.code in codes, f"{what}: exit {ran.code}\n{ran.out}{ran.err}"
    assert "E-BUG" not in ran.err
    assert "Traceback" not in ran.err
    told = [line for line in ran.err.splitlines() if line.startswith("error: ")]
    assert len(told) == (1 if ran.code and ran.err else 0), f"{what}: {ran.err}"
    for text in (ran.out, ran.err):
        odd = {letter for letter in text if letter != "\n" and not letter.isprintable()}
        assert not odd, f"{what}: {odd}"


# --- what a file system has -----------------------------------------------------------------------------------------


def replace_by(place: Place, name: str, kind: Callable[[Path, Path], None]) -> None:
    """Put another kind of thing in place of a file or folder of the bundle; a link leads to what was there."""
    path, victim = place.bundle / name, place.victim
    path.parent.mkdir(exist_ok=True)
    if path.is_dir():
        shutil.move(path, place.victim.with_name("moved"))
        victim = place.victim.with_name("moved")
    elif path.exists():
        victim.write_bytes(path.read_bytes())
        path.unlink()
    elif name in FOLDERS:
        victim = place.victim.with_name("moved")
        victim.mkdir()
        (victim / ".tmp-notes").write_text("mine")
    kind(path, victim)


def around(place: Place) -> dict[str, bytes | None]:
    """Everything outside the bundle that a command could reach by it."""
    found: dict[str, bytes | None] = {}
    for path in [place.victim, *place.victim.with_name("moved").rglob("*")]:
        found[str(path)] = path.read_bytes() if path.is_file() and path.stat().st_size < 1 << 20 else None
    assert not os.path.lexists(place.victim.with_name("nowhere"))
    return found


SHORT = ("list", "add", "infer", "doctor")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_model_that_is_no_file_is_not_loaded(place: Place, kind: Callable) -> None:
    """`add` leaves the model alone, whatever it is."""
    replace_by(place, "model.onnx", kind)
    before = around(place)
    for command in ("list", "infer", "doctor"):
        check(run(place, command), f"{command} where the model is {kind.__name__}", {5})
    check(run(place, "add"), "add", {0})
    assert around(place) == before


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("name", [*NEEDED, "classes"])
def test_no_command_goes_on_where_a_file_that_it_needs_is_no_file(place: Place, name: str, kind: Callable) -> None:
    """Exit 5 from every command, at once, and nothing outside the bundle changes."""
    replace_by(place, name, kind)
    before = around(place)
    for command in SHORT:
        check(run(place, command), f"{command} where {name} is {kind.__name__}", {5})
    assert around(place) == before


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("name", [*LISTED[1:], *BESIDE, *FOLDERS[1:]])
def test_a_command_refuses_or_does_without_what_is_no_file(place: Place, name: str, kind: Callable) -> None:
    """Files that not every command needs: exit 5, or the command does its work; nothing outside the bundle changes."""
    replace_by(place, name, kind)
    before = around(place)
    for command in ("list", "add"):
        check(run(place, command), f"{command} where {name} is {kind.__name__}", {0, 5})
    assert around(place) == before


@pytest.mark.parametrize("name", [*NEEDED, "history.jsonl", "parity.json", ".lock", f"engines/{'0' * 16}.json"])
def test_a_file_that_is_another_file_as_well_is_never_written_in_place(place: Place, name: str) -> None:
    """A hard link is a plain file to whoever looks; whatever changes is a new file under the old name."""
    replace_by(place, name, to_hard_link)
    before = around(place)
    for command in ("list", "add", "undo", "infer", "prune"):
        check(run(place, command), f"{command} where {name} is a hard link", {0})
    assert around(place) == before


def test_what_a_killed_writer_seems_to_have_left_is_removed_and_not_what_it_leads_to(place: Place) -> None:
    """Links of temporary names, and folders with links in them, in a bundle from elsewhere."""
    mine = place.victim.with_name("moved")
    mine.mkdir()
    (mine / "notes").write_text("mine")
    left = place.bundle / "classes" / ".tmp-folder"
    left.mkdir()
    for path in (place.bundle / ".tmp-file", place.bundle / "classes/.tmp-file", left / "inner"):
        path.symlink_to(mine)
    (place.bundle / "classes/000009.safetensors").symlink_to(place.victim)
    to_pipe(place.bundle / ".tmp-pipe", place.victim)
    before = around(place)
    check(run(place, "add"), "add", {0})
    assert around(place) == before
    assert not [path for path in place.bundle.rglob(".tmp-*") if os.path.lexists(path)]
    assert not os.path.lexists(place.bundle / "classes/000009.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("name", EVERY)
def test_every_command_answers_where_something_is_no_file(place: Place, name: str, kind: Callable) -> None:
    """Every command, every file, every kind of thing."""
    replace_by(place, name, kind)
    before = around(place)
    for command in commands(place):
        check(run(place, command), f"{command} where {name} is {kind.__name__}")
        assert around(place) == before, f"{command} wrote outside of the bundle"


# --- what the documents say -----------------------------------------------------------------------------------------


ODD_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from(
        [1 << 20, 1 << 31, 1 << 62, 1 << 70, -(1 << 63), 10**400, 0.5, 1e308, float("nan"), float("inf"), -0.0]
    ),
    st.sampled_from(
        ["", ".", "..", "/etc/passwd", "../x", "a\x00b", "\x1b[2J", "\u202eabc", "\ud800", "x" * 5000, "NaN"]
    ),
    st.sampled_from([[], {}, [[]], [{}], {"a": None}, [[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]),
    st.text(max_size=10),
)


def spots(value: object, path: tuple[object, ...] = ()) -> Iterator[tuple[object, ...]]:
    """The way to every value of a document."""
    yield path
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield from spots(inner, (*path, key))


def changed(value: object, path: tuple[object, ...], how: str, odd: object) -> object:
    """The document with one of its values replaced, left out, or given another name."""
    if not path:
        return odd
    key, rest = path[0], path[1:]
    copy = dict(value) if isinstance(value, dict) else list(value)  # type: ignore[call-overload]
    if rest or how == "replace":
        copy[key] = changed(copy[key], rest, how, odd)
    elif how == "drop":
        del copy[key]
    elif isinstance(copy, dict):
        copy[str(odd)] = copy.pop(key)
    else:
        copy.insert(key, odd)  # type: ignore[arg-type]
    return copy


def put(bundle: Path, name: str, data: bytes) -> None:
    """Write a file of a bundle and make the hashes right again, as a hostile maker does."""
    (bundle / name).write_bytes(data)
    with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
        manifest = json.loads((bundle / "manifest.json").read_bytes())
        if name in manifest["files"]:
            manifest["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
            (bundle / "manifest.json").write_text(json.dumps(manifest))
    if name != CURRENT:
        pointer = json.loads((bundle / CURRENT).read_bytes())
        pointer["sha256"] = hashlib.sha256((bundle / GENERATION).read_bytes()).hexdigest()
        pointer["manifest_sha256"] = hashlib.sha256((bundle / "manifest.json").read_bytes()).hexdigest()
        (bundle / CURRENT).write_text(json.dumps(pointer) + "\n")


def parts_of(data: bytes) -> tuple[dict[str, object], bytes]:
    """Header, its metadata's JSON texts as values, and tensors of a safetensors file."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    metadata = header.get("__metadata__", {})
    for key, text in metadata.items():
        with contextlib.suppress(ValueError):
            metadata[key] = json.loads(text)
    return header, data[end:]


def whole_of(header: object, tensors: bytes) -> bytes:
    """The file of such parts, whatever they are by now."""
    if isinstance(header, dict) and isinstance(header.get("__metadata__"), dict):
        metadata = header["__metadata__"]
        texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()}
        header = header | {"__metadata__": texts}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + tensors


DOCUMENTS = ("manifest.json", CURRENT, GENERATION, "probe.safetensors", "gaussian.safetensors", "parity.json")


@given(st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_a_document_says_every_command_answers(place: Place, data: st.DataObject) -> None:
    """One value of one document is another one, is missing, or has another name; the hashes are right again."""
    whole = place.bundle.with_name("whole")
    if not whole.exists():
        shutil.copytree(place.bundle, whole)
    shutil.rmtree(place.bundle)
    shutil.copytree(whole, place.bundle)
    name = data.draw(st.sampled_from(DOCUMENTS), "document")
    content = (place.bundle / name).read_bytes()
    if name.endswith(".safetensors"):
        document, tensors = parts_of(content)
    else:
        document, tensors = json.loads(content), None
    for _ in range(data.draw(st.integers(1, 2), "changes")):
        path = data.draw(st.sampled_from(list(spots(document))), "where")
        how = data.draw(st.sampled_from(["replace", "replace", "drop", "rename"]), "how")
        document = changed(document, path, how, data.draw(ODD_VALUES, "to"))
    text = json.dumps(document).encode() if tensors is None else whole_of(document, tensors)
    put(place.bundle, name, text + b"\n" if name == CURRENT else text)
    for command in data.draw(
        st.sampled_from(
            [("list", "infer"), ("add", "undo"), ("doctor", "template"), ("similar", "prune"), ("refit", "remove")]
        )
    ):
        check(run(place, command), f"{command} after a change of {name}")
