"""What a checkpoint brings back: the run as it would have gone on, the loss's parameters, the best weights."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import Tensor, nn

from omnitune import SentenceTransformer, losses
from omnitune.errors import CheckpointError, InputError
from omnitune.evaluation import BaseEvaluator
from omnitune.modules import Dense, Normalize, Pooling, Router, Transformer
from omnitune.training import weights
from omnitune.training.binding import own_state
from omnitune.training.trainer import SentenceTransformerTrainer as Trainer

Pairs = Callable[..., Dataset]
Arguments = Callable[..., Any]


def logged(trainer: Any) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def state_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def assert_same(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    torch.testing.assert_close(left, right, atol=0, rtol=0)


class Scaled(nn.Module):
    """A loss with a parameter and a buffer of its own."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.scale = nn.Parameter(torch.tensor(5.0))
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, features: list[dict[str, Any]], labels: Tensor | None) -> Tensor:
        if self.training and torch.is_grad_enabled():
            self.steps += 1
        first, second = (nn.functional.normalize(self.model(f)["sentence_embedding"], dim=-1) for f in features)
        return nn.functional.cross_entropy(first @ second.T * self.scale, torch.arange(len(first)))


MAKERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "ranking": losses.MultipleNegativesRankingLoss,
    "cached": lambda m: losses.CachedMultipleNegativesRankingLoss(m, mini_batch_size=2),
    "scaled": Scaled,
}


@pytest.mark.parametrize("stop", [4, 6])
@pytest.mark.parametrize("name", MAKERS)
def test_a_resumed_run_equals_an_uninterrupted_one(
    dropping_bert: Path, pairs: Pairs, arguments: Arguments, name: str, stop: int
) -> None:
    def make() -> Trainer:
        args = arguments(save_strategy="steps", save_steps=stop, num_train_epochs=2, batch_sampler="no_duplicates")
        model = SentenceTransformer(str(dropping_bert), device="cpu")
        return Trainer(model=model, args=args, train_dataset=pairs(), loss=MAKERS[name](model))

    whole = make()
    whole.train()
    resumed = make()
    first = next(resumed.model.parameters())
    resumed.train(resume_from_checkpoint=str(Path(resumed.args.output_dir) / f"checkpoint-{stop}"))
    assert first is next(resumed.model.parameters())
    assert logged(resumed) == logged(whole) and len(logged(whole)) == 12
    assert_same(state_of(resumed.loss), state_of(whole.loss))


def test_true_resumes_from_the_last_whole_checkpoint(bert: Path, pairs: Pairs, arguments: Arguments) -> None:
    def make() -> Trainer:
        args = arguments(save_strategy="steps", save_steps=2, max_steps=6)
        model = SentenceTransformer(str(bert), device="cpu")
        return Trainer(model=model, args=args, train_dataset=pairs(), loss=MAKERS["ranking"](model))

    whole = make()
    whole.train()
    folder = Path(whole.args.output_dir)
    shutil.rmtree(folder / "checkpoint-6")
    (folder / "checkpoint-4" / "trainer_state.json").write_text('{"epoch": 0.')  # as a kill leaves it
    resumed = make()
    resumed.train(resume_from_checkpoint=True)
    assert (folder / "torn-checkpoint-4").is_dir() and (folder / "checkpoint-6").is_dir()
    assert logged(resumed) == logged(whole)


def test_the_best_checkpoint_can_be_kept_alone(bert: Path, pairs: Pairs, arguments: Arguments) -> None:
    scores = iter([0.1, 0.5, 0.3, 0.2])
    args = arguments(
        save_strategy="best", save_total_limit=1, metric_for_best_model="score", eval_strategy="steps", eval_steps=1,
        max_steps=4,
    )  # fmt: skip
    model = SentenceTransformer(str(bert), device="cpu")
    Trainer(
        model=model, args=args, train_dataset=pairs(), loss=MAKERS["ranking"](model),
        evaluator=lambda _model, **_: {"score": next(scores)},
    ).train()  # fmt: skip
    assert [path.name for path in Path(args.output_dir).glob("checkpoint-*")] == ["checkpoint-2"]


def test_the_loss_has_a_file_only_where_it_learns(dropping_bert: Path, pairs: Pairs, arguments: Arguments) -> None:
    for name in ("ranking", "scaled"):
        model = SentenceTransformer(str(dropping_bert), device="cpu")
        args = arguments(save_strategy="steps", save_steps=2, max_steps=2)
        args.output_dir += name
        trainer = Trainer(model=model, args=args, train_dataset=pairs(), loss=MAKERS[name](model))
        trainer.train()
        trainer.save_model()
        folder = Path(args.output_dir)
        assert (folder / "checkpoint-2" / weights.LOSS_WEIGHTS).is_file() == (name == "scaled")
        assert not (folder / weights.LOSS_WEIGHTS).exists()


