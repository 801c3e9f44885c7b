"""The command line: every command on tiny manuals, errors as one sentence, and nothing heavy before it is needed."""

import io
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from typer.testing import CliRunner

from fixtures.tiny_pdfs import write_folder
from fixtures.tiny_reader import write_tiny_bert, write_tiny_reader
from omnitune import SentenceTransformer, places
from omnitune.cli import demo as demo_command
from omnitune.cli import indexes
from omnitune.cli.main import app
from omnitune.documents import load
from omnitune.errors import InputError
from omnitune.search import open_index

COMMANDS = (
    "finetune",
    "distill",
    "demo",
    "prepare",
    "generate-queries",
    "train",
    "evaluate",
    "encode",
    "index",
    "search",
    "serve",
)
RECIPE = """
prepare: {width: 240, test: [kitchen.pdf], workers: 1}
training:
  num_train_epochs: 1
  per_device_train_batch_size: 8
  learning_rate: 1e-3
  use_cpu: true
  seed: 5
evaluation: {baselines: [bm25], resamples: 200, batch_size: 8, cases: 2}
"""


def run(*words: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == code, result.output + repr(result.exception)
    return " ".join(result.output.split())


@pytest.fixture(scope="module")
def manuals(tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("docs") / "manuals")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    return write_tiny_reader(folder / "reader", write_tiny_bert(folder / "bert"))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, manuals, recipe) -> Path:
    out = tmp_path_factory.mktemp("prepared") / "dataset"
    text = run("prepare", manuals, "--out", out, "--recipe", recipe)
    assert "4 documents, 20 pages (15 train, 5 test)" in text
    assert str(out) in text
    return out


def test_help_lists_the_commands_and_is_quick():
    text = run("--help")
    assert all(command in text for command in COMMANDS)
    heavy = "('torch', 'transformers', 'datasets', 'matplotlib')"
    code = f"import sys; import omnitune.cli.main; print([m for m in {heavy} if m in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command):
    assert "Usage" in run(command, "--help")


def test_version():
    assert run("--version").startswith("omnitune 0.")


def test_an_error_is_one_sentence(tmp_path):
    text = run("finetune", tmp_path / "nothing", "--out", tmp_path / "out", code=1)
    assert "expected a folder of documents" in text
    assert "Traceback" not in text


@pytest.mark.parametrize("command", ["prepare", "finetune", "train"])
def test_a_place_that_cannot_be_written_to_is_named(tmp_path, manuals, prepared, recipe, model, command):
    (tmp_path / "file").write_text("")
    words = [command, prepared if command == "train" else manuals, "--out", tmp_path / "file", "--recipe", recipe]
    text = run(*words, *([] if command == "prepare" else ["--model", model]), code=1)
    assert "expected a folder that can be written to, got: File exists" in text


def test_results_that_cannot_be_written_are_named_before_encoding(tmp_path, prepared, model):
    (tmp_path / "file").write_text("")
    text = run("evaluate", model, prepared, "--out", tmp_path / "file" / "numbers.json", code=1)
    assert "expected a folder that can be written to" in text and "Encoding" not in text
    text = run("search", model, prepared, "bread", "--html", tmp_path / "file" / "hits.html", code=1)
    assert "expected a folder that can be written to" in text and "Indexing" not in text


def test_debug_shows_where_it_comes_from(tmp_path):
    result = CliRunner().invoke(app, ["--debug", "finetune", str(tmp_path / "nothing"), "--out", str(tmp_path / "out")])
    assert type(result.exception).__name__ == "DatasetError"


def test_a_misspelt_recipe_key_is_named(tmp_path, manuals):
    path = tmp_path / "own.yaml"
    path.write_text("training:\n  learning_rat: 2e-5\n")
    text = run("finetune", manuals, "--out", tmp_path / "out", "--recipe", path, code=1)
    assert "own.yaml: training.learning_rat: unknown key" in text and "did you mean 'learning_rate'?" in text


def test_markup_in_an_error_is_text(tmp_path):
    assert "'[bold]'" in run("search", "embedded", "[bold]", "query", code=1).replace(str(Path.cwd()) + "/", "")


