"""The ways in which a sparse encoder lies on a disk, read as one sequence of modules.

| what lies there | how it is told | what becomes of it |
|---|---|---|
| its own format | `model_type` SparseEncoder | as it says |
| a SentenceTransformer | `model_type` | its modules, and a new SparseAutoEncoder |
| a bare masked-language model | `architectures` end in ForMaskedLM | with SpladePooling("max") |
| another backbone | otherwise | with Pooling("mean") and a new SparseAutoEncoder |

Source: the formats as Sentence Transformers 5 and 6.2 write and read them.
"""

import logging

import torch
from torch import Tensor, nn

from omnitune.errors import CheckpointError
from omnitune.model import checkpoint
from omnitune.model.checkpoint import Checkpoint, LoadOptions
from omnitune.model.family import DENSE, SPARSE
from omnitune.modules import files, vocabulary_head
from omnitune.modules.pooling import Pooling
from omnitune.modules.sequence import last_dimension
from omnitune.modules.sparse_auto_encoder import SparseAutoEncoder
from omnitune.modules.splade_pooling import SpladePooling
from omnitune.modules.transformer import Transformer

logger = logging.getLogger(__name__)

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
    if kind == DENSE.name and saved:
        loaded = checkpoint.load_modules(path_or_id, folder, options)
        dim = last_dimension(list(loaded.modules.values()))
        if dim is None:
            raise CheckpointError(
                f"{folder}: expected a module that says how many dimensions its vectors have, got none"
            )
        coder = SparseAutoEncoder(dim, hidden_dim=4 * dim, k=max(dim // 4, 1), k_aux=dim // 2)
        _warn_new(coder)
        return Checkpoint(
            modules={**loaded.modules, str(len(loaded.modules)): coder},
            forward_kwargs=loaded.forward_kwargs,
            config=loaded.config,
        )
    if kind != SPARSE.name:
        logger.warning("%s: a %s, whose backbone is taken for a %s with a new head.", folder, kind, SPARSE.name)
    own = config if kind == SPARSE.name else {}
    return Checkpoint(modules=bare(path_or_id, options), forward_kwargs={}, config=own)


def bare(path_or_id: str, options: LoadOptions) -> dict[str, nn.Module]:
    """The modules that make a sparse encoder out of a backbone without modules.

    Args:
        path_or_id: A directory, or a repository of the hub.
        options: How to reach and load it.

    Raises:
        CheckpointError: There is no model, or its weights are pickled.
    """
    folder = files.resolve(path_or_id, options.hub)
    architectures = [str(name) for name in files.read_json(folder / "config.json").get("architectures") or []]
    if any(name.endswith(MASKED_LANGUAGE) for name in architectures):
        transformer = checkpoint.bare_transformer(path_or_id, options, "fill-mask")
        return {"0": transformer, "1": SpladePooling("max", embedding_dimension=transformer.get_embedding_dimension())}
    transformer = checkpoint.bare_transformer(path_or_id, options)
    dim = transformer.get_embedding_dimension()
    coder = SparseAutoEncoder(dim, hidden_dim=4 * dim, k=256, k_aux=512)
    _warn_new(coder)
    return {"0": transformer, "1": Pooling(dim, "mean"), "2": coder}


def _warn_new(coder: SparseAutoEncoder) -> None:
    logger.warning(
        "a new SparseAutoEncoder of %d latents was made, with random weights: train it with CSRLoss before use.",
        coder.hidden_dim,
    )


def settle_head(backbone: Transformer, pooling: SpladePooling) -> None:
    """Let the pooling do the head's last product, where a probe finds that it gives the same."""
    if not ("text" in backbone.modalities and backbone.defer_head()):
        return
    modes = [(part, part.training) for part in backbone.modules()]
    backbone.eval()
    device = backbone.model.device
    features = {
        key: value.to(device) if isinstance(value, Tensor) else value
        for key, value in backbone.preprocess(vocabulary_head.PROBES, modality="text").items()
    }
    made = []
    # Autocast would round what the comparison is about.
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        for wanted in (True, False):
            with vocabulary_head.deferred(wanted=wanted):
                made.append(pooling(backbone(dict(features)))["sentence_embedding"])
    for part, training in modes:
        part.training = training
    if not vocabulary_head.agrees(*made):
        backbone.defers_head = False
        logger.warning(
            "%s: its masked-language head ends in more than a product with the vocabulary, so logits of every token "
            "are made.", type(backbone.model).__name__,
        )  # fmt: skip
