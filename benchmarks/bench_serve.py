"""Requests a second of `omnitune serve`, and of infinity beside it: texts of mixed lengths over loopback.

    python benchmarks/bench_serve.py --quick
    python benchmarks/bench_serve.py --rival /path/to/venv/bin/infinity_emb
    python benchmarks/bench_serve.py --soak 3000

Both servers run in processes of their own with the same MiniLM and take turns of a few seconds, point by point.
`--soak` asks ours alone: a burst of ten times its queue, then so many requests; it tells memory, threads and open files
of its process in between.
"""

import argparse
import http.client
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path

import numpy as np

WORDS = ["pump", "bearing", "weekly", "grease", "pressure", "valve", "water", "seal", "of", "manual", "page", "oven"]
POINTS = [(1, 1), (8, 1), (32, 1), (1, 32), (8, 32), (32, 32)]
"""Clients at once, and texts a request."""


def texts(count, seed):
    """Texts of 4 to 200 words, most of them short."""
    rng = random.Random(seed)
    lengths = [min(200, max(4, int(rng.lognormvariate(3.2, 0.9)))) for _ in range(count)]
    return [" ".join(rng.choices(WORDS, k=length)) for length in lengths]


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]


def ask(connection, path, body):
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


@contextmanager
def server(command, port, ready):
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 180
        while True:
            assert process.poll() is None, f"{command[0]} ended with {process.poll()}"
            assert time.monotonic() < deadline, f"{command[0]} does not answer"
            try:
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
                connection.request("GET", ready)
                if connection.getresponse().status == 200:
                    break
            except OSError:
                time.sleep(0.2)
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


@cache
def bodies(model, size, count):
    """Bodies of requests, each with texts of its own."""
    some = texts(size * count, size)
    return [
        json.dumps({"model": model, "input": some[at : at + size], "encoding_format": "base64"}).encode()
        for at in range(0, len(some), size)
    ]


def measured(port, path, given, clients, seconds=float("inf"), requests=None):
    """Seconds of every request, of all of them together, and their statuses.

    Each client asks one request after another, until the time is over or so many were asked.
    """
    spent, statuses, lock = [], Counter(), threading.Lock()
    numbers = iter(range(len(given) if requests is None else requests))
    deadline = time.perf_counter() + seconds

    def work():
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        while time.perf_counter() < deadline:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            started = time.perf_counter()
            connection.request("POST", path, given[number % len(given)], {"Content-Type": "application/json"})
            answer = connection.getresponse()
            held = answer.read()
            took = time.perf_counter() - started
            assert answer.status == 200 or (answer.status == 429 and answer.headers["Retry-After"]), held[:200]
            with lock:
                statuses[answer.status] += 1
                spent.append(took)

    threads = [threading.Thread(target=work) for _ in range(clients)]
    started = time.perf_counter()
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    return spent, time.perf_counter() - started, statuses


def state(pid):
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {"rss_mb": int(status["VmRSS"].split()[0]) // 1024, "threads": int(status["Threads"]),
            "files": len(os.listdir(f"/proc/{pid}/fd"))}  # fmt: skip


def soak(port, path, model, pid, requests):
    one = bodies(model, 1, 500)
    many = [json.dumps({"model": model, "input": [f"page {n}" for n in range(2048)]}).encode()]
    measured(port, path, one, 8, requests=300)  # arenas and pools are filled
    rows = {"before": state(pid)}
    # Twenty requests of 2,048 inputs are ten times the queue's 4,096.
    _, _, statuses = measured(port, path, many, 20, requests=20)
    rows["after a burst"] = {**state(pid), "answers": dict(statuses)}
    for part in range(1, 4):
        measured(port, path, one, 8, requests=requests // 3)
        rows[f"after {part * (requests // 3):,} requests"] = state(pid)
    print(json.dumps({"metric": "server state over requests", "requests": requests, "value": rows,
                      "version": version("omnitune")}))  # fmt: skip


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rival", help="infinity_emb of another environment")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="of a turn")
    parser.add_argument("--soak", type=int, default=0, help="requests to ask, and nothing else")
    chosen = parser.parse_args()
    from omnitune.finetune.choose import text_embedder

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "minilm"
        text_embedder().save_pretrained(str(place))
        ours, theirs = free_port(), free_port()
        start = "from omnitune.cli.main import main; main()"
        command = [sys.executable, "-c", start, "serve", str(place), "--port", str(ours)]
        with server(command, ours, "/ready") as process:
            if chosen.soak:
                soak(ours, "/v1/embeddings", "minilm", process.pid, chosen.soak)
                return
            sides = {"omnitune": (ours, "/v1/embeddings", "minilm")}
            if chosen.rival:
                rival = [chosen.rival, "v2", "--model-id", str(place), "--port", str(theirs), "--host", "127.0.0.1",
                         "--engine", "torch", "--device", "cpu", "--dtype", "float32", "--served-model-name", "minilm",
                         "--no-bettertransformer", "--no-compile"]  # fmt: skip
                with server(rival, theirs, "/health"):
                    chosen.other = f"infinity {version_beside(chosen.rival)}"
                    compare({**sides, "infinity": (theirs, "/embeddings", "minilm")}, chosen)
            else:
                compare(sides, chosen)


def version_beside(program):
    """Version of infinity in the environment of its program."""
    asked = [
        str(Path(program).with_name("python")),
        "-c",
        "import importlib.metadata as m; print(m.version('infinity_emb'))",
    ]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()


def compare(sides, chosen):
    some = texts(16, 7)
    made = []
    for port, path, model in sides.values():
        _, answer = ask(http.client.HTTPConnection("127.0.0.1", port), path,
                        {"model": model, "input": some, "encoding_format": "float"})  # fmt: skip
        made.append(np.array([row["embedding"] for row in answer["data"]]))
    agree = float(np.abs(made[0] - made[-1]).max())
    for clients, size in POINTS[:2] if chosen.quick else POINTS:
        rates, latencies = {name: [] for name in sides}, {name: [] for name in sides}
        for turn in range(1 + (1 if chosen.quick else chosen.rounds)):
            for name in sorted(sides, reverse=turn % 2):
                port, path, model = sides[name]
                given = bodies(model, size, 1000 if size == 1 else 100)
                spent, total, _ = measured(port, path, given, clients, chosen.seconds if turn else 0.5)
                if turn:  # the first turn warms up
                    rates[name].append(len(spent) / total)
                    latencies[name] += spent
        row = {"metric": "requests a second", "unit": "1/s", "clients": clients, "texts": size}
        for name in sides:
            row[name] = {"n": len(latencies[name]), "min": round(min(rates[name]), 1),
                         "median": round(statistics.median(rates[name]), 1), "max": round(max(rates[name]), 1),
                         "p50_ms": round(1000 * statistics.median(latencies[name]), 1),
                         "p99_ms": round(1000 * float(np.quantile(latencies[name], 0.99)), 1)}  # fmt: skip
        if len(sides) > 1:
            row["value"] = round(row["omnitune"]["median"] / row["infinity"]["median"], 2)
            row |= {"rival": chosen.other, "largest difference of a vector": agree}
        row = {"value": row["omnitune"]["median"], **{k: row["omnitune"][k] for k in ("min", "median", "max")}, **row}
        row["version"] = version("omnitune")
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
