"""Run a command, and print its result."""

import argparse
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

from multigrain.cli.exit_codes import DONE, FAILED, INTERRUPTED, PARKED, USER
from multigrain.cli.parser import build_parser
from multigrain.config import QUICKSTART, RUN_FILE, Config, as_path, load_config, read_toml
from multigrain.errors import ConfigError, MultigrainError
from multigrain.terminal import PLAIN, complain, fitted, leave_hung_up, say, set_mode, shortened, width_of
from multigrain.training import distributed


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command, and return the exit code."""
    if not distributed.is_main():
        return _beside_the_main_process(arguments)
    signal.signal(signal.SIGTERM, _stop)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # under nohup it is ignored
        signal.signal(signal.SIGHUP, _stop)
    if not (sys.argv[1:] if arguments is None else arguments):
        build_parser().print_help()
        return USER
    return _run_verb(build_parser().parse_args(arguments))


def _beside_the_main_process(arguments: Sequence[str] | None) -> int:
    """Run the command in a process beside the main one; only the main process prints results and help."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # stop at once, even while waiting for others inside a library
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
        with redirect_stderr(nowhere):
            options = build_parser().parse_args(arguments)
        return _run_verb(options)


def _run_verb(options: argparse.Namespace) -> int:
    set_mode("none" if options.quiet else options.progress)
    _keep_libraries_quiet(options.debug)
    try:
        code = _perform(options)
        sys.stdout.flush()
        distributed.leave()
        return code
    except BrokenPipeError:  # the reader of the output, such as `head`, has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return DONE
    except KeyboardInterrupt:
        if distributed.is_first_to_tell():
            complain("stopped. The same command resumes from here.")
        return INTERRUPTED
    except Exception as error:
        if options.debug:
            raise
        return _explain(error)


def _stop(_signal: int, _frame: object) -> None:
    leave_hung_up()
    raise KeyboardInterrupt


def _perform(options: argparse.Namespace) -> int:
    if distributed.count() > 1 and options.verb != "train":
        raise ConfigError("torchrun", [f"is only for multigrain train; run multigrain {options.verb} without it"])
    others = {
        "doctor": _doctor,
        "check": _check,
        "search": _search,
        "dropped": _dropped,
        "compare": _compare,
        "ablate": _ablate,
        "tune": _tune,
        "export-data": _export_data,
        "export-requests": _export_requests,
        "import-answers": _import_answers,
        "explain": _explain_text,
        "merge": _merge,
        "export-onnx": _export_onnx,
    }
    if options.verb in others:
        return others[options.verb](options)
    settings = [*options.set, "synthesis.durable=true"] if getattr(options, "durable", False) else options.set
    if against := getattr(options, "against", None):
        settings = [*settings, f'baseline.against="{against}"']
    return _stages(load_config(QUICKSTART if options.verb == "quickstart" else options.run, settings), options)


def _check(options: argparse.Namespace) -> int:
    """Check a run, a grid or a model, depending on the path."""
    place = as_path(options.run, "the file or folder of a run, the file of a grid, or the folder of a model")
    only_for_runs = [f"--{name}" for name in ("set", "time", "plan") if getattr(options, name)]
    if place.is_dir() and not (place / RUN_FILE).is_file():
        return _verify(place, only_for_runs)
    if place.is_file() and "arms" in read_toml(place):
        return _check_grid(place, only_for_runs)
    config = load_config(place, options.set)
    if options.plan:
        from multigrain.pipeline.plan import plan

        _print(plan(config))
        return DONE
    from multigrain.pipeline.check import check

    _print(check(config, options.time))
    return DONE


def _doctor(options: argparse.Namespace) -> int:
    from multigrain.cli.doctor import examine
    from multigrain.cli.findings import lines_of, verdict

    wrong = 0
    for finding in examine(options.run):
        _print(lines_of(finding))
        sys.stdout.flush()  # the next check may load the libraries, which takes a while
        wrong += finding.state == "wrong"
    _print("\n" + verdict(wrong, f"multigrain run {options.run}" if options.run else "multigrain quickstart"))
    return FAILED if wrong else DONE


def _stages(config: Config, options: argparse.Namespace) -> int:
    from multigrain.pipeline import verbs
    from multigrain.pipeline.summary import render, too_many_parked

    functions: dict[str, Callable[..., dict[str, Any]]] = {
        "quickstart": verbs.run,
        "run": verbs.run,
        "synthesize": verbs.synthesize,
        "grade": verbs.grade,
        "adapt": verbs.adapt,
        "train": verbs.train,
        "evaluate": verbs.evaluate,
        "export": verbs.export_model,
    }
    if getattr(options, "tune", False):
        from multigrain.experiments.tune import tune

        say(tune(config, options.force))
    if getattr(options, "batch", None):
        print(verbs.batch(config, options.batch, options.force))
        return DONE
    more: dict[str, Any] = {"retry": options.retry} if options.verb == "synthesize" else {}
    if options.verb == "run":
        more = {"engine": options.engine, "address": options.address}
    summary = functions[options.verb](config, force=options.force, **more)
    if not distributed.is_main():
        return DONE
    _print(render(config, summary, _width()))
    if too_many_parked(config, summary):
        counts = summary["counts"]
        parked = counts.get("parked", 0) + counts.get("pairs_parked", 0)
        complain(
            f"{parked} requests have no usable answer. See parked.jsonl in {config.folder}/synthesis (or data) for the "
            "reasons. To ask once more, run: multigrain synthesize RUN.toml --retry REASON"
        )
        return PARKED
    return DONE


