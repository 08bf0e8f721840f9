"""The section `[model]`: the base model, its pooling, its adapter, its prompts."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from multigrain.config.base import Section


class AnchorSection(Section):
    """Settings of anchor-token-aware pooling. The defaults are those of the paper."""

    form: Literal["log", "linear"] = "log"
    """How attention becomes a weight. `linear` does not damp the tokens that take most of it."""
    layers: list[int] = Field([-1], min_length=1)
    """Attention layers that give the weights, counted as in a list: -1 is the last."""
    exclude_first: bool = False
    """Whether the first token is left out; it takes half of the attention in an untrained causal model."""
    visibility_correction: bool = False
    """Whether the score of a token is divided by the number of tokens that see it. A causal mask favours early
    tokens."""
    detach: bool = False
    """Whether gradients stop at the weights."""


class LoraSection(Section):
    """Settings of a low-rank adapter (LoRA, arXiv 2106.09685), trained in place of all weights."""

    rank: int = Field(16, ge=1)
    alpha: int | None = Field(None, ge=1)
    """Numerator of the adapter's scale alpha / rank. By default the scale is 2."""
    dropout: float = Field(0.05, ge=0, lt=1)
    targets: list[str] | Literal["all-linear"] = "all-linear"
    """Names of the modules that get an adapter, such as `["q_proj", "v_proj"]`."""
    dora: bool = False
    """Whether the adapter is weight-decomposed (DoRA, arXiv 2402.09353)."""
    top_layers: int | None = Field(None, ge=1)
    """Number of last layers that get an adapter. The default is all."""
    quantize: Literal["4bit"] | None = None
    """Whether frozen weights are kept in 4 bits in training (QLoRA). Needs `pip install "multigrain[qlora]"`."""


class ModelSection(Section):
    """Settings of the model that is trained."""

    base: str = "embedded"
    """`embedded` (all-MiniLM-L6-v2), `embedded-llm` (SmolLM2-135M, a decoder), a folder, a GGUF file, or a hub name."""
    pooling: Literal["anchor", "mean", "cls", "last", "weighted"] = "anchor"
    anchor: AnchorSection = AnchorSection()
    bidirectional: bool | Annotated[int, Field(ge=1)] = False
    """Whether the tokens of a decoder attend to later ones, as in an encoder. A number limits this to as many last
    layers, which suits `lora.top_layers`."""
    lora: LoraSection | None = None
    max_tokens: int = Field(256, ge=8)
    instruction: str | None = Field(None, min_length=1)
    """What queries look for, in a sentence such as "Given a claim, find documents that refute it". Queries then begin
    with it, and documents with nothing. The default is the prompts of the base, if it has any."""
    query_prompt: str | None = None
    """Prompt before queries in place of the base's own, such as "query: " for E5, whose files do not name it. The base
    is measured with it too."""
    document_prompt: str | None = None
    """Prompt before documents in place of the base's own, such as "passage: "."""
    prompt_in_pooling: bool = True
    """Whether the tokens of a prompt take part in the pooling; they are attended to in any case."""

    @field_validator("instruction")
    @classmethod
    def _one_line(cls, instruction: str | None) -> str | None:
        if instruction is not None and (not instruction.strip() or len(instruction.splitlines()) > 1):
            raise ValueError(f"found {instruction!r}; wanted one line that says what queries look for")
        return instruction

    @model_validator(mode="after")
    def _one_prompt(self) -> "ModelSection":
        if self.instruction is not None and (self.query_prompt is not None or self.document_prompt is not None):
            raise ValueError("instruction, query_prompt and document_prompt: an instruction decides both; take it out")
        return self

    @model_validator(mode="after")
    def _anchor_settings_are_used(self) -> "ModelSection":
        if self.pooling != "anchor" and self.anchor.model_fields_set:
            raise ValueError(f'model.anchor is of use with pooling = "anchor" alone, found "{self.pooling}"')
        return self


def described(section: ModelSection) -> str:
    """Describe in words what is made of the base."""
    words = [f"{section.pooling} pooling", f"{section.max_tokens} tokens"]
    if section.bidirectional:
        words.append("bidirectional" if section.bidirectional is True else f"top {section.bidirectional} bidirectional")
    if lora := section.lora:
        where = f"the top {lora.top_layers} layers" if lora.top_layers else "all layers"
        words.append(f"{'DoRA' if lora.dora else 'LoRA'} of rank {lora.rank} in {where}")
    return ", ".join(words)
