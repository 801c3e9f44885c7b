"""`encode_query` and `encode_document` of a family, made of its `encode`: one signature, written once."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

Verb = TypeVar("Verb", bound=Callable[..., Any])

DOCUMENT_PROMPTS = ("document", "passage", "corpus")
"""Names under which models keep the prompt of documents, the first that is there applies."""


def for_role(encode: Verb, name: str, *, task: str, prompts: Sequence[str], says: str) -> Verb:
    """Make a verb that encodes items of one role.

    Args:
        encode: The family's own, without older names of its arguments; a subclass's `encode` is called all the same.
        name: Name of the verb.
        task: Role, such as "query".
        prompts: Names of the prompts of this role; the first that the model has applies where none is given.
        says: Docstring.

    Returns:
        A method with the signature of `encode`.
    """

    @functools.wraps(encode)
    def verb(self: Any, inputs: Any, prompt_name: Any = None, prompt: Any = None, *args: Any, **kwargs: Any) -> Any:
        if prompt_name is None and prompt is None:
            prompt_name = next((one for one in prompts if one in self.prompts), None)
        return self.encode(inputs, prompt_name, prompt, *args, **{"task": task, **kwargs})

    verb.__name__, verb.__doc__ = name, says
    signature = inspect.signature(encode)
    kept = [one for one in signature.parameters.values() if one.name != "task"]  # the verb says which task it is
    verb.__signature__ = signature.replace(parameters=kept)  # type: ignore[attr-defined]
    verb.__qualname__ = f"{encode.__qualname__.rpartition('.')[0]}.{name}"
    return cast(Verb, verb)
