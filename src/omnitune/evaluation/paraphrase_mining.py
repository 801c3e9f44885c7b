"""Duplicates of a collection among its most similar pairs."""

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import torch

from omnitune.errors import InputError
from omnitune.evaluation.base import EmbeddingEvaluator
from omnitune.evaluation.ranking import nearest_pairs
from omnitune.ops.classification import best_f1
from omnitune.ops.metrics import ranking_metrics
from omnitune.ops.similarity import cos_sim

Graph = dict[str, dict[str, bool]]


class ParaphraseMiningEvaluator(EmbeddingEvaluator):
    """Average precision, and F1 at the best threshold, of the pairs that are closest by cosine.

    Args:
        sentences_map: Identifier to sentence.
        duplicates_list: Pairs of identifiers of sentences that mean the same.
        duplicates_dict: The same as a table: identifier to identifier to True.
        add_transitive_closure: Duplicates of duplicates are duplicates too.
        query_chunk_size: Sentences compared at a time.
        corpus_chunk_size: Sentences that they are compared with at a time.
        max_pairs: Pairs to look at, at most.
        top_k: Neighbours of each sentence that make pairs.
        show_progress_bar, batch_size, name, write_csv, truncate_dim: As in `EmbeddingEvaluator`.

    Raises:
        InputError: There are fewer than two sentences, or no duplicates among them.

    Example:
        >>> sentences = {"a": "Grease the bearing.", "b": "Lubricate the bearing.", "c": "The oven heats."}
        >>> evaluator = ParaphraseMiningEvaluator(sentences, duplicates_list=[("a", "b")])
        >>> evaluator(model)["average_precision"]
        1.0
    """

    def __init__(
        self,
        sentences_map: dict[str, str],
        duplicates_list: list[tuple[str, str]] | None = None,
        duplicates_dict: dict[str, dict[str, bool]] | None = None,
        add_transitive_closure: bool = False,
        query_chunk_size: int = 5000,
        corpus_chunk_size: int = 100000,
        max_pairs: int = 500000,
        top_k: int = 100,
        show_progress_bar: bool = False,
        batch_size: int = 16,
        name: str = "",
        write_csv: bool = True,
        truncate_dim: int | None = None,
    ) -> None:
        super().__init__()
        if len(sentences_map) < 2:
            raise InputError(f"sentences_map: expected at least two sentences, got {len(sentences_map)}")
        self.sentences = list(sentences_map.values())
        self.ids = list(sentences_map)
        self.query_chunk_size = query_chunk_size
        self.corpus_chunk_size = corpus_chunk_size
        self.max_pairs = max_pairs
        self.top_k = top_k
        self.show_progress_bar = show_progress_bar
        self.batch_size = batch_size
        self.name = name
        self.write_csv = write_csv
        self.truncate_dim = truncate_dim
        self.csv_file = "paraphrase_mining_evaluation" + (f"_{name}" if name else "") + "_results.csv"
        self.primary_metric = "average_precision"
        self._closed = add_transitive_closure
        graph: Graph = {key: dict(row) for key, row in (duplicates_dict or {}).items()}
        for first, second in duplicates_list or []:
            if first in sentences_map and second in sentences_map:
                graph.setdefault(first, {})[second] = True
                graph.setdefault(second, {})[first] = True
        self.duplicates = self.add_transitive_closure(graph) if add_transitive_closure else graph
        rows = {key: row for row, key in enumerate(self.ids)}
        named = [(a, b) for a, known in self.duplicates.items() for b, same in known.items() if same]
        pairs = {tuple(sorted((rows[a], rows[b]))) for a, b in named if a in rows and b in rows}
        if not any(a != b for a, b in pairs):
            raise InputError(
                "duplicates_list, duplicates_dict: expected at least one pair of different sentences of sentences_map, "
                "got none"
            )
        self.total_num_duplicates = len(pairs)
        self._known = torch.tensor(sorted(a * len(rows) + b for a, b in pairs), dtype=torch.int64)

    @staticmethod
    def add_transitive_closure(graph: Graph) -> Graph:
        """The graph, with every two nodes joined that a path joins; it is changed in place."""
        seen: set[str] = set()
        for start in list(graph):
            if start in seen:
                continue
            group: set[str] = set()
            todo = [start]
            while todo:
                node = todo.pop()
                if node not in group:
                    group.add(node)
                    todo += [other for other, same in graph.get(node, {}).items() if same]
            for first, second in combinations(group, 2):
                graph.setdefault(first, {})[second] = True
                graph.setdefault(second, {})[first] = True
            seen |= group
        return graph

    def measure(self, model: Any) -> dict[str, float]:
        """`average_precision`, and `f1`, `precision`, `recall` at `threshold`."""
        embeddings = self.embed_inputs(model, self.sentences)
        scores, pairs = nearest_pairs(
            torch.as_tensor(embeddings),
            cos_sim,
            self.top_k,
            self.max_pairs,
            block=self.query_chunk_size,
            chunk=self.corpus_chunk_size,
        )
        scores = scores.double()
        right = torch.isin(pairs[:, 0] * len(self.ids) + pairs[:, 1], self._known)
        f1, precision, recall, threshold = best_f1(scores, right, self.total_num_duplicates)
        found = float(ranking_metrics(scores, right, torch.tensor([len(scores)]), 1)["map"]) * int(right.sum())
        return {
            "average_precision": found / max(self.total_num_duplicates, 1),
            "f1": f1,
            "precision": precision,
            "recall": recall,
            "threshold": threshold,
        }

    def csv_row(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Precision first, as in the files of Sentence Transformers."""
        return {name: metrics[name] for name in ("precision", "recall", "f1", "threshold", "average_precision")}

    def get_config_dict(self) -> dict[str, Any]:
        """Settings of the mining, and truncation where set."""
        config = {"add_transitive_closure": self._closed, "max_pairs": self.max_pairs, "top_k": self.top_k}
        return {**config, **super().get_config_dict()}
