"""A server: its API, its queue, its gate and its search routes, over real HTTP where a real client is used."""

import dataclasses
import json
import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("starlette", reason="the extra `serve` is not installed")
pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")

import httpx
from typer.testing import CliRunner

from fixtures.browser import Browser
from fixtures.servers import data_uri, error, post, running
from fixtures.tiny_pdfs import write_folder
from omnitune import CrossEncoder, Retriever, SentenceTransformer
from omnitune.cli.main import app as command
from omnitune.cli.serve import WAITING, sleep_soon
from omnitune.documents import prepare
from omnitune.errors import InputError
from omnitune.retrieval.stages import DenseStage, LexicalStage
from omnitune.serve.address import check_address
from omnitune.serve.run import links_of, open_served
from omnitune.serve.served import Served
from omnitune.serve.worker import QueueFullError, Worker

TEXTS = ["grease the bearing", "an oven", "a much longer text about water, flour and salt in the dough of a bread", "x"]


def test_the_openai_client(address: str, model: SentenceTransformer) -> None:
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
        one = client.embeddings.create(model="tiny", input=TEXTS[0])  # base64, by the client's own choice
        assert np.array_equal(np.float32(one.data[0].embedding), model.encode_document(TEXTS[0]))
        assert one.usage.prompt_tokens == len(model.tokenizer(TEXTS[0])["input_ids"])
        many = client.embeddings.create(model="tiny", input=TEXTS, encoding_format="float")
        np.testing.assert_allclose([row.embedding for row in many.data], model.encode_document(TEXTS), atol=1e-6)
        asked = client.embeddings.create(model="tiny", input=TEXTS, extra_body={"input_type": "query"})
        np.testing.assert_allclose([row.embedding for row in asked.data], model.encode_query(TEXTS), atol=1e-6)
        few = client.embeddings.create(model="tiny", input=TEXTS, dimensions=4)
        expected = model.encode_document(TEXTS, truncate_dim=4, normalize_embeddings=True)
        np.testing.assert_allclose([row.embedding for row in few.data], expected, atol=1e-6)
        assert [one.id for one in client.models.list()] == ["tiny"]
        with pytest.raises(openai.NotFoundError, match="'tiny', which is served here"):
            client.embeddings.create(model="other", input="a")
        with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length=False"):
            client.embeddings.create(model="tiny", input=[[1, 2], [3]])


def test_requests_at_once_change_no_number(address: str, model: SentenceTransformer) -> None:
    texts = [" ".join(TEXTS[number % 3].split()[: 1 + number % 7]) for number in range(40)]
    expected = model.encode_document(texts)
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda text: post(f"{address}/v1/embeddings", input=text)["data"][0]["embedding"], texts))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_bodies_that_cannot_work(address: str) -> None:
    url = f"{address}/v1/embeddings"
    assert "expected text that is not empty" in error(url, input="")
    assert "from 1 to 2048 inputs, got 2049" in error(url, input=["a"] * 2049)
    assert "expected text that is not empty" in error(url, input=[["a", "b"]])
    assert "dimensions: expected at most" in error(url, input="a", dimensions=10_000)
    assert "dimensions: expected a number from 1" in error(url, input="a", dimensions=True)
    assert "input_type: expected one of" in error(url, input="a", input_type=["query"])
    assert "encoding_format" in error(url, input="a", encoding_format="bytes")
    assert post(url, input="\U0001f600")["data"]
    for body in (b'{"input": "a\\ud800"}', b"{", b"[" * 100_000, b"[1]", b"\xff", b"", b'{"input": NaN}'):
        assert (
            httpx.post(url, content=body, headers={"Content-Type": "Application/JSON; charset=utf-8"}).status_code
            == 400
        )
    answer = httpx.get(url)
    assert answer.status_code == 405 and "expected POST, got GET" in answer.json()["error"]["message"]
    assert httpx.get(f"{address}/nowhere").json()["error"]["type"] == "not_found_error"
    said = httpx.get(f"{address}/v1/embedding").json()["error"]["message"]
    assert said.startswith("path: expected one of /v1/embeddings, ") and said.endswith(
        "; did you mean '/v1/embeddings'?"
    )
    for other in ({"output_dtype": ""}, {"encoding_format": 0}, {"input_type": ""}, {"truncate": False}):
        assert next(iter(other)) in error(url, input="a", **other)
    assert "got both" in error(url, input="a", messages=[{"content": "b"}])
    assert "got 'dimension'; did you mean 'dimensions'?" in error(url, input="a", dimension=4)
    assert post(url, input="a", user="me", dimension=None)["data"]
    assert "return_documents" in error(f"{address}/rerank", query="a", documents=["a"], return_documents=0)
    assert "max_chunks_per_doc" in error(f"{address}/rerank", query="a", documents=["a"], max_chunks_per_doc=2)
    assert "queries and text_1, got both" in error(f"{address}/score", queries="a", text_1="b", documents=["a"])


