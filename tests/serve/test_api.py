"""What a server answers: Cohere's client, number formats, parts of messages, every family, and hostile requests."""

import base64
import os
import signal
import socket
import struct
import subprocess
import sys
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("starlette", reason="the extra `serve` is not installed")
pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")

import httpx

from fixtures.servers import data_uri, error, post, running
from omnitune import CrossEncoder, MultiVectorEncoder, SentenceTransformer, SparseEncoder
from omnitune.ops.quantize import quantize_embeddings
from omnitune.serve import run
from omnitune.serve.served import Served
from omnitune.serve.vectors import reach_of
from omnitune.serve.worker import Worker

TEXTS = ["grease the bearing", "an oven", "a much longer text about water, flour and salt in the dough of a bread", "x"]


def test_the_cohere_client(address: str, model: SentenceTransformer) -> None:
    cohere = pytest.importorskip("cohere")
    with httpx.Client(timeout=60) as connection:
        check_cohere(cohere, cohere.ClientV2(api_key="none", base_url=address, httpx_client=connection), model)


def check_cohere(cohere: Any, client: Any, model: SentenceTransformer) -> None:
    types = ["float", "int8", "uint8", "binary", "ubinary", "base64"]
    asked = {"model": "tiny", "texts": TEXTS, "embedding_types": types}
    found = client.embed(**asked, input_type="search_query")
    expected = model.encode_query(TEXTS)
    np.testing.assert_allclose(found.embeddings.float_, expected, atol=1e-6)
    dim = expected.shape[1]
    ranges = np.stack([np.full(dim, sign * reach_of(dim), np.float32) for sign in (-1, 1)])
    unit = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    for kind in ("int8", "uint8"):
        steps = quantize_embeddings(unit, kind, ranges=ranges).astype(int)
        assert np.abs(steps - np.array(getattr(found.embeddings, kind))).max() <= 1  # 1e-6 may cross a step
        assert (steps == np.array(getattr(found.embeddings, kind))).mean() > 0.99
    assert np.array_equal(found.embeddings.binary, quantize_embeddings(expected, "binary"))
    assert np.array_equal(found.embeddings.ubinary, quantize_embeddings(expected, "ubinary"))
    few = client.embed(**asked, input_type="search_document", output_dimension=4)
    shorter = model.encode_document(TEXTS, truncate_dim=4, normalize_embeddings=True)
    np.testing.assert_allclose(few.embeddings.float_, shorter, atol=1e-6)
    assert found.texts == TEXTS and found.meta.billed_units.input_tokens > 0
    ranked = client.rerank(model="tiny", query="oven", documents=TEXTS, top_n=2)
    scores = model.similarity(model.encode_query("oven"), model.encode_document(TEXTS))[0].numpy()
    assert [one.index for one in ranked.results] == list(np.argsort(-scores)[:2])
    with pytest.raises(cohere.errors.NotFoundError, match="'tiny', which is served here"):
        client.embed(model="other", texts=["a"], input_type="search_query", embedding_types=["float"])


def test_one_input_is_bit_for_bit_that_of_encode(address: str, model: SentenceTransformer) -> None:
    for text in TEXTS:
        alone = post(f"{address}/v1/embeddings", input=text, input_type="query")["data"][0]["embedding"]
        assert np.array_equal(np.float32(alone), model.encode_query(text))


def test_cohere_bodies_that_cannot_work(address: str) -> None:
    url = f"{address}/v2/embed"
    good: dict[str, Any] = {"texts": ["a"], "input_type": "search_document"}
    assert "one list of 'texts', 'images' or 'inputs'" in error(url, input_type="search_query")
    assert "one list of 'texts'" in error(url, **good, images=["data:image/png;base64,AAAA"])
    assert "input_type: expected 'search_query'" in error(url, texts=["a"])
    assert "embedding_types: expected some of" in error(url, **good, embedding_types=["int4"])
    assert "output_dimension: expected a number from 1" in error(url, **good, output_dimension="4")
    assert "max_tokens" in error(url, **good, max_tokens=5)
    assert "truncate: expected 'NONE'" in error(url, **good, truncate="START")
    long = "bread " * 2000
    assert "input 1: expected at most" in error(url, texts=["a", long], input_type="search_document", truncate="NONE")
    assert "opens no address and no file" in error(url, images=["http://127.0.0.1/"], input_type="image")


