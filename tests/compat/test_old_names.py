"""Older spellings do what today's do, and warn as Sentence Transformers does."""

import copy
import importlib
import logging
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import omnitune
from omnitune import CrossEncoder, InputExample, SentenceTransformer, losses, models, renames, util
from omnitune.cross_encoder import losses as cross_losses
from omnitune.data_collator import SentenceTransformerDataCollator
from omnitune.datasets import NoDuplicatesDataLoader, ParallelSentencesDataset, SentenceLabelDataset
from omnitune.errors import InputError, MissingExtraError
from omnitune.models import Pooling, Transformer
from omnitune.quantization import quantize_embeddings, semantic_search_faiss, semantic_search_usearch
from omnitune.readers import LabelSentenceReader, NLIDataReader, PairedFilesReader, TripletReader

TEXTS = ["tea and rain", "a long walk", "rain on the roof", "cold tea"]


@pytest.fixture(scope="module")
def model(st_bert_legacy: Path) -> SentenceTransformer:
    return SentenceTransformer(str(st_bert_legacy), device="cpu")


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(renames, "_said", set())
    caplog.set_level(logging.WARNING, "omnitune")
    return caplog


def test_future_warnings(model: SentenceTransformer, st_bert_legacy: Path) -> None:
    with pytest.warns(FutureWarning, match="use get_embedding_dimension"):
        assert model.get_sentence_embedding_dimension() == 32
    with pytest.warns(FutureWarning, match="use get_embedding_dimension"):
        assert model[0].get_word_embedding_dimension() == 32
    with pytest.warns(FutureWarning, match="use truncate_embeddings"), model.truncate_sentence_embeddings(8):
        assert model.encode("a").shape == (8,)
    with pytest.warns(FutureWarning, match="use token"):
        SentenceTransformer(str(st_bert_legacy), use_auth_token=False)
    with pytest.warns(FutureWarning, match="use token"), pytest.raises(InputError, match="expected one of them"):
        SentenceTransformer(str(st_bert_legacy), use_auth_token="a", token="b")
    with pytest.warns(FutureWarning, match="pooling_mode"):
        assert Pooling(32, pooling_mode_cls_token=True).pooling_mode == "cls"
    with pytest.warns(DeprecationWarning, match="use SentenceTransformer"):
        SentenceTransformer.load(str(st_bert_legacy))


