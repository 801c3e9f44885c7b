"""The MaxSim operator alone, forward and backward: 64 queries of 32 tokens, 128 pages of 512 tokens, 128 dimensions.

Promises: at least 2 times as fast as the rival's scores under autograd, with at most a tenth of its memory. Beside it
the other exact way: the maximum alone in the forward, the winners found again in the backward; and the scores of 10,000
texts of 20 to 300 tokens for one query (search), at least twice as fast. Times are of the processor, so that other work
on it does not count.

    python benchmarks/bench_maxsim.py [--quick] [--rounds 5]
"""

import argparse
import json
import time

from support import OURS, RIVAL, report, run

QUERIES, DOCUMENTS, QUERY_TOKENS, TOKENS, DIM = 64, 128, 32, 512, 128
AGAIN, TEXTS = "again", 10_000


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="two rounds instead of five, 2,000 texts")
    parser.add_argument("--rounds", type=int, default=5, help="processes of each library")
    parser.add_argument("--worker", choices=(OURS, RIVAL, AGAIN))
    parser.add_argument("--texts", type=int, default=0, help="search so many texts instead")
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(search(options.worker, options.texts) if options.texts else step(options.worker)))
        return
    script, rounds = "benchmarks/bench_maxsim.py", 2 if options.quick else options.rounds
    for name, texts in (("loss operator", 0), ("search", 2_000 if options.quick else TEXTS)):
        done = [(run(script, worker=OURS, texts=texts), run(script, worker=RIVAL, texts=texts)) for _ in range(rounds)]
        for ours, theirs in done:
            for key in ("sum", "query_gradient", "document_gradient"):
                assert abs(ours[key] - theirs[key]) <= 1e-4 * abs(theirs[key]), f"{key}: {ours} and {theirs}"
        seconds = [theirs["seconds"] / ours["seconds"] for ours, theirs in done]
        report(f"MaxSim {name}" + (f" over {texts:,} texts" if texts else ""), seconds, "times as fast", promise=2.0)
        if not texts:
            memory = [theirs["bytes"] / ours["bytes"] for ours, theirs in done]
            sizes = {
                name: round(one["bytes"] / 1e6)
                for name, one in zip(("megabytes", "rival_megabytes"), done[0], strict=True)
            }
            report(f"MaxSim {name}, memory", memory, "times less", promise=10.0, **sizes)
            again = [run(script, worker=AGAIN)["seconds"] / ours["seconds"] for ours, _ in done]
            report("MaxSim, winners kept instead of found again in backward", again, "times as fast")


def found_again(queries, documents):  # noqa: ANN001, ANN201
    """The other exact way: `amax` in forward; backward computes the block again for its winners."""
    import torch

    from omnitune.ops import maxsim as module

    class Again(torch.autograd.Function):
        @staticmethod
        def forward(ctx, q, d, blocks, shape):  # noqa: ANN001, ANN205
            ctx.save_for_backward(q, d)
            ctx.blocks = blocks
            maxima = torch.zeros(shape)
            for block in blocks:
                block.put(maxima, block.similarities(q, d).amax(-1))
            return maxima

        @staticmethod
        def backward(ctx, gradient):  # noqa: ANN001, ANN205
            q, d = ctx.saved_tensors
            winners = torch.full(gradient.shape, -1, dtype=torch.int32)
            for block in ctx.blocks:
                best = module._argmax(block.similarities(q, d))
                table = block.document_rows[None].expand(len(best), -1, -1)
                block.put(winners, table.gather(-1, best).squeeze(-1).int())
            won, weights = winners.flatten(), gradient.flatten()
            asking = torch.arange(len(q), dtype=torch.int32).repeat_interleave(winners.shape[1])
            return (module._added(d, won, asking, weights, len(q), True),
                    module._added(q, asking, won, weights, len(d), False), None, None)  # fmt: skip

    blocks = list(module._all_pairs(queries, documents))
    maxima = Again.apply(queries.values, documents.values, blocks, (len(queries.values), len(documents)))
    return torch.segment_reduce(maxima, "sum", lengths=queries.lengths, axis=0, unsafe=True)


def step(library: str) -> dict[str, float]:
    """Sum of the scores, norms of both gradients, seconds of the processor, and bytes over the embeddings."""
    import torch
    from train_steps import peak

    torch.manual_seed(0)
    queries = torch.nn.functional.normalize(torch.randn(QUERIES, QUERY_TOKENS, DIM), dim=-1).requires_grad_()
    documents = torch.nn.functional.normalize(torch.randn(DOCUMENTS, TOKENS, DIM), dim=-1).requires_grad_()
    labels = torch.arange(QUERIES)
    if library == RIVAL:
        from sentence_transformers.multi_vector_encoder.scoring import colbert_scores

        # Its training form: a positive and a negative a query, so column j * 2 + n; the order of documents is ours.
        groups = documents.detach().view(QUERIES, DOCUMENTS // QUERIES, TOKENS, DIM).requires_grad_()

        def scores():  # noqa: ANN202
            return colbert_scores(queries, groups)
    else:
        from omnitune.ops.maxsim import maxsim
        from omnitune.types import Embeddings

        def packed(values):  # noqa: ANN001, ANN202
            return Embeddings(values.flatten(0, 1), offsets=torch.arange(len(values) + 1) * values.shape[1])

        groups, score = documents, maxsim if library == OURS else found_again

        def scores():  # noqa: ANN202
            return score(packed(queries), packed(documents))

    small = torch.randn(64, 64, requires_grad=True)
    (small @ small).sum().backward()  # what the first product of a process allocates is nobody's
    before, seconds = peak(), -time.process_time()
    found = scores()
    torch.nn.functional.cross_entropy(found, labels).backward()
    seconds += time.process_time()
    used = peak() - before
    return {
        "sum": float(found.detach().sum()),
        "query_gradient": float(queries.grad.norm()),
        "document_gradient": float(groups.grad.norm()),
        "seconds": seconds,
        "bytes": used,
    }


def search(library: str, count: int) -> dict[str, float]:
    """Sum of the scores of one query with texts of 20 to 300 tokens, and seconds: best of three."""
    import torch

    torch.manual_seed(0)
    query = [torch.nn.functional.normalize(torch.randn(20, DIM), dim=-1)]
    lengths = torch.randint(20, 301, (count,)).tolist()
    texts = [torch.nn.functional.normalize(torch.randn(length, DIM), dim=-1) for length in lengths]
    if library == OURS:
        from omnitune.ops.token_similarity import maxsim
    else:
        from sentence_transformers.util import maxsim
    best, found = float("inf"), None
    for _ in range(3):
        seconds = -time.process_time()
        found = maxsim(query, texts)
        best = min(best, seconds + time.process_time())
    return {"sum": float(found.sum()), "query_gradient": 0.0, "document_gradient": 0.0, "seconds": best}


if __name__ == "__main__":
    main()
