"""The real Triton server with a model repository of ours: answers, bad requests, classes that come and go, doors.

Slow. It needs what `tools/triton_server.py prepare DIR` makes, its place in the variable ZSL_TRITON, and tritonclient.
"""

from __future__ import annotations

import csv
import http.client
import io
import json
import os
import random
import struct
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from support.engines import kept
from support.fake_triton import read_config
from support.lone import program
from support.scripts import load_tool
from support.served import FILES, PICTURES, by_numpy, newcomer
from zsl_export.to_triton import Repository, write_repository
from zsl_runtime import add_classes
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.classes.changes import undo

SERVER = os.environ.get("ZSL_TRITON", "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SERVER, reason="ZSL_TRITON is not set: no Triton server (tools/triton_server.py prepare)"),
]
http_client = pytest.importorskip("tritonclient.http", reason="tritonclient is not installed")
grpc_client = pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed")
triton_server = load_tool("triton_server")


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A server of the tiny bundle, two instances, and the bundle."""
    from support.tiny_bundle import make_tiny_bundle

    folder = tmp_path_factory.mktemp("triton")
    bundle = Bundle.open(make_tiny_bundle(folder / "tiny.bundle", rule="gaussian"))
    repository, _ = write_repository(str(bundle.path), folder / "repo", Repository(name="birds", instances=2))
    with triton_server.started(Path(SERVER), repository, folder / "log") as server:
        yield server, bundle
        assert server.process.poll() is None, server.log_text()[-4000:]


KINDS = {"http": http_client, "grpc": grpc_client}


def client(server, kind="http"):
    return KINDS[kind].InferenceServerClient(getattr(server, kind))


def tensor(name, array, kind="http"):
    dtype = {"encoded": "BYTES", "images": "UINT8"}[name]
    made = KINDS[kind].InferInput(name, list(array.shape), dtype)
    made.set_data_from_numpy(array)
    return made


def column(pictures):
    made = np.empty((len(pictures), 1), np.object_)
    made[:, 0] = pictures
    return made


def ask(server, name, array, kind="http", **more):
    return client(server, kind).infer("birds", [tensor(name, array, kind)], **more)


def check(bundle, answer, pictures, topk=5, classes="all"):
    """An answer against NumPy, by the generation in force."""
    chances, far = by_numpy(bundle, pictures, classes)
    table = bundle.current().table
    order = np.argsort(-chances, axis=1, kind="stable")[:, :topk]
    np.testing.assert_array_equal(answer.as_numpy("ids"), order)
    assert [[one.decode() for one in row] for row in answer.as_numpy("names")] == [
        [table.names[j] for j in row] for row in order
    ]
    np.testing.assert_array_equal(answer.as_numpy("seen"), table.seen[order])
    chance = np.take_along_axis(chances, order, axis=1)
    np.testing.assert_allclose(answer.as_numpy("probabilities"), chance, atol=1e-5)
    np.testing.assert_allclose(answer.as_numpy("distances"), np.take_along_axis(far, order, 1), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(answer.as_numpy("distance")[:, 0], far.min(axis=1), rtol=1e-4, atol=1e-4)
    assert (answer.as_numpy("far")[:, 0] == (far.min(axis=1) > bundle.gaussian().held[99])).all()
    assert answer.as_numpy("error").tolist() == [[b""]] * len(pictures)
    assert answer.as_numpy("generation").tolist() == [[bundle.current().number]] * len(pictures)


@pytest.mark.parametrize("kind", KINDS)
def test_both_inputs_and_protocols_give_what_numpy_says(served, kind):
    server, bundle = served
    check(bundle, ask(server, "encoded", column(FILES), kind), PICTURES)
    check(bundle, ask(server, "images", PICTURES, kind), PICTURES)
    more = {"parameters": {"topk": 2, "classes": "unseen"}}
    check(bundle, ask(server, "encoded", column(FILES), kind, **more), PICTURES, 2, "unseen")


def test_json_without_binary_data_is_answered(served):
    """As curl sends it; numbers are such as JSON has, for a bad picture too."""
    server, _ = served
    for pictures in (PICTURES[:2], PICTURES[:1]):
        body = {"inputs": [{"name": "images", "shape": list(pictures.shape), "datatype": "UINT8", "data": None}]}
        body["inputs"][0]["data"] = pictures.reshape(-1).tolist()
        status, said = post(server, json.dumps(body).encode())
        assert status == 200
        assert {one["name"] for one in json.loads(said)["outputs"]} >= {"names", "probabilities", "error"}
    text = {"inputs": [{"name": "encoded", "shape": [1, 1], "datatype": "BYTES", "data": ["no picture"]}]}
    status, said = post(server, json.dumps(text).encode())
    assert status == 200
    told = {one["name"]: one["data"] for one in json.loads(said)["outputs"]}
    assert told["error"][0].startswith("E-IMAGE-FORMAT: ")


def post(server, body, path="/v2/models/birds/infer", method="POST", **headers):
    host, port = server.http.split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=60)
    try:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def test_answers_are_those_of_zsl_infer(served, tmp_path):
    server, bundle = served
    for place, data in enumerate(FILES):
        (tmp_path / f"{place}.png").write_bytes(data)
    words = [*program("zsl-infer"), str(tmp_path), "--engine", str(bundle.path), "--topk", "3"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    answer = ask(server, "encoded", column(FILES), parameters={"topk": 3})
    for place in range(len(FILES)):
        own = sorted((int(row["rank"]), row) for row in rows if row["path"].endswith(f"{place}.png"))
        assert [row["class"] for _, row in own] == [one.decode() for one in answer.as_numpy("names")[place]]
        assert [row["split"] == "seen" for _, row in own] == answer.as_numpy("seen")[place].tolist()
        told = [float(row["probability"]) for _, row in own]
        np.testing.assert_allclose(told, answer.as_numpy("probabilities")[place], atol=1e-6)


def test_bad_pictures_are_told_one_by_one(served):
    server, bundle = served
    bad = [b"", b"no picture", FILES[0][:-30]]
    answer = ask(server, "encoded", column([bad[0], FILES[0], *bad[1:], FILES[1]]))
    codes = [one[0].decode().partition(":")[0] for one in answer.as_numpy("error")]
    assert codes == ["E-IMAGE-EMPTY", "", "E-IMAGE-FORMAT", "E-IMAGE-DECODE", ""]
    order = np.argsort(-by_numpy(bundle, PICTURES[:2])[0], axis=1)[:, :5]
    np.testing.assert_array_equal(answer.as_numpy("ids")[[1, 4]], order)
    assert answer.as_numpy("ids")[[0, 2, 3]].tolist() == [[-1] * 5] * 3
    alone = ask(server, "encoded", column([b"x"]))
    assert alone.as_numpy("error")[0, 0].startswith(b"E-IMAGE-FORMAT: ")


def test_a_huge_picture_does_not_take_the_memory(served):
    server, _ = served
    file = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(file, "PNG")
    before = server.memory()
    answer = ask(server, "encoded", column([file.getvalue()] * 8))
    assert {one[0].decode().partition(":")[0] for one in answer.as_numpy("error")} == {"E-IMAGE-HUGE"}
    assert server.memory() - before < 200e6


def test_many_clients_at_once_each_get_their_own(served):
    server, bundle = served
    chances, _ = by_numpy(bundle, PICTURES)
    best = np.argsort(-chances, axis=1)[:, :3]

    def work(place):
        chance, kind = random.Random(place), ("http", "grpc")[place % 2]
        own = client(server, kind)
        for _ in range(40):
            picked = [chance.randrange(len(FILES)) for _ in range(chance.randint(1, 9))]
            name = chance.choice(("encoded", "images"))
            array = PICTURES[picked] if name == "images" else column([FILES[i] for i in picked])
            answer = own.infer("birds", [tensor(name, array, kind)], parameters={"topk": 3})
            np.testing.assert_array_equal(answer.as_numpy("ids"), best[picked])
        return True

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(work, range(6)))


def test_classes_come_and_go_while_requests_stream(served):
    """None fails, none is wrong by the generation it says it is of, none is older than what was in force."""
    server, bundle = served
    known, over, counts, latest = {}, threading.Event(), [0], [bundle.current().number]

    def note():
        generation = bundle.current()
        chances, _ = by_numpy(bundle, PICTURES)
        known[generation.number] = np.argsort(-chances, axis=1, kind="stable"), chances, generation.table.names
        latest[0] = generation.number

    note()

    def stream(place):
        kind = ("http", "grpc")[place % 2]
        own, seen = client(server, kind), set()
        while not over.is_set():
            least = latest[0]
            answer = own.infer("birds", [tensor("encoded", column(FILES), kind)], parameters={"topk": 4})
            numbers = set(answer.as_numpy("generation")[:, 0].tolist())
            assert len(numbers) == 1
            (number,) = numbers
            assert number >= least
            end = time.monotonic() + 20
            while number not in known and time.monotonic() < end:
                time.sleep(0.01)
            order, chances, names = known[number]
            np.testing.assert_array_equal(answer.as_numpy("ids"), order[:, :4])
            assert answer.as_numpy("names")[0, 0].decode() == names[order[0, 0]]
            np.testing.assert_allclose(
                answer.as_numpy("probabilities"), np.take_along_axis(chances, order[:, :4], 1), atol=1e-5
            )
            seen.add(number)
            counts[0] += 1
        return seen

    with ThreadPoolExecutor(4) as pool:
        streams = [pool.submit(stream, place) for place in range(4)]
        try:
            for turn in range(30):
                add_classes(bundle, newcomer(f"dodo {turn}")) if turn % 2 == 0 else undo(bundle)
                note()
                time.sleep(0.05)
        finally:
            over.set()
        seen = set().union(*(one.result() for one in streams))
    assert counts[0] > 30
    assert len(seen) > 10


def test_more_requests_than_may_wait_are_refused_at_once_and_the_others_answered(served):
    server, bundle = served
    own, done, answers = client(server, "grpc"), threading.Semaphore(0), []

    def note(result, error):
        answers.append((result, error))
        done.release()

    given = [tensor("encoded", column(FILES), "grpc")]
    for _ in range(1200):
        own.async_infer("birds", given, note)
    for _ in range(1200):
        assert done.acquire(timeout=120)
    refusals = [str(error) for _, error in answers if error is not None]
    assert refusals
    assert all("UNAVAILABLE" in one and "Exceeds maximum queue size" in one for one in refusals)
    order = np.argsort(-by_numpy(bundle, PICTURES)[0], axis=1)[:, :5]
    answered = [result for result, error in answers if error is None]
    assert len(answered) >= 256
    for result in answered:
        np.testing.assert_array_equal(result.as_numpy("ids"), order)


# --- requests that are wrong ------------------------------------------------------------------------------------------


def refused(call) -> str:
    with pytest.raises(Exception) as caught:  # of each client's own kind
        call()
    assert type(caught.value).__name__ == "InferenceServerException"
    return str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_requests_are_refused_in_one_line_and_the_server_goes_on(served, kind):
    server, bundle = served
    module = KINDS[kind]
    both = [tensor("encoded", column(FILES[:1]), kind), tensor("images", PICTURES[:1], kind)]
    assert "E-TRITON-REQUEST: the request has both inputs" in refused(lambda: client(server, kind).infer("birds", both))
    assert "unexpected shape" in refused(lambda: ask(server, "images", PICTURES[:, :7].copy(), kind))
    assert "batch" in refused(lambda: ask(server, "images", np.zeros((65, 8, 8, 3), np.uint8), kind))
    for parameters, word in (({"topk": 0}, "E-TOPK"), ({"classes": "x"}, "E-FILTER"), ({"top": 1}, "E-TRITON-REQUEST")):
        assert word in refused(lambda p=parameters: ask(server, "encoded", column(FILES[:1]), kind, parameters=p))
    floats = module.InferInput("images", [1, 8, 8, 3], "FP32")
    floats.set_data_from_numpy(np.zeros((1, 8, 8, 3), np.float32))
    assert "data-type" in refused(lambda: client(server, kind).infer("birds", [floats]))
    assert "unknown model" in refused(lambda: client(server, kind).infer("bird", [both[0]])).lower()
    check(bundle, ask(server, "encoded", column(FILES), kind), PICTURES)


def test_an_empty_request_is_refused(served):
    server, bundle = served
    status, said = post(server, json.dumps({"inputs": []}).encode())
    assert status == 400
    empty = {"inputs": [{"name": "images", "shape": [0, 8, 8, 3], "datatype": "UINT8", "data": []}]}
    status, _ = post(server, json.dumps(empty).encode())
    assert status in {200, 400}, said
    check(bundle, ask(server, "encoded", column(FILES)), PICTURES)


def garbage(chance: random.Random) -> tuple[bytes, dict[str, str]]:
    """A body near to or far from a request, and headers for it.

    Without the one thing that ends Triton 2.51 itself, before a model sees anything: a shape of terabytes whose data is
    in JSON (std::bad_alloc). docs/how-to/triton.md says so.
    """
    shape = [chance.choice((-1, 0, 1, 2, 8, 1000)) for _ in range(chance.randint(0, 5))]
    one = {
        "name": chance.choice(("images", "encoded", "", "x" * 1000, "\u202e")),
        "shape": shape,
        "datatype": chance.choice(("UINT8", "BYTES", "FP32", "INT64", "", "UINT9")),
        "data": chance.choice(([], [0] * 192, [300], ["x"], [[[]]], None, "x", [1e400], [-1])),
    }
    if chance.random() < 0.3:
        del one[chance.choice(tuple(one))]
    body = {
        "inputs": [one] * chance.randint(0, 3),
        "parameters": chance.choice(({}, {"topk": -1}, {"topk": 2**70}, [])),
    }
    headers: dict[str, str] = {}
    match chance.randrange(5):
        case 0:
            return chance.randbytes(chance.randint(0, 3000)), headers
        case 1:
            text = json.dumps(body).encode()
            return text[: chance.randint(0, len(text))], headers
        case 2:  # binary data whose lengths lie
            one |= {"name": "encoded", "shape": [1, 1], "datatype": "BYTES"}
            length = chance.choice((0, 3, 4, 100, 2**31, 2**32 - 1))
            data = struct.pack("<I", length) + chance.randbytes(chance.randint(0, 50))
            one.pop("data", None)
            one["parameters"] = {"binary_data_size": chance.choice((len(data), len(data) + 9, 0, 2**40, -1))}
            text = json.dumps({"inputs": [one]}).encode()
            headers["Inference-Header-Content-Length"] = str(chance.choice((len(text), 0, len(text) - 3, 10**9)))
            return text + data, headers
        case 3:
            return b"[" * 2000 + b"]" * 2000, headers
        case _:
            return json.dumps(body).encode(), headers


def test_garbage_does_not_stop_the_server(served):
    server, bundle = served
    chance, statuses = random.Random(15), {}
    for turn in range(1500):
        body, headers = garbage(chance)
        path = chance.choice(
            ("/v2/models/birds/infer",) * 6 + ("/v2/models/birds/versions/1/infer", "/v2/models//infer", "/v2/%00")
        )
        try:
            status, said = post(server, body, path, **headers)
            assert b"Stub process" not in said, (turn, body[:300])
        except (OSError, http.client.HTTPException):
            status = 0  # it may hang up on what is no HTTP
        statuses[status] = statuses.get(status, 0) + 1
        assert server.process.poll() is None, (turn, body[:300], server.log_text()[-2000:])
        if turn % 100 == 0:
            check(bundle, ask(server, "encoded", column(FILES)), PICTURES)
    check(bundle, ask(server, "encoded", column(FILES)), PICTURES)
    check(bundle, ask(server, "images", PICTURES, "grpc"), PICTURES)
    assert statuses.keys() <= {200, 400, 404, 500}, statuses  # 500 is what it says of JSON that is none
    assert statuses[400] > 100, statuses


def test_a_giant_picture_is_refused_by_itself(served):
    server, bundle = served
    answer = ask(server, "encoded", column([bytes(65 * 2**20), FILES[0]]))
    assert answer.as_numpy("error")[0, 0].startswith(b"E-IMAGE-HUGE: ")
    assert answer.as_numpy("error")[1, 0] == b""
    check(bundle, ask(server, "encoded", column(FILES)), PICTURES)


def test_strangers_pictures_do_not_stop_the_server(served):
    server, bundle = served
    chance = random.Random(16)
    for _ in range(100):
        pictures = []
        for _ in range(8):
            data = bytearray(chance.choice(FILES))
            for _ in range(chance.randint(1, 20)):
                data[chance.randrange(len(data))] = chance.randrange(256)
            pictures.append(bytes(data[: chance.choice((len(data), chance.randrange(len(data))))]))
        answer = ask(server, "encoded", column(pictures))
        for error, ids in zip(answer.as_numpy("error")[:, 0], answer.as_numpy("ids"), strict=True):
            assert error.startswith(b"E-IMAGE-") or ids[0] >= 0
    check(bundle, ask(server, "encoded", column(FILES)), PICTURES)


# --- doors ------------------------------------------------------------------------------------------------------------


def test_shared_memory_and_model_control_are_closed(served):
    server, _ = served
    own = client(server)
    over_http = (
        lambda: own.register_system_shared_memory("x", "/x", 8),
        own.get_system_shared_memory_status,
        lambda: own.register_cuda_shared_memory("x", b"x", 0, 8),
        own.get_model_repository_index,
        lambda: own.load_model("birds"),
        lambda: own.load_model("birds", config="{}", files={"file:1/model.py": b"raise SystemExit"}),
        lambda: own.unload_model("birds"),
        lambda: own.update_trace_settings("birds", {"trace_file": "/tmp/x"}),
        lambda: own.update_log_settings({"log_file": "/tmp/x"}),
    )
    other = client(server, "grpc")
    over_grpc = (
        lambda: other.register_system_shared_memory("x", "/x", 8),
        other.get_system_shared_memory_status,
        other.get_model_repository_index,
        lambda: other.load_model("birds"),
        lambda: other.unload_model("birds"),
        lambda: other.update_trace_settings("birds", {"trace_file": "/tmp/x"}),
        lambda: other.update_log_settings({"log_file": "/tmp/x"}),
    )
    for call in (*over_http, *over_grpc):
        assert "restricted" in refused(call).lower()


def test_it_listens_on_this_machine_alone(served):
    server, _ = served
    ports = {f"{int(address.split(':')[1]):04X}" for address in (server.http, server.grpc)}
    lines = [*Path("/proc/net/tcp").read_text().splitlines(), *Path("/proc/net/tcp6").read_text().splitlines()]
    own = [line.split()[1].split(":") for line in lines if " 0A " in line]
    places = {(place, port) for place, port in own if port in ports}
    assert {port for _, port in places} == ports
    assert {place for place, _ in places} <= {"0100007F", "0000000000000000FFFF00000100007F"}


# --- loading ----------------------------------------------------------------------------------------------------------


def log_of_failure(tmp_path, repository) -> str:
    with (
        pytest.raises(RuntimeError, match="tritonserver ended with"),
        triton_server.started(Path(SERVER), repository, tmp_path / "log"),
    ):
        pass
    return (tmp_path / "log").read_text()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"fp32"', '"fp16"', "E-PRECISION: "),
        ('"auto"', '"openvinos"', "E-BACKEND-NAME: "),
        ('string_value: "/', 'string_value: "/nowhere/', "E-BUNDLE-PATH: there is no /nowhere/"),
    ],
)
def test_what_stands_against_a_model_is_in_the_log(own_bundle, tmp_path, old, new, words):
    repository, name = write_repository(str(own_bundle(rule="gaussian")), tmp_path / "repo", Repository())
    config = repository / name / "config.pbtxt"
    config.write_text(config.read_text().replace(old, new))
    assert words in log_of_failure(tmp_path, repository)


def test_without_this_package_the_log_says_what_to_install(own_bundle, tmp_path):
    repository, name = write_repository(str(own_bundle(rule="gaussian")), tmp_path / "repo", Repository())
    model = repository / name / "1" / "model.py"
    model.write_text(f"import sys\nsys.modules['zsl_runtime'] = None\n{model.read_text()}")
    assert "E-BACKEND-MISSING: the Python of Triton's Python backend cannot import zsl_runtime" in log_of_failure(
        tmp_path, repository
    )


def test_a_copy_and_a_model_of_rows_are_served(own_bundle, tmp_path):
    rows = own_bundle("rows", kind="backbone_features", rule="rows")
    bundle = own_bundle("copied", rule="gaussian")
    repository, _ = write_repository(str(bundle), tmp_path / "repo", Repository(name="birds", copy=True))
    other, _ = write_repository(str(rows), tmp_path / "other", Repository(name="rows"))
    (other / "rows").rename(repository / "rows")
    with triton_server.started(Path(SERVER), repository, tmp_path / "log") as server:
        inside = Bundle.open(repository / "birds" / "1" / "bundle")
        add_classes(inside, newcomer("dodo"))
        check(inside, ask(server, "encoded", column(FILES)), PICTURES)
        shape = Bundle.open(rows).manifest["input"]["shape"][1:]
        given = http_client.InferInput("backbone_features", [2, *shape], "FP32")
        array = np.random.default_rng(0).random((2, *shape), dtype=np.float32)
        array[1, 0, 0] = np.nan
        given.set_data_from_numpy(array)
        answer = client(server).infer("rows", [given])
        assert answer.as_numpy("names").shape == (2, 5)
        assert answer.as_numpy("error")[1, 0].startswith(b"E-ROW-VALUE: ")
        assert answer.as_numpy("distances") is answer.as_numpy("distance") is answer.as_numpy("far") is None


def test_model_control_where_it_is_asked_for_loads_without_a_gap(own_bundle, tmp_path):
    """Explicit control, for its user alone: loading again under requests drops none."""
    bundle = Bundle.open(own_bundle("birds", rule="gaussian"))
    repository, _ = write_repository(str(bundle.path), tmp_path / "repo", Repository(name="birds"))
    more = ["--model-control-mode=explicit", "--load-model=birds"]
    with triton_server.started(Path(SERVER), repository, tmp_path / "log", more) as server:
        over = threading.Event()

        def stream() -> int:
            count, own = 0, client(server)
            while not over.is_set():
                answer = own.infer("birds", [tensor("encoded", column(FILES[:2]))])
                assert answer.as_numpy("error").tolist() == [[b""]] * 2
                count += 1
            return count

        with ThreadPoolExecutor(1) as pool:
            work = pool.submit(stream)
            for turn in range(3):
                add_classes(bundle, newcomer(f"dodo {turn}"))
                client(server).load_model("birds", headers={"closed": server.key})
            over.set()
            assert work.result() > 3
        check(bundle, ask(server, "encoded", column(FILES)), PICTURES)


# --- the plan ---------------------------------------------------------------------------------------------------------


def test_the_step_in_front_of_the_plan_works_with_a_model_that_stands_for_it(own_bundle, tmp_path, monkeypatch):
    """The head goes along with every batch, through the server; the plan's place is taken by its graph on the CPU."""
    bundle = Bundle.open(own_bundle("birds", rule="gaussian"))
    monkeypatch.setenv("ZSL_CACHE", str(tmp_path / "cache"))
    kept(bundle)
    wanted = Repository(name="birds", variant="tensorrt")
    repository, _ = write_repository(str(bundle.path), tmp_path / "repo", wanted)
    stand_in(repository, bundle)
    with triton_server.started(Path(SERVER), repository, tmp_path / "log") as server:
        assert "by Triton's model birds_plan on cuda in fp32" in server.log_text()
        check(bundle, ask(server, "encoded", column(FILES)), PICTURES)
        add_classes(bundle, newcomer("dodo"))
        check(bundle, ask(server, "images", PICTURES, "grpc"), PICTURES)
        more = {"parameters": {"topk": 4, "classes": "unseen"}}
        check(bundle, ask(server, "encoded", column(FILES), **more), PICTURES, 4, "unseen")


