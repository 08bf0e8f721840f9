"""Write and mine candidates, and add the negatives that came with the pairs."""

import shutil
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from multigrain.config import Config
from multigrain.data.candidates_by_pair import by_pair
from multigrain.data.corpus_file import Corpus, corpora_of
from multigrain.data.jsonl import PairFile, read_candidates, read_pairs
from multigrain.data.mined_candidates import Mined, MinedFile, metadata_of, mined_writer, read_mined
from multigrain.files import atomic_file, to_line
from multigrain.model.engine import LOCAL, Engine
from multigrain.model.files import model_files
from multigrain.pipeline.encoders import judge_encoder
from multigrain.pipeline.generation import plans
from multigrain.pipeline.generation.answers import Answers
from multigrain.pipeline.generation.prompt_style import with_decided_style
from multigrain.pipeline.known_false_negatives import false_negatives_of
from multigrain.pipeline.run_dir import RunDir
from multigrain.pipeline.stage import file_digest, short_digest
from multigrain.pipeline.stages import Result
from multigrain.records import GIVEN, Candidate, to_json
from multigrain.terminal import say

MADE_FROM = "multigrain.made_from"
"""Key in the metadata of a file of mined candidates: a digest of everything that determines them."""


def synthesize(config: Config, run_dir: RunDir, engine: Engine = LOCAL) -> Result:
    """Write `mined.parquet` and `candidates.jsonl`, with the written, then the given candidates of each pair."""
    config = with_decided_style(config, run_dir)
    mined = _mine(config, run_dir, engine)
    answers = Answers(run_dir, run_dir.parked)
    counts: Counter[str] = Counter(written=0)
    written: Iterator[Candidate] = answers.ask(config, plans.negatives(config, run_dir))
    with atomic_file(run_dir.candidates) as file:
        for _, candidates in by_pair(read_pairs(run_dir.train_pairs), written, _given(config, run_dir)):
            for candidate in candidates:
                counts[GIVEN if candidate.model == GIVEN else "written"] += 1
                file.write(to_line(to_json(candidate)))
    asked = {"requests": answers.requests, "sent": answers.sent, "parked": answers.parked}
    return answers.result("synthesize", {**asked, "written": counts.pop("written"), "mined": mined, **counts})


def _mine(config: Config, run_dir: RunDir, engine: Engine) -> int:
    """Mine candidates from the corpus for the grades that use them, write them, and return their number.

    Until all are mined, each wave of pairs has its own file, so that a kill -9 loses only one wave.
    """
    made_from = {MADE_FROM: _what_decides(config, run_dir)}
    if metadata_of(run_dir.mined).get(MADE_FROM) == made_from[MADE_FROM]:
        return MinedFile(run_dir.mined).rows
    parts = _parts(config, run_dir, made_from, engine)
    with mined_writer(run_dir.mined, made_from) as writer:
        for part in parts:
            writer.write(read_mined(part))
    shutil.rmtree(run_dir.mined_parts, ignore_errors=True)
    return MinedFile(run_dir.mined).rows


def _parts(config: Config, run_dir: RunDir, made_from: dict[str, str], engine: Engine) -> list[Path]:
    """Return the files of mined candidates, wave by wave; mine the missing ones."""
    if not _grades(config):
        return []
    parts: list[Path] = []
    while metadata_of(part := _part(run_dir, len(parts))).get(MADE_FROM) == made_from[MADE_FROM]:
        parts.append(part)
    run_dir.mined.parent.mkdir(parents=True, exist_ok=True)  # for temporary files
    kept = run_dir.mined_parts / f"shards-{made_from[MADE_FROM]}"
    for mined in _waves(config, run_dir, len(parts), engine, kept):
        parts.append(_part(run_dir, len(parts)))
        with mined_writer(parts[-1], made_from) as writer:
            writer.write(mined)
    return parts


def _waves(config: Config, run_dir: RunDir, first_wave: int, engine: Engine, kept: Path) -> Iterator[Mined]:
    """Mine wave by wave; with several sources, the candidates of a pair come from the corpus of its source.

    The results of shards are in the folder `kept` until their wave is taken.
    """
    from multigrain.retrieval.mine import WAVE, mine_candidates

    mine = partial(
        mine_candidates,
        known=false_negatives_of(run_dir),
        embed=judge_encoder(config, run_dir, engine),
        bounds=config.grading.bounds,
        mining=config.mining.model_copy(update={"grades": _grades(config)}),
        judges=_judges(config),
        seed=config.seed,
        folder=run_dir.mined.parent,
        engine=engine,
    )
    corpus = Corpus(run_dir.corpus)
    if not config.data.sources:
        yield from mine(PairFile(run_dir.train_pairs), documents=corpus, first_wave=first_wave, kept=kept)
        return
    counts = Counter(pair.source for pair in read_pairs(run_dir.train_pairs))
    first = 0  # pairs of a source follow each other in the file
    for place, (name, documents) in enumerate(corpora_of(corpus, config.data.source_names).items()):
        waves = -(-counts[name] // WAVE)
        if first_wave < waves:
            say(f"  source {name}: {counts[name]} pairs, {len(documents)} documents")
            own = PairFile(run_dir.train_pairs, name)
            for mined in mine(own, documents=documents, first_wave=first_wave, kept=kept / str(place)):
                yield mined.moved(first, documents.numbers)
        first += counts[name]
        first_wave = max(0, first_wave - waves)


def _part(run_dir: RunDir, number: int) -> Path:
    return run_dir.mined_parts / f"{number:05}.parquet"


def _grades(config: Config) -> list[int]:
    """Return the grades that are mined."""
    grades = config.synthesis.grades_from("mined") if config.mining.enabled else []
    return [grade for grade in grades if grade in config.mining.grades]


def _judges(config: Config) -> list[str]:
    """Return the judges whose scores are recorded, so that they need not be measured again."""
    counts_words = "bm25" in config.grading.judge or "bm25" in config.mining.methods
    return ["embedding", "bm25"] if counts_words else ["embedding"]


def _what_decides(config: Config, run_dir: RunDir) -> str:
    """Return a digest of everything that determines the mined candidates."""
    files = [*run_dir.pair_files(), run_dir.corpus, *model_files(config.grading.judge_model)]
    settings = [config.fingerprint("seed", "mining", "judging"), str(_grades(config)), str(_judges(config))]
    return short_digest([*settings, *map(file_digest, files)])


def _given(config: Config, run_dir: RunDir) -> Iterator[Candidate]:
    """Yield the negatives that came with the pairs. If pairs are written, the file is left from an earlier run."""
    if config.synthesis.mode == "negatives" and run_dir.given.is_file():
        yield from read_candidates(run_dir.given)
