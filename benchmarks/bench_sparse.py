"""SPLADE beside the rival: training steps, cached steps, encoding, peak memory, and a vocabulary of 250,000.

Random weights, so almost every word of the vocabulary is above zero in every text: the worst case of a head whose
backward goes through active entries alone. Times are of the processor, so that other work on it does not count; peaks
are what a step adds to the process. Losses, gradient norms and vectors are compared.

    python benchmarks/bench_sparse.py [--quick] [--only tiny]
"""

import argparse
import json
import resource
import time
from pathlib import Path

from support import MODELS, OURS, RIVAL, report, run, texts

SCRIPT = "benchmarks/bench_sparse.py"
SHAPES = {"tiny": (2, 128, 30_522), "minilm": (6, 384, 30_522), "wide": (2, 128, 250_000)}
ROWS, MINI_BATCH, LIMIT = 32, 8, 6 << 30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round instead of three")
    parser.add_argument("--only", choices=("step", "cached", "encode", "wide"))
    parser.add_argument("--worker", choices=(OURS, RIVAL))
    parser.add_argument("--task", choices=("step", "cached", "encode"), default="step")
    parser.add_argument("--shape", choices=tuple(SHAPES), default="tiny")
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--limit", type=int, default=0, help="bytes that the process may have; 0 for all")
    options = parser.parse_args()
    if options.worker:
        if options.limit:
            resource.setrlimit(resource.RLIMIT_AS, (options.limit, options.limit))
        print(json.dumps((encode if options.task == "encode" else steps)(options)))
        return
    rounds = 1 if options.quick else 3
    promises = {("step", "tiny"): 2.5, ("step", "minilm"): 1.5, ("cached", "tiny"): 2.5, ("encode", "minilm"): 1.5}
    for task in ("step", "cached", "encode"):
        for shape in ("tiny", "minilm") if options.only in (None, task) else ():
            done = [
                [run(SCRIPT, worker=library, task=task, shape=shape) for library in (OURS, RIVAL)]
                for _ in range(rounds)
            ]
            for ours, theirs in done:
                for key in ("loss", "norm"):
                    assert abs(ours[key] - theirs[key]) < 1e-4 * abs(theirs[key]), f"{key}: {ours} and {theirs}"
            ratios = [theirs["seconds"] / ours["seconds"] for ours, theirs in done]
            report(f"sparse {task}, {shape}", ratios, "times as fast", promise=promises.get((task, shape)))
            peaks = [ours["peak"] / theirs["peak"] for ours, theirs in done]
            megabytes = [round(one["peak"] / 1e6) for one in done[0]]
            report(f"sparse {task}, {shape}: peak memory", peaks, "of the rival's", megabytes=megabytes)
    if options.only in (None, "wide"):
        fits = {}
        for library in (OURS, RIVAL):
            try:
                fits[library] = run(SCRIPT, worker=library, shape="wide", limit=LIMIT)["peak"] / 1e6
            except SystemExit as error:
                fits[library] = str(error).strip().splitlines()[-1][:120]
        print(json.dumps({"metric": f"a step at V=250,000 in {LIMIT >> 30} GB", **fits}), flush=True)


def model_of(options: argparse.Namespace):
    import importlib

    import torch

    torch.set_num_threads(1)
    folder = make_masked(options.shape)
    return importlib.import_module(options.worker).SparseEncoder(str(folder), device="cpu")


def steps(options: argparse.Namespace) -> dict[str, float]:
    """Loss and gradient norm of a step, seconds of the second of two, and bytes that they added."""
    model = model_of(options)
    columns = [texts(options.rows, median=8, longest=20, seed=1), texts(options.rows, median=40, sigma=0.5, seed=2)]
    if options.worker == OURS:
        from omnitune.losses import sparse as losses
        from omnitune.types import Column
    else:
        from sentence_transformers.sparse_encoder import losses
    model.train()
    inner = losses.SparseMultipleNegativesRankingLoss(model)
    if options.task == "cached":
        loss = losses.CachedSpladeLoss(model, inner, 3e-5, 5e-5, mini_batch_size=MINI_BATCH)
    else:
        loss = losses.SpladeLoss(model, inner, 3e-5, 5e-5)
    before = peak()
    for _ in range(2):
        model.zero_grad()
        seconds = -time.process_time()
        if options.worker == OURS:
            given = [Column(name=name, items=items) for name, items in zip(("query", "page"), columns, strict=True)]
        else:
            given = [model.preprocess(items) for items in columns]
        value = sum(loss(given, None).values())
        value.backward()
        seconds += time.process_time()
    norm = sum(float(p.grad.norm()) ** 2 for p in model.parameters() if p.grad is not None) ** 0.5
    return {"loss": float(value.detach()), "norm": norm, "seconds": seconds, "peak": peak() - before}


def encode(options: argparse.Namespace) -> dict[str, float]:
    """Sum and norm of the vectors of 128 texts, and seconds of the second of two passes."""
    model = model_of(options)
    documents = texts(128, median=40, sigma=0.5, seed=2)
    before = peak()
    for _ in range(2):
        seconds = -time.process_time()
        made = model.encode(documents, batch_size=32)
        seconds += time.process_time()
    values = made.coalesce().values()
    return {"loss": float(values.sum()), "norm": float(values.norm()), "seconds": seconds, "peak": peak() - before}


def peak() -> int:
    """Most bytes that this process held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def make_masked(shape: str) -> Path:
    """Write a BERT with a masked-language head, random weights and no dropout."""
    folder = MODELS / f"masked-{shape}"
    if (folder / "config.json").exists():
        return folder
    import torch
    from support import make_minilm
    from transformers import AutoTokenizer, BertConfig, BertForMaskedLM

    layers, hidden, vocabulary = SHAPES[shape]
    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 32,
        intermediate_size=4 * hidden,
        max_position_embeddings=512,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    torch.manual_seed(0)
    BertForMaskedLM(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(make_minilm(MODELS / "minilm")).save_pretrained(folder)
    return folder


if __name__ == "__main__":
    main()
