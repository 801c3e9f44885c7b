"""Rows that a model keeps by content: one store, and a subclass for each kind of row.

`TowerCache` keeps outputs of frozen towers, `InputCache` processed inputs. A subclass says under which keys, and how
rows are cut and joined; where they are kept, how much of them and in what form is here. Readings (`modules.readers`)
lie in stores of the same kind.
"""

import hashlib
import json
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from omnitune import runtime
from omnitune.engine.protocol import RunnableModel
from omnitune.errors import InputError
from omnitune.inputs.store import Entry, Store
from omnitune.types import Features

Place = Literal["auto", "disk", "off"]

MEMORY_SHARE = 0.1
"""Share of the host's free memory that a cache may take."""

DISK_BYTES = 20 << 30
"""Bytes that a cache may keep in files, of all models together."""

FACTS = "facts"
"""Name of the tensor that holds, as JSON, what of a row's features is no tensor."""


class RowCache:
    """Rows of one model; off until `keep` is called.

    Attributes:
        model: Whose rows.
        store: Where rows are, or None while it is off.
        hits: Rows that were there.
        misses: Rows that had to be made.
        folder: Folder of the files, inside the cache folder.
        argument: Name of the training argument that says where rows are kept.
    """

    folder: ClassVar[str]
    argument: ClassVar[str]

    def __init__(self, model: RunnableModel) -> None:
        self.model = model
        self.store: Store | None = None
        self.hits = 0
        self.misses = 0

    def keep(self, place: Place = "auto", *, memory: int | None = None, disk: int = DISK_BYTES) -> None:
        """Keep rows from now on.

        Args:
            place: "auto" for memory alone; "disk" for memory and then files in the cache folder, which later runs and
                other processes find again; "off" to stop and forget.
            memory: Bytes to take of the host's memory; None takes a share of what is free.
            disk: Bytes that the files may take.

        Raises:
            InputError: `place` is none of these.
        """
        check_place(place, self.argument)
        if place == "off":
            self.store = None
            return
        share = int(MEMORY_SHARE * runtime.available_memory()) if memory is None else memory
        self.store = Store(share, runtime.cache_folder() / self.folder if place == "disk" else None, disk)


def check_place(place: str, name: str) -> None:
    """Raise unless `place`, an argument of this name, says where something can be kept.

    Raises:
        InputError: It is neither "auto", "disk" nor "off".
    """
    if place not in ("auto", "disk", "off"):
        raise InputError(f'{name}: expected "auto", "disk" or "off", got {place!r}')


def packed(features: Features) -> Entry:
    """Features as tensors alone: what is none is written into one."""
    facts = json.dumps({key: value for key, value in features.items() if not isinstance(value, Tensor)})
    with torch.inference_mode(False):
        tensors = {key: value.clone() for key, value in features.items() if isinstance(value, Tensor)}
        return {**tensors, FACTS: torch.tensor(list(facts.encode()), dtype=torch.uint8)}


def unpacked(entry: Entry) -> Features:
    """The features that were packed."""
    facts = json.loads(bytes(entry[FACTS].tolist()))
    facts = {key: tuple(value) if isinstance(value, list) else value for key, value in facts.items()}
    return {**{key: value for key, value in entry.items() if key != FACTS}, **facts}


def settings_of(module: Any) -> str:
    """Everything of the processor that changes what it makes of an item."""
    processor = module.processor
    kinds = ("image_processor", "video_processor", "feature_extractor", "tokenizer")
    parts = [processor, *(getattr(processor, kind, None) for kind in kinds)]
    written = [
        {k: v for k, v in part.to_dict().items() if not k.startswith("_")} if hasattr(part, "to_dict") else None
        for part in parts
    ]
    tokenizer = module.tokenizer
    names = ("model_max_length", "padding_side", "truncation_side", "chat_template", "vocab_size", "name_or_path")
    text = [str(getattr(tokenizer, name, None)) for name in names]
    limits = (module.processing_kwargs, module.query_length, module.document_length, module.query_expansion)
    return repr((written, text, getattr(processor, "chat_template", None), limits))


def digest(*parts: str | memoryview) -> str:
    """32 hexadecimal digits, different for different parts."""
    made = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode(errors="surrogatepass") if isinstance(part, str) else part
        made.update(len(data).to_bytes(8, "little"))
        made.update(data)
    return made.hexdigest()
