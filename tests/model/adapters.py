"""Tiny models with an adapter."""

from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import (
    MultipleNegativesRankingLoss,
)

from multigrain.config import LoraSection, ModelSection
from multigrain.model.build import build_model

TEXTS = ["the cat sleeps", "a big dog runs under the old table near the door", "fish", ""]

LORA = LoraSection(rank=4, dropout=0)


def build(base: Path, lora: LoraSection | None = LORA, **settings: Any) -> SentenceTransformer:
    options = {"bidirectional": True, "max_tokens": 16, **settings}
    return build_model(ModelSection(base=str(base), lora=lora, **{"pooling": "anchor", **options}))


def backbone(model: SentenceTransformer) -> Any:
    return model.transformers_model


def columns(model: SentenceTransformer) -> list[Any]:
    return [model.preprocess(texts) for texts in (TEXTS[:3], ["bird sings", "dog runs", "fish eats"])]


def trained(model: SentenceTransformer) -> SentenceTransformer:
    """A few steps, so large that the adapter is far from the identity."""
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-2)
    for _ in range(3):
        optimizer.zero_grad()
        MultipleNegativesRankingLoss(model)(columns(model), torch.empty(0)).backward()
        optimizer.step()
    return model.eval()


def save(model: SentenceTransformer, folder: Path) -> Path:
    model.save_pretrained(str(folder), create_model_card=False)
    return folder


DORA = LoraSection(rank=4, dropout=0, dora=True)
