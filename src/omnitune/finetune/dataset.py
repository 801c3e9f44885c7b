"""The dataset of a run: pages, splits and queries from a folder, with the recipe's page reader and query writer."""

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from omnitune import documents, runtime
from omnitune.documents.dataset import DocumentDataset
from omnitune.documents.folder import list_folder, office_of
from omnitune.documents.kinds import PAGES, Kind
from omnitune.documents.queries import shown
from omnitune.documents.queries.captions import caption_files
from omnitune.documents.queries.endpoint import Endpoint
from omnitune.documents.queries.generate import EndpointWriter, QueryWriter, file_hash, parse
from omnitune.documents.sources import note_source
from omnitune.errors import MissingLanguageError, RecipeError, ResourceError
from omnitune.finetune.choose import ModelChoice, listing, model_identity, page_file_reader
from omnitune.finetune.measure import has_text
from omnitune.finetune.recipe import Queries, Recipe, load_recipe
from omnitune.finetune.steps import Log, Steps
from omnitune.inputs.load import load
from omnitune.inputs.policy import DEFAULT_POLICY
from omnitune.inputs.processor import ChatTemplate, merged
from omnitune.io import digest, read_json_or_none, write_json
from omnitune.model.dense import SentenceTransformer
from omnitune.modules import files
from omnitune.modules.base import Reader
from omnitune.modules.costs import sampling
from omnitune.modules.loading import upstream
from omnitune.modules.readers.text import expect_language
from omnitune.modules.sequence import sampling_through
from omnitune.places import EMBEDDED, is_embedded

logger = logging.getLogger(__name__)


def prepare(
    folder: str | Path,
    out: str | Path,
    *,
    recipe: str | Path | Recipe | None = None,
    language: str | None = None,
    allow: Collection[str] = (),
    log: Log = logger.info,
    **settings: Any,
) -> DocumentDataset:
    """Turn a folder of documents, recordings or clips into a dataset, or open the one that it already became.

    It is `omnitune.documents.prepare` with the page reader and the query writer of a recipe.

    Args:
        folder: Documents (PDF files and images), recordings or clips, in subfolders too.
        out: Where the dataset goes.
        recipe: Its sections `prepare` and `queries` count; a recipe, its file, or the name of one of omnitune's.
        language: Language of scanned pages, such as "deu" or "eng+fra", as its model in Tesseract is called.
        allow: As for `finetune`.
        log: Called with what is done and what it will cost, a line at a time.
        **settings: Of `omnitune.documents.prepare`, such as `split="pages"`; they go before the recipe's.

    Raises:
        RecipeError: The recipe or the settings have an unknown key or value.
        DatasetError: The folder has too few documents, or too little text to make queries from.

    Example:
        >>> dataset = prepare("manuals", "run/dataset")
        >>> dataset.train.column_names, len(dataset.queries)
        (['query', 'page'], 4)
    """
    made = recipe if isinstance(recipe, Recipe) else Recipe() if recipe is None else load_recipe(recipe, allow=allow)
    made = made.changed(model__language=language, **{f"prepare__{name}": value for name, value in settings.items()})
    folder, kind = Path(folder), kind_of_folder(Path(folder), made)
    reader = page_file_reader(kind, made.model.get("language")) if _reads(kind, made) else None
    if reader is not None and kind is PAGES:
        try:
            expect_language(made.model.get("language") or "eng")
        except MissingLanguageError as error:
            log(f"Pages with a text layer are read as they are; one that must be recognised would end the run: {error}")
    return documents.prepare(folder, out, reader=reader, writer=make_writer(made.queries, log), **made.prepare)


