"""The files and models that each stage of a run reads, the files it writes, and how training limits its inputs."""

from collections.abc import Iterable
from itertools import chain
from pathlib import Path

from multigrain.config import Config
from multigrain.data.sources import files_of
from multigrain.evaluation.tasks import HELD_OUT, MTEB, files_of_task
from multigrain.files import count_lines
from multigrain.model.files import model_files
from multigrain.pipeline.arms import IN_BATCH, arms_of
from multigrain.pipeline.run_dir import RunDir, WritingFiles
from multigrain.synthesis.prompts import files_in

# data


def data_reads(config: Config, _run_dir: RunDir) -> list[Path]:
    """Return the files of the user."""
    data = config.data
    sources = [path for source in data.sources for path in (source.pairs, source.corpus)]
    return _input_files([data.pairs, data.corpus, *sources, *config.evaluation.tasks])


def data_writes(config: Config, run_dir: RunDir) -> list[Path]:
    """Return the files of pairs, or of passages; none in mode "tasks", which has no input.

    If pairs are written for some of several sources, only the passages for them are there yet.
    """
    if writes_pairs_of_sources(config):
        return _passages_of_sources(config, run_dir)
    if config.synthesis.mode == "tasks":
        return []
    if config.synthesis.mode == "corpus":
        return [run_dir.passages, run_dir.corpus]
    return _all_data(run_dir)


def _all_data(run_dir: RunDir) -> list[Path]:
    """Return the files of the pairs, of their corpus and of given negatives."""
    files = [run_dir.train_pairs, run_dir.held_out_pairs, run_dir.corpus, run_dir.given]
    return files + _present(run_dir.dev_pairs) + _present(run_dir.other_pairs)


# pairs, of a run of one source, then of several sources


def has_pairs_written(config: Config) -> bool:
    """Return whether the language model writes the pairs of a run of one source."""
    return config.synthesis.mode != "negatives"


def pairs_reads(config: Config, run_dir: RunDir) -> list[Path]:
    """Return the passages, if there are any, and the files that determine the requests."""
    passages = [run_dir.passages, run_dir.corpus] if config.synthesis.mode == "corpus" else []
    return passages + prompting_files(config)


def pairs_writes(config: Config, run_dir: RunDir) -> list[Path]:
    """Return the files of pairs; in mode "tasks" also the corpus, which consists of their positives."""
    files = [run_dir.train_pairs, run_dir.held_out_pairs, *_present(run_dir.dev_pairs), *_present(run_dir.other_pairs)]
    if config.synthesis.mode == "tasks":
        files.append(run_dir.corpus)
    return files


def pairs_cut(config: Config, files: WritingFiles) -> str:
    """Return how training limits the passages that get queries, or the pairs of each search task."""
    if config.synthesis.mode == "corpus":
        return _cut(config.passages_asked, wanted=_count_records(files.passages))
    return _cut(config.pairs_invented_each, wanted=config.synthesis.pairs_per_task)


def writes_pairs_of_sources(config: Config) -> bool:
    """Return whether the language model writes the pairs of some of several sources."""
    return bool(config.data.written_sources)


def pairs_of_sources_read(config: Config, run_dir: RunDir) -> list[Path]:
    """Return the files of the user, the passages, and the files that determine the requests."""
    return [*data_reads(config, run_dir), *_passages_of_sources(config, run_dir), *prompting_files(config)]


def pairs_of_sources_written(config: Config, run_dir: RunDir) -> list[Path]:
    """Return the files of all pairs, of their corpus and of given negatives, and the written pairs by source."""
    return [*_all_data(run_dir), *(run_dir.source(name).pairs for name in config.writing)]


def pairs_of_sources_cut(config: Config, run_dir: RunDir) -> str:
    """Return how training limits what is written, by source."""
    cuts = {name: pairs_cut(own, run_dir.source(name)) for name, own in config.writing.items()}
    return "; ".join(f"{name}: {cut}" for name, cut in cuts.items() if cut)


def _passages_of_sources(config: Config, run_dir: RunDir) -> list[Path]:
    return [run_dir.source(each.name).passages for each in config.data.written_sources if each.mode == "corpus"]


# synthesize and grade


def synthesize_reads(config: Config, run_dir: RunDir) -> list[Path]:
    """Return the pairs, their corpus and given negatives, and the files that determine the requests."""
    return [*run_dir.pair_files(), run_dir.corpus, run_dir.given, *prompting_files(config)]


def synthesize_writes(_config: Config, run_dir: RunDir) -> list[Path]:
    """Return the files of written and mined candidates, and of parked inputs."""
    return [run_dir.candidates, run_dir.mined, run_dir.parked]


def grade_reads(config: Config, run_dir: RunDir) -> list[Path]:
    """Return the pairs, the candidates, the files that determine the requests, and the cross-encoder."""
    files = [*run_dir.pair_files(), run_dir.corpus, run_dir.candidates, run_dir.mined]
    return files + prompting_files(config) + _cross_encoder_files(config)


def grade_writes(_config: Config, run_dir: RunDir) -> list[Path]:
    """Return the files of graded tuples and dropped candidates, and the report."""
    return [run_dir.tuples, run_dir.dropped, run_dir.dropped_mined, run_dir.report]


def negatives_cut(config: Config, run_dir: RunDir) -> str:
    """Return how training limits the pairs that get negatives."""
    limit = config.synthesis.limit
    count = _count_records(run_dir.train_pairs)
    return _cut(config.pairs_asked(count), wanted=count if limit is None else min(limit, count))