def test_number_formats_in_openais_words(address: str, model: SentenceTransformer) -> None:
    url = f"{address}/v1/embeddings"
    binary = post(url, input=TEXTS, output_dtype="ubinary")["data"]
    expected = quantize_embeddings(model.encode_document(TEXTS), "ubinary")
    assert np.array_equal([one["embedding"] for one in binary], expected)
    packed = post(url, input=TEXTS[0], output_dtype="ubinary", encoding_format="base64")["data"][0]["embedding"]
    assert base64.b64decode(packed) == expected[0].tobytes()
    assert "output_dtype: expected one of" in error(url, input="a", output_dtype="float64")


def test_scores_of_pairs(address: str, model: SentenceTransformer) -> None:
    query, documents = model.encode_query(["oven", "dough"]), model.encode_document(TEXTS)
    expected = model.similarity(query, documents).numpy()
    one = post(f"{address}/score", queries="oven", documents=TEXTS)["data"]
    np.testing.assert_allclose([row["score"] for row in one], expected[0], atol=1e-6)
    pairs = post(f"{address}/v1/score", text_1=["oven", "dough"], text_2=TEXTS[:2])["data"]
    np.testing.assert_allclose([row["score"] for row in pairs], [expected[0, 0], expected[1, 1]], atol=1e-6)
    assert "as many as documents (4), got 2" in error(f"{address}/score", queries=["a", "b"], documents=TEXTS)


def test_truncation_is_told_by_a_reranker_too(tiny_bert: Path) -> None:
    reranker = CrossEncoder(str(tiny_bert), num_labels=1, device="cpu")
    with running(Served("pairs", reranker=reranker)) as (url, _):
        long = "bread " * 3 * int(reranker.max_seq_length or 512)
        answer = httpx.post(f"{url}/rerank", json={"query": "bread", "documents": ["bread", long]}, timeout=60)
        assert answer.headers["x-omnitune-truncated"] == "1/2"
        assert (
            "x-omnitune-truncated"
            not in httpx.post(f"{url}/rerank", json={"query": "bread", "documents": ["bread"]}, timeout=60).headers
        )


def test_late_interaction_at_all_routes(model: SentenceTransformer) -> None:
    late = MultiVectorEncoder.from_dense(model, device="cpu")
    with running(Served("late", encoder=late)) as (url, _):
        found = post(f"{url}/v1/embeddings", input=TEXTS)["data"]
        expected = late.encode_document(TEXTS, convert_to_numpy=True)
        for row, vectors in zip(found, expected, strict=True):
            np.testing.assert_allclose(row["embedding"], vectors, atol=1e-6)
        packed = post(f"{url}/v1/embeddings", input=TEXTS[1], encoding_format="base64")["data"][0]
        assert packed["shape"] == list(expected[1].shape)
        scores = late.similarity(late.encode_query(["oven"]), late.encode_document(TEXTS))[0].numpy()
        ranked = post(f"{url}/rerank", query="oven", documents=TEXTS)["results"]
        assert [one["index"] for one in ranked] == list(np.argsort(-scores))
        np.testing.assert_allclose(ranked[0]["relevance_score"], scores.max(), atol=1e-5)
        assert httpx.get(f"{url}/info").json()["embeddings"] == "late-interaction"
        assert "one vector an input, got a late-interaction one" in error(
            f"{url}/v2/embed", texts=["a"], input_type="search_query"
        )
        assert "dimensions: expected none" in error(f"{url}/v1/embeddings", input="a", dimensions=4)


def test_a_model_that_cuts_nothing_states_no_limit(st_static: Path) -> None:
    with running(Served("static", encoder=SentenceTransformer(str(st_static), device="cpu"))) as (url, _):
        assert httpx.get(f"{url}/info").json()["max_input_tokens"] is None


