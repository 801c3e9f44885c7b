"""Evaluators of cross encoders: reranking, classification of pairs, and agreement with gold scores.

Every evaluator hands all its pairs to one `predict`, which sorts them by cost: there is no forward a query.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from omnitune.errors import InputError, ShapeError
from omnitune.evaluation.base import BaseEvaluator, check_numbers, moment
from omnitune.evaluation.nano_beir import DATASET_ID, TASKS, check_tasks, load_subset
from omnitune.ops.classification import binary_metrics, class_f1
from omnitune.ops.metrics import expect_numbers, pearson, ranking_metrics, spearman

logger = logging.getLogger(__name__)


class Scorer(Protocol):
    """The verbs of a cross encoder that evaluators use."""

    @property
    def num_labels(self) -> int:
        """Scores a pair has."""

    def predict(self, inputs: Any, **options: Any) -> Any:
        """Scores of pairs `(pairs,)`, or `(pairs, labels)`."""


class PairEvaluator(BaseEvaluator):
    """Base of the evaluators of cross encoders.

    Args:
        name: Put before every metric.
        prompt_name: Name of the prompt in the model's.
        batch_size: Pairs a forward takes.
        show_progress_bar: Whether to show progress; None shows it on a terminal.
        write_csv: Whether a call adds a row to the CSV file in its output folder.
        csv_suffix: End of that file's name.
    """

    def __init__(
        self,
        name: str,
        prompt_name: str | None,
        batch_size: int,
        show_progress_bar: bool | None,
        write_csv: bool,
        csv_suffix: str = "results.csv",
    ) -> None:
        super().__init__()
        self.name = name
        self.prompt_name = prompt_name
        self.batch_size = batch_size
        self.show_progress_bar = show_progress_bar
        self.write_csv = write_csv
        self.csv_file = "_".join(filter(None, [type(self).__name__, name, csv_suffix]))

    def __call__(
        self, model: Any, output_path: str | None = None, epoch: int = -1, steps: int = -1
    ) -> dict[str, float]:
        """Measure the model, record the results, and return them by their full names."""
        metrics = self.measure(model)
        logger.info(
            "%s of %s%s: %s", self.description, self.name or "the evaluator", moment(epoch, steps, None), metrics
        )
        return self.record(model, metrics, output_path, epoch, steps)

    def _predict(self, model: Scorer, pairs: Sequence[Any]) -> Tensor:
        """Scores of the pairs, on the host."""
        scores = model.predict(
            pairs,
            prompt_name=self.prompt_name,
            batch_size=self.batch_size,
            convert_to_numpy=True,
            show_progress_bar=self.show_progress_bar,
        )
        expect_numbers(np.asarray(scores), "scores")
        return torch.from_numpy(np.asarray(scores))


class CrossEncoderRerankingEvaluator(PairEvaluator):
    """MAP, MRR and NDCG of each query's documents in the order of their scores.

    Args:
        samples: Dicts with "query", "positive" (relevant documents, or one) and either "negative" (the others) or
            "documents" (what a retriever found, in its order); or such a dict by name.
        at_k: Documents that MRR and NDCG look at.
        always_rerank_positives: With "documents", whether positives that were not found are reranked too.
        name, prompt_name, batch_size, show_progress_bar, write_csv: As in `PairEvaluator`.
        mrr_at_k: Old name of `at_k`.

    Raises:
        InputError: A sample lacks a key, or has both of two; there are no samples, or none with a positive.

    Example:
        >>> sample = {"query": "How hot is the oven?", "positive": [pages[1]], "documents": pages}
        >>> results = CrossEncoderRerankingEvaluator([sample])(reranker)
        >>> results["base_mrr@10"]  # of the order that the retriever gave
        0.5
    """

    def __init__(
        self,
        samples: list[dict[str, Any]] | dict[Any, dict[str, Any]],
        at_k: int = 10,
        always_rerank_positives: bool = True,
        name: str = "",
        prompt_name: str | None = None,
        batch_size: int = 64,
        show_progress_bar: bool = False,
        write_csv: bool = True,
        mrr_at_k: int | None = None,
    ) -> None:
        if mrr_at_k is not None:
            at_k = mrr_at_k
            logger.warning("mrr_at_k: renamed to at_k; at_k=%d is used.", at_k)
        super().__init__(name, prompt_name, batch_size, show_progress_bar, write_csv, f"results_@{at_k}.csv")
        self.samples = list(samples.values()) if isinstance(samples, dict) else samples
        if not self.samples:
            raise InputError("samples: expected at least one, got none")
        for number, sample in enumerate(self.samples):
            missing = [key for key in ("query", "positive") if key not in sample]
            if missing or ("negative" in sample) == ("documents" in sample):
                raise InputError(
                    f"samples[{number}]: expected the keys 'query', 'positive' and either 'negative' or 'documents', "
                    f"got {sorted(sample)}"
                )
            documents = sample["negative"] if "negative" in sample else sample["documents"]
            if isinstance(documents, str):
                raise InputError(f"samples[{number}]: expected a list of documents, got the text {documents!r:.80}")
        if not any(_positives(sample) for sample in self.samples):
            raise InputError(f"samples: expected at least one with a positive, got none in {len(self.samples)}")
        self.at_k = at_k
        self.always_rerank_positives = always_rerank_positives
        self.primary_metric = f"ndcg@{self.at_k}"

    def measure(self, model: Any) -> dict[str, float]:
        """`map`, `mrr@k` and `ndcg@k`; with documents of a retriever, the same of its order, as `base_...`.

        A query whose reranked documents hold no positive counts as 0; so does one whose retriever found none.
        """
        lists = [self._documents(sample) for sample in self.samples]
        pairs = [
            (sample["query"], document)
            for sample, (documents, marks) in zip(self.samples, lists, strict=True)
            if any(marks)
            for document in documents
        ]
        marks = [marks if any(marks) else [] for _, marks in lists]
        found = self._mean(self._predict(model, pairs) if pairs else torch.zeros(0), marks)
        retrieved: list[list[bool]] = []
        for sample in self.samples:
            if "documents" in sample:  # those that a retriever found, in its order, and then those that it missed
                positives = _positives(sample)
                hits = [document in positives for document in sample["documents"]]
                # Empty where it found none, which counts as 0.
                retrieved.append([*hits, *[True] * (len(positives) - sum(hits))] if any(hits) else [])
        if not retrieved:
            return found
        falling = torch.cat([-torch.arange(len(marks), dtype=torch.float64) for marks in retrieved])
        return found | {f"base_{key}": value for key, value in self._mean(falling, retrieved).items()}

    def _documents(self, sample: Mapping[str, Any]) -> tuple[list[Any], list[bool]]:
        """List the documents of a sample that are reranked, and mark the relevant ones."""
        positives = _positives(sample)
        if "documents" not in sample:
            return [*positives, *sample["negative"]], [True] * len(positives) + [False] * len(sample["negative"])
        documents = list(sample["documents"])
        if not self.always_rerank_positives:
            return documents, [document in positives for document in documents]
        others = [document for document in documents if document not in positives]
        return [*positives, *others], [True] * len(positives) + [False] * len(others)

    def _mean(self, scores: Tensor, marks: Sequence[Sequence[bool]]) -> dict[str, float]:
        relevant = torch.tensor([mark for row in marks for mark in row], dtype=torch.bool)
        lengths = torch.tensor([len(row) for row in marks])
        return {k: float(v.mean()) for k, v in ranking_metrics(scores, relevant, lengths, self.at_k).items()}

    def csv_row(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """The metrics of the reranked order, as columns of other programs name them."""
        return {key.upper(): value for key, value in metrics.items() if not key.startswith("base_")}

    def get_config_dict(self) -> dict[str, Any]:
        """Settings that a reader of the model card should know."""
        retrieved = "documents" in self.samples[0]
        rule = {"always_rerank_positives": self.always_rerank_positives} if retrieved else {}
        return {"at_k": self.at_k} | rule


class CrossEncoderClassificationEvaluator(PairEvaluator):
    """Measures how well scores tell positive from negative pairs, or the classes of pairs.

    Args:
        sentence_pairs: Pairs `(query, document)`.
        labels: 1 and 0 for a model with one label, else classes.
        name, prompt_name, batch_size, show_progress_bar, write_csv: As in `PairEvaluator`.
        **kwargs: Accepted for compatibility.

    Raises:
        ShapeError: There are not as many labels as pairs, or none.
        InputError: A label is no whole number.

    Example:
        >>> pairs = [("How hot is the oven?", pages[1]), ("How hot is the oven?", pages[0])]
        >>> CrossEncoderClassificationEvaluator(pairs, labels=[1, 0], name="dev")(reranker)
        {'dev_accuracy': ..., 'dev_average_precision': ...}
    """

    _COLUMNS = {  # noqa: RUF012 - a table
        "accuracy": "Accuracy", "accuracy_threshold": "Accuracy_Threshold", "f1": "F1", "f1_threshold": "F1_Threshold",
        "precision": "Precision", "recall": "Recall", "average_precision": "Average_Precision",
        "f1_macro": "Macro_F1", "f1_micro": "Micro_F1", "f1_weighted": "Weighted_F1",
    }  # fmt: skip

    def __init__(
        self,
        sentence_pairs: list[list[str]],
        labels: list[int],
        *,
        name: str = "",
        prompt_name: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        write_csv: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(name, prompt_name, batch_size, show_progress_bar, write_csv)
        del kwargs
        _check_count(len(sentence_pairs), len(labels), "labels", least=1)
        for place, label in enumerate(labels):
            if label != label or label != int(label):
                raise InputError(f"labels[{place}]: expected a whole number, got {label!r}")
        self.sentence_pairs = sentence_pairs
        self.labels = labels

    def measure(self, model: Any) -> dict[str, float]:
        """With one label `accuracy`, `f1` and more at the best thresholds, `average_precision`; else F1 of classes."""
        scores, labels = self._predict(model, self.sentence_pairs), torch.as_tensor(np.asarray(self.labels))
        if model.num_labels > 1:
            return {f"f1_{kind}": value for kind, value in class_f1(scores.argmax(dim=1), labels.long()).items()}
        found = binary_metrics(scores, labels)
        return {"average_precision" if k == "ap" else k: v for k, v in found.items() if k != "mcc"}

    def choose_primary(self, metrics: Mapping[str, float]) -> str:
        """The mean over thresholds, or over classes."""
        return "average_precision" if "average_precision" in metrics else "f1_macro"

    def csv_row(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """The metrics, as columns of other programs name them."""
        return {self._COLUMNS[key]: value for key, value in metrics.items()}


class CrossEncoderCorrelationEvaluator(PairEvaluator):
    """Pearson and Spearman correlation of scores with gold scores.

    Args:
        sentence_pairs: Pairs `(query, document)`.
        scores: Gold score of every pair, higher is more similar.
        name, prompt_name, batch_size, show_progress_bar, write_csv: As in `PairEvaluator`.

    Raises:
        ShapeError: There are not as many scores as pairs, or fewer than two.
        InputError: A score is no number.

    Example:
        >>> pairs = [("How hot is the oven?", pages[1]), ("How hot is the oven?", pages[0])]
        >>> CrossEncoderCorrelationEvaluator(pairs, scores=[0.9, 0.1])(reranker)
        {'pearson': ..., 'spearman': ...}
    """

    def __init__(
        self,
        sentence_pairs: list[list[str]],
        scores: list[float],
        name: str = "",
        prompt_name: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        write_csv: bool = True,
    ) -> None:
        super().__init__(name, prompt_name, batch_size, show_progress_bar, write_csv)
        _check_count(len(sentence_pairs), len(scores), "scores", least=2)
        check_numbers(scores, "scores")
        self.sentence_pairs = sentence_pairs
        self.scores = scores
        self.primary_metric = "spearman"

    @classmethod
    def from_input_examples(cls, examples: Sequence[Any], **kwargs: Any) -> Self:
        """From examples that have `texts` and a `label`."""
        return cls([example.texts for example in examples], [example.label for example in examples], **kwargs)

    def measure(self, model: Any) -> dict[str, float]:
        """`pearson` and `spearman`."""
        gold, scores = torch.tensor(self.scores, dtype=torch.float64), self._predict(model, self.sentence_pairs)
        return {"pearson": pearson(gold, scores), "spearman": spearman(gold, scores)}

    def csv_row(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """The metrics, as columns of other programs name them."""
        return {f"{key.title()}_Correlation": value for key, value in metrics.items()}


class CrossEncoderNanoBEIREvaluator(BaseEvaluator):
    """Reranking of what BM25 found for the queries of NanoBEIR's tasks, and the mean over them.

    Args:
        dataset_names: Tasks; None takes all but ArguAna and Touché, which are no question answering.
        dataset_id: Repository on the hub, or a folder with the same layout.
        rerank_k: Documents of BM25 that are reranked.
        at_k: Documents that MRR and NDCG look at.
        always_rerank_positives: Whether positives that were not found are reranked too.
        prompt_name, batch_size, show_progress_bar: As in `PairEvaluator`.
        write_csv: Whether a call adds rows to the CSV files in its output folder.
        aggregate_fn: Makes one number of the tasks'.
        aggregate_key: What that number is called.

    Raises:
        InputError: A task is unknown.
        DatasetError: The data is neither on the hub, nor in its cache, nor in a folder; says what is needed.

    Example:
        >>> evaluator = CrossEncoderNanoBEIREvaluator(["msmarco", "nq"])  # downloads  # doctest: +SKIP
        >>> evaluator(reranker)["NanoBEIR_R100_mean_ndcg@10"]  # doctest: +SKIP
        0.6
    """

    def __init__(
        self,
        dataset_names: list[str] | None = None,
        dataset_id: str = DATASET_ID,
        rerank_k: int = 100,
        at_k: int = 10,
        always_rerank_positives: bool = True,
        prompt_name: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool = False,
        write_csv: bool = True,
        aggregate_fn: Callable[[list[float]], float] = np.mean,
        aggregate_key: str = "mean",
    ) -> None:
        super().__init__()
        names = [name for name in TASKS if name not in ("arguana", "touche2020")]
        self.dataset_names = names if dataset_names is None else dataset_names
        check_tasks(self.dataset_names)
        self.dataset_id = dataset_id
        self.rerank_k = rerank_k
        self.at_k = at_k
        self.always_rerank_positives = always_rerank_positives
        self.write_csv = write_csv
        self.aggregate_fn = aggregate_fn
        self.aggregate_key = aggregate_key
        self.name = f"NanoBEIR_R{rerank_k}_{aggregate_key}"
        self.csv_file = f"NanoBEIR_evaluation_{aggregate_key}_results.csv"
        self.primary_metric = f"ndcg@{at_k}"
        self.evaluators = [
            CrossEncoderRerankingEvaluator(
                self._samples(TASKS[name.lower()]),
                at_k,
                always_rerank_positives,
                f"Nano{TASKS[name.lower()]}_R{rerank_k}",
                prompt_name,
                batch_size,
                show_progress_bar,
                write_csv,
            )
            for name in self.dataset_names
        ]

    def __call__(
        self, model: Any, output_path: str | None = None, epoch: int = -1, steps: int = -1, *args: Any, **kwargs: Any
    ) -> dict[str, float]:
        """Metrics of every task, and of all together."""
        del args, kwargs
        every: dict[str, float] = {}
        for evaluator in self.evaluators:
            every |= evaluator(model, output_path, epoch, steps)
        first = f"{self.evaluators[0].name}_"
        keys = [key.removeprefix(first) for key in every if key.startswith(first)]
        together = {
            key: float(self.aggregate_fn([every[f"{evaluator.name}_{key}"] for evaluator in self.evaluators]))
            for key in keys
        }
        return every | self.record(model, together, output_path, epoch, steps)

    def measure(self, model: Any) -> dict[str, float]:
        """Metrics of every task, and of all together."""
        return self(model)

    def csv_row(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """The metrics of the reranked order, as columns of other programs name them."""
        return self.evaluators[0].csv_row(metrics)

    def get_config_dict(self) -> dict[str, Any]:
        """Settings that a reader of the model card should know."""
        names = ("dataset_names", "dataset_id", "rerank_k", "at_k", "always_rerank_positives")
        return {name: getattr(self, name) for name in names}

    def _samples(self, task: str) -> list[dict[str, Any]]:
        """Query, relevant documents and what BM25 found, for every query of a task."""
        split = f"Nano{task}"
        corpus, queries = (
            dict(zip(rows["_id"], rows["text"], strict=True))
            for rows in (load_subset(self.dataset_id, kind, split, ("_id", "text")) for kind in ("corpus", "queries"))
        )
        relevant: dict[str, list[str]] = {}
        for row in load_subset(self.dataset_id, "qrels", split, ("query-id", "corpus-id")):
            ids = row["corpus-id"]
            relevant.setdefault(row["query-id"], []).extend(ids if isinstance(ids, list) else [ids])
        found = load_subset(self.dataset_id, "bm25", split, ("query-id", "corpus-ids"))
        return [
            {
                "query": queries[row["query-id"]],
                "positive": [corpus[document] for document in dict.fromkeys(relevant[row["query-id"]])],
                "documents": [corpus[document] for document in row["corpus-ids"][: self.rerank_k]],
            }
            for row in found
        ]


def _check_count(pairs: int, given: int, what: str, *, least: int) -> None:
    if pairs != given:
        raise ShapeError(f"{what}: expected one for each of {pairs} sentence_pairs, got {given}")
    if pairs < least:
        few = "at least one" if least == 1 else "at least two"
        raise ShapeError(f"sentence_pairs, {what}: expected {few} of each, got {pairs}")


def _positives(sample: Mapping[str, Any]) -> list[Any]:
    """The relevant documents of a sample; one that stands alone is a list of one."""
    given = sample["positive"]
    return list(given) if isinstance(given, list | tuple | set) else [given]
