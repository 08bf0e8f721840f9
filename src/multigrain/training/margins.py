"""What the model makes of texts while it is trained."""

from collections.abc import Iterator, Sequence

import numpy as np
from sentence_transformers import SentenceTransformer

from multigrain.config import PhaseSection
from multigrain.records import GradedTuple
from multigrain.training.curriculum import Curriculum
from multigrain.training.known import texts_of
from multigrain.vectors import ROLES, Role, Vectors, prompt_for

CHUNK = 256


def margin_on(model: SentenceTransformer, tuples: Sequence[GradedTuple], phase: PhaseSection) -> float | None:
    """The mean of cos(query, positive) - cos(query, negative) over the tuples' negatives of the phase's grades.

    None where there are none.
    """
    triplets = [
        (graded.query, graded.positive, negative.text)
        for graded in tuples
        for negative in graded.negatives
        if negative.grade in phase.grades
    ]
    if not triplets:
        return None
    queries, positives, negatives = (list(texts) for texts in zip(*triplets, strict=True))
    vectors = _encode(model, queries, "query")
    difference = _encode(model, positives, "document") - _encode(model, negatives, "document")
    return float((vectors * difference).sum(axis=1).mean())


def _encode(model: SentenceTransformer, texts: Sequence[str], role: Role) -> Vectors:
    was_training = model.training
    vectors: Vectors = np.asarray(
        model.encode(
            list(texts), prompt=prompt_for(role, model.prompts), normalize_embeddings=True, show_progress_bar=False
        )
    )
    model.train(was_training)
    return vectors


def token_rows(model: SentenceTransformer, curriculum: Curriculum) -> Iterator[list[int]]:
    """The token ids of every text of the curriculum, as training reads it; texts may come twice."""
    for role in ROLES:
        texts = sorted({text for graded in curriculum.tuples for text in _texts(graded, role)})
        for start in range(0, len(texts), CHUNK):
            features = model.preprocess(texts[start : start + CHUNK], prompt=prompt_for(role, model.prompts) or None)
            for ids, mask in zip(features["input_ids"], features["attention_mask"], strict=True):
                yield ids[mask.bool()].tolist()


def _texts(graded: GradedTuple, role: Role) -> list[str]:
    return [graded.query] if role == "query" else texts_of(graded)
