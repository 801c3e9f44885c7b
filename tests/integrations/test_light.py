"""Adapters of frameworks in the extra `dev`: LangChain, LlamaIndex, Haystack, LanceDB, each the real library."""

import asyncio
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omnitune import CrossEncoder, SentenceTransformer
from omnitune.errors import InputError

os.environ.setdefault("HAYSTACK_TELEMETRY_ENABLED", "False")

TEXTS = ["the bearing is greased weekly", "prices are in euros", "the pump runs at night"]
QUERY = "how often is it greased"


@pytest.fixture(scope="module")
def encoder(st_dense: Path) -> SentenceTransformer:
    """With prompts for queries and documents."""
    return SentenceTransformer(str(st_dense), device="cpu")


@pytest.fixture(scope="module")
def reranker(tiny_bert: Path) -> CrossEncoder:
    return CrossEncoder(str(tiny_bert), num_labels=1, device="cpu")


@pytest.fixture(scope="module")
def expected(encoder: SentenceTransformer) -> tuple[Any, Any]:
    """Vectors of the query and of the documents, which differ by their prompts."""
    query, documents = encoder.encode_query(QUERY), encoder.encode_document(TEXTS)
    assert np.abs(query - encoder.encode(QUERY)).max() > 1e-3
    assert np.abs(documents - encoder.encode(TEXTS)).max() > 1e-3
    return query, documents


def test_langchain(encoder: SentenceTransformer, reranker: CrossEncoder, expected: tuple[Any, Any]) -> None:
    pytest.importorskip("langchain_core", reason="LangChain is not installed")
    from langchain_core.vectorstores import InMemoryVectorStore

    from omnitune.integrations.langchain import OmnituneCrossEncoder, OmnituneEmbeddings

    embeddings = OmnituneEmbeddings(encoder)
    np.testing.assert_allclose(embeddings.embed_query(QUERY), expected[0], atol=1e-6)
    np.testing.assert_allclose(embeddings.embed_documents(TEXTS), expected[1], atol=1e-6)
    np.testing.assert_allclose(asyncio.run(embeddings.aembed_query(QUERY)), expected[0], atol=1e-6)
    assert embeddings.embed_documents([]) == []
    store = InMemoryVectorStore(embeddings)
    store.add_texts(TEXTS)
    cosine = expected[1] @ expected[0] / np.linalg.norm(expected[1], axis=1)
    assert store.similarity_search(QUERY, k=1)[0].page_content == TEXTS[int(cosine.argmax())]
    pairs = [(QUERY, text) for text in TEXTS]
    np.testing.assert_allclose(OmnituneCrossEncoder(reranker).score(pairs), reranker.predict(pairs), atol=1e-6)
    with pytest.raises(InputError, match="model: expected an omnitune.SentenceTransformer"):
        OmnituneEmbeddings(reranker)  # type: ignore[arg-type]


def test_images_and_texts_that_look_like_paths(tiny_clip: Path, page_images: list[Any], tmp_path: Path) -> None:
    pytest.importorskip("langchain_core", reason="LangChain is not installed")
    from omnitune.integrations.langchain import OmnituneEmbeddings

    towers = SentenceTransformer(str(tiny_clip), device="cpu")
    path = tmp_path / "a page.png"
    page_images[0].save(path)
    embeddings = OmnituneEmbeddings(towers)
    np.testing.assert_allclose(embeddings.embed_image([str(path)])[0], towers.encode(page_images[0]), atol=1e-5)
    as_text = embeddings.embed_documents([str(path)])[0]  # what someone wrote opens no file
    np.testing.assert_allclose(as_text, towers.encode({"text": str(path)}), atol=1e-5)
    assert np.abs(np.array(as_text) - embeddings.embed_image([str(path)])[0]).max() > 1e-3


