"""Query writers against a stub server that speaks the protocol, and against a tiny vision-language model."""

import base64
import io
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor
from typer.testing import CliRunner

from fixtures.recordings import clip, frames, tone, wav
from fixtures.tiny_pdfs import write_folder
from omnitune import SentenceTransformer, documents
from omnitune.cli.main import app
from omnitune.documents.queries import shown
from omnitune.documents.queries.endpoint import Endpoint
from omnitune.documents.queries.generate import EndpointWriter, parse
from omnitune.errors import EndpointError, InputError, MediaError, RecipeError
from omnitune.finetune.dataset import make_writer
from omnitune.finetune.recipe import Queries, Recipe
from omnitune.inputs.audio import load_audio, resample
from omnitune.inputs.policy import DEFAULT_POLICY
from omnitune.inputs.sampling import Sampling


class Stub:
    """A server of chat completions: answers with `reply`, after the failures that were put into `failures`."""

    def __init__(self) -> None:
        self.failures: list[Callable[[BaseHTTPRequestHandler], None]] = []
        self.requests: list[tuple[str, dict, dict]] = []
        self.reply: Callable[[dict], str] = lambda body: "How warm is the soil?\nkeeping slugs away"
        self.usage = True
        self.delay = 0.0
        self.under_way = self.most_under_way = 0
        self.lock = threading.Lock()
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with stub.lock:
                    stub.requests.append((self.path, dict(self.headers), body))
                    failure = stub.failures.pop(0) if stub.failures else None
                    stub.under_way += 1
                    stub.most_under_way = max(stub.most_under_way, stub.under_way)
                time.sleep(stub.delay)
                with stub.lock:
                    stub.under_way -= 1
                if failure is not None:
                    failure(self)
                    return
                reply = {"choices": [{"message": {"content": stub.reply(body)}}]}
                if stub.usage:
                    reply["usage"] = {"prompt_tokens": 700, "completion_tokens": 12}
                send(self, 200, json.dumps(reply))

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()


