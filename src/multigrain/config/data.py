"""The section `[data]`: pairs, corpus, several sources of both, and the held-out part."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from multigrain.config.base import Section
from multigrain.config.model import one_line

KEYS_OF_MODES: dict[str, tuple[str | None, tuple[str, ...]]] = {
    "pairs": ("pairs", ()),
    "corpus": ("corpus", ("pairs",)),
    "tasks": (None, ("pairs", "corpus", "instruction", "task")),
}
"""Mode of a source -> the key that it needs, and the keys that have no effect."""
WRITES = {"corpus": "which writes queries for passages", "tasks": "which writes all texts and their instructions"}
"""Mode of a source -> what the language model writes."""


class SourceSection(Section):
    """One of several sources: its pairs, given or written, and the corpus that their negatives come from."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the source in records and reports, unique in the run: letters, digits, dots, hyphens and underscores."""
    mode: Literal["pairs", "corpus", "tasks"] = "pairs"
    """Origin of the pairs. `pairs`: they are given. `corpus`: the language model writes queries for passages of
    `corpus`. `tasks`: it invents search tasks in `synthesis.domains`, and pairs for them; at most one source may have
    this mode. Negatives follow for all."""
    pairs: str | None = Field(None, min_length=1)
    """Source of the pairs, as in `data.pairs`. Required in mode `pairs` only."""
    corpus: str | None = Field(None, min_length=1)
    """Source of the corpus, as in `data.corpus`. Required in mode `corpus`."""
    instruction: str | None = Field(None, min_length=1)
    """What the queries look for, in one line. It is written into the records of pairs that have no instruction."""
    task: str | None = Field(None, min_length=1)
    """Kind of search, such as "retrieval". It is written into the records of pairs that have no task."""
    limit: int | None = Field(None, ge=1)
    """Maximum number of training pairs of this source, drawn at random by the seed. By default all are used. In mode
    `corpus`, it also limits the queries that are written, besides those for the held-out part."""
    weight: float | None = Field(None, ge=0)
    """Share of the training steps, relative to the weights of the other sources. Give it for every source or for none.
    By default the shares follow `data.weight_exponent`. A source of weight 0 is not trained on: it is only held out and
    measured, or searched. Its pairs must be given."""

    @field_validator("instruction")
    @classmethod
    def _has_one_line(cls, instruction: str | None) -> str | None:
        return instruction if instruction is None else one_line(instruction)

    @field_validator("task")
    @classmethod
    def _names_a_task(cls, task: str | None) -> str | None:
        return task if task is None else one_line(task, "names the kind of search")

    @model_serializer(mode="wrap")
    def _without_default_mode(self, serialized: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out the mode of given pairs, so that runs with given pairs only do not depend on it."""
        settings: dict[str, Any] = serialized(self)
        if self.mode == "pairs":
            settings.pop("mode", None)
        return settings

    @model_validator(mode="after")
    def _has_what_its_mode_needs(self) -> "SourceSection":
        if fault := self._fault():
            raise ValueError(f'source "{self.name}": {fault}')
        return self

    def _fault(self) -> str | None:
        """Return what is missing for the mode of the source, or has no effect in it."""
        needed, useless = KEYS_OF_MODES[self.mode]
        if needed is not None and getattr(self, needed) is None:
            told = ', or have pairs written (mode = "corpus" or "tasks")' if self.mode == "pairs" else ""
            return f'the key {needed} is missing, which mode = "{self.mode}" needs; add it{told}'
        if found := next((key for key in useless if getattr(self, key) is not None), None):
            return f'the key {found} has no effect with mode = "{self.mode}", {WRITES[self.mode]}; remove it'
        if self.weight == 0 and self.mode != "pairs":
            return f'weight = 0 would have pairs written (mode = "{self.mode}") and not trained on; remove the source'
        if self.corpus == "python-docs":
            advice = "remove the key corpus" if self.mode == "pairs" else 'set pairs = "python-docs" in place of mode'
            return f"python-docs has its own corpus; {advice}"
        return None


class DataSection(Section):
    """Settings of the data: pairs, corpus, and the held-out part."""

    pairs: str | None = Field(None, min_length=1)
    """Source of the pairs: `beir:FOLDER:SPLIT`, `python-docs`, or a file, a folder or a dataset of the Hugging Face hub
    in one of the forms of docs/interchange.md. A dataset is `hf:ORG/NAME`, `hf:ORG/NAME:CONFIG`, `hf:ORG/NAME::SPLIT`
    or `hf:ORG/NAME:CONFIG:SPLIT`, by default with the default configuration and the split `train`. `@REVISION` after
    the name pins a commit, a tag or a branch. Required, unless the language model writes the pairs (`synthesis.mode`),
    or there are `sources`."""
    corpus: str | None = None
    """Source of the corpus: `FILE.jsonl`, `beir:FOLDER` or a dataset of the hub. By default the corpus that belongs to
    `pairs`, else the positives."""
    sources: list[SourceSection] = []
    """Several sources of pairs, in place of `pairs`, `corpus` and `limit`. Each has its own corpus: the negatives of a
    pair come from the corpus of its source, and held-out queries search it."""
    weight_exponent: float = Field(1.0, ge=0)
    """Exponent a of the shares of sources without weights: a source with n tuples gets a share proportional to n^a.
    1 takes all pairs equally often, 0 all sources; values between favour small sources (temperature sampling)."""
    held_out: Annotated[float, Field(ge=0, lt=1)] | list[str] = 0.1
    """Share of the queries to hold out for the evaluation, or a list of sources (for `python-docs`: packages) to hold
    out whole. With `sources`, each gives its share, or the list has names of `sources`."""
    dev_share: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of the training pairs to set aside as the dev set. It is not trained on; choices are made on it, such as
    the weight of BM25 in the hybrid retriever and the recipe of `multigrain tune`. It has at most 500 pairs. If the
    share is fewer than 200 pairs, there is no dev set."""
    limit: int | None = Field(None, ge=1)
    """Maximum number of training pairs, drawn at random by the seed. By default all are used."""
    drop_leaked: bool = False
    """Whether to leave out training pairs whose query is also in the evaluation. By default such a pair is an error."""

    @model_serializer(mode="wrap")
    def _without_unused(self, serialized: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out the settings of several sources if there are none, so that other runs do not depend on them."""
        settings: dict[str, Any] = serialized(self)
        if not self.sources:
            settings.pop("sources", None)
            settings.pop("weight_exponent", None)
        return settings

    @model_validator(mode="after")
    def _has_one_form(self) -> "DataSection":
        if not self.sources:
            return self
        for key in ("pairs", "corpus", "limit"):
            if getattr(self, key) is not None:
                raise ValueError(f"{key} has no effect beside [[data.sources]]; move it into one of the sources")
        invented = [source.name for source in self.sources if source.mode == "tasks"]
        if len(invented) > 1:
            found = f'sources {", ".join(invented)} have mode = "tasks"'
            raise ValueError(f"{found}, but [synthesis] describes the tasks of one; keep one, and list all its domains")
        names = [source.name for source in self.sources]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f'two sources have the name "{twice}"; give each its own')
        self._require_known(names)
        self._require_weights(names)
        return self

    def _require_known(self, names: list[str]) -> None:
        held_out = self.held_out if isinstance(self.held_out, list) else []
        if unknown := [name for name in held_out if name not in names]:
            raise ValueError(f"held_out: no source {', '.join(unknown)}; sources: {', '.join(names)}")
        if held_out and not self.trained_sources:
            raise ValueError("held_out: every source is held out or has weight 0; nothing is left to train on")

    def _require_weights(self, names: list[str]) -> None:
        weights = [source.weight for source in self.sources]
        given = [weight for weight in weights if weight is not None]
        if not given:
            return
        if len(given) < len(names):
            bare = next(name for name, weight in zip(names, weights, strict=True) if weight is None)
            raise ValueError(f'source "{bare}" has no weight, but others have; give one to each, or to none')
        if not sum(given):
            raise ValueError("the weights of the sources sum to 0; give at least one a weight above 0")
        if self.weight_exponent != 1:
            raise ValueError("weight_exponent has no effect beside weights; remove it, or the weights")

    @property
    def written_sources(self) -> list[SourceSection]:
        """Those of several sources whose pairs a language model writes."""
        return [source for source in self.sources if source.mode != "pairs"]

    @property
    def source_names(self) -> list[str]:
        """Names of the sources, in order; empty if there is only one, without a name."""
        return [source.name for source in self.sources]

    @property
    def trained_sources(self) -> list[SourceSection]:
        """The sources that are trained on: those of weight 0, or held out whole, are not."""
        held_out = self.held_out if isinstance(self.held_out, list) else []
        return [source for source in self.sources if source.weight != 0 and source.name not in held_out]

    @property
    def trained_pairs(self) -> list[str]:
        """The sources of given training pairs, as in `data.pairs`."""
        if self.pairs is not None:
            return [self.pairs]
        return [source.pairs for source in self.trained_sources if source.pairs is not None]

    def part_of_weights(self, source: SourceSection) -> float:
        """Return the weight of a source as a part of the sum of all weights, or 1 if there are no weights."""
        return source.weight / sum(other.weight or 0.0 for other in self.sources) if source.weight else 1.0

    def shares(self, counts: Mapping[str, int]) -> dict[str, float] | None:
        """Return the share of the training steps of each source; None if there are not several.

        Args:
            counts: number of pairs or tuples of each source; a source without any has no share.

        >>> sources = [SourceSection(name=name, pairs="p") for name in "ab"]
        >>> DataSection(sources=sources, weight_exponent=0.5).shares({"a": 900, "b": 100})
        {'a': 0.75, 'b': 0.25}
        """
        if not self.sources:
            return None
        found: dict[str, float] = {}
        for source in self.sources:
            if count := counts.get(source.name, 0):
                found[source.name] = count**self.weight_exponent if source.weight is None else source.weight
        total = sum(found.values()) or 1.0  # all may be of weight 0
        return {name: weight / total for name, weight in found.items()}

    @property
    def origin(self) -> str:
        """Where the pairs come from, for messages."""
        return self.pairs or ("[[data.sources]]" if self.sources else "[data]")
