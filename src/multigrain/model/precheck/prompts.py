"""Find faults of the prompts before texts, by the files of the base. Does not import torch."""

from collections.abc import Iterable, Iterator
from itertools import islice, takewhile
from typing import Any, NamedTuple

from multigrain.config import INSTRUCTION, ModelSection
from multigrain.errors import ConfigError
from multigrain.model.architectures import is_decoder
from multigrain.model.files import folder_of
from multigrain.model.precheck.training import ends_in_special, special_tokens, tokenizer_in
from multigrain.model.prompts import prompts_of, prompts_to_train
from multigrain.model.refusals import joined_prompt
from multigrain.model.roles import ROLES, prompt_for, template_of
from multigrain.model.saved_settings import class_of, modules_of, settings_of, token_limit, transformer_of

MOST = 5
"""Number of faults that a message lists: each pair may have an instruction of its own."""
SETTING = "model.max_tokens"
EOS = -1
"""Stands for the token in which training makes a decoder end its texts, if it does not yet."""


class Instruction(NamedTuple):
    """What queries look for."""

    text: str
    origin: str
    """Where it comes from, such as "of a pair"."""
    is_trained: bool
    """Whether it is put before queries in training, or only in evaluation."""


class _Prompt(NamedTuple):
    text: str
    named: str
    """The prompt in messages."""
    is_trained: bool


def precheck_prompts(section: ModelSection, max_tokens: int | None, instructions: Iterable[Instruction] = ()) -> None:
    """Check that each prompt leaves room for a text and, if the pooling leaves prompts out, shares no token with it.

    These are the prompts of the model to train, and those of queries with an instruction. If the base's files say too
    little, nothing is checked here.

    Args:
        section: the model settings.
        max_tokens: the setting `training.max_tokens`.
        instructions: the instructions of queries; unused if `model.query_prompt` is put before all queries.

    Raises:
        ConfigError: some do not; lists the first of them with their numbers of tokens.
    """
    folder = folder_of(section.base)
    tokenizer = None if folder is None else tokenizer_in(transformer_of(folder))
    if tokenizer is None:
        return
    reader = _Reader(section, tokenizer, max_tokens)
    found = (fault for prompt in _prompts(section, instructions) for fault in reader.faults(prompt))
    if first := list(islice(found, MOST)):
        setting, _ = first[0]
        raise ConfigError(setting, [fault for other, fault in first if other == setting])


def _prompts(section: ModelSection, instructions: Iterable[Instruction]) -> Iterator[_Prompt]:
    """Yield the prompts of the model, then those with the instructions."""
    prompts = prompts_to_train(section, prompts_of(section.base) or {})
    for prompt in dict.fromkeys(filter(None, (prompt_for(role, prompts) for role in ROLES))):
        yield _Prompt(prompt, f"the prompt {prompt!r} alone", is_trained=True)
    template = template_of(prompts) or section.query_template
    if template is None:
        return
    for text, origin, is_trained in instructions:
        prompt = template.replace(INSTRUCTION, text)
        yield _Prompt(prompt, f"the prompt with the instruction {text!r} {origin}", is_trained)


class _Reader:
    """A base as it will read texts: its tokenizer, its lengths, and whether its pooling leaves prompts out."""

    def __init__(self, section: ModelSection, tokenizer: Any, max_tokens: int | None) -> None:
        folder = folder_of(section.base)
        assert folder is not None  # it has a tokenizer
        inner = transformer_of(folder)
        self._section, self._tokenizer = section, tokenizer
        self._special = special_tokens(tokenizer) | {EOS}
        decodes = is_decoder(str(settings_of(inner, "config.json").get("model_type")))
        self._added = [EOS] if decodes and not ends_in_special(tokenizer) else []
        self._own_limit = token_limit(inner)
        self._trained_limit = max_tokens
        self._setting_of_pooling = _setting_that_leaves_prompts_out(section)

    def faults(self, prompt: _Prompt) -> Iterator[tuple[str, str]]:
        """Yield the setting and the fault, for each fault of a prompt."""
        length = len(self._ids(prompt.text))
        setting, most, found = self._limit(prompt.is_trained)
        if length >= most:
            advice = "shorten it" if most == self._own_limit else f"raise {setting}, or shorten it"
            yield setting, f"{found}, but {prompt.named} takes {length} tokens and leaves no room for a text; {advice}"
        if self._setting_of_pooling and self._joins(prompt.text):
            yield self._setting_of_pooling, joined_prompt(prompt.text, self._setting_of_pooling)

    def _limit(self, is_trained: bool) -> tuple[str, int, str]:
        """Return the setting of the shortest of all lengths, that length, and both in words."""
        limits = [(SETTING, self._section.max_tokens, f"found {self._section.max_tokens}")]
        if is_trained and self._trained_limit:
            limits.append(("training.max_tokens", self._trained_limit, f"found {self._trained_limit}"))
        if self._own_limit:
            read = f"found {self._section.max_tokens}, of which {self._section.base} reads at most {self._own_limit}"
            limits.append((SETTING, self._own_limit, read))
        return min(limits, key=lambda limit: limit[1])

    def _joins(self, prompt: str) -> bool:
        """Return whether the last token of the prompt depends on the text after it.

        sentence-transformers leaves out as many tokens as the prompt alone has, without a final special token. See
        `multigrain.model.pooling.prompt_tokens`, which finds out how many belong to the prompt, whatever text follows.
        """
        texts = [self._ids(prompt + text) for text in ("", "a", "Z")]
        counted = len(texts[0]) - len(self._special.intersection(texts[0][-1:]))
        equal = takewhile(lambda column: len(set(column)) == 1, zip(*texts, strict=False))
        return sum(1 for _ in equal) != counted

    def _ids(self, text: str) -> list[int]:
        return [*self._tokenizer.encode(text).ids, *self._added]


def _setting_that_leaves_prompts_out(section: ModelSection) -> str | None:
    """Return the setting by which the tokens of prompts are left out, as sentence-transformers counts them; or None.

    multigrain's own transformer counts them by trying texts, so nothing is joined.
    """
    folder = folder_of(section.base)
    modules = modules_of(folder) if folder else []
    counts_by_trying = section.pooling == "anchor" or section.lora is not None or type(section.bidirectional) is int
    if folder is None or counts_by_trying or any("Anchor" in class_of(module) for module in modules):
        return None
    if not section.prompt_in_pooling:
        return "model.prompt_in_pooling"
    own = next((folder / module["path"] for module in modules if class_of(module) == "Pooling"), None)
    leaves_out = section.pooling == "base" and settings_of(own, "config.json").get("include_prompt", True) is False
    return "model.pooling" if leaves_out else None
