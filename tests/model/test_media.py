"""Audio and video go wherever an image goes: every form, mixed batches, routes by modality, training, bad items."""

import json
from pathlib import Path

import numpy as np
import pytest
from datasets import Audio, Dataset

from fixtures.recordings import clip, frames, tone, wav
from omnitune import (
    MediaPolicy,
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
    losses,
)
from omnitune.errors import DatasetError, InputError, MediaError, MediaRefusedError
from omnitune.modules import Pooling, Router, Transformer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three recordings and three clips with sound."""
    root = tmp_path_factory.mktemp("media")
    for i, hertz in enumerate((220, 500, 1100)):
        (root / f"{i}.wav").write_bytes(wav(tone(hertz, 0.6 + 0.2 * i)))
        clip(root / f"{i}.mp4", frames(24 + i, seed=i), sound=tone(hertz, 2.0))
    return root


@pytest.fixture(scope="module")
def omni(tiny_qwen2_5_omni):
    return SentenceTransformer(str(tiny_qwen2_5_omni), device="cpu")


def close(one, other):
    np.testing.assert_allclose(one, other, atol=2e-5)


def test_all_forms_encode_alike(omni, folder):
    path = folder / "0.wav"
    vectors = omni.encode([path, str(path), path.read_bytes(), {"audio": path}, {"bytes": path.read_bytes()}])
    close(vectors, vectors[:1].repeat(5, 0))
    path = folder / "0.mp4"
    vectors = omni.encode([path, path.read_bytes(), {"video": str(path)}])
    close(vectors, vectors[:1].repeat(3, 0))


def test_a_batch_of_all_kinds_is_each_alone(omni, folder):
    items = [
        "a pump",
        folder / "0.wav",
        folder / "1.mp4",
        {"video": folder / "1.mp4", "audio": folder / "1.mp4"},
        {"text": "a valve", "audio": folder / "2.wav"},
        [{"role": "user", "content": [{"type": "audio", "audio": str(folder / "1.wav")}]}],
    ]
    together = omni.encode(items)
    close(together, np.stack([omni.encode(item) for item in items]))
    distances = np.linalg.norm(together[:, None] - together[None], axis=-1) + np.eye(len(items))
    assert distances.min() > 0.05


def test_the_sound_of_a_clip_counts(omni, folder):
    alone, with_sound = omni.encode(
        [{"video": folder / "1.mp4"}, {"video": folder / "1.mp4", "audio": folder / "0.wav"}]
    )
    other = omni.encode({"video": folder / "1.mp4", "audio": folder / "2.wav"})
    assert min(np.abs(alone - with_sound).max(), np.abs(with_sound - other).max()) > 1e-3  # few tokens among many


def test_sound_is_asked_for_by_name(omni, folder):
    with pytest.raises(InputError, match='load_audio_from_video: expected False.*"audio": "clip.mp4"'):
        omni.encode([folder / "0.mp4"], processing_kwargs={"video": {"load_audio_from_video": True}})


def test_the_number_of_frames_can_be_asked_for(tiny_qwen3_vl, folder):
    model = SentenceTransformer(str(tiny_qwen3_vl), device="cpu")
    for asked, frame_pairs in ({"num_frames": 4}, 2), ({"num_frames": 8}, 4):
        features = model.preprocess([folder / "0.mp4"], processing_kwargs={"video": asked})
        assert features["video_grid_thw"][0, 0] == frame_pairs


def test_routes_by_modality(tiny_clap, tiny_xclip, folder):
    routes = {"text": tiny_clap, "audio": tiny_clap, "video": tiny_xclip}
    model = SentenceTransformer(
        modules=[Router({kind: [Transformer(str(path))] for kind, path in routes.items()}, default_route="text")],
        device="cpu",
    )
    items = ["a pump", folder / "0.wav", folder / "0.mp4", folder / "1.wav"]
    vectors = model.encode(items)
    hearing, seeing = (SentenceTransformer(str(path), device="cpu") for path in (tiny_clap, tiny_xclip))
    close(vectors[[0, 1, 3]], hearing.encode([items[0], items[1], items[3]]))
    close(vectors[2], seeing.encode(items[2]))
    rule = model.cost_rule
    assert (rule.audio, rule.video.sampling.num_frames) == (hearing.cost_rule.audio, 8)


def test_padding_of_waveforms_does_not_count(tiny_wav2vec2):
    model = SentenceTransformer(str(tiny_wav2vec2), device="cpu")
    short, long = tone(300, 0.5), tone(800, 0.9)
    together = model.encode([short, long])
    close(together, np.stack([model.encode(short), model.encode(long)]))
    assert np.abs(together[0] - together[1]).max() > 0.05


@pytest.mark.parametrize("name", ["tiny_clap", "tiny_qwen2_5_omni"])
def test_the_limit_of_texts_does_not_cut_recordings(request, name, folder, tmp_path):
    """A tokenizer's file remembers the limit of its last call, and processors hand it to the feature extractor."""
    model = SentenceTransformer(str(request.getfixturevalue(name)), device="cpu")
    sounds = [folder / "2.wav", {"array": tone(300, 0.9, 48_000), "sampling_rate": 48_000}]
    vectors = model.encode(sounds)
    model.encode(["a pump"])
    model.save_pretrained(str(tmp_path / "ours"))
    model.encode(["a pump"])
    model.save_pretrained(str(tmp_path / "others"))
    model.encode(["a pump"])
    model[0].processor.save_pretrained(str(tmp_path / "others"))
    limited = [
        json.loads((tmp_path / by / "tokenizer.json").read_text())["truncation"] is not None
        for by in ("ours", "others")
    ]
    assert limited == [False, True]
    for by in ("ours", "others"):
        close(SentenceTransformer(str(tmp_path / by), device="cpu").encode(sounds), vectors)


