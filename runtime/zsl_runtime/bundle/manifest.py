"""What manifest.json of a bundle says, and the check that all the runtime relies on is there and fits together."""

from __future__ import annotations

import math
import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from zsl_runtime.errors import ArtefactError, UsageError
from zsl_runtime.head.head import RULES, View
from zsl_runtime.head.semantic_rule import SCALE, SemanticRule
from zsl_runtime.machine.storage import LOCK, TEMPORARY
from zsl_runtime.machine.untrusted import GIB
from zsl_runtime.streams import one_line

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

# The newest format. A bundle carries the oldest one that describes it (`format_for`), so that a runtime in the field
# reads every bundle that it can run: 1 is the rule `fit`; 2 adds the rule `rows`, 3 the rule `gaussian`; 4 adds, for
# each of them, attributes that are scaled, which who does not know of it would turn into other vectors.
FORMATS = {"fit": 1, "rows": 2, "gaussian": 3}
SCALED_FORMAT = 4
FORMAT_VERSION = SCALED_FORMAT
PARTS = {  # graphs by the rule of the head
    "fit": ("model", "synthesizer", "lift"),
    "rows": ("model", "rows", "lift"),
    "gaussian": ("model", "means", "lift"),
}
MODEL_INPUTS = {"images": "uint8", "backbone_features": "float32"}  # name of the graph's input -> its dtype
MANIFEST, CLASSES, CURRENT, HISTORY = "manifest.json", "classes", "CURRENT", "history.jsonl"
# What the optional `precisions` may name, and by which of them each `default_precision` is answered.
PRECISIONS = ("fp32", "fp16", "int8-cpu", "int8-trt")
PRECISION_FILES = {"fp32": ("fp32",), "fp16": ("fp16",), "int8": ("int8-cpu", "int8-trt")}
SIGNATURE = "model.sig"  # of what is fixed; that of a generation lies beside it
REPLAY, PROBE, GAUSSIAN = "replay.safetensors", "probe.safetensors", "gaussian.safetensors"
EXPLAIN, READOUT = "explain", "readout.safetensors"  # an optional key, and the file that it names

# What a bundle may be at most, so that to open one of anybody's making takes a bounded time.
LARGEST_FILE, LARGEST_BUNDLE, MOST_FILES = 4 * GIB, 16 * GIB, 1000
LARGEST_GENERATION = GIB  # of 100,000 classes with 256 coordinates and 300 attributes it has two thirds
LARGEST = {PROBE: GIB, GAUSSIAN: GIB, READOUT: GIB, REPLAY: 2 * GIB}  # of those that are read whole
MOST_VIEWS, MOST_EPOCHS, MOST_SYNTHETIC = 64, 10_000, 100_000  # of what a head is fitted by
LONGEST_PATH = 255  # letters of a file's name in the bundle
WIDEST = 1 << 20  # of F, D, A and Z

MANIFEST_TYPES: dict[str, tuple[type, ...]] = {
    "method": (str,),
    "created": (str,),
    "versions": (dict,),
    "backbone": (dict,),
    "pixels": (dict, type(None)),
    "input": (dict,),
    "graphs": (dict,),
    "dims": (dict,),
    "attributes": (list,),
    "semantic_rule": (dict,),
    "head": (dict,),
    "recipe": (dict,),
    "scores": (dict,),
    "files": (dict,),
}


def format_for(manifest: Mapping[str, Any]) -> int:
    """The format version under which a manifest is written."""
    if SCALE in manifest.get("semantic_rule", {}):
        return SCALED_FORMAT
    return FORMATS.get(manifest.get("head", {}).get("rule"), FORMAT_VERSION)


