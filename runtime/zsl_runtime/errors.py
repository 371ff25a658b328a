"""Every error a user can meet: one line, a code, an exit code; and the one place that prints it.

The line says what was given, what was expected and what to do. A traceback means a bug of ours (exit code 1).
"""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
import threading
import traceback
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from zsl_runtime.signals import end_at_the_second, main_thread, settle, was_asked, what_was_asked
from zsl_runtime.streams import drop_unwritable, printable, standard_streams

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import click

EXIT_DONE = 0
EXIT_BUG = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130  # the shell's convention for a signal: 128 + SIGINT
EXIT_TERMINATED = 143  # 128 + SIGTERM
INTERRUPTED = (EXIT_INTERRUPTED, EXIT_TERMINATED)
SHELLS = ("bash", "zsh", "fish")  # whose completion is tested; click knows PowerShell, too

_PATH, _PERMISSION, _SPACE = (
    "check the path",
    "get permission or choose another place",
    "free space or choose another place",
)
REMEDIES = {
    **dict.fromkeys((errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG), _PATH),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), _PERMISSION),
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), _SPACE),
}

# What is said where there is no memory: by torch, by the loader of libraries, by C++.
NO_MEMORY = ("can't allocate memory", "failed to map segment", "cannot allocate memory", "std::bad_alloc")
PRINTED = re.compile(r"(?:^|: )(E-[A-Z0-9-]+): (.+)$", re.MULTILINE)


class ZslError(Exception):
    """Base of all errors we raise on purpose.

    Args:
        code: short stable name such as ``E-BUNDLE-HASH``; users search for it.
        message: one line: what was given, what was expected, what to do. Without it `code` is a text that ends with a
            printed error of ours: some (torch's DataLoader) make an error of a worker again of its traceback alone.

    """

    exit_code = EXIT_BUG

    def __init__(self, code: str, message: str | None = None) -> None:
        if message is None:
            told = PRINTED.findall(code)
            code, message = told[-1] if told else ("E-BUG", code)
        super().__init__(code, message)  # as `args`, of which a copy is made in another process
        self.code = code
        self.message = printable(" ".join(message.split()))

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class UsageError(ZslError):
    """A wrong argument, or data that cannot be used as given (exit 2)."""

    exit_code = EXIT_USAGE


class GateError(ZslError):
    """A parity or accuracy gate failed, or training diverged (exit 3)."""

    exit_code = 3


class BackendError(ZslError):
    """A backend or device is not available, or failed while running (exit 4)."""

    exit_code = 4


class ArtefactError(ZslError):
    """A file we wrote is corrupt, incompatible or untrusted (exit 5)."""

    exit_code = 5


class InputError(ZslError):
    """An input picture or row cannot be read; the others are still done (exit 6)."""

    exit_code = 6


class SystemProblem(ZslError):  # noqa: N818  # reads better than SystemProblemError
    """The operating system said no: permission, full disk, missing folder (exit 2)."""

    exit_code = EXIT_USAGE


def from_os_error(error: OSError, doing: str) -> SystemProblem:
    """Turn an OSError into our one line. `doing` completes the sentence 'could not ...'."""
    doing = doing.rstrip(": ")
    given = error.filename  # also a number, where a file was open already
    name = os.fsdecode(given) if isinstance(given, (str, bytes, os.PathLike)) else ""
    where = "" if not name or repr(name) in doing else f" ({name!r})" if doing.endswith("'") else f" {name!r}"
    said = error.strerror or (os.strerror(error.errno) if error.errno else str(error))
    reason = said.strip(" :;") or type(error).__name__
    remedy = REMEDIES.get(error.errno or 0, "see to it that this works")
    return SystemProblem("E-SYSTEM", f"could not {doing}{where}: {reason}; {remedy}, then run the command again")


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP, raised where the program was: what cleans up after Ctrl-C cleans up after this, too."""


def listed(names: Sequence[str]) -> str:
    """At most five names, quoted, cut where they are long, and how many more there are; for messages."""
    shown = ", ".join(repr(name) if len(name) <= 80 else f"{name[:77]!r}..." for name in names[:5])
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown


def shown(value: object, most: int = 40) -> str:
    """A value as a message shows it, cut to `most` letters."""
    try:
        text = repr(value)
    except ValueError:  # Python does not print numbers of thousands of digits
        return "a huge number"
    return text if len(text) <= most else f"{text[: most - 3]}..."


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name that is most like a wrong one, as the end of a message; '' when none is like it."""
    import difflib

    plain = {one.lower().replace("_", "-"): one for one in known}
    found = difflib.get_close_matches(name.lower().replace("_", "-"), plain, n=1)
    return f" (did you mean {plain[found[0]]}?)" if found else ""


