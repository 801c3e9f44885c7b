"""What the benchmarks share: models of random weights, real pages and texts, and one JSON line a result.

Every benchmark runs omnitune and Sentence Transformers on the same checkpoint, data and pixels, checks that both
computed the same, and prints ratios.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = ROOT / "examples" / "documents"
MODELS = ROOT / "runs" / "benchmark-models"
LIBRARIES = ("omnitune", "sentence_transformers")
OURS, RIVAL = LIBRARIES
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


def qwen3_vl_processor(pixels: int) -> Any:
    """Qwen3-VL's processor, for images of `pixels` squared at most, its tokenizer trained on our source."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen2VLImageProcessor, Qwen3VLProcessor, Qwen3VLVideoProcessor

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    text = [p.read_text(errors="ignore") for p in sorted((ROOT / "src").rglob("*.py"))]
    trainer = trainers.BpeTrainer(
        vocab_size=4096,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(text, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|endoftext|>", additional_special_tokens=SPECIAL[1:]
    )
    tokenizer.chat_template = TEMPLATE
    size = {"shortest_edge": 32 * 32, "longest_edge": pixels * pixels}
    return Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(patch_size=16, merge_size=2, size=size),
        tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(patch_size=16, merge_size=2),
        chat_template=TEMPLATE,
    )


def qwen3_vl_config(tokenizer: Any, *, text: Mapping[str, Any], vision: Mapping[str, Any]) -> Any:
    """Qwen3-VL's configuration of these sizes, for this tokenizer."""
    from transformers import Qwen3VLConfig

    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in SPECIAL}
    return Qwen3VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "pad_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|im_end|>"],
            **text,
        },
        vision_config={"patch_size": 16, "spatial_merge_size": 2, **vision},
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )


def make_qwen3_vl(
    folder: Path, *, hidden: int = 384, layers: int = 8, vision_layers: int = 8, pixels: int = 320
) -> Path:
    """Write a Qwen3-VL with random weights, its processor and a tokenizer trained on a few words; about 35M weights."""
    if (folder / "config.json").exists():
        return folder
    import torch
    from transformers import Qwen3VLForConditionalGeneration

    processor = qwen3_vl_processor(pixels)
    heads = hidden // 64
    config = qwen3_vl_config(
        processor.tokenizer,
        text={
            "hidden_size": hidden,
            "intermediate_size": hidden * 3,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": max(heads // 2, 1),
            "head_dim": 64,
            "rope_scaling": {"rope_type": "default", "mrope_section": [12, 10, 10], "mrope_interleaved": True},
        },
        vision={
            "depth": vision_layers,
            "hidden_size": hidden,
            "intermediate_size": hidden * 3,
            "num_heads": heads,
            "out_hidden_size": hidden,
            "num_position_embeddings": 400,
            "deepstack_visual_indexes": [1, vision_layers // 2],
        },
    )
    torch.manual_seed(0)
    model = Qwen3VLForConditionalGeneration(config)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def texts(count: int, *, median: int = 24, sigma: float = 1.1, longest: int = 250, seed: int = 0) -> list[str]:
    """Texts of words of this library, their numbers of words lognormal, as those of web pages are."""
    words = sorted(
        {word for p in (ROOT / "src").rglob("*.py") for word in p.read_text().lower().split() if word.isalpha()}
    )
    draw = random.Random(seed)
    sizes = [min(max(int(draw.lognormvariate(0, sigma) * median), 3), longest) for _ in range(count)]
    return [" ".join(draw.choice(words) for _ in range(size)) for size in sizes]


def wordpiece_tokenizer(longest: int = 256) -> Any:
    """BERT's tokenizer, trained on words of this library."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import BertTokenizerFast

    core = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    core.normalizer = normalizers.BertNormalizer()
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=8000, special_tokens=special, show_progress=False)
    core.train_from_iterator(texts(2000), trainer)
    core.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return BertTokenizerFast(tokenizer_object=core, model_max_length=longest)


def make_minilm(folder: Path, *, layers: int = 6) -> Path:
    """Write a BERT of MiniLM's shape (6 layers, 384 dimensions) with random weights, without dropout, to `folder`."""
    if (folder / "config.json").exists():
        return folder
    import torch
    from transformers import BertConfig, BertModel

    tokenizer = wordpiece_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=384,
        num_hidden_layers=layers,
        num_attention_heads=12,
        intermediate_size=1536,
        max_position_embeddings=512,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    torch.manual_seed(0)
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


class NoCard:
    """Takes the place of a model card."""

    def set_evaluation_metrics(self, *_args, **_kwargs) -> None:
        """Nothing is kept."""


def quick(help: str) -> bool:
    """Whether the command line asks for the short run; `help` says what is smaller in it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help=help)
    return bool(parser.parse_args().quick)


def alternate(
    calls: Mapping[str, Callable[[], Any]], rounds: int
) -> tuple[dict[str, list[float]], dict[str, list[Any]]]:
    """Call each in turn, `rounds` times over: seconds of every call, and what it returned."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    results: dict[str, list[Any]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            results[name].append(call())
            seconds[name].append(time.perf_counter() - start)
    return seconds, results


def training(
    rounds: int,
    *,
    rival: Mapping[str, Any] | None = None,
    ours: Mapping[str, Any] | None = None,
    tolerance: float = 1e-5,
    **options: Any,
) -> dict[str, list[dict[str, Any]]]:
    """Runs of `train_steps.py`, libraries alternating, whose losses agree to `tolerance` at every step.

    Args:
        rounds: Runs of each library.
        rival: Options of the rival alone.
        ours: Options of ours alone.
        tolerance: Largest relative difference of two losses.
        **options: Options of both.
    """
    own: dict[str, Mapping[str, Any]] = {OURS: ours or {}, RIVAL: rival or {}}
    done: dict[str, list[dict[str, Any]]] = {name: [] for name in LIBRARIES}
    for _ in range(rounds):
        for name in LIBRARIES:
            done[name].append(run("benchmarks/train_steps.py", library=name, **{**options, **own[name]}))
        for a, b in zip(done[OURS][-1]["losses"], done[RIVAL][-1]["losses"], strict=True):
            if abs(a - b) > tolerance * abs(b):
                raise SystemExit(f"losses differ: {done[OURS][-1]['losses']} and {done[RIVAL][-1]['losses']}")
    return done


def step_ratios(done: Mapping[str, Sequence[Mapping[str, Any]]], first: int = 1) -> list[float]:
    """Seconds of the rival's step over those of ours, for every step from `first` on, of every round."""
    return [
        b / a
        for mine, theirs in zip(done[OURS], done[RIVAL], strict=True)
        for a, b in zip(mine["seconds"][first:], theirs["seconds"][first:], strict=True)
    ]


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
    median = statistics.median(values)
    line = {
        "metric": metric,
        "value": _rounded(median),
        "unit": unit,
        "n": len(values),
        "min": _rounded(min(values)),
        "median": _rounded(median),
        "max": _rounded(max(values)),
        "rival": f"sentence-transformers {version('sentence-transformers')}",
        **facts,
    }
    print(json.dumps(line), flush=True)


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
