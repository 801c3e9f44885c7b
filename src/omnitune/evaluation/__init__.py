"""Evaluators, one file each, all on one ranking engine (`ranking`)."""

from omnitune.evaluation.base import BaseEvaluator
from omnitune.evaluation.binary_classification import BinaryClassificationEvaluator
from omnitune.evaluation.embedding_similarity import EmbeddingSimilarityEvaluator
from omnitune.evaluation.information_retrieval import InformationRetrievalEvaluator, Ranking
from omnitune.evaluation.label_accuracy import LabelAccuracyEvaluator
from omnitune.evaluation.mse import MSEEvaluator, MSEEvaluatorFromDataFrame
from omnitune.evaluation.nano_beir import NanoBEIREvaluator
from omnitune.evaluation.paraphrase_mining import ParaphraseMiningEvaluator
from omnitune.evaluation.reranking import RerankingEvaluator
from omnitune.evaluation.sequential import SequentialEvaluator
from omnitune.evaluation.translation import TranslationEvaluator
from omnitune.evaluation.triplet import TripletEvaluator
from omnitune.ops.similarity import SimilarityFunction

SentenceEvaluator = BaseEvaluator

__all__ = [
    "BaseEvaluator",
    "BinaryClassificationEvaluator",
    "EmbeddingSimilarityEvaluator",
    "InformationRetrievalEvaluator",
    "LabelAccuracyEvaluator",
    "MSEEvaluator",
    "MSEEvaluatorFromDataFrame",
    "NanoBEIREvaluator",
    "ParaphraseMiningEvaluator",
    "Ranking",
    "RerankingEvaluator",
    "SentenceEvaluator",
    "SequentialEvaluator",
    "SimilarityFunction",
    "TranslationEvaluator",
    "TripletEvaluator",
]
