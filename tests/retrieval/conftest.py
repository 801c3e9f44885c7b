import numpy as np
import pytest
import torch


class Compass:
    """Documents and queries are angles in degrees; images are angles too, by their red channel."""

    similarity_fn_name = "cosine"

    def __init__(self, dim=2):
        self.dim = dim
        self.chunks = []

    def encode(self, inputs, convert_to_tensor=False, **options):
        angles = np.radians([float(item) for item in inputs])
        vectors = np.stack([np.cos(angles), np.sin(angles)] + [np.zeros(len(inputs))] * (self.dim - 2), axis=1)
        self.chunks.append(len(inputs))
        return torch.from_numpy(vectors) if convert_to_tensor else vectors.astype(np.float32)

    encode_query = encode_document = encode


@pytest.fixture
def compass():
    return Compass()


@pytest.fixture
def make_compass():
    return Compass
