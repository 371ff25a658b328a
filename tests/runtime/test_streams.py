"""Commands whose stdout or stderr is closed, full or no longer read: no traceback, and an exit code that is true."""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest

from support.command_lines import SCRIPTS
from zsl_runtime import streams
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.cli.classes import main as zsl_classes
from zsl_runtime.errors import UsageError, run_command
from zsl_runtime.streams import forgiving_stream, one_line, printable, reporting, results_stream, standard_streams

needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
MADE = "the change was made: generation 2 is in force, with 9 classes"


def shell(command: str, redirect: str, *words: object, **variables: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command of ours behind a redirect of sh."""
    module = SCRIPTS[command].partition(":")[0]
    program = f"import sys; from {module} import main; sys.exit(main())"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)} | variables
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {redirect}', "sh", sys.executable, "-c", program, *map(str, words)],
        check=False,
        capture_output=True,
        env=environment,
        timeout=60,
    )
    out, err = done.stdout.decode(), done.stderr.decode()
    assert "Traceback" not in out + err
    return done.returncode, out, err


@pytest.fixture
def newcomer(shared_bundle, tmp_path) -> Path:
    """A table with one new class."""
    names = Bundle.open(shared_bundle()).attributes
    path = tmp_path / "new.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["name", *names], ["newcomer", *["0.5"] * len(names)]])
    return path


def state(bundle: Path) -> tuple[int, int]:
    """Generation in force and number of classes, of the files themselves."""
    pointer = json.loads((bundle / "classes" / "CURRENT").read_bytes())
    return pointer["generation"], len(Bundle.open(bundle).current().table)


@pytest.mark.parametrize(
    ("redirect", "reason"),
    [
        (">&-", "stdout is closed"),
        ("2>&-", None),
        (">&- 2>&-", None),
        ("<&- >&- 2>&-", None),
        pytest.param(">/dev/full", "stdout: No space left on device", marks=needs_full),
        pytest.param("2>/dev/full", None, marks=needs_full),
        pytest.param(">/dev/full 2>/dev/full", None, marks=needs_full),
    ],
)
def test_a_change_that_was_made_is_exit_0_and_told_where_it_still_can_be(own_bundle, newcomer, redirect, reason):
    bundle = own_bundle()
    code, out, err = shell("zsl-classes", redirect, "add", "--engine", bundle, "--attributes", newcomer)
    assert (code, state(bundle)) == (0, (2, 9))
    assert out.startswith("added newcomer") if redirect.startswith("2>") else out == ""
    told = [line for line in err.splitlines() if line.startswith("warning: the change")]
    assert told == ([f"warning: {MADE}; the report of it could not be printed ({reason})"] if reason else [])


@pytest.mark.parametrize("argv", [["remove", "robin"], ["teach"], ["undo"], ["refit"], ["prune", "--keep", "1"]])
@needs_full
def test_every_change_says_that_it_was_made(own_bundle, tmp_path, monkeypatch, capfd, argv):
    """In this process, on a stdout that is full from the moment at which the change is made."""
    from PIL import Image

    bundle = own_bundle(rule="gaussian")
    assert zsl_classes(["remove", "tit", "--engine", str(bundle)]) == 0
    more = []
    if argv[0] == "teach":
        folder = tmp_path / "photos" / "robin"
        folder.mkdir(parents=True)
        Image.new("RGB", (8, 8), "red").save(folder / "a.png")
        more = ["--photos", str(folder.parent), "--backend", "ort", "--threads", "1"]
    before = state(bundle)[0]
    capfd.readouterr()
    with open("/dev/full", "w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert zsl_classes([*argv, "--engine", str(bundle), *more]) == 0
        monkeypatch.undo()
    made = state(bundle)[0]
    assert made == (before if argv[0] == "prune" else before + 1)
    lines = capfd.readouterr().err.splitlines()
    if argv[0] == "teach":  # what is taught is unlike anything known, which is said as well
        assert "1 warning above" in lines.pop()
    said = lines[-1]
    wanted = "deleted 0" if argv[0] == "prune" else f"the change was made: generation {made} is in force, with "
    assert said.startswith(f"warning: {wanted}") or (argv[0] == "prune" and "delete" in said)
    assert said.endswith("; the report of it could not be printed (stdout: No space left on device)")


@pytest.mark.parametrize("redirect", [">&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_nothing_that_is_printed_gets_into_a_file(own_bundle, tmp_path, redirect):
    """Handle 1 or 2 would be the next file that is opened: the bundle's, or the one of the answers."""
    from PIL import Image

    bundle, out = own_bundle(), tmp_path / "o.csv"
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")
    before = {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()}
    words = [tmp_path / "a.png", "--engine", bundle, "--backend", "ort", "--threads", "1", "--output", out]
    code, _, err = shell("zsl-infer", redirect, *words)
    assert code == 0
    assert "labelled 1 of 1 pictures" in err if redirect == ">&-" else err == ""
    rows = list(csv.reader(out.read_text(encoding="utf-8").splitlines()))
    assert [row[0] for row in rows] == ["path", *[str(tmp_path / "a.png")] * 5]
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize(
    ("command", "argv"),
    [
        ("zsl-train", ["--help"]),
        ("zsl-export", ["--version"]),
        ("zsl-eval", ["--help"]),
        ("zsl-doctor", ["BUNDLE"]),
        ("zsl-classes", ["list", "--engine", "BUNDLE"]),
        ("zsl-infer", []),
    ],
)
def test_results_that_go_nowhere_are_told(shared_bundle, command, argv):
    words = [str(shared_bundle()) if word == "BUNDLE" else word for word in argv]
    code, out, err = shell(command, ">&-", *words)
    assert out == ""
    if argv:
        assert (code, err.splitlines()[-1]) == (0, "note: stdout is closed: what was to be printed there is lost")
    else:
        assert (code, err.splitlines()) == (2, [line for line in err.splitlines() if "E-USAGE" in line])


@pytest.mark.parametrize("command", ["zsl-infer", "zsl-eval", "zsl-classes"])
def test_results_that_would_be_lost_are_refused_before_the_work(shared_bundle, tmp_path, command):
    from PIL import Image

    (tmp_path / "robin").mkdir()
    Image.new("RGB", (8, 8), "red").save(tmp_path / "robin" / "a.png")
    words = {"zsl-infer": [tmp_path], "zsl-eval": [shared_bundle(), tmp_path], "zsl-classes": ["template"]}[command]
    engine = [] if command == "zsl-eval" else ["--engine", shared_bundle()]
    code, out, err = shell(command, ">&-", *words, *engine)
    assert (code, out) == (2, "")
    said = "error: E-OUTPUT: stdout is closed, so the results would be lost; give --output FILE"
    assert err.splitlines()[-1] == said


def test_a_slow_reader_gets_everything_from_a_pipe_that_would_not_wait():
    """As programs of Node.js leave their pipes: the write fails once 64 KiB are under way."""
    program = (
        "import sys, click\nfrom zsl_runtime.errors import run_command\n"
        "@click.command('zsl-something')\ndef command():\n"
        "    click.echo('x' * 300_000)\n    click.echo('y', err=True)\n"
        "sys.exit(run_command(command))\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=writer, stderr=subprocess.PIPE, env=environment
    ) as run:
        time.sleep(0.5)  # now it has begun to write
        os.close(writer)
        with open(reader, "rb") as pipe:
            assert pipe.read() == b"x" * 300_000 + b"\n"
        assert run.stderr.read() == b"y\n"
    assert run.returncode == 0


def test_completion_with_everything_closed(shared_bundle):
    assert shell("zsl-infer", "<&- >&- 2>&-", _ZSL_INFER_COMPLETE="bash_source") == (0, "", "")
    assert shell("zsl-infer", ">&- 2>&-", "none.jpg", "--engine", shared_bundle())[0] == 2


def test_a_list_on_a_closed_stdin_is_told(shared_bundle):
    code, _, err = shell("zsl-infer", "<&-", "-", "--engine", shared_bundle())
    assert (code, err.partition(":")[2].partition(":")[0]) == (2, " E-LIST")


@pytest.mark.parametrize(
    "variables",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"TERM": "dumb", "COLUMNS": "0", "LINES": "0"},
        {"COLUMNS": "-5", "TERM": ""},
        {"COLUMNS": "many", "LC_ALL": "nowhere.utf8"},
    ],
)
def test_results_are_utf_8_wherever_they_go(shared_bundle, variables):
    code, out, err = shell("zsl-classes", "", "list", "--engine", shared_bundle(), **variables)
    assert (code, err) == (0, "")
    assert "übersee-ente" in out
    code, out, err = shell("zsl-infer", "", "--help", **variables)
    assert (code, err) == (0, "")
    assert out.startswith("Usage: zsl-infer ")


