"""Questions that a folder answers, taken from its documents: no model, no network.

Four origins, from the most to the least like what a person asks:

- `title`: an entry of the outline, written by the author, numbering removed; a title that says nothing alone
  ("Introduction") is put behind its parent's.
- `caption`: what stands beside "Figure 3" or "Table 2"; of recordings and clips, what people wrote about them.
- `heading`: a line set like a heading that the outline does not have.
- `sentence`: the most telling words of one of a page's most telling sentences, in their order, never six words in a row
  of the page; of recordings and clips, a sentence out of their subtitles or transcript.
- `model`: what a vision-language model asked about the page (`writers`).

Only human-written lines measure a model: tests take titles and captions, and headings of documents that have no
outline. Sentences are for training alone, and their word statistics are those of the training pages; those of a
recording without captions are its test, because a person wrote them down, and a model has to hear them.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from omnitune.documents.queries.captions import overlapped
from omnitune.documents.read.pages import OutlineEntry
from omnitune.documents.read.text import flat, normalize_key, script, sentences, term, terms, words
from omnitune.documents.stored import Document, StoredPage

Origin = Literal["title", "caption", "heading", "sentence", "model"]

FEWEST_LETTERS = 4
FEWEST_TERMS = 5
"""Words of a sentence that was said: "That is all right." is said everywhere."""
MOST_WORDS = 24
TITLE_PAGE_WORDS = 40
"""A page with fewer words carries a title, an author, a dedication: its large lines are no headings of a text."""
COPIED = 6
"""So many words in a row of the page are a quotation, not a question."""

_GENERIC_TITLES = """
    abstract|about|acknowledgements|acknowledgments|additional information|advanced|background|basics|caveats|comments|
    conclusion|conclusions|configuration|credits|definition|definitions|description|details|discussion|example|examples|
    exercises|faq|features|foreword|further reading|general|getting started|history|how to|implementation|installation|
    intro|introduction|introductory remarks|license|limitations|literature|method|methods|methodology|miscellaneous|
    motivation|note|notes|notation|options|other|overview|parameters|preface|preliminaries|prerequisites|purpose|
    reference|remarks|requirements|results|scope|see also|setup|summary|syntax|terminology|the basics|tips|
    troubleshooting|tutorial|usage|warnings|what's new|
    einleitung|einführung|überblick|zusammenfassung|beispiel|beispiele|vorwort|fazit|
    conclusion générale|exemples|résumé|avant-propos|introducción|resumen|ejemplos|conclusiones|prefacio
