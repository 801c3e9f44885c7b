"""The step `head`: a head for late interaction, trained on kept token vectors of training pages.

The backbone is not run: its token vectors of all windows lie in the run's store already. Negatives are the pages that
lexical search and untrained late interaction put first. Training goes on while it helps on a tenth of the training
pages, and whether the head is used is decided on documents that it never saw: the validation documents or, without any,
a training document that is kept from it.
"""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from omnitune.documents.dataset import DocumentDataset
from omnitune.finetune.candidates import scored
from omnitune.finetune.measure import TestSet
from omnitune.finetune.negatives import TrainingPages
from omnitune.finetune.recipe import Negatives, Retrieving
from omnitune.finetune.steps import Log
from omnitune.finetune.windows import save_head, with_head
from omnitune.model.multi_vector import MultiVectorEncoder
from omnitune.retrieval.packed import Packed
from omnitune.retrieval.retriever import Retriever
from omnitune.retrieval.stages import Fusion, LateStage
from omnitune.retrieval.token_vectors import TokenVectors
from omnitune.training.late_head import LateHead, train_head
from omnitune.types import Embeddings

FEWEST = 20
"""Training queries below which a head has nothing to learn from."""

_HELD_BACK = 0.1
"""Share of the training pages whose queries decide when training stops."""

_NEAREST = Fusion(weights={"late": 1.0, "lexical": 0.5})
"""How lexical search and late interaction say together which wrong pages are near (docs/decisions/081)."""

_CHECKED = 8
"""Queries and pages that the new encoder encodes itself, to see that it gives what was trained."""

_AGREES = 0.02
"""Largest difference of a number of a unit vector for that: token vectors are kept in half precision."""


def train_late_head(
    pool: Retriever,
    vectors: Callable[[Sequence[int]], Packed],
    dataset: DocumentDataset,
    questions: Sequence[tuple[str, str]],
    without: Collection[str],
    settings: Retrieving,
    file: Path,
    log: Log,
) -> dict[str, Any]:
    """Train a head on training pages and save it.

    Args:
        pool: Every page with lexical search and untrained late interaction.
        vectors: From rows of pages to their token vectors, as untrained late interaction has them.
        dataset: Pages and training queries.
        questions: Questions and the ids of pages that answer them; those of training pages train beside their queries.
        without: Training documents that it must not see, because they judge it.
        settings: Epochs, negatives and seed.
        file: Where the head goes.
        log: Called with what is trained.

    Returns:
        `epoch` and `history` of the training, and `queries`; or `why` there is no head, in a sentence.
    """
    stage = pool.stages["late"]
    untrained = stage.encoder() if isinstance(stage, LateStage) else None
    if not isinstance(untrained, TokenVectors):
        return {"why": "The model has token vectors of its own."}
    pages = TrainingPages(dataset, questions, without)
    count, rows = len(pages.queries), pages.usable.tolist()
    right: list[list[int]] = [[] for _ in pages.queries]
    for query, page in zip(pages.positives.queries.tolist(), pages.positives.documents.tolist(), strict=True):
        right[query].append(page)
    first = [places[0] for places in right]
    if count < FEWEST or len({*first}) < 2:
        return {"why": f"{count} training queries are too few for a head."}
    asked = TestSet(
        queries=pages.queries,
        relevant=[[rows[page] for page in places] for places in right],
        rows=rows,
        clusters=first,
    )
    log(
        f"Training a head for late interaction on {count:,} queries, each against {settings.head_negatives} wrong "
        f"{dataset.kind.words.page}s that lexical search and late interaction find first"
    )
    place, wrong = np.full(len(dataset.page_ids), -1), []
    place[rows] = np.arange(len(rows))
    for (found, by_stage), refused in zip(
        scored(pool.only(dict(_NEAREST.weights)), asked), _related(pages), strict=True
    ):
        nearest = place[found[np.argsort(-_NEAREST(by_stage), kind="stable")]].tolist()
        wrong.append([page for page in nearest if page not in refused][: settings.head_negatives])
    known = np.unique(first)
    chosen = np.random.default_rng(settings.seed).permutation(known)[: max(1, round(_HELD_BACK * len(known)))]
    head = train_head(
        _tensor(Packed.of(untrained.encode_query(pages.queries, show_progress_bar=False))),
        _tensor(vectors(rows)),
        right,
        wrong,
        validation=np.flatnonzero(np.isin(first, chosen)).tolist(),
        epochs=settings.head_epochs,
        negatives=settings.head_negatives,
        seed=settings.seed,
    )
    told = {"epoch": head.best_epoch, "history": head.history, "queries": count}
    if not head.best_epoch:
        return {**told, "why": "No epoch of training was better than none on the training pages held back."}
    encoder = with_head(untrained, head)
    if encoder is None or not _gives(encoder, head, untrained, pages.queries, dataset.page_texts):
        return {**told, "why": "The model's token vectors are made by more than its backbone."}
    save_head(head, file)
    log(f"Head: epoch {head.best_epoch} of {len(head.history) - 1} was the best on training pages held back")
    return told


def _related(pages: TrainingPages) -> list[set[int]]:
    """For every query the places of right pages, of their neighbours and of their near-duplicates."""
    made: list[set[int]] = [set() for _ in pages.queries]
    for pairs in (pages.positives, *pages.excluded(Negatives()).values()):
        for query, page in zip(pairs.queries.tolist(), pairs.documents.tolist(), strict=True):
            made[query].add(page)
    return made


def _tensor(rows: Packed) -> Embeddings:
    assert rows.offsets is not None, "token vectors are ragged"
    return Embeddings(torch.from_numpy(np.ascontiguousarray(rows.values)), offsets=torch.from_numpy(rows.offsets))


def _gives(
    encoder: MultiVectorEncoder, head: LateHead, untrained: TokenVectors, queries: Sequence[str], texts: Sequence[str]
) -> bool:
    """Tell whether an encoder gives what a head makes of untrained vectors, for some queries and pages."""
    for task, some in (("query", list(queries[:_CHECKED])), ("document", [text for text in texts if text][:_CHECKED])):
        verb = f"encode_{task}"
        given = Packed.of(getattr(encoder, verb)(some, show_progress_bar=False))
        wanted = head.transform(_tensor(Packed.of(getattr(untrained, verb)(some, show_progress_bar=False))), task)
        expected = Packed.of(wanted)
        if given.values.shape != expected.values.shape or np.abs(given.values - expected.values).max() > _AGREES:
            return False
    return True