# --- in a program that has streams of its own -----------------------------------------------------------------------


def test_a_stdout_of_text_alone_gets_bytes_as_text(own_bundle, tmp_path):
    """Of a notebook, or of contextlib.redirect_stdout."""
    from PIL import Image

    from zsl_runtime.cli.infer import main as zsl_infer

    Image.new("RGB", (8, 8), "red").save(tmp_path / "ü.png")
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(io.StringIO()):
        words = [str(tmp_path / "ü.png"), "--engine", str(own_bundle()), "--backend", "ort", "--threads", "1"]
        assert zsl_infer(words) == 0
    assert [line.partition(",")[0] for line in said.getvalue().splitlines()] == ["path", *[str(tmp_path / "ü.png")] * 5]


def test_a_letter_in_two_halves_is_one_letter():
    said = io.StringIO()
    stream = results_stream(said)
    for byte in "ü€".encode():
        stream.buffer.write(bytes([byte]))
    assert said.getvalue() == "ü€"
    assert not stream.isatty()


def test_streams_are_given_back(monkeypatch):
    out, err = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", None)
    with standard_streams():
        assert sys.stderr is not None
        sys.stdout.buffer.write(b"result\n")
    assert (sys.stdout, sys.stderr, out.getvalue()) == (out, None, "result\n")
    assert err.getvalue() == ""


