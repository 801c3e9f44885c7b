"""Examples as scripts before version 3 wrote them, and the readers of files that make them."""

import csv
import gzip
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO

from omnitune.errors import InputError


class InputExample:
    """One example: some texts and their label.

    Args:
        guid: Its name.
        texts: The texts, or other inputs.
        label: A number, or a vector for distillation.
    """

    def __init__(self, guid: str = "", texts: list[Any] | None = None, label: Any = 0) -> None:
        self.guid = guid
        self.texts = texts
        self.label = label

    def __str__(self) -> str:
        return f"<InputExample> label: {self.label}, texts: {'; '.join(map(str, self.texts or []))}"


def _open(path: str | Path) -> TextIO:
    """A text file, packed or not."""
    return gzip.open(path, "rt", encoding="utf-8") if str(path).endswith(".gz") else open(path, encoding="utf-8")  # noqa: SIM115 - callers close it


def _limited(examples: Iterator[InputExample], most: int) -> list[InputExample]:
    """The examples, or the first `most` of them where it is positive."""
    return [example for _, example in zip(range(most), examples, strict=False)] if most > 0 else list(examples)


class LabelSentenceReader:
    """Reads files of one sentence and its label a line.

    Args:
        folder: Where they lie.
        label_col_idx: Column of the label; labels are numbered as they come.
        sentence_col_idx: Column of the sentence.
        separator: Between columns.
    """

    def __init__(self, folder: str, label_col_idx: int = 0, sentence_col_idx: int = 1, separator: str = "\t") -> None:
        self.folder = folder
        self.label_col_idx = label_col_idx
        self.sentence_col_idx = sentence_col_idx
        self.separator = separator
        self.label_map: dict[str, int] = {}

    def get_examples(self, filename: str, max_examples: int = 0) -> list[InputExample]:
        """The examples of a file in the folder, at most `max_examples` where that is positive."""

        def rows() -> Iterator[InputExample]:
            with _open(Path(self.folder) / filename) as file:
                for number, line in enumerate(file):
                    cells = line.strip().split(self.separator)
                    label = self.label_map.setdefault(cells[self.label_col_idx], len(self.label_map))
                    yield InputExample(f"{filename}-{number}", [cells[self.sentence_col_idx]], label)

        return _limited(rows(), max_examples)


class NLIDataReader:
    """Reads the AllNLI files: `s1.{name}`, `s2.{name}` and `labels.{name}`, packed with gzip.

    Args:
        dataset_folder: Where they lie.
    """

    labels = {"contradiction": 0, "entailment": 1, "neutral": 2}  # noqa: RUF012 - a table

    def __init__(self, dataset_folder: str) -> None:
        self.dataset_folder = dataset_folder

    def get_examples(self, filename: str, max_examples: int = 0) -> list[InputExample]:
        """The examples of a split, for example `train.gz`."""

        def rows() -> Iterator[InputExample]:
            with ExitStack() as stack:
                names = ("s1", "s2", "labels")
                files = [stack.enter_context(_open(Path(self.dataset_folder) / f"{n}.{filename}")) for n in names]
                for number, (first, second, label) in enumerate(zip(*files, strict=False)):
                    texts = [first.strip(), second.strip()]
                    yield InputExample(f"{filename}-{number}", texts, self.map_label(label.strip()))

        return _limited(rows(), max_examples)

    @classmethod
    def get_labels(cls) -> dict[str, int]:
        """Label to its number."""
        return dict(cls.labels)

    def get_num_labels(self) -> int:
        """Number of labels."""
        return len(self.labels)

    def map_label(self, label: str) -> int:
        """The number of a label."""
        return self.labels[label]


class PairedFilesReader:
    """Reads files that belong together line by line.

    Args:
        filepaths: The files; line n of each makes example n.
    """

    def __init__(self, filepaths: Sequence[str]) -> None:
        self.filepaths = filepaths

    def get_examples(self, max_examples: int = 0) -> list[InputExample]:
        """One example a line."""

        def rows() -> Iterator[InputExample]:
            with ExitStack() as stack:
                files = [stack.enter_context(_open(path)) for path in self.filepaths]
                for number, lines in enumerate(zip(*files, strict=False)):
                    yield InputExample(str(number), [line.rstrip("\n") for line in lines], 1)

        return _limited(rows(), max_examples)