def test_finetune_a_vision_language_model(tmp_path, manuals, recipe, tiny_qwen3_vl):
    """The command path of the large model, on random weights."""
    out = tmp_path / "out"
    text = run("finetune", manuals, "--out", out, "--model", tiny_qwen3_vl, "--recipe", recipe)
    assert "NDCG@10" in text and "no measurable difference" in text
    assert all(str(out / name) in text for name in ("report.html", "report.json", "model", "dataset"))
    found = json.loads((out / "report.json").read_text())
    assert found["run"]["command"].startswith("omnitune finetune ")
    assert found["run"]["command"].endswith(f"--recipe {recipe}")
    assert "read" in found["run"]["seconds"]
    assert (out / "model" / "modules.json").is_file()
    assert f'Try it: omnitune search {out} "' in text
    # What the report encoded is the index: equal to one made anew, and the first search does not wait.
    assert "Indexing" not in run("search", out / "model", out / "dataset", "roasting pumpkin")
    place, _ = indexes.place_of(str(out / "model"), load(out / "dataset"))
    pages = load(out / "dataset").pages
    made = SentenceTransformer(str(out / "model")).encode_document(pages[:4], normalize_embeddings=True)
    np.testing.assert_allclose(open_index(place).embeddings[:4], made, atol=1e-5)


def test_train_evaluate_search(tmp_path, prepared, recipe, model):
    out = tmp_path / "trained"
    assert str(out / "model") in run("train", prepared, "--out", out, "--model", model, "--recipe", recipe)
    numbers = tmp_path / "numbers.json"
    text = run("evaluate", out / "model", prepared, "--out", numbers)
    assert "NDCG@10" in text and "32 dimensions" in text
    results = json.loads(numbers.read_text())["results"]
    assert [(one["dim"], one["pages"]) for one in results] == [(32, 5), (16, 5), (8, 5), (32, 20), (16, 20), (8, 20)]
    sheet = tmp_path / "sheet.html"
    text = run("search", out / "model", prepared, "roasting <script>pumpkin", "--top-k", "3", "--html", sheet)
    assert text.count(".pdf") == 3 and "Indexing 20 pages" in text
    html = sheet.read_text()
    assert "<script>" not in html and html.count("data:image/jpeg") == 3
    assert "Indexing" not in run("search", out / "model", prepared, "roasting pumpkin")


def test_a_cache_that_cannot_be_written_to_costs_a_search_its_index_and_nothing_else(
    tmp_path, prepared, model, monkeypatch
):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("OMNITUNE_CACHE", str(tmp_path / "file" / "cache"))
    text = run("search", model, prepared, "roasting pumpkin", "--top-k", "2")
    assert "The index is not kept" in text and text.count(".pdf#") + text.count(".pdf") >= 2


def test_a_strangers_recipe_is_asked_about(tmp_path, manuals, prepared, model):
    path = tmp_path / "stranger.yaml"
    path.write_text(RECIPE + "model: {trust_remote_code: true}\n")
    for words in (["finetune", manuals], ["distill", manuals], ["prepare", manuals], ["train", prepared]):
        text = run(*words, "--out", tmp_path / "out", "--recipe", path, code=1)
        assert "model.trust_remote_code: not taken from a recipe alone" in text
        assert "--allow trust_remote_code" in text
    assert not (tmp_path / "out").exists()
    run("prepare", manuals, "--out", tmp_path / "out", "--recipe", path, "--allow", "trust_remote_code")


def test_settings_on_the_command_line(tmp_path, manuals, recipe):
    own = tmp_path / "own.yaml"
    own.write_text(recipe.read_text().replace("test: [kitchen.pdf], ", ""))
    run("prepare", manuals, "--out", tmp_path / "pages", "--recipe", own, "--split", "pages", "--kind", "pages")
    assert load(tmp_path / "pages").facts["settings"]["split"] == "pages"
    text = run("prepare", manuals, "--out", tmp_path / "x", "--recipe", own, "--split", "chapters", code=1)
    assert "--split: expected documents or pages, got 'chapters'" in text
    (manuals / "scan.png").write_bytes(_png())
    try:
        text = run("prepare", manuals, "--out", tmp_path / "y", "--recipe", own, "--language", "xyz", code=1)
    finally:
        (manuals / "scan.png").unlink()
    assert "language: expected languages of the models" in text and "got 'xyz'" in text


