"""Losses of late interaction beside Sentence Transformers': values and gradients; evaluators; training steps."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import nn

import omnitune
from fixtures import late_checkpoints
from omnitune import MultiVectorEncoder
from omnitune.evaluation import multi_vector as ours_evaluation
from omnitune.losses import multi_vector as ours
from omnitune.ops import token_similarity as ours_scoring
from omnitune.types import Column

pytestmark = pytest.mark.parity
rival = pytest.importorskip("sentence_transformers")

QUERIES = ["a page", "names of the table", "numbers and more", "the the the"]
POSITIVES = ["the page shows a table.", "table of names indeed", "many numbers, and more of them", "x"]
NEGATIVES = ["one", "a page of words, and then some more of them", "the", "names"]
OTHERS = ["words", "more", "a table of numbers, names and pages", "page"]
COLUMNS = {"query": QUERIES, "positive": POSITIVES, "negative": NEGATIVES, "other": OTHERS}
GENERATOR = torch.Generator().manual_seed(1)
TEACHER = torch.randn(4, 3, generator=GENERATOR) * 2
MNRL, CACHED = "MultiVectorMultipleNegativesRankingLoss", "CachedMultiVectorMultipleNegativesRankingLoss"
KL, MARGIN = "MultiVectorDistillKLDivLoss", "MultiVectorMarginMSELoss"


def scoring(name: str, *args: Any) -> tuple[Any, Any]:
    from sentence_transformers.multi_vector_encoder import scoring as theirs

    made = [getattr(module, name) for module in (theirs, ours_scoring)]
    return (made[0](*args), made[1](*args)) if args else (made[0], made[1])


CASES: dict[str, tuple[str, int, torch.Tensor | None, dict[str, Any], Callable[[], tuple[Any, Any]] | None]] = {
    "pairs": (MNRL, 2, None, {}, None),
    "negatives, scaled": (MNRL, 4, None, {"scale": 0.5, "mini_batch_size": 3}, None),
    "mean": (MNRL, 3, None, {"scale": 20.0}, lambda: scoring("mean_colbert_scores")),
    "xtr": (MNRL, 3, None, {"scale": 2.0}, lambda: scoring("XTRScores", 6)),
    "cached": (CACHED, 4, None, {"mini_batch_size": 2}, None),
    "cached mean": (CACHED, 2, None, {"mini_batch_size": 1}, lambda: scoring("mean_colbert_scores")),
    "distillation": (KL, 4, TEACHER, {"temperature": 2.0, "teacher_temperature": 0.7}, None),
    "distillation by xtr": (KL, 4, TEACHER, {}, lambda: scoring("XTRKDScores", 9)),
    "margins": (MARGIN, 4, TEACHER[:, :2], {}, None),
    "scores": (MARGIN, 4, TEACHER, {}, None),
    "one margin": (MARGIN, 3, TEACHER[:, 0], {}, lambda: scoring("mean_colbert_scores_pairwise")),
}


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("form", ["native", "expanded"])
@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradients_are_equal(case: str, form: str, tmp_path: Path, tiny_bert: Path) -> None:
    from sentence_transformers.multi_vector_encoder import losses as theirs

    name, count, labels, options, functions = CASES[case]
    more = {"query_expansion": {"strategy": "fixed", "length": 7}} if form == "expanded" else {}
    folder = late_checkpoints.native(tmp_path / "model", tiny_bert, **more)
    texts = [COLUMNS[column] for column in [*COLUMNS][:count]]
    found = []
    for which, (module, encoder) in enumerate(((theirs, rival.MultiVectorEncoder), (ours, MultiVectorEncoder))):
        model = encoder(str(folder), device="cpu")
        model.train()
        given = {} if functions is None else {"similarity_fct": functions()[which]}
        loss = getattr(module, name)(model, **options, **given)
        if which:
            columns: list[Any] = [Column(name=str(i), items=column) for i, column in enumerate(texts)]
        else:
            columns = []
            for i, column in enumerate(texts):
                task = "document" if i else "query"
                columns.append({**model.preprocess(column, task=task), "task": task})
        value = loss(columns, labels)
        value.backward()
        found.append((float(value.detach()), gradients(model)))
    (theirs_value, theirs_gradients), (ours_value, ours_gradients) = found
    assert ours_value == pytest.approx(theirs_value, rel=1e-5, abs=1e-6)
    assert ours_gradients.keys() == theirs_gradients.keys()
    for key, gradient in theirs_gradients.items():
        # Both add up in float32, where a sum that is nearly 0 keeps an error of up to 6e-7 of the terms.
        torch.testing.assert_close(ours_gradients[key], gradient, rtol=1e-5, atol=1e-6, msg=key)


def test_a_function_of_the_callers_sees_padded_vectors(tmp_path: Path, tiny_bert: Path) -> None:
    folder = late_checkpoints.native(tmp_path / "model", tiny_bert)
    columns = [Column(name=str(i), items=texts) for i, texts in enumerate([QUERIES, POSITIVES, NEGATIVES])]
    for name, ready in ((MNRL, "colbert_scores"), (KL, "colbert_kd_scores"), (MARGIN, "colbert_scores_pairwise")):
        function = getattr(ours_scoring, ready)
        labels = None if name == MNRL else TEACHER[:, :2]
        values = []
        for similarity in (None, lambda *args, function=function, **kwargs: function(*args, **kwargs)):
            model = MultiVectorEncoder(str(folder), device="cpu")
            values.append(float(getattr(ours, name)(model, similarity_fct=similarity)(columns, labels).detach()))
        assert values[0] == pytest.approx(values[1], rel=1e-5), name


@pytest.mark.parametrize("loss", [MNRL, CACHED])
def test_three_steps_of_training_have_equal_losses(loss: str, tmp_path: Path, tiny_bert: Path) -> None:
    from sentence_transformers.multi_vector_encoder import losses as theirs

    folder = late_checkpoints.native(tmp_path / "model", tiny_bert)
    data = Dataset.from_dict({key: COLUMNS[key] * 3 for key in ("query", "positive", "negative")})
    logs = []
    for library, module in ((rival, theirs), (omnitune, ours)):
        model = library.MultiVectorEncoder(str(folder), device="cpu")
        args = library.MultiVectorEncoderTrainingArguments(
            output_dir=str(tmp_path / library.__name__),
            max_steps=3,
            per_device_train_batch_size=4,
            learning_rate=1e-2,
            logging_steps=1,
            report_to=[],
            save_strategy="no",
            seed=3,
            max_length={"query": 6, "document": 9},
            use_cpu=True,
        )
        trainer = library.MultiVectorEncoderTrainer(model, args, train_dataset=data, loss=getattr(module, loss)(model))
        trainer.train()
        logs.append([row["loss"] for row in trainer.state.log_history if "loss" in row])
    assert len(logs[0]) == 3
    assert logs[0] == pytest.approx(logs[1], rel=1e-5)
    assert len(set(logs[1])) == 3


def evaluators(module: Any) -> dict[str, Any]:
    corpus = {f"d{i}": text for i, text in enumerate([*POSITIVES, *NEGATIVES, *OTHERS])}
    relevant = {f"q{i}": {f"d{i}", f"d{(i + 5) % 12}"} for i in range(4)}
    asked = {f"q{i}": text for i, text in enumerate(QUERIES)}
    samples = [
        {"query": q, "positive": [p], "negative": [n, o]}
        for q, p, n, o in zip(QUERIES, POSITIVES, NEGATIVES, OTHERS, strict=True)
    ]
    nested = [list(row) for row in zip(POSITIVES, NEGATIVES, OTHERS, strict=True)]
    return {
        "retrieval": module.MultiVectorInformationRetrievalEvaluator(
            asked, corpus, relevant, corpus_chunk_size=5, name="small"
        ),
        "triplets": module.MultiVectorTripletEvaluator(QUERIES, POSITIVES, NEGATIVES, name="small"),
        "both similarities": module.MultiVectorTripletEvaluator(
            QUERIES, POSITIVES, NEGATIVES, similarity_fn_names=["maxsim", "meanmaxsim"]
        ),
        "reranking": module.MultiVectorRerankingEvaluator(samples, at_k=2, name="small"),
        "reranking one by one": module.MultiVectorRerankingEvaluator(samples, use_batched_encoding=False),
        "distillation": module.MultiVectorDistillationEvaluator(QUERIES, nested, TEACHER.tolist(), temperature=2.0),
        "flat distillation": module.MultiVectorDistillationEvaluator(QUERIES, POSITIVES, TEACHER[:, 0], name="flat"),
    }


@pytest.mark.parametrize("similarity", ["maxsim", "meanmaxsim"])
def test_evaluators_have_equal_keys_and_values(similarity: str, tmp_path: Path, tiny_bert: Path) -> None:
    from sentence_transformers.multi_vector_encoder import evaluation as theirs

    folder = late_checkpoints.native(tmp_path / "model", tiny_bert)
    found = []
    for module, encoder in ((theirs, rival.MultiVectorEncoder), (ours_evaluation, MultiVectorEncoder)):
        model = encoder(str(folder), device="cpu", similarity_fn_name=similarity)
        out = tmp_path / f"out{len(found)}"
        out.mkdir()
        made = evaluators(module)
        values = {name: evaluator(model, output_path=str(out)) for name, evaluator in made.items()}
        primary = {name: evaluator.primary_metric for name, evaluator in made.items()}
        found.append((values, primary, sorted(path.name for path in out.glob("*.csv"))))
    assert found[1][1:] == found[0][1:]
    for name, wanted in found[0][0].items():
        assert found[1][0][name].keys() == wanted.keys(), name
        assert found[1][0][name] == pytest.approx(wanted, rel=1e-5, abs=1e-6), name
