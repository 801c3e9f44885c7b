"""`omnitune encode`: a corpus into embeddings on disk."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from omnitune import places
from omnitune.cli import console
from omnitune.cli.options import one_of


def encode(
    model: Annotated[str, typer.Argument(help="Model directory, Hugging Face repository, or 'embedded'.")],
    source: Annotated[
        Path,
        typer.Argument(
            help="Folder of documents or images, prepared or saved dataset; or a file: jsonl, json, csv, parquet, txt."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Array to write; with --ray, a folder of shards.")] = Path(
        "embeddings.npy"
    ),
    column: Annotated[str | None, typer.Option("--column", help="Column of a table; not needed for one.")] = None,
    split: Annotated[str | None, typer.Option("--split", help="Split of a saved dataset; not needed for one.")] = None,
    query: Annotated[bool, typer.Option("--query/--no-query", help="Items are queries, not documents.")] = False,
    normalize: Annotated[
        bool, typer.Option("--normalize/--no-normalize", help="Scale every embedding to unit length.")
    ] = False,
    dim: Annotated[int | None, typer.Option("--dim", min=1, help="Dimensions to keep; all by default.")] = None,
    precision: Annotated[
        str,
        typer.Option(
            "--precision",
            help="float32, or a bit a dimension: binary, ubinary.",
            metavar="PRECISION",
            callback=one_of("float32", "binary", "ubinary"),
        ),
    ] = "float32",
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Items encoded at once.")] = 32,
    rows: Annotated[int, typer.Option("--rows", min=1, help="Rows written together, or of a shard.")] = 8_192,
    width: Annotated[int, typer.Option("--width", min=32, help="Width of a rendered page in pixels.")] = 900,
    ray: Annotated[
        bool, typer.Option("--ray/--no-ray", help="Encode on a Ray cluster, a shard a block of rows.")
    ] = False,
    address: Annotated[
        str | None, typer.Option("--address", help="Running Ray cluster, such as 'auto'; none starts one here.")
    ] = None,
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="Ray workers; by default one a GPU.")] = None,
) -> None:
    """Encode a corpus into embeddings on disk; a run that was stopped goes on when it is started again."""
    from omnitune.errors import DatasetError, InputError

    if not ray and (address or workers):
        raise InputError("--address, --workers: expected --ray with them, got none; add --ray")
    if not source.exists():
        raise DatasetError(
            f"source: expected a folder of documents, images or a dataset, or a file, got {str(source)!r}, which is "
            "not there"
        )
    places.expect_model(model)
    from omnitune.documents.read.pages import Rendering
    from omnitune.finetune.choose import load_model
    from omnitune.folders import writable_folder
    from omnitune.retrieval.corpus import open_corpus
    from omnitune.retrieval.ray import encode_on_ray
    from omnitune.retrieval.to_disk import encode_to_disk

    console.only_our_bars()
    store = out if ray else out.with_name(out.name + ".source")
    writable_folder(store if ray else out.parent)
    corpus = open_corpus(source, store, column=column, split=split, rendering=Rendering(width=width))
    console.say(f"Encoding {len(corpus.items):,} items of {source}")
    load = partial(load_model, {"model_name_or_path": model})
    options: dict[str, Any] = {
        "role": "query" if query else "document",
        "rows_at_once": rows,
        "batch_size": batch_size,
        "normalize_embeddings": normalize,
        "truncate_dim": dim,
        "precision": precision,
    }
    if ray:
        shards = encode_on_ray(load, corpus.reopen, out, workers=workers, address=address, **options)
        count, width_ = sum(map(len, shards)), shards[0].shape[1]
    else:
        count, width_ = encode_to_disk(load(), corpus.items, out, **options).shape
    console.say(f"{count:,} embeddings of {width_} numbers")
    named = {} if corpus.rows is None else {"rows": corpus.rows}
    console.places("Results", {"shards" if ray else "embeddings": out, **named})