def test_what_a_form_of_another_site_can_send_is_refused(run: Path) -> None:
    """Without JSON's own type a browser sends it to any site unasked; the header of the origin is not always there."""
    vote = json.dumps({"query": "grease", "page": "oven.pdf#1", "label": "yes", "rank": 1})
    types = (
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "text/plain",
        "text/plain; application/json",
        "",
    )
    with running(open_served(str(run))) as (url, _):
        for path in ("/feedback", "/rerank", "/score", "/search", "/v1/embeddings", "/v2/embed"):
            for kind in types:
                answer = httpx.post(url + path, content=vote, headers={"Content-Type": kind})
                assert answer.status_code == 415
                said = answer.json()["error"]["message"]
                assert f"got {kind or 'none'}; send the header Content-Type: application/json (curl -H 'C" in said
        other = {"Content-Type": "application/json", "Origin": "null"}
        assert httpx.post(f"{url}/feedback", content=vote, headers=other).status_code == 403
    assert not (run / "feedback.jsonl").exists()


def test_parameters_that_mean_nothing_are_refused(run: Path) -> None:
    with running(open_served(str(run))) as (url, _):

        def said(path: str, status: int = 400) -> str:
            answer = httpx.get(url + path)
            assert answer.status_code == status, answer.text
            return str(answer.json()["error"]["message"])

        for given in ("0", "-1", "x", "101", "9" * 5000, "", "1.5"):
            shown = f"top_k: expected a number from 1 to 100, got {given!r}"[:100]
            assert said(f"/search?q=a&top_k={given}").startswith(shown)
        assert said("/search?q=") == "query: expected text, got ''"
        assert said("/search") == "query: expected text, got None"
        assert "got 'topk'; did you mean 'top_k'?" in said("/search?q=a&topk=3")
        assert said("/search?q=a&q=b") == "q: expected it once, got 2 of it"
        assert said("/search?q=a&query=b") == "q: expected one of query and q and image, got both"
        near = "document: expected one of the retriever's 2 documents, got 'oven.pfd'; did you mean 'oven.pdf'?"
        assert said("/search?q=a&document=oven.pfd") == near
        assert "got ''" in said("/search?q=a&document=oven.pdf&document=")
        assert "ranking: expected one of" in said("/search?q=a&ranking=")
        assert said("/documents/oven.pfd", 404) == near and "none of the folders" in said("/documents/oven.pdf", 404)
        assert said("/why?q=a", 404).endswith("got ''") and "query" in said("/why?page=oven.pdf%231")
        assert "got 'p'" in said("/why?q=a&p=oven.pdf%231")
        for body in ({"document": []}, {"document": 7}, {"document": {}}, {"where": []}, {"where": 0},
                     {"where": {"document": []}}, {"where": {"page": None}}, {"where": {"pages": 1}}, {"top_k": 0},
                     {"top_k": True}, {"top_k": 10.0}, {"ranking": 0}, {"explain": True}, {"image": "data:,x"},
                     {"document": "oven.pdf", "where": {"document": "oven.pdf"}}, {"query": ["a"]}):  # fmt: skip
            assert ":" in error(f"{url}/search", **{"query": "a", **body}), body
        assert error(f"{url}/search", query="a", where={"document": "oven.pfd"}) == near
        assert post(f"{url}/search", q="bearing", where={"page": 1, "document": ["oven.pdf"]})["hits"]
        vote = {"query": "grease", "page": "oven.pdf#1", "label": "yes", "rank": 1}
        for body in ({"rank": 101}, {"page": 7}, {"label": ["yes"]}, {"comment": "good"}, {"query": " "}):
            assert next(iter(body)) in error(f"{url}/feedback", **{**vote, **body})


