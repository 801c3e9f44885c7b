"""BERTopic: a backend that embeds with this model.

Hand the backend over, not the model: BERTopic knows models by the name of their class, and for one that it does not
know it loads all-MiniLM-L6-v2 without a word.

>>> from omnitune.integrations.bertopic import OmnituneBackend
>>> BERTopic(embedding_model=OmnituneBackend("run/model"))
"""

from bertopic.backend import BaseEmbedder

from omnitune.integrations.wrap import EmbedsWords


class OmnituneBackend(EmbedsWords, BaseEmbedder):  # type: ignore[misc]  # BERTopic is not type-checked here
    """Embeds documents and words alike, so that topics and their words share a space.

    Args:
        model: A model, or its path.
        **encode_kwargs: For `encode`, such as `prompt_name`.
    """
