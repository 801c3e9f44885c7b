"""What the benchmarks share: a Qwen3-VL of 35M random weights, real pages, and one JSON line a result.

Every benchmark runs omnitune and Sentence Transformers on the same checkpoint, data and pixels, checks that both
computed the same, and prints ratios.
"""

import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = ROOT / "examples" / "documents"
SPECIAL = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
TEMPLATE = """{%- for message in messages -%}<|im_start|>{{ message.role }}
{% if message.content is string %}{{ message.content }}{% else %}{%- for part in message.content -%}
{%- if part.type == 'image' -%}<|vision_start|><|image_pad|><|vision_end|>
{%- elif part.type == 'video' -%}<|vision_start|><|video_pad|><|vision_end|>
{%- else -%}{{ part.text }}{%- endif -%}{%- endfor -%}{% endif %}<|im_end|>
{% endfor %}{%- if add_generation_prompt -%}<|im_start|>assistant
{% endif %}"""


def page_images(count: int, width: int = 320) -> list[Path]:
    """The first `count` pages of the example documents, rendered `width` pixels wide into a cache folder."""
    import pypdfium2

    folder = ROOT / "runs" / "benchmark-pages" / str(width)
    folder.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    for source in sorted(DOCUMENTS.rglob("*.pdf")):
        document = pypdfium2.PdfDocument(source)
        for number in range(len(document)):
            if len(paths) == count:
                return paths
            path = folder / f"{source.stem}-{number:04d}.png"
            if not path.exists():
                page = document[number]
                page.render(scale=width / page.get_width()).to_pil().save(path)
            paths.append(path)
    raise SystemExit(f"{DOCUMENTS}: {len(paths)} pages, {count} needed")


def make_qwen3_vl(
    folder: Path, *, hidden: int = 384, layers: int = 8, vision_layers: int = 8, pixels: int = 320
) -> Path:
    """Write a Qwen3-VL with random weights, its processor and a tokenizer trained on a few words; about 35M weights."""
    if (folder / "config.json").exists():
        return folder
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import (
        PreTrainedTokenizerFast,
        Qwen2VLImageProcessor,
        Qwen3VLConfig,
        Qwen3VLForConditionalGeneration,
        Qwen3VLProcessor,
        Qwen3VLVideoProcessor,
    )

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    text = [p.read_text(errors="ignore") for p in sorted((ROOT / "src").rglob("*.py"))]
    trainer = trainers.BpeTrainer(
        vocab_size=4096, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    core.train_from_iterator(text, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|endoftext|>", additional_special_tokens=SPECIAL[1:]
    )
    tokenizer.chat_template = TEMPLATE
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in SPECIAL}
    size = {"shortest_edge": 32 * 32, "longest_edge": pixels * pixels}
    processor = Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(patch_size=16, merge_size=2, size=size),
        tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(patch_size=16, merge_size=2),
        chat_template=TEMPLATE,
    )
    heads = hidden // 64
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": hidden,
            "intermediate_size": hidden * 3,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": max(heads // 2, 1),
            "head_dim": 64,
            "rope_scaling": {"rope_type": "default", "mrope_section": [12, 10, 10], "mrope_interleaved": True},
            "pad_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|im_end|>"],
        },
        vision_config={
            "depth": vision_layers,
            "hidden_size": hidden,
            "intermediate_size": hidden * 3,
            "num_heads": heads,
            "patch_size": 16,
            "spatial_merge_size": 2,
            "out_hidden_size": hidden,
            "num_position_embeddings": 400,
            "deepstack_visual_indexes": [1, vision_layers // 2],
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    model = Qwen3VLForConditionalGeneration(config)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def run(script: str, **options: Any) -> dict[str, Any]:
    """Run a worker in its own process and return the JSON object on its last line."""
    arguments = [str(part) for key, value in options.items() for part in (f"--{key.replace('_', '-')}", value)]
    done = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        raise SystemExit(f"{script} {' '.join(arguments)} failed:\n{done.stderr[-4000:]}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def report(metric: str, values: Sequence[float], unit: str, **facts: Any) -> None:
    """Print one result as a line of JSON."""
    line = {
        "metric": metric,
        "value": round(statistics.median(values), 4),
        "unit": unit,
        "n": len(values),
        "min": round(min(values), 4),
        "median": round(statistics.median(values), 4),
        "max": round(max(values), 4),
        "rival": f"sentence-transformers {version('sentence-transformers')}",
        **facts,
    }
    print(json.dumps(line), flush=True)
