"""What a run's files say about texts that are no negatives."""

from itertools import chain

from multigrain.data.beir import OWN
from multigrain.data.corpus_file import Corpus
from multigrain.data.jsonl import read_pairs
from multigrain.data.known_false_negatives import FalseNegatives
from multigrain.pipeline.run_dir import RunDir
from multigrain.records import Pair


def false_negatives_of(run_dir: RunDir) -> FalseNegatives:
    """What is known of texts in a run, for its training pairs."""
    train = list(read_pairs(run_dir.train_pairs))
    known = chain.from_iterable(read_pairs(path) for path in run_dir.pair_files())
    has_groups = any(pair.group is not None for pair in train)
    return FalseNegatives(train, known, Corpus(run_dir.corpus) if has_groups else ())


def own_documents(run_dir: RunDir) -> list[Pair]:
    """The queries of a run that are documents of its corpus, each with that document."""
    if not run_dir.other_pairs.is_file():
        return []
    return [pair for pair in read_pairs(run_dir.other_pairs) if pair.source == OWN]
