"""What many tests need: a tiny encoder built in code, small pairs, and the real data where they are."""

import asyncio
import json
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from multigrain.terminal import set_mode
from tests.kept_folder import KeptFolder
from tests.mock_server import MockServer

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["TQDM_DISABLE"] = "1"  # as the command line sets it, before the libraries are imported
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # threads wait long for each other on a busy machine
hypothesis.settings.register_profile("busy", deadline=None)  # the time of an example says how busy the machine is
hypothesis.settings.load_profile("busy")

ROUNDED = 2.0**-11
"""How far the file of vectors may move a number of a vector of length 1: a step of float16 below 1."""
WORDS = (
    "the a of to is in and red green blue cat dog bird fish tree river stone house runs sleeps eats sings near "
    "under over big small old young what where who which does do it on table chair window door garden market "
    "paper engine winter letter island copper basket thunder village mirror candle harbor meadow timber saddle"
).split()


LONGEST = (
    "training/test_distributed.py", "training/test_torchrun.py", "export/test_onnx.py", "model/test_adapter.py",
    "experiments/test_ablate.py", "experiments/test_tune.py", "model/test_gguf.py", "llm/clients/test_embedded.py",
    "pipeline/generation/test_ask.py", "pipeline/test_run.py", "retrieval/test_mine.py", "test_examples.py",
    "pipeline/stages/test_baseline.py", "pipeline/stages/test_grade.py", "evaluation/test_mteb_tasks.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, so that no worker waits for another at the end."""
    order = {Path(__file__).parent / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path, len(order)))


def pytest_collection_finish() -> None:
    """Leave what has been imported out of all later garbage collections."""
    import tests.freeze  # noqa: F401 (its import does so)


@pytest.fixture(autouse=True)
def begun() -> None:
    """Each test begins as a process does, whatever the one before did to `--quiet` and to Ctrl-C."""
    set_mode("auto")
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A randomly initialised two-layer BERT with a word tokenizer: a real model, in milliseconds."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("tiny_encoder")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_cross_encoder(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny encoder with a random head that scores pairs; as some models, it is saved to give the bare logit."""
    import torch
    from sentence_transformers import CrossEncoder

    torch.manual_seed(1)
    model = CrossEncoder(str(tiny_encoder), num_labels=1, activation_fn=torch.nn.Identity())
    torch.nn.init.normal_(model[0].model.classifier.weight, std=1.0)
    folder = tmp_path_factory.mktemp("tiny_cross_encoder")
    model.save_pretrained(str(folder))
    return folder


def as_lines(objects: Iterable[dict[str, Any]]) -> str:
    """Return objects as JSON lines."""
    return "".join(json.dumps(fields) + "\n" for fields in objects)


@pytest.fixture
def write_jsonl(tmp_path: Path) -> Callable[[str, list[dict[str, Any]]], Path]:
    """Write objects as JSON lines below the test's folder."""

    def write(name: str, objects: list[dict[str, Any]]) -> Path:
        path = tmp_path / name
        path.write_text(as_lines(objects), encoding="utf-8")
        return path

    return write


def small_pairs(count: int = 40) -> list[dict[str, Any]]:
    """Pairs in which each query shares its words with its positive alone."""
    nouns, places = WORDS[10:22], WORDS[34:]
    pairs = []
    for i in range(count):
        noun, place, other = nouns[i % 12], places[(i + i // 12) % len(places)], places[i % 20]
        query, positive = f"where is the {noun} {place}", f"the {noun} is near the {place} and the {other}"
        pairs.append({"id": f"p{i}", "query": query, "positive": positive, "source": f"source{i % 4}"})
    return pairs


def write_run(folder: Path, encoder: Path) -> Path:
    """Write the file of a whole run on the tiny encoder, beside its pairs."""
    (folder / "pairs.jsonl").write_text(as_lines(small_pairs()), encoding="utf-8")
    path = folder / "run.toml"
    path.write_text(
        f"""
name = "tiny"
output = "{folder / "runs"}"
evaluation.precision = "fp32"  # so that outcomes do not depend on the machine
baseline.against = "none"
[data]
pairs = "pairs.jsonl"
held_out = 0.25
[llm]
provider = "scripted"
[synthesis]
prompt_style = "per-grade"
[mining]
per_grade = 1
[grading]
judge_model = "{encoder}"
precision = "fp32"
bands = [0.7, 0.8, 0.9]
false_negative_above = 0.999
[model]
base = "{encoder}"
pooling = "anchor"
max_tokens = 32
[training]
batch_size = 4
learning_rate = 1e-3
checkpoint_every = 2
[[training.phases]]
name = "coarse"
grades = [4]
steps = 4
[[training.phases]]
name = "fine"
grades = [4, 4]
steps = 4
temperature = 0.1
"""
    )
    return path


@pytest.fixture
def run_toml(tmp_path: Path, tiny_encoder: Path) -> Path:
    """A whole run on the tiny encoder with the scripted language model; it takes seconds."""
    return write_run(tmp_path, tiny_encoder)


@pytest.fixture(scope="session")
def kept_run(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Path) -> KeptFolder:
    """The folder of a run's file, of its pairs, and of the run, which is finished."""
    from multigrain.pipeline.verbs import run

    folder = tmp_path_factory.mktemp("finished_run")
    run(write_run(folder, tiny_encoder))
    return KeptFolder(folder)


@pytest.fixture
def finished_run(kept_run: KeptFolder) -> Path:
    """The file of a run like `run_toml` that is finished: for tests of what comes after a run."""
    return kept_run.put_back() / "run.toml"


@pytest.fixture
def real_data() -> Callable[[str], Path]:
    """The folder of a real data set, or a skip that says what is missing."""

    def find(name: str) -> Path:
        root = Path(os.environ.get("MULTIGRAIN_DATA", Path(__file__).parents[2] / "shared" / "data"))
        if not (root / name).is_dir():
            pytest.skip(f"no data set {name} in {root} (set MULTIGRAIN_DATA)")
        return root / name

    return find


@pytest.fixture
def serve() -> Iterator[Callable[[MockServer], MockServer]]:
    """Run a server beside the test, which calls the command line like a user."""
    begun: list[Any] = []

    def begin(server: MockServer) -> MockServer:
        ready = threading.Event()
        loop = asyncio.new_event_loop()
        stop = asyncio.Event()

        async def work() -> None:
            async with server:
                ready.set()
                await stop.wait()

        thread = threading.Thread(target=loop.run_until_complete, args=(work(),))
        thread.start()
        ready.wait(10)
        begun.append((loop, stop, thread))
        return server

    yield begin
    for loop, stop, thread in begun:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()
