import io

import pytest
from PIL import Image

from omnitune.errors import MediaError, MediaRefusedError
from omnitune.inputs.cost import CostRule, ImageRule, cost_of
from omnitune.inputs.load import load
from omnitune.inputs.policy import DEFAULT_POLICY

PICTURE = Image.new("RGB", (64, 96))
RULE = CostRule(max_tokens=20, image=ImageRule(cell=32))
MISSING = "no-such-page.png"


def content() -> bytes:
    made = io.BytesIO()
    PICTURE.save(made, "PNG")
    return made.getvalue()


def said(*parts):
    return {"role": "user", "content": list(parts)}


def loaded(item, modality):
    return load(item, modality, DEFAULT_POLICY)


def cost(item, modality, rule=RULE):
    return cost_of(item, modality, rule, DEFAULT_POLICY)


def test_texts_stay():
    assert loaded("a", "text") == loaded({"text": "a"}, "text") == "a"
    assert loaded(("a", "b"), "text") == ("a", "b")


def test_images_are_decoded():
    for item in (content(), {"bytes": content()}, {"image": content()}, {"image": {"bytes": content()}}):
        assert loaded(item, "image").size == (64, 96)


def test_dicts_keep_their_keys_and_load_lists():
    made = loaded({"text": "a", "image": [content(), PICTURE]}, ("image", "text"))
    assert made["text"] == "a"
    assert [image.size for image in made["image"]] == [(64, 96)] * 2


def test_conversations_load_their_media():
    first = said({"type": "text", "text": "what?"}, {"type": "image", "image": content()})
    second = {"role": "system", "content": "be brief"}
    made = loaded([first, second], "message")
    assert made[0]["content"][0] == {"type": "text", "text": "what?"}
    assert made[0]["content"][1]["image"].size == (64, 96)
    assert made[1] == second
    assert isinstance(first["content"][1]["image"], bytes)
    assert loaded(second, "message") == [second]


@pytest.mark.parametrize("key", ["image", "url", "path"])
def test_a_page_that_is_missing_is_named_wherever_it_is(key):
    for item, modality in (
        (MISSING, "image"),
        ({"text": "a", "image": MISSING}, ("image", "text")),
        ([said({"type": "image", key: MISSING})], "message"),
    ):
        with pytest.raises(MediaError, match=f"^{MISSING}: no such file"):
            loaded(item, modality)
        with pytest.raises(MediaError, match=f"^{MISSING}: no such file"):
            cost(item, modality)


def test_an_image_part_without_an_image():
    with pytest.raises(MediaError, match="None: expected an image"):
        loaded([said({"type": "image"})], "message")


def test_cost_of_text_is_its_tokens_up_to_the_limit():
    assert cost("", "text") == 2
    assert cost("x" * 40, "text") == cost({"text": "x" * 40}, "text") == 12
    assert cost(("x" * 20, "x" * 20), "text") == 12
    assert cost("x" * 4000, "text") == 20
    assert cost("x" * 4000, "text", CostRule()) == 1002


def test_cost_of_an_image_is_its_cells():
    assert cost(PICTURE, "image") == cost(content(), "image") == cost({"image": content()}, "image") == 6
    assert cost(Image.new("L", (1, 1)), "image") == 1
    assert cost(PICTURE, "image", CostRule(image=ImageRule(tokens=50))) == 50
    assert cost(Image.new("L", (400, 2)), "image", CostRule(image=ImageRule(cell=32, max_ratio=200))) == 1
    with pytest.raises(MediaRefusedError, match="401x2 pixels: expected a longer side of at most 200 times .* got 200"):
        cost(Image.new("L", (401, 2)), "image", CostRule(image=ImageRule(cell=32, max_ratio=200)))
    assert cost(PICTURE, "image", CostRule(image=ImageRule(cell=32, min_pixels=64 * 1024))) == 64
    assert cost(PICTURE, "image", CostRule(image=ImageRule(cell=32, max_pixels=2 * 1024))) == 2


def test_cost_reads_the_header_alone():
    assert cost(content()[:60], "image") == 6


def test_cost_of_an_address_fetches_nothing():
    assert cost("https://nowhere.invalid/a.png", "image") == 1024
    assert cost("https://nowhere.invalid/a.png", "image", CostRule(image=ImageRule(tokens=50))) == 50


def test_cost_of_dicts_and_conversations_sums_their_parts():
    both = ("image", "text")
    assert cost({"text": "x" * 40, "image": PICTURE}, both) == 18
    assert cost({"text": "x" * 40, "image": [PICTURE, content()]}, both) == 24
    parts = [{"type": "image", "url": "https://nowhere.invalid/a.png"}, {"type": "image", "image": PICTURE}]
    with_two = cost([said(*parts)], "message")
    assert with_two - cost([said()], "message") == 1024 + 6
