"""The bytes that a library gets are those that were checked, whatever becomes of the file."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from support.hostile_graphs import WIDTH, lift, node, with_work
from support.usable import usable_backend
from zsl_runtime.backends.opening import open_backend, open_graphs
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.errors import ArtefactError, SystemProblem
from zsl_runtime.graphs import sealed as ours
from zsl_runtime.graphs.sealed import GraphFile, graph_file, sealed

LIFT = lift().SerializeToString()
OTHER = with_work(node("Neg", "before", "one")).SerializeToString()  # as honest, with other answers


@pytest.fixture
def path(tmp_path) -> Path:
    file = tmp_path / "lift.onnx"
    file.write_bytes(LIFT)
    return file


def content(source: str | bytes) -> bytes:
    return source if isinstance(source, bytes) else Path(source).read_bytes()


def test_what_is_lent_is_the_file_as_it_was(path):
    with sealed(GraphFile(path), "lift") as source:
        path.write_bytes(b"something else")
        assert content(source) == LIFT
        if isinstance(source, str):
            with pytest.raises(OSError, match="not permitted"), open(source, "r+b") as file:
                file.write(b"x")
    if isinstance(source, str):
        assert not os.path.exists(source) or content(source) != LIFT  # noqa: PTH110


def test_where_there_is_no_such_memory_the_library_gets_bytes(path, monkeypatch):
    def refuse(*_arguments):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(os, "memfd_create", refuse)
    with sealed(GraphFile(path), "lift") as source:
        assert source == LIFT
    for name in ("ort", "openvino"):
        backend = open_graphs(usable_backend(name), {"lift": path}, 1, "fp32")
        x = np.linspace(-1, 1, 2 * WIDTH, dtype=np.float32).reshape(2, WIDTH)
        np.testing.assert_array_equal(backend.lift(x), np.concatenate([x, np.maximum(x, 0)], axis=1))


def test_a_file_that_is_exchanged_between_its_hash_and_its_loading_answers_nothing(own_bundle):
    bundle = Bundle.open(own_bundle("b"))
    backend = open_backend("ort", bundle, threads=1)
    file = graph_file(bundle, "lift", bundle.graph("lift"))
    assert file is not None
    assert file.sha256
    (bundle.path / "lift.onnx").write_bytes(OTHER)
    with pytest.raises(ArtefactError, match=r"E-BUNDLE-HASH: .*was exchanged while the bundle was opened"):
        backend.lift(np.zeros((1, WIDTH), np.float32))
    (bundle.path / "lift.onnx").write_bytes(LIFT[:50])
    with pytest.raises(ArtefactError, match="E-BUNDLE-GRAPH"):
        backend.lift(np.zeros((1, WIDTH), np.float32))


def test_a_writer_who_never_rests_gives_no_library_what_was_not_checked(path, monkeypatch):
    """One thread writes honest and dishonest graphs in turns; whatever is lent was checked."""
    hostile = with_work(node("ConstantOfShape", "size", "b"), size=[30_000] * 2).SerializeToString()
    stop, seen = [], set()

    def write() -> None:
        while not stop:
            for data in (hostile, LIFT, hostile[:40], OTHER):
                path.write_bytes(data)

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        for _ in range(300):
            try:
                with sealed(GraphFile(path), "lift") as source:
                    seen.add(content(source))
            except ArtefactError as error:
                assert error.code == "E-BUNDLE-GRAPH"  # noqa: PT017
        stop.append(True)
        writing.result()
    assert seen
    assert seen <= {LIFT, OTHER}


def test_what_is_no_file(tmp_path):
    with pytest.raises(SystemProblem, match="could not read the graph"), sealed(GraphFile(tmp_path / "no"), "lift"):
        pass
    (tmp_path / "empty.onnx").write_bytes(b"")
    (tmp_path / "folder.onnx").mkdir()
    os.mkfifo(tmp_path / "pipe.onnx")
    (tmp_path / "link.onnx").symlink_to(tmp_path / "empty.onnx")
    for name, said in {
        "empty": "is empty",
        "folder": "is a folder",
        "pipe": "is a pipe",
        "link": "is a link",
    }.items():
        with (
            pytest.raises(ArtefactError, match=f"E-BUNDLE-GRAPH: .*{said}"),
            sealed(GraphFile(tmp_path / f"{name}.onnx"), "lift"),
        ):
            pass


def test_a_file_larger_than_a_message_can_be(path, monkeypatch):
    monkeypatch.setattr(ours, "MOST_BYTES", len(LIFT) - 1)
    with pytest.raises(ArtefactError, match="where at most"), sealed(GraphFile(path), "lift"):
        pass


def test_no_handle_is_left(path):
    before = set(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for _ in range(5):
        with sealed(GraphFile(path), "lift"):
            pass
    path.write_bytes(b"no graph")
    for _ in range(5):
        with pytest.raises(ArtefactError), sealed(GraphFile(path), "lift"):
            pass
    assert len(set(os.listdir("/proc/self/fd"))) <= len(before)  # noqa: PTH208
