"""The same numbers, files and primary metrics as ST's evaluators, on the same model."""

import csv
import inspect
import json
from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch

from fixtures import nano
from omnitune import evaluation as ours
from omnitune.ops.similarity import cos_sim, dot_score, euclidean_sim

theirs = pytest.importorskip("sentence_transformers.sentence_transformer.evaluation")
pytestmark = pytest.mark.parity

NAMES = [name for name in ours.__all__ if name.endswith("Evaluator")] + ["MSEEvaluatorFromDataFrame"]


@pytest.fixture
def carded(make_encoder):
    def make(*args, **kwargs):
        model = make_encoder(*args, **kwargs)
        model.model_card_data = SimpleNamespace(set_evaluation_metrics=lambda *args: None)
        return model

    return make


def rows_of(folder):
    """Name to rows of every file in a folder; numbers as numbers."""

    def number(text):
        try:
            return float(text)
        except ValueError:
            return text

    return {
        path.name: [json.loads(line) for line in path.read_text().splitlines()]
        if path.suffix == ".jsonl"
        else [[number(cell) for cell in row] for row in csv.reader(path.read_text().splitlines())]
        for path in sorted(folder.iterdir())
    }


def close(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(close(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(close(x, y) for x, y in zip(a, b, strict=True))
    return a == pytest.approx(b, rel=1e-6, abs=1e-6) if isinstance(a, float) else a == b


def compare(kind, model, tmp_path, /, *args, **options):
    results = []
    for package in (ours, theirs):
        evaluator = getattr(package, kind)(*args, **options)
        folder = tmp_path / package.__name__
        first = evaluator(model, str(folder), epoch=1, steps=10)
        second = evaluator(model, str(folder))
        assert close(first, second)
        results.append((list(first), first, evaluator.primary_metric, evaluator.get_config_dict(), rows_of(folder)))
        results[-1] += (evaluator.description, evaluator.csv_file)
    mine, other = results
    assert mine[0] == other[0]
    for a, b in zip(mine[1:], other[1:], strict=True):
        assert close(a, b), (a, b)


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean", "manhattan"])
@pytest.mark.parametrize("chunk", [9, 50000])
def test_retrieval(carded, retrieval, tmp_path, similarity, chunk):
    compare(
        "InformationRetrievalEvaluator",
        carded(similarity, dim=4, levels=1),
        tmp_path,
        **retrieval,
        corpus_chunk_size=chunk,
        write_predictions=True,
        name="pages",
        map_at_k=[5, 20],
        ndcg_at_k=[3, 10],
        mrr_at_k=[1, 10],
    )


def test_retrieval_with_everything_tied(carded, retrieval, tmp_path):
    model = carded("dot", levels=0)
    compare("InformationRetrievalEvaluator", model, tmp_path, **retrieval, corpus_chunk_size=7, write_predictions=True)


def test_retrieval_under_several_similarities(carded, retrieval, tmp_path):
    functions = {"euclidean": euclidean_sim, "dot": dot_score, "cosine": cos_sim}
    options = {"score_functions": functions, "truncate_dim": 5, "query_prompt": "find: "}
    compare("InformationRetrievalEvaluator", carded(), tmp_path, **retrieval, **options)
    options["main_score_function"] = "dot"
    compare("InformationRetrievalEvaluator", carded(), tmp_path / "main", **retrieval, **options)


def test_retrieval_with_integer_identifiers(carded, retrieval, tmp_path):
    data = {
        "queries": dict(enumerate(retrieval["queries"].values())),
        "corpus": dict(enumerate(retrieval["corpus"].values())),
        "relevant_docs": {i: [i, i + 60] for i in range(len(retrieval["queries"]))},
    }
    compare("InformationRetrievalEvaluator", carded("dot"), tmp_path, **data, write_predictions=True)


TRIPLETS = [[f"{role} {i % 7}" for i in range(30)] for role in ("a", "p", "n")]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"name": "x", "truncate_dim": 3},
        {"similarity_fn_names": ["cosine", "dot", "euclidean", "manhattan"], "margin": 0.3},
        {"similarity_fn_names": ["manhattan", "dot"], "main_similarity_function": "dot", "margin": {"dot": 2}},
        {"main_similarity_function": "euclidean"},
    ],
)
def test_triplets(carded, tmp_path, options):
    compare("TripletEvaluator", carded(), tmp_path, *TRIPLETS, **options)


PAIRS = [[f"left {i}" for i in range(40)], [f"right {i % 30}" for i in range(40)], [float(i % 9) for i in range(40)]]


