"""Words without a transformer: split at white space, one row of a table a word (GloVe), or a weight a word."""

import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from omnitune.errors import CheckpointError, InputError, ShapeError
from omnitune.modules import files
from omnitune.modules.base import InputModule, Module
from omnitune.types import Features, Modality

CONFIG = "whitespacetokenizer_config.json"


class WhitespaceTokenizer:
    """Splits at white space; a word is known as it is, or without punctuation around it, or that in lower case.

    Words that are not known, and stop words, are left out.

    Args:
        vocab: Words, each at its id.
        stop_words: Words to leave out.
        do_lower_case: Whether texts are put in lower case first.

    Example:
        >>> WhitespaceTokenizer(["grease", "pump", "the"], stop_words=["the"]).tokenize("Grease the old pump!")
        [0, 1]
    """

    def __init__(self, vocab: Iterable[str] = (), stop_words: Iterable[str] = (), do_lower_case: bool = False) -> None:
        self.stop_words = set(stop_words)
        self.do_lower_case = do_lower_case
        self.set_vocab(vocab)

    def get_vocab(self) -> list[str]:
        """The words in the order of their ids."""
        return self.vocab

    def set_vocab(self, vocab: Iterable[str]) -> None:
        """Take other words."""
        self.vocab = list(vocab)
        self.word2idx = {word: index for index, word in enumerate(self.vocab)}

    def tokenize(self, text: str) -> list[int]:
        """Ids of the known words of `text`, in order."""
        words = (text.lower() if self.do_lower_case else text).split()
        found = (self._known(word) for word in words)
        return [index for index in found if index is not None]

    def _known(self, word: str) -> int | None:
        bare = word.strip(string.punctuation)
        for form in (word, bare, bare.lower()):
            if form in self.stop_words:
                return None
            if form in self.word2idx:
                return self.word2idx[form]
        return None

    def save(self, output_path: str) -> None:
        """Write words and settings into the folder `output_path`."""
        settings = {"stop_words": sorted(self.stop_words), "do_lower_case": self.do_lower_case}
        files.write_json(Path(output_path) / CONFIG, {"vocab": self.vocab, **settings})

    @classmethod
    def load(cls, input_path: str) -> "WhitespaceTokenizer":
        """Read what `save` wrote.

        Raises:
            CheckpointError: The file is missing, or has other keys.
        """
        path = Path(input_path) / CONFIG
        config: dict[str, Any] = files.read_json(path)
        if "vocab" not in config or config.keys() - {"vocab", "stop_words", "do_lower_case"}:
            found = sorted(config) if path.is_file() else "no file"
            raise CheckpointError(f"{path}: expected the keys vocab, stop_words and do_lower_case, got {found}")
        return cls(**config)


_TABLE = "emb_layer.weight"
_TOKENIZERS = "sentence_transformers.models.tokenizer"
_READERS: Mapping[str, Callable[[str], Any]] = {
    "WhitespaceTokenizer": WhitespaceTokenizer.load,
    "TransformersTokenizerWrapper": partial(AutoTokenizer.from_pretrained, trust_remote_code=False),
}
"""How the tokenizer is read, by the last part of the name under which a checkpoint keeps its class."""


