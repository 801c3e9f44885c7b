"""The model card: what it says, and that rendering touches nothing."""

import dataclasses
import inspect
from types import SimpleNamespace

import pytest
import yaml

from omnitune.report import card
from omnitune.report.card import CrossEncoderModelCardData, SentenceTransformerModelCardData
from omnitune.report.facts import DatasetFacts, ModelFacts, TrainingFacts

FACTS = ModelFacts(
    family="SentenceTransformer",
    size=384,
    max_seq_length=256,
    similarity="cosine",
    modalities=["text", "image"],
    architecture="SentenceTransformer(...)",
    prompts={"query": "Find: "},
)


class RetrievalEvaluator:
    name = "pages"
    primary_metric = "pages_cosine_ndcg@10"
    description = "Information Retrieval"

    def get_config_dict(self) -> dict[str, int]:
        return {"truncate_dim": 64}


def trained() -> SentenceTransformerModelCardData:
    data = SentenceTransformerModelCardData(language="en", license="apache-2.0", model_id="owner/pages")
    data.set_base_model("nreimers/MiniLM")
    data.training = TrainingFacts(
        datasets=[
            DatasetFacts(
                name=None, kind="training", rows=1200, columns=["query", "page"], label=None,
                loss="MultipleNegativesRankingLoss", loss_config={"scale": 20.0},
            )
        ],
        arguments={"learning_rate": 3e-5},
        citations={"MultipleNegativesRankingLoss": "@misc{oord}"},
        negatives=["Each query sees 63 negatives."],
        seconds=90.0,
        best_step=20,
    )  # fmt: skip
    data.training.record(10, 0.5, {"Training Loss": 1.25})
    data.training.record(20, 1.0, {"Training Loss": 1.0})
    data.set_evaluation_metrics(
        RetrievalEvaluator(), {"pages_cosine_ndcg@10": 0.5678, "pages_cosine_map@100": 0.5}, epoch=1.0, step=20
    )
    return data


def front(text: str) -> dict[str, object]:
    _, header, _ = text.split("---\n", 2)
    found = yaml.safe_load(header)
    assert isinstance(found, dict)
    return found


def test_front_matter_is_what_the_hub_reads() -> None:
    found = front(card.render(trained(), FACTS))
    assert found["library_name"] == "sentence-transformers"
    assert found["base_model"] == "nreimers/MiniLM"
    assert found["license"] == "apache-2.0" and found["language"] == ["en"]
    assert found["pipeline_tag"] == "sentence-similarity"
    assert found["metrics"] == ["map", "ndcg"]
    assert {"sentence-transformers", "sentence-similarity", "feature-extraction", "omnitune"} <= set(found["tags"])
    assert {"dataset_size:1200", "loss:MultipleNegativesRankingLoss"} <= set(found["tags"])
    metric = found["model-index"][0]["results"][0]["metrics"][0]
    assert metric == {"type": "ndcg", "value": 0.5678, "name": "Cosine NDCG@10"}


def test_the_hub_accepts_it() -> None:
    from huggingface_hub import ModelCard

    loaded = ModelCard(card.render(trained(), FACTS))
    assert loaded.data.eval_results[0].metric_value == 0.5678


def test_metrics_that_are_no_numbers_are_shown_and_not_indexed() -> None:
    data = SentenceTransformerModelCardData()
    data.training = TrainingFacts()
    metrics = {"pages_cosine_ndcg@10": "n/a", "pages_worst_query": "bread", "pages_ranks": [1, 2], "pages_recall": 0.5}
    data.set_evaluation_metrics(RetrievalEvaluator(), metrics)
    text = card.render(data, FACTS)
    assert "| worst_query | bread |" in text and "| ranks | [1, 2] |" in text and "| recall | 0.5000 |" in text
    (result,) = front(text)["model-index"][0]["results"]
    assert [one["name"] for one in result["metrics"]] == ["Recall"] and not data.training.log


def test_a_model_that_only_omnitune_loads_says_so_and_shows_how_to_search() -> None:
    text = card.render(trained(), dataclasses.replace(FACTS, own_modules=["TextReader"]))
    assert "Its `TextReader` cannot be loaded by sentence_transformers: use omnitune" in text
    assert "or: from sentence_transformers import" not in text and "in the Sentence Transformers format" not in text
    assert 'omnitune search owner/pages dataset "How often' in text
    found = front(text)
    assert found["library_name"] == "omnitune" and "sentence-transformers" not in found["tags"]


