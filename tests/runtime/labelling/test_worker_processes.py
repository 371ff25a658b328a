"""Programs that label in several processes: errors and results travel, a loaded model does not, and children end."""

from __future__ import annotations

import copy
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

from support.forked import allow_fork
from support.tiny_bundle import class_table, draw_pictures
from zsl_runtime.backends.opening import open_backend
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.errors import InputError, UsageError
from zsl_runtime.labelling.ahead import Ahead, in_order
from zsl_runtime.labelling.classifier import Classifier
from zsl_runtime.machine.processes import OfThisProcess, only_here

if TYPE_CHECKING:
    from collections.abc import Callable

PICTURES = list(draw_pictures(class_table(), np.arange(8), seed=11))
BACKENDS = ["ort", "openvino", "reference"]
BEFORE_A_HANG = 20.0  # seconds

# What a user writes: a pool whose workers open the bundle themselves, and a picture that cannot be read.
PROGRAM = """
import multiprocessing, sys
from concurrent.futures import ProcessPoolExecutor
from zsl_runtime import Classifier
from zsl_runtime.errors import InputError, UsageError

def begin(path):
    global classifier
    classifier = Classifier.open(path, backend="ort", threads=2)

def label(picture):
    return classifier.predict([picture], topk=1)[0]

if __name__ == "__main__":
    path, good, broken, method = sys.argv[1:]
    context = multiprocessing.get_context(method)
    begin(path)
    own = label(good)  # the model has been used before the workers begin
    with context.Pool(1, begin, [path]) as pool:
        assert pool.map_async(label, [good, good]).get(60) == [own, own]
        try:
            pool.map_async(label, [good, broken]).get(60)
        except InputError as error:
            print(type(error).__name__, error.code, error.exit_code, broken in error.message)
        try:
            pool.map_async(classifier.predict, [[good]]).get(60)
        except UsageError as error:
            print(type(error).__name__, error.code, error.exit_code, "Classifier.open(path)" in error.message)
    with ProcessPoolExecutor(1, context, begin, [path]) as pool:
        try:
            pool.submit(label, broken).result(60)
        except InputError as error:
            print(type(error).__name__, error.code, error.exit_code, broken in error.message)
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_pool_hands_back_labels_and_errors_and_ends(own_bundle, tmp_path, method):
    from PIL import Image

    good, broken, program = tmp_path / "good.png", tmp_path / "broken.png", tmp_path / "program.py"
    Image.fromarray(PICTURES[0]).save(good)
    broken.write_bytes(good.read_bytes()[:50])
    program.write_text(PROGRAM, encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(
        [sys.executable, str(program), str(own_bundle()), str(good), str(broken), method],
        check=False,
        capture_output=True,
        text=True,
        timeout=100,
        env=environment,
    )
    told = "InputError E-IMAGE-DECODE 6 True"
    assert done.stdout.splitlines() == [told, "UsageError E-PROCESS 2 True", told]
    assert done.returncode == 0, done.stderr


def ends(child: Callable[[], int]) -> int:
    """The exit code of a forked child that goes the whole way to the end of a program; one that hangs is killed."""
    number = os.fork()
    if number == 0:
        code = 99
        try:
            code = child()
        finally:
            os._exit(code)
    deadline = time.monotonic() + BEFORE_A_HANG
    while time.monotonic() < deadline:
        ended, status = os.waitpid(number, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(number, signal.SIGKILL)
    os.waitpid(number, 0)
    return -signal.SIGKILL


@allow_fork
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_forked_child_refuses_to_label_and_can_let_go(shared_bundle, backend):
    """Two threads, so that the library has one of its own: whoever let go of it in the child would wait for ever."""
    given = [Classifier.open(shared_bundle(), backend=backend, threads=2)]
    before = given[0].predict(PICTURES)
    opened = open_backend(backend, given[0].bundle, threads=2)
    opened.features(np.stack(PICTURES))

    def child() -> int:
        for use in (
            lambda: given[0].predict(PICTURES),
            lambda: given[0].score(np.stack(PICTURES)),
            lambda: given[0].canonical(np.stack(PICTURES)),
            lambda: given[0].switch("ort"),
            lambda: opened.features(np.stack(PICTURES)),
        ):
            with pytest.raises(UsageError, match=r"^E-PROCESS: ") as told:
                use()
            assert f"process {os.getppid()} loaded this model" in told.value.message
            assert f"process {os.getpid()} was forked" in told.value.message
        given[0].read(PICTURES[0])  # needs no model
        given[0].close()
        opened.close()
        given.clear()
        return 7

    assert ends(child) == 7
    assert given[0].predict(PICTURES) == before
    given[0].close()


@pytest.mark.parametrize("backend", ["ort", "openvino"])
def test_a_child_that_ends_as_programs_do_ends(shared_bundle, backend):
    """Through the end of the interpreter, where everything is destroyed; in a program of its own for that."""
    program = (
        "import os, sys, numpy as np\nfrom zsl_runtime import Classifier\n"
        f"c = Classifier.open({str(shared_bundle())!r}, backend={backend!r}, threads=2)\nc.warmup()\n"
        "rows = c._rows(iter(np.zeros((99, 8, 8, 3), np.uint8)), 2, 'raise')\nnext(rows)\n"  # in the middle of a call
        "child = os.fork()\nif child: sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
        "sys.exit(7)\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, "-c", program], check=False, env=environment, timeout=BEFORE_A_HANG)
    assert done.returncode == 7


@allow_fork
def test_a_child_may_open_the_bundle_itself(own_bundle):
    path = own_bundle()
    with Classifier.open(path, backend="ort", threads=2) as classifier:
        wanted = classifier.predict(PICTURES)

        def child() -> int:
            with Classifier.open(path, backend="ort", threads=2) as own:
                return 7 if own.predict(PICTURES) == wanted else 1

        assert ends(child) == 7


@allow_fork
def test_a_child_lets_go_of_threads_that_it_does_not_have(monkeypatch):
    """Also where one of them held its lock at the moment of the fork."""
    reading = Ahead((number for number in range(9)), depth=2)
    mapped = in_order(lambda number: number, range(99), workers=2, ahead=4)
    assert (next(reading), next(mapped)) == (0, 0)
    held, go = threading.Event(), threading.Event()

    def hold() -> None:
        with reading._changed:
            held.set()
            go.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()

    def child() -> int:
        reading.close()
        mapped.close()
        return 7

    try:
        assert ends(child) == 7
    finally:
        go.set()
        holder.join()
    assert (list(reading), list(mapped)) == ([*range(1, 9)], [*range(1, 99)])
    reading.close()


@allow_fork
def test_what_is_done_at_the_end_of_a_process_is_not_done_by_its_children(tmp_path):
    done = tmp_path / "done"
    act = only_here(done.touch)
    assert ends(lambda: act() or 7) == 7
    assert not done.exists()
    act()
    assert done.exists()


def test_a_loaded_model_is_neither_copied_nor_sent(shared_bundle):
    with Classifier.open(shared_bundle(), threads=1) as classifier:
        for one in (classifier, classifier.predict, classifier.backend, {"model": classifier}):
            for copied in (copy.copy, copy.deepcopy, pickle.dumps):
                if one is not classifier and copied is copy.copy:
                    continue  # of a method or a dictionary, the same classifier
                with pytest.raises(UsageError, match=r"^E-PROCESS: .*open the bundle in each process instead") as told:
                    copied(one)
                assert pickle.loads(pickle.dumps(told.value)).message == told.value.message


def test_everything_that_is_loaded_belongs_to_its_process():
    """Backends of cards, too: their libraries do not live through a fork either."""
    from zsl_runtime.backends import onnx_graphs, ort_cuda, reference, tensorrt

    loaded = (onnx_graphs.GraphBackend, reference.ReferenceBackend, ort_cuda.OrtCudaBackend, tensorrt.TensorRtBackend)
    for kind in (Classifier, *loaded):
        assert issubclass(kind, OfThisProcess)


def same(one: object, other: object) -> bool:
    """Whether two results are equal; arrays in them are compared by what they hold."""
    if isinstance(one, np.ndarray):
        return isinstance(other, np.ndarray) and one.dtype == other.dtype and np.array_equal(one, other, equal_nan=True)
    if isinstance(one, InputError):
        return isinstance(other, InputError) and str(one) == str(other)
    if isinstance(one, (list, tuple)):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if hasattr(one, "__dict__") and type(one).__module__.startswith("zsl_"):
        return type(one) is type(other) and same(vars(one), vars(other))
    return one == other


@pytest.mark.parametrize("rule", ["fit", "gaussian", "rows"])
def test_whatever_a_call_returns_can_be_sent(own_bundle, rule):
    path = own_bundle(rule=rule)
    with Classifier.open(path, backend="ort", threads=1) as classifier:
        found = classifier.predict([*PICTURES, b"none"], errors="skip")
        assert isinstance(found[-1].error, InputError)
        table = classifier.class_table
        new = type(table)(("newcomer",), np.array([False]), table.raw[:1] + 0.01, table.attributes)
        results = (
            found,
            table,
            classifier.snapshot("seen"),
            classifier.bundle,
            classifier.pixels,
            classifier.input_port,
            dict(classifier.manifest),
            classifier.similar(new),
            classifier.add(new),
            classifier.undo(),
            classifier.remove(table.names[0]),
            Bundle.open(path).current(),
        )
        for result in results:
            assert same(pickle.loads(pickle.dumps(result)), result), type(result)
            assert same(copy.deepcopy(result), result), type(result)


def test_an_error_of_a_reading_thread_keeps_its_class(shared_bundle):
    with Classifier.open(shared_bundle(), backend="ort", threads=2) as classifier:
        with pytest.raises(InputError, match=r"^E-IMAGE-FORMAT: image 1: ") as told:
            classifier.predict([PICTURES[0], b"no picture at all"])
        assert pickle.loads(pickle.dumps(told.value)).exit_code == 6