class WordEmbeddings(InputModule):
    """The vectors of a text's words, for `Pooling` and what else takes token vectors.

    Args:
        tokenizer: What splits text into words, or a tokenizer of `transformers`.
        embedding_weights: The table `(vocabulary, dim)`; it is copied.
        update_embeddings: Whether the table trains.
        max_seq_length: Words after which a text is cut.

    Raises:
        InputError: The tokenizer is of another kind.
        ShapeError: The table is not two-dimensional, or has fewer rows than there are words.

    Example:
        >>> words = modules.WhitespaceTokenizer(["grease", "pump"])
        >>> table = WordEmbeddings(words, [[1.0, 0.0], [0.0, 1.0]])
        >>> SentenceTransformer(modules=[table, modules.Pooling(2)]).encode("Grease the pump!")
        array([0.5, 0.5], dtype=float32)
    """

    config_file_name: ClassVar[str] = "wordembedding_config.json"
    config_keys: ClassVar[list[str]] = ["tokenizer_class", "update_embeddings", "max_seq_length"]
    max_seq_length = 1_000_000  # takes the place of the property, as it can be set
    tokenizer: WhitespaceTokenizer | PreTrainedTokenizerBase

    def __init__(
        self,
        tokenizer: WhitespaceTokenizer | PreTrainedTokenizerBase,
        embedding_weights: NDArray[Any] | Tensor | list[list[float]],
        update_embeddings: bool = False,
        max_seq_length: int = 1000000,
    ) -> None:
        super().__init__()
        if not isinstance(tokenizer, WhitespaceTokenizer | PreTrainedTokenizerBase):
            raise InputError(
                "tokenizer: expected a WhitespaceTokenizer or a tokenizer of transformers, "
                f"got {type(tokenizer).__name__}"
            )
        given = embedding_weights if torch.is_tensor(embedding_weights) else np.asarray(embedding_weights)
        table = torch.as_tensor(given).to(torch.float32, copy=True)
        words = len(tokenizer.get_vocab())
        if table.dim() != 2 or len(table) < words:
            raise ShapeError(
                f"embedding_weights: expected a row for each of the {words} words of the tokenizer, "
                f"got {tuple(table.shape)}"
            )
        self.emb_layer: nn.Embedding = nn.Embedding.from_pretrained(  # type: ignore[no-untyped-call]  # torch's
            table, freeze=not update_embeddings
        )
        self.embeddings_dimension: int = table.shape[1]
        self.tokenizer = tokenizer
        self.update_embeddings = update_embeddings
        self.max_seq_length = max_seq_length

    def preprocess(
        self,
        inputs: Sequence[str],
        prompt: str | None = None,
        *,
        modality: Modality | None = None,  # noqa: ARG002 - always text
        task: str | None = None,  # noqa: ARG002 - the same for all
        **kwargs: Any,  # noqa: ARG002 - the interface of input modules
    ) -> Features:
        """Word ids `(rows, words)` int64 and their mask, padded on the right; one padding where there is no word."""
        ids = [self._ids((prompt or "") + text)[: self.max_seq_length] for text in inputs]
        width = max(1, *map(len, ids))
        padded = [row + [0] * (width - len(row)) for row in ids]
        mask = [[1] * len(row) + [0] * (width - len(row)) for row in ids]
        return {"input_ids": torch.tensor(padded), "attention_mask": torch.tensor(mask)}

    def _ids(self, text: str) -> list[int]:
        if isinstance(self.tokenizer, WhitespaceTokenizer):
            return self.tokenizer.tokenize(text)
        ids: list[int] = self.tokenizer(text)["input_ids"]
        return ids

    def forward(self, features: Features) -> Features:  # type: ignore[override]  # no extra arguments
        """Features with `token_embeddings` `(rows, words, dim)`."""
        features["token_embeddings"] = self.emb_layer(features["input_ids"])
        return features

    def get_embedding_dimension(self) -> int:
        """Dimension of a word's vector."""
        return self.embeddings_dimension

    @property
    def tokenizer_class(self) -> str:
        """The name that checkpoints keep the tokenizer's class under."""
        own = isinstance(self.tokenizer, WhitespaceTokenizer)
        return f"{_TOKENIZERS}.{'WhitespaceTokenizer.WhitespaceTokenizer' if own else 'TransformersTokenizerWrapper'}"

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:  # noqa: ARG002
        """Write the configuration, the table and the tokenizer's files."""
        super().save(output_path, safe_serialization=safe_serialization)
        self.save_tokenizer(output_path)

    def save_tokenizer(self, output_path: str, **kwargs: Any) -> None:
        """Write the tokenizer's files into the folder `output_path`."""
        if isinstance(self.tokenizer, WhitespaceTokenizer):
            self.tokenizer.save(output_path)
        else:
            super().save_tokenizer(output_path, **kwargs)

    @classmethod
    def from_text_file(cls, embeddings_file_path: str, *_: Any, **__: Any) -> Self:
        """Refuse: words that are left out are the caller's choice, so a file of vectors is read by the caller.

        Raises:
            InputError: Always.
        """
        raise InputError(
            f"from_text_file: expected a table, got the file {embeddings_file_path!r}; read its lines of a word and "
            "numbers, then WordEmbeddings(WhitespaceTokenizer(words, stop_words=...), numpy.array(numbers))"
        )

    @classmethod
    def from_config(cls, config: Mapping[str, Any], folder: Path, **kwargs: Any) -> Self:  # noqa: ARG003
        """The module that a configuration describes, with the table and the tokenizer in `folder`.

        Raises:
            CheckpointError: The tokenizer is of a class that is not here, or the table is missing.
        """
        named = str(config.get("tokenizer_class"))
        package, _, name = named.rpartition(".")
        if name not in _READERS or not package.startswith("sentence_transformers."):
            raise CheckpointError(
                f"{folder / cls.config_file_name}: tokenizer_class: expected one of {sorted(_READERS)} of "
                f"sentence_transformers, got {named}"
            )
        tensors = files.read_tensors(folder)
        if _TABLE not in tensors:
            raise CheckpointError(f"{folder / files.WEIGHTS}: expected a tensor {_TABLE!r}, got {sorted(tensors)}")
        others = {key: value for key, value in config.items() if key != "tokenizer_class"}
        made = {"tokenizer": _READERS[name](str(folder)), "embedding_weights": tensors[_TABLE]}
        return super().from_config({**others, **made}, folder)

    def read_weights(self, folder: Path) -> None:
        """Nothing: `from_config` has read the table."""


