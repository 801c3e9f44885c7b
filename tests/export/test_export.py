"""Graphs give what the model gives, and the gate fails when they do not."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fixtures import late_checkpoints
from omnitune import CrossEncoder, SentenceTransformer, SparseEncoder
from omnitune.errors import CheckpointError, InputError, ResourceError
from omnitune.export.gate import Items, Verdict, check, items_of, write_verdict
from omnitune.export.graphs import INT8, copy_checkpoint, export
from omnitune.export.targets import ModelTarget, open_model
from omnitune.model.base import Model
from omnitune.modules import Normalize, Pooling, files
from omnitune.places import check_outside

pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
pytest.importorskip("onnx", reason="the extra `onnx` is not installed")

TEXTS = ["a", "the pump runs at night", "the bearing is greased every second week " * 30]


def judged(reference: Model, folder: Path, backend: Any = "onnx", **options: Any) -> Verdict:
    return check(reference, ModelTarget(open_model(str(folder), backend=backend), backend), items_of(None), **options)


def failed(verdict: Verdict) -> list[str]:
    return [one.name for one in verdict.checks if not one.passed]


@pytest.fixture(scope="module")
def exported(st_dense: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Transformer, pooling, dense and normalisation with prompts, as graphs for both runtimes and in 8 bits."""
    folder = tmp_path_factory.mktemp("exported") / "model"
    copy_checkpoint(st_dense, folder)
    export(SentenceTransformer(str(folder), device="cpu"), folder, int8=True)
    return folder


