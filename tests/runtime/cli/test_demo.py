"""`zsl-demo` as a user starts it: the address on stdout, everything else on stderr, exit codes, nothing left behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from support.lone import program
from support.served import FILES
from support.tiny_bundle import ATTRIBUTES
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.cli.demo import main
from zsl_runtime.web import listening

if TYPE_CHECKING:
    from pathlib import Path

JAY = {"classes": [{"name": "jay", "values": [3, 3, 3, 1, 1, 1]}], "photographs": {}}
STRACE = shutil.which("strace")


@pytest.fixture
def engine(own_bundle) -> Path:
    return own_bundle(rule="gaussian")


class Started:
    """A `zsl-demo` that runs: its process, and the address that it printed."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.address = process.stdout.readline().strip()
        self.place, _, self.key = self.address.partition("/#")

    def ask(self, path: str, body: bytes | None = None) -> dict:
        request = urllib.request.Request(f"{self.place}/api/{path}", body, {"x-zsl-key": self.key})
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.load(answer)

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str, str]:
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=20)
        return self.process.returncode, out, err


@contextmanager
def started(engine: Path, *words: object, prefix=(), **environment: str):
    line = [*prefix, *program("zsl-demo"), "--engine", engine, "--port", 0, "--backend", "ort", "--threads", 1, *words]
    process = subprocess.Popen(
        [str(word) for word in line],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield Started(process)
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_it_prints_its_address_labels_adds_and_ends_when_asked(engine, number, code, word):
    with started(engine) as demo:
        assert demo.place.startswith("http://127.0.0.1:")
        assert len(demo.key) >= 20
        found = demo.ask("photograph", FILES[0])
        assert found["labels"][found["digest"]]["classes"][0]["name"]
        assert demo.ask("add", json.dumps(JAY).encode())["generation"] == 2
        said = demo.end(number)
    assert said[:2] == (code, "")
    assert said[2].splitlines() == [
        f"opening {engine} ...",
        f"open this address as it is, key included; changes are made in {engine}; Ctrl-C ends it",
        word,
    ]
    assert Bundle.open(engine).current().table.names[-1] == "jay"


def test_keys_differ_and_an_address_without_one_is_no_good(engine):
    with started(engine) as demo, started(engine) as other:
        assert demo.key != other.key
        for key in ("", other.key):
            request = urllib.request.Request(f"{demo.place}/api/state", headers={"x-zsl-key": key})
            with pytest.raises(urllib.error.HTTPError, match="403"):
                urllib.request.urlopen(request, timeout=20)


def test_an_open_browser_or_a_request_at_work_does_not_hold_up_the_end(engine):
    with started(engine) as demo:
        host, port = demo.place.removeprefix("http://").split(":")
        idle = socket.create_connection((host, int(port)))
        half = socket.create_connection((host, int(port)))
        half.sendall(f"POST /api/photograph HTTP/1.1\r\nHost: {host}\r\nX-Zsl-Key: {demo.key}\r\n".encode())
        half.sendall(b"Content-Length: 1000\r\n\r\nxxx")
        demo.ask("state")
        begun = time.monotonic()
        assert demo.end(signal.SIGINT)[0] == 130
        assert time.monotonic() - begun < 10
        idle.close()
        half.close()


def test_try_leaves_the_bundle_as_it_is_and_nothing_behind(engine, tmp_path):
    before = {path: path.read_bytes() for path in engine.rglob("*") if path.is_file()}
    (tmp_path / "tmp").mkdir()
    with started(engine, "--try", TMPDIR=str(tmp_path / "tmp")) as demo:
        about = demo.ask("about")
        assert (about["trial"], about["path"], about["bundle"]) == (True, str(engine), engine.name)
        demo.ask("add", json.dumps(JAY).encode())
        assert demo.ask("state")["classes"][-1]["name"] == "jay"
        assert len(list((tmp_path / "tmp").iterdir())) == 1
        code, _, err = demo.end(signal.SIGINT)
    assert code == 130
    assert f"changes are made in a copy, {engine} stays as it is" in err
    assert f"the copy is removed; {engine} is as it was" in err
    assert {path: path.read_bytes() for path in engine.rglob("*") if path.is_file()} == before
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_port_that_is_taken_is_one_line(capsys, engine):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["--engine", str(engine), "--port", str(port)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == (
        f"error: E-PORT: --host 127.0.0.1 --port {port} cannot be listened on: Address already in use; "
        "--port 0 takes a free one\n"
    )


@pytest.mark.parametrize("host", ["no.such.host.invalid", "300.1.1.1", "", "\x00"])
def test_a_host_that_is_none(capsys, engine, host, monkeypatch):
    def unknown(*_args, **_more):
        raise socket.gaierror(-2, "Name or service not known")

    if host.endswith("invalid"):  # nobody is asked for it
        monkeypatch.setattr(listening.socket, "getaddrinfo", unknown)
    assert main(["--engine", str(engine), "--host", host, "--port", "0"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("error: E-HOST: --host ")


def test_an_address_of_another_machine_cannot_be_listened_on(capsys, engine):
    assert main(["--engine", str(engine), "--host", "192.0.2.1", "--port", "0"]) == 2
    assert capsys.readouterr().err.startswith("error: E-PORT: --host 192.0.2.1 --port 0 cannot be listened on: ")


def test_an_address_that_others_reach_is_warned_of(engine):
    with started(engine, "--host", "0.0.0.0") as demo:
        assert demo.place.startswith("http://127.0.0.1:")
        err = demo.end()[2]
    assert err.startswith("warning: --host 0.0.0.0: others on your network can reach this page, unencrypted; ")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1.1.1"])
def test_this_machine_alone_is_not(host):
    assert listening.warning(host) == ""


def test_ip_version_6(engine):
    if not socket.has_ipv6:
        pytest.skip("there is no IPv6 here")
    try:
        listening.listen("::1", 0).close()
    except listening.UsageError:
        pytest.skip("there is no ::1 here")
    with started(engine, "--host", "::1") as demo:
        assert demo.place.startswith("http://[::1]:")
        assert demo.ask("state")["generation"] == 1


def test_bundles_that_are_none_damaged_or_of_rows(capsys, engine, shared_bundle, tmp_path):
    port = ["--port", "0", "--backend", "ort"]
    assert main(["--engine", str(tmp_path / "nowhere"), *port]) == 2
    assert "E-BUNDLE-PATH" in capsys.readouterr().err
    rows = str(shared_bundle(kind="backbone_features", rule="gaussian"))
    assert main(["--engine", rows, *port]) == 2
    assert "error: E-PAGE-INPUT: " in capsys.readouterr().err
    with (engine / "model.onnx").open("r+b") as file:
        file.write(b"x")
    for more in ([], ["--try"]):
        assert main(["--engine", str(engine), *port, *more]) == 5
        assert "E-BUNDLE-HASH" in capsys.readouterr().err


def test_a_file_of_the_bundle_stands_for_it_and_an_engine_for_its_backend(capsys, engine):
    with started(engine / "model.onnx") as demo:
        assert demo.ask("about")["bundle"] == engine.name
    (engine / "engines").mkdir(exist_ok=True)
    (engine / "engines" / "a.engine").write_bytes(b"x")
    assert main(["--engine", str(engine / "engines" / "a.engine"), "--port", "0"]) in {2, 4, 5}
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert "a.json" in said[0]


@pytest.mark.parametrize("package", ["starlette", "uvicorn"])
def test_without_its_packages_it_says_which_extra_brings_them(capsys, engine, monkeypatch, package):
    class Absent:
        @staticmethod
        def find_spec(name, *_):
            if name == package:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    ours = ("zsl_runtime.web", package)
    for name in [name for name in sys.modules if name.startswith(ours)]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Absent, *sys.meta_path])
    assert main(["--engine", str(engine), "--port", "0", "--backend", "ort"]) == 4
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines()[-1] == (
        f'error: E-PACKAGE: zsl-demo needs {package}, which is not installed here; pip install "zsl-deploy[web]"'
    )


def test_a_browser_is_opened_where_there_is_one(engine, tmp_path):
    """webbrowser takes $BROWSER: a program of ours that notes what it was called with."""
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\nprintf %s "$1" > {tmp_path}/opened\n')
    browser.chmod(0o755)
    with started(engine, "--open", BROWSER=str(browser)) as demo:
        end = time.monotonic() + 20
        while not (tmp_path / "opened").exists() and time.monotonic() < end:
            time.sleep(0.05)
        time.sleep(0.2)
        assert (tmp_path / "opened").read_text() == demo.address


@pytest.mark.skipif(STRACE is None, reason="there is no strace here")
def test_it_writes_into_the_bundle_alone_and_connects_to_nobody(engine, tmp_path):
    """Photographs stay in memory: no file of them is made anywhere, not even for a moment."""
    folders = {name: tmp_path / name for name in ("home", "tmp", "cache")}
    for folder in folders.values():
        folder.mkdir()
    trace = tmp_path / "trace"
    calls = "trace=open,openat,creat,mkdir,mkdirat,rename,renameat,renameat2,connect,sendto,sendmsg,memfd_create"
    prefix = [STRACE, "-f", "-qq", "-s", "300", "-e", calls, "-o", trace]
    given = {"HOME": str(folders["home"]), "TMPDIR": str(folders["tmp"]), "ZSL_CACHE": str(folders["cache"])}
    with started(engine, prefix=prefix, PYTHONDONTWRITEBYTECODE="1", **given) as demo:
        digests = [demo.ask("photograph", file)["digest"] for file in FILES[:3]]
        demo.ask("table", f"name,{','.join(ATTRIBUTES)}\nheron,1,2,3,4,5,6\n".encode())
        demo.ask("add", json.dumps({**JAY, "photographs": {"jay": digests}}).encode())
        demo.ask("undo", json.dumps({"generation": 2, "count": 1}).encode())
        children = subprocess.run(["pgrep", "-P", str(demo.process.pid)], capture_output=True, text=True, check=True)
        os.kill(int(children.stdout.split()[0]), signal.SIGINT)
        demo.process.wait(20)
    for folder in ("home", "tmp"):
        assert list(folders[folder].rglob("*")) == []
    lines = trace.read_text(errors="replace").splitlines()
    assert any("model.onnx" in line for line in lines)
    assert [line for line in lines if "connect(" in line and "AF_INET" in line] == []
    made = [line for line in lines if ("O_CREAT" in line or "mkdir" in line) and " = -1 " not in line]
    inside = (str(engine), str(folders["cache"]), str(folders["tmp"]), os.devnull, "/dev/shm")
    assert made
    assert [line for line in made if not any(place in line for place in inside)] == []


def test_second_ctrl_c_ends_it_at_once(engine):
    """Though a photograph is at work that takes for ever."""
    slow = "import zsl_runtime.web.desk as d, time; d.Desk.look_at = lambda *_: time.sleep(100)"
    line = [*program("zsl-demo", slow), "--engine", engine, "--port", 0, "--backend", "ort", "--threads", 1]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([str(word) for word in line], env=environment, **pipes) as process:
        demo = Started(process)

        def ask():
            with pytest.raises(OSError):
                demo.ask("photograph", b"x")

        threading.Thread(target=ask, daemon=True).start()
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        time.sleep(1)
        begun = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert time.monotonic() - begun < 5
