"""Words between white space to ids, as Sentence Transformers' word embeddings take them."""

import string
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from omnitune.errors import CheckpointError
from omnitune.modules import files

CONFIG = "whitespacetokenizer_config.json"


class WhitespaceTokenizer:
    """Splits at white space; a word is known as it is, or without punctuation around it, or that in lower case.

    Words that are not known, and stop words, are left out.

    Args:
        vocab: Words, each at its id.
        stop_words: Words to leave out.
        do_lower_case: Whether texts are put in lower case first.
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
