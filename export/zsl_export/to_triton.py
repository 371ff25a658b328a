"""`zsl-export --format triton`: a model repository for NVIDIA's Triton. No torch is needed here."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.bundle.manifest import CLASSES, CURRENT, HISTORY, MANIFEST
from zsl_runtime.bundle.writing import clean_siblings
from zsl_runtime.errors import ArtefactError, SystemProblem, UsageError, from_os_error, shown
from zsl_runtime.graphs.parts import SMALL_PARTS
from zsl_runtime.graphs.ports import ports_of
from zsl_runtime.graphs.precisions import model_file
from zsl_runtime.graphs.sealed import graph_file as sealed_file
from zsl_runtime.graphs.sealed import sealed
from zsl_runtime.labelling.reading import BATCH_SIZE, MOST_AT_ONCE
from zsl_runtime.machine.storage import (
    LOCK,
    claimed_folder,
    copy_synced,
    exclusive,
    new_sibling,
    sync_folder,
    write_synced,
)
from zsl_runtime.serving.batcher import MOST_PICTURE_BYTES
from zsl_runtime.serving.triton import DTYPES, ENCODED, OUTPUTS
from zsl_runtime.trt.facts import build_command, graph_file
from zsl_runtime.trt.store import engines_of, read_plan
from zsl_runtime.trt.trust import TRUSTED, is_own, noted_lines

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from zsl_runtime.trt.facts import Stored

# REPO/NAME/config.pbtxt   inputs, outputs, batching, warm-up; its parameter `bundle` says where the bundle is
# REPO/NAME/1/model.py     a few lines: all else is in zsl_runtime.serving.triton
# REPO/NAME/1/bundle       with --copy-bundle
# REPO/NAME/warmup/encoded a picture
# REPO/NAME_plan/          with --variant tensorrt: the plan, for Triton's TensorRT backend
VARIANTS = ("python", "tensorrt")
MAX_BATCH = 64  # pictures of one request, and of the requests that are put together
MOST_INSTANCES = 256
QUEUE = 256  # requests that wait; the next one is refused at once, so that memory is bounded
VERSION = "1"
BUNDLE = "bundle"  # of a copy, in the version's folder
PLAN_SUFFIX = "_plan"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_PRINTED = {ord('"'): '\\"', ord("\\"): "\\\\"}

MODEL_PY = '''"""Labels pictures with a bundle of zsl-deploy in Triton's Python backend (docs/how-to/triton.md)."""

import triton_python_backend_utils as pb_utils

try:
    from zsl_runtime.serving.triton import Model
except ImportError as error:
    raise ImportError(
        f"E-BACKEND-MISSING: the Python of Triton's Python backend cannot import zsl_runtime ({error}); install it "
        "there: pip install 'zsl-deploy[cpu]', or give the parameter EXECUTION_ENV_PATH an environment that has it"
    ) from None


class TritonPythonModel(Model):
    """What Triton looks for."""

    utils = pb_utils
