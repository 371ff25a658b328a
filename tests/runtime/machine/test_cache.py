"""Where derived files go."""

from __future__ import annotations

from pathlib import Path

import pytest

from zsl_runtime.machine.cache import cache_folder


@pytest.mark.parametrize(
    ("zsl", "xdg", "expected"),
    [
        ("/a/b", "/x", "/a/b"),
        (None, "/x", "/x/zsl-deploy"),
        ("", "/x", "/x/zsl-deploy"),
        (None, "relative", "/me/.cache/zsl-deploy"),
        (None, None, "/me/.cache/zsl-deploy"),
        ("~/z", None, "/me/z"),
    ],
)
def test_the_users_choice_goes_before_the_conventions(monkeypatch, zsl, xdg, expected):
    monkeypatch.setenv("HOME", "/me")
    for name, value in (("ZSL_CACHE", zsl), ("XDG_CACHE_HOME", xdg)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    assert cache_folder() == Path(expected)
