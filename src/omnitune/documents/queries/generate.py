"""Questions that a model writes about pages, recordings and clips, and what becomes of them.

The kind of a file decides how it is shown and what is asked (`shown`). Only what is trained on is shown: people's own
titles and captions stay the test. Answers pass the filters of `preparation` (no pointing at the page, no copied
phrases, the page's language, found again by BM25).
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from omnitune import runtime
from omnitune.documents.dataset import DocumentDataset
from omnitune.documents.queries import shown
from omnitune.documents.queries.endpoint import Endpoint
from omnitune.documents.queries.extract import is_listing
from omnitune.documents.read.text import normalize_key
from omnitune.documents.rows import refusal, round_trip
from omnitune.io import digest, write_jsonl

_MARK = re.compile(r"^\s*(?:[-*\u2022]|\(?\d+[.):]|[Qq]\d*[.:])\s+")


class QueryWriter(Protocol):
    """Writes questions about page images, recordings and clips; `identity` changes when they would."""

    identity: str

    def __call__(self, pages: Sequence[Path]) -> list[list[str]]:
        """For each file its questions."""


class EndpointWriter:
    """Questions of a model behind an OpenAI-compatible API; media travel in the request.

    Args:
        endpoint: The model.
        per_page: Most questions of one page.
        max_tokens: Most tokens of one answer.
        log: Called with the cost before and after, in tokens.
    """

    def __init__(self, endpoint: Endpoint, *, per_page: int, max_tokens: int, log: Callable[[str], None]) -> None:
        self.endpoint, self.per_page, self.max_tokens, self.log = endpoint, per_page, max_tokens, log
        self.prompts = {kind: shown.request(kind, per_page) for kind in shown.SUBJECTS}
        self.identity = digest(["endpoint", endpoint.url, endpoint.model, self.prompts, max_tokens])

    def __call__(self, pages: Sequence[Path]) -> list[list[str]]:
        """For each file its questions."""
        kinds = [shown.kind_of(page) for page in pages]
        questions = [
            {"prompt": self.prompts[kind], "max_tokens": self.max_tokens, kind: file_hash(page)}
            for page, kind in zip(pages, kinds, strict=True)
        ]
        self._estimate(pages, kinds, [self.endpoint.known(one) for one in questions])
        answers = []
        bodies = [partial(self._body, page, kind) for page, kind in zip(pages, kinds, strict=True)]
        with runtime.progress_bar(label="Writing queries", total=len(pages), unit="item") as bar:
            for answer in self.endpoint.ask_all(questions, bodies):
                answers.append(answer)
                bar.update()
        paid = [kind for kind, answer in zip(kinds, answers, strict=True) if not answer.kept]
        silent = sum(not answer.counted for answer in answers if not answer.kept)
        into, out = (
            sum(getattr(one, f"{side}_tokens") for one in answers if not one.kept) for side in ("prompt", "completion")
        )
        self.log(
            f"Written: {into:,} tokens in, {out:,} out for {shown.counted(paid)}; "
            f"{len(answers) - len(paid):,} from disk"
            + (f"; the server did not count the tokens of {silent:,}" if silent else "")
        )
        return [parse(answer.text, self.per_page) for answer in answers]

    def _estimate(self, pages: Sequence[Path], kinds: Sequence[shown.ShownKind], known: Sequence[bool]) -> None:
        new = [(page, kind) for page, kind, there in zip(pages, kinds, known, strict=True) if not there]
        old = [kind for kind, there in zip(kinds, known, strict=True) if there]
        tokens = sum(len(self.prompts[kind]) // 4 + shown.tokens(page, kind) for page, kind in new)
        self.log(
            f"{self.endpoint.model} at {self.endpoint.url} writes {self.per_page} queries for each of "
            f"{shown.counted([kind for _, kind in new])}: about {tokens:,} tokens in, at most "
            f"{len(new) * self.max_tokens:,} out; {shown.counted(old)} were written before and cost nothing"
        )

    def _body(self, page: Path, kind: shown.ShownKind) -> dict[str, Any]:
        content = [*shown.content(page, kind), {"type": "text", "text": self.prompts[kind]}]
        return {"messages": [{"role": "user", "content": content}], "max_tokens": self.max_tokens}


def parse(text: str, most: int) -> list[str]:
    """Questions of an answer: a line each, or a JSON list, without numbers, bullets and quotation marks."""
    lines: list[str] = [line for line in text.splitlines() if not line.strip().startswith("```")]
    listed = re.search(r"\[.*\]", text, re.DOTALL)
    if listed:
        try:
            found = json.loads(listed[0])
        except json.JSONDecodeError:
            found = []
        if found and all(isinstance(one, str) for one in found):
            lines = found
    return list(dict.fromkeys(_bare(line) for line in lines if _bare(line)))[:most]


def _bare(line: str) -> str:
    bare = _MARK.sub("", line).strip().strip("\"'\u201c\u201d\u00ab\u00bb`").strip()
    return "" if bare.rstrip(".").upper() == "NONE" or bare.endswith(":") else bare


def file_hash(page: Path) -> str:
    """Hash a file's content, so that an answer about it is found again wherever it lies."""
    return hashlib.blake2b(page.read_bytes(), digest_size=16).hexdigest()


def generate(
    dataset: DocumentDataset, writer: QueryWriter, out: Path, *, limit: int | None = None, depth: int = 100
) -> Counter[str]:
    """Write questions about a dataset's training pages into a JSONL file, each with the filter that refuses it.

    Args:
        dataset: Pages.
        writer: Asks about them.
        out: Rows of `page_id`, `query`, and `dropped`: the reason, "" for a question that would be trained on.
        limit: Pages to ask about; None takes all.
        depth: A question is kept if BM25 finds its page among so many.

    Returns:
        Number of questions by reason, "" for the kept.
    """
    table = dataset.tables["pages"]
    columns = (table["side"], table["left_out_for"], table["fingerprint"], table["text"])
    rows = [
        row
        for row, (side, held_out_page, fingerprint, text) in enumerate(zip(*columns, strict=True))
        if side == "train" and not held_out_page and fingerprint and not is_listing(text)
    ][:limit]
    asked = writer([Path(dataset.pages[row]["path"]) for row in rows])
    pairs = [(row, query) for row, queries in zip(rows, asked, strict=True) for query in queries]
    texts = {dataset.page_ids[row]: dataset.page_texts[row] for row, side in enumerate(columns[0]) if side == "train"}
    found = round_trip(depth)([query for _, query in pairs], [dataset.page_ids[row] for row, _ in pairs], texts)
    held_out = {normalize_key(query) for side in (dataset.test, dataset.validation) for query in side.queries.values()}
    made = []
    for (row, query), good in zip(pairs, found, strict=True):
        reason = refusal(query, dataset.page_texts[row], written=True) or ("" if good else "round trip")
        if normalize_key(query) in held_out:
            reason = "also asked in the test"
        made.append({"page_id": dataset.page_ids[row], "query": query, "dropped": reason})
    write_jsonl(out, made)
    return Counter(one["dropped"] for one in made)