def test_costs_follow_length(omni, folder):
    rule = omni.cost_rule
    assert rule.audio.cost(4.0) == 2 * rule.audio.cost(2.0) == 200
    plan = omni.engine.plan([_column([folder / "0.wav", folder / "2.wav", folder / "0.wav"])], mini_batch_size=1)
    assert plan.distinct == 2
    assert plan.mini_batches[0].items == [folder / "2.wav"]
    assert plan.mini_batches[0].cost > plan.mini_batches[1].cost


def _column(items):
    from omnitune.types import Column

    return Column(name="audio", items=items, rows=[7, 8, 9], dataset="calls")


def test_an_unreadable_item_has_its_place(omni, folder, tmp_path):
    (tmp_path / "cut.wav").write_bytes((folder / "0.wav").read_bytes()[:5000])
    content = (folder / "0.mp4").read_bytes()
    (tmp_path / "torn.mp4").write_bytes(content[:4000] + bytes(4000) + content[8000:])
    for name in ("cut.wav", "torn.mp4"):  # one broken at its head, one further on
        with pytest.raises(MediaError, match=f"^dataset 'calls', row 8, column 'audio': .*{name}: .*") as error:
            plan = omni.engine.plan([_column([folder / "0.wav", tmp_path / name, folder / "1.wav"])])
            list(omni.engine.prepare(plan.mini_batches))
        assert "\n" not in str(error.value)


def _trainer(path: Path, dataset: Dataset, output: Path, **settings):
    model = SentenceTransformer(modules=[Transformer(str(path)), Pooling(32)], device="cpu")
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(output), report_to="none", use_cpu=True, disable_tqdm=True, save_strategy="no", max_steps=2,
        per_device_train_batch_size=2, **settings,
    )  # fmt: skip
    loss = losses.MultipleNegativesRankingLoss(model)
    return SentenceTransformerTrainer(model=model, args=arguments, train_dataset=dataset, loss=loss)


def test_a_bad_recording_stops_training_or_is_left_out(tiny_whisper, folder, tmp_path):
    (tmp_path / "cut.wav").write_bytes((folder / "0.wav").read_bytes()[:5000])
    paths = [str(folder / "0.wav"), str(tmp_path / "cut.wav"), str(folder / "2.wav"), str(folder / "1.wav")]
    dataset = Dataset.from_dict({"query": [str(folder / "1.wav")] * 4, "sound": paths}).cast_column("sound", Audio())
    with pytest.raises(DatasetError, match="row 1, column 'sound': .*cut.wav: truncated") as error:
        _trainer(tiny_whisper, dataset, tmp_path).train()
    assert str(error.value).startswith("1 item(s) cannot be used")
    trainer = _trainer(tiny_whisper, dataset, tmp_path, on_bad_item="skip")
    assert trainer.train().global_step == 2


def test_a_model_without_local_files_does_not_say_which_there_are(omni, folder, monkeypatch):
    monkeypatch.setattr(omni, "media_policy", MediaPolicy(allow_local_files=False))
    for path in (folder / "0.wav", folder / "none.wav"):
        for item in (
            path,
            {"audio": str(path)},
            [{"role": "user", "content": [{"type": "audio", "audio": str(path)}]}],
        ):
            with pytest.raises(MediaRefusedError, match="forbids local files"):
                omni.encode([item])
            with pytest.raises(MediaRefusedError, match="forbids local files"):
                omni.content_key(item)
