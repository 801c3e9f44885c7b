"""Losses of cross encoders: pairs out of columns, one plan a step, cached equals direct, errors that name things."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from omnitune import CrossEncoder, SentenceTransformer, losses
from omnitune.errors import InputError, MediaError, ModalityError, ShapeError
from omnitune.losses.cross_encoder import (
    BinaryCrossEntropyLoss,
    CachedMultipleNegativesRankingLoss,
    CrossEntropyLoss,
    LambdaLoss,
    ListNetLoss,
    MarginMSELoss,
    MultipleNegativesRankingLoss,
    RankNetLoss,
)
from omnitune.modules import LogitScore, Transformer
from omnitune.types import Column

QUERIES = ["how is the pump greased", "valve", "torque of the bolt"]
DOCUMENTS = ["every 500 hours", "a table lists all valves and their pressure", "bolt"]
LISTS = [DOCUMENTS, DOCUMENTS[:1], DOCUMENTS[1:]]


@pytest.fixture(scope="module")
def model(tiny_bert: Path) -> CrossEncoder:
    torch.manual_seed(1)
    return CrossEncoder(str(tiny_bert), device="cpu")


@pytest.fixture(scope="module")
def vlm(tiny_qwen3_vl: Path) -> CrossEncoder:
    torch.manual_seed(2)
    modules = [Transformer(str(tiny_qwen3_vl), transformer_task="any-to-any"), LogitScore(300, 301)]
    return CrossEncoder(modules=modules, device="cpu")


def gradients(loss: Any, columns: list[Any], labels: Any = None) -> tuple[Tensor, Tensor]:
    loss.zero_grad(set_to_none=True)
    torch.manual_seed(3)
    value = loss(columns, labels)
    value.backward()
    return value.detach(), torch.cat([p.grad.flatten() for p in loss.parameters() if p.grad is not None])


@pytest.fixture
def plans(model: CrossEncoder, monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Sizes of the columns of every plan."""
    seen: list[list[int]] = []
    plan = model.engine.plan

    def counted(columns: Any, **options: Any) -> Any:
        seen.append([len(column) for column in columns])
        return plan(columns, **options)

    monkeypatch.setattr(model.engine, "plan", counted)
    return seen


def test_all_pairs_of_a_step_are_one_plan(model: CrossEncoder, plans: list[list[int]]) -> None:
    MultipleNegativesRankingLoss(model, num_negatives=2)([QUERIES, DOCUMENTS, DOCUMENTS[::-1]])
    ListNetLoss(model)([QUERIES, LISTS], [torch.tensor([1.0, 0, 0]), torch.ones(1), torch.ones(2)])
    assert plans == [[3, 3, 3, 3], [6]]


@pytest.mark.parametrize("budget", [0, "auto"])
@pytest.mark.parametrize("size", [1, 2, None])
def test_replayed_equals_direct(model: CrossEncoder, budget: Any, size: int | None) -> None:
    options: dict[str, Any] = {"num_negatives": None}
    direct = gradients(MultipleNegativesRankingLoss(model, **options), [QUERIES, DOCUMENTS])
    cached = CachedMultipleNegativesRankingLoss(model, **options, **({} if size is None else {"mini_batch_size": size}))
    cached.strategy.activation_memory = budget
    value, gradient = gradients(cached, [QUERIES, DOCUMENTS])
    torch.testing.assert_close(value, direct[0])
    torch.testing.assert_close(gradient, direct[1], atol=1e-6, rtol=1e-5)
    assert (cached.strategy.last_replayed > 0) == (budget == 0)


@pytest.mark.parametrize("memory", [0, None])
def test_lists_of_pages(vlm: CrossEncoder, page_images: list[Image.Image], memory: int | None) -> None:
    loss = ListNetLoss(vlm, mini_batch_size=2)
    loss.strategy.activation_memory = memory
    pages = [page_images[:3], page_images[2:4]]
    labels = [torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 1.0])]
    value, gradient = gradients(loss, [["valve", {"image": page_images[5], "text": "this"}], pages], labels)
    flat = [("valve", page) for page in pages[0]] + [({"image": page_images[5], "text": "this"}, p) for p in pages[1]]
    scores = torch.tensor(vlm.predict(flat, activation_fn=nn.Identity()))
    expected = sum(
        nn.functional.cross_entropy(s[None], y.softmax(0)[None])
        for s, y in zip(scores.split([3, 2]), labels, strict=True)
    )
    torch.testing.assert_close(value, expected / 2, atol=1e-5, rtol=1e-5)
    assert gradient.norm() > 0


def test_labels_of_one_length_may_be_one_tensor(model: CrossEncoder) -> None:
    lists = [DOCUMENTS, DOCUMENTS[::-1], DOCUMENTS]
    labels = torch.tensor([[1.0, 0.0, 2.0], [0.0, 0.0, 1.0], [1.0, 2.0, 3.0]])
    assert LambdaLoss(model)([QUERIES, lists], labels) == LambdaLoss(model)([QUERIES, lists], list(labels))


