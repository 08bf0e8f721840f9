"""The command line: verbs, and how their outcomes are told. No logic."""

import argparse
import itertools
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from multigrain import __version__, processes
from multigrain.config import QUICKSTART, RUN_FILE, Config, as_path, load_config, read_toml
from multigrain.errors import ConfigError, MultigrainError
from multigrain.progress import complain, set_mode
from multigrain.records import encodable
from multigrain.terminal import PLAIN, fitted, leave_hung_up, shortened, width_of
from multigrain.vectors import ROLES

DONE, FAILED, USER, PARKED, INTERRUPTED = 0, 1, 2, 3, 130

EPILOG = """examples:
  multigrain quickstart                          the whole method on the documentation of your Python packages
  multigrain search runs/quickstart "remove duplicate rows"
  multigrain check examples/own_pairs.toml       are configuration and data right, and what will be done?
  multigrain check runs/quickstart/model         does a saved model do what it says?
  multigrain run runs/quickstart                 a run folder knows its own file: goes on from where it stopped
  multigrain run examples/own_pairs.toml --set training.batch_size=16

exit codes: 0 done, 1 a stage failed, 2 you must change something, 3 done, but too many requests have no answer,
130 stopped by Ctrl-C, SIGTERM or SIGHUP
"""

SYNTHESIZE_EPILOG = """examples:
  multigrain synthesize examples/own_pairs.toml
  multigrain synthesize run.toml --set llm.max_cost=5          never spends more than 5 dollars
  multigrain synthesize run.toml --retry transport             once more what the server did not answer
  multigrain synthesize run.toml --batch submit                half the price, within a day; then --batch status,
                                                               --batch ingest, and synthesize as usual

reasons for which inputs are parked:
  transport   no answer, after many tries       length     cut at the token limit (synthesis.answer_tokens)
  unreadable  not what was asked for            declined   the model declined to answer
  rejected    the server refuses the request    budget     a cap of [llm] was reached
"""
EXPORT_DATA_EPILOG = """examples:
  multigrain export-data runs/quickstart --to hf --out my-dataset
  multigrain export-data runs/quickstart --to sentence-transformers --out train.parquet --negatives 4
  multigrain export-data runs/quickstart --to flagembedding --out train.jsonl
  multigrain export-data runs/quickstart --to tevatron --out train.jsonl --force

forms:
  hf                     a Hugging Face dataset: a folder with parquet and a card; grades, scores and sources kept
  sentence-transformers  parquet with the columns anchor, positive, negative_1 .. negative_n, in rising order of grade
  flagembedding          JSON lines: query, pos, neg, neg_scores (prompt, if there are instructions)
  tevatron               JSON lines: query_id, query, positive_passages, negative_passages
"""
CHECK_EPILOG = """examples:
  multigrain check run.toml                 what the run will do, ask and spend
  multigrain check examples/ablation.toml   are all arms of a grid right, and how much is there to train?
  multigrain check runs/quickstart/model    is it really bidirectional, is the EOS there, do prompts apply, does a
                                            reload give the same vectors? (exit code 2 if not)
"""
EXPLAIN_EPILOG = """examples:
  multigrain explain runs/quickstart/model "How do I remove duplicate rows?"
  multigrain explain runs/quickstart/model "remove duplicate rows" --as query --form json
  multigrain explain runs/quickstart/model "remove duplicate rows" --form html --out tokens.html
  multigrain explain embedded-llm "The capital of France is Paris."      a model that is not trained yet
"""
MERGE_EPILOG = """example:
  multigrain merge runs/mine/training/model --out runs/mine/merged
"""
ONNX_EPILOG = """examples:
  multigrain export-onnx runs/quickstart/model                       writes runs/quickstart/model/onnx
  multigrain export-onnx runs/quickstart/model --int8 --out served
  python examples/onnx_embed.py served "a text"                      needs onnxruntime and tokenizers alone
"""
COMPARE_EPILOG = """examples:
  multigrain compare runs/mined runs/written                  the table: the first run is the baseline
  multigrain compare runs/a runs/b runs/c --out comparison    and as Markdown, JSON and pictures

The runs must be measured on the same tasks; tasks that some lack are left out. Intervals: 95 %, paired bootstrap over
queries. p: paired randomisation test, corrected for all comparisons in the table (Holm).
"""
ABLATE_EPILOG = """example:
  multigrain ablate examples/ablation.toml

The file names a run, arms (tables of settings that win over the run's) and seeds. Data, synthesis and grading that
arms have in common are done once. Stop it whenever you like: the same command goes on. The folder OUTPUT/NAME then
holds table.md, table.json and pictures.
"""
DATA_FORMS = ("hf", "sentence-transformers", "flagembedding", "tevatron")
PROGRESS = "auto: a bar or lines; json: a JSON object a second (default auto)"

