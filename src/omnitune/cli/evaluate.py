"""`omnitune evaluate`: how well a model finds the held-out pages of a dataset, or a retriever answers questions."""

from pathlib import Path
from typing import Annotated

import typer

from omnitune import places
from omnitune.cli import console


def evaluate(
    source: Annotated[
        str,
        typer.Argument(
            help="Model directory, Hugging Face repository, or 'embedded'; with --questions the folder of a run or of "
            "a retriever."
        ),
    ],
    dataset: Annotated[
        Path | None, typer.Argument(help="Folder that `omnitune prepare` made; not with --questions.")
    ] = None,
    questions: Annotated[
        list[Path] | None,
        typer.Option(
            "--questions",
            help="Questions and the pages that answer them (JSON Lines or CSV: question, pages).",
            metavar="FILE",
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="JSON file of the results.")] = Path("evaluation.json"),
    batch_size: Annotated[int, typer.Option("--batch-size", help="Items encoded at once.")] = 32,
) -> None:
    """Measure a model on the held-out queries of a dataset, or a retriever on questions.

    `omnitune evaluate MODEL DATASET` measures a model at every useful dimension. `omnitune evaluate RUN --questions
    FILE` measures a retriever beside lexical search.
    """
    from omnitune.errors import InputError
    from omnitune.folders import writable_folder

    writable_folder(out.absolute().parent)
    if questions:
        if dataset is not None:
            raise InputError(f"DATASET: expected none with --questions, got {dataset}")
        _questions(source, questions, out)
    elif dataset is None:
        raise InputError(
            "DATASET: expected a prepared dataset after the model, or --questions after a run, got neither"
        )
    else:
        places.expect_model(source)
        places.dataset_folder(dataset)
        console.only_our_bars()
        from omnitune.finetune.measure import evaluate as evaluate_model

        found = evaluate_model(source, dataset, out, batch_size=batch_size, log=console.say)
        names = list(found["results"][0]["metrics"])
        rows = [
            [
                f"{one['dim']} dimensions, {one['pages']:,} pages {one['searched']}",
                *(f"{one['metrics'][n]:.3f}" for n in names),
            ]
            for one in found["results"]
        ]
        console.table(["searched", *names], rows, title=f"{found['model']}: {found['queries']:,} queries")
    console.places("Results", {"numbers": out})


def _questions(source: str, questions: list[Path], out: Path) -> None:
    from omnitune.errors import InputError

    place = places.retriever_folder(source)
    if place is None:
        raise InputError(f"SOURCE: expected a folder with a retriever for --questions, got {source}")
    missing = [file for file in questions if not file.is_file()]
    if missing:
        raise InputError(f"--questions: expected a file, got {str(missing[0])!r}, which is not there")
    console.only_our_bars()
    from omnitune.finetune.asked import evaluate_questions

    found = evaluate_questions(place, questions, out, dataset=place.parent / "dataset")
    names = list(found["results"][0]["metrics"])
    rows = [
        [
            f"{one['queries']:,} about {one['about']}",
            *(f"{one['metrics'][name]:.3f}" for name in names),
            f"{one['lexical']:.3f}",
            f"{one['difference'][0]:+.3f} [{one['difference'][1]:+.3f}, {one['difference'][2]:+.3f}]",
        ]
        for one in found["results"]
    ]
    console.table(["questions", *names, "lexical search", "difference"], rows, title=str(place))
    if found["unknown"]:
        console.say(f"{found['unknown']:,} questions name pages that are not in the retriever and are left out")
