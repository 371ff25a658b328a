"""Who may ask: this page, by this machine's name, with the key. And what a browser may do with the answers."""

from __future__ import annotations

import asyncio
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsl_runtime.web.guard import Guard, is_loopback

HERE = "127.0.0.1:8765"


def status(client, path="/api/state", **headers) -> tuple[int, str]:
    answer = client.get(path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    return answer.status_code, answer.json().get("error", {}).get("code", "") if path != "/" else ""


def test_without_the_key_nothing_is_answered_but_the_empty_page(client):
    assert status(client) == (200, "")
    for key in ("", "another", "a-key-of-the-tes", "a-key-of-the-test2", "é"):
        assert status(client, x_zsl_key=key.encode()) == (403, "E-PAGE-KEY")
    assert status(client, "/", x_zsl_key="") == (200, "")
    assert "a-key-of-the-test" not in client.get("/").text


@pytest.mark.parametrize("host", [HERE, "localhost:8765", "127.0.0.1", "LOCALHOST", "[::1]:8765", "127.1.2.3:1"])
def test_names_of_this_machine_are_answered(client, host):
    assert status(client, host=host) == (200, "")


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8765",
        "",
        "127.0.0.1.evil.example",
        "localhost.evil.example:80",
        "192.168.0.7:8765",
        "10.0.0.1",
        "[2001:db8::1]:80",
        "127.0.0.1:8765@evil.example",
        "2130706433",
        "0x7f.1",
    ],
)
@pytest.mark.parametrize("path", ["/", "/page.js", "/api/state"])
def test_names_that_lead_here_from_elsewhere_are_not(client, path, host):
    """DNS rebinding: the browser believes that it speaks to evil.example."""
    answer = client.get(path, headers={"host": host})
    assert (answer.status_code, answer.json()["error"]["code"]) == (421, "E-PAGE-HOST")


def test_where_others_may_come_addresses_are_answered_and_names_are_not(served):
    client = served(host="0.0.0.0", rule="gaussian")
    assert status(client, host="192.168.0.7:8765") == (200, "")
    assert status(client, host="localhost:8765") == (200, "")
    assert status(client, host="evil.example:8765")[0] == 421
    client = served(host="birds.local", rule="gaussian")
    assert status(client, host="birds.local:8765") == (200, "")
    assert status(client, host="bird.local:8765")[0] == 421


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://127.0.0.1:8765", "http://127.0.0.1:80", ""])
def test_other_pages_may_not_ask_even_with_the_key(client, origin):
    assert status(client, origin=origin, host=HERE) == (403, "E-PAGE-ORIGIN")


@pytest.mark.parametrize("site", ["cross-site", "same-site", "none"])
def test_what_a_browser_says_of_another_site_counts(client, site):
    assert status(client, sec_fetch_site=site) == (403, "E-PAGE-ORIGIN")
    assert status(client, sec_fetch_site="same-origin", origin=f"http://{HERE}", host=HERE) == (200, "")


def test_forms_of_other_pages_change_nothing(client):
    """A form can post text without asking first, and cannot send a header of its own."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        headers = {"content-type": kind, "x-zsl-key": "", "origin": "http://evil.example"}
        answer = client.post("/api/remove", content=b'{"names": ["tit"]}', headers=headers)
        assert answer.status_code == 403
    assert client.get("/api/state").json()["generation"] == 1


def test_no_other_page_is_allowed_to_ask_beforehand(client):
    headers = {"origin": "http://evil.example", "access-control-request-method": "POST"}
    answer = client.options("/api/remove", headers=headers)
    assert answer.status_code == 403
    assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize("path", ["/", "/page.js", "/page.css", "/api/state", "/nowhere", "/api/add"])
@pytest.mark.parametrize("host", [HERE, "evil.example"])
def test_every_answer_tells_browsers_to_be_strict(client, path, host):
    headers = client.get(path, headers={"host": host}).headers
    policy = dict(one.strip().split(" ", 1) for one in headers["content-security-policy"].split(";"))
    assert policy["default-src"] == policy["form-action"] == policy["frame-ancestors"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert not re.search("unsafe|http", headers["content-security-policy"])
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-store"
    assert headers["cross-origin-opener-policy"] == headers["cross-origin-resource-policy"] == "same-origin"
    assert "server" not in headers


def test_web_sockets_are_closed_and_nothing_else_is_passed_on():
    sent = []

    async def never(*_args):
        raise AssertionError

    async def send(message):
        sent.append(message)

    async def ask():
        guard = Guard(never, "key", "127.0.0.1")
        await guard({"type": "websocket", "headers": [], "path": "/api/state"}, never, send)
        await guard({"type": "lifespan"}, never, send)

    asyncio.run(ask())
    assert sent == [{"type": "websocket.close", "code": 1000}]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost", "LocalHost"])
def test_this_machine_alone(host):
    assert is_loopback(host)


@given(st.text(max_size=30))
def test_any_other_text_is_not(host):
    assert not is_loopback(host) or host.lower() == "localhost" or host.strip("[]").startswith(("127.", "::1", "0"))
