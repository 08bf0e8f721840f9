"""Write graded tuples in the forms that other tools train on.

    hf                     a Hugging Face dataset: one row for each tuple, with all that is known of its negatives
    sentence-transformers  parquet with the columns anchor, positive, negative_1 .. negative_n
    flagembedding          JSON lines {"query", "pos", "neg", "neg_scores", "prompt"}
    tevatron               JSON lines {"query_id", "query", "positive_passages", "negative_passages"}

Sources: the data formats in the READMEs of FlagEmbedding (examples/finetune/embedder) and Tevatron, and the section
"Dataset Format" of sentence-transformers' training overview.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from multigrain.config import require_free_form
from multigrain.errors import ConfigError
from multigrain.export.tuple_forms import COLUMNS, FORMS
from multigrain.export.tuple_survey import Survey, survey_of
from multigrain.records import GradedTuple
from multigrain.terminal import counted

Tuples = Callable[[], Iterator[GradedTuple]]
"""Reads the tuples from the start; each form goes through them twice, so that none needs them all in memory."""


def export_data(tuples: Tuples, form: str, out: Path, force: bool = False, negatives: int | None = None) -> str:
    """Write the tuples to `out`, whole or not at all; returns a line that says what was written and how to load it.

    Args:
        tuples: reads them from the start.
        form: one of `FORMS`.
        out: the file, or for `hf` the folder.
        force: replace what is there. Other files in the folder stay.
        negatives: columns of negatives (`sentence-transformers` alone). By default the number of columns in which
            most negatives find a place. A tuple with more of them gives its hardest, one with fewer is left out,
            because sentence-transformers cannot train on an empty cell.

    Raises:
        ConfigError: there is no such form, the path exists or is not one for this form, or no tuple could be written.
    """
    if form not in FORMS:
        raise ConfigError("--to", [f"found {form!r}; wanted one of {', '.join(FORMS)}"])
    chosen = FORMS[form]
    if negatives is not None and form != COLUMNS:
        raise ConfigError("--negatives", [f"is for {COLUMNS}; {form} takes all negatives. Leave it out"])
    require_free_form(out, form, chosen.suffixes, force)
    survey = survey_of(tuples())
    if form == COLUMNS:
        survey = replace(survey, least=negatives or survey.most_kept())
    if not survey.written:
        most = max(survey.sizes, default=0)
        raise ConfigError(out, [f"no tuple has {survey.least} negatives; the most that one has is {most}"])
    written = (graded for graded in tuples() if len(graded.negatives) >= survey.least)
    chosen.write(out, written, survey)
    return f"{out}: {_told(survey, form)}. {chosen.loading.format(path=out)}"


def _told(survey: Survey, form: str) -> str:
    negatives = counted(survey.least if form == COLUMNS else survey.negatives, "negatives")
    each = f"{negatives} each" if form == COLUMNS else negatives
    left_out = survey.sizes.total() - survey.written
    hint = "; --negatives 1 keeps all that have any" if form == COLUMNS and survey.least > 1 else ""
    fewer = f" ({counted(left_out, 'tuples')} with fewer left out{hint})" if left_out else ""
    return f"{counted(survey.written, 'tuples')}, {each}{fewer}"
