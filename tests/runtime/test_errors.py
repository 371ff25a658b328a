"""What a user sees when something goes wrong: one line, a code, an exit code, and nothing left behind."""

from __future__ import annotations

import ast
import copy
import errno
import inspect
import os
import pickle
import pkgutil
import re
import signal
import subprocess
import sys
import threading
import warnings
from importlib import import_module
from pathlib import Path

import click
import pytest

import zsl_export
import zsl_runtime
import zsl_train
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


def test_what_a_bug_was_about_moves_no_terminal(capsys):
    """A traceback tells what a library was given, such as a name that somebody made up."""
    code, _, err = outcome(raising(RuntimeError("no such class: \x1b[2J\u202ewren")), capsys)
    assert code == 1
    assert "RuntimeError: no such class: \\x1b[2J\\u202ewren" in err
    assert err.count("\n") > 4  # it keeps its lines


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (MemoryError(), "the memory is not enough for this; do less at once, or give it more"),
        (
            MemoryError("Unable to allocate 7.45 GiB for an array with shape (1000000000,)"),
            "the memory is not enough for this (7.45 GiB more were wanted); do less at once, or give it more",
        ),
        (
            RuntimeError(
                "DefaultCPUAllocator: can't allocate memory: you tried to allocate 4000000 bytes. Error code 12"
            ),
            "the memory is not enough for this (4000000 bytes more were wanted); do less at once, or give it more",
        ),
        (
            RuntimeError(
                "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 3.81 GiB of which"
            ),
            (
                "the card's memory is not enough for this (2.50 GiB more were wanted); see what else uses it, or give "
                "--device cpu"
            ),
        ),
        (
            RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
            "the card's memory is not enough for this; see what else uses it, or give --device cpu",
        ),
        (
            ImportError("/lib/_core.so: failed to map segment from shared object"),
            "the memory is not enough for this; do less at once, or give it more",
        ),
        (RuntimeError("std::bad_alloc"), "the memory is not enough for this; do less at once, or give it more"),
        (
            ImportError("/lib/_core.so: cannot open shared object file: Too many open files"),
            "could not load a library: Too many open files; see to it that this works, then run the command again",
        ),
        (
            RuntimeError("can't start new thread"),
            "the system allows this process no more threads; take fewer (--threads 1), or raise the limit",
        ),
    ],
)
def test_what_the_system_has_no_more_of_is_no_bug(capsys, error, line):
    assert outcome(raising(error), capsys) == (2, "", f"error: E-SYSTEM: {line}\n")


def test_ctrl_c_is_one_word(capsys):
    assert outcome(raising(KeyboardInterrupt), capsys) == (130, "", "interrupted\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_sigterm_and_a_closed_terminal_clean_up_as_ctrl_c_does(capsys, number):
    cleaned = []

    def action():
        try:
            os.kill(os.getpid(), number)
            signal.pause()
        except KeyboardInterrupt as error:
            cleaned.append(type(error))
            raise

    assert outcome(action, capsys) == (143, "", "terminated\n")
    assert cleaned == [Terminated]
    assert signal.getsignal(number) is signal.SIG_DFL


def test_under_nohup_a_closed_terminal_stops_nothing(capsys):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert outcome(lambda: os.kill(os.getpid(), signal.SIGHUP), capsys) == (0, "", "")
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


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


# --- errors travel --------------------------------------------------------------------------------------------------

PACKAGES = (zsl_runtime, zsl_train, zsl_export)
NO_MODULES = {"zsl_train.data.field_guide.__main__"}  # a program


def errors_of_ours() -> list[type[BaseException]]:
    """Every exception class that a module of the three packages defines."""
    found: list[type[BaseException]] = []
    for package in PACKAGES:
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if module.name in NO_MODULES:
                continue
            loaded = import_module(module.name)
            found += [
                one
                for one in vars(loaded).values()
                if isinstance(one, type) and issubclass(one, BaseException) and one.__module__ == loaded.__name__
            ]
    return found


def arguments_of(kind: type[BaseException]) -> list[object]:
    """Values for what its constructor asks for."""
    try:
        wanted = list(inspect.signature(kind).parameters.values())
    except ValueError:  # one of C++
        return ["said"]
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in wanted):
        return ["said"]
    return [number if "int" in str(one.annotation) else f"text {number}" for number, one in enumerate(wanted)]


def test_every_error_of_ours_can_be_sent_to_another_process_and_copied():
    """A pool that cannot read an error of a worker waits for ever (cpython#79492)."""
    kinds = errors_of_ours()
    assert {ZslError, UsageError, InputError, Terminated} <= set(kinds)
    for kind in kinds:
        error = kind(*arguments_of(kind))
        error.add_note("in the worker")
        for copied in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
            assert type(copied) is kind
            assert (str(copied), copied.args, vars(copied)) == (str(error), error.args, vars(error)), kind


@pytest.mark.parametrize(
    "kind", [ZslError, UsageError, SystemProblem, GateError, BackendError, ArtefactError, InputError]
)
def test_a_copy_of_an_error_says_the_same(kind):
    error = kind("E-SOMETHING", "three were given,\n  two are expected")
    copied = pickle.loads(pickle.dumps(error))
    assert (copied.code, copied.message) == ("E-SOMETHING", "three were given, two are expected")
    assert (str(copied), copied.exit_code) == (str(error), kind.exit_code)


