"""NanoBEIR: thirteen small retrieval tasks in English, one split each of a dataset on the hub, and their mean."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from omnitune.errors import DatasetError, InputError
from omnitune.evaluation.base import BaseEvaluator, similarity_name
from omnitune.evaluation.information_retrieval import InformationRetrievalEvaluator
from omnitune.ops.similarity import SimilarityFunction

DATASET_ID = "sentence-transformers/NanoBEIR-en"

TASKS = {
    "climatefever": "ClimateFEVER",
    "dbpedia": "DBPedia",
    "fever": "FEVER",
    "fiqa2018": "FiQA2018",
    "hotpotqa": "HotpotQA",
    "msmarco": "MSMARCO",
    "nfcorpus": "NFCorpus",
    "nq": "NQ",
    "quoraretrieval": "QuoraRetrieval",
    "scidocs": "SCIDOCS",
    "arguana": "ArguAna",
    "scifact": "SciFact",
    "touche2020": "Touche2020",
}
"""Names of the tasks as users write them, and as splits and metrics spell them."""


def check_tasks(names: Sequence[str]) -> None:
    """Raise unless all are names of tasks, in upper or lower case.

    Raises:
        InputError: There are none, or some are unknown.
    """
    unknown = [name for name in names if name.lower() not in TASKS]
    if unknown or not names:
        raise InputError(f"dataset_names: expected names among {', '.join(TASKS)}, got {unknown or 'none'}")


def load_subset(dataset_id: str, subset: str, split: str, columns: Collection[str]) -> Any:
    """One subset of one task.

    Args:
        dataset_id: Repository on the hub, or a folder with the same layout.
        subset: "corpus", "queries", "qrels" or "bm25".
        split: For instance "NanoMSMARCO".
        columns: Columns that it must have.

    Returns:
        A `datasets.Dataset`.

    Raises:
        DatasetError: It can neither be downloaded nor found in the cache, or lacks columns; says what is needed.
    """
    from datasets import load_dataset  # heavy, and for these evaluators alone

    try:
        rows = load_dataset(dataset_id, subset, split=split)
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: it holds code, which never runs
        raise DatasetError(
            f"dataset_id: expected {dataset_id!r} with a configuration {subset!r} and a split {split!r}, which could "
            "not be read; without a network it has to be in the cache of datasets already (HF_HOME), or be a folder of "
            f"that layout ({error})"
        ) from error
    if missing := [column for column in columns if column not in rows.column_names]:
        raise DatasetError(f"{dataset_id}, {subset}, {split}: expected the columns {columns}, missing {missing}")
    return rows


class NanoBEIREvaluator(BaseEvaluator):
    """`InformationRetrievalEvaluator` on each dataset, and the mean of every metric.

    The datasets are read when the evaluator is made, from the Hugging Face Hub, its cache, or a folder.

    Args:
        dataset_names: Names out of `TASKS`, in any case; all by default.
        dataset_id: Repository or folder with the configurations `corpus` and `queries` (columns `_id`, `text`) and
            `qrels` (columns `query-id`, `corpus-id`), and in each a split for every dataset, such as `NanoMSMARCO`.
        mrr_at_k: As in `InformationRetrievalEvaluator`, as are all that are not named below.
        aggregate_fn: Makes one number of a metric's values over the datasets.
        aggregate_key: What that is called in metrics and files.
        query_prompts: Text put before every query, or one for each dataset.
        corpus_prompts: Text put before every document, or one for each dataset.

    Raises:
        InputError: A name is unknown, there is none, or a dataset has no prompt.
        DatasetError: A dataset cannot be read, or lacks a column.

    Example:
        >>> evaluator = NanoBEIREvaluator(["msmarco", "nq"])  # downloads  # doctest: +SKIP
        >>> evaluator(model)[evaluator.primary_metric]  # doctest: +SKIP
        0.6
    """

    information_retrieval_class: ClassVar[type[InformationRetrievalEvaluator]] = InformationRetrievalEvaluator
    limited_by: ClassVar[str] = "truncate_dim"
    """Option of `information_retrieval_class` that shortens embeddings; its value is part of every name."""

    def __init__(
        self,
        dataset_names: list[str] | None = None,
        dataset_id: str = DATASET_ID,
        mrr_at_k: list[int] = [10],  # noqa: B006 - lists because ST's defaults are lists; never changed
        ndcg_at_k: list[int] = [10],  # noqa: B006
        accuracy_at_k: list[int] = [1, 3, 5, 10],  # noqa: B006
        precision_recall_at_k: list[int] = [1, 3, 5, 10],  # noqa: B006
        map_at_k: list[int] = [100],  # noqa: B006
        show_progress_bar: bool = False,
        batch_size: int = 32,
        write_csv: bool = True,
        truncate_dim: int | None = None,
        score_functions: dict[str, Callable[[Tensor, Tensor], Tensor]] | None = None,
        main_score_function: str | SimilarityFunction | None = None,
        aggregate_fn: Callable[[list[float]], float] = np.mean,
        aggregate_key: str = "mean",
        query_prompts: str | dict[str, str] | None = None,
        corpus_prompts: str | dict[str, str] | None = None,
        write_predictions: bool = False,
    ) -> None:
        super().__init__()
        self.dataset_names = list(TASKS) if dataset_names is None else dataset_names
        check_tasks(self.dataset_names)
        self.dataset_id = dataset_id
        self.ndcg_at_k = ndcg_at_k
        self.write_csv = write_csv
        self.truncate_dim = truncate_dim
        self.main_score_function = similarity_name(main_score_function)
        self.aggregate_fn = aggregate_fn
        self.query_prompts = self._prompts("query_prompts", query_prompts)
        self.corpus_prompts = self._prompts("corpus_prompts", corpus_prompts)
        self.name = f"NanoBEIR_{aggregate_key}" + (f"_{truncate_dim}" if truncate_dim else "")
        self.csv_file = f"NanoBEIR_evaluation_{aggregate_key}_results.csv"
        options: dict[str, Any] = {
            "mrr_at_k": mrr_at_k,
            "ndcg_at_k": ndcg_at_k,
            "accuracy_at_k": accuracy_at_k,
            "precision_recall_at_k": precision_recall_at_k,
            "map_at_k": map_at_k,
            "show_progress_bar": show_progress_bar,
            "batch_size": batch_size,
            "write_csv": write_csv,
            self.limited_by: truncate_dim,
            "score_functions": score_functions,
            "main_score_function": main_score_function,
            "write_predictions": write_predictions,
        }
        self.evaluators = [self._load(name, options) for name in self.dataset_names]

    def __call__(
        self,
        model: Any,
        output_path: str | None = None,
        epoch: int = -1,
        steps: int = -1,
        *args: Any,
        **kwargs: Any,
    ) -> dict[str, float]:
        """Measure the model on every dataset, record the results, and return them.

        Args:
            model: The model.
            output_path: Folder of the CSV files and the predictions; None writes nothing.
            epoch: Epoch of the training run, -1 outside one.
            steps: Step within it, -1 at its end.
            *args: Not used.
            **kwargs: Not used.

        Returns:
            `{"NanoMSMARCO_cosine_ndcg@10": ..., ..., "NanoBEIR_mean_cosine_ndcg@10": ..., ...}`.
        """
        del args, kwargs
        results: dict[str, float] = {}
        values: dict[str, list[float]] = {}
        for evaluator in self.evaluators:
            found = evaluator(model, output_path, epoch, steps)
            results |= found
            for key, value in found.items():
                values.setdefault(key.removeprefix(f"{evaluator.name}_"), []).append(value)
        return {**results, **self.record(model, self.aggregated(values), output_path, epoch, steps)}

    def aggregated(self, values: Mapping[str, list[float]]) -> dict[str, float]:
        """One number of every metric's values over the datasets."""
        return {key: float(self.aggregate_fn(each)) for key, each in values.items()}

    def measure(self, model: Any) -> dict[str, float]:
        """All metrics of all datasets, and their aggregates."""
        return self(model)

    def choose_primary(self, metrics: Mapping[str, float]) -> str:
        """Aggregated NDCG at the largest cut-off; once chosen among several similarities it stays."""
        suffix = f"_ndcg@{max(self.ndcg_at_k)}"
        chosen = (self.primary_metric or "").removeprefix(f"{self.name}_")
        if self.main_score_function is not None:
            chosen = self.main_score_function + suffix
        if chosen in metrics:
            return chosen
        return max((key for key in sorted(metrics) if key.endswith(suffix)), key=metrics.__getitem__)

    def csv_row(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Columns such as `cosine-Accuracy@1`."""
        return self.evaluators[0].csv_row(metrics)

    def store_metrics_in_model_card_data(
        self, model: Any, metrics: dict[str, Any], epoch: int = 0, step: int = 0
    ) -> None:
        """Hand the aggregates to the model's card, unless they are those of a single dataset."""
        if len(self.dataset_names) > 1:
            super().store_metrics_in_model_card_data(model, metrics, epoch, step)

    def get_config_dict(self) -> dict[str, Any]:
        """The datasets; truncation and prompts, where set."""
        keys = ("truncate_dim", "query_prompts", "corpus_prompts")
        set_ = {key: getattr(self, key) for key in keys if getattr(self, key) is not None}
        return {"dataset_names": self.dataset_names, "dataset_id": self.dataset_id, **set_}

    def _prompts(self, argument: str, given: str | dict[str, str] | None) -> dict[str, str] | None:
        """One prompt for each dataset."""
        prompts = dict.fromkeys(self.dataset_names, given) if isinstance(given, str) else given
        if prompts is not None and (missing := [name for name in self.dataset_names if name not in prompts]):
            raise InputError(f"{argument}: expected a prompt for every dataset, got none for {', '.join(missing)}")
        return prompts

    def _load(self, name: str, options: Mapping[str, Any]) -> InformationRetrievalEvaluator:
        split = f"Nano{TASKS[name.lower()]}"
        corpus = {
            row["_id"]: row["text"]
            for row in load_subset(self.dataset_id, "corpus", split, ("_id", "text"))
            if row["text"]
        }
        queries = {
            row["_id"]: row["text"]
            for row in load_subset(self.dataset_id, "queries", split, ("_id", "text"))
            if row["text"]
        }
        relevant: dict[str, set[str]] = {}
        for row in load_subset(self.dataset_id, "qrels", split, ("query-id", "corpus-id")):
            documents = row["corpus-id"]
            relevant.setdefault(row["query-id"], set()).update([documents] if isinstance(documents, str) else documents)
        return self.information_retrieval_class(
            queries=queries,
            corpus=corpus,
            relevant_docs=relevant,
            name=split + (f"_{self.truncate_dim}" if self.truncate_dim is not None else ""),
            query_prompt=None if self.query_prompts is None else self.query_prompts[name],
            corpus_prompt=None if self.corpus_prompts is None else self.corpus_prompts[name],
            **options,
        )
