"""The sections `[evaluation]` and `[export]`: what is measured, and what is written at the end."""

from pydantic import Field, model_validator

from multigrain.config.base import Precision, Section


class EvaluationSection(Section):
    """What the trained model and its base are measured on."""

    tasks: list[str] = Field(["held-out"], min_length=1)
    """`held-out`, `beir:FOLDER:SPLIT`, `sts:FILE`, `graded:FILE` or `mteb:NAME`; see docs/evaluation.md."""
    precision: Precision = "fp32"
    """`bf16`: encode in half precision (about 1.6 times as fast on a CPU that can); `auto`: where the hardware can."""
    mteb_data: str | None = None
    """A folder with data sets of the hub, as OWNER/NAME, for `mteb:` tasks where the hub cannot be reached."""


class ExportSection(Section):
    """What is written beside the model that sentence-transformers loads."""

    onnx: bool = False
    """`model/onnx`: one graph from token ids to the embedding. Needs `pip install "multigrain[onnx]"`."""
    int8: bool = False
    """The graph in 8 bits too."""

    @model_validator(mode="after")
    def _int8_is_onnx(self) -> "ExportSection":
        if self.int8 and not self.onnx:
            raise ValueError("int8 = true needs onnx = true")
        return self
