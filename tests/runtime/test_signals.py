"""The second Ctrl-C or SIGTERM ends a command at once, whatever it is at, with its children."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from support.tiny_bundle import as_regions, class_table, draw_pictures
from zsl_runtime import signals
from zsl_runtime.cli.infer import main as zsl_infer

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at /proc")
# A command whose main thread is inside a library that lets go of the interpreter, and whose clean-up waits for ever.
HANGS = """
import hashlib, subprocess, sys, threading, click
from zsl_runtime.errors import run_command

def long():
    hashlib.pbkdf2_hmac("sha256", b"", b"", {steps})  # C code without the interpreter's lock, as an engine's is

@click.command("zsl-x")
def command():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    thread = threading.Thread(target=long)
    thread.start()
    try:
        print(child.pid, flush=True)
        {main}
    finally:
        thread.join()

sys.exit(run_command(command))
"""
PLACES = {"in the engine": "long()", "waiting for a thread": "threading.Event().wait()"}
ENDS = {signal.SIGINT: (130, "interrupted"), signal.SIGTERM: (143, "terminated")}


@contextlib.contextmanager
def running(*words, **options):
    """A process that does not go on where the test fails: some would for minutes."""
    with subprocess.Popen(*words, **options) as child:
        try:
            yield child
        finally:
            child.kill()


def gone(process: int) -> bool:
    """Whether a process has ended; one that nobody has waited for yet counts."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def taken(process: int, number: int) -> bool:
    """Whether a signal that was sent has come, where /proc tells: two that still wait are one."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return True
    waiting = [int(line.split()[1], 16) for line in lines if line.startswith(("SigPnd", "ShdPnd"))]
    return not any(mask >> (number - 1) & 1 for mask in waiting)


def wait_until(true) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@LINUX
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "numbers", [(signal.SIGINT, signal.SIGINT), (signal.SIGTERM, signal.SIGTERM), (signal.SIGINT, signal.SIGTERM)]
)
def test_the_second_signal_ends_a_command_that_hangs_and_its_children(place, numbers):
    program = HANGS.format(steps=10**9, main=PLACES[place])
    with running([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        grandchild = int(child.stdout.readline())
        child.send_signal(numbers[0])
        wait_until(lambda: taken(child.pid, numbers[0]))
        time.sleep(0.2)
        assert child.poll() is None  # the first one waits
        child.send_signal(numbers[1])
        assert child.wait(60) in {ENDS[number][0] for number in numbers}  # at once where nobody else is at work
        assert child.stderr.read().splitlines()[-1] in {ENDS[number][1] for number in numbers}
        wait_until(lambda: gone(grandchild))


@LINUX
@pytest.mark.parametrize("pause", [0.0, 0.005])
@pytest.mark.parametrize(
    "numbers", [(signal.SIGTERM, signal.SIGTERM), (signal.SIGHUP, signal.SIGHUP), (signal.SIGTERM, signal.SIGHUP)]
)
@pytest.mark.parametrize("inside", [False, True])
def test_an_echo_from_outside_is_no_second_signal(numbers, pause, inside):
    """`timeout` signals its command and then their group; a closing terminal and the shell in it send SIGHUP each."""
    waits = "[time.sleep(0.01) for _ in iter(lambda: stop.requested, True)]; time.sleep(0.1); stop.check()"
    body = f"""from zsl_runtime.machine.stop import Stop, stopping
    stop = Stop()
    try:
        with {"stopping(stop)" if inside else "contextlib.nullcontext()"}:
            print("ready", flush=True)
            {waits if inside else "time.sleep(30)"}
    finally:
        time.sleep(0.1)
        print("clean", flush=True)"""
    with running(
        [sys.executable, "-c", HELD.format(body=body)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        assert [child.stdout.readline() for _ in range(2)] == [b"here\n", b"ready\n"]
        sent = time.monotonic()
        child.send_signal(numbers[0])
        time.sleep(pause)
        child.send_signal(numbers[1])
        late = time.monotonic() - sent > signals.ECHO / 2  # a machine too busy for this
        told = child.communicate(timeout=60)
    assert child.returncode == 143
    assert late or told == (b"clean\n", b"terminated\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_an_echo_comes_from_outside_and_soon(number, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(signals.time, "monotonic", lambda: now[0])
    outside = signals.Outside()
    assert not outside.is_echo(number)
    assert not outside.is_echo(signal.SIGINT)  # somebody's keys
    now[0] += 0.6 * signals.ECHO
    assert outside.is_echo(signal.SIGTERM)
    assert outside.is_echo(signal.SIGHUP)
    now[0] += 0.6 * signals.ECHO  # of the first, not of its echo
    assert not outside.is_echo(number)
    outside.forget()
    assert not outside.is_echo(number)


def test_one_signal_lets_it_clean_up():
    program = HANGS.format(steps=10**6, main=PLACES["waiting for a thread"]).replace("time.sleep(60)", "pass")
    with running([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        child.stdout.readline()
        child.send_signal(signal.SIGTERM)
        assert child.communicate(timeout=60) == (b"", b"terminated\n")
        assert child.returncode == 143


def test_an_interrupted_command_does_not_wait_for_threads_at_pythons_own_end():
    """A thread that nobody joins, as of a library's pool; the second signal would come while Python ends."""
    program = HANGS.format(steps=10**9, main="threading.Event().wait()").replace("thread.join()", "child.kill()")
    with running([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        child.stdout.readline()
        child.send_signal(signal.SIGTERM)
        assert child.wait(60) == 143
        assert child.stderr.read() == b"terminated\n"


# zsl-infer with an engine that never gives its second batch back.
STUCK = """
import sys, time
from zsl_runtime.labelling.classifier import Classifier
real, calls = Classifier.score_with, []
def stuck(self, snapshot, inputs):
    calls.append(1)
    if len(calls) == 4:
        print("stuck", file=sys.stderr, flush=True)
        time.sleep(60)
    return real(self, snapshot, inputs)
Classifier.score_with = stuck
from zsl_runtime.cli.infer import main
sys.exit(main())
"""


@pytest.mark.parametrize("more", [(), ("--cascade",)])
def test_what_it_leaves_behind_can_be_gone_on_with(shared_bundle, tmp_path, more):
    bundle, rows, out = shared_bundle(kind="backbone_features"), tmp_path / "x.npy", tmp_path / "out.csv"
    labels = np.arange(64) % 8
    np.save(rows, as_regions(draw_pictures(class_table(), labels, seed=3)))
    words = [str(rows), "--engine", str(bundle), "--output", str(out), "--batch-size", "8", "--topk", "1", *more]
    words += ["--backend", "ort", "--quiet"]
    with running([sys.executable, "-c", STUCK, *words], stderr=subprocess.PIPE, text=True) as child:
        while "stuck" not in child.stderr.readline():
            assert child.poll() is None
        if not more:
            wait_until(lambda: out.with_name("out.csv.partial").stat().st_size > 100)
        child.send_signal(signal.SIGINT)
        wait_until(lambda: taken(child.pid, signal.SIGINT))
        time.sleep(0.2)
        child.send_signal(signal.SIGINT)
        assert child.wait(60) == 130
    assert not out.exists()
    assert zsl_infer([*words, *([] if more else ["--resume"])]) == 0
    names = [line.split(",")[2] for line in out.read_text().splitlines()[1:]]
    assert names == [class_table().names[j] for j in labels]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("out")] == ["out.csv"]


@LINUX
def test_a_forked_childs_signals_are_not_the_commands():
    """As a terminal sends one Ctrl-C to all: each of them has had one."""
    program = """
import os, signal, sys, time
from zsl_runtime.signals import end_at_the_second
end_at_the_second()
signal.signal(signal.SIGINT, lambda *_: None)
children = []
for _ in range(3):
    child = os.fork()
    if not child:
        time.sleep(1)
        os._exit(0)
    children.append(child)
time.sleep(0.3)
for child in [*children, os.getpid()]:
    os.kill(child, signal.SIGINT)
time.sleep(1)
print("still here", flush=True)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, b"still here\n")


@LINUX
def test_descendants_are_those_of_proc():
    inner = "import subprocess, sys; p = subprocess.Popen(['sleep', '30']); print(p.pid, flush=True); p.wait()"
    with running([sys.executable, "-c", inner], stdout=subprocess.PIPE) as child:
        grandchild = int(child.stdout.readline())
        found = signals._descendants(os.getpid())
        os.kill(grandchild, signal.SIGKILL)
        child.wait()
    assert {child.pid, grandchild} <= set(found)
    assert os.getpid() not in found


def test_a_program_that_watches_itself_goes_on_doing_so():
    program = """
import os, signal, json
from zsl_runtime.signals import end_at_the_second
reader, writer = os.pipe()
os.set_blocking(writer, False)
signal.set_wakeup_fd(writer)
end_at_the_second()
print(json.dumps([signal.set_wakeup_fd(-1), writer]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=120, check=True)
    found = json.loads(done.stdout)
    assert found[0] == found[1]


HELD = """
import contextlib, os, signal, sys, time
import click
from zsl_runtime.errors import run_command

@click.command()
def cli():
    print("here", flush=True)
    {body}

sys.argv[1:] = []
sys.exit(run_command(cli))
"""


@LINUX
@pytest.mark.parametrize("word", ["interrupted", "terminated"])
@pytest.mark.parametrize("pause", [0.0, 0.002, 0.01, 0.02, 0.05])
def test_a_second_signal_while_the_command_ends_makes_no_traceback(pause, word):
    number = signal.SIGINT if word == "interrupted" else signal.SIGTERM
    program = HELD.format(body="time.sleep(30)")
    with running([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout.readline() == b"here\n"
        child.send_signal(number)
        time.sleep(pause)
        child.send_signal(number)
        told = child.communicate(timeout=60)[1]
    assert (child.returncode, set(told.splitlines())) == (130 if word == "interrupted" else 143, {word.encode()})


@LINUX
@pytest.mark.parametrize(
    "made",
    [
        "raise AttributeError('partially initialized module')",
        "from zsl_runtime.errors import BackendError; raise BackendError('E-X', 'it failed')",
    ],
)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_a_library_makes_of_an_interruption_is_an_interruption(made, number):
    program = HELD.format(
        body=f"""
    try:
        time.sleep(30)
    except BaseException:
        {made}"""
    )
    with running([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout.readline() == b"here\n"
        child.send_signal(number)
        told = child.communicate(timeout=60)[1]
    assert (child.returncode, told) == ((130, b"interrupted\n") if number == signal.SIGINT else (143, b"terminated\n"))


@LINUX
def test_an_error_after_no_signal_is_told():
    program = HELD.format(body="raise AttributeError('of its own')")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=120, check=False)
    assert done.returncode == 1
    assert b"E-BUG" in done.stderr
