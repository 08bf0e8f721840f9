"""The teacher of the loss `distill`, and the lists of documents that it scores."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from multigrain.config import Config, TeacherSection
from multigrain.data.corpus_file import Corpus
from multigrain.data.jsonl import read_documents, read_pairs
from multigrain.data.mined_candidates import Mined, MinedFile
from multigrain.data.teacher_scores import Score, TeacherScores
from multigrain.errors import ConfigError, DataError
from multigrain.grading.fused_judge import FusedJudge
from multigrain.grading.judges import EmbeddingJudge
from multigrain.model.files import model_digest
from multigrain.pipeline.encoders import judge_encoder, teacher_encoder
from multigrain.pipeline.run_dir import RunDir
from multigrain.pipeline.stage import file_digest, short_digest
from multigrain.records import GradedTuple
from multigrain.terminal import meter, say
from multigrain.training.in_batch_false_negatives import texts_of
from multigrain.training.teacher_lists import (
    Documents,
    ListedTuples,
    ScoredList,
    ScoreScale,
    documents_of_list,
    texts_in,
)

if TYPE_CHECKING:
    from multigrain.training.curriculum import Curriculum

LISTS = 256
"""Number of lists that are scored at once; a kill -9 loses no more than these."""
MODEL = "training.teacher.model"


def with_teacher(config: Config, run_dir: RunDir, curriculum: "Curriculum") -> "Curriculum":
    """Return the curriculum with the scores of the teacher, and with its lists in place of the tuples' negatives.

    Tuples that the training never sees have no lists, and their documents are not scored.

    Raises:
        ConfigError: the judge is the teacher but has not scored all positives, or a model cannot be loaded.
        DataError: nearly all scores are equal, or no list has two documents.
        RunError: a score is not a number.
    """
    section = _section(config)
    met = np.unique(curriculum.places).tolist()
    if not config.training.list_length:
        scores = _scores_of_judge([curriculum.tuples[place] for place in met], run_dir)
        return replace(curriculum, teacher=ScoreScale.of(scores, section.false_negative_above))
    corpus = Corpus(run_dir.corpus)
    lists = _lists(config, run_dir, curriculum.tuples, met, corpus)
    _say_how_long(lists)
    scores = np.concatenate([each.scores for each in lists.values()])
    return replace(
        curriculum,
        tuples=ListedTuples(curriculum.tuples, lists, corpus.texts),
        teacher=ScoreScale.of(scores, section.false_negative_above),
    )


def _section(config: Config) -> TeacherSection:
    assert config.training.teacher is not None  # checked by the section `[training]`
    return config.training.teacher


def _scores_of_judge(tuples: Sequence[GradedTuple], run_dir: RunDir) -> NDArray[np.float32]:
    if any(graded.score is None for graded in tuples):
        found = f'found "judge", but {run_dir.tuples} has no judge scores of the positives'
        raise ConfigError("training.teacher.kind", [f"{found}. Run: multigrain grade RUN.toml --force"])
    scores: list[float] = []
    for graded in tuples:
        scores += [graded.score or 0.0, *(negative.score for negative in graded.negatives)]
    return np.array(scores, dtype=np.float32)


def _say_how_long(lists: Mapping[int, ScoredList]) -> None:
    lengths = np.array([len(each.documents) for each in lists.values()])
    if not (lengths > 1).any():
        found = "no list has a document besides the positive, so there is nothing to compare"
        raise DataError("training.teacher", f"{found}. See grading/report.json for why candidates were dropped.")
    said = f"  the teacher has scored {len(lengths)} lists of {lengths.mean():.3g} documents on average"
    alone = int((lengths < 2).sum())
    say(f"{said}; {alone} of them contain only the positive" if alone else said)


def _lists(
    config: Config, run_dir: RunDir, tuples: Sequence[GradedTuple], met: Sequence[int], corpus: Corpus
) -> dict[int, ScoredList]:
    """Return the scored lists of the tuples in these places; kept scores are not computed again."""
    teacher = partial(_teacher, config, run_dir, [tuples[place].query for place in met])
    kept = TeacherScores(run_dir.teacher, _made_from(config, run_dir), teacher)
    mined = MinedFile(run_dir.mined)
    lists: dict[int, ScoredList] = {}
    with meter("teaching", len(met)) as progress:
        rest = _in_order_of_pairs(run_dir, tuples, met)
        while block := list(islice(rest, LISTS)):
            candidates = mined.up_to(block[-1][0] + 1)
            chosen = {place: _chosen(config, tuples[place], candidates, number, corpus) for number, place in block}
            lists |= _scored(chosen, tuples, corpus, kept)
            progress.advance(len(block))
    return lists


def _scored(
    chosen: Mapping[int, Documents], tuples: Sequence[GradedTuple], corpus: Corpus, kept: TeacherScores
) -> dict[int, ScoredList]:
    """Return the lists with the scores of their documents."""
    asked: list[tuple[str, str]] = []
    for place, documents in chosen.items():
        texts = texts_in(documents, tuples[place], corpus.texts)
        asked += [(tuples[place].query, text) for text in texts]
    ends = np.cumsum([len(documents) for documents in chosen.values()])
    scores = np.split(kept.scores(asked), ends[:-1])
    return {place: ScoredList(chosen[place], of_list) for place, of_list in zip(chosen, scores, strict=True)}


def _in_order_of_pairs(run_dir: RunDir, tuples: Sequence[GradedTuple], met: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield the number of the pair, and the place, of each tuple that the training sees."""
    places = {tuples[place].id: place for place in met}
    for number, pair in enumerate(read_pairs(run_dir.train_pairs)):
        if (place := places.get(pair.id)) is not None:
            yield number, place


