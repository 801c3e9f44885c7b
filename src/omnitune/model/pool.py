"""Encoding on several devices at once: one process a device, chunks handed out as they are asked for.

Only `WAITING` chunks a worker are queued, so the inputs are never copied whole, and a worker that dies is noticed.
"""

import itertools
import queue
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import multiprocessing

from omnitune import runtime
from omnitune.errors import InputError, OmnituneError, ResourceError

if TYPE_CHECKING:
    from omnitune.model.model import Model

Pool = dict[Literal["input", "output", "processes"], Any]

WAITING = 2
"""Chunks queued a worker."""

POLL_SECONDS = 1.0

_runs = itertools.count()
"""Numbers of runs: what a failed run left in a pool must not answer the next one."""


def start(model: "Model", devices: Sequence[str]) -> Pool:
    """Start one process a device, each with its own copy of `model`.

    Args:
        model: Left where it is.
        devices: For instance `["cuda:0", "cuda:1"]`, or `["cpu", "cpu"]`.

    Raises:
        InputError: No device is named.
    """
    if not devices:
        raise InputError("target_devices: expected at least one device, got none")
    context = multiprocessing.get_context("spawn")
    inputs, outputs = context.Queue(), context.Queue()
    home = model.device
    model.to("cpu")
    try:
        processes = [
            context.Process(target=_work, args=(model, str(device), inputs, outputs), daemon=True) for device in devices
        ]
        for process in processes:
            process.start()
    finally:
        model.to(home)
    return {"input": inputs, "output": outputs, "processes": processes}


def stop(pool: Pool) -> None:
    """End the processes and free their queues."""
    for process in pool["processes"]:
        process.terminate()
        process.join()
        process.close()
    pool["input"].close()
    pool["output"].close()


def run(
    pool: Pool, inputs: Sequence[Any], call: dict[str, Any], *, chunk_size: int | None, show: bool | None
) -> list[Any]:
    """Results of every chunk of `inputs`, in order.

    Args:
        pool: From `start`.
        inputs: Raw items.
        call: Keyword arguments of the model's `encode_here`, a `request` among them.
        chunk_size: Items a chunk; None gives each process about ten chunks, of at most 5,000 items.
        show: Whether to show progress.

    Raises:
        InputError: `chunk_size` is not positive.
        ResourceError: A process died; its exit code is named.
    """
    if chunk_size is not None and chunk_size <= 0:
        raise InputError(f"chunk_size: expected a positive number, got {chunk_size}")
    size = chunk_size or max(1, min(-(-len(inputs) // (10 * len(pool["processes"]))), 5000))
    starts = range(0, len(inputs), size)
    todo = iter(enumerate(starts))
    results: list[Any] = [None] * len(starts)
    number = next(_runs)

    def submit() -> None:
        for chunk, begin in todo:
            request = replace(call["request"], first_row=begin)
            pool["input"].put(((number, chunk), inputs[begin : begin + size], {**call, "request": request}))
            return

    for _ in range(WAITING * len(pool["processes"])):
        submit()
    with runtime.progress_bar(label="Encoding", total=len(inputs), show=show, unit="item") as bar:
        for _ in starts:
            chunk, result = _receive(pool, number)
            submit()
            if isinstance(result, Exception):
                raise result
            results[chunk] = result
            bar.update(len(inputs[starts[chunk] : starts[chunk] + size]))
    return results


def _receive(pool: Pool, number: int) -> tuple[int, Any]:
    """The next chunk that is done of this run, and its result."""
    while True:
        try:
            (run_number, chunk), result = pool["output"].get(timeout=POLL_SECONDS)
        except queue.Empty:
            dead = [p for p in pool["processes"] if not p.is_alive()]
            if dead:
                said = ", ".join(f"process {p.pid} ended with code {p.exitcode}" for p in dead)
                raise ResourceError(f"pool: {said} before its work was done (memory?); start a new pool") from None
        else:
            if run_number == number:
                return chunk, result


def _encode(model: "Model", items: Sequence[Any], call: dict[str, Any]) -> Any:
    encode_here: Callable[..., Any] = model.encode_here  # type: ignore[assignment]  # each family's encoder has it
    return encode_here(items, **call)


def _work(model: "Model", device: str, inputs: Any, outputs: Any) -> None:
    """A process's life: encode chunks until it is ended."""
    if device == "cpu":
        torch.set_num_threads(max(1, runtime.cores() // 2))
    model.to(device)
    while True:
        chunk, items, call = inputs.get()
        try:
            outputs.put((chunk, _encode(model, items, call)))
        except OmnituneError as error:
            outputs.put((chunk, type(error)(str(error))))
        except Exception:  # noqa: BLE001  # whatever a module raises must reach the caller, who waits for this chunk
            outputs.put((chunk, RuntimeError(f"encoding on {device} failed:\n{traceback.format_exc()}")))