class _TableReader:
    """Reads delimited tables in a folder."""

    dataset_folder: str
    delimiter: str
    quoting: Any

    def _cells(self, filename: str) -> Iterator[list[str]]:
        path = Path(self.dataset_folder) / filename
        if not path.is_file():
            raise InputError(f"filename: expected a file in {self.dataset_folder}, got {filename!r}")
        with _open(path) as file:
            yield from csv.reader(file, delimiter=self.delimiter, quoting=self.quoting)


class STSDataReader(_TableReader):
    """Reads tables of two sentences and a score.

    Args:
        dataset_folder: Where they lie.
        s1_col_idx: Column of the first sentence.
        s2_col_idx: Column of the second.
        score_col_idx: Column of the score.
        delimiter: Between columns.
        quoting: As in `csv.reader`.
        normalize_scores: Whether scores are brought to [0, 1].
        min_score: Lowest score.
        max_score: Highest score.
    """

    def __init__(
        self,
        dataset_folder: str,
        s1_col_idx: int = 0,
        s2_col_idx: int = 1,
        score_col_idx: int = 2,
        delimiter: str = "\t",
        quoting: int = csv.QUOTE_NONE,
        normalize_scores: bool = True,
        min_score: float = 0,
        max_score: float = 5,
    ) -> None:
        self.dataset_folder = dataset_folder
        self.columns = (s1_col_idx, s2_col_idx, score_col_idx)
        self.delimiter = delimiter
        self.quoting = quoting
        self.normalize_scores = normalize_scores
        self.min_score = min_score
        self.max_score = max_score

    def get_examples(self, filename: str, max_examples: int = 0) -> list[InputExample]:
        """The examples of a table."""
        first, second, score_at = self.columns

        def rows() -> Iterator[InputExample]:
            for number, cells in enumerate(self._cells(filename)):
                score = float(cells[score_at])
                if self.normalize_scores:
                    score = (score - self.min_score) / (self.max_score - self.min_score)
                yield InputExample(f"{filename}{number}", [cells[first], cells[second]], score)

        return _limited(rows(), max_examples)


class STSBenchmarkDataReader(STSDataReader):
    """Reads the tables of the STS benchmark, whose columns are in another place."""

    def __init__(
        self,
        dataset_folder: str,
        s1_col_idx: int = 5,
        s2_col_idx: int = 6,
        score_col_idx: int = 4,
        delimiter: str = "\t",
        quoting: int = csv.QUOTE_NONE,
        normalize_scores: bool = True,
        min_score: float = 0,
        max_score: float = 5,
    ) -> None:
        super().__init__(
            dataset_folder, s1_col_idx, s2_col_idx, score_col_idx, delimiter, quoting, normalize_scores, min_score,
            max_score,
        )  # fmt: skip


class TripletReader(_TableReader):
    """Reads tables of triplets.

    Args:
        dataset_folder: Where they lie.
        s1_col_idx: Column of the anchor.
        s2_col_idx: Column of the positive.
        s3_col_idx: Column of the negative.
        has_header: Whether the first row is one.
        delimiter: Between columns.
        quoting: As in `csv.reader`.
    """

    def __init__(
        self,
        dataset_folder: str,
        s1_col_idx: int = 0,
        s2_col_idx: int = 1,
        s3_col_idx: int = 2,
        has_header: bool = False,
        delimiter: str = "\t",
        quoting: int = csv.QUOTE_NONE,
    ) -> None:
        self.dataset_folder = dataset_folder
        self.columns = (s1_col_idx, s2_col_idx, s3_col_idx)
        self.has_header = has_header
        self.delimiter = delimiter
        self.quoting = quoting

    def get_examples(self, filename: str, max_examples: int = 0) -> list[InputExample]:
        """The examples of a table."""
        rows = self._cells(filename)
        if self.has_header:
            next(rows, None)
        made = (InputExample("", [cells[column] for column in self.columns]) for cells in rows)
        return _limited(made, max_examples)