class WordWeights(Module):
    """Scales `token_embeddings` by the weight of their word; means that follow divide by the sum of the weights.

    Args:
        vocab: Words, each at its id; the tokenizer's.
        word_weights: Weight of a word, as it is or in lower case; it may have other words, and not all.
        unknown_word_weight: Weight of the words that it does not have.

    Example:
        >>> words = modules.WhitespaceTokenizer(["grease", "pump"])
        >>> table = modules.WordEmbeddings(words, [[1.0, 0.0], [0.0, 1.0]])
        >>> rare = WordWeights(words.get_vocab(), {"grease": 3.0}, unknown_word_weight=1)
        >>> SentenceTransformer(modules=[table, rare, modules.Pooling(2)]).encode("Grease the pump!")
        array([0.75, 0.25], dtype=float32)
    """

    config_keys: ClassVar[list[str]] = ["vocab", "word_weights", "unknown_word_weight"]

    def __init__(self, vocab: Sequence[str], word_weights: Mapping[str, float], unknown_word_weight: float = 1) -> None:
        super().__init__()
        self.vocab = list(vocab)
        self.word_weights = dict(word_weights)
        self.unknown_word_weight = unknown_word_weight
        weights = [word_weights.get(word, word_weights.get(word.lower(), unknown_word_weight)) for word in self.vocab]
        table = torch.tensor(weights, dtype=torch.float32)[:, None]
        self.emb_layer = nn.Embedding.from_pretrained(table, freeze=False)  # type: ignore[no-untyped-call]  # torch's

    def forward(self, features: Features) -> Features:  # type: ignore[override]  # no extra arguments
        """Features with `token_embeddings` `(rows, tokens, dim)` scaled, and `token_weights_sum` `(rows,)`."""
        weights: Tensor = self.emb_layer(features["input_ids"]).squeeze(-1) * features["attention_mask"]
        features["token_embeddings"] = features["token_embeddings"] * weights[..., None]
        features["token_weights_sum"] = weights.sum(dim=1)
        return features

    def get_config_dict(self) -> dict[str, Any]:
        """The constructor's arguments with the weights of now: readers may take them from here alone."""
        now = dict(zip(self.vocab, self.emb_layer.weight.flatten().tolist(), strict=True))
        return {**super().get_config_dict(), "word_weights": {**self.word_weights, **now}}

    def read_weights(self, folder: Path) -> None:
        """Read the weights, where they were written: until version 4 they were in the configuration alone."""
        if any((folder / name).is_file() for name in (files.WEIGHTS, files.PICKLED_WEIGHTS)):
            super().read_weights(folder)

    def __repr__(self) -> str:
        return f"WordWeights(words={len(self.vocab)}, unknown_word_weight={self.unknown_word_weight})"