def _search(options: argparse.Namespace) -> int:
    from multigrain.pipeline.verbs import search

    for score, document in search(options.folder, options.query, options.top, options.retriever, options.instruction):
        print(f"{score:.3f}  {document.id}\n       {shortened(document.text, _width() - 7)}")
    return DONE


def _dropped(options: argparse.Namespace) -> int:
    from multigrain.pipeline.dropped import render_counts, render_pair
    from multigrain.pipeline.verbs import dropped

    config = load_config(options.run, options.set)
    if options.pair is None:
        print(render_counts(dropped(config)))
    else:
        print(render_pair(dropped(config, options.pair), width_of(sys.stdout)))
    return DONE


def _export_data(options: argparse.Namespace) -> int:
    from multigrain.pipeline.verbs import export_data

    print(export_data(options.folder, options.to, options.out, options.force, options.negatives))
    return DONE


def _export_requests(options: argparse.Namespace) -> int:
    from multigrain.pipeline.verbs import export_requests

    _print(export_requests(load_config(options.run, options.set), options.shards, options.output, options.force))
    return DONE


def _import_answers(options: argparse.Namespace) -> int:
    from multigrain.pipeline.verbs import import_answers

    _print(import_answers(load_config(options.run, options.set), options.answers))
    return DONE


def _compare(options: argparse.Namespace) -> int:
    from multigrain.experiments.compare_runs import compared_runs
    from multigrain.experiments.tables import for_terminal, to_markdown

    comparison = compared_runs(options.folders, options.out, options.force)
    print(for_terminal(comparison, _width()) if sys.stdout.isatty() else to_markdown(comparison))
    return DONE


def _ablate(options: argparse.Namespace) -> int:
    from multigrain.experiments.ablate import compared
    from multigrain.experiments.tables import for_terminal, tables

    comparison, failures = compared(options.run, options.force)
    figures = replace(comparison, moved={})
    print(for_terminal(figures, _width()) if sys.stdout.isatty() else tables(comparison))
    for failure in failures:
        complain(f"failed: {failure}")
    return FAILED if failures else DONE


def _tune(options: argparse.Namespace) -> int:
    from multigrain.experiments.tune import tune

    print(tune(load_config(options.run, options.set), options.force))
    return DONE


def _verify(folder: Path, only_for_runs: list[str]) -> int:
    if only_for_runs:
        raise ConfigError(only_for_runs[0], [f"is only for runs; {folder} is not a run. Leave it out"])
    if not (folder / "modules.json").is_file():
        found = f"is neither a run folder (no {RUN_FILE}) nor a model (no modules.json)"
        raise ConfigError(folder, [f"{found}; wanted one of these, or the file of a run or a grid"])
    from multigrain.export.model_verbs import verify_model

    report, is_good = verify_model(folder)
    _print(report)
    return DONE if is_good else USER


def _check_grid(path: Path, only_for_runs: list[str]) -> int:
    if only_for_runs:
        raise ConfigError(only_for_runs[0], [f"is only for runs; {path} describes a grid. Leave it out"])
    from multigrain.experiments.ablate import check_grid

    _print(check_grid(path))
    return DONE


def _explain_text(options: argparse.Namespace) -> int:
    from multigrain.export.model_verbs import explain_text

    print(explain_text(options.model, options.text, options.role, options.form, options.out, options.force))
    return DONE


def _merge(options: argparse.Namespace) -> int:
    from multigrain.export.model_verbs import merge_model

    print(merge_model(options.model, options.out, options.force))
    return DONE


def _export_onnx(options: argparse.Namespace) -> int:
    from multigrain.export.model_verbs import export_onnx

    print(export_onnx(options.model, options.out, options.int8, options.force))
    return DONE


def _print(text: str) -> None:
    """Print to stdout. On a terminal, lines are wrapped between words."""
    print(fitted(text, width_of(sys.stdout)))


def _width() -> int:
    return width_of(sys.stdout) or PLAIN


def _explain(error: Exception) -> int:
    """Print one clear message, and return its exit code."""
    message, code = f"{type(error).__name__}: {error}\n(--debug shows the traceback)", FAILED
    if isinstance(error, MultigrainError):
        message, code = str(error), error.exit_code
    elif isinstance(error, OSError) and error.filename is not None:
        message, code = f"{error.filename}: {error.strerror}.", USER
    if distributed.is_first_to_tell():
        complain(message)
    return code


def _keep_libraries_quiet(debug: bool) -> None:
    """Silence warnings and progress bars of libraries, which would drown out ours."""
    if not debug:
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("TQDM_DISABLE", "1")
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # other libraries import it if it is installed
        warnings.simplefilter("ignore", FutureWarning)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
