"""The cost rule read off a processor agrees with what the processor makes of an image."""

import pytest

from omnitune.inputs.cost import CostRule, ImageRule
from omnitune.modules import Transformer
from omnitune.modules.base import InputModule
from omnitune.modules.costs import cost_rule
from omnitune.modules.sequence import route_cost_rule


def image_tokens(module, item):
    ids = module.preprocess([item])["input_ids"][0]
    return int((ids == module.config.image_token_id).sum())


def test_one_number_of_tokens_where_the_processor_resizes_to_one_size(tiny_paligemma, page_images):
    module = Transformer(str(tiny_paligemma))
    for page in page_images[:4]:
        assert image_tokens(module, {"image": page, "text": "x"}) == module.cost_rule.image.tokens


def test_tiles_are_counted_as_if_the_image_were_a_square(tiny_smolvlm, page_images):
    module = Transformer(str(tiny_smolvlm))
    counts = [image_tokens(module, page) for page in page_images[:4]]
    assert 0 < max(counts) <= module.cost_rule.image.tokens


def test_any_size_between_two_numbers_of_pixels(tiny_qwen2_vl, page_images):
    module = Transformer(str(tiny_qwen2_vl))
    for page in page_images[:4]:
        assert module.cost_rule.image.cost(*page.size) == pytest.approx(image_tokens(module, page), abs=4)


class Images:
    max_num_patches = 256
    patch_size = 16


class Processor:
    image_processor = Images()


def test_any_size_up_to_a_number_of_patches():
    assert cost_rule(Processor(), None, 64) == CostRule(max_tokens=64, image=ImageRule(tokens=256))


def test_a_tokenizer_without_a_limit_has_none(tiny_bert):
    module = Transformer(str(tiny_bert))
    assert module.cost_rule == CostRule(max_tokens=module.max_seq_length)
    module.max_seq_length = int(1e30)
    assert module.cost_rule.max_tokens is None


def test_an_image_that_is_read_costs_the_longest_text(tiny_bert):
    class Reader(InputModule):
        reads = {"image": "text"}

        def read(self, items):
            return ["text"] * len(items)

    module = Transformer(str(tiny_bert))
    assert route_cost_rule([Reader(), module]).image == ImageRule(tokens=module.max_seq_length)