def test_numbers_and_texts_that_are_none_never_leave(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served = open_served(str(run))
    found = served.retriever.search("bearing", explain=True) if served.retriever else []
    with running(served) as (url, _):
        for number in (float("nan"), float("inf")):
            broken = [dataclasses.replace(hit, score=number) for hit in found]
            monkeypatch.setattr(served.retriever, "search", lambda *_, **__: broken)  # noqa: B023  # one at a time
            answer = httpx.get(f"{url}/search?q=bearing")
            said = answer.json()["error"]
            assert (answer.status_code, said["type"]) == (500, "server_error")
            assert f"expected finite numbers, got {number} at 'hits.0.score'" in said["message"]
        strange = [dataclasses.replace(hit, id="\ud800", document=os.fsdecode(b"caf\xe9.pdf")) for hit in found]
        monkeypatch.setattr(served.retriever, "search", lambda *_, **__: strange)
        hit = httpx.get(f"{url}/search?q=bearing").json()["hits"][0]
        assert (hit["id"], hit["document"], hit["link"]) == ("\ud800", "caf\udce9.pdf", None)


@pytest.mark.parametrize(
    "place", ["http://127.0.0.1/a.png", "http://169.254.169.254/", "file:///etc/passwd", "/etc/a.png"]
)
def test_no_address_and_no_path_is_opened(address: str, place: str, model: SentenceTransformer) -> None:
    assert "opens no address and no file" in error(f"{address}/v1/embeddings", input=[{"image": place}])
    text = post(f"{address}/v1/embeddings", input=place)["data"][0]["embedding"]
    np.testing.assert_allclose(text, model.encode_document({"text": place}), atol=1e-6)


def test_images_as_data_and_paths_as_text(tiny_clip: Path, tmp_path: Path) -> None:
    model = SentenceTransformer(str(tiny_clip), device="cpu")
    image = Image.new("RGB", (30, 20), "red")
    image.save(tmp_path / "red.png")
    data = data_uri(image)
    path = str(tmp_path / "red.png")
    expected = model.encode([image, {"text": path}])
    with running(Served("clip", encoder=model)) as (url, _):
        answer = post(f"{url}/v1/embeddings", input=[{"image": data}, path])
        np.testing.assert_allclose([one["embedding"] for one in answer["data"]], expected, atol=1e-6)
        said = error(f"{url}/v1/embeddings", input=["fine", {"image": "data:image/png;base64,AAAA"}, "fine"])
        assert said == "input 1: image of 3 bytes: not an image that can be read"


def test_long_inputs_are_told(address: str, model: SentenceTransformer) -> None:
    long = "bread " * 3 * int(model.max_seq_length or 0)
    answer = httpx.post(f"{address}/v1/embeddings", json={"input": ["bread", long]}, timeout=60)
    assert answer.headers["x-omnitune-truncated"] == "1/2"
    assert [one.get("truncated") for one in answer.json()["data"]] == [None, True]


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
def test_rerank_by_similarity(address: str, model: SentenceTransformer, path: str) -> None:
    answer = post(address + path, query="oven", documents=TEXTS, top_n=2)
    scores = model.similarity(model.encode_query("oven"), model.encode_document(TEXTS))[0].numpy()
    assert [one["index"] for one in answer["results"]] == list(np.argsort(-scores)[:2])
    assert all(set(one) == {"index", "relevance_score"} for one in answer["results"])
    np.testing.assert_allclose([one["relevance_score"] for one in answer["results"]], -np.sort(-scores)[:2], atol=1e-6)
    shown = post(address + path, query="oven", documents=[{"text": "a"}], return_documents=True)["results"][0]
    assert shown["document"] == {"text": "a"}
    assert "query: expected text" in error(address + path, query=" ", documents=["a"])
    assert "as number 1" in error(address + path, query="a", documents=["a", 3])
    assert "top_n" in error(address + path, query="a", documents=["a"], top_n=0)


def test_rerank_by_a_cross_encoder(tiny_bert: Path) -> None:
    reranker = CrossEncoder(str(tiny_bert), num_labels=1, device="cpu")
    expected = reranker.predict([("oven", text) for text in TEXTS])
    with running(Served("pairs", reranker=reranker)) as (url, _):
        results = post(f"{url}/rerank", query="oven", documents=TEXTS)["results"]
        found = {one["index"]: one["relevance_score"] for one in results}
        np.testing.assert_allclose([found[place] for place in range(4)], expected, atol=1e-6)
        assert "a server without one" in error(f"{url}/v1/embeddings", input="a")


def test_facts_and_counts(address: str) -> None:
    assert httpx.get(f"{address}/health").json() == {"status": "ok"}
    assert httpx.get(f"{address}/ready").json() == {"ready": True}
    assert httpx.get(f"{address}/info").json()["name"] == "tiny"
    post(f"{address}/v1/embeddings", input="a")
    text = httpx.get(f"{address}/metrics").text
    assert 'omnitune_requests_total{route="/v1/embeddings",status="200"}' in text and "omnitune_queue_inputs 0" in text


def test_a_key_on_every_route_but_health(model: SentenceTransformer) -> None:
    with running(Served("tiny", encoder=model), api_key="sesame") as (url, _):
        routes = ["/", "/info", "/metrics", "/ready", "/v1/models", "/rerank", "/v1/embeddings", "/nowhere"]
        for path in routes:
            for header in (
                {},
                {"Authorization": "Bearer sesam"},
                {"Authorization": "Basic !"},
                {"Authorization": "sesame"},
            ):
                answer = httpx.get(url + path, headers=header)
                assert answer.status_code == 401 and answer.json()["error"]["type"] == "authentication_error"
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert httpx.get(url, headers={"Accept": "text/html"}).headers["WWW-Authenticate"].startswith("Basic")
        assert httpx.get(f"{url}/health").status_code == 200
        assert httpx.get(f"{url}/info", headers={"Authorization": "Bearer sesame"}).status_code == 200
        assert httpx.get(f"{url}/info", auth=("anyone", "sesame")).status_code == 200


def test_other_sites_names_and_bodies_are_refused(model: SentenceTransformer) -> None:
    with running(Served("tiny", encoder=model), most_bytes=1000) as (url, _):
        assert httpx.get(f"{url}/info", headers={"Host": "evil.example:8000"}).status_code == 403
        assert httpx.get(f"{url}/info", headers={"Origin": "http://evil.example"}).status_code == 403
        assert httpx.get(f"{url}/info", headers={"Origin": url}).status_code == 200
        assert "at most 1,000 bytes" in error(f"{url}/v1/embeddings", 413, input="a" * 2000)
        parts = (b"x" * 100 for _ in range(20))
        headers = {"Content-Type": "application/json"}
        assert httpx.post(f"{url}/v1/embeddings", content=parts, headers=headers).status_code == 413


def test_an_address_that_others_reach_needs_a_key(tmp_path: Path) -> None:
    for host in ("127.0.0.1", "::1", "localhost"):
        check_address(host, None)
    check_address("0.0.0.0", "key")
    for host in ("0.0.0.0", "::", "192.168.0.1", "example.com"):
        with pytest.raises(InputError, match="--api-key"):
            check_address(host, "")
    (tmp_path / "config.json").touch()
    result = CliRunner().invoke(command, ["serve", str(tmp_path), "--host", "0.0.0.0"])
    assert result.exit_code == 1 and "--api-key" in result.output


def test_compute_threads_sleep_soon_unless_the_user_says_how() -> None:
    """OpenMP reads it when torch is loaded, so the command must come before that."""
    said: dict[str, str] = {}
    sleep_soon(said)
    assert said == WAITING
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        own = {name: "7"}
        sleep_soon(own)
        assert own == {name: "7"}
    asked = "import sys, omnitune.cli.main, omnitune.cli.serve; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", asked], check=True)