def test_prompts_and_roles_of_columns(model: CrossEncoder) -> None:
    def columns(*prompts: str | None, role: str | None = None) -> list[Column]:
        return [Column(name=n, items=items, prompt=p, role=role if n == "d" else None)
                for n, items, p in zip("qd", (QUERIES, DOCUMENTS), prompts, strict=True)]  # fmt: skip

    loss, labels = BinaryCrossEntropyLoss(model), torch.tensor([1, 0, 1])
    prompted = loss(columns("judge: ", "judge: "), labels)
    assert prompted == loss([QUERIES, DOCUMENTS], labels, prompt="judge: ")
    assert prompted != loss([QUERIES, DOCUMENTS], labels)
    with pytest.raises(InputError, match=r"prompts: expected one for all columns.*got \{'q': 'a: ', 'd': None\}"):
        loss(columns("a: ", None), labels)
    with pytest.raises(InputError, match=r"router_mapping: expected one for all columns.*'d': 'document'"):
        loss(columns(None, None, role="document"), labels)


def test_bad_items_are_named_by_their_row(model: CrossEncoder, vlm: CrossEncoder, page_images: Any) -> None:
    queries = Column(name="query", items=QUERIES, rows=[7, 8, 9], dataset="faq")
    pages = Column(name="page", items=page_images[:3], rows=[7, 8, 9], dataset="faq")
    with pytest.raises(ModalityError, match="dataset 'faq', row 7, column 'query, page': .* takes text"):
        BinaryCrossEntropyLoss(model)([queries, pages], torch.ones(3))
    gone = Column(name="page", items=["a", "b", "gone.png"], rows=[7, 8, 9], dataset="faq")
    with pytest.raises(MediaError, match=r"dataset 'faq', row 9, column 'query, page'.*no such file is there"):
        BinaryCrossEntropyLoss(vlm)([queries, gone], torch.ones(3))


def test_models_columns_and_labels_are_checked(model: CrossEncoder, tiny_bert: Path, st_bert: Path) -> None:
    with pytest.raises(InputError, match="ListNetLoss: expected a CrossEncoder, which scores pairs, got a Sentence"):
        ListNetLoss(SentenceTransformer(str(st_bert), device="cpu"))
    three = CrossEncoder(str(tiny_bert), num_labels=3, device="cpu")
    with pytest.raises(InputError, match="BinaryCrossEntropyLoss: expected a model with 1 label, got one with 3"):
        BinaryCrossEntropyLoss(three)
    with pytest.raises(InputError, match=r"expected the input columns \(query, document\), got 3 columns"):
        CrossEntropyLoss(three)([QUERIES, DOCUMENTS, DOCUMENTS], torch.ones(3))
    with pytest.raises(InputError, match=r"columns \(query, positive, negative\) or .* got 2 columns"):
        MarginMSELoss(model)([QUERIES, DOCUMENTS], torch.ones(3))
    with pytest.raises(InputError, match="BinaryCrossEntropyLoss: expected labels .relevance in .0, 1.., got None"):
        BinaryCrossEntropyLoss(model)([QUERIES, DOCUMENTS])
    with pytest.raises(ShapeError, match=r"expected 3 labels, one relevance in \[0, 1\] per row, got 2"):
        BinaryCrossEntropyLoss(model)([QUERIES, DOCUMENTS], torch.ones(2))
    with pytest.raises(ShapeError, match=r"numbers or lists of one length, got lists of \[1, 2\]"):
        MarginMSELoss(model)([QUERIES, DOCUMENTS, DOCUMENTS], [torch.ones(1), torch.ones(2), torch.ones(2)])
    with pytest.raises(ShapeError, match=r"MarginMSELoss: expected labels of shape \(3, 1\)"):
        MarginMSELoss(model)([QUERIES, DOCUMENTS, DOCUMENTS], torch.ones(3, 5))
    with pytest.raises(InputError, match='reduction_log: expected "natural" or "binary", got \'decimal\''):
        RankNetLoss(model, reduction_log="decimal")


def test_lists_are_checked(model: CrossEncoder) -> None:
    loss = ListNetLoss(model)
    with pytest.raises(InputError, match=r"expected lists of documents in column '1', got single documents"):
        loss([QUERIES, DOCUMENTS], torch.ones(3, 1))
    with pytest.raises(ShapeError, match=r"expected a list of labels for each query.*got labels of shape \(3,\)"):
        loss([QUERIES, LISTS], torch.ones(3))
    with pytest.raises(ShapeError, match=r"expected a list of labels for each query, one a document, got None"):
        loss([QUERIES, LISTS])
    with pytest.raises(ShapeError, match=r"expected one label a document, \[3, 1, 2\] of each query, got \[3, 3, 3\]"):
        loss([QUERIES, LISTS], torch.ones(3, 3))


def test_negatives_of_a_step(model: CrossEncoder) -> None:
    assert MultipleNegativesRankingLoss(model).negatives_per_query(32, 3) == 4 + 1
    assert MultipleNegativesRankingLoss(model, num_negatives=None).negatives_per_query(8, 2) == 7
    assert isinstance(MultipleNegativesRankingLoss(model), losses.Loss)


def test_drawn_documents_are_those_of_other_rows(model: CrossEncoder) -> None:
    loss = MultipleNegativesRankingLoss(model, num_negatives=3)
    drawn = loss._draw(4, 2)
    assert drawn.shape == (4, 3)
    assert all(int(place) % 4 != row for row, places in enumerate(drawn) for place in places)
    assert all(len(set(places.tolist())) == 3 for places in drawn)
