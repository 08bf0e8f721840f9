"""What will be wrong with the models of a run, as far as their files tell without loading them. No torch."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import constants
from tokenizers import Tokenizer

from multigrain.config import LoraSection, ModelSection
from multigrain.errors import ConfigError
from multigrain.model.architectures import is_class, is_decoder, is_known
from multigrain.model.files import folder_of, is_gguf, modules_of, revision_of, settings_of
from multigrain.model.locate import PROMPTS_FILE, prompts_of, prompts_to_train, require_model
from multigrain.model.roles import ROLES, prompt_for
from multigrain.model.weight_files import gguf_fault, settings_faults, shapes_in, weight_faults

LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
SIZES = ("hidden_size", "n_embd", "dim", "d_model")
"""What architectures call the number of their layers, and the length of their vectors."""
OURS = tuple(
    f"{place}pooling.Anchor{kind}" for place in ("", "multigrain.model.") for kind in ("Transformer", "Pooling")
)
"""What `modules.json` calls the modules that multigrain brings along."""
POOLINGS = ("Pooling", "AnchorPooling")
KEPT = ("Dense", "LayerNorm", "Dropout")
"""Modules after the pooling that stay in the model that is trained."""
WITH_WEIGHTS = ("Dense", "LayerNorm")
TOKENIZERS = ("tokenizer*", "vocab*", "*.model", "merges.txt")
SENTENCE_CONFIGS = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
"""Where the host's transformer keeps its own settings."""
COUNT_LATER = (
    *("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "roberta-prelayernorm", "data2vec-text", "xmod"),
    *("mpnet", "longformer", "luke", "esm", "markuplm", "lilt"),
)
"""Architectures that count the positions of tokens from the one behind their padding token."""
ABSOLUTE = ("bert", "distilbert", "electra", "albert", "mobilebert", "convbert", "ernie", "nystromformer")
"""Others that have a table of positions, beyond which a text cannot go whatever length the model was saved with."""
LEGACY_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""What sentence-transformers before 6 wrote of a pooling, and what it is called since."""
MODES = {"cls": "cls", "mean": "mean", "weightedmean": "weighted", "lasttoken": "last"}
"""The poolings of the host that are settings of ours."""
NO_DEFAULTS = (None, "PreTrainedTokenizerFast", "TokenizersBackend")
"""Classes of tokenizers that have no EOS token unless their settings name one."""


def foresee(section: ModelSection, dimensions: Sequence[int] = ()) -> None:
    """Look into the base's files, so that what it cannot have is told before the language model is paid.

    Of GGUF files nothing is known before, but whether they are whole.

    Args:
        section: the model.
        dimensions: to which its vectors are to be cut (training.matryoshka).

    Raises:
        ConfigError: there is no such base, it cannot be loaded or trained, or cannot have what is asked for.
        RunError: the embedded model is not installed.
    """
    foresee_base(section.base)
    folder = folder_of(section.base)
    if folder is None:
        return
    inner = transformer_of(folder)
    config = settings_of(inner, "config.json")
    faults = [*_layer_faults(section, _setting(config, LAYERS)), *_prompt_faults(section, inner)]
    if section.lora:
        faults += _target_faults(section.lora, inner)
    if faults:
        raise ConfigError("model", faults)
    size = _length_of_vectors(folder, config)
    if size and (too_long := [dimension for dimension in dimensions if dimension > size]):
        raise vectors_too_short(too_long, size)


def foresee_base(name: str) -> None:
    """See that a base is there, and is such as can be trained, whatever is made of it.

    Raises:
        ConfigError: it is not.
        RunError: the embedded model is not installed.
    """
    foresee_encoder(name, "model.base")
    folder = folder_of(name)
    if folder is None:
        return
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        raise adapter_as_base(str(folder))
    inner = transformer_of(folder)
    if faults := [*_lost_modules(folder), *_eos_faults(inner, settings_of(inner, "config.json"))]:
        raise ConfigError("model.base", [f"{name} cannot be trained: {fault}" for fault in faults])


def foresee_encoder(name: str, key: str) -> None:
    """See that an embedding model is there, and can be loaded without running code that comes with it.

    Raises:
        ConfigError: it is not, or cannot; names the setting `key`.
        RunError: the embedded model is not installed.
    """
    _foresee_files(name, key, "AutoModel")
    if (folder := folder_of(name)) and (fault := _no_pooling(folder)):
        raise ConfigError(key, [f"{name} cannot be loaded: {fault}"])


def _foresee_files(name: str, key: str, loader: str) -> None:
    """The same of any model, which is loaded by this class of transformers.

    Raises:
        ConfigError: it is not, or cannot; names the setting `key`.
        RunError: the embedded model is not installed.
    """
    require_model(name, key)
    if is_gguf(name) and (fault := gguf_fault(Path(name))):
        raise ConfigError(key, [f"{name} {fault}"])
    is_whole = revision_of(name) is None or constants.is_offline_mode()
    if (folder := folder_of(name)) and (faults := [*_loading_faults(folder, is_whole, loader)]):
        raise ConfigError(key, [f"{name} cannot be loaded: {fault}" for fault in faults])


def foresee_cross_encoder(name: str, key: str) -> None:
    """See that a model that scores pairs is there, and has one score.

    Raises:
        ConfigError: as of `foresee_encoder`, or it is another model; names the setting `key`.
    """
    _foresee_files(name, key, "AutoModelForSequenceClassification")
    folder = folder_of(name)
    if folder is None or (len(modules_of(folder)) > 1 and _kind_of_host(folder) == "CrossEncoder"):
        return
    config = settings_of(transformer_of(folder), "config.json")
    scores = len(config["id2label"]) if config.get("id2label") else config.get("num_labels", 2)
    if fault := head_fault(config.get("architectures") or [], scores):
        raise no_cross_encoder(name, key, fault)


def notes(section: ModelSection) -> list[str]:
    """What is done otherwise than asked for, or than the base does it by itself, one line each."""
    folder = folder_of(section.base)
    if folder is None:
        return []
    found = length_note(section.base, section.max_tokens, "model.max_tokens")
    own = own_pooling(folder)
    if own and own != section.pooling and (own, section.pooling) != ("mean", "anchor"):
        keep = f'model.pooling = "{own}" keeps them' if own in MODES.values() else "multigrain cannot pool so"
        place = f'the base pools by {own}; "{section.pooling}" takes its place, so training starts from other vectors'
        found.append(f"{place} than the base's ({keep})")
    config = settings_of(transformer_of(folder), "config.json")
    if code := _own_code(config, "AutoModel"):
        place = f"the {config.get('model_type')} of transformers takes its place"
        found.append(f"the base brings code of its own ({code}); {place}")
    if sizes := [f"{one.get('in_features')} -> {one.get('out_features')}" for one in _dense_of(folder)]:
        found.append(f"the base's Dense ({', '.join(sizes)}) stays behind the pooling")
    size, length = settings_of(folder, PROMPTS_FILE).get("truncate_dim"), _length_of_vectors(folder, config)
    if size and (length is None or size < length):
        found.append(f"vectors are cut to {size} numbers, as those of the base are; training sees both lengths")
    return found


def length_note(name: str, max_tokens: int, key: str) -> list[str]:
    """A line where a model reads fewer tokens than the setting `key` asks for."""
    folder = folder_of(name)
    most = folder and _most_tokens(transformer_of(folder))
    return (
        [f"{key}: found {max_tokens}; {name} reads {most} tokens of a text at most"]
        if most and most < max_tokens
        else []
    )


def _most_tokens(inner: Path) -> int | None:
    """As loading will find it: the length that the model was saved with, within its positions."""
    config = settings_of(inner, "config.json")
    positions = config.get("max_position_embeddings", -1)
    saved = settings_of(inner, *SENTENCE_CONFIGS).get("max_seq_length")
    lengths = [saved] if saved else [settings_of(inner, "tokenizer_config.json").get("model_max_length"), positions]
    if config.get("model_type") in ABSOLUTE and config.get("position_embedding_type", "absolute") == "absolute":
        lengths.append(positions)
    if config.get("model_type") in COUNT_LATER and isinstance(positions, int):
        padding = config.get("pad_token_id")
        padding = padding if isinstance(padding, int) and config["model_type"] != "mpnet" else 1
        lengths.append(positions - padding - 1)
    return min((int(length) for length in lengths if isinstance(length, int | float) and length > 0), default=None)


def own_pooling(folder: Path) -> str | None:
    """How a saved model pools, in the words of `model.pooling` where it has one; None where nobody says it."""
    place = next((module["path"] for module in modules_of(folder) if _kind(module) == "Pooling"), None)
    if place is None:
        return None
    settings = settings_of(folder / place, "config.json")
    legacy = [name for name, is_on in settings.items() if name.startswith("pooling_mode_") and is_on is True]
    modes = settings.get("pooling_mode") or [LEGACY_MODES.get(name, name) for name in legacy]
    modes = [modes] if isinstance(modes, str) else [str(mode) for mode in modes]
    return " and ".join(MODES.get(mode, mode) for mode in modes) or None


def head_fault(architectures: Sequence[str], scores: int) -> str | None:
    """What is wrong with a cross-encoder of these architectures, and so many scores for a pair."""
    if not any(name.endswith("ForSequenceClassification") for name in architectures):
        return f"has no head that scores pairs ({', '.join(architectures) or 'no architecture'})"
    return f"gives {scores} scores for a pair" if scores != 1 else None


def no_cross_encoder(name: str, key: str, fault: str) -> ConfigError:
    """What to say of a model that is to score pairs, and cannot."""
    return ConfigError(key, [f"{name} {fault}; wanted a cross-encoder with one score, a reranker"])


def adapter_as_base(base: str) -> ConfigError:
    """What to say of a base that is no model by itself."""
    found = f"{base} is an adapter of another model; merge it first: multigrain merge {base} --out MERGED"
    return ConfigError("model.base", [found])


def vectors_too_short(dimensions: Sequence[int], size: int) -> ConfigError:
    """What to say of vectors that cannot be cut to such lengths."""
    return ConfigError("training.matryoshka", [f"found {list(dimensions)}; the vectors have {size} numbers"])


def unfit_dense(wanted: int, size: int) -> str:
    """What to say of a Dense module that reads vectors of another length than one pooling gives."""
    return f"its Dense reads vectors of {wanted} numbers, as several poolings together give; one gives {size}"


def _kind_of_host(folder: Path) -> str:
    """Which of its kinds of models the host saved; it says none of what old releases saved, and none of others'."""
    return str(settings_of(folder, PROMPTS_FILE).get("model_type", "SentenceTransformer"))


def _kind(module: dict[str, str]) -> str:
    return module["type"].rpartition(".")[2]


def transformer_of(folder: Path) -> Path:
    """Its folder: older models have each module in a folder of its own."""
    return folder / next((module["path"] for module in modules_of(folder)), "")


def _own_code(config: dict[str, Any], loader: str) -> str | None:
    """The code that a model brings along for the class of transformers that loads it."""
    code = config.get("auto_map")
    return str(code[loader]) if isinstance(code, dict) and code.get(loader) else None


def _loading_faults(folder: Path, is_whole: bool, loader: str) -> Iterator[str]:
    """What is wrong with a model's files; of the hub's, those that are not `is_whole` on this disk may be to come."""
    yield from settings_faults(folder)
    modules = modules_of(folder)
    own_code = "of its own, which multigrain does not run"
    types = [module["type"] for module in modules]
    if foreign := [name for name in types if not name.startswith("sentence_transformers.") and name not in OURS]:
        yield f"it has modules {own_code} ({', '.join(foreign)})"
    if modules and not _kind(modules[0]).endswith("Transformer"):
        return
    inner = transformer_of(folder)
    config = settings_of(inner, "config.json")
    if (kind := config.get("model_type")) and not is_known(kind):
        code = f"; it has code {own_code}" if "auto_map" in config else ""
        yield f'transformers knows no architecture "{kind}"{code}'
    elif (own := _own_code(config, loader)) and not is_class(own.rpartition(".")[2]):
        # Transformers would take the architecture of its own that bears that name, with weights drawn at random.
        yield f"it has code {own_code} ({own}), though it calls itself {kind}"
    if config or (inner / "adapter_config.json").is_file():
        yield from weight_faults(inner, is_whole)
    for module in modules:
        if module["path"]:
            yield from settings_faults(folder / module["path"])
        if _kind(module) in WITH_WEIGHTS:
            yield from weight_faults(folder / module["path"], is_whole)
    if is_whole and config and not any(path for pattern in TOKENIZERS for path in inner.glob(pattern)):
        yield f"there is no file of its tokenizer in {inner} ({', '.join(TOKENIZERS)})"


def _no_pooling(folder: Path) -> str | None:
    """What to say of a list of modules of which none makes one vector of those of the tokens."""
    kinds = [_kind(module) for module in modules_of(folder)]
    output = settings_of(transformer_of(folder), *SENTENCE_CONFIGS).get("module_output_name", "token_embeddings")
    if not kinds or not kinds[0].endswith("Transformer") or output == "sentence_embedding":
        return None
    if any(kind.endswith("Pooling") for kind in kinds):
        return None
    found = f"its modules.json lists no pooling ({', '.join(kinds)}), so texts get no vectors"
    return f"{found}; add one, or delete modules.json: then it pools by mean"


def _lost_modules(folder: Path) -> Iterator[str]:
    """Modules that have no place in what is trained: transformer, pooling, then those that are kept."""
    kinds = [_kind(module) for module in modules_of(folder)]
    if kinds and not kinds[0].endswith("Transformer"):
        yield f"it begins with a {kinds[0]}; wanted a transformer"
    pooling = next((place for place, kind in enumerate(kinds) if kind in POOLINGS), len(kinds))
    after = (*KEPT, "Normalize")
    if lost := [*kinds[1:pooling], *(kind for kind in kinds[pooling + 1 :] if kind not in after)]:
        yield f"it has modules that would be lost: {', '.join(lost)}"
    size = _setting(settings_of(transformer_of(folder), "config.json"), SIZES)
    for settings in _dense_of(folder):
        if settings.get("module_input_name", "sentence_embedding") != "sentence_embedding":
            yield "its Dense reads the vectors of tokens, not that of the text"
        activation = str(settings.get("activation_function", "torch."))
        if not activation.startswith("torch."):
            yield f"its Dense has code of its own ({activation}), which multigrain does not run"
        if size and settings.get("in_features", size) != size:
            yield unfit_dense(settings["in_features"], size)
        size = settings.get("out_features")


def _dense_of(folder: Path) -> list[dict[str, Any]]:
    """The settings of its Dense modules, in order."""
    dense = [module for module in modules_of(folder) if _kind(module) == "Dense"]
    return [settings_of(folder / module["path"], "config.json") for module in dense]


def _length_of_vectors(folder: Path, config: dict[str, Any]) -> int | None:
    last = next((settings.get("out_features") for settings in reversed(_dense_of(folder))), None)
    return last if isinstance(last, int) else _setting(config, SIZES)


def _setting(config: dict[str, Any], names: Sequence[str]) -> int | None:
    return next((config[name] for name in names if isinstance(config.get(name), int)), None)


def _eos_faults(inner: Path, config: dict[str, Any]) -> Iterator[str]:
    """Texts of a decoder have to end in a special token: one that they end in already, or the EOS token."""
    tokenizer, settings = _tokenizer(inner), settings_of(inner, "tokenizer_config.json")
    if tokenizer is None or not is_decoder(str(config.get("model_type"))):
        return
    special = {id for id, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    ends_so = all(special.intersection(tokenizer.encode(text).ids[-1:]) for text in ("a", ""))
    has_eos = settings.get("eos_token") or settings_of(inner, "special_tokens_map.json").get("eos_token")
    if not ends_so and not has_eos and settings.get("tokenizer_class") in NO_DEFAULTS:
        yield "its tokenizer has no EOS token, which decoders need at the end of a text"


def _layer_faults(section: ModelSection, layers: int | None) -> list[str]:
    if layers is None:
        return []
    faults = [
        f"anchor.layers: there is no attention layer {layer}; the base has {layers}"
        for layer in section.anchor.layers
        if section.pooling == "anchor" and not -layers <= layer < layers
    ]
    if type(section.bidirectional) is int and section.bidirectional > layers:
        faults.append(f"bidirectional: found {section.bidirectional}; the base has {layers} layers")
    if section.lora and (top := section.lora.top_layers or 0) > layers:
        faults.append(f"lora.top_layers: found {top}; the base has {layers} layers")
    return faults


def _target_faults(section: LoraSection, inner: Path) -> list[str]:
    """Targets of an adapter that are none of the modules whose weights the files have."""
    shapes = {name: shape for file in inner.glob("*.safetensors") for name, shape in shapes_in(file).items()}
    if section.targets == "all-linear" or not shapes:
        return []
    parts = {part for name in shapes for part in _modules_around(name)}
    unknown = [target for target in section.targets if f".{target}" not in parts]
    linear = {name.split(".")[-2] for name, shape in shapes.items() if name.endswith(".weight") and len(shape) > 1}
    known = ", ".join(sorted(name for name in linear if "embedding" not in name))
    return [f"lora.targets: found {unknown}; the base has {known}"] if unknown else []


def _modules_around(name: str) -> Iterator[str]:
    """All names, with a dot in front, by which the modules can be meant that a weight is in.

    >>> list(_modules_around("layer.0.query.weight"))
    ['.query', '.0.query', '.layer.0.query', '.0', '.layer.0', '.layer']
    """
    parts = name.split(".")[:-1]
    for end in range(len(parts), 0, -1):
        for start in range(end - 1, -1, -1):
            yield "." + ".".join(parts[start:end])


def _tokenizer(inner: Path) -> Any | None:
    try:
        tokenizer: Any = Tokenizer.from_file(str(inner / "tokenizer.json"))
    except Exception:  # the library raises no narrower one
        return None
    tokenizer.no_padding()  # some files pad every text to a length, or cut it
    tokenizer.no_truncation()
    return tokenizer


def _prompt_faults(section: ModelSection, inner: Path) -> list[str]:
    tokenizer = _tokenizer(inner)
    if tokenizer is None:
        return []
    prompts = prompts_to_train(section, prompts_of(section.base) or {})
    lengths = {prompt: len(tokenizer.encode(prompt).ids) for role in ROLES if (prompt := prompt_for(role, prompts))}
    return [
        f"max_tokens: {section.max_tokens} tokens are read, and the prompt {prompt!r} alone takes {length}; raise it"
        for prompt, length in lengths.items()
        if length >= section.max_tokens
    ]
