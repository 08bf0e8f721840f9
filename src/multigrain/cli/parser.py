"""The commands and options of the command line, with their help."""

import argparse
import itertools
import sys
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, get_args

from multigrain.cli.completion import SHELLS, PrintCompletion
from multigrain.cli.epilogs import EPILOG, EPILOGS
from multigrain.cli.exit_codes import USER
from multigrain.cli.installation import PrintVersions
from multigrain.config import BaselineSection
from multigrain.evaluation.metrics import RETRIEVERS
from multigrain.model.roles import ROLES
from multigrain.records import encodable

DATA_FORMS = ("hf", "sentence-transformers", "flagembedding", "tevatron")
PROGRESS = "auto: a bar or lines; json: one JSON object per second; none: nothing (default auto)"

VERBS = {
    "quickstart": "run all stages on the documentation of the installed Python packages",
    "doctor": "check this machine and the installation, and say what is wrong and what to do",
    "check": "check configuration and data, and show what a run would do; or check a saved model",
    "synthesize": "prepare the data, then write and mine negatives",
    "export-requests": "write the requests of a run without an answer as files, for any engine",
    "import-answers": "read the answers of an engine to exported requests",
    "grade": "judge the candidates and make graded tuples",
    "dropped": "show which candidates grading dropped, and why",
    "tune": "choose training settings by short trials, without the held-out queries",
    "adapt": "adapt a decoder to attention in both directions, if the run has a section [adapt]",
    "train": "train the model on the graded tuples",
    "evaluate": "measure the trained model, its base and the baseline",
    "export": "write the model folder for use with sentence-transformers",
    "run": "run all stages that are not done yet",
    "export-data": "write a run's graded tuples for training with other tools",
    "compare": "compare runs, with intervals, tests and plots",
    "ablate": "train and measure a grid of arms and seeds, in one table",
    "search": "search the corpus of a finished run with its model",
    "explain": "show the weight of each token of a text in its embedding",
    "merge": "write a model with its adapter merged into its weights",
    "export-onnx": "write a model as one graph for onnxruntime",
}

OF_A_MODEL = ("explain", "merge", "export-onnx")
"""Commands that take the folder of a model."""
OF_A_FOLDER = ("doctor", "search", "export-data", "compare", "ablate", *OF_A_MODEL)
"""Commands that take no RUN.toml."""