def run_command(command: click.Command, argv: Sequence[str] | None = None) -> int:
    """Run one click command; print our errors as one line on stderr and return the exit code.

    Ctrl-C and SIGTERM let everything clean up first; the second one ends the process at once. A reader of stdout that
    goes away (`| head`) is not an error, nor is a stream that is closed (`zsl_runtime.streams`). Results are UTF-8
    whatever the locale says; names of files that are not come out as the bytes they have on the disk.
    Where a shell asks how to complete a command line (docs/how-to/shell.md), that is answered and nothing else is done.

    Args:
        command: its callback may return an int, which becomes the exit code.
        argv: arguments; None takes those of the process.

    """
    with standard_streams(), _sigterm_raises():
        if argv is None:
            end_at_the_second()
            _silence_libraries()
        code = _exit_code(command, sys.argv[1:] if argv is None else list(argv))
        if argv is None and code in INTERRUPTED and was_asked():
            for stream in (sys.stdout, sys.stderr):
                drop_unwritable(stream)
            os._exit(code)  # all is cleaned up, and Python's own end would join threads, or be hit by the next signal
        return code


def _silence_libraries() -> None:
    """Keep warnings and log lines of libraries from users; `python -W` and PYTHONWARNINGS show the warnings.

    They concern whoever writes programs, and come in the middle of what the command has to say: what matters to its
    user we say ourselves. Only where the process is the command's own.
    """
    import logging
    import warnings

    logging.getLogger().addHandler(logging.NullHandler())
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
        # Some libraries put filters of their own in front, for what they want to be seen always.
        warnings.showwarning = lambda *_args, **_more: None


def _exit_code(command: click.Command, arguments: list[str]) -> int:
    """Run the command, tell what went wrong, and give the code that says so."""
    import click

    try:
        if asked := _completion(command):
            return _complete(command, *asked)
        # Not `command.main`: it answers a closed pipe with exit code 1 and Ctrl-C with an empty line of its own.
        with command.make_context(command.name, arguments) as context:
            result = command.invoke(context)
        sys.stdout.flush()  # here, where it can still be told that the results did not get through
    except Terminated:
        settle()
        return _told("terminated", EXIT_TERMINATED)
    except KeyboardInterrupt:
        settle()
        return _told("interrupted", EXIT_INTERRUPTED)
    except click.exceptions.Exit as done:
        return int(done.exit_code)
    except click.ClickException as error:
        given = getattr(error, "ctx", None)
        name = given.command_path if given else command.name
        said = printable(" ".join(error.format_message().split()))
        return _told(f"error: E-USAGE: {said} (see {name} --help)", EXIT_USAGE)
    except ZslError as error:
        ended = what_was_asked() if _of_an_interruption(error) else None
        if ended is not None:
            settle()
            return _told(ended[1], ended[0])
        return _told(f"error: {error}", error.exit_code)
    except BrokenPipeError:
        return EXIT_DONE
    except Exception as error:
        ended = what_was_asked()
        if ended is not None:  # a library was in the middle of something, and says so in its own way
            settle()
            return _told(ended[1], ended[0])
        lacking = _lacking(error, command.name or "")
        if lacking is not None:
            return _told(f"error: {lacking}", lacking.exit_code)
        refused = _refusal(error)
        if refused is not None:
            return _told(f"error: {refused}", refused.exit_code)
        report = "error: E-BUG: this is a bug in zsl-deploy; please report the lines above"
        return _told(f"{printable(traceback.format_exc())}{report}", EXIT_BUG)
    return int(result) if isinstance(result, int) else EXIT_DONE


