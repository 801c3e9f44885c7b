"""The NanoBEIR data sets: thirteen small retrieval tasks in English, one split each of a data set on the hub."""

from collections.abc import Collection, Sequence
from typing import Any

from omnitune.errors import DatasetError, InputError

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
        raise InputError(f"dataset_names: expected some of {list(TASKS)}, or None, got {unknown or 'none'}")


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
    from datasets import load_dataset

    try:
        found = load_dataset(dataset_id, subset, split=split)
    except (OSError, ValueError) as error:
        raise DatasetError(
            f"dataset_id: expected {dataset_id!r} with subset {subset!r}, split {split!r}, on the Hugging Face hub, in "
            f"its cache, or in a folder of that layout; got {type(error).__name__}: {error}. Without network, download "
            f"it once where there is one (datasets.load_dataset({dataset_id!r}, {subset!r})) and copy the cache"
        ) from error
    missing = sorted(set(columns) - set(found.column_names))
    if missing:
        raise DatasetError(
            f"{dataset_id}, subset {subset!r}, split {split!r}: expected columns {missing} too, got none"
        )
    return found
