"""Words of model cards: one row a family, by the name that a checkpoint keeps."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Wording:
    """Templates of a family; what is in braces stands for the model's own.

    Attributes:
        introduction: What the model is and does.
        usage: Python that uses it.
        size: What the number of its outputs is called.
        pipeline_tag: The hub's name of its task.
    """

    introduction: str
    usage: str
    size: str
    pipeline_tag: str


WORDING: Mapping[str, Wording] = {
    "SentenceTransformer": Wording(
        introduction="This is an embedding model in the Sentence Transformers format{origin}. It maps {inputs} to "
        "{size}-dimensional vectors, for {task}.",
        usage="""from omnitune import SentenceTransformer  # or: from sentence_transformers import SentenceTransformer

model = SentenceTransformer("{name}")
queries = model.encode_query(["How often are the bearings greased?"])
documents = model.encode_document([{document}])
print(queries.shape, documents.shape)  # (1, {size}) (1, {size})
print(model.similarity(queries, documents))""",
        size="Output dimension",
        pipeline_tag="sentence-similarity",
    ),
    "MultiVectorEncoder": Wording(
        introduction="This is a late-interaction model in the Sentence Transformers format{origin}. It maps {inputs} "
        "to one {size}-dimensional vector a token, for {task}: a query's score is the sum over its tokens of the "
        "closest token of the document (MaxSim).",
        usage="""from omnitune import MultiVectorEncoder  # or: from sentence_transformers import MultiVectorEncoder

model = MultiVectorEncoder("{name}")
queries = model.encode_query(["How often are the bearings greased?"])
documents = model.encode_document([{document}])
print(queries[0].shape[1], documents[0].shape[1])  # {size} {size}
print(model.similarity(queries, documents))""",
        size="Output dimension of a token",
        pipeline_tag="sentence-similarity",
    ),
    "SparseEncoder": Wording(
        introduction="This is a sparse encoder in the Sentence Transformers format{origin}. It maps {inputs} to "
        "{size}-dimensional vectors of which most entries are zero, for {task}.",
        usage="""from omnitune import SparseEncoder  # or: from sentence_transformers import SparseEncoder

model = SparseEncoder("{name}")
queries = model.encode_query(["How often are the bearings greased?"])
documents = model.encode_document([{document}])
print(queries.shape, documents.shape)  # (1, {size}) (1, {size}), sparse
print(model.similarity(queries, documents))
print(model.sparsity(documents), model.decode(documents[0], top_k=5))""",
        size="Output dimension",
        pipeline_tag="feature-extraction",
    ),
    "CrossEncoder": Wording(
        introduction="This is a reranker (cross encoder) in the Sentence Transformers format{origin}. It reads a query "
        "and a document together, each of {inputs}, and gives the pair {size} score(s), for {task}.",
        usage="""from omnitune import CrossEncoder  # or: from sentence_transformers import CrossEncoder

model = CrossEncoder("{name}")
documents = [{document}, "The weather was fine."]
print(model.predict([("How often are the bearings greased?", document) for document in documents]))""",
        size="Scores of a pair",
        pipeline_tag="text-ranking",
    ),
}
"""A family that is not here speaks as a `SentenceTransformer`."""

SIMILARITY_NAMES = {
    "cosine": "Cosine Similarity",
    "dot": "Dot Product",
    "euclidean": "Euclidean Distance",
    "manhattan": "Manhattan Distance",
    "maxsim": "MaxSim",
    "meanmaxsim": "MeanMaxSim",
}


def duration(seconds: float) -> str:
    """A duration in the two largest units: `41 s`, `3 min 5 s`, `2 h 10 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
