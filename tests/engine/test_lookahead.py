"""Input across step boundaries: the same results, made while the step before goes on, raised at their own step."""

import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from PIL import Image

from omnitune import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments, losses
from omnitune.engine.engine import AHEAD
from omnitune.engine.lookahead import Lookahead
from omnitune.errors import MediaError, MediaNotFoundError
from omnitune.types import Column

Pages = list[Image.Image]
Batches = list[list[Column]]


@pytest.fixture
def model(tiny_clip: Path) -> SentenceTransformer:
    return SentenceTransformer(str(tiny_clip), device="cpu")


@pytest.fixture
def batches(page_files: list[Path]) -> Batches:
    """Three batches of two columns."""
    return [
        [
            Column(name="q", items=[f"page {row}" for row in rows]),
            Column(name="p", items=[page_files[row] for row in rows], rows=rows, dataset="manuals"),
        ]
        for rows in ([0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11])
    ]


def embed(model: SentenceTransformer, columns: list[Column], **options: Any) -> Any:
    engine = model.engine
    with torch.no_grad():
        plan = engine.plan(columns, **({"mini_batch_size": 1} | options))
        joined = torch.cat([engine.run(features).values for features in engine.prepare(plan.mini_batches)])
    return [joined[rows] for rows in plan.rows]


def offered(model: SentenceTransformer, batches: Batches) -> None:
    for columns in batches:
        model.engine.ahead.offer(columns)


def settled(model: SentenceTransformer) -> list[Any]:
    """Features, or errors, made of the batch that comes next, when they all are."""
    futures = [*model.engine.ahead._offers[0].made.values()]
    return [future.exception() or future.result() for future in futures]