def _png() -> bytes:
    buffer = io.BytesIO()
    image = Image.new("L", (800, 1000), 255)
    ImageDraw.Draw(image).text((60, 80), "A scanned page about rye bread", fill=0, font=ImageFont.load_default(40))
    image.save(buffer, "PNG")
    return buffer.getvalue()


def test_train_on_the_recipes_own_dataset(tmp_path, prepared, model):
    from datasets import Image

    rows = load(prepared).train.cast_column("page", Image(decode=False)).select(range(12))
    rows.save_to_disk(str(tmp_path / "rows"))
    recipe = tmp_path / "own.yaml"
    recipe.write_text(f"dataset: {{path: {tmp_path / 'rows'}, split: train, eval_split: train}}\n" + RECIPE)
    text = run("train", "--out", tmp_path / "out", "--model", model, "--recipe", recipe)
    assert "NDCG@10, 12 queries, 12 pages" in text
    assert str(tmp_path / "out" / "evaluation.json") in text


def test_train_needs_a_dataset(tmp_path, model, recipe):
    assert "got neither" in run("train", "--out", tmp_path, "--model", model, "--recipe", recipe, code=1)


def test_demo_runs_on_the_documents_of_a_checkout(monkeypatch, tmp_path):
    given = {}

    def reached(*args, **kwargs):
        given.update(args=args, **kwargs)
        raise InputError("all that the command does before the run is done")

    monkeypatch.setattr("omnitune.finetune.run.finetune", reached)
    assert "before the run is done" in run("demo", "--out", tmp_path, code=1)
    (folder, out), recipe = given["args"], given["recipe"]
    assert (folder.name, out) == ("documents", tmp_path)
    assert all((folder / name).is_file() for name in recipe.prepare["test"])
    assert recipe.model["model_name_or_path"] == "embedded"
    assert given["command"] == f"omnitune demo --out {tmp_path}"


def test_demo_of_an_installed_wheel_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(demo_command.omnitune, "__file__", str(tmp_path / "lib" / "x" / "omnitune" / "__init__.py"))
    text = run("demo", "--out", tmp_path / "out", code=1)
    assert "run it in a checkout" in text and "omnitune finetune FOLDER" in text


def test_options_reach_the_pipeline_and_the_reports_command(monkeypatch, tmp_path, manuals):
    given = {}

    def stop(*args, **kwargs):
        given.update(kwargs)
        raise KeyboardInterrupt

    monkeypatch.setattr("omnitune.finetune.run.finetune", stop)
    out = tmp_path / "out"
    words = ["--negatives", "4", "--queries", "endpoint", "--query-model", "m", "--reranker"]
    words += ["--reranker-model", "embedded"]
    run("finetune", manuals, "--out", out, *words, code=130)
    expected = {"negatives": 4, "queries": "endpoint", "query_model": "m", "reranker_model": "embedded"}
    assert {name: given[name] for name in expected} == expected
    assert given["command"] == " ".join(["omnitune", "finetune", str(manuals), "--out", str(out), *words])
    given.clear()
    run("distill", manuals, "--out", out, "--recipe", "demo", code=130)
    assert given["distill"] and given["recipe"] == "demo" and not {"negatives", "distill_loss"} & given.keys()
    assert given["command"] == f"omnitune distill {manuals} --out {out} --recipe demo"
    run("distill", manuals, "--out", out, "--loss", "kl", code=130)
    assert given["distill_loss"] == "kl" and given["command"].endswith("--loss kl")


def test_a_stopped_run_says_how_to_go_on(monkeypatch, tmp_path, manuals):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("omnitune.finetune.run.finetune", stop)
    assert "The same command goes on from here." in run("finetune", manuals, "--out", tmp_path / "out", code=130)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("can't start new thread"),
    ],
)
def test_a_machine_without_enough_memory_is_one_sentence(monkeypatch, tmp_path, manuals, error):
    def full(*args, **kwargs):
        raise error

    monkeypatch.setattr("omnitune.finetune.run.finetune", full)
    said = run("finetune", manuals, "--out", tmp_path / "out", code=1)
    assert re.search(r"not enough memory \(.+\)\. What was made before is kept: .* run the command again", said)