VERBS = {
    "quickstart": "run everything on the documentation of the installed Python packages",
    "check": "check configuration and data, and say what a run would do; or check a saved model",
    "synthesize": "prepare the data, and have negatives written and mined",
    "grade": "judge the candidates and make graded tuples of them",
    "train": "train the model on the graded tuples",
    "evaluate": "measure the trained model and its base",
    "export": "write the folder that others load",
    "run": "all stages, those that are done left out",
    "export-data": "write a run's graded tuples for other tools to train on",
    "compare": "put runs beside each other: differences with intervals, tests and pictures",
    "ablate": "train and measure a grid of arms and seeds, in one table",
    "search": "ask a finished run's model",
    "explain": "show how much each token of a text counts in its embedding",
    "merge": "write a model with its adapter merged into its weights",
    "export-onnx": "write a model as one graph for onnxruntime",
}

OF_A_MODEL = ("explain", "merge", "export-onnx")
"""Verbs that take the folder of a model."""
OF_A_FOLDER = ("search", "export-data", "compare", "ablate", *OF_A_MODEL)
"""Verbs that take no RUN.toml."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code."""
    if not processes.is_main():
        return _beside_the_main_process(arguments)
    signal.signal(signal.SIGTERM, _stop)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # nohup has it ignored
        signal.signal(signal.SIGHUP, _stop)
    if not (sys.argv[1:] if arguments is None else arguments):
        _parser().print_help()
        return USER
    return _run_verb(_parser().parse_args(arguments))


