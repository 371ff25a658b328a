"""Statements for the beginning of a process that take away what a file system may lack."""

from __future__ import annotations


def without_folder_fsync(error: str) -> str:
    """fsync of a folder says `error`, a name of the module errno; that of files works."""
    return f"""
import errno, os, stat
def _fsync(handle, real=os.fsync):
    if stat.S_ISDIR(os.fstat(handle if isinstance(handle, int) else handle.fileno()).st_mode):
        raise OSError(errno.{error}, os.strerror(errno.{error}))
    return real(handle)
os.fsync = _fsync
"""


def without_file_fsync(error: str) -> str:
    """fsync of a file says `error`; that of folders works."""
    return without_folder_fsync(error).replace("if stat.S_ISDIR", "if not stat.S_ISDIR")


def without_flock(error: str) -> str:
    """flock says `error`, and so does fcntl's other lock."""
    return f"""
import errno, fcntl, os
def _refused(*_arguments):
    raise OSError(errno.{error}, os.strerror(errno.{error}))
fcntl.flock = fcntl.lockf = _refused
"""


NO_HOME = """
import os, pwd
os.environ.pop("HOME", None)
def _unknown(*_arguments):
    raise KeyError("getpwuid(): uid not found: 12345")
pwd.getpwuid = pwd.getpwnam = _unknown
"""
