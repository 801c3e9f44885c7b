"""Runs every benchmark and writes `docs/benchmarks.md`: min, median and max of each result.

python benchmarks/run_all.py [--quick]
"""

import json
import os
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from support import ROOT, quick

TIMEOUT_SECONDS = {True: 420, False: 3600}
TARGET = ROOT / "docs" / "benchmarks.md"
HEAD = """# Benchmarks

Written by `make bench`. Each benchmark runs omnitune and Sentence Transformers {rival} on the same weights, data and
precision, one after the other in turn, and stops unless both computed the same. Only ratios are compared: the machine
has {cores} cores and no GPU. {mode}

| benchmark | result | unit | n | min | median | max | promise | file |
|---|---|---|---|---|---|---|---|---|
"""
COLUMNS = ("metric", "value", "unit", "n", "min", "median", "max", "promise")


def main() -> None:
    fast = quick("the short form of every benchmark")
    results: list[tuple[str, dict[str, Any]]] = []
    failed: dict[str, str] = {}
    for path in sorted((ROOT / "benchmarks").glob("bench_*.py")):
        print(f"== {path.name}", file=sys.stderr, flush=True)
        start = time.perf_counter()
        lines, error = outcome(path, fast)
        results += [(path.name, line) for line in lines]
        if error:
            failed[path.name] = error
            print(error, file=sys.stderr)
        write(results, failed, fast)  # after each one, so that a stopped run leaves what it measured
        print(f"   {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    sys.exit(bool(failed))


def outcome(path: Path, fast: bool) -> tuple[list[dict[str, Any]], str]:
    """A benchmark's results, and why it failed, if it did."""
    command = [sys.executable, str(path), *(["--quick"] if fast else [])]
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=TIMEOUT_SECONDS[fast]
        )
    except subprocess.TimeoutExpired:
        return [], f"not done after {TIMEOUT_SECONDS[fast]} s"
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    for line in lines:
        print(json.dumps(line), flush=True)
    return lines, "" if done.returncode == 0 else done.stderr.strip()[-600:]


def write(results: list[tuple[str, dict[str, Any]]], failed: dict[str, str], fast: bool) -> None:
    rival = version("sentence-transformers")
    mode = "Short form (`--quick`)." if fast else "Long form."
    text = HEAD.format(rival=rival, cores=os.cpu_count(), mode=mode)
    for name, line in results:
        cells = [str(line.get(column, "-")) for column in COLUMNS]
        text += f"| {' | '.join(cells)} | `{name}` |\n"
    facts = [(line["metric"], {k: v for k, v in line.items() if k not in (*COLUMNS, "rival")}) for _, line in results]
    text += "\nBeside them:\n\n" + "".join(f"- {metric}: `{json.dumps(more)}`\n" for metric, more in facts if more)
    if failed:
        text += "\nFailed:\n\n" + "".join(f"- `{name}`: {why}\n" for name, why in failed.items())
    TARGET.write_text(text)


if __name__ == "__main__":
    main()
