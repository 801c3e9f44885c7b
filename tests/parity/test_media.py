"""Audio and video give what Sentence Transformers gives: embeddings, features, and a training run's losses."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset

from fixtures.agree import agree
from fixtures.recordings import frames, tone
from fixtures.words import sentences
from omnitune.errors import MediaError
from parity.test_training import Run, assert_same_run, train

__all__ = ["train"]

pytestmark = pytest.mark.parity

RATES = {"tiny_clap": 48_000, "saved_whisper": 16_000, "tiny_qwen2_5_omni": 16_000}
CLIPS = ("tiny_qwen3_vl", "tiny_qwen2_5_omni", "tiny_videomae")


@pytest.fixture(scope="session")
def saved_whisper(tiny_whisper: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Saved by omnitune, as of a whole Whisper Sentence Transformers loads the encoder without its weights."""
    import omnitune

    folder = tmp_path_factory.mktemp("whisper")
    omnitune.SentenceTransformer(str(tiny_whisper), device="cpu").save(str(folder))
    return folder


def recordings(name: str, count: int = 5) -> list[dict[str, Any]]:
    rate = RATES[name]
    return [{"array": tone(200.0 * 1.7**i, 0.4 + 0.1 * (i % 3), rate), "sampling_rate": rate} for i in range(count)]


def clips(name: str, count: int = 4) -> list[dict[str, Any]]:
    """In memory, as Sentence Transformers reads no files without torchcodec."""
    lengths = [8] * count if name == "tiny_videomae" else [24 + 4 * i for i in range(count)]
    return [
        {"array": frames(n, seed=i), "video_metadata": {"total_num_frames": n, "fps": 12.0, "duration": n / 12}}
        for i, n in enumerate(lengths)
    ]


def same(pair: Any, items: list[Any], **options: Any) -> Any:
    ours, theirs = (model.encode(items, **options) for model in pair)
    agree(ours, theirs, atol=2e-5)
    assert np.ptp(ours, axis=0).mean() > 0.02
    return ours


@pytest.mark.parametrize("name", [*RATES, "tiny_videomae"])
def test_models_look_the_same(request: pytest.FixtureRequest, both: Callable[..., Any], name: str) -> None:
    ours, theirs = both(request.getfixturevalue(name))
    assert ours.modalities == theirs.modalities
    assert ours.get_embedding_dimension() == theirs.get_embedding_dimension()
    assert list(ours.state_dict()) == list(theirs.state_dict())


@pytest.mark.parametrize("name", [*RATES])
def test_recordings(request: pytest.FixtureRequest, both: Callable[..., Any], name: str) -> None:
    pair = both(request.getfixturevalue(name))
    items = recordings(name)
    vectors = same(pair, items)
    np.testing.assert_allclose(same(pair, [{"audio": item} for item in items]), vectors, atol=2e-5)
    same(pair, [item["array"] for item in items], batch_size=2)


def test_waveforms_one_by_one(tiny_wav2vec2: Path, both: Callable[..., Any]) -> None:
    """In a batch, Sentence Transformers pools the padding of shorter ones too, which changes their embeddings."""
    pair = both(tiny_wav2vec2)
    items = [{"array": tone(200.0 * 1.7**i, 0.4 + 0.1 * i), "sampling_rate": 16_000} for i in range(4)]
    vectors = same(pair, items, batch_size=1)
    ours, theirs = (model.encode(items) for model in pair)
    np.testing.assert_allclose(ours, vectors, atol=2e-5)
    assert np.abs(theirs - vectors).max() > 0.1


@pytest.mark.parametrize("name", CLIPS)
def test_clips(request: pytest.FixtureRequest, both: Callable[..., Any], name: str) -> None:
    pair = both(request.getfixturevalue(name))
    items = clips(name)
    same(pair, items, batch_size=2)
    bare = [item["array"] for item in items]
    if name != "tiny_qwen2_5_omni":
        same(pair, bare)
        return
    for model, error in zip(pair, (MediaError, ValueError), strict=True):
        with pytest.raises(error, match="no video metadata was provided"):
            model.encode(bare)


def test_a_clip_with_its_sound_and_batches_of_all_kinds(tiny_qwen2_5_omni: Path, both: Callable[..., Any]) -> None:
    pair = both(tiny_qwen2_5_omni)
    video, sound = clips("tiny_qwen2_5_omni", 2), recordings("tiny_qwen2_5_omni", 2)
    same(pair, [{"video": v, "audio": a} for v, a in zip(video, sound, strict=True)])
    same(pair, [{"text": t, "audio": a} for t, a in zip(sentences(2), sound, strict=True)])
    same(pair, ["a pump", {"audio": sound[0]}, {"video": video[0]}, {"text": "a valve", "audio": sound[1]}])


def test_features(tiny_qwen3_vl: Path, both: Callable[..., Any]) -> None:
    ours, theirs = (model.preprocess(clips("tiny_qwen3_vl")) for model in both(tiny_qwen3_vl))
    for key in ("input_ids", "attention_mask", "pixel_values_videos", "video_grid_thw", "num_videos_per_sample"):
        agree(ours[key], theirs[key])


@pytest.mark.parametrize("name", ["tiny_clap", "saved_whisper", "tiny_qwen2_5_omni", "tiny_qwen3_vl"])
def test_training(request: pytest.FixtureRequest, train: Callable[..., Run], name: str) -> None:
    media = recordings(name, 12) if name in RATES else clips(name, 12)

    def data() -> dict[str, Any]:
        rows = Dataset.from_dict({"query": [*range(12)], "positive": [*range(12)]})
        queries = [*reversed(media)] if name == "saved_whisper" else sentences(12, seed=4)

        def filled(batch: dict[str, list[int]]) -> dict[str, list[Any]]:
            return {"query": [queries[i] for i in batch["query"]], "positive": [media[i] for i in batch["positive"]]}

        rows.set_transform(filled)
        return {"train": rows}

    def make_loss(losses: Any, model: Any) -> Any:
        return losses.MultipleNegativesRankingLoss(model)

    settings = {"per_device_train_batch_size": 4, "num_train_epochs": 1, "learning_rate": 1e-3}
    assert_same_run(train, request.getfixturevalue(name), data, make_loss, media, steps=3, **settings)
