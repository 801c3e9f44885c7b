"""Router: which route is taken, readers in a route, tuple modalities, files, and Sentence Transformers both ways."""

import json

import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from omnitune.errors import CheckpointError, InputError, ModalityError, UntrustedCodeError
from omnitune.modules import InputModule, Normalize, Pooling, Router, StaticEmbedding, Transformer
from omnitune.modules.base import loaded_modality
from omnitune.modules.sequence import preprocess_through


def static(seed, dim=4):
    tokenizer = Tokenizer(WordLevel({"[UNK]": 0, "red": 1, "blue": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    return StaticEmbedding(tokenizer, torch.randn(3, dim, generator=torch.Generator().manual_seed(seed)))


class ColourReader(InputModule):
    """Reads an image as the name of its colour."""

    reads = {"image": "text"}
    modalities = ["image"]

    def read(self, items):
        return ["red" if item.getpixel((0, 0))[0] > 128 else "blue" for item in items]

    def forward(self, features):
        return features


class Seen(InputModule):
    """Writes down what it is asked to preprocess."""

    def __init__(self, *modalities):
        super().__init__()
        self.takes = list(modalities)
        self.calls = []

    @property
    def modalities(self):
        return self.takes

    def preprocess(self, inputs, prompt=None, *, modality=None, task=None, **kwargs):
        self.calls.append((list(inputs), modality, task))
        return {"sentence_embedding": torch.zeros(len(inputs), 2), "modality": "message"}

    def forward(self, features, **kwargs):
        return features


RED, BLUE = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")


def embed(router, inputs, **kwargs):
    with torch.no_grad():
        return router(router.preprocess(inputs, **kwargs))["sentence_embedding"]


@pytest.mark.parametrize(
    ("task", "modality", "route"),
    [
        ("query", "text", "exact"),
        ("query", "image", "task"),
        ("other", "image", "modality"),
        ("other", "video", "any"),
        (None, ("text", "image"), "both"),
    ],
)
def test_the_most_particular_mapping_wins(task, modality, route):
    mappings = {
        ("query", "text"): "exact",
        ("query", None): "task",
        (None, "image"): "modality",
        (None, ("text", "image")): "both",
        (None, None): "any",
    }
    router = Router({name: [static(0)] for name in set(mappings.values())}, route_mappings=mappings)
    assert router.route_for(task, modality) == route


def test_without_a_mapping_the_task_then_the_modality_then_the_default_names_the_route():
    router = Router({"text": [static(0)], "query": [static(1)], "image": [static(2)]})
    assert router.route_for("query", "image") == "query"
    assert router.route_for("document", "image") == "image"
    assert router.route_for(None, "video") == "text"
    with pytest.raises(InputError, match=r"no route for task='document', modality='video'; routes: .*router_mapping="):
        router.route_for("document", "video")
    strict = Router({"query": [static(0)]}, allow_empty_key=False)
    with pytest.raises(InputError, match="no route for task=None, modality='text'"):
        strict.route_for(None, "text")


def test_routes_that_are_not_there_are_refused():
    with pytest.raises(InputError, match="sub_modules: expected at least one route"):
        Router({})
    with pytest.raises(InputError, match=r"default_route: expected one of the routes \['a'\], got 'b'"):
        Router({"a": [static(0)]}, default_route="b")
    with pytest.raises(InputError, match=r"route_mappings: expected one of the routes \['a'\], got 'c'"):
        Router({"a": [static(0)]}, route_mappings={(None, "text"): "c"})


def test_each_task_goes_through_its_route():
    query, document = static(0), static(1)
    router = Router.for_query_document([query, Normalize()], [document])
    torch.testing.assert_close(
        embed(router, ["red"], task="query"), torch.nn.functional.normalize(query.embedding.weight[1:2])
    )
    torch.testing.assert_close(embed(router, ["red"]), document.embedding.weight[1:2].detach())


def test_a_reader_in_a_route_turns_images_into_text_for_the_shared_encoder():
    shared = static(0)
    router = Router({"text": [shared], "image": [ColourReader(), shared]})
    assert router.modalities == ["image", "text"]
    torch.testing.assert_close(embed(router, [BLUE, RED], modality="image"), embed(router, ["blue", "red"]))
    torch.testing.assert_close(embed(router, [BLUE, RED]), embed(router, ["blue", "red"]))
    assert router.cost_rule.image.tokens == 512


def test_readers_before_the_input_module_of_a_plain_model_read_what_they_can():
    encoder = static(0)
    modules = [ColourReader(), encoder]
    mixed = preprocess_through(modules, [RED, "blue"])
    assert torch.equal(mixed["input_ids"], preprocess_through(modules, ["red", "blue"], modality="text")["input_ids"])
    with pytest.raises(InputError, match=r"expected an input module after the readers \['ColourReader'\]"):
        preprocess_through([ColourReader()], [RED])
    with pytest.raises(InputError, match=r"first or after readers, got Normalize"):
        preprocess_through([Normalize()], ["red"])


def test_foreign_input_modules_are_asked_in_the_way_they_know():
    class Foreign(torch.nn.Module):
        def preprocess(self, inputs, prompt=None, **kwargs):
            return {"texts": [prompt + text for text in inputs], **kwargs}

    class Older(torch.nn.Module):
        def tokenize(self, texts):
            return {"texts": texts}

    for module in (Foreign(), Older()):
        assert preprocess_through([module], ["b"], "a", modality="text")["texts"] == ["ab"]


def test_combined_modalities_go_to_the_route_that_is_mapped_for_them():
    both, text = Seen("image", "text", "message"), Seen("text")
    router = Router({"text": [text], "both": [both]}, route_mappings={(None, ("text", "image")): "both"})
    item = {"text": "a", "image": RED}
    out = router(router.preprocess([item], task="query"))
    assert both.calls == [([item], ("image", "text"), "query")]
    assert (out["modality"], out["input_modality"]) == ("message", ("image", "text"))


def test_a_mixed_batch_needs_one_route_for_all_of_it():
    both = Seen("image", "text", "message")
    Router({"both": [both]}).preprocess([RED, "blue"])
    assert both.calls == [([RED, "blue"], None, None)]
    with pytest.raises(ModalityError, match=r"one call to preprocess goes through one route; got \['image', 'text'\]"):
        Router({"text": [static(0)], "image": [Seen("image")]}).preprocess([RED, "blue"])


def test_what_a_loaded_item_is():
    assert loaded_modality("pages/1.png") == "text"
    assert loaded_modality(RED) == "image"
    assert loaded_modality({"text": "a", "image": RED}) == ("image", "text")
    assert loaded_modality({"image": RED}) == "image"
    assert loaded_modality([{"role": "user", "content": "a"}]) == "message"
    with pytest.raises(ModalityError, match="expected text, PIL images, waveforms, .*, got int"):
        loaded_modality(3)


def test_routes_must_agree_on_the_dimension():
    assert Router({"a": [static(0)], "b": [static(1)]}).get_embedding_dimension() == 4
    with pytest.raises(InputError, match=r"routes that end in one dimension, got \['4', '6'\]"):
        Router({"a": [static(0)], "b": [static(1, dim=6)]}).get_embedding_dimension()


def test_shared_modules_are_saved_once_and_shared_again(tmp_path, tiny_bert):
    encoder = Transformer(str(tiny_bert))
    pooling = Pooling(encoder.get_embedding_dimension())
    router = Router(
        {"query": [encoder, pooling], "document": [encoder, pooling, Normalize()]},
        default_route="query",
        route_mappings={("document", ("image", "text")): "query"},
    ).eval()
    router.max_seq_length = 7
    router.save(str(tmp_path))
    config = json.loads((tmp_path / "router_config.json").read_text())
    assert config["types"] == {
        "query_0_Transformer": "sentence_transformers.models.Transformer",
        "query_1_Pooling": "sentence_transformers.models.Pooling",
        "document_2_Normalize": "sentence_transformers.models.Normalize",
    }
    again = Router.load(str(tmp_path)).eval()
    assert again.sub_modules["query"][0] is again.sub_modules["document"][0]
    assert again.route_mappings == router.route_mappings
    assert again.max_seq_length == 7
    for task in ("query", "document", None):
        torch.testing.assert_close(
            embed(again, ["the quick fox"], task=task), embed(router, ["the quick fox"], task=task)
        )


def test_broken_router_files_are_named(tmp_path):
    path = tmp_path / "router_config.json"
    path.write_text("{}")
    with pytest.raises(
        CheckpointError, match=r"router_config.json: expected keys types, structure, parameters; got \[\]"
    ):
        Router.load(str(tmp_path))
    path.write_text("[]")
    with pytest.raises(CheckpointError, match=r"router_config.json: expected a JSON object, got a list"):
        Router.load(str(tmp_path))
    path.write_text(json.dumps({"types": {"../x": "os.system"}, "structure": {}, "parameters": {}}))
    with pytest.raises(CheckpointError, match=r"expected a path inside the checkpoint, got '../x'"):
        Router.load(str(tmp_path))
    path.write_text(json.dumps({"types": {"x": "os.system"}, "structure": {}, "parameters": {}}))
    with pytest.raises(UntrustedCodeError, match=r"holds a module os.system, which is not one that is known"):
        Router.load(str(tmp_path))
    static(0).save(str(tmp_path))
    types = {"": "sentence_transformers.models.StaticEmbedding"}
    broken = {"types": types, "structure": {"a": [""]}, "parameters": {"route_mappings": {"__import__('os')": "a"}}}
    path.write_text(json.dumps(broken))
    with pytest.raises(CheckpointError, match=r"route_mappings: expected keys like .* got \"__import__\('os'\)\""):
        Router.load(str(tmp_path))


@pytest.mark.parity
def test_equals_sentence_transformers_both_ways(tmp_path, tiny_bert):
    from sentence_transformers.base.modules import Router as Rival
    from sentence_transformers.base.modules import Transformer as RivalTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling as RivalPooling

    texts, mappings = ["the quick brown fox", "a page"], {("query", "text"): "short", (None, "text"): "long"}
    outputs = {}
    for kind, backbone, pool in ((Router, Transformer, Pooling), (Rival, RivalTransformer, RivalPooling)):
        encoder = backbone(str(tiny_bert))
        routes = {"short": [encoder, pool(32, "cls")], "long": [encoder, pool(32, ["mean", "max"][0])]}
        router = kind(routes, route_mappings=mappings).eval()
        folder = tmp_path / kind.__module__
        folder.mkdir()
        router.save(str(folder))
        outputs[kind] = [embed(router, texts, task=task) for task in ("query", "document", None)]
    for kind, writer in ((Router, Rival), (Rival, Router)):
        read = kind.load(str(tmp_path / writer.__module__)).eval()
        for task, expected, other in zip(("query", "document", None), outputs[Router], outputs[Rival], strict=True):
            torch.testing.assert_close(embed(read, texts, task=task), expected, rtol=0, atol=0)
            torch.testing.assert_close(expected, other, rtol=0, atol=0)
