"""Adapters (LoRA and its kin) on the backbone of a model, through peft and transformers' integration of it."""

from typing import Any

import transformers

from omnitune import runtime
from omnitune.errors import InputError


class AdapterMixin:
    """Verbs for adapters on the first transformers model among the modules, `transformers_model`.

    A fresh adapter trains alone, the backbone's own weights being frozen; a checkpoint of it holds the adapter only.
    """

    @property
    def transformers_model(self) -> "transformers.PreTrainedModel | None":
        """The first transformers model among the modules, or None; the model says which that is."""
        raise NotImplementedError

    def has_peft_compatible_model(self) -> bool:
        """Whether the backbone takes adapters."""
        return isinstance(self.transformers_model, transformers.integrations.PeftAdapterMixin)

    def check_peft_compatible_model(self) -> None:
        """Raise unless the backbone takes adapters.

        Raises:
            InputError: There is no transformers model among the modules.
            MissingExtraError: peft is not installed.
        """
        if not self.has_peft_compatible_model():
            found = type(self.transformers_model).__name__
            raise InputError(f"adapters: expected a transformers model among the modules, got {found}")
        runtime.require("peft", extra="lora")

    @property
    def _adapted(self) -> Any:
        self.check_peft_compatible_model()
        return self.transformers_model

    def load_adapter(self, *args: Any, **kwargs: Any) -> None:
        """Load adapter weights from a folder or a repository, as `PreTrainedModel.load_adapter` does."""
        self._adapted.load_adapter(*args, **kwargs)

    def add_adapter(self, *args: Any, **kwargs: Any) -> None:
        """Add a fresh adapter, e.g. `add_adapter(LoraConfig(...))`, and train it alone."""
        self._adapted.add_adapter(*args, **kwargs)

    def set_adapter(self, *args: Any, **kwargs: Any) -> None:
        """Make one adapter, or a list of them, the active one."""
        self._adapted.set_adapter(*args, **kwargs)

    def disable_adapters(self) -> None:
        """Use the backbone without its adapters."""
        self._adapted.disable_adapters()

    def enable_adapters(self) -> None:
        """Use the active adapters again."""
        self._adapted.enable_adapters()

    def active_adapters(self) -> list[str]:
        """Names of the adapters in use."""
        return list(self._adapted.active_adapters())

    def active_adapter(self) -> str:
        """Name of the first adapter in use."""
        return self.active_adapters()[0]

    def get_adapter_state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Weights of an adapter, by default the active one."""
        return dict(self._adapted.get_adapter_state_dict(*args, **kwargs))

    def delete_adapter(self, *args: Any, **kwargs: Any) -> None:
        """Remove an adapter's layers from the backbone."""
        self._adapted.delete_adapter(*args, **kwargs)
