"""What is done with a saved model outside of any run: look whether it is right, explain it, write it in other forms."""

from pathlib import Path
from typing import TYPE_CHECKING

from multigrain.config import as_path, model_folder_of, require_free_file, require_replaceable_folder, trained_folder_of
from multigrain.files import full_disk_explained, write_atomic
from multigrain.model.roles import Role

if TYPE_CHECKING:
    from multigrain.export.token_weights_view import Form


def verify_model(folder: str | Path) -> tuple[str, bool]:
    """Whether a model does what it says: a report, and whether all is as it should be.

    Raises:
        RunError: it cannot be loaded.
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
    """How much each token of a text counts in its embedding, in one of three forms.

    Args:
        name: a model's folder, or whatever `model.base` may be.
        text: what the model reads.
        role: whose prompt goes before it.
        form: `terminal`, `json` or `html`.
        out: write it there; what is returned then says so.
        force: replace what is there.

    Raises:
        ConfigError: there is no such model, or the file is there already.
        RunError: there is nothing to read in the text.
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
    """Write a model with its adapter merged; returns a line that says how near its vectors are to the original's.

    Raises:
        ConfigError: the folder to write is there already.
        RunError: there is no model, it has no adapter, or the merged one gives other vectors.
    """
    from multigrain.export.model_folder import merge_model

    folder, given = as_path(out, "a folder to write"), as_path(source, "a model's folder")
    model = trained_folder_of(given)  # what a run has exported is merged already
    require_replaceable_folder(folder, force, ours="modules.json")
    with full_disk_explained(folder.absolute().parent):
        return merge_model(model, folder)


def export_onnx(source: str | Path, out: str | Path | None = None, int8: bool = False, force: bool = False) -> str:
    """Write a model as one graph from token ids to the embedding; returns a line that says what was written.

    Args:
        source: the model's folder.
        out: the folder to write, by default `onnx` in the model's.
        int8: write a graph in 8 bits too.
        force: replace what is there.

    Raises:
        ConfigError: the folder to write is there already.
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