def send(handler: BaseHTTPRequestHandler, status: int, text: str, **headers: str) -> None:
    data = text.encode()
    handler.send_response(status)
    for name, value in {"Content-Length": str(len(data)), **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(data)


@pytest.fixture
def stub(monkeypatch) -> Iterator[Stub]:
    server = Stub()
    monkeypatch.setenv("OPENAI_BASE_URL", server.url + "/")
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    yield server
    server.server.shutdown()
    server.server.server_close()
    server.thread.join()


class Waits(list):
    """Stands in for the event that ends the waiting, and notes how long each would have been."""

    def wait(self, seconds: float) -> bool:
        self.append(seconds)
        return False


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("OMNITUNE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("prepared")
    documents.prepare(write_folder(root / "manuals"), root / "dataset", width=300, test=["kitchen.pdf"], workers=1)
    return root / "dataset"


@pytest.fixture
def pages(prepared) -> list[Path]:
    return sorted((prepared / "images").rglob("*.png"))[:6]


def endpoint(stub: Stub, tmp_path: Path, **options) -> Endpoint:
    return Endpoint(
        **{"url": stub.url, "key": "", "model": "m", "cache": tmp_path / "answers", "backoff": 0.0, **options}
    )


def body() -> dict:
    return {"messages": []}


def test_what_is_sent(stub, pages):
    said: list[str] = []
    writer = make_writer(Queries(writer="endpoint", model="page-model", per_page=3), said.append)
    found = writer(pages[:1])
    assert found == [["How warm is the soil?", "keeping slugs away"]]
    path, headers, sent = stub.requests[0]
    assert path == "/v1/chat/completions" and headers["Authorization"] == "Bearer secret"
    assert sent["model"] == "page-model" and sent["max_tokens"] == 200
    image, text = sent["messages"][0]["content"]
    kind, data = image["image_url"]["url"].split(",")
    assert kind == "data:image/png;base64"
    assert base64.b64decode(data) == pages[0].read_bytes()
    assert "Write 3 search queries" in text["text"]


@pytest.fixture
def media(tmp_path) -> list[Path]:
    """A recording of 8 kHz, and a clip of 2 seconds at 12 frames a second."""
    (tmp_path / "pump.wav").write_bytes(wav(tone(440, 1.5, 8_000), 8_000))
    return [tmp_path / "pump.wav", clip(tmp_path / "door.mp4", frames(24, side=64))]


def test_recordings_and_clips_are_sent_as_servers_take_them(stub, media, pages):
    said: list[str] = []
    settings = Queries(writer="endpoint", model="m", concurrency=1)
    found = make_writer(settings, said.append)([*media, pages[0]])
    assert found == [["How warm is the soil?", "keeping slugs away"]] * 3
    (sound, heard), (*shots, seen), (page, read) = (body["messages"][0]["content"] for _, _, body in stub.requests)
    assert sound["type"] == "input_audio" and sound["input_audio"]["format"] == "wav"
    decoded = load_audio(base64.b64decode(sound["input_audio"]["data"]), DEFAULT_POLICY, Sampling())
    assert np.abs(decoded - resample(tone(440, 1.5, 8_000), 8_000, 16_000)).max() < 1e-3
    assert [part["text"] for part in shots[::2]] == [f"{i / 4:.1f} s" for i in range(8)]
    for place, part in enumerate(shots[1::2]):
        kind, data = part["image_url"]["url"].split(",")
        assert kind == "data:image/jpeg;base64"
        image = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))), dtype=float)
        frame = frames(24, side=64)[3 * place]
        assert image.shape == (64, 64, 3) and np.abs(image.mean((0, 1)) - frame.mean((0, 1))).max() < 8
    assert page["type"] == "image_url"
    for text, noun in ((heard, "recording"), (seen, "clip"), (read, "page")):
        assert f"Write 2 search queries that this {noun} answers" in text["text"]
    text_tokens = sum(len(part["text"]) // 4 for part in (heard, seen, read))
    with Image.open(pages[0]) as opened:
        expected = text_tokens + round(1.5 * 25) + 8 * 64 * 64 // 784 + opened.width * opened.height // 784
    assert f"for each of 3 items: about {expected:,} tokens in" in said[0]
    shutil.copy(media[0], media[0].with_name("the same.wav"))
    said.clear()
    make_writer(settings, said.append)([media[0].with_name("the same.wav"), media[1]])
    assert len(stub.requests) == 3
    assert "for each of 0 pages" in said[0] and "2 items were written before" in said[0]
    stub.failures = [FAILURES["500"]]
    make_writer(Queries(writer="endpoint", model="n"), said.append)(media[:1])
    assert len(stub.requests) == 5 and "for each of 1 recordings" in said[2]


def test_a_large_clip_is_sent_small_and_a_short_one_once(tmp_path):
    large = shown.content(clip(tmp_path / "a.mp4", np.tile(frames(3, side=48), (1, 20, 32, 1))), "video")
    assert len(large) == 6 and [part["text"] for part in large[::2]] == ["0.0 s", "0.1 s", "0.2 s"]
    sent = base64.b64decode(large[1]["image_url"]["url"].split(",")[1])
    assert Image.open(io.BytesIO(sent)).size == (768, 480)


def test_a_broken_recording_is_named(stub, tmp_path):
    (tmp_path / "cut.wav").write_bytes(wav(tone(440))[:300])
    with pytest.raises(MediaError, match="cut.wav: "):
        make_writer(Queries(writer="endpoint", model="m"), lambda line: None)([tmp_path / "cut.wav"])


def test_the_cost_is_told_before_and_after_and_nothing_is_paid_twice(stub, pages):
    said: list[str] = []
    settings = Queries(writer="endpoint", model="m")
    first = make_writer(settings, said.append)(pages)
    assert "writes 2 queries for each of 6 pages: about " in said[0] and "at most 1,200 out" in said[0]
    assert said[1] == "Written: 4,200 tokens in, 72 out for 6 pages; 0 from disk"
    assert make_writer(settings, said.append)(pages) == first
    assert len(stub.requests) == 6
    assert "for each of 0 pages" in said[2] and "6 pages were written before and cost nothing" in said[2]
    assert said[3] == "Written: 0 tokens in, 0 out for 0 pages; 6 from disk"
    stub.usage = False
    make_writer(Queries(writer="endpoint", model="other"), said.append)(pages[:2])
    assert said[5].endswith("the server did not count the tokens of 2")


def test_many_are_under_way_at_once(stub, pages):
    stub.delay = 0.1
    make_writer(Queries(writer="endpoint", model="m", concurrency=3), lambda line: None)(pages)
    assert stub.most_under_way == 3


def hang_up(handler: BaseHTTPRequestHandler) -> None:
    handler.connection.close()


FAILURES = {
    "429": lambda handler: send(handler, 429, "slow down"),
    "500": lambda handler: send(handler, 500, "oh"),
    "bad JSON": lambda handler: send(handler, 200, "<html>"),
    "no choices": lambda handler: send(handler, 200, '{"choices": []}'),
    "no object": lambda handler: send(handler, 200, "[1]"),
    "hung up": hang_up,
}


@pytest.mark.parametrize("failure", FAILURES)
def test_what_passes_is_tried_again(stub, tmp_path, failure):
    stub.failures = [FAILURES[failure]] * 2
    answer = endpoint(stub, tmp_path).ask({"n": 1}, body)
    assert answer.text.startswith("How warm") and len(stub.requests) == 3


def test_a_timeout_is_tried_again(stub, tmp_path):
    stub.failures = [lambda handler: time.sleep(0.4)]
    assert endpoint(stub, tmp_path, timeout=0.15).ask({}, body).text.startswith("How warm")


def test_waits_grow_and_the_server_may_name_them(stub, tmp_path):
    waits = Waits()
    stub.failures = [FAILURES["500"], FAILURES["500"], lambda handler: send(handler, 429, "", Retry_After="7")]
    endpoint(stub, tmp_path, backoff=1.0).ask({}, body, waits)
    assert 0.75 <= waits[0] <= 1.25 and 1.5 <= waits[1] <= 2.5 and waits[2] == 7.0


def test_an_interrupt_does_not_wait_for_further_attempts(stub, tmp_path):
    stub.failures = [lambda handler: send(handler, 429, "slow down", Retry_After="30")] * 8
    asking = endpoint(stub, tmp_path).ask_all([{"n": n} for n in range(4)], [body] * 4)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs ignore
    threading.Timer(0.5, os.kill, [os.getpid(), signal.SIGINT]).start()
    started = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            next(asking)
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - started < 10 and len(stub.requests) == 4


def test_what_never_passes_is_told_and_answers_so_far_are_kept(stub, tmp_path):
    where = endpoint(stub, tmp_path, attempts=2, concurrency=1)
    list(where.ask_all([{"n": 1}], [body]))
    stub.failures = [FAILURES["500"]] * 2
    with pytest.raises(
        EndpointError, match="expected an answer of 'm', got none in 2 attempts, the last: 500 oh; answers"
    ):
        list(where.ask_all([{"n": 1}, {"n": 2}], [body, body]))
    assert where.known({"n": 1}) and not where.known({"n": 2})


def test_a_refusal_is_not_tried_again(stub, tmp_path):
    stub.failures = [lambda handler: send(handler, 401, "bad key")]
    with pytest.raises(EndpointError, match="got 401 Unauthorized: bad key; check OPENAI_BASE_URL, OPENAI_API_KEY"):
        endpoint(stub, tmp_path).ask({}, body)
    assert len(stub.requests) == 1


def test_no_address_no_pages(monkeypatch):
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(InputError, match="OPENAI_BASE_URL: expected the address of an OpenAI-compatible API"):
        make_writer(Queries(writer="endpoint", model="m"), print)


def test_settings(stub):
    assert make_writer(Queries(), print) is None
    with pytest.raises(RecipeError, match="queries.model: expected the name of a vision-language model .* 'local'"):
        make_writer(Queries(writer="local"), print)
    with pytest.raises(
        RecipeError, match="queries.writer: expected one of 'extractive', 'endpoint', 'local', got 'mag"
    ):
        Recipe().changed(queries__writer="magic")
    one, other = (make_writer(Queries(writer="endpoint", model="m", per_page=n), print) for n in (1, 2))
    assert isinstance(one, EndpointWriter) and one.identity != other.identity


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1. first one\n2) second\n\n- third\n", ["first one", "second", "third"]),
        ('"quoted"\n\u201cwhat is it?\u201d\n"quoted"', ["quoted", "what is it?"]),
        ('Here:\n```json\n["a b", "c d"]\n```', ["a b", "c d"]),
        ("Here are the queries:\n* C++ arrays [0] and [1]", ["C++ arrays [0] and [1]"]),
        ("NONE", []),
        ("none.", []),
        ("", []),
        ("a\nb\nc\nd\ne", ["a", "b", "c", "d"]),
    ],
)
def test_parse(text, expected):
    assert parse(text, 4) == expected