def test_sparse_at_all_routes(tiny_masked_bert: Path) -> None:
    sparse = SparseEncoder(str(tiny_masked_bert), device="cpu")
    with running(Served("sparse", encoder=sparse)) as (url, _):
        found = post(f"{url}/v1/embeddings", input=TEXTS)["data"]
        expected = sparse.encode_document(TEXTS).to_dense().numpy()
        made = np.zeros_like(expected)
        for row, one in enumerate(found):
            made[row, [pair["index"] for pair in one["embedding"]]] = [pair["value"] for pair in one["embedding"]]
        np.testing.assert_allclose(made, expected, atol=1e-5)
        scores = sparse.similarity(sparse.encode_query(["oven"]), sparse.encode_document(TEXTS))[0].numpy()
        ranked = post(f"{url}/rerank", query="oven", documents=TEXTS)["results"]
        np.testing.assert_allclose([one["relevance_score"] for one in ranked], -np.sort(-scores), atol=1e-4)


def test_images_in_every_spelling(tiny_clip: Path) -> None:
    model = SentenceTransformer(str(tiny_clip), device="cpu")
    image = Image.new("RGB", (30, 20), "red")
    data, expected = data_uri(image), model.encode_document([image])[0]
    part = {"type": "image_url", "image_url": {"url": data}}
    with running(Served("clip", encoder=model)) as (url, _):
        openai = f"{url}/v1/embeddings"
        for body in (
            {"input": {"image": data}},
            {"input": [{"content": [part]}]},
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": data}]}]},
        ):
            np.testing.assert_allclose(post(openai, **body)["data"][0]["embedding"], expected, atol=1e-6)
        for body in ({"images": [data]}, {"inputs": [{"content": [part]}]}):
            found = post(f"{url}/v2/embed", **body, input_type="search_document")["embeddings"]["float"]
            np.testing.assert_allclose(found[0], expected, atol=1e-6)
        scores = model.similarity(model.encode_query("red"), model.encode_document([image, {"text": "red"}]))[0]
        ranked = post(f"{url}/rerank", query="red", documents=[{"image": data}, "red"])["results"]
        assert [one["index"] for one in ranked] == scores.argsort(descending=True).tolist()
        seen = post(f"{url}/rerank", query={"image": data}, documents=["red", "blue"], return_documents=True)["results"]
        assert {one["document"]["text"] for one in seen} == {"red", "blue"}
        assert "at most one medium of a kind" in error(openai, input=[{"content": [part, part]}])
        assert "one message" in error(openai, messages=[{"content": "a"}, {"content": "b"}])


