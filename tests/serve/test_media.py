"""Recordings and clips over the API, in every spelling: the vectors are those of `encode`."""

import base64
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("starlette", reason="the extra `serve` is not installed")
pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")

from fixtures.recordings import clip, frames, tone, wav
from fixtures.servers import error, post, running
from omnitune import SentenceTransformer
from omnitune.serve.served import Served


def test_recordings_and_clips_in_every_spelling(tiny_qwen2_5_omni: Path, tmp_path: Path) -> None:
    model = SentenceTransformer(str(tiny_qwen2_5_omni), device="cpu")
    sound = wav(tone(440, 0.6))
    seen = clip(tmp_path / "a.mp4", frames(24, side=56), sound=tone(220, 2.0)).read_bytes()
    audio, video = (f"data:{kind};base64,{base64.b64encode(held).decode()}"
                    for kind, held in (("audio/wav", sound), ("video/mp4", seen)))  # fmt: skip
    heard, shown = model.encode_document([{"audio": sound}, {"video": seen}])
    both = model.encode_document([{"text": "a pump", "video": seen}])[0]
    asked = model.encode_query([{"audio": sound}])[0]
    spoken = {"type": "input_audio", "input_audio": {"data": base64.b64encode(sound).decode(), "format": "wav"}}
    part = {"type": "video_url", "video_url": {"url": video}}
    with running(Served("omni", encoder=model)) as (url, _):
        openai, cohere = f"{url}/v1/embeddings", f"{url}/v2/embed"
        alone = post(openai, input={"audio": audio})["data"][0]["embedding"]
        assert np.array_equal(np.float32(alone), model.encode_document({"audio": sound}))  # bit for bit
        mixed = [{"audio": audio}, "a pump", {"video": video}, {"content": [{"type": "text", "text": "a pump"}, part]}]
        found = [row["embedding"] for row in post(openai, input=mixed)["data"]]
        np.testing.assert_allclose(found, [heard, model.encode_document("a pump"), shown, both], atol=1e-6)
        for body, expected in (
            ({"input": [{"content": [spoken]}]}, heard),
            (
                {"input": [{"content": [{"type": "audio_url", "audio_url": {"url": audio}}]}], "input_type": "query"},
                asked,
            ),
            ({"messages": [{"role": "user", "content": [part]}]}, shown),
        ):
            np.testing.assert_allclose(post(openai, **body)["data"][0]["embedding"], expected, atol=1e-6)
        held = post(cohere, inputs=[{"content": [spoken]}, {"content": [part]}], input_type="search_document")
        np.testing.assert_allclose(held["embeddings"]["float"], [heard, shown], atol=1e-6)
        ranked = post(f"{url}/rerank", query={"audio": audio}, documents=[{"video": video}, "a pump"])["results"]
        pairs = np.array([shown, model.encode_document("a pump")])
        scores = model.similarity(asked[None], pairs)[0].numpy()
        assert [one["index"] for one in ranked] == list(np.argsort(-scores))
        np.testing.assert_allclose([one["relevance_score"] for one in ranked], -np.sort(-scores), atol=1e-6)
        list_of_others = b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1/a.ts\n#EXTINF:1,\nfile:///etc/passwd\n"
        playlist = f"data:video/mp4;base64,{base64.b64encode(list_of_others).decode()}"
        assert "no video that can be read" in error(openai, input=[{"video": playlist}])
        for place in ("http://169.254.169.254/a.wav", "file:///etc/passwd", "/etc/passwd"):
            for kind in ("audio", "video"):
                assert "opens no address and no file" in error(openai, input=[{kind: place}])
                content = [{"type": f"{kind}_url", f"{kind}_url": {"url": place}}]
                assert "opens no address and no file" in error(
                    cohere, inputs=[{"content": content}], input_type="image"
                )