WRITTEN = """\
which soil do beginners need for their vegetables
what is shown in the figure above
explains sowing tomatoes early to beginners
\u043a\u0430\u043a \u0441\u0430\u0436\u0430\u0442\u044c
soil soil soil soil
roasting pumpkin
Roasting pumpkin"""


def test_the_filters_and_who_is_asked_about(stub, prepared, tmp_path):
    stub.reply = lambda body: WRITTEN
    writer = make_writer(Queries(writer="endpoint", model="m", per_page=9), lambda line: None)
    made = documents.prepare(
        prepared.parent / "manuals", tmp_path / "dataset", width=300, test=["kitchen.pdf"], workers=1, writer=writer
    )
    table = made.tables["train"]
    written = [row for row in table if row["origin"] == "model"]
    soil, sowing = "which soil do beginners need for their vegetables", "explains sowing tomatoes early to beginners"
    assert {row["query"] for row in written} == {soil, sowing}
    assert "garden.pdf#1" not in {row["page_id"] for row in written if row["query"] == sowing}  # copied from there
    assert "sentence" not in table["origin"] and "title" in table["origin"]
    usable = sum(side == "train" for side in made.tables["pages"]["side"])
    assert len(stub.requests) == usable  # no held-out page was sent
    dropped = made.facts["dropped"]
    assert dropped["points at its page"] == dropped["other script than its page"] == usable
    assert dropped["also asked in the test"] == 2 * usable
    assert dropped["no question"] == usable
    assert dropped["copies 6 words in a row"] == 1


