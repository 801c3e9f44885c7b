"""Two ranks check a dataset together: each loads its share, both know all that is bad, and slow ones are waited for."""

import io
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from fixtures.ranks import run_on_two_ranks


def check(model_path: str, folder: Path) -> dict[str, Any]:
    from datasets import Dataset, Features, Image, Value
    from PIL import Image as Pillow

    from omnitune import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments, losses
    from omnitune.data import check as checks
    from omnitune.training import source

    rows = []
    for i in range(12):
        buffer = io.BytesIO()
        Pillow.new("RGB", (20, 20), (i, 0, 0)).save(buffer, "PNG")
        content = buffer.getvalue()
        rows.append({"bytes": content[: len(content) // 2] if i in (3, 8) else content, "path": None})
    features = Features({"query": Value("string"), "page": Image(), "label": Value("float32")})
    columns = {"query": [f"word{i}" for i in range(12)], "page": rows, "label": [None] + [0.5] * 11}
    data = Dataset.from_dict(columns, features=features)
    loaded = []
    real = source.load_through

    def load(modules: Any, item: Any, *rest: Any) -> Any:
        loaded.append(item)
        if os.environ["RANK"] == "1":
            time.sleep(0.2)
        return real(modules, item, *rest)

    source.load_through = load
    checks.ANSWER_SECONDS = 0.1
    checks.CHUNK = checks.WINDOW = 1
    model = SentenceTransformer(model_path, device="cpu")
    args = SentenceTransformerTrainingArguments(
        output_dir=str(folder), report_to=[], disable_tqdm=True, use_cpu=True, save_strategy="no", max_steps=1,
        per_device_train_batch_size=4, dataloader_drop_last=True, dataloader_pin_memory=False, on_bad_item="skip",
    )  # fmt: skip
    trainer = SentenceTransformerTrainer(
        model=model, args=args, train_dataset=data, loss=losses.CosineSimilarityLoss(model)
    )
    trainer.train()
    return {"loaded": len(loaded), "skipped": [str(item)[:30] for item in trainer.skipped_items]}


@pytest.mark.slow
def test_each_rank_loads_its_share(clip: Path, tmp_path: Path) -> None:
    first, second = run_on_two_ranks(__file__, tmp_path, clip)
    assert first["skipped"] == second["skipped"]
    assert [place.split(":")[0] for place in first["skipped"]] == [
        "row 3, column 'page'", "row 8, column 'page'", "row 0, column 'label'",
    ]  # fmt: skip
    assert first["loaded"] == second["loaded"] == 12


if __name__ == "__main__":
    torch.set_num_threads(1)
    target = Path(sys.argv[-1])
    result = check(sys.argv[1], target)
    (target / f"rank{os.environ['RANK']}.json").write_text(json.dumps(result))
