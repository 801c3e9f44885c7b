"""The patch embedding of a Qwen3-VL tower, forward and backward: one matrix product against the convolution it is.

Promise: at least twice as fast; the same numbers and gradients to 1e-5 of their size.

    python benchmarks/bench_patch_embedding.py [--quick]
"""

import statistics

import torch
from support import alternate, quick, report
from torch import nn

from omnitune.modules.patches import PatchProduct


def main() -> None:
    fast = quick("1,600 patches (4 pages of 320x320) instead of 12,800")
    torch.manual_seed(0)
    convolution = nn.Conv3d(3, 384, (2, 16, 16), stride=(2, 16, 16))
    product = PatchProduct.of(convolution)
    patches = torch.randn(1_600 if fast else 12_800, 3, 2, 16, 16)

    def step(layer: nn.Module) -> tuple[torch.Tensor, ...]:
        out = layer(patches)
        return out.detach(), *torch.autograd.grad(out.square().mean(), list(layer.parameters()))

    calls = {"product": lambda: step(product), "convolution": lambda: step(convolution)}
    seconds, results = alternate(calls, 4 if fast else 6)
    pairs = list(zip(results["product"][0], results["convolution"][0], strict=True))
    worst = max(float((a - b).norm() / b.norm()) for a, b in pairs)
    assert worst < 1e-5, f"numbers differ by {worst} of their size"
    ratios = [b / a for a, b in zip(seconds["product"][1:], seconds["convolution"][1:], strict=True)]
    report(
        f"patch embedding of {len(patches):,} patches, forward and backward",
        ratios,
        "times as fast as the convolution",
        promise=2,
        largest_relative_difference=worst,
        ms={name: round(1e3 * statistics.median(taken[1:]), 1) for name, taken in seconds.items()},
    )


if __name__ == "__main__":
    main()