def check_version(manifest: Mapping[str, Any], folder: Path) -> None:
    """ArtefactError E-BUNDLE-VERSION for a format newer than ours, E-BUNDLE-MANIFEST when there is no version."""
    version = manifest.get("format_version")
    if type(version) is not int or version < 1:
        raise ArtefactError(
            "E-BUNDLE-MANIFEST", f"{folder / MANIFEST} has format_version {version!r}; expected 1 to {FORMAT_VERSION}"
        )
    if version > FORMAT_VERSION:
        raise ArtefactError(
            "E-BUNDLE-VERSION",
            f"{folder} has bundle format {version}, this zsl-deploy reads up to {FORMAT_VERSION}; "
            "install a newer zsl-deploy or export the model again with this one",
        )


def check_manifest(manifest: Mapping[str, Any], folder: Path) -> tuple[tuple[View, ...], SemanticRule]:
    """Views and semantic rule of a manifest in which everything that the runtime relies on is there and fits."""
    try:
        for key, types in MANIFEST_TYPES.items():
            kinds = " or ".join("null" if kind is type(None) else kind.__name__ for kind in types)
            given = type(manifest[key]).__name__ if key in manifest else "missing"
            require(isinstance(manifest.get(key, ...), types), f"`{key}` is {given}, expected {kinds}")
        for key in ("method", "created"):
            require(
                one_line(manifest[key]) == manifest[key], f"`{key}` is {manifest[key][:80]!r}, expected plain words"
            )
        _check_files(manifest["files"], folder)
        _check_graphs(manifest)
        _check_precisions(manifest)
        _check_sizes(manifest)
        _check_explain(manifest)
        views = _check_head(manifest)
        rule = SemanticRule.from_dict(manifest["semantic_rule"])
        _check_scale(rule, manifest["dims"]["A"])
    except (ContentError, UsageError) as error:
        reason = error.message if isinstance(error, UsageError) else str(error)
        raise ArtefactError(
            "E-BUNDLE-MANIFEST", f"{folder / MANIFEST} does not describe a bundle: {reason}; export the model again"
        ) from None
    return views, rule


def _check_scale(rule: SemanticRule, attributes: int) -> None:
    """One range for each of the A attributes, where they are scaled."""
    given = attributes if rule.scale is None else len(rule.scale.low)
    require(given == attributes, f"`semantic_rule` scales {given} attributes, there are {attributes}")


class ContentError(ValueError):
    """What is wrong with a file's content, without file name and code; they are added where it is caught."""


def require(good: object, problem: str) -> None:
    """ContentError `problem` unless `good`."""
    if not good:
        raise ContentError(problem)


def _check_files(files: Mapping[str, Any], folder: Path) -> None:
    require(len(files) <= MOST_FILES, f"it lists {len(files)} files, where at most {MOST_FILES} can be")
    check_names(files, folder)
    for name, entry in files.items():
        good = isinstance(entry, dict) and set(entry) == {"sha256", "bytes"} and _is_count(entry["bytes"], 0)
        require(good and re.fullmatch("[0-9a-f]{64}", str(entry["sha256"])), f"file {name!r} has no sha256 and size")
        most = LARGEST.get(name, LARGEST_FILE)
        require(entry["bytes"] <= most, f"file {name!r} has {entry['bytes']:,} bytes, where at most {most:,} can be")
    whole = sum(entry["bytes"] for entry in files.values())
    require(whole <= LARGEST_BUNDLE, f"its files have {whole:,} bytes, where at most {LARGEST_BUNDLE:,} can be")


def check_names(names: Mapping[str, Any], folder: Path) -> None:
    """ArtefactError E-BUNDLE-PATH for a name that would lie outside the bundle, or on one of its own files."""
    for name in names:
        path = PurePosixPath(name)
        own = path.parts[:1] in {(MANIFEST,), (CLASSES,), (HISTORY,), (LOCK,), (SIGNATURE,)}
        inside = path.parts and str(path) == name and not path.is_absolute() and ".." not in path.parts
        odd = re.search(r"[\\:\x00-\x1f\x7f]", name) or len(name) > LONGEST_PATH or path.name in {LOCK, CURRENT}
        if own or not inside or odd or any(part.startswith(TEMPORARY) for part in path.parts):
            raise ArtefactError("E-BUNDLE-PATH", f"{folder} lists the file {name!r}, which may not be part of a bundle")


