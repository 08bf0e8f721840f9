"""Check that everything a run needs is there, before the first long stage starts. Does not import torch."""

import os
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path

from multigrain.config import Config, LLMSection, TeacherSection
from multigrain.data.python_docs import package_roots
from multigrain.data.sources import PYTHON_DOCS
from multigrain.errors import ConfigError
from multigrain.evaluation.tasks import HELD_OUT, MTEB, check_names, load_queries
from multigrain.extras import find_weights, require_engine, require_extra
from multigrain.llm.budget import Budget, Usage, prices_of
from multigrain.llm.clients.factory import api_key, extras_of
from multigrain.model.files import EMBEDDED, EMBEDDED_LLM, is_gguf
from multigrain.model.precheck import (
    Instruction,
    precheck_cross_encoder,
    precheck_decoder,
    precheck_encoder,
    precheck_model,
    precheck_prompts,
)
from multigrain.synthesis.prompts import check_folder
from multigrain.training.grade_schedules import phases_of


def require_inputs(config: Config, asks: bool = True, evaluates: bool = True) -> None:
    """Check that everything the stages of a run need is there, and that its tasks can be read.

    Args:
        config: the run.
        asks: whether one of the stages may ask the language model.
        evaluates: whether the evaluation is one of the stages.

    Raises:
        MultigrainError: see `require`, `phases_of` and `require_tasks`.
    """
    require(config, llm=asks)
    if asks:
        phases_of(config.training)  # assumes that tuples of all grades will exist, which is known only after grading
    if asks or evaluates:
        require_tasks(config)


def require(config: Config, llm: bool = True) -> None:
    """Check that packages, models, the run folder and the language model are there.

    Args:
        config: the run.
        llm: whether the language model will be asked.

    Raises:
        ConfigError: a package to hold out is not installed, the base or the judge is not a model, a prompt leaves no
            room for a text, the run folder cannot be written, the key of the endpoint is not set, or the cost is capped
            but the price is unknown.
        RunError: a part of the embedded language model, or a package of an extra, is not installed.
        DataError: a task of the evaluation does not exist, or needs held-out pairs.
    """
    _require_held_out_packages(config)
    precheck_model(config.model, config.training.matryoshka)
    precheck_prompts(config.model, config.training.max_tokens, _instructions(config))
    if config.adapt is not None:
        precheck_decoder(config.model.base, config.adapt)
    precheck_encoder(config.grading.judge_model, "grading.judge_model")
    if config.grading.cross_encoder and "cross-encoder" in config.grading.judge:
        precheck_cross_encoder(config.grading.cross_encoder, "grading.cross_encoder")
    _require_trainable_baseline(config)
    _require_teacher(config.training.teacher)
    _require_packages(config)
    _require_place(config.folder)
    if config.synthesis.prompts:
        check_folder(config.synthesis.prompts)
    if llm and uses_llm(config):
        _require_llm(config.llm)
    _require_evaluation(config)


def require_tasks(config: Config) -> None:
    """Check that the tasks of the evaluation can be read, and that mteb knows its tasks.

    If pairs are written, no stage reads the tasks before the first request.

    Raises:
        ConfigError, RunError: see `multigrain.evaluation.mteb_tasks.check_names`.
        DataError: see `multigrain.evaluation.tasks.load_task`.
    """
    if config.data.pairs in (None, PYTHON_DOCS):
        for name in config.evaluation.tasks:
            if name != HELD_OUT and not name.startswith(MTEB):
                load_queries(name, [])
    if names := [name.removeprefix(MTEB) for name in config.evaluation.tasks if name.startswith(MTEB)]:
        from multigrain.evaluation.mteb_tasks import check_names as check_mteb_names

        given = config.evaluation.instructions
        check_mteb_names(names, [name.removeprefix(MTEB) for name in given if name.startswith(MTEB)])


def uses_llm(config: Config) -> bool:
    """Return whether the run asks a language model, to write or to judge."""
    writes = config.synthesis.limit != 0 and bool(config.synthesis.grades_from("llm"))
    return writes or bool(config.writing) or "llm" in config.grading.judge


def _instructions(config: Config) -> Iterator[Instruction]:
    """Yield the instructions of the sources, and those of the tasks of the evaluation."""
    for source in config.data.sources:
        if source.instruction:
            yield Instruction(source.instruction, f'of the source "{source.name}"', is_trained=True)
    for task, instruction in config.evaluation.instructions.items():
        yield Instruction(instruction, f'of "{task}" in evaluation.instructions', is_trained=False)


def _require_held_out_packages(config: Config) -> None:
    """Check that the Python packages whose documentation is held out are installed."""
    if config.data.pairs != PYTHON_DOCS or not isinstance(config.data.held_out, list):
        return
    packages = [name for name, _ in package_roots()]
    if unknown := [name for name in config.data.held_out if name not in packages]:
        near = get_close_matches(unknown[0], packages, 3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"installed are {', '.join(packages)}"
        raise ConfigError("data.held_out", [f'no package "{unknown[0]}" is installed; {hint}'])


def _require_trainable_baseline(config: Config) -> None:
    """Check that the stock sentence-transformers trainer is not combined with an adapter."""
    if config.baseline.against == "stock" and config.model.lora is not None:
        found = 'found "stock", which trains all weights of the base, and model.lora, which trains an adapter'
        raise ConfigError("baseline.against", [f'{found}: they cannot be compared at equal cost. Set it to "none"'])


def _require_place(folder: Path) -> None:
    """Check that the run folder can be created, or written to if it exists."""
    place = folder.absolute()
    while not os.path.lexists(place):
        place = place.parent
    places = [place]
    if place == folder.absolute() and place.is_dir():
        places += [path for path in place.iterdir() if path.is_dir()]
    for path in places:
        fault = "is not a folder" if not path.is_dir() else "cannot be written to"
        if not path.is_dir() or not os.access(path, os.W_OK | os.X_OK):
            raise ConfigError("output", [f"{path} {fault}; the run folder is {folder}. Choose another output"])


def _require_evaluation(config: Config) -> None:
    if config.training.evaluate and not config.data.held_out:
        raise ConfigError("training.evaluate", ["found true, which needs data.held_out above 0"])
    check_names(config.evaluation.tasks)
    if (data := config.evaluation.mteb_data) is not None and not Path(data).is_dir():
        raise ConfigError("evaluation.mteb_data", [f"{data}: the folder does not exist"])
    for task in config.evaluation.tasks:
        if task == HELD_OUT and not config.data.held_out:
            raise ConfigError("evaluation.tasks", ['"held-out" needs data.held_out above 0'])
        if task.startswith(MTEB):
            require_extra("mteb")


def _require_teacher(section: TeacherSection | None) -> None:
    if section and section.model:
        precheck = precheck_cross_encoder if section.kind == "cross-encoder" else precheck_encoder
        precheck(section.model, "training.teacher.model")


def _require_packages(config: Config) -> None:
    """Check that the packages of extras are installed, rather than fail after hours of training."""
    if config.export.onnx:
        require_extra("onnx")
    if config.model.lora and config.model.lora.quantize:
        require_extra("qlora")
    for receiver in config.training.report_to:
        require_extra(receiver)
    if any(is_gguf(name) or name == EMBEDDED_LLM for name in (config.model.base, config.grading.judge_model)):
        require_extra("embedded")


def _require_llm(section: LLMSection) -> None:
    api_key(section)
    extras_of(section)
    if section.provider == EMBEDDED:
        require_engine()
        find_weights()
    Budget(section, prices_of(section), Usage())
