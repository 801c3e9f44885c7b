"""Finetune a vision-language embedder for visual document retrieval, as a script for Sentence Transformers would.

Replace `omnitune` by `sentence_transformers` in this file and it runs there too, with the same losses and metrics.
Queries are headings of pages of the PDFs, hard negatives are the pages most like theirs, and every fifth page is held
out. A GPU with 24 GB takes the default model; `--model` takes any other vision-language model or directory.

    python examples/st_vdr_script.py --documents examples/documents --out runs/vdr
"""

import argparse
import json
from pathlib import Path

import pypdfium2
import torch
from datasets import Dataset

from omnitune import (
    SentenceTransformer,
    SentenceTransformerModelCardData,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from omnitune.sentence_transformer.evaluation import InformationRetrievalEvaluator, SequentialEvaluator
from omnitune.sentence_transformer.losses import CachedMultipleNegativesRankingLoss, MatryoshkaLoss
from omnitune.training_args import BatchSamplers

INSTRUCTION = "Retrieve the page of a manual that the heading belongs to."


def read_pages(folder, pages_each, width):
    """Some pages of every PDF, evenly spaced: image, heading, words, document."""
    pages = []
    for path in sorted(Path(folder).glob("*.pdf")):
        document = pypdfium2.PdfDocument(path)
        step = max(len(document) // pages_each, 1)
        for number in range(step // 2, len(document), step):
            page = document[number]
            lines = page.get_textpage().get_text_bounded().splitlines()
            headings = [line.strip() for line in lines if 3 <= len(line.split()) <= 12]
            if headings:
                image = page.render(scale=width / page.get_width()).to_pil().convert("RGB")
                words = {word.lower() for line in lines for word in line.split() if len(word) > 3}
                pages.append({"document": path.name, "image": image, "heading": headings[0], "words": words})
        document.close()
    return pages


def with_hard_negatives(pages):
    """Rows of query, its page, and the page that shares most words with it and is not the same."""
    rows = []
    for page in pages:
        others = [other for other in pages if other is not page and other["heading"] != page["heading"]]
        hardest = max(
            others, key=lambda other: len(page["words"] & other["words"]) / len(page["words"] | other["words"])
        )
        rows.append({"query": page["heading"], "image": page["image"], "negative": hardest["image"]})
    return Dataset.from_list(rows)


def make_evaluator(dataset, dims, batch_size):
    """Retrieval among the pages and their hard negatives, at every dimension."""
    queries = {f"q{i}": row["query"] for i, row in enumerate(dataset)}
    corpus = {f"page{i}": row["image"] for i, row in enumerate(dataset)}
    corpus |= {f"negative{i}": row["negative"] for i, row in enumerate(dataset)}
    relevant = {f"q{i}": {f"page{i}"} for i in range(len(dataset))}
    return SequentialEvaluator(
        [
            InformationRetrievalEvaluator(
                queries, corpus, relevant, name=f"vdr-{dim}", truncate_dim=dim, batch_size=batch_size, write_csv=False
            )
            for dim in dims
        ],
        main_score_function=lambda scores: scores[0],
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="Qwen/Qwen3-VL-Embedding-2B")
    parser.add_argument("--documents", default="examples/documents")
    parser.add_argument("--out", default="runs/vdr")
    parser.add_argument("--pages-each", type=int, default=120, help="pages taken from every PDF")
    parser.add_argument("--width", type=int, default=800, help="pixels across a rendered page")
    parser.add_argument("--max-pixels", type=int, default=600 * 600)
    parser.add_argument("--dims", type=int, nargs="+", default=[2048, 1536, 1024, 512, 256, 128, 64])
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--mini-batch-size", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--learning-rate", type=float, default=2e-5)
    options = parser.parse_args()
    gpu = torch.cuda.is_available()

    # 1. A model, with its images limited to what the memory holds.
    model = SentenceTransformer(
        options.model,
        prompts={"query": INSTRUCTION},
        model_kwargs={"dtype": "bfloat16" if gpu else "float32"},
        processor_kwargs={"min_pixels": 28 * 28, "max_pixels": options.max_pixels},
        model_card_data=SentenceTransformerModelCardData(language="en", license="apache-2.0", model_name="Pages"),
    )

    # 2. Triplets of query, page and hard negative; every fifth page is held out.
    pages = read_pages(options.documents, options.pages_each, options.width)
    train_dataset = with_hard_negatives([page for i, page in enumerate(pages) if i % 5])
    eval_dataset = with_hard_negatives([page for i, page in enumerate(pages) if i % 5 == 0])
    print(f"{len(train_dataset)} pages to train on, {len(eval_dataset)} held out")

    # 3. In-batch negatives with gradient caching, at every dimension.
    loss = CachedMultipleNegativesRankingLoss(model, mini_batch_size=options.mini_batch_size)
    loss = MatryoshkaLoss(model, loss, matryoshka_dims=options.dims)

    # 4. How to train, and how to tell whether it helped.
    args = SentenceTransformerTrainingArguments(
        output_dir=options.out,
        num_train_epochs=options.epochs,
        per_device_train_batch_size=options.batch_size,
        per_device_eval_batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        warmup_ratio=0.1,
        bf16=gpu,
        batch_sampler=BatchSamplers.NO_DUPLICATES,
        prompts={"query": INSTRUCTION},
        eval_strategy="steps",
        eval_steps=0.25,
        save_strategy="steps",
        save_steps=0.25,
        save_total_limit=2,
        logging_steps=1,
        report_to="none",
        dataloader_pin_memory=gpu,
        seed=12,
    )
    evaluator = make_evaluator(eval_dataset, options.dims, options.mini_batch_size)
    before = evaluator(model)

    # 5. Train, evaluate, save.
    trainer = SentenceTransformerTrainer(
        model=model,
        args=args,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        loss=loss,
        evaluator=evaluator,
    )
    trainer.train()
    trainer.save_state()
    after = evaluator(model)
    model.save_pretrained(str(Path(options.out) / "final"))
    metrics = {"before": before, "after": after}
    (Path(options.out) / "metrics.json").write_text(json.dumps(metrics, indent=2, default=float))
    for dim in options.dims:
        key = f"vdr-{dim}_cosine_ndcg@10"
        print(f"{dim:5d} dimensions: NDCG@10 {before[key]:.3f} before, {after[key]:.3f} after")


if __name__ == "__main__":
    main()
