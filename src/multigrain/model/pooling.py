"""Anchor-token-aware (ATA) pooling as sentence-transformers modules.

    weight_j  = score_j / sum over k of score_k
    embedding = sum over j of weight_j * H[j]

where score_j measures the attention that token j receives (`anchor_scores`), H (n, D) are the final hidden states of a
text of n tokens, and the embedding has D dimensions. This adds no parameters. Source: *Negative Matters* (ACL 2025).

This file is part of every saved model, beside `anchor_attention.py` and the files that it imports. So it may import
nothing but torch, transformers, sentence_transformers and those files. The class names are part of the file format.
Both classes are in one file, because sentence-transformers saves the code of a module beside that module's settings,
but looks for it only beside the first module.
"""

import copy
import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from safetensors.torch import load_file
from sentence_transformers.base.model import BaseModel
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from torch import Tensor
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.utils.hub import cached_file

from .anchor_attention import anchor_scores_of, let_see_ahead, mark_anchor_layers
from .anchor_scores import AnchorSettings, Form

HOOKS = "transformers.utils.output_capturing"
SAMPLED = 64
"""Approximate number of values sampled from each weight to identify a base."""
MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "position_ids")
"""Features passed to the model."""


def _require_bool(**settings: Any) -> None:
    for name, value in settings.items():
        if not isinstance(value, bool):
            raise ValueError(f"{name}: found {value!r}; wanted true or false")