def test_arguments_under_older_names_are_said_once(
    model: SentenceTransformer, tiny_bert: Path, said: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        np.testing.assert_array_equal(model.encode(sentences=TEXTS), model.encode(TEXTS))
    assert said.text.count("SentenceTransformer.encode: the argument sentences is called inputs now") == 1
    reranker = CrossEncoder(str(tiny_bert), 1, 16, automodel_args={}, classifier_dropout=0.3)
    assert reranker.config.classifier_dropout == 0.3 and reranker.max_seq_length == 16
    ranked = reranker.rank("tea", TEXTS, convert_to_tensor=True)
    assert [one["corpus_id"] for one in ranked] == [one["corpus_id"] for one in reranker.rank("tea", TEXTS)]
    assert "CrossEncoder.rank: the argument convert_to_tensor has no effect any more" in said.text
    assert Transformer(str(tiny_bert), tokenizer_args={"model_max_length": 9}, cache_dir=None).max_seq_length == 9


def test_what_stays_out_says_what_to_use(model: SentenceTransformer) -> None:
    with pytest.raises(AttributeError, match="has no 'smart_batching_collate' on purpose: .*model.preprocess"):
        model.smart_batching_collate  # noqa: B018
    with pytest.raises(AttributeError, match="'all_gather' on purpose: use omnitune.ops.collectives"):
        util.all_gather  # noqa: B018
    with pytest.raises(AttributeError, match="'export_optimized_onnx_model' on purpose"):
        omnitune.export_optimized_onnx_model  # noqa: B018
    with pytest.raises(AttributeError, match="'LSTM' on purpose"):
        omnitune.models.LSTM  # noqa: B018
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        model.nothing  # noqa: B018
    assert not hasattr(model, "nothing") and not hasattr(model[-1], "get_word_embedding_dimension")


def test_pools_under_the_older_verb(model: SentenceTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}
    monkeypatch.setattr(SentenceTransformer, "encode", lambda self, inputs, **more: seen.update(more, inputs=inputs))
    with pytest.warns(DeprecationWarning, match="pool=pool"):
        model.encode_multi_process(TEXTS, {"p": 1}, "query", batch_size=2)
    assert seen == {"inputs": TEXTS, "pool": {"p": 1}, "prompt_name": "query", "batch_size": 2}


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
def test_fit_trains_as_sentence_transformers_does(
    st_bert_legacy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same weights after two epochs, on the same examples in the same order."""
    st = pytest.importorskip("sentence_transformers")
    monkeypatch.chdir(tmp_path)
    importlib.import_module("sentence_transformers.losses")
    found = []
    for library in (omnitune, st):
        encoder = library.SentenceTransformer(str(st_bert_legacy), device="cpu")
        examples = [library.InputExample(texts=[a, b], label=i / 16) for i, (a, b) in enumerate(
            (a, b) for a in TEXTS for b in TEXTS
        )]  # fmt: skip
        loss = library.losses.CosineSimilarityLoss(encoder)
        encoder.fit(
            [(DataLoader(examples, batch_size=4), loss)], epochs=2, warmup_steps=3, optimizer_params={"lr": 1e-3},
            show_progress_bar=False,
        )  # fmt: skip
        found.append(encoder.encode(TEXTS))
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)


def test_fit_refuses(model: SentenceTransformer) -> None:
    loss = losses.CosineSimilarityLoss(model)
    nothing: Any = DataLoader([], batch_size=2)  # type: ignore[arg-type, var-annotated]
    with pytest.raises(InputError, match="expected examples, got an empty data loader"):
        model.fit([(nothing, loss)])
    examples: Any = DataLoader([InputExample(texts=["a", "b"], label=1.0)] * 4, batch_size=2)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="scheduler: expected one of .*, got 'steep'"):
        model.fit([(examples, loss)], scheduler="steep")


def test_loaders_of_examples() -> None:
    random.seed(0)
    examples = [InputExample(texts=[f"t{i // 2}"], label=i % 3) for i in range(12)]
    for batch in NoDuplicatesDataLoader(list(examples), 3):
        assert len({example.texts[0] for example in batch}) == len(batch) == 3
    drawn = [example.label for example in SentenceLabelDataset(examples, samples_per_label=2)]
    assert len(drawn) == 12 and all(drawn[i] == drawn[i + 1] for i in range(0, 12, 2))
    with pytest.raises(InputError, match="expected a label with at least 9 examples"):
        SentenceLabelDataset(examples, samples_per_label=9)


def test_parallel_sentences(model: SentenceTransformer, tmp_path: Path) -> None:
    (tmp_path / "p.tsv").write_text("hello\thallo\nrain\tRegen\n")
    data = ParallelSentencesDataset(model, model)
    data.load_data(str(tmp_path / "p.tsv"))
    assert [data[i].texts for i in range(len(data))] == [["hello"], ["hallo"], ["rain"], ["Regen"]]
    np.testing.assert_allclose(data[3].label, model.encode("rain"), atol=1e-6)


def test_parallel_sentences_are_taken_once(tmp_path: Path) -> None:
    (tmp_path / "p.tsv").write_text("a very long line\tx\nrain\tRegen\nrain\tpluie\tRegen\ntea\tTee\n")
    data = ParallelSentencesDataset(None, None)
    data.load_data(str(tmp_path / "p.tsv"), max_sentences=2, max_sentence_length=6)
    assert data.pairs == [("rain", "rain"), ("rain", "Regen"), ("rain", "pluie")]
    data.add_dataset([["a very long line"], ["x"]], max_sentences=1, max_sentence_length=None)
    assert len(data) == 4


def test_names_that_are_left_out_say_what_to_use(model: SentenceTransformer) -> None:
    with pytest.raises(AttributeError, match="no 'set_losses' on purpose: the card reads what the run recorded"):
        _ = model.model_card_data.set_losses
    assert copy.deepcopy(model.model_card_data) == pickle.loads(pickle.dumps(model.model_card_data))
    with pytest.raises(InputError, match=r"from_text_file: expected a table, got the file 'glove\.txt'"):
        models.WordEmbeddings.from_text_file("glove.txt")


def test_overrides_that_a_reranking_loss_never_calls_are_refused(tiny_bert: Path) -> None:
    class Ranked(cross_losses.ADRMSELoss):
        def approximate_ranks(self, scores: Any, mask: Any) -> Any:
            return scores

    class Called(cross_losses.MultipleNegativesRankingLoss):
        def call_model_with_pairs(self, pairs: Any) -> Any:
            return pairs

    reranker = CrossEncoder(str(tiny_bert), num_labels=1)
    for kind, name in ((Ranked, "approximate_ranks"), (Called, "call_model_with_pairs")):
        with pytest.raises(InputError, match=f"{kind.__name__}.{name}: expected no override"):
            kind(reranker)
    with pytest.raises(AttributeError, match="no 'logits_from_pairs' on purpose"):
        _ = cross_losses.MarginMSELoss(reranker).logits_from_pairs


def test_readers(tmp_path: Path) -> None:
    (tmp_path / "l.tsv").write_text("x\tone\ny\ttwo\nx\tthree\n")
    assert [e.label for e in LabelSentenceReader(str(tmp_path)).get_examples("l.tsv")] == [0, 1, 0]
    for name, text in (("s1", "a\n"), ("s2", "b\n"), ("labels", "neutral\n")):
        (tmp_path / f"{name}.dev").write_text(text)
    assert [(e.texts, e.label) for e in NLIDataReader(str(tmp_path)).get_examples("dev")] == [(["a", "b"], 2)]
    pairs = PairedFilesReader([str(tmp_path / "s1.dev"), str(tmp_path / "s2.dev")]).get_examples(1)
    assert pairs[0].texts == ["a", "b"] and str(pairs[0]).startswith("<InputExample> label: 1")
    (tmp_path / "t.tsv").write_text("h\th\th\na\tb\tc\n")
    assert TripletReader(str(tmp_path), has_header=True).get_examples("t.tsv")[0].texts == ["a", "b", "c"]
    with pytest.raises(InputError, match="filename: expected a file in"):
        TripletReader(str(tmp_path)).get_examples("none.tsv")


@pytest.mark.parametrize("search", [semantic_search_faiss, semantic_search_usearch])
def test_quantised_search(search: Any) -> None:
    try:
        rng = np.random.default_rng(0)
        rows = rng.normal(size=(200, 32)).astype(np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        eight = "uint8" if search is semantic_search_faiss else "int8"
        for precision in ("ubinary", eight):
            stored = quantize_embeddings(rows, precision)
            hits, seconds, index = search(
                rows[:5], corpus_embeddings=stored, corpus_precision=precision, top_k=3, output_index=True,
                calibration_embeddings=rows,
            )  # fmt: skip
            assert seconds > 0 and [len(hit) for hit in hits] == [3] * 5
            if precision == "ubinary":  # codes of 8 bits are compared as they are, which is rough
                assert [hit[0]["corpus_id"] for hit in hits] == [0, 1, 2, 3, 4]
            again, _ = search(
                rows[:5], corpus_index=index, corpus_precision=precision, top_k=3, calibration_embeddings=rows
            )
            assert again == hits
    except MissingExtraError as error:
        pytest.skip(str(error))
    with pytest.raises(InputError, match="expected exactly one of them"):
        search(rows)
    with pytest.raises(InputError, match="corpus_precision: expected one of"):
        search(rows, corpus_embeddings=rows, corpus_precision="int4")


@pytest.mark.parity
def test_quantised_search_equals_sentence_transformers() -> None:
    theirs = pytest.importorskip("sentence_transformers.util.quantization")
    pytest.importorskip("faiss")
    pytest.importorskip("usearch")
    rng = np.random.default_rng(1)
    rows, queries = (rng.normal(size=(n, 20)).astype(np.float32) for n in (150, 120))
    for name, precisions in (
        ("semantic_search_faiss", ("float32", "uint8", "ubinary")),
        # Bits are left out: of twelve equal searches of theirs in usearch, two gave other rows.
        ("semantic_search_usearch", ("float32", "int8")),
    ):
        for precision in precisions:
            stored = quantize_embeddings(rows, precision)
            given: dict[str, Any] = {
                "corpus_embeddings": stored, "corpus_precision": precision, "top_k": 4, "calibration_embeddings": rows,
                "rescore": precision != "float32",
            }  # fmt: skip
            ours, _ = getattr(omnitune.quantization, name)(queries, **given)
            expected, _ = getattr(theirs, name)(queries, **given)
            for one, two in zip(ours, expected, strict=True):
                assert [hit["score"] for hit in one] == pytest.approx([hit["score"] for hit in two], abs=1e-4)


def test_small_functions(tmp_path: Path) -> None:
    made = util.batch_to_device({"a": torch.ones(1), "b": "text"}, "cpu")
    assert made["b"] == "text" and util.fullname(1) == "int" and util.fullname(torch.nn.Linear).endswith("Linear")
    assert util.get_rank() == 0 and util.get_world_size() == 1 and util.is_datasets_available()
    (tmp_path / "x.txt").write_text("hello")
    util.http_get((tmp_path / "x.txt").as_uri(), str(tmp_path / "new" / "y.txt"))
    assert (tmp_path / "new" / "y.txt").read_text() == "hello"
    with util.disable_logging(), util.disable_datasets_caching():
        logging.getLogger("omnitune").error("not seen")


def test_older_verbs_of_every_family(tiny_bert: Path) -> None:
    sparse = omnitune.SparseEncoder(str(tiny_bert), device="cpu")
    late = omnitune.MultiVectorEncoder(str(tiny_bert), device="cpu")
    for encoder in (sparse, late):
        assert torch.equal(encoder.tokenize(["a"])["input_ids"], encoder.preprocess(["a"])["input_ids"])
        assert encoder.get_max_seq_length() == encoder.max_seq_length
    with pytest.warns(FutureWarning, match="use get_embedding_dimension"):
        assert sparse.get_sentence_embedding_dimension() == sparse.get_embedding_dimension()


def test_a_collator_of_a_preprocess_function_is_refused() -> None:
    with pytest.raises(InputError, match=r"got a function; .* leave the preprocess function out"):
        SentenceTransformerDataCollator(len)  # type: ignore[arg-type]


def test_the_title_that_the_data_gives_comes_first(
    model: SentenceTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model.model_card_data, "model_name", "My model")
    model.save_pretrained(str(tmp_path), "my-name")
    assert "\n# My model\n" in (tmp_path / "README.md").read_text()
    assert omnitune.SentenceTransformerModelCardData(language="en").language == ["en"]
