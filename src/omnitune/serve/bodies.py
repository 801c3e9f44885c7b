"""Bodies of requests, checked: embeddings of OpenAI and Cohere, rerank of Cohere and Jina, scores, and search."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from starlette.exceptions import HTTPException
from starlette.requests import Request

from omnitune.errors import InputError, MediaRefusedError
from omnitune.ops.quantize import Precision
from omnitune.places import hint

MOST_INPUTS = 2048
"""Inputs of one request, as in OpenAI's API."""
MOST_HITS = 100
"""Hits of one search."""
EMBEDDINGS = (
    *("model", "input", "messages", "input_type", "dimensions", "encoding_format", "output_dtype", "truncate"),
    *("user", "priority"),
)
COHERE = (
    *("model", "texts", "images", "inputs", "input_type", "embedding_types", "output_dimension", "truncate"),
    *("max_tokens", "priority"),
)
RERANK = ("model", "query", "documents", "top_n", "return_documents", "user", "priority")
SCORE = ("model", "queries", "documents", "text_1", "text_2", "user", "priority")
SEARCH = ("query", "q", "top_k", "document", "ranking", "where", "image")
WHY = ("q", "query", "page")
FEEDBACK = ("query", "page", "label", "rank")
"""Names in bodies and addresses; `user` and `priority` of OpenAI's and Cohere's clients change no answer."""
ROLES = {
    "query": "query",
    "search_query": "query",
    "document": "document",
    "passage": "document",
    "search_document": "document",
    "classification": "document",
    "clustering": "document",
    "image": "document",
}
"""What clients call a role, and whether it is that of a query or of a document."""
TYPES: Mapping[str, Precision] = {"float": "float32", **{one: one for one in get_args(Precision) if one != "float32"}}
"""Number formats of vectors by their names in requests."""
_MEDIA = ("image", "audio", "video")
_PARTS = {"image_url": "image", "audio_url": "audio", "video_url": "video", **{one: one for one in _MEDIA}}
"""Types of the parts of a message, and the medium that each holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingRequest:
    """A checked request for embeddings.

    Attributes:
        items: Texts, or objects of text and media.
        role: "query" or "document".
        dimensions: To keep; None for all.
        types: Number formats to answer with, by their names in requests; "base64" is float in base64.
        whole: Whether an input that would be cut is an error.
    """

    items: list[Any]
    role: str
    dimensions: int | None
    types: Sequence[str]
    whole: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankRequest:
    """A checked body of `/rerank`."""

    query: Any
    documents: list[Any]
    top_n: int
    return_documents: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchRequest:
    """A checked body, or the query string, of `/search`.

    Attributes:
        query: Text; "" where there is an image instead.
        image: A data URI, or None.
        top_k: Pages to find.
        where: Values that they must have.
        ranking: "chosen", or the stage that ranks alone.
    """

    query: str
    image: str | None
    top_k: int
    where: Mapping[str, Any] | None
    ranking: str


async def read_json(request: Request, names: Sequence[str]) -> dict[str, Any]:
    """Read the JSON object in the body of a request.

    A form of another site can make a browser send a body, cookies and passwords included, but none that is declared as
    JSON. So one rule holds for all routes, also where an old browser does not name the site.

    Args:
        request: The request.
        names: That the object may have.

    Raises:
        HTTPException: It is not declared as JSON.
        InputError: It is no JSON object, or has a name that means nothing here.
    """
    given = request.headers.get("content-type", "")
    if given.partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(
            415,
            f"content-type: expected application/json, got {given[:80] or 'none'}; send the header Content-Type: "
            "application/json (curl -H 'Content-Type: application/json')",
        )
    return json_object(await request.body(), names)


def json_object(body: bytes, names: Sequence[str]) -> dict[str, Any]:
    """Read a JSON object.

    Args:
        body: Its text.
        names: That it may have; another one with null counts as left out.

    Raises:
        InputError: It is none, has NaN or Infinity in it, or a name that means nothing here.
    """
    try:
        value = json.loads(body, parse_constant=_no_constant)
        if b"\\ud" in body.lower():
            json.dumps(value, ensure_ascii=False).encode()  # half of a surrogate pair is no text
    except (ValueError, RecursionError) as error:
        raise InputError(f"body: expected JSON, got {str(body[:40])[2:-1]!r}: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"body: expected a JSON object, got {type(value).__name__}")
    check_names((name for name, one in value.items() if one is not None), names)
    return value


def check_names(given: Iterable[str], known: Sequence[str]) -> None:
    """Refuse a name that nothing reads: what it asks for would be left out without a word.

    Raises:
        InputError: Names it, and one that is near.
    """
    for name in given:
        if name not in known:
            raise InputError(f"body: expected some of {', '.join(known)}, got {name[:80]!r}{hint(name, known)}")


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _either(body: Mapping[str, Any], *names: str) -> tuple[str, Any]:
    """The one of several spellings that a body has, and its value.

    Raises:
        InputError: It has two.
    """
    given = [name for name in names if body.get(name) is not None]
    if len(given) > 1:
        raise InputError(f"{given[1]}: expected one of {' and '.join(names)}, got both")
    return (given[0], body[given[0]]) if given else (names[0], None)


def embedding_request(body: Mapping[str, Any]) -> EmbeddingRequest:
    """Check a body of `/v1/embeddings`.

    Raises:
        InputError: A field has a value that cannot work, or the inputs are token ids.
        MediaRefusedError: A medium is named by an address or a path.
    """
    name, held = _either(body, "input", "messages")
    if name == "messages":
        messages = held
        if not isinstance(messages, list) or len(messages) != 1 or not isinstance(messages[0], dict):
            shown = len(messages) if isinstance(messages, list) else repr(messages)[:80]
            raise InputError(f"messages: expected one message, which becomes one embedding, got {shown}")
        given: Any = [{"content": messages[0].get("content")}]
    else:
        given = held
    items = given if isinstance(given, list) else [given]
    _check_count("input", items)
    if all(_is_id(item) or (isinstance(item, list) and item and all(map(_is_id, item))) for item in items):
        raise InputError(
            "input: expected text, got token ids of a tokenizer that this model does not use; send the text itself "
            "(in LangChain: OpenAIEmbeddings(..., check_embedding_ctx_length=False))"
        )
    encoding = _given(body, "encoding_format", "float")
    if encoding not in ("float", "base64"):
        raise InputError(f"encoding_format: expected 'float' or 'base64', got {repr(encoding)[:80]}")
    kind = _given(body, "output_dtype", "float")
    if not isinstance(kind, str) or kind not in TYPES:
        raise InputError(f"output_dtype: expected one of {list(TYPES)}, got {repr(kind)[:80]}")
    return EmbeddingRequest(
        items=[checked_input(item) for item in items],
        role=_role(_given(body, "input_type", "document")),
        dimensions=_dimensions("dimensions", body.get("dimensions")),
        types=(kind, encoding),
        whole=_whole(body.get("truncate")),
    )


def cohere_request(body: Mapping[str, Any]) -> EmbeddingRequest:
    """Check a body of `/v2/embed`.

    Raises:
        InputError: A field has a value that cannot work.
        MediaRefusedError: A medium is named by an address or a path.
    """
    given = [name for name in ("texts", "images", "inputs") if body.get(name) is not None]
    if len(given) != 1 or not isinstance(items := body[given[0]], list):
        raise InputError(f"body: expected one list of 'texts', 'images' or 'inputs', got {given or sorted(body)[:8]}")
    _check_count(given[0], items)
    if given[0] == "images":
        items = [{"image": item} for item in items]
    role = body.get("input_type")
    if role is None:
        raise InputError(
            "input_type: expected 'search_query' or 'search_document', got none; a query and a document have different "
            "prompts"
        )
    types = _given(body, "embedding_types", ["float"])
    known = (*TYPES, "base64")
    if not isinstance(types, list) or not types or not all(isinstance(one, str) and one in known for one in types):
        raise InputError(f"embedding_types: expected some of {list(known)}, got {repr(types)[:80]}")
    if body.get("max_tokens") is not None:
        raise InputError("max_tokens: expected none, as inputs are cut where the model's window ends; got one")
    return EmbeddingRequest(
        items=[checked_input(item) for item in items],
        role=_role(role),
        dimensions=_dimensions("output_dimension", body.get("output_dimension")),
        types=tuple(dict.fromkeys(types)),
        whole=_whole(body.get("truncate")),
    )


def rerank_request(body: Mapping[str, Any]) -> RerankRequest:
    """Check a body of `/rerank`.

    Raises:
        InputError: A field has a value that cannot work.
        MediaRefusedError: A medium is named by an address or a path.
    """
    documents = body.get("documents")
    if not isinstance(documents, list) or not documents or len(documents) > MOST_INPUTS:
        shown = len(documents) if isinstance(documents, list) else repr(documents)[:80]
        raise InputError(f"documents: expected a list of 1 to {MOST_INPUTS} texts, got {shown}")
    wanted = _given(body, "return_documents", False)
    if not isinstance(wanted, bool):
        raise InputError(f"return_documents: expected true or false, got {repr(wanted)[:80]}")
    return RerankRequest(
        query=_asked(body.get("query")),
        documents=[_document(one, place) for place, one in enumerate(documents)],
        top_n=len(documents) if body.get("top_n") is None else _number("top_n", body["top_n"]),
        return_documents=wanted,
    )


def score_request(body: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    """Check a body of `/score`: pairs of a query and a document, one query for all documents or one for each.

    Raises:
        InputError: A field has a value that cannot work, or there are not as many queries as documents.
        MediaRefusedError: A medium is named by an address or a path.
    """
    sides = []
    for names in (("queries", "text_1"), ("documents", "text_2")):
        name, value = _either(body, *names)
        sides.append(value if isinstance(value, list) else [value])
        _check_count(name, sides[-1])
    queries, documents = sides
    if len(queries) == 1:
        queries = queries * len(documents)
    if len(queries) != len(documents):
        raise InputError(
            f"queries: expected one, or as many as documents ({len(documents)}), got {len(queries)}; a pair is scored"
        )
    checked = [_document(one, place) for place, one in enumerate(documents)]
    return [(_asked(query), document) for query, document in zip(queries, checked, strict=True)]


def search_request(body: Mapping[str, Any], rankings: Sequence[str] = ("chosen",)) -> SearchRequest:
    """Check a body of `/search`: `query` (or `q`) or `image`, `top_k` (10), `where`, `document`, `ranking`.

    Args:
        body: The object.
        rankings: Names that `ranking` may have.

    Raises:
        InputError: A field has a value that cannot work.
        MediaRefusedError: The image is named by an address or a path.
    """
    where = _given(body, "where", {})
    if not isinstance(where, dict) or not all(_is_value(value) for value in where.values()):
        raise InputError(f"where: expected an object of values or lists of them, got {repr(where)[:80]}")
    document = body.get("document")
    if document is not None:
        names = document if isinstance(document, list) else [document]
        if not names or not all(isinstance(one, str) for one in names):
            raise InputError(f"document: expected a name or a list of them, got {repr(document)[:80]}")
        if "document" in where:
            raise InputError("document: expected it once, got it in 'where' too")
        where = {**where, "document": names}
    top_k = _number("top_k", _given(body, "top_k", 10), most=MOST_HITS)
    ranking = _given(body, "ranking", rankings[0])
    if ranking not in rankings:
        raise InputError(f"ranking: expected one of {list(rankings)}, got {repr(ranking)[:80]}")
    name, query = _either(body, "query", "q", "image")
    image = checked_input({"image": query})["image"] if name == "image" else None
    query = "" if name == "image" else checked_query(query)
    return SearchRequest(query=query, image=image, top_k=top_k, where=where or None, ranking=ranking)


def checked_query(value: Any) -> str:
    """A query that says something.

    Raises:
        InputError: It says nothing.
    """
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"query: expected text, got {repr(value)[:80]}")
    return value


def checked_input(item: Any) -> Any:
    """An input of the model: text, or a dict of text and media as data URIs; parts of a message become one.

    Raises:
        InputError: It is neither.
        MediaRefusedError: A medium is named by an address or a path.
    """
    if isinstance(item, str) and item:
        return item
    if isinstance(item, dict) and item.keys() == {"content"}:
        item = _joined(item["content"])
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


def _joined(parts: Any) -> dict[str, str]:
    """One input of the parts of a message: its texts one after another, and at most one medium of each kind."""
    if isinstance(parts, str):
        return {"text": parts}
    made: dict[str, str] = {}
    for part in parts if isinstance(parts, list) else [parts]:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            made["text"] = f"{made['text']}\n{part['text']}" if "text" in made else part["text"]
            continue
        if kind == "input_audio":
            held = part.get(kind)
            name = "audio"
            value = f"data:audio/{held.get('format')};base64,{held.get('data')}" if isinstance(held, dict) else None
        else:
            name = _PARTS.get(kind, "") if isinstance(kind, str) else ""
            held = part.get(kind) if name else None
            value = held.get("url") if isinstance(held, dict) else held
        if not name or not isinstance(value, str) or name in made:
            raise InputError(
                "content: expected parts of type 'text', 'image_url', 'audio_url', 'input_audio' or 'video_url', at "
                f"most one medium of a kind, got {repr(part)[:80]}"
            )
        made[name] = value
    return made


def _document(one: Any, place: int) -> Any:
    if isinstance(one, dict) and "text" in one and not set(one) & {"content", *_MEDIA}:
        one = one["text"]  # Cohere's documents may have other fields beside it
    if one == "":
        return one
    try:
        return checked_input(one)
    except MediaRefusedError:
        raise
    except InputError as error:
        raise InputError(f"documents: expected text, got {repr(one)[:80]} as number {place}") from error


def _asked(value: Any) -> Any:
    return checked_input(value) if isinstance(value, dict) else checked_query(value)


def _check_count(name: str, items: Sequence[Any]) -> None:
    if not items or len(items) > MOST_INPUTS:
        raise InputError(f"{name}: expected from 1 to {MOST_INPUTS} inputs, got {len(items)}")


def _role(value: Any) -> str:
    if not isinstance(value, str) or value not in ROLES:
        raise InputError(f"input_type: expected one of {list(ROLES)}, got {repr(value)[:80]}")
    return ROLES[value]


def _dimensions(name: str, value: Any) -> int | None:
    if value is not None and (not _is_id(value) or value < 1):
        raise InputError(f"{name}: expected a number from 1, got {repr(value)[:80]}")
    return None if value is None else int(value)


def _whole(value: Any) -> bool:
    if value not in (None, "NONE", "END"):
        raise InputError(f"truncate: expected 'NONE' (refuse long inputs) or 'END' (cut them), got {repr(value)[:80]}")
    return bool(value == "NONE")


def _is_value(value: Any) -> bool:
    some = value if isinstance(value, list) else [value]
    return bool(some) and all(isinstance(one, str | int | float) for one in some)


def _number(name: str, value: Any, most: int | None = None) -> int:
    number = int(value) if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10 else value
    if not _is_id(number) or number < 1 or (most is not None and number > most):
        shown = "" if most is None else f" to {most}"
        raise InputError(f"{name}: expected a number from 1{shown}, got {repr(value)[:80]}")
    return int(number)


def _given(body: Mapping[str, Any], name: str, usual: Any) -> Any:
    """The value of a name; the usual one where it is left out or null. Another empty one is no wish for the usual."""
    value = body.get(name)
    return usual if value is None else value


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