def test_a_graph_holds_every_module_and_gives_the_same(exported: Path, st_dense: Path) -> None:
    reference = SentenceTransformer(str(st_dense), device="cpu")
    graph = SentenceTransformer(str(exported), backend="onnx")
    assert sum(weight.numel() for weight in graph.parameters()) == 0
    for verb in ("encode", "encode_query", "encode_document"):
        np.testing.assert_allclose(getattr(graph, verb)(TEXTS), getattr(reference, verb)(TEXTS), atol=1e-6)
    tokens = [model.encode(TEXTS, output_value="token_embeddings") for model in (reference, graph)]
    for one, other in zip(*tokens, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    verdict = judged(reference, exported)
    assert verdict.passed, verdict.rows()
    facts = json.loads((exported / "onnx" / "omnitune.json").read_text())
    assert facts["prompts"]["query"] == "query: "
    assert facts["dimensions"] == 20


def test_other_programs_need_the_graph_alone(exported: Path, st_dense: Path) -> None:
    """A runtime without omnitune: tensors of the tokenizer in, the finished vector out."""
    import onnxruntime

    reference = SentenceTransformer(str(st_dense), device="cpu")
    features = reference.preprocess(TEXTS)
    session = onnxruntime.InferenceSession(str(exported / "onnx" / "model.onnx"), providers=["CPUExecutionProvider"])
    feeds = {one.name: features[one.name].numpy() for one in session.get_inputs()}
    (made,) = session.run(["sentence_embedding"], feeds)
    np.testing.assert_allclose(made, reference.encode(TEXTS), atol=1e-6)


def test_openvino_gives_the_same(exported: Path, st_dense: Path) -> None:
    pytest.importorskip("openvino", reason="the extra `openvino` is not installed")
    reference = SentenceTransformer(str(st_dense), device="cpu")
    place = export(reference, exported, "openvino")
    assert (place / "openvino_model.xml").is_file()
    verdict = judged(reference, exported, "openvino")
    assert verdict.passed, verdict.rows()


def test_weights_in_8_bits_are_told_and_lengths_judged(exported: Path, st_dense: Path) -> None:
    reference = SentenceTransformer(str(st_dense), device="cpu")
    graph = open_model(str(exported), backend="onnx", file_name=f"model{INT8}")
    verdict = check(reference, ModelTarget(graph, "int8"), items_of(None), precision="int8")
    assert verdict.passed, verdict.rows()
    by_name = {one.name: one for one in verdict.checks}
    assert 1e-4 < (by_name["query vectors"].value or 0) < 0.3  # not equal, and so told


def test_a_graph_of_other_weights_is_refused(exported: Path, tmp_path: Path) -> None:
    copied = tmp_path / "model"
    shutil.copytree(exported, copied)
    model = SentenceTransformer(str(copied), device="cpu")
    with torch.no_grad():
        next(model.parameters()).add_(1)
    model.save_pretrained(str(copied))  # as a training that goes on in the same folder
    with pytest.raises(CheckpointError, match="expected the weights that the graphs were made of, got others"):
        SentenceTransformer(str(copied), backend="onnx")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("omnitune.json", b'{"format": 1}', "expected graphs with file, inputs and outputs"),
        ("omnitune.json", b'{"format": 1, "graphs": {"text": {"file": "../x"}}}', "expected graphs with file"),
        ("model.onnx", b"no graph", "expected a graph that can be read"),
    ],
)
def test_damaged_graphs_are_one_sentence(
    exported: Path, tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    copied = tmp_path / "model"
    shutil.copytree(exported, copied)
    (copied / "onnx" / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        SentenceTransformer(str(copied), backend="onnx").encode("a text")


# --- the gate must fail -----------------------------------------------------------------------------------------------


def _without_normalisation(model: SentenceTransformer) -> None:
    model[3] = torch.nn.Identity()


def _another_pooling(model: SentenceTransformer) -> None:
    model[1] = Pooling(32, "max")


@pytest.mark.parametrize("spoil", [_without_normalisation, _another_pooling])
def test_the_gate_fails_on_another_graph(
    spoil: Callable[[SentenceTransformer], None], st_dense: Path, tmp_path: Path
) -> None:
    reference, other = (SentenceTransformer(str(st_dense), device="cpu") for _ in range(2))
    copy_checkpoint(st_dense, tmp_path / "model")
    spoil(other)
    export(other, tmp_path / "model")
    facts = tmp_path / "model" / "onnx" / "omnitune.json"
    told = json.loads(facts.read_text())
    facts.write_text(json.dumps({**told, "modules": ["Transformer", "Pooling", "Dense", "Normalize"]}))
    verdict = judged(reference, tmp_path / "model")
    assert {"query vectors", "document vectors"} <= set(failed(verdict))
    facts.write_text(json.dumps({**told, "modules": ["Transformer", "Pooling", "Dense"]}))
    assert "modules" in failed(judged(reference, tmp_path / "model"))


def test_the_gate_fails_on_a_swapped_prompt_and_on_another_length(
    exported: Path, st_dense: Path, tmp_path: Path
) -> None:
    reference = SentenceTransformer(str(st_dense), device="cpu")
    swapped = open_model(str(exported), backend="onnx")
    swapped.prompts = {"query": "document: ", "document": "query: "}
    verdict = check(reference, ModelTarget(swapped, "onnx"), items_of(None))
    assert {"tokens, with prompts and truncation", "query vectors", "document vectors"} <= set(failed(verdict))
    shorter = open_model(str(exported), backend="onnx")
    shorter.max_seq_length = 12
    verdict = check(reference, ModelTarget(shorter, "onnx"), items_of(None))
    assert {"tokens, with prompts and truncation", "document vectors"} <= set(failed(verdict))


def test_the_gate_fails_where_padding_counts(exported: Path, st_dense: Path) -> None:
    reference = SentenceTransformer(str(st_dense), device="cpu")
    target = ModelTarget(open_model(str(exported), backend="onnx"), "onnx")
    graph = target.model.graph
    assert graph is not None
    run = graph.run
    graph.run = lambda modules, features: run(  # type: ignore[method-assign]
        modules, {**features, "attention_mask": torch.ones_like(features["attention_mask"])}
    )
    assert "alone and beside a long text" in failed(check(reference, target, items_of(None)))


class _Reversed(ModelTarget):
    """Ranks the worst first, with vectors of the same length."""

    def encode(self, items: Any, role: str) -> Any:
        return [(-1 if role == "query" else 1) * one for one in super().encode(items, role)]


def test_the_gate_fails_on_a_worse_ranking(st_dense: Path) -> None:
    reference = SentenceTransformer(str(st_dense), device="cpu")
    texts = [f"topic {number} of the pump" for number in range(12)]
    items = Items(
        queries=texts, documents=texts, texts=texts, relevant=[[n] for n in range(12)], clusters=list(range(12))
    )
    same = check(reference, ModelTarget(reference, "torch too"), items, precision="int8")
    assert same.passed
    by_name = {one.name: one for one in same.checks}
    assert by_name["first 10 documents shared"].value == 1.0
    worse = check(reference, _Reversed(reference, "reversed"), items, precision="int8")
    assert failed(worse) == ["NDCG@10 of 12 queries"]


# --- other models -----------------------------------------------------------------------------------------------------


def test_a_reranker_gives_the_same_scores(tiny_bert: Path, tmp_path: Path) -> None:
    reference = CrossEncoder(str(tiny_bert), num_labels=1, device="cpu")
    reference.save_pretrained(str(tmp_path))
    export(reference, tmp_path)
    graph = CrossEncoder(str(tmp_path), backend="onnx")
    pairs = [("how often", text) for text in TEXTS]
    np.testing.assert_allclose(graph.predict(pairs), reference.predict(pairs), atol=1e-6)
    plain = torch.nn.Identity()
    expected = reference.predict(pairs, activation_fn=plain)
    np.testing.assert_allclose(graph.predict(pairs, activation_fn=plain), expected, atol=1e-6)
    assert judged(reference, tmp_path).passed
    with torch.no_grad():
        reference[0].model.classifier.weight.mul_(2)
    assert "scores" in failed(judged(reference, tmp_path))


@pytest.mark.parametrize("towers", ["tiny_clip", "tiny_siglip"])
def test_two_towers_become_two_graphs(
    towers: str, request: pytest.FixtureRequest, page_images: list[Any], tmp_path: Path
) -> None:
    reference = SentenceTransformer(str(request.getfixturevalue(towers)), device="cpu")
    reference.save_pretrained(str(tmp_path))
    place = export(reference, tmp_path, int8=towers == "tiny_clip")
    assert {"text_model.onnx", "vision_model.onnx"} <= {path.name for path in place.iterdir()}
    graph = open_model(str(tmp_path), backend="onnx")
    items = Items(queries=["a page", "a red square on the right"], documents=page_images[:4])
    verdict = check(reference, ModelTarget(graph, "onnx"), items)
    assert verdict.passed, verdict.rows()
    if towers == "tiny_clip":  # one name stands for the smaller graphs of both towers
        small = open_model(str(tmp_path), backend="onnx", file_name="text_model_int8.onnx")
        for inputs in (["a page"], page_images[:1]):
            same = reference.encode(inputs)
            assert 1e-6 < np.linalg.norm(small.encode(inputs) - same) / np.linalg.norm(same) < 0.3


def test_a_router_has_a_graph_for_every_route(st_router: Path, tmp_path: Path) -> None:
    copy_checkpoint(st_router, tmp_path / "model")
    reference = SentenceTransformer(str(st_router), device="cpu")
    place = export(reference, tmp_path / "model")
    assert {"query_model.onnx", "document_model.onnx"} <= {path.name for path in place.iterdir()}
    verdict = judged(reference, tmp_path / "model")
    assert verdict.passed, verdict.rows()


def test_late_interaction_keeps_its_mask(tiny_bert: Path, tmp_path: Path) -> None:
    reference = open_model(str(late_checkpoints.native(tmp_path / "model", tiny_bert)))
    export(reference, tmp_path / "model")
    verdict = judged(reference, tmp_path / "model")
    assert verdict.passed, verdict.rows()


def test_a_sparse_encoder_gives_the_same_weights(tiny_masked_bert: Path, tmp_path: Path) -> None:
    reference = SparseEncoder(str(tiny_masked_bert), device="cpu")
    reference.save_pretrained(str(tmp_path))
    export(reference, tmp_path)
    verdict = judged(reference, tmp_path)
    assert verdict.passed, verdict.rows()


def test_a_prompt_that_pooling_leaves_out_is_an_input(tiny_bert: Path, tmp_path: Path) -> None:
    bare = SentenceTransformer(str(tiny_bert), device="cpu", prompts={"query": "find the page: ", "document": "p: "})
    bare.set_pooling_include_prompt(False)
    bare.append(Normalize())
    bare.save_pretrained(str(tmp_path))
    export(bare, tmp_path)
    verdict = judged(bare, tmp_path)
    assert verdict.passed, verdict.rows()


def test_a_graph_of_another_program_stands_for_the_backbone(st_dense: Path, tmp_path: Path) -> None:
    """As on the hub: `onnx/model.onnx` with `last_hidden_state`; the modules after it run in torch."""
    copy_checkpoint(st_dense, tmp_path / "model")
    reference = SentenceTransformer(str(st_dense), device="cpu")

    class Backbone(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = reference[0].model.eval()

        def forward(self, ids: Any, mask: Any, types: Any) -> Any:
            return self.model(input_ids=ids, attention_mask=mask, token_type_ids=types).last_hidden_state

    (tmp_path / "model" / "onnx").mkdir()
    features = reference.preprocess(["one text", "two texts of more words"])
    names = ["input_ids", "attention_mask", "token_type_ids"]
    with torch.no_grad(), pytest.warns():
        torch.onnx.export(
            Backbone(),
            tuple(features[name] for name in names),
            str(tmp_path / "model" / "onnx" / "model.onnx"),
            input_names=names,
            output_names=["last_hidden_state"],
            dynamic_axes={name: {0: "rows", 1: "tokens"} for name in [*names, "last_hidden_state"]},
            dynamo=False,
        )
    graph = SentenceTransformer(str(tmp_path / "model"), backend="onnx")
    np.testing.assert_allclose(graph.encode_query(TEXTS), reference.encode_query(TEXTS), atol=1e-6)


def test_the_graphs_of_a_repository_are_downloaded_where_one_runs(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    def download(name: str, **options: Any) -> str:
        asked.append(options)
        return str(exported)

    monkeypatch.setattr(files, "snapshot_download", download)
    SentenceTransformer("owner/name", backend="onnx", device="cpu")
    assert {"allow_patterns": ["onnx/*"], "ignore_patterns": None}.items() <= asked[-1].items()
    asked.clear()
    SentenceTransformer("owner/name", device="cpu")
    assert all("onnx/*" in (one["ignore_patterns"] or ()) for one in asked)


# --- refused ----------------------------------------------------------------------------------------------------------


def test_what_cannot_be_exported_or_run_says_so(tiny_qwen3_vl: Path, st_dense: Path, exported: Path) -> None:
    with pytest.raises(InputError, match="serve it with `omnitune serve`"):
        export(SentenceTransformer(str(tiny_qwen3_vl), device="cpu"), tiny_qwen3_vl)
    with pytest.raises(CheckpointError, match="omnitune export .* --to onnx"):
        SentenceTransformer(str(st_dense), backend="onnx")
    with pytest.raises(InputError, match="backend: expected one of torch, onnx, openvino, got 'tf'"):
        SentenceTransformer(str(st_dense), backend="tf")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="omnitune export"):
        SentenceTransformer(str(st_dense), backend="onnx", model_kwargs={"export": True})
    graph = SentenceTransformer(str(exported), backend="onnx")
    with pytest.raises(InputError, match="model: expected one in torch, got a graph"):
        export(graph, exported)
    with pytest.raises(InputError, match="int8: expected False for openvino"):
        export(SentenceTransformer(str(st_dense), device="cpu"), exported, "openvino", int8=True)
    with pytest.raises(InputError, match="save_pretrained: expected weights, got a graph"):
        graph.save_pretrained("elsewhere")
    with pytest.raises(InputError, match="computes no gradients"):
        graph.train()(graph.preprocess(TEXTS))


def test_what_lies_in_the_place_of_a_folder_is_named(tiny_bert: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "loop").symlink_to("loop")
    for name in ("file", "loop"):
        with pytest.raises(ResourceError, match=f"{name}: expected a folder that can be written to, got: "):
            copy_checkpoint(tiny_bert, tmp_path / name)
        check_outside(tiny_bert, tmp_path / name)
    assert (tmp_path / "file").read_text() == "mine"


def test_the_verdict_is_written_once(exported: Path, st_dense: Path, tmp_path: Path) -> None:
    shutil.copytree(exported, tmp_path / "model")
    verdict = judged(SentenceTransformer(str(st_dense), device="cpu"), exported)
    (tmp_path / "model" / "README.md").write_text("# A model\n")
    for _ in range(2):
        path = write_verdict(verdict, tmp_path / "model" / "onnx")
    assert json.loads(path.read_text())["passed"] is True
    card = (tmp_path / "model" / "README.md").read_text()
    assert card.startswith("# A model\n")
    assert card.count("## Graph (onnx)") == 1
    assert "| modules |" in card