'''


@dataclass(frozen=True)
class Repository:
    """What the command line says of a model repository; checked as far as no bundle is needed.

    Attributes:
        name: of the model; '' for that of the bundle's folder.
        variant: one of VARIANTS.
        max_batch: pictures of one request; None for MAX_BATCH, and of a plan for what it takes.
        instances: processes that label side by side.
        precision: None for the bundle's default.
        copy: put a copy of the bundle into the repository.

    Raises:
        UsageError: E-TRITON-NAME, E-TRITON-BATCH, E-TRITON-INSTANCES.

    """

    name: str = ""
    variant: str = "python"
    max_batch: int | None = None
    instances: int = 1
    precision: str | None = None
    copy: bool = False

    def __post_init__(self) -> None:
        if self.name:
            _check_name(self.name)
        if self.max_batch is not None and not 1 <= self.max_batch <= MOST_AT_ONCE:
            raise UsageError(
                "E-TRITON-BATCH", f"--max-batch {self.max_batch}: expected 1 to {MOST_AT_ONCE} pictures of one request"
            )
        if not 1 <= self.instances <= MOST_INSTANCES:
            raise UsageError(
                "E-TRITON-INSTANCES", f"--instances {self.instances}: expected 1 to {MOST_INSTANCES} processes"
            )


def write_repository(folder: str, out: str | os.PathLike[str], wanted: Repository) -> tuple[Path, str]:
    """Write a model repository for a bundle; it is whole, or not there.

    Args:
        folder: of the bundle.
        out: the folder to make; it is not there yet, or empty.
        wanted: how.

    Returns:
        The repository's folder, and the name of the model to ask.

    Raises:
        UsageError: E-TRITON-DEST, E-TRITON-NAME, E-TRITON-PATH, E-TRITON-BATCH; E-PRECISION when the bundle does not
            hold it.
        ArtefactError: E-BUNDLE-... of a damaged bundle, or of graphs that are refused; E-ENGINE-MISSING, E-ENGINE-HASH
            and E-ENGINE-TRUST of its plan.
        SystemProblem: the system said no; nothing is left behind.

    """
    target = _check_dest(Path(out))
    bundle = Bundle.open(folder)
    precision = wanted.precision or bundle.default_precision
    plan = _plan_of(bundle, precision, wanted) if wanted.variant == "tensorrt" else None
    _check_graphs(bundle, precision, with_model=plan is None)
    name = wanted.name or _name_of(bundle)
    config = _config(bundle, name, precision, wanted, plan)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        clean_siblings(target)
        with claimed_folder(lambda: new_sibling(target)) as building:
            try:
                _fill(building / name, bundle, config, copy=wanted.copy)
                if plan is not None:
                    _fill_plan(building / f"{name}{PLAN_SUFFIX}", bundle, plan)
                sync_folder(building)
                (building / LOCK).unlink(missing_ok=True)
                building.rename(target)  # replaces nothing but an empty folder
            except BaseException:
                shutil.rmtree(building, ignore_errors=True)
                raise
        sync_folder(target.parent)
    except OSError as error:
        raise from_os_error(error, "write the model repository") from error
    return target, name


def next_commands(repository: Path, name: str) -> str:
    """Commands to copy."""
    doors = '"shared-memory,model-repository,trace,logging:closed=$(openssl rand -hex 16)"'
    return (
        "Next, where Triton is (shared memory and model control stay closed, and nobody but this machine is served):\n"
        f"  tritonserver --model-repository {shlex.quote(str(repository))} --model-control-mode none \\\n"
        "      --http-address 127.0.0.1 --grpc-address 127.0.0.1 --metrics-address 127.0.0.1 \\\n"
        f"      --http-restricted-api {doors} \\\n"
        f"      --grpc-restricted-protocol {doors}\n"
        f"  curl -s 127.0.0.1:8000/v2/models/{name}/config"
    )


# --- checks -----------------------------------------------------------------------------------------------------------


def _check_dest(out: Path) -> Path:
    """Where it goes; UsageError E-TRITON-DEST for a link, a file or a folder that holds something."""
    if out.is_symlink():
        raise UsageError("E-TRITON-DEST", f"{out} is a link; give the folder itself, or a new one")
    try:
        target = out.resolve()
        if target.is_mount():
            problem = f"is a mount point, whose place nothing can take in one step; give {target / 'models'}"
        elif not target.exists() or (target.is_dir() and not any(target.iterdir())):
            return target
        else:
            problem = f"{'holds files' if target.is_dir() else 'is no folder'}, and nothing is replaced; give a new one"
    except OSError as error:
        raise from_os_error(error, "look at the model repository's place") from error
    raise UsageError("E-TRITON-DEST", f"{target} {problem}")


def _check_graphs(bundle: Bundle, precision: str, *, with_model: bool) -> None:
    """Hold the graphs that the server will load to what graphs may be, before it does; errors as of `sealed`."""
    files = [(part, bundle.graph(part)) for part in SMALL_PARTS]
    if with_model:
        files.append(("model", model_file(bundle, precision)))
    for part, path in files:
        file = sealed_file(bundle, part, path)
        if file is not None:
            with sealed(file, part):
                pass


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name) or name.endswith(PLAN_SUFFIX):
        raise UsageError(
            "E-TRITON-NAME",
            f"model name {shown(name, 100)}: expected at most 100 letters, digits, _ . and -, the first one of them no "
            f". or -, and no {PLAN_SUFFIX} at the end; it is part of a URL",
        )


def _name_of(bundle: Bundle) -> str:
    """The name of the bundle's folder as far as it can be part of a URL."""
    own = bundle.path.resolve().name
    own = own.removesuffix(".bundle") or own
    return (re.sub(r"[^A-Za-z0-9_.-]", "_", own).lstrip(".-").removesuffix(PLAN_SUFFIX) or "model")[:100]


def _plan_of(bundle: Bundle, precision: str, wanted: Repository) -> Stored:
    """The newest plan of the full library that this user built of the bundle's model."""
    held = [
        one
        for one in engines_of(bundle)
        if (one.facts.flavour, one.facts.precision) == ("tensorrt", precision)
        and one.facts.graph_sha256 == bundle.manifest["files"][graph_file(bundle, "model", precision)]["sha256"]
    ]
    command = build_command(bundle.path, precision, flavour="tensorrt")
    if not held:
        raise ArtefactError(
            "E-ENGINE-MISSING",
            f"{bundle.path} has no plan of its model in {precision} that Triton's TensorRT backend could load; build "
            f"it with the TensorRT of the server, on its card: {command}",
        )
    own = noted_lines(TRUSTED)
    trusted = [one for one in held if is_own(one, own)]
    if not trusted:
        raise ArtefactError(
            "E-ENGINE-TRUST",
            f"{held[0].path} was not built here by you, and a plan is code that the server would run; build it "
            f"again: {command}",
        )
    most = max(profile.max_batch for profile in trusted[0].facts.profiles)
    if wanted.max_batch is not None and wanted.max_batch > most:
        raise UsageError(
            "E-TRITON-BATCH",
            f"--max-batch {wanted.max_batch}: the plan takes {most} pictures at most; build a larger one: {command} "
            f"--max-batch {wanted.max_batch}",
        )
    return trusted[0]


# --- config.pbtxt -----------------------------------------------------------------------------------------------------


def quoted(text: str) -> str:
    """A string of a text protobuf: ASCII, all else as octal escapes of its UTF-8.

    Raises:
        UsageError: E-TRITON-PATH for what is not text, such as a path of odd bytes.

    """
    try:
        data = text.encode()
    except UnicodeEncodeError:
        raise UsageError(
            "E-TRITON-PATH",
            f"{text!r} is not UTF-8, which config.pbtxt must be; move the bundle, or give --copy-bundle",
        ) from None
    return '"' + "".join(_PRINTED.get(one, chr(one) if 32 <= one < 127 else f"\\{one:03o}") for one in data) + '"'


def _config(bundle: Bundle, name: str, precision: str, wanted: Repository, plan: Stored | None) -> str:
    """config.pbtxt of the model that is asked."""
    port = ports_of(bundle, "model").inputs[0]
    pictures = port.name == "images"
    shape = tuple(int(size or 0) for size in port.shape[1:])
    gaussian = bundle.gaussian() if bundle.head_rule == "gaussian" else None
    absent = {"distances", "distance", "far"} if gaussian is None else {"far"} if gaussian.held is None else set()
    batch = wanted.max_batch or (MAX_BATCH if plan is None else max(one.max_batch for one in plan.facts.profiles))
    given = [_input(ENCODED, "TYPE_STRING", [1], optional=True)] if pictures else []
    given.append(_input(port.name, DTYPES[port.dtype], shape, optional=pictures))
    told = [_output(one, kind, [size]) for one, kind, size in OUTPUTS if one not in absent]
    parameters = {
        "bundle": BUNDLE if wanted.copy else str(bundle.path.resolve()),
        "backend": "" if plan else "auto",
        "device": "" if plan else "cpu",
        "precision": precision,
        "threads": "",
        "topk": "5",
        "max_picture_bytes": str(MOST_PICTURE_BYTES),
        "plan": f"{name}{PLAN_SUFFIX}" if plan else "",
    }
    lines = [
        "# Written by zsl-export --format triton; docs/how-to/triton.md says what may be changed.",
        f"name: {quoted(name)}",
        'backend: "python"',
        f"max_batch_size: {batch}",
        *given,
        *told,
        f"instance_group [ {{ count: {wanted.instances} kind: KIND_CPU }} ]",
        "dynamic_batching {",
        f"  preferred_batch_size: [ {min(BATCH_SIZE, batch) if plan is None else batch} ]",
        f"  default_queue_policy {{ max_queue_size: {QUEUE} }}",
        "}",
        # While a server starts, a model can call no other one: the plan warms up by itself.
        *(
            _warmup(port.name, DTYPES[port.dtype], shape, pictures=pictures, batch=min(BATCH_SIZE, batch))
            if plan is None
            else ()
        ),
        *(
            f"parameters {{ key: {quoted(key)} value {{ string_value: {quoted(value)} }} }}"
            for key, value in parameters.items()
            if value or key == "threads"
        ),
    ]
    return "\n".join(lines) + "\n"


def _dims(sizes: Sequence[int]) -> str:
    return f"[ {', '.join(map(str, sizes))} ]"


def _input(name: str, kind: str, sizes: Sequence[int], *, optional: bool = False) -> str:
    more = " optional: true" if optional else ""
    return f"input [ {{ name: {quoted(name)} data_type: {kind} dims: {_dims(sizes)}{more} }} ]"


def _output(name: str, kind: str, sizes: Sequence[int]) -> str:
    return f"output [ {{ name: {quoted(name)} data_type: {kind} dims: {_dims(sizes)} }} ]"


def _warmup(name: str, kind: str, shape: Sequence[int], *, pictures: bool, batch: int) -> list[str]:
    """Requests that every instance answers before it is ready: one input, a full batch, and a picture file."""
    made = [
        f'model_warmup [ {{ name: "{size} at once" batch_size: {size} inputs {{ key: {quoted(name)} '
        f"value {{ data_type: {kind} dims: {_dims(shape)} zero_data: true }} }} }} ]"
        for size in sorted({1, batch})
    ]
    if pictures:
        made.append(
            f'model_warmup [ {{ name: "a picture" batch_size: 1 inputs {{ key: "{ENCODED}" '
            f'value {{ data_type: TYPE_STRING dims: [ 1 ] input_data_file: "{ENCODED}" }} }} }} ]'
        )
    return made


def _plan_config(bundle: Bundle, name: str, plan: Stored) -> str:
    """config.pbtxt of the plan: no batch axis of Triton's own, since the head's inputs have none."""
    ports = ports_of(bundle, "model")
    classes = len(bundle.current().table)
    profiles = ", ".join(f'"{place}"' for place in range(len(plan.facts.profiles)))
    lines = [
        f"# {plan.facts}",
        "# Written by zsl-export --format triton. It has not run: the machine that wrote it need not have a card.",
        f"name: {quoted(name)}",
        'platform: "tensorrt_plan"',
        'default_model_filename: "model.plan"',
        "max_batch_size: 0",
    ]
    for port in ports.inputs:
        sizes = [size if isinstance(size, int) else -1 for size in port.shape]
        lines.append(_input(port.name, DTYPES[port.dtype], sizes))
    for port in ports.outputs:
        sizes = [size if isinstance(size, int) else -1 for size in port.shape]
        lines.append(_output(port.name, DTYPES[port.dtype], sizes))
    lines.append(f"instance_group [ {{ count: 1 kind: KIND_GPU profile: [ {profiles} ] }} ]")
    for batch in sorted({profile.opt_batch for profile in plan.facts.profiles}):
        free = {"N": batch, "C": classes}
        given = []
        for port in ports.inputs:
            sizes = [size if isinstance(size, int) else free[str(size)] for size in port.shape]
            given.append(
                f"inputs {{ key: {quoted(port.name)} value {{ data_type: {DTYPES[port.dtype]} "
                f"dims: {_dims(sizes)} zero_data: true }} }}"
            )
        lines.append(f'model_warmup [ {{ name: "{batch} at once" batch_size: 1 {" ".join(given)} }} ]')
    return "\n".join(lines) + "\n"


# --- files ------------------------------------------------------------------------------------------------------------


def _fill(folder: Path, bundle: Bundle, config: str, *, copy: bool) -> None:
    """Write the folder of the model that is asked."""
    version = folder / VERSION
    version.mkdir(parents=True)
    write_synced(folder / "config.pbtxt", config.encode())
    write_synced(version / "model.py", MODEL_PY.encode())
    if ports_of(bundle, "model").inputs[0].name == "images":
        (folder / "warmup").mkdir()
        picture = _picture()
        write_synced(folder / "warmup" / ENCODED, len(picture).to_bytes(4, "little") + picture)
        sync_folder(folder / "warmup")
    if copy:
        _copy(bundle, version / BUNDLE)
    sync_folder(version)
    sync_folder(folder)


def _fill_plan(folder: Path, bundle: Bundle, plan: Stored) -> None:
    """Write the folder of the plan."""
    version = folder / VERSION
    version.mkdir(parents=True)
    write_synced(folder / "config.pbtxt", _plan_config(bundle, folder.name, plan).encode())
    write_synced(version / "model.plan", read_plan(plan, trusted=False))
    sync_folder(version)
    sync_folder(folder)


def _picture() -> bytes:
    """A JPEG file of soft colours, the same one always."""
    from PIL import Image

    y, x = np.mgrid[0:240, 0:320]
    pixels = np.stack([x * 255 // 319, y * 255 // 239, (x + y) * 255 // 558], axis=-1).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=85)
    return file.getvalue()


def _copy(bundle: Bundle, target: Path) -> None:
    """Copy what the manifest lists, the generations and all signatures; no engines, and nothing else that is there."""
    with contextlib.ExitStack() as held:
        with contextlib.suppress(SystemProblem):  # a bundle that cannot be written has no other writer either
            held.enter_context(exclusive(bundle.path))
        names = [MANIFEST, *bundle.manifest["files"], f"{CLASSES}/{CURRENT}"]
        names += [f"{CLASSES}/{bundle.generation_path(number).name}" for number in bundle.generation_numbers()]
        names += bundle.signature_names()
        if (bundle.path / HISTORY).is_file():
            names.append(HISTORY)
        for name in names:
            source = bundle.path / name
            if source.is_symlink() or not source.resolve().is_relative_to(bundle.path.resolve()):
                raise ArtefactError("E-BUNDLE-PATH", f"{source} is a link; copy the files, not links")
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            copy_synced(source, target / name)
    for folder in {(target / name).parent for name in names}:
        sync_folder(folder)
    Bundle.open(target)
