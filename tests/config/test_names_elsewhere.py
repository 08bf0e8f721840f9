from pathlib import Path

import pytest

from multigrain.config import Config
from multigrain.config.faults import keys_of
from multigrain.config.names_elsewhere import KEYS
from tests.config.text import GOOD, faults


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("training.lr=1", '"training.learning_rate"'),
        ("lr=1", '"training.learning_rate"'),
        ("training.batch=1", '"training.batch_size"'),
        ("training.per_device_train_batch_size=1", '"training.batch_size"'),
        ("training.max_steps=1", '"training.steps"'),
        ("training.num_train_epochs=3", '"training.epochs"'),
        ("epochs=3", '"training.epochs"'),
        ("training.Learning_Rate=1", '"training.learning_rate"'),
        ("model_name=1", '"model.base"'),
        ("model.model_name=1", '"model.base"'),
        ("model.name=1", '"model.base"'),
        ("llm.model_name=1", '"llm.model"'),
        ("llm.name=1", '"llm.model"'),
        ("model.base_model=1", '"model.base"'),
        ("base_model=1", '"model.base"'),
        ("output_dir=1", '"output"'),
        ("training.output_dir=1", '"output"'),
        ("model.max_seq_length=1", '"model.max_tokens"'),
        ("synthesis.negatives=1", '"synthesis.per_grade"'),
        ("negatives=1", '"synthesis.per_grade"'),
        ("mining.top_k=1", '"mining.per_grade"'),
        ("llm.api_key=1", '"llm.api_key_env"'),
        ("llm.url=1", '"llm.base_url"'),
        ("data.test_size=1", '"data.held_out"'),
        ("data.train_file=1", '"data.pairs"'),
        ("data.tasks=1", '"synthesis.tasks"'),
        ("dataset={pairs=1}", '"data"'),
        ("evaluate={tasks=1}", '"evaluation"'),
        ("eval={tasks=1}", '"evaluation"'),
        ("trainings={steps=1}", '"training"'),
        ("model.lora.r=1", '"model.lora.rank"'),
        ("model.lora.target_modules=1", '"model.lora.targets"'),
        ("lora={rank=1}", '"model.lora"'),
        ("training.learningrate=1", '"training.learning_rate"'),
        ("model.learningrate=1", '"training.learning_rate"'),
        ("training.fp16=true", '"training.precision"'),
        ("llm.extra_params={}", '"llm.extra_body"'),
        ("llm.extra_query={}", '"llm.query"'),
        ("llm.api_version=1", '"llm.query"'),
        ("llm.default_query={}", '"llm.query"'),
        ("llm.headers={}", '"llm.extra_headers"'),
        ("llm.num_workers=1", '"llm.max_concurrency"'),
        ("synthesis.model=1", '"llm.model"'),
        ("data.validation=1", '"data.held_out"'),
        ("data.dev=1", '"data.held_out"'),
        ("data.train=1", '"data.pairs"'),
        ("data.queries=1", '"data.pairs"'),
        ("data.held-out=1", '"data.held_out"'),
        ("model.query_prefix=1", '"model.query_prompt"'),
        ("model.passage_prefix=1", '"model.document_prompt"'),
        ("models={base=1}", '"model"'),
    ],
)
def test_the_usual_name_of_a_setting_gets_ours(tmp_path: Path, setting: str, expected: str) -> None:
    (found,) = faults(tmp_path, GOOD, setting)
    assert found == f"{setting.partition('=')[0]}: unknown key; did you mean {expected}?"


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("training.early_stopping=true", 'there is no such setting; training.schedule = "self-paced"'),
        ("training.warmup=0.1", "there is no such setting; the learning rate rises over the first tenth"),
        ("training.warmup_ratio=0.1", "there is no such setting; the learning rate rises"),
        ("training.weight_decay=0.1", "there is no such setting; the optimizer is AdamW"),
        ("training.optimizer=1", "there is no such setting; the optimizer is AdamW"),
        ("training.resume_from_checkpoint=true", "there is no such setting; the same command resumes"),
        (
            "training.symmetric=true",
            'symmetric = true is now directions = ["query_to_doc", "doc_to_query"] with',
        ),
        ("llm.reasoning_effort=1", "pass it to the server with llm.extra_body = { reasoning_effort = ... }"),
        ("llm.enable_thinking=false", "pass it to the server with llm.extra_body = { chat_template_kwargs ="),
        ("llm.top_k=1", "pass it to the server with llm.extra_body = { top_k = ... }"),
        ("llm.max_retries=1", "there is no such setting; failed requests are retried automatically"),
        ("model.revision=1", "there is no such setting; download it (hf download"),
        ("data.split=1", "there is no such setting; name the split in data.pairs"),
        ("data.format=1", "there is no such setting; the fields of the first row determine the format"),
        ("synthesis.enabled=false", "only mining has it; to ask no language model, set synthesis.limit = 0"),
    ],
)
def test_a_setting_that_we_lack_gets_what_there_is_instead(tmp_path: Path, setting: str, expected: str) -> None:
    (found,) = faults(tmp_path, GOOD, setting)
    assert f"unknown key; {expected}" in found


def test_the_usual_names_belong_to_settings_that_there_are() -> None:
    known = set(keys_of(Config))
    assert KEYS.keys() <= known
    taken = [name for names in KEYS.values() for name in names.split()]
    assert {key for key in known if key in taken} == {"name"}  # of models, in their sections
