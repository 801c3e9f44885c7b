import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from omnitune.errors import InputError, ShapeError
from omnitune.ops.rows import cat_rows, row_count, slice_rows, split_rows
from omnitune.types import Features


def tokens(lengths: list[int], side: str = "right", pad: int = 9) -> Features:
    """Ids 10, 11, 12 ... of each row, padded."""
    width = max(lengths)
    rows = []
    for row, length in enumerate(lengths):
        ids = [10 * (row + 1) + i for i in range(length)]
        padding = [pad] * (width - length)
        rows.append(padding + ids if side == "left" else ids + padding)
    ids = torch.tensor(rows)
    return {"input_ids": ids, "attention_mask": (ids != pad).long(), "token_type_ids": torch.zeros_like(ids)}


def grids(sizes: list[tuple[int, int]], start: int = 0) -> Features:
    """Images of 1 x height x width patches, patch values numbered through."""
    grid = torch.tensor([(1, h, w) for h, w in sizes])
    count = int(grid.prod(1).sum())
    return {"image_grid_thw": grid, "pixel_values": start + torch.arange(count).float()[:, None].expand(-1, 3)}


def same(a: Features, b: Features) -> None:
    assert a.keys() == b.keys()
    for key, value in a.items():
        assert torch.equal(value, b[key]) if isinstance(value, torch.Tensor) else value == b[key], key


def test_right_padding_is_cut():
    part = slice_rows(tokens([5, 2, 3]), 1, 3)
    assert part["input_ids"].tolist() == [[20, 21, 9], [30, 31, 32]]
    assert part["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert part["token_type_ids"].shape == (2, 3)


def test_left_padding_is_cut():
    part = slice_rows(tokens([5, 2, 3], "left"), 1, 3)
    assert part["input_ids"].tolist() == [[9, 20, 21], [30, 31, 32]]


def test_slices_are_views():
    whole = tokens([3, 3])
    assert slice_rows(whole, 1, 2)["input_ids"].data_ptr() == whole["input_ids"][1:].data_ptr()


def test_what_rows_share_is_kept():
    whole = tokens([3, 2]) | {"modality": "text", "task": None, "prompt_length": 2, "scale": torch.tensor(0.5)}
    part = slice_rows(whole, 0, 1)
    assert (part["modality"], part["task"], part["prompt_length"], part["scale"]) == ("text", None, 2, whole["scale"])


def test_a_tensor_that_only_looks_like_tokens_keeps_its_columns():
    whole = tokens([3, 1, 1]) | grids([(1, 1)] * 3)
    part = slice_rows(whole, 1, 3)
    assert part["pixel_values"].shape == part["image_grid_thw"].shape == (2, 3)


def test_patches_follow_their_image():
    whole = tokens([4, 4, 4]) | grids([(2, 2), (1, 2), (2, 3)])
    part = slice_rows(whole, 1, 3)
    assert part["image_grid_thw"].tolist() == [[1, 1, 2], [1, 2, 3]]
    assert part["pixel_values"][:, 0].tolist() == list(range(4, 12))


def test_rows_with_several_images_or_none():
    whole = tokens([4, 4, 4]) | grids([(2, 2), (1, 2), (2, 3)]) | {"num_images_per_sample": torch.tensor([2, 0, 1])}
    assert slice_rows(whole, 0, 1)["pixel_values"][:, 0].tolist() == list(range(6))
    assert slice_rows(whole, 2, 3)["pixel_values"][:, 0].tolist() == list(range(6, 12))
    without = slice_rows(whole, 1, 2)
    assert not without.keys() & {"pixel_values", "image_grid_thw"}
    assert without["num_images_per_sample"].tolist() == [0]


def test_videos_and_images_of_one_batch():
    video = {"video_grid_thw": torch.tensor([(2, 2, 2), (1, 2, 2)]), "pixel_values_videos": torch.arange(12)[:, None]}
    whole = tokens([2, 2]) | grids([(2, 2), (2, 2)]) | video | {"second_per_grid_ts": torch.tensor([1.0, 0.5])}
    part = slice_rows(whole, 1, 2)
    assert part["pixel_values_videos"].tolist() == [[8], [9], [10], [11]]
    assert part["second_per_grid_ts"].tolist() == [0.5]


def test_images_without_a_grid_and_with_counts():
    whole = tokens([2, 2]) | {"pixel_values": torch.arange(3.0)[:, None, None, None].expand(3, 3, 2, 2)}
    whole |= {"num_images_per_sample": torch.tensor([1, 2]), "image_sizes": torch.tensor([[1, 1], [2, 2], [3, 3]])}
    part = slice_rows(whole, 1, 2)
    assert part["pixel_values"][:, 0, 0, 0].tolist() == [1.0, 2.0]
    assert part["image_sizes"].tolist() == [[2, 2], [3, 3]]


def test_padded_images_are_rows():
    whole = tokens([2, 2]) | {"pixel_values": torch.ones(2, 3, 3, 4, 4), "pixel_attention_mask": torch.ones(2, 3, 4, 4)}
    whole |= {"num_images_per_sample": torch.tensor([3, 1])}
    assert slice_rows(whole, 1, 2)["pixel_values"].shape == (1, 3, 3, 4, 4)


def test_bags_of_words():
    whole = {"input_ids": torch.arange(7), "offsets": torch.tensor([0, 3, 3, 5])}
    part = slice_rows(whole, 1, 4)
    assert part["input_ids"].tolist() == [3, 4, 5, 6]
    assert part["offsets"].tolist() == [0, 0, 2]
    assert slice_rows(whole, 1, 2)["input_ids"].tolist() == []
    same(cat_rows(split_rows(whole, 3)), whole)


def test_images_alone():
    whole = {"pixel_values": torch.arange(4.0)[:, None, None, None]}
    assert row_count(whole) == 4
    assert [len(part["pixel_values"]) for part in split_rows(whole, 3)] == [3, 1]


def test_a_stop_beyond_the_end_means_all():
    assert row_count(slice_rows(tokens([1, 1, 1]), 2, 9)) == 1


def test_joined_on_the_side_that_has_padding():
    left = cat_rows([tokens([3]), tokens([1, 2], "left")])
    assert left["input_ids"].tolist() == [[10, 11, 12], [9, 9, 10], [9, 20, 21]]
    right = cat_rows([tokens([3]), tokens([1, 2])])
    assert right["input_ids"].tolist() == [[10, 11, 12], [10, 9, 9], [20, 21, 9]]
    assert right["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0], [1, 1, 0]]


def test_joined_on_the_side_that_is_asked_for():
    assert cat_rows([tokens([2]), tokens([1])], "left")["input_ids"].tolist() == [[10, 11], [0, 10]]
    assert cat_rows([tokens([2]), tokens([1])])["input_ids"].tolist() == [[10, 11], [10, 0]]


def test_text_joined_with_images_counts_them():
    joined = cat_rows([tokens([2, 2]), tokens([2]) | grids([(2, 2)])])
    assert joined["num_images_per_sample"].tolist() == [0, 0, 1]
    assert "pixel_values" not in slice_rows(joined, 0, 2)
    assert len(slice_rows(joined, 1, 3)["pixel_values"]) == 4


def test_padded_images_of_different_sizes_are_joined():
    small = {"pixel_values": torch.ones(1, 1, 3, 2, 4), "pixel_attention_mask": torch.ones(1, 1, 2, 4)}
    large = {"pixel_values": torch.ones(1, 2, 3, 4, 2), "pixel_attention_mask": torch.ones(1, 2, 4, 2)}
    joined = cat_rows([small, large])
    assert joined["pixel_values"].shape == (2, 2, 3, 4, 4)
    assert joined["pixel_attention_mask"].sum(dim=(1, 2, 3)).tolist() == [8, 16]
    assert joined["pixel_attention_mask"][0, 0, :2].all()


@settings(deadline=None, max_examples=80)
@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=7),
    size=st.integers(1, 8),
    side=st.sampled_from(("left", "right")),
    images=st.sampled_from(("none", "one", "any")),
    data=st.data(),
)
def test_cutting_and_joining_gives_the_same_rows(lengths, size, side, images, data):
    whole = tokens(lengths, side) | {"task": "query", "prompt_length": 1}
    if images != "none":
        counts = [data.draw(st.integers(0, 2)) if images == "any" else 1 for _ in lengths]
        shapes = [data.draw(st.tuples(st.integers(1, 3), st.integers(1, 3))) for _ in range(sum(counts))]
        whole |= grids(shapes) if shapes else {}
        whole |= {"num_images_per_sample": torch.tensor(counts)} if images == "any" else {}
    parts = split_rows(whole, size)
    assert sum(map(row_count, parts)) == len(lengths)
    joined = cat_rows(parts, side)
    padding = whole["attention_mask"] == 0
    joined["input_ids"] = joined["input_ids"].masked_fill(padding, 9)  # parts without padding do not know its id
    same(joined, whole)


