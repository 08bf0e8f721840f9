"""Train the model."""

import json
import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from multigrain.config import Config
from multigrain.data.beir import RetrievalTask
from multigrain.data.corpus_file import Corpus
from multigrain.data.jsonl import read_documents, read_pairs, read_tuples
from multigrain.errors import DataError
from multigrain.evaluation.by_source import searches_by_source
from multigrain.evaluation.evaluate import evaluate
from multigrain.evaluation.metrics import overall
from multigrain.evaluation.tasks import held_out_task
from multigrain.files import atomic_folder
from multigrain.grading.report import what_became
from multigrain.model.precheck import notes
from multigrain.model.roles import TEMPLATE, prompt_for, template_of
from multigrain.pipeline.encoders import judge_encoder
from multigrain.pipeline.generation.plans import ids_to_write_for
from multigrain.pipeline.known_false_negatives import own_documents
from multigrain.pipeline.recipe import model_to_train, training_inputs
from multigrain.pipeline.run_dir import RunDir
from multigrain.pipeline.stages import Result
from multigrain.pipeline.start_anew import start_anew_if_changed
from multigrain.pipeline.teachers import with_teacher
from multigrain.records import GradedTuple
from multigrain.terminal import counted, say
from multigrain.training import distributed
from multigrain.training.grade_schedules import epochs_told, phases_of
from multigrain.training.in_batch_false_negatives import InBatchFalseNegatives, known_false_negatives

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from multigrain.training.curriculum import Curriculum
    from multigrain.training.neighbours import Neighbours
    from multigrain.training.train import HeldOut


MOST_QUERIES, MOST_DOCUMENTS = 200, 2000
"""Size of the sample of held-out queries and documents to evaluate on between phases."""


def train(config: Config, run_dir: RunDir) -> Result:
    """Train along the curriculum; an interrupted training resumes from its last checkpoint."""
    distributed.joined()
    distributed.share_of(config.training.batch_size)
    tuples = list(read_tuples(run_dir.tuples))
    if len(tuples) < 2 and run_dir.report.is_file():
        raise DataError(run_dir.tuples, what_became(json.loads(run_dir.report.read_text(encoding="utf-8"))))
    curriculum, held = _planned(config, run_dir, tuples)
    fault = "training starts from the beginning: the checkpoint has other settings, data or base"
    start_anew_if_changed(run_dir.training, training_inputs(config, run_dir), fault, (run_dir.frozen, run_dir.teacher))
    distributed.begin()
    model = _trained(config, run_dir, tuples, curriculum, held)
    with atomic_folder(run_dir.trained) as part:  # the exported model may share files with the previous one
        model.save_pretrained(str(part), create_model_card=False)
    counts = {"steps": curriculum.steps, "phases": len(curriculum.phases), "tuples_per_step": curriculum.batch_size}
    return Result(counts)


def take_part(config: Config, run_dir: RunDir) -> None:
    """Train in a process beside the main one, which makes the decisions and writes the results."""
    tuples = list(read_tuples(run_dir.tuples))
    _trained(config, run_dir, tuples, *_planned(config, run_dir, tuples))


def _trained(
    config: Config, run_dir: RunDir, tuples: list[GradedTuple], curriculum: "Curriculum", held: "HeldOut"
) -> "SentenceTransformer":
    import torch

    from multigrain.model.build import build_model, sees_ahead
    from multigrain.training.guide import encode_texts
    from multigrain.training.train import train_model
    from multigrain.training.weight_interpolation import interpolated_with_base

    if curriculum.guide:  # encode now, so that the model of the guide is unloaded before training
        met = sorted(set(curriculum.places.ravel().tolist()))
        used = (curriculum.tuples[place] for place in met)  # a generator: the texts of all lists may exceed memory
        distributed.from_main(lambda: encode_texts(used, judge_encoder(config, run_dir)))
    torch.manual_seed(config.training_seed)  # for the initial weights of an adapter
    model = build_model(model_to_train(config, run_dir))
    for note in notes(config.model):
        say(f"  {note}")
    favours_first = config.model.pooling == "anchor" and not config.model.anchor.visibility_correction
    if favours_first and not sees_ahead(model[0].model):
        say("  anchor pooling favours the first tokens of a base with causal attention: see model.bidirectional")
    _read_instructions(config, model, tuples)
    with interpolated_with_base(model, config.training.base_share):
        train_model(
            model,
            curriculum,
            section=config.training,
            folder=run_dir.training,
            seed=config.training_seed,
            held_out=held,
        )
    return model


