"""Check the models of a run by their files, without loading them. Does not import torch.

These checks run before the language model costs money. If a model's files say too little, building the model repeats
the checks.

    checks    check a base, encoder or cross-encoder, and report all faults at once
    loading   faults that prevent loading a model
    training  faults that prevent training a base with the given settings
    prompts   faults of the prompts before texts, with the instructions of pairs and tasks
    notes     differences from the settings or the base that are not faults
"""

from multigrain.model.precheck.checks import (
    precheck_base,
    precheck_cross_encoder,
    precheck_decoder,
    precheck_encoder,
    precheck_model,
)
from multigrain.model.precheck.notes import length_note, notes
from multigrain.model.precheck.prompts import Instruction, precheck_prompts

__all__ = [
    "Instruction",
    "length_note",
    "notes",
    "precheck_base",
    "precheck_cross_encoder",
    "precheck_decoder",
    "precheck_encoder",
    "precheck_model",
    "precheck_prompts",
]
