"""What a user sees when something goes wrong: one line, a code, an exit code, and nothing left behind."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading

import click
import pytest

from zsl_runtime.errors import (
    ArtefactError,
    BackendError,
    GateError,
    InputError,
    SystemProblem,
    Terminated,
    UsageError,
    ZslError,
    from_os_error,
    listed,
    nearest,
    run_command,
)


def outcome(action, capsys, argv=()):
    """Exit code, stdout and stderr of a command that does `action`."""

    @click.command("zsl-something")
    @click.option("--count", type=int)
    def command(count):
        return action()

    code = run_command(command, argv)
    return code, *capsys.readouterr()


def raising(error):
    def action():
        raise error

    return action


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (ZslError, 1),
        (UsageError, 2),
        (SystemProblem, 2),
        (GateError, 3),
        (BackendError, 4),
        (ArtefactError, 5),
        (InputError, 6),
    ],
)
def test_each_kind_of_error_is_one_line_and_its_exit_code(capsys, kind, code):
    error = kind("E-SOMETHING", "three were given,\n  two are expected;\tgive two")
    wanted = "error: E-SOMETHING: three were given, two are expected; give two\n"
    assert outcome(raising(error), capsys) == (code, "", wanted)


@pytest.mark.parametrize(("result", "code"), [(None, 0), (0, 0), (6, 6), ("text", 0)])
def test_the_result_of_the_command_is_the_exit_code(capsys, result, code):
    assert outcome(lambda: result, capsys) == (code, "", "")


def test_an_os_error_says_which_file_and_why(capsys):
    full = OSError(28, "No space left on device", "/somewhere/weights.bin")
    line = str(from_os_error(full, "write the weights"))
    assert line.startswith("E-SYSTEM: could not write the weights '/somewhere/weights.bin': No space left on device; ")
    assert str(from_os_error(OSError("odd"), "read it")).startswith("E-SYSTEM: could not read it: odd; ")
    for number, remedy in (
        (errno.ENOSPC, "free space or choose another place"),
        (errno.EACCES, "get permission or choose another place"),
        (errno.ENOENT, "check the path"),
        (errno.EIO, "see to it that this works"),
    ):
        line = str(from_os_error(OSError(number, "No"), "read it"))
        assert line == f"E-SYSTEM: could not read it: No; {remedy}, then run the command again"
    code, out, err = outcome(raising(full), capsys)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: E-SYSTEM: could not finish: the system refused '/somewhere/weights.bin': No space")


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ([], ""),
        (["tit"], "'tit'"),
        (["a", "b", "c", "d", "e"], "'a', 'b', 'c', 'd', 'e'"),
        (["a", "b", "c", "d", "e", "f", "g"], "'a', 'b', 'c', 'd', 'e' and 2 more"),
        (["x" * 80], repr("x" * 80)),
        (["x" * 81], f"'{'x' * 77}'..."),
    ],
)
def test_long_lists_are_cut_in_messages(names, text):
    assert listed(names) == text


@pytest.mark.parametrize("argv", [["--count", "many"], ["--colour"], ["--count"], ["stray"]])
def test_wrong_usage_names_the_help_to_read(capsys, argv):
    code, out, err = outcome(lambda: 0, capsys, argv)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: E-USAGE: ")
    assert err.endswith(" (see zsl-something --help)\n")


def test_a_usage_error_without_a_command_names_the_command(capsys):
    assert outcome(raising(click.ClickException("no")), capsys)[2] == "error: E-USAGE: no (see zsl-something --help)\n"


@pytest.mark.parametrize("error", [RuntimeError("our mistake"), EOFError("a file that ended early")])
def test_a_bug_shows_its_traceback_and_asks_for_a_report(capsys, error):
    """EOFError too: click would take it for the end of a user's typing, and say nothing."""
    code, out, err = outcome(raising(error), capsys)
    assert (code, out) == (1, "")
    assert err.startswith("Traceback")
    assert str(error) in err
    assert err.splitlines()[-1] == "error: E-BUG: this is a bug in zsl-deploy; please report the lines above"


def test_ctrl_c_is_one_word(capsys):
    assert outcome(raising(KeyboardInterrupt), capsys) == (130, "", "interrupted\n")


def test_sigterm_cleans_up_as_ctrl_c_does(capsys):
    cleaned = []

    def action():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
        except KeyboardInterrupt as error:
            cleaned.append(type(error))
            raise

    assert outcome(action, capsys) == (143, "", "terminated\n")
    assert cleaned == [Terminated]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_program_around_us_keeps_its_own_handler_of_sigterm(capsys):
    caught = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: caught.append(number))
    try:
        assert outcome(lambda: os.kill(os.getpid(), signal.SIGTERM), capsys) == (0, "", "")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert caught == [signal.SIGTERM]


def test_a_command_may_run_in_a_thread(capsys):
    codes = []
    thread = threading.Thread(target=lambda: codes.append(outcome(lambda: 6, capsys)[0]))
    thread.start()
    thread.join()
    assert codes == [6]


# --- streams that cannot be written ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bundle(shared_bundle):
    return shared_bundle()


COMMANDS = [
    ("zsl_runtime.cli.infer", ["--help"]),
    ("zsl_runtime.cli.classes", ["list", "--engine", "BUNDLE"]),
    ("zsl_runtime.cli.doctor", ["BUNDLE"]),
    ("zsl_export.cli", ["--help"]),
    ("zsl_train.cli", ["--help"]),
]


def start(module, argv, bundle, **streams):
    program = [sys.executable, "-c", f"import sys; from {module} import main; sys.exit(main())"]
    words = [str(bundle) if word == "BUNDLE" else word for word in argv]
    return subprocess.run([*program, *words], check=False, **streams)


@pytest.fixture
def closed_pipe():
    """The writing end of a pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


@pytest.mark.parametrize(("module", "argv"), COMMANDS)
def test_a_reader_that_went_away_ends_every_command_quietly(closed_pipe, bundle, module, argv):
    done = start(module, argv, bundle, stdout=closed_pipe, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")  # noqa: PTH110
def test_results_that_do_not_fit_are_not_taken_for_done(bundle):
    with open("/dev/full", "wb") as full:
        done = start(*COMMANDS[1], bundle, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 2
    assert done.stderr.startswith(b"error: E-SYSTEM: could not finish: the system refused: No space left on device;")
    assert done.stderr.count(b"\n") == 1


def test_the_exit_code_survives_a_stderr_that_nobody_reads(closed_pipe, bundle):
    done = start("zsl_runtime.cli.classes", ["add"], bundle, stdout=subprocess.PIPE, stderr=closed_pipe)
    assert (done.returncode, done.stdout) == (2, b"")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("sc_egg", " (did you mean sc-egg?)"),
        ("SC-EGG", " (did you mean sc-egg?)"),
        ("acm", " (did you mean acmr?)"),
        ("x", ""),
    ],
)
def test_the_nearest_known_name_is_suggested(name, hint):
    assert nearest(name, ["sc-egg", "acmr", "dcr-gan"]) == hint