def test_a_closed_stream_is_as_none(monkeypatch):
    gone = io.TextIOWrapper(io.BytesIO())
    gone.close()
    monkeypatch.setattr(sys, "stdout", gone)

    @click.command("zsl-something")
    def command() -> None:
        click.echo("result")

    assert run_command(command, []) == 0


def test_messages_never_stop_the_work(tmp_path):
    """A log on a full disk, then with space again."""

    class Full(io.RawIOBase):
        full = True

        def __init__(self) -> None:
            self.kept = b""

        def writable(self) -> bool:
            return True

        def fileno(self) -> int:
            return 2

        def write(self, data, /) -> int:
            if self.full:
                raise OSError(errno.ENOSPC, "No space left on device")
            self.kept += bytes(data)
            return len(data)

    under = Full()
    stream = forgiving_stream(io.TextIOWrapper(io.BufferedWriter(under, 1), encoding="ascii"))
    print("lost", file=stream, flush=True)
    under.full = False
    print("größer", file=stream, flush=True)
    assert under.kept.endswith(b"gr\\xf6\\xdfer\n")
    assert forgiving_stream(stream) is stream


def test_a_report_that_is_cut_off_by_ctrl_c_says_what_was_done(capsys):
    def interrupted() -> None:
        with reporting("the change was made"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert capsys.readouterr().err == "warning: the change was made\n"


def test_handles_that_are_open_stay(monkeypatch):
    monkeypatch.setattr(streams.os, "open", lambda *_: pytest.fail("nothing is closed here"))
    streams.fill_handles()


def test_what_is_printed_for_people_has_nothing_that_moves_a_terminal_or_turns_a_line():
    assert printable("größe\tx\n\U0001f600 \xa0") == "größe\tx\n\U0001f600 \xa0"
    assert printable("\x1b[2J\r\x07\x9b31m\u202egnp\u2028\x85\x7f\0") == (
        "\\x1b[2J\\r\\x07\\x9b31m\\u202egnp\\u2028\\x85\\x7f\\x00"
    )
    error = UsageError("E-X", "a name\x1b]0;x\x07 and\nerror: E-FORGED: \u2066other")
    assert str(error) == "E-X: a name\\x1b]0;x\\x07 and error: E-FORGED: \\u2066other"


def test_a_line_holds_nothing_that_begins_another_one():
    assert one_line("a\nok      forged\tb\r\x1b[2J") == "a ok      forged b\\r\\x1b[2J"
    assert one_line("übersee-ente, 2  blanks") == "übersee-ente, 2  blanks"
