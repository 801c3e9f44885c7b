"""Transformer: the same tensors and outputs as Sentence Transformers, and what is refused."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from omnitune.errors import CheckpointError, InputError, ModalityError
from omnitune.inputs.cost import ImageRule
from omnitune.modules import Transformer
from omnitune.modules.old_classes import CLIPModel
from omnitune.modules.outputs import embedding_dimension, from_json, to_json

TEXTS = ["the quick fox", "a page of a manual about R data frames, and lists of figures. " * 30, "tables", ""]
VISION = ["tiny_qwen2_vl", "tiny_qwen2_5_vl", "tiny_qwen3_vl", "tiny_qwen3_5", "tiny_smolvlm", "tiny_paligemma"]
EVERY = ["tiny_bert", "tiny_mpnet", "tiny_qwen3", "tiny_clip", "tiny_siglip", *VISION]


def images():
    rng = np.random.default_rng(0)
    return [
        Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)) for size in ((70, 50), (120, 90), (33, 64))
    ]


def batches():
    pages = images()
    return {
        "text": (TEXTS, {}),
        "text with a prompt": (TEXTS, {"prompt": "query: "}),
        "image": (pages, {}),
        "image with a prompt": (pages, {"prompt": "document: "}),
        "text and image": ([{"text": text, "image": page} for text, page in zip(TEXTS, pages, strict=False)], {}),
        "image and text": ([{"image": page, "text": "a page"} for page in pages], {}),
        "two images": ([{"image": pages[:2], "text": "both"}], {}),
        "conversation": ([[{"role": "user", "content": [{"type": "text", "text": "fox"}]}]], {}),
        "mixed": ([TEXTS[0], pages[0], {"text": "x", "image": pages[1]}], {"prompt": "find: "}),
        "task": (TEXTS, {"task": "query"}),
        "shorter": (TEXTS, {"processing_kwargs": {"text": {"max_length": 12}}}),
    }


def run(module, inputs, **kwargs):
    features = module.preprocess(inputs, **kwargs)
    with torch.no_grad():
        return features, module(dict(features))[module.module_output_name]


def attempt(module, inputs, **kwargs):
    """What a module makes of a batch, or the error; both modules must agree on which it is."""
    try:
        return run(module, inputs, **kwargs)
    except (ValueError, KeyError, IndexError, TypeError) as error:
        return error


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")  # Sentence Transformers' and transformers' own
@pytest.mark.parametrize("name", EVERY)
def test_equals_sentence_transformers_on_bare_models(request, name):
    from sentence_transformers.base.modules import Transformer as Rival

    path = str(request.getfixturevalue(name))
    ours, theirs = Transformer(path).eval(), Rival(path).eval()
    assert ours.modality_config == theirs.modality_config
    assert ours.module_output_name == theirs.module_output_name
    assert ours.get_embedding_dimension() == theirs.get_embedding_dimension()
    assert ours.max_seq_length == theirs.max_seq_length
    assert list(ours.state_dict()) == list(theirs.state_dict())
    compared = 0
    for label, (inputs, kwargs) in batches().items():
        mine, other = attempt(ours, inputs, **kwargs), attempt(theirs, inputs, **kwargs)
        if isinstance(other, Exception):
            assert isinstance(mine, Exception), f"{label}: Sentence Transformers refuses it: {other}"
            continue
        assert not isinstance(mine, Exception), f"{label}: {mine!r}"
        assert mine[0].keys() == other[0].keys(), label
        for key, value in other[0].items():
            torch.testing.assert_close(mine[0][key], value, rtol=0, atol=0, msg=f"{label}: {key}") if torch.is_tensor(
                value
            ) else _same(mine[0][key], value)
        torch.testing.assert_close(mine[1], other[1], rtol=0, atol=1e-6, msg=label)
        compared += 1
    assert compared >= 2


def _same(ours, theirs):
    assert ours == theirs


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", EVERY)
def test_checkpoints_are_read_by_the_other_with_equal_outputs(request, name, tmp_path):
    from sentence_transformers.base.modules import Transformer as Rival

    path = str(request.getfixturevalue(name))
    inputs = [{"image": page, "text": "a page"} for page in images()] if name == "tiny_paligemma" else TEXTS
    expected = run(Transformer(path).eval(), inputs)[1]
    for writer, reader in ((Transformer, Rival), (Rival, Transformer), (Transformer, Transformer)):
        folder = tmp_path / f"{writer.__module__}-{reader.__module__}"
        folder.mkdir()
        module = writer(path)
        module.max_seq_length = module.max_seq_length
        module.save(str(folder))
        read = reader.load(str(folder)).eval()
        assert read.max_seq_length == module.max_seq_length
        torch.testing.assert_close(run(read, inputs)[1], expected, rtol=0, atol=1e-6)


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
def test_processor_arguments_at_load_change_pixels_as_in_sentence_transformers(tiny_qwen3_vl):
    from sentence_transformers.base.modules import Transformer as Rival

    kwargs = {"processor_kwargs": {"min_pixels": 64 * 64, "max_pixels": 96 * 96}}
    ours, theirs = (kind(str(tiny_qwen3_vl), **kwargs).preprocess(images()) for kind in (Transformer, Rival))
    torch.testing.assert_close(ours["pixel_values"], theirs["pixel_values"], rtol=0, atol=0)
    usual = Transformer(str(tiny_qwen3_vl)).preprocess(images())
    assert ours["image_grid_thw"].tolist() != usual["image_grid_thw"].tolist()


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "options",
    [
        {"query_length": 9, "document_length": 14},
        {"max_seq_length": 11},
        {"do_lower_case": True},
        {"processing_kwargs": {"text": {"padding": "max_length", "max_length": 20}}},
    ],
)
def test_options_act_and_are_kept_as_in_sentence_transformers(tiny_bert, tmp_path, options):
    from sentence_transformers.base.modules import Transformer as Rival

    modules = [kind(str(tiny_bert), **options) for kind in (Transformer, Rival)]
    (tmp_path / "ours").mkdir()
    modules[0].save(str(tmp_path / "ours"))
    modules += [kind.load(str(tmp_path / "ours")) for kind in (Transformer, Rival)]
    for task in (None, "query", "document"):
        ids = [module.preprocess([*TEXTS, "UPPER Case"], task=task)["input_ids"].tolist() for module in modules]
        assert ids[0] == ids[1] == ids[2] == ids[3]


def test_a_text_encoder_is_written_in_the_keys_that_every_reader_knows(tiny_bert, tmp_path):
    module = Transformer(str(tiny_bert))
    module.max_seq_length = 17
    module.save(str(tmp_path))
    assert json.loads((tmp_path / "sentence_bert_config.json").read_text()) == {
        "max_seq_length": 17,
        "do_lower_case": False,
    }
    assert Transformer.load(str(tmp_path)).max_seq_length == 17


def test_a_text_that_is_cut_keeps_what_the_chat_template_puts_after_it(tiny_qwen3_vl):
    module = Transformer(str(tiny_qwen3_vl))
    whole = module.preprocess(["fox"])["input_ids"][0].tolist()
    cut = module.preprocess([TEXTS[1]], processing_kwargs={"text": {"max_length": 12}})["input_ids"][0].tolist()
    end = whole[-2:]
    assert len(cut) == 12
    assert cut[-2:] == end
    off = {"text": {"max_length": 12}, "chat_template": {"restore_suffix": False}}
    assert module.preprocess([TEXTS[1]], processing_kwargs=off)["input_ids"][0].tolist()[-2:] != end


def test_modalities_and_costs_come_from_the_processor(tiny_bert, tiny_clip, tiny_qwen3_vl):
    assert Transformer(str(tiny_bert)).modalities == ["text"]
    clip = Transformer(str(tiny_clip))
    assert clip.modalities == ["text", "image"]
    vision = clip.config.vision_config
    assert clip.cost_rule.image == ImageRule(tokens=(vision.image_size // vision.patch_size) ** 2)
    talks = Transformer(str(tiny_qwen3_vl), processor_kwargs={"min_pixels": 64 * 64, "max_pixels": 128 * 128})
    assert set(talks.modalities) >= {"text", "image", "message"}
    for page in images():
        features = talks.preprocess([page])
        patches = int(features["image_grid_thw"].prod()) // talks.processor.image_processor.merge_size**2
        assert talks.cost_rule.image.cost(*page.size) == pytest.approx(patches, rel=0.25)


def test_what_the_backbone_does_not_take_is_refused(tiny_bert, tiny_clip, tiny_qwen3_vl):
    with pytest.raises(ModalityError, match=r"takes one of \['text'\] per batch, got \['image'\]"):
        Transformer(str(tiny_bert)).preprocess(images())
    with pytest.raises(ModalityError, match=r"takes one of \['text', 'image'\] per batch, got \['image', 'text'\]"):
        Transformer(str(tiny_clip)).preprocess(["a", images()[0]])
    module = Transformer(str(tiny_qwen3_vl))
    del module.modality_config["image"]
    with pytest.raises(ModalityError, match=r"got \['image'\] too"):
        module.preprocess(images())
    with pytest.raises(ModalityError, match=r"expected messages with 'role' and 'content', got keys \['role'\]"):
        module.preprocess([[{"role": "user"}]], modality="message")


def test_a_prompt_that_cannot_apply_is_warned_about_once(tiny_clip, caplog):
    module = Transformer(str(tiny_clip))
    for _ in range(2):
        module.preprocess(images(), prompt="query: ")
    assert [record.getMessage() for record in caplog.records] == [
        "prompt: 'query: ' is ignored for image, which this model takes without text."
    ]


def test_arguments_that_ask_for_what_there_is_not_are_refused(tiny_bert):
    path = str(tiny_bert)
    with pytest.raises(InputError, match="transformer_task: expected one of .*'text-generation'], got 'summary'"):
        Transformer(path, transformer_task="summary")
    with pytest.raises(InputError, match="backend: expected \"torch\", got 'onnx'; a model as a whole"):
        Transformer(path, backend="onnx")
    with pytest.raises(InputError, match="module_output_name: expected 'token_embeddings' or 'sentence_embedding'"):
        Transformer(path, modality_config={"text": {"method": "forward", "method_output_name": "pooler_output"}})
    with pytest.raises(InputError, match=r"processing_kwargs: expected keys among .*got \['max_length'\]"):
        Transformer(path, processing_kwargs={"max_length": {}})


def test_a_custom_output_is_taken_and_kept(tiny_bert, tmp_path):
    config = {"text": {"method": "forward", "method_output_name": ["hidden_states", 1]}}
    module = Transformer(str(tiny_bert), modality_config=config, module_output_name="token_embeddings").eval()
    usual = Transformer(str(tiny_bert), config_kwargs={"output_hidden_states": True}).eval()
    first = usual(usual.preprocess(TEXTS))["all_layer_embeddings"][1]
    torch.testing.assert_close(run(module, TEXTS)[1], first)
    module.save(str(tmp_path))
    torch.testing.assert_close(run(Transformer.load(str(tmp_path)).eval(), TEXTS)[1], first)


def test_modality_config_keys_survive_json():
    params = {"method": "forward", "method_output_name": "last_hidden_state"}
    config = {"text": params, ("image", "text"): params}
    assert list(to_json(config)) == ["text", "image+text"]
    assert from_json(to_json(config), "f") == config
    with pytest.raises(CheckpointError, match=r"f: modality_config: expected modalities among .*got 'smell'"):
        from_json({"smell": params}, "f")
    with pytest.raises(CheckpointError, match=r"modality_config\['text'\]: expected 'method' and 'method_output_name'"):
        from_json({"text": {"method": "forward"}}, "f")


@pytest.mark.parametrize("name", ["sentence_roberta_config.json", "sentence_xlnet_config.json"])
def test_older_configurations_are_read_under_their_names(tiny_bert, tmp_path, name):
    Transformer(str(tiny_bert)).save(str(tmp_path))
    (tmp_path / "sentence_bert_config.json").unlink()
    old = {
        "max_seq_length": 13,
        "do_lower_case": True,
        "tokenizer_args": {"padding_side": "left", "trust_remote_code": True},
        "model_args": {},
    }
    (tmp_path / name).write_text(json.dumps(old))
    module = Transformer.load(str(tmp_path), processor_kwargs={"truncation_side": "left"})
    assert (module.max_seq_length, module.tokenizer.padding_side) == (13, "left")
    assert module.tokenizer.truncation_side == "left"
    (tmp_path / name).write_text('{"max_length": 13}')
    with pytest.raises(CheckpointError, match=rf"{name}: expected keys among .*got \['max_length'\]"):
        Transformer.load(str(tmp_path))


def test_clip_checkpoints_of_older_versions_give_both_towers(tiny_clip):
    module = CLIPModel.load(str(tiny_clip)).eval()
    assert module.modality_config == Transformer(str(tiny_clip)).modality_config
    assert run(module, images())[1].shape == (3, module.get_embedding_dimension())


def test_half_precision_and_attention_are_chosen_by_model_kwargs(tiny_bert):
    module = Transformer(str(tiny_bert), model_kwargs={"torch_dtype": torch.float16, "attn_implementation": "eager"})
    assert next(module.parameters()).dtype is torch.float16
    assert module.config._attn_implementation == "eager"


def test_pickled_weights_are_refused(tiny_bert, tmp_path):
    module = Transformer(str(tiny_bert))
    module.save(str(tmp_path))
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="expected weights as safetensors, got none"):
        Transformer(str(tmp_path))
    torch.save(module.model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="pickled weights are not read"):
        Transformer(str(tmp_path))
    with pytest.raises(CheckpointError, match=r"expected a Hugging Face model \(config.json\)"):
        (tmp_path / "config.json").unlink()
        Transformer(str(tmp_path))


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
def test_an_adapter_loads_onto_its_base_and_is_saved_as_an_adapter(tiny_bert, tmp_path):
    from peft import LoraConfig
    from sentence_transformers.base.modules import Transformer as Rival

    module = Transformer(str(tiny_bert))
    assert module.model.name_or_path == str(tiny_bert)
    module.model.add_adapter(LoraConfig(r=2, target_modules=["query"], init_lora_weights=False))
    expected = run(module.eval(), TEXTS)[1]
    module.save(str(tmp_path))
    assert json.loads((tmp_path / "adapter_config.json").read_text())["base_model_name_or_path"] == str(tiny_bert)
    assert not (tmp_path / "model.safetensors").exists()
    for kind in (Transformer, Rival):
        torch.testing.assert_close(run(kind.load(str(tmp_path)).eval(), TEXTS)[1], expected)
    again = Transformer.load(str(tmp_path))
    (tmp_path / "again").mkdir()
    again.save(str(tmp_path / "again"))
    assert json.loads((tmp_path / "again/adapter_config.json").read_text())["base_model_name_or_path"] == str(tiny_bert)


def test_an_encoder_decoder_is_used_by_its_encoder(tmp_path, tiny_bert):
    from transformers import AutoTokenizer, T5Config, T5EncoderModel, T5ForConditionalGeneration

    tokenizer = AutoTokenizer.from_pretrained(str(tiny_bert))
    config = T5Config(vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    torch.manual_seed(0)
    whole = T5ForConditionalGeneration(config).eval()
    whole.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    module = Transformer(str(tmp_path)).eval()
    assert type(module.model) is T5EncoderModel
    features, out = run(module, TEXTS)
    ids = {key: features[key] for key in ("input_ids", "attention_mask")}
    torch.testing.assert_close(out, whole.encoder(**ids).last_hidden_state)


def test_an_embedding_dimension_that_is_not_said_is_an_error():
    class Empty:
        sub_configs = {}

    with pytest.raises(CheckpointError, match=r"config.json: expected one of \['hidden_size', .*got none in a Empty"):
        embedding_dimension(Empty(), "token_embeddings")


def test_files_of_a_tokenizer_do_not_depend_on_its_last_batch(tiny_bert, tmp_path):
    written = []
    for texts in ([], ["a page"]):
        module = Transformer(str(tiny_bert))
        if texts:
            module.preprocess(texts)
        (tmp_path / str(len(texts))).mkdir()
        module.save(str(tmp_path / str(len(texts))))
        written.append((tmp_path / str(len(texts)) / "tokenizer.json").read_bytes())
    assert written[0] == written[1]
