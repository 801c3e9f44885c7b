"""Files under faults, a kind a section: each walks all places where the kind could be missed.

What is torn counts as absent or gets a sentence; nothing is deleted that is not ours; a cache that cannot be written
costs time, never a result; no number leaves that is none. The walks over the source find a new place that misses `io`.
"""

import ast
import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import omnitune
from fixtures.tiny_pdfs import write_folder
from omnitune import Retriever, SentenceTransformer, folders, io, losses, quantize_embeddings
from omnitune.documents import DocumentDataset, load, prepare
from omnitune.documents.queries.endpoint import Answer, Endpoint
from omnitune.documents.read import office
from omnitune.errors import CheckpointError, DatasetError, InputError, OmnituneError, ResourceError
from omnitune.export.gate import Check, Verdict
from omnitune.finetune.steps import open_run
from omnitune.inputs.fingerprint import fingerprint
from omnitune.inputs.store import Store as TensorStore
from omnitune.modules import files
from omnitune.modules.files import read_json
from omnitune.report.records import append_csv
from omnitune.retrieval.arrays import read_arrays, write_arrays
from omnitune.retrieval.corpus import open_corpus
from omnitune.retrieval.dense_index import DenseIndex
from omnitune.retrieval.late_index import LateIndex
from omnitune.retrieval.lexical import LexicalIndex
from omnitune.retrieval.ray import open_shards
from omnitune.retrieval.retriever_folder import is_ours
from omnitune.retrieval.sparse_index import SparseIndex
from omnitune.retrieval.stages import DenseStage, Fusion, LexicalStage, LineStage, RerankStage
from omnitune.retrieval.store import Store
from omnitune.retrieval.to_disk import encode_to_disk
from omnitune.training.weights import last_checkpoint, restore_model

ROOT = Path(omnitune.__file__).parent
SMALL: dict[str, Any] = {"width": 120, "show_progress": False, "test": ["kitchen"], "workers": 1}

# -- the source -------------------------------------------------------------------------------------------------------

WRITERS = ("write_text", "write_bytes", "save_file", "savez", "tofile", "save_to_disk", "to_parquet", "to_csv")
PLAIN = {
    "modules/files.py": "inside `folders.replacing_folder` of `checkpoint.save`, or a folder that a user names",
    "retrieval/ordered.py": "rows with keys that are zeroed before and written after",
    "serve/search.py": "votes, a line appended in one write",
    "io.py": "the place itself",
    "documents/sources.py": "the user's key, made once by the first process",
    "report/records.py": "rows that are appended, within `io.full_disk_named`",
    "compat/utilities.py": "inside `io.writing`",
}
"""Modules that write without `io.writing`, and the reason."""

DELETERS = {
    "folders.py": "the place itself",
    "io.py": "the place itself",
    "inputs/store.py": "entries of the cache",
    "export/graphs.py": "an intermediate graph in a fresh folder",
    "finetune/steps.py": "its clock",
    "retrieval/ray.py": "its shards",
    "retrieval/segments.py": "its segments",
}
"""Modules that delete single files, and which."""

READERS = {
    "modules/files.py": "checkpoints, which may be others' and get a sentence",
    "training/weights.py": "the trainer's state: torn is renamed, unreadable is an error",
    "io.py": "the place itself",
    "installation.py": "pip's note of where a package came from",
}
"""Modules that read JSON files without `io`, and the reason."""


def named(call: ast.AST) -> str:
    function = call.func if isinstance(call, ast.Call) else call
    return getattr(function, "attr", getattr(function, "id", ""))


def calls() -> Iterator[tuple[str, ast.Call, list[ast.AST]]]:
    """Every call in the source with its module and what encloses it."""
    for path in sorted(ROOT.rglob("*.py")):
        stack: list[tuple[ast.AST, list[ast.AST]]] = [(ast.parse(path.read_text()), [])]
        while stack:
            node, above = stack.pop()
            if isinstance(node, ast.Call):
                yield path.relative_to(ROOT).as_posix(), node, above
            stack += [(child, [*above, node]) for child in ast.iter_child_nodes(node)]


