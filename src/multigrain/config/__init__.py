"""Read, check and freeze the TOML file that describes a run.

Unknown keys are errors that name the likely key, and all faults are reported at once. Input paths are relative to
the TOML file, and environment variables in them such as `${MULTIGRAIN_DATA}` are expanded. `output` is relative to the
folder in which the command is run.
"""

from multigrain.config.adapt import BLANK, AdaptSection, described_adaptation
from multigrain.config.base import Precision, Section
from multigrain.config.baseline import BaselineSection
from multigrain.config.contrast import ContrastSection
from multigrain.config.data import SourceSection
from multigrain.config.export import ExportSection
from multigrain.config.faults import explained
from multigrain.config.grading import GradingSection
from multigrain.config.llm import VARIABLE, LLMSection
from multigrain.config.load import (
    QUICKSTART,
    config_of,
    load_config,
    read_settings,
    read_toml,
    resolve_paths,
    validated,
)
from multigrain.config.mining import MiningSection
from multigrain.config.model import INSTRUCT, INSTRUCTION, LoraSection, ModelSection, described, one_line
from multigrain.config.overwriting import (
    require_extendable_folder,
    require_free_file,
    require_free_form,
    require_replaceable_folder,
)
from multigrain.config.run import OUTCOME_NEUTRAL, WRITTEN_SURPLUS, Config, differences
from multigrain.config.run_folders import (
    EXPORTED_MODEL,
    RUN_FILE,
    TRAINED_MODEL,
    as_path,
    model_folder_of,
    run_folder_of,
    trained_folder_of,
)
from multigrain.config.synthesis import QueryType, SynthesisSection
from multigrain.config.teacher import TeacherSection
from multigrain.config.training import EITHER, PhaseSection, TrainingSection
from multigrain.config.tune import TuningSection, given_in

__all__ = [
    "BLANK",
    "AdaptSection",
    "BaselineSection",
    "EXPORTED_MODEL",
    "TRAINED_MODEL",
    "Config",
    "ContrastSection",
    "EITHER",
    "ExportSection",
    "GradingSection",
    "INSTRUCT",
    "INSTRUCTION",
    "LLMSection",
    "LoraSection",
    "MiningSection",
    "ModelSection",
    "OUTCOME_NEUTRAL",
    "PhaseSection",
    "Precision",
    "QUICKSTART",
    "QueryType",
    "RUN_FILE",
    "Section",
    "SourceSection",
    "SynthesisSection",
    "TeacherSection",
    "TrainingSection",
    "TuningSection",
    "VARIABLE",
    "WRITTEN_SURPLUS",
    "as_path",
    "config_of",
    "described",
    "described_adaptation",
    "differences",
    "explained",
    "given_in",
    "load_config",
    "model_folder_of",
    "one_line",
    "read_settings",
    "read_toml",
    "require_extendable_folder",
    "require_free_file",
    "require_free_form",
    "require_replaceable_folder",
    "resolve_paths",
    "run_folder_of",
    "trained_folder_of",
    "validated",
]
