"""A run's pools hold every stage that its model can serve."""

from pathlib import Path

import numpy as np

from fixtures.tiny_pdfs import write_folder
from omnitune import MultiVectorEncoder, Retriever
from omnitune.documents import prepare
from omnitune.finetune.candidates import candidates_for
from omnitune.finetune.choose import ModelChoice
from omnitune.finetune.measure import save_test
from omnitune.finetune.pools import Pools, Source
from omnitune.finetune.recipe import Recipe


def test_a_late_interaction_model_is_a_stage_on_the_page_images(tmp_path: Path, tiny_qwen3_vl: Path) -> None:
    MultiVectorEncoder(str(tiny_qwen3_vl)).save_pretrained(str(tmp_path / "late"))
    folder = write_folder(tmp_path / "in", ["garden", "kitchen"])
    dataset = prepare(folder, tmp_path / "data", width=112, test=["kitchen"], show_progress=False)
    recipe = Recipe().changed(model__model_name_or_path=str(tmp_path / "late"))
    chosen = ModelChoice(name=str(tmp_path / "late"), why="", recipe=recipe)
    save_test(tmp_path / "run" / "embeddings" / "base", np.eye(5, 8), np.eye(10, 8) + 1)  # of the dense stage beside it
    images = Source(reads="images")
    pool = Pools(chosen, dataset, tmp_path / "run").pool(images)
    names = [one.name for one in candidates_for(recipe.retriever, images, list(pool.stages), "page image")]
    assert "late interaction on the page image" in names and "dense on the page image" in names

    pool.only({"late": 1.0}).save(tmp_path / "retriever")
    hits = Retriever.open(tmp_path / "retriever").search("Baking rye bread", 10)
    model = MultiVectorEncoder(str(tmp_path / "late"))
    pages = model.encode_document([page["path"] for page in dataset.pages])
    right = model.similarity(model.encode_query(["Baking rye bread"]), pages)[0].tolist()
    scores = dict(zip(dataset.page_ids, right, strict=True))
    assert len(hits) == 10
    np.testing.assert_allclose([hit.score for hit in hits], [scores[hit.id] for hit in hits], rtol=0.02)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
