"""Write graded tuples in the formats that other tools train on.

    hf                     a Hugging Face dataset: one row for each tuple, with all details of its negatives
    sentence-transformers  parquet with the columns anchor, positive, negative_1 .. negative_n
    flagembedding          JSON lines {"query", "pos", "neg", "neg_scores", "prompt"}
    tevatron               JSON lines {"query_id", "query", "positive_passages", "negative_passages"}

Sources: the data formats in the READMEs of FlagEmbedding (examples/finetune/embedder) and Tevatron, and the section
"Dataset Format" of the sentence-transformers training overview.
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
"""Reads the tuples from the start. Each format reads them twice, so that they need not all be in memory."""


def export_data(tuples: Tuples, form: str, out: Path, force: bool = False, negatives: int | None = None) -> str:
    """Write the tuples to `out`, completely or not at all; return a line that says what was written and how to load it.

    Args:
        tuples: reads the tuples from the start.
        form: one of `FORMS`.
        out: the output file, or for `hf` the output folder.
        force: replace existing files. Other files in the folder stay.
        negatives: number of columns of negatives (only for `sentence-transformers`). The default is the number that
            keeps the most negatives. A tuple with more negatives gives its hardest. A tuple with fewer is left out,
            because sentence-transformers cannot train on an empty cell.

    Raises:
        ConfigError: the form is unknown, the path exists or does not suit this form, or no tuple can be written.
    """
    if form not in FORMS:
        raise ConfigError("--to", [f"found {form!r}; wanted one of {', '.join(FORMS)}"])
    chosen = FORMS[form]
    if negatives is not None and form != COLUMNS:
        raise ConfigError("--negatives", [f"applies only to {COLUMNS}; {form} takes all negatives. Leave it out"])
    require_free_form(out, form, chosen.suffixes, force)
    survey = survey_of(tuples())
    if form == COLUMNS:
        survey = replace(survey, least=negatives or survey.most_kept())
    if not survey.written:
        most = max(survey.sizes, default=0)
        raise ConfigError(out, [f"no tuple has {survey.least} negatives; the maximum is {most}"])
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
