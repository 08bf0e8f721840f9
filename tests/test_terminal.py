"""What a user sees while work goes on: on terminals of several widths, in logs, and in JSON."""

import fcntl
import json
import os
import pty
import re
import struct
import sys
import termios
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from multigrain.config import LLMSection
from multigrain.errors import LLMUnavailable
from multigrain.llm.budget import Budget, Prices, Usage
from multigrain.llm.ledger import Ledger
from multigrain.llm.protocol import Answer, Request
from multigrain.llm.store import AnswerStore
from multigrain.terminal import complain, counted, leave_hung_up, listed, meter, say, set_mode

FAILING = {
    "parked": 3, "under_way": 64, "requests": 4711, "tokens": 1234567,
    "most_often": "HTTP 429 (2000 times)",
}  # fmt: skip
ADVICE = (
    "  the loss of the first steps is small: the model knows all this, and such steps move its weights all the same"
)
Terminal = Callable[[int, Callable[[], None]], str]


@pytest.fixture
def on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """What work leaves on a terminal of so many columns: all frames, as lines without colours."""
    for name in ("CI", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")

    def show(columns: int, work: Callable[[], None]) -> str:
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
        seen: list[bytes] = []

        def read() -> None:
            try:
                while part := os.read(ours, 65536):
                    seen.append(part)
            except OSError:  # the other end is closed
                pass

        (reader := threading.Thread(target=read)).start()
        with os.fdopen(theirs, "w", encoding="utf-8") as stream, monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", stream)
            patch.setenv("COLUMNS", str(columns))  # rich looks at the process' own streams
            work()
        reader.join(10)
        os.close(ours)
        return re.sub(r"\x1b\[[0-9;?]*[hlm]", "", b"".join(seen).decode())

    return show


def frames_of(seen: str) -> str:
    """All that was ever shown."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Z]", "", seen).replace("\r", "\n")


def screen_of(seen: str) -> list[str]:
    """What is left in the end: a terminal that knows no more than what bars need."""
    lines, row, column = [""], 0, 0
    for part in re.findall(r"\x1b\[\d*[A-Z]|\r|\n|[^\x1b\r\n]+", seen):
        if part == "\r":
            column = 0
        elif part == "\n":
            row += 1
            lines += [""] * (row == len(lines))
        elif part == "\x1b[2K":
            lines[row] = ""
        elif part.endswith("A"):
            row -= int(part[2:-1])
        else:
            lines[row] = lines[row][:column].ljust(column) + part + lines[row][column + len(part) :]
            column += len(part)
    return [line for line in lines if line.strip()]


def words_of(text: str) -> set[str]:
    return set(re.findall(r"[^\s━╸╺]+", text))


@pytest.mark.parametrize("columns", [60, 80, 100, 200])
def test_a_note_of_failures_leaves_the_bar_and_breaks_between_words(columns: int, on_a_terminal: Terminal) -> None:
    def work() -> None:
        with meter("writing negatives", 200) as shown:
            shown.reach(40, FAILING)
            say(ADVICE)
            shown.reach(120, FAILING)

    seen = frames_of(raw := on_a_terminal(columns, work))
    (bar,) = [line for line in screen_of(raw) if "━" in line]
    assert bar.startswith("writing") and "120/200" in bar
    assert max(map(len, seen.split("\n"))) <= columns
    assert words_of(seen) >= {*words_of(listed(FAILING)), *words_of(ADVICE)}
    assert "…" not in seen


def test_messages_break_between_words(on_a_terminal: Terminal) -> None:
    def work() -> None:
        say(ADVICE)
        complain(ADVICE)

    lines = frames_of(on_a_terminal(60, work)).split()
    assert lines == [*ADVICE.split(), "multigrain:", *ADVICE.split()]


@pytest.mark.parametrize(("name", "value"), [("TERM", "dumb"), ("CI", "true")])
def test_terminals_that_cannot_draw_get_lines(
    name: str, value: str, on_a_terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)

    def work() -> None:
        with meter("training", 20) as shown:
            shown.advance(20, "all grades")

    seen = on_a_terminal(100, work).strip()
    assert re.fullmatch(r"training 20/20 0 s, [\d.e+]+/s \(now: all grades\)", seen)


def test_work_in_many_pieces_leaves_one_bar(on_a_terminal: Terminal) -> None:
    def work() -> None:
        for _ in range(5):
            with meter("judging", 4) as shown:
                shown.reach(4, {})

    (line,) = screen_of(on_a_terminal(100, work))
    assert line.startswith("judging ━") and "4/4" in line


def test_work_in_many_pieces_is_one_line_of_a_log(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("multigrain.terminal.time.monotonic", lambda: now)
    for _ in range(25):
        with meter("judging", 4) as shown:
            now += 1
            shown.advance(4)
    assert [line.split()[:2] for line in capsys.readouterr().err.splitlines()] == [["judging", "4/4"]] * 3
    with meter("judging", 4) as shown:  # one that takes long is told to its end
        for _ in range(4):
            now += 4
            shown.advance()
    assert [line.split()[1] for line in capsys.readouterr().err.splitlines()] == ["3/4", "4/4"]
    set_mode("json")
    for _ in range(3):
        with meter("judging", 4) as shown:
            shown.advance(4)
    assert [json.loads(line)["done"] for line in capsys.readouterr().err.splitlines()] == [4, 4, 4]
    set_mode("none")
    with meter("judging", 4) as shown:
        shown.advance(4)
    say("quiet")
    assert capsys.readouterr().err == ""


def test_one_is_no_plural() -> None:
    assert listed({"phases": 1, "queries": 1, "held_out_pairs": 1, "parked": 1, "batches": 1, "steps": 2}) == (
        "1 phase, 1 query, 1 held out pair, 1 parked, 1 batch, 2 steps"
    )
    assert [counted(1, word) for word in ("passages", "tasks", "boxes", "losses")] == [
        "1 passage", "1 task", "1 box", "1 loss",
    ]  # fmt: skip


def test_a_meter_inside_another_is_silent(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_mode", "auto")
    with meter("outer", 2) as outer, meter("inner", 9) as inner:
        inner.advance(9)
        outer.advance(2)
    assert [line.split(" ")[:2] for line in capsys.readouterr().err.splitlines()] == [["outer", "2/2"]]
    with pytest.raises(ZeroDivisionError), meter("broken", 1):
        raise ZeroDivisionError
    with meter("next", 1) as after:
        after.advance()
    assert "next 1/1" in capsys.readouterr().err


def test_tokens_never_go_down(tmp_path: Path) -> None:
    """What is under way is booked with the most that it may take, and takes less."""
    request = Request("chat", "p " * 500, "m", max_tokens=400, temperature=0.5)
    shown = [0]
    with AnswerStore(tmp_path / "store.sqlite") as store:
        ledger = Ledger(store, Budget(LLMSection(), Prices(), Usage()))
        for key in "abc":
            calls = [ledger.begin(key, request), ledger.begin(key, request)]
            shown.append(ledger.tally.spent.tokens)
            assert calls[0] and calls[1]
            ledger.fail(calls[0], LLMUnavailable("no"))
            shown.append(ledger.tally.spent.tokens)
            ledger.end(calls[1], Answer("x", 3, 4, "stop"))
            shown.append(ledger.tally.spent.tokens)
        assert ledger.budget.spent == ledger.tally.spent == Usage(6, 9, 12)
    assert shown == sorted(shown) and shown[-1] == 21


def test_a_terminal_that_is_gone_is_left(tmp_path: Path) -> None:
    """Whatever is written to it would be an error; other places stay as they are."""
    master, slave = os.openpty()
    log = tmp_path / "log"
    kept = os.open(log, os.O_WRONLY | os.O_CREAT)
    leave_hung_up((slave, kept))
    assert os.isatty(slave)
    os.close(master)
    leave_hung_up((slave, kept))
    assert os.write(slave, b"lost") == os.write(kept, b"kept") == log.stat().st_size
    os.close(slave)
    os.close(kept)
