import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from multigrain.errors import RunError
from multigrain.llm.budget import Usage
from multigrain.llm.dialect import Dialect
from multigrain.llm.protocol import Answer
from multigrain.llm.store import AnswerStore

BOUND = Usage(1, 100, 10, 0.5)


def settle(store: AnswerStore, key: str, text: str = "text") -> int:
    call = store.begin_call(key, 5, BOUND)
    store.end_call(call, Answer(text, 3, 4, "stop"), Usage(1, 3, 4, 0.1))
    store.accept(key, call)
    return call


def test_an_answer_survives_with_what_it_took(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    with AnswerStore(path) as store:
        settle(store, "a", "NUL \0 and umlaut ü")
    with AnswerStore(path) as store:
        assert store.answer("a") == Answer("NUL \0 and umlaut ü", 3, 4, "stop")
        assert store.state("a") == ("ok", 0)
        assert store.state("b") is None
        assert store.answer("b") is None
        assert store.spent() == Usage(1, 3, 4, 0.1)


def test_a_call_counts_with_its_bound_until_it_ends(tmp_path: Path) -> None:
    with AnswerStore(tmp_path / "store.sqlite") as store:
        calls = [store.begin_call(key, 5, BOUND) for key in "abc"]
        assert store.spent() == Usage(3, 300, 30, 1.5)
        store.fail_call(calls[0], "HTTP 500", Usage(calls=1))
        assert store.spent() == Usage(3, 200, 20, 1.0)
        store.mark_lost()  # killed: nobody knows whether these were charged for
        assert store.spent() == Usage(3, 200, 20, 1.0)
        assert not store.is_under_way("b")


def test_parked_inputs_are_put_back(tmp_path: Path) -> None:
    with AnswerStore(tmp_path / "store.sqlite") as store:
        for key, reason in (("a", "transport"), ("b", "transport"), ("c", "length")):
            store.end_call(store.begin_call(key, 5, BOUND), Answer("bad"), BOUND)
            store.park(key, reason, f"because of {key}")
        settle(store, "d")
        assert store.parked("c") == ("length", "because of c")
        store.put_back("a")
        assert store.state("a") == ("todo", 1)  # the reply that it had counts no more
        assert store.parked("a") is None
        assert store.state("c") == ("parked", 0)
        assert store.state("d") == ("ok", 0)


def test_what_is_in_a_batch_is_nobody_elses(tmp_path: Path) -> None:
    with AnswerStore(tmp_path / "store.sqlite") as store:
        call = store.begin_call("a", 5, BOUND, "batch-1")
        store.lend("a", "batch-1")
        store.mark_lost()
        assert store.is_under_way("a")
        assert store.calls_in("batch-1") == {"a": call}
        assert store.calls_in("batch-2") == {}
        assert store.bound(call) == BOUND
        assert store.has_batched()
        assert store.is_batched("a")
        assert not store.is_batched("a", "batch-2")
        store.put_back("a")
        assert store.state("a") == ("todo", 0)
        assert not store.is_under_way("a")  # may be asked again
        assert store.calls_in("batch-1") == {"a": call}  # but its answer may still come


def test_what_was_learnt_of_a_server_is_kept(tmp_path: Path) -> None:
    dialect = Dialect("json_object", (("max_tokens", "max_completion_tokens"), ("seed", None)))
    with AnswerStore(tmp_path / "store.sqlite") as store:
        store.learn("http://x/v1", "m", dialect)
    with AnswerStore(tmp_path / "store.sqlite") as store:
        assert store.dialect("http://x/v1", "m") == dialect
        assert store.dialect("http://x/v1", "n") is None


def test_durable_waits_for_the_disk(tmp_path: Path) -> None:
    for durable, level in ((False, 1), (True, 2)):
        with AnswerStore(tmp_path / "store.sqlite", durable) as store:
            assert store._database.execute("pragma synchronous").fetchone() == (level,)


@pytest.mark.parametrize("content", [b"not a database, but long enough to look at" * 9, None])
def test_a_file_that_is_no_store_is_left_as_it_is(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "store.sqlite"
    if content is None:
        with sqlite3.connect(path) as newer:
            newer.execute("pragma user_version = 99")
        newer.close()
        content = path.read_bytes()
    path.write_bytes(content)
    with pytest.raises(RunError, match="cannot be used as the store of answers"):
        AnswerStore(path)
    assert path.read_bytes() == content


def test_kill_9_loses_nothing_that_was_committed(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom pathlib import Path\nfrom multigrain.llm.store import AnswerStore\n"
        "from multigrain.llm.budget import Usage\n"
        "store = AnswerStore(Path(sys.argv[1]))\n"
        "for i in range(10**6):\n"
        "    store.begin_call(f'k{i}', 5, Usage(1, 1, 1, 0.0)); store.commit(); print(i, flush=True)\n"
    )
    path = tmp_path / "store.sqlite"
    child = subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout
    lines = [int(next(child.stdout)) for _ in range(200)]
    child.send_signal(signal.SIGKILL)
    last = max([*lines, *(int(line) for line in child.stdout if line.endswith("\n"))])
    child.wait()
    child.stdout.close()
    with AnswerStore(path) as store:
        assert store.spent().calls in (last + 1, last + 2)
