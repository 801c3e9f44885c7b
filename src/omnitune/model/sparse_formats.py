"""The ways in which a sparse encoder lies on a disk, read as one sequence of modules.

| what lies there | how it is told | what becomes of it |
|---|---|---|
| its own format | `model_type` SparseEncoder | as it says |
| a bare masked-language model | `architectures` end in ForMaskedLM | with SpladePooling("max") |

Source: the formats as Sentence Transformers 5 and 6.2 write and read them.
"""

from torch import nn

from omnitune.errors import CheckpointError
from omnitune.model import checkpoint
from omnitune.model.checkpoint import Checkpoint, LoadOptions
from omnitune.model.family import SPARSE
from omnitune.modules import files
from omnitune.modules.splade_pooling import SpladePooling

MASKED_LANGUAGE = "ForMaskedLM"


def load(path_or_id: str, options: LoadOptions) -> Checkpoint:
    """Read a sparse encoder in any of the forms.

    Args:
        path_or_id: A directory, or a repository of the hub.
        options: How to reach and load it.

    Raises:
        CheckpointError: There is nothing to load, or nothing that gives sparse vectors.
    """
    folder = files.resolve(path_or_id, options.hub)
    config = checkpoint.read_config(folder / checkpoint.CONFIG)
    checkpoint.check_requirements(config.get("requirements") or {}, folder)
    saved = (folder / checkpoint.MODULES).is_file()
    kind = config.get("model_type") or (checkpoint.UNNAMED_FAMILY if saved else SPARSE.name)
    if kind == SPARSE.name and saved:
        return checkpoint.load_modules(path_or_id, folder, options)
    return Checkpoint(
        modules=bare(path_or_id, options), forward_kwargs={}, config=config if kind == SPARSE.name else {}
    )


def bare(path_or_id: str, options: LoadOptions) -> dict[str, nn.Module]:
    """The modules that make a sparse encoder out of a backbone without modules.

    Raises:
        CheckpointError: The backbone has no masked-language head.
    """
    folder = files.resolve(path_or_id, options.hub)
    architectures = [str(name) for name in files.read_json(folder / "config.json").get("architectures") or []]
    if not any(name.endswith(MASKED_LANGUAGE) for name in architectures):
        raise CheckpointError(
            f"{folder}: expected a checkpoint of a SparseEncoder, or a model with a masked-language head "
            f"(architectures end in {MASKED_LANGUAGE}), got {architectures or 'no architectures'}"
        )
    transformer = checkpoint.bare_transformer(path_or_id, options, "fill-mask")
    return {"0": transformer, "1": SpladePooling("max", embedding_dimension=transformer.get_embedding_dimension())}