def prepare_step(steps: Steps, folder: Path, recipe: Recipe, log: Log) -> DocumentDataset:
    """Make the dataset of a folder in `dataset/`, unless it is there."""
    place = steps.folder / "dataset"
    files = list_folder(folder, recipe.prepare.get("kind", "auto"))
    found, kind = [*files.paths.values()], files.kind
    inputs: dict[str, Any] = {
        "documents": [listing(path) for path in found],
        "names": [*files.paths],
        "not_read": files.others,
        "settings": recipe.prepare,
        "language": recipe.model.get("language"),
    }
    office = office_of(files, recipe.prepare.get("office", "auto"))
    if office is not None:
        inputs["office"] = office.version
    if kind.captioned:
        inputs["captions"] = [listing(path) for path in caption_files(folder, files.paths)]
        inputs["read"] = _reads(kind, recipe)
    if recipe.queries.writer != "extractive":
        inputs["queries"] = recipe.settings()["queries"]

    def work(_: str) -> dict[str, int]:
        size = sum(path.stat().st_size for path in found)
        words = kind.words
        log(f"Preparing {len(found)} {words.document}s ({size / 1e6:.1f} MB): {words.page}s, splits, queries")
        made = prepare(folder, place, recipe=recipe, log=log)
        return {"training pairs": len(made.train), "test queries": len(made.queries), "pages": len(made.pages)}

    steps.run("prepare", inputs, work, makes=[place])
    note_source(place, folder)  # of a run that lies there already too: its documents may have been moved
    dataset = documents.load(place)
    log(dataset.summary())
    for doubt in dataset.doubts():
        log(doubt)
    mute = [one["name"] for one in dataset.facts["documents"] if not one["queries"]]
    if mute:
        shown = ", ".join(mute[:4]) + (f" and {len(mute) - 4} more" if len(mute) > 4 else "")
        log(f"No queries could be taken from {shown}: neither trained on nor tested")
    return dataset


def as_given(dataset: DocumentDataset, chosen: ModelChoice) -> DocumentDataset:
    """The dataset as a model is given it: the embedded one gets the texts of pages.

    It would recognise them in the images, which costs half a second a page and is no better than a sound text layer;
    pages without one were recognised when the dataset was prepared. Recordings and clips have no text of their own.
    """
    own = dataset.kind.own_text and has_text(dataset.page_texts)
    return replace(dataset, as_text=is_embedded(chosen.name) and own)


def read_pages(model: SentenceTransformer, dataset: DocumentDataset, log: Log) -> None:
    """Let the model's readers read every page once; their readings are kept between runs."""
    if dataset.as_text:
        return
    modality, unit = dataset.kind.modality, dataset.kind.words.page
    readers = [module for module in model.modules() if isinstance(module, Reader) and modality in module.reads]
    pages = dataset.pages

    def read(items: list[Any]) -> None:
        for reader in readers:
            chosen = sampling_through([reader], modality)
            reader.read([load(item, modality, model.media_policy, chosen) for item in items])

    if not readers:
        return
    chunk = 4 * runtime.cores()
    log(f"Reading {len(pages):,} {unit}s")
    with runtime.progress_bar(label=f"Reading {unit}s", total=len(pages), unit=unit) as bar:
        for start in range(0, len(pages), chunk):
            items = list(pages[start : start + chunk])
            read(items)
            bar.update(len(items))


def kind_of_folder(folder: Path, recipe: Recipe | None) -> Kind:
    """Decide what a folder holds, or what of it a recipe asks for.

    Raises:
        DatasetError: There is nothing in it, or several kinds, of which none was chosen.
    """
    return list_folder(folder, recipe.prepare.get("kind", "auto") if recipe else "auto").kind


def _reads(kind: Kind, recipe: Recipe) -> bool:
    """Tell whether pages without text are read; recordings, which takes their own length, only for a reader's model."""
    return kind.own_text or is_embedded(recipe.model.get("model_name_or_path", EMBEDDED))


# --- query writers ----------------------------------------------------------------------------------------------------


