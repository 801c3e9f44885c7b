"""Cells that are lists: as many positives or negatives as a row has."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch.nn import functional as F

from omnitune import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments, losses
from omnitune.errors import DatasetError, InputError, ShapeError
from omnitune.types import Column

ANCHORS = ["red pump", "blue oven", "a wheel"]
POSITIVES = ["grease it", "heat it", "turn it"]
NEGATIVES = [["ash", "clay"], ["dust"], ["mud", "sand", "salt"]]
ALL = ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")


def columns(*cells: list[Any]) -> list[Column]:
    return [Column(name=name, items=items) for name, items in zip(["anchor", "positive", "negative", "more"], cells)]  # noqa: B905


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> SentenceTransformer:
    from fixtures import checkpoints, st_checkpoints

    folder = tmp_path_factory.mktemp("lists")
    checkpoints.bert(folder / "bert")
    made = SentenceTransformer(str(st_checkpoints.legacy(folder / "bi", folder / "bert")), device="cpu")
    return made.eval()


Make = Callable[[SentenceTransformer], torch.nn.Module]

IN_BATCH: dict[str, Make] = {
    "plain": losses.MultipleNegativesRankingLoss,
    "symmetric": losses.MultipleNegativesSymmetricRankingLoss,
    "cached": lambda model: losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=2),
    "all directions": lambda model: losses.MultipleNegativesRankingLoss(model, directions=ALL),
    "hard negatives": lambda model: losses.MultipleNegativesRankingLoss(
        model, hardness_mode="hard_negatives", hardness_strength=5.0
    ),
    "matryoshka": lambda model: losses.MatryoshkaLoss(model, losses.MultipleNegativesRankingLoss(model), [32, 8]),
    "guided": lambda model: losses.GISTEmbedLoss(model, model),
}


@pytest.mark.parametrize("make", IN_BATCH.values(), ids=IN_BATCH)
def test_lists_of_one_length_equal_columns(model: SentenceTransformer, make: Make) -> None:
    pairs = [["ash", "clay"], ["dust", "rock"], ["mud", "sand"]]
    loss = make(model)
    value = loss(columns(ANCHORS, POSITIVES, pairs))
    wanted = loss(columns(ANCHORS, POSITIVES, *map(list, zip(*pairs, strict=True))))
    torch.testing.assert_close(value, wanted, rtol=1e-6, atol=1e-6)
    single = loss(columns(ANCHORS, [[one] for one in POSITIVES], [row[:1] for row in pairs]))
    torch.testing.assert_close(single, loss(columns(ANCHORS, POSITIVES, [row[0] for row in pairs])))


def by_hand(model: SentenceTransformer, positives: list[list[str]], negatives: list[list[str]]) -> torch.Tensor:
    """A term for every positive: itself against all documents that are no positive of its row."""
    queries = torch.from_numpy(model.encode(ANCHORS))
    documents = [(row, text) for row, cell in enumerate(positives) for text in cell]
    good = len(documents)
    documents += [(-1, text) for cell in negatives for text in cell]
    scores = 20 * F.normalize(queries) @ F.normalize(torch.from_numpy(model.encode([t for _, t in documents]))).T
    terms = []
    for place, (row, _) in enumerate(documents[:good]):
        kept = [i for i, (owner, _) in enumerate(documents) if i == place or owner != row]
        terms.append(torch.logsumexp(scores[row, kept], 0) - scores[row, place])
    return torch.stack(terms).mean()


@pytest.mark.parametrize(
    "positives", [[[p] for p in POSITIVES], [["grease it", "oil it"], ["heat it"], ["turn it"] * 2]]
)
@pytest.mark.parametrize("negatives", [NEGATIVES, [["ash"], [], ["mud", "sand", "salt", "silt"]]])
def test_lists_of_any_length_by_hand(
    model: SentenceTransformer, positives: list[list[str]], negatives: list[list[str]]
) -> None:
    loss = losses.MultipleNegativesRankingLoss(model)
    value = loss(columns(ANCHORS, positives, negatives))
    torch.testing.assert_close(value.detach(), by_hand(model, positives, negatives), rtol=1e-5, atol=1e-6)


def test_every_direction_leaves_out_what_is_of_the_row(model: SentenceTransformer) -> None:
    """A second positive that equals the first, of every row, changes no mean but by what it adds as a candidate."""
    loss = losses.MultipleNegativesRankingLoss(model, directions=("query_to_doc", "query_to_query"))
    once = loss(columns(ANCHORS[:1], [["grease it"]], [["ash"]]))
    twice = loss(columns(ANCHORS[:1], [["grease it", "grease it"]], [["ash"]]))
    torch.testing.assert_close(once, twice)  # alone, neither a query nor a document of another row competes
    symmetric = losses.MultipleNegativesSymmetricRankingLoss(model)
    torch.testing.assert_close(
        symmetric(columns(ANCHORS[:1], [["grease it"]])), symmetric(columns(ANCHORS[:1], [["grease it"] * 3]))
    )
    guided = losses.GISTEmbedLoss(model, model, margin=-9.0)  # the guide takes nothing for relevant
    torch.testing.assert_close(
        guided(columns(ANCHORS[:1], [["grease it"]])),
        guided(columns(ANCHORS[:1], [["grease it"] * 2])),
        atol=0.7,
        rtol=0,
    )


ROWS: dict[str, tuple[Make, list[Any], list[Any]]] = {
    "triplets": (
        losses.TripletLoss,
        [ANCHORS, POSITIVES, NEGATIVES],
        [[ANCHORS[i] for i in (0, 0, 1, 2, 2, 2)], [POSITIVES[i] for i in (0, 0, 1, 2, 2, 2)], sum(NEGATIVES, [])],
    ),
    "two lists": (
        losses.TripletLoss,
        [ANCHORS[:1], [["grease it", "oil it"]], [["ash", "clay"]]],
        [ANCHORS[:1] * 4, ["grease it", "grease it", "oil it", "oil it"], ["ash", "clay"] * 2],
    ),
    "scores": (
        losses.CoSENTLoss,
        [ANCHORS, NEGATIVES],
        [[ANCHORS[i] for i in (0, 0, 1, 2, 2, 2)], sum(NEGATIVES, [])],
    ),
}


@pytest.mark.parametrize(("make", "given", "wanted"), ROWS.values(), ids=ROWS)
def test_a_row_for_every_entry(model: SentenceTransformer, make: Make, given: list[Any], wanted: list[Any]) -> None:
    loss = make(model)
    labels = torch.linspace(0, 1, 6)
    listed = list(labels.split([2, 1, 3])) if make is losses.CoSENTLoss else None
    flat = labels if make is losses.CoSENTLoss else None
    torch.testing.assert_close(loss(columns(*given), listed), loss(columns(*wanted), flat))


def test_labels_of_the_row_are_those_of_its_entries(model: SentenceTransformer) -> None:
    loss = losses.CosineSimilarityLoss(model)
    value = loss(columns(ANCHORS[:2], [["ash", "clay"], ["mud"]]), torch.tensor([0.25, 1.0]))
    wanted = loss(columns([ANCHORS[0]] * 2 + [ANCHORS[1]], ["ash", "clay", "mud"]), torch.tensor([0.25, 0.25, 1.0]))
    torch.testing.assert_close(value, wanted)


def test_a_teachers_margins_or_scores(model: SentenceTransformer) -> None:
    loss = losses.MarginMSELoss(model)
    scores = [torch.tensor([3.0, 1.0, 2.0]), torch.tensor([2.0, 0.5]), torch.tensor([4.0, 1.0, 0.0, 2.0])]
    margins = [row[0] - row[1:] for row in scores]
    given = columns(ANCHORS, POSITIVES, NEGATIVES)
    torch.testing.assert_close(loss(given, margins), loss(given, scores))
    with pytest.raises(
        ShapeError, match=r"row 0, column 'negative': MarginMSELoss expected one label, or one for each"
    ):
        loss(given, [torch.ones(5)] * 3)


@pytest.mark.parametrize(
    ("make", "given", "message"),
    [
        (
            losses.MegaBatchMarginLoss,
            [ANCHORS, [[p] for p in POSITIVES]],
            "expected one input a cell, got lists in column",
        ),
        (losses.MultipleNegativesRankingLoss, [[["a", "b"]], ["c"]], "expected one query a row in column 'anchor'"),
        (losses.MultipleNegativesRankingLoss, [ANCHORS, [[], [], []]], "expected a positive, got empty lists"),
        (losses.TripletLoss, [ANCHORS, POSITIVES, [[], [], []]], "expected entries, got empty lists"),
    ],
)
def test_what_is_no_list_of_documents(model: SentenceTransformer, make: Make, given: list[Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make(model)(columns(*given))


def trainer(model: SentenceTransformer, dataset: Dataset, **arguments: Any) -> SentenceTransformerTrainer:
    folder = tempfile.mkdtemp()
    settings = {"max_steps": 1, "logging_steps": 1, "save_strategy": "no", "report_to": [], "disable_tqdm": True}
    args = SentenceTransformerTrainingArguments(
        output_dir=folder, per_device_train_batch_size=3, use_cpu=True, **{**settings, **arguments}
    )
    loss = losses.MultipleNegativesRankingLoss(model)
    return SentenceTransformerTrainer(model=model, args=args, train_dataset=dataset, loss=loss)


def test_a_run_on_lists(model: SentenceTransformer, tmp_path: Path) -> None:
    """The first logged loss is the loss by hand; a row's entries count for batches without duplicates."""
    model = SentenceTransformer(modules=list(model.children()), device="cpu")
    expected = float(by_hand(model, [[p] for p in POSITIVES], NEGATIVES))
    dataset = Dataset.from_dict({"anchor": ANCHORS, "positive": POSITIVES, "negatives": NEGATIVES})
    run = trainer(model, dataset, batch_sampler="no_duplicates", eval_strategy="no")
    run.train()
    assert run.state.log_history[0]["loss"] == pytest.approx(expected, rel=1e-4)
    assert run.opening_lines == []  # how many negatives a query sees differs from batch to batch
    model.save_pretrained(str(tmp_path / "saved"))
    assert "negatives" in (tmp_path / "saved" / "README.md").read_text()


