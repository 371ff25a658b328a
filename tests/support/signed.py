"""Bundles whose files were changed and signed again, as an export would have: what only their content gives away."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from zsl_runtime.bundle.bundle import Bundle

if TYPE_CHECKING:
    from pathlib import Path


def change_probe(path: Path, **changes) -> None:
    """Put another probe into the bundle."""
    change_file(path, "probe.safetensors", Bundle.open(path).probe()._replace(**changes).to_bytes())


def change_file(path: Path, name: str, content: bytes, *, listed: bool = True) -> None:
    """Put another file into the bundle; `listed` in its manifest, as all are but those that may change."""
    (path / name).write_bytes(content)
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"].pop(name, None)
    if listed:
        manifest["files"][name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    (path / "manifest.json").write_text(json.dumps(manifest))
    pointer = json.loads((path / "classes/CURRENT").read_text())
    pointer["manifest_sha256"] = hashlib.sha256((path / "manifest.json").read_bytes()).hexdigest()
    (path / "classes/CURRENT").write_text(json.dumps(pointer) + "\n")
