"""The word "embedded" is MiniLM for every family and module; of a wrong name, each says the near one."""

from pathlib import Path

import numpy as np
import pytest

from omnitune import CrossEncoder, MultiVectorEncoder, SentenceTransformer, SparseEncoder
from omnitune.errors import CheckpointNotFoundError
from omnitune.modules import Transformer

FAMILIES = [SentenceTransformer, MultiVectorEncoder, SparseEncoder, CrossEncoder]


@pytest.mark.parametrize("family", FAMILIES[1:])
def test_every_family_takes_the_word(minilm: Path, family: type, tmp_path: Path) -> None:
    model = family("embedded", device="cpu")
    assert model.model_card_data.base_model == "sentence-transformers/all-MiniLM-L6-v2"
    given = model.rank("a cat", ["a dog", "a car"]) if family is CrossEncoder else model.encode(["a cat", "a dog"])
    assert len(given) == 2
    # peft names an adapter's base by it, and knows no embedded model.
    assert Path(model.transformers_model.config.name_or_path) == minilm


def test_late_interaction_begins_without_a_new_weight(minilm: Path, caplog: pytest.LogCaptureFixture) -> None:
    given = MultiVectorEncoder("embedded", device="cpu").encode("a cat", convert_to_numpy=True)
    known = MultiVectorEncoder.from_dense(str(minilm), device="cpu").encode("a cat", convert_to_numpy=True)
    np.testing.assert_allclose(given, known, atol=1e-6)
    assert not caplog.records


@pytest.mark.parametrize("family", [*FAMILIES, Transformer])
def test_every_family_says_the_near_name(family: type) -> None:
    with pytest.raises(CheckpointNotFoundError, match=r"did you mean 'embedded'\?"):
        family("embeded")