def test_escape_characters_do_not_reach_the_card() -> None:
    text = card.render(SentenceTransformerModelCardData(model_name="a\x1b[2J\u202e"), FACTS)
    assert "# a\\x1b[2J\\u202e" in text and "\x1b" not in text


def test_text_tells_of_model_training_and_evaluation() -> None:
    text = card.render(trained(), FACTS)
    for part in (
        "# owner/pages",
        "384-dimensional",
        'SentenceTransformer("owner/pages")',
        "from omnitune import SentenceTransformer  # or: from sentence_transformers import SentenceTransformer",
        'encode_document(["page.png"])',
        "| **cosine_ndcg@10** | 0.5678 |",
        "- Rows: 1,200",
        "`MultipleNegativesRankingLoss`, `scale`: 20.0",
        "- `learning_rate`: 3e-05",
        "| 0.5000 | 10 | 1.2500 | - |",
        "| **1.0000** | **20** | **1.0000** | **0.5678** |",
        "Each query sees 63 negatives.",
        "Training took 1 min 30 s.",
        "@misc{oord}",
        "- **Prompt `query`:** `'Find: '`",
    ):
        assert part in text, part


def test_an_untrained_model_has_a_short_card() -> None:
    text = card.render(SentenceTransformerModelCardData(), dataclasses.replace(FACTS, modalities=["text"]))
    assert "## Training" not in text and "## Evaluation" not in text and "## Citations" not in text
    assert "page.png" not in text
    assert "base_model" not in front(text) and "model-index" not in front(text)


def test_a_rerankers_card_says_what_it_is_for() -> None:
    text = card.render(CrossEncoderModelCardData(), dataclasses.replace(FACTS, family="CrossEncoder"))
    assert front(text)["tags"] == ["sentence-transformers", "cross-encoder", "reranker", "omnitune"]
    assert "reranking of search results" in text and "CrossEncoder(" in text


def test_a_folder_is_no_repository(tmp_path) -> None:
    data = SentenceTransformerModelCardData()
    data.set_base_model(str(tmp_path))
    text = card.render(data, FACTS)
    assert "base_model" not in front(text)
    assert f"finetuned from `{tmp_path.name}`" in text


def test_a_long_log_is_thinned_and_keeps_the_best_step() -> None:
    data = trained()
    assert data.training is not None
    data.training.log.clear()
    for step in range(1, 1001):
        data.training.record(step, step / 1000, {"Training Loss": 1.0})
    rows = [line for line in card.render(data, FACTS).splitlines() if "1.0000 |" in line or "**1.0000**" in line]
    assert len(rows) <= card.LOG_ROWS + 1 and any("**20**" in row for row in rows)


def test_writing_leaves_the_models_data_alone(tmp_path) -> None:
    data = trained()
    model = SimpleNamespace(
        model_card_data=data, family=SimpleNamespace(name="SentenceTransformer"), max_seq_length=None,
        modalities=["text"], prompts={}, similarity_fn_name="cosine", output_size=8,
    )  # fmt: skip
    card.write(model, tmp_path, model_name="Pages", train_datasets=["manuals"])
    text = (tmp_path / "README.md").read_text()
    assert text.count("# Pages") == 1 and "manuals" in text and "@misc{oord}" in text
    assert data.model_name is None and data.train_datasets == []


def test_tags_are_added_once() -> None:
    data = SentenceTransformerModelCardData()
    data.add_tags("mine")
    data.add_tags(["mine", "dense"])
    assert data.tags[-2:] == ["dense", "mine"]


@pytest.mark.parity
def test_constructor_has_the_same_arguments() -> None:
    from sentence_transformers import SentenceTransformerModelCardData as Theirs

    ours, theirs = (inspect.signature(c).parameters for c in (SentenceTransformerModelCardData, Theirs))
    assert list(ours) == list(theirs)
    left, right = SentenceTransformerModelCardData(), Theirs()
    assert all(getattr(left, name) == getattr(right, name) for name in ours)
