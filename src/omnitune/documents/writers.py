"""Questions that a vision-language model writes about pages, behind an API or on this machine.

Only training pages are shown to it: people's own titles and captions stay the test. What comes back passes the filters
of `preparation` (no pointing at the page, no copied phrases, the page's language, found again by BM25).
"""

import base64
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from omnitune import runtime
from omnitune.documents.dataset import DocumentDataset
from omnitune.documents.default_model import model_identity
from omnitune.documents.encoded import Say
from omnitune.documents.endpoint import Endpoint
from omnitune.documents.preparation import refusal, round_trip
from omnitune.documents.queries import is_listing
from omnitune.documents.recipe import Queries
from omnitune.documents.steps import digest
from omnitune.documents.text import squash
from omnitune.errors import RecipeError
from omnitune.inputs.load import load
from omnitune.inputs.policy import DEFAULT_POLICY
from omnitune.report.records import read_json, write_json, write_jsonl

PROMPT = """\
The image is one page of a document. Write {count} search queries that this page answers, as people would type them who
have never seen it.
- Use the language of the page.
- Each query must make sense alone: never mention "this page", or a figure, table or section of it.
- Use your own words; do not copy phrases.
- Mix short keyword queries and full questions; ask about what is particular to this page.
Answer with one query a line and nothing else. If the page has nothing worth asking about, answer NONE."""

PIXELS_A_TOKEN = 28 * 28
"""What one image token covers in vision-language models of the Qwen family; for the estimate alone."""

WRITERS = ("extractive", "endpoint", "local")

_MARK = re.compile(r"^\s*(?:[-*\u2022]|\(?\d+[.):]|[Qq]\d*[.:])\s+")


class QueryWriter(Protocol):
    """Writes questions about page images; `identity` changes when they would."""

    identity: str

    def __call__(self, pages: Sequence[Path]) -> list[list[str]]:
        """For each page image its questions."""


def make_writer(settings: Queries, say: Say) -> QueryWriter | None:
    """The writer that a recipe asks for; None for `extractive`.

    Raises:
        RecipeError: It needs a model and none is named.
        InputError: The address of the API is not set.
    """
    if settings.writer == "extractive":
        return None
    if not settings.model:
        raise RecipeError(
            f"queries.model: expected the name of a vision-language model for the writer {settings.writer!r}, "
            "got nothing; add queries.model, or --query-model"
        )
    if settings.writer == "local":
        return LocalWriter(settings, say)
    url, key = runtime.endpoint()
    endpoint = Endpoint(
        url=url,
        key=key,
        model=settings.model,
        cache=runtime.cache_folder() / "answers",
        concurrency=settings.concurrency,
        attempts=settings.attempts,
        timeout=settings.timeout,
    )
    return EndpointWriter(endpoint, settings, say)


def asking(settings: Queries, writer: str | None, model: str | None) -> Queries:
    """Settings with what a command says in their place.

    Raises:
        RecipeError: There is no such writer.
    """
    if writer is not None and writer not in WRITERS:
        raise RecipeError(f"queries: expected one of {', '.join(WRITERS)}, got {writer!r}")
    given: dict[str, Any] = {"writer": writer, "model": model}
    return replace(settings, **{name: value for name, value in given.items() if value is not None})


