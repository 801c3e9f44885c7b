"""Plan, prepare, run: what is merged, how it is cut, and that the order of the items comes back."""

import io
import threading
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from omnitune.engine import engine as engine_module
from omnitune.engine.engine import AHEAD, Engine
from omnitune.errors import MediaError, MediaNotFoundError, ModalityError
from omnitune.inputs.cost import CostRule
from omnitune.inputs.detect import modality_of
from omnitune.inputs.policy import DEFAULT_POLICY
from omnitune.model.family import DENSE
from omnitune.types import Column


class Recorder(nn.Module):
    """A model that embeds a text as its length and an image as its width, and remembers its mini-batches."""

    family = DENSE
    media_policy = DEFAULT_POLICY
    cost_rule = CostRule()
    modalities = ["text", "image"]
    device = torch.device("cpu")

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.drop = nn.Dropout(dropout)
        self.batches: list[list[str]] = []
        self.threads: set[str] = set()

    def modality_of(self, item, *, strings_are_text=False):
        return modality_of(item, supported=() if strings_are_text else self.modalities)

    def preprocess_loaded(self, loaded, prompt, *, modality, **kwargs):
        self.threads.add(threading.current_thread().name)
        self.batches.append(list(loaded))
        sizes = [len((prompt or "") + item) if modality == "text" else item.width for item in loaded]
        return {"x": torch.tensor(sizes, dtype=torch.float32)[:, None], "modality": modality}

    def forward(self, features, **kwargs):
        return {"sentence_embedding": features["x"]}


def encode(engine: Engine, columns: list[Column], **options) -> list[list[float]]:
    plan = engine.plan(columns, **options)
    joined = torch.cat([engine.run(f).values for f in engine.prepare(plan.mini_batches)])
    return [joined[rows][:, 0].tolist() for rows in plan.rows]


def png(width: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, 8)).save(buffer, "png")
    return buffer.getvalue()


def test_results_come_back_in_the_order_of_the_items() -> None:
    texts = ["x" * n for n in (3, 50, 7, 200, 1)]
    result = encode(Engine(Recorder()), [Column(name="t", items=texts)], mini_batch_size=2)
    assert result == [[3, 50, 7, 200, 1]]


def test_mini_batches_hold_items_of_like_cost() -> None:
    model = Recorder()
    encode(Engine(model), [Column(name="t", items=["x" * n for n in (3, 50, 7, 200, 1)])], mini_batch_size=2)
    assert sorted(sorted(map(len, batch)) for batch in model.batches) == [[1], [3, 7], [50, 200]]


def test_equal_items_of_all_columns_are_encoded_once() -> None:
    model = Recorder()
    columns = [Column(name="a", items=["one", "two", "one"]), Column(name="b", items=["two", "three", "one"])]
    assert encode(Engine(model), columns) == [[3, 3, 3], [3, 5, 3]]
    assert sorted(t for batch in model.batches for t in batch) == ["one", "three", "two"]


def test_an_image_is_one_item_by_path_and_by_bytes(tmp_path: Path) -> None:
    path = tmp_path / "page.png"
    path.write_bytes(png(33))
    items = [path, str(path), png(33), {"bytes": png(33), "path": None}]
    model = Recorder()
    assert encode(Engine(model), [Column(name="page", items=items)]) == [[33, 33, 33, 33]]
    assert [len(batch) for batch in model.batches] == [1]


def test_roles_and_prompts_are_never_mixed() -> None:
    model = Recorder()
    columns = [
        Column(name="q", items=["same"], role="query", prompt="q: "),
        Column(name="d", items=["same"], role="document"),
    ]
    assert encode(Engine(model), columns) == [[7], [4]]
    assert len(model.batches) == 2


def test_nothing_is_merged_while_dropout_draws() -> None:
    model = Recorder(dropout=0.1)
    engine = Engine(model)
    assert engine.stochastic
    assert engine.plan([Column(name="t", items=["same", "same"])]).distinct == 2
    model.eval()
    assert not engine.stochastic
    assert engine.plan([Column(name="t", items=["same", "same"])]).distinct == 1


@pytest.mark.parametrize("name", ["attention_dropout", "layerdrop", "router_jitter_noise"])
def test_rates_that_a_module_applies_itself_draw_too(name: str) -> None:
    model = Recorder()
    model.layer = nn.Identity()
    setattr(model.layer, name, 0.0)
    assert not Engine(model).stochastic
    setattr(model.layer, name, 0.1)
    assert Engine(model).stochastic


def test_a_token_budget_cuts_by_padded_tokens() -> None:
    items = ["x" * 4 * n for n in (98, 48, 48, 8, 8, 8, 8)]  # 100, 50, 50, 10, ... tokens with the two special ones
    plan = Engine(Recorder()).plan(
        [Column(name="t", items=[f"{i}{t[1:]}" for i, t in enumerate(items)])], mini_batch_num_tokens=100
    )
    assert [len(m.items) for m in plan.mini_batches] == [1, 2, 4]
    assert all(m.cost <= 100 for m in plan.mini_batches)


