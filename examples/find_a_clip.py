"""Find a clip by a sentence: a small X-CLIP learns from clips that this script draws, and is measured on others.

A square of some colour moves in some direction over noise. Six of the 24 pairs of colour and direction are never
trained on: the test asks for their clips by sentences that the model has not seen.

    pip install 'omnitune[video]'
    python examples/find_a_clip.py
"""

import itertools
import tempfile
from pathlib import Path

import av
import numpy as np
import torch
import transformers
from measured import finetuned, report
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

from omnitune import SentenceTransformer
from omnitune.evaluation import InformationRetrievalEvaluator
from omnitune.ops.significance import Comparison

COLOURS = {
    "red": (230, 40, 40), "green": (40, 220, 40), "blue": (50, 60, 240), "yellow": (235, 225, 40),
    "white": (250, 250, 250), "purple": (200, 40, 210),
}  # fmt: skip
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
SIDE, FRAMES, SQUARE = 32, 8, 10
TRAIN_CLIPS, TEST_CLIPS = 16, 4
"""Clips drawn of every pair."""


def caption(colour: str, direction: str) -> str:
    return f"a {colour} square moves {direction}"


def draw(path: Path, colour: str, direction: str, rng: np.random.Generator) -> str:
    """Encode a clip whose square starts anywhere from which it can move on."""
    step = np.array(DIRECTIONS[direction]) * 2
    room = SIDE - SQUARE
    start = rng.integers(0, room - 2 * FRAMES + 3, 2) + np.where(step < 0, 2 * FRAMES - 2, 0)
    ground = rng.integers(0, 100, (SIDE, SIDE, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=FRAMES)
        stream.width = stream.height = SIDE
        stream.pix_fmt, stream.bit_rate = "yuv420p", 1_000_000
        for number in range(FRAMES):
            x, y = start + step * number
            picture = ground.copy()
            picture[y : y + SQUARE, x : x + SQUARE] = COLOURS[colour]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return str(path)


def untrained(folder: Path) -> Path:
    """An X-CLIP of some 100,000 random weights that knows the words of the captions."""
    words = Tokenizer(models.WordLevel(unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    sentences = [caption(*pair) for pair in itertools.product(COLOURS, DIRECTIONS)]
    words.train_from_iterator(sentences, trainers.WordLevelTrainer(special_tokens=["<pad>", "<unk>", "<s>", "</s>"]))
    words.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 3)])
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>",
        model_max_length=12,
    )  # fmt: skip
    images = transformers.VideoMAEImageProcessor(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
    )
    layers = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = transformers.XCLIPConfig(
        text_config={
            **layers, "vocab_size": len(tokenizer), "max_position_embeddings": 12, "bos_token_id": 2, "eos_token_id": 3,
            "pad_token_id": 0,
        },
        vision_config={
            **layers, "image_size": SIDE, "patch_size": 8, "num_frames": FRAMES, "mit_hidden_size": 48,
            "mit_intermediate_size": 96, "mit_num_hidden_layers": 2, "mit_num_attention_heads": 4,
            "drop_path_rate": 0.0,
        },
        projection_dim=48, prompt_layers=1, prompt_num_attention_heads=4,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.XCLIPModel(config).save_pretrained(folder)
    transformers.XCLIPProcessor(images, tokenizer).save_pretrained(folder)
    return folder


def main(folder: Path, epochs: int = 12) -> Comparison:
    """NDCG@10 on the held-out clips, before and after training."""
    rng = np.random.default_rng(0)
    pairs = [*itertools.product(COLOURS, DIRECTIONS)]
    held_out = {pairs[i] for i in (0, 5, 10, 15, 17, 22)}
    rows = [
        {"query": caption(*pair), "clip": draw(folder / f"train-{'-'.join(pair)}-{i}.mp4", *pair, rng)}
        for pair in pairs
        if pair not in held_out
        for i in range(TRAIN_CLIPS)
    ]
    tests = {
        pair: [draw(folder / f"test-{'-'.join(pair)}-{i}.mp4", *pair, rng) for i in range(TEST_CLIPS)] for pair in pairs
    }
    evaluator = InformationRetrievalEvaluator(
        queries={caption(*pair): caption(*pair) for pair in held_out},
        corpus={path: path for paths in tests.values() for path in paths},
        relevant_docs={caption(*pair): set(tests[pair]) for pair in held_out},
        name="clips",
    )
    model = SentenceTransformer(str(untrained(folder / "untrained")), device="cpu")
    settings = {"num_train_epochs": epochs, "per_device_train_batch_size": 16, "learning_rate": 2e-3}
    return finetuned(model, rows, evaluator, folder / "run", **settings)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        print(report(main(Path(made))))
