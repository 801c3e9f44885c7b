"""In-batch negatives that a guide, a frozen second model, holds for irrelevant.

The guide encodes the raw items with its own engine, so it needs neither the student's tokenizer nor text: a guide that
reads images sees them.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from omnitune.errors import InputError
from omnitune.losses.base import Loss
from omnitune.losses.lists import owners, owners_in
from omnitune.losses.strategies import Strategy
from omnitune.ops.collectives import gather_columns, gather_rows, world_size
from omnitune.ops.similarity import cos_sim
from omnitune.types import Column, Embeddings, Encodes, Features, Labels, Objective

GUIDE_BYTES = 2 << 30
"""Bytes of a guide's embeddings that `cache_guide` keeps at most; the ones unused for longest go first."""

_ROUNDING = 1e-6
"""Scores of a guide that differ by no more are equal: they come out of matrix products."""


class GISTEmbedLoss(Loss):
    """Contrastive loss over (anchor, positive, negative, ...) that leaves out what a guide takes for relevant.

    A candidate is no negative of an anchor if the guide finds it closer than the anchor's own positive, less a margin.
    Cells of positives or negatives may be lists, as in `MultipleNegativesRankingLoss`.

    Args:
        model: The encoder.
        guide: A trained encoder; it is only read, in evaluation mode.
        temperature: Divides the cosines before the softmax.
        margin_strategy: "absolute" takes the margin off the guide's cosine of the positive, "relative" a share.
        margin: How much closeness to the positive's a candidate may have at most.
        contrast_anchors: Other anchors are candidates too.
        contrast_positives: Other positives are, seen from the anchor's positive.
        gather_across_devices: Candidates come from all ranks, not from this one alone.
        cache_guide: Remember the guide's embedding of every item by its content, so that later epochs do not encode it
            again: four bytes a dimension and item, on the CPU, up to `GUIDE_BYTES`.

    Raises:
        InputError: `margin_strategy` is none of the above, or `temperature` is not positive.

    Source:
        Solatorio 2024, eq. 1 to 3 (arXiv:2402.16829).

    Example:
        >>> rows = Dataset.from_dict({"query": ["How often to grease?", "How hot is it?"], "page": pages})
        >>> guide = model  # or a stronger encoder
        >>> trainer = SentenceTransformerTrainer(model=model, train_dataset=rows, loss=GISTEmbedLoss(model, guide))
    """

    paper = "solatorio2024gistembed"
    lists = "documents"
    config_keys = [
        "temperature",
        "margin_strategy",
        "margin",
        "contrast_anchors",
        "contrast_positives",
        "gather_across_devices",
    ]

    def __init__(
        self,
        model: nn.Module,
        guide: nn.Module,
        temperature: float = 0.01,
        margin_strategy: Literal["absolute", "relative"] = "absolute",
        margin: float = 0.0,
        contrast_anchors: bool = True,
        contrast_positives: bool = True,
        gather_across_devices: bool = False,
        *,
        cache_guide: bool = False,
    ) -> None:
        super().__init__(model)
        if margin_strategy not in ("absolute", "relative"):
            raise InputError(f'margin_strategy: expected "absolute" or "relative", got {margin_strategy!r}')
        if not temperature > 0:
            raise InputError(f"temperature: expected a positive number, got {temperature}")
        # In a tuple, because it is no part of the loss: not trained, not saved, not moved.
        self._guide = (guide,)
        self.temperature = temperature
        self.margin_strategy = margin_strategy
        self.margin = margin
        self.contrast_anchors = contrast_anchors
        self.contrast_positives = contrast_positives
        self.gather_across_devices = gather_across_devices
        self.cache_guide = cache_guide
        self._known: OrderedDict[Hashable, Tensor] = OrderedDict()

    @property
    def guide(self) -> nn.Module:
        """The frozen model that says what is relevant."""
        return self._guide[0]

    def embed(self, columns: Sequence[Column | Features], engine: Encodes) -> list[Embeddings]:
        """The model's embeddings of every column, then the guide's."""
        return [*super().embed(columns, engine), *self._guided(columns)]

    def targets(self, columns: Sequence[Column | Features], labels: Labels | None) -> Tensor | None:
        """Row of every document where cells are lists, else None."""
        del labels
        return owners(columns)

    def objective(self, embeddings: Sequence[Embeddings], labels: Tensor | None) -> Objective:
        """Guided contrastive loss of the model's columns and the guide's, `(rows, dim)` each.

        Args:
            embeddings: The model's, then the guide's; of lists, `(documents, dim)`.
            labels: Of lists, the row of every document, as `targets` gives it; others say nothing to it.
        """
        own, guide = embeddings[: len(embeddings) // 2], embeddings[len(embeddings) // 2 :]
        self._expect_columns(own, "(anchor, positive) or (anchor, positive, negative, ...)", least=2)
        rows = owners_in(labels)
        if rows is not None:
            rows = rows[: len(own[1])].to(own[1].values.device)
        scores, offset = self._scores([e.values for e in own], rows)
        guided, _ = self._scores([e.values.to(scores.device) for e in guide], rows)
        positives = torch.arange(offset, offset + len(scores), device=scores.device)
        limit = guided.gather(1, positives[:, None])
        limit = limit - (self.margin if self.margin_strategy == "absolute" else limit.abs() * self.margin)
        relevant = guided > limit + _ROUNDING
        if rows is not None:  # other positives of the same anchor are no negatives, whatever the guide says
            relevant |= self._of_the_same_anchor(rows, len(own[0]), scores.shape[1])
        relevant.scatter_(1, positives[:, None], value=False)
        logits = scores.masked_fill(relevant, -torch.inf) / self.temperature
        return nn.functional.cross_entropy(logits, positives)

    def objective_at(
        self, embeddings: Sequence[Embeddings], labels: Tensor | None, dims: Sequence[int]
    ) -> list[Objective]:
        """The loss of truncated embeddings under the whole guide."""
        half = len(embeddings) // 2
        return [self.value_of([*(e.truncate(d) for e in embeddings[:half]), *embeddings[half:]], labels) for d in dims]

    def _scores(self, columns: list[Tensor], owners: Tensor | None) -> tuple[Tensor, int]:
        """Cosine of every anchor with every candidate `(rows, candidates)`, and the first anchor's positive.

        Args:
            columns: Anchors, positives, then negatives.
            owners: Row of each positive where cells are lists; its anchor then stands there once for each.
        """
        others, documents = columns[0], columns[1:]
        anchors = others if owners is None else others[owners]
        offset = 0
        if self.gather_across_devices and owners is None:
            documents, offset = gather_columns(documents)
        elif self.gather_across_devices:
            offset = gather_rows(documents[0])[1]
            documents = [gather_rows(column)[0] for column in documents]
        first, *negatives = documents
        scores = [cos_sim(anchors, first)]
        if self.contrast_anchors:
            scores.append(cos_sim(anchors, others))
        if self.contrast_positives:
            scores.append(cos_sim(first[offset : offset + len(anchors)], first))
        return torch.cat([*scores, *(cos_sim(anchors, n) for n in negatives)], dim=1), offset

    def _of_the_same_anchor(self, owners: Tensor, anchors: int, candidates: int) -> Tensor:
        """True where a candidate is a positive of the query's own row `(positives, candidates)`.

        Args:
            owners: Row of each of this rank's positives.
            anchors: Rows of this rank.
            candidates: Columns of `_scores`.
        """
        rows = owners
        if self.gather_across_devices:
            owners = owners + gather_rows(torch.arange(anchors, device=owners.device))[1]
            rows = gather_rows(owners)[0]
        same = rows == owners[:, None]
        found = [same]
        if self.contrast_anchors:
            found.append(same.new_zeros(len(owners), anchors))
        if self.contrast_positives:
            found.append(same)
        whole = torch.cat(found, dim=1)
        return nn.functional.pad(whole, (0, candidates - whole.shape[1]))

    def _guided(self, columns: Sequence[Column | Features]) -> list[Embeddings]:
        """The guide's embeddings of every column, without a graph."""
        guide: Any = self.guide
        ready = [column for column in columns if not isinstance(column, Column)]
        if ready and not _same_vocabulary(self.model, guide):
            raise InputError(
                f"{type(self).__name__}: expected columns of raw items, which the guide encodes with its own "
                "tokenizer; got ready features of another tokenizer; train with the trainer, or pass Columns"
            )
        with torch.no_grad(), guide.engine.evaluating():
            if ready or not self.cache_guide:
                return self.strategy.embed(guide.engine, columns)
            return self._remembered(guide, [column for column in columns if isinstance(column, Column)])

    def _remembered(self, guide: Any, columns: Sequence[Column]) -> list[Embeddings]:
        """The same, encoding only what was not met before."""
        keys = [[(c.role, c.prompt, guide.content_key(item)) for item in c.items] for c in columns]
        for column, own in zip(columns, keys, strict=True):
            new = {key: item for key, item in zip(own, column.items, strict=True) if key not in self._known}
            if new:
                missing = Column(name=column.name, items=[*new.values()], role=column.role, prompt=column.prompt)
                [made] = self.strategy.embed(guide.engine, [missing])
                # Copies: a row of a shared tensor would keep the whole of it in memory.
                self._known.update(zip(new, (row.clone() for row in made.values.float().cpu()), strict=True))
        found = [Embeddings(torch.stack([self._known[key] for key in own])) for own in keys]
        for key in dict.fromkeys(key for own in keys for key in own):
            self._known.move_to_end(key)
        row = next(iter(self._known.values()), None)
        while row is not None and len(self._known) * row.numel() * row.element_size() > GUIDE_BYTES:
            self._known.popitem(last=False)
        return found

    def negatives_per_query(self, batch_size: int, columns: int) -> int:
        """Candidates beside the positive, before the guide leaves any out."""
        documents = batch_size * (world_size() if self.gather_across_devices else 1)
        queries = batch_size if self.contrast_anchors else 0
        return documents * (columns - 1 + self.contrast_positives) + queries - 1

    def get_config_dict(self) -> dict[str, Any]:
        """Record the arguments for the model card; of the guide, where it was loaded from."""
        origin = getattr(getattr(self.guide, "model_card_data", None), "base_model", None) or type(self.guide).__name__
        return {"guide": Path(origin).name if Path(origin).exists() else origin, **super().get_config_dict()}


class CachedGISTEmbedLoss(GISTEmbedLoss):
    """`GISTEmbedLoss` whose mini-batches are cut by a size that the caller sets; loss and gradients are the same.

    Args:
        model: The encoder.
        guide: As in `GISTEmbedLoss`, as are all that are not named below.
        mini_batch_size: Most items a mini-batch holds.
        mini_batch_num_tokens: Most padded tokens a mini-batch holds, in place of `mini_batch_size`.
        show_progress_bar: Whether to show the mini-batches of every step.

    Raises:
        InputError: As in `GISTEmbedLoss`.

    Source:
        Solatorio 2024, eq. 1 to 3 (arXiv:2402.16829); Gao et al. 2021 (arXiv:2101.06983) for the mini-batches.

    Example:
        >>> rows = Dataset.from_dict({"query": ["How often to grease?", "How hot is it?"], "page": pages})
        >>> guide = model  # or a stronger encoder
        >>> loss = CachedGISTEmbedLoss(model, guide, mini_batch_size=64)
        >>> trainer = SentenceTransformerTrainer(model=model, train_dataset=rows, loss=loss)
    """

    config_keys = [*GISTEmbedLoss.config_keys, "mini_batch_size", "mini_batch_num_tokens"]

    def __init__(
        self,
        model: nn.Module,
        guide: nn.Module,
        temperature: float = 0.01,
        mini_batch_size: int = 32,
        mini_batch_num_tokens: int | None = None,
        show_progress_bar: bool = False,
        margin_strategy: Literal["absolute", "relative"] = "absolute",
        margin: float = 0.0,
        contrast_anchors: bool = True,
        contrast_positives: bool = True,
        gather_across_devices: bool = False,
        *,
        cache_guide: bool = False,
    ) -> None:
        super().__init__(
            model,
            guide,
            temperature,
            margin_strategy,
            margin,
            contrast_anchors,
            contrast_positives,
            gather_across_devices,
            cache_guide=cache_guide,
        )
        self.mini_batch_size = mini_batch_size
        self.mini_batch_num_tokens = mini_batch_num_tokens
        self.strategy = Strategy(mini_batch_size, mini_batch_num_tokens, show_progress_bar=show_progress_bar)


def _same_vocabulary(model: nn.Module, guide: nn.Module) -> bool:
    vocabularies = [
        cast(Callable[[], dict[str, int]], vocabulary)()
        for vocabulary in (getattr(getattr(m, "tokenizer", None), "get_vocab", None) for m in (model, guide))
        if vocabulary is not None
    ]
    return len(vocabularies) == 2 and vocabularies[0] == vocabularies[1]
