"""KeyBERT: a backend that embeds with this model.

Hand the backend over, not the model: KeyBERT knows models by the name of their class, and for one that it does not
know it loads paraphrase-multilingual-MiniLM-L12-v2 without a word.

>>> from omnitune.integrations.keybert import OmnituneBackend
>>> KeyBERT(model=OmnituneBackend("run/model"))
"""

from keybert.backend import BaseEmbedder

from omnitune.integrations.wrap import EmbedsWords


class OmnituneBackend(EmbedsWords, BaseEmbedder):  # type: ignore[misc]  # KeyBERT is not type-checked here
    """Embeds documents and words alike, so that they share a space.

    Args:
        model: A model, or its path.
        **encode_kwargs: For `encode`, such as `prompt_name`.
    """
