"""The known false negatives in the files of a run: texts that must not become negatives."""

from itertools import chain

from multigrain.data.beir import OWN
from multigrain.data.jsonl import read_documents, read_pairs
from multigrain.data.known_false_negatives import FalseNegatives
from multigrain.pipeline.run_dir import RunDir
from multigrain.records import Pair


def false_negatives_of(run_dir: RunDir) -> FalseNegatives:
    """Collect the texts that, by the files of a run, are not negatives of its training pairs."""
    known = chain.from_iterable(read_pairs(path) for path in run_dir.pair_files())
    return FalseNegatives(read_pairs(run_dir.train_pairs), known, read_documents(run_dir.corpus))


def own_documents(run_dir: RunDir) -> list[Pair]:
    """Return the queries of a run that are also documents of its corpus, each paired with that document."""
    if not run_dir.other_pairs.is_file():
        return []
    return [pair for pair in read_pairs(run_dir.other_pairs) if pair.source == OWN]
