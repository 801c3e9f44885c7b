"""The reranker's steps of a run: candidates, training, the test reranked, and its scores distilled into the retriever.

out/
candidates.jsonl   pages that the finetuned retriever confuses with the right one, for the training pairs
reranker/          the cross encoder             rerank.npz   its order of each test query's first pages
teacher.jsonl       its scores of the candidates  distilled/   the retriever, trained on them
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, Features, List, Value, concatenate_datasets
from torch import nn

from omnitune import losses, runtime
from omnitune.documents.dataset import FEATURES, DocumentDataset
from omnitune.documents.kinds import PAGES
from omnitune.errors import CheckpointError
from omnitune.finetune.choose import (
    GPU_BYTES,
    ModelChoice,
    gpu_bytes,
    loading,
    model_identity,
    read_page_files,
)
from omnitune.finetune.fit import run_trainer
from omnitune.finetune.measure import cosine_search, load_test, test_sets
from omnitune.finetune.negatives import mine_pages
from omnitune.finetune.recipe import Reranking
from omnitune.finetune.steps import Log, Steps, checkpoint_folder, remove_checkpoints
from omnitune.io import read_jsonl, write_jsonl, writing
from omnitune.losses import cross_encoder as pair_losses
from omnitune.model.dense import SentenceTransformer
from omnitune.model.pair import ANSWERS, CrossEncoder
from omnitune.modules import Transformer, files
from omnitune.modules.logit_score import LogitScore
from omnitune.places import EMBEDDED, is_embedded
from omnitune.training.arguments import CrossEncoderTrainingArguments, SentenceTransformerTrainingArguments
from omnitune.training.trainer import CrossEncoderTrainer, SentenceTransformerTrainer

VISION_LANGUAGE = "Qwen/Qwen3-VL-Reranker-2B"

_MACHINE = ("use_cpu", "bf16", "fp16")
"""Training arguments that say what the machine can do: the retriever's hold for the reranker."""

SCORES = Features({"scores": List(Value("float32"))})

RIGHT = 10.0
"""Label of the right page in a list; the others' is 0. Their softmax is all but 1 for the right one, which makes
ListNet the cross-entropy of the right page against the others."""

TEMPERATURE = 0.05
"""Divides the retriever's cosines before their softmax, as in its own training; the reranker's logits need none."""