def make_writer(settings: Queries, log: Log) -> QueryWriter | None:
    """Make the query writer that a recipe asks for; None for `extractive`.

    Raises:
        RecipeError: It needs a model and none is named.
        InputError: The address of the API is not set.
    """
    if settings.writer == "extractive":
        return None
    if not settings.model:
        raise RecipeError(
            f"queries.model: expected the name of a vision-language model for the writer {settings.writer!r}, "
            "got nothing; add queries.model, or --query-model"
        )
    if settings.writer == "local":
        return LocalWriter(settings, log)
    url, key = runtime.endpoint()
    endpoint = Endpoint(
        url=url,
        key=key,
        model=settings.model,
        cache=runtime.cache_folder() / "answers",
        concurrency=settings.concurrency,
        attempts=settings.attempts,
        timeout=settings.timeout,
    )
    return EndpointWriter(endpoint, per_page=settings.per_page, max_tokens=settings.max_tokens, log=log)


class LocalWriter:
    """Questions of a model on this machine; answers are kept on disk like those of an API.

    Recordings and clips are sampled as the model's processor wants them.

    Args:
        settings: The model, how many questions, of how many tokens.
        log: Called with what is written.
    """

    def __init__(self, settings: Queries, log: Log) -> None:
        assert settings.model is not None
        self.settings, self.log = settings, log
        self.folder = files.resolve(settings.model, files.HubOptions())
        self.prompts = {kind: shown.request(kind, settings.per_page, whole=True) for kind in shown.SUBJECTS}
        self.identity = digest(["local", model_identity(settings.model), self.prompts, settings.max_tokens])
        self.cache = runtime.cache_folder() / "answers" / self.identity

    def __call__(self, pages: Sequence[Path]) -> list[list[str]]:
        """For each file its questions."""
        kinds = [shown.kind_of(page) for page in pages]
        places = [self.cache / f"{file_hash(page)}.json" for page in pages]
        made = {place: read_json_or_none(place) for place in places}
        asked = zip(pages, kinds, places, strict=True)
        new = [(page, kind, place) for page, kind, place in asked if not isinstance(made[place], str)]
        count = shown.counted([kind for _, kind, _ in new])
        self.log(f"{self.settings.model} writes {self.settings.per_page} queries for each of {count}")
        if new:
            answer = self._loaded({kind for _, kind, _ in new})
            for page, kind, place in runtime.progress(new, label="Writing queries", unit="item"):
                made[place] = answer(page, kind)
                try:
                    write_json(place, made[place])
                except (OSError, ResourceError) as error:
                    logger.warning("an answer cannot be kept for the next run: %s: %s", place, error)
        return [parse(made[place], self.settings.per_page) for place in places]

    def _loaded(self, kinds: Collection[shown.ShownKind]) -> Callable[[Path, shown.ShownKind], str]:
        """Loads the model; returns what answers for one file."""
        import torch
        import transformers

        images = all(kind == "image" for kind in kinds)
        loader = transformers.AutoModelForImageTextToText if images else transformers.AutoModelForMultimodalLM
        with upstream(self.folder, "vision-language model"):
            processor = transformers.AutoProcessor.from_pretrained(self.folder, trust_remote_code=False)
            model = loader.from_pretrained(self.folder, dtype="auto", trust_remote_code=False)
        model.to(runtime.best_device()).eval()
        sampled = sampling(processor, model.config, {})
        options = merged({"common": {"return_tensors": "pt"}, "chat_template": {"add_generation_prompt": True}})
        template = ChatTemplate(processor)

        def answer(path: Path, kind: shown.ShownKind) -> str:
            item = load(path, kind, DEFAULT_POLICY, sampled)
            content = [{"type": kind, kind: item}, {"type": "text", "text": self.prompts[kind]}]
            features = template.features([[{"role": "user", "content": content}]], options, max_length=None)
            inputs = {name: value.to(model.device) for name, value in features.items()}
            with torch.inference_mode():
                made = model.generate(**inputs, max_new_tokens=self.settings.max_tokens, do_sample=False)
            return str(processor.batch_decode(made[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0])

        return answer
