"""The console: text from outside is cleaned, a log file gets a line a minute, and every end is one sentence."""

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fixtures.tiny_pdfs import write_folder
from omnitune import runtime
from omnitune.cli import console
from omnitune.io import printable

pytestmark = pytest.mark.slow

NASTY = "a\x1b[2J\x1b]0;owned\x07\u202efdp.exe\r\n"


@pytest.mark.parametrize(
    "exit_of_text",
    [
        lambda: console.say(NASTY),
        lambda: console.error(NASTY),
        lambda: console.places(NASTY[:0], {"model": NASTY}),
        lambda: console.table(["name"], [[NASTY]], title=NASTY),
        lambda: console.err.print(
            console.Text(
                console._Printable("%(message)s").format(
                    logging.LogRecord("x", logging.WARNING, "", 0, "%s is torn", (NASTY,), None)
                )
            )
        ),
    ],
)
def test_no_escape_character_reaches_the_terminal(capfd, exit_of_text):
    console.quiet(debug=False)
    exit_of_text()
    shown = "".join(capfd.readouterr())
    assert "a\\x1b[2J\\x1b]0;owned\\x07\\u202e" in shown.replace("\n", "").replace(" ", "")
    assert not any(mark in shown for mark in "\x1b\x07\u202e\r")


def test_lines_stay_lines_and_other_alphabets_stay_themselves():
    assert printable("one\n\ttwo") == "one\n\ttwo" and printable("one\n", lines=False) == "one\\n"
    assert printable("Größe ценa 価格 שלום 🙂") == "Größe ценa 価格 שלום 🙂"
    assert printable("caf\udce9.pdf").isprintable()


def test_a_documents_name_is_cleaned_in_report_and_card(tmp_path):
    from omnitune.report.html import render_sheet
    from omnitune.report.parts import Page

    page = Page(id=NASTY, document=NASTY, number=1)
    html = render_sheet(query=NASTY, model="m", pages=[(page, 0.5)])
    assert "\x1b" not in html and "\u202e" not in html and "\\x1b[2J" in html


def test_a_log_file_gets_a_line_a_minute_with_the_time_that_is_left(monkeypatch, caplog):
    clock = iter(range(0, 10_000, 30))
    monkeypatch.setattr(runtime.time, "monotonic", lambda: float(next(clock)))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    monkeypatch.setattr(runtime.PROGRESS, "handlers", [handler])
    monkeypatch.setattr(runtime.PROGRESS, "level", logging.INFO)
    monkeypatch.setattr(runtime.logger, "level", logging.WARNING)  # a command with --debug may have run before
    runtime.PROGRESS.manager._clear_cache()
    with runtime.progress_bar(label="Training", total=1000, unit="step") as bar:
        bar.set_postfix_str("loss 0.5")
        for _ in range(6):
            bar.update(1)
    assert lines == [
        "Training: 2 of 1,000 steps, about 8.3 h left, loss 0.5",
        "Training: 4 of 1,000 steps, about 8.3 h left, loss 0.5",
        "Training: 6 of 1,000 steps, about 8.3 h left, loss 0.5",
    ]
    lines.clear()
    with runtime.progress_bar(label="Training", total=4, unit="step") as bar:
        for _ in range(2):
            bar.update(1)
        bar.update(0)
        bar.update(2)  # a step of half a minute, and the end
    assert lines == ["Training: 2 of 4 steps, about 60 s left", "Training: 4 of 4 steps"]
    lines.clear()
    with runtime.progress_bar(label="Inner", total=9, show=False) as bar:
        bar.update(9)
    assert not lines
    runtime.PROGRESS.manager._clear_cache()


