"""Finetune a sparse encoder (SPLADE) to find pages by their headings, as an ST script would.

Replace `omnitune` by `sentence_transformers` in this file and it runs there too, with the same losses and metrics.
Queries are headings of the PDFs' pages, documents the texts of the pages; every fifth page is held out and looked for
among all of them.

    python examples/st_sparse_script.py --documents examples/documents --out runs/sparse
"""

import argparse
import json
from pathlib import Path

import pypdfium2
import torch
from datasets import Dataset

from omnitune import SparseEncoder, SparseEncoderModelCardData, SparseEncoderTrainer, SparseEncoderTrainingArguments
from omnitune.sparse_encoder.evaluation import SparseInformationRetrievalEvaluator
from omnitune.sparse_encoder.losses import SparseMultipleNegativesRankingLoss, SpladeLoss


def read_pages(folder, pages_each):
    """Some pages of every PDF, evenly spaced: heading and text."""
    pages = []
    for path in sorted(Path(folder).glob("*.pdf")):
        document = pypdfium2.PdfDocument(path)
        step = max(len(document) // pages_each, 1)
        for number in range(step // 2, len(document), step):
            lines = document[number].get_textpage().get_text_bounded().splitlines()
            headings = [line.strip() for line in lines if 3 <= len(line.split()) <= 12]
            if headings:
                pages.append({"heading": headings[0], "text": " ".join(line for line in lines if line != headings[0])})
        document.close()
    return pages


def make_evaluator(pages, held_out, batch_size):
    """Search for the page of every held-out heading among all pages."""
    return SparseInformationRetrievalEvaluator(
        queries={str(i): pages[i]["heading"] for i in held_out},
        corpus={str(i): page["text"] for i, page in enumerate(pages)},
        relevant_docs={str(i): {str(i)} for i in held_out},
        name="pages",
        batch_size=batch_size,
        write_csv=False,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="distilbert/distilbert-base-uncased")
    parser.add_argument("--documents", default="examples/documents")
    parser.add_argument("--out", default="runs/sparse")
    parser.add_argument("--pages-each", type=int, default=100, help="pages taken from every PDF")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--learning-rate", type=float, default=2e-5)
    parser.add_argument("--seed", type=int, default=12)
    options = parser.parse_args()
    gpu = torch.cuda.is_available()
    torch.manual_seed(options.seed)

    # 1. A masked-language model; SPLADE's pooling is added.
    model = SparseEncoder(
        options.model,
        model_card_data=SparseEncoderModelCardData(language="en", license="apache-2.0", model_name="Pages, sparse"),
    )

    # 2. Headings and the texts of their pages; every fifth page is held out.
    pages = read_pages(options.documents, options.pages_each)
    held_out = [i for i in range(len(pages)) if i % 5 == 0]
    rows = [page for i, page in enumerate(pages) if i % 5]
    train_dataset = Dataset.from_dict({key: [page[key] for page in rows] for key in ("heading", "text")})
    print(len(train_dataset), "pairs to train on")

    # 3. A page against the others of the batch, and what keeps vectors sparse.
    loss = SpladeLoss(
        model,
        SparseMultipleNegativesRankingLoss(model),
        document_regularizer_weight=3e-3,
        query_regularizer_weight=5e-3,
    )

    # 4. How to train, and how to tell whether it helped.
    args = SparseEncoderTrainingArguments(
        output_dir=options.out,
        num_train_epochs=options.epochs,
        per_device_train_batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        warmup_ratio=0.1,
        bf16=gpu,
        eval_strategy="steps",
        eval_steps=0.5,
        save_strategy="no",
        logging_steps=1,
        report_to="none",
        dataloader_pin_memory=gpu,
        seed=options.seed,
    )
    evaluator = make_evaluator(pages, held_out, options.batch_size)
    before = evaluator(model)

    # 5. Train, evaluate, save.
    trainer = SparseEncoderTrainer(model=model, args=args, train_dataset=train_dataset, loss=loss, evaluator=evaluator)
    trainer.train()
    trainer.save_state()
    after = evaluator(model)
    model.save_pretrained(str(Path(options.out) / "final"))
    metrics = {"before": before, "after": after}
    (Path(options.out) / "metrics.json").write_text(json.dumps(metrics, indent=2, default=float))
    for key in ("pages_dot_ndcg@10", "pages_query_active_dims", "pages_corpus_active_dims"):
        print(f"{key}: {before[key]:.3f} before, {after[key]:.3f} after")


if __name__ == "__main__":
    main()
