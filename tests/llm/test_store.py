import signal
import subprocess
import sys
from pathlib import Path

import pytest

from multigrain.errors import RunError
from multigrain.llm.client import Answer, Request
from multigrain.llm.store import AnswerStore


def request(prompt: str = "p", **changes: object) -> Request:
    return Request(**{"kind": "chat", "prompt": prompt, "model": "m", "max_tokens": 5, "temperature": 0.5, **changes})  # type: ignore[arg-type]


def test_whatever_determines_the_answer_is_in_the_key(tmp_path: Path) -> None:
    with AnswerStore(tmp_path / "store.sqlite") as store:
        store.put(request(), Answer("text", 3, 4))
        assert store.get(request()) == Answer("text", 3, 4)
        for changes in ({"prompt": "q"}, {"model": "n"}, {"max_tokens": 6}, {"temperature": 0.6}, {"seed": 1}):
            assert store.get(request(**changes)) is None, changes


def test_the_first_answer_stays(tmp_path: Path) -> None:
    with AnswerStore(tmp_path / "store.sqlite") as store:
        store.put(request(), Answer("first", 1, 1))
        store.put(request(), Answer("second", 1, 1))
        assert len(store) == 1
        assert store.get(request()) == Answer("first", 1, 1)


def test_kill_9_loses_no_answer_that_was_put(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    script = (
        "import sys; from pathlib import Path\n"
        "from multigrain.llm.client import Answer, Request\nfrom multigrain.llm.store import AnswerStore\n"
        f"store = AnswerStore(Path({str(path)!r}))\n"
        "for i in range(10**9):\n"
        "    store.put(Request('chat', str(i), 'm', 5, 0.5), Answer(str(i), 1, 1)); print(i, flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    put = [process.stdout.readline() for _ in range(50)]
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    with AnswerStore(path) as store:
        assert all(store.get(request(line.strip())) == Answer(line.strip(), 1, 1) for line in put)


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "store.sqlite").write_text("something else, and long enough to be read as a header" * 10)
    with pytest.raises(RunError, match="cannot be used as the store of answers"):
        AnswerStore(tmp_path / "store.sqlite")