@pytest.mark.parametrize("precision", [None, "float32", "int8", "uint8", "binary", "ubinary"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"name": "x", "similarity_fn_names": ["cosine", "dot", "euclidean", "manhattan"]},
        {"main_similarity": "manhattan", "truncate_dim": 6},
    ],
)
def test_pairs(carded, tmp_path, precision, options):
    compare("EmbeddingSimilarityEvaluator", carded(dim=16), tmp_path, *PAIRS, precision=precision, **options)


def test_sequence(carded, retrieval, tmp_path):
    results = []
    for package in (ours, theirs):
        evaluators = [
            package.InformationRetrievalEvaluator(**retrieval, name="ir"),
            package.TripletEvaluator(*TRIPLETS, name="triplet"),
        ]
        sequence = package.SequentialEvaluator(evaluators, main_score_function=sum)
        results.append((sequence(carded(), str(tmp_path / package.__name__), 1, 2), sequence.primary_metric))
    assert close(results[0][0], results[1][0])
    assert results[0][1] == results[1][1]


LABELS = [int(i % 3 == 0) for i in range(40)]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"name": "x", "truncate_dim": 3, "similarity_fn_names": ["cosine", "dot", "euclidean", "manhattan"]},
        {"similarity_fn_names": ["manhattan"]},
    ],
)
def test_binary_classification(carded, tmp_path, options):
    sides = [PAIRS[0], [*PAIRS[0][:5], *PAIRS[1][5:]]]
    compare("BinaryClassificationEvaluator", carded(), tmp_path, *sides, LABELS, **options)


@pytest.mark.parametrize("options", [{}, {"name": "x", "truncate_dim": 3}])
def test_mse(carded, tmp_path, options):
    compare("MSEEvaluator", carded(), tmp_path, PAIRS[0], PAIRS[1], carded(levels=5), **options)
    rows = [{"en": f"en {i}", "de": f"de {i}" if i % 3 else " ", "fr": f"fr {i}"} for i in range(9)]
    pairs = [("en", "de"), ("en", "fr")]
    model = carded()
    model.eval = lambda: None
    compare("MSEEvaluatorFromDataFrame", model, tmp_path / "frame", rows, carded(levels=5), pairs, **options)


@pytest.mark.parametrize("options", [{}, {"name": "x", "truncate_dim": 3}])
def test_translation(carded, tmp_path, options, monkeypatch):
    class Listed(type(carded())):
        def encode(self, inputs, convert_to_numpy=True, **more):
            vectors = super().encode(inputs, **more)
            return vectors if convert_to_numpy else [torch.from_numpy(v) for v in vectors]

    model = Listed()
    model.model_card_data = carded().model_card_data
    sides = [[f"text {i % 30}" for i in range(40)], [f"text {i % 30 if i % 4 else i}" for i in range(40)]]
    compare("TranslationEvaluator", model, tmp_path, *sides, **options)


SAMPLES = [
    {
        "query": f"query {i}",
        "positive": [f"text {i} {j}" for j in range(i % 4)] if i % 5 else f"text {i}",
        "negative": [f"other {i % 7} {j}" for j in range(3 + i % 9)],
    }
    for i in range(30)
]


@pytest.mark.parametrize(
    "options",
    [{}, {"name": "x", "truncate_dim": 3, "at_k": 3}, {"use_batched_encoding": False}, {"similarity_fct": dot_score}],
    ids=", ".join,
)
def test_reranking(carded, tmp_path, options):
    compare("RerankingEvaluator", carded(levels=100), tmp_path, SAMPLES, **options)


def asked(table):
    """A table as ST wants it: every look-up finds something."""
    graph = defaultdict(lambda: defaultdict(bool))
    for first, others in table.items():
        graph[first].update(dict.fromkeys(others, True))
    return graph


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"name": "x", "add_transitive_closure": True, "truncate_dim": 6},
        {"top_k": 3, "max_pairs": 20, "query_chunk_size": 7, "corpus_chunk_size": 11},
        {
            "duplicates_list": None,
            "duplicates_dict": asked({"s1": ["s3", "s5"], "s3": ["s1"], "s7": []}),
        },
    ],
    ids=", ".join,
)
def test_paraphrase_mining(carded, tmp_path, options):
    # No two scores tie but those of equal sentences: which of equal pairs are kept is a matter of chance there.
    sentences = {f"s{i}": f"sentence {i % 35}" for i in range(40)}
    duplicates = [(f"s{i}", f"s{i + 1}") for i in range(0, 30, 3)] + [(f"s{i}", f"s{i + 2}") for i in range(0, 9, 3)]
    duplicates += [(f"s{i}", f"s{i + 35}") for i in range(5)] + [("s1", "elsewhere")]
    options = {"duplicates_list": duplicates, **options}
    model = carded(dim=16, levels=1000)
    # There the mining encodes with a prompt, and wants tensors.
    compare("ParaphraseMiningEvaluator", model, tmp_path, sentences, **options)