def test_what_was_made_ahead_gives_the_same(model: SentenceTransformer, batches: Batches) -> None:
    expected = [embed(model, columns) for columns in batches]
    offered(model, batches)
    found = [embed(model, columns) for columns in batches]
    for ours, theirs in zip(found, expected, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert model.engine.ahead.served == 2 * (AHEAD + 1), "of every batch but the first"


def test_a_few_mini_batches_are_made_and_no_more(
    model: SentenceTransformer, batches: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    offered(model, batches)
    embed(model, batches[0])
    assert len(settled(model)) == AHEAD + 1
    assert not model.engine.ahead._offers[1].made, "one batch ahead"
    made: list[int] = []
    real = model.engine._features
    monkeypatch.setattr(model.engine, "_features", lambda m, k: made.append(1) or real(m, k))
    embed(model, batches[1])
    settled(model)
    assert len(made) == 8 - (AHEAD + 1) + (AHEAD + 1), "the rest of this batch, and the start of the next"


def test_one_mini_batch_a_batch(model: SentenceTransformer, batches: Batches) -> None:
    texts = [columns[:1] for columns in batches]
    expected = [embed(model, columns, mini_batch_size=8) for columns in texts]
    offered(model, batches)
    assert torch.equal(embed(model, texts[0], mini_batch_size=8)[0], expected[0][0])
    assert len(settled(model)) == 1, "of the one column that the loss takes"
    assert torch.equal(embed(model, texts[1], mini_batch_size=8)[0], expected[1][0])
    assert model.engine.ahead.served == 1


def test_a_broken_item_is_raised_at_its_step(model: SentenceTransformer, batches: Batches, tmp_path: Path) -> None:
    whole = (tmp_path / "page.png", Image.effect_noise((200, 200), 50))
    whole[1].save(whole[0])
    whole[0].write_bytes(whole[0].read_bytes()[:20_000])
    batches[1][1].items[2] = whole[0]  # type: ignore[index]
    offered(model, batches)
    embed(model, batches[0], mini_batch_size=4)
    assert [isinstance(made, MediaError) for made in settled(model)] == [False, True]
    with pytest.raises(MediaError, match=r"dataset 'manuals', row 6, column 'p': .*page.png.*: broken image"):
        embed(model, batches[1], mini_batch_size=4)
    embed(model, batches[2], mini_batch_size=4)


def test_a_missing_item_is_raised_at_its_step(model: SentenceTransformer, batches: Batches) -> None:
    batches[1][1].items[0] = Path("nowhere/page.png")  # type: ignore[index]
    offered(model, batches)
    embed(model, batches[0])
    assert not model.engine.ahead._offers[0].made
    with pytest.raises(MediaNotFoundError, match=r"dataset 'manuals', row 4, column 'p': "):
        embed(model, batches[1])
    embed(model, batches[2])


@pytest.mark.parametrize("change", ["dropout", "options", "max_seq_length"])
def test_a_plan_that_no_longer_holds_is_made_anew(model: SentenceTransformer, batches: Batches, change: str) -> None:
    offered(model, batches)
    embed(model, batches[0])
    planned = model.engine.ahead._offers[0].plan
    options: dict[str, Any] = {"mini_batch_size": 1}
    if change == "dropout":
        model.drop = torch.nn.Dropout(0.1)
        model.train()
    elif change == "options":
        options = {"mini_batch_size": 2}
    else:
        model.max_seq_length = 3
    made = [*model.engine.ahead._offers[0].made.values()]
    assert model.engine.plan(batches[1], **options) is not planned and len(made) == AHEAD + 1
    assert all(future.done() or future.cancelled() for future in made)


def test_evaluation_between_steps_has_its_own_input(model: SentenceTransformer, batches: Batches) -> None:
    expected = [embed(model, columns)[1] for columns in batches]
    offered(model, batches)
    embed(model, batches[0])
    first = settled(model)
    assert torch.equal(torch.tensor(model.encode(batches[1][1].items, batch_size=1)), expected[1])
    assert [id(features) for features in settled(model)] == [id(features) for features in first]
    assert torch.equal(embed(model, batches[1])[1], expected[1])


def test_batches_that_were_left_out_are_forgotten(model: SentenceTransformer, batches: Batches) -> None:
    expected = embed(model, batches[2])
    offered(model, batches)
    embed(model, batches[0])
    assert torch.equal(embed(model, batches[2])[1], expected[1])
    assert model.engine.ahead.served == 0 and not model.engine.ahead._offers


def test_clearing_waits_for_what_is_being_made(
    model: SentenceTransformer, batches: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    offered(model, batches)
    busy = threading.Event()
    real = model.preprocess_loaded

    def slow(*arguments: Any, **options: Any) -> Any:
        if threading.current_thread().name.startswith("omnitune-ahead"):
            busy.set()
            time.sleep(0.2)
        return real(*arguments, **options)

    monkeypatch.setattr(model, "preprocess_loaded", slow)
    embed(model, batches[0])
    assert busy.wait(5)
    model.engine.ahead.clear()
    time.sleep(0.01)  # the threads end when their last item is done
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("omnitune-ahead")]


class Stops(Exception):
    """Raised by a test's loss."""


def trained(model: SentenceTransformer, files: list[Path], folder: Path, stop: int = 0, **options: Any) -> list[float]:
    data = Dataset.from_dict({"q": [f"page {i}" for i in range(12)], "p": [str(file) for file in files]})
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(folder), num_train_epochs=2, logging_steps=1, learning_rate=1e-3, report_to=[],
        save_strategy="no", disable_tqdm=True, per_device_train_batch_size=3, **options,
    )  # fmt: skip

    class Loss(losses.CachedMultipleNegativesRankingLoss):
        """Fails in step `stop`."""

        def objective(self, *arguments: Any) -> Any:
            nonlocal stop
            stop -= 1
            if stop == 0:
                raise Stops
            return super().objective(*arguments)

    trainer = SentenceTransformerTrainer(
        model=model, args=arguments, train_dataset=data, eval_dataset=data, loss=Loss(model, mini_batch_size=2)
    )
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize(
    "options",
    [{}, {"gradient_accumulation_steps": 2}, {"eval_strategy": "steps", "eval_steps": 2}, {"activation_memory": 0},
     {"dataloader_num_workers": 1}],
    ids=str,
)  # fmt: skip
def test_training_has_the_same_losses(
    tiny_clip: Path, page_files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    model = SentenceTransformer(str(tiny_clip), device="cpu")
    found = trained(model, page_files, tmp_path, **options)
    ahead = model.engine.ahead
    assert ahead.served >= 6 * (AHEAD + 1) and not ahead._offers and ahead._now is None
    monkeypatch.setattr(Lookahead, "offer", lambda *_: None)
    model = SentenceTransformer(str(tiny_clip), device="cpu")
    assert trained(model, page_files, tmp_path, **options) == found and len(set(found)) > 1
    assert model.engine.ahead.served == 0


def test_a_run_that_fails_leaves_nothing_behind(tiny_clip: Path, page_files: list[Path], tmp_path: Path) -> None:
    model = SentenceTransformer(str(tiny_clip), device="cpu")
    with pytest.raises(Stops):
        trained(model, page_files, tmp_path, stop=3)
    ahead = model.engine.ahead
    assert ahead.served and not ahead._offers and ahead._now is None
    time.sleep(0.01)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("omnitune-")]
