"""The text of a page from the best source there is: its text layer where that is sound, recognition where it is not.

A text layer is doubted for what it is, and replaced for what a recognition of the page shows:

| doubt | found by | replaced |
|---|---|---|
| no text | the layer is empty, and something is on the page | always |
| codes that stand for nothing (private use, U+0000) | `MOST_GARBLED` of the letters | always |
| a layer that has a stamp of a scanned page and no more | fewer than `FEW_WORDS`, most ink outside of them | where recognition has twice as many words |
| letters shifted or swapped ("Vwlupun") | no small words of any language | where a few pages of the document are recognised as another text, which has such words |

The last rule needs both halves: tables and code have no small words either, and a recogniser of English reads garbage
off a page in another script.
"""  # noqa: E501 - a table row is one line

import logging
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from omnitune.documents.read.headings import recognised_headings
from omnitune.documents.read.text import clean, script, terms
from omnitune.documents.stored import Document, StoredPage
from omnitune.errors import InputError, MissingLanguageError
from omnitune.installation import pip_install

logger = logging.getLogger(__name__)

PageReader = Callable[[Sequence[Path]], Sequence[str]]
"""Texts of page images, for pages whose text layer is missing or unsound."""

Reading = Literal["auto", "layer", "recognise"]
TextSource = Literal["layer", "recognised", "none"]

MOST_GARBLED = 0.1
"""Bullets and brackets in private codes are under 3% of a page."""
FEW_WORDS = 12
UNCOVERED = 0.5
"""Share of the ink of a page that lies outside of the words of its layer."""
ENOUGH_WORDS = 30
"""Words of a page from which it must have small ones."""
SAMPLES = 3
"""Pages of one document that are recognised to judge its layer."""
AGREEING = 0.4
"""Share of the words of a layer that recognition finds too: 0.8 to 1 of sound pages 900 pixels wide, under 0.1 of
shifted ones."""
SMALL_SHARE = 0.05
"""Share of small words among all; 0.2 to 0.5 in prose of any of the languages below."""

_SMALL_WORDS = """
    the of and to in is that for it with as on be are this by from or an not which can if at was will has have all you
    der die das und ist nicht ein eine zu den von mit für auf dem des im sich als auch es werden bei oder aus nach wird
    le la les de des et un une est que dans pour pas sur par au aux du avec ou sont ce se plus ne qui il elle cette
    el los las en una por con para del se su al lo como más es son sus este esta ha no
    di il che per non con si da una sono come gli della nel alla più anche dei
    os as um uma não em com do da dos das na ao mais
    het een van dat niet op te zijn voor met aan er om dan ook naar
    och att det som är på för av med inte till ett har kan og til ikke fra
    nie się jest od przez dla jak są ja on ei että oli joka mutta tai kun niin myös
    az és nem hogy egy ez meg volt van ve je že pro jako bir bu için ile çok olarak gibi daha
    yang ini itu dengan untuk tidak dari dalam pada adalah và của là có cho không các một được trong với này những
"""
SMALL_WORDS = frozenset(_SMALL_WORDS.split())
"""Of two letters or more: shifted text is full of single ones."""


