"""Cross encoders: pairs, heads, activations and checkpoints, and the same scores as Sentence Transformers 6.2.0."""

import json
import pickle
import queue
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from torch import nn

from fixtures.agree import agree
from omnitune import CrossEncoder, SentenceTransformer
from omnitune.errors import CheckpointError, InputError, MediaError, ModalityError, UntrustedCodeError
from omnitune.modules import Dense, LogitScore, Pooling, Transformer
from omnitune.modules.base import InputModule
from omnitune.modules.logit_score import AnswerLayer, narrow_output_layer
from omnitune.types import Features, Modality

PAIRS = [
    ("how is the bearing greased", "the bearing is greased every 500 hours"),
    ("pump", "a table lists the pressure of every valve in the manual"),
    ("filter", "filter"),
    ("how is the bearing greased", "no"),
]
TRUE, FALSE = 300, 301


def causal(path: Path, task: Any = "text-generation", **options: Any) -> CrossEncoder:
    torch.manual_seed(2)  # bare backbones have no output layer: it is drawn
    return CrossEncoder(modules=[Transformer(str(path), transformer_task=task, **options), LogitScore(TRUE, FALSE)],
                        device="cpu")  # fmt: skip


def classifier(path: Path, **options: Any) -> CrossEncoder:
    torch.manual_seed(1)
    return CrossEncoder(str(path), device="cpu", **options)


@pytest.fixture(scope="module")
def bert(tiny_bert: Path) -> CrossEncoder:
    return classifier(tiny_bert)


@pytest.fixture(scope="module")
def vlm(built: Callable[..., Path], tiny_qwen3_vl: Path) -> CrossEncoder:
    return causal(tiny_qwen3_vl, "any-to-any", processing_kwargs={"chat_template": {"add_generation_prompt": True}})


@pytest.fixture(scope="module")
def mixed(page_images: list[Image.Image]) -> list[Any]:
    """Pairs of every kind."""
    return [
        ("a query", page_images[0]),
        (page_images[1], "a document"),
        (page_images[2], page_images[3]),
        ("a query", {"text": "a caption", "image": page_images[4]}),
        ({"image": page_images[5], "text": "what is this"}, "a document"),
        ("a query", "a document"),
        ({"text": "a query"}, page_images[0]),
    ]


# -- pairs


def test_one_pair_and_many(bert: CrossEncoder) -> None:
    many = bert.predict(PAIRS)
    assert many.shape == (4,) and many.dtype == np.float32
    for one in (PAIRS[0], list(PAIRS[0]), np.array(PAIRS[0])):
        np.testing.assert_allclose(bert.predict(one), many[0], atol=1e-6)
    np.testing.assert_allclose(bert.predict(np.array(PAIRS)), many, atol=1e-6)
    np.testing.assert_allclose(bert.predict(PAIRS, batch_size=1), many, atol=1e-6)
    assert torch.equal(bert.predict(PAIRS, convert_to_tensor=True), torch.from_numpy(many))
    assert [float(s) for s in bert.predict(PAIRS, convert_to_numpy=False)] == many.tolist()
    assert bert.predict([]).shape == (0,) and bert.predict([], convert_to_numpy=False) == []
    assert bert.predict([], convert_to_tensor=True).shape == (0,)


def test_rank(bert: CrossEncoder) -> None:
    documents = [document for _, document in PAIRS]
    scores = bert.predict([("pump", document) for document in documents])
    ranked = bert.rank("pump", documents, return_documents=True)
    assert [r["corpus_id"] for r in ranked] == np.argsort(-scores, kind="stable").tolist()
    assert [r["text"] for r in ranked] == [documents[r["corpus_id"]] for r in ranked]
    assert bert.rank("pump", documents, top_k=2) == [{k: r[k] for k in ("corpus_id", "score")} for r in ranked[:2]]
    assert [r["corpus_id"] for r in bert.rank("pump", ["same", "same", "same"])] == [0, 1, 2]


