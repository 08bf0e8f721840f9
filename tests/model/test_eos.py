"""How texts end, in memory and in whatever reads the saved tokenizer."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import AutoConfig, AutoTokenizer, GPT2Tokenizer, GPTNeoXTokenizer, LlamaTokenizer

from multigrain.config import ModelSection
from multigrain.errors import ConfigError
from multigrain.model.build import build_model
from multigrain.model.eos import end_in_eos, ensure_pad_token, is_decoder, last_token, persistent_tokenizer
from multigrain.model.load import load_base
from tests.conftest import WORDS
from tests.model.decoder import BOS, EOS, PAD, tiny_decoder, tokenizer

CAT, DOG = 14, 15


def ids(given: Any, text: str, **options: Any) -> list[int]:
    return list(given(text, **options)["input_ids"])


@pytest.mark.parametrize("padding_side", ["right", "left"])
@pytest.mark.parametrize("template", ["none", "bos"])
def test_every_text_ends_in_eos_and_what_stood_before_it_stays(
    tmp_path: Path, template: str, padding_side: str
) -> None:
    given = tokenizer(template, padding_side)
    begin = [BOS] if template == "bos" else []
    end_in_eos(given)
    given.save_pretrained(tmp_path)
    for read in (given, AutoTokenizer.from_pretrained(tmp_path)):
        assert ids(read, "cat dog") == [*begin, CAT, DOG, EOS]
        assert ids(read, "") == [*begin, EOS]
        cut = ids(read, "cat " * 99, truncation=True, max_length=5)
        assert cut == [*begin, *[CAT] * (4 - len(begin)), EOS]
        assert ids(read, "cat", add_special_tokens=False) == [CAT]
        assert read("cat", "dog")["input_ids"][-1] == EOS
        assert read.pad_token == "</s>"
        # Padded with the EOS token itself, a text keeps its own in the mask.
        padded = read(["cat", "cat dog"], padding=True)
        assert [sum(row) for row in padded["attention_mask"]] == [len(begin) + 2, len(begin) + 3]
    plain = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    plain.no_truncation()
    assert plain.encode("cat dog").ids == [*begin, CAT, DOG, EOS]


def test_a_second_time_changes_nothing() -> None:
    given = tokenizer()
    for _ in range(2):
        end_in_eos(given)
    assert ids(given, "cat") == [CAT, EOS]


@pytest.mark.parametrize("template", ["eos", "both"])
def test_a_tokenizer_that_ends_texts_already_stays_as_it_is(template: str) -> None:
    given = tokenizer(template, pad=True)
    before = given.backend_tokenizer.to_str()
    end_in_eos(given)
    given.backend_tokenizer.no_truncation()
    assert given.backend_tokenizer.to_str() == before
    assert given.pad_token == "<pad>"


def test_a_decoder_that_embeds_keeps_the_token_it_was_trained_to_end_in() -> None:
    """Qwen3-Embedding ends texts in another token than its EOS (QwenLM/Qwen3-Embedding, issue 122)."""
    given = tokenizer(pad=True)
    given.backend_tokenizer.post_processor = TemplateProcessing(single="$A <pad>", special_tokens=[("<pad>", PAD)])
    end_in_eos(given)
    assert ids(given, "cat") == [CAT, PAD]
    assert last_token(given) == "<pad>"


def test_unknown_words_at_the_end_are_no_ending() -> None:
    """The texts that are tried may all be unknown to the tokenizer, which gives a special token for them."""
    given = tokenizer()
    given.backend_tokenizer.model = type(given.backend_tokenizer.model)({"<unk>": 0, "</s>": EOS}, unk_token="<unk>")
    assert last_token(given) is None


def test_tokenizers_that_cannot_end_texts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="model.base: .* cannot be trained: its tokenizer has no EOS token"):
        build_model(ModelSection(base=str(tiny_decoder(eos=False))))
    slow = tokenizer()
    with pytest.raises(ValueError, match="is not a fast one"):
        end_in_eos(_Slow(slow))


class _Slow:
    """A tokenizer in Python, which has no file of its own to be changed."""

    all_special_ids = (EOS,)
    eos_token, pad_token = "</s>", None

    def __init__(self, fast: Any) -> None:
        self._fast = fast

    def __call__(self, text: str, **options: Any) -> Any:
        return self._fast(text, **options)


@pytest.mark.parametrize("kind", [LlamaTokenizer, GPT2Tokenizer])
def test_tokenizers_that_write_their_own_template_do_not_forget_ours(tmp_path: Path, kind: Any) -> None:
    """Their settings add_bos_token and add_eos_token have the template written anew when they are made."""
    letters = sorted(set("".join(WORDS)))
    vocabulary = {t: i for i, t in enumerate(["<unk>", "<s>", "</s>", "<|endoftext|>", "▁", "Ġ", *letters])}
    given = kind(vocab=vocabulary, merges=[], add_bos_token=True, add_eos_token=False)
    end_in_eos(given)
    given.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert ids(again, "cat dog") == ids(given, "cat dog")
    assert ids(again, "cat dog")[0] == given.bos_token_id
    assert ids(again, "cat dog")[-1] == given.eos_token_id


def test_a_tokenizer_whose_class_forgets_the_ending_is_replaced(tmp_path: Path) -> None:
    letters = sorted(set("".join(WORDS)))
    given = GPTNeoXTokenizer(vocab={t: i for i, t in enumerate(["<|endoftext|>", "Ġ", *letters])}, merges=[])
    end_in_eos(given)
    given.save_pretrained(tmp_path / "forgets")
    assert ids(AutoTokenizer.from_pretrained(tmp_path / "forgets"), "cat") != ids(given, "cat")
    kept = persistent_tokenizer(given)
    kept.save_pretrained(tmp_path / "kept")
    for text in ("cat dog", "", "cat " * 40):
        assert ids(AutoTokenizer.from_pretrained(tmp_path / "kept"), text) == ids(given, text)
    same = tokenizer("eos")
    assert persistent_tokenizer(same) is same


@pytest.mark.parametrize("padding_side", ["right", "left"])
@pytest.mark.parametrize("pooling", ["anchor", "mean", "last"])
def test_padding_that_looks_like_eos_never_changes_a_vector(pooling: Any, padding_side: Any) -> None:
    base = tiny_decoder("bos", padding_side)
    model = build_model(ModelSection(base=str(base), pooling=pooling, bidirectional=True, max_tokens=16))
    texts = ["fish", "", "a big dog runs under the old table near the door", "the cat " * 20]
    assert model.preprocess(texts)["input_ids"][0 if padding_side == "left" else 1].tolist().count(EOS) > 1
    alone = np.stack([model.encode(text) for text in texts])
    np.testing.assert_allclose(model.encode(texts), alone, atol=1e-6)
    # The last token of a text that is cut is still the EOS token.
    features = model.preprocess(texts[3:])
    assert features["input_ids"][0].tolist()[-1] == EOS and features["input_ids"].shape == (1, 16)


def test_there_is_always_a_token_to_pad_with() -> None:
    for given, expected in ((tokenizer(), "</s>"), (tokenizer(pad=True), "<pad>"), (tokenizer(eos=False), "<unk>")):
        ensure_pad_token(given)
        assert given.pad_token == expected


def test_a_base_that_has_no_token_to_pad_with_can_be_measured() -> None:
    base = load_base(str(tiny_decoder()))
    texts = ["cat", "the dog runs"]
    np.testing.assert_allclose(base.encode(texts), [base.encode(text) for text in texts], atol=1e-6)


def test_the_base_is_measured_as_it_is_and_an_encoder_trained_as_it_is(tiny_encoder: Path) -> None:
    base: SentenceTransformer = load_base(str(tiny_decoder()))
    assert ids(base.tokenizer, "cat") == [CAT]
    model = build_model(ModelSection(base=str(tiny_encoder)))
    assert ids(model.tokenizer, "cat") == ids(load_base(str(tiny_encoder)).tokenizer, "cat")


WRITE = ["llama", "qwen3", "gemma2", "gpt2", "mistral"]
READ = ["bert", "xlm-roberta", "modernbert", "t5", "mpnet"]


@pytest.mark.parametrize("kind", WRITE + READ)
def test_which_architectures_write(kind: str) -> None:
    assert is_decoder(AutoConfig.for_model(kind)) is (kind in WRITE)
