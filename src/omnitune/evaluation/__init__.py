"""How good a model is: one file an evaluator, all on one retrieval bridge (`search`)."""

from omnitune.evaluation.base import BaseEvaluator
from omnitune.evaluation.embedding_similarity import EmbeddingSimilarityEvaluator
from omnitune.evaluation.information_retrieval import InformationRetrievalEvaluator, Ranking
from omnitune.evaluation.sequential import SequentialEvaluator
from omnitune.evaluation.triplet import TripletEvaluator
from omnitune.ops.similarity import SimilarityFunction

SentenceEvaluator = BaseEvaluator

__all__ = [
    "BaseEvaluator",
    "EmbeddingSimilarityEvaluator",
    "InformationRetrievalEvaluator",
    "Ranking",
    "SentenceEvaluator",
    "SequentialEvaluator",
    "SimilarityFunction",
    "TripletEvaluator",
]
