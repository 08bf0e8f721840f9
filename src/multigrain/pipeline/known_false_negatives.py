"""The false negatives that the files of a run tell of: texts that must not be taken as negatives."""

from itertools import chain

from multigrain.data.beir import OWN
from multigrain.data.jsonl import read_documents, read_pairs
from multigrain.data.known_false_negatives import FalseNegatives
from multigrain.pipeline.run_dir import RunDir
from multigrain.records import Pair


def false_negatives_of(run_dir: RunDir) -> FalseNegatives:
    """Collect what the run's files say of texts that are no negatives of its training pairs."""
    known = chain.from_iterable(read_pairs(path) for path in run_dir.pair_files())
    return FalseNegatives(read_pairs(run_dir.train_pairs), known, read_documents(run_dir.corpus))


def own_documents(run_dir: RunDir) -> list[Pair]:
    """Return the queries of a run that are documents of its corpus, each with that document."""
    if not run_dir.other_pairs.is_file():
        return []
    return [pair for pair in read_pairs(run_dir.other_pairs) if pair.source == OWN]
