"""Verify, explain, merge and export a saved model, independently of a run."""

from pathlib import Path
from typing import TYPE_CHECKING

from multigrain.config import as_path, model_folder_of, require_free_file, require_replaceable_folder, trained_folder_of
from multigrain.files import full_disk_explained, write_atomic
from multigrain.model.roles import Role

if TYPE_CHECKING:
    from multigrain.export.token_weights_view import Form


def verify_model(folder: str | Path) -> tuple[str, bool]:
    """Check that a model behaves as its configuration says; return a report, and whether all checks passed.

    Raises:
        RunError: the model cannot be loaded.
    """
    from multigrain.export.verify import render, verify

    model = model_folder_of(folder)
    findings = verify(model)
    return render(model, findings), all(finding.is_good for finding in findings)


def explain_text(
    name: str | Path,
    text: str,
    role: Role = "document",
    form: "Form" = "terminal",
    out: str | Path | None = None,
    force: bool = False,
) -> str:
    """Return the share of each token of a text in its embedding, in one of three forms.

    Args:
        name: the folder of a model, or any value of `model.base`.
        text: the text.
        role: selects the model's query or document prompt.
        form: `terminal`, `json` or `html`.
        out: write the result to this file, and return a line that says so.
        force: replace an existing file.

    Raises:
        ConfigError: the model does not exist, or the file exists already.
        RunError: the text has no tokens.
    """
    from multigrain.export.token_weights_view import render
    from multigrain.model.token_weights import explain

    file = None if out is None else as_path(out, "a file to write")
    if file is not None:
        require_free_file(file, force)
    rendered = render(explain(name, text, role), form)
    if file is None:
        return rendered
    with full_disk_explained(file.absolute().parent):
        write_atomic(file, rendered.encode())
    return f"{file}: written"


def merge_model(source: str | Path, out: str | Path, force: bool = False) -> str:
    """Write a model with its adapter merged; return a line with the cosine of its vectors to the original's.

    Raises:
        ConfigError: the output folder exists already.
        RunError: there is no model, it has no adapter, or the merged model gives other vectors.
    """
    from multigrain.export.model_folder import merge_model

    folder, given = as_path(out, "a folder to write"), as_path(source, "a model's folder")
    model = trained_folder_of(given)  # the exported model of a run is merged already
    require_replaceable_folder(folder, force, ours="modules.json")
    with full_disk_explained(folder.absolute().parent):
        return merge_model(model, folder)


def export_onnx(source: str | Path, out: str | Path | None = None, int8: bool = False, force: bool = False) -> str:
    """Write a model as one ONNX graph from token ids to the embedding; return a line that says where.

    Args:
        source: the folder of the model.
        out: the output folder; by default `onnx` in the model's folder.
        int8: also write a graph in 8 bits.
        force: replace an existing folder.

    Raises:
        ConfigError: the output folder exists already.
        RunError: there is no model, the packages for ONNX are not installed, or the graph gives other vectors.
    """
    from multigrain.export.onnx import export_onnx
    from multigrain.model.load import load_model

    model = model_folder_of(source)
    folder = model / "onnx" if out is None else as_path(out, "a folder to write")
    require_replaceable_folder(folder, force, ours="prompts.json", others="modules.json")
    with full_disk_explained(folder.absolute().parent):
        export_onnx(load_model(model), folder, int8)
    return f"{folder}: written"