def _chosen(config: Config, graded: GradedTuple, mined: Mined, number: int, corpus: Corpus) -> Documents:
    """Return the documents of the list of a pair: its own, then those mined for it, the nearest first."""
    own, most = texts_of(graded), config.training.list_length
    first, last = np.searchsorted(mined.pair, (number, number + 1))
    order = np.argsort(-mined.scores["embedding"][first:last], kind="stable")
    nearest = mined.document[first:last][order][: most + len(own)].tolist()  # may include its own documents
    return documents_of_list(own, nearest, corpus.texts(nearest), most)


def _made_from(config: Config, run_dir: RunDir) -> str:
    """Return a digest of everything that determines the teacher's score of a query and a text."""
    section = _section(config)
    settings = section.model_dump(include={"kind", "query_prompt", "document_prompt", "bm25_weight"})
    parts = [Config.digest(settings), config.fingerprint("teaching"), config.grading.precision]
    parts.append(model_digest(section.model or config.grading.judge_model, section.max_tokens))
    if section.kind == "fused":
        parts.append(file_digest(run_dir.corpus))
    return short_digest(parts)


def _teacher(config: Config, run_dir: RunDir, queries: Sequence[str]) -> Score:
    """Load the teacher; `queries` are all queries that it will score.

    A cross-encoder returns logits. After a sigmoid, nearly all scores would be close to 0 or 1, and the differences to
    learn from would be lost.
    """
    section = _section(config)
    if section.kind == "embedder":
        return EmbeddingJudge(teacher_encoder(config, run_dir)).scores
    if section.kind == "cross-encoder":
        from torch import nn

        from multigrain.model.load import load_cross_encoder

        assert section.model is not None  # checked by the section
        model = load_cross_encoder(section.model, section.max_tokens, MODEL)
        return partial(model.predict, activation_fn=nn.Identity(), show_progress_bar=False)
    documents = read_documents(run_dir.corpus)
    run_dir.teacher.mkdir(parents=True, exist_ok=True)
    judge = FusedJudge(
        embed=judge_encoder(config, run_dir),
        queries=queries,
        documents=(None if document.split == "held_out" else document.text for document in documents),
        language=config.mining.language,
        weight=section.bm25_weight,
        folder=run_dir.teacher,
    )
    return judge.scores