def test_no_duplicates_looks_into_lists(model: SentenceTransformer) -> None:
    rows = {
        "anchor": ["a", "b", "c", "d"],
        "positive": ["p", "q", "r", "s"],
        "negatives": [["q"], ["n"], ["r", "m"], []],
    }
    run = trainer(model, Dataset.from_dict(rows), batch_sampler="no_duplicates")
    run._feed.screen(run.train_dataset)
    for batch in run.get_train_dataloader().batch_sampler:
        assert not {0, 1} <= {*batch}  # q is the positive of one and a negative of the other


def test_a_gap_in_a_list_is_named_before_training(model: SentenceTransformer) -> None:
    rows = {"anchor": ANCHORS, "positive": POSITIVES, "negative": [["ash"], ["clay", None], ["mud"]]}
    with pytest.raises(DatasetError, match=r"row 1, column 'negative': entry 1 of its list is missing \(None\)"):
        trainer(model, Dataset.from_dict(rows)).train()


@pytest.mark.parametrize("guided", [False, True])
def test_ranks_share_their_lists(model: SentenceTransformer, monkeypatch: pytest.MonkeyPatch, guided: bool) -> None:
    """Two ranks that gather give the mean over all positives that one process gives."""
    options: dict[str, Any] = {"directions": ALL, "hardness_mode": "in_batch_negatives", "hardness_strength": 2.0}
    kind: Any = losses.MultipleNegativesRankingLoss if not guided else losses.GISTEmbedLoss
    if guided:
        options = {"guide": model, "contrast_anchors": False}
    shares = [
        [ANCHORS[:2], [["grease it", "oil it", "wipe it"], ["heat it"]], [["ash"], []]],
        [ANCHORS[2:], [["turn it", "spin it"]], [["mud", "sand", "salt"]]],
    ]
    sent: list[list[torch.Tensor]] = [[], []]

    def on_rank(rank: int) -> torch.Tensor:
        loss, calls = kind(model, gather_across_devices=True, **options), iter(range(100))
        sent[rank] = []

        def gather(own: torch.Tensor) -> tuple[torch.Tensor, int]:
            sent[rank].append(own.detach())
            place = next(calls)
            parts = [share[place] if len(share) > place else own[:0] for share in (sent[0], sent[1])]
            parts[rank] = own
            return torch.cat(parts), len(parts[0]) if rank else 0

        for module in ("multiple_negatives", "guided"):
            monkeypatch.setattr(f"omnitune.losses.{module}.gather_rows", gather)
        return loss(columns(*shares[rank]))

    for rank in (0, 1, 0, 1, 0, 1):  # until each has what the other sends
        on_rank(rank)
    values = torch.stack([on_rank(0), on_rank(1)])
    whole = kind(model, **options)(columns(*(first + second for first, second in zip(*shares, strict=True))))
    torch.testing.assert_close((values * torch.tensor([4.0, 2.0])).sum() / 6, whole, rtol=1e-5, atol=1e-6)
