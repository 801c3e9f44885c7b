"""The one inference loop: raw items in, one output a row, in the order of the items."""

import difflib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from omnitune import runtime
from omnitune.engine import arguments
from omnitune.engine.engine import Engine
from omnitune.engine.protocol import RunnableModel
from omnitune.errors import CheckpointError, InputError
from omnitune.types import Column, Features, Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Settings of one call of a public verb; small enough to send to another process.

    Attributes:
        prompt: Text put before every item.
        task: Role the items have, for a `Router` ("query", "document").
        batch_size: Items a mini-batch holds.
        show_progress_bar: None shows it on a terminal.
        strings_are_text: A bare string is never taken for the path or URL of media.
        processing: Extra arguments of the preprocessing.
        forward: Extra arguments of the modules' forward.
        first_row: Number of the first item, for errors: of a chunk, its place in the whole.
    """

    prompt: str | None = None
    task: str | None = None
    batch_size: int = 32
    show_progress_bar: bool | None = None
    strings_are_text: bool = False
    processing: dict[str, Any]
    forward: dict[str, Any]
    first_row: int = 0


PRECISIONS = ("float32", "int8", "uint8", "binary", "ubinary")


def make_request(
    model: RunnableModel, *, prompt: str | None, batch_size: int, show_progress_bar: bool | None, kwargs: dict[str, Any]
) -> Request:
    """The request of a public verb.

    Args:
        model: The model.
        prompt: Text put before every item.
        batch_size: Items a mini-batch holds.
        show_progress_bar: None shows it on a terminal.
        kwargs: The verb's further arguments: `task`, `processing_kwargs`, `first_row` (number of the first item, for
            errors), and what the model's modules take.

    Raises:
        InputError: An argument is of another kind, or no module takes it.
    """
    batch_size = arguments.count("batch_size", batch_size)
    task = arguments.text_or_none("task", kwargs.pop("task", None))
    processing = kwargs.pop("processing_kwargs", None)
    if processing is not None:
        processing = arguments.mapping("processing_kwargs", processing)
    first_row = kwargs.pop("first_row", 0)
    accepted = model.get_model_kwargs()
    unknown = sorted(set(kwargs) - set(accepted))
    if unknown:
        known = ["task", "processing_kwargs", *accepted]
        near = difflib.get_close_matches(unknown[0], known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"besides those of its signature it takes {', '.join(known)}"
        raise InputError(f"encode: got the unknown argument {', '.join(map(repr, unknown))}; {hint}")
    return Request(
        prompt=prompt,
        task=task,
        batch_size=batch_size,
        show_progress_bar=show_progress_bar,
        strings_are_text=task == "query",
        processing={} if processing is None else {"processing_kwargs": processing},
        forward={**kwargs, "task": task} if "task" in accepted and task is not None else kwargs,
        first_row=first_row,
    )


def materialized(inputs: Any) -> list[Any]:
    """The items of a sequence, an array or a dataset's column as a list.

    Raises:
        InputError: It has none, such as a number.
    """
    if isinstance(inputs, list):
        return inputs
    try:
        return list(inputs.tolist() if isinstance(inputs, np.ndarray) else inputs)
    except TypeError as error:
        raise InputError(f"inputs: expected a list of inputs, got {type(inputs).__name__}: {inputs!r}") from error


def check_options(precision: str | None, output_value: str | None, truncate_dim: int | None) -> None:
    """Refuse options of `encode` that would give something else than what was meant.

    Raises:
        InputError: One has a value that cannot work; the message names it.
    """
    arguments.count_or_none("truncate_dim", truncate_dim)
    if precision not in (None, *PRECISIONS):
        raise InputError(f"precision: expected one of {', '.join(PRECISIONS)}, got {precision!r}")
    if output_value not in ("sentence_embedding", "token_embeddings", None):
        raise InputError(f"output_value: expected sentence_embedding, token_embeddings or None, got {output_value!r}")


def stacked(
    engine: Engine, inputs: Sequence[Any], request: Request, finish: Callable[[Tensor], Tensor] | None, *, on_host: bool
) -> Tensor:
    """Encode items to one vector each, written into one array as they come.

    Args:
        engine: Of a model in inference mode.
        inputs: Raw items.
        request: How to encode them.
        finish: Applied to the outputs of a mini-batch `(rows, dim)`: truncation, scaling; None for neither.
        on_host: Whether the array is in host memory.

    Returns:
        `(items, dim)`; `(0,)` for no items.

    Raises:
        CheckpointError: A weight of the model is NaN or infinite, and so is an output.
        InputError: An output is, and no weight.
    """
    out: Tensor | None = None
    finite: list[Tensor] = []
    device = torch.device("cpu") if on_host else engine.model.device
    landing: deque[tuple[Tensor, Tensor, torch.cuda.Event]] = deque()
    for (places, sources), values in results(engine, inputs, request):
        finite.append(torch.isfinite(values).all())  # looked at once, at the end: each look waits for the device
        values = values if finish is None else finish(values)
        if out is None:
            with torch.inference_mode(False):
                out = torch.empty(len(inputs), values.shape[-1], dtype=values.dtype, device=device)
        rows = values[sources.to(values.device, non_blocking=values.is_cuda)]
        if on_host and rows.is_cuda:  # it lands while the next mini-batch computes
            landing.append((places, rows.to(device, non_blocking=True), torch.cuda.Event()))  # type: ignore[no-untyped-call]  # torch gives it no types
            landing[-1][2].record()
            _land(out, landing, left=1)
        else:
            out[places.to(device, non_blocking=device.type == "cuda")] = rows.to(device)
    if out is not None and landing:
        _land(out, landing, left=0)
    check_finite(engine.model, finite, out, request)
    return torch.empty(0, device=device) if out is None else out


def _land(out: Tensor, landing: "deque[tuple[Tensor, Tensor, torch.cuda.Event]]", *, left: int) -> None:
    """Put rows that were copied in place, those of the oldest mini-batch first, until so many mini-batches are left."""
    while len(landing) > left:
        places, rows, copied = landing.popleft()
        copied.synchronize()
        out[places] = rows


def listed(
    engine: Engine, inputs: Sequence[Any], request: Request, rows_of: Callable[[Features, int], Sequence[Any]]
) -> list[Any]:
    """Encode items to one result each, from `rows_of(outputs, rows)` for every mini-batch; raises as `stacked`."""
    made_of: list[Any] = [None] * len(inputs)
    finite: list[Tensor] = []

    def read(outputs: Features, rows: int) -> Sequence[Any]:
        found = [outputs[key] for key in ("sentence_embedding", "token_embeddings") if key in outputs]
        finite.extend(torch.isfinite(values).all() for values in found)
        return rows_of(outputs, rows)

    for (places, sources), made in results(engine, inputs, request, read):
        for place, source in zip(places.tolist(), sources.tolist(), strict=True):
            made_of[place] = made[source]
    check_finite(engine.model, finite, None, request)
    return made_of


def results(
    engine: Engine, inputs: Sequence[Any], request: Request, read: Callable[[Features, int], Any] | None = None
) -> Iterator[tuple[tuple[Tensor, Tensor], Any]]:
    """Run every mini-batch of some items: the one inference loop.

    Args:
        engine: Of a model in inference mode.
        inputs: Raw items.
        request: How to encode them.
        read: From the outputs of a mini-batch, and its rows, to its result; None takes the family's output.

    Yields:
        For every mini-batch: (items that it answers, their rows in its result), and its result. Where ranks share the
        work, most results come from other ranks.
    """
    numbers = range(request.first_row, request.first_row + len(inputs))
    column = Column(name="inputs", items=inputs, role=request.task, prompt=request.prompt, rows=numbers)
    plan = engine.plan([column], mini_batch_size=request.batch_size, strings_are_text=request.strings_are_text)
    ranks = engine.ranks
    own = plan.mini_batches if ranks is None else ranks.share(plan, repr((request.processing, request.forward)))
    steps = engine.in_step(own)  # with weights in shards, some are run for the sake of other ranks alone
    prepared = engine.prepare([mini_batch for _, mini_batch in steps], **request.processing)
    total = sum(len(mini_batch.items) for mini_batch in own)
    answers = _answers(plan)
    made: dict[int, Any] = {}
    done = 0
    with runtime.progress_bar(label="Encoding", total=total, show=request.show_progress_bar, unit="item") as bar:
        for (place, mini_batch), features in zip(steps, prepared, strict=True):
            outputs = engine.forward(features, **request.forward)
            made[place] = outputs[engine.model.family.output] if read is None else read(outputs, len(mini_batch.items))
            while done in made:
                bar.update(len(own[done].items))
                if ranks is None:
                    yield next(answers), made.pop(done)
                done += 1
    if ranks is not None:
        yield from zip(answers, ranks.gather([made[number] for number in range(len(own))]), strict=True)


def _answers(plan: Plan) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield for every mini-batch the items that its rows answer (equal items share a row), and those rows."""
    rows = plan.rows[0]
    order = torch.argsort(rows, stable=True)
    ends = torch.tensor([len(m.items) for m in plan.mini_batches], dtype=torch.int64).cumsum(0)
    cuts = torch.searchsorted(rows[order], ends).tolist()
    begin, offset = 0, 0
    for cut, end in zip(cuts, ends.tolist(), strict=True):
        places = order[begin:cut]
        yield places, rows[places] - offset
        begin, offset = cut, end


