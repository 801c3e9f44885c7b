"""One vector a row out of its tokens' vectors."""

import functools
from pathlib import Path
from typing import Any, ClassVar, Literal, cast, get_args

import torch
from torch import Tensor

from omnitune.errors import InputError
from omnitune.modules import files
from omnitune.modules.base import Module
from omnitune.renames import Function, deprecated, renamed
from omnitune.types import Features

PoolingMode = Literal["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]
"""Names of the modes; each is a branch of `Pooling.forward`."""

LEGACY_KEYS: dict[str, PoolingMode] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""Keys of the older configuration, of the modes that it knows, in the order in which their vectors are joined."""


def _by_flags(function: Function) -> Function:
    """Let the constructor take `pooling_mode` as the flags that it once was: `pooling_mode_mean_tokens=True`."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if flags := {key: bool(kwargs.pop(key)) for key in LEGACY_KEYS if key in kwargs}:
            deprecated(f"Pooling({', '.join(flags)})", "pooling_mode")
            kwargs.setdefault(
                "pooling_mode", tuple(LEGACY_KEYS[key] for key in LEGACY_KEYS if flags.get(key)) or "mean"
            )
        return function(*args, **kwargs)

    return cast(Function, call)


class Pooling(Module):
    """Pools `token_embeddings` into `sentence_embedding`; padding may be on either side.

    Args:
        embedding_dimension: Dimension of a token's vector.
        pooling_mode: One of `POOLING_MODES`, or several, whose vectors are joined in that order.
        include_prompt: Whether the prompt's tokens count.

    Raises:
        InputError: No mode has that name.

    Example:
        >>> both = SentenceTransformer(modules=[model[0], Pooling(384, ("cls", "mean"))])
        >>> both.encode(pages).shape
        (2, 768)
    """

    POOLING_MODES: ClassVar[tuple[PoolingMode, ...]] = get_args(PoolingMode)
    config_keys: ClassVar[list[str]] = ["embedding_dimension", "pooling_mode", "include_prompt"]
    config_key_renames: ClassVar[dict[str, str]] = {"word_embedding_dimension": "embedding_dimension"}

    @renamed(word_embedding_dimension="embedding_dimension")
    @_by_flags
    def __init__(
        self,
        embedding_dimension: int,
        pooling_mode: PoolingMode | tuple[PoolingMode, ...] | list[PoolingMode] = "mean",
        include_prompt: bool = True,
    ) -> None:
        super().__init__()
        modes = (pooling_mode,) if isinstance(pooling_mode, str) else tuple(pooling_mode)
        unknown = [mode for mode in modes if mode not in self.POOLING_MODES]
        if unknown or not modes:
            raise InputError(f"pooling_mode: expected one or more of {self.POOLING_MODES}, got {pooling_mode!r}")
        self.embedding_dimension = embedding_dimension
        self.pooling_mode: PoolingMode | tuple[PoolingMode, ...] = modes[0] if len(modes) == 1 else modes
        self.include_prompt = include_prompt
        self.pooling_output_dimension = len(modes) * embedding_dimension

    @property
    def modes(self) -> tuple[PoolingMode, ...]:
        """The modes, also where there is one."""
        return (self.pooling_mode,) if isinstance(self.pooling_mode, str) else self.pooling_mode

    def forward(self, features: Features) -> Features:  # type: ignore[override]  # no extra arguments
        """Features with `sentence_embedding` `(rows, modes * dim)`.

        Args:
            features: `token_embeddings` `(rows, tokens, dim)`; `attention_mask` `(rows, tokens)`, 1 for a token, all
                ones where it is absent or counts something else; `prompt_length`, tokens of the prompt;
                `token_weights_sum` `(rows,)`, which the means divide by where tokens are already weighted.
        """
        tokens: Tensor = features["token_embeddings"]
        given: Tensor | None = features.get("attention_mask")
        if given is None or given.shape[-1] != tokens.shape[1]:
            given = tokens.new_ones(tokens.shape[:-1], dtype=torch.int64)
        first = given.to(torch.int32).argmax(dim=1)
        mask = given
        prompt_length = features.get("prompt_length")
        if not self.include_prompt and prompt_length is not None:
            # A copy without each row's first tokens after its left padding.
            behind = first + torch.as_tensor(prompt_length).flatten()[0].to(given.device)
            mask = given * (torch.arange(given.shape[1], device=given.device) >= behind[:, None]).to(given.dtype)
        # Half precision would lose tokens of long rows; and a matrix product would be rounded by autocast and TF32.
        exact = torch.float32 if tokens.dtype in (torch.float16, torch.bfloat16) else tokens.dtype
        total = features.get("token_weights_sum")
        pooled = []
        for mode in self.modes:
            if mode == "cls" and "cls_token_embeddings" in features:
                pooled.append(features["cls_token_embeddings"])
            elif mode == "max":
                pooled.append(tokens.masked_fill(mask[..., None] == 0, float("-inf")).max(dim=1).values)
            elif mode in ("cls", "lasttoken"):
                present = mask.to(torch.int32)
                if mode == "cls":
                    seen, index = None, present.argmax(dim=1)
                else:
                    seen, from_end = present.flip(1).max(dim=1)
                    index = torch.where(seen == 0, 0, tokens.shape[1] - 1 - from_end)
                picked = tokens.gather(1, index[:, None, None].expand(-1, 1, tokens.shape[-1])).squeeze(1)
                # Zeros for a row without tokens.
                pooled.append(picked if seen is None else picked * seen[:, None].to(tokens.dtype))
            else:
                weights = mask[..., None].to(tokens.dtype)
                if mode == "weightedmean":  # a row's n-th token, prompt included, weighs n
                    positions = torch.arange(1, tokens.shape[1] + 1, device=tokens.device)
                    weights = (mask * (positions - first[:, None]))[..., None].to(exact)
                count = weights.sum(dim=1, dtype=exact) if total is None else total[:, None].to(exact)
                count = count.clamp(min=1e-9)
                added = (tokens * weights).sum(dim=1, dtype=exact)
                pooled.append((added / (count.sqrt() if mode == "mean_sqrt_len_tokens" else count)).to(tokens.dtype))
        features["sentence_embedding"] = torch.cat(pooled, dim=-1)
        return features

    def get_embedding_dimension(self) -> int:
        """Dimension of the pooled vector."""
        return self.pooling_output_dimension

    def save_config(self, output_path: str, filename: str | None = None) -> None:
        """Write the configuration in the older keys, which every reader of the format knows, where they can say it."""
        config = self.get_config_dict()
        if self.modes == tuple(mode for mode in LEGACY_KEYS.values() if mode in self.modes):
            config = {
                "word_embedding_dimension": self.embedding_dimension,
                **{key: mode in self.modes for key, mode in LEGACY_KEYS.items()},
                "include_prompt": self.include_prompt,
            }
        files.write_json(Path(output_path) / (filename or self.config_file_name), config)

    @classmethod
    def read_config(cls, folder: Path) -> dict[str, Any]:
        """The configuration in `folder` in today's keys; where it has both, today's count."""
        config = super().read_config(folder)
        legacy = {mode: config.pop(key) for key, mode in LEGACY_KEYS.items() if key in config}
        if legacy and "pooling_mode" not in config:
            config["pooling_mode"] = [mode for mode, wanted in legacy.items() if wanted] or ["mean"]
        return config
