"""Parts that several sections of a report share: numbers with intervals, words, pages."""

import dataclasses
from typing import Literal

Verdict = Literal["better", "worse", "no measurable difference"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """Words for the parts of a collection, in the singular; an s makes them several.

    Attributes:
        document: A file of it.
        page: What is found.
        sees: What a model is given of that.
        text: What a text retriever is given of it.
    """

    document: str = "document"
    page: str = "page"
    sees: str = "page image"
    text: str = "text layer"


PAGE_WORDS = Words()


@dataclasses.dataclass(frozen=True, slots=True)
class Interval:
    """A number and the ends of its confidence interval."""

    value: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Contrast:
    """The base model against the finetuned one on the same queries.

    Attributes:
        label: What was searched or varied: `"held-out documents"`, `"all pages"`, `"256 dimensions"`.
        base: Score of the base model.
        finetuned: Score of the finetuned model.
        difference: Finetuned minus base, paired by query.
        p_value: Two-sided.
        queries: Number of queries.
        pages: Number of pages that were searched.
        dim: Embedding dimension.
    """

    label: str
    base: Interval
    finetuned: Interval
    difference: Interval
    p_value: float
    queries: int
    pages: int
    dim: int

    @property
    def verdict(self) -> Verdict:
        """Claim that the numbers allow: none while the interval of the difference covers zero."""
        if self.difference.low > 0:
            return "better"
        return "worse" if self.difference.high < 0 else "no measurable difference"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One page as the report shows it.

    Attributes:
        id: Key in the corpus.
        document: File name.
        number: Page number in the document, from 1.
        image: JPEG bytes of a thumbnail; empty in the JSON.
        times: Where a segment of a recording or clip lies in it ("0:30-0:45"); "" for a page.
        read: Of a segment in the report, the beginning of what was read in it, which a picture does not show; in a
            contact sheet, the part that answers.
    """

    id: str
    document: str
    number: int
    image: bytes = dataclasses.field(default=b"", repr=False)
    times: str = ""
    read: str = ""

    @property
    def place(self) -> str:
        """Place of the page, as people say it."""
        return f"{self.document}, {self.times or f'page {self.number}'}"
