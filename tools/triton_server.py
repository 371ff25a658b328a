"""Prepare and run NVIDIA's Triton server on a CPU, for the slow tests and the load measurement; nothing else needs it.

    python tools/triton_server.py prepare DIR [--wheel nvidia_pytriton-0.7.0-*.whl]
    python tools/triton_server.py run DIR REPO [--http-port 8000] [more options of tritonserver]

The server is the one inside the wheel nvidia-pytriton, which carries the binary, its libraries, the Python backend and
a stub of it for each Python. The wheel does not install beside our pins and is only unpacked. That server (2.51, 24.10)
hands over arrays of NumPy 1 alone, so its Python gets NumPy 1.26 in front of everything else (docs/how-to/triton.md).
It is older than the fixes of 2025: for tests on one's own machine, and nothing else.

The tests look for DIR in the variable ZSL_TRITON.
"""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.request
import zipfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

WHEEL, NUMPY = "nvidia-pytriton==0.7.0", "numpy==1.26.4"
READY_SECONDS = 120
CLOSED = "shared-memory,model-repository,trace,logging"


def prepare(folder: Path, wheel: Path | None = None) -> None:
    """Make `folder`: server/, lib/, env/ with a Python for the backend, numpy1/."""
    folder.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    if wheel is None:
        subprocess.run([*pip, "download", "--no-deps", "-d", str(folder), WHEEL], check=True)
        wheel = next(folder.glob("nvidia_pytriton-*.whl"))
    unpacked = folder / "unpacked"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(unpacked)
    server = unpacked / "pytriton" / "tritonserver"
    stub = f"{sys.version_info.major}.{sys.version_info.minor}/triton_python_backend_stub"
    shutil.copy(server / "python_backend_stubs" / stub, server / "backends" / "python" / "triton_python_backend_stub")
    for program in (server / "bin" / "tritonserver", server / "backends" / "python" / "triton_python_backend_stub"):
        program.chmod(0o755)
    shutil.rmtree(folder / "numpy1", ignore_errors=True)
    subprocess.run([*pip, "install", "--no-deps", "--target", str(folder / "numpy1"), NUMPY], check=True)
    print(folder)


def _environment(folder: Path, name: str) -> dict[str, str]:
    """Where the libraries are, and a Python, made in the folder `name`, whose packages are ours but for NumPy.

    The stub takes the `python3` of PATH for its own and no other variable.
    """
    import zsl_runtime

    env = folder / name
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(env)], check=True)
    place = next((env / "lib").glob("python3*")) / "site-packages"
    packages = [folder / "numpy1", Path(zsl_runtime.__file__).parents[1], Path(sysconfig.get_path("purelib"))]
    (place / "packages.pth").write_text("".join(f"{path}\n" for path in packages))
    libraries = [folder / "unpacked" / "nvidia_pytriton.libs", Path(sysconfig.get_config_var("LIBDIR"))]
    return {
        **os.environ,
        "LD_LIBRARY_PATH": ":".join(map(str, libraries)),
        "PATH": f"{env / 'bin'}:{os.environ['PATH']}",
    }


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@dataclass(frozen=True)
class Server:
    """A server at work."""

    process: subprocess.Popen[bytes]
    http: str
    grpc: str
    log: Path
    key: str

    def log_text(self) -> str:
        """What it has said so far."""
        return self.log.read_text(errors="replace")

    def tree(self) -> list[int]:
        """The process, and those it started: one for each instance of a model."""
        found = [self.process.pid]
        for one in found:
            for task in Path(f"/proc/{one}/task").glob("*/children"):
                found += [int(child) for child in task.read_text().split() if int(child) not in found]
        return found

    def memory(self) -> int:
        """Bytes of all of them that no other process shares (Private_*), and their part of the shared."""
        total = 0
        for pid in self.tree():
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            total += sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
        return total * 1024


def command(folder: Path, repository: Path, ports: Sequence[int], key: str, more: Sequence[str] = ()) -> list[str]:
    """As docs/how-to/triton.md has it: this machine alone is served; shared memory and model control are closed."""
    server = folder / "unpacked" / "pytriton" / "tritonserver"
    addresses = [f"--{kind}-address=127.0.0.1" for kind in ("http", "grpc", "metrics")]
    return [
        str(server / "bin" / "tritonserver"),
        f"--model-repository={repository}",
        f"--backend-directory={server / 'backends'}",
        *addresses,
        *(f"--{kind}-port={port}" for kind, port in zip(("http", "grpc", "metrics"), ports, strict=True)),
        "--model-control-mode=none",
        f"--http-restricted-api={CLOSED}:closed={key}",
        f"--grpc-restricted-protocol={CLOSED}:closed={key}",
        *more,
    ]


@contextmanager
def started(
    folder: Path, repository: Path, log: Path, more: Sequence[str] = (), *, wait: bool = True
) -> Iterator[Server]:
    """A server until the block ends; RuntimeError with its log where it does not come up."""
    folder, ports, key = folder.resolve(), free_ports(3), secrets.token_hex(16)
    env = f"env-{key}"
    environment = _environment(folder, env)
    with log.open("wb") as out:
        process = subprocess.Popen(
            command(folder, repository, ports, key, more), env=environment, stdout=out, stderr=subprocess.STDOUT
        )
    server = Server(process, f"127.0.0.1:{ports[0]}", f"127.0.0.1:{ports[1]}", log, key)
    try:
        if wait:
            _wait(server)
        yield server
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(folder / env, ignore_errors=True)


def _wait(server: Server) -> None:
    end = time.monotonic() + READY_SECONDS
    while time.monotonic() < end:
        if server.process.poll() is not None:
            raise RuntimeError(f"tritonserver ended with {server.process.returncode}:\n{server.log_text()[-4000:]}")
        try:
            with urllib.request.urlopen(f"http://{server.http}/v2/health/ready", timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"tritonserver is not ready after {READY_SECONDS} s:\n{server.log_text()[-4000:]}")


def main(argv: Sequence[str] | None = None) -> int:
    """Prepare, or run until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_subparsers(dest="which", required=True)
    making = which.add_parser("prepare")
    making.add_argument("folder", type=Path)
    making.add_argument("--wheel", type=Path)
    running = which.add_parser("run")
    running.add_argument("folder", type=Path)
    running.add_argument("repository", type=Path)
    running.add_argument("--http-port", type=int, default=8000)
    asked, more = parser.parse_known_args(argv)
    folder = asked.folder.resolve()
    if asked.which == "run":
        ports = [asked.http_port + place for place in range(3)]
        words = command(folder, asked.repository, ports, secrets.token_hex(16), more)
        os.execve(words[0], words, _environment(folder, "env"))  # noqa: S606  # signals then reach the server itself
    prepare(folder, asked.wheel)
    return 0


if __name__ == "__main__":
    sys.exit(main())
