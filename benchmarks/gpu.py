"""On a machine with a GPU: is omnitune right and fast there? One command, at most eight minutes, no network.

    python benchmarks/gpu.py [--part NAME ...] [--quick] [--device cuda] [--wheels DIR] [--out runs/gpu]

Runs from a bare checkout with torch, transformers and Sentence Transformers installed; nothing is installed into the
environment. Every part is a process of its own with a time limit; one that fails or hangs costs no other its numbers.
Prints a table, and writes `gpu.json`, `gpu.md` and `gpu.log` into `--out`, after each part. Weights are random.
`--device cpu --quick` rehearses all of it in tiny sizes; its numbers say nothing about speed.

| part | what it shows |
|---|---|
| right | tests of `tests/gpu`, and the numbers of Sentence Transformers on the same device |
| train | the published recipe on a Qwen3-VL of 2B: full, and LoRA with a frozen tower; where the time goes |
| text | text encoders of 110M and 600M, lognormal lengths |
| encode | pages and texts a second |
| memory | peak of a training step as the batch grows, at one budget |
| loss | the loss alone over 32,768 pairs |
| late | a late-interaction step on pages |
| serve | requests a second |
"""

import argparse
import datetime
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LIMITS = {"right": 150, "train": 110, "text": 50, "encode": 40, "memory": 40, "loss": 25, "late": 30, "serve": 25}
"""Seconds that a part may take; models that are written once are counted where they are first needed."""

TOTAL = 470
"""Seconds for all of them together."""

MARK = "gpu: "
"""Begins the lines of a part's output that are results; libraries print others."""

PACKAGES = ("torch", "transformers", "sentence-transformers", "accelerate", "datasets", "peft", "flash-attn")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=LIMITS, action="append", help="run this part alone; may be given repeatedly")
    parser.add_argument("--quick", action="store_true", help="tiny models: a rehearsal, not a measurement")
    parser.add_argument("--device", default="cuda", help='"cuda", or "cpu" for a rehearsal')
    parser.add_argument("--wheels", type=Path, help="folder of wheels that the machine lacks; unpacked, not installed")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "gpu", help="where models and results are written")
    options = parser.parse_args()
    options.out = options.out.resolve()
    options.out.mkdir(parents=True, exist_ok=True)
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TRANSFORMERS_VERBOSITY": "error",
        "OMNITUNE_CACHE": str(options.out / "cache"),
        "PYTHONUNBUFFERED": "1",
    }
    paths = [ROOT / "src", *([unpacked(options.wheels)] if options.wheels else [])]
    environment["PYTHONPATH"] = os.pathsep.join(map(str, [*paths, *filter(None, [os.environ.get("PYTHONPATH")])]))
    report: dict[str, Any] = {"machine": machine(options, environment), "parts": {}}
    log, start = options.out / "gpu.log", time.monotonic()
    log.write_text(json.dumps(report["machine"], indent=1) + "\n")
    for name in options.part or LIMITS:
        left = TOTAL - (time.monotonic() - start)
        print(f"== {name}", flush=True)
        report["parts"][name] = run(name, options, environment, min(LIMITS[name], left), log)
        write(report, options.out)
    print(table(report))
    print(f"{time.monotonic() - start:.0f} s in all; {options.out / 'gpu.json'}, {log}")
    sys.exit(any(part["state"] in ("failed", "out of time") for part in report["parts"].values()))


def unpacked(folder: Path) -> Path:
    """A folder with the packages of some wheels, made without an index, for this run alone."""
    target = Path(tempfile.mkdtemp(prefix="wheels-"))
    wheels = sorted(map(str, folder.glob("*.whl")))
    if not wheels:
        raise SystemExit(f"--wheels: expected a folder with *.whl files, got {folder}")
    install = ["-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile", "--target", str(target)]
    subprocess.run([sys.executable, *install, *wheels], check=True)
    return target


