"""Architectures as the source of transformers names them."""

import transformers

from multigrain.model import architectures
from multigrain.model.eos import is_decoder


def test_what_transformers_knows_is_read_from_its_source() -> None:
    from transformers.models.auto import configuration_auto, modeling_auto

    known = [kind for kind in configuration_auto.CONFIG_MAPPING_NAMES if kind[0].islower()]
    assert len(known) > 100
    assert all(map(architectures.is_known, known))
    assert not architectures.is_known("my_own")
    for kind in known:
        writes = kind in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
        fills = kind in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
        assert architectures.is_decoder(kind) == (writes and not fills), kind
    assert is_decoder(transformers.LlamaConfig())