def test_llama_index(
    encoder: SentenceTransformer,
    reranker: CrossEncoder,
    expected: tuple[Any, Any],
    tiny_clip: Path,
    page_images: list[Any],
) -> None:
    pytest.importorskip("llama_index.core", reason="LlamaIndex is not installed")
    from llama_index.core.schema import NodeWithScore, TextNode

    from omnitune.integrations.llama_index import OmnituneEmbedding, OmnituneRerank

    embedding = OmnituneEmbedding(encoder)
    np.testing.assert_allclose(embedding.get_query_embedding(QUERY), expected[0], atol=1e-6)
    np.testing.assert_allclose(embedding.get_text_embedding_batch(TEXTS), expected[1], atol=1e-6)
    np.testing.assert_allclose(asyncio.run(embedding.aget_query_embedding(QUERY)), expected[0], atol=1e-6)
    towers = OmnituneEmbedding(str(tiny_clip))
    page = io.BytesIO()
    page_images[0].save(page, "PNG")
    direct = SentenceTransformer(str(tiny_clip), device="cpu").encode(page_images[0])
    np.testing.assert_allclose(towers.get_image_embedding(page), direct, atol=1e-5)
    nodes = [NodeWithScore(node=TextNode(text=text), score=0.0) for text in TEXTS]
    kept = OmnituneRerank(reranker, top_n=2).postprocess_nodes(nodes, query_str=QUERY)
    best = reranker.rank(QUERY, TEXTS, top_k=2, return_documents=True)
    assert [one.node.get_content() for one in kept] == [one["text"] for one in best]


def test_haystack(
    encoder: SentenceTransformer,
    reranker: CrossEncoder,
    expected: tuple[Any, Any],
    st_dense: Path,
    tiny_clip: Path,
    page_images: list[Any],
    tmp_path: Path,
) -> None:
    pytest.importorskip("haystack", reason="Haystack is not installed")
    from haystack import Document, Pipeline
    from haystack.components.retrievers import InMemoryEmbeddingRetriever
    from haystack.document_stores.in_memory import InMemoryDocumentStore

    from omnitune.integrations.haystack import OmnituneDocumentEmbedder, OmnituneRanker, OmnituneTextEmbedder

    made = OmnituneDocumentEmbedder(encoder).run([Document(content=text) for text in TEXTS])["documents"]
    np.testing.assert_allclose([one.embedding for one in made], expected[1], atol=1e-6)
    store = InMemoryDocumentStore(embedding_similarity_function="cosine")
    store.write_documents(made)
    pipeline = Pipeline()
    pipeline.add_component("embedder", OmnituneTextEmbedder(str(st_dense)))
    pipeline.add_component("retriever", InMemoryEmbeddingRetriever(store))
    pipeline.add_component("ranker", OmnituneRanker(reranker, top_k=2))
    pipeline.connect("embedder.embedding", "retriever.query_embedding")
    pipeline.connect("retriever.documents", "ranker.documents")
    found = pipeline.run({"embedder": {"text": QUERY}, "ranker": {"query": QUERY}})["ranker"]["documents"]
    best = reranker.rank(QUERY, TEXTS, top_k=2, return_documents=True)
    assert [one.content for one in found] == [one["text"] for one in best]
    again = OmnituneTextEmbedder.from_dict(OmnituneTextEmbedder(str(st_dense), truncate_dim=8).to_dict())
    assert len(again.run(QUERY)["embedding"]) == 8
    with pytest.raises(InputError, match="model: expected a path, with which a pipeline can be saved"):
        OmnituneTextEmbedder(encoder).to_dict()
    page_images[0].save(tmp_path / "page.png")
    page = Document(meta={"file_path": str(tmp_path / "page.png")})
    (seen,) = OmnituneDocumentEmbedder(str(tiny_clip)).run([page])["documents"]
    direct = SentenceTransformer(str(tiny_clip), device="cpu").encode(page_images[0])
    np.testing.assert_allclose(seen.embedding, direct, atol=1e-5)
    with pytest.raises(InputError, match="documents: expected text, a blob or meta"):
        OmnituneDocumentEmbedder(encoder).run([Document()])


def test_lancedb_keeps_the_model_with_the_table(expected: tuple[Any, Any], st_dense: Path, tmp_path: Path) -> None:
    lancedb: Any = pytest.importorskip("lancedb", reason="LanceDB is not installed")
    from lancedb.pydantic import LanceModel, Vector

    from omnitune.integrations.lancedb import OmnituneFunction

    embed = OmnituneFunction.create(path=str(st_dense))

    class Page(LanceModel):  # type: ignore[misc]
        text: str = embed.SourceField()
        vector: Vector(embed.ndims()) = embed.VectorField()  # type: ignore[valid-type]

    lancedb.connect(tmp_path).create_table("pages", schema=Page).add([{"text": text} for text in TEXTS])
    table = lancedb.connect(tmp_path).open_table("pages")
    kept = table.to_arrow()
    np.testing.assert_allclose(np.stack(kept["vector"].to_numpy()), expected[1], atol=1e-6)
    nearest = np.linalg.norm(expected[1] - expected[0], axis=1).argmin()
    assert table.search(QUERY).limit(1).to_list()[0]["text"] == TEXTS[int(nearest)]