@pytest.fixture(scope="module")
def nano_beir(tmp_path_factory):
    return str(nano.nano_beir(tmp_path_factory.mktemp("nano")))


@pytest.mark.parametrize(
    "options",
    [
        {"dataset_names": ["msmarco", "nq"]},
        {"dataset_names": ["NQ"], "truncate_dim": 4, "query_prompts": "find: ", "aggregate_key": "median"},
        {"dataset_names": ["nq", "msmarco"], "score_functions": {"dot": dot_score, "cosine": cos_sim}},
        {"dataset_names": ["nq"], "corpus_prompts": {"nq": "page: "}, "main_score_function": "cosine"},
    ],
    ids=", ".join,
)
def test_nano_beir(carded, nano_beir, tmp_path, options):
    compare("NanoBEIREvaluator", carded(dim=4, levels=1), tmp_path, dataset_id=nano_beir, **options)


def test_label_accuracy(st_bert, tmp_path):
    from sentence_transformers import InputExample
    from sentence_transformers import SentenceTransformer as Theirs
    from sentence_transformers.sentence_transformer.losses import SoftmaxLoss as TheirLoss
    from torch.utils.data import DataLoader

    from omnitune import SentenceTransformer as Ours
    from omnitune.losses import SoftmaxLoss

    examples = [InputExample(texts=[f"a {i}", f"page {i % 4}"], label=i % 3) for i in range(20)]
    found = []
    for package, kind, loss in ((ours, Ours, SoftmaxLoss), (theirs, Theirs, TheirLoss)):
        model = kind(str(st_bert), device="cpu")
        torch.manual_seed(0)
        classifier = loss(model, model.get_embedding_dimension(), 3)
        evaluator = package.LabelAccuracyEvaluator(DataLoader(examples, batch_size=6), "x", classifier)
        found.append((evaluator(model, str(tmp_path / package.__name__)), evaluator.primary_metric, evaluator.csv_file))
    assert close(list(found[0]), list(found[1]))
    assert 0 < found[0][0]["x_accuracy"] < 1
    rows = [{"a": e.texts[0], "b": e.texts[1], "label": e.label} for e in examples]
    model = Ours(str(st_bert), device="cpu")
    torch.manual_seed(0)
    again = ours.LabelAccuracyEvaluator(DataLoader(rows, batch_size=6), "x", SoftmaxLoss(model, 32, 3))
    assert again(model) == found[0][0]


@pytest.mark.parametrize("name", [*NAMES, "BaseEvaluator"])
def test_signatures(name):
    for method in ("__init__", "__call__", "embed_inputs", "prefix_name_to_metrics", "get_config_dict"):
        if not hasattr(getattr(theirs, name), method):
            continue
        mine, other = (inspect.signature(getattr(getattr(package, name), method)) for package in (ours, theirs))
        assert list(mine.parameters) == list(other.parameters), method
        for key, parameter in mine.parameters.items():
            assert parameter.kind == other.parameters[key].kind
            if not callable(parameter.default):
                assert parameter.default == other.parameters[key].default, key


@pytest.mark.parametrize("truncate_dim", [None, 7])
@pytest.mark.parametrize("checkpoint", ["st_bert", "st_dense"])
def test_models_of_both_libraries_measure_the_same(request, checkpoint, truncate_dim):
    from sentence_transformers import SentenceTransformer as Theirs

    from omnitune import SentenceTransformer as Ours

    texts = ["a page about gears", "oil", "how to change the belt", "oil and belts", "gears and gears"]
    corpus = {f"d{i * 7 % 40:02d}": f"{texts[i % 5]} {i}" for i in range(40)}
    queries = {f"q{i}": text for i, text in enumerate(texts)}
    relevant = {query: {f"d{i:02d}", f"d{i + 20:02d}"} for i, query in enumerate(queries)}
    path = str(request.getfixturevalue(checkpoint))
    metrics = []
    for package, model in ((ours, Ours(path, device="cpu")), (theirs, Theirs(path, device="cpu"))):
        options = {"truncate_dim": truncate_dim, "name": "x", "corpus_chunk_size": 16}
        pairs = [list(corpus.values())[:20], list(corpus.values())[20:], [float(i % 4) for i in range(20)]]
        found = package.InformationRetrievalEvaluator(queries, corpus, relevant, **options)(model)
        found |= package.TripletEvaluator(texts, texts[1:] + texts[:1], texts[2:] + texts[:2])(model)
        found |= package.EmbeddingSimilarityEvaluator(*pairs)(model)
        metrics.append(found)
    assert close(metrics[0], metrics[1]), metrics
