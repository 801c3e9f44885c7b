"""Place of the index of a model and a dataset, so that each pair is encoded once."""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omnitune.errors import ResourceError

if TYPE_CHECKING:
    from omnitune.documents.dataset import DocumentDataset
    from omnitune.finetune.run import Outcome


logger = logging.getLogger(__name__)


def place_of(model: str, dataset: "DocumentDataset") -> tuple[Path, str]:
    """Folder and key of the index of a dataset's pages, encoded with a model.

    Args:
        model: Model directory, repository, or "embedded"; a directory's key changes with its files.
        dataset: The pages.
    """
    from omnitune.finetune.choose import model_identity
    from omnitune.io import digest
    from omnitune.runtime import cache_folder

    key = digest({"model": model_identity(model), "dataset": dataset.facts["fingerprint"]})
    return cache_folder() / "indexes" / key, key


def entries_of(dataset: "DocumentDataset") -> Iterator[Mapping[str, Any]]:
    """Describe every page; of a segment, with its times."""
    known = dataset.tables["pages"].select_columns(["page_id", "document", "number", "label"])
    for one in known:
        entry = {"id": one["page_id"], "document": one["document"], "page": one["number"]}
        yield {**entry, "times" if dataset.kind.segmentations else "label": one["label"]}


def index_outcome(outcome: "Outcome") -> None:
    """Make an index of what a run encoded for its report, so that the first search need not wait.

    An index is a cache: where it cannot be kept, the run is finished all the same.
    """
    from omnitune.documents.dataset import load
    from omnitune.finetune.measure import load_test
    from omnitune.modules.files import read_json
    from omnitune.search import is_index, keep_index

    dataset = load(outcome.dataset)
    place, key = place_of(str(outcome.model), dataset)
    if not is_index(place, key):
        _, pages = load_test(outcome.model.parent / "embeddings" / "finetuned")
        similarity = read_json(outcome.model / "config_sentence_transformers.json")["similarity_fn_name"]
        try:
            keep_index(pages, entries_of(dataset), place, similarity=similarity, key=key)
        except (OSError, ResourceError) as error:
            # The run is finished: a cache that is full or cannot be written costs the first search, not the run.
            logger.warning("the index is not kept, so the first search makes it: %s", error)
