"""Load a language model as an embedding model, which leaves its head out, without a warning about that."""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager

from transformers.utils.logging import get_logger

HEADS = ("lm_head", "embed_out")
"""Names of heads in the files of decoders."""
_COLORS = re.compile(r"\x1b\[[0-9;]*m")
_ROW = re.compile(r"^(\S+) *\| *(UNEXPECTED|MISSING|MISMATCH|CONVERSION)", re.MULTILINE)
"""A row of the report that transformers logs about the weights of a model: the name of a weight, and what it is."""


@contextmanager
def heads_left_out() -> Iterator[None]:
    """Within the block, transformers does not report that the files have a head for which the model has no place.

    A report that names any other weight is shown as it is.
    """
    logger = get_logger("transformers.modeling_utils")
    logger.addFilter(_has_more_than_heads)
    try:
        yield
    finally:
        logger.removeFilter(_has_more_than_heads)


def _has_more_than_heads(record: logging.LogRecord) -> bool:
    rows = _ROW.findall(_COLORS.sub("", record.getMessage()))
    return not rows or any(what != "UNEXPECTED" or name.partition(".")[0] not in HEADS for name, what in rows)
