"""Checks on what a checkpoint's JSON files ask for, before transformers and peft obey: counts, paths, patterns.

The regular expressions of an adapter are matched against the name of every layer, and one such as `(a+)+!` never ends;
Python cannot interrupt a match in a thread. So patterns that repeat something are tried in a child with a limit on its
time first, in the forms that peft gives them.
"""

import json
import math
import re
import reprlib
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open

from omnitune import io
from omnitune.errors import CheckpointError
from omnitune.modules import files

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"

MOST_PARTS = 10_000
"""Layers, experts or stages that a configuration may ask for: a million layers would be built for 40 seconds."""

MOST_LABELS = 1_000_000
"""Labels that a configuration may ask for: transformers names every one of them in a dict."""

SECONDS = 5
"""Processor time for all patterns of an adapter; those of a published one take milliseconds."""

MOST_COPIES = 10_000
"""Layers that `layer_replication` may make."""

MOST_STEPS = 1_000
"""Iterations of the decomposition that weights begin with (`pissa_niter_16`)."""

SMALL_RANK = 256
"""Rank that is never refused, whatever shapes the weights have: those of some kinds of adapters do not show it."""

_MATCHED = ("_modules", "_pattern", "_parameters", "modules_to_save")
"""Ends of the keys whose texts peft takes for patterns, or names: a name without repetition costs nothing."""

_REPEATS = re.compile(r"[*+?{]")

_TRY = """
import json, re, sys
patterns, names, seconds = json.load(sys.stdin)
try:
    import resource
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
except ImportError:  # Windows
    pass
for number, pattern in enumerate(patterns):
    print(number, flush=True)
    for form in ("%s", r"(^|.*\\.)%s($|\\..*)", r"(?:^|.*?\\.)%s\\.(?P<idx>\\d+)\\.", r".*\\.%s\\.(\\d+)\\.", r"(.*\\.)?(%s)$", r".*\\.%s$"):
        try:
            compiled = re.compile(form.replace("%s", pattern))
        except (re.error, OverflowError, RecursionError):
            continue  # peft says so
        for name in names:
            compiled.fullmatch(name) if form == "%s" else compiled.match(name)
"""  # noqa: E501 - a list of forms


def check_counts(path: Path) -> None:
    """See that a configuration asks for parts that a model can have, before anything is built.

    Raises:
        CheckpointError: It asks for more, or for fewer than none, or for no layer, or says NaN; names the key.
    """
    todo: list[Any] = [files.read_json(path)]
    while todo:
        content = todo.pop()
        for key, value in content.items() if isinstance(content, dict) else enumerate(content):
            if isinstance(value, dict | list):
                todo.append(value)
            name = str(key)
            if isinstance(value, float) and math.isnan(value):
                raise CheckpointError(f"{path}: {name}: expected a number, got NaN; the file is damaged")
            parts = any(noun in name for noun in ("layer", "block", "expert", "stage", "depth", "head", "group"))
            most = MOST_LABELS if name == "num_labels" else MOST_PARTS if parts else None
            counted = name.startswith(("num_", "n_")) or name.endswith(("_layers", "layers", "depth", "depths"))
            if most is None or not counted or not isinstance(value, int):
                continue
            # Without layers the weights of all would be left out in silence.
            if value < 0 or (value == 0 and name == "num_hidden_layers"):
                raise CheckpointError(f"{path}: {name}: expected at least 1, got {value}; the file is damaged")
            if value > most:
                raise CheckpointError(f"{path}: {name}: expected at most {most:,}, got {value:,}; the file is damaged")


def check_index(folder: Path) -> None:
    """See that an index of weights in several files names files of its own folder, no devices and pipes among them.

    Raises:
        CheckpointError: It does not; names the weight.
    """
    for path in folder.glob("*.safetensors.index.json"):
        content = io.read_json_or_none(path) if path.is_file() else None
        named = content.get("weight_map") if isinstance(content, dict) else None
        for weight, file in named.items() if isinstance(named, dict) else ():
            place = folder / str(file)
            if leads_away(str(file)) or (place.exists() and not place.is_file()):
                raise CheckpointError(
                    f"{path}: weight_map: {weight}: expected a file in this folder, got {reprlib.repr(file)}"
                )


