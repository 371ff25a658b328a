"""`zsl-export --format triton`: what is written, that it is whole or absent, and all that can be wrong."""

from __future__ import annotations

import errno
import io
import os
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from support.engines import PLAN, kept
from support.fake_triton import read_config
from support.hostile_graphs import node, with_work
from support.served import newcomer
from support.signed import change_file
from zsl_export import to_triton
from zsl_export.cli import main
from zsl_export.to_triton import Repository, quoted, write_repository
from zsl_runtime import add_classes
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.errors import UsageError
from zsl_runtime.trt.facts import Profile

TRITON = ["--format", "triton"]


@pytest.fixture
def bundle(own_bundle, tmp_path, monkeypatch):
    monkeypatch.setenv("ZSL_CACHE", str(tmp_path / "cache"))
    return own_bundle("my birds.bundle", rule="gaussian", precisions=("fp32", "fp16"))


def files(folder) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def siblings(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith(".tmp-"))


def test_the_repository_has_one_model_named_after_the_bundle(bundle, tmp_path, capfd):
    assert main([str(bundle), *TRITON, "--out", str(tmp_path / "new" / "repo")]) == 0
    repository = tmp_path / "new" / "repo"
    printed = capfd.readouterr()
    assert printed.out == f"{repository}\n"
    assert f"wrote {repository}: model my_birds" in printed.err
    assert f"tritonserver --model-repository {repository} --model-control-mode none" in printed.err
    assert "--http-address 127.0.0.1 --grpc-address 127.0.0.1 --metrics-address 127.0.0.1" in printed.err
    assert printed.err.count('"shared-memory,model-repository,trace,logging:closed=$(openssl rand -hex 16)"') == 2
    assert files(repository) == {"my_birds/config.pbtxt", "my_birds/1/model.py", "my_birds/warmup/encoded"}
    assert siblings(tmp_path / "new") == []


def test_the_config_is_the_bundle_s(bundle, tmp_path):
    words = ["--name", "field-guide", "--max-batch", "16", "--instances", "3", "--precision", "fp16"]
    assert main([str(bundle), *TRITON, "--out", str(tmp_path / "repo"), *words]) == 0
    config = read_config((tmp_path / "repo" / "field-guide" / "config.pbtxt").read_text(encoding="ascii"))
    parameters = {one["key"]: one["value"]["string_value"] for one in config.pop("parameters")}
    warmups = config.pop("model_warmup")
    assert config == {
        "name": "field-guide",
        "backend": "python",
        "max_batch_size": 16,
        "input": [
            {"name": "encoded", "data_type": "TYPE_STRING", "dims": [1], "optional": True},
            {"name": "images", "data_type": "TYPE_UINT8", "dims": [8, 8, 3], "optional": True},
        ],
        "output": [
            {"name": "names", "data_type": "TYPE_STRING", "dims": [-1]},
            {"name": "ids", "data_type": "TYPE_INT64", "dims": [-1]},
            {"name": "seen", "data_type": "TYPE_BOOL", "dims": [-1]},
            {"name": "probabilities", "data_type": "TYPE_FP32", "dims": [-1]},
            {"name": "distances", "data_type": "TYPE_FP32", "dims": [-1]},
            {"name": "distance", "data_type": "TYPE_FP32", "dims": [1]},
            {"name": "far", "data_type": "TYPE_BOOL", "dims": [1]},
            {"name": "error", "data_type": "TYPE_STRING", "dims": [1]},
            {"name": "generation", "data_type": "TYPE_INT64", "dims": [1]},
        ],
        "instance_group": [{"count": 3, "kind": "KIND_CPU"}],
        "dynamic_batching": {"preferred_batch_size": [8], "default_queue_policy": {"max_queue_size": 256}},
    }
    assert parameters == {
        "bundle": str(bundle),
        "backend": "auto",
        "device": "cpu",
        "precision": "fp16",
        "threads": "",
        "topk": "5",
        "max_picture_bytes": str(64 * 2**20),
    }
    assert [one["batch_size"] for one in warmups] == [1, 8, 1]
    assert [one["inputs"]["key"] for one in warmups] == ["images", "images", "encoded"]


def test_the_warm_up_picture_is_a_picture(bundle, tmp_path):
    repository, name = write_repository(str(bundle), tmp_path / "repo", Repository())
    data = (repository / name / "warmup" / "encoded").read_bytes()
    assert int.from_bytes(data[:4], "little") == len(data) - 4
    assert Image.open(io.BytesIO(data[4:])).size == (320, 240)


def test_other_head_rules_have_no_distances(own_bundle, tmp_path):
    repository, name = write_repository(str(own_bundle(rule="rows")), tmp_path / "repo", Repository())
    config = read_config((repository / name / "config.pbtxt").read_text())
    assert not {"distances", "distance", "far"} & {port["name"] for port in config["output"]}


