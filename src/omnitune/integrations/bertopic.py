"""BERTopic: a backend that embeds with this model.

Hand the backend over, not the model: BERTopic knows models by the name of their class, and for one that it does not
know it loads all-MiniLM-L6-v2 without a word.

>>> from omnitune.integrations.bertopic import OmnituneBackend
>>> BERTopic(embedding_model=OmnituneBackend("run/model"))
"""

from pathlib import Path
from typing import Any

from bertopic.backend import BaseEmbedder

from omnitune.integrations.wrap import encoder_of
from omnitune.model.dense import SentenceTransformer


class OmnituneBackend(BaseEmbedder):  # type: ignore[misc]  # BERTopic is not type-checked here
    """Embeds documents and words alike, so that topics and their words share a space.

    Args:
        model: A model, or its path.
        **encode_kwargs: For `encode`, such as `prompt_name`.
    """

    def __init__(self, model: SentenceTransformer | str | Path, **encode_kwargs: Any) -> None:
        super().__init__(embedding_model=encoder_of(model))
        self.encode_kwargs = encode_kwargs

    def embed(self, documents: list[str], verbose: bool = False) -> Any:
        """Embed texts `(texts, dim)`."""
        items: list[Any] = [str(one) for one in documents]
        if set(self.embedding_model.modalities) - {"text"}:
            items = [{"text": one} for one in items]
        return self.embedding_model.encode(items, **{"show_progress_bar": verbose, **self.encode_kwargs})