class Slow:
    """Work that waits until it is let go, and notes its batches."""

    def __init__(self) -> None:
        self.started, self.go, self.batches = threading.Event(), threading.Event(), []

    def __call__(self, items: Any) -> Any:
        self.started.set()
        assert self.go.wait(30)
        self.batches.append(list(items))
        return [2 * item for item in items]


def test_the_worker_joins_what_waits_and_drops_what_is_cancelled() -> None:
    slow = Slow()
    worker = Worker({"a": slow, "b": slow}, limit=12, most=3, budget=10)
    first = worker.submit("a", [0], [1])
    assert slow.started.wait(30)
    mixed = (
        worker.submit("b", [1], [1]) + worker.submit("a", [2, 3], [1, 1]) + worker.submit("b", [4, 5, 6], [1, 9, 99])
    )
    mixed[2].cancel()
    with pytest.raises(QueueFullError, match="try again in 1 s"):
        worker.submit("a", range(7), [1] * 7)
    assert worker.waiting == 6
    slow.go.set()
    assert [future.result(30) for future in [*first, *mixed[:2], *mixed[3:]]] == [0, 2, 4, 8, 10, 12]
    assert slow.batches == [[0], [1, 4], [2], [5], [6]] and worker.dropped == 1
    worker.stop()
    assert not worker.ready


