"""A head trained alone on token vectors: it learns, stops, is saved, and gives what its transformation says."""

import time
from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize

from omnitune import MultiVectorEncoder
from omnitune.errors import InputError, ShapeError
from omnitune.modules.token_weights import TokenWeights
from omnitune.ops.maxsim import maxsim
from omnitune.training.late_head import train_head
from omnitune.types import Embeddings

HIDDEN, PAGES = 32, 40


def noisy_corpus() -> tuple[Embeddings, Embeddings, list[list[int]], torch.Tensor]:
    """Pages whose words lie in the first half of the dimensions, under noise in the second half and common words."""
    generator = torch.Generator().manual_seed(0)

    def noise(n: int) -> torch.Tensor:
        return torch.cat([torch.zeros(n, HIDDEN // 2), torch.randn(n, HIDDEN // 2, generator=generator)], dim=1)

    words = torch.cat(
        [torch.randn(PAGES, 5, HIDDEN // 2, generator=generator), torch.zeros(PAGES, 5, HIDDEN // 2)], dim=2
    )
    pages = [normalize(page + 1.2 * noise(5), dim=-1) for page in words]
    queries, positives = [], []
    for number in range(3 * PAGES):
        page = number % PAGES
        own = words[page][torch.randperm(5, generator=generator)[:2]]
        queries.append(normalize(torch.cat([own + 1.2 * noise(2), noise(4)]), dim=-1))
        positives.append([page])
    packed = Embeddings.packed(queries), Embeddings.packed(pages)
    scores = maxsim(*packed)
    scores[torch.arange(len(queries)), [p[0] for p in positives]] = -torch.inf
    return *packed, positives, scores.topk(8, dim=1).indices


def rank_of_own(queries: Embeddings, pages: Embeddings, positives: list[list[int]]) -> float:
    scores = maxsim(queries, pages)
    own = scores[torch.arange(len(queries)), [p[0] for p in positives]]
    return float((scores > own[:, None]).sum(dim=1).float().mean())


@pytest.mark.parametrize("dim", [None, 24])
def test_the_head_learns_what_tells_pages_apart(dim: int | None) -> None:
    queries, pages, positives, wrong = noisy_corpus()
    held = list(range(2 * PAGES, 3 * PAGES))
    head = train_head(queries, pages, positives, wrong, validation=held, dim=dim, rate=30, epochs=20, patience=20)
    assert head.best_epoch > 0
    assert max(head.history) > head.history[0] + 0.1
    assert head.projection.shape == (dim or HIDDEN, HIDDEN)
    before = rank_of_own(queries[2 * PAGES :], pages, positives[2 * PAGES :])
    found = head.transform(queries, "query"), head.transform(pages)
    assert rank_of_own(found[0][2 * PAGES :], found[1], positives[2 * PAGES :]) < 0.7 * before


def test_training_that_does_not_help_keeps_the_identity() -> None:
    queries, pages, positives, wrong = noisy_corpus()
    head = train_head(queries, pages, positives, wrong, validation=[0, 1], rate=-30, patience=1)
    assert (head.best_epoch, len(head.history)) == (0, 2)
    assert torch.equal(head.projection, torch.eye(HIDDEN))
    torch.testing.assert_close(head.transform(queries, "query").values, queries.values)


def test_a_head_becomes_modules_of_a_model(tmp_path: Path, tiny_bert: Path) -> None:
    encoder = MultiVectorEncoder.from_dense(str(tiny_bert), device="cpu")
    texts = ["a page of names", "the table", "numbers and more", "words, words"]
    queries, pages = (Embeddings.packed([r.clone() for r in encoder.encode(t)]) for t in (texts, texts[::-1]))
    for weighted in (True, False):
        head = train_head(queries, pages, [[3], [2], [1], [0]], [[0], [1], [2], [3]], learn_weights=weighted, epochs=2)
        late = head.on(encoder)
        for task, given in (("query", texts), ("document", texts[::-1])):
            made = getattr(late, f"encode_{task}")(given)
            wanted = head.transform(queries if task == "query" else pages, task).unbind()
            for one, other in zip(made, wanted, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
        late.save_pretrained(str(tmp_path / str(weighted)))
        again = MultiVectorEncoder(str(tmp_path / str(weighted)), device="cpu")
        for one, other in zip(again.encode_query(texts), late.encode_query(texts), strict=True):
            torch.testing.assert_close(one, other)
        assert any(isinstance(module, TokenWeights) for module in again) is weighted


@pytest.mark.slow
def test_three_thousand_pages_take_seconds() -> None:
    """An epoch over 3,000 queries and pages of 200 tokens; the limit leaves room for a slow machine."""
    generator = torch.Generator().manual_seed(0)
    vectors = normalize(torch.randn(50_000, 128, generator=generator), dim=-1).half()
    pages = Embeddings.packed([vectors[n * 13 % 49_000 :][:200] for n in range(3000)])
    queries = Embeddings.packed([vectors[n * 17 % 49_000 :][:12] for n in range(3000)])
    wrong = torch.randint(0, 3000, (3000, 8), generator=generator)
    start = time.process_time()
    train_head(queries, pages, [[i] for i in range(3000)], wrong, epochs=1, show_progress_bar=False)
    assert time.process_time() - start < 40


def test_pages_and_queries_of_any_length_count() -> None:
    """A page of one token, candidates of different numbers, an empty page among the wrong ones."""
    queries, pages, positives, wrong = noisy_corpus()
    rows = pages.unbind()
    rows[7], rows[9] = rows[7][:1], rows[9][:0]
    short = Embeddings.packed(rows)
    kept = [row for row in range(120) if positives[row] != [9]]
    listed = [wrong[row].tolist()[: row % 4] + [9, -1] for row in kept]
    asked = Embeddings.packed([queries.unbind()[row] for row in kept])
    head = train_head(asked, short, [positives[row] for row in kept], listed, validation=[0, 1, 2], epochs=2)
    assert len(head.history) == 3
    assert bool(head.projection.isfinite().all())
    with pytest.raises(InputError, match="positives: expected pages with token vectors, got one without for query 9"):
        train_head(queries, short, positives, wrong)
    with pytest.raises(InputError, match="queries: expected token vectors of every query, got none for query 1"):
        train_head(Embeddings.packed([rows[0], rows[9]]), short, [[0], [1]], [[1], [0]])


def test_what_does_not_go_together_is_said() -> None:
    queries, pages, positives, wrong = noisy_corpus()
    with pytest.raises(ShapeError, match="expected equally many, got 120, 119 and 120"):
        train_head(queries, pages, positives[1:], wrong)
    with pytest.raises(ShapeError, match="pages: expected vectors of 32 dimensions, as the queries', got 16"):
        train_head(queries, pages.truncate(16), positives, wrong)
    with pytest.raises(InputError, match="expected at least one page for every query, got none for query 0"):
        train_head(queries, pages, [[], *positives[1:]], wrong)
    with pytest.raises(InputError, match="dim: expected from 1 to the 32 dimensions of the vectors, got 33"):
        train_head(queries, pages, positives, wrong, dim=33)
    with pytest.raises(InputError, match="validation: expected fewer queries than there are"):
        train_head(queries, pages, positives, wrong, validation=range(120))