def _check_graphs(manifest: Mapping[str, Any]) -> None:
    graphs, files, given = manifest["graphs"], manifest["files"], manifest["input"]
    rule = manifest["head"].get("rule")
    require(rule in RULES, f"`head.rule` is {rule!r}, expected {' or '.join(RULES)}")
    parts = PARTS[rule]
    require(set(graphs) == set(parts), f"`graphs` must name {', '.join(parts)} where the rule is {rule}")
    for part, name in graphs.items():
        require(
            name is None or (isinstance(name, str) and name in files), f"graph {part!r} is {name!r}, not a file of it"
        )
    require(graphs["model"] is not None, "there is no model graph")
    if rule == "fit":
        complete = graphs["synthesizer"] is not None and REPLAY in files
        require(complete, f"a head that is fitted needs a synthesizer and {REPLAY}")
    elif rule == "rows":
        require(graphs["rows"] is not None, "a head of the rule rows needs a rows graph")
    else:
        complete = None not in (graphs["means"], graphs["lift"]) and GAUSSIAN in files
        require(complete, f"a head of the rule gaussian needs a means graph, a lift graph and {GAUSSIAN}")
    require(PROBE in files, f"there is no {PROBE}")
    require((given.get("name"), given.get("dtype")) in list(MODEL_INPUTS.items()), f"unknown `input` {given!r}")
    require(
        isinstance(given.get("shape"), list) and len(given["shape"]) in {3, 4}, "`input` has no shape of 3 or 4 axes"
    )
    require(given["name"] != "images" or manifest["pixels"] is not None, "a model of pictures needs `pixels`")


def _check_precisions(manifest: Mapping[str, Any]) -> None:
    """The optional keys `precisions` and `default_precision`; without them there is fp32, and it is `graphs.model`."""
    model = manifest["graphs"]["model"]
    given = manifest.get("precisions", {"fp32": model})
    require(isinstance(given, dict) and given, "`precisions` is not an object that names a file for each precision")
    unknown = sorted(set(given) - set(PRECISIONS))
    require(not unknown, f"`precisions` names {unknown}, expected some of {', '.join(PRECISIONS)}")
    for key, name in given.items():
        require(isinstance(name, str) and name in manifest["files"], f"precision {key!r} is {name!r}, not a file of it")
    require(len(set(given.values())) == len(given), "`precisions` names one file twice")
    require(
        given.get("fp32", model) == model, f"precision 'fp32' is {given.get('fp32')!r}, the model graph is {model!r}"
    )
    require(model in given.values(), f"the model graph {model!r} is none of `precisions`")
    chosen = manifest.get("default_precision", "fp32")
    keys = PRECISION_FILES.get(chosen, ()) if isinstance(chosen, str) else ()
    require(
        any(key in given for key in keys),
        f"`default_precision` is {chosen!r}, expected one whose file is among {', '.join(given)}",
    )


def _check_explain(manifest: Mapping[str, Any]) -> None:
    """The optional key `explain`: what a label is explained with. No label depends on it."""
    if EXPLAIN not in manifest:
        return
    given, files = manifest[EXPLAIN], manifest["files"]
    good = isinstance(given, dict) and set(given) - {"centres"} == {"readout", "graph", "regions"}
    require(good, f"`{EXPLAIN}` is not an object of readout, graph and regions")
    require(given["readout"] == READOUT and READOUT in files, f"`{EXPLAIN}` names no {READOUT} that is a file of it")
    graph, regions = given["graph"], given["regions"]
    named = graph is None or (isinstance(graph, str) and graph in files and graph not in manifest["graphs"].values())
    require(named, f"`{EXPLAIN}` has the graph {graph!r}, not a file of its own")
    require(
        type(regions) is int and (regions == 0 if graph is None else 1 <= regions <= WIDEST),
        f"`{EXPLAIN}` has {regions!r} regions, expected at least 1, and 0 without a graph",
    )
    centres = given.get("centres", [0.5, 1.0])
    good = isinstance(centres, list) and [type(one) for one in centres] == [float, float]
    require(
        good and -WIDEST < centres[0] < WIDEST and 0 < centres[1] < WIDEST,
        f"`{EXPLAIN}` has the centres {centres!r}, expected the first and the step above 0, in pixels",
    )