def with_texts(
    documents: Sequence[Document], images: Path, reader: PageReader | None, reading: Reading = "auto"
) -> list[Document]:
    """Give every page the text of its best source.

    Args:
        documents: As read.
        images: Folder of their page images.
        reader: Recognises the text of images; None where nothing does.
        reading: `"auto"` decides page by page, `"layer"` takes the text layers as they are, `"recognise"` reads all.

    Raises:
        InputError: All pages shall be recognised and there is no reader.
        MissingLanguageError: A page must be recognised, and the reader has no model of its language.
    """
    if reading == "layer":
        return list(documents)
    if reading == "recognise" and reader is None:
        raise InputError(f"reading: expected a reader with 'recognise', got none (installed by {pip_install('ocr')})")
    pages = [page for document in documents for page in document.pages if page.fingerprint]
    if reading == "recognise":
        wanted, foreign = pages, dict[str, list[StoredPage]]()
    else:
        wanted = [page for page in pages if not page.text or _garbled(page) or _thin(page)]
        foreign = {}
        for document in documents:
            doubtful = [page for page in document.pages if not _garbled(page) and _without_small_words(page.text)]
            step = max(1, len(doubtful) // SAMPLES)
            foreign[document.key] = doubtful[::step][:SAMPLES]
    sampled = [page for some in foreign.values() for page in some] if reader is not None else []
    layered = {page.image for page in wanted if reading == "auto" and page.text and not _garbled(page)}
    without = [page for page in wanted if page.image not in layered]
    read = _must_read(documents, without, images, reader) if reading == "auto" else _recognised(without, images, reader)
    try:
        read |= _recognised([*(page for page in wanted if page.image in layered), *sampled], images, reader)
    except MissingLanguageError as error:
        doubted = len(layered | {page.image for page in sampled})
        # Said at the start of a run already, and nothing is lost: a text layer is there.
        logger.info("%d page(s) cannot be compared with a recognition and keep their text layer: %s", doubted, error)
        wanted = [page for page in wanted if page.image not in layered]
        foreign = {}
    unsound = {
        key
        for key, some in foreign.items()
        if some and _disagree([(page.text, read.get(page.image, "")) for page in some])
    }
    rest = [p for one in documents if one.key in unsound for p in one.pages if _without_small_words(p.text)]
    read |= _recognised([page for page in rest if page.image not in read], images, reader)
    replaced = {page.image for page in (*wanted, *rest)}

    def chosen(page: StoredPage) -> StoredPage:
        if page.image not in replaced:
            return page
        text = read.get(page.image, "")
        if reading == "auto" and _thin(page) and not _garbled(page) and len(terms(text)) < 2 * len(terms(page.text)):
            return page
        # Headings were lines of the layer: where it is not believed, neither are they.
        return replace(page, text=text, headings=(), recognised=True)

    found = [_headed(replace(one, pages=tuple(chosen(page) for page in one.pages))) for one in documents]
    lost = sum(1 for page in pages if reader is None and _garbled(page))
    if lost:
        logger.warning(
            "%d page(s) have a text layer of codes that stand for nothing and no text besides; to recognise them: %s",
            lost,
            pip_install("ocr"),
        )
    return found


def _headed(document: Document) -> Document:
    """A document whose recognised pages have the headings that their text shows."""
    marks = recognised_headings([page.text if page.recognised else "" for page in document.pages])
    pages = zip(document.pages, marks, strict=True)
    return replace(
        document, pages=tuple(replace(page, headings=tuple(some)) if page.recognised else page for page, some in pages)
    )


def source_of(page: StoredPage) -> TextSource:
    """Say where the text of a page comes from."""
    if not page.text:
        return "none"
    return "recognised" if page.recognised else "layer"


def _recognised(pages: Sequence[StoredPage], images: Path, reader: PageReader | None) -> dict[str, str]:
    """Cleaned texts by image."""
    names = list(dict.fromkeys(page.image for page in pages))
    if reader is None or not names:
        return {}
    texts = reader([images / name for name in names])
    return {name: clean(text) for name, text in zip(names, texts, strict=True)}


def _must_read(
    documents: Sequence[Document], pages: Sequence[StoredPage], images: Path, reader: PageReader | None
) -> dict[str, str]:
    """Recognise pages that have no text without it; an error of the recogniser's language says which they are."""
    try:
        return _recognised(pages, images, reader)
    except MissingLanguageError as error:
        first = next(f"{one.name}#{page.number}" for one in documents for page in one.pages if page in pages)
        raise MissingLanguageError(
            f"{error}. {len(pages)} page(s) have no sound text layer, the first {first}; to leave them without text, "
            "say prepare: {reading: layer} in a recipe"
        ) from error


def _garbled(page: StoredPage) -> bool:
    return page.garbled > MOST_GARBLED


def _thin(page: StoredPage) -> bool:
    return bool(page.text) and page.uncovered > UNCOVERED and len(terms(page.text)) < FEW_WORDS


def _without_small_words(text: str) -> bool:
    found = terms(text)
    return len(found) >= ENOUGH_WORDS and script(text) == "LATIN" and _small_share(found) < SMALL_SHARE


def _small_share(found: Sequence[str]) -> float:
    return sum(word in SMALL_WORDS for word in found) / max(1, len(found))


def _disagree(samples: Sequence[tuple[str, str]]) -> bool:
    """Judge by some pages, layer and recognition of each, whether most are another text, which is one of a language."""
    votes = 0
    for layer, recognised in samples:
        ours, theirs = set(map(_bare, terms(layer))), set(map(_bare, terms(recognised)))
        other = len(ours & theirs) < AGREEING * len(ours)
        votes += other and _small_share(terms(recognised)) >= 2 * SMALL_SHARE
    return 2 * votes > len(samples)


def _bare(word: str) -> str:
    """A word without its accents, which recognition of another language does not see."""
    return "".join(letter for letter in unicodedata.normalize("NFKD", word) if not unicodedata.combining(letter))


def counted_sources(documents: Sequence[Document]) -> Mapping[TextSource, int]:
    """Count pages by the source of their text."""
    counts: dict[TextSource, int] = {"layer": 0, "recognised": 0, "none": 0}
    for document in documents:
        for page in document.pages:
            counts[source_of(page)] += 1
    return {source: count for source, count in counts.items() if count}
