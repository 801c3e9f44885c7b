"""A loss is an objective times a strategy.

`objective` is arithmetic on embeddings and nothing else. How the embeddings are obtained (all graphs kept, or some
replayed) is the strategy's business, shared by all losses.

What an objective needs beyond one embedding a column is said in three places, which wrappers pass on: `embed` (columns
that another encoder embeds, or that none does), `targets` (labels that the columns themselves say) and `any_width`
(False where a layer of the loss fits whole embeddings only). Frozen guides, trained copies and earlier layers all come
in through `embed`, so every loss combines with every strategy.
"""

from collections.abc import Mapping, Sequence
from enum import Enum
from functools import cache, partial
from importlib import resources
from typing import Any, ClassVar, cast

from torch import Tensor, nn

from omnitune.errors import InputError, ShapeError
from omnitune.losses.lists import Lists, holds_lists, laid_out
from omnitune.losses.strategies import Strategy
from omnitune.renames import missing, refuse_overrides
from omnitune.types import Collated, CollatedItems, Column, Embeddings, Encodes, Features, Labels, Objective

LEFT_OUT = {
    **dict.fromkeys(
        ("calculate_loss", "calculate_loss_and_cache_gradients", "logits_from_pairs", "get_in_batch_negatives")
        + ("get_anchor_negative_triplet_mask", "get_anchor_positive_triplet_mask", "get_triplet_mask", "sim_matrix")
        + ("batch_all_triplet_loss", "batch_hard_triplet_loss", "batch_hard_triplet_soft_margin_loss")
        + ("batch_semi_hard_triplet_loss", "compute_gor", "approximate_ranks"),
        "use, or override, compute_loss_from_embeddings(embeddings, labels)",
    ),
    **dict.fromkeys(
        ("embed_minibatch", "embed_minibatch_iter", "predict_minibatch", "predict_minibatch_iter")
        + ("call_model_with_columns", "call_model_with_pairs", "forward_cached", "forward_mini_batched")
        + ("forward_non_mini_batched", "uses_gradient_cache", "retokenize"),
        "the model's engine plans and runs mini-batches; override forward to call the model yourself",
    ),
}
"""Names of Sentence Transformers' losses that are not here, and what takes their place."""


