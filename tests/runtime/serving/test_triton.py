"""model.py of a repository, with a stand-in for Triton: what goes in, what comes out, and all that can be wrong."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import numpy as np
import pytest

from support.fake_triton import (
    ALL,
    KINDS,
    Request,
    Tensor,
    TritonModelException,
    as_json,
    encoded,
    fake_utils,
    load_model,
    read_config,
    told,
)
from support.served import FILES, PICTURES, check, newcomer
from support.signing import sign_by_hand, write_keys
from zsl_export.to_triton import Repository, write_repository
from zsl_runtime import Classifier, add_classes
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.errors import UsageError
from zsl_runtime.head.head import log_softmax
from zsl_runtime.serving.triton import Settings


@pytest.fixture
def bundle(own_bundle):
    return Bundle.open(own_bundle("birds.bundle", rule="gaussian"))


def serve(bundle, tmp_path, plan=None, edit=lambda text: text, **wanted):
    """The model, and what Triton would know of it."""
    repository, name = write_repository(str(bundle.path), tmp_path / "repo", Repository(**wanted))
    config = repository / name / "config.pbtxt"
    config.write_text(edit(config.read_text()))
    utils = fake_utils(plan)
    return load_model(repository, name, utils), utils, read_config(config.read_text())


def as_answer(arrays):
    """As the batcher gives it, so that the same check against NumPy is used."""
    from zsl_runtime.serving.batcher import Told

    texts = np.vectorize(bytes.decode, otypes=[object])
    assert len(set(arrays["generation"][:, 0].tolist())) <= 1
    return Told(
        texts(arrays["names"]),
        arrays["ids"],
        arrays["seen"],
        arrays["probabilities"],
        arrays["distances"],
        tuple(texts(arrays["error"])[:, 0]),
        int(arrays["generation"][0, 0]),
        arrays["distance"][:, 0],
        arrays["far"][:, 0],
    )


def test_both_inputs_give_what_numpy_says_in_the_types_of_the_config(bundle, tmp_path):
    model, utils, config = serve(bundle, tmp_path)
    with_files, with_squares = model.execute(
        [Request(encoded(*FILES)), Request({"images": PICTURES[:3]}, {"topk": 2, "classes": "unseen"})]
    )
    check(bundle, as_answer(told(with_files)), PICTURES, 5)
    check(bundle, as_answer(told(with_squares)), PICTURES[:3], 2, "unseen")
    for response, count, k in ((with_files, 8, 5), (with_squares, 3, 2)):
        arrays = told(response)
        assert list(arrays) == [port["name"] for port in config["output"]] == list(ALL)
        for port in config["output"]:
            array = arrays[port["name"]]
            assert array.dtype == KINDS[port["data_type"]], port
            assert array.shape == (count, *(k if size == -1 else size for size in port["dims"])), port
    (line,) = utils.said
    assert re.fullmatch(
        rf"zsl-deploy: {re.escape(str(bundle.path))}: generation 1, 8 classes, by onnxruntime \S+ on cpu in fp32, "
        r"threads \d+",
        line,
    )
    model.finalize()


def test_only_what_was_asked_for_is_sent(bundle, tmp_path):
    model, _, _ = serve(bundle, tmp_path)
    (response,) = model.execute([Request(encoded(FILES[0]), wanted=["names", "error"])])
    assert list(told(response)) == ["names", "error"]


def test_bad_pictures_are_told_one_by_one(bundle, tmp_path):
    model, _, _ = serve(bundle, tmp_path, edit=lambda text: text.replace('"67108864"', '"9999"'))
    mixed, bad = model.execute([Request(encoded(b"", FILES[1])), Request(encoded(b"\xff" * 10_000))])
    arrays = told(mixed)
    assert arrays["error"][0, 0].startswith(b"E-IMAGE-EMPTY: ")
    assert arrays["error"][1, 0] == b""
    assert arrays["names"][0].tolist() == [b""] * 5
    assert told(bad)["error"][0, 0].startswith(b"E-IMAGE-HUGE: ")
    json.dumps({name: array.tolist() for name, array in told(bad).items() if name == "probabilities"}, allow_nan=False)


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (Request({}), ["E-TRITON-REQUEST", "no input; give encoded or images"]),
        (Request({**encoded(FILES[0]), "images": PICTURES[:1]}), ["E-TRITON-REQUEST", "both inputs"]),
        (
            Request({"images": PICTURES[:1, :7]}),
            ["E-TRITON-REQUEST", "uint8 (1, 7, 8, 3); expected uint8 (N, 8, 8, 3)"],
        ),
        (Request({"images": PICTURES[:1].astype(np.float32)}), ["E-TRITON-REQUEST", "float32"]),
        (Request(encoded(FILES[0]), {"topk": 0}), ["E-TOPK", "topk is 0"]),
        (Request(encoded(FILES[0]), {"topk": "3"}), ["E-TOPK"]),
        (Request(encoded(FILES[0]), {"classes": "rare"}), ["E-FILTER", "'rare'"]),
        (Request(encoded(FILES[0]), {"top_k": 3}), ["E-TRITON-REQUEST", "unknown parameters: 'top_k'", "mean topk"]),
    ],
)
def test_a_wrong_request_is_told_so_alone(bundle, tmp_path, request_, words):
    model, _, _ = serve(bundle, tmp_path)
    fine, wrong, also = model.execute([Request(encoded(*FILES)), request_, Request(encoded(*FILES))])
    for word in words:
        assert word in wrong.error().message()
    assert wrong.output_tensors() == []
    for one in (fine, also):
        check(bundle, as_answer(told(one)), PICTURES, 5)


@pytest.mark.parametrize(
    ("error", "words"), [(KeyError("x"), "E-BUG: "), (MemoryError(), "E-SYSTEM: the server's mem")]
)
def test_a_bug_is_one_line_for_the_client_and_all_of_it_in_the_log(bundle, tmp_path, monkeypatch, error, words):
    model, utils, _ = serve(bundle, tmp_path)

    def broken(*_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(model.batcher, "answer", broken)
        responses = model.execute([Request(encoded(*FILES)), Request({}), Request(encoded(*FILES))])
    said = [one.error().message() for one in responses]
    assert said[0].startswith(words)
    assert said[1].startswith("E-TRITON-REQUEST: ")
    assert said[2] == said[0]
    assert "\n" not in responses[0].error().message()
    assert "Traceback" in utils.said[-1]
    (response,) = model.execute([Request(encoded(*FILES))])
    check(bundle, as_answer(told(response)), PICTURES, 5)


def test_parameters_of_triton_s_own_are_none_of_ours(bundle, tmp_path):
    model, _, _ = serve(bundle, tmp_path)
    (response,) = model.execute([Request(encoded(FILES[0]), {"triton_enable_empty_final_response": True})])
    assert told(response)["error"][0, 0] == b""


def test_classes_that_are_added_are_in_the_next_answer(bundle, tmp_path):
    model, utils, _ = serve(bundle, tmp_path)
    model.execute([Request(encoded(*FILES))])
    add_classes(bundle, newcomer("dodo"))
    (response,) = model.execute([Request(encoded(*FILES), {"topk": 9})])
    check(bundle, as_answer(told(response)), PICTURES, 9)
    assert utils.said[1:] == ["zsl-deploy: generation 2: 9 classes"]


def test_a_copy_is_a_bundle_of_its_own(bundle, tmp_path):
    model, _, config = serve(bundle, tmp_path, copy=True)
    assert {"key": "bundle", "value": {"string_value": "bundle"}} in config["parameters"]
    copy = Bundle.open(tmp_path / "repo" / "birds" / "1" / "bundle")
    add_classes(bundle, newcomer("dodo"))
    assert told(model.execute([Request(encoded(*FILES))])[0])["generation"][0, 0] == 1
    add_classes(copy, newcomer("dodo"))
    assert told(model.execute([Request(encoded(*FILES))])[0])["generation"][0, 0] == 2


def test_a_model_of_feature_rows_takes_them(own_bundle, tmp_path):
    path = own_bundle("rows", kind="backbone_features", rule="rows")
    with Classifier.open(path) as classifier:
        shape = classifier.input_port.shape
        rows = np.random.default_rng(0).random((3, *shape), dtype=np.float32)
        expected = classifier.predict(list(rows), topk=2)
    model, _, config = serve(Bundle.open(path), tmp_path)
    assert [port["name"] for port in config["input"]] == ["backbone_features"]
    assert "optional" not in config["input"][0]
    rows[1, 0, 0] = np.nan
    response, wrong = model.execute([Request({"backbone_features": rows}, {"topk": 2}), Request({})])
    arrays = told(response)
    assert arrays["names"][[0, 2]].tolist() == [[name.encode() for name in expected[i].names] for i in (0, 2)]
    assert arrays["error"][1, 0].startswith(b"E-ROW-VALUE: ")
    assert not {"distances", "distance", "far"} & set(arrays)
    assert "give backbone_features" in wrong.error().message()


# --- what stops a model from being loaded -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"bundle" value { string_value: "', '"bundle" value { string_value: "/nowhere', "E-BUNDLE-PATH: there is no "),
        ('key: "bundle"', 'key: "bundel"', "E-TRITON-CONFIG: config.pbtxt has unknown parameters: 'bundel' (did you"),
        (
            'parameters { key: "bundle"',
            'parameters { key: "EXECUTION_ENV_PATH"',
            "E-TRITON-CONFIG: config.pbtxt has no",
        ),
        ('"fp32"', '"fp64"', "E-PRECISION-NAME: "),
        ('"fp32"', '"int8"', "E-PRECISION: "),
        ('"auto"', '"tensorflow"', "E-BACKEND-NAME: "),
        ('"cpu"', '"tpu"', "E-DEVICE-NAME: "),
        ('"topk" value { string_value: "5"', '"topk" value { string_value: "0"', "E-TRITON-CONFIG: config.pbtxt: topk"),
        ('"topk" value { string_value: "5"', '"topk" value { string_value: "-5"', "E-TRITON-CONFIG"),
        ('"threads" value { string_value: ""', '"threads" value { string_value: "all"', "E-TRITON-CONFIG"),
        ("dims: [ 8, 8, 3 ]", "dims: [ 9, 9, 3 ]", "E-TRITON-INPUT: config.pbtxt has the inputs"),
    ],
)
def test_what_stands_against_a_model_is_one_line(bundle, tmp_path, old, new, words):
    def edit(text: str) -> str:
        assert old in text
        return text.replace(old, new)

    with pytest.raises(TritonModelException) as caught:
        serve(bundle, tmp_path, edit=edit)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_bundle_is_not_loaded(bundle, tmp_path):
    repository, name = write_repository(str(bundle.path), tmp_path / "repo", Repository())
    graph = bundle.file("model.onnx")
    graph.write_bytes(graph.read_bytes()[:-1] + b"x")
    with pytest.raises(TritonModelException, match=r"^E-BUNDLE-HASH: "):
        load_model(repository, name, fake_utils())


def test_a_signature_is_demanded_where_the_config_says_so(bundle, tmp_path, monkeypatch):
    monkeypatch.setenv("ZSL_CACHE", str(tmp_path / "cache"))
    maker, stranger = (write_keys(tmp_path / "keys", name) for name in ("maker", "stranger"))
    sign_by_hand(bundle.path, maker.key)
    for place, public in enumerate((maker.public, stranger.public, tmp_path / "none")):
        line = f'parameters {{ key: "require_signature" value {{ string_value: "{public}" }} }}\n'
        opening = (tmp_path / str(place), None, lambda text, line=line: text + line)
        if public == maker.public:
            model, _, _ = serve(bundle, *opening)
            check(bundle, as_answer(told(model.execute([Request(encoded(*FILES))])[0])), PICTURES, 5)
        else:
            with pytest.raises(TritonModelException, match=r"^E-(SIGNATURE|SYSTEM): "):
                serve(bundle, *opening)


def test_without_this_package_the_log_says_what_to_install(bundle, tmp_path):
    repository, name = write_repository(str(bundle.path), tmp_path / "repo", Repository())
    code = (
        "import sys, types; utils = types.ModuleType('triton_python_backend_utils');"
        "sys.modules['triton_python_backend_utils'] = utils; sys.modules['zsl_runtime'] = None;"
        f"exec(open({str(repository / name / '1' / 'model.py')!r}).read())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    last = done.stderr.splitlines()[-1]
    assert "ImportError: E-BACKEND-MISSING: the Python of Triton's Python backend cannot import" in last
    assert "pip install 'zsl-deploy[cpu]'" in last


def test_a_backend_built_for_numpy_1_is_told_of(bundle, tmp_path, monkeypatch):
    """As such a backend hands arrays over: every number is the first one."""
    model, utils, _ = serve(bundle, tmp_path)
    stuck = np.lib.stride_tricks.as_strided(np.zeros(1, np.uint8), (1, 8, 8, 3), (0, 0, 0, 0))
    monkeypatch.setattr(Tensor, "__init__", lambda self, name, array: setattr(self, "_array", array))
    monkeypatch.setattr(utils, "InferenceResponse", lambda output_tensors, error: error)
    (error,) = model.execute([Request({"images": stuck})])
    assert error.message().startswith("E-TRITON-NUMPY: ")
    assert utils.said[-1].startswith("zsl-deploy: E-TRITON-NUMPY: ")


def test_threads_are_divided_among_the_instances(bundle, tmp_path, monkeypatch):
    monkeypatch.setattr("zsl_runtime.serving.triton.usable_cpus", lambda: 2)
    for instances, threads, expected in ((1, "", 2), (2, "", 1), (3, "", 1), (2, "2", 2)):
        given = f'"threads" value {{ string_value: "{threads}"'
        model, _, _ = serve(
            bundle,
            tmp_path / f"{instances}-{threads}",
            edit=lambda text, given=given: text.replace('"threads" value { string_value: ""', given),
            instances=instances,
        )
        assert model.classifier.threads == expected


def test_settings_are_read_once_and_whole():
    given = {"bundle": "b", "topk": "7", "max_picture_bytes": "9", "threads": "2", "backend": "ort", "device": "cuda:0"}
    read = Settings.read({name: {"string_value": value} for name, value in given.items()})
    assert read == Settings("b", "ort", "cuda:0", None, 2, 7, 9, "")
    with pytest.raises(UsageError, match="E-TRITON-CONFIG"):
        Settings.read({"bundle": {"string_value": "b"}, "topk": {"string_value": "9" * 5000}})


# --- the plan ---------------------------------------------------------------------------------------------------------


def plan_model(bundle):
    """The graph in NumPy: features by the definition, the head as it comes with the batch."""
    from support.tiny_bundle import canonical_of, features_of

    def run(given):
        assert set(given) == {"images", "head_weight", "head_bias", "class_bias"}
        assert all(array.dtype == np.float32 for name, array in given.items() if name != "images")
        features = features_of(given["images"]).astype(np.float32)
        logits = canonical_of(features) @ given["head_weight"].T + given["head_bias"] + given["class_bias"]
        return {"scores": log_softmax(logits.astype(np.float32)), "features": features}

    return run


def serve_plan(bundle, tmp_path, plan):
    """The Python step of the variant tensorrt, whose plan cannot be loaded here."""

    def edit(text: str) -> str:
        return text + 'parameters { key: "plan" value { string_value: "birds_plan" } }\n'

    return serve(bundle, tmp_path, plan=plan, edit=edit)


def test_the_head_goes_along_with_every_batch(bundle, tmp_path):
    model, utils, _ = serve_plan(bundle, tmp_path, plan_model(bundle))
    assert "by Triton's model birds_plan on cuda in fp32" in utils.said[0]
    (response,) = model.execute([Request(encoded(*FILES))])
    check(bundle, as_answer(told(response)), PICTURES, 5)
    add_classes(bundle, newcomer("dodo"))
    (response,) = model.execute([Request({"images": PICTURES}, {"topk": 9, "classes": "unseen"})])
    check(bundle, as_answer(told(response)), PICTURES, 4, "unseen")
    assert set(utils.calls) == {"birds_plan"}


def test_a_plan_that_fails_is_an_error_of_the_request(bundle, tmp_path):
    good, broken = plan_model(bundle), []

    def run(given):
        if broken:
            raise ValueError("out of memory")
        return good(given)

    model, _, _ = serve_plan(bundle, tmp_path, run)
    broken.append(True)
    (response,) = model.execute([Request(encoded(FILES[0]))])
    assert response.error().message() == "E-BACKEND-RUN: Triton's model birds_plan could not run a batch: out of memory"


def test_a_plan_of_another_model_is_an_error_of_the_request(bundle, tmp_path):
    def other(given):
        return {"scores": np.zeros((1, 3), np.float32), "features": np.zeros((1, 12), np.float32)}

    model, _, _ = serve_plan(bundle, tmp_path, other)
    (response,) = model.execute([Request(encoded(FILES[0]))])
    assert (
        response.error().message().startswith("E-BACKEND-RUN: Triton's model birds_plan could not run a batch: it an")
    )
    assert "scores (1, 3)" in response.error().message()


def test_the_json_of_the_config_is_as_triton_has_it(bundle, tmp_path):
    _, _, config = serve(bundle, tmp_path)
    said = json.loads(as_json(config))
    assert said["parameters"]["precision"] == {"string_value": "fp32"}
    assert said["input"][1]["dims"] == ["8", "8", "3"]
