"""Encoding on several devices at once: one process a device, chunks handed out as they are asked for.

Only `WAITING` chunks a worker are queued, so the inputs are never copied whole, and a worker that dies is noticed.
"""

import itertools
import queue
import signal
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal, cast

import torch
from torch import multiprocessing

from omnitune import runtime
from omnitune.engine import arguments
from omnitune.engine.inference import EncodingModel
from omnitune.errors import InputError, OmnituneError, ResourceError

Pool = dict[Literal["input", "output", "processes"], Any]

WAITING = 2
"""Chunks queued a worker."""

POLL_SECONDS = 1.0

_runs = itertools.count()
"""Numbers of runs: what a failed run left in a pool must not answer the next one."""


def start(model: EncodingModel, devices: Sequence[str]) -> Pool:
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
    # Each process starts as many threads as the machine has cores; together they would wait for one another.
    on_cpu = sum(str(device).startswith("cpu") for device in devices)
    threads = max(1, runtime.cores() // on_cpu) if on_cpu else None
    model.to("cpu")
    try:
        processes = [
            context.Process(target=_work, args=(model, str(device), threads, inputs, outputs), daemon=True)
            for device in devices
        ]
        for process in processes:
            process.start()
    finally:
        model.to(home)
    return {"input": inputs, "output": outputs, "processes": processes}


def stop(pool: Pool) -> None:
    """End the processes and free their queues."""
    for process in pool["processes"]:
        process.kill()  # they hold nothing, and one that has just begun may ignore SIGTERM, as its parent does
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
    chunk_size = arguments.count_or_none("chunk_size", chunk_size)
    if not isinstance(pool, dict) or not {"input", "output", "processes"} <= pool.keys():
        raise InputError(f"pool: expected what start_multi_process_pool returns, got {repr(pool)[:80]}")
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


class PoolMixin:
    """The verbs of an encoder that has `encode_here(items, *, request, device, ...)` and may do it in processes."""

    def start_multi_process_pool(self, target_devices: list[str] | None = None) -> Pool:
        """Start processes that encode, one a device; None takes every GPU, or four processes on the CPU."""
        if target_devices is None:
            gpus = torch.cuda.device_count()
            target_devices = [f"cuda:{i}" for i in range(gpus)] if gpus else ["cpu"] * 4
        for device in target_devices:
            runtime.device_named(device)
        return start(cast(EncodingModel, self), target_devices)

    @staticmethod
    def stop_multi_process_pool(pool: dict[Literal["input", "output", "processes"], Any]) -> None:
        """End the processes of `start_multi_process_pool`."""
        stop(pool)

    def encode_anywhere(
        self,
        items: Sequence[Any],
        call: dict[str, Any],
        *,
        device: str | list[str | torch.device] | None,
        pool: Pool | None,
        chunk_size: int | None,
    ) -> Any:
        """Encode in this process, in a pool, or in one that is started on several devices and ended afterwards.

        Args:
            items: Raw items.
            call: Keyword arguments of `encode_here`, a `request` among them.
            device: Where; a list starts one process a device.
            pool: From `start_multi_process_pool`.
            chunk_size: Items sent to a process at a time.

        Returns:
            What `encode_here` does: a tensor of one row an item, or a list.
        """
        several = device if isinstance(device, list) else None
        if not items or (pool is None and not several):
            encode_here: Callable[..., Any] = self.encode_here  # type: ignore[attr-defined]  # the encoder's own
            return encode_here(items, device=None if several is not None else device, **call)
        workers = pool if pool is not None else self.start_multi_process_pool([str(d) for d in several or []])
        try:
            call = {**call, "on_host": True}
            parts = run(workers, items, call, chunk_size=chunk_size, show=call["request"].show_progress_bar)
        finally:
            if pool is None:
                self.stop_multi_process_pool(workers)
        return torch.cat(parts) if isinstance(parts[0], torch.Tensor) else [row for part in parts for row in part]


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


def _work(model: EncodingModel, device: str, threads: int | None, inputs: Any, outputs: Any) -> None:
    """Encode chunks until the process is ended."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # by which Python ends processes that nobody stopped
    if device.startswith("cpu") and threads is not None:
        torch.set_num_threads(threads)
    model.to(device)
    while True:
        chunk, items, call = inputs.get()
        try:
            outputs.put((chunk, model.encode_here(items, **call)))
        except OmnituneError as error:
            outputs.put((chunk, type(error)(str(error))))
        except Exception:  # noqa: BLE001  # whatever a module raises must reach the caller, who waits for this chunk
            outputs.put((chunk, RuntimeError(f"encoding on {device} failed:\n{traceback.format_exc()}")))
