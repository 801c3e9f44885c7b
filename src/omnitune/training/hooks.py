"""Private and undocumented names of upstream packages that omnitune leans on, and the upstream lines it relies on.

`HookedTrainer` holds the overrides of `transformers.Trainer`'s private methods and hands each to a public method, so
the rest of the room never names one. `RELIANCES`, `ELSEWHERE` and `UNDOCUMENTED` give each name the line of upstream's
source that makes it work; `tests/training/test_hooks.py` fails when such a line changes, or when a private name or an
inner module of upstream is used that is not listed.
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
        name: The name, as it is spelled in our source.
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
    Reliance(
        "_get_template_variables",
        "transformers.utils.chat_template_utils:_get_template_variables",
        "meta.find_undeclared_variables(",
        "arguments that a chat template reads are told from those of the processor (inputs.processor)",
    ),
    Reliance(
        "_keys_to_ignore_on_load_unexpected",
        "transformers.modeling_utils:PreTrainedModel",
        "self._keys_to_ignore_on_load_unexpected or set()",
        "an encoder taken from an encoder-decoder expects the decoder's weights (modules.loading)",
    ),
    Reliance(
        "_no_split_modules",
        "transformers.modeling_utils:PreTrainedModel",
        "self._no_split_modules = set(self._no_split_modules or [])",
        "a backbone names the blocks that are sharded one by one (engine.fsdp_sync)",
    ),
    Reliance(
        "_supports_attention_backend",
        "transformers.modeling_utils:PreTrainedModel",
        "return cls._supports_attention_backend",
        "a backbone that takes an attention function of ours can pack (modules.packing)",
    ),
    Reliance(
        "_supports_flash_attn",
        "transformers.modeling_utils:PreTrainedModel",
        "if not self._supports_flash_attn:",
        "the same: one that flash attention runs hands on where items begin (modules.packing)",
    ),
    Reliance(
        "_get_feature_vector_attention_mask",
        "transformers.models.wav2vec2.modeling_wav2vec2:Wav2Vec2Model.forward",
        "self._get_feature_vector_attention_mask(",
        "a backbone of samples says which vectors are of the recording (modules.outputs)",
    ),
    Reliance(
        "_parameters",
        "torch.nn.modules.module:Module.register_parameter",
        "self._parameters[name] = param",
        "whole weights stand in for shards while a checkpoint is written (engine.fsdp_sync)",
    ),
    Reliance(
        "_version",
        "torch.autograd.graph:_get_sid",
        "return (data_ptr, tensor._version)",
        "weights that changed in place are not taken for those of before (engine.tower_cache)",
    ),
)
"""Private names of upstream that other rooms use; they stand below this one and cannot import it."""

UNDOCUMENTED = (
    Reliance(
        "revert_weight_conversion",
        "transformers.core_model_loading:revert_weight_conversion",
        "def revert_weight_conversion(model: PreTrainedModel, state_dict: dict[str, torch.Tensor])",
        "names in memory become the names in a published checkpoint (training.weights)",
    ),
    Reliance(
        "custom_object_save",
        "transformers.dynamic_module_utils:custom_object_save",
        "def custom_object_save(obj: Any, folder: str | os.PathLike",
        "a user's own module is saved with its code (model.checkpoint)",
    ),
    Reliance(
        "get_class_from_dynamic_module",
        "transformers.dynamic_module_utils:get_class_from_dynamic_module",
        "class_reference: str,\n    pretrained_model_name_or_path: str | os.PathLike,",
        "and loaded with it, where the caller trusts it (modules.registry)",
    ),
    Reliance(
        "get_vision_position_ids",
        "transformers.vision_utils:get_vision_position_ids",
        "spatial_merge_size:",
        "positions of image patches are made on the host, so that no device is waited for (modules.host_positions)",
    ),
    Reliance(
        "get_vision_interpolation_indices_and_weights",
        "transformers.vision_utils:get_vision_interpolation_indices_and_weights",
        "num_grid_per_side: int,",
        "the same, for learnt positions",
    ),
    Reliance(
        "get_vision_cu_seqlens",
        "transformers.vision_utils:get_vision_cu_seqlens",
        "grid_thw: torch.Tensor",
        "the same, for where images begin",
    ),
    Reliance(
        "get_rope_index",
        "transformers.models.qwen3_vl.modeling_qwen3_vl:Qwen3VLModel.get_rope_index",
        "mm_token_type_ids:",
        "positions of three axes are made before the row is packed (modules.packing, modules.host_positions)",
    ),
    Reliance(
        "sdpa_mask",
        "transformers.masking_utils:sdpa_mask",
        "def sdpa_mask(",
        "a batch that is not packed gets the mask that SDPA takes (modules.varlen)",
    ),
    Reliance(
        "sdpa_attention_forward",
        "transformers.integrations.sdpa_attention:sdpa_attention_forward",
        "attention_mask: torch.Tensor | None,\n    dropout: float = 0.0,\n    scaling: float | None = None,",
        "and is attended to as SDPA does (modules.varlen)",
    ),
    Reliance(
        "MIN_PEFT_VERSION",
        "transformers.integrations.peft:PeftAdapterMixin.add_adapter",
        "check_peft_version(min_version=MIN_PEFT_VERSION)",
        "a peft that is too old is named with the way out (runtime)",
    ),
    Reliance(
        "BaseTunerLayer",
        "peft.tuners.tuners_utils:BaseTunerLayer",
        "def get_base_layer(self)",
        "layers with an adapter are found, and merged into their base (model.adapters)",
    ),
    Reliance(
        "AuxiliaryTrainingWrapper",
        "peft.utils.other:AuxiliaryTrainingWrapper",
        "class AuxiliaryTrainingWrapper(torch.nn.Module)",
        "an adapter that replaces whole modules cannot be merged (model.adapters)",
    ),
    Reliance(
        "fsdp_plugin_args",
        "transformers.trainer:Trainer",
        "if self.args.fsdp_plugin_args is not None:",
        "None keeps accelerate from sharding what is sharded already (training.distributed)",
    ),
    Reliance(
        "even_batches",
        "accelerate.accelerator:Accelerator.prepare_data_loader",
        "even_batches=self.even_batches",
        "ranks fill up their last batch in evaluation alone (training.base)",
    ),
    Reliance(
        "training_bar",
        "transformers.trainer_callback:ProgressCallback",
        "self.training_bar.close()",
        "a bar is closed when training raises (training.base)",
    ),
    Reliance(
        "root_render_func",
        "jinja2.environment:Template.render",
        "self.root_render_func(ctx)",
        "the rendering of a chat template is stopped after a while (inputs.templates)",
    ),
)
"""Names without an underscore that upstream documents nowhere, and so may move as well."""


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