def test_losses_by_dataset_are_restored(bert: Path, pairs: Pairs, arguments: Arguments) -> None:
    def make() -> Trainer:
        args = arguments(save_strategy="steps", save_steps=3, num_train_epochs=1)
        model = SentenceTransformer(str(bert), device="cpu")
        loss = {"a": Scaled, "b": Scaled}
        return Trainer(model=model, args=args, train_dataset={"a": pairs(24), "b": pairs(24, seed=1)}, loss=loss)

    whole, resumed = make(), make()
    whole.train()
    resumed.train(resume_from_checkpoint=str(Path(resumed.args.output_dir) / "checkpoint-3"))
    assert logged(resumed) == logged(whole)
    for name in "ab":
        assert_same(state_of(resumed.loss[name]), state_of(whole.loss[name]))


def test_a_checkpoint_without_the_losss_parameters(bert: Path, pairs: Pairs, arguments: Arguments) -> None:
    model = SentenceTransformer(str(bert), device="cpu")
    args = arguments(save_strategy="steps", save_steps=2, max_steps=2)
    loss = losses.MultipleNegativesRankingLoss(model)
    Trainer(model=model, args=args, train_dataset=pairs(), loss=loss).train()
    other = Trainer(model=model, args=args, train_dataset=pairs(), loss=Scaled)
    with pytest.raises(CheckpointError, match=r"loss.safetensors: .* missing \['scale', 'steps'\]"):
        other.train(resume_from_checkpoint=str(Path(args.output_dir) / "checkpoint-2"))


class Falling(BaseEvaluator):
    """Best at step 4."""

    def __call__(
        self, model: Any, output_path: str | None = None, epoch: int = -1, steps: int = -1
    ) -> dict[str, float]:
        return {"score": float(-abs(steps - 4))}


def test_the_best_model_and_loss_are_loaded(bert: Path, pairs: Pairs, arguments: Arguments) -> None:
    model = SentenceTransformer(str(bert), device="cpu")
    settings = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2}
    args = arguments(**settings, load_best_model_at_end=True, metric_for_best_model="score", greater_is_better=True)
    trainer = Trainer(model=model, args=args, train_dataset=pairs(), loss=Scaled, evaluator=Falling())
    scales = []
    trainer.loss.scale.register_hook(lambda grad: scales.append(trainer.loss.scale.item()))
    trainer.train()
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-4")
    assert trainer.loss.scale.item() == scales[4] != scales[5]
    best = SentenceTransformer(trainer.state.best_model_checkpoint, device="cpu")
    assert_same(state_of(best), state_of(model))
    assert model.model_card_data.training.best_step == 4


def composed(bert: Path) -> SentenceTransformer:
    torch.manual_seed(1)
    shared = Transformer(str(bert))
    query = [shared, Pooling(32, "mean"), Dense(32, 16), Normalize()]
    document = [shared, Pooling(32, "cls"), Dense(32, 16), Normalize()]
    return SentenceTransformer(modules=[Router.for_query_document(query, document)], device="cpu")


@pytest.mark.parametrize("make", [composed, lambda path: SentenceTransformer(str(path), device="cpu")])
def test_weights_come_back_in_place(bert: Path, tmp_path: Path, make: Callable[[Path], SentenceTransformer]) -> None:
    model = make(bert)
    before, held = state_of(model), [id(p) for p in model.parameters()]
    model.save_pretrained(str(tmp_path))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    weights.restore_model(model, tmp_path)
    assert_same(state_of(model), before)
    assert [id(p) for p in model.parameters()] == held


def test_a_router_wants_routes(bert: Path, pairs: Pairs, arguments: Arguments) -> None:
    model = composed(bert)
    with pytest.raises(InputError, match=r"router_mapping: expected a route out of \['query', 'document'\]"):
        Trainer(model=model, args=arguments(), train_dataset=pairs(), loss=losses.CoSENTLoss)
    args = arguments(max_steps=2, router_mapping={"anchor": "query", "positive": "document"})
    trainer = Trainer(model=model, args=args, train_dataset=pairs(), loss=losses.MultipleNegativesRankingLoss(model))
    trainer.train()
    assert len(logged(trainer)) == 2


def test_a_router_by_modality_wants_none(bert: Path, pairs: Pairs, arguments: Arguments) -> None:
    text = [Transformer(str(bert)), Pooling(32, "mean")]
    model = SentenceTransformer(modules=[Router({"text": text}, default_route="text")], device="cpu")
    loss = losses.MultipleNegativesRankingLoss(model)
    Trainer(model=model, args=arguments(max_steps=1), train_dataset=pairs(), loss=loss).train()