def test_a_copy_holds_the_bundle_and_its_generations_and_nothing_else(bundle, tmp_path):
    add_classes(Bundle.open(bundle), newcomer("dodo"))
    kept(Bundle.open(bundle))
    (bundle / "notes.txt").write_text("mine")
    assert main([str(bundle), *TRITON, "--out", str(tmp_path / "repo"), "--copy-bundle"]) == 0
    copy = tmp_path / "repo" / "my_birds" / "1" / "bundle"
    own = {name for name in files(bundle) if not name.startswith("engines/")} - {"notes.txt", ".lock"}
    assert files(copy) == own
    assert all((copy / name).read_bytes() == (bundle / name).read_bytes() for name in own)
    assert Bundle.open(copy).current().number == 2


def test_a_copy_follows_no_link_out_of_the_bundle(bundle, tmp_path, capfd):
    secret = tmp_path / "secret"
    secret.write_text("secret")
    (bundle / "classes" / "000007.safetensors").symlink_to(secret)
    failing(capfd, [bundle, *TRITON, "--out", tmp_path / "repo", "--copy-bundle"], 5, "E-BUNDLE-PATH", "is a link")
    assert not (tmp_path / "repo").exists()
    assert siblings(tmp_path) == []


def failing(capfd, arguments, exit_code: int, *words: str) -> None:
    assert main([str(word) for word in arguments]) == exit_code
    printed = capfd.readouterr()
    assert printed.out == ""
    (line,) = [line for line in printed.err.splitlines() if line.startswith("error: ")]
    for word in words:
        assert word in line


@pytest.mark.parametrize(
    ("options", "exit_code", "words"),
    [
        (["--precision", "int8"], 2, ["E-PRECISION", "holds fp32, fp16 and no int8"]),
        (["--precision", "fp64"], 2, ["E-USAGE", "fp64"]),
        (["--precision", "fp32,fp16"], 2, ["E-USAGE", "Triton serves one of them"]),
        (["--max-batch", "0"], 2, ["E-TRITON-BATCH", "--max-batch 0"]),
        (["--max-batch", "4097"], 2, ["E-TRITON-BATCH"]),
        (["--instances", "0"], 2, ["E-TRITON-INSTANCES"]),
        (["--instances", "1000"], 2, ["E-TRITON-INSTANCES"]),
        (["--name", "../birds"], 2, ["E-TRITON-NAME", "part of a URL"]),
        (["--name", "bird names"], 2, ["E-TRITON-NAME"]),
        (["--name", ".birds"], 2, ["E-TRITON-NAME"]),
        (["--name", "b" * 101], 2, ["E-TRITON-NAME"]),
        (["--name", "birds_plan"], 2, ["E-TRITON-NAME", "_plan"]),
        (["--name", ""], 2, ["E-USAGE", "--name is empty"]),
        (["--variant", "onnx"], 2, ["E-USAGE", "--variant"]),
        (["--force"], 2, ["E-USAGE", "--force: not for --format triton"]),
        (["--trt", "rtx", "--opt-batch", "3"], 2, ["E-USAGE", "--opt-batch and --trt: not for --format triton"]),
        (["--device", "cpu", "--data", "x"], 2, ["E-USAGE", "--device and --data: not for --format triton"]),
        (["--variant", "tensorrt"], 5, ["E-ENGINE-MISSING", "--format engine --precision fp32 --trt tensorrt"]),
    ],
)
def test_what_can_be_wrong_with_the_options(bundle, tmp_path, capfd, options, exit_code, words):
    failing(capfd, [bundle, *TRITON, "--out", tmp_path / "repo", *options], exit_code, *words)
    assert not (tmp_path / "repo").exists()
    assert siblings(tmp_path) == []


@pytest.mark.parametrize("flag", [["--name", "b"], ["--variant", "python"], ["--instances", "2"], ["--copy-bundle"]])
@pytest.mark.parametrize("other", [["--out", "x"], ["--format", "engine"], ["--verify"], [*TRITON, "--verify"]])
def test_options_of_triton_belong_to_it(bundle, capfd, flag, other):
    failing(capfd, [bundle, *other, *flag], 2, "E-USAGE", f"{flag[0]}: only for Triton")


def test_without_out_it_is_told(bundle, capfd):
    failing(capfd, [bundle, *TRITON], 2, "E-USAGE", "Missing option '--out'")