def judge_model(config: Config) -> list[str]:
    """Return the embedding model that judges and mines."""
    return [config.grading.judge_model]


def grading_models(config: Config) -> list[str]:
    """Return the models that judge candidates."""
    cross_encoder = config.grading.cross_encoder
    return [config.grading.judge_model, cross_encoder] if cross_encoder else [config.grading.judge_model]


# adapt, train, baseline, evaluate, export


def adapts(config: Config) -> bool:
    """Return whether the run adapts its base."""
    return config.adapt is not None


def adapt_reads(config: Config, run_dir: RunDir) -> list[Path]:
    """Return the corpus, the training pairs and the base."""
    return [run_dir.corpus, run_dir.train_pairs, *model_files(config.model.base)]


def adapt_writes(_config: Config, run_dir: RunDir) -> list[Path]:
    """Return the adapted base and the log."""
    return [run_dir.adapted, run_dir.adaptation / "log.jsonl"]


def adapted_model(config: Config, run_dir: RunDir) -> list[str]:
    """Return the folder of the adapted base; none if the run does not adapt its base."""
    return [str(run_dir.adapted)] if adapts(config) else []


def train_reads(config: Config, run_dir: RunDir) -> list[Path]:
    """Return the tuples, the pairs, the models, and the files that make up a teacher's lists."""
    names = [*training_models(config), *adapted_model(config, run_dir)]
    models = [path for name in names for path in model_files(name)]
    return [run_dir.tuples, *run_dir.pair_files(), *models, *teacher_files(config, run_dir)]


def teacher_files(config: Config, run_dir: RunDir) -> list[Path]:
    """Return the files that determine the lists of a teacher: the mined candidates, and their texts."""
    return [run_dir.mined, run_dir.corpus] if config.training.list_length else []


def training_models(config: Config) -> list[str]:
    """Return the base, the judge if its vectors are used in training, and the model of a teacher."""
    section = config.training
    judge = judge_model(config) if section.needs_judge_vectors else []
    teacher = [section.teacher.model] if section.teacher and section.teacher.model else []
    return [config.model.base, *judge, *teacher]


def train_writes(_config: Config, run_dir: RunDir) -> list[Path]:
    """Return the trained model and its curriculum."""
    return [run_dir.trained, run_dir.curriculum]


def baseline_reads(config: Config, run_dir: RunDir) -> list[Path]:
    """Return the pairs and their corpus, the base, and the log, which records the cost of the training."""
    return [run_dir.train_pairs, run_dir.corpus, *model_files(config.model.base), run_dir.training_log]


def baseline_writes(config: Config, run_dir: RunDir) -> list[Path]:
    """Return the file that lists the arms, and their models.

    If `auto` has trained no arms, `stock` still has to; if it has, both have the same arms.
    """
    arms = {*arms_of(config, run_dir)} | ({IN_BATCH} if config.baseline.against == "stock" else set())
    return [run_dir.arms, *(run_dir.baseline / arm for arm in sorted(arms))]


def evaluate_reads(config: Config, run_dir: RunDir) -> list[Path]:
    """Return all models, the pairs and their corpus, and the tasks."""
    models = [*model_files(str(run_dir.trained)), *model_files(config.model.base)]
    models += chain.from_iterable(model_files(str(run_dir.baseline / arm)) for arm in arms_of(config, run_dir))
    return [*models, *run_dir.pair_files(), run_dir.corpus, *_input_files(config.evaluation.tasks)]


def evaluate_writes(_config: Config, run_dir: RunDir) -> list[Path]:
    """Return the files of scores by task and by query, and of example searches."""
    return [run_dir.scores, run_dir.per_query, run_dir.per_dev_query, run_dir.examples]


def export_reads(_config: Config, run_dir: RunDir) -> list[Path]:
    """Return the trained model, the scores, and the choice made by them."""
    return [*model_files(str(run_dir.trained)), run_dir.scores, run_dir.choice]


def export_writes(_config: Config, run_dir: RunDir) -> list[Path]:
    """Return the exported model."""
    return [run_dir.model]


def base_model(config: Config) -> list[str]:
    """Return the base."""
    return [config.model.base]


# shared by several stages


def prompting_files(config: Config) -> list[Path]:
    """Return the files that determine the requests to a language model and the judging of its texts."""
    return [*files_in(config.synthesis.prompts), *model_files(config.grading.judge_model)]


def _cross_encoder_files(config: Config) -> list[Path]:
    grading = config.grading
    return model_files(grading.cross_encoder) if grading.cross_encoder and "cross-encoder" in grading.judge else []


def _input_files(sources: Iterable[str | None]) -> list[Path]:
    files: list[Path] = []
    for source in sources:
        if source:
            files += _files_of_source(source)
    return files


def _files_of_source(source: str) -> list[Path]:
    if source == HELD_OUT or source.startswith(MTEB):
        return []
    return files_of_task(source) or files_of(source)


def _present(path: Path) -> list[Path]:
    """Return the file if it exists; run folders of earlier versions lack it."""
    return [path] if path.is_file() else []


def _cut(asked: int, wanted: int) -> str:
    return f"asked {asked}" if asked < wanted else ""


def _count_records(path: Path) -> int:
    """Return the number of records in a file; 0 if it does not exist yet."""
    try:
        return count_lines(path)
    except OSError:
        return 0