@pytest.mark.parametrize(
    ("features", "error", "message"),
    [
        ({"modality": "text"}, InputError, r"features: expected at least one tensor .* got the keys \['modality'\]"),
        (
            tokens([1, 1, 1]) | grids([(1, 1), (1, 1)]), ShapeError,
            "image_grid_thw: expected one image for each of the 3 rows, got 2; .* 'num_images_per_sample'",
        ),
        (tokens([1, 1]) | {"other": torch.zeros(5)}, ShapeError, r"other: expected one entry .* 2 rows, got \(5,\)"),
    ],
)  # fmt: skip
def test_what_cannot_be_cut(features, error, message):
    with pytest.raises(error, match=message):
        slice_rows(features, 0, 1)


def test_size_of_a_split():
    with pytest.raises(InputError, match="size: expected at least 1 row, got 0"):
        split_rows(tokens([1]), 0)


@pytest.mark.parametrize(
    ("parts", "error", "message"),
    [
        ([tokens([1]), {"input_ids": torch.ones(1, 1)}], InputError, "all to hold 'attention_mask', got it in 1"),
        ([tokens([1]) | {"task": "a"}, tokens([1]) | {"task": "b"}], InputError, "task: expected the same .* 'a', 'b'"),
        (
            [{"input_ids": torch.ones(1, 2)}, {"input_ids": torch.ones(1, 3)}], ShapeError,
            r"input_ids: expected shapes .* attention_mask, got \(1, 2\), \(1, 3\)",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_joined(parts, error, message):
    with pytest.raises(error, match=message):
        cat_rows(parts)


def test_parts_that_do_not_hold_the_same_are_named() -> None:
    whole = tokens([3, 2])
    without = {key: value for key, value in whole.items() if key != "token_type_ids"}
    with pytest.raises(InputError, match="parts: expected all to hold 'token_type_ids', got it in 1 of 2"):
        cat_rows([whole, without])


def test_rows_without_padding_are_padded_with_the_given_id() -> None:
    parts = [{"input_ids": torch.ones(1, n, dtype=torch.int64), "attention_mask": torch.ones(1, n)} for n in (1, 3)]
    assert cat_rows(parts, "left", 7)["input_ids"].tolist() == [[7, 7, 1], [1, 1, 1]]
    assert cat_rows(parts, "right")["input_ids"].tolist() == [[1, 0, 0], [1, 1, 1]]
