"""Anchor-token-aware (ATA) pooling as sentence-transformers modules.

    weight_j  = score_j / sum over k of score_k
    embedding = sum over j of weight_j * H[j]

with the scores of `anchor_attention` and H the final hidden states. No parameters are added.

This file is shipped inside every saved model, beside `anchor_attention.py`: it may import nothing but
torch, sentence_transformers and that file. The names of the classes are a file format.
"""

from typing import Any

import torch
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from torch import Tensor

from .anchor_attention import mark_anchor_layer

MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "position_ids")


class AnchorTransformer(Transformer):
    """The host's Transformer, which also hands on the anchor scores of the last attention layer.

    Writes `token_embeddings` (B, n, D) and `anchor_scores` (B, n) into the features.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        mark_anchor_layer(self.model)

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Run the model once; both outputs come from the same pass."""
        inputs = {name: features[name] for name in MODEL_INPUTS if name in features}
        output = self.model(**inputs, **kwargs, output_attentions=True, return_dict=True)
        features["token_embeddings"] = output.last_hidden_state
        features["anchor_scores"] = output.attentions[-1]
        return features


class AnchorPooling(Pooling):
    """Weighted mean of the token embeddings, each weighted by the attention it receives.

    Gradients flow through the weights.

    Args:
        embedding_dimension: D, the size of the token embeddings.
        include_prompt: whether the tokens of a prompt take part.
    """

    config_keys = ["embedding_dimension", "include_prompt"]
    config_key_renames: dict[str, str] = {}

    def __init__(self, embedding_dimension: int, include_prompt: bool = True) -> None:
        super().__init__(embedding_dimension, "mean", include_prompt)

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:  # noqa: ARG002
        """Read `token_embeddings` (B, n, D) and `anchor_scores` (B, n); write `sentence_embedding` (B, D).

        Raises:
            ValueError: there are no anchor scores, because the module before is no AnchorTransformer.
        """
        if "anchor_scores" not in features:
            raise ValueError("AnchorPooling needs anchor scores: put an AnchorTransformer before it")
        hidden: Tensor = features["token_embeddings"]
        scores: Tensor = features["anchor_scores"]
        if not self.include_prompt and "prompt_length" in features:
            scores = scores * self._without_prompt(features)
        weights = scores / scores.sum(1, keepdim=True).clamp_min(1e-9)
        pooled = torch.einsum("bn,bnd->bd", weights, hidden.to(weights.dtype))
        features["sentence_embedding"] = pooled.to(hidden.dtype)
        return features

    def _without_prompt(self, features: dict[str, Any]) -> Tensor:
        """(B, n), 0 for the tokens of the prompt and for padding.

        The mask in the features stays as it is: losses that embed twice (GradCache) need it unchanged.
        """
        length = features["prompt_length"]
        tokens = int(length.flatten()[0]) if isinstance(length, Tensor) else int(length)
        mask: Tensor = self._exclude_prompt_from_mask(features["attention_mask"], tokens)
        return mask
