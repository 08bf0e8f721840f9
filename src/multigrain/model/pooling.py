"""Anchor-token-aware (ATA) pooling as sentence-transformers modules.

    weight_j  = score_j / sum over k of score_k
    embedding = sum over j of weight_j * H[j]

with score_j how much attention token j receives (`anchor_scores`), H (n, D) the final hidden states of a text of n
tokens, and embedding (D). No parameters are added. Source: *Negative Matters* (ACL 2025).

This file is shipped inside every saved model, beside `anchor_attention.py` and what that imports: it may import nothing
but torch, transformers, sentence_transformers and those files. The names of the classes are a file format. Both are in
one file, because sentence-transformers saves the code of a module beside that module's settings, and looks for it
beside the first module's alone.
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
"""Numbers of each weight by which a base is told from others."""
MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "position_ids")
"""Features that a model is called with."""


def _require_bool(**settings: Any) -> None:
    for name, value in settings.items():
        if not isinstance(value, bool):
            raise ValueError(f"{name}: found {value!r}; wanted true or false")


class AnchorTransformer(Transformer):
    """A Transformer of sentence-transformers that also hands on the anchor scores of some attention layers.

    Writes `token_embeddings` (B, n, D) and, once a pooling has asked for them by `hand_on_scores`, `anchor_scores`
    (B, n) into the features; both come from the same pass.

    A folder with an adapter alone has no configuration of the model, so this module keeps what else would be forgotten.

    Args:
        model_name_or_path: a folder or hub name, of a model or of an adapter.
        bidirectional: whether a decoder's tokens see those after them too; a number: in so many of its last layers.
        quantize: "4bit" for the weights of a model whose adapter was trained on such (QLoRA).
        base_digest: what an adapter's base must have as `digest_of_base`.
        model_kwargs: as sentence-transformers' Transformer takes it; a `quantization_config` in it wins.
        kwargs: as sentence-transformers' Transformer takes them.

    Raises:
        ValueError: a setting is none that there is, or the adapter was made for another base.
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
            if hasattr(module, "support_avx512bf16_for_cpu"):  # bitsandbytes would pack weights, and lose the gradient
                module.support_avx512bf16_for_cpu = False
        load_magnitudes(self.model, model_name_or_path)
        self.bidirectional, self.quantize, self.base_digest = bidirectional, quantize, base_digest
        if base_digest and not _is_base(self.model, base_digest):
            base = self.model.name_or_path
            raise ValueError(f"its adapter was made for another base than {base}: put back the one it was trained on")
        if bidirectional is True:
            self.model.config.is_causal = False
        elif bidirectional:
            let_see_ahead(self.model, bidirectional)
        self._anchor: AnchorSettings | None = None
        self._places: tuple[int, ...] = ()

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the hooks that transformers puts into a model that gives attentions: they cannot be pickled."""
        return self.__dict__ | {"_modules": {name: _without_hooks(module) for name, module in self._modules.items()}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Tell transformers of the model again: in another process it would not ask the layers for attentions."""
        from transformers.utils.output_capturing import _CAN_RECORD_REGISTRY

        super().__setstate__(state)  # type: ignore[no-untyped-call]
        for module in self.modules():
            if isinstance(module, PreTrainedModel):
                _CAN_RECORD_REGISTRY[module] = module._can_record_outputs

    def hand_on_scores(self, settings: AnchorSettings) -> None:
        """Write anchor scores too from now on.

        Raises:
            ValueError: the model has no attention that could be seen, or no such layers.
        """
        self._places = mark_anchor_layers(self.model, settings)
        self._anchor = settings

    def _get_prompt_length(self, prompt: str, **kwargs: Any) -> int:  # noqa: ARG002 (not needed)
        """Count a prompt's tokens, which a pooling may leave out; sentence-transformers counts a last space too."""
        if (prompt,) not in self._prompt_length_mapping:
            self._prompt_length_mapping[prompt,] = prompt_tokens(self, prompt)
        return int(self._prompt_length_mapping[prompt,])

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Run the model once.

        Args:
            features: `input_ids` (B, n), `attention_mask` (B, n) and other inputs of the model.
            kwargs: passed on to the model.

        Returns:
            The features with `token_embeddings` (B, n, D), and `anchor_scores` (B, n) if a pooling wants them.

        Raises:
            ValueError: anchor scores are wanted, but the input is flattened, or the model gives none, because its
                attention was changed after it was loaded.
        """
        if self._anchor and "attention_mask" not in features:
            raise ValueError(
                "anchor pooling found flattened input; wanted padded input with its attention mask. Leave the "
                "attention as the model was loaded: on a GPU it takes flash kernels by itself"
            )
        tokens = features["input_ids"]
        if tokens.numel():
            self._run(features, kwargs)
        else:  # texts of no tokens alone; beside others, they are padding and get zeros too
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
            raise ValueError(f'the attention was set to "{found}", which gives no anchor scores; load the model anew')
        mask = features["attention_mask"]
        features["anchor_scores"] = anchor_scores_of(output.attentions, self._places, mask, self._anchor)


def _without_hooks(module: Any) -> Any:
    """Copy a module, weights shared, without its hooks; the module itself, which may be in use, stays as it is."""
    clone = copy.copy(module)
    clone._modules = {name: child and _without_hooks(child) for name, child in module._modules.items()}
    hooks = module._forward_hooks.items()
    clone._forward_hooks = OrderedDict((key, hook) for key, hook in hooks if hook.__module__ != HOOKS)
    if hasattr(clone, "_output_capturing_hooks_installed"):
        clone._output_capturing_hooks_installed = False  # the next call puts them in again
    return clone


def load_magnitudes(model: Any, path: str) -> None:
    """Load the magnitudes of a DoRA adapter: transformers saves them, but does not find them again when it loads.

    Source: arXiv 2402.09353.

    Args:
        model: with the adapter in it; any other stays as it is.
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
    """Identify a base by some numbers of each of its weights, those in 4 bits left out: "dtype:digest"."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.named_parameters()):
        # A pooler that no file has is drawn anew each time.
        if "lora_" not in name and "pooler" not in name and weight.is_floating_point():
            sample = weight.detach().flatten()[:: max(1, weight.numel() // SAMPLED)]
            digest.update(f"{name.replace('.base_layer', '')} {tuple(weight.shape)}".encode())
            digest.update(str(sample.to(device="cpu", dtype=torch.bfloat16).tolist()).encode())
    return f"{str(model.dtype).removeprefix('torch.')}:{digest.hexdigest()[:16]}"


def _is_base(model: PreTrainedModel, expected: str) -> bool:
    """Tell whether the model is the base expected; one in float16 is rounded in another way than then, and believed."""
    dtype, digest = digest_of_base(model).split(":")
    return expected.endswith(f":{digest}") or (dtype == "float16" and not expected.startswith("float16:"))


def prompt_tokens(transformer: Transformer, prompt: str) -> int:
    """Count the tokens at the beginning of a text that are the prompt's alone, whatever text follows.

    Many decoders read "Query: " as 3 tokens, but "Query: cat" as "Query", ":" and " cat": the prompt has 2 of these.
    """
    texts = [transformer.preprocess([prompt + text])["input_ids"][0].tolist() for text in ("", "a", "Z")]
    tokens = 0
    for column in zip(*texts, strict=False):
        if len(set(column)) > 1:
            break
        tokens += 1
    return tokens


class AnchorPooling(Pooling):
    """Weighted mean of the token embeddings, each weighted by the attention it receives.

    Source: *Negative Matters* (ACL 2025) for the log form on the last layer, which are the defaults; the other
    settings are additions of multigrain.

    Args:
        embedding_dimension: D, the size of the token embeddings.
        include_prompt: whether the tokens of a prompt take part.
        form: "log" damps tokens that take most of the attention, "linear" does not.
        layers: the attention layers that are looked at, counted as in a list (-1 is the last); their scores are
            averaged.
        exclude_first: leave the first token out, which takes half of the attention in an untrained causal model.
        visibility_correction: divide the score of each token by the number of tokens that can see it; without it a
            causal mask favours early tokens.
        detach: let no gradient flow through the weights.

    Raises:
        ValueError: there is no such form, no layer, or a setting is not of its type.
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
        """Ask the transformer before for the scores; sentence-transformers calls this once a model is built or loaded.

        Raises:
            ValueError: the module before is no AnchorTransformer, its model cannot give the scores, or its token
                embeddings are of another size.
        """
        transformer: Any = model[0]
        # Loaded by sentence-transformers alone, the class has another import path.
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
        with torch.autocast(hidden.device.type, enabled=False):  # it would sum up in half precision
            pooled = torch.einsum("bn,bnd->bd", weights, hidden.to(weights.dtype))
        features["sentence_embedding"] = pooled.to(hidden.dtype)
        return features

    def weights(self, features: dict[str, Any]) -> Tensor:
        """Compute the share of each token in the embedding.

        Args:
            features: `anchor_scores` (B, n) and `attention_mask` (B, n), and `prompt_length` where there is a prompt.

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
        """Mark the tokens that take part: (B, n), 0 for those left out; None where all do (padding scores 0 anyway).

        The mask in the features stays as it is: losses that embed twice (GradCache) need it unchanged.
        """
        mask: Tensor = features["attention_mask"]
        taking_part = mask
        if not self.include_prompt and "prompt_length" in features:
            length = features["prompt_length"]
            tokens = int(length.flatten()[0]) if isinstance(length, Tensor) else int(length)
            taking_part = self._exclude_prompt_from_mask(mask, tokens)
        if self.exclude_first:
            # Counted from the first token that is not padding; a text of one token keeps it.
            is_first = (mask.cumsum(1) == 1) & (mask.sum(1, keepdim=True) > 1)
            taking_part = taking_part * ~is_first
        return None if taking_part is mask else taking_part
