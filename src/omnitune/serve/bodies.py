"""Bodies of requests, checked: OpenAI's embeddings, Cohere's and Jina's rerank, and search."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from omnitune.errors import InputError, MediaRefusedError

MOST_INPUTS = 2048
"""Inputs of one request, as in OpenAI's API."""
ROLES = {
    "query": "query",
    "search_query": "query",
    "document": "document",
    "passage": "document",
    "search_document": "document",
}
_MEDIA = ("image", "audio", "video")


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingRequest:
    """A checked body of `/v1/embeddings`."""

    items: list[Any]
    role: str
    dimensions: int | None
    base64: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankRequest:
    """A checked body of `/rerank`."""

    query: str
    documents: list[str]
    top_n: int
    return_documents: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchRequest:
    """A checked body, or the query string, of `/search`."""

    query: str
    top_k: int
    where: Mapping[str, Any] | None


def json_object(body: bytes) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        InputError: It is none.
    """
    try:
        value = json.loads(body)
        if b"\\ud" in body.lower():
            json.dumps(value, ensure_ascii=False).encode()  # half of a surrogate pair is no text
    except (ValueError, RecursionError) as error:
        raise InputError(f"body: expected JSON, got {str(body[:40])[2:-1]!r}: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"body: expected a JSON object, got {type(value).__name__}")
    return value


def embedding_request(body: Mapping[str, Any]) -> EmbeddingRequest:
    """Check a body of `/v1/embeddings`.

    Raises:
        InputError: A field has a value that cannot work, or the inputs are token ids.
        MediaRefusedError: A medium is named by an address or a path.
    """
    given = body.get("input")
    items = given if isinstance(given, list) else [given]
    if not items or len(items) > MOST_INPUTS:
        raise InputError(f"input: expected from 1 to {MOST_INPUTS} inputs, got {len(items)}")
    if all(_is_id(item) or (isinstance(item, list) and item and all(map(_is_id, item))) for item in items):
        raise InputError(
            "input: expected text, got token ids of a tokenizer that this model does not use; send the text itself "
            "(in LangChain: OpenAIEmbeddings(..., check_embedding_ctx_length=False))"
        )
    encoding = body.get("encoding_format") or "float"
    if encoding not in ("float", "base64"):
        raise InputError(f"encoding_format: expected 'float' or 'base64', got {encoding!r}")
    dimensions = body.get("dimensions")
    if dimensions is not None and (not _is_id(dimensions) or dimensions < 1):
        raise InputError(f"dimensions: expected a number from 1, got {dimensions!r}")
    role = body.get("input_type") or "document"
    if not isinstance(role, str) or role not in ROLES:
        raise InputError(f"input_type: expected one of {list(ROLES)}, got {role!r}")
    return EmbeddingRequest(
        items=[_input(item) for item in items],
        role=ROLES[role],
        dimensions=dimensions,
        base64=encoding == "base64",
    )


def rerank_request(body: Mapping[str, Any]) -> RerankRequest:
    """Check a body of `/rerank`.

    Raises:
        InputError: A field has a value that cannot work.
    """
    documents = body.get("documents")
    if not isinstance(documents, list) or not documents or len(documents) > MOST_INPUTS:
        shown = len(documents) if isinstance(documents, list) else repr(documents)[:80]
        raise InputError(f"documents: expected a list of 1 to {MOST_INPUTS} texts, got {shown}")
    texts: list[str] = []
    for place, one in enumerate(documents):
        text = one.get("text") if isinstance(one, dict) else one
        if not isinstance(text, str):
            raise InputError(f"documents: expected text, got {repr(one)[:80]} as number {place}")
        texts.append(text)
    wanted = body.get("return_documents") or False
    if not isinstance(wanted, bool):
        raise InputError(f"return_documents: expected true or false, got {wanted!r}")
    return RerankRequest(
        query=_query(body.get("query")),
        documents=texts,
        top_n=len(texts) if body.get("top_n") is None else _number("top_n", body["top_n"]),
        return_documents=wanted,
    )


def search_request(body: Mapping[str, Any]) -> SearchRequest:
    """Check a body of `/search`: `query`, `top_k` (10), `where`, `document`.

    Raises:
        InputError: A field has a value that cannot work.
    """
    where = body.get("where") or {}
    if not isinstance(where, dict) or not all(_is_value(value) for value in where.values()):
        raise InputError(f"where: expected an object of values or lists of them, got {repr(where)[:80]}")
    document = body.get("document")
    if document:
        if not _is_value(document):
            raise InputError(f"document: expected a name or a list of them, got {repr(document)[:80]}")
        where = {**where, "document": document}
    top_k = _number("top_k", body.get("top_k") or 10)
    return SearchRequest(query=_query(body.get("query")), top_k=min(top_k, 100), where=where or None)


def _is_value(value: Any) -> bool:
    some = value if isinstance(value, list) else [value]
    return all(isinstance(one, str | int | float) for one in some)


def _number(name: str, value: Any) -> int:
    number = int(value) if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10 else value
    if not _is_id(number) or number < 1:
        raise InputError(f"{name}: expected a number from 1, got {repr(value)[:80]}")
    return int(number)


def _query(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"query: expected text, got {repr(value)[:80]}")
    return value


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _input(item: Any) -> Any:
    """An input of the model: text, or a dict of text and media as data URIs."""
    if isinstance(item, str) and item:
        return item
    if isinstance(item, dict) and item and set(item) <= {"text", *_MEDIA}:
        for kind, value in item.items():
            if not isinstance(value, str) or not value:
                raise InputError(f"input: expected a string as {kind!r}, got {repr(value)[:80]}")
            if kind != "text" and not value.startswith("data:"):
                raise MediaRefusedError(
                    f"input: expected {kind} as a data URI (data:{kind}/...;base64,...), got {value[:80]!r}; this "
                    "server opens no address and no file"
                )
        return item
    raise InputError(
        f'input: expected text that is not empty, or an object such as {{"image": "data:..."}}, got {repr(item)[:80]}'
    )
