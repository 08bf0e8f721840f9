"""`--version` and `--print-completion`, which a user meets before anything else."""

import subprocess
import sys
from pathlib import Path

import pytest

from multigrain.cli import installation
from multigrain.cli.completion import SHELLS
from multigrain.cli.main import main
from multigrain.cli.parser import VERBS
from multigrain.version import __version__


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    assert ended.value.code == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def test_versions(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    first, python, *packages = printed(capsys, "--version").splitlines()
    assert first == f"multigrain {__version__}"
    assert python.startswith(f"Python {sys.version.split()[0]} (")
    assert [line.split()[0] for line in packages] == ["torch", "sentence-transformers", "transformers"]
    assert all(line.split()[1][0].isdigit() for line in packages)
    monkeypatch.setattr(installation, "SHOWN", ("no-such-package",))
    assert printed(capsys, "--version").endswith("\nno-such-package not installed\n")


@pytest.mark.parametrize("arguments", [["--version"], ["--print-completion", "bash"], ["doctor", "--help"]])
def test_they_start_without_torch(arguments: list[str]) -> None:
    script = (
        "import sys\nfrom multigrain.cli.main import main\ntry:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'transformers', 'sentence_transformers', 'datasets', 'pyarrow'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    result = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_knows_all_verbs(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    script = printed(capsys, "--print-completion", shell)
    assert all(verb in script for verb in VERBS)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["ab"], ["ablate"]),
        (["run", "my"], ["my.toml", "my_runs"]),
        (["search", "my"], ["my.toml", "my_runs"]),
        (["export-onnx", "model", "--out", "my_"], ["my_runs"]),
        (["run", "my.toml", "--tu"], ["--tune"]),
        (["search", "--retriever", ""], ["dense", "bm25", "hybrid"]),
        (["--print-completion", "z"], ["zsh"]),
    ],
)
def test_bash_completes(
    words: list[str], expected: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my.toml").touch()
    (tmp_path / "my_runs").mkdir()
    (tmp_path / "script").write_text(printed(capsys, "--print-completion", "bash"))
    command = 'source ./script; COMP_WORDS=(multigrain "$@"); COMP_CWORD=$#; _shtab_multigrain; echo "${COMPREPLY[@]}"'
    result = subprocess.run(["bash", "-c", command, "bash", *words], capture_output=True, text=True, cwd=tmp_path)
    assert (sorted(result.stdout.split()), result.stderr) == (sorted(expected), "")