def test_the_command(stub, prepared, tmp_path):
    stub.reply = lambda body: "which soil do beginners need\nwhat is shown in the figure above"
    out = tmp_path / "queries.jsonl"
    words = [
        "generate-queries",
        str(prepared),
        "--out",
        str(out),
        "--query-model",
        "m",
        "--limit",
        "4",
        "--per-page",
        "2",
    ]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert "4 queries kept; 4 dropped: points at its page" in " ".join(result.output.split())
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(rows) == 8 and len(stub.requests) == 4
    assert rows[1] == {
        "page_id": rows[0]["page_id"],
        "query": "what is shown in the figure above",
        "dropped": "points at its page",
    }
    refused = CliRunner().invoke(app, [*words, "--queries", "extractive"])
    assert refused.exit_code == 1 and "expected endpoint or local, got 'extractive'" in " ".join(refused.output.split())


def test_a_model_of_this_machine(prepared, tmp_path, tiny_qwen3_vl):
    said: list[str] = []
    settings = Queries(writer="local", model=str(tiny_qwen3_vl), per_page=2, max_tokens=6)
    pages = sorted((prepared / "images").rglob("*.png"))[:2]
    first = make_writer(settings, said.append)(pages)
    assert len(first) == 2 and "for each of 2 pages" in said[0]
    writer = make_writer(settings, said.append)
    assert writer(pages) == first and "for each of 0 pages" in said[1]
    kept = [json.loads(path.read_text()) for path in writer.cache.iterdir()]
    assert len(kept) == 2 and all(isinstance(text, str) and text for text in kept)


@pytest.mark.parametrize("name", ["tiny_qwen2_5_omni", "tiny_qwen3_vl"])
def test_a_model_of_this_machine_hears_and_sees(request, name, media, tmp_path, monkeypatch):
    import transformers

    seen: list[dict] = []
    model = type("Kept", (), {})
    from_pretrained = transformers.AutoModelForMultimodalLM.from_pretrained

    def loaded(*args, **options):
        model.it = from_pretrained(*args, **options)
        generate = model.it.generate
        model.it.generate = lambda **inputs: seen.append(inputs) or generate(**inputs)
        return model.it

    monkeypatch.setattr(transformers.AutoModelForMultimodalLM, "from_pretrained", loaded)
    path = request.getfixturevalue(name)
    files = media if "omni" in name else media[1:]
    settings = Queries(writer="local", model=str(path), per_page=2, max_tokens=4)
    writer = make_writer(settings, lambda line: None)
    first = writer(files)
    assert len(first) == len(files) and writer(files) == first and len(seen) == len(files)
    if "omni" in name:
        assert seen[0]["feature_attention_mask"].sum() == 150  # 1.5 s, whole
    encoder = SentenceTransformer(str(path), device="cpu")
    direct = encoder.preprocess([{"video": media[1], "text": shown.request("video", 2, whole=True)}])
    assert torch.equal(seen[-1]["pixel_values_videos"], direct["pixel_values_videos"])
    text = AutoProcessor.from_pretrained(path).batch_decode(seen[-1]["input_ids"])[0]
    assert "The video is one clip. Write 2 search queries" in text


def test_finetune_takes_them(stub, prepared, tmp_path):
    from omnitune.finetune.dataset import prepare_step
    from omnitune.finetune.recipe import parse_recipe
    from omnitune.finetune.steps import Steps

    stub.reply = lambda body: "which soil do beginners need"
    recipe = parse_recipe(
        "prepare: {width: 300, test: [kitchen.pdf], workers: 1}\nqueries: {writer: endpoint, model: m}", source="r"
    )
    out = tmp_path / "out"
    made = prepare_step(Steps(out), prepared.parent / "manuals", recipe, lambda line: None)
    assert "model" in made.tables["train"]["origin"]
    shutil.rmtree(out)
    sent = len(stub.requests)
    prepare_step(Steps(out), prepared.parent / "manuals", recipe, lambda line: None)
    assert len(stub.requests) == sent
