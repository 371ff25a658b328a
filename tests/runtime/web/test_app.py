"""The page's addresses: what they answer, and that every failure is one line and no traceback."""

from __future__ import annotations

import os
import re
import shutil
import sys
import threading
from importlib import resources
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from support.served import FILES
from support.tiny_bundle import ATTRIBUTES, class_table
from zsl_runtime.labelling.classifier import Classifier
from zsl_runtime.web import app as app_module
from zsl_runtime.web import desk as desk_module
from zsl_runtime.web.app import FILES as SHOWN
from zsl_runtime.web.app import Page
from zsl_runtime.web.desk import Desk

JAY = {"name": "jay", "values": [3.0, 3, 3, 1, 1, 1]}
ASKED = {"classes": [JAY], "photographs": {}, "on_page": []}
CHANGES = {
    "add": ASKED,
    "teach": {"photographs": {}},
    "remove": {"names": ["tit"]},
    "undo": {"generation": 1, "count": 1},
}
ASKING = {"labels": {"photographs": []}, "row": {"name": "tit"}, "rehearse": ASKED}


def error(answer, status: int, code: str) -> str:
    assert answer.status_code == status, answer.text
    said = answer.json()["error"]
    assert said["code"] == code
    assert "\n" not in said["message"]
    assert "Traceback" not in answer.text
    return said["message"]


# --- files of the page ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHOWN)
def test_files_come_with_their_kind_and_without_a_key(client, name):
    answer = client.get(f"/{name}", headers={"x-zsl-key": ""})
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith(SHOWN[name][1].partition(";")[0])
    assert len(answer.content) > 100
    assert client.head(f"/{name}").status_code == 200


@pytest.mark.parametrize("path", ["/nowhere", "/../app.py", "/%2e%2e/app.py", "/page/index.html", "/api/nowhere"])
def test_nothing_else_is_handed_out(client, path):
    error(client.get(path), 404, "E-PAGE-REQUEST")


def test_other_methods_are_refused(client):
    error(client.get("/api/add"), 405, "E-PAGE-REQUEST")
    error(client.post("/api/state"), 405, "E-PAGE-REQUEST")
    error(client.delete("/"), 405, "E-PAGE-REQUEST")


# --- the whole way ----------------------------------------------------------------------------------------------------


def test_photographs_in_labels_out_a_class_comes_and_goes(client):
    about, state = client.get("/api/about").json(), client.get("/api/state").json()
    assert [one["name"] for one in about["sliders"]] == list(ATTRIBUTES)
    assert (about["teachable"], about["trial"], about["most_bytes"]) == (True, False, 32 * 2**20)
    assert len(state["classes"]) == 8
    found = [client.post("/api/photograph", content=file).json() for file in FILES[:3]]
    digests = [one["digest"] for one in found]
    asked = {"classes": [JAY], "photographs": {"jay": digests[:2]}, "on_page": digests}
    would = client.post("/api/rehearse", json=asked).json()
    assert client.get("/api/state?known=1").json() == {"generation": 1}
    said = client.post("/api/add", json=asked).json()
    assert said["said"][0].startswith("added jay, 2 photographs in all: most like ")
    labels = client.post("/api/labels", json={"photographs": digests}).json()
    assert labels["generation"] == 2
    assert labels["labels"] == would["labels"]
    assert "jay" in {one["name"] for digest in digests for one in labels["labels"][digest]["classes"]}
    said = client.post("/api/teach", json={"photographs": {"jay": digests[2:]}}).json()
    assert said["said"][0].startswith("taught jay, 3 photographs in all")
    said = client.post("/api/undo", json={"generation": 3, "count": 2}).json()
    assert said["said"] == ["jay: gone"]
    assert client.post("/api/labels", json={"photographs": digests}).json()["labels"] == {
        one["digest"]: one["labels"][one["digest"]] for one in found
    }
    assert client.post("/api/remove", json={"names": ["wren"]}).json()["said"] == ["removed wren"]
    assert client.post("/api/row", json={"name": "gull"}).json()["values"] == class_table().raw[3].tolist()


