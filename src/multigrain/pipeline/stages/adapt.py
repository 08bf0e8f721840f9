"""Adapt the base to attention in both directions."""

import random
from array import array
from collections.abc import Iterator

from multigrain.config import Config
from multigrain.data.corpus_file import Corpus
from multigrain.data.jsonl import read_pairs
from multigrain.data.record_file import Spool
from multigrain.files import atomic_folder
from multigrain.pipeline.recipe import adaptation_inputs
from multigrain.pipeline.run_dir import RunDir
from multigrain.pipeline.stages import Result
from multigrain.pipeline.start_anew import start_anew_if_changed
from multigrain.terminal import say


def adapt(config: Config, run_dir: RunDir) -> Result:
    """Adapt the base on the corpus and the training queries; an interrupted adaptation resumes.

    Held-out queries, and documents that only the held-out part may use, are not read.
    """
    from multigrain.model.language_model import load_language_model, require_saved_attention
    from multigrain.training.adaptation import adapt as adapt_model

    assert config.adapt is not None  # the stage applies only then
    fault = "adapting starts from the beginning: the checkpoint has other settings, texts or base"
    start_anew_if_changed(run_dir.adaptation, adaptation_inputs(config, run_dir), fault)
    model = load_language_model(config.model)
    found = adapt_model(model, _texts(config, run_dir), config.adapt, run_dir.adaptation, config.seed)
    say(f"  held-out loss {found.before:.3f} -> {found.after:.3f} nats per masked token")
    with atomic_folder(run_dir.adapted) as part:
        model.embedding.save_pretrained(str(part), create_model_card=False)
        model.causal.to("meta")  # else the weights are in memory twice
        require_saved_attention(part, config.model.bidirectional)
    return Result({"adapting_steps": found.steps, "adapting_tokens": found.tokens})


def _texts(config: Config, run_dir: RunDir) -> Iterator[str]:
    """Yield the documents and training queries in random order, read only as far as they are asked for.

    Memory holds only the place of each, 16 bytes.
    """
    corpus, queries = Corpus(run_dir.corpus), Spool(run_dir.folder)
    for pair in read_pairs(run_dir.train_pairs):
        queries.append(pair.query.encode())
    order = array("q", range(len(corpus) + len(queries)))
    random.Random(f"{config.seed} adapt").shuffle(order)
    for place in order:
        if place >= len(corpus):
            yield queries[place - len(corpus)].decode()
        elif (document := corpus[place]).split != "held_out":
            yield document.text
