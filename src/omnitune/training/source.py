"""One dataset of a run: its rows, the numbers of their contents, and what of it cannot be used."""

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch.distributed
from datasets import Dataset

from omnitune import io
from omnitune.data.check import Answers, BadItem, find_bad_items, find_bad_labels
from omnitune.data.columns import Rows, content_codes, entry_codes, has_lists, input_columns, label_column
from omnitune.errors import DatasetError, InputError, MediaError, OmnituneError
from omnitune.inputs.cost import CostRule, cost_of
from omnitune.inputs.detect import inputs_of
from omnitune.inputs.fingerprint import fingerprint
from omnitune.model.base import Model
from omnitune.modules.sequence import load_through
from omnitune.ops.collectives import world_size
from omnitune.types import Column


class Source:
    """One dataset of a run: its rows, the columns that are encoded, and the numbers of their contents, found once."""

    def __init__(self, dataset: Dataset, name: str | None, labels: Sequence[str], model: Callable[[], Model]) -> None:
        self.original = dataset
        self.rows = Rows(dataset, name)
        self.columns = input_columns(self.rows.column_names, labels)
        self.label = label_column(self.rows.column_names, labels)
        self.checked = False
        self._labels = labels
        self._model = model
        self._codes: np.ndarray | None = None

    @cached_property
    def _rule(self) -> CostRule:
        """Refuses images that the processor would, from their sizes alone."""
        return self._model().cost_rule

    def codes(self) -> np.ndarray:
        """`(rows, columns)` int64: equal where contents are equal."""
        if self._codes is None:
            self._codes = content_codes(self.rows, self.columns, self._fingerprint)
        return self._codes

    def sampled_codes(self) -> np.ndarray:
        """`codes` of what may not repeat in a batch: no column whose name is a label's; of lists, every entry."""
        names = [name for name in self.columns if name not in self._labels]
        # Pairs are scored list by list, so that entries of other rows are no negatives there.
        if self._model().family.arity == 1 and has_lists(self.rows.dataset, names):
            return entry_codes(self.rows, names, self._fingerprint)
        return self.codes()[:, [self.columns.index(name) for name in names]]

    def check_kinds(self) -> None:
        """See that the model takes what every column holds, by the first item of each.

        Raises:
            DatasetError: It does not; names dataset, row and column.
        """
        first = next(self.rows.chunks(), [])
        for name in self.columns:
            found = ((row.number or 0, item) for row in first for item in inputs_of(row[name]) if item is not None)
            number, item = next(found, (0, None))
            if item is None:
                continue
            try:
                self._model().modality_of(item)
            except MediaError:
                continue  # one item that cannot be read says nothing of its column
            except InputError as error:
                place = Column(name=name, items=[None], rows=[number], dataset=self.rows.name).place(0)
                fix = f"drop the column with dataset.remove_columns({name!r})"
                if isinstance(item, int | float):
                    fix += f"; or, where it holds the labels, rename it to one of {self._labels}"
                raise DatasetError(f"{place}: {str(error).removeprefix('inputs: ')}; {fix}") from error

    @property
    def loads(self) -> bool:
        """Tell whether the model reads anything besides text, so that an item may turn out to be unreadable."""
        media = {part for m in self._model().modalities for part in ([m] if isinstance(m, str) else m)}
        return bool(media - {"text", "message"})

    def key(self) -> str:
        """Key of all that `bad_items` depends on; files that rows refer to by path are taken to be as they were."""
        model = self._model()
        facts = [self.original._fingerprint, self.columns, self.label, map(str, model.modalities), model.media_policy]
        return io.digest([str(list(fact) if isinstance(fact, map) else fact) for fact in facts])

    def bad_items(self, *, load: bool) -> list[BadItem]:
        """Items that cannot be encoded, and labels that are no numbers; every rank must call this.

        Args:
            load: Whether media are loaded, each rank a share of the rows; else only missing items are found.
        """
        labels = [] if self.label is None else find_bad_labels(self.rows, self.label)
        where = "" if self.rows.name is None else f" of {self.rows.name}"
        if not (load and self.loads):
            found = find_bad_items(self.rows, self.columns, None, self.codes, label=f"Looking for gaps{where}")
            return found + labels
        ranks, rows, codes = world_size(), self.rows, self.codes
        if ranks > 1:
            # Rows in turn, not one stretch a rank: what takes long often stands together.
            share = [row for row in range(len(rows)) if row % ranks == torch.distributed.get_rank()]
            rows = Rows(self.rows.dataset, self.rows.name, share)
            rows.numbers = [self.rows.numbers[row] for row in share]
            codes = partial(content_codes, rows, self.columns, self._fingerprint)
        answers = Answers()
        found = find_bad_items(rows, self.columns, self._load, codes, label=f"Checking items{where}", tick=answers.tick)
        return answers.finish(found) + labels

    def leave_out(self, numbers: set[int]) -> None:
        """Drop rows by their numbers in the user's dataset."""
        kept = [i for i, number in enumerate(self.rows.numbers) if number not in numbers]
        if self._codes is not None:
            self._codes = self._codes[kept]
        self.rows = Rows(self.original, self.rows.name, [self.rows.numbers[i] for i in kept])

    def _load(self, cell: Any) -> None:
        model = self._model()
        modules = list(model.children())
        for item in inputs_of(cell):
            kind = model.modality_of(item)
            load_through(modules, item, kind, model.media_policy)
            cost_of(item, kind, self._rule, model.media_policy)  # refuses what the processor would

    def _fingerprint(self, cell: Any) -> str:
        # What cannot be read still needs a number of its own; loading it says what is wrong with it.
        try:
            return " ".join(fingerprint(item, self._model().modality_of(item)) for item in inputs_of(cell))
        except (OmnituneError, OSError):
            return f"unreadable {cell!r}"