def test_a_run_and_nothing_at_all_are_no_bundles(tmp_path, capfd):
    failing(capfd, [tmp_path / "none", *TRITON, "--out", tmp_path / "repo"], 2, "E-BUNDLE-PATH")
    (tmp_path / "run").mkdir()
    failing(capfd, [tmp_path / "run", *TRITON, "--out", tmp_path / "repo"], 5, "E-BUNDLE-NOT")
    assert not (tmp_path / "repo").exists()


def test_a_damaged_bundle_is_not_served(bundle, tmp_path, capfd):
    (bundle / "model.onnx").write_bytes(b"x")
    failing(capfd, [bundle, *TRITON, "--out", tmp_path / "repo"], 5, "E-BUNDLE-HASH")
    assert not (tmp_path / "repo").exists()


# --- where it goes ----------------------------------------------------------------------------------------------------


def test_nothing_that_is_there_is_replaced(bundle, tmp_path, capfd):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "dangling").symlink_to(tmp_path / "full")
    os.mkfifo(tmp_path / "pipe")
    for name, words in (
        ("full", "holds files"),
        ("file", "is no folder"),
        ("link", "is a link"),
        ("dangling", "is a link"),
        ("pipe", "is no folder"),
    ):
        failing(capfd, [bundle, *TRITON, "--out", tmp_path / name], 2, "E-TRITON-DEST", words)
    assert files(tmp_path / "full") == {"mine"}
    assert (tmp_path / "file").read_text() == "mine"
    assert not (tmp_path / "elsewhere").exists()
    failing(capfd, [bundle, *TRITON, "--out", tmp_path / "file" / "repo"], 2, "E-SYSTEM")


def test_an_empty_folder_takes_it(bundle, tmp_path):
    (tmp_path / "repo").mkdir()
    assert main([str(bundle), *TRITON, "--out", str(tmp_path / "repo")]) == 0
    assert (tmp_path / "repo" / "my_birds" / "config.pbtxt").is_file()


@pytest.mark.parametrize("place", range(3))
def test_a_full_disk_leaves_nothing(bundle, tmp_path, capfd, monkeypatch, place):
    real, written = to_triton.write_synced, []

    def fill(path, data):
        written.append(path)
        if len(written) > place:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        real(path, data)

    monkeypatch.setattr(to_triton, "write_synced", fill)
    failing(capfd, [bundle, *TRITON, "--out", tmp_path / "repo"], 2, "E-SYSTEM", "could not write the model repository")
    assert not (tmp_path / "repo").exists()
    assert siblings(tmp_path) == []


def test_what_a_killed_export_left_is_removed_by_the_next_one(bundle, tmp_path, monkeypatch):
    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(to_triton.shutil, "rmtree", lambda *_, **__: None)  # as SIGKILL leaves it
        patch.setattr(to_triton, "_fill", killed)
        with pytest.raises(KeyboardInterrupt):
            write_repository(str(bundle), tmp_path / "repo", Repository())
    assert len(siblings(tmp_path)) == 1
    assert not (tmp_path / "repo").exists()
    write_repository(str(bundle), tmp_path / "repo", Repository())
    assert siblings(tmp_path) == []


# --- config.pbtxt -----------------------------------------------------------------------------------------------------


@given(st.text(st.characters(exclude_categories=("Cs",))))
def test_any_text_can_be_read_back(text):
    line = f"name: {quoted(text)}"
    assert line.isascii()
    assert line.isprintable()
    assert read_config(line) == {"name": text}


def test_what_is_no_text_is_refused():
    with pytest.raises(UsageError, match="E-TRITON-PATH"):
        quoted(os.fsdecode(b"caf\xe9.bundle"))


def test_a_path_of_odd_letters_is_served_and_one_of_odd_bytes_as_a_copy(bundle, tmp_path, capfd):
    odd = bundle.rename(tmp_path / 'vögel "1"\\\n')
    repository, name = write_repository(str(odd), tmp_path / "repo", Repository())
    config = read_config((repository / name / "config.pbtxt").read_text())
    assert name == "v_gel__1___"
    assert {"key": "bundle", "value": {"string_value": str(odd)}} in config["parameters"]
    bytes_ = odd.rename(tmp_path / os.fsdecode(b"v\xf6gel"))
    failing(capfd, [bytes_, *TRITON, "--out", tmp_path / "other"], 2, "E-TRITON-PATH", "--copy-bundle")
    assert not (tmp_path / "other").exists()
    assert main([str(bytes_), *TRITON, "--out", str(tmp_path / "other"), "--copy-bundle"]) == 0


@pytest.mark.parametrize(
    ("folder", "expected"), [("birds.bundle", "birds"), (".bundle", "bundle"), ("..x", "x"), ("b_plan", "b")]
)
def test_a_model_is_called_like_its_bundle(own_bundle, folder, expected):
    assert to_triton._name_of(Bundle.open(own_bundle(folder))) == expected


