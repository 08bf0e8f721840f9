"""The stages of a run in their order.

    data (-> pairs) -> synthesize -> grade (-> adapt) -> train (-> baseline) -> evaluate -> export

A stage is done if the manifest lists it with the fingerprint of its settings and of the files that it reads, and the
files that it writes exist. So if a setting leaves the files of a stage unchanged, later stages are not redone. The
stage `pairs` exists only if the language model writes pairs (for a run of one source, or for some of several sources),
`adapt` only if there is a section `[adapt]`, and `baseline` only if `baseline.against` asks for it.
"""

from multigrain.config import Config
from multigrain.pipeline import stage_files as files
from multigrain.pipeline.arms import has_baseline
from multigrain.pipeline.recipe import with_recipe
from multigrain.pipeline.stage import Stage
from multigrain.pipeline.stages.adapt import adapt
from multigrain.pipeline.stages.baseline import baseline
from multigrain.pipeline.stages.data import data
from multigrain.pipeline.stages.evaluate import evaluate
from multigrain.pipeline.stages.export import export
from multigrain.pipeline.stages.grade import grade
from multigrain.pipeline.stages.pairs import pairs, pairs_of_sources
from multigrain.pipeline.stages.synthesize import synthesize
from multigrain.pipeline.stages.train import train

STAGES = (
    Stage(
        name="data",
        work=data,
        sections=("data", "asked", "drawing"),
        reads=files.data_reads,
        writes=files.data_writes,
    ),
    Stage(
        name="pairs",
        work=pairs,
        sections=("llm", "synthesis", "judging", "filtering"),
        reads=files.pairs_reads,
        writes=files.pairs_writes,
        applies=files.has_pairs_written,
        cut=files.pairs_cut,
        models=files.judge_model,
    ),
    Stage(
        name="pairs",
        work=pairs_of_sources,
        sections=("data", "asked", "llm", "synthesis", "judging", "filtering"),
        reads=files.pairs_of_sources_read,
        writes=files.pairs_of_sources_written,
        applies=files.writes_pairs_of_sources,
        cut=files.pairs_of_sources_cut,
        models=files.judge_model,
    ),
    Stage(
        name="synthesize",
        work=synthesize,
        sections=("llm", "synthesis", "mining", "judging"),
        reads=files.synthesize_reads,
        writes=files.synthesize_writes,
        cut=files.negatives_cut,
        models=files.judge_model,
        is_spread=True,
    ),
    Stage(
        name="grade",
        work=grade,
        sections=("llm", "grading", "synthesis", "mining", "reading"),
        reads=files.grade_reads,
        writes=files.grade_writes,
        cut=files.negatives_cut,
        models=files.grading_models,
        is_spread=True,
    ),
    Stage(
        name="adapt",
        work=adapt,
        sections=("adapt", "attending"),
        reads=files.adapt_reads,
        writes=files.adapt_writes,
        applies=files.adapts,
        models=files.base_model,
    ),
    Stage(
        name="train",
        work=train,
        sections=("model", "training", "teaching"),
        reads=files.train_reads,
        writes=files.train_writes,
        models=files.training_models,
        settings=with_recipe,
    ),
    Stage(
        name="baseline",
        work=baseline,
        sections=("model", "training"),
        reads=files.baseline_reads,
        writes=files.baseline_writes,
        applies=has_baseline,
        models=files.base_model,
        settings=with_recipe,
    ),
    Stage(
        name="evaluate",
        work=evaluate,
        sections=("model", "evaluation", "mining"),
        reads=files.evaluate_reads,
        writes=files.evaluate_writes,
        models=files.base_model,
    ),
    Stage(
        name="export",
        work=export,
        sections=("name", "data", "llm", "model", "training", "export"),
        reads=files.export_reads,
        writes=files.export_writes,
        settings=with_recipe,
    ),
)

SHARED = ("data", "pairs", "synthesize", "grade", "adapt")
"""Stages whose results runs reuse from each other."""


def stages_of(config: Config) -> list[Stage]:
    """Return the stages of a run, in order."""
    return [stage for stage in STAGES if stage.applies(config)]


def names_of(config: Config) -> list[str]:
    """Return the names of the stages of a run, in order."""
    return [stage.name for stage in stages_of(config)]