def leads_away(text: str) -> bool:
    """Tell whether a text of a checkpoint is a path that is not inside it; one with braces is a template."""
    path = Path(text)
    return "{" not in text and (path.is_absolute() or ".." in path.parts or text.startswith("~"))


def check_adapter(folder: Path, names: Callable[[], Iterable[str]]) -> None:
    """See that an adapter's configuration can be obeyed.

    Args:
        folder: Of the adapter.
        names: Gives those of all modules of the model that gets it.

    Raises:
        CheckpointError: A pattern does not end, or a number asks for more than the adapter's weights hold; names the
            key.
    """
    path = folder / ADAPTER_CONFIG
    config = files.read_json(path)
    ranks = {"r": config.get("r"), **_counts(config.get("rank_pattern"))}
    most = max([SMALL_RANK, *_sizes(folder / ADAPTER_WEIGHTS)])
    for key, rank in ranks.items():
        if isinstance(rank, int | float) and not rank <= most:
            raise CheckpointError(
                f"{path}: {key}: expected a rank of at most {most:,}, as in the weights, got {rank:,}"
            )
    copies = config.get("layer_replication") or []
    made = sum(max(0, end - start) for start, end in copies) if _pairs(copies) else 0
    if made > MOST_COPIES:
        raise CheckpointError(f"{path}: layer_replication: expected at most {MOST_COPIES:,} layers, got {made:,}")
    steps = re.search(r"_niter_(\d+)$", str(config.get("init_lora_weights")))
    if steps and (len(steps[1]) > 9 or int(steps[1]) > MOST_STEPS):
        raise CheckpointError(f"{path}: init_lora_weights: expected at most {MOST_STEPS:,} steps, got {steps[1][:20]}")
    check_patterns(path, _patterns(config), names)


def check_patterns(path: Path, patterns: Iterable[tuple[str, str]], names: Callable[[], Iterable[str]]) -> None:
    """See that patterns of a checkpoint come to an end on some names, by trying them in a child.

    Args:
        path: The file that they are in.
        patterns: Each with the key that it stands at.
        names: Gives the names that they are matched against.

    Raises:
        CheckpointError: One does not; names the key.
    """
    tried = [(key, pattern) for key, pattern in patterns if _REPEATS.search(pattern)]
    if not tried:
        return
    question = json.dumps([[pattern for _, pattern in tried], sorted(set(names())), SECONDS])
    command = [sys.executable, "-I", "-S", "-c", _TRY]
    try:
        # The child ends by its limit of processor time; the one on the wall is for systems without.
        child = subprocess.run(command, input=question, capture_output=True, text=True, timeout=60, check=False)
        said, ended = child.stdout, child.returncode == 0
    except subprocess.TimeoutExpired as error:
        said, ended = (error.stdout or b"").decode(), False
    if not ended:
        key, pattern = tried[max(0, len(said.split()) - 1)]
        raise CheckpointError(
            f"{path}: {key}: expected a pattern that is matched in {SECONDS} seconds, got {pattern[:200]!r}, which is "
            "not; write it without a repetition inside a repetition, or as a list of names"
        )


def _patterns(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key, value in config.items():
        if key.endswith(_MATCHED):
            texts = [value] if isinstance(value, str) else value if isinstance(value, list | dict) else []
            yield from ((key, text) for text in texts if isinstance(text, str))


def _counts(value: Any) -> dict[str, Any]:
    return {f"rank_pattern {name!r}": rank for name, rank in value.items()} if isinstance(value, dict) else {}


def _pairs(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(end, int) for end in pair) for pair in value
    )


def _sizes(weights: Path) -> list[int]:
    """Sizes of all dimensions of the tensors in a file; none where there is no file."""
    if not weights.is_file():
        return []
    with files.damaged_weights(weights), safe_open(weights, framework="pt") as opened:
        return [size for name in opened.keys() for size in opened.get_slice(name).get_shape()]  # noqa: SIM118
