"""The gate against a server."""

from pathlib import Path
from typing import Any

import pytest

from fixtures.servers import running
from omnitune import CrossEncoder, SentenceTransformer
from omnitune.errors import InputError
from omnitune.export.gate import Items, check, items_of
from omnitune.export.targets import ServedTarget
from omnitune.serve.served import Served


def test_a_server_passes_and_with_swapped_prompts_fails(st_dense: Path, tiny_bert: Path) -> None:
    encoders = [SentenceTransformer(str(st_dense), device="cpu") for _ in range(2)]
    reranker = CrossEncoder(str(tiny_bert), num_labels=1, device="cpu")
    with running(Served("model", encoder=encoders[0], reranker=reranker)) as (url, _):
        passed = check(encoders[1], ServedTarget(url), items_of(None))
        assert passed.passed, passed.rows()
        scored = check(reranker, ServedTarget(url), items_of(None))
        assert scored.passed, scored.rows()
        encoders[0].prompts = {"query": "document: ", "document": "query: "}
        swapped = check(encoders[1], ServedTarget(url), items_of(None))
        assert [one.name for one in swapped.checks if not one.passed] == ["query vectors", "document vectors"]
    with pytest.raises(InputError, match="TARGET: expected a server at http"):
        ServedTarget(url).encode(["a"], "query")


def test_page_images_are_sent_as_bytes(tiny_clip: Path, page_images: list[Any], tmp_path: Path) -> None:
    served, towers = (SentenceTransformer(str(tiny_clip), device="cpu") for _ in range(2))
    pages = []
    for number, image in enumerate(page_images[:3]):
        image.save(tmp_path / f"{number}.png")
        pages.append({"path": str(tmp_path / f"{number}.png"), "bytes": None})
    with running(Served("model", encoder=served)) as (url, _):
        verdict = check(towers, ServedTarget(url), Items(queries=["a page"], documents=pages))
    assert verdict.passed, verdict.rows()
