"""Losses of cross encoders against sentence-transformers 6.2.0: signatures, values and gradients on one checkpoint."""

import inspect
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from omnitune.losses import cross_encoder as losses
from omnitune.model.pair import CrossEncoder

pytestmark = pytest.mark.parity

QUERIES = ["how is a bearing greased", "torque of the bolt", "the pump", "a long question about oil and water"]
POSITIVES = ["grease it every 500 hours", "the bolt takes 40 newton metres", "it pumps", "oil floats on water"]
NEGATIVES = [["a page about seals", "index", "the weather is fine", "a table of contents"],
             ["bolts", "grease", "water pump manual", "oil"]]  # fmt: skip
LISTS = [["one document", "two documents about oil", "three"], ["only this"], ["a", "b longer", "c", "d"], ["x", "y"]]
GRADES = [[0.0, 2.0, 1.0], [1.0], [3.0, 0.0, 0.0, 1.0], [0.5, 0.5]]

Pair = tuple[CrossEncoder, Any]


@pytest.fixture(scope="module")
def st() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("sentence_transformers")
        from sentence_transformers.cross_encoder import losses as theirs
    return theirs


@pytest.fixture(scope="module")
def pair(st: Any, built: Callable[..., Path], tiny_bert: Path) -> Callable[[int], Pair]:
    """The same classifier in both libraries, with some number of labels."""
    from sentence_transformers import CrossEncoder as Rival

    def make(labels: int) -> Pair:
        torch.manual_seed(3)
        rival = Rival(str(tiny_bert), num_labels=labels, device="cpu")
        torch.manual_seed(3)
        return CrossEncoder(str(tiny_bert), num_labels=labels, device="cpu"), rival

    return make