def test_encode_pages_of_documents(tmp_path, manuals, model):
    out = tmp_path / "pages.npy"
    text = run("encode", model, manuals, "--out", out, "--width", 240, "--dim", 8, "--normalize", "--rows", 7)
    assert "Encoding 20 items" in text and "20 embeddings of 8 numbers" in text and str(out) in text
    rows = [json.loads(line) for line in (tmp_path / "pages.npy.source" / "rows.jsonl").read_text().splitlines()]
    images = [{"path": row["path"], "bytes": None} for row in rows]
    expected = SentenceTransformer(str(model), device="cpu").encode_document(
        images, truncate_dim=8, normalize_embeddings=True
    )
    assert np.allclose(np.load(out), expected, atol=1e-6)
    assert "path: expected a file that is not there yet" in run("encode", model, manuals, "--out", out, code=1)


def test_encode_queries_of_a_table(tmp_path, model):
    (tmp_path / "asked.csv").write_text("id,question\n1,bread\n2,wheel\n")
    words = ["encode", model, tmp_path / "asked.csv", "--out", tmp_path / "v.npy", "--query"]
    assert "column: expected one of ['id', 'question']" in run(*words, code=1)
    run(*words, "--column", "question", "--precision", "ubinary")
    encoder = SentenceTransformer(str(model), device="cpu")
    assert (np.load(tmp_path / "v.npy") == encoder.encode_query(["bread", "wheel"], precision="ubinary")).all()


def test_encode_on_ray_is_asked_for_what_the_command_says(monkeypatch, tmp_path, model):
    given = {}

    def encode_on_ray(load, reopen, folder, **options):
        given.update(options, items=list(reopen()), folder=folder, dim=load().get_embedding_dimension())
        return [np.zeros((2, 3)), np.zeros((1, 3))]

    monkeypatch.setattr("omnitune.retrieval.ray.encode_on_ray", encode_on_ray)
    (tmp_path / "lines.txt").write_text("one\ntwo\nthree\n")
    words = ["encode", model, tmp_path / "lines.txt", "--out", tmp_path / "out", "--workers", 3, "--address", "auto"]
    assert "--address, --workers: expected --ray with them, got none" in run(*words, code=1)
    assert "3 embeddings of 3 numbers" in run(*words, "--ray", "--rows", 2)
    expected = {"workers": 3, "address": "auto", "rows_at_once": 2, "role": "document", "folder": tmp_path / "out"}
    assert {name: given[name] for name in expected} == expected and given["items"] == ["one", "two", "three"]
    assert given["dim"] == SentenceTransformer(str(model), device="cpu").get_embedding_dimension()


COMMANDS = [one.name or str(getattr(one.callback, "__name__", "")).replace("_", "-") for one in app.registered_commands]

