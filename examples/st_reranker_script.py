"""Finetune a vision-language model to rerank pages for headings and headings for pages, as an ST script would.

Replace `omnitune` by `sentence_transformers` in this file and it runs there too, with the same losses and metrics.
The model answers "1" or "0"; the score is the difference of the two logits. Positives are a page of the PDFs and its
heading, negatives are the pages most like it, and every fifth page is held out. A GPU with 24 GB takes the default
model; `--model` takes any other vision-language model of the Qwen family, or a directory.

    python examples/st_reranker_script.py --documents examples/documents --out runs/reranker
"""

import argparse
import json
from pathlib import Path

import pypdfium2
import torch
from datasets import Dataset

from omnitune import CrossEncoder, CrossEncoderModelCardData, CrossEncoderTrainer, CrossEncoderTrainingArguments
from omnitune.base.evaluation import SequentialEvaluator
from omnitune.base.modules import Transformer
from omnitune.cross_encoder.evaluation import CrossEncoderRerankingEvaluator
from omnitune.cross_encoder.losses import BinaryCrossEntropyLoss
from omnitune.cross_encoder.modules import LogitScore

PROMPTS = {
    "text_to_image": "Judge whether the page belongs to the heading. Answer 1 for yes and 0 for no.",
    "image_to_text": "Judge whether the heading belongs to the page. Answer 1 for yes and 0 for no.",
}

TEMPLATE = """\
{%- for message in messages -%}
{%- if message.role == 'system' -%}<|im_start|>system
{% for part in message.content %}{{ part.text }}{% endfor %}<|im_end|>
<|im_start|>user
{% else -%}
<{{ message.role | capitalize }}>: {% for part in message.content -%}
{%- if part.type == 'image' -%}<|vision_start|><|image_pad|><|vision_end|>{%- else -%}{{ part.text }}{%- endif -%}
{%- endfor %}
{% endif -%}
{%- endfor -%}<|im_end|>
{% if add_generation_prompt -%}<|im_start|>assistant
{% endif -%}"""
"""How a pair is shown to the model: the roles "query" and "document" are those of cross encoders."""


def read_pages(folder, pages_each, width):
    """Some pages of every PDF, evenly spaced: image, heading, words."""
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
                pages.append({"image": image, "heading": headings[0], "words": words})
        document.close()
    return pages


def with_negatives(pages, count):
    """Each page with the pages that share most words with it and have another heading."""
    rows = []
    for page in pages:
        others = [other for other in pages if other is not page and other["heading"] != page["heading"]]
        others.sort(key=lambda other: -len(page["words"] & other["words"]) / len(page["words"] | other["words"]))
        rows.append((page, others[:count]))
    return rows


def make_datasets(rows):
    """Pairs and labels, a dataset for each direction."""
    forth, back = [], []
    for page, negatives in rows:
        for other, label in [(page, 1.0), *((negative, 0.0) for negative in negatives)]:
            forth.append({"query": page["heading"], "document": other["image"], "label": label})
            back.append({"query": page["image"], "document": other["heading"], "label": label})
    return {"text_to_image": Dataset.from_list(forth), "image_to_text": Dataset.from_list(back)}


def make_evaluator(rows, batch_size):
    """Reranking of each held-out page or heading among the most similar ones, in both directions."""
    parts = {"text_to_image": ("heading", "image"), "image_to_text": ("image", "heading")}
    return SequentialEvaluator(
        [
            CrossEncoderRerankingEvaluator(
                [
                    {"query": page[query], "positive": [page[document]], "negative": [n[document] for n in negatives]}
                    for page, negatives in rows
                ],
                name=direction,
                prompt_name=direction,
                batch_size=batch_size,
                write_csv=False,
            )
            for direction, (query, document) in parts.items()
        ],
        main_score_function=lambda scores: scores[0],
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="Qwen/Qwen3-VL-2B-Instruct")
    parser.add_argument("--documents", default="examples/documents")
    parser.add_argument("--out", default="runs/reranker")
    parser.add_argument("--pages-each", type=int, default=60, help="pages taken from every PDF")
    parser.add_argument("--width", type=int, default=800, help="pixels across a rendered page")
    parser.add_argument("--max-pixels", type=int, default=600 * 600)
    parser.add_argument("--negatives", type=int, default=4, help="negatives a positive")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--learning-rate", type=float, default=1e-5)
    parser.add_argument("--seed", type=int, default=12)
    options = parser.parse_args()
    gpu = torch.cuda.is_available()
    torch.manual_seed(options.seed)

    # 1. A model that answers, with its images limited to what the memory holds, and the score of its answer.
    transformer = Transformer(
        options.model,
        transformer_task="any-to-any",
        model_kwargs={"dtype": "bfloat16" if gpu else "float32"},
        processor_kwargs={"min_pixels": 28 * 28, "max_pixels": options.max_pixels, "chat_template": TEMPLATE},
        processing_kwargs={"chat_template": {"add_generation_prompt": True}},
    )
    yes, no = (transformer.tokenizer.convert_tokens_to_ids(answer) for answer in "10")
    model = CrossEncoder(
        modules=[transformer, LogitScore(true_token_id=yes, false_token_id=no)],
        prompts=PROMPTS,
        model_card_data=CrossEncoderModelCardData(language="en", license="apache-2.0", model_name="Pages, reranked"),
    )

    # 2. Pairs with labels in both directions; every fifth page is held out.
    pages = read_pages(options.documents, options.pages_each, options.width)
    train_rows = with_negatives([page for i, page in enumerate(pages) if i % 5], options.negatives)
    eval_rows = with_negatives([page for i, page in enumerate(pages) if i % 5 == 0], options.negatives)
    train_datasets, eval_datasets = make_datasets(train_rows), make_datasets(eval_rows)
    print({name: len(dataset) for name, dataset in train_datasets.items()}, "pairs to train on")

    # 3. Is it relevant or not; positives weigh as much as their negatives together.
    loss = BinaryCrossEntropyLoss(model, pos_weight=torch.tensor(float(options.negatives)))

    # 4. How to train, and how to tell whether it helped.
    args = CrossEncoderTrainingArguments(
        output_dir=options.out,
        num_train_epochs=options.epochs,
        per_device_train_batch_size=options.batch_size,
        per_device_eval_batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        warmup_ratio=0.1,
        bf16=gpu,
        prompts=PROMPTS,
        eval_strategy="steps",
        eval_steps=0.5,
        save_strategy="steps",
        save_steps=0.5,
        save_total_limit=2,
        logging_steps=1,
        report_to="none",
        dataloader_pin_memory=gpu,
        seed=options.seed,
    )
    evaluator = make_evaluator(eval_rows, options.batch_size)
    before = evaluator(model)

    # 5. Train, evaluate, save.
    trainer = CrossEncoderTrainer(
        model=model,
        args=args,
        train_dataset=train_datasets,
        eval_dataset=eval_datasets,
        loss=loss,
        evaluator=evaluator,
    )
    trainer.train()
    trainer.save_state()
    after = evaluator(model)
    model.save_pretrained(str(Path(options.out) / "final"))
    metrics = {"before": before, "after": after}
    (Path(options.out) / "metrics.json").write_text(json.dumps(metrics, indent=2, default=float))
    for direction in PROMPTS:
        key = f"{direction}_ndcg@10"
        print(f"{direction}: NDCG@10 {before[key]:.3f} before, {after[key]:.3f} after")


if __name__ == "__main__":
    main()
