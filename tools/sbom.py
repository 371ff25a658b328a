"""Write build/sbom.cdx.json: what a runtime consists of, as CycloneDX 1.6 (JSON).

    python tools/sbom.py [FILE]    needs the packages of requirements-runtime.txt and cyclonedx-python-lib

Told are zsl-deploy, the packages of requirements-runtime.txt with versions, licences and who needs whom, as they say
themselves where they are installed, and the parts in C and C++ that lie inside of them: nanobind in our compiled core,
and what this installation's Pillow and NumPy were built with. The same environment gives the same bytes: there is no
serial number, and the time is that of SOURCE_DATE_EPOCH, or none.
"""

from __future__ import annotations

import datetime as dt
import importlib.util
import os
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.contact import OrganizationalEntity
from cyclonedx.model.license import LicenseAcknowledgement
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if TYPE_CHECKING:
    from collections.abc import Iterable

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "build" / "sbom.cdx.json"
# Of distributions that say their licence in words of their own: SPDX's name for it.
LICENCES = {
    "flatbuffers": "Apache-2.0",
    "nanobind": "BSD-3-Clause",
    "onnxruntime": "MIT",
    "protobuf": "BSD-3-Clause",
    "safetensors": "Apache-2.0",
}
# What Pillow calls its libraries -> their own names and licences (SPDX); those that are not in its wheels are left out.
IN_PILLOW = {
    "libjpeg_turbo": ("libjpeg-turbo", "IJG AND BSD-3-Clause AND Zlib"),
    "zlib_ng": ("zlib-ng", "Zlib"),
    "webp": ("libwebp", "BSD-3-Clause"),
    "avif": ("libavif", "BSD-2-Clause"),
    "libtiff": ("libtiff", "libtiff"),
    "jpg_2000": ("openjpeg", "BSD-2-Clause"),
    "freetype2": ("freetype", "FTL"),
    "littlecms2": ("little-cms", "MIT"),
    "harfbuzz": ("harfbuzz", "MIT"),
    "raqm": ("libraqm", "MIT"),
    "fribidi": ("fribidi", "LGPL-2.1-or-later"),
}


def _pins() -> Any:
    spec = importlib.util.spec_from_file_location("runtime_pins", ROOT / "tools" / "runtime_pins.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def component(
    name: str, version: str | None, licence: str | None, *, kind: str = "pypi", holds: Iterable[Component] = ()
) -> Any:
    """A library, and the parts inside it."""
    url = PackageURL(kind, None, name, version)
    licences = []
    if licence:
        licences = [LicenseFactory().make_from_string(licence, license_acknowledgement=LicenseAcknowledgement.DECLARED)]
    return Component(
        type=ComponentType.LIBRARY,
        name=name,
        version=version,
        purl=url,
        bom_ref=str(url),
        licenses=licences,
        components=holds,
    )


def licence_of(name: str) -> str | None:
    """SPDX's expression, as far as the distribution says one or it is known."""
    try:
        said = distribution(name).metadata.get("License-Expression")
    except PackageNotFoundError:
        said = None
    return said or LICENCES.get(name)


def inside_pillow() -> list[Component]:
    """The libraries in C of this Pillow."""
    from PIL import features

    found = []
    for feature, (name, licence) in IN_PILLOW.items():
        version = features.version(feature) if features.check(feature) else None
        if version:
            found.append(component(name, str(version), licence, kind="generic"))
    return found


def inside_numpy() -> list[Component]:
    """The linear algebra of this NumPy."""
    import numpy as np

    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    if "openblas" not in blas["name"]:
        return []
    return [component("openblas", blas["version"], "BSD-3-Clause", kind="generic")]


def inside_cryptography() -> list[Component]:
    """The OpenSSL of this cryptography."""
    from cryptography.hazmat.backends.openssl import backend

    _, version, *_ = backend.openssl_version_text().split()
    return [component("openssl", version, "Apache-2.0", kind="generic")]


INSIDE = {"pillow": inside_pillow, "numpy": inside_numpy, "cryptography": inside_cryptography}


def make() -> Bom:
    """The list."""
    import zsl_runtime

    pins = _pins()
    held = pins.pinned(pins.PAGE.read_text(encoding="utf-8"))
    places = list(pins.places())
    parts = {
        name: component(name, str(version), licence_of(name), holds=INSIDE.get(name, list)())
        for name, (version, _, _) in held.items()
    }
    tables = component("robin-map", None, "MIT", kind="generic")  # nanobind does not say which version
    core = component("nanobind", str(pins.constraints()["nanobind"]), licence_of("nanobind"), holds=[tables])
    own = component("zsl-deploy", zsl_runtime.__version__, "Apache-2.0", holds=[core])
    bom = Bom(components=parts.values())
    bom.metadata.component = own
    bom.metadata.timestamp = _when()
    bom.metadata.manufacturer = OrganizationalEntity(name="the maintainers of zsl-deploy")
    bom.register_dependency(own, [parts[canonicalize_name(one.name)] for one in pins.wanted()])
    for name, part in parts.items():
        bom.register_dependency(part, [parts[other] for other in needs(name, places) if other in parts])
    return bom


def needs(name: str, places: list[dict[str, str]]) -> list[str]:
    """What a distribution that is installed here needs on Linux."""
    try:
        requires = map(Requirement, distribution(name).requires or [])
    except PackageNotFoundError:
        return []
    return sorted(
        canonicalize_name(one.name)
        for one in requires
        if one.marker is None or any(one.marker.evaluate(dict(place)) for place in places)
    )


def _when() -> Any:
    seconds = os.environ.get("SOURCE_DATE_EPOCH")
    return dt.datetime.fromtimestamp(int(seconds), dt.UTC) if seconds else None


def text_of(bom: Bom) -> str:
    """As JSON, valid by its schema.

    Raises:
        SystemExit: it is not.

    """
    bom.serial_number = None
    text = str(JsonV1Dot6(bom).output_as_string(indent=1)) + "\n"
    wrong = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if wrong:
        raise SystemExit(f"the list is not CycloneDX 1.6: {wrong}")
    return text


def main(words: list[str]) -> int:
    """Write the file; returns the exit code."""
    if len(words) > 1 or any(word.startswith("-") for word in words):
        print(__doc__, file=sys.stderr)
        return 0 if words in (["-h"], ["--help"]) else 2
    target = Path(words[0]) if words else TARGET
    text = text_of(make())
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")
    print(target)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