class RerankerSteps:
    """The steps, in order; each does nothing where it is done.

    Args:
        steps: Of the run, whose retriever is finetuned and evaluated.
        chosen: The retriever and the settings.
        dataset: Pages and queries.
        log: Called with what is done.
    """

    def __init__(self, steps: Steps, chosen: ModelChoice, dataset: DocumentDataset, log: Log) -> None:
        self.steps, self.chosen, self.dataset, self.log = steps, chosen, dataset, log
        self.settings: Reranking = chosen.recipe.reranker
        large = dataset.kind is PAGES and gpu_bytes() >= GPU_BYTES  # of recordings and clips, the words are read
        self.name = self.settings.model or (VISION_LANGUAGE if large else EMBEDDED)
        self.size = chosen.recipe.evaluation.batch_size
        self.out = steps.folder
        self.words = dataset.kind.words

    def rerank(self) -> None:
        """Mine candidates, train the reranker, and let it order the first pages of every test query."""
        inputs = {
            "train": self.steps.done["train"].key,
            "negatives": self.chosen.recipe.settings()["negatives"],
            "count": [self.settings.negatives, self.settings.range_max],
        }
        place = self.out / "candidates.jsonl"
        candidates = self.steps.run("candidates", inputs, lambda _: self._mine(place), makes=[place])
        settings = self.chosen.recipe.settings()["reranker"]
        trained = {name: value for name, value in settings.items() if not name.startswith(("distill", "depth"))}
        inputs = {"candidates": candidates.key, "model": model_identity(self.name), "settings": trained}
        folder = self.out / "reranker"
        reranker = self.steps.run("reranker", inputs, self._train, makes=[folder])
        inputs = {"reranker": reranker.key, "depth": self.settings.depth}
        file = self.out / "rerank.npz"
        self.steps.run("rerank", inputs, lambda _: self._rerank_test(file), makes=[file])

    def distill(self) -> None:
        """Score the candidates with the reranker, and train the retriever to agree."""
        inputs = {"reranker": self.steps.done["reranker"].key, "scores": self.settings.distill_loss}
        place = self.out / "teacher.jsonl"
        teacher = self.steps.run("teacher", inputs, lambda _: self._score_candidates(place), makes=[place])
        settings = self.chosen.recipe.settings()["reranker"]
        inputs = {"teacher": teacher.key, **{name: settings[name] for name in settings if name.startswith("distill")}}
        folder = self.out / "distilled"
        self.steps.run("distill", inputs, self._distill, makes=[folder])

    # -- steps

    def _mine(self, place: Path) -> dict[str, Any]:
        model = SentenceTransformer(str(self.out / "model"), **loading(self.chosen.recipe))
        rules = replace(self.chosen.recipe.negatives, count=self.settings.negatives, range_max=self.settings.range_max)
        _, known = load_test(self.out / "embeddings" / "finetuned")  # made by the step before this one
        return mine_pages(model, self.dataset, rules, place, known=known, batch_size=self.size)

    def _train(self, key: str) -> str:
        rows = list(read_jsonl(self.out / "candidates.jsonl"))
        recipe = self.chosen.recipe
        if is_embedded(self.name):
            model = load_reranker(self.name, self.settings.max_length)
        else:  # the retriever's precision, pixels and adapters: what fits the machine for one fits it for the other
            kept = {name: recipe.model.get(name) for name in ("model_kwargs", "processor_kwargs")}
            model = load_reranker(self.name, **kept)
            if recipe.lora is not None:
                model.add_adapter(runtime.require_peft().LoraConfig(**recipe.lora))
        documents, column = self._documents(model)
        pages = [[row["page_id"], *row["negatives"]] for row in rows]
        self.log(
            f"Training the reranker ({self.shown}): {len(rows):,} queries, {len(pages[0])} {self.words.page}s each"
        )
        listwise = self.settings.loss == "listwise"
        asked = [row["query"] for row in rows]
        if listwise:
            columns = {
                "query": asked,
                "page": [[documents(page) for page in some] for some in pages],
                "labels": [[RIGHT, *[0.0] * (len(some) - 1)] for some in pages],
            }
            features = {"query": Value("string"), "page": List(column), "labels": List(Value("float32"))}
        else:
            columns = {
                "query": [query for query, some in zip(asked, pages, strict=True) for _ in some],
                "page": [documents(page) for some in pages for page in some],
                "label": [float(place == 0) for some in pages for place in range(len(some))],
            }
            features = {"query": Value("string"), "page": column, "label": Value("float32")}
        loss = pair_losses.ListNetLoss(model) if listwise else pair_losses.BinaryCrossEntropyLoss(model)
        batch = self.settings.batch_size * (1 if listwise else len(pages[0]))
        checkpoints = checkpoint_folder(self.out, key, self.log)
        trainer = CrossEncoderTrainer(
            model=model,
            args=CrossEncoderTrainingArguments(
                **self._arguments(checkpoints, self.settings.num_train_epochs, self.settings.learning_rate, batch)
            ),
            train_dataset=Dataset.from_dict(columns, features=Features(features)),
            loss=loss,
        )
        run_trainer(trainer, checkpoints)
        model.save_pretrained(str(self.out / "reranker"))
        remove_checkpoints(checkpoints)
        return self.shown

    def _rerank_test(self, file: Path) -> None:
        test, _ = test_sets(self.dataset)
        rows = np.asarray(test.rows)
        ranked = cosine_search(load_test(self.out / "embeddings" / "finetuned"), test.rows)(slice(None)).rows
        first = ranked[:, : self.settings.depth].numpy()
        model = self._reranker()
        documents, _ = self._documents(model)
        ids = self.dataset.page_ids
        pairs = [
            (query, documents(ids[rows[column]]))
            for query, columns in zip(test.queries, first, strict=True)
            for column in columns
        ]
        self.log(f"Reranking the first {first.shape[1]} {self.words.page}s of {len(test.queries):,} test queries")
        found = model.predict(pairs, batch_size=self.size)
        with writing(file) as temporary, temporary.open("wb") as opened:
            np.savez(opened, candidates=first, scores=np.asarray(found, dtype=np.float32).reshape(first.shape))

    def _score_candidates(self, place: Path) -> None:
        rows = list(read_jsonl(self.out / "candidates.jsonl"))
        model = self._reranker()
        documents, _ = self._documents(model)
        self.log(f"Scoring {sum(1 + len(row['negatives']) for row in rows):,} pairs with the reranker")
        pairs = [(row["query"], documents(page)) for row in rows for page in (row["page_id"], *row["negatives"])]
        # A listwise reranker was trained on the softmax of logits; margins of cosines are those of probabilities.
        activation = nn.Identity() if self.settings.distill_loss == "kl" else None
        scores = model.predict(pairs, batch_size=self.size, activation_fn=activation)
        found = np.asarray(scores, dtype=np.float64).reshape(len(rows), -1)
        write_jsonl(place, ({**row, "teacher": scores} for row, scores in zip(rows, found.tolist(), strict=True)))

    def _distill(self, key: str) -> None:
        rows = list(read_jsonl(self.out / "teacher.jsonl"))
        model = SentenceTransformer(str(self.out / "model"), **loading(self.chosen.recipe))
        if self.chosen.recipe.lora is not None:  # adapters that are loaded are frozen
            adapter = f".{model.active_adapter()}."
            for name, weight in model.named_parameters():
                weight.requires_grad_(adapter in name)
        columns: dict[str, Any] = {
            "query": [row["query"] for row in rows],
            "page": [row["page_id"] for row in rows],
        }
        for place in range(self.settings.negatives):
            columns[f"negative_{place + 1}"] = [row["negatives"][place] for row in rows]
        pages = self.dataset.with_pages(columns, [name for name in columns if name != "query"])
        scores = Dataset.from_dict({"scores": [row["teacher"] for row in rows]}, features=SCORES)
        loss: losses.MarginMSELoss | losses.DistillKLDivLoss = losses.MarginMSELoss(model)
        if self.settings.distill_loss == "kl":
            loss = losses.DistillKLDivLoss(
                model, model.similarity_pairwise, student_temperature=TEMPERATURE, teacher_temperature=1.0
            )
        self.log(f"Distilling the reranker's scores of {len(rows):,} queries into the retriever")
        checkpoints = checkpoint_folder(self.out, key, self.log)
        trainer = SentenceTransformerTrainer(
            model=model,
            args=SentenceTransformerTrainingArguments(
                **self._arguments(
                    checkpoints,
                    self.settings.distill_epochs,
                    self.settings.distill_learning_rate,
                    self.settings.batch_size,
                )
            ),
            train_dataset=concatenate_datasets([pages, scores], axis=1),
            loss=loss,
        )
        run_trainer(trainer, checkpoints)
        model.save_pretrained(str(self.out / "distilled"))
        remove_checkpoints(checkpoints)

    # -- parts

    @property
    def shown(self) -> str:
        """The reranker's name as people read it."""
        return f"MiniLM on the read text of a {self.words.page}" if is_embedded(self.name) else self.name

    def _arguments(self, folder: Path, epochs: float, rate: float, batch: int) -> dict[str, Any]:
        return {
            "output_dir": str(folder),
            "num_train_epochs": epochs,
            "per_device_train_batch_size": batch,
            "learning_rate": rate,
            "warmup_ratio": 0.1,
            "seed": self.settings.seed,
            "save_strategy": "steps",
            "save_steps": 0.25,
            "save_total_limit": 1,
            "logging_steps": 5,
            "report_to": "none",
            **{name: self.chosen.recipe.training[name] for name in _MACHINE if name in self.chosen.recipe.training},
        }

    def _reranker(self) -> CrossEncoder:
        return CrossEncoder(str(self.out / "reranker"), **loading(self.chosen.recipe))

    def _documents(self, model: CrossEncoder) -> tuple[Callable[[str], Any], Any]:
        """Pages as the reranker sees them, by page id, and the type of a column of them."""
        kind = self.dataset.kind
        if model.supports(kind.modality):
            return self.dataset.corpus.__getitem__, FEATURES[kind.modality]
        return self._readings.__getitem__, Value("string")

    @cached_property
    def _readings(self) -> dict[str, str]:
        if self.dataset.as_text:
            return self.dataset.texts
        paths = [Path(item["path"]) for item in self.dataset.pages]
        return dict(
            zip(
                self.dataset.page_ids,
                read_page_files(paths, self.dataset.kind, self.chosen.recipe.model.get("language")),
                strict=True,
            )
        )


