"""Training arguments: Sentence Transformers' fields, ours, and messages that name the flag."""

import dataclasses
import logging
from typing import Any

import pytest

from omnitune.errors import InputError
from omnitune.training.arguments import (
    BatchSamplers,
    MultiDatasetBatchSamplers,
    SentenceTransformerTrainingArguments,
)


def make(tmp_path: Any, **changes: Any) -> SentenceTransformerTrainingArguments:
    return SentenceTransformerTrainingArguments(output_dir=str(tmp_path), report_to=[], **changes)


def test_defaults(tmp_path: Any) -> None:
    args = make(tmp_path)
    assert args.batch_sampler is BatchSamplers.BATCH_SAMPLER
    assert args.multi_dataset_batch_sampler is MultiDatasetBatchSamplers.PROPORTIONAL
    assert (args.activation_memory, args.on_bad_item, args.prompts) == ("auto", "raise", None)
    assert args.prediction_loss_only and args.ddp_broadcast_buffers is False


def test_warmup_ratio_is_a_share_of_warmup_steps(tmp_path: Any) -> None:
    assert make(tmp_path, warmup_ratio=0.1).get_warmup_steps(200) == 20
    assert make(tmp_path, warmup_ratio=0.1, warmup_steps=7).get_warmup_steps(200) == 7


def test_text_of_a_command_line_is_read(tmp_path: Any) -> None:
    args = make(
        tmp_path, prompts='{"query": "q: "}', router_mapping='{"query": "query"}', learning_rate_mapping='{"0": 0.1}',
        batch_sampler="no_duplicates", multi_dataset_batch_sampler="round_robin", activation_memory="0.5",
    )  # fmt: skip
    assert args.prompts == {"query": "q: "} and args.router_mapping == {"query": "query"}
    assert args.learning_rate_mapping == {"0": 0.1} and args.activation_memory == 0.5
    assert args.batch_sampler is BatchSamplers.NO_DUPLICATES
    assert args.multi_dataset_batch_sampler is MultiDatasetBatchSamplers.ROUND_ROBIN
    assert make(tmp_path, prompts="query: ").prompts == "query: "
    assert make(tmp_path, activation_memory="2000").activation_memory == 2000


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("batch_sampler", "no_duplicate", "batch_sampler: expected one of .*; 'no_duplicates'"),
        ("batch_sampler", 3, "batch_sampler: expected a name, a class or a function, got int"),
        ("multi_dataset_batch_sampler", "robin", "multi_dataset_batch_sampler: expected one of"),
        ("router_mapping", "query", "router_mapping: expected a mapping or its JSON text, got 'query'"),
        ("learning_rate_mapping", 3, "learning_rate_mapping: expected a mapping"),
        ("activation_memory", 1.5, "activation_memory: expected"),
        ("activation_memory", "much", "activation_memory: expected"),
        ("on_bad_item", "ignore", 'on_bad_item: expected "raise" or "skip", got \'ignore\''),
        ("per_device_train_batch_size", 0, "per_device_train_batch_size: expected a positive number, got 0"),
        ("gradient_accumulation_steps", 0, "gradient_accumulation_steps: expected a positive number, got 0"),
        ("num_train_epochs", -1, "num_train_epochs: expected a positive number, got -1"),
        ("warmup_ratio", 10, r"warmup_ratio: expected a share in \[0, 1\], got 10"),
    ],
)
def test_messages_name_the_flag(tmp_path: Any, flag: str, value: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make(tmp_path, **{flag: value})


def test_ours_are_keyword_only() -> None:
    fields = dataclasses.fields(SentenceTransformerTrainingArguments)
    assert [f.name for f in fields if f.kw_only] == [
        "activation_memory", "tower_cache", "input_cache", "on_bad_item", "check_items",
    ]  # fmt: skip


def test_samplers_of_ones_own_stay_out_of_plain_values(tmp_path: Any) -> None:
    args = make(tmp_path, batch_sampler=lambda *a, **k: None)
    assert "batch_sampler" not in args.to_dict()
    assert args.to_dict()["multi_dataset_batch_sampler"] == "proportional"
    args.to_json_string()


@pytest.mark.parity
def test_same_fields_in_the_same_order(caplog: pytest.LogCaptureFixture) -> None:
    from sentence_transformers import SentenceTransformerTrainingArguments as Theirs

    caplog.set_level(logging.ERROR)
    ours, theirs = (
        [f.name for f in dataclasses.fields(c) if f.init and not f.kw_only]
        for c in (SentenceTransformerTrainingArguments, Theirs)
    )
    assert ours == theirs
    left = SentenceTransformerTrainingArguments(output_dir="unused", report_to=[]).to_dict()
    right = Theirs(output_dir="unused", report_to=[]).to_dict()
    assert {k: v for k, v in left.items() if k in right} == right