class EndpointWriter:
    """Questions of a model behind an OpenAI-compatible API; images travel as data URLs.

    Args:
        endpoint: The model.
        settings: How many questions, of how many tokens.
        say: Told the cost before and after, in tokens.
    """

    def __init__(self, endpoint: Endpoint, settings: Queries, say: Say) -> None:
        self.endpoint, self.settings, self.say = endpoint, settings, say
        self.prompt = PROMPT.format(count=settings.per_page)
        self.identity = digest(["endpoint", endpoint.url, endpoint.model, self.prompt, settings.max_tokens])

    def __call__(self, pages: Sequence[Path]) -> list[list[str]]:
        """For each page image its questions."""
        questions = [
            {"prompt": self.prompt, "max_tokens": self.settings.max_tokens, "image": _file_hash(page)} for page in pages
        ]
        self._estimate(pages, [self.endpoint.known(one) for one in questions])
        answers = []
        bodies = [partial(self._body, page) for page in pages]
        with runtime.progress_bar(label="Writing queries", total=len(pages), unit="page") as bar:
            for answer in self.endpoint.ask_all(questions, bodies):
                answers.append(answer)
                bar.update()
        paid = [answer for answer in answers if not answer.kept]
        silent = sum(not answer.counted for answer in paid)
        into, out = (sum(getattr(one, f"{side}_tokens") for one in paid) for side in ("prompt", "completion"))
        self.say(
            f"Written: {into:,} tokens in, {out:,} out for {len(paid):,} pages; {len(answers) - len(paid):,} from disk"
            + (f"; the server did not count the tokens of {silent:,}" if silent else "")
        )
        return [parse(answer.text, self.settings.per_page) for answer in answers]

    def _estimate(self, pages: Sequence[Path], known: Sequence[bool]) -> None:
        new = [page for page, there in zip(pages, known, strict=True) if not there]
        tokens = sum(len(self.prompt) // 4 + _pixels(page) // PIXELS_A_TOKEN for page in new)
        self.say(
            f"{self.endpoint.model} at {self.endpoint.url} writes {self.settings.per_page} queries for each of "
            f"{len(new):,} pages: about {tokens:,} tokens in, at most {len(new) * self.settings.max_tokens:,} out; "
            f"{len(pages) - len(new):,} pages were written before and cost nothing"
        )

    def _body(self, page: Path) -> dict[str, Any]:
        kind = "jpeg" if page.suffix.lower() in (".jpg", ".jpeg") else page.suffix.lower().removeprefix(".")
        data = base64.b64encode(page.read_bytes()).decode()
        content = [
            {"type": "image_url", "image_url": {"url": f"data:image/{kind};base64,{data}"}},
            {"type": "text", "text": self.prompt},
        ]
        return {"messages": [{"role": "user", "content": content}], "max_tokens": self.settings.max_tokens}


class LocalWriter:
    """Questions of a vision-language model on this machine; answers are kept on disk like those of an API.

    Args:
        settings: The model, how many questions, of how many tokens.
        say: Told what is written.
    """

    def __init__(self, settings: Queries, say: Say) -> None:
        assert settings.model is not None
        self.settings, self.say = settings, say
        self.prompt = PROMPT.format(count=settings.per_page)
        self.identity = digest(["local", model_identity(settings.model), self.prompt, settings.max_tokens])
        self.cache = runtime.cache_folder() / "answers" / self.identity

    def __call__(self, pages: Sequence[Path]) -> list[list[str]]:
        """For each page image its questions."""
        places = [self.cache / f"{_file_hash(page)}.json" for page in pages]
        new = [(page, place) for page, place in zip(pages, places, strict=True) if not place.is_file()]
        self.say(f"{self.settings.model} writes {self.settings.per_page} queries for each of {len(new):,} pages")
        if new:
            answer = self._loaded()
            for page, place in runtime.progress(new, label="Writing queries", unit="page"):
                write_json(place, answer(load(page, "image", DEFAULT_POLICY)))
        return [parse(read_json(place), self.settings.per_page) for place in places]

    def _loaded(self) -> Callable[[Image.Image], str]:
        """Loads the model; returns what answers for one image."""
        import torch
        from transformers import AutoModelForImageTextToText, AutoProcessor

        processor = AutoProcessor.from_pretrained(self.settings.model)
        model = AutoModelForImageTextToText.from_pretrained(self.settings.model, dtype="auto")
        model.to(runtime.best_device()).eval()

        def answer(image: Image.Image) -> str:
            content = [{"type": "image", "image": image}, {"type": "text", "text": self.prompt}]
            inputs = processor.apply_chat_template(
                [{"role": "user", "content": content}],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
            ).to(model.device)
            with torch.inference_mode():
                made = model.generate(**inputs, max_new_tokens=self.settings.max_tokens, do_sample=False)
            return str(processor.batch_decode(made[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0])

        return answer


def parse(text: str, most: int) -> list[str]:
    """Questions of an answer: a line each, or a JSON list, without numbers, bullets and quotation marks."""
    return list(dict.fromkeys(_bare(line) for line in _lines(text) if _bare(line)))[:most]


def _lines(text: str) -> Iterator[str]:
    listed = re.search(r"\[.*\]", text, re.DOTALL)
    if listed:
        try:
            found = json.loads(listed[0])
        except json.JSONDecodeError:
            found = []
        if found and all(isinstance(one, str) for one in found):
            yield from found
            return
    yield from (line for line in text.splitlines() if not line.strip().startswith("```"))


def _bare(line: str) -> str:
    bare = _MARK.sub("", line).strip().strip("\"'\u201c\u201d\u00ab\u00bb`").strip()
    return "" if bare.rstrip(".").upper() == "NONE" or bare.endswith(":") else bare


def _file_hash(page: Path) -> str:
    return hashlib.blake2b(page.read_bytes(), digest_size=16).hexdigest()


def _pixels(page: Path) -> int:
    with Image.open(page) as image:
        return image.width * image.height


def generate(
    dataset: DocumentDataset, writer: QueryWriter, out: Path, *, limit: int | None = None, depth: int = 100
) -> Counter[str]:
    """Write questions about a dataset's training pages into a JSONL file, with what each filter says of them.

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
    columns = (table["side"], table["left_out_for"], table["look"], table["text"])
    rows = [
        row
        for row, (side, held_out_page, look, text) in enumerate(zip(*columns, strict=True))
        if side == "train" and not held_out_page and look and not is_listing(text)
    ][:limit]
    asked = writer([Path(dataset.pages[row]["path"]) for row in rows])
    pairs = [(row, query) for row, queries in zip(rows, asked, strict=True) for query in queries]
    texts = {dataset.page_ids[row]: dataset.page_texts[row] for row, side in enumerate(columns[0]) if side == "train"}
    found = round_trip(depth)([query for _, query in pairs], [dataset.page_ids[row] for row, _ in pairs], texts)
    held_out = {squash(query) for side in (dataset.test, dataset.validation) for query in side.queries.values()}
    made = []
    for (row, query), good in zip(pairs, found, strict=True):
        reason = refusal(query, dataset.page_texts[row], written=True) or ("" if good else "round trip")
        if squash(query) in held_out:
            reason = "also asked in the test"
        made.append({"page_id": dataset.page_ids[row], "query": query, "dropped": reason})
    write_jsonl(out, made)
    return Counter(one["dropped"] for one in made)
