"""Seconds to import, each in a fresh process.

Promise: `import omnitune` in at most 0.3 s more than an empty program; `from omnitune import SentenceTransformer` in at
most 2 s more than torch alone.

    python benchmarks/bench_import.py [--quick]
"""

import subprocess
import sys

from support import OURS, RIVAL, alternate, quick, report

LINES = {
    "nothing": "pass",
    "omnitune": "import omnitune",
    "torch": "import torch",
    OURS + " model": "from omnitune import SentenceTransformer",
    RIVAL + " model": "from sentence_transformers import SentenceTransformer",
}


def main() -> None:
    rounds = 3 if quick("3 rounds instead of 7") else 7
    calls = {
        name: lambda line=line: subprocess.run([sys.executable, "-c", line], check=True) for name, line in LINES.items()
    }
    alternate(calls, 1)  # reads the files into memory
    seconds, _ = alternate(calls, rounds)
    bare = [a - b for a, b in zip(seconds["omnitune"], seconds["nothing"], strict=True)]
    report("import omnitune, over an empty program", bare, "seconds", promise=0.3)
    over = {
        name: [a - b for a, b in zip(seconds[f"{name} model"], seconds["torch"], strict=True)] for name in (OURS, RIVAL)
    }
    report(
        "import SentenceTransformer, over import torch",
        over[OURS],
        "seconds",
        promise=2.0,
        rival_value=round(min(over[RIVAL]), 2),
        torch_alone=round(min(seconds["torch"]), 2),
    )


if __name__ == "__main__":
    main()