def result(loss: nn.Module, model: nn.Module, columns: list[Any], labels: Any) -> tuple[Tensor, Tensor]:
    model.zero_grad(set_to_none=True)
    torch.manual_seed(5)
    value = loss([list(c) for c in columns], labels)
    value.backward()
    return value.detach(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def compare(pair: Pair, st: Any, name: str, columns: list[Any], labels: Any, **options: Any) -> None:
    ours, theirs = pair
    ours.eval(), theirs.eval()
    own, rival = ({k: v(library) if callable(v) and not isinstance(v, nn.Module) else v for k, v in options.items()}
                  for library in (losses, st))  # fmt: skip
    mine = result(getattr(losses, name)(ours, **own), ours, columns, labels)
    reference = result(getattr(st, name)(theirs, **rival), theirs, columns, labels)
    assert reference[1].norm() > 0
    torch.testing.assert_close(mine[0], reference[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(mine[1], reference[1], atol=1e-5, rtol=1e-4)


POINT = [QUERIES, POSITIVES]
BINARY = torch.tensor([1, 0, 1, 0])
POINTWISE = [
    ("BinaryCrossEntropyLoss", BINARY, {}),
    ("BinaryCrossEntropyLoss", BINARY[:, None].float(), {"pos_weight": torch.tensor(3.0), "reduction": "sum"}),
    ("BinaryCrossEntropyLoss", BINARY.float(), {"activation_fn": nn.Tanh()}),
    ("MSELoss", torch.tensor([0.2, 0.4, -1.0, 3.0]), {}),
    ("MSELoss", torch.tensor([0.2, 0.4, 1.0, 0.0]), {"activation_fn": nn.Sigmoid(), "reduction": "sum"}),
]


@pytest.mark.parametrize(("name", "labels", "options"), POINTWISE, ids=str)
def test_pointwise(pair: Any, st: Any, name: str, labels: Tensor, options: dict[str, Any]) -> None:
    compare(pair(1), st, name, POINT, labels, **options)


@pytest.mark.parametrize(
    ("labels", "options"),
    [
        (torch.tensor([0, 2, 1, 2]), {}),
        (torch.tensor([[0], [2], [1], [2]]), {"label_smoothing": 0.1}),
        (torch.tensor([[0.2, 0.8, 0.0], [1.0, 0.0, 0.0], [0.0, 0.5, 0.5], [0.3, 0.3, 0.4]]), {}),
    ],
    ids=("classes", "column", "probabilities"),
)
def test_classes(pair: Any, st: Any, labels: Tensor, options: dict[str, Any]) -> None:
    compare(pair(3), st, "CrossEntropyLoss", POINT, labels, **options)


@pytest.mark.parametrize(
    ("negatives", "labels"),
    [
        (1, torch.tensor([0.5, 1.0, -0.2, 0.0])),
        (1, torch.rand(4, 2)),
        (2, torch.rand(4, 2)),
        (2, torch.rand(4, 3)),
    ],
    ids=("margins", "scores", "margins of two", "scores of three"),
)
def test_margins(pair: Any, st: Any, negatives: int, labels: Tensor) -> None:
    compare(pair(1), st, "MarginMSELoss", [*POINT, *NEGATIVES[:negatives]], labels)


@pytest.mark.parametrize("name", ["MultipleNegativesRankingLoss", "CachedMultipleNegativesRankingLoss"])
@pytest.mark.parametrize("negatives", [0, 1, 2])
@pytest.mark.parametrize(
    "options",
    [{}, {"num_negatives": 2}, {"num_negatives": None, "scale": 3.0, "activation_fn": nn.Identity()}, {"scale": 0.0}],
    ids=str,
)
def test_in_batch_negatives(pair: Any, st: Any, name: str, negatives: int, options: dict[str, Any]) -> None:
    compare(pair(1), st, name, [*POINT, *NEGATIVES[:negatives]], None, **options)


def scheme(name: str, **options: Any) -> Callable[[Any], Any]:
    return lambda library: getattr(library, name)(**options)


LISTWISE = [
    ("ListNetLoss", {}),
    ("ListNetLoss", {"activation_fn": nn.Tanh(), "mini_batch_size": 2}),
    ("ListMLELoss", {}),
    ("ListMLELoss", {"respect_input_order": False}),
    ("PListMLELoss", {}),
    ("PListMLELoss", {"respect_input_order": False, "mini_batch_size": 3}),
    ("PListMLELoss", {"lambda_weight": None}),
    ("PListMLELoss", {"lambda_weight": lambda library: library.PListMLELambdaWeight(lambda mask: mask * 1.0)}),
    ("ADRMSELoss", {}),
    ("ADRMSELoss", {"alpha": 3.0}),
    ("RankNetLoss", {}),
    ("RankNetLoss", {"k": 2, "sigma": 2.0, "reduction_log": "natural"}),
    ("LambdaLoss", {}),
    ("LambdaLoss", {"k": 1, "mini_batch_size": -1}),
    ("LambdaLoss", {"weighting_scheme": None}),
    *(
        ("LambdaLoss", {"weighting_scheme": scheme(name), "k": k})
        for name in ("NoWeightingScheme", "NDCGLoss1Scheme", "NDCGLoss2Scheme", "LambdaRankScheme", "NDCGLoss2PPScheme")
        for k in (None, 2)
    ),
    ("LambdaLoss", {"weighting_scheme": scheme("NDCGLoss2PPScheme", mu=3.0), "eps": 1e-3}),
]


@pytest.mark.parametrize(("name", "options"), LISTWISE)
def test_listwise(pair: Any, st: Any, name: str, options: dict[str, Any]) -> None:
    compare(pair(1), st, name, [QUERIES, LISTS], [torch.tensor(grades) for grades in GRADES], **options)


@pytest.mark.parametrize(
    "name", [n for n in losses.__all__ if n not in ("BaseWeightingScheme", "ListLoss", "PairLoss")]
)
def test_what_a_loss_tells_of_itself(pair: Any, st: Any, name: str) -> None:
    assert inspect.isclass(getattr(st, name))
    if not name.endswith("Loss"):
        return
    ours, theirs = pair(1)
    mine, reference = getattr(losses, name)(ours), getattr(st, name)(theirs)
    if hasattr(reference, "get_config_dict"):
        expected = {k: v.replace("sentence_transformers", "omnitune") if isinstance(v, str) else v
                    for k, v in reference.get_config_dict().items()}  # fmt: skip
        config = mine.get_config_dict()
        assert config.keys() == expected.keys()
        assert all(str(config[k]).rpartition(".")[2] == str(v).rpartition(".")[2] for k, v in expected.items())
    assert bool(mine.citation) == hasattr(reference, "citation")
