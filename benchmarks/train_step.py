"""Worker: a few training steps on page images with one library, in a process of its own.

Prints one JSON line: loss of every step, seconds of every step, and the process's peak memory in bytes.
"""

import argparse
import importlib
import json
import resource
import tempfile
import time
from pathlib import Path

from support import make_qwen3_vl, page_images


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--library", required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--mini-batch", type=int, default=4)
    parser.add_argument("--activation-memory", type=int, default=0)
    parser.add_argument("--model", default="/tmp/omnitune-benchmark-qwen3-vl-35m")
    options = parser.parse_args()
    library = importlib.import_module(options.library)
    losses = importlib.import_module(f"{options.library}.sentence_transformer.losses")

    from datasets import Dataset, Features, Image, Value
    from transformers import TrainerCallback

    rows = options.batch * options.steps
    pages = page_images(rows)
    features = Features({"query": Value("string"), "page": Image()})
    data = Dataset.from_dict(
        {"query": [f"page {i} of {p.stem}" for i, p in enumerate(pages)], "page": [str(p) for p in pages]}, features
    )
    model = library.SentenceTransformer(str(make_qwen3_vl(Path(options.model))))
    inner = losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=options.mini_batch)
    dim = model.get_embedding_dimension()
    loss = losses.MatryoshkaLoss(model, inner, [dim, dim // 2, dim // 4])
    ours = {"activation_memory": options.activation_memory} if options.library == "omnitune" else {}
    arguments = library.SentenceTransformerTrainingArguments(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=options.batch,
        max_steps=options.steps,
        learning_rate=1e-5,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        seed=1,
        disable_tqdm=True,
        **ours,
    )

    class Clock(TrainerCallback):
        marks: list[float] = []

        def on_step_begin(self, *_args, **_kwargs):
            self.marks.append(-time.perf_counter())

        def on_step_end(self, *_args, **_kwargs):
            self.marks[-1] += time.perf_counter()

    trainer = library.SentenceTransformerTrainer(
        model=model, args=arguments, train_dataset=data, loss=loss, callbacks=[Clock()]
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    trainer.train()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    seen = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    print(json.dumps({"losses": seen, "seconds": Clock.marks, "peak": peak, "before": before}))


if __name__ == "__main__":
    main()
