"""`omnitune export` and `omnitune check`: a model as a graph, and the gate that compares what answers in its place."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from omnitune import places
from omnitune.cli import console
from omnitune.cli.options import one_of

if TYPE_CHECKING:
    from omnitune.export.gate import Items, Verdict
    from omnitune.model.base import Model

_DATA = typer.Option("--data", help="Folder that `omnitune prepare` made: its held-out queries and pages are compared.")


def export(
    model: Annotated[str, typer.Argument(help="Model directory, Hugging Face repository, or 'embedded'.")],
    to: Annotated[
        str, typer.Option("--to", help="Runtime.", metavar="onnx|openvino", callback=one_of("onnx", "openvino"))
    ] = "onnx",
    int8: Annotated[bool, typer.Option("--int8/--no-int8", help="Also with weights in 8 bits (onnx).")] = False,
    data: Annotated[Path | None, _DATA] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of the checkpoint with its graphs; by default the model's own.")
    ] = None,
) -> None:
    """Export a model as a graph with everything in it, then prove on real items that it gives the same."""
    from omnitune.errors import InputError

    if out is None and not Path(model).is_dir():
        places.local_model(model)  # of a path where nothing is, this is what to say
        raise InputError(f"--out: expected a folder, because {model!r} is not a directory of this machine")
    places.expect_model(model)
    if data is not None:
        places.dataset_folder(data)
    from omnitune.export.gate import write_verdict
    from omnitune.export.graphs import INT8, copy_checkpoint
    from omnitune.export.graphs import export as export_graphs
    from omnitune.export.targets import ModelTarget, open_model

    console.only_our_bars()
    reference = open_model(model)
    items = _items(reference, data)
    folder = Path(model) if out is None else out
    if Path(model).is_dir():
        copy_checkpoint(Path(model), folder)
    else:
        reference.save_pretrained(str(folder))
    place = export_graphs(reference, folder, to, int8=int8)  # type: ignore[arg-type]  # one of the two, see above
    verdicts = []
    for precision in ("float32", "int8") if int8 else ("float32",):
        name = next(place.glob(f"*{INT8}")).name if precision == "int8" else None
        graph = open_model(str(folder), backend=to, file_name=name)  # type: ignore[arg-type]
        verdicts.append(_judged(reference, ModelTarget(graph, to), items, precision))
        write_verdict(verdicts[-1], place)
    console.places("Results", {"graphs": place, "numbers": place / "check.json", "card": folder / "README.md"})
    _leave(verdicts)


def check(
    model: Annotated[str, typer.Argument(help="Model directory, Hugging Face repository, or 'embedded'.")],
    target: Annotated[
        str, typer.Argument(help="Folder with graphs, or address of a server, such as http://127.0.0.1:8000.")
    ],
    data: Annotated[Path | None, _DATA] = None,
    backend: Annotated[
        str,
        typer.Option(
            "--backend",
            help="Of a folder: what computes.",
            metavar="onnx|openvino|torch",
            callback=one_of("onnx", "openvino", "torch"),
        ),
    ] = "onnx",
    file_name: Annotated[
        str | None, typer.Option("--file", help="Graph in the folder, such as model_int8.onnx.")
    ] = None,
    int8: Annotated[
        bool, typer.Option("--int8/--no-int8", help="Judge lengths and rankings, not the last digits.")
    ] = False,
    api_key: Annotated[str | None, typer.Option("--api-key", help="Key of the server.")] = None,
    store: Annotated[
        str | None,
        typer.Option(
            "--store",
            help="MODEL is a run, TARGET its vectors in lancedb (folder) or qdrant (address).",
            metavar="lancedb|qdrant",
            callback=one_of("lancedb", "qdrant"),
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="JSON file of the results.")] = Path("check.json"),
) -> None:
    """Compare what answers in place of a model with the model: a graph, a server, or a store of a run's vectors.

    Exit code 1: they differ.
    """
    if store is not None:
        from omnitune.errors import InputError

        place = places.retriever_folder(model)
        if place is None:
            raise InputError(f"MODEL: expected a folder with a retriever, got {model}; `omnitune finetune` makes one")
        from omnitune.cli.stores import judge_store
        from omnitune.retrieval.retriever import Retriever
        from omnitune.retrieval.stores import open_store

        console.only_our_bars()
        judge_store(Retriever.open(place), place, open_store(store, target, api_key), target)
        return
    places.expect_model(model)
    if data is not None:
        places.dataset_folder(data)
    from omnitune.export.targets import ModelTarget, ServedTarget, Target, open_model
    from omnitune.folders import writable_folder
    from omnitune.io import write_json

    console.only_our_bars()
    writable_folder(out.parent)
    reference = open_model(model)
    items = _items(reference, data)
    answering: Target
    if target.startswith(("http://", "https://")):
        answering = ServedTarget(target, api_key)
    else:
        opened = open_model(target, backend=backend, file_name=file_name)  # type: ignore[arg-type]  # checked there
        answering = ModelTarget(opened, backend)
    verdict = _judged(reference, answering, items, "int8" if int8 else "float32")
    write_json(out, verdict.to_json())
    console.places("Results", {"numbers": out})
    _leave([verdict])


def _items(reference: "Model", data: Path | None) -> "Items":
    from omnitune.documents.dataset import load
    from omnitune.export.gate import items_of

    # A reader in front makes text of an image; a tower takes the image itself.
    towers = any("image" in getattr(part, "modality_config", {}) for part in reference.modules())
    return items_of(None if data is None else load(data), images=towers)


def _judged(reference: Any, target: Any, items: Any, precision: Any) -> "Verdict":
    from omnitune.export.gate import check as compare

    verdict = compare(reference, target, items, precision=precision)
    said = "passed" if verdict.passed else "FAILED"
    console.table(["check", "found", "expected", ""], verdict.rows(), title=f"{verdict.target}, {precision}: {said}")
    return verdict


def _leave(verdicts: "list[Verdict]") -> None:
    if not all(verdict.passed for verdict in verdicts):
        console.error("The gate failed: what was compared does not give what the model gives.")
        raise typer.Exit(1)