def _of_an_interruption(error: BaseException) -> bool:
    """Whether an error was raised while an interruption was dealt with, or of what a library made of one."""
    seen: set[int] = set()
    at: BaseException | None = error
    while at is not None and id(at) not in seen:
        if isinstance(at, KeyboardInterrupt):
            return True
        seen.add(id(at))
        at = at.__cause__ or at.__context__
    return False


def _refusal(error: Exception) -> SystemProblem | None:
    """What to say where the system gives no more of something; None for any other error."""
    if isinstance(error, OSError):
        if error.errno == errno.ENOENT and error.filename is None and _without_folder():
            gone = "the folder that this was started in is gone; change to another one, or give whole paths"
            return SystemProblem("E-SYSTEM", gone)
        return from_os_error(error, "finish: the system refused")
    said = str(error)
    needed = re.search(r"[\d.,]+ (?:bytes|[KMGT]iB)", said)
    more = f" ({needed[0]} more were wanted)" if needed else ""
    if "CUDA" in said and "out of memory" in said:  # as torch says of a card
        return SystemProblem(
            "E-SYSTEM", f"the card's memory is not enough for this{more}; see what else uses it, or give --device cpu"
        )
    if isinstance(error, ImportError) and "Too many open files" in said:  # of a library, as the loader says
        return from_os_error(OSError(errno.EMFILE, os.strerror(errno.EMFILE)), "load a library")
    if isinstance(error, MemoryError) or any(words in said for words in NO_MEMORY):
        return SystemProblem("E-SYSTEM", f"the memory is not enough for this{more}; do less at once, or give it more")
    if isinstance(error, RuntimeError) and "can't start new thread" in said:
        return SystemProblem(
            "E-SYSTEM", "the system allows this process no more threads; take fewer (--threads 1), or raise the limit"
        )
    return None


def _without_folder() -> bool:
    """Whether the current folder was removed."""
    try:
        os.getcwd()  # noqa: PTH109
    except OSError:
        return True
    return False


def _lacking(error: Exception, name: str) -> BackendError | None:
    """What to say of a package that the command `name` needs and cannot import; None for any other error."""
    from zsl_runtime.extras import missing_package

    lacking = missing_package(error, name)
    return None if lacking is None else BackendError("E-PACKAGE", f"{name} needs {lacking}")


def _completion(command: click.Command) -> tuple[str, str] | None:
    """The variable by which a shell asks for completions, and what it asks; None when it does not.

    `command.main` would look at it, too, and is not called.
    """
    variable = f"_{command.name}_COMPLETE".replace("-", "_").upper()
    instruction = os.environ.get(variable)
    return (variable, instruction) if instruction else None


def _complete(command: click.Command, variable: str, instruction: str) -> int:
    """Print the shell's script (`bash_source`), or what could stand at the cursor (`bash_complete`).

    Nothing is offered where that goes wrong: an error would stand in the middle of the line that is being typed.

    Raises:
        UsageError: E-COMPLETION for anything else.

    """
    from click.shell_completion import shell_complete

    try:
        unknown = shell_complete(command, {}, command.name or "", variable, instruction)
    except Exception:
        if not instruction.endswith("_complete"):
            raise
        return EXIT_DONE
    if unknown:
        sources = ", ".join(f"{shell}_source" for shell in SHELLS)
        raise UsageError("E-COMPLETION", f"{variable} is {instruction!r}; expected one of {sources}, or unset it")
    sys.stdout.flush()
    return EXIT_DONE


def _told(text: str, code: int) -> int:
    """The code, after `text` was printed to stderr, if that is still there."""
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)  # noqa: T201
    return code


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise `Terminated`, where this program would otherwise end without cleaning up.

    A terminal that is closed sends the second; `nohup` has it ignored, and it stays so.
    """

    def stop(number: int, _frame: object) -> None:
        if not main_thread.is_told(number):
            raise Terminated

    main_thread.forget()

    ours: list[int] = []
    if threading.current_thread() is threading.main_thread():  # only there can handlers be set
        known = (getattr(signal, name, None) for name in ("SIGTERM", "SIGHUP"))
        ours = [one for one in known if one is not None and signal.getsignal(one) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in () if was_asked() else ours:
            signal.signal(number, signal.SIG_DFL)