def _beside_the_main_process(arguments: Sequence[str] | None) -> int:
    """The same, but the results, and how to use the command line, are the main process's to print."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # at once, even where it waits for the others in a library
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
        with redirect_stderr(nowhere):
            options = _parser().parse_args(arguments)
        return _run_verb(options)


def _run_verb(options: argparse.Namespace) -> int:
    set_mode("none" if options.quiet else options.progress)
    _keep_libraries_quiet(options.debug)
    try:
        code = _perform(options)
        sys.stdout.flush()
        processes.leave()
        return code
    except BrokenPipeError:  # whoever reads the result has enough, such as `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return DONE
    except KeyboardInterrupt:
        if processes.is_first_to_tell():
            complain("stopped. The same command goes on from here.")
        return INTERRUPTED
    except Exception as error:
        if options.debug:
            raise
        return _explain(error)


def _stop(_signal: int, _frame: object) -> None:
    leave_hung_up()
    raise KeyboardInterrupt


def _perform(options: argparse.Namespace) -> int:
    if processes.count() > 1 and options.verb != "train":
        raise ConfigError("torchrun", [f"is for multigrain train; run multigrain {options.verb} by itself"])
    others = {
        "check": _check,
        "search": _search,
        "compare": _compare,
        "ablate": _ablate,
        "export-data": _export_data,
        "explain": _explain_text,
        "merge": _merge,
        "export-onnx": _export_onnx,
    }
    if options.verb in others:
        return others[options.verb](options)
    settings = [*options.set, "synthesis.durable=true"] if getattr(options, "durable", False) else options.set
    return _stages(load_config(QUICKSTART if options.verb == "quickstart" else options.run, settings), options)


def _check(options: argparse.Namespace) -> int:
    """Of a run, a grid or a model, by what lies there."""
    place = as_path(options.run, "a run's file or run folder, a grid's file, or a model's folder")
    if place.is_dir() and not (place / RUN_FILE).is_file():
        return _verify(place, options.set)
    if place.is_file() and "arms" in read_toml(place):
        return _check_grid(place, options.set)
    from multigrain.checks import check

    _print(check(load_config(place, options.set)))
    return DONE


def _stages(config: Config, options: argparse.Namespace) -> int:
    from multigrain import pipeline
    from multigrain.summary import render, too_many_parked

    verbs: dict[str, Callable[..., dict[str, Any]]] = {
        "quickstart": pipeline.run,
        "run": pipeline.run,
        "synthesize": pipeline.synthesize,
        "grade": pipeline.grade,
        "train": pipeline.train,
        "evaluate": pipeline.evaluate,
        "export": pipeline.export_model,
    }
    if getattr(options, "batch", None):
        print(pipeline.batch(config, options.batch, options.force))
        return DONE
    more = {"retry": options.retry} if options.verb == "synthesize" else {}
    summary = verbs[options.verb](config, force=options.force, **more)
    if not processes.is_main():
        return DONE
    _print(render(config, summary, _width()))
    if too_many_parked(config, summary):
        counts = summary["counts"]
        parked = counts.get("parked", 0) + counts.get("pairs_parked", 0)
        complain(
            f"{parked} requests have no usable answer; parked.jsonl in {config.folder}/synthesis (or data) says why. "
            "multigrain synthesize RUN.toml --retry REASON asks once more."
        )
        return PARKED
    return DONE


def _search(options: argparse.Namespace) -> int:
    from multigrain.pipeline import search

    for score, document in search(options.folder, options.query, options.top):
        print(f"{score:.3f}  {document.id}\n       {shortened(document.text, _width() - 7)}")
    return DONE


def _export_data(options: argparse.Namespace) -> int:
    from multigrain.pipeline import export_data

    print(export_data(options.folder, options.to, options.out, options.force, options.negatives))
    return DONE


def _compare(options: argparse.Namespace) -> int:
    from multigrain.evaluation.comparison import for_terminal, to_markdown
    from multigrain.evaluation.report import compared_runs

    comparison = compared_runs(options.folders, options.out, options.force)
    print(for_terminal(comparison, _width()) if sys.stdout.isatty() else to_markdown(comparison))
    return DONE


def _ablate(options: argparse.Namespace) -> int:
    from multigrain.ablation import compared
    from multigrain.evaluation.comparison import for_terminal, tables

    comparison, failures = compared(options.run, options.force)
    figures = replace(comparison, moved={})
    print(for_terminal(figures, _width()) if sys.stdout.isatty() else tables(comparison))
    for failure in failures:
        complain(f"failed: {failure}")
    return FAILED if failures else DONE


def _verify(folder: Path, settings: list[str]) -> int:
    if settings:
        raise ConfigError("--set", [f"is for a run; {folder} is none. Leave it out"])
    if not (folder / "modules.json").is_file():
        found = f"is neither a run folder (no {RUN_FILE}) nor a model (no modules.json)"
        raise ConfigError(folder, [f"{found}; wanted one of them, or the file of a run or a grid"])
    from multigrain.saved_model import verify_model

    report, is_good = verify_model(folder)
    _print(report)
    return DONE if is_good else USER


def _check_grid(path: Path, settings: list[str]) -> int:
    if settings:
        raise ConfigError("--set", [f"is for a RUN.toml; {path} describes a grid. Leave it out"])
    from multigrain.checks import check_grid

    _print(check_grid(path))
    return DONE


def _explain_text(options: argparse.Namespace) -> int:
    from multigrain.saved_model import explain_text

    print(explain_text(options.model, options.text, options.role, options.form, options.out, options.force))
    return DONE


def _merge(options: argparse.Namespace) -> int:
    from multigrain.saved_model import merge_model

    print(merge_model(options.model, options.out, options.force))
    return DONE


def _export_onnx(options: argparse.Namespace) -> int:
    from multigrain.saved_model import export_onnx

    print(export_onnx(options.model, options.out, options.int8, options.force))
    return DONE


def _print(text: str) -> None:
    """To stdout; on a terminal, lines break between words."""
    print(fitted(text, width_of(sys.stdout)))


def _width() -> int:
    return width_of(sys.stdout) or PLAIN


def _explain(error: Exception) -> int:
    """One clear message, and the exit code that goes with it."""
    message, code = f"{type(error).__name__}: {error}\n(--debug shows where)", FAILED
    if isinstance(error, MultigrainError):
        message, code = str(error), error.exit_code
    elif isinstance(error, OSError) and error.filename is not None:
        message, code = f"{error.filename}: {error.strerror}.", USER
    if processes.is_first_to_tell():
        complain(message)
    return code


def _keep_libraries_quiet(debug: bool) -> None:
    """Their warnings and bars would drown ours."""
    if not debug:
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("TQDM_DISABLE", "1")
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # is imported by others wherever it is installed
        warnings.simplefilter("ignore", FutureWarning)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


class _Parser(argparse.ArgumentParser):
    """Names the likely verb or option where one is misspelt."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        given = list(sys.argv[1:] if args is None else args)
        if self._subparsers and given and not given[0].startswith("-") and given[0] not in VERBS:
            self._refuse(f"unknown verb {given[0]}", given[0], [*VERBS, "--help", "--version"])
        self._look_at_options(given[:1] if self._subparsers else given)
        options, unknown = super().parse_known_args(given, namespace)
        if unknown:
            self._refuse_unknown(unknown[0])
        return options, unknown

    def _look_at_options(self, given: list[str]) -> None:
        """Name an unknown option before argparse asks for what else is missing."""
        for text in itertools.takewhile(lambda text: text != "--", given):
            is_option = text.startswith("--") and " " not in text  # as for argparse
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
        advice = f"did you mean {near[0]}?" if near else f"{self.prog} --help says what there is"
        self.exit(USER, f"multigrain: {found}; {advice}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="multigrain",
        description="Better text embeddings for your own data, from negatives at several grades of similarity.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"multigrain {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, help in VERBS.items():
        verb = verbs.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".")
        _add_input(name, verb)
        if name not in OF_A_FOLDER:
            _add_settings(name, verb)
        verb.add_argument("--progress", choices=["auto", "json", "none"], default="auto", help=PROGRESS)
        verb.add_argument("--quiet", action="store_true", help="the same as --progress none")
        verb.add_argument("--debug", action="store_true", help="show tracebacks and the libraries' warnings")
    return parser


def _add_input(name: str, verb: argparse.ArgumentParser) -> None:
    """What the verb works on, and what it alone takes."""
    adders: dict[str, Callable[[argparse.ArgumentParser], None]] = {
        "search": _add_search,
        "export-data": _add_export_data,
        "compare": _add_compare,
        "ablate": _add_ablate,
        "check": _add_check,
        **{verb_of_model: partial(_add_of_a_model, verb_of_model) for verb_of_model in OF_A_MODEL},
    }
    if adder := adders.get(name):
        adder(verb)
    elif name != "quickstart":
        verb.add_argument("run", metavar="RUN.toml", help="the file that describes the run, or its run folder")
    if name == "synthesize":
        _add_asking(verb)


def _add_settings(name: str, verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="win over the file")
    if name != "check":
        help = "redo what a changed setting changes; a single stage is redone in any case"
        verb.add_argument("--force", action="store_true", help=help)


def _add_search(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("folder", type=Path, metavar="RUN", help="run folder, such as runs/quickstart, or its model's")
    verb.add_argument("query", type=_query, help='what to look for, such as "remove duplicate rows"')
    verb.add_argument("--top", type=_positive, default=5, metavar="N", help="how many documents (default 5)")


def _add_check(verb: argparse.ArgumentParser) -> None:
    _add_epilog(verb, CHECK_EPILOG)
    verb.add_argument(
        "run",
        metavar="RUN.toml|ABLATION.toml|MODEL",
        help="a run's file or run folder, an ablation's file, or a model's folder",
    )


def _add_ablate(verb: argparse.ArgumentParser) -> None:
    _add_epilog(verb, ABLATE_EPILOG)
    verb.add_argument("run", metavar="ABLATION.toml", help="the file that describes the grid")
    verb.add_argument("--force", action="store_true", help="do cells anew whose settings or data changed")


def _add_epilog(verb: argparse.ArgumentParser, epilog: str) -> None:
    verb.epilog = epilog
    verb.formatter_class = argparse.RawDescriptionHelpFormatter


def _add_of_a_model(name: str, verb: argparse.ArgumentParser) -> None:
    _add_epilog(verb, {"explain": EXPLAIN_EPILOG, "merge": MERGE_EPILOG, "export-onnx": ONNX_EPILOG}[name])
    verb.add_argument("model", metavar="MODEL", help="a model's folder, such as runs/quickstart/model, or a run's")
    if name == "explain":
        verb.add_argument("text", type=encodable, help="what the model reads")
        verb.add_argument(
            "--as",
            dest="role",
            choices=ROLES,
            default="document",
            help="whose prompt goes before it (default document)",
        )
        verb.add_argument("--form", choices=["terminal", "json", "html"], default="terminal", help="(default terminal)")
        verb.add_argument("--out", type=Path, metavar="FILE", help="write it there instead of printing it")
    elif name == "merge":
        verb.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="folder to write")
    else:
        verb.add_argument("--out", type=Path, metavar="FOLDER", help="folder to write (default MODEL/onnx)")
        verb.add_argument("--int8", action="store_true", help="a graph in 8 bits too: a quarter of the size")
    verb.add_argument("--force", action="store_true", help="replace what is there")


def _add_export_data(verb: argparse.ArgumentParser) -> None:
    _add_epilog(verb, EXPORT_DATA_EPILOG)
    verb.add_argument("folder", type=Path, metavar="RUN", help="run folder, such as runs/quickstart")
    verb.add_argument("--to", required=True, choices=DATA_FORMS, metavar="FORM", help=", ".join(DATA_FORMS))
    verb.add_argument("--out", required=True, type=Path, metavar="PATH", help="file to write; for hf a folder")
    verb.add_argument(
        "--negatives",
        type=_positive,
        metavar="N",
        help="columns of negatives for sentence-transformers: tuples with more give their hardest, those with fewer "
        "are left out (default: the number of columns in which most negatives find a place)",
    )
    verb.add_argument("--force", action="store_true", help="replace what is there")


def _add_compare(verb: argparse.ArgumentParser) -> None:
    _add_epilog(verb, COMPARE_EPILOG)
    verb.add_argument("folders", type=Path, nargs="+", metavar="RUN", help="run folders, the baseline first")
    verb.add_argument("--out", type=Path, metavar="FOLDER", help="write table.md, table.json and pictures there")
    verb.add_argument("--force", action="store_true", help="write into a folder that is there")


def _add_asking(verb: argparse.ArgumentParser) -> None:
    _add_epilog(verb, SYNTHESIZE_EPILOG)
    way = verb.add_mutually_exclusive_group()
    way.add_argument("--retry", metavar="REASON", help='ask again what is parked for this reason ("all": for any)')
    steps = ["submit", "write", "status", "ingest"]
    way.add_argument("--batch", choices=steps, help="have it done by the Batch API, or (write) by files")
    verb.add_argument("--durable", action="store_true", help="survive power cuts too; same as synthesis.durable=true")


def _query(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("found nothing; wanted a few words")
    return encodable(text)


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"found {text!r}; wanted a whole number above 0")
    return int(text)
