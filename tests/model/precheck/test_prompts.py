"""Prompts, and instructions from everywhere, are refused by the files of the base, before anything is paid for."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

from multigrain.cli.main import main
from multigrain.config import LoraSection, ModelSection, load_config
from multigrain.data.jsonl import read_tuples
from multigrain.errors import ConfigError, DataError
from multigrain.model.build import build_model, check_instructions
from multigrain.model.precheck import Instruction, precheck_prompts
from multigrain.model.roles import TEMPLATE
from multigrain.pipeline.stages.data import read_data
from tests.conftest import small_pairs
from tests.model.decoder import tiny_decoder
from tests.model.saved_models import joining_encoder

LONG = "cat " * 63 + "dog"
"""Alone as long as the 64 tokens that the tiny encoder reads."""
PLACE = "the {instruction} eat "


def by_files(section: ModelSection, instruction: str, max_tokens: int | None, is_trained: bool = True) -> str | None:
    """The setting that is at fault, or None."""
    try:
        precheck_prompts(section, max_tokens, [Instruction(instruction, "of a pair", is_trained)])
    except ConfigError as error:
        return str(error).partition(":")[0]
    return None


def by_model(section: ModelSection, instruction: str, max_tokens: int | None) -> str | None:
    try:
        model = build_model(section)
        model.prompts[TEMPLATE] = section.query_template
        check_instructions(model, [instruction], max_tokens)
    except ConfigError as error:
        return str(error).partition(":")[0]
    return None


@pytest.mark.parametrize("base", ["encoder", "joining", "joining by itself", "none", "bos", "eos", "both"])
def test_files_tell_what_the_model_would(base: str, tiny_encoder: Path, tmp_path: Path) -> None:
    """At each length around the limits, and wherever the end of a prompt could become part of the text."""
    folder = tiny_encoder if base == "encoder" else tmp_path / "base"
    if base == "joining by itself":
        modules = [Transformer(str(joining_encoder(tmp_path / "inner"))), Pooling(16, "mean", include_prompt=False)]
        SentenceTransformer(modules=modules).save_pretrained(str(folder), create_model_card=False)
    elif base == "joining":
        joining_encoder(folder)
    elif base != "encoder":
        template: Any = base
        folder = tiny_decoder(template)
    found = set()
    prompts: list[dict[str, Any]] = [{"query_prompt": PLACE}, {"query_prompt": PLACE.rstrip()}]
    poolings: list[dict[str, Any]] = [
        {},
        {"prompt_in_pooling": False},
        {"prompt_in_pooling": False, "pooling": "mean"},
        {"prompt_in_pooling": False, "pooling": "anchor"},
        {"prompt_in_pooling": False, "lora": LoraSection(rank=2)},
    ]
    cases: list[tuple[dict[str, Any], str, int | None]] = [
        ({**prompt, **pooling}, "find it", None) for prompt in prompts for pooling in poolings
    ]
    for words in range(3, 8):
        cases.append(({**prompts[0], "max_tokens": 8}, " ".join(["cat"] * words), None))
        cases.append((prompts[0], " ".join(["cat"] * words), 8))
    lengths = range(57, 63) if "joining" not in base else ()
    cases += [(prompts[0], " ".join(["cat"] * words), None) for words in lengths]
    for settings, instruction, max_tokens in cases:
        section = ModelSection(base=str(folder), **settings)
        verdict = by_files(section, instruction, max_tokens)
        of_model = by_model(section, instruction, max_tokens)
        of_model = "model.pooling" if verdict == "model.pooling" and of_model == "model.prompt_in_pooling" else of_model
        assert verdict == of_model, (settings, instruction, max_tokens)
        found.add(verdict)
    wanted = {None, "model.max_tokens", "training.max_tokens"}
    joins = {"joining": {"model.prompt_in_pooling"}, "joining by itself": {"model.prompt_in_pooling", "model.pooling"}}
    assert found == wanted | joins.get(base, {"model.prompt_in_pooling"})


def test_only_training_has_the_length_of_training(tiny_encoder: Path) -> None:
    section = ModelSection(base=str(tiny_encoder), query_prompt=PLACE)
    assert by_files(section, "find the cat", 8) is None  # [CLS], two words of the prompt, three more, and [SEP]
    assert by_files(section, "find the cat in", 8) == "training.max_tokens"
    assert by_files(section, "find the cat in", 8, is_trained=False) is None
    assert by_files(section, LONG, None, is_trained=False) == "model.max_tokens"
    plain = ModelSection(base=str(tiny_encoder), query_prompt="the cat ")
    assert by_files(plain, LONG, None) is None  # it is put before all queries
    with pytest.raises(
        ConfigError, match="training.max_tokens: found 8, but the prompt 'the cat the cat the cat ' alone"
    ):
        precheck_prompts(ModelSection(base=str(tiny_encoder), query_prompt="the cat " * 3), 8)


def test_a_message_lists_a_few_faults(tiny_encoder: Path) -> None:
    many = [Instruction(f"{LONG} {number}", "of a pair", is_trained=True) for number in range(1000)]
    with pytest.raises(ConfigError) as error:
        precheck_prompts(ModelSection(base=str(tiny_encoder)), None, many)
    assert len(error.value.faults) == 5


def in_pairs(folder: Path, held_out: set[str], text: str, is_held_out: bool) -> None:
    pairs = [{**p, "instruction": text} if (p["id"] in held_out) is is_held_out else p for p in small_pairs()]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))


@pytest.mark.parametrize(
    ("place", "named"),
    [
        ("pair", "of a pair takes"),
        ("held-out", "of a held-out pair takes"),
        ("source", 'of the source "one" takes'),
        ("table", 'test" in evaluation.instructions takes'),
    ],
)
def test_an_instruction_longer_than_the_base_reads_is_refused_first(
    place: str, named: str, run_toml: Path, tiny_encoder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Though model.max_tokens would leave room."""
    folder, text = run_toml.parent, run_toml.read_text().replace("max_tokens = 32", "max_tokens = 256")
    if place in ("pair", "held-out"):
        held_out = {pair.id for pair in read_data(load_config(run_toml)).held_out}
        in_pairs(folder, held_out, LONG, place == "held-out")
    elif place == "source":
        text = text.replace('pairs = "pairs.jsonl"', "")
        text += f'[[data.sources]]\nname = "one"\npairs = "pairs.jsonl"\ninstruction = "{LONG}"\n'
    else:
        (folder / "b" / "qrels").mkdir(parents=True)
        (folder / "b" / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\td\t1\n")
        (folder / "b" / "queries.jsonl").write_text('{"_id": "q", "text": "x"}\n')
        (folder / "b" / "corpus.jsonl").write_text('{"_id": "d", "text": "y"}\n')
        table = f'tasks = ["beir:b:test"]\n[evaluation.instructions]\n"beir:b:test" = "{LONG}"\n'
        text = text.replace("evaluation.precision", "#") + f"[evaluation]\n{table}"
    run_toml.write_text(text)
    for verb in ("check", "synthesize"):
        assert main([verb, str(run_toml)]) == 2
        found = capsys.readouterr().err
        assert f"model.max_tokens: found 256, of which {tiny_encoder} reads at most 64, but the prompt with" in found
        assert named in found and found.rstrip().endswith("leaves no room for a text; shorten it")
        assert found.count("leaves no room") == 1
    assert not list(folder.rglob("candidates.jsonl"))


@pytest.mark.parametrize("bad", ["find it\n", "two\nlines", "\u2028find it", " "])
def test_an_instruction_is_one_line_everywhere(
    bad: str, finished_run: Path, write_jsonl: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """In settings, tables, sources, records, tuples and on the command line."""
    written = json.dumps(bad)
    sets = [f"model.instruction={written}", f'evaluation.instructions={{"mteb:SciFact" = {written}}}']
    sets.append(f'data.sources=[{{name="a", pairs="p", instruction={written}}}]')
    for override in sets:
        with pytest.raises(ConfigError, match="wanted one line"):
            load_config(finished_run, [override, 'evaluation.tasks=["mteb:SciFact"]'])
    assert main(["search", str(load_config(finished_run).folder), "cat", "--instruction", bad]) == 2
    assert "--instruction: found" in capsys.readouterr().err
    path = write_jsonl("t.jsonl", [{"id": "1", "query": "q", "positive": "p", "negatives": [], "instruction": bad}])
    with pytest.raises(DataError, match='t.jsonl, line 1: .*"instruction": found .*; wanted one line'):
        list(read_tuples(path))
    write_jsonl("pairs.jsonl", [{**pair, "instruction": bad} for pair in small_pairs()])
    config = load_config(finished_run, [f"data.pairs={path.with_name('pairs.jsonl')}"])
    with pytest.raises(DataError, match='line 1: field "instruction": found .*; wanted one line'):
        read_data(config)
