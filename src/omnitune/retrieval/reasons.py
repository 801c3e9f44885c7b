"""Why a page answers a query: its closest sentence and where that stands, or the patches of its image.

A search says which stage found a page and which words match. What is here costs forwards of the model, so it is asked
for one page at a time, when somebody looks at it.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from omnitune.errors import InputError
from omnitune.inputs.endings import ENDINGS
from omnitune.inputs.load import load
from omnitune.inputs.policy import DEFAULT_POLICY
from omnitune.model.interpretability import maxsim_similarity_map, patch_order, real_query_token_slice, similarity_map
from omnitune.model.multi_vector import MultiVectorEncoder
from omnitune.ops import token_similarity
from omnitune.ops.bm25 import words
from omnitune.retrieval.hits import Box, page_words
from omnitune.retrieval.late_index import LateIndex
from omnitune.retrieval.retriever import Retriever
from omnitune.retrieval.stages import LateStage, ModelStage

SENTENCES = 48
"""Of a page that are encoded, those with most words of the query first."""
LONGEST = 320
"""Characters of what counts as one sentence; tables and lists have no full stops."""
_POLICY = dataclasses.replace(DEFAULT_POLICY, isolate=True)
"""For page images, which a server may have from somebody else."""
_BREAKS = re.compile(r"(?<=[.!?。！？])\s+|\n\s*\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """Why a page answers a query.

    Attributes:
        sentence: Of the page, the closest one; "" where the page has no text.
        by: What compared it: the stage's kind, or "words" for the number of words that it shares with the query.
        boxes: Of the words of the sentence on the page, where it is found there word by word.
        patches: For a page image that late interaction compares by patches, the similarity of every patch
            `(rows, columns)` to the word of the query that is closest to it, from 0 to 1; empty otherwise.
    """

    sentence: str = ""
    by: str = "words"
    boxes: Sequence[Box] = ()
    patches: Sequence[Sequence[float]] = ()


def reason_of(retriever: Retriever, query: str, page: str) -> Reason:
    """Say why a page answers a query.

    Args:
        retriever: That found it.
        query: What was looked for.
        page: Id of the page.

    Raises:
        InputError: No page has this id.

    Example:
        >>> reason_of(retriever, "how often is it greased", "pump.pdf#12").sentence
        'Grease the bearing every week.'
    """
    places = retriever.segments.ids()
    if page not in places:
        raise InputError(f"page: expected the id of a page that is indexed, got {page[:80]!r}")
    part, at = places[page]
    row = int(retriever.segments.starts()[part]) + at
    entry, details = retriever.segments.entry(row), retriever.segments.details(row)
    late = retriever.stages.get("late")
    if isinstance(late, LateStage) and late.reads != "text" and isinstance(late.encoder(), MultiVectorEncoder):
        return Reason(by="late", patches=_patches(retriever, late, query, row, entry))
    found = sentences(str(details.get("text", "")))
    if not found:
        return Reason()
    asked = set(words(query))
    ranked = sorted(found, key=lambda one: -len(asked & set(words(one))))
    stages = (retriever.stages.get(kind) for kind in ("late", "dense"))
    stage = next((one for one in stages if isinstance(one, ModelStage) and one.reads == "text"), None)
    if stage is None:
        best, by = ranked[0], "words"
        if not asked & set(words(best)):
            return Reason()
    else:
        some = ranked[:SENTENCES]
        best, by = some[_closest(stage, query, some)], stage.kind
    return Reason(sentence=best, by=by, boxes=boxes_of(best, page_words(details, retriever.files.of(entry))))


def sentences(text: str) -> list[str]:
    r"""Sentences of a text, each in one line; what goes on for longer without a full stop is cut at its lines.

    Example:
        >>> sentences("Stop the pump. Grease\nit weekly.")
        ['Stop the pump.', 'Grease it weekly.']
    """
    made = []
    for piece in _BREAKS.split(text):
        lines = piece.splitlines() if len(piece) > LONGEST else [piece]
        held = ""
        for line in lines:
            for start in range(0, max(len(line), 1), LONGEST):
                part = " ".join(line[start : start + LONGEST].split())
                if held and len(held) + len(part) >= LONGEST:
                    made.append(held)
                    held = ""
                held = f"{held} {part}".strip()
        made.append(held)
    return list(dict.fromkeys(one for one in made if words(one)))


def boxes_of(sentence: str, placed: Sequence[Box]) -> list[Box]:
    """Boxes of a sentence's words, where all of them follow one another on the page; else none."""
    wanted = words(sentence)
    flat = [(word, box) for box in placed for word in words(str(box[0]))]
    names = [word for word, _ in flat]
    for start in range(len(names) - len(wanted) + 1):
        if names[start] == wanted[0] and names[start : start + len(wanted)] == wanted:
            boxes = [box for _, box in flat[start : start + len(wanted)]]
            return [box for number, box in enumerate(boxes) if not number or box is not boxes[number - 1]]
    return []


def _closest(stage: ModelStage, query: str, some: Sequence[str]) -> int:
    """Number of the text that is closest to a query."""
    asked = stage.encode_queries([query])
    found = stage.encoder().encode_document(list(some), show_progress_bar=False)
    if stage.kind == "late":
        scores = token_similarity.maxsim([torch.as_tensor(asked[0])], [torch.as_tensor(one) for one in found])[0]
    else:
        scores = torch.as_tensor(found) @ torch.as_tensor(asked)[0]
        scores = scores / torch.as_tensor(found).norm(dim=1).clamp(min=1e-12)
    return int(scores.argmax())


def _patches(
    retriever: Retriever, stage: LateStage, query: str, row: int, entry: Mapping[str, Any]
) -> list[list[float]]:
    """The best similarity of every patch over the query's words: a mean would drown the one word that a patch shows."""
    model, index = stage.encoder(), retriever.indexes["late"]
    assert isinstance(index, LateIndex)
    file = retriever.files.of(entry, stage.reads)
    pictures = (*ENDINGS["image"].common, *ENDINGS["image"].rarer)
    if file is None or not file.is_file() or not file.name.lower().endswith(pictures):
        return []  # it is gone, or a recording or a clip
    image = load(str(file), "image", _POLICY)
    order, kept = patch_order(model, image.size), index.vectors(row)
    if len(kept) == order.numel():  # the index keeps patches alone, so that nothing is encoded again
        asked = torch.as_tensor(stage.encode_queries([query])[0])[real_query_token_slice(model, query)]
        rows, columns = order.shape
        found = maxsim_similarity_map(asked.float().cpu(), kept[order.flatten()], (columns, rows))
    else:
        found = similarity_map(model, query, image).cpu()
    best = found.amax(dim=0)
    best = (best - best.min()) / (best.max() - best.min() + 1e-10)
    return [[round(value, 3) for value in line] for line in best.tolist()]
