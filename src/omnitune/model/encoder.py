"""Encoders of single inputs: what dense, multi-vector and sparse ones share, and `encode_query` made of `encode`."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

from omnitune.errors import InputError
from omnitune.model import pool as pools
from omnitune.model.base import Model
from omnitune.modules.pooling import Pooling
from omnitune.modules.sequence import last_dimension
from omnitune.ops.similarity import SimilarityFunction


class Encoder(Model, pools.PoolMixin):
    """A model that turns one input into one output of a known size."""

    _similarity: str | None = None

    @property
    def similarity_fn_name(self) -> Any:
        """Name of the similarity that `similarity` computes."""
        return self._similarity or self.family.similarity

    @similarity_fn_name.setter
    def similarity_fn_name(self, value: str | SimilarityFunction | None) -> None:
        name = value.value if isinstance(value, SimilarityFunction) else value
        if name is not None and name not in self.family.similarities:
            hint = self.similarity_hint(name)
            raise InputError(f"similarity_fn_name: expected one of {self.family.similarities}, got {name!r}{hint}")
        self._similarity = name

    def similarity_hint(self, name: str) -> str:  # noqa: ARG002
        """Say what to do instead where a similarity is another family's; goes behind the error."""
        return ""

    def _configure(self, config: Mapping[str, Any], prompts: dict[str, str], default_prompt_name: str | None) -> None:
        super()._configure(config, prompts, default_prompt_name)
        saved = config.get("similarity_fn_name")
        self._similarity = saved if saved in self.family.similarities else None

    def _model_config(self) -> dict[str, Any]:
        return {**super()._model_config(), "similarity_fn_name": self._similarity}

    def get_embedding_dimension(self) -> int | None:
        """Dimensions of a vector that the model gives, or None where no module says."""
        return last_dimension(list(self))

    @property
    def output_size(self) -> int | None:
        """The same, as every family names the size of its output."""
        return self.get_embedding_dimension()

    def set_pooling_include_prompt(self, include_prompt: bool) -> None:
        """Count the prompt's tokens in the pooled embedding, or leave them out."""
        for module in self.modules():
            if isinstance(module, Pooling):
                module.include_prompt = include_prompt


Verb = TypeVar("Verb", bound=Callable[..., Any])

DOCUMENT_PROMPTS = ("document", "passage", "corpus")
"""Names under which models keep the prompt of documents, the first that is there applies."""


def verbs(encode: Verb, makes: str, queries: str, documents: str) -> tuple[Verb, Verb]:
    """Make `encode_query` and `encode_document` of a family's `encode`: one signature, written once.

    Args:
        encode: The family's own, without older names of its arguments; a subclass's `encode` is called all the same.
        makes: What it makes, for the docstrings: "Token vectors".
        queries: Example of `encode_query`: a line of code, and a line that it prints.
        documents: Example of `encode_document`.

    Returns:
        Two methods with the signature of `encode`.
    """
    signature = inspect.signature(encode)
    kept = [one for one in signature.parameters.values() if one.name != "task"]  # the verb says which task it is
    owner = encode.__qualname__.rpartition(".")[0]

    def of(task: str, prompts: Sequence[str], says: str) -> Verb:
        @functools.wraps(encode)
        def verb(self: Any, inputs: Any, prompt_name: Any = None, prompt: Any = None, *args: Any, **kwargs: Any) -> Any:
            if prompt_name is None and prompt is None:
                prompt_name = next((one for one in prompts if one in self.prompts), None)
            return self.encode(inputs, prompt_name, prompt, *args, **{"task": task, **kwargs})

        verb.__name__, verb.__qualname__, verb.__doc__ = f"encode_{task}", f"{owner}.encode_{task}", says
        verb.__signature__ = signature.replace(parameters=kept)  # type: ignore[attr-defined]
        return cast(Verb, verb)

    of_queries = (
        f'{makes} of queries: `encode` with the "query" prompt and task. A string is text, whatever it looks like.'
    )
    of_documents = f'{makes} of documents: `encode` with task "document" and the first prompt of `DOCUMENT_PROMPTS`.'
    asks, answers = (
        f"{says}\n\nExample:\n    >>> " + example.replace("\n", "\n    ")
        for says, example in ((of_queries, queries), (of_documents, documents))
    )
    return of("query", ("query",), asks), of("document", DOCUMENT_PROMPTS, answers)
