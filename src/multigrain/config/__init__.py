"""One TOML file describes a run: read it, check all of it, and freeze it.

Unknown keys are errors that name the likely key, and all faults are reported at once. Input paths are relative to
the TOML file (environment variables such as `${MULTIGRAIN_DATA}` are filled in); `output` is relative to the folder
the command is run in.
"""

from multigrain.config.base import Dimension, Grade, Precision, Section, Share
from multigrain.config.data import DataSection
from multigrain.config.evaluation import EvaluationSection, ExportSection
from multigrain.config.faults import explained
from multigrain.config.grading import GradingSection
from multigrain.config.llm import VARIABLE, LLMSection, PricesSection
from multigrain.config.load import (
    BEIR,
    QUICKSTART,
    config_of,
    load_config,
    read_settings,
    read_toml,
    resolve_paths,
    validated,
)
from multigrain.config.model import AnchorSection, LoraSection, ModelSection, described
from multigrain.config.out import (
    require_extendable_folder,
    require_free_file,
    require_free_form,
    require_replaceable_folder,
)
from multigrain.config.paths import (
    MODEL,
    RUN_FILE,
    TRAINED,
    as_path,
    is_run_folder,
    model_folder_of,
    run_folder_of,
    trained_folder_of,
)
from multigrain.config.run import OUTCOME_NEUTRAL, WRITTEN_SURPLUS, Config, differences
from multigrain.config.synthesis import ExampleSection, MiningSection, Origin, QueryType, SynthesisSection
from multigrain.config.training import DEFAULT_STEPS, PhaseSection, TrainingSection

__all__ = [
    "MODEL",
    "TRAINED",
    "AnchorSection",
    "BEIR",
    "Config",
    "DEFAULT_STEPS",
    "DataSection",
    "Dimension",
    "EvaluationSection",
    "ExampleSection",
    "ExportSection",
    "Grade",
    "GradingSection",
    "LLMSection",
    "LoraSection",
    "MiningSection",
    "ModelSection",
    "OUTCOME_NEUTRAL",
    "Origin",
    "PhaseSection",
    "Precision",
    "PricesSection",
    "QUICKSTART",
    "QueryType",
    "RUN_FILE",
    "Section",
    "Share",
    "SynthesisSection",
    "TrainingSection",
    "VARIABLE",
    "WRITTEN_SURPLUS",
    "as_path",
    "config_of",
    "described",
    "differences",
    "explained",
    "is_run_folder",
    "load_config",
    "model_folder_of",
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