def bomb() -> bytes:
    """A PNG of 2 GB of pixels in 3 kB."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 10**6)) + chunk(b"IEND", b"")
    )


def test_hostile_media_and_bodies_have_one_clear_answer_each(tiny_clip: Path) -> None:
    opened = socket.create_server(("127.0.0.1", 0))
    opened.settimeout(0.2)
    port = opened.getsockname()[1]
    with running(Served("clip", encoder=SentenceTransformer(str(tiny_clip), device="cpu"))) as (url, _):
        openai = f"{url}/v1/embeddings"
        places = [f"http://127.0.0.1:{port}/", f"http://[::1]:{port}/", "http://169.254.169.254/latest/meta-data",
                  "https://httpbin.invalid/redirect-to?url=http://127.0.0.1", "file:///etc/passwd", "/etc/passwd",
                  "ftp://127.0.0.1/a.png", "gopher://127.0.0.1"]  # fmt: skip
        for place in places:
            for body in (
                {"input": [{"image": place}]},
                {"input": [{"content": [{"type": "image_url", "image_url": {"url": place}}]}]},
            ):
                assert "opens no address and no file" in error(openai, **body)
            assert "opens no address and no file" in error(f"{url}/rerank", query="a", documents=[{"image": place}])
            assert "opens no address and no file" in error(f"{url}/score", queries={"image": place}, documents=["a"])
            assert "opens no address and no file" in error(f"{url}/v2/embed", images=[place], input_type="image")
        with pytest.raises(TimeoutError):
            opened.accept()
        data = f"data:image/png;base64,{base64.b64encode(bomb()).decode()}"
        assert "too many pixels" in error(openai, input=[{"image": data}])
        assert "data:image/png;base64" not in error(openai, input=[{"image": "data:image/png;base64,%%%"}])[60:]
        assert "from 1 to 2048 inputs, got 1000000" in error(openai, input=["a"] * 10**6)
        assert post(openai, input="still there")["data"]
    opened.close()


def test_a_request_that_does_not_get_on_is_given_up(
    model: SentenceTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run.PatientProtocol, "seconds", 0.3)
    head = b"POST /v1/embeddings HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    whole = head + b"Content-Length: 13\r\n\r\n"
    with running(Served("tiny", encoder=model), patience=0.3) as (url, _):
        place = ("127.0.0.1", int(url.rpartition(":")[2]))
        for sent in (b"", head, whole, whole + b'{"inp'):
            with socket.create_connection(place, timeout=20) as client:
                client.sendall(sent)
                answer = client.recv(4096)
                assert answer.startswith(b"HTTP/1.1 408"), (sent, answer)
        with httpx.Client() as client:  # a connection that is kept is not given up while it works
            for _ in range(3):
                assert client.post(f"{url}/v1/embeddings", json={"input": "a"}).status_code == 200
                time.sleep(0.2)


def test_memory_that_runs_out_makes_later_batches_smaller() -> None:
    sizes = []

    def work(items: Any) -> Any:
        sizes.append(len(items))
        if len(items) > 4:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:114] DefaultCPUAllocator: can't allocate memory")
        return items

    worker = Worker({"a": work}, budget=8000)
    first = worker.submit("a", range(8), [1000] * 8)
    assert [one.result(30) for one in first] == list(range(8))
    second = worker.submit("a", range(8), [1000] * 8)
    assert [one.result(30) for one in second] == list(range(8))
    assert sizes == [8, 4, 4, 4, 4] and worker.budget == 4000
    alone = worker.submit("a", [1], [10_000])
    assert alone[0].result(30) == 1
    worker.stop()


@pytest.mark.slow
def test_a_killed_server_starts_again_and_sigterm_finishes(model: SentenceTransformer, tmp_path: Path) -> None:
    model.save_pretrained(str(tmp_path / "model"))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    start = "from omnitune.cli.main import main; main()"
    command = [sys.executable, "-c", start, "serve", str(tmp_path / "model"), "--port", str(port)]

    def started() -> "subprocess.Popen[bytes]":
        process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL,
                                   stdout=subprocess.DEVNULL)  # fmt: skip
        deadline = time.monotonic() + 100
        while time.monotonic() < deadline and process.poll() is None:
            try:
                if httpx.get(f"{url}/ready").status_code == 200:
                    return process
            except httpx.TransportError:
                time.sleep(0.1)
        raise AssertionError(f"no server, exit code {process.poll()}")

    def many() -> httpx.Response:
        texts = [f"{number} " + "bread " * 400 for number in range(400)]
        return httpx.post(f"{url}/v1/embeddings", json={"input": texts}, timeout=100)

    def waiting() -> None:
        deadline = time.monotonic() + 60
        while "omnitune_queue_inputs 0\n" in httpx.get(f"{url}/metrics").text and time.monotonic() < deadline:
            time.sleep(0.005)

    with ThreadPoolExecutor(1) as pool:
        killed = started()
        answer = pool.submit(many)
        waiting()
        killed.kill()
        assert killed.wait(30) == -signal.SIGKILL
        with pytest.raises(httpx.TransportError):
            answer.result(60)
        again = started()
        answer = pool.submit(many)
        waiting()
        again.terminate()
        assert len(answer.result(100).json()["data"]) == 400
        assert again.wait(60) in (0, 128 + signal.SIGTERM)
