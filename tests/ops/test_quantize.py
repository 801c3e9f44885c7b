import logging

import numpy as np
import pytest
import torch

from omnitune.errors import InputError
from omnitune.ops.quantize import quantize_embeddings, truncate_embeddings

PRECISIONS = ["float32", "int8", "uint8", "binary", "ubinary"]


@pytest.fixture(scope="module")
def embeddings() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((120, 20)).astype(np.float32)


def test_eight_bits_by_hand():
    ranges = np.array([[0.0], [255.0]])
    values = np.array([[-3.0], [0.0], [1.9], [254.5], [255.0], [900.0]], dtype=np.float32)
    assert quantize_embeddings(values, "uint8", ranges=ranges).ravel().tolist() == [0, 0, 1, 254, 255, 255]
    assert quantize_embeddings(values, "int8", ranges=ranges).ravel().tolist() == [-128, -128, -127, 126, 127, 127]


def test_one_bit_by_hand():
    row = np.array([[1.0, -1, 0, 2, -2, 3, 4, -5, 6]])
    assert quantize_embeddings(row, "ubinary").tolist() == [[0b10010110, 0b10000000]]
    assert quantize_embeddings(row, "binary").tolist() == [[0b10010110 - 128, 0]]


def test_a_constant_dimension_is_no_division_by_zero(embeddings):
    constant = embeddings.copy()
    constant[:, 3] = 0.5
    assert (quantize_embeddings(constant, "uint8")[:, 3] == 0).all()


def test_few_embeddings_warn(embeddings, caplog):
    with caplog.at_level(logging.WARNING):
        quantize_embeddings(embeddings[:5], "int8")
    assert "The ranges of int8 come from 5 embeddings" in caplog.text


def test_wrong_arguments(embeddings):
    with pytest.raises(InputError, match="expected at least two rows to take the ranges of int8 from, got one"):
        quantize_embeddings(embeddings[0], "int8")
    with pytest.raises(InputError, match="expected floating-point numbers, got int8"):
        quantize_embeddings(embeddings.astype(np.int8), "binary")
    with pytest.raises(InputError, match="expected float32, int8, uint8, binary or ubinary, got 'int4'"):
        quantize_embeddings(embeddings, "int4")


def test_truncate_keeps_the_first_dimensions(embeddings):
    assert truncate_embeddings(embeddings, 8).shape == (120, 8)
    assert truncate_embeddings(torch.ones(3, 5), None).shape == (3, 5)


@pytest.mark.parity
@pytest.mark.parametrize("precision", PRECISIONS)
def test_agrees_with_st(embeddings, precision, caplog):
    theirs = pytest.importorskip("sentence_transformers.util").quantize_embeddings
    ranges = np.stack([embeddings.min(0) * 0.5, embeddings.max(0) * 0.5])
    given = [
        (embeddings, {}),
        (torch.from_numpy(embeddings), {}),
        (list(torch.from_numpy(embeddings)), {}),
        (torch.from_numpy(embeddings).bfloat16(), {}),
        (embeddings.astype(np.float64), {}),
        (embeddings[:7], {}),
        (embeddings[:1], {"ranges": ranges}),
        (embeddings[0], {"ranges": ranges}),
        (embeddings[:7], {"calibration_embeddings": embeddings}),
        (embeddings[:0], {}),
    ]
    for values, options in given:
        ours = quantize_embeddings(values, precision, **options)
        expected = theirs(values, precision, **options)
        assert ours.dtype == expected.dtype
        np.testing.assert_array_equal(ours, expected)


@pytest.mark.parity
@pytest.mark.parametrize("precision", PRECISIONS)
def test_agrees_with_st_on_token_vectors(embeddings, precision):
    theirs = pytest.importorskip("sentence_transformers.util").quantize_embeddings
    documents = [embeddings[:50], embeddings[50:51], embeddings[:0], embeddings[51:]]
    for options in ({}, {"calibration_embeddings": embeddings[:110]}):
        ours, expected = quantize_embeddings(documents, precision, **options), theirs(documents, precision, **options)
        for mine, other in zip(ours, expected, strict=True):
            assert mine.dtype == other.dtype
            np.testing.assert_array_equal(mine, other)
    assert quantize_embeddings([], precision) == []


@pytest.mark.parametrize("precision", ["float32", "int8", "uint8", "binary", "ubinary"])
def test_plain_lists_are_embeddings_too(precision):
    rows = np.random.default_rng(0).normal(size=(120, 16)).astype(np.float32)
    expected = quantize_embeddings(rows, precision)
    for given in (rows.tolist(), list(rows), [torch.from_numpy(row) for row in rows]):
        np.testing.assert_array_equal(quantize_embeddings(given, precision), expected)
    ranges = np.stack([rows.min(axis=0), rows.max(axis=0)])
    for form in (ranges, ranges.tolist(), torch.from_numpy(ranges)):
        found = quantize_embeddings(rows[0].tolist(), precision, ranges=form, calibration_embeddings=rows.tolist())
        np.testing.assert_array_equal(found, quantize_embeddings(rows[0], precision, ranges=ranges))


def test_what_cannot_be_quantized():
    rows = np.ones((3, 4), np.float32)
    with pytest.raises(InputError, match=r"embeddings: expected numbers .*got nan \(1 of 12\)"):
        quantize_embeddings(np.where(np.eye(3, 4) * [[1], [0], [0]], np.nan, rows), "int8")
    with pytest.raises(InputError, match=r"ranges: expected the shape \(2, 4\), got \(4,\)"):
        quantize_embeddings(rows, "uint8", ranges=rows[0])
    with pytest.raises(InputError, match="embeddings: expected a tensor or an array, got list; make one"):
        truncate_embeddings([[1.0, 2.0]], 1)