# --- the plan ---------------------------------------------------------------------------------------------------------


def test_the_plan_is_a_model_beside_the_one_that_is_asked(bundle, tmp_path):
    path = kept(Bundle.open(bundle), profiles=(Profile(1, 1, 8), Profile(1, 32, 48)))
    repository, name = write_repository(str(bundle), tmp_path / "repo", Repository(name="b", variant="tensorrt"))
    assert name == "b"
    assert (repository / "b_plan" / "1" / "model.plan").read_bytes() == PLAN == path.read_bytes()
    config = read_config((repository / "b_plan" / "config.pbtxt").read_text())
    warmups = [one["inputs"] for one in config.pop("model_warmup")]
    assert [[one["value"]["dims"] for one in inputs] for inputs in warmups] == [
        [[batch, 8, 8, 3], [8, 10], [8], [8]] for batch in (1, 32)
    ]
    assert config == {
        "name": "b_plan",
        "platform": "tensorrt_plan",
        "default_model_filename": "model.plan",
        "max_batch_size": 0,
        "input": [
            {"name": "images", "data_type": "TYPE_UINT8", "dims": [-1, 8, 8, 3]},
            {"name": "head_weight", "data_type": "TYPE_FP32", "dims": [-1, 10]},
            {"name": "head_bias", "data_type": "TYPE_FP32", "dims": [-1]},
            {"name": "class_bias", "data_type": "TYPE_FP32", "dims": [-1]},
        ],
        "output": [
            {"name": "scores", "data_type": "TYPE_FP32", "dims": [-1, -1]},
            {"name": "features", "data_type": "TYPE_FP32", "dims": [-1, 12]},
        ],
        "instance_group": [{"count": 1, "kind": "KIND_GPU", "profile": ["0", "1"]}],
    }
    asked = read_config((repository / "b" / "config.pbtxt").read_text())
    assert asked["max_batch_size"] == 48
    assert "model_warmup" not in asked  # it could not call the plan while the server starts
    assert {"key": "plan", "value": {"string_value": "b_plan"}} in asked["parameters"]


def test_a_plan_of_somebody_else_is_not_served(bundle, tmp_path, capfd, monkeypatch):
    kept(Bundle.open(bundle))
    monkeypatch.setenv("ZSL_CACHE", str(tmp_path / "another user"))
    failing(capfd, [bundle, *TRITON, "--out", tmp_path / "repo", "--variant", "tensorrt"], 5, "E-ENGINE-TRUST")


def test_a_changed_plan_is_not_served(bundle, tmp_path, capfd):
    path = kept(Bundle.open(bundle))
    path.write_bytes(PLAN[:-1] + b"x")
    failing(capfd, [bundle, *TRITON, "--out", tmp_path / "repo", "--variant", "tensorrt"], 5, "E-ENGINE-HASH")
    assert not (tmp_path / "repo").exists()
    assert siblings(tmp_path) == []


def test_a_batch_that_the_plan_does_not_take_is_refused(bundle, tmp_path, capfd):
    kept(Bundle.open(bundle))
    words = ["--variant", "tensorrt", "--max-batch", "65"]
    failing(capfd, [bundle, *TRITON, "--out", tmp_path / "repo", *words], 2, "E-TRITON-BATCH", "64 pictures at most")


@pytest.mark.parametrize("name", ["model.onnx", "means.onnx"])
@pytest.mark.parametrize("more", [[], ["--copy-bundle"], ["--variant", "tensorrt"]])
def test_graphs_that_are_refused_are_not_served(bundle, tmp_path, capfd, name, more):
    """Listed with their right hash, as by a hostile maker; a server would load them at its start."""
    endless = with_work(node("ConstantOfShape", "size", "b"), size=[30_000] * 2).SerializeToString()
    change_file(bundle, name, endless)
    if "tensorrt" in more:
        kept(Bundle.open(bundle))
    if name == "model.onnx" and "tensorrt" in more:  # there the plan is loaded in its place
        assert main([str(bundle), *TRITON, "--out", str(tmp_path / "repo"), *more]) == 0
        return
    failing(capfd, [bundle, *TRITON, "--out", tmp_path / "repo", *more], 5, "E-BUNDLE-GRAPH", name)
    assert not (tmp_path / "repo").exists()
    assert siblings(tmp_path) == []


def test_nothing_is_for_everybody_to_write(bundle, tmp_path):
    """As umask has it: what a server runs is nobody else's to change."""
    before = os.umask(0o022)
    try:
        repository, _ = write_repository(str(bundle), tmp_path / "repo", Repository(copy=True))
    finally:
        os.umask(before)
    assert not any(stat.S_IMODE(path.stat().st_mode) & 0o022 for path in repository.rglob("*"))