def test_an_error_that_is_made_again_of_a_traceback_is_the_same():
    """As torch does with that of a worker of its DataLoader, which would be a RuntimeError otherwise."""
    from torch._utils import ExceptionWrapper

    error = InputError("E-IMAGE-DECODE", "'a.jpg': E-BUG: it is damaged; replace it")
    raised = ExceptionWrapper((InputError, error, error.__traceback__), where="in DataLoader worker process 0")
    wrapped = pickle.loads(pickle.dumps(raised))
    with pytest.raises(InputError) as told:
        wrapped.reraise()
    assert (told.value.code, told.value.exit_code) == ("E-IMAGE-DECODE", 6)
    assert told.value.message == "'a.jpg': E-BUG: it is damaged; replace it"


def test_a_text_without_a_code_is_kept():
    assert str(InputError("lost in\nthe post")) == "E-BUG: lost in the post"


# --- what the system said -------------------------------------------------------------------------------------------

REFUSALS = [
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.ENOSPC, "No space left on device", "/some/o.csv"),
    OSError(errno.EACCES, "Permission denied", b"/some/o.csv"),
    OSError(errno.EBADF, "Bad file descriptor", 5),
    OSError(errno.EIO, "", "/some/o.csv"),
    OSError(errno.EIO, "Input/output error:", ""),
    OSError("reading: "),
    OSError(),
    TimeoutError(),
]


def texts_of_calls() -> list[str]:
    """What completes 'could not ...' in each call of `from_os_error` in the sources, values in braces filled in."""
    found = []
    for package in PACKAGES:
        for source in Path(package.__path__[0]).rglob("*.py"):
            for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "from_os_error":
                    said = node.args[1] if len(node.args) > 1 else node.keywords[0].value
                    found += [ast.literal_eval(said)] if isinstance(said, ast.Constant) else filled(said)
    return found


def filled(said: ast.expr) -> list[str]:
    """Of an f-string, with several values; anything else is not known here, and stands for itself."""
    if not isinstance(said, ast.JoinedStr):
        return ["do it"]
    return [
        "".join(str(part.value) if isinstance(part, ast.Constant) else value for part in said.values)
        for value in ("'/some/o.csv'", "o.csv", "")
    ]


def test_no_message_about_the_system_stumbles_over_its_punctuation():
    texts = texts_of_calls()
    assert len(texts) > 30
    for text in texts:
        for error in REFUSALS:
            line = str(from_os_error(error, text))
            assert line.startswith("E-SYSTEM: could not ")
            assert line.endswith(", then run the command again")
            assert re.search(r"[:;]\s*[:;,]|\s[:;,]|\s\s", line) is None, line


@pytest.mark.parametrize(
    ("doing", "name", "line"),
    [
        ("write 'o.csv':", None, "could not write 'o.csv': No"),
        ("write 'o.csv':", "o.csv", "could not write 'o.csv': No"),
        ("write 'o.csv':", "/tmp/part", "could not write 'o.csv' ('/tmp/part'): No"),
        ("read the list", b"\xff", r"could not read the list '\udcff': No"),
        ("read the list", 0, "could not read the list: No"),
    ],
)
def test_a_file_is_named_once(doing, name, line):
    said = from_os_error(OSError(errno.EIO, "No", name), doing).message
    assert said == f"{line}; see to it that this works, then run the command again"


# --- what libraries have to say -------------------------------------------------------------------------------------

NOISY = """
import logging, sys, threading, warnings
import click
from zsl_runtime.errors import run_command

@click.command("zsl-something")
def command():
    warnings.simplefilter("always", DeprecationWarning)  # as some libraries do when they are imported
    warnings.warn("old", DeprecationWarning)
    warnings.warn("odd", UserWarning)
    thread = threading.Thread(target=lambda: warnings.warn("not a number", RuntimeWarning))
    thread.start()
    thread.join()
    logging.getLogger("library").warning("by the way")
    click.echo("said")

sys.exit(run_command(command))
"""


@pytest.mark.parametrize(
    ("options", "shown"), [([], []), (["-W", "default"], ["DeprecationWarning: old", "UserWarning: odd"])]
)
def test_a_command_shows_warnings_of_libraries_only_where_they_are_asked_for(options, shown):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "PYTHONWARNINGS": ""}
    done = subprocess.run(
        [sys.executable, *options, "-c", NOISY], check=False, capture_output=True, text=True, env=environment
    )
    assert (done.returncode, done.stdout) == (0, "said\n")
    for text in shown:
        assert text in done.stderr
    assert bool(done.stderr) == bool(shown)


def test_a_program_that_calls_a_command_keeps_its_warnings(capsys):
    with pytest.warns(UserWarning, match="odd"):
        assert outcome(lambda: warnings.warn("odd", UserWarning, stacklevel=1), capsys)[0] == 0


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


def test_a_verdict_is_found_though_nobody_reads_the_report(closed_pipe, own_bundle):
    """`zsl-doctor BUNDLE | head -1` in a script that looks at its exit code."""
    bundle = own_bundle()
    (bundle / "model.onnx").write_bytes(b"damaged")
    done = start("zsl_runtime.cli.doctor", ["BUNDLE"], bundle, stdout=closed_pipe, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (5, b"")


def test_a_change_is_told_though_nobody_reads_the_report(closed_pipe, own_bundle):
    bundle = own_bundle()
    argv = ["remove", "robin", "--engine", "BUNDLE"]
    done = start("zsl_runtime.cli.classes", argv, bundle, stdout=closed_pipe, stderr=subprocess.PIPE)
    assert done.returncode == 0
    assert done.stderr == (
        b"warning: the change was made: generation 2 is in force, with 7 classes; "
        b"the report of it could not be printed (stdout: Broken pipe)\n"
    )


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