def test_the_source_writes_deletes_and_reads_through_io() -> None:
    found: dict[str, set[str]] = {"rmtree": set(), "unlink": set(), "write": set(), "read": set()}
    for module, call, above in calls():
        name = named(call)
        within = {named(item.context_expr) for one in above if isinstance(one, ast.With) for item in one.items}
        modes = [one.value for one in [*call.args, *(k.value for k in call.keywords)] if isinstance(one, ast.Constant)]
        opens = name == "open" and any(
            isinstance(mode, str) and set(mode) & set("wax+") and len(mode) < 4 for mode in modes
        )
        if opens and ast.unparse(call.func) in ("wave.open", "av.open"):  # into memory
            continue
        if name == "rmtree":
            found["rmtree"].add(module)
        if name == "unlink" or (name == "remove" and ast.unparse(call.func) == "os.remove"):
            found["unlink"].add(module)
        if (opens or name in WRITERS) and not within & {"writing", "replacing_folder", "TemporaryDirectory"}:
            found["write"].add(module)
        if name in ("load", "loads") and ast.unparse(call.func) in ("json.load", "json.loads"):
            inner = {named(one) for one in ast.walk(call) if isinstance(one, ast.Call)}
            if name == "load" or inner & {"read_text", "read_bytes"}:
                found["read"].add(module)
    assert found["rmtree"] == {"folders.py"}, "folders are deleted by folders.discard alone"
    assert found["unlink"] <= DELETERS.keys()
    assert found["write"] <= PLAIN.keys(), "files are written with io.writing"
    assert found["read"] <= READERS.keys(), "files of ours are read with io.read_json_or_none"


# -- torn -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def manuals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("manuals") / "in")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, manuals: Path) -> DocumentDataset:
    return prepare(manuals, tmp_path_factory.mktemp("prepared") / "out", **SMALL)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no full device")
@pytest.mark.parametrize(
    "write",
    [
        lambda: torch.save({"a": torch.zeros(100_000)}, "/dev/full"),
        lambda: torch.save({"a": 1}, "/dev/full"),
        lambda: Path("/dev/full").write_bytes(b"x" * 100_000),
    ],
)
def test_every_writer_on_a_full_disk_is_known(write: Callable[[], None]) -> None:
    with pytest.raises((OSError, RuntimeError)) as raised:
        write()
    assert io.is_full(raised.value)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0"),
        RuntimeError("basic_ios::clear: iostream error"),
        RuntimeError("Error while serializing: I/O error: File too large (os error 27)"),
        shutil.Error([("a", "b", "[Errno 28] No space left on device: 'a' -> 'b'")]),
    ],
)
def test_what_writers_say_on_a_full_disk_is_known(error: Exception) -> None:
    assert io.is_full(error) and not io.is_full(RuntimeError("expected a tensor"))