def load_reranker(
    name: str,
    max_length: int | None = None,
    *,
    model_kwargs: dict[str, Any] | None = None,
    processor_kwargs: dict[str, Any] | None = None,
) -> CrossEncoder:
    """A cross encoder by name: the embedded one, a saved one, or a vision-language model that answers yes or no.

    Args:
        name: `"embedded"`, a directory or a repository.
        max_length: Most tokens of a pair, for the embedded one; others know theirs.
        model_kwargs: For the backbone, such as `dtype`.
        processor_kwargs: For the processor, such as `max_pixels`.

    Raises:
        CheckpointNotFoundError: Neither a directory nor a repository that can be reached.
        CheckpointError: It is a bare vision-language model whose tokenizer lacks the answers.
    """
    if is_embedded(name):
        return CrossEncoder(EMBEDDED, num_labels=1, max_length=max_length)
    folder = files.resolve(name, files.HubOptions())
    saved = (folder / "modules.json").is_file()
    if saved or "vision_config" not in files.read_json(folder / "config.json"):
        return CrossEncoder(
            name,
            num_labels=None if saved else 1,
            model_kwargs=model_kwargs,
            processor_kwargs=processor_kwargs,
        )
    transformer = Transformer(
        name,
        transformer_task="any-to-any",
        processing_kwargs={"chat_template": {"add_generation_prompt": True}},
        model_kwargs=model_kwargs,
        processor_kwargs=processor_kwargs,
    )
    vocabulary = transformer.tokenizer.get_vocab() if transformer.tokenizer is not None else {}
    missing = [answer for answer in ANSWERS if answer not in vocabulary]
    if missing:
        raise CheckpointError(
            f"{name}: expected a tokenizer with the tokens {list(ANSWERS)}, got none for {missing}; "
            "name a vision-language model that answers in words"
        )
    return CrossEncoder(modules=[transformer, LogitScore(*(vocabulary[answer] for answer in ANSWERS))])
