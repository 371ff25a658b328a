"""A graph for a library: the very bytes that were checked, where nobody can change them any more.

A library that is given a path reads the file again, and some map it and read it as long as they run. Whoever writes to
it meanwhile gives them what nobody looked at, or nothing, which ends the process. So a graph is copied once, into
memory that the system seals, and looked at and loaded from there. Where there is no such memory (other systems than
Linux) the library gets the bytes.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, NamedTuple

from zsl_runtime.errors import ArtefactError, from_os_error
from zsl_runtime.graphs.check import check_graph
from zsl_runtime.machine.untrusted import UnfitError, opened

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from zsl_runtime.bundle.bundle import Bundle
    from zsl_runtime.graphs.ports import Ports

MOST_BYTES = 2**31 - 1  # where a protobuf message ends
CHUNK = 1 << 20
NAME = "zsl-graph"  # of the memory, for whoever looks at the process


class GraphFile(NamedTuple):
    """A graph on the disk.

    Attributes:
        path: of the file.
        ports: its contract, as its manifest tells it; None without one.
        sha256: that it must have; '' without a manifest.

    """

    path: Path
    ports: Ports | None = None
    sha256: str = ""


def graph_file(bundle: Bundle, part: str, path: Path | None) -> GraphFile | None:
    """One of the files that a bundle lists, as the graph of a part; None for none."""
    from zsl_runtime.graphs.ports import ports_of

    if path is None:
        return None
    entry = bundle.manifest["files"][path.relative_to(bundle.path).as_posix()]
    return GraphFile(path, ports_of(bundle, part), entry["sha256"])


@contextmanager
def sealed(file: GraphFile, part: str) -> Iterator[str | bytes]:
    """Check a graph, and lend what a library may load while the block runs: a path, or bytes.

    The hash is compared meanwhile; that of a whole bundle was, before anything of it is used.

    Args:
        file: of the graph.
        part: that it plays.

    Raises:
        ArtefactError: E-BUNDLE-GRAPH, and E-BUNDLE-HASH at the end of the block when it was exchanged since the bundle
            was opened.
        SystemProblem: it cannot be read.

    """
    where = str(file.path)
    with ExitStack() as stack:
        try:
            copy = stack.enter_context(_copied(file.path))
        except UnfitError as error:
            raise ArtefactError("E-BUNDLE-GRAPH", f"{where!r} {error}; copy or export the bundle again") from None
        except OSError as error:
            raise from_os_error(error, "read the graph") from error
        pool = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="zsl-hash"))
        digest = pool.submit(copy.sha256) if file.sha256 else None
        check_graph(copy.view(), part=part, where=where, ports=file.ports)
        yield copy.source
        if digest is not None and digest.result() != file.sha256:
            raise ArtefactError(
                "E-BUNDLE-HASH", f"{where!r} was exchanged while the bundle was opened; copy or export the bundle again"
            )


class _Copy(NamedTuple):
    """A file's content, where nobody changes it.

    Attributes:
        source: as a library takes it.
        handle: of the sealed memory; -1 for bytes.
        size: in bytes.

    """

    source: str | bytes
    handle: int
    size: int

    def view(self) -> memoryview:
        """All of it, to look at; what is not looked at takes no memory of this process."""
        if isinstance(self.source, bytes):
            return memoryview(self.source)
        return memoryview(mmap.mmap(self.handle, self.size, access=mmap.ACCESS_READ))

    def sha256(self) -> str:
        """In hexadecimal; other threads run meanwhile."""
        if isinstance(self.source, bytes):
            return hashlib.sha256(self.source).hexdigest()
        digest = hashlib.sha256()
        for at in range(0, self.size, CHUNK):
            digest.update(os.pread(self.handle, CHUNK, at))
        return digest.hexdigest()


@contextmanager
def _copied(path: Path) -> Iterator[_Copy]:
    """A file's copy; UnfitError, OSError."""
    with opened(path, most=MOST_BYTES) as file, ExitStack() as stack:
        size = os.fstat(file.fileno()).st_size
        if size == 0:
            raise UnfitError("is empty")
        handle = _sealed_memory(file.fileno(), size)
        if handle is None:
            yield _Copy(file.read(size), -1, size)
            return
        stack.callback(os.close, handle)
        yield _Copy(f"/proc/self/fd/{handle}", handle, size)


def _sealed_memory(source: int, size: int) -> int | None:
    """A handle of memory that holds a file's first bytes and cannot be written any more; None where there is none."""
    try:
        import fcntl

        handle = os.memfd_create(NAME, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except (ImportError, AttributeError, OSError):
        return None
    try:
        at = 0
        while at < size and (sent := os.sendfile(handle, source, at, size - at)):
            at += sent
        fcntl.fcntl(handle, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)
        if at == size and os.path.exists(f"/proc/self/fd/{handle}"):  # noqa: PTH110
            return handle
    except OSError:
        pass
    os.close(handle)
    return None
