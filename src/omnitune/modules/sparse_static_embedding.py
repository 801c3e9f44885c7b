"""Sparse vectors without a backbone: a learned weight for every word that a text has."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from omnitune import io
from omnitune.errors import CheckpointError, ShapeError
from omnitune.modules import files
from omnitune.modules.base import InputModule
from omnitune.modules.loading import upstream
from omnitune.types import Features, Modality

IDF = "idf.json"


class SparseStaticEmbedding(InputModule):
    """The words of a text, each with its weight: queries of an inference-free sparse encoder.

    Args:
        tokenizer: Says which words a text has.
        weight: One number a word `(vocabulary,)`; None for ones.
        frozen: Whether the weights stay as they are in training.

    Raises:
        ShapeError: `weight` has not one number a word.

    Source:
        Geng et al. 2024 (arXiv:2411.04403).

    Example:
        >>> words = SparseEncoder(modules=[SparseStaticEmbedding(model.tokenizer)])
        >>> sorted(words.decode(words.encode("grease the pump")))
        [('grease', 1.0), ('pump', 1.0), ('the', 1.0)]
    """

    config_keys: ClassVar[list[str]] = ["frozen"]

    def __init__(self, tokenizer: PreTrainedTokenizerBase, weight: Tensor | None = None, frozen: bool = False) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        size = len(tokenizer.get_vocab())
        if weight is not None and weight.ndim != 1:
            raise ShapeError(f"weight: expected one number a word ({size},), got the shape {tuple(weight.shape)}")
        self.weight = nn.Parameter(torch.ones(size) if weight is None else weight, requires_grad=not frozen)
        self.frozen = frozen
        self.num_dimensions = len(self.weight)

    @property
    def max_seq_length(self) -> int | None:
        """Tokens after which a text is cut."""
        limit: int = self.tokenizer.model_max_length  # type: ignore[union-attr]  # always of transformers
        return limit

    @max_seq_length.setter
    def max_seq_length(self, value: int | None) -> None:
        self.tokenizer.model_max_length = value  # type: ignore[union-attr]

    def preprocess(
        self,
        inputs: Sequence[str],
        prompt: str | None = None,
        *,
        modality: Modality | None = None,  # noqa: ARG002 - always text
        task: str | None = None,  # noqa: ARG002 - the same for all
        **kwargs: Any,
    ) -> Features:
        """Token ids of texts without special tokens; see `InputModule.preprocess`."""
        texts = [prompt + text for text in inputs] if prompt else list(inputs)
        cut = {"max_length": kwargs["max_length"]} if kwargs.get("max_length") else {}
        tokenize: Any = self.tokenizer
        return dict(
            tokenize(texts, padding=True, truncation=True, return_tensors="pt", add_special_tokens=False, **cut)
        )

    def forward(self, features: Features) -> Features:  # type: ignore[override]  # no extra arguments
        """Features with `sentence_embedding` `(rows, vocabulary)`; one that is there is multiplied with it."""
        ids, mask = features["input_ids"].long(), features["attention_mask"].bool()
        rows = torch.arange(len(ids), device=ids.device)[:, None].expand_as(ids)
        # Set, not added: a word counts once, and padding that looks like a word counts for nothing.
        present = self.weight.new_zeros(len(ids), self.num_dimensions)
        present[rows[mask], ids[mask]] = 1
        made = present * self.weight
        before: Tensor | None = features.get("sentence_embedding")
        features["sentence_embedding"] = made if before is None else made * before
        return features

    def get_embedding_dimension(self) -> int:
        """Size of the vocabulary."""
        return self.num_dimensions

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:  # noqa: ARG002
        """Write the tokenizer, the weights and the configuration."""
        self.save_tokenizer(output_path)
        self.save_torch_weights(output_path, safe_serialization=safe_serialization)
        self.save_config(output_path)

    @classmethod
    def from_json(
        cls,
        json_path: str,
        tokenizer: PreTrainedTokenizerBase,
        token: bool | str | None = None,
        cache_folder: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        **config: Any,
    ) -> Self:
        """Read weights by word, such as inverse document frequencies; words that it leaves out weigh 0.

        Args:
            json_path: The file; or a folder or repository that has it as `idf.json`.
            tokenizer: Of the vocabulary.
            token: Access token of the hub.
            cache_folder: Where downloaded files are kept.
            revision: Branch, tag or commit.
            local_files_only: Never download.
            **config: `frozen`.

        Raises:
            CheckpointError: There is no such file, or it holds no numbers.
        """
        path = Path(json_path)
        if not path.is_file():
            options = files.HubOptions(
                token=token, cache_folder=cache_folder, revision=revision, local_files_only=local_files_only
            )
            path = files.resolve(json_path, options) / IDF
        weights = io.read_json_or_none(path)
        if not isinstance(weights, dict) or not all(isinstance(value, int | float) for value in weights.values()):
            raise CheckpointError(f"{path}: expected a JSON object of weights by word, got none")
        vocabulary = tokenizer.get_vocab()
        table = torch.zeros(len(vocabulary))
        for word, value in weights.items():
            table[vocabulary.get(word, tokenizer.unk_token_id or 0)] = value
        return cls(tokenizer, table, **config)

    @classmethod
    def from_files(cls, root: Path, subfolder: str, **kwargs: Any) -> Self:  # noqa: ARG003  # what other modules take
        """Read the module from a checkpoint; an older one names a JSON file of weights by word.

        Raises:
            CheckpointError: The tokenizer or the weights are missing.
        """
        folder = root / subfolder
        config = cls.read_config(folder)
        with upstream(folder, "tokenizer"):
            tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
        path = config.pop("path", None)
        if path is not None:
            beside = folder / str(path)
            return cls.from_json(str(beside if beside.is_file() else path), tokenizer, **config)
        weight = files.read_tensors(folder).get("weight")
        if weight is None:
            raise CheckpointError(f"{folder / files.WEIGHTS}: expected one number a word as 'weight', got none")
        return cls(tokenizer, weight, **config)