class _Parser(argparse.ArgumentParser):
    """A parser that suggests the likely command or option if one is misspelt."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        given = list(sys.argv[1:] if args is None else args)
        if self._subparsers and given and not given[0].startswith("-") and given[0] not in VERBS:
            self._refuse(f"unknown command {given[0]}", given[0], [*VERBS, "--help", "--version", "--print-completion"])
        self._look_at_options(given[:1] if self._subparsers else given)
        options, unknown = super().parse_known_args(given, namespace)
        if unknown:
            self._refuse_unknown(unknown[0])
        return options, unknown

    def _look_at_options(self, given: list[str]) -> None:
        """Report an unknown option before argparse reports missing arguments."""
        for text in itertools.takewhile(lambda text: text != "--", given):
            is_option = text.startswith("--") and " " not in text  # the rule of argparse
            if is_option and not any(known.startswith(text.partition("=")[0]) for known in self._option_string_actions):
                self._refuse_unknown(text)

    def _refuse_unknown(self, text: str) -> NoReturn:
        kind = "option" if text.startswith("-") else "argument"
        known = [name for name in self._option_string_actions if name.startswith("--")]
        self._refuse(f"unknown {kind} {text}", text.partition("=")[0], known)

    def _refuse(self, found: str, name: str, known: Iterable[str]) -> NoReturn:
        near = get_close_matches(name.lower().replace("_", "-"), known, 1)
        if name.endswith(".toml") and self._subparsers:
            near = [f"multigrain run {name}"]
        advice = f"did you mean {near[0]}?" if near else f"see {self.prog} --help"
        self.exit(USER, f"multigrain: {found}; {advice}\n")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = _Parser(
        prog="multigrain",
        description="Better text embeddings for your own data, from hard negatives at several grades of similarity.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=PrintVersions, nargs=0, help="show versions, and exit")
    help = "print a shell script that completes commands, options and paths, and exit"
    parser.add_argument("--print-completion", action=PrintCompletion, choices=SHELLS, help=help)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="COMMAND")
    for name, help in VERBS.items():
        verb = verbs.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".")
        if name in EPILOGS:
            verb.epilog, verb.formatter_class = EPILOGS[name], argparse.RawDescriptionHelpFormatter
        _add_input(name, verb)
        if name not in OF_A_FOLDER:
            _add_settings(name, verb)
        verb.add_argument("--progress", choices=["auto", "json", "none"], default="auto", help=PROGRESS)
        verb.add_argument("--quiet", action="store_true", help="same as --progress none")
        verb.add_argument("--debug", action="store_true", help="show tracebacks and library warnings")
    return parser


def _add_input(name: str, verb: argparse.ArgumentParser) -> None:
    """Add the input of the command, and its own options."""
    adders: dict[str, Callable[[argparse.ArgumentParser], None]] = {
        "doctor": _add_doctor,
        "search": _add_search,
        "export-data": _add_export_data,
        "compare": _add_compare,
        "ablate": _add_ablate,
        "check": _add_check,
        "dropped": _add_dropped,
        "export-requests": _add_export_requests,
        "import-answers": _add_import_answers,
        **{verb_of_model: partial(_add_of_a_model, verb_of_model) for verb_of_model in OF_A_MODEL},
    }
    if adder := adders.get(name):
        adder(verb)
    elif name != "quickstart":
        _add_run(verb)
    if name == "synthesize":
        _add_generation(verb)
    if name in ("quickstart", "run", "evaluate"):
        _add_against(verb)
    if name == "run":
        help = "where to encode, mine and judge: in this process (local, the default), or on a Ray cluster"
        verb.add_argument("--engine", choices=["local", "ray"], default="local", help=help)
        help = "head of the Ray cluster (default: RAY_ADDRESS, or Ray on this machine alone)"
        verb.add_argument("--address", metavar="HOST:PORT", help=help)
        verb.add_argument("--tune", action="store_true", help="choose training settings first; see tune --help")


def _add_settings(name: str, verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="override a setting")
    if name not in ("check", "dropped", "import-answers"):
        help = "redo finished stages affected by changed settings; a command for one stage always redoes it"
        verb.add_argument("--force", action="store_true", help=help)


def _add_against(verb: argparse.ArgumentParser) -> None:
    help = (
        'baselines: "stock" also trains two models with the stock sentence-transformers trainer, for as long as the '
        "run's own: one with in-batch, one with mined negatives (same as baseline.against)"
    )
    verb.add_argument("--against", choices=get_args(BaselineSection.model_fields["against"].annotation), help=help)


def _add_doctor(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("run", nargs="?", metavar="RUN", help="a run's file or run folder, to check as well")


def _add_search(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("folder", type=Path, metavar="RUN", help="run folder, such as runs/quickstart, or its model")
    verb.add_argument("query", type=_query, help='query, such as "remove duplicate rows"')
    help = "rank by cosine, by BM25, or by both (default: the best one on the dev set of the run)"
    verb.add_argument("--retriever", choices=RETRIEVERS, help=help)
    help = "what the query looks for, for a model trained with instructions (default: the run's own)"
    verb.add_argument("--instruction", metavar="TEXT", help=help)
    verb.add_argument("--top", type=_positive, default=5, metavar="N", help="number of documents (default 5)")


def _add_check(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "run",
        metavar="RUN.toml|ABLATION.toml|MODEL",
        help="file or folder of a run, file of a grid, or folder of a model",
    )
    how = verb.add_mutually_exclusive_group()
    how.add_argument("--time", action="store_true", help="measure the training time on a few texts of the run")
    help = "count pairs, requests, tokens, GPU hours and disk from the settings; read no data, weights or network"
    how.add_argument("--plan", action="store_true", help=help)


def _add_dropped(verb: argparse.ArgumentParser) -> None:
    _add_run(verb)
    verb.add_argument("--pair", type=encodable, metavar="ID", help="show all candidates of this training pair")


def _add_export_requests(verb: argparse.ArgumentParser) -> None:
    _add_run(verb)
    help = "number of files to share the requests out to"
    verb.add_argument("--shards", type=_positive, required=True, metavar="N", help=help)
    verb.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="new folder to write")


def _add_import_answers(verb: argparse.ArgumentParser) -> None:
    _add_run(verb)
    help = "files of answers, or folders with such files (*.jsonl)"
    verb.add_argument("answers", type=Path, nargs="+", metavar="ANSWERS", help=help)


def _add_run(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("run", metavar="RUN.toml", help="file that describes the run, or its run folder")


def _add_ablate(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("run", metavar="ABLATION.toml", help="file that describes the grid")
    verb.add_argument("--force", action="store_true", help="redo trainings whose settings or data changed")


def _add_of_a_model(name: str, verb: argparse.ArgumentParser) -> None:
    verb.add_argument("model", metavar="MODEL", help="folder of a model, such as runs/quickstart/model, or of a run")
    if name == "explain":
        verb.add_argument("text", type=encodable, help="text to embed")
        verb.add_argument(
            "--as",
            dest="role",
            choices=ROLES,
            default="document",
            help="role of the text, which decides its prompt (default document)",
        )
        verb.add_argument(
            "--form",
            choices=["terminal", "json", "html"],
            default="terminal",
            help="output format (default terminal)",
        )
        verb.add_argument("--out", type=Path, metavar="FILE", help="file to write instead of printing")
    elif name == "merge":
        verb.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="folder to write")
    else:
        verb.add_argument("--out", type=Path, metavar="FOLDER", help="folder to write (default MODEL/onnx)")
        verb.add_argument("--int8", action="store_true", help="also write an 8-bit graph, a quarter of the size")
    verb.add_argument("--force", action="store_true", help="replace an existing output")


def _add_export_data(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("folder", type=Path, metavar="RUN", help="run folder, such as runs/quickstart")
    verb.add_argument("--to", required=True, choices=DATA_FORMS, metavar="FORM", help=", ".join(DATA_FORMS))
    verb.add_argument("--out", required=True, type=Path, metavar="PATH", help="file to write, or folder for hf")
    verb.add_argument(
        "--negatives",
        type=_positive,
        metavar="N",
        help="number of negative columns for sentence-transformers: tuples with more keep their hardest, tuples with "
        "fewer are left out (default: the number that keeps most negatives)",
    )
    verb.add_argument("--force", action="store_true", help="replace an existing output")


def _add_compare(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("folders", type=Path, nargs="+", metavar="RUN", help="run folders, the baseline first")
    verb.add_argument("--out", type=Path, metavar="FOLDER", help="folder for table.md, table.json and plots")
    verb.add_argument("--force", action="store_true", help="write into an existing folder")


def _add_generation(verb: argparse.ArgumentParser) -> None:
    way = verb.add_mutually_exclusive_group()
    way.add_argument("--retry", metavar="REASON", help='ask again for inputs parked for this reason, or for "all"')
    steps = ["submit", "write", "status", "ingest"]
    way.add_argument("--batch", choices=steps, help="do a step of the Batch API (write: only write its files)")
    verb.add_argument("--durable", action="store_true", help="survive power cuts (same as synthesis.durable = true)")


def _query(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("found an empty query; wanted at least one word")
    return encodable(text)


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"found {text!r}; wanted a whole number, at least 1")
    return int(text)