"""
GENERIC = frozenset(normalize_key(title) for title in _GENERIC_TITLES.split("|"))
STRUCTURAL = re.compile(
    r"^(?:(?:table of )?contents|index|indices|list of (?:figures|tables|listings)|bibliography|references|glossary|"
    r"(?:[\w,]+ ){1,4}index|inhalt(?:sverzeichnis)?|literatur(?:verzeichnis)?|stichwortverzeichnis|"
    r"table des matières|bibliographie|índice(?: de contenidos| general)?|bibliografía)$",
    re.IGNORECASE,
)
_NUMBERING = re.compile(
    r"^(?:(?:chapter|section|part|appendix|annex|kapitel|abschnitt|anhang|teil|chapitre|partie|annexe|capítulo|sección)\s+"
    r"(?:\d+(?:\.\d+)*|[A-Z](?:\.\d+)*|[IVXLC]+)\b[.:)]?\s*(?=\S)"
    r"|\d+(?:\.\d+)*[.)]?\s+|[A-Z](?:\.\d+)+[.)]?\s+|[IVXLC]+[.)]\s+|\d+(?:\.\d+)+[.)]?(?=[^\W\d]))",
    re.IGNORECASE,
)
_CAPTION = re.compile(
    r"^(?:figure|fig\.|table|tab\.|listing|algorithm|chart|diagram|plate|abbildung|abb\.|tabelle|tableau|tabla|figura)\s+"
    r"(?:[A-Z][.-]?)?\d+(?:[.-]\d+)*[a-z]?\s*(?P<mark>[:.–—|-])?\s+(?P<text>\S.*)$",
    re.IGNORECASE,
)
_FILE_NAME = re.compile(r"\S+\.[A-Za-z0-9]{2,4}")
_DEIXIS = re.compile(
    r"\b(?:(?:this|these|previous|preceding|following|next|above|earlier|later|last|present|current)\s+"
    r"(?:page|pages|section|sections|subsection|chapter|chapters|figure|figures|table|tables|example|examples|manual|"
    r"document|appendix|paragraph|list|listing|diagram|picture|image|equation|code|command|commands|recording|clip)"
    r"|(?:figure|fig\.|table|section|chapter|page|listing|equation|appendix)\s*\(?[A-Z]?\d"
    r"|(?:figure|table|listing|example|section|diagram|picture|image|code)s?\s+(?:above|below)\b"
    r"|(?:see|described|shown|given|listed|mentioned|discussed|defined|explained|noted)\s+(?:\w+\s+){0,2}"
    r"(?:below|above|here|earlier|later|page|section|chapter|appendix)"
    r"|(?:as|the)\s+(?:follows|following|above|below)|the former|the latter|\[[\w .]+\],?\s+page"
    r"|(?:above|below)[,.:;)]|continued (?:from|on)|auf (?:dieser|der nächsten) seite|siehe (?:oben|unten)|"
    r"ci-dessus|ci-dessous|voir page|ver página)",
    re.IGNORECASE,
)
_ANAPHORA = re.compile(
    r"^(?:this|these|that|those|it|its|they|their|he|she|such|here|hence|thus|then|so|however|but|and|also|moreover|"
    r"furthermore|finally|similarly|otherwise|instead|therefore|another|other|again)\b",
    re.IGNORECASE,
)
_LISTED = re.compile(r"(?:[.…·]\s?){3,}\s*[\divxlc]+$|,\s*\d+(?:\s*,\s*\d+)*$|\S\s+\d+$", re.IGNORECASE)
LISTING_END = 200
"""Letters at the end of a line in which `_LISTED` looks: a line of a million dots would take it hours."""
WRAPPED = 60
"""A caption of so many letters goes on in the next line even where that begins with a capital."""
MOST_KEYWORDS = 6
OPENING = 1.2
"""A sentence that opens its paragraph says more often what it is about."""
_PROSE_LETTERS = 0.78
_COMMON = 0.3
"""A word on more than this share of the pages is grammar or the subject of everything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A question and where its answer stands.

    Attributes:
        text: The question.
        origin: Where it was taken from.
        document: Name of the document it was taken from.
        page: Number of the page that answers it.
    """

    text: str
    origin: Origin
    document: str
    page: int


# --- what is taken ----------------------------------------------------------------------------------------------------


def written_queries(document: Document) -> list[Query]:
    """Titles, captions and headings of a document, in the order of its pages."""
    listings = {page.number for page in document.pages if is_listing(page.text)}
    found = [*titles(document, listings)]
    known = {normalize_key(_bare(entry.title)) for entry in document.outline} | {
        normalize_key(document_title(document))
    }
    for page in document.pages:
        if page.number not in listings:
            found += [_query(text, "caption", document, page) for text in captions(page)]
            found += [_query(text, "heading", document, page) for text in _unlisted_headings(page, known)]
    kept = (query for query in found if acceptable(query.text))
    return sorted(_once(kept), key=lambda query: query.page)


def caption_queries(document: Document) -> tuple[list[Query], list[str]]:
    """Captions of a recording or clip, each on the segments that it is about, and why the others are left out."""
    spans = [(page.start, page.end) for page in document.pages]
    found, refused = list[Query](), list[str]()
    for caption in document.captions:
        places = overlapped(caption, spans)
        if sum(letter.isalpha() for letter in caption.text) < FEWEST_LETTERS or _FILE_NAME.fullmatch(caption.text):
            refused.append("a caption without words")
        elif not places:
            refused.append("a caption after the end of its file")
        elif caption.spoken and not (
            # Words of its own, and none that point elsewhere first: a sentence that can be looked for.
            acceptable(caption.text)
            and len(set(terms(caption.text))) >= FEWEST_TERMS
            and not _ANAPHORA.match(caption.text)
        ):
            refused.append("a sentence that says little alone")
        else:
            origin: Origin = "sentence" if caption.spoken else "caption"
            found += [_query(caption.text, origin, document, document.pages[place]) for place in places]
    return sorted(_once(found), key=lambda query: query.page), refused


def titles(document: Document, listings: set[int]) -> Iterator[Query]:
    """Entries of the outline, each on the page where it stands: the one it leads to or, failing that, the next."""
    normalized = {page.number: normalize_key(page.text) for page in document.pages}
    ancestors: list[tuple[int, str]] = [(-1, document_title(document))]
    for entry, title in zip(document.outline, _bare_titles(document.outline), strict=True):
        while len(ancestors) > 1 and ancestors[-1][0] >= entry.level:
            ancestors.pop()
        parent = next((name for _, name in reversed(ancestors) if normalize_key(name) not in GENERIC), "")
        if not STRUCTURAL.match(title):
            number = _stands_on(normalize_key(title), entry.page, normalized, listings)
            if number is not None:
                vague = normalize_key(title) in GENERIC or len(words(title)) < 2
                text = f"{parent}: {title}" if parent and vague else title
                yield Query(text=text, origin="title", document=document.name, page=number)
        ancestors.append((entry.level, title))


def captions(page: StoredPage) -> Iterator[str]:
    """First sentences of the captions on a page, their labels removed."""
    lines = page.text.split("\n")
    for index, line in enumerate(lines):
        match = _CAPTION.match(line)
        if match is None or not (match["mark"] or match["text"][0].isupper()):
            continue
        text = match["text"]
        for more in lines[index + 1 : index + 3]:
            if text.endswith((".", ":", ";")) or not (more[0].islower() or len(text) >= WRAPPED):
                break
            text += " " + more
        yield sentences(flat(text))[0].rstrip(".:;, ")


def key_sentences(pages: Sequence[StoredPage], per_page: int) -> list[list[str]]:
    """For each page, questions made of the most telling words of its most telling sentences.

    Args:
        pages: The pages whose words are counted, of all documents that are trained on.
        per_page: Most questions of one page.
    """
    rare = rarity(page.text for page in pages)
    rarest = max(rare.values(), default=0.0)
    return [[] if is_listing(page.text) else list(_keyword_queries(page, rare, rarest, per_page)) for page in pages]


def rarity(texts: Iterable[str]) -> dict[str, float]:
    """Inverse document frequency of every normalized word, 0 for words on more than `_COMMON` of the texts."""
    found: Counter[str] = Counter()
    count = 0
    for text in texts:
        found.update(set(terms(text)))
        count += 1
    return {
        word: math.log(1 + (count - pages + 0.5) / (pages + 0.5)) if pages <= max(1, _COMMON * count) else 0.0
        for word, pages in found.items()
    }


# --- what is refused --------------------------------------------------------------------------------------------------


def acceptable(text: str) -> bool:
    """Tell whether a question can be asked: letters, not too many words nor the same ones, no pointing at its page."""
    letters = sum(letter.isalpha() for letter in text)
    return (
        letters >= FEWEST_LETTERS
        and letters >= 0.5 * len(text.replace(" ", ""))
        and len(words(text)) <= MOST_WORDS
        and 2 * len(set(terms(text))) > len(terms(text))
        and not points_at_page(text)
    )


def points_at_page(text: str) -> bool:
    """Tell whether a text only makes sense to someone who sees the page ("in the figure above", "this section")."""
    return _DEIXIS.search(text) is not None


def copies(query: str, page_text: str, *, length: int = COPIED) -> bool:
    """Tell whether `length` words in a row of the query stand in a row on the page."""
    asked, text = _in_a_row(query).split(), _in_a_row(page_text)
    return any(f" {' '.join(asked[i : i + length])} " in text for i in range(len(asked) - length + 1))


@lru_cache(64)
def _in_a_row(text: str) -> str:
    return f" {' '.join(terms(text))} "


def keeps_language(query: str, page_text: str) -> bool:
    """Tell whether a query is written in the script of its page."""
    return not page_text or script(query) == script(page_text)


def is_listing(text: str) -> bool:
    """Tell whether a page is a table of contents or an index: most of its lines end in page numbers."""
    lines = [line for line in text.split("\n") if any(letter.isalpha() for letter in line)]
    leaders = sum(1 for line in lines if _LISTED.search(line[-LISTING_END:]))
    return len(lines) >= 4 and leaders >= 0.5 * len(lines)


# --- the parts --------------------------------------------------------------------------------------------------------


def document_title(document: Document) -> str:
    """A document's title by its metadata, else the largest line of its first page, else its file's name."""
    title = flat(document.title)
    if title and " " in title and "." not in title[-5:]:
        return title
    if document.pages[0].headings:
        return document.pages[0].headings[0]
    return re.sub(r"[_-]+", " ", document.name.rpartition("/")[2].rpartition(".")[0])


def _bare(title: str) -> str:
    text = flat(title)
    return (_NUMBERING.sub("", text, count=1) or text).strip(" .:;-–—")


def _bare_titles(outline: Sequence[OutlineEntry]) -> Iterator[str]:
    """Titles without numbering; a lone capital letter is one where appendices follow numbered chapters in order."""
    numbered, expected = False, "A"
    for entry in outline:
        text = flat(entry.title)
        if numbered and entry.level == 0 and re.match(rf"{expected} (?=[A-Z0-9])", text):
            expected = chr(ord(expected) + 1)
            text = text[2:]
        numbered = numbered or (entry.level == 0 and text[:1].isdigit())
        yield _bare(text)


def _stands_on(title: str, target: int | None, normalized: Mapping[int, str], listings: set[int]) -> int | None:
    if target is None or not title:
        return None
    for number in (target, target + 1):
        if number in normalized and number not in listings and (title in normalized[number] or not normalized[number]):
            return number
    return None


def _query(text: str, origin: Origin, document: Document, page: StoredPage) -> Query:
    return Query(text=text, origin=origin, document=document.name, page=page.number)


def _unlisted_headings(page: StoredPage, known: set[str]) -> Iterator[str]:
    if len(words(page.text)) < TITLE_PAGE_WORDS:
        return
    for heading in page.headings:
        text = _bare(heading)
        if _CAPTION.match(heading) or STRUCTURAL.match(text) or len(words(text)) < 2 or normalize_key(text) in GENERIC:
            continue
        if normalize_key(text) not in known:
            known.add(normalize_key(text))
            yield text


def _once(queries: Iterable[Query]) -> Iterator[Query]:
    seen: set[tuple[str, int]] = set()
    for query in queries:
        mark = normalize_key(query.text), query.page
        if mark not in seen:
            seen.add(mark)
            yield query


def _paragraphs(page: StoredPage) -> Iterator[str]:
    """Runs of lines of prose, joined; headings, captions, code and tables end a run."""
    headings = {normalize_key(heading) for heading in page.headings}
    run: list[str] = []
    for line in page.text.split("\n"):
        dense = line.replace(" ", "")
        prose = len(words(line)) >= 3 and sum(letter.isalpha() for letter in dense) >= _PROSE_LETTERS * len(dense)
        if prose and normalize_key(line) not in headings and not _CAPTION.match(line):
            run.append(line)
        elif run:
            yield " ".join(run)
            run = []
    if run:
        yield " ".join(run)


def _telling_sentences(page: StoredPage) -> Iterator[tuple[str, bool]]:
    """Sentences that stand on their own, and whether each opens its paragraph."""
    for paragraph in _paragraphs(page):
        for place, sentence in enumerate(sentences(paragraph)):
            whole = sentence[0].isupper() and sentence[-1] in ".!?。！？"
            length = len(words(sentence))
            if whole and 7 <= length <= 45 and not points_at_page(sentence) and not _ANAPHORA.match(sentence):
                yield sentence, place == 0


def _keyword_queries(page: StoredPage, rare: Mapping[str, float], rarest: float, per_page: int) -> Iterator[str]:
    """Greedy: the sentence whose words weigh most on this page, words that were asked before counting little."""
    # What a word says about a page: rare elsewhere, repeated here; numbers and words met only once less.
    weights = {}
    for mark, times in Counter(terms(page.text)).items():
        weight = rare.get(mark, 0.0) * (1 + math.log(times))
        doubtful = any(letter.isdigit() for letter in mark) or (times == 1 and rare.get(mark) == rarest)
        weights[mark] = weight / 3 if doubtful else weight
    left = {sentence: (set(terms(sentence)), opens) for sentence, opens in _telling_sentences(page)}
    asked: set[str] = set()

    def value(sentence: str) -> float:
        """Mean weight of the heaviest words."""
        found, opens = left[sentence]
        heaviest = sorted((weights[mark] * (0.25 if mark in asked else 1.0) for mark in found), reverse=True)
        return sum(heaviest[:MOST_KEYWORDS]) / MOST_KEYWORDS * (OPENING if opens else 1.0)

    for _ in range(min(per_page, len(left))):
        best = max(left, key=value)
        del left[best]
        query = keywords(best, page.text, weights)
        if len(words(query)) >= 3 and acceptable(query):
            asked.update(terms(query))
            yield query


def keywords(sentence: str, page_text: str, weights: Mapping[str, float], *, most: int = MOST_KEYWORDS) -> str:
    """The `most` heaviest words of a sentence in their order, thinned out until none of it is a quotation."""
    tokens = words(sentence)
    marks = [term(word) for word in tokens]
    ranked = sorted(
        (index for index, mark in enumerate(marks) if weights.get(mark, 0.0) > 0 and mark not in marks[:index]),
        key=lambda index: (-weights[marks[index]], index),
    )
    chosen = ranked[:most]
    query = " ".join(tokens[index] for index in sorted(chosen))
    while copies(query, page_text):
        chosen.pop()
        query = " ".join(tokens[index] for index in sorted(chosen))
    return query
