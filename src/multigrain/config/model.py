"""The section `[model]`: the base model, its pooling, adapter and prompts."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from multigrain.config.base import Section
from multigrain.records import is_one_line

INSTRUCTION = "{instruction}"
"""The place of the instruction in a query prompt."""
INSTRUCT = f"Instruct: {INSTRUCTION}\nQuery: "
"""The query prompt around an instruction, unless `query_prompt` gives another."""


class AnchorSection(Section):
    """Settings of anchor-token-aware pooling. The defaults are those of the paper."""

    form: Literal["log", "linear"] = "log"
    """Function from the attention that a token receives to its weight. `log` damps the tokens that receive most;
    `linear` does not."""
    layers: list[int] = Field([-1], min_length=1)
    """Attention layers that give the weights, indexed as in a Python list: -1 is the last. Several are averaged."""
    exclude_first: bool = False
    """Whether the first token is left out. It receives half of the attention in an untrained causal model."""
    visibility_correction: bool = False
    """Whether the score of a token is divided by the number of tokens that can attend to it. Without the correction, a
    causal mask favours early tokens."""
    detach: bool = False
    """Whether gradients stop at the pooling weights."""


def one_line(text: str, says: str = "says what queries look for") -> str:
    """Return an instruction, or another text of one line.

    Args:
        text: the text.
        says: what it does, for messages.

    Raises:
        ValueError: it is empty, or has line breaks.
    """
    if not is_one_line(text):
        raise ValueError(f"found {text!r}; wanted one line that {says}")
    return text


class LoraSection(Section):
    """Settings of a low-rank adapter (LoRA, arXiv 2106.09685), trained in place of all weights."""

    rank: int = Field(16, ge=1)
    """Rank of the adapter."""
    alpha: int | None = Field(None, ge=1)
    """Numerator of the adapter's scale, alpha / rank. By default twice the rank, so the scale is 2."""
    dropout: float = Field(0.05, ge=0, lt=1)
    """Dropout probability in the adapter."""
    targets: list[str] | Literal["all-linear"] = "all-linear"
    """Modules that get an adapter: `all-linear`, or a list of names such as `["q_proj", "v_proj"]`."""
    dora: bool = False
    """Whether the adapter is weight-decomposed (DoRA, arXiv 2402.09353)."""
    top_layers: int | None = Field(None, ge=1)
    """Number of last layers that get an adapter. By default all layers do."""
    quantize: Literal["4bit"] | None = None
    """Quantization of the frozen weights in training (QLoRA). Needs `pip install "multigrain[qlora]"`. By default they
    are not quantized."""


class ModelSection(Section):
    """Settings of the model to train."""

    base: str = "embedded"
    """Base model: `embedded` (all-MiniLM-L6-v2), `embedded-llm` (SmolLM2-135M, a decoder), a folder, a GGUF file, or a
    hub name."""
    pooling: Literal["base", "anchor", "mean", "cls", "last", "weighted"] = "base"
    """Pooling of token vectors into one: `base` (the base's own, or `mean` if it has none), `anchor`
    (anchor-token-aware, as in the paper), or as in sentence-transformers `mean`, `cls` (first token), `last` (last
    token) or `weighted` (mean weighted by position)."""
    anchor: AnchorSection = AnchorSection()
    """Settings of `pooling = "anchor"`."""
    bidirectional: bool | Annotated[int, Field(ge=1)] = False
    """Whether the tokens of a decoder attend to later tokens, as in an encoder. A number restricts this to that many
    last layers, which suits `lora.top_layers`."""
    lora: LoraSection | None = None
    """Adapter to train in place of all weights. By default all weights are trained."""
    max_tokens: int = Field(256, ge=8)
    """Maximum length of a text, in tokens; longer texts are truncated."""
    instruction: str | None = Field(None, min_length=1)
    """Task in one sentence, such as "Given a claim, find documents that refute it". It is put before queries whose pair
    has no instruction of its own; documents then have no prompt, unless `document_prompt` gives one. By default such
    queries get the prompt of the base, if it has any."""
    query_prompt: str | None = None
    """Prompt before queries, in place of the base's own, such as "query: " for E5, whose files do not name it. The base
    is measured with it too. A prompt with `{instruction}` is put before queries that have an instruction; any other
    is put before all queries, in place of instructions."""
    document_prompt: str | None = None
    """Prompt before documents, in place of the base's own, such as "passage: "."""
    prompt_in_pooling: bool = True
    """Whether the tokens of a prompt take part in pooling. They are attended to in either case."""

    @field_validator("instruction")
    @classmethod
    def _one_line(cls, instruction: str | None) -> str | None:
        return instruction if instruction is None else one_line(instruction)

    @model_validator(mode="after")
    def _one_prompt(self) -> "ModelSection":
        if self.instruction is not None and self.query_template is None:
            found = f"query_prompt: found {self.query_prompt!r} beside an instruction"
            raise ValueError(f"{found}; wanted a prompt with {INSTRUCTION}, or only one of the two")
        return self

    @property
    def query_template(self) -> str | None:
        """The prompt of queries that have an instruction; None if `query_prompt` is the prompt of all queries."""
        if self.query_prompt is None:
            return INSTRUCT
        return self.query_prompt if INSTRUCTION in self.query_prompt else None

    @model_validator(mode="after")
    def _anchor_settings_are_used(self) -> "ModelSection":
        if self.pooling != "anchor" and self.anchor != AnchorSection():  # run folders name all settings
            raise ValueError(f'model.anchor has an effect only with pooling = "anchor", found "{self.pooling}"')
        return self


def described(section: ModelSection) -> str:
    """Describe in words how the base is changed."""
    pooling = "the base's pooling" if section.pooling == "base" else f"{section.pooling} pooling"
    words = [pooling, f"{section.max_tokens} tokens"]
    if section.bidirectional:
        words.append("bidirectional" if section.bidirectional is True else f"top {section.bidirectional} bidirectional")
    if lora := section.lora:
        where = f"the top {lora.top_layers} layers" if lora.top_layers else "all layers"
        words.append(f"{'DoRA' if lora.dora else 'LoRA'} of rank {lora.rank} in {where}")
    return ", ".join(words)