def test_no_minute_without_a_line_whatever_a_command_does(monkeypatch, capsys):
    monkeypatch.setattr(runtime, "LINE_SECONDS", 0.2)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    monkeypatch.setattr(runtime.PROGRESS, "handlers", [console._Lines()])
    monkeypatch.setattr(runtime.PROGRESS, "level", logging.INFO)
    monkeypatch.setattr(runtime.logger, "level", logging.WARNING)
    runtime.PROGRESS.manager._clear_cache()
    with console.line_a_minute("index"):
        time.sleep(0.3)
        assert capsys.readouterr().out == "Still at work, 1 s after: index\n"
        console.say("Measuring on 3 queries")
        time.sleep(0.3)
        with runtime.progress_bar(label="Inner", total=9, unit="page") as bar:
            for _ in range(4):
                bar.update(1)
            time.sleep(0.3)
    time.sleep(0.3)
    assert capsys.readouterr().out.splitlines() == [
        "Measuring on 3 queries",
        "Still at work, 1 s after: Measuring on 3 queries",
        "Inner: 4 of 9 pages, about 1 s left",
    ]
    runtime.PROGRESS.manager._clear_cache()


def omnitune(*words: object, **options) -> subprocess.Popen:
    code = "from omnitune.cli.main import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)], stderr=subprocess.PIPE, text=True, **options
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has it")
@pytest.mark.parametrize("words", [["--version"], ["--help"], ["prepare", "{folder}", "--out", "{out}"]])
def test_a_full_standard_output_is_one_sentence(tmp_path, words):
    folder = write_folder(tmp_path / "manuals") if len(words) > 1 else tmp_path
    with open("/dev/full", "w") as full:
        process = omnitune(*(w.format(folder=folder, out=tmp_path / "out") for w in words), stdout=full)
        said = process.communicate(timeout=120)[1]
    assert process.returncode == 1 and "Traceback" not in said and "Exception ignored" not in said
    assert "standard output:" in said and "No space left on device" in said


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_every_way_to_be_stopped_says_how_to_go_on(tmp_path, name, code):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.txt").write_text("a page")
    script = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # which a shell's background jobs ignore
        "from omnitune.cli import main as m, prepare\n"
        "import omnitune.finetune.dataset as d\n"
        "def wait(*a, **k):\n    print('ready', flush=True); time.sleep(60)\n"
        "d.prepare = wait\n"
        f"sys.argv = ['omnitune', 'prepare', {str(tmp_path / 'docs')!r}, '--out', {str(tmp_path / 'out')!r}]\n"
        "m.main()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(getattr(signal, name))
    if name != "SIGINT":
        process.send_signal(getattr(signal, name))  # as `timeout` does, to the process and to its group
    said = process.communicate(timeout=60)[1]
    assert process.returncode == code and "Stopped. The same command goes on from here." in said, said
    assert "Traceback" not in said


def test_a_worker_that_is_ended_says_nothing(monkeypatch):
    """A forked process inherits the handler; it is ended by its parent, not by the user."""
    from omnitune.cli import main

    ended = []
    monkeypatch.setattr(main, "_process", os.getpid() + 1)
    monkeypatch.setattr(main.os, "_exit", ended.append)
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(main.Terminated):
            main._terminate(signal.SIGTERM, None)
    finally:
        signal.signal(signal.SIGTERM, before)  # or processes that later tests start could not be ended
    assert ended == [143]


def test_numbers_stay_whole_in_a_narrow_terminal(monkeypatch, capsys):
    monkeypatch.setattr(console, "out", console.Console(width=44))
    console.table(["retriever", "titles"], [["late interaction, lines and listings", "0.934\n0.887 to 0.975"]])
    shown = capsys.readouterr().out
    assert "0.887 to 0.975" in shown and max(map(len, shown.splitlines())) == 44


def test_cells_stay_whole_in_a_log():
    row = ["late interaction, exact", *["1" * 15] * 4]
    script = f"from omnitune.cli import console; console.table({[*'sabcd']}, [{row}])"
    unset = {key: value for key, value in os.environ.items() if key != "COLUMNS"}
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=unset).stdout
    assert "late interaction, exact" in shown
