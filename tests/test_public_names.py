"""What users import: every public name is there, lazily, and under the paths that existing scripts use."""

import ast
import importlib
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import omnitune

SOURCE = Path(omnitune.__file__).parent

SCRIPT_LINES = (
    "from {} import SentenceTransformer",
    "from {} import SentenceTransformer, SimilarityFunction, util",
    "from {} import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments",
    "from {} import SentenceTransformerModelCardData, quantize_embeddings",
    "from {} import DefaultBatchSampler, MultiDatasetDefaultBatchSampler",
    "from {} import CrossEncoder, CrossEncoderModelCardData, CrossEncoderTrainer, CrossEncoderTrainingArguments",
    "from {} import MultiVectorEncoder, MultiVectorEncoderModelCardData, MultiVectorEncoderTrainer",
    "from {} import MultiVectorEncoderTrainingArguments",
    "from {}.multi_vector_encoder import MultiVectorEncoderTrainer, losses, evaluation, modules, scoring",
    "from {}.multi_vector_encoder.losses import CachedMultiVectorMultipleNegativesRankingLoss",
    "from {}.multi_vector_encoder.evaluation import MultiVectorInformationRetrievalEvaluator",
    "from {}.multi_vector_encoder import MultiVectorEncoder, maxsim, maxsim_pairwise",
    "from {}.multi_vector_encoder.modules import HierarchicalTokenPooling, MultiVectorMask",
    "from {}.multi_vector_encoder.scoring import XTRScores, colbert_kd_scores, colbert_scores, xtr_scores",
    "from {}.util import maxsim, mean_maxsim",
    "from {} import SparseEncoder, SparseEncoderModelCardData, SparseEncoderTrainer, SparseEncoderTrainingArguments",
    "from {}.sparse_encoder import SparseEncoder, SparseEncoderTrainer, SparseEncoderTrainingArguments, losses",
    "from {}.sparse_encoder.losses import CachedSpladeLoss, CSRLoss, SparseMultipleNegativesRankingLoss, SpladeLoss",
    "from {}.sparse_encoder.modules import MLMTransformer, SparseAutoEncoder, SparseStaticEmbedding, SpladePooling",
    "from {}.sparse_encoder.callbacks import SchedulerType, SpladeRegularizerWeightSchedulerCallback",
    "from {} import losses, evaluation, models",
    "from {}.losses import CachedMultipleNegativesRankingLoss, MatryoshkaLoss, MultipleNegativesRankingLoss",
    "from {}.losses import AnglELoss, CoSENTLoss, CosineSimilarityLoss, MarginMSELoss, MSELoss, TripletLoss",
    "from {}.sentence_transformer.losses import CachedMultipleNegativesRankingLoss, MatryoshkaLoss",
    "from {}.sentence_transformer import losses, evaluation, modules",
    "from {}.cross_encoder import CrossEncoder, CrossEncoderTrainer, CrossEncoderTrainingArguments, losses",
    "from {}.cross_encoder.losses import BinaryCrossEntropyLoss, LambdaLoss, ListNetLoss, NDCGLoss2PPScheme",
    "from {}.cross_encoder.evaluation import CrossEncoderRerankingEvaluator, CrossEncoderNanoBEIREvaluator",
    "from {}.cross_encoder.modules import LogitScore",
    "from {}.cross_encoder.model import CrossEncoder",
    "from {}.cross_encoder.trainer import CrossEncoderTrainer",
    "from {}.cross_encoder.training_args import CrossEncoderTrainingArguments",
    "from {}.evaluation import InformationRetrievalEvaluator, SequentialEvaluator, TripletEvaluator",
    "from {}.evaluation import EmbeddingSimilarityEvaluator, SentenceEvaluator, SimilarityFunction",
    "from {}.sentence_transformer.evaluation import InformationRetrievalEvaluator",
    "from {}.base.evaluation import BaseEvaluator, SequentialEvaluator",
    "from {}.models import Dense, Normalize, Pooling, Router, StaticEmbedding, Transformer",
    "from {}.base.modules import Dense, InputModule, Module, Normalize, Router, Transformer",
    "from {}.sentence_transformer.modules import Pooling, StaticEmbedding",
    "from {}.training_args import BatchSamplers, MultiDatasetBatchSamplers, SentenceTransformerTrainingArguments",
    "from {}.sentence_transformer.training_args import BatchSamplers, SentenceTransformerTrainingArguments",
    "from {}.sentence_transformer.trainer import SentenceTransformerTrainer",
    "from {}.sentence_transformer.model import SentenceTransformer",
    "from {}.trainer import SentenceTransformerTrainer",
    "from {}.base.sampler import DefaultBatchSampler, NoDuplicatesBatchSampler",
    "from {}.similarity_functions import SimilarityFunction",
    "from {}.util import cos_sim, dot_score, pairwise_cos_sim, semantic_search, truncate_embeddings",
    "import {}.util, {}.losses",
)


def modules() -> list[str]:
    paths = (path.relative_to(SOURCE).with_suffix("") for path in SOURCE.rglob("*.py"))
    names = (".".join(("omnitune", *path.parts)).removesuffix(".__init__") for path in paths)
    return sorted(names)


@pytest.mark.parametrize("line", SCRIPT_LINES)
def test_lines_of_scripts(line: str) -> None:
    exec(line.replace("{}", "omnitune"), {})


@pytest.mark.parity
@pytest.mark.parametrize("line", SCRIPT_LINES)
def test_lines_of_scripts_are_real(line: str) -> None:
    pytest.importorskip("sentence_transformers")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        exec(line.replace("{}", "sentence_transformers"), {})


@pytest.mark.parametrize("module", modules())
def test_what_a_module_offers_is_there(module: str) -> None:
    try:
        loaded = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if not module.startswith("omnitune.integrations.") or str(error.name).startswith("omnitune"):
            raise
        pytest.skip(f"{error.name}, for which this is an adapter, is not installed")
    names = getattr(loaded, "__all__", [])
    assert len(names) == len(set(names))
    for name in names:
        assert getattr(loaded, name) is not None, name


def test_the_root_offers_what_it_says() -> None:
    assert {*omnitune.__all__} <= {*dir(omnitune)}
    assert omnitune.SentenceTransformer.__name__ == "SentenceTransformer"
    with pytest.raises(AttributeError, match="'SentenceTransformers'"):
        omnitune.SentenceTransformers  # noqa: B018


@pytest.mark.parametrize("statement", ["import omnitune", "import omnitune.cli.main", "from omnitune import errors"])
def test_nothing_heavy_is_imported_before_it_is_needed(statement: str) -> None:
    heavy = "{'torch', 'transformers', 'datasets', 'matplotlib', 'pypdfium2', 'PIL'}"
    code = f"import sys; {statement}; print(sorted({heavy} & sys.modules.keys()))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_sentence_transformers_is_not_imported_by_the_library() -> None:
    code = "import sys; from omnitune import *; import omnitune.util; print('sentence_transformers' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.startswith("sentence_transformers")], path


def test_a_name_imports_no_model_code() -> None:
    """What makes `from transformers import PreTrainedModel` slow is imported when a model is loaded."""
    code = "import sys; from omnitune import SentenceTransformer; print('transformers.modeling_utils' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