def _read_instructions(config: Config, model: "SentenceTransformer", tuples: Sequence[GradedTuple]) -> None:
    """Let the model put the instruction of a tuple before its query, if there are any.

    Raises:
        ConfigError: an instruction leaves no room for a text.
    """
    from multigrain.model.build import check_instructions

    own = Counter(graded.instruction for graded in tuples if graded.instruction)
    if not own:
        return
    template = template_of(model.prompts) or config.model.query_template
    if template is None:
        say(f"  model.query_prompt is put before all queries, in place of {counted(own.total(), 'instructions')}")
        return
    model.prompts[TEMPLATE] = template
    said = f"{own.total()} of {len(tuples)} tuples have an instruction ({len(own)} different)"
    say(f"  {said}; the others have {json.dumps(prompt_for('query', model.prompts))} before the query")
    check_instructions(model, own, config.training.max_tokens)


def _planned(config: Config, run_dir: RunDir, tuples: list[GradedTuple]) -> tuple["Curriculum", "HeldOut"]:
    """Plan the curriculum, and the evaluations between the phases."""
    from multigrain.training.curriculum import hold_out, plan
    from multigrain.training.guide import Guide
    from multigrain.training.train import HeldOut

    section = config.training
    trained, held = hold_out(tuples, config.training_seed) if section.is_self_paced else (tuples, [])
    grades = {negative.grade for graded in tuples for negative in graded.negatives}
    phases = phases_of(section, grades, len(trained))
    known = _known(run_dir, trained)
    curriculum = plan(
        trained,
        phases,
        _batch_size(section.batch_size, len(trained)),
        config.training_seed,
        by_task=section.by_task,
        first=ids_to_write_for(config, run_dir) if section.seen(len(trained)) < len(trained) else (),
        known=known,
        neighbours=_neighbours(config, run_dir, trained),
        weights=config.data.shares(Counter(graded.source or "" for graded in trained)),
    )
    guide = None if section.guide_margin is None else Guide(judge_encoder(config, run_dir), section.guide_margin)
    curriculum = replace(curriculum, false_negative_above=section.false_negative_above, guide=guide)
    say(f"  {_length(curriculum)}")
    if config.data.sources:
        say(f"  {_sources_of(curriculum)}")
    if not section.list_length:
        _say_what_is_rare(curriculum)
    if section.teacher is not None:
        curriculum = with_teacher(config, run_dir, curriculum)
    if section.list_length and known.groups:
        curriculum = replace(curriculum, known=_known(run_dir, curriculum.tuples))  # lists have texts of other groups
    return curriculum, HeldOut(held, _evaluation(config, run_dir) if section.evaluate else None)


def _known(run_dir: RunDir, tuples: Sequence[GradedTuple]) -> InBatchFalseNegatives:
    pairs = (pair for path in run_dir.pair_files() for pair in read_pairs(path))
    return known_false_negatives(tuples, pairs, read_documents(run_dir.corpus))


def _neighbours(config: Config, run_dir: RunDir, tuples: list[GradedTuple]) -> "Neighbours | None":
    """Return the neighbours of the tuples by the judge's vectors, most of which mining has already stored."""
    from multigrain.training.neighbours import Neighbours, vectors_of

    size = config.training.neighbours
    return Neighbours(vectors_of(tuples, judge_encoder(config, run_dir)), size) if size > 1 else None


