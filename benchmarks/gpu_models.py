"""Models of random weights, pages and texts of `gpu.py`: made on the device, written once, loaded by every part."""

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support import qwen3_vl_config, qwen3_vl_processor, texts, wordpiece_tokenizer


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How large everything is.

    Attributes:
        name: Of the folder that holds the models.
        bert_weights: How many weights `bert` has, in words.
        decoder_weights: The same of `decoder`.
        text: Language model of the vision-language model, as its configuration says.
        vision: Its tower.
        bert: Text encoder of BERT's kind.
        decoder: Text encoder of Qwen3's kind.
        side: Pixels of a page's side.
        batch: Pages a training step.
        mini_batch: Pages a mini-batch, of both libraries.
        text_batch: Pairs of texts a training step.
        steps: Training steps that are timed, after one that is not.
        pages: Pages that are encoded.
        texts: Texts that are encoded.
        memory: Batches at which the peak is measured, of pages of half the side.
        budget: Bytes for kept graphs there.
        pairs: Pairs of the loss alone.
        late_batch: Pages of a late-interaction step.
        requests: Requests to the server.
        product: Rows of the square product that says what the device can do.
    """

    name: str
    bert_weights: str
    decoder_weights: str
    text: dict[str, Any]
    vision: dict[str, Any]
    bert: dict[str, Any]
    decoder: dict[str, Any]
    side: int
    batch: int
    mini_batch: int
    text_batch: int
    steps: int
    pages: int
    texts: int
    memory: tuple[int, ...]
    budget: int
    pairs: int
    late_batch: int
    requests: int
    product: int


FULL = Sizes(
    name="full",
    bert_weights="110M",
    decoder_weights="600M",
    text={
        "vocab_size": 151_936,
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 32_768,
        "rope_scaling": {"rope_type": "default", "mrope_section": [24, 20, 20], "mrope_interleaved": True},
    },
    vision={
        "depth": 24,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_heads": 16,
        "out_hidden_size": 2048,
        "num_position_embeddings": 2304,
        "deepstack_visual_indexes": [5, 11, 17],
    },
    bert={"vocab_size": 30_522, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
          "intermediate_size": 3072},
    decoder={"vocab_size": 151_669, "hidden_size": 1024, "num_hidden_layers": 28, "num_attention_heads": 16,
             "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 3072, "max_position_embeddings": 32_768},
    side=600,
    batch=64,
    mini_batch=8,
    text_batch=1024,
    steps=3,
    pages=192,
    texts=8192,
    memory=(64, 256, 1024),
    budget=8 << 30,
    pairs=32_768,
    late_batch=32,
    requests=600,
    product=8192,
)  # fmt: skip

QUICK = Sizes(
    name="quick",
    bert_weights="0.6M",
    decoder_weights="0.3M",
    text={"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
          "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 2048,
          "rope_scaling": {"rope_type": "default", "mrope_section": [4, 2, 2], "mrope_interleaved": True}},
    vision={"depth": 2, "hidden_size": 64, "intermediate_size": 128, "num_heads": 4, "out_hidden_size": 64,
            "num_position_embeddings": 64, "deepstack_visual_indexes": [0]},
    bert={"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128},
    decoder={"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
             "head_dim": 16, "intermediate_size": 128, "max_position_embeddings": 2048},
    side=96,
    batch=8,
    mini_batch=4,
    text_batch=32,
    steps=2,
    pages=16,
    texts=64,
    memory=(8, 16),
    budget=8 << 20,
    pairs=512,
    late_batch=8,
    requests=16,
    product=512,
)  # fmt: skip


def vision_language(root: Path, sizes: Sizes, device: str) -> Path:
    """A Qwen3-VL with its processor: of 2 billion weights in full size."""
    folder = root / sizes.name / "vlm"
    if (folder / "config.json").exists():
        return folder
    from transformers import Qwen3VLModel

    processor = qwen3_vl_processor(sizes.side)
    config = qwen3_vl_config(processor.tokenizer, text=sizes.text, vision=sizes.vision)
    return _written(folder, Qwen3VLModel, config, processor, device)


def bert(root: Path, sizes: Sizes, device: str) -> Path:
    """A BERT without dropout: of 110 million weights in full size."""
    folder = root / sizes.name / "bert"
    if (folder / "config.json").exists():
        return folder
    from transformers import BertConfig, BertModel

    tokenizer = wordpiece_tokenizer(512)
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "max_position_embeddings": 512}
    config = BertConfig(**{"vocab_size": len(tokenizer), **still, **sizes.bert})
    return _written(folder, BertModel, config, tokenizer, device)


def decoder(root: Path, sizes: Sizes, device: str) -> Path:
    """A Qwen3: of 600 million weights in full size."""
    folder = root / sizes.name / "decoder"
    if (folder / "config.json").exists():
        return folder
    from transformers import Qwen3Config, Qwen3Model

    tokenizer = qwen3_vl_processor(32).tokenizer
    tokenizer.padding_side, tokenizer.model_max_length, tokenizer.chat_template = "left", 512, None
    config = Qwen3Config(**{"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, **sizes.decoder})
    return _written(folder, Qwen3Model, config, tokenizer, device)


def _written(folder: Path, kind: Any, config: Any, processor: Any, device: str) -> Path:
    """Draw the weights on the device, in bfloat16 where it is CUDA, and write them with their processor."""
    import torch

    torch.manual_seed(0)
    half = device.startswith("cuda")
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16 if half else torch.float32)
    try:
        with torch.device(device):
            model = kind(config)
    finally:
        torch.set_default_dtype(before)
    processor.save_pretrained(folder)
    model.save_pretrained(folder)  # last: its file is what says that the folder is whole
    return folder


def page_pictures(count: int, side: int) -> list[Any]:
    """White pages with lines of words, all different."""
    from PIL import Image, ImageDraw

    lines, pages = texts(count * 4, median=12, longest=30, seed=3), []
    for number in range(count):
        draw = random.Random(number)
        page = Image.new("RGB", (side, side), "white")
        pen = ImageDraw.Draw(page)
        pen.text((8, 4), f"page {number}", fill="black")
        for row in range(24, side - 12, 16):
            pen.text((8, row), lines[draw.randrange(len(lines))][: side // 7], fill=(10, 10, 10))
        pages.append(page)
    return pages
