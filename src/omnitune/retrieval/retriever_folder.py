"""Files in the folder of a retriever.

folder/
  retriever.json   the stages, the fusion and the reranker; written last
  README.md        a card
  model/<stage>/   the checkpoint of every stage that has a model
  index/           the pages, with what every stage keeps of them (see `segments`)
  pages/           images of pages that `add` read from documents
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omnitune import io
from omnitune.errors import InputError
from omnitune.places import RETRIEVER
from omnitune.retrieval.retriever_card import render_retriever_card
from omnitune.retrieval.segments import SEGMENT
from omnitune.retrieval.stages import KINDS, Fusion, ModelStage, RerankStage, Stage, load_encoder

FORMAT = 1
SAVED = (RETRIEVER, "README.md", "index", "model", "pages")
"""Names of all that a retriever writes into its folder."""


def read_parts(folder: Path) -> dict[str, Any]:
    """Read `stages`, `fusion`, `rerank` and `language`, the arguments of a `Retriever`; no model is loaded.

    Raises:
        InputError: The folder is no whole retriever, or its facts are not those that `facts_of` makes.
    """
    facts = io.read_json_or_none(folder / RETRIEVER)
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise InputError(
            f"folder: expected a retriever with a whole {RETRIEVER} of format {FORMAT}, got {folder}; make one with "
            "omnitune finetune, or Retriever.build"
        )
    try:
        stages: list[Any] = []
        for one in facts["stages"]:
            made, owner = KINDS[one["kind"]], one.get("model", one["kind"])
            if owner not in KINDS:  # no path: a retriever may be a stranger's, and loads no model but its own
                raise KeyError(owner)
            model = {"model": folder / "model" / owner} if issubclass(made, ModelStage) else {}
            stages.append(made(**one["settings"], **model))
        fusion = None if facts["fusion"] is None else Fusion(**facts["fusion"])
        rerank = facts["rerank"]
        rerank = None if rerank is None else RerankStage(model=folder / "model" / "rerank", **rerank)
    except (KeyError, TypeError, AttributeError) as error:
        said = f"{type(error).__name__}: {error}"
        raise InputError(f"{folder / RETRIEVER}: expected stages as `save` writes them, got {said}") from error
    language = facts.get("language")
    if not isinstance(language, str | None):
        raise InputError(f"{folder / RETRIEVER}: language: expected a name such as 'deu', got {language!r}")
    return {"stages": stages, "fusion": fusion, "rerank": rerank, "language": language}


def facts_of(
    stages: Mapping[str, Stage], fusion: Fusion | None, rerank: RerankStage | None, language: str | None
) -> dict[str, Any]:
    """The facts that `read_parts` reads."""
    shared = _share_model(stages)
    return {
        "format": FORMAT,
        "stages": [
            {"kind": kind, "settings": stage.facts()} | ({"model": "dense"} if shared and kind == "late" else {})
            for kind, stage in stages.items()
        ],
        "fusion": None if fusion is None else {"weights": dict(fusion.weights), "method": fusion.method, "k": fusion.k},
        "rerank": None if rerank is None else rerank.facts(),
        "language": language,
    }


def write_models(folder: Path, stages: Mapping[str, Stage], rerank: RerankStage | None) -> None:
    """Write the models of stages and reranker; one that two stages share once.

    Raises:
        InputError: A model cannot be saved.
    """
    shared = _share_model(stages)
    for kind, stage in [*stages.items(), (RerankStage.kind, rerank)]:
        if not isinstance(stage, ModelStage | RerankStage) or (shared and kind == "late"):
            continue
        model, place = stage.model, folder / "model" / kind
        if isinstance(model, str | Path):
            if Path(model) == place:  # it lies there already
                continue
            model = stage.load(model) if isinstance(stage, ModelStage) else load_encoder(model)
        if not hasattr(model, "save_pretrained"):
            kind_given = type(model).__name__
            raise InputError(f"model: expected one that can be saved, got {kind_given} in stage {stage.kind!r}")
        model.save_pretrained(str(place))


def write_facts(folder: Path, facts: Mapping[str, Any], pages: int) -> None:
    """Write the card, then the facts, which make the folder a retriever."""
    with io.writing(folder / "README.md") as temporary:
        temporary.write_text(render_retriever_card(facts, pages), encoding="utf-8")
    io.write_json(folder / RETRIEVER, facts)


def _share_model(stages: Mapping[str, Stage]) -> bool:
    """Tell whether late interaction takes the token vectors of the dense stage's model."""
    dense, late = stages.get("dense"), stages.get("late")
    return isinstance(dense, ModelStage) and isinstance(late, ModelStage) and late.model == dense.model


def is_retriever(folder: str | Path) -> bool:
    """Tell whether a folder holds a retriever."""
    return (Path(folder) / RETRIEVER).is_file()


def stamp(folder: Path) -> tuple[int, int] | None:
    """Tell one making of a retriever from the next: every `save` writes a new file."""
    if not is_retriever(folder):
        return None
    found = (folder / RETRIEVER).stat()
    return found.st_ino, found.st_mtime_ns


def is_ours(name: Path) -> bool:
    """Tell whether a file in a retriever's folder, by its path there, has a name that a retriever gives."""
    first, *rest = name.parts
    if first == "index":
        return len(rest) == 1 and (rest[0] == "index.json" or SEGMENT.fullmatch(rest[0]) is not None)
    if first == "model":
        return len(rest) > 1 and rest[0] in {*KINDS, RerankStage.kind}
    if first == "pages":
        return len(rest) > 1 and rest[0] in ("documents", "images")
    return first in SAVED
