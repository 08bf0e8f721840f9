"""The section `[evaluation]`: what is measured."""

from pydantic import Field

from multigrain.config.base import Precision, Section


class EvaluationSection(Section):
    """Settings of the evaluation of the trained model and of its base."""

    tasks: list[str] = Field(["held-out"], min_length=1)
    """Tasks: Tasks: `held-out`, `beir:FOLDER:SPLIT`, `sts:FILE`, `graded:FILE` or `mteb:NAME`; see
    docs/evaluation.md."""
    precision: Precision = "auto"
    """Precision of encoding. `bf16` is up to 2.8 times as fast on a CPU that has instructions for it; `auto` decides
    by the hardware."""
    mteb_data: str | None = None
    """Folder with data sets of the hub, as OWNER/NAME, for `mteb:` tasks where the hub cannot be reached."""
