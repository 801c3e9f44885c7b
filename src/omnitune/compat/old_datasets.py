"""Datasets and data loaders of examples, as scripts before version 3 gave them to `fit`."""

import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import torch.utils.data

from omnitune.compat.examples import InputExample, _open
from omnitune.errors import InputError


class SentencesDataset(torch.utils.data.Dataset[InputExample]):
    """A list of examples.

    Args:
        examples: The examples.
        model: Not used.
    """

    def __init__(self, examples: list[InputExample], model: Any = None) -> None:
        del model
        self.examples = examples

    def __getitem__(self, item: int) -> InputExample:
        return self.examples[item]

    def __len__(self) -> int:
        return len(self.examples)


class NoDuplicatesDataLoader:
    """Batches of examples in which no text occurs twice.

    Args:
        train_examples: The examples, shuffled in place as they are used up.
        batch_size: Examples a batch.
    """

    def __init__(self, train_examples: list[InputExample], batch_size: int) -> None:
        self.train_examples = train_examples
        self.batch_size = batch_size
        self.collate_fn: Callable[[list[InputExample]], Any] | None = None
        self._next = 0
        random.shuffle(self.train_examples)

    def __iter__(self) -> Iterator[Any]:
        for _ in range(len(self)):
            batch: list[InputExample] = []
            seen: set[str] = set()
            for _ in range(2 * len(self.train_examples)):
                if len(batch) == self.batch_size:
                    break
                example = self.train_examples[self._next]
                texts = {str(text).strip().lower() for text in example.texts or []}
                if not texts & seen:
                    batch.append(example)
                    seen |= texts
                self._next += 1
                if self._next == len(self.train_examples):
                    self._next = 0
                    random.shuffle(self.train_examples)
            yield batch if self.collate_fn is None else self.collate_fn(batch)

    def __len__(self) -> int:
        return len(self.train_examples) // self.batch_size


class SentenceLabelDataset(torch.utils.data.IterableDataset[InputExample]):
    """Examples so that several of a label stand together, as losses of batches of labels want them.

    Args:
        examples: Examples of one text each.
        samples_per_label: Examples of a label that follow one another.
        with_replacement: Whether an example may be drawn again.
    """

    def __init__(
        self, examples: list[InputExample], samples_per_label: int = 2, with_replacement: bool = False
    ) -> None:
        by_label: dict[Any, list[InputExample]] = defaultdict(list)
        for example in examples:
            by_label[example.label].append(example)
        self.samples_per_label = samples_per_label
        self.with_replacement = with_replacement
        self.groups = [group for group in by_label.values() if len(group) >= samples_per_label]
        if not self.groups:
            raise InputError(f"examples: expected a label with at least {samples_per_label} examples, got none")

    def __iter__(self) -> Iterator[InputExample]:
        given = 0
        groups: list[list[InputExample]] = []
        left: dict[int, list[InputExample]] = {}
        while given < len(self):
            if not groups:
                groups = random.sample(self.groups, len(self.groups))
            group = groups.pop()
            if self.with_replacement:
                chosen = random.choices(group, k=self.samples_per_label)
            else:
                rest = left.get(id(group), [])
                if len(rest) < self.samples_per_label:
                    rest = random.sample(group, len(group))
                chosen, left[id(group)] = rest[: self.samples_per_label], rest[self.samples_per_label :]
            yield from chosen
            given += len(chosen)

    def __len__(self) -> int:
        return sum(map(len, self.groups))


class DenoisingAutoEncoderDataset(torch.utils.data.Dataset[InputExample]):
    """Pairs of a damaged sentence and the sentence.

    Args:
        sentences: The sentences.
        noise_fn: Damages one; by default words are deleted.
    """

    def __init__(self, sentences: Sequence[str], noise_fn: Callable[[str], str] | None = None) -> None:
        self.sentences = sentences
        self.noise_fn = noise_fn or self.delete

    def __getitem__(self, item: int) -> InputExample:
        sentence = self.sentences[item]
        return InputExample(texts=[self.noise_fn(sentence), sentence])

    def __len__(self) -> int:
        return len(self.sentences)

    @staticmethod
    def delete(text: str, del_ratio: float = 0.6) -> str:
        """The text with some of its words, at least one, in their order; all where there is one."""
        words = text.split()
        if not words:
            return text
        kept = [word for word in words if random.random() > del_ratio]
        return " ".join(kept or [random.choice(words)])


def _fits(row: Sequence[str], most: int | None) -> bool:
    return not most or max(map(len, row)) <= most


class ParallelSentencesDataset(torch.utils.data.Dataset[InputExample]):
    """Sentences and their translations, each with the teacher's embedding of the sentence as its label.

    Args:
        student_model: Not used: the trainer gives the texts to the student.
        teacher_model: Has `encode`.
        batch_size: Sentences that the teacher encodes at a time.
        use_embedding_cache: Whether embeddings are kept.
    """

    def __init__(
        self, student_model: Any, teacher_model: Any, batch_size: int = 8, use_embedding_cache: bool = True
    ) -> None:
        del student_model
        self.teacher_model = teacher_model
        self.batch_size = batch_size
        self.use_embedding_cache = use_embedding_cache
        self.pairs: list[tuple[str, str]] = []
        self._known: dict[str, Any] = {}

    def load_data(
        self,
        filepath: str,
        weight: int = 100,
        max_sentences: int | None = None,
        max_sentence_length: int | None = 128,
    ) -> None:
        """Add the rows of a table: a sentence, and after tabs its translations."""
        with _open(filepath) as file:
            fitting = (row for line in file if _fits(row := line.strip().split("\t"), max_sentence_length))
            rows = list(islice(fitting, max_sentences or None))
        self.add_dataset(rows, weight, max_sentences, max_sentence_length)

    def add_dataset(
        self,
        parallel_sentences: Sequence[Sequence[str]],
        weight: int = 100,
        max_sentences: int | None = None,
        max_sentence_length: int | None = 128,
    ) -> None:
        """Add sentences, each the first of its row, with the translations that follow it, each once.

        Args:
            parallel_sentences: Rows of a sentence and its translations; rows of one sentence are one.
            weight: Not used: every pair is given once.
            max_sentences: Different sentences that are taken; None takes all.
            max_sentence_length: Characters of the longest text of a row that is taken; None takes all.
        """
        del weight
        texts: dict[str, dict[str, None]] = {}
        for row in parallel_sentences:
            if _fits(row, max_sentence_length):
                texts.setdefault(row[0], {}).update(dict.fromkeys(row))
            if max_sentences and len(texts) >= max_sentences:
                break
        self.pairs += [(source, text) for source, found in texts.items() for text in found]

    def _embedding(self, sentence: str, place: int) -> Any:
        if sentence not in self._known:
            if not self.use_embedding_cache:
                self._known.clear()
            near = list(dict.fromkeys(source for source, _ in self.pairs[place : place + self.batch_size]))
            made = self.teacher_model.encode(near, batch_size=self.batch_size, show_progress_bar=False)
            self._known.update(zip(near, made, strict=True))
        return self._known[sentence]

    def __getitem__(self, item: int) -> InputExample:
        source, target = self.pairs[item]
        return InputExample(texts=[target], label=self._embedding(source, item))

    def __len__(self) -> int:
        return len(self.pairs)