def test_equal_pairs_are_scored_once_and_all_are_one_plan(bert: CrossEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    forward = bert.engine.forward

    def counted(features: Any, **kwargs: Any) -> Any:
        sizes.append(len(features["input_ids"]))
        return forward(features, **kwargs)

    monkeypatch.setattr(bert.engine, "forward", counted)
    scores = bert.predict([*PAIRS, *PAIRS], batch_size=32)
    assert sizes == [4]
    np.testing.assert_array_equal(scores[:4], scores[4:])


def test_what_is_no_pair_is_named(bert: CrossEncoder, vlm: CrossEncoder, page_images: list[Image.Image]) -> None:
    with pytest.raises(InputError, match=r"row 1, column 'inputs': expected a pair \(query, document\), got \('a',\)"):
        bert.predict([("a", "b"), ("a",)])
    with pytest.raises(ModalityError, match=r"row 0, column 'inputs': .* takes text; got 'image'"):
        bert.predict([("a", page_images[0])])
    with pytest.raises(MediaError, match=r"row 1, column 'inputs'.*no such file is there"):
        vlm.predict([("a", "b"), ("a", "scans/page7.png")])


def test_half_a_character_in_a_pair_is_named(bert: CrossEncoder) -> None:
    with pytest.raises(
        InputError, match=r"row 1, column 'inputs': inputs: expected text, got half of a character, '\\ud800'"
    ):
        bert.predict([("a", "b"), ("a", "b \ud800")])


def test_a_query_is_never_a_path(vlm: CrossEncoder, page_files: list[Path]) -> None:
    path = str(page_files[0])
    assert vlm.pair(path, "a") == (path, "a")
    assert vlm.pair("a", path)[1]["content"] == [{"type": "image", "image": path}]
    assert vlm.pair({"image": path}, "a")[0]["content"] == [{"type": "image", "image": path}]
    with Image.open(path) as image:
        np.testing.assert_allclose(vlm.predict([("a", path)]), vlm.predict([("a", image)]), atol=1e-6)


def test_modalities(bert: CrossEncoder, vlm: CrossEncoder) -> None:
    assert bert.supports("text") and not bert.supports("image") and not bert.supports(("image", "text"))
    assert vlm.supports("image") and vlm.supports(("image", "text"))


def test_pairs_of_every_kind_do_not_depend_on_the_batch(vlm: CrossEncoder, mixed: list[Any]) -> None:
    whole = vlm.predict(mixed)
    np.testing.assert_allclose([vlm.predict(pair) for pair in mixed], whole, atol=1e-5)
    query, documents = "a query", [d for _, d in mixed]
    ranked = vlm.rank(query, documents, return_documents=True)
    assert {r["corpus_id"] for r in ranked} == set(range(len(documents)))
    conversation = vlm.pair(*mixed[3])
    np.testing.assert_allclose(vlm.predict([conversation]), whole[3:4], atol=1e-6)


# -- heads


def test_several_labels(tiny_bert: Path) -> None:
    model = classifier(tiny_bert, num_labels=3)
    assert model.num_labels == 3 and isinstance(model.activation_fn, nn.Identity)
    scores = model.predict(PAIRS)
    assert scores.shape == (4, 3)
    np.testing.assert_allclose(model.predict(PAIRS, apply_softmax=True), torch.tensor(scores).softmax(1), atol=1e-6)
    with pytest.raises(InputError, match="rank: expected a model with one label, got one with 3; use predict"):
        model.rank("a", ["b"])


def test_activations(bert: CrossEncoder) -> None:
    raw = bert.predict(PAIRS, activation_fn=nn.Identity())
    np.testing.assert_allclose(bert.predict(PAIRS), 1 / (1 + np.exp(-raw)), atol=1e-6)
    assert [*dict(bert.named_children())] == ["0"]


def test_the_whole_vocabulary_is_never_computed(tiny_qwen3: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = causal(tiny_qwen3)
    layer = model[0].model.get_output_embeddings()
    assert isinstance(layer, AnswerLayer) and layer.out_features > 500
    widths: list[tuple[int, ...]] = []
    layer.register_forward_hook(lambda module, inputs, output: widths.append(tuple(output.shape)))
    model.predict(PAIRS, batch_size=4)
    assert widths == [(4, 1, 2)]


@pytest.mark.parametrize("false", [None, FALSE])
def test_narrow_logits_are_those_of_the_whole_layer(tiny_qwen3: Path, false: int | None) -> None:
    backbone = Transformer(str(tiny_qwen3), transformer_task="text-generation")
    score = LogitScore(TRUE, false)
    features = backbone.preprocess(PAIRS)
    backbone.eval()
    whole = score(backbone(dict(features)))["scores"]
    assert narrow_output_layer(backbone.model, score.token_ids)
    narrow = score(backbone(dict(features)))["scores"]
    assert whole.shape == (4, 1)
    torch.testing.assert_close(narrow, whole, atol=1e-6, rtol=1e-6)


def test_a_layer_that_is_not_plain_stays_whole(tiny_qwen3: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Other(nn.Linear):
        pass

    torch.manual_seed(2)
    backbone = Transformer(str(tiny_qwen3), transformer_task="text-generation")
    backbone.model.get_output_embeddings().__class__ = Other
    model = CrossEncoder(modules=[backbone, LogitScore(TRUE, FALSE)], device="cpu")
    assert "the output layer is a Other; it computes all logits" in caplog.text
    np.testing.assert_allclose(model.predict(PAIRS), causal(tiny_qwen3).predict(PAIRS), atol=1e-6)


def test_padding_on_the_right_is_refused(tiny_qwen3: Path) -> None:
    model = causal(tiny_qwen3)
    model.tokenizer.padding_side = "right"
    with pytest.raises(InputError, match='padding_side: expected "left" for a model that is read at the last token'):
        model.predict(PAIRS)


def test_a_bare_language_model_answers_yes_or_no(tiny_qwen3: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_qwen3, folder)
    transformers.Qwen3ForCausalLM.from_pretrained(tiny_qwen3).save_pretrained(folder)
    with pytest.raises(CheckpointError, match=r"expected a tokenizer with the tokens \['yes', 'no'\], got none for"):
        CrossEncoder(str(folder), device="cpu")
    tokenizer = Transformer(str(tiny_qwen3)).tokenizer
    tokenizer.add_tokens(["yes", "no"])
    tokenizer.save_pretrained(folder)
    backbone = Transformer(str(folder), transformer_task="text-generation")
    backbone.model.resize_token_embeddings(len(tokenizer))
    backbone.model.save_pretrained(folder)
    model = CrossEncoder(str(folder), device="cpu")
    assert model[1].token_ids == tuple(tokenizer.convert_tokens_to_ids(["yes", "no"]))
    assert model.num_labels == 1 and model.predict(PAIRS).shape == (4,)


def test_pooled_vectors_score_too(tiny_bert: Path, tmp_path: Path) -> None:
    head = Dense(32, 1, activation_function=nn.Identity(), module_output_name="scores")
    model = CrossEncoder(modules=[Transformer(str(tiny_bert)), Pooling(32), head], device="cpu")
    assert model.num_labels == 1
    model.save_pretrained(str(tmp_path))
    agree(CrossEncoder(str(tmp_path), device="cpu").predict(PAIRS), model.predict(PAIRS))


def test_a_dense_checkpoint_gives_its_backbone(st_dense: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = classifier(st_dense, num_labels=1)
    assert [type(m).__name__ for m in model] == ["Transformer"] and model.prompts == {}
    assert "whose backbone is taken for a CrossEncoder with a new head" in caplog.text
    dense = SentenceTransformer(str(st_dense), device="cpu")
    name = "embeddings.word_embeddings.weight"
    assert torch.equal(model[0].model.base_model.get_parameter(name), dense[0].model.get_parameter(name))


class Shouts(InputModule):
    """A reader in small: an image's text is its size."""

    reads: ClassVar[dict[Modality, Modality]] = {"image": "text"}

    def read(self, items: Sequence[Any]) -> list[Any]:
        return [item if isinstance(item, str) else f"page {item.width} by {item.height}" for item in items]

    def forward(self, features: Features, **kwargs: Any) -> Features:
        return features


def test_a_reader_makes_texts_of_images(tiny_bert: Path) -> None:
    model = CrossEncoder(modules=[Shouts(), *classifier(tiny_bert).children()], device="cpu")
    page = Image.new("RGB", (20, 30))
    assert model.supports("image")
    expected = model.predict([("a", "page 20 by 30"), ("page 20 by 30", "b")])
    agree(model.predict([("a", page), (page, "b")]), expected)
    with pytest.raises(ModalityError, match=r"this CrossEncoder takes text, image; got \('image', 'text'\)"):
        model.predict([("a", {"text": "b", "image": page})])


# -- arguments and checkpoints


def test_arguments(tiny_bert: Path, bert: CrossEncoder) -> None:
    assert classifier(tiny_bert, max_length=7).max_seq_length == 7
    with pytest.raises(InputError, match=r"keep_in_fp32_modules: expected paths .* got \{'0.x': 'NoneType'\}"):
        classifier(tiny_bert, keep_in_fp32_modules=["0.x"])
    with pytest.raises(InputError, match="batch_size: expected a positive number, got 0"):
        bert.predict(PAIRS, batch_size=0)
    with pytest.raises(InputError, match="unknown argument 'truncate_dim'"):
        bert.predict(PAIRS, truncate_dim=3)


@pytest.mark.parity
def test_layers_in_float32(tiny_bert: Path, tmp_path: Path) -> None:
    from sentence_transformers import CrossEncoder as Rival

    options: dict[str, Any] = {
        "model_kwargs": {"dtype": torch.bfloat16}, "keep_in_fp32_modules": ["0.model.classifier"]
    }  # fmt: skip
    model = classifier(tiny_bert, **options)
    rival = _seeded(lambda: Rival(str(tiny_bert), device="cpu", **options))
    scores = model(model.preprocess(PAIRS))["scores"]
    assert scores.dtype == torch.float32 and model[0].model.classifier.weight.dtype == torch.bfloat16
    agree(model.predict(PAIRS), rival.predict(PAIRS))
    model.save_pretrained(str(tmp_path))
    again = CrossEncoder(str(tmp_path), device="cpu", model_kwargs={"dtype": torch.bfloat16})
    assert again.keep_in_fp32_modules == ["0.model.classifier"]
    agree(again.predict(PAIRS), model.predict(PAIRS))
    again.set_keep_in_fp32_modules([])
    assert again(again.preprocess(PAIRS))["scores"].dtype == torch.bfloat16


def test_prompts_come_before_the_query(tiny_bert: Path) -> None:
    model = classifier(tiny_bert, prompts={"judge": "judge: "})
    prompted = model.predict([("judge: " + q, d) for q, d in PAIRS])
    agree(model.predict(PAIRS, prompt="judge: "), prompted)
    agree(model.predict(PAIRS, prompt_name="judge"), prompted)
    assert not np.allclose(model.predict(PAIRS), prompted)


@pytest.mark.parametrize("name", ["torch.get_num_threads", "torch.hub.load", "os.getcwd"])
def test_an_activation_is_looked_up_and_never_called_for(bert: CrossEncoder, tmp_path: Path, name: str) -> None:
    bert.save_pretrained(str(tmp_path))
    place = tmp_path / "config_sentence_transformers.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | {"activation_fn": name}))
    with pytest.raises(UntrustedCodeError, match=f"got '{name}', which would import code"):
        CrossEncoder(str(tmp_path), device="cpu")
    assert isinstance(CrossEncoder(str(tmp_path), device="cpu", activation_fn=nn.Tanh()).activation_fn, nn.Tanh)


@pytest.mark.parametrize(
    "keys",
    [
        {"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity", "version": "4.1.0"}},
        {"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"},
    ],
    ids=("4.0", "before 4.0"),
)
@pytest.mark.parity
def test_plain_classifiers_of_older_versions(bert: CrossEncoder, tmp_path: Path, keys: dict[str, Any]) -> None:
    from sentence_transformers import CrossEncoder as Rival

    bert[0].model.save_pretrained(tmp_path)
    bert.tokenizer.save_pretrained(tmp_path)
    place = tmp_path / "config.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | keys))
    model = CrossEncoder(str(tmp_path), device="cpu")
    assert isinstance(model.activation_fn, nn.Identity)
    agree(model.predict(PAIRS), bert.predict(PAIRS, activation_fn=nn.Identity()))
    agree(model.predict(PAIRS), Rival(str(tmp_path), device="cpu").predict(PAIRS))


def test_a_saved_model_comes_back_and_its_card_speaks_of_pairs(bert: CrossEncoder, tmp_path: Path) -> None:
    bert.save_pretrained(str(tmp_path))
    agree(CrossEncoder(str(tmp_path), device="cpu").predict(PAIRS), bert.predict(PAIRS))
    agree(pickle.loads(pickle.dumps(bert)).predict(PAIRS), bert.predict(PAIRS))
    card = (tmp_path / "README.md").read_text()
    assert "pipeline_tag: text-ranking" in card and "- reranker" in card
    assert "This is a reranker (cross encoder)" in card and "model.predict([" in card


# -- chat templates

ROLES = """{%- for message in messages -%}
{%- if message.role == 'user' -%}<|im_start|>user
CONTENT<|im_end|>
{% elif message.role == 'system' -%}<|im_start|>system
CONTENT<|im_end|>
{% else -%}{{ ERROR }}{% endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}<|im_start|>assistant
{% endif -%}"""
PARTS = (
    "{%- for part in message.content -%}{%- if part.type == 'image' -%}<|vision_start|><|image_pad|><|vision_end|>"
    "{%- else -%}{{ part.text }}{%- endif -%}{%- endfor -%}"
)


def template(*, structured: bool, error: bool) -> str:
    content = PARTS if structured else "{{ message.content }}"
    return ROLES.replace("CONTENT", content).replace("{{ ERROR }}", "{{ raise_exception('no') }}" if error else "")


@pytest.mark.parametrize("error", [False, True])
def test_a_template_is_given_the_roles_it_lacks(tiny_qwen3: Path, error: bool, caplog: Any) -> None:
    model = causal(tiny_qwen3, processor_kwargs={"chat_template": template(structured=False, error=error)})
    assert "chat_template: extended for the roles query and document" in caplog.text
    ids = model.preprocess([("pump", "valve")], prompt="Judge.")["input_ids"][0]
    assert model.tokenizer.decode(ids) == (
        "<|im_start|>system\nJudge.<|im_end|>\n<|im_start|>user\n<Query>: pump\n<Document>: valve<|im_end|>\n"
    )
    plain = [{"role": "user", "content": "pump"}]
    assert "<Query>" not in model.tokenizer.apply_chat_template(plain, tokenize=False)


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["text", "vision"])
def test_what_it_was_given_is_saved_for_every_reader(
    tiny_qwen3: Path, tiny_qwen3_vl: Path, mixed: list[Any], tmp_path: Path, kind: str
) -> None:
    from sentence_transformers import CrossEncoder as Rival

    vision = kind == "vision"
    options = {"processor_kwargs": {"chat_template": template(structured=vision, error=True)}}
    model = (causal(tiny_qwen3_vl, "any-to-any", **options) if vision else causal(tiny_qwen3, **options)).eval()
    model.save_pretrained(str(tmp_path))
    pairs = mixed if vision else PAIRS
    scores = model.predict(pairs)
    agree(Rival(str(tmp_path), device="cpu").predict(pairs), scores)
    again = CrossEncoder(str(tmp_path), device="cpu")
    assert again[0].processor.chat_template == model[0].processor.chat_template
    agree(again.predict(pairs), scores)


# -- parity


def rivals(kind: str, request: pytest.FixtureRequest) -> tuple[CrossEncoder, Any]:
    from sentence_transformers import CrossEncoder as Rival
    from sentence_transformers.base.modules import Dense as TheirDense
    from sentence_transformers.base.modules import Transformer as Theirs
    from sentence_transformers.cross_encoder.modules import LogitScore as TheirScore
    from sentence_transformers.sentence_transformer.modules import Pooling as TheirPooling

    path = str(request.getfixturevalue({"vision": "tiny_qwen3_vl", "pooled vision": "tiny_qwen3_vl",
                                        "answer": "tiny_qwen3"}.get(kind, "tiny_bert")))  # fmt: skip
    if kind.startswith("classifier"):
        labels = 3 if kind.endswith("3") else None
        torch.manual_seed(1)
        return classifier(Path(path), num_labels=labels), _seeded(lambda: Rival(path, num_labels=labels, device="cpu"))
    made = []
    for library, transformer, score, pooling, dense in (
        (CrossEncoder, Transformer, LogitScore, Pooling, Dense),
        (Rival, Theirs, TheirScore, TheirPooling, TheirDense),
    ):
        torch.manual_seed(2)
        if kind.startswith("pooled"):
            head = dense(32, 1, activation_function=nn.Identity(), module_output_name="scores")
            modules = [transformer(path), pooling(32, "mean"), head]
        else:
            task = "any-to-any" if kind == "vision" else "text-generation"
            options = {"chat_template": {"add_generation_prompt": True}}
            modules = [transformer(path, transformer_task=task, processing_kwargs=options), score(TRUE, FALSE)]
        made.append(library(modules=modules, device="cpu"))
    return made[0], made[1]


def _seeded(make: Callable[[], Any]) -> Any:
    torch.manual_seed(1)
    return make()


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["classifier", "classifier of 3", "answer", "vision", "pooled", "pooled vision"])
def test_equals_sentence_transformers(request: Any, kind: str, mixed: list[Any], tmp_path: Path) -> None:
    from sentence_transformers import CrossEncoder as Rival

    ours, theirs = rivals(kind, request)
    pairs = mixed if "vision" in kind else PAIRS
    for options in ({}, {"batch_size": 2, "prompt": "Judge. "}, {"apply_softmax": True, "activation_fn": nn.Identity()},
                    {"convert_to_tensor": True}, {"convert_to_numpy": False}):  # fmt: skip
        agree(ours.predict(pairs, **options), theirs.predict(pairs, **options))
    agree(ours.predict(pairs[0]), theirs.predict(pairs[0]))
    if ours.num_labels == 1:
        documents = [document for _, document in pairs]
        for options in ({}, {"top_k": 2, "return_documents": True}):
            agree(ours.rank("a query", documents, **options), theirs.rank("a query", documents, **options))
    scores = ours.predict(pairs)
    for model, name in ((ours, "ours"), (theirs, "theirs")):
        model.save_pretrained(str(tmp_path / name))
        for reader in (CrossEncoder, Rival):
            read = reader(str(tmp_path / name), device="cpu")
            agree(read.predict(pairs), scores)
            assert read.num_labels == ours.num_labels
            assert type(read.activation_fn) is type(ours.activation_fn)


@pytest.mark.parity
def test_a_dense_checkpoint_converts_to_the_same_scores(st_dense: Path) -> None:
    from sentence_transformers import CrossEncoder as Rival

    agree(classifier(st_dense).predict(PAIRS), _seeded(lambda: Rival(str(st_dense), device="cpu")).predict(PAIRS))


def test_several_processes(bert: CrossEncoder) -> None:
    outputs: queue.Queue[Any] = queue.Queue()

    def put(work: tuple[Any, list[Any], dict[str, Any]]) -> None:  # a process that answers at once
        number, items, call = pickle.loads(pickle.dumps(work))
        outputs.put((number, bert.encode_here(items, **call)))

    alive = SimpleNamespace(is_alive=lambda: True)
    pool: Any = {"input": SimpleNamespace(put=put), "output": outputs, "processes": [alive]}
    agree(bert.predict(PAIRS, pool=pool, chunk_size=3), bert.predict(PAIRS))