def stand_in(repository, bundle) -> None:
    """A model with the plan's own config, but for the backend, which runs the graph with ONNX Runtime."""

    config = repository / "birds_plan" / "config.pbtxt"
    text = config.read_text()
    assert read_config(text)["platform"] == "tensorrt_plan"
    text = text.replace('platform: "tensorrt_plan"', 'backend: "python"').replace("model.plan", "model.py")
    text = text.replace('KIND_GPU profile: [ "0", "1" ]', "KIND_CPU")
    config.write_text(text)
    (repository / "birds_plan" / "1" / "model.plan").unlink()
    (repository / "birds_plan" / "1" / "model.py").write_text(
        f"""
import onnxruntime, triton_python_backend_utils as utils
NAMES = ("images", "head_weight", "head_bias", "class_bias")

class TritonPythonModel:
    def initialize(self, args):
        self.session = onnxruntime.InferenceSession({str(bundle.file("model.onnx"))!r})

    def execute(self, requests):
        made = []
        for one in requests:
            given = {{name: utils.get_input_tensor_by_name(one, name).as_numpy() for name in NAMES}}
            scores, features = self.session.run(["scores", "features"], given)
            made.append(utils.InferenceResponse([utils.Tensor("scores", scores), utils.Tensor("features", features)]))
        return made
"""
    )


def test_the_plan_s_config_is_read_by_the_server(own_bundle, tmp_path, monkeypatch):
    """As far as a machine without a card and without that backend goes: the config is read, the backend is missing."""
    monkeypatch.setenv("ZSL_CACHE", str(tmp_path / "cache"))
    path = own_bundle("birds", rule="gaussian")
    kept(Bundle.open(path))
    repository, _ = write_repository(str(path), tmp_path / "repo", Repository(name="birds", variant="tensorrt"))
    log = log_of_failure(tmp_path, repository)
    assert "unable to find backend library for backend 'tensorrt'" in log or "GPU" in log, log
    assert "Error parsing text-format" not in log
    assert "failed to read" not in log.lower()