def test_a_table_pasted_or_as_a_file(client):
    text = f"name,{','.join(ATTRIBUTES)}\nheron,1,2,3,4,5,6\n"
    found = client.post("/api/table", content=text.encode()).json()
    assert found["classes"] == [{"name": "heron", "values": [1, 2, 3, 4, 5, 6]}]
    assert "the pasted table" in error(client.post("/api/table", content=b"name,a\nx,1\n"), 400, "E-ATTRIBUTES")
    named = client.post("/api/table", content=b"name,a\nx,1\n", headers={"x-zsl-name": quote("größe.csv")})
    assert "größe.csv" in error(named, 400, "E-ATTRIBUTES")


# --- what goes wrong --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [*CHANGES, *ASKING])
@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b"\xff", b'{"classes": 3, "photographs": 3, "names": 3, "count": []}']
)
def test_bodies_that_make_no_sense(client, path, body):
    error(client.post(f"/api/{path}", content=body), 400, "E-PAGE-REQUEST")
    assert client.get("/api/state").json()["generation"] == 1


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300))
def test_any_bytes_as_a_photograph_are_one_line(client, data):
    answer = client.post("/api/photograph", content=data)
    if answer.status_code != 200:
        assert answer.status_code == 422
        assert answer.json()["error"]["code"].startswith("E-IMAGE-")


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, len(FILES[0]) - 1), st.binary(min_size=1, max_size=8))
def test_a_damaged_photograph_is_labelled_or_one_line(client, place, patch):
    data = FILES[0][:place] + patch + FILES[0][place + len(patch) :]
    answer = client.post("/api/photograph", content=data)
    assert answer.status_code in {200, 422}, answer.text


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(alphabet=st.sampled_from('name,;\t"\n\r0123.-e aé#='), max_size=80) | st.text(max_size=40))
def test_any_text_as_a_table_is_one_line(client, text):
    answer = client.post("/api/table", content=text.encode("utf-8", "surrogatepass"))
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["code"].startswith("E-")


def test_a_photograph_that_is_too_large_is_refused_however_it_comes(client, monkeypatch):
    message = error(client.post("/api/photograph", content=bytes(32 * 2**20 + 1)), 413, "E-PAGE-SIZE")
    assert "32 MiB" in message

    def parts():
        for _ in range(33):
            yield bytes(2**20)

    error(client.post("/api/photograph", content=parts()), 413, "E-PAGE-SIZE")
    assert "8 MiB" in error(client.post("/api/table", content=bytes(8 * 2**20 + 1)), 413, "E-PAGE-SIZE")
    error(client.post("/api/add", content=parts()), 413, "E-PAGE-SIZE")


def test_a_header_that_lies_about_the_length_is_no_way_around(client):
    for length in ("-1", "x", "1" * 30):
        headers = {"content-length": length}
        answer = client.post("/api/photograph", content=bytes(33 * 2**20), headers=headers)
        error(answer, 413, "E-PAGE-SIZE")


def test_too_many_at_once_are_told_to_wait(served, monkeypatch):
    monkeypatch.setattr(app_module, "MOST_WAITING", 2)
    client = served(rule="gaussian")
    begun, go_on = threading.Event(), threading.Event()
    look_at = served.desk.look_at

    def slow(data):
        begun.set()
        assert go_on.wait(20)
        return look_at(data)

    served.desk.look_at = slow
    answers = []
    ask = lambda: answers.append(client.post("/api/photograph", content=FILES[0]))  # noqa: E731
    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert begun.wait(20)
    while served.page._model.waiting < 2:
        pass
    error(client.post("/api/photograph", content=FILES[0]), 503, "E-PAGE-BUSY")
    assert client.get("/api/state").json()["generation"] == 1  # the page goes on being answered
    assert client.post("/api/remove", json={"names": ["tit"]}).status_code == 200
    go_on.set()
    for thread in threads:
        thread.join()
    assert [one.status_code for one in answers] == [200, 200]


def test_a_bug_is_told_without_its_traceback(served, capsys):
    client = served(rule="gaussian")

    def broken(_data):
        raise RuntimeError("secret\nof ours")

    served.desk.look_at = broken
    message = error(client.post("/api/photograph", content=b"x"), 500, "E-BUG")
    assert "secret" not in message
    assert "RuntimeError: secret" in capsys.readouterr().err


