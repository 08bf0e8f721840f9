"""Have candidates written and mined, and add those that came with the pairs."""

from collections import Counter
from collections.abc import Iterator

from multigrain.config import Config
from multigrain.data.candidates_by_pair import by_pair
from multigrain.data.corpus_file import Corpus
from multigrain.data.jsonl import read_candidates, read_pairs
from multigrain.files import atomic_file, to_line
from multigrain.pipeline.encoders import judge_encoder
from multigrain.pipeline.generation import plans
from multigrain.pipeline.generation.answers import Answers
from multigrain.pipeline.generation.prompt_style import with_decided_style
from multigrain.pipeline.known_false_negatives import false_negatives_of
from multigrain.pipeline.run_dir import RunDir
from multigrain.pipeline.stages import Result
from multigrain.records import GIVEN, Candidate, to_json


def synthesize(config: Config, run_dir: RunDir) -> Result:
    """Write `candidates.jsonl`, by pair: the written candidates, then the mined ones, then the given ones."""
    config = with_decided_style(config, run_dir)
    answers = Answers(run_dir, run_dir.parked)
    counts: Counter[str] = Counter(written=0, mined=0)
    written: Iterator[Candidate] = answers.ask(config, plans.negatives(config, run_dir))
    with atomic_file(run_dir.candidates) as file:
        for _, candidates in by_pair(
            read_pairs(run_dir.train_pairs), written, _mined(config, run_dir), _given(config, run_dir)
        ):
            for candidate in candidates:
                counts[_name(candidate)] += 1
                file.write(to_line(to_json(candidate)))
    asked = {"requests": answers.requests, "sent": answers.sent, "parked": answers.parked}
    return answers.result("synthesize", {**asked, **counts})


def _mined(config: Config, run_dir: RunDir) -> Iterator[Candidate]:
    """Candidates from the corpus, for the grades that want them."""
    grades = [grade for grade in config.synthesis.grades_from("mined") if grade in config.mining.grades]
    if not config.mining.enabled or not grades:
        return
    from multigrain.retrieval.mine import mine_candidates

    yield from mine_candidates(
        false_negatives_of(run_dir),
        Corpus(run_dir.corpus),
        judge_encoder(config, run_dir),
        config.grading.judge_model,
        config.grading.bounds,
        config.mining.model_copy(update={"grades": grades}),
        config.seed,
    )


def _given(config: Config, run_dir: RunDir) -> Iterator[Candidate]:
    """Those that came with the pairs; where these are written, there may be some of an earlier run of the folder."""
    if config.synthesis.mode == "negatives" and run_dir.given.is_file():
        yield from read_candidates(run_dir.given)


def _name(candidate: Candidate) -> str:
    """What it is counted as."""
    return GIVEN if candidate.model == GIVEN else "written" if candidate.source == "llm" else "mined"