class Loss(nn.Module):
    """Base of every loss over embeddings.

    Args:
        model: The encoder; its `engine` plans, prepares and runs.
        strategy: How embeddings are obtained; by default mini-batches planned by cost, graphs kept while memory allows.

    Attributes:
        any_width: Whether the objective takes embeddings of fewer dimensions than the model's.
        lists: How columns are taken whose cells are lists of inputs: "refused", a row for every entry ("rows"), as
            the documents of a row ("documents": `objective` gets `losses.lists.owners` as labels), or as they are.
        config_keys: Attributes that `get_config_dict` records; they are the constructor's arguments.
        paper: Key in `citations.bib` of the paper that introduced the loss, or "".

    Example:
        >>> class FarApart(Loss):
        ...     def objective(self, embeddings, labels):
        ...         first, second = (column.values for column in embeddings)
        ...         return util.pairwise_cos_sim(first, second).mean()
        >>> rows = Dataset.from_dict({"a": ["pump", "gear"], "b": pages})
        >>> trainer = SentenceTransformerTrainer(model=model, train_dataset=rows, loss=FarApart(model))
    """

    any_width: bool = True
    lists: Lists = "refused"
    config_keys: ClassVar[list[str]] = []
    paper: str = ""

    def __init__(self, model: nn.Module, strategy: Strategy | None = None) -> None:
        super().__init__()
        if not any(overridden(self, each) for each in ("forward", "objective", "compute_loss_from_embeddings")):
            refuse_overrides(type(self), LEFT_OUT)
        self.model = model
        self.strategy = strategy or Strategy()

    def __getattr__(self, name: str) -> Any:
        if name in LEFT_OUT:
            raise missing(type(self).__name__, name, LEFT_OUT)
        return super().__getattr__(name)

    def forward(
        self, sentence_features: Sequence[Column | Features], labels: Labels | None = None
    ) -> Tensor | dict[str, Tensor]:
        """The loss of one batch.

        Args:
            sentence_features: One `Column` of raw items, or one dict of ready features, per input of the loss.
            labels: `(rows,)` or `(rows, n)`, or None for losses without labels.

        Returns:
            A scalar, or named scalar parts whose sum is the loss.
        """
        columns = given_columns(sentence_features)
        if self.lists != "cells" and any(map(holds_lists, columns)):
            columns, labels = laid_out(columns, labels, self.lists, type(self).__name__)
        embeddings = self.embed(columns, cast(Encodes, self.model.engine))
        value = self.value_of(embeddings, self.targets(columns, labels))
        return dict(value) if isinstance(value, Mapping) else value

    def embed(self, columns: Sequence[Column | Features], engine: Encodes) -> list[Embeddings]:
        """Make what `objective` takes: the model's embeddings of every column, unless a loss says otherwise.

        Args:
            columns: The inputs of the loss.
            engine: The model's, or one in its place that gives more than the final embeddings.
        """
        return self.strategy.embed(engine, columns)

    def targets(self, columns: Sequence[Column | Features], labels: Labels | None) -> Tensor | None:
        """The labels that `objective` takes: those of the batch, unless the columns say them.

        Raises:
            ShapeError: They are lists of different lengths.
        """
        del columns
        if isinstance(labels, list):
            raise ShapeError(
                f"{type(self).__name__}: expected labels that are numbers or lists of one length, got lists of "
                f"{sorted({len(row) for row in labels})}"
            )
        return labels

    def objective(self, embeddings: Sequence[Embeddings], labels: Tensor | None) -> Objective:
        """The loss of these embeddings, one `Embeddings` per column."""
        raise NotImplementedError(
            f"{type(self).__name__}: expected a method objective(embeddings, labels), got none; write one"
        )

    def value_of(self, embeddings: Sequence[Embeddings], labels: Tensor | None) -> Objective:
        """The objective, or `compute_loss_from_embeddings` where a subclass outside this library has its own."""
        if not overridden(self, "compute_loss_from_embeddings"):
            return self.objective(embeddings, labels)
        # Plain tensors, unless a layout says more than they do.
        plain: list[Any] = [e.values if e.layout == "dense" else e for e in embeddings]
        return self.compute_loss_from_embeddings(plain, labels)

    def objective_at(
        self, embeddings: Sequence[Embeddings], labels: Tensor | None, dims: Sequence[int]
    ) -> list[Objective]:
        """The objective on every truncation; a loss whose work is shared between nested dimensions overrides it.

        Every truncation is scaled to unit length, the full dimension too.
        """
        return [self.value_of([e.truncate(d) for e in embeddings], labels) for d in dims]

    def compute_loss_from_embeddings(
        self, embeddings: Sequence[Tensor | Embeddings], labels: Tensor | None
    ) -> Objective:
        """The loss of embeddings that are there already, `(rows, dim)` a column.

        A subclass may override it: it is then called wherever the loss is computed, within wrappers too.
        """
        return self.objective([e if isinstance(e, Embeddings) else Embeddings(e) for e in embeddings], labels)

    def negatives_per_query(self, batch_size: int, columns: int) -> int | None:
        """Negatives that each query meets in one step, or None where the batch is no source of negatives.

        Args:
            batch_size: Rows of one process's batch.
            columns: Inputs of the loss: 2 for pairs, 3 with one hard negative.
        """
        del batch_size, columns
        return None

    def get_config_dict(self) -> dict[str, Any]:
        """Record the arguments that `config_keys` names, for the model card."""
        return {key: shown(getattr(self, key)) for key in self.config_keys}

    @property
    def citation(self) -> str:
        """BibTeX of the paper that introduced the loss, or an empty string."""
        return _papers()[self.paper] if self.paper else ""

    def _expect_columns(self, columns: Sequence[Any], names: str, *, least: int, most: int = 1 << 30) -> None:
        """Check the number of input columns.

        Raises:
            InputError: There are fewer than `least` or more than `most`.
        """
        if not least <= len(columns) <= most:
            raise InputError(
                f"{type(self).__name__}: expected the input columns {names}, got {len(columns)} columns; "
                f"keep exactly these with dataset.select_columns (a label column does not count)"
            )

    def _expect_labels(self, labels: Tensor | None, meaning: str) -> Tensor:
        """Check that there are labels.

        Raises:
            InputError: There are none.
        """
        if labels is None:
            raise InputError(
                f"{type(self).__name__}: expected labels ({meaning}), got None; "
                f'add them to the dataset as a column named "label", "labels", "score" or "scores"'
            )
        return labels

    def _expect_one_label_per_row(self, labels: Tensor | None, meaning: str, rows: int) -> Tensor:
        """Labels as `(rows,)`.

        Raises:
            InputError: There are none.
            ShapeError: There is not one number a row.
        """
        given = self._expect_labels(labels, meaning)
        if given.numel() != rows:
            raise ShapeError(
                f"{type(self).__name__}: expected {rows} labels, one {meaning} per row, "
                f"got {given.numel()} in shape {tuple(given.shape)}"
            )
        return given.reshape(-1)


def overridden(object_: Any, method: str) -> bool:
    """Tell whether a loss or a trainer has the method from a class outside this library."""
    owner = next(kind for kind in type(object_).__mro__ if method in vars(kind))
    return owner.__module__.partition(".")[0] != __name__.partition(".")[0]


def given_columns(inputs: Sequence[Any]) -> list[Any]:
    """The inputs of a loss, with each `Collated` one that nobody changed replaced by the column it was made of."""
    return [one.column if isinstance(one, Collated | CollatedItems) else one for one in inputs]


def shown(value: Any) -> Any:
    """An argument as the model card shows it: modules and functions by their names, other values as they are."""
    if isinstance(value, Loss):
        return type(value).__name__
    if isinstance(value, nn.Module):
        return f"{type(value).__module__}.{type(value).__qualname__}"
    if isinstance(value, Enum):
        return str(value)
    if isinstance(value, Tensor):
        return value.tolist()
    return described(value) if callable(value) else value


def described(function: Any) -> str:
    """A function's name for the model card, with the arguments of a `functools.partial`."""
    if isinstance(function, partial):
        arguments = ", ".join(f"{key}={value!r}" for key, value in function.keywords.items())
        return f"{described(function.func)}({arguments})" if arguments else described(function.func)
    return str(getattr(function, "__name__", type(function).__name__))


@cache
def _papers() -> Mapping[str, str]:
    """Entries of `citations.bib` by key; a blank line stands between two."""
    text = resources.files(__package__).joinpath("citations.bib").read_text(encoding="utf-8")
    return {entry.partition("{")[2].partition(",")[0]: entry for entry in text.strip().split("\n\n")}
