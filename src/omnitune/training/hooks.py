"""Private names of transformers, accelerate and datasets that omnitune leans on, and the upstream lines it relies on.

`HookedTrainer` holds the overrides of `transformers.Trainer`'s private methods and hands each to a public method, so
the rest of the room never names one. `RELIANCES` and `ELSEWHERE` give each private name the line of upstream's source
that makes it work; `tests/training/test_hooks.py` fails when such a line changes or a name is used that is not listed.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments


@dataclass(frozen=True, slots=True)
class Reliance:
    """One private name and the upstream code that gives it its meaning.

    Attributes:
        name: The private name, as it is spelled in our source.
        upstream: Where the line stands, as `module:object`.
        line: Text in the source of that object.
        reason: Purpose that has no public way.
        since: First release of transformers that has the line.
    """

    name: str
    upstream: str
    line: str
    reason: str
    since: str = "5.20"


RELIANCES = (
    Reliance(
        "_get_dataloader",
        "transformers.trainer:Trainer.get_train_dataloader",
        "return self._get_dataloader(",
        "batches are raw columns of our own samplers, for training, evaluation and prediction alike",
    ),
    Reliance(
        "_eval_dataloaders",
        "transformers.trainer:Trainer.get_eval_dataloader",
        "return self._eval_dataloaders[dataloader_key]",
        "persistent workers outlive one evaluation only if the loader is kept where upstream looks for it",
    ),
    Reliance(
        "_save",
        "transformers.trainer:Trainer.save_model",
        "self._save(output_dir)",
        "a checkpoint is our folder of modules, not one transformers model",
    ),
    Reliance(
        "_load_from_checkpoint",
        "transformers.trainer:Trainer.train",
        "self._load_from_checkpoint(resume_from_checkpoint",
        "weights go back into the modules and the loss that are there",
    ),
    Reliance(
        "_load_best_model",
        "transformers.trainer:Trainer._finalize_training",
        "self._load_best_model()",
        "the same, for the best checkpoint",
    ),
    Reliance(
        "_get_grad_norm",
        "transformers.trainer:Trainer._run_epoch",
        "grad_norm = self._get_grad_norm(model, grad_norm=grad_norm)",
        "the norm is there before the optimizer's step, and callbacks are not given it",
    ),
    Reliance(
        "_defer_fsdp_gradient_reduction",
        "transformers.trainer:Trainer._run_epoch",
        "sync_context = self._defer_fsdp_gradient_reduction",
        "upstream's own reads a configuration that a model of several modules does not have",
        since="5.23",
    ),
    Reliance(
        "_VALID_DICT_FIELDS",
        "transformers.training_args:TrainingArguments.__post_init__",
        "for valid_field in self._VALID_DICT_FIELDS:",
        "mappings of ours come as JSON from a command line too",
    ),
    Reliance(
        "_n_gpu",
        "transformers.training_args:TrainingArguments.n_gpu",
        "return self._n_gpu",
        "one process trains on one device; upstream would wrap the model in DataParallel",
    ),
)
"""Every private name of upstream that the training room uses."""

ELSEWHERE = (
    Reliance(
        "_attn_implementation",
        "transformers.configuration_utils:PreTrainedConfig",
        "self._attn_implementation: str | None = kwargs.pop",
        "how a backbone attends is told nowhere else (modules, engine)",
    ),
    Reliance(
        "_hf_peft_config_loaded",
        "transformers.integrations.peft:PeftAdapterMixin",
        "self._hf_peft_config_loaded = True",
        "a merged adapter is no adapter any more (model.adapters)",
    ),
    Reliance(
        "_weight_conversions",
        "transformers.core_model_loading:revert_weight_conversion",
        'getattr(model, "_weight_conversions", None)',
        "part of a published checkpoint keeps its names when it is saved (modules.loading)",
    ),
    Reliance(
        "_compile_jinja_template",
        "transformers.utils.chat_template_utils:render_jinja_template",
        "compiled_template = _compile_jinja_template(chat_template)",
        "a template that runs for ever is stopped: the compiled one is kept, and its function wrapped (inputs)",
    ),
    Reliance(
        "_name_or_path",
        "transformers.configuration_utils:PreTrainedConfig",
        "self._name_or_path",
        "where a backbone came from (losses.denoising)",
    ),
    Reliance(
        "_fingerprint",
        "datasets.arrow_dataset:Dataset.__init__",
        "self._fingerprint",
        "whether rows are the rows of an earlier run (training.feed, finetune.train)",
    ),
)
"""Private names of upstream that other rooms use; they stand below this one and cannot import it."""


class HookedTrainer(Trainer):  # type: ignore[misc]  # transformers has no types
    """`transformers.Trainer` whose private hooks call public methods, which subclasses write."""

    def make_loader(self, dataset: Any, batch_size: int, *, training: bool, name: str | None) -> "DataLoader[Any]":
        """The prepared data loader of a dataset.

        Args:
            dataset: What upstream was handed.
            batch_size: Rows a batch on this device.
            training: Whether it is trained on.
            name: Name of one of several evaluation datasets, or None.
        """
        raise NotImplementedError

    def write_model(self, folder: Path) -> None:
        """Write the model, and in a checkpoint what the loss has learnt."""
        raise NotImplementedError

    def restore(self, folder: Path, model: nn.Module) -> None:
        """Copy the weights of a checkpoint back."""
        raise NotImplementedError

    def restore_best(self, folder: str) -> None:
        """Copy the weights of the best checkpoint back."""
        raise NotImplementedError

    def see_gradients(self, norm: Tensor | float) -> None:
        """Look at the gradient norm of a step, before the optimizer uses the gradients."""
        raise NotImplementedError

    def _get_dataloader(
        self,
        dataset: Any,
        description: str,
        batch_size: int,
        sampler_fn: Callable[..., Any] | None = None,
        is_training: bool = False,
        dataloader_key: str | None = None,
    ) -> "DataLoader[Any]":
        del description, sampler_fn
        loader = self.make_loader(dataset, batch_size, training=is_training, name=dataloader_key)
        if dataloader_key is not None and self.args.dataloader_persistent_workers:
            self.__dict__.setdefault("_eval_dataloaders", {})[dataloader_key] = loader
        return loader

    def _save(self, output_dir: str | None = None, state_dict: Mapping[str, Tensor] | None = None) -> None:
        del state_dict
        if self.args.should_save:
            self.write_model(Path(output_dir if output_dir is not None else self.args.output_dir))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        self.restore(Path(resume_from_checkpoint), model if model is not None else self.model)

    def _load_best_model(self) -> None:
        self.restore_best(self.state.best_model_checkpoint)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Tensor | float | None = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        self.see_gradients(norm)
        return norm

    def _defer_fsdp_gradient_reduction(self) -> AbstractContextManager[None]:
        # What is sharded is reduced in every backward and never held whole.
        return nullcontext()


def train_on_one_device(args: TrainingArguments) -> None:
    """Keep one process on one device where several are visible."""
    args._n_gpu = 1


DICT_FIELDS: list[str] = TrainingArguments._VALID_DICT_FIELDS
"""Arguments that may come as JSON text, in upstream's list."""