def machine(options: argparse.Namespace, environment: dict[str, str]) -> dict[str, Any]:
    """What the numbers were measured on."""
    probe = (
        "import json, torch; there = torch.cuda.is_available(); "
        "print(json.dumps({'gpu': torch.cuda.get_device_name(0) if there else None, 'cuda': torch.version.cuda, "
        "'gpu_memory': torch.cuda.get_device_properties(0).total_memory if there else None}))"
    )
    found = subprocess.run([sys.executable, "-c", probe], env=environment, capture_output=True, text=True, check=False)
    facts = json.loads(found.stdout) if found.returncode == 0 else {"gpu": None, "torch_failed": found.stderr[-300:]}
    git = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        commit = ""
    return {
        "rehearsal": options.quick or not options.device.startswith("cuda"),
        "device": options.device,
        "quick": options.quick,
        **facts,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "processor": platform.machine(),
        "python": platform.python_version(),
        "packages": versions(environment),
        "commit": commit,
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def versions(environment: dict[str, str]) -> dict[str, str]:
    """Versions of the packages that matter, as the parts will see them."""
    sys.path[:0] = environment["PYTHONPATH"].split(os.pathsep)
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def run(name: str, options: argparse.Namespace, environment: dict[str, str], limit: float, log: Path) -> dict[str, Any]:
    """Run a part in its own process group; what it measured before it failed or was ended is kept."""
    if limit < 5:
        return {"state": "left out", "why": "no time was left", "seconds": 0, "results": []}
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu_parts.py"), name, "--device", options.device]
    command += ["--out", str(options.out), *(["--quick"] if options.quick else [])]
    lines = options.out / f"{name}.jsonl"
    start = time.monotonic()
    with log.open("a") as errors, lines.open("w") as results:
        errors.write(f"\n== {name}: {' '.join(command)}\n")
        errors.flush()
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=results, stderr=errors, start_new_session=True
        )
        try:
            code = process.wait(limit)
            state = "done" if code == 0 else "failed"
        except subprocess.TimeoutExpired:
            code, state = None, "out of time"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # its own children, workers and ranks, too
                process.wait()
    said = [line for line in lines.read_text(errors="replace").splitlines() if line.startswith(MARK)]
    measured = [json.loads(line.removeprefix(MARK)) for line in said]
    lines.unlink()
    part: dict[str, Any] = {"state": state, "seconds": round(time.monotonic() - start, 1), "limit": round(limit)}
    reasons = [line["left_out"] for line in measured if "left_out" in line]
    if reasons:
        part["left_out"] = reasons
    if state == "failed":
        part["why"] = log.read_text(errors="replace").rstrip().splitlines()[-1][-400:]
    elif state == "out of time":
        part["why"] = f"not done after {limit:.0f} s"
    return {**part, "results": [line for line in measured if "left_out" not in line]}


def table(report: dict[str, Any]) -> str:
    """All results in one Markdown table."""
    facts = report["machine"]
    where = facts["gpu"] if facts["device"].startswith("cuda") and facts["gpu"] else f"{facts['device']}, no GPU"
    head = f"{where}; {', '.join(f'{name} {v}' for name, v in facts['packages'].items())}; {facts['date']}"
    if facts["rehearsal"]:
        head = f"**A rehearsal in tiny sizes; its numbers say nothing about speed.** {head}"
    rows = [
        "| part | what | omnitune | Sentence Transformers | ratio | unit | beside |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, part in report["parts"].items():
        for line in part["results"]:
            cells = [plain(line.get(key)) for key in ("ours", "theirs", "ratio")]
            beside = "; ".join(f"{key} {plain(value)}" for key, value in line.get("facts", {}).items())
            rows.append(f"| {name} | {line['what']} | {' | '.join(cells)} | {line['unit']} | {beside} |")
        said = [part["state"]] if part["state"] != "done" else []
        said += [part["why"]] if "why" in part else []
        said += [f"left out: {reason}" for reason in part.get("left_out", [])]
        if said:
            rows.append(f"| {name} | **{'; '.join(said).replace('|', '/')}** | | | | | |")
    return "\n".join([head, "", *rows])


def plain(value: Any) -> str:
    """A number in four digits; a dash for none."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)


def write(report: dict[str, Any], folder: Path) -> None:
    (folder / "gpu.json").write_text(json.dumps(report, indent=1) + "\n")
    (folder / "gpu.md").write_text(table(report) + "\n")


if __name__ == "__main__":
    main()
