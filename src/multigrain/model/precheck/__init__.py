"""Checks of the models of a run, as far as their files tell without loading them. No torch.

They come before the language model is paid. What a model cannot have is refused then; the build says the same again of
a model whose files did not tell.

    checks    base, encoder and cross-encoder: each refused with all of its faults
    loading   faults for which a model could not be loaded
    training  faults for which a base could not be trained as the settings ask
    notes     what is done otherwise than asked for, and refused by nobody
"""

from multigrain.model.precheck.checks import precheck_base, precheck_cross_encoder, precheck_encoder, precheck_model
from multigrain.model.precheck.notes import length_note, notes

__all__ = ["length_note", "notes", "precheck_base", "precheck_cross_encoder", "precheck_encoder", "precheck_model"]
