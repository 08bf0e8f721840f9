"""The section `[export]`: further forms of the exported model."""

from pydantic import model_validator

from multigrain.config.base import Section


class ExportSection(Section):
    """Settings of further forms of the exported model."""

    onnx: bool = False
    """Whether to write `model/onnx`: one graph from token ids to the embedding. Needs
    `pip install "multigrain[onnx]"`."""
    int8: bool = False
    """Whether to write the graph with 8-bit weights too. Needs `onnx = true`."""

    @model_validator(mode="after")
    def _int8_is_onnx(self) -> "ExportSection":
        if self.int8 and not self.onnx:
            raise ValueError("int8 = true needs onnx = true")
        return self
