"""What the parts of `gpu.py` share: device, models, a clock, and a line of JSON for every result."""

import gc
import importlib
import importlib.util
import json
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from gpu_models import Sizes
from support import LIBRARIES

from gpu import MARK


class LeftOutError(Exception):
    """Something that this machine cannot do; the message says what it lacks."""


class Bench:
    """What every part needs: sizes, device, models and a way to report."""

    def __init__(self, sizes: Sizes, device: str, out: Path) -> None:
        self.sizes, self.device, self.models = sizes, device, out / f"models-{device.split(':')[0]}"
        self.cuda = device.startswith("cuda")
        self.dtype = "bfloat16" if self.cuda else "float32"

    @property
    def libraries(self) -> list[str]:
        """Ours, and the rival where it is installed."""
        return [name for name in LIBRARIES if importlib.util.find_spec(name) is not None]

    def report(self, what: str, unit: str, ours: float | None, theirs: float | None = None, **facts: Any) -> None:
        """Print one result; a ratio above 1 is in our favour where `unit` is a rate."""
        ratio = ours / theirs if ours and theirs else None
        line = {"what": what, "unit": unit, "ours": ours, "theirs": theirs, "ratio": ratio, "facts": facts}
        print(MARK + json.dumps({key: value for key, value in line.items() if value not in (None, {})}), flush=True)

    def left_out(self, why: str) -> None:
        """Say what could not be measured, and go on."""
        print(MARK + json.dumps({"left_out": why}), flush=True)

    def wait(self) -> None:
        """Until the device has done all that was started."""
        if self.cuda:
            torch.cuda.synchronize()

    def forget(self) -> None:
        """Give memory back, and begin a new peak."""
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak(self) -> int:
        """Most bytes held on the device since `forget`; on the CPU, ever by the process."""
        if self.cuda:
            return torch.cuda.max_memory_allocated()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def seconds(self, work: Callable[[], Any], rounds: int = 3) -> float:
        """Median seconds of a call, without the first."""
        taken = []
        for _ in range(rounds + 1):
            self.wait()
            start = time.perf_counter()
            work()
            self.wait()
            taken.append(time.perf_counter() - start)
        return statistics.median(taken[1:])

    def products_a_second(self) -> float:
        """Floating-point operations a second that a large matrix product reaches here, in the models' format."""
        n = self.sizes.product
        left, right = torch.randn(2, n, n, device=self.device, dtype=getattr(torch, self.dtype))
        times = 20 if self.cuda else 2
        return times * 2 * n**3 / self.seconds(lambda: [left @ right for _ in range(times)])

    def load(self, library: str, folder: Path, *, family: str = "SentenceTransformer", **options: Any) -> Any:
        """A model of a library, on the device."""
        return getattr(importlib.import_module(library), family)(str(folder), device=self.device, **options)


def trained(
    bench: Bench, library: str, model: Any, dataset: Any, loss: Any, *, batch: int, epochs: int = 1
) -> dict[str, Any]:
    """Losses and seconds of every step of a trainer, at the recipe's arguments."""
    from transformers import TrainerCallback

    marks: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *_args, **_kwargs):
            bench.wait()
            marks.append(-time.perf_counter())

        def on_step_end(self, *_args, **_kwargs):
            bench.wait()
            marks[-1] += time.perf_counter()

    package = importlib.import_module(library)
    with tempfile.TemporaryDirectory() as scratch:
        arguments = package.SentenceTransformerTrainingArguments(
            output_dir=scratch,
            per_device_train_batch_size=batch,
            num_train_epochs=epochs,
            learning_rate=1e-5,
            bf16=bench.cuda,
            use_cpu=not bench.cuda,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            seed=1,
            disable_tqdm=True,
        )
        trainer = package.SentenceTransformerTrainer(
            model=model, args=arguments, train_dataset=dataset, loss=loss, callbacks=[Clock()]
        )
        trainer.train()
    seen = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {"losses": seen, "seconds": marks}
