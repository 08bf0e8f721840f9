"""The sections `[evaluation]` and `[export]`: what is measured, and what is written at the end."""

from pydantic import Field, model_validator

from multigrain.config.base import Precision, Section


class EvaluationSection(Section):
    """Settings of the evaluation of the trained model and of its base."""

    tasks: list[str] = Field(["held-out"], min_length=1)
    """Tasks: Tasks: `held-out`, `beir:FOLDER:SPLIT`, `sts:FILE`, `graded:FILE` or `mteb:NAME`; see
    docs/evaluation.md."""
    precision: Precision = "fp32"
    """Precision of encoding. `bf16` is about 1.6 times as fast on a CPU that supports it; `auto` decides by the
    hardware."""
    mteb_data: str | None = None
    """Folder with data sets of the hub, as OWNER/NAME, for `mteb:` tasks where the hub cannot be reached."""


class ExportSection(Section):
    """Settings of what is exported beside the model."""

    onnx: bool = False
    """Whether to write `model/onnx`: one graph from token ids to the embedding. Needs `pip install
    "multigrain[onnx]"`."""
    int8: bool = False
    """Whether to write the graph in 8 bits too."""

    @model_validator(mode="after")
    def _int8_is_onnx(self) -> "ExportSection":
        if self.int8 and not self.onnx:
            raise ValueError("int8 = true needs onnx = true")
        return self
