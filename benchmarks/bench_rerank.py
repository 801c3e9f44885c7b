"""Reranking by a language model's answer: all pairs in one plan, and two logits instead of a vocabulary.

Both libraries score the same pairs (24 queries of 16 documents, lognormal lengths) and take training steps with the
same model: a Qwen3 of random weights with the vocabulary of the real one. Scores and losses must agree.

    python benchmarks/bench_rerank.py [--quick]
"""

import argparse
import random
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from support import report

VOCABULARY = 151_936
ANSWERS = (3869, 912)


def checkpoint(folder: Path) -> str:
    """A Qwen3 with random weights and a byte-level tokenizer."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={"<pad>": 0, **{c: i + 1 for i, c in enumerate(alphabet)}}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", model_max_length=512)
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCABULARY, hidden_size=256, intermediate_size=512, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, head_dim=64, max_position_embeddings=512, pad_token_id=0, tie_word_embeddings=True,
    )  # fmt: skip
    Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def encoders(path: str) -> dict[str, Any]:
    """The same cross encoder in both libraries."""
    from sentence_transformers import CrossEncoder as Rival
    from sentence_transformers.base.modules import Transformer as TheirTransformer
    from sentence_transformers.cross_encoder.modules import LogitScore as TheirScore

    from omnitune import CrossEncoder
    from omnitune.modules import LogitScore, Transformer

    task = {"transformer_task": "text-generation"}
    return {
        "ours": CrossEncoder(modules=[Transformer(path, **task), LogitScore(*ANSWERS)], device="cpu"),
        "theirs": Rival(modules=[TheirTransformer(path, **task), TheirScore(*ANSWERS)], device="cpu"),
    }


def main() -> None:
    """Time both, alternating."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="6 queries instead of 24")
    queries, runs = (6, 3) if parser.parse_args().quick else (24, 5)
    warnings.simplefilter("ignore")
    from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss as TheirLoss

    from omnitune.cross_encoder.losses import BinaryCrossEntropyLoss

    draw = random.Random(0)
    words = ["valve", "pump", "bearing", "oil", "torque", "the", "of", "is"]

    def text() -> str:
        return " ".join(draw.choices(words, k=max(1, min(60, round(draw.lognormvariate(2.0, 0.8))))))

    pairs = [(query, text()) for query in (text() for _ in range(queries)) for _ in range(16)]
    with tempfile.TemporaryDirectory() as folder:
        models = encoders(checkpoint(Path(folder)))
    seconds: dict[str, dict[str, list[float]]] = {what: {n: [] for n in models} for what in ("predict", "step")}
    losses = {"ours": BinaryCrossEntropyLoss(models["ours"]), "theirs": TheirLoss(models["theirs"])}
    batch, labels = [list(column) for column in zip(*pairs[:16], strict=True)], torch.tensor([1.0] + [0.0] * 15)
    found: dict[str, dict[str, Any]] = {"predict": {}, "step": {}}
    for run in range(runs + 1):
        for name, model in models.items():
            start = time.perf_counter()
            found["predict"][name] = torch.as_tensor(model.predict(pairs))
            middle = time.perf_counter()
            model.zero_grad(set_to_none=True)
            loss = losses[name](batch, labels)
            loss.backward()
            found["step"][name] = loss.detach()
            if run:  # the first is for warming up
                seconds["predict"][name].append(middle - start)
                seconds["step"][name].append(time.perf_counter() - middle)
    for what, label in (("predict", f"predict, {len(pairs)} pairs"), ("step", "training step, 16 pairs")):
        torch.testing.assert_close(found[what]["ours"], found[what]["theirs"], atol=1e-5, rtol=1e-5)
        times = seconds[what]
        ratios = [b / a for a, b in zip(times["ours"], times["theirs"], strict=True)]
        report(f"reranker of {VOCABULARY:,} tokens, {label}", ratios, "times faster than the rival",
               seconds={name: round(min(values), 3) for name, values in times.items()})  # fmt: skip


if __name__ == "__main__":
    main()
