"""A damaged text is encoded into one vector, and a decoder that sees nothing else writes the whole text again."""

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from omnitune.errors import InputError
from omnitune.losses.base import Loss
from omnitune.places import local_model, no_repository
from omnitune.types import Column, Embeddings, Encodes, Features, Labels, Objective

logger = logging.getLogger(__name__)


class DenoisingAutoEncoderLoss(Loss):
    """Loss over (damaged text, text): how well a decoder rebuilds the text from the embedding of the damaged one.

    The decoder belongs to the loss and trains with it.

    Args:
        model: The encoder; its backbone has a causal form with cross-attention (BERT, RoBERTa, ...).
        decoder_name_or_path: Checkpoint of the decoder; None takes the encoder's.
        tie_encoder_decoder: Share the weights that both have; the decoder is then the encoder's checkpoint.

    Raises:
        InputError: The model has no transformers backbone, its kind makes no decoder, the sizes differ, or untied
            weights have no `decoder_name_or_path`.

    Source:
        Wang et al. 2021, TSDAE, eq. 1 (arXiv:2104.06979).

    Example:
        >>> rows = Dataset.from_dict({"damaged": ["bearing week", "oven to 250"], "text": pages})
        >>> encoder = SentenceTransformer("embedded")  # shares its weights with the decoder from now on
        >>> loss = DenoisingAutoEncoderLoss(encoder)
        >>> trainer = SentenceTransformerTrainer(model=encoder, train_dataset=rows, loss=loss)
    """

    paper = "wang2021tsdae"

    any_width = False

    def __init__(
        self, model: nn.Module, decoder_name_or_path: str | None = None, tie_encoder_decoder: bool = True
    ) -> None:
        super().__init__(model)
        backbone: Any = getattr(model, "transformers_model", None)
        if backbone is None:
            raise InputError("model: expected one with a transformers backbone to make a decoder of, got none")
        if decoder_name_or_path is None and not tie_encoder_decoder:
            raise InputError("decoder_name_or_path: expected a decoder with tie_encoder_decoder=False, got None")
        if tie_encoder_decoder:
            if decoder_name_or_path is not None:
                logger.warning("decoder_name_or_path: ignored, because tie_encoder_decoder makes it the encoder's.")
            decoder_name_or_path = backbone.config._name_or_path
        encoder_tokenizer: Any = model.tokenizer
        decoder: Any = _decoder(str(decoder_name_or_path))
        self.tokenizer = encoder_tokenizer if tie_encoder_decoder else _tokenizer(str(decoder_name_or_path))
        self.need_retokenization = not isinstance(encoder_tokenizer, type(self.tokenizer))
        if backbone.config.hidden_size != decoder.config.hidden_size:
            raise InputError(
                f"decoder_name_or_path: expected a hidden size of {backbone.config.hidden_size} as the encoder's, "
                f"got {decoder.config.hidden_size}"
            )
        if tie_encoder_decoder:
            decoder.resize_token_embeddings(len(self.tokenizer))
            # The encoder uses the decoder's parameters wherever both have one of the same name.
            modules = dict(backbone.named_modules())
            for name, parameter in decoder.base_model.named_parameters():
                place, _, attribute = name.rpartition(".")
                if hasattr(modules.get(place), attribute):
                    setattr(modules[place], attribute, parameter)
        self.decoder: Any = decoder.to(next(model.parameters()).device)

    def embed(self, columns: Sequence[Column | Features], engine: Encodes) -> list[Embeddings]:
        """The embeddings of the damaged texts."""
        if len(columns) != 2:
            raise InputError(
                f"{type(self).__name__}: expected the input columns (damaged text, text), got {len(columns)} columns"
            )
        return super().embed(columns[:1], engine)

    def targets(self, columns: Sequence[Column | Features], labels: Labels | None) -> Tensor:
        """Token ids of the texts, in the decoder's vocabulary `(rows, tokens)`, int64."""
        del labels
        texts = columns[1]
        if isinstance(texts, Column):
            written = [(texts.prompt or "") + text for text in texts.items]
        elif self.need_retokenization:
            written = self.model.tokenizer.batch_decode(texts["input_ids"], skip_special_tokens=True)  # type: ignore[union-attr, operator]
        else:
            ready: Tensor = texts["input_ids"]
            return ready
        encoded = self.tokenizer(written, padding=True, truncation=True, return_tensors="pt")
        ids: Tensor = encoded["input_ids"]
        return ids.to(self.decoder.device)

    def objective(self, embeddings: Sequence[Embeddings], labels: Tensor | None) -> Objective:
        """Cross-entropy of every next token, given the tokens before it and the embedding `(rows, dim)`."""
        ids = self._expect_labels(labels, "token ids")
        source = embeddings[0].values[:, None]
        seen = torch.ones(source.shape[:2], dtype=torch.int64, device=source.device)
        logits: Tensor = self.decoder(
            input_ids=ids[:, :-1], encoder_hidden_states=source, encoder_attention_mask=seen, use_cache=False
        ).logits
        return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), ignore_index=self.tokenizer.pad_token_id)

    def get_config_dict(self) -> dict[str, Any]:
        """Record the arguments for the model card."""
        return {
            "decoder_name_or_path": self.decoder.config._name_or_path,
            "need_retokenization": self.need_retokenization,
        }


def _decoder(name: str) -> nn.Module:
    """The causal form of a checkpoint, with cross-attention; only safetensors are read."""
    from transformers import AutoConfig, AutoModelForCausalLM  # heavy, and for this loss alone

    name = str(local_model(name) or name)
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    except OSError as error:
        raise no_repository(name, error) from error
    config.is_decoder = True
    config.add_cross_attention = True
    try:
        decoder: nn.Module = AutoModelForCausalLM.from_pretrained(
            name, config=config, use_safetensors=True, trust_remote_code=False
        )
    except ValueError as error:
        raise InputError(
            f"decoder_name_or_path: expected a model with a causal form, got {config.model_type!r}; "
            "BERT and RoBERTa have one"
        ) from error
    return decoder


def _tokenizer(name: str) -> Any:
    from transformers import AutoTokenizer

    name = str(local_model(name) or name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except OSError as error:
        raise no_repository(name, error) from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
