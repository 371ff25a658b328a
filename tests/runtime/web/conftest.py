"""The page over HTTP, without a port."""

from __future__ import annotations

import pytest
from starlette.testclient import TestClient

from zsl_runtime.labelling.classifier import Classifier
from zsl_runtime.web.app import Page
from zsl_runtime.web.desk import Desk

KEY = "a-key-of-the-test"


@pytest.fixture
def served(own_bundle):
    """`served(rule="gaussian")`: a client of the page of a bundle of these options; the last one's `desk` and
    `page` are attributes."""
    opened = []

    def serve(*, host: str = "127.0.0.1", **options) -> TestClient:
        classifier = Classifier.open(own_bundle(f"served-{len(opened)}", **options), "ort", threads=1)
        desk = Desk(classifier)
        page = Page(desk, KEY, host)
        opened.append((page, classifier))
        serve.desk, serve.page = desk, page
        address = f"http://[{host}]:8765" if ":" in host else f"http://{host}:8765"
        return TestClient(page.app, base_url=address, headers={"x-zsl-key": KEY})

    yield serve
    for page, classifier in opened:
        page.close()
        classifier.close()


@pytest.fixture
def client(served) -> TestClient:
    return served(rule="gaussian")
