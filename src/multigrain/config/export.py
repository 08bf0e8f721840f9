"""The section `[export]`: what is written at the end."""

from pydantic import model_validator

from multigrain.config.base import Section


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