WRONG = [
    (["finetune", "empty", "--out", "o"], "expected documents (PDF, images, Word,"),
    (["finetune", "nowhere", "--out", "o"], "got 'nowhere', where nothing is"),
    (["finetune", "docs", "--out", "o", "--recipe", "demp"], "got 'demp', which is neither; did you mean 'demo'?"),
    (["finetune", "docs", "--out", "o", "--model", "./nowhere"], "nothing is there: nowhere"),
    (["finetune", "docs", "--out", "o", "--model", "embeded"], "did you mean 'embedded'?"),
    (["finetune", "docs", "--out", "o", "--reranker-model", "embeded"], "did you mean 'embedded'?"),
    (["finetune", "docs", "--out", "docs/o"], "expected a folder outside the documents"),
    (
        ["finetune", "docs", "--out", "o", "--split", "page"],
        "--split: expected documents or pages, got 'page'; did you",
    ),
    (["finetune", "docs", "--out", "o", "--kind", "page"], "--kind: expected pages, recordings or clips, got 'page'"),
    (
        ["finetune", "docs", "--out", "o", "--queries", "x"],
        "--queries: expected extractive, endpoint or local, got 'x'",
    ),
    (["export", "embedded", "--to", "onx"], "--to: expected onnx or openvino, got 'onx'; did you mean 'onnx'?"),
    (["distill", "docs", "--out", "o", "--loss", "mse"], "--loss: expected margin_mse or kl, got 'mse'"),
    (["distill", "doc", "--out", "o"], "got 'doc', where nothing is; did you mean 'docs'?"),
    (["prepare", "nowhere", "--out", "o"], "got 'nowhere', where nothing is"),
    (["prepare", "docs", "--out", "docs/o"], "expected a folder outside the documents"),
    (["prepare", "docs", "--out", "o", "--recipe", "demp"], "did you mean 'demo'?"),
    (
        ["prepare", "docs", "--out", "o", "--queries", "local", "--query-model", "./nowhere"],
        "nothing is there: nowhere",
    ),
    (["generate-queries", "nowhere", "--out", "o"], "expected a dataset made by `omnitune prepare`"),
    (
        ["generate-queries", "d", "--out", "o", "--queries", "extractive"],
        "expected endpoint or local, got 'extractive'",
    ),
    (["train", "nowhere", "--out", "o"], "expected a dataset made by `omnitune prepare`"),
    (["train", "--out", "o"], "or --recipe with a dataset, got neither"),
    (["evaluate", "embedded", "nowhere"], "expected a dataset made by `omnitune prepare`"),
    (["evaluate", "nowhere", "--questions", "q.csv"], "SOURCE: expected a folder with a retriever"),
    (["encode", "embedded", "nowhere"], "which is not there"),
    (["encode", "./nowhere", "docs"], "nothing is there: nowhere"),
    (["index", "nowhere", "docs"], "RUN: expected a folder with a retriever"),
    (["index", "run", "empty"], "expected documents (PDF, images, Word,"),
    (["search", "nowhere", "x"], "where nothing is; omnitune finetune DOCUMENTS --out nowhere makes one"),
    (["search", "embedded", "nowhere", "x"], "expected a dataset made by `omnitune prepare`"),
    (["search", "./nowhere", "nowhere", "x"], "nothing is there: nowhere"),
    (["serve", "nowhere"], "'nowhere' is neither a directory here nor a repository that can be loaded"),
    (["serve", "./nowhere"], "makes a run to serve"),
    (["serve", "run", "--reranker", "embeded"], "did you mean 'embedded'?"),
    (["encode", "run", "docs"], "got neither"),
    (["serve", "run", "--port", "PORT"], "--port: expected one that is free on 127.0.0.1"),
    (["export", "./nowhere"], "nothing is there: nowhere"),
    (["check", "./nowhere", "docs"], "nothing is there: nowhere"),
    (["check", "nowhere", "docs", "--store", "lancedb"], "MODEL: expected a folder with a retriever"),
]
"""Words of a command that name something that is not there, and what is said."""


def test_what_is_not_there_is_named_before_torch_is_imported(tmp_path: Path) -> None:
    """All in one process, because starting one for each takes half a second; what is imported stays imported."""
    (tmp_path / "empty").mkdir()
    write_folder(tmp_path / "docs", ["garden"])
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / places.RETRIEVER).write_text("{}")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        commands = [[str(taken.getsockname()[1]) if one == "PORT" else one for one in words] for words, _ in WRONG]
        code = (
            "import json, sys\nfrom typer.testing import CliRunner\nfrom omnitune.cli.main import app\n"
            f"for words in {commands!r}:\n"
            "    made = CliRunner().invoke(app, words)\n"
            "    print(json.dumps([words, made.exit_code, made.output, 'torch' in sys.modules]))\n"
        )
        options = {"capture_output": True, "text": True, "check": True, "cwd": tmp_path}
        done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "HF_HUB_OFFLINE": "1"}, **options)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    for (words, said), (_, exit_code, output, imported) in zip(WRONG, answers, strict=True):
        assert said in " ".join(output.split()) and exit_code == 1, (words, output)
        assert not imported, words


def test_the_help_shows_placeholders_that_a_person_knows() -> None:
    shown = {name: CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "120"}).output for name in COMMANDS}
    for name, text in shown.items():
        assert not re.search(r"<\w|\{\w|TEXT range", text), (name, text)
    for words in ("FOLDER", "--out  PATH", "--reranker --no-reranker", "--kind pages|recordings|clips", "Documents"):
        assert words.replace("  ", " ") in re.sub(r"[ │]+", " ", shown["finetune"])