def _batch_size(wanted: int, tuples: int) -> int:
    """Return the wanted batch size, or the largest multiple of the number of processes that the tuples can fill."""
    found = min(wanted, tuples - tuples % distributed.count())
    if found < wanted:
        say(f"  {tuples} tuples do not fill a batch of {wanted} (training.batch_size): batches hold {found}")
    return found


def _length(curriculum: "Curriculum") -> str:
    """Describe the length of the training, in steps and in epochs."""
    steps, batch, tuples = curriculum.steps, curriculum.batch_size, len(curriculum.tuples)
    epochs = epochs_told(steps * batch / tuples)
    return f"{counted(steps, 'steps')} of {batch} = {epochs} of {tuples:,} tuples"


def _sources_of(curriculum: "Curriculum") -> str:
    """Describe how much of the training each source has."""
    tuples = Counter(graded.source for graded in curriculum.tuples)
    seen = Counter(curriculum.tuples[place].source for place in curriculum.places.ravel().tolist())
    told = []
    for name, count in tuples.items():
        share, epochs = seen[name] / seen.total(), epochs_told(seen[name] / count)
        told.append(f"{name}: {share:.1%} of the training, {epochs} of {counted(count, 'tuples')}")
    return "; ".join(told)


def _say_what_is_rare(curriculum: "Curriculum") -> None:
    """Warn if few tuples have a grade of a phase, which then trains almost only on in-batch negatives."""
    for phase in curriculum.phases:
        for grade in sorted(set(phase.grades)):
            count = sum(any(n.grade == grade for n in graded.negatives) for graded in curriculum.tuples)
            if count < len(curriculum.tuples) / 2:
                say(
                    f'  phase "{phase.name}": {count} of {len(curriculum.tuples)} tuples have a negative of grade '
                    f"{grade}; the others have only in-batch negatives"
                )


def _evaluation(config: Config, run_dir: RunDir) -> "Callable[[SentenceTransformer], dict[str, float]]":
    """Return a function that measures a model on a sample of the held-out pairs."""
    from multigrain.model.encode import ModelEncoder

    tasks = _sampled_tasks(config, run_dir)

    def measure(model: "SentenceTransformer") -> dict[str, float]:
        embed = ModelEncoder(model, "held out")
        scores = [item for task in tasks for item in evaluate(task, embed).scores.values()]
        return {name: round(value, 6) for name, value in overall(scores).items()}

    return measure


def _sampled_tasks(config: Config, run_dir: RunDir) -> list[RetrievalTask]:
    """Return a sample of the held-out task, or one of each of several sources in proportion to its queries."""
    held_out, own = list(read_pairs(run_dir.held_out_pairs)), own_documents(run_dir)
    corpus, names = Corpus(run_dir.corpus), config.data.source_names
    if not names:
        return [_sample(held_out_task(held_out, corpus, own), config.seed)]
    tasks = [search.task for search in searches_by_source(held_out, corpus, own, names).values()]
    total = sum(len(task.queries) for task in tasks)
    return [_sample(task, config.seed, len(task.queries) / total) for task in tasks]


def _sample(task: RetrievalTask, seed: int, share: float = 1.0) -> RetrievalTask:
    """Draw some of the queries, with their relevant documents and some others; `share` is that of the whole sample."""
    draw = random.Random(f"{seed} evaluation")
    most = math.ceil(share * MOST_QUERIES)
    queries = dict(draw.sample(list(task.queries.items()), min(most, len(task.queries))))
    wanted = {document for query in queries for document in task.relevance[query]}
    others = [document.id for document in task.documents if document.id not in wanted]
    rest = math.ceil(share * MOST_DOCUMENTS) - len(wanted)
    kept = wanted | set(draw.sample(others, max(0, min(rest, len(others)))))
    documents = [document for document in task.documents if document.id in kept]
    return replace(task, queries=queries, documents=documents, relevance={q: task.relevance[q] for q in queries})
