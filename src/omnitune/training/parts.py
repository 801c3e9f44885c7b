"""Named parts of a loss, averaged between two log lines."""

from typing import Any

import torch.distributed
from torch import Tensor


class LossParts:
    """Sums of named loss parts since they were last taken, for training and for evaluation apart."""

    def __init__(self) -> None:
        self._sums: dict[str, dict[str, Tensor]] = {"train": {}, "eval": {}}
        self._steps = {"train": 0, "eval": 0}

    def add(self, mode: str, parts: dict[str, Tensor], *, skip_nan: bool) -> None:
        """Add the parts of one step.

        Args:
            mode: `"train"` or `"eval"`.
            parts: Scalars by name.
            skip_nan: Count the mean so far in place of a part that is not finite.
        """
        sums, steps = self._sums[mode], self._steps[mode]
        for name, part in parts.items():
            value = part.detach()
            if skip_nan:
                mean = sums[name] / steps if steps and name in sums else torch.zeros_like(value)
                value = torch.where(torch.isfinite(value), value, mean)
            sums[name] = sums[name] + value if name in sums else value
        self._steps[mode] += 1

    def take(self, mode: str) -> dict[str, float]:
        """Mean of every part over the steps of all ranks since the last call; parts add up to the loss."""
        local = ({name: float(value) for name, value in self._sums[mode].items()}, self._steps[mode])
        self._sums[mode], self._steps[mode] = {}, 0
        ranks: list[Any] = [local]
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            ranks = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(ranks, local)
        steps = sum(count for _, count in ranks)
        names = list(dict.fromkeys(name for sums, _ in ranks for name in sums))
        return {name: sum(sums.get(name, 0.0) for sums, _ in ranks) / steps for name in names}