def test_one_bad_input_fails_alone_and_memory_halves_the_batch() -> None:
    sizes = []

    def work(items: Any) -> Any:
        sizes.append(len(items))
        if len(items) > 2:
            raise MemoryError
        if 5 in items:
            raise InputError("five")
        return items

    worker = Worker({"a": work})
    futures = worker.submit("a", range(8), [1] * 8)
    assert [future.result(30) for place, future in enumerate(futures) if place != 5] == [0, 1, 2, 3, 4, 6, 7]
    assert isinstance(futures[5].exception(30), InputError) and sizes[0] == 8
    worker.stop()


@pytest.mark.parametrize("many", [1, 3])
def test_a_burst_of_ten_times_the_queue(model: SentenceTransformer, many: int) -> None:
    with running(Served("tiny", encoder=model), queue=6) as (url, _):
        body = {"input": TEXTS[:many]}

        def asked(_: int) -> httpx.Response:
            return httpx.post(f"{url}/v1/embeddings", json=body, timeout=60)

        with ThreadPoolExecutor(60) as pool:
            answers = list(pool.map(asked, range(60)))
        by_status = {status: [one for one in answers if one.status_code == status] for status in (200, 429)}
        assert sum(map(len, by_status.values())) == 60 and by_status[200] and by_status[429]
        assert all(int(one.headers["Retry-After"]) >= 1 for one in by_status[429])
        expected = model.encode_document(TEXTS[:many])
        for one in by_status[200]:
            np.testing.assert_allclose([row["embedding"] for row in one.json()["data"]], expected, atol=1e-6)
        assert asked(0).status_code == 200


def held(model: SentenceTransformer, monkeypatch: pytest.MonkeyPatch) -> Slow:
    """Let `encode_document` wait."""
    slow, encode = Slow(), model.encode_document

    def waiting(items: Any, **options: Any) -> Any:
        slow([1] * len(items))
        return encode(items, **options)

    monkeypatch.setattr(model, "encode_document", waiting)
    return slow


