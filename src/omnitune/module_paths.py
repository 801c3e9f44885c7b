"""Sentence Transformers' module paths that are no files here: older ones, and those of one class each.

`omnitune.losses.CosineSimilarityLoss` (version 2 to 5) and `omnitune.sentence_transformer.losses.cosine_similarity`
(version 6) both stand for the package above them and give every name that it has. One finder at the end of
`sys.meta_path` serves them, so a path costs nothing until a script imports it. Importing a name that is left out on
purpose gives the sentence that says what to use instead.
"""

import importlib
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

_INSIDE = {
    "": "LoggingHandler SentenceTransformer backend peft_mixin",
    "backend": "load optimize quantize",
    "base": "data_collator model model_card peft_mixin trainer training_args",
    "base.evaluation": "evaluator sequential",
    "base.modules": "dense input_module module normalize router transformer",
    "cross_encoder": "data_collator model_card",
    "cross_encoder.evaluation": "classification correlation deprecated nano_beir reranking",
    "cross_encoder.losses": (
        "adr_mse binary_cross_entropy cached_multiple_negatives_ranking cross_entropy lambda_loss list_mle list_net "
        "margin_mse mse multiple_negatives_ranking plist_mle rank_net"
    ),
    "cross_encoder.modules": "logit_score",
    "datasets": "",
    "evaluation": "",
    "losses": "",
    "models": "tokenizer",
    "models.tokenizer": "",
    "multi_vector_encoder": "model_card",
    "multi_vector_encoder.evaluation": "distillation information_retrieval nano_beir reranking triplet",
    "multi_vector_encoder.losses": (
        "cached_multiple_negatives_ranking distill_kl_div margin_mse multiple_negatives_ranking"
    ),
    "multi_vector_encoder.modules": "multi_vector_mask token_pooling",
    "multi_vector_encoder.scoring": "colbert xtr",
    "readers": "",
    "sentence_transformer": "data_collator model_card",
    "sentence_transformer.datasets": (
        "denoising_auto_encoder no_duplicates_dataloader parallel_sentences sentence_label sentences"
    ),
    "sentence_transformer.evaluation": (
        "binary_classification embedding_similarity information_retrieval label_accuracy mse mse_from_dataframe "
        "nano_beir paraphrase_mining reranking translation triplet"
    ),
    "sentence_transformer.losses": (
        "adaptive_layer angle batch_all_triplet batch_hard_soft_margin_triplet batch_hard_triplet "
        "batch_semi_hard_triplet cached_gist_embed cached_multiple_negatives_ranking "
        "cached_multiple_negatives_symmetric_ranking contrastive contrastive_tension cosent cosine_similarity "
        "denoising_auto_encoder distill_kl_div embed_distill gist_embed global_orthogonal_regularization margin_mse "
        "matryoshka matryoshka_2d mega_batch_margin mse multiple_negatives_ranking "
        "multiple_negatives_symmetric_ranking online_contrastive softmax triplet"
    ),
    "sentence_transformer.modules": (
        "clip_model dropout layer_norm normalize pooling static_embedding tokenizer weighted_layer_pooling "
        "word_embeddings word_weights"
    ),
    "sentence_transformer.modules.tokenizer": "whitespace word",
    "sentence_transformer.readers": "input_example label_sentence nli_data paired_files sts_data triplet",
    "sparse_encoder": "data_collator model_card",
    "sparse_encoder.callbacks": "splade_callbacks",
    "sparse_encoder.evaluation": (
        "reciprocal_rank_fusion sparse_binary_classification sparse_embedding_similarity "
        "sparse_information_retrieval sparse_mse sparse_nano_beir sparse_reranking sparse_translation sparse_triplet"
    ),
    "sparse_encoder.losses": (
        "cached_splade csr flops sparse_angle sparse_cosent sparse_cosine_similarity sparse_distill_kl_div "
        "sparse_margin_mse sparse_mse sparse_multiple_negatives_ranking sparse_triplet splade"
    ),
    "sparse_encoder.models": "",
    "sparse_encoder.modules": "mlm_transformer sparse_auto_encoder sparse_static_embedding splade_pooling",
    "util": ("distributed environment file_io hard_negatives logging misc quantization retrieval similarity tensor"),
}
"""Paths above modules of one class, and those of version 6; older ones have the names of their classes."""

_ELSEWHERE = {
    "base.modules.router": "models",
    "evaluation.SimilarityFunction": "similarity_functions",
    "models.tokenizer": "modules",
    "peft_mixin": "base",
    "sentence_transformer.data_collator": "data_collator",
    "sentence_transformer.modules.tokenizer": "modules",
    "util.quantization": "quantization",
}
"""Paths that stand for another one than that above them."""


class _Stand(ModuleType):
    """A module that stands for another one and has its names."""

    def __init__(self, name: str, for_: str) -> None:
        super().__init__(name, f"Sentence Transformers' path for `{for_}`.")
        self.__dict__["_for"] = for_

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__all__":
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(self.__dict__["_for"]), name)


class _Package(ModuleType):
    """A module whose classes stay what they are when a module of the same name is imported below it."""

    def __setattr__(self, name: str, value: Any) -> None:
        # The import system sets every submodule on its package: `losses.CosineSimilarityLoss` would become a module.
        if not (isinstance(value, _Stand) and hasattr(self, name)):
            super().__setattr__(name, value)


class _Finder:
    """Finds the paths of `_INSIDE`; asked last, after the files."""

    def find_spec(self, path: str, _: Sequence[str] | None = None, __: ModuleType | None = None) -> ModuleSpec | None:
        above, _dot, name = path.rpartition(".")
        if above.partition(".")[0] != "omnitune":
            return None
        package, short = sys.modules[above], path.removeprefix("omnitune.")
        inside = _INSIDE.get(short.rpartition(".")[0])
        older = name[:1].isupper() and above != "omnitune" and name in getattr(package, "__all__", ())
        if inside is not None and (older or name in inside.split()):
            home = f"omnitune.{_ELSEWHERE[short]}" if short in _ELSEWHERE else above
            if name[:1].isupper() or short == "peft_mixin":
                warnings.warn(f"the module {path} is deprecated; import from {home}", DeprecationWarning, stacklevel=2)
            if type(package) is ModuleType:
                package.__class__ = _Package
            return ModuleSpec(path, self, loader_state=home, is_package=True)  # type: ignore[arg-type]  # by its methods
        # `from omnitune.losses import Name` asks here for a module where there is no such name, and loses the reason.
        try:
            getattr(package, name)
        except AttributeError as error:
            if "on purpose" in str(error):
                raise ImportError(str(error), name=path) from None
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Stand(spec.name, spec.loader_state)

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: names are looked up when they are asked for."""


def below(package: str) -> Callable[[str], ModuleType]:
    """Make the `__getattr__` of a package whose modules scripts write as attributes: `omnitune.cross_encoder.losses`.

    Sentence Transformers imports all of its modules with itself, so there these attributes are always set.
    """

    def find(name: str) -> ModuleType:
        path, short = f"{package}.{name}", package.partition(".")[2]
        # Asked without the finder above, which asks here in turn.
        if name in _INSIDE[short].split() or PathFinder.find_spec(path, sys.modules[package].__path__):
            return importlib.import_module(path)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return find


def install() -> None:
    """Let the paths be imported."""
    sys.meta_path.append(_Finder())
