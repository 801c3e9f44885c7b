"""The patch embedding of a vision tower as the one matrix product that it is."""

from torch import Tensor, nn
from torch.nn import functional as F


class PatchProduct(nn.Conv3d):
    """A convolution that meets patches of its kernel's own size: one product of the patches with the weights.

    Towers of the Qwen family cut patches before they embed them, so nothing is left to slide over. Convolution kernels
    pay for sliding all the same, most of all in backward: 9% of a training step on pages, measured by
    `benchmarks/bench_patch_embedding.py`. Weights, names and results are those of the convolution, up to the order
    in which numbers are added.
    """

    @classmethod
    def of(cls, convolution: nn.Conv3d) -> "PatchProduct":
        """The same convolution, with the same parameters."""
        size = (convolution.in_channels, convolution.out_channels, convolution.kernel_size)
        made = cls(*size, stride=convolution.stride, bias=convolution.bias is not None, device="meta")  # type: ignore[arg-type]  # a tuple of three
        made.weight, made.bias = convolution.weight, convolution.bias
        return made.train(convolution.training)

    def forward(self, input: Tensor) -> Tensor:
        """Convolve `(patches, channels, frames, height, width)`; anything larger than one patch as ever."""
        if input.shape[1:] != self.weight.shape[1:]:
            return super().forward(input)
        return F.linear(input.flatten(1), self.weight.flatten(1), self.bias)[:, :, None, None, None]


def embed_patches_by_product(model: nn.Module) -> None:
    """Replace every convolution of `model` that cuts its input into patches; one with hooks of its own stays."""
    for part in list(model.modules()):
        for name, child in list(part.named_children()):
            if type(child) is not nn.Conv3d or hasattr(child, "_hf_hook") or child.stride != child.kernel_size:
                continue
            plain = (child.groups, child.dilation, child.padding, child.padding_mode)
            if plain == (1, (1, 1, 1), (0, 0, 0), "zeros"):
                setattr(part, name, PatchProduct.of(child))