def check_finite(model: RunnableModel, finite: Sequence[Tensor], out: Tensor | None, request: Request) -> None:
    """See that all outputs are numbers, and say where NaN or infinity comes from: weights, or a narrow format.

    Args:
        model: What encoded.
        finite: A bool scalar of every mini-batch; read together, because each look waits for the device.
        out: All outputs, to name the first row that is not finite; None where rows cannot be told apart.
        request: What was asked.

    Raises:
        CheckpointError: A weight of the model is NaN or infinite, and so is an output.
        InputError: An output is, and no weight.
    """
    if not finite or bool(torch.stack(list(finite)).all()):
        return
    broken = [name for name, weight in model.named_parameters() if not bool(torch.isfinite(weight).all())]
    if broken:
        more = f" and {len(broken) - 3} more" if len(broken) > 3 else ""
        raise CheckpointError(
            f"model: expected finite weights, got NaN or infinity in {broken[:3]}{more}, so what it encodes is no "
            "number; load the checkpoint again, or one from before training went wrong"
        )
    rows = [] if out is None else (~torch.isfinite(out).flatten(1).all(dim=1)).nonzero().flatten().tolist()
    where = f", first in row {request.first_row + rows[0]}" if rows else ""
    raise InputError(
        f"inputs: expected finite outputs of the model, got NaN or infinity{where}, though its weights are finite; its "
        f"format {model.dtype} may overflow: load it with model_kwargs={{'dtype': 'float32'}}"
    )


class EncodingModel(RunnableModel, Protocol):
    """A model that owns an engine, as pools and adapters see it."""

    @property
    def engine(self) -> Engine:
        """The engine."""

    def inference(self, device: torch.device | str | None = None) -> AbstractContextManager[None]:
        """Evaluation mode without gradients, on `device`."""

    def to(self, device: Any) -> Any:
        """Move the weights."""

    def encode_here(self, items: Sequence[Any], **call: Any) -> Any:
        """Encode in this process."""


def as_numpy(values: Tensor) -> Any:
    """A numpy array of `values`; bfloat16, which numpy lacks, becomes float32."""
    return (values.float() if values.dtype is torch.bfloat16 else values).cpu().numpy()