def test_a_full_disk_is_one_line(served, monkeypatch):
    client = served(rule="gaussian")

    def full(*_args, **_more):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(desk_module, "remove_classes", full)
    assert "free space" in error(client.post("/api/remove", json={"names": ["tit"]}), 500, "E-SYSTEM")


def test_locked_changed_closed_and_forgotten_have_states_of_their_own(client, served, monkeypatch):
    error(client.post("/api/undo", json={"generation": 7, "count": 1}), 409, "E-PAGE-CHANGED")
    error(client.post("/api/teach", json={"photographs": {"tit": ["0" * 64]}}), 409, "E-PAGE-FORGOTTEN")
    monkeypatch.setattr(desk_module.os, "access", lambda *_: False)
    error(client.post("/api/remove", json={"names": ["tit"]}), 403, "E-PAGE-CLOSED")


def test_explaining_is_refused_in_one_line_where_it_cannot_be(client):
    error(client.post("/api/explain", content=FILES[0]), 400, "E-EXPLAIN")


def test_an_explanation_is_json(served):
    answer = served(rule="gaussian", explain=True).post(
        "/api/explain", content=FILES[0], headers={"x-zsl-name": "a.png"}
    )
    assert answer.json()["name"] == "a.png"
    assert answer.json()["spoken"][0]["label"] in ATTRIBUTES


def test_the_files_of_the_page_are_ours_and_ask_nobody_else():
    """Nothing is loaded from elsewhere, nothing written by hand into HTML, no line is long: people read these files."""
    folder = resources.files("zsl_runtime.web") / "page"
    texts = {one.name: one.read_text(encoding="utf-8") for one in folder.iterdir()}
    assert set(texts) == {name for name, _ in SHOWN.values()}
    for name, text in texts.items():
        assert set(re.findall(r"\w+://[^\s\"'`]*", text)) <= {"http://www.w3.org/2000/svg"}, name
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", text), (
            name
        )
        assert not re.search(r"\bsrc=\"(?!/)|\bhref=\"(?!/)|\son\w+=\"|style=\"", texts["index.html"])
        assert [line for line in text.splitlines() if len(line) > 120] == [], name
    imported = {one for text in texts.values() for one in re.findall(r'from "\./([\w.]+)"', text)}
    assert imported | {"page.js"} == {name for name in texts if name.endswith(".js")}
    assert set(re.findall(r'(?:src|href)="/([\w.]+)"', texts["index.html"])) == {"page.js", "page.css", "icon.svg"}


def test_what_scripts_look_for_is_on_the_page():
    """Of each id that a script names there is an element, and of each label that points to one."""
    folder = resources.files("zsl_runtime.web") / "page"
    scripts = "".join(one.read_text(encoding="utf-8") for one in folder.iterdir() if one.name.endswith(".js"))
    page = (folder / "index.html").read_text(encoding="utf-8")
    there = re.findall(r'\bid="([\w-]+)"', page)
    assert len(there) == len(set(there))
    wanted = re.findall(r'byId\("([\w-]+)"\)', scripts)
    wanted += re.findall(r'(?:for|aria-labelledby|aria-describedby|data-to)="([\w-]+)"', page)
    assert len(set(wanted)) > 30
    assert set(wanted) <= set(there)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such a name")
def test_a_bundle_whose_folder_is_no_utf8_has_a_page_all_the_same(own_bundle):
    odd = own_bundle(os.fsdecode(b"caf\xe9.bundle"), rule="gaussian")
    with Classifier.open(odd, "ort", threads=1) as classifier:
        page = Page(Desk(classifier), "key", "127.0.0.1")
        client = TestClient(page.app, base_url="http://127.0.0.1:1", headers={"x-zsl-key": "key"})
        about = client.get("/api/about")
        assert (about.status_code, about.json()["bundle"]) == (200, "caf\udce9.bundle")
        shutil.rmtree(odd / "classes")
        assert "caf" in error(client.get("/api/state"), 500, "E-BUNDLE-MISSING")
        page.close()