class AnchorTransformer(Transformer):
    """A sentence-transformers Transformer that also returns the anchor scores of some attention layers.

    It writes `token_embeddings` (B, n, D) into the features and, if a pooling has called `hand_on_scores`,
    `anchor_scores` (B, n). Both come from the same forward pass.

    A folder that holds only an adapter has no model configuration, so this module saves the settings that would be
    lost.

    Args:
        model_name_or_path: a folder or hub name, of a model or of an adapter.
        bidirectional: whether a decoder's tokens also see later tokens; a number applies this to that many last layers.
        quantize: "4bit" to load the weights in 4 bits, for an adapter trained on such weights (QLoRA).
        base_digest: the required `digest_of_base` of an adapter's base.
        model_kwargs: as in the Transformer of sentence-transformers; a `quantization_config` in it takes precedence.
        kwargs: as in the Transformer of sentence-transformers.

    Raises:
        ValueError: a setting is invalid, or the adapter was made for another base.
    """

    config_keys = [*Transformer.config_keys, "bidirectional", "quantize", "base_digest"]

    def __init__(
        self,
        model_name_or_path: str,
        *,
        bidirectional: bool | int = False,
        quantize: Literal["4bit"] | None = None,
        base_digest: str | None = None,
        model_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if not isinstance(bidirectional, int) or bidirectional < 0:
            raise ValueError(f"bidirectional: found {bidirectional!r}; wanted true, false or a number of layers")
        if quantize not in (None, "4bit"):
            raise ValueError(f"quantize: found {quantize!r}; wanted null or 4bit")
        options = dict(model_kwargs or {})
        if quantize:
            options.setdefault("quantization_config", BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4"))
        super().__init__(model_name_or_path, model_kwargs=options, **kwargs)
        for module in self.model.modules():
            if hasattr(module, "support_avx512bf16_for_cpu"):  # bitsandbytes would pack weights, without a gradient
                module.support_avx512bf16_for_cpu = False
        load_magnitudes(self.model, model_name_or_path)
        self.bidirectional, self.quantize, self.base_digest = bidirectional, quantize, base_digest
        if base_digest and not _is_base(self.model, base_digest):
            base = self.model.name_or_path
            raise ValueError(f"its adapter was trained on another base than {base}: restore that base")
        if bidirectional is True:
            self.model.config.is_causal = False
        elif bidirectional:
            let_see_ahead(self.model, bidirectional)
        self._anchor: AnchorSettings | None = None
        self._places: tuple[int, ...] = ()

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the hooks with which transformers captures attentions, because they cannot be pickled."""
        return self.__dict__ | {"_modules": {name: _without_hooks(module) for name, module in self._modules.items()}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Register the model with transformers again, so that another process captures attentions too."""
        from transformers.utils.output_capturing import _CAN_RECORD_REGISTRY

        super().__setstate__(state)  # type: ignore[no-untyped-call]
        for module in self.modules():
            if isinstance(module, PreTrainedModel):
                _CAN_RECORD_REGISTRY[module] = module._can_record_outputs

    def hand_on_scores(self, settings: AnchorSettings) -> None:
        """Write anchor scores too, from now on.

        Raises:
            ValueError: the model's attention is not accessible, or it lacks a layer.
        """
        self._places = mark_anchor_layers(self.model, settings)
        self._anchor = settings

    def _get_prompt_length(self, prompt: str, **kwargs: Any) -> int:  # noqa: ARG002 (not needed)
        """Count a prompt's tokens, which a pooling may leave out. sentence-transformers also counts a final space."""
        if (prompt,) not in self._prompt_length_mapping:
            self._prompt_length_mapping[prompt,] = prompt_tokens(self, prompt)
        return int(self._prompt_length_mapping[prompt,])

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Run the model once.

        Args:
            features: `input_ids` (B, n), `attention_mask` (B, n) and other inputs of the model.
            kwargs: passed on to the model.

        Returns:
            The features with `token_embeddings` (B, n, D), and `anchor_scores` (B, n) if a pooling needs them.

        Raises:
            ValueError: anchor scores are needed, but the input is flattened, or the attention implementation was
                changed after loading.
        """
        if self._anchor and "attention_mask" not in features:
            raise ValueError(
                "anchor pooling found flattened input; wanted padded input with its attention mask. Keep the attention "
                "implementation that the model was loaded with: on a GPU it uses flash kernels by itself"
            )
        tokens = features["input_ids"]
        if tokens.numel():
            self._run(features, kwargs)
        else:  # all texts are empty; among other texts, an empty one gets zeros too
            features["token_embeddings"] = tokens.new_zeros(*tokens.shape, self.get_embedding_dimension()).float()
            features["anchor_scores"] = tokens.new_zeros(tokens.shape).float()
        return features

    def _run(self, features: dict[str, Any], kwargs: dict[str, Any]) -> None:
        inputs = {name: features[name] for name in MODEL_INPUTS if name in features}
        wanted = {"output_attentions": True} if self._anchor else {}
        output = self.model(**inputs, **kwargs, **wanted, return_dict=True)
        features["token_embeddings"] = output.last_hidden_state
        if not self._anchor:
            return
        if not getattr(output, "attentions", None):
            found = self.model.config._attn_implementation
            raise ValueError(f'the attention was set to "{found}", which gives no anchor scores; reload the model')
        mask = features["attention_mask"]
        features["anchor_scores"] = anchor_scores_of(output.attentions, self._places, mask, self._anchor)


def _without_hooks(module: Any) -> Any:
    """Copy a module without its hooks, sharing weights. The module itself may be in use, so it stays unchanged."""
    clone = copy.copy(module)
    clone._modules = {name: child and _without_hooks(child) for name, child in module._modules.items()}
    hooks = module._forward_hooks.items()
    clone._forward_hooks = OrderedDict((key, hook) for key, hook in hooks if hook.__module__ != HOOKS)
    if hasattr(clone, "_output_capturing_hooks_installed"):
        clone._output_capturing_hooks_installed = False  # the next call installs them again
    return clone


def load_magnitudes(model: Any, path: str) -> None:
    """Load the magnitudes of a DoRA adapter, which transformers saves but does not load.

    Source: arXiv 2402.09353.

    Args:
        model: the model with the adapter; a model without a DoRA adapter stays unchanged.
        path: the folder or hub name of the adapter.
    """
    adapter = getattr(model, "peft_config", {}).get("default")
    if not getattr(adapter, "use_dora", False):
        return
    saved = load_file(cached_file(path, "adapter_model.safetensors"))
    for name, parameter in model.named_parameters():
        if "lora_magnitude_vector" in name:
            parameter.data.copy_(saved[f"base_model.model.{name.removesuffix('.default.weight')}"])


def digest_of_base(model: PreTrainedModel) -> str:
    """Return an identifier of a base, "dtype:digest", from a sample of each weight except 4-bit ones."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.named_parameters()):
        # A pooler without saved weights is random at every load.
        if "lora_" not in name and "pooler" not in name and weight.is_floating_point():
            sample = weight.detach().flatten()[:: max(1, weight.numel() // SAMPLED)]
            digest.update(f"{name.replace('.base_layer', '')} {tuple(weight.shape)}".encode())
            digest.update(str(sample.to(device="cpu", dtype=torch.bfloat16).tolist()).encode())
    return f"{str(model.dtype).removeprefix('torch.')}:{digest.hexdigest()[:16]}"


def _is_base(model: PreTrainedModel, expected: str) -> bool:
    """Return whether the model is the expected base. One in float16 is rounded differently, so it is accepted."""
    dtype, digest = digest_of_base(model).split(":")
    return expected.endswith(f":{digest}") or (dtype == "float16" and not expected.startswith("float16:"))


def prompt_tokens(transformer: Transformer, prompt: str) -> int:
    """Count the leading tokens that belong to the prompt alone, whatever text follows.

    Many decoders split "Query: " into 3 tokens, but "Query: cat" into "Query", ":" and " cat", so the prompt has 2.
    """
    texts = [transformer.preprocess([prompt + text])["input_ids"][0].tolist() for text in ("", "a", "Z")]
    tokens = 0
    for column in zip(*texts, strict=False):
        if len(set(column)) > 1:
            break
        tokens += 1
    return tokens


class AnchorPooling(Pooling):
    """Pool token embeddings by a weighted mean, with each token weighted by the attention it receives.

    The defaults, the log form on the last layer, follow *Negative Matters* (ACL 2025). The other settings are additions
    of multigrain.

    Args:
        embedding_dimension: D, the size of the token embeddings.
        include_prompt: whether the tokens of a prompt are pooled.
        form: "log" damps tokens that receive most of the attention; "linear" does not.
        layers: indices of the attention layers to use, as in a list (-1 is the last); their scores are averaged.
        exclude_first: leave out the first token, which receives half of the attention in an untrained causal model.
        visibility_correction: divide the score of each token by the number of tokens that can see it. Without this, a
            causal mask favours early tokens.
        detach: stop the gradient through the weights.

    Raises:
        ValueError: the form is unknown, `layers` is empty, or a setting has the wrong type.
    """

    config_keys = [
        "embedding_dimension",
        "include_prompt",
        "form",
        "layers",
        "exclude_first",
        "visibility_correction",
        "detach",
    ]
    config_key_renames: dict[str, str] = {}

    def __init__(
        self,
        embedding_dimension: int,
        include_prompt: bool = True,
        form: Form = "log",
        layers: Sequence[int] = (-1,),
        exclude_first: bool = False,
        visibility_correction: bool = False,
        detach: bool = False,
    ) -> None:
        super().__init__(embedding_dimension, "mean", include_prompt)
        if form not in get_args(Form):
            raise ValueError(f"form: found {form!r}; wanted {' or '.join(get_args(Form))}")
        _require_bool(
            include_prompt=include_prompt,
            exclude_first=exclude_first,
            visibility_correction=visibility_correction,
            detach=detach,
        )
        if not isinstance(layers, Sequence) or not layers or any(type(layer) is not int for layer in layers):
            raise ValueError(f"layers: found {layers!r}; wanted a list of numbers such as [-1]")
        self.form = form
        self.layers = list(layers)
        self.exclude_first = exclude_first
        self.visibility_correction = visibility_correction
        self.detach = detach

    def on_model_ready(self, model: BaseModel) -> None:
        """Request the scores from the transformer; sentence-transformers calls this after building or loading a model.

        Raises:
            ValueError: the module before this one is not an AnchorTransformer, its model cannot give the scores, or
                its token embeddings have another size.
        """
        transformer: Any = model[0]
        # Not isinstance: if sentence-transformers alone loads the model, the class has another import path.
        if not hasattr(transformer, "hand_on_scores"):
            raise ValueError(f"AnchorPooling needs an AnchorTransformer before it, found {type(transformer).__name__}")
        if (size := transformer.get_embedding_dimension()) != self.embedding_dimension:
            raise ValueError(f"embedding_dimension: found {self.embedding_dimension!r}; the model before it has {size}")
        transformer.hand_on_scores(AnchorSettings(self.form, tuple(self.layers), self.visibility_correction))

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:  # noqa: ARG002
        """Read `token_embeddings` (B, n, D) and `anchor_scores` (B, n); write `sentence_embedding` (B, D).

        Raises:
            ValueError: there are no anchor scores.
        """
        if "anchor_scores" not in features:
            raise ValueError("AnchorPooling found no anchor scores: the module before it must be an AnchorTransformer")
        hidden: Tensor = features["token_embeddings"]
        weights = self.weights(features)
        with torch.autocast(hidden.device.type, enabled=False):  # it would sum in half precision
            pooled = torch.einsum("bn,bnd->bd", weights, hidden.to(weights.dtype))
        features["sentence_embedding"] = pooled.to(hidden.dtype)
        return features

    def weights(self, features: dict[str, Any]) -> Tensor:
        """Compute the share of each token in the embedding.

        Args:
            features: `anchor_scores` (B, n) and `attention_mask` (B, n), and `prompt_length` if there is a prompt.

        Returns:
            (B, n); each row sums to 1, or to 0 for a text without tokens.
        """
        scores: Tensor = features["anchor_scores"]
        taking_part = self._taking_part(features)
        if taking_part is not None:
            scores = scores * taking_part
        weights = scores / scores.sum(1, keepdim=True).clamp_min(1e-9)
        return weights.detach() if self.detach else weights

    def _taking_part(self, features: dict[str, Any]) -> Tensor | None:
        """Mark the tokens to pool, (B, n), 0 for tokens left out; None if all are pooled (padding scores 0 anyway).

        The mask in the features stays unchanged, because losses that embed twice (GradCache) need it.
        """
        mask: Tensor = features["attention_mask"]
        taking_part = mask
        if not self.include_prompt and "prompt_length" in features:
            length = features["prompt_length"]
            tokens = int(length.flatten()[0]) if isinstance(length, Tensor) else int(length)
            taking_part = self._exclude_prompt_from_mask(mask, tokens)
        if self.exclude_first:
            # The first token that is not padding; a text of one token keeps it.
            is_first = (mask.cumsum(1) == 1) & (mask.sum(1, keepdim=True) > 1)
            taking_part = taking_part * ~is_first
        return None if taking_part is mask else taking_part