def test_a_client_that_goes_away_takes_its_inputs_with_it(
    model: SentenceTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = held(model, monkeypatch)
    with running(Served("tiny", encoder=model)) as (url, server), ThreadPoolExecutor(1) as pool:
        first = pool.submit(post, f"{url}/v1/embeddings", input="stays")
        assert slow.started.wait(30)
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{url}/v1/embeddings", json={"input": ["goes", "away"]}, timeout=0.3)
        worker = server.config.app.state.worker  # type: ignore[union-attr]
        deadline = time.monotonic() + 20
        while 'status="499"' not in httpx.get(f"{url}/metrics").text and time.monotonic() < deadline:
            time.sleep(0.05)
        slow.go.set()
        assert first.result(30)["data"]
        post(f"{url}/v1/embeddings", input="after")
        assert worker.dropped == 2 and slow.batches == [[1], [1]]


def test_a_stop_finishes_what_was_accepted(model: SentenceTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = held(model, monkeypatch)
    with running(Served("tiny", encoder=model)) as (url, server), ThreadPoolExecutor(1) as pool:
        accepted = pool.submit(post, f"{url}/v1/embeddings", input=TEXTS)
        assert slow.started.wait(30)
        server.should_exit = True
        with pytest.raises(httpx.TransportError):
            for _ in range(200):
                httpx.get(f"{url}/health", timeout=5)
                time.sleep(0.05)
        slow.go.set()
        assert len(accepted.result(30)["data"]) == 4


@pytest.fixture
def run(tmp_path: Path, model: SentenceTransformer) -> Path:
    """A run's folder with a retriever over two pages of a document that is there and one of a document that is not."""
    (tmp_path / "manuals").mkdir()
    Image.new("RGB", (60, 80), "white").save(tmp_path / "manuals" / "a.png")
    (tmp_path / "manuals" / "pump one.pdf").write_bytes(b"%PDF-1.4")
    image = str(tmp_path / "manuals" / "a.png")
    texts = ["Contents of the manual", "Grease the bearing every week", "The oven has a <b>bearing</b> too"]
    boxes = [["Grease", 0.1, 0.1, 0.3, 0.2], ["bearing", 0.5, 0.1, 0.8, 0.2], ["week", 0.1, 0.4, 0.3, 0.5]]
    pages: list[dict[str, Any]] = [
        {"id": "pump one.pdf#1", "page": 1, "label": "i", "text": texts[0], "path": image},
        {"id": "pump one.pdf#2", "page": 2, "label": "2", "text": texts[1], "path": image, "boxes": boxes},
        {"id": "oven.pdf#1", "page": 1, "text": texts[2], "path": "/etc/passwd"},
    ]
    stages = [LexicalStage(), DenseStage(model=model)]
    Retriever.build(pages, stages, show_progress=False).save(tmp_path / "run" / "retriever")
    return tmp_path / "run"


def test_search_pages_documents_and_votes(run: Path) -> None:
    with running(open_served(str(run), documents=run.parent / "manuals")) as (url, _):
        home = httpx.get(url)
        assert "default-src 'none'" in home.headers["Content-Security-Policy"]
        assert "http://" not in home.text and "https://" not in home.text
        assert httpx.get(f"{url}/info").json()["documents"] == ["pump one.pdf", "oven.pdf"]
        hits = httpx.get(f"{url}/search", params={"q": "grease the bearing", "top_k": 3}).json()["hits"]
        first = hits[0]
        assert (first["id"], first["label"], first["rank"]) == ("pump one.pdf#2", "2", 1)
        assert [box[0] for box in first["boxes"]] == ["Grease", "bearing"]
        assert first["words"] == ["bearing", "grease", "the"]
        assert set(first["stages"]) == {"lexical", "dense", "fusion"} and first["snippet"].startswith("Grease")
        assert (
            first["link"] == "/documents/pump%20one.pdf#page=2"
            and httpx.get(url + first["link"]).content == b"%PDF-1.4"
        )
        assert httpx.get(url + first["image"]).headers["content-type"] == "image/png"
        assert post(f"{url}/search", query="grease the bearing", top_k=3)["hits"] == hits
        only = httpx.get(f"{url}/search", params={"q": "bearing", "document": "oven.pdf"}).json()["hits"]
        assert [(hit["id"], hit["image"], hit["link"]) for hit in only] == [("oven.pdf#1", None, None)]
        assert post(f"{url}/v1/embeddings", input="a", model="run")["model"] == "run"
        for path in ("/pages/oven.pdf%231", "/pages/nothing", "/pages/..%2F..%2Fetc%2Fpasswd", "/documents/oven.pdf",
                     "/documents/..%2Frun%2Fretriever%2Fretriever.json"):  # fmt: skip
            assert httpx.get(url + path).status_code == 404
        assert "query" in error(f"{url}/search", query="")
        vote = {"query": "grease", "page": "pump one.pdf#2", "label": "yes", "rank": 1}
        post(f"{url}/feedback", 201, **vote)
        with (run / "feedback.jsonl").open("ab") as file:
            file.write(b'{"query": "a server that was kil')
        post(f"{url}/feedback", 201, **{**vote, "label": "no", "rank": 2, "query": "zwei\nlines"})
        assert "label" in error(f"{url}/feedback", **{**vote, "label": "maybe"})
        assert "id of a page" in error(f"{url}/feedback", 404, **{**vote, "page": "x"})
        assert httpx.get(f"{url}/documents/pump one.pdf/").status_code == 404
    kept = [json.loads(line) for line in (run / "feedback.jsonl").read_text().splitlines() if line.endswith("}")]
    assert [one["label"] for one in kept] == ["yes", "no"]
    assert {name: kept[0][name] for name in vote} == vote and kept[0]["time"].endswith("+00:00")


def test_a_moved_run_links_its_documents_and_those_that_were_added(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made with relative names, its caches emptied, moved, and served from elsewhere."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMNITUNE_CACHE", str(tmp_path / "cache"))
    write_folder(tmp_path / "manuals")
    (tmp_path / "more").mkdir()
    shutil.copy(next((tmp_path / "manuals").glob("*.pdf")), Path("more", os.fsdecode(b"caf\xe9.pdf")))
    prepare("manuals", "run/dataset", width=120, show_progress=False, test=["kitchen"], workers=1)
    Retriever.build("manuals", [LexicalStage()], show_progress=False).save("run/retriever")
    Retriever.open("run/retriever").add("more", show_progress=False)
    shutil.rmtree("cache")
    shutil.copytree("run", "moved")  # what lies in the first one is another run's files to the second
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    served = open_served("../moved")
    assert served.retriever is not None and len(served.retriever.documents) > 2
    assert (
        links_of(served, "../moved")
        == f"Hits link to their documents in {tmp_path / 'more'} and {tmp_path / 'manuals'}"
    )
    with running(served) as (url, _):
        for name in served.retriever.documents:
            hit = httpx.get(f"{url}/search", params={"q": "the of a and", "document": name}).json()["hits"][0]
            assert hit["link"] == f"/documents/{quote(name)}#page={hit['page']}"
            assert httpx.get(url + hit["link"]).content.startswith(b"%PDF")
        added = httpx.get(f"{url}/search", params={"q": "the of a and", "document": r"caf\xe9.pdf"}).json()["hits"][0]
        assert httpx.get(url + added["image"]).headers["content-type"].startswith("image/")  # it lies in the retriever
        (tmp_path / "more").rename(tmp_path / "gone")
        assert "in none of the folders" in httpx.get(url + added["link"]).json()["error"]["message"]
    assert r"caf\xe9.pdf is not there" in links_of(served, "../moved")
    (tmp_path / "manuals").rename(tmp_path / "gone too")
    assert f"none is in {tmp_path / 'more'} and {tmp_path / 'manuals'} any more" in links_of(served, "../moved")
    named = open_served("../moved", documents=tmp_path / "gone")
    assert "Hits link to 1 of" in links_of(named, "../moved") and "and others are not there" in links_of(named, "")


def test_the_curls_of_the_docs(run: Path) -> None:
    curl = shutil.which("curl") or pytest.skip("curl is not installed")
    lines = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8").splitlines()
    commands = [line.strip() for line in lines if line.startswith("    curl ")]
    assert len(commands) == 3
    with running(open_served(str(run))) as (url, _):
        for command in commands:
            words = shlex.split(command.replace("http://127.0.0.1:8000", url))
            answer = json.loads(subprocess.run([curl, "-sS", *words[1:]], check=True, capture_output=True).stdout)  # noqa: S603
            assert "error" not in answer and any(answer.get(name) for name in ("hits", "data", "results")), answer


def test_what_is_opened(run: Path, model: SentenceTransformer, tmp_path: Path) -> None:
    assert open_served(str(run / "retriever")).feedback == run / "retriever" / "feedback.jsonl"
    model.save_pretrained(str(tmp_path / "saved"))
    served = open_served(str(tmp_path / "saved"))
    assert served.name == "saved" and served.encoder is not None and served.retriever is None


@pytest.mark.slow
def test_the_page_in_a_browser(run: Path, browser: Browser) -> None:
    with running(open_served(str(run), documents=run.parent / "manuals")) as (url, _):
        browser.open(f"{url}/?q=grease+the+bearing")
        browser.wait("document.querySelectorAll('#hits > li').length === 3")
        page = browser.run("document.documentElement.outerHTML")
        browser.open(f"{url}/?q=bearing&document=oven.pfd")
        browser.wait("document.getElementById('status')?.textContent.includes(\"did you mean 'oven.pdf'?\")")
    assert page.count("<li ") == 3 and '<option value="oven.pdf">' in page
    assert '<i title="Grease" style="left: 10%; top: 10%; width: 20%; height: 10%;">' in page
    assert "<mark>Grease</mark> <mark>the</mark> <mark>bearing</mark>" in page and "pump one.pdf · page 1 (i)" in page
    assert "&lt;b&gt;" in page and 'href="/documents/pump%20one.pdf#page=2"' in page
