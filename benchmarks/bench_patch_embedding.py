"""The patch embedding of a Qwen3-VL tower as one matrix product, against the convolution it is: alone, and in a step.

Promise: at least twice as fast alone; the same numbers and gradients to 1e-5 of their size. The step is full finetuning
on pages with all graphs kept, on one model whose layer is exchanged. Times are of the processor.

    python benchmarks/bench_patch_embedding.py [--quick]
"""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from PIL import Image
from support import MODELS, make_qwen3_vl, page_images, quick, report
from torch import nn

from omnitune.modules.patches import PatchProduct


def main() -> None:
    fast = quick("1,600 patches and 4 pages instead of 12,800 and 16")
    alone(fast)
    in_a_step(4 if fast else 16, 2 if fast else 4)


def alternate(calls: Mapping[str, Callable[[], Any]], rounds: int) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Processor seconds of every call, the first left out, and what the last returned."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    results: dict[str, Any] = {}
    for _ in range(rounds + 1):
        for name, call in calls.items():
            start = time.process_time()
            results[name] = call()
            seconds[name].append(time.process_time() - start)
    return {name: taken[1:] for name, taken in seconds.items()}, results


def alone(fast: bool) -> None:
    torch.manual_seed(0)
    convolution = nn.Conv3d(3, 384, (2, 16, 16), stride=(2, 16, 16))
    product = PatchProduct.of(convolution)
    patches = torch.randn(1_600 if fast else 12_800, 3, 2, 16, 16)

    def step(layer: nn.Module) -> tuple[torch.Tensor, ...]:
        out = layer(patches)
        return out.detach(), *torch.autograd.grad(out.square().mean(), list(layer.parameters()))

    calls = {"product": lambda: step(product), "convolution": lambda: step(convolution)}
    seconds, results = alternate(calls, 4 if fast else 6)
    pairs = zip(results["product"], results["convolution"], strict=True)
    worst = max(float((a - b).norm() / b.norm()) for a, b in pairs)
    assert worst < 1e-5, f"numbers differ by {worst} of their size"
    ratios = [b / a for a, b in zip(seconds["product"], seconds["convolution"], strict=True)]
    report(
        f"patch embedding of {len(patches):,} patches, forward and backward",
        ratios,
        "times as fast as the convolution",
        promise=2,
        largest_relative_difference=worst,
        ms={name: round(1e3 * statistics.median(taken), 1) for name, taken in seconds.items()},
    )


def in_a_step(count: int, rounds: int) -> None:
    from omnitune import SentenceTransformer, losses
    from omnitune.types import Column

    model = SentenceTransformer(str(make_qwen3_vl(MODELS / "qwen3-vl-320")), device="cpu").train()
    embed = model[0].model.visual.patch_embed
    product = embed.proj
    size = (product.in_channels, product.out_channels, product.kernel_size)
    convolution = nn.Conv3d(*size, stride=product.stride, bias=product.bias is not None, device="meta")
    convolution.weight, convolution.bias = product.weight, product.bias
    pages = [Image.open(path).convert("RGB") for path in page_images(count)]
    columns = [Column(name="query", items=[f"page {i}" for i in range(count)]), Column(name="page", items=pages)]
    loss = losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=4)

    def step(layer: nn.Module) -> float:
        embed.proj = layer
        model.zero_grad()
        value = loss(columns)
        value.backward()
        return value.item()

    calls = {"product": lambda: step(product), "convolution": lambda: step(convolution)}
    seconds, results = alternate(calls, rounds)
    assert abs(results["product"] - results["convolution"]) < 1e-5 * results["convolution"], f"losses: {results}"
    ratios = [b / a for a, b in zip(seconds["product"], seconds["convolution"], strict=True)]
    report(f"training step on {count} pages, patches by one product", ratios, "times as fast", losses=results)


if __name__ == "__main__":
    main()
