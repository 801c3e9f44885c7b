"""Finetune a late-interaction encoder on the words of pages, as a script for Sentence Transformers would.

Replace `omnitune` by `sentence_transformers` in this file and it runs there too, with the same losses and metrics.
Queries are headings of pages of the PDFs, hard negatives are the pages that share most words with theirs, and every
fifth page is held out. The default model runs on a CPU; `--model` takes any other late-interaction checkpoint.

    python examples/st_late_script.py --documents examples/documents --out runs/late
"""

import argparse
import json
from pathlib import Path

import pypdfium2
import torch
from datasets import Dataset

from omnitune import (
    MultiVectorEncoder,
    MultiVectorEncoderModelCardData,
    MultiVectorEncoderTrainer,
    MultiVectorEncoderTrainingArguments,
)
from omnitune.base.evaluation import SequentialEvaluator
from omnitune.multi_vector_encoder.evaluation import (
    MultiVectorInformationRetrievalEvaluator,
    MultiVectorTripletEvaluator,
)
from omnitune.multi_vector_encoder.losses import CachedMultiVectorMultipleNegativesRankingLoss
from omnitune.multi_vector_encoder.modules import HierarchicalTokenPooling
from omnitune.training_args import BatchSamplers


def read_pages(folder, pages_each):
    """Some pages of every PDF, evenly spaced: heading, and the text below it."""
    pages = []
    for path in sorted(Path(folder).glob("*.pdf")):
        document = pypdfium2.PdfDocument(path)
        step = max(len(document) // pages_each, 1)
        for number in range(step // 2, len(document), step):
            lines = document[number].get_textpage().get_text_bounded().splitlines()
            headings = [line.strip() for line in lines if 3 <= len(line.split()) <= 12]
            rest = " ".join(line.strip() for line in lines if not headings or line.strip() != headings[0])
            if headings and len(rest.split()) > 30:
                pages.append({"heading": headings[0], "text": rest})
        document.close()
    return pages


def with_hard_negatives(pages):
    """Rows of query, its page, and the page that shares most words with it and has another heading."""
    words = [{word.lower() for word in page["text"].split() if len(word) > 3} for page in pages]
    rows = []
    for page, own in zip(pages, words, strict=True):
        hardest = max(
            (i for i, other in enumerate(pages) if other["heading"] != page["heading"]),
            key=lambda i: len(own & words[i]) / len(own | words[i]),
        )
        rows.append({"query": page["heading"], "page": page["text"], "negative": pages[hardest]["text"]})
    return Dataset.from_list(rows)


def make_evaluator(dataset, batch_size):
    """Retrieval among the pages and their hard negatives, and which of the two a query is closer to."""
    queries = {f"q{i}": row["query"] for i, row in enumerate(dataset)}
    corpus = {f"page{i}": row["page"] for i, row in enumerate(dataset)}
    corpus |= {f"negative{i}": row["negative"] for i, row in enumerate(dataset)}
    relevant = {f"q{i}": {f"page{i}"} for i in range(len(dataset))}
    options = {"name": "pages", "batch_size": batch_size, "write_csv": False}
    return SequentialEvaluator(
        [
            MultiVectorInformationRetrievalEvaluator(queries, corpus, relevant, **options),
            MultiVectorTripletEvaluator(
                list(dataset["query"]), list(dataset["page"]), list(dataset["negative"]), **options
            ),
        ],
        main_score_function=lambda scores: scores[0],
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="lightonai/GTE-ModernColBERT-v1")
    parser.add_argument("--documents", default="examples/documents")
    parser.add_argument("--out", default="runs/late")
    parser.add_argument("--pages-each", type=int, default=60, help="pages taken from every PDF")
    parser.add_argument("--query-length", type=int, default=32)
    parser.add_argument("--document-length", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--mini-batch-size", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--learning-rate", type=float, default=1e-5)
    parser.add_argument("--pool-factor", type=float, default=2.0, help="tokens of a page that become one in the end")
    options = parser.parse_args()
    gpu = torch.cuda.is_available()

    # 1. A model with a vector a token.
    model = MultiVectorEncoder(
        options.model,
        model_card_data=MultiVectorEncoderModelCardData(language="en", license="apache-2.0", model_name="Pages, late"),
    )

    # 2. Triplets of query, page and hard negative; every fifth page is held out.
    pages = read_pages(options.documents, options.pages_each)
    train_dataset = with_hard_negatives([page for i, page in enumerate(pages) if i % 5])
    eval_dataset = with_hard_negatives([page for i, page in enumerate(pages) if i % 5 == 0])
    print(f"{len(train_dataset)} pages to train on, {len(eval_dataset)} held out")

    # 3. In-batch negatives with gradient caching.
    loss = CachedMultiVectorMultipleNegativesRankingLoss(model, mini_batch_size=options.mini_batch_size)

    # 4. How to train, and how to tell whether it helped.
    args = MultiVectorEncoderTrainingArguments(
        output_dir=options.out,
        num_train_epochs=options.epochs,
        per_device_train_batch_size=options.batch_size,
        per_device_eval_batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        warmup_ratio=0.1,
        max_grad_norm=30.0,
        bf16=gpu,
        batch_sampler=BatchSamplers.NO_DUPLICATES,
        max_length={"query": options.query_length, "document": options.document_length},
        eval_strategy="steps",
        eval_steps=0.5,
        save_strategy="steps",
        save_steps=0.5,
        save_total_limit=2,
        logging_steps=1,
        report_to="none",
        dataloader_pin_memory=gpu,
        seed=12,
    )
    evaluator = make_evaluator(eval_dataset, options.mini_batch_size)
    before = evaluator(model)

    # 5. Train, evaluate, save.
    trainer = MultiVectorEncoderTrainer(
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

    # 6. What half of the vectors are worth.
    pooling = HierarchicalTokenPooling(options.pool_factor)
    queries = model.encode_query(list(eval_dataset["query"]))
    whole = model.encode_document(list(eval_dataset["page"]))
    pooled = model.encode_document(list(eval_dataset["page"]), token_pooling=pooling)
    for name, vectors in (("whole", whole), ("pooled", pooled)):
        right = model.similarity(queries, vectors).argmax(dim=1).cpu() == torch.arange(len(queries))
        metrics[name] = {"vectors": sum(map(len, vectors)), "accuracy@1": float(right.float().mean())}
    (Path(options.out) / "metrics.json").write_text(json.dumps(metrics, indent=2, default=float))
    key = next(key for key in after if key.endswith("ndcg@10"))
    print(f"NDCG@10 {before[key]:.3f} before, {after[key]:.3f} after; pooled {metrics['pooled']}")


if __name__ == "__main__":
    main()
