"""Every error a user can meet: one line, a code, an exit code; and the one place that prints it.

The line says what was given, what was expected and what to do. A traceback means a bug of ours (exit code 1).
"""

from __future__ import annotations

import sys
import traceback
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import click

EXIT_DONE = 0
EXIT_BUG = 1
EXIT_INTERRUPTED = 130  # the shell's convention for SIGINT (128 + 2)


class ZslError(Exception):
    """Base of all errors we raise on purpose.

    Args:
        code: short stable name such as ``E-BUNDLE-HASH``; users search for it.
        message: one line: what was given, what was expected, what to do.

    """

    exit_code = EXIT_BUG

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = " ".join(message.split())

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class UsageError(ZslError):
    """A wrong argument, or data that cannot be used as given (exit 2)."""

    exit_code = 2


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

    exit_code = 2


def from_os_error(error: OSError, doing: str) -> SystemProblem:
    """Turn an OSError into our one line. `doing` completes the sentence 'could not ...'."""
    where = f" {error.filename!r}" if error.filename else ""
    reason = error.strerror or str(error)
    return SystemProblem(
        "E-SYSTEM",
        f"could not {doing}{where}: {reason}; free space or choose a place you can write to, then run the command again",
    )


def run_command(command: click.Command, argv: Sequence[str] | None = None) -> int:
    """Run one click command; print our errors as one line on stderr and return the exit code.

    The callback may return an int, which becomes the exit code.
    """
    import click

    try:
        result = command.main(args=list(argv) if argv is not None else None, standalone_mode=False)
    except click.exceptions.Abort:
        print("interrupted", file=sys.stderr)  # noqa: T201
        return EXIT_INTERRUPTED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)  # noqa: T201
        return EXIT_INTERRUPTED
    except click.exceptions.Exit as done:
        return int(done.exit_code)
    except click.ClickException as error:
        print(f"error: E-USAGE: {' '.join(error.format_message().split())}", file=sys.stderr)  # noqa: T201
        return 2
    except ZslError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    except BrokenPipeError:
        # The reader of our stdout went away (`| head`): not an error of the run.
        sys.stderr.close()
        return EXIT_DONE
    except OSError as error:
        print(f"error: {from_os_error(error, 'finish: the system refused')}", file=sys.stderr)  # noqa: T201
        return SystemProblem.exit_code
    except Exception:
        traceback.print_exc()
        print("error: E-BUG: this is a bug in zsl-deploy; please report the lines above", file=sys.stderr)  # noqa: T201
        return EXIT_BUG
    return int(result) if isinstance(result, int) else EXIT_DONE