def test_a_pipe_or_device_in_the_place_of_a_file_is_absent(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    for place in (tmp_path / "pipe", tmp_path / "device", tmp_path):
        assert io.read_json_or_none(place) is None
        assert read_arrays(place) is None


@pytest.mark.parametrize("name", ["tables/pages/data-00000-of-00001.arrow", "tables/pages/state.json",
                                  "tables/dataset_dict.json", "prepared.json"])  # fmt: skip
def test_a_dataset_that_is_torn_is_named_and_prepared_again(
    name: str, prepared: DocumentDataset, manuals: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(prepared.folder, out)
    (out / name).write_bytes((out / name).read_bytes()[:200][:-3])
    with pytest.raises(DatasetError, match="damaged or was made by an earlier one"):
        load(out)
    assert prepare(manuals, out, **SMALL).page_ids == prepared.page_ids


SEGMENT = '{"format": 2, "settings": {}, "segments": [%s]}'


@pytest.mark.parametrize("facts", ["", "[]", "3", '{"format": 2}', '{"format": 2, "segments": [], "settings": []}',
                                   SEGMENT % "{}", SEGMENT % "3", SEGMENT % '{"name": 1, "rows": 3, "removed": []}',
                                   SEGMENT % ""])  # fmt: skip
def test_an_index_with_torn_facts_is_no_index(facts: str, tmp_path: Path) -> None:
    index = DenseIndex(similarity="cosine")
    index.add([{"id": str(row)} for row in range(3)], np.eye(3, dtype=np.float32))
    index.save(tmp_path)
    (tmp_path / "index.json").write_text(facts)
    with pytest.raises(InputError, match="folder: expected an index"):
        DenseIndex.open(tmp_path)


def test_a_segment_of_others_is_none(tmp_path: Path) -> None:
    write_arrays(tmp_path / "x.safetensors", {"x": np.zeros(3)})
    store = Store(tmp_path)
    assert store.rows(["a"], np.array([b"a" * 32]), lambda items: np.ones((1, 2), np.float32)).values.tolist() == [
        [1, 1]
    ]
    index = DenseIndex(similarity="cosine")
    index.add([{"id": "a"}], np.ones((1, 3), np.float32))
    index.save(tmp_path / "index")
    (segment,) = (tmp_path / "index").glob("*.safetensors")
    write_arrays(segment, {"x": np.zeros(3)})
    with pytest.raises(InputError, match="missing or cut"):
        DenseIndex.open(tmp_path / "index")


@pytest.mark.parametrize("facts", ["[]", "{}", '{"shards": "x"}', '{"shards": 2}', '{"shards": 3}'])
def test_shards_that_are_torn_are_no_corpus(facts: str, tmp_path: Path) -> None:
    (tmp_path / "corpus.json").write_text(facts)
    np.save(tmp_path / "00000000.npy", np.eye(2))
    (tmp_path / "00000001.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(InputError, match="folder: expected a complete corpus"):
        open_shards(tmp_path)


class Paid(Endpoint):
    """Answers without a server."""

    __slots__ = ()

    def _post(self, body: Any) -> Answer:
        return Answer(text="new")


def asked(cache: Path, kept: str | None = None) -> Answer:
    endpoint = Paid(url="http://x", key="", model="m", cache=cache)
    if kept is not None:
        endpoint._place({}).parent.mkdir(parents=True)
        endpoint._place({}).write_text(kept)
        assert not endpoint.known({})
    return endpoint.ask({}, dict)


@pytest.mark.parametrize("kept", ["{", "[]", '{"other": 1}', '{"text": 5}', '{"text": "x", "more": 1}'])
def test_an_answer_that_is_torn_is_asked_for_again(kept: str, tmp_path: Path) -> None:
    assert asked(tmp_path, kept) == Answer(text="new")


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b"a,b\n1,2\n3", "a,b\n1,2\n3\n5,6\n"), (b"", "a,b\n5,6\n"), (b"\xff\xfe,b\n", "a,b\n5,6\n")],
)
def test_a_log_that_is_torn_gets_rows_of_their_own(content: bytes, expected: str, tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_bytes(content)
    append_csv(tmp_path / "log.csv", {"a": 5, "b": 6})
    assert (tmp_path / "log.csv").read_text() == expected


@pytest.fixture(scope="module")
def model(tiny_bert: Path) -> SentenceTransformer:
    return SentenceTransformer(str(tiny_bert), device="cpu")


def test_a_checkpoint_that_is_torn_is_named(model: SentenceTransformer, tmp_path: Path) -> None:
    for name in ("modules.json", "model.safetensors"):
        model.save_pretrained(str(tmp_path / name))
        content = (tmp_path / name / name).read_bytes()
        (tmp_path / name / name).write_bytes(content[: len(content) // 2])
        with pytest.raises(CheckpointError, match=name if name.endswith("json") else "damaged file"):
            restore_model(model, tmp_path / name)
    loss = losses.EmbedDistillLoss(model, projection_dim=8)
    loss.save_projection(tmp_path / "projection")
    (tmp_path / "projection").write_bytes((tmp_path / "projection").read_bytes()[:50])
    with pytest.raises(CheckpointError, match="path: expected a whole projection"):
        loss.load_projection(tmp_path / "projection")


def test_a_retriever_that_is_saved_over_another_is_never_a_mixture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = [{"id": f"a#{row}", "text": text} for row, text in enumerate(["bread", "soup", "salt"])]
    Retriever.build(pages, [LexicalStage()]).save(tmp_path)
    other = Retriever.build(pages[:2], [LexicalStage()])

    def killed(folder: Path, *, held: bool) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(other.segments, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        other.save(tmp_path)
    with pytest.raises(InputError, match="folder: expected a retriever with a whole"):
        Retriever.open(tmp_path)


def test_pages_are_added_to_the_retriever_that_was_opened_alone(tmp_path: Path) -> None:
    pages = [{"id": f"a#{row}", "text": text} for row, text in enumerate(["bread", "soup"])]
    salt, place, made = {"id": "b", "text": "salt"}, tmp_path / "r", Retriever.build(pages, [LexicalStage()])
    made.save(place)
    adding, removing = Retriever.open(place), Retriever.open(place)
    assert adding.add([salt]) == 1 and len(Retriever.open(place)) == 3
    with folders.locked(place / "index", task="changing the index"):
        with pytest.raises(ResourceError, match="another process is changing the index here"):
            Retriever.build(pages, [LexicalStage()]).save(place)
        assert len(Retriever.open(place)) == 3
    with folders.replacing_folder(place, gone=lambda *_: True) as fresh:  # as a finetuning does
        Retriever.build(pages, [LexicalStage()]).save(fresh)
    for change in (lambda: adding.add([{"id": "c", "text": "rye"}]), lambda: removing.remove("a#0")):
        with pytest.raises(ResourceError, match="another process has made this retriever anew; open it again"):
            change()
    assert len(Retriever.open(place)) == 2
    again = Retriever.open(place)
    again.save(place)
    assert again.add([salt]) == 1 and again.remove("b") == 1


# -- others' files ----------------------------------------------------------------------------------------------------


def _swap(folder: Path) -> None:
    with folders.replacing_folder(folder / "model") as fresh:
        (fresh / "config.json").write_text("new")


def _clear_tables(folder: Path, prepared: DocumentDataset, manuals: Path) -> None:
    shutil.copytree(prepared.folder, folder / "out", dirs_exist_ok=True)
    prepare(manuals, folder / "out", **{**SMALL, "test": ["garden"]})


@pytest.mark.parametrize(
    ("files", "work"),
    [
        (["model.safetensors", "ab/adapter.safetensors"], lambda at, *_: TensorStore(10, at, 1)),
        ([".model.notes.partial/x", "model/.download.partial/x", "model/notes.txt"], lambda at, *_: _swap(at)),
        (["torn-checkpoint-3/x", "checkpoint-3/x"], lambda at, *_: last_checkpoint(at)),
        (["v.npy.partial/notes.txt"], lambda at, model, *_: encode_to_disk(model, ["a"], at / "v.npy")),
        (["out/tables/notes.txt", "out/images/notes.txt"], lambda at, _, *given: _clear_tables(at, *given)),
        (["run/embeddings/text/notes.txt"], lambda at, *_: folders.discard(at / "run/embeddings/text", ["pages.npy"])),
    ],
    ids=["cache", "save", "checkpoints", "to_disk", "prepare", "discard"],
)
def test_nothing_of_others_is_deleted(
    files: list[str],
    work: Callable[..., Any],
    model: SentenceTransformer,
    prepared: DocumentDataset,
    manuals: Path,
    tmp_path: Path,
) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("mine")
        os.utime((tmp_path / name).parent, (1, 1))
    work(tmp_path, model, prepared, manuals)
    there = {
        path.name: path.read_text() for path in tmp_path.rglob("*") if path.name in {Path(one).name for one in files}
    }
    assert there == {Path(name).name: "mine" for name in files}
    if "checkpoint-3/x" in files:
        assert (tmp_path / "torn-checkpoint-3.1" / "x").is_file() and (tmp_path / files[0]).is_file()


@pytest.mark.parametrize("name", ["README.md", "prepared.json"])
def test_a_dataset_overwrites_no_file_of_others(name: str, manuals: Path, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(
        InputError, match=f"out: expected a new folder, or one that .* whose {name} would be overwritten"
    ):
        prepare(manuals, tmp_path, **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["report.html", "model/x", "retriever/x"])
def test_a_run_overwrites_no_file_of_others(name: str, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(InputError, match="would be overwritten"), open_run(tmp_path, task="training"):
        pytest.fail("it began")
    (tmp_path / ".steps").mkdir()
    with open_run(tmp_path, task="training"):
        pass


# -- caches -----------------------------------------------------------------------------------------------------------


def _table(at: Path) -> Any:
    (at / "rows.csv").write_text("a\nx\ny\n")
    return list(open_corpus(at / "rows.csv", at / "store").items)


def _kept(at: Path, manuals: Path) -> Any:
    store = TensorStore(0, at / "file" / "cache", 1000)
    return store.put("ab", {"x": torch.ones(1)}), store.get("ab")


def _vectors(at: Path, manuals: Path) -> Any:
    store, keys = Store(at / "file" / "cache"), np.array([b"a" * 32])
    return [store.rows(["a"], keys, lambda items: np.ones((1, 2), np.float32)).values.tolist() for _ in range(2)]


CACHES: dict[str, tuple[Callable[[Path, Path], Any], Any]] = {
    "documents": (
        lambda at, manuals: Retriever.build(manuals, [LexicalStage()], show_progress=False).search("rye bread")[0].id,
        "kitchen.pdf#1",
    ),
    "tables": (lambda at, manuals: _table(at), ["x", "y"]),
    "answers": (lambda at, manuals: asked(at / "file" / "cache").text, "new"),
    "tensors": (_kept, (False, None)),
    "vectors": (_vectors, [[[1, 1]], [[1, 1]]]),
}


@pytest.mark.parametrize("name", CACHES)
def test_a_cache_that_cannot_be_written_costs_no_result(
    name: str, manuals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file lies where the folder should be, because a root user may write whatever permissions say."""
    monkeypatch.setenv("OMNITUNE_CACHE", str(tmp_path / "file" / "cache"))
    (tmp_path / "file").write_text("")
    work, expected = CACHES[name]
    assert work(tmp_path, manuals) == expected


def test_a_cache_that_is_deleted_in_the_middle_costs_no_result(tmp_path: Path) -> None:
    tensors, vectors, keys = (
        TensorStore(0, tmp_path / "t", 1000),
        Store(tmp_path / "v"),
        np.array([b"a" * 32, b"b" * 32]),
    )

    def encode(items: list[Any]) -> Any:
        return np.array([[len(item), 1] for item in items], np.float32)

    tensors.put("ab", {"x": torch.ones(1)})
    vectors.rows(["a"], keys[:1], encode)
    for name in "tv":
        shutil.rmtree(tmp_path / name)
    assert tensors.get("ab") is None and tensors.put("ac", {"x": torch.ones(1)}) and tensors.get("ac") is not None
    assert vectors.rows(["a", "bb"], keys, encode).values.tolist() == [[1, 1], [2, 1]]


# -- numbers ----------------------------------------------------------------------------------------------------------

NAN = np.full((1, 4), np.nan, np.float32)


@pytest.mark.parametrize(
    ("make", "good"),
    [(partial(DenseIndex, similarity=name), np.eye(4, dtype=np.float32)) for name in ("cosine", "dot", "euclidean")]
    + [
        (partial(LateIndex, codec="float32"), [np.eye(4, dtype=np.float32)] * 4),
        (partial(LateIndex, codec="int8"), [np.eye(4, dtype=np.float32)] * 4),
        (SparseIndex, np.eye(4, dtype=np.float32)),
    ],
)
def test_no_index_takes_or_gives_what_is_no_number(make: Callable[[], Any], good: Any) -> None:
    index = make()
    bad = [NAN] if isinstance(good, list) else NAN
    with pytest.raises(InputError, match="NaN or infinity in row 0"):
        index.add([{"id": "x"}], bad)
    index.add([{"id": str(row)} for row in range(4)], good)
    for wrong in (NAN, np.where(np.eye(4)[:1] > 0, np.inf, 0.0).astype(np.float32)):
        with pytest.raises(OmnituneError, match="NaN or infinity|finite"):
            index.search([wrong] if isinstance(good, list) else wrong)


def test_no_rerank_gives_what_is_no_number() -> None:
    class Blind:
        def predict(self, pairs: list[Any], **options: Any) -> Any:
            return np.full(len(pairs), np.nan)

    pages = [{"id": "a#1", "text": "bread"}]
    retriever = Retriever.build(pages, [LexicalStage()], rerank=RerankStage(model=Blind()))
    with pytest.raises(InputError, match="rerank: expected finite scores of the model"):
        retriever.search("bread")


def test_no_json_of_ours_has_what_is_no_number(tmp_path: Path) -> None:
    """Python would write `NaN`, which is no JSON: browsers, jq and databases refuse the whole file."""
    for number in (float("nan"), float("inf"), float("-inf")):
        value = {"scores": [{"ndcg": 0.5}, {"ndcg": number}]}
        for write in (io.write_json, lambda path, one: io.write_jsonl(path, [one]), files.write_json):
            with pytest.raises(InputError, match=rf"a.json: expected finite numbers, got {number} at 'scores.1.ndcg'"):
                write(tmp_path / "a.json", value)
        assert not any(tmp_path.iterdir())
        check = Check(name="vectors", found=str(number), value=number)
        verdict = Verdict(target="onnx", precision="float32", items=1, checks=[check])
        io.write_json(tmp_path / "verdict.json", verdict.to_json())
        assert io.read_json(tmp_path / "verdict.json")["checks"][0]["value"] is None
        (tmp_path / "verdict.json").unlink()
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(ValueError, match="Circular"):
        io.write_json(tmp_path / "a.json", circle)
    io.write_json(tmp_path / "a.json", {os.fsdecode(b"caf\xe9"): "é"})  # names are bytes
    assert io.read_json(tmp_path / "a.json") == {os.fsdecode(b"caf\xe9"): "é"}


def test_a_device_or_pipe_is_written_to_and_stays_one(tmp_path: Path) -> None:
    """By root a rename would put a file in the place of /dev/null."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        io.write_json(pipe, {"a": 1})
        assert b'"a"' in os.read(reading, 100)
    finally:
        os.close(reading)
    assert pipe.is_fifo()
    io.write_json(Path("/dev/null"), {"a": 1})
    assert Path("/dev/null").is_char_device()


# -- others in the way, and what kills leave --------------------------------------------------------------------------


def _into(path: Path) -> None:
    with folders.replacing_folder(path.parent) as fresh:
        (fresh / path.name).write_text("new")


def _hold(folder: Path) -> None:
    with folders.locked(folder, task="testing"):
        pass


@pytest.mark.parametrize(
    "work", [partial(io.write_json, value=1), io.remove_file, _into], ids=["write", "remove", "swap"]
)
def test_a_folder_in_the_place_of_a_file_is_named(work: Callable[[Path], None], tmp_path: Path) -> None:
    (tmp_path / "out" / "x.json").mkdir(parents=True)
    with pytest.raises(ResourceError, match="x.json: expected a file or nothing, got a folder; move it away"):
        work(tmp_path / "out" / "x.json")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["x.json"]


def test_a_file_in_the_place_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(ResourceError, match="out: expected a folder or nothing, got a file"):
        io.write_json(tmp_path / "out" / "x.json", 1)
    (tmp_path / "run" / ".lock").mkdir(parents=True)
    with pytest.raises(ResourceError, match="lock: expected a file or nothing, got a folder"):
        _hold(tmp_path / "run")


def test_a_lock_that_somebody_deletes_still_holds(tmp_path: Path) -> None:
    with folders.locked(tmp_path, task="testing"):
        (tmp_path / ".lock").unlink()
        with pytest.raises(ResourceError, match="another process is testing here"):
            _hold(tmp_path)
    _hold(tmp_path)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(io.fcntl, "flock", refuse)
    with pytest.raises(ResourceError, match="lock: expected a file that can be locked"):
        _hold(tmp_path / "run")
    io.write_json(tmp_path / "a.json", 1)
    with folders.replacing_folder(tmp_path / "model") as fresh:
        (fresh / "a").write_text("")
    assert (tmp_path / "model" / "a").is_file() and io.read_json(tmp_path / "a.json") == 1


def test_what_killed_writers_left_goes_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(io, "JUST_MADE", -1.0)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in (".x.json.1.2.partial", ".y.1.2.partial", ".notes.partial", "z.1.2.partial"):
        (tmp_path / name).write_text("")
    for name in ("omnitune-office-abcd_123", "omnitune-office-busy_123", "omnitune-office-notes"):
        (tmp_path / name).mkdir()
    with io.held(tmp_path / ".y.1.2.partial"), io.held(tmp_path / "omnitune-office-busy_123"):
        io.write_json(tmp_path / "new.json", 1)
        with folders.scratch("omnitune-office-") as folder:
            assert folder.parent == tmp_path and folder.is_dir()
    assert {path.name for path in tmp_path.iterdir()} == {
        ".y.1.2.partial", ".notes.partial", "z.1.2.partial", "new.json", "omnitune-office-busy_123",
        "omnitune-office-notes"}  # fmt: skip


def test_nesting_without_end_is_torn(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[" * 200_000)
    assert io.read_json_or_none(tmp_path / "config.json") is None
    with pytest.raises(CheckpointError, match="config.json: expected JSON"):
        read_json(tmp_path / "config.json")
    (tmp_path / "rows.safetensors").write_bytes((200_000).to_bytes(8, "little") + b"[" * 200_000)
    assert read_arrays(tmp_path / "rows.safetensors") is None


def test_damage_that_no_size_shows(tmp_path: Path) -> None:
    index = DenseIndex(similarity="cosine")
    index.add([{"id": "first"}], np.ones((1, 3), np.float32))
    index.save(tmp_path)
    (segment,) = tmp_path.glob("*.safetensors")
    segment.write_bytes(segment.read_bytes().replace(b'{"id": "first"}', b'{"id": \xff\xfeirst"}'))
    with pytest.raises(InputError, match="expected whole segments, got one whose entries are damaged"):
        DenseIndex.open(tmp_path).search(np.ones((1, 3), np.float32))
    with open_run(tmp_path / "run", task="training") as steps:
        file, made = tmp_path / "run" / "ladder.npz", list[str]()

        def work(key: str) -> int:
            made.append(key)
            np.savez(file, values=np.arange(100.0))
            return 1

        steps.run("ladder", {}, work, makes=[file])
        content = bytearray(file.read_bytes())
        content[300:310] = b"0123456789"
        file.write_bytes(content)
        assert not steps.holds("ladder", {})
        rows = tmp_path / "run" / "rows.npy"
        steps.run("base", {}, lambda _: np.save(rows, np.arange(100.0)), makes=[rows])
        assert steps.holds("base", {})
        np.save(rows, np.arange(100.0)[::-1])
        assert not steps.holds("base", {})


def test_a_new_retriever_deletes_what_a_retriever_wrote_alone() -> None:
    ours = ["retriever.json", f"index/{'0a' * 16}.safetensors", "model/late/config.json", "pages/images/ab/x.png"]
    theirs = ["notes.txt", "index/notes.txt", "index/a/b.txt", "model/notes.txt", "pages/notes.txt", "index/.lock"]
    assert all(is_ours(Path(name)) for name in ours) and not any(is_ours(Path(name)) for name in theirs)


def test_a_file_with_the_size_and_time_of_the_former_one_is_another(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    keys = []
    for content in (b"\x89PNG first", b"\x89PNG other"):
        path.write_bytes(content)
        os.utime(path, (1, 1))
        keys.append(fingerprint(path, "image"))
    assert keys[0] != keys[1]


def test_tokens_that_are_not_there_change_no_score() -> None:
    pages, none = [np.eye(3, dtype=np.float32), np.eye(3, dtype=np.float32)[:1]], np.zeros((0, 3), np.float32)
    for codec in ("float32", "int8", "binary"):
        index = LateIndex(codec=codec)
        index.add([{"id": str(row)} for row in range(3)], [*pages, none])
        alone = [found.score for found in index.search([pages[0]])[0]]
        first, nothing, last = index.search([pages[0], none, pages[0]])
        assert [found.score for found in first] == [found.score for found in last] == alone
        assert [found.score for found in nothing][:2] == [0.0, 0.0]
        assert [found.score for found in index.search([none])[0]][:2] == [0.0, 0.0]
        empty = LateIndex(codec=codec)
        empty.add([{"id": "a"}], [none])
        assert [found.score for found in empty.search([pages[0]])[0]] == [-1e9]
    sparse = SparseIndex()
    sparse.add([{"id": "a"}], np.zeros((1, 4), np.float32))
    assert sparse.search(np.eye(4, dtype=np.float32)[:1]) == [[]]


@pytest.mark.parametrize(
    "index", [DenseIndex(similarity="dot", dtype="float16"), LateIndex(codec="float16"), LateIndex(codec="int8")]
)
def test_no_index_keeps_what_half_precision_does_not_hold(index: Any) -> None:
    rows = np.full((1, 4), 1e12, np.float32)
    with pytest.raises(InputError, match="rows as .*: expected finite numbers, got NaN or infinity in row 0"):
        index.add([{"id": "a"}], rows if isinstance(index, DenseIndex) else [rows])


@pytest.mark.parametrize(
    ("make", "said"),
    [(lambda value=value: Fusion(weights={"lexical": value, "dense": 1.0}), "weights: expected numbers")
     for value in (np.nan, np.inf, -1.0, 1e39, "1", None)]
    + [(lambda value=value: Fusion(weights={"lexical": 1.0}, method="rrf", k=value), "k: expected a number from 0")
       for value in (-60, np.nan, "x")]
    + [(lambda value=value: LexicalStage(k1=value), "k1: expected a number") for value in (np.nan, -1.0, "x")]
    + [(lambda: LexicalStage(b=1.5), "b: expected a number from 0 to 1"),
       (lambda: LineStage(beta=np.inf), "beta: expected a number"),
       (lambda: DenseStage(model="m", overlap=np.nan), "overlap: expected a number from 0 to 0.9"),
       (lambda: LexicalIndex().search(["x"], top_k=np.nan), "top_k: expected"),
       (lambda: quantize_embeddings(np.eye(2), "int8", ranges=np.full((2, 2), np.nan)), "ranges: expected numbers"),
       (lambda: quantize_embeddings(np.eye(2), "int8", ranges=np.eye(2)), "ranges: expected the smallest"),
       (lambda: quantize_embeddings(np.eye(2), "int8", calibration_embeddings=np.full((2, 2), np.nan)), "calibration")],
)  # fmt: skip
def test_settings_that_are_no_numbers_are_refused(make: Callable[[], Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        make()


def test_a_rerank_without_one_score_a_text_is_named() -> None:
    class Odd:
        def predict(self, pairs: list[Any], **options: Any) -> Any:
            return ["high"] * len(pairs)

    retriever = Retriever.build([{"id": "a", "text": "x"}], [LexicalStage()], rerank=RerankStage(model=Odd()))
    with pytest.raises(InputError, match="rerank: expected one score of the model for each text, got"):
        retriever.search("x")


def test_encoding_that_is_killed_after_its_last_row_is_whole(model: SentenceTransformer, tmp_path: Path) -> None:
    path, texts = tmp_path / "v.npy", ["a", "b"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("omnitune.retrieval.to_disk.folders.discard", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            encode_to_disk(model, texts, path)
    with pytest.raises(InputError, match="expected a file that is not there yet"):
        encode_to_disk(model, ["a", "c"], path)
    assert encode_to_disk(model, texts, path).shape[0] == 2 and not (tmp_path / "v.npy.partial").exists()
    path.unlink()
    gone = list[str]()
    with pytest.MonkeyPatch.context() as patch:  # killed after each file that is deleted at the end
        patch.setattr(Path, "unlink", lambda at, **_: gone.append(at.name))
        encode_to_disk(model, texts, path)
    assert gone[-2:] == [".lock", "rows.keys"]
    assert encode_to_disk(model, texts, path).shape[0] == 2  # they are still there
    with pytest.raises(InputError, match="expected a file that is not there yet"):
        encode_to_disk(model, texts, path)


def test_a_word_of_a_million_letters_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(office, "_width", lambda word, face, size: asked.append(len(word)) or 0.5 * len(word))
    pieces = list(office._pieces("a" * 1_000_001, "", 46.0))
    assert "".join(pieces) == "a" * 1_000_001 and max(asked) <= office.MOST_WORD