def test_a_foreign_folder(bert: Path, tmp_path: Path) -> None:
    model = SentenceTransformer(str(bert), device="cpu")
    with pytest.raises(CheckpointError, match="expected a checkpoint with modules.json"):
        weights.restore_model(model, tmp_path)
    composed(bert).save_pretrained(str(tmp_path))
    with pytest.raises(CheckpointError, match=r"expected the weights of this model; missing \['embeddings"):
        weights.restore_model(model, tmp_path)
    (tmp_path / "modules.json").write_text("[]")
    with pytest.raises(CheckpointError, match="expected the modules of this model, and '0' is missing"):
        weights.restore_model(model, tmp_path)


class TestAdapters:
    @pytest.fixture
    def make(self, dropping_bert: Path, pairs: Pairs, arguments: Arguments) -> Callable[..., Trainer]:
        peft = pytest.importorskip("peft")

        def make() -> Trainer:
            model = SentenceTransformer(str(dropping_bert), device="cpu")
            torch.manual_seed(3)
            model.add_adapter(peft.LoraConfig(r=4, lora_alpha=8, target_modules=["query", "value"]))
            args = arguments(save_strategy="steps", save_steps=4, num_train_epochs=2)
            return Trainer(
                model=model, args=args, train_dataset=pairs(), loss=losses.MultipleNegativesRankingLoss(model)
            )

        return make

    def test_only_the_adapter_trains(self, make: Callable[..., Trainer]) -> None:
        trainer = make()
        before = state_of(trainer.model)
        trainer.train()
        after = trainer.model.state_dict()
        moved = {name for name in before if not torch.equal(before[name], after[name])}
        assert moved and all("lora" in name for name in moved)
        assert trainer.model.active_adapters() == ["default"]

    def test_resumed_equals_uninterrupted(self, make: Callable[..., Trainer]) -> None:
        whole, resumed = make(), make()
        whole.train()
        folder = Path(resumed.args.output_dir) / "checkpoint-4"
        assert (folder / weights.ADAPTER_WEIGHTS).is_file() and not (folder / "model.safetensors").exists()
        resumed.train(resume_from_checkpoint=str(folder))
        assert logged(resumed) == logged(whole)
        assert_same(resumed.model.get_adapter_state_dict(), whole.model.get_adapter_state_dict())

    def test_verbs(self, make: Callable[..., Trainer]) -> None:
        model = make().model
        model.disable_adapters()
        plain = model.encode("word1 word2", convert_to_tensor=True)
        model.enable_adapters()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.add_(0.5)
        assert not torch.allclose(plain, model.encode("word1 word2", convert_to_tensor=True))
        assert model.active_adapter() == "default"
        assert all("lora" in name for name in model.get_adapter_state_dict())
        model.delete_adapter("default")
        torch.testing.assert_close(plain, model.encode("word1 word2", convert_to_tensor=True))


LEARNERS = {
    "SoftmaxLoss": lambda model: losses.SoftmaxLoss(model, 32, 3),
    "EmbedDistillLoss": lambda model: losses.EmbedDistillLoss(model, projection_dim=5),
    "ContrastiveTensionLoss": losses.ContrastiveTensionLoss,
    "ContrastiveTensionLossInBatchNegatives": losses.ContrastiveTensionLossInBatchNegatives,
    "DenoisingAutoEncoderLoss": losses.DenoisingAutoEncoderLoss,
    "AdaptiveLayerLoss": lambda model: losses.AdaptiveLayerLoss(model, losses.SoftmaxLoss(model, 32, 3)),
}


@pytest.mark.parametrize("name", LEARNERS)
def test_what_a_loss_learns_is_restored(name: str, tiny_bert: Path, tmp_path: Path) -> None:
    model = SentenceTransformer(str(tiny_bert))
    loss = LEARNERS[name](model)
    weights.save_loss(loss, model, tmp_path)
    before = {key: tensor.detach().clone() for key, tensor in own_state(loss, model).items()}
    assert before
    with torch.no_grad():
        for tensor in own_state(loss, model).values():
            tensor.add_(1)
    weights.restore_loss(loss, model, tmp_path)
    after = own_state(loss, model)
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], before[key]) for key in before)


def test_a_guide_is_neither_trained_nor_saved(tiny_bert: Path, tmp_path: Path) -> None:
    model, guide = SentenceTransformer(str(tiny_bert)), SentenceTransformer(str(tiny_bert))
    loss = losses.GISTEmbedLoss(model, guide)
    assert own_state(loss, model) == {}
    assert {id(p) for p in loss.parameters()} == {id(p) for p in model.parameters()}