def _check_sizes(manifest: Mapping[str, Any]) -> None:
    dims, attributes = manifest["dims"], manifest["attributes"]
    fitted = manifest["head"]["rule"] == "fit"
    good = set(dims) == {"F", "D", "A", "Z"} and all(_is_count(dims[name], 1) for name in "FDA")
    require(good, f"`dims` is {dims!r}, expected F, D, A and Z, the first three at least 1")
    require(
        all(type(size) is int and size <= WIDEST for size in dims.values()),
        f"`dims` is {dims!r}, expected sizes up to {WIDEST:,}",
    )
    width = dims["Z"]
    noise = _is_count(width, 1) if fitted else type(width) is int and width == 0
    require(noise, f"`dims` has Z {width!r}, expected {'at least 1' if fitted else '0 without a synthesizer'}")
    unique = all(isinstance(name, str) for name in attributes) and len(set(attributes)) == len(attributes)
    require(unique and len(attributes) == dims["A"], f"`attributes` are not {dims['A']} different names")
    _check_ranges(manifest)
    require(manifest["graphs"]["lift"] is not None or dims["F"] == dims["D"], "without a lift F and D must be equal")


def _check_ranges(manifest: Mapping[str, Any]) -> None:
    """The optional key `attribute_ranges`: for each attribute the least and the largest value of training."""
    ranges = manifest.get("attribute_ranges")
    if ranges is None:
        return
    good = isinstance(ranges, list) and len(ranges) == manifest["dims"]["A"]
    pairs = good and all(isinstance(pair, list) and len(pair) == 2 and all(map(_is_number, pair)) for pair in ranges)
    require(
        pairs and all(low <= high for low, high in ranges),
        f"`attribute_ranges` is not a list of {manifest['dims']['A']} pairs of ascending numbers",
    )


def _is_number(value: object) -> bool:
    return type(value) in {int, float} and math.isfinite(value)  # type: ignore[arg-type]


def _check_head(manifest: Mapping[str, Any]) -> tuple[View, ...]:
    head, width = manifest["head"], manifest["dims"]["D"]
    fitted = head["rule"] == "fit"
    require(_is_count(head.get("seed"), 0), "`head.seed` is not a whole number of at least 0")
    count = head.get("synthetic_per_class")
    right = _is_count(count, 1) if fitted else type(count) is int and count == 0
    require(right, f"`head.synthetic_per_class` is not a whole number {'above 0' if fitted else 'equal to 0'}")
    require(
        count <= MOST_SYNTHETIC, f"`head.synthetic_per_class` is {count:,}, where at most {MOST_SYNTHETIC:,} can be"
    )
    listed = head.get("views")
    require(
        isinstance(listed, list) and listed and all(isinstance(view, dict) for view in listed), "there are no views"
    )
    require(len(listed) <= MOST_VIEWS, f"there are {len(listed):,} views, where at most {MOST_VIEWS} can be")
    views = tuple(View.from_dict(view) for view in listed)
    require(max(view.stop for view in views) == width, f"the views do not end at D = {width}")
    if fitted:
        require(all(view.fit is not None for view in views), "a view has no fit settings")
        epochs = max(view.fit.epochs for view in views if view.fit is not None)
        require(epochs <= MOST_EPOCHS, f"a view is fitted for {epochs:,} epochs, where at most {MOST_EPOCHS:,} can be")
    else:
        whole = len(views) == 1 and views[0].start == 0 and views[0].fit is None
        require(whole, f"the rule {head['rule']} has one view, of all columns and without fit settings")
    return views


def _is_count(value: object, least: int) -> bool:
    return type(value) is int and value >= least
