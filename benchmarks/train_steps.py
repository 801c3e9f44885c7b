"""Worker: some training steps with one library, in a process of its own.

Prints one JSON line: loss, seconds and processor seconds of every step, and the process's peak memory in bytes.
"""

import argparse
import importlib
import json
import resource
import tempfile
import time
from typing import Any

from support import MODELS, OURS, make_minilm, make_qwen3_vl, page_images, texts


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--library", required=True)
    parser.add_argument("--data", choices=("pages", "texts"), default="pages")
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--steps", type=int, default=1, help="steps an epoch")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--queries-per-page", type=int, default=1)
    parser.add_argument("--mini-batch", type=int, default=4, help="0 takes the loss that caches nothing")
    parser.add_argument("--mini-batch-tokens", type=int)
    parser.add_argument("--activation-memory", type=int)
    parser.add_argument("--lora", type=int, default=0, help="rank of an adapter on the language model; 0 for none")
    parser.add_argument("--attention", help="the model's attn_implementation")
    parser.add_argument("--pixels", type=int, default=320)
    parser.add_argument("--widths", type=int, default=1, help="pages of so many widths, from --pixels down to a half")
    options = parser.parse_args()
    library = importlib.import_module(options.library)

    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        marks: list[float] = []
        work: list[float] = []

        def on_step_begin(self, *_args, **_kwargs):
            self.marks.append(-time.perf_counter())
            self.work.append(-time.process_time())

        def on_step_end(self, *_args, **_kwargs):
            self.marks[-1] += time.perf_counter()
            self.work[-1] += time.process_time()

    attention = {"attn_implementation": options.attention} if options.attention else {}
    model = library.SentenceTransformer(str(checkpoint(options)), device="cpu", model_kwargs=attention)
    if options.lora:
        add_adapter(model, options.lora)
    ours = {"activation_memory": options.activation_memory} if options.activation_memory is not None else {}
    arguments = library.SentenceTransformerTrainingArguments(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=options.batch,
        num_train_epochs=options.epochs,
        learning_rate=1e-5,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        seed=1,
        disable_tqdm=True,
        **(ours if options.library == OURS else {}),
    )
    trainer = library.SentenceTransformerTrainer(
        model=model, args=arguments, train_dataset=dataset(options), loss=make_loss(model, options), callbacks=[Clock()]
    )
    before = peak()
    trainer.train()
    seen = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    print(
        json.dumps(
            {"losses": seen, "seconds": Clock.marks, "cpu_seconds": Clock.work, "peak": peak(), "before": before}
        )
    )


def peak() -> int:
    """Most bytes that this process held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def checkpoint(options: Any) -> Any:
    if options.data == "texts":
        return make_minilm(MODELS / "minilm")
    return make_qwen3_vl(MODELS / f"qwen3-vl-{options.pixels}", pixels=options.pixels)


def dataset(options: Any) -> Any:
    from datasets import Dataset, Features, Image, Value

    rows = options.batch * options.steps
    if options.data == "texts":
        return Dataset.from_dict({"query": texts(rows, median=8, longest=60), "document": texts(rows, seed=1)})
    count = -(-rows // options.queries_per_page)
    widths = [options.pixels - 32 * round(options.pixels / 64 * n / options.widths) for n in range(options.widths)]
    rendered = [page_images(count, width) for width in widths]
    pages = [rendered[page % len(widths)][page] for page in range(count)]
    features = Features({"query": Value("string"), "page": Image()})
    columns: dict[str, list[str]] = {"query": [], "page": []}
    for row in range(rows):
        page = pages[row // options.queries_per_page]
        columns["query"].append(f"page {row} of {page.stem}")
        columns["page"].append(str(page))
    return Dataset.from_dict(columns, features)


def make_loss(model: Any, options: Any) -> Any:
    losses = importlib.import_module(f"{options.library}.sentence_transformer.losses")
    if not options.mini_batch and not options.mini_batch_tokens:
        return losses.MultipleNegativesRankingLoss(model)
    inner = losses.CachedMultipleNegativesRankingLoss(
        model, mini_batch_size=options.mini_batch, mini_batch_num_tokens=options.mini_batch_tokens
    )
    dim = model.get_embedding_dimension()
    return inner if options.data == "texts" else losses.MatryoshkaLoss(model, inner, [dim, dim // 2, dim // 4])


def add_adapter(model: Any, rank: int) -> None:
    """A LoRA on every projection of the language model; the vision tower has none."""
    import torch
    from peft import LoraConfig

    torch.manual_seed(0)
    model.add_adapter(LoraConfig(r=rank, target_modules=r".*language_model.*\.(q|k|v|o|gate|up|down)_proj"))


if __name__ == "__main__":
    main()