def test_an_item_above_the_budget_runs_alone() -> None:
    plan = Engine(Recorder()).plan([Column(name="t", items=["x" * 4000, "y"])], mini_batch_num_tokens=10)
    assert [len(m.items) for m in plan.mini_batches] == [1, 1]


def test_inputs_are_prepared_a_few_ahead_and_no_further() -> None:
    model = Recorder()
    engine = Engine(model)
    plan = engine.plan([Column(name="t", items=[f"{i}" for i in range(50)])], mini_batch_size=1)
    prepared = engine.prepare(plan.mini_batches)
    next(prepared)
    prepared.close()
    assert len(model.batches) <= AHEAD + 2
    assert all(name.startswith("omnitune-prepare") for name in model.threads)


def test_a_broken_item_is_named_by_dataset_row_and_column(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.effect_noise((200, 200), 50).save(buffer, "png")
    broken = buffer.getvalue()[:20_000]
    column = Column(name="page", items=[png(8), broken], rows=[4, 7], dataset="manuals")
    with pytest.raises(MediaError, match="dataset 'manuals', row 7, column 'page': image of .* bytes: broken image"):
        encode(Engine(Recorder()), [column])


def test_a_missing_file_is_named_where_it_is_planned() -> None:
    column = Column(name="page", items=["nowhere/page.png"], rows=[3])
    with pytest.raises(MediaNotFoundError, match="row 3, column 'page': 'nowhere/page.png' looks like"):
        Engine(Recorder()).plan([column])


def test_a_query_is_text_whatever_it_looks_like() -> None:
    plan = Engine(Recorder()).plan([Column(name="q", items=["nowhere/page.png"])], strings_are_text=True)
    assert plan.mini_batches[0].modality == "text"


def test_what_is_no_input_is_named_where_it_is_planned() -> None:
    column = Column(name="t", items=["text", None], rows=[4, 7])
    with pytest.raises(ModalityError, match="row 7, column 't': inputs: expected text, .* got NoneType"):
        Engine(Recorder()).plan([column])


def test_modes_come_back_when_the_last_thread_leaves() -> None:
    model = Recorder(dropout=0.5)
    engine = Engine(model)
    first, second = engine.evaluating(), engine.evaluating()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not model.drop.training, "the second still computes"
    second.__exit__(None, None, None)
    assert model.training and model.drop.training


def test_a_model_in_evaluation_mode_is_not_switched(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Recorder(dropout=0.5).eval()
    monkeypatch.setattr(model, "train", lambda mode: pytest.fail("walks all modules for nothing"))
    with Engine(model).evaluating():
        assert not model.drop.training
    assert not model.training and not model.drop.training


def test_a_mini_batch_ends_before_items_that_would_be_mostly_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "ENOUGH_TOKENS", {"cpu": 150})
    model = Recorder()
    items = ["x" * n for n in (200, 199, 198, 100, 99, 98, 97, 20)]
    assert encode(Engine(model), [Column(name="t", items=items)], mini_batch_size=8) == [[*map(len, items)]]
    assert sorted([*map(len, batch)] for batch in model.batches) == [[100, 99, 98, 97, 20], [200, 199, 198]]


def test_cut_texts_are_still_ordered_by_length() -> None:
    model = Recorder()
    model.cost_rule = CostRule(max_tokens=5)
    items = ["x" * n for n in (90, 400, 80, 300)]
    encode(Engine(model), [Column(name="t", items=items)], mini_batch_size=2)
    assert sorted([*map(len, batch)] for batch in model.batches) == [[90, 80], [400, 300]]


def test_where_padding_counts_a_column_is_cut_by_the_caller_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "ENOUGH_TOKENS", {"cpu": 10})
    model = Recorder()
    model.cost_rule = CostRule(padding_counts=True)
    columns = [Column(name="a", items=["x" * n for n in (90, 4, 90, 300)]), Column(name="b", items=["x" * 90])]
    assert encode(Engine(model), columns, mini_batch_size=3) == [[90, 4, 90, 300], [90]]
    assert sorted([*map(len, batch)] for batch in model.batches) == [[4], [90], [300, 90, 90]]


def test_packed_mini_batches_are_cut_by_their_tokens_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "packs_through", lambda model, kind: kind == "text")
    column = Column(name="t", items=[f"{i}" + "x" * (4 * n - 1) for i, n in enumerate((58, 28, 8, 8, 8, 8, 8))])
    engine = Engine(Recorder())  # 60, 30, 10, 10, ... tokens with the two special ones
    plan = engine.plan([column], mini_batch_num_tokens=100)
    assert [(len(m.items), m.cost) for m in plan.mini_batches] == [(3, 100), (4, 40)]
    plan = engine.plan([column], mini_batch_size=5)
    assert [(len(m.items), m.cost) for m in plan.mini_batches] == [(5, 120), (2, 20)]
    monkeypatch.setattr(engine_module, "PADDED_OUTPUT", 1)
    plan = engine.plan([column], mini_batch_num_tokens=100)
    assert [len(m.items) for m in plan.mini_batches] == [1, 3, 3], "what comes out is padded to the first"
    assert [len(m.items) for m in engine.plan([column], mini_batch_num_tokens=5).mini_batches] == [1] * 7
