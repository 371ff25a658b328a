"""A page of a report, looked at as a browser and a screen reader would: nothing loaded or run, everything named."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from itertools import pairwise

VOID = {"meta", "img", "br", "wbr", "link", "input"}
REFERENCES = ("href", "src", "xlink:href", "action", "srcset", "poster", "data", "cite", "background")


class Page(HTMLParser):
    """Tags, texts and attributes of a page; what is not as it should be goes to `wrong`."""

    def __init__(self, page: bytes) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.headings: list[tuple[int, str]] = []
        self.captions: list[str] = []
        self.source = page.decode()
        self.feed(self.source)
        self.close()
        self.look()

    def handle_starttag(self, tag, attrs):
        known = dict(attrs)
        if len(known) < len(attrs):
            self.wrong.append(f"{tag} has an attribute twice")
        self.tags.append((tag, known))
        if tag not in VOID:
            self.open.append(tag)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append((int(tag[1]), ""))

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(f"</{tag}> closes something else")

    def handle_data(self, data):
        if "style" in self.open:
            return
        self.texts.append(data)
        if self.headings and self.open and any(re.fullmatch("h[1-6]", tag) for tag in self.open):
            level, text = self.headings[-1]
            self.headings[-1] = (level, text + data)
        if "caption" in self.open:
            self.captions.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.texts).split())

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def look(self) -> None:
        """Everything that holds of every page."""
        if self.open:
            self.wrong.append(f"not closed: {self.open}")
        ids = [known["id"] for _, known in self.tags if "id" in known]
        if len(set(ids)) < len(ids):
            self.wrong.append("an id is there twice")
        for tag, known in self.tags:
            self.look_at(tag, known, set(ids))
        self.wrong += [f"url({one})" for one in re.findall(r"url\(([^#)][^)]*)\)", self.source)]
        self.wrong += [f"@import {one}" for one in re.findall(r"@import[^;]*", self.source)]
        levels = [level for level, _ in self.headings]
        if levels[:1] != [1] or any(b > a + 1 for a, b in pairwise(levels)):
            self.wrong.append(f"headings {levels}")
        tables, captions = len(self.of("table")), len(self.of("caption"))
        if tables != captions or len(self.of("h1")) != 1:
            self.wrong.append("a table without a caption, or not one h1")

    def look_at(self, tag: str, known: dict[str, str | None], ids: set[str | None]) -> None:
        if tag in {"script", "iframe", "object", "embed", "form", "base", "link", "foreignobject"}:
            self.wrong.append(f"there is a {tag}")
        self.wrong += [f"{tag} has {name}" for name in known if name.startswith("on")]
        for name in REFERENCES:
            value = known.get(name)
            if value is None:
                continue
            if value.startswith("#"):
                if value[1:] not in ids:
                    self.wrong.append(f"{value} leads nowhere")
            elif not value.startswith("data:image/"):
                self.wrong.append(f"{tag} refers to {value[:60]}")
        if tag == "img" and not known.get("alt"):
            self.wrong.append("a picture without words")
        if tag == "th" and known.get("scope") not in {"col", "row"}:
            self.wrong.append("a heading of a table without a scope")
        for one in (known.get("aria-labelledby") or "").split():
            if one not in ids:
                self.wrong.append(f"labelled by {one}, which is not there")


def checked(page: bytes) -> Page:
    """The page, which has nothing wrong with it."""
    found = Page(page)
    assert found.wrong == []
    assert "default-src 'none'" in found.source
    pictures = [known for known in found.of("svg") if known.get("role") == "img"]
    assert len(found.of("title")) >= len(pictures)
    return found
