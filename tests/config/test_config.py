from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Union, get_args, get_origin

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multigrain.config import QUICKSTART, Config, Section, differences, load_config
from multigrain.config.aliases import KEYS
from multigrain.config.faults import ALTERNATIVES, keys_of
from multigrain.errors import ConfigError
from multigrain.pipeline.run_dir import to_toml

PHASE = '[[training.phases]]\nname = "a"\ngrades = [1]\n'
GOOD = 'name = "x"\n[data]\npairs = "python-docs"\n'


def load(tmp_path: Path, text: str, *overrides: str) -> Config:
    path = tmp_path / "run.toml"
    path.write_text(text)
    return load_config(path, overrides)


def faults(tmp_path: Path, text: str, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text, *overrides)
    return caught.value.faults


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (GOOD + "[training]\nbatchsize = 3\n", 'training.batchsize: unknown key; did you mean "training.batch_size"?'),
        (GOOD + '[[training.phases]]\nname="a"\ngrades=[1]\nstep=3\n', 'did you mean "training.phases.steps"?'),
        (GOOD + "[train]\n", 'train: unknown key; did you mean "training"?'),
        ("batch_size = 3\n" + GOOD, 'batch_size: unknown key; did you mean "training.batch_size"?'),
        (GOOD + '[training]\nbatch_size = "3"\n', 'training.batch_size: found "3"; input should be a valid integer'),
        (GOOD + "[training]\nbatch_size = 1\n", "training.batch_size: found 1; input should be greater than or equal"),
        (GOOD + "[training]\nsteps = 0\n", "training.steps: found 0; input should be greater than or equal to 1"),
        (
            GOOD + '[training]\nlearning_rate = "fast"\n',
            'training.learning_rate: found "fast"; input should be a',
        ),
        (
            GOOD + '[training]\nschedule = "easy"\n',
            'training.schedule: found "easy"; input should',
        ),
        (GOOD + '[training]\nschedule = "reverse"\n' + PHASE, "schedule = reverse is of no use with phases"),
        (
            GOOD + "[training]\nsteps = 9\n" + PHASE + "steps = 3\n",
            "training: steps = 9, but the phases have 3",
        ),
        (GOOD + PHASE + "steps = 3\nshare = 0.5\n", 'phase "a" has steps and share; give one of them'),
        (GOOD + PHASE + "weights = [1, 1]\n", 'phase "a" has 2 weights for 1 grades'),
        (GOOD + "[grading]\nbands = [0.6, 0.3, 0.8]\n", "grading: bands and false_negative_above must rise"),
        (GOOD + '[llm]\nprovider = "endpoint"\n', 'llm: provider = "endpoint" also needs base_url and model'),
        (GOOD + "[model.lora]\nrnk = 3\n", 'model.lora.rnk: unknown key; did you mean "model.lora.rank"?'),
        (GOOD + "[model.lora]\ntargets = 5\n", 'model.lora.targets: found 5; wanted "all-linear", or a list of names'),
        (GOOD + '[model.anchor]\nform = "cubic"\n', 'model.anchor.form: found "cubic"; input should be'),
        (GOOD + '[model]\npooling = "mean"\nanchor = {detach = true}\n', "model: model.anchor is of use with pooling"),
        (GOOD + "[export]\nint8 = true\n", "export: int8 = true needs onnx = true"),
        (GOOD + "[model]\nprompt_in_pooling = false\n[export]\nonnx = true\n", "wants model.prompt_in_pooling = true"),
        ('name = "x"\n', "data: missing"),
        ('name = "../x"\n[data]\npairs = "python-docs"\n', 'name: found "../x"'),
    ],
)
def test_each_fault_says_where_and_what(tmp_path: Path, text: str, expected: str) -> None:
    assert any(expected in fault for fault in faults(tmp_path, text)), faults(tmp_path, text)


def test_all_faults_are_reported_at_once(tmp_path: Path) -> None:
    text = 'nam = "x"\n[data]\npairs = 3\nheld_out = 2.0\n[model]\npooling = "mena"\n'
    found = faults(tmp_path, text)
    for key in ("name", "nam", "data.pairs", "data.held_out", "model.pooling"):
        assert any(fault.startswith(key) for fault in found), (key, found)


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("data.held_out=20", "found 20; wanted a share of the queries, from 0 to below 1, such as 0.1, or a list of "
         "sources; did you mean 0.2?"),
        ("data.held_out=20%", 'found "20%"; wanted a share of the queries, from 0 to below 1, such as 0.1, or a list '
         "of sources; did you mean 0.2?"),
        ('data.held_out="7.5 %"', 'found "7.5 %"; wanted a share of the queries, from 0 to below 1, such as 0.1, or a '
         "list of sources; did you mean 0.075?"),
        ("data.held_out=-1", "found -1; wanted a share"),
        ("data.held_out=1", "found 1; wanted a share"),
        ("data.held_out=true", "found true; wanted a share"),
        ("data.held_out=[1, 2]", "found [1, 2]; wanted a share"),
        ('data.held_out="docs"', 'found "docs"; wanted a share'),
        ("model.bidirectional=0", "found 0; wanted true, false, or a number of layers from 1 on"),
        ('model.bidirectional="yes"', 'found "yes"; wanted true, false'),
        ("model.lora.targets=[1]", "found [1]; wanted \"all-linear\", or a list"),
    ],
)  # fmt: skip
def test_a_key_that_takes_several_kinds_has_one_line(tmp_path: Path, setting: str, expected: str) -> None:
    (found,) = faults(tmp_path, GOOD, setting)
    assert found.startswith(f"{setting.partition('=')[0]}: {expected}")


def test_every_key_that_takes_several_kinds_says_so() -> None:
    def unions(section: type[Section], prefix: str = "") -> Iterator[str]:
        for name, field in section.model_fields.items():
            kinds = [kind for kind in get_args(field.annotation) or (field.annotation,) if kind is not type(None)]
            is_union = get_origin(field.annotation) in (Union, UnionType)
            if is_union and len(kinds) > 1:
                yield f"{prefix}{name}"
            for kind in kinds:
                if isinstance(kind, type) and issubclass(kind, Section):
                    yield from unions(kind, f"{prefix}{name}.")

    assert set(unions(Config)) == ALTERNATIVES.keys()


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("training.lr=1", '"training.learning_rate"'),
        ("lr=1", '"training.learning_rate"'),
        ("training.batch=1", '"training.batch_size"'),
        ("training.per_device_train_batch_size=1", '"training.batch_size"'),
        ("training.max_steps=1", '"training.steps"'),
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
        ("training.epochs=3", "training goes by training.steps (one epoch: pairs / batch_size)"),
        ("num_train_epochs=3", "training goes by training.steps"),
        ("training.early_stopping=true", 'there is none; training.schedule = "self-paced"'),
        ("training.warmup=0.1", "there is none; the rate rises over the first tenth"),
        ("training.warmup_ratio=0.1", "there is none; the rate rises"),
        ("training.weight_decay=0.1", "there is none; the optimiser is AdamW"),
        ("training.optimizer=1", "there is none; the optimiser is AdamW"),
        ("training.resume_from_checkpoint=true", "there is none; the same command goes on"),
        ("llm.reasoning_effort=1", "the server gets it by llm.extra_body = { reasoning_effort = ... }"),
        ("llm.enable_thinking=false", "the server gets it by llm.extra_body = { chat_template_kwargs ="),
        ("llm.top_k=1", "the server gets it by llm.extra_body = { top_k = ... }"),
        ("llm.max_retries=1", "there is none; requests are tried again by themselves"),
        ("model.revision=1", "there is none; fetch it (hf download"),
        ("data.split=1", "there is none; data.pairs names it"),
        ("data.format=1", "there is none; it is recognised by the fields"),
        ("synthesis.enabled=false", "there is mining.enabled alone; synthesis.limit = 0"),
    ],
)
def test_a_setting_that_we_lack_gets_what_there_is_instead(tmp_path: Path, setting: str, expected: str) -> None:
    (found,) = faults(tmp_path, GOOD, setting)
    assert f"unknown key; {expected}" in found


@pytest.mark.parametrize(
    "setting", ["export.format=1", "training.num_workers=1", "training.shuffle=1", "evaluation.metrics=1"]
)
def test_where_no_setting_is_likely_none_is_named(tmp_path: Path, setting: str) -> None:
    (found,) = faults(tmp_path, GOOD, setting)
    assert "unknown key; known here: " in found


@pytest.mark.parametrize(
    ("setting", "likely"),
    [
        ("model.pooling=mena", "mean"),
        ("model.pooling=average", "mean"),
        ("model.pooling=Mean", "mean"),
        ("model.pooling=last_token", "last"),
        ("training.schedule=coarse_to_fine", "coarse-to-fine"),
        ("training.schedule=curriculum", "coarse-to-fine"),
        ("training.precision=fp16", "bf16"),
        ("training.loss=MultipleNegativesRankingLoss", "infonce"),
        ("llm.provider=openai", "endpoint"),
        ("grading.judge=reranker", "cross-encoder"),
        ('mining.methods=["bm-25"]', "bm25"),
        ("synthesis.mode=negative", "negatives"),
    ],
)
def test_a_misspelt_value_gets_the_likely_one(tmp_path: Path, setting: str, likely: str) -> None:
    (found,) = faults(tmp_path, GOOD, setting)
    assert found.endswith(f'; did you mean "{likely}"?')


def test_the_usual_names_belong_to_settings_that_there_are() -> None:
    known = set(keys_of(Config))
    assert KEYS.keys() <= known
    taken = [name for names in KEYS.values() for name in names.split()]
    assert {key for key in known if key in taken} == {"name"}  # of models, in their sections


def test_an_example_says_where_its_data_come_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MULTIGRAIN_DATA", raising=False)
    with pytest.raises(ConfigError, match="MULTIGRAIN_DATA is not set") as caught:
        load_config(Path(__file__).parents[1] / "examples" / "scifact.toml")
    assert "set it to the folder that the path goes on from" in caught.value.faults[0]
    assert str(caught.value).count("BEIR/datasets/scifact.zip, to be unpacked there") == 1
    assert [fault.partition(": the environment variable")[0] for fault in caught.value.faults] == [
        "data.pairs", "evaluation.tasks",
    ]  # fmt: skip


def test_what_is_no_toml(tmp_path: Path) -> None:
    assert "not TOML" in faults(tmp_path, "name = \n")[0]
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load_config(tmp_path / "absent.toml")


def test_overrides_win_and_are_typed(tmp_path: Path) -> None:
    config = load(tmp_path, GOOD, "training.batch_size=64", "model.pooling=mean", "data.held_out=0.2")
    assert (config.training.batch_size, config.model.pooling, config.data.held_out) == (64, "mean", 0.2)
    assert "section.key=value" in faults(tmp_path, GOOD, "training.batch_size 64")[0]


def test_input_paths_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOMEWHERE", "/data")
    text = 'name = "x"\n[data]\npairs = "beir:${SOMEWHERE}/scifact:train"\ncorpus = "corpus.jsonl"\n'
    config = load(tmp_path, text)
    assert config.data.pairs == "beir:/data/scifact:train"
    assert config.data.corpus == str(tmp_path / "corpus.jsonl")
    monkeypatch.delenv("SOMEWHERE")
    assert "the environment variable SOMEWHERE is not set" in faults(tmp_path, text)[0]


def test_fingerprint_depends_on_the_sections_named_alone(tmp_path: Path) -> None:
    one, other = load(tmp_path, GOOD), load(tmp_path, GOOD, "training.batch_size=64")
    assert one.fingerprint("data", "model") == other.fingerprint("data", "model")
    assert one.fingerprint("training") != other.fingerprint("training")


def test_quickstart_survives_the_run_folder() -> None:
    config = load_config(QUICKSTART)
    import tomllib

    assert differences(tomllib.loads(to_toml(config)), config) == []


@given(st.text(min_size=1), st.floats(0.001, 0.3, allow_nan=False), st.integers(2, 512))
def test_any_setting_survives_the_run_folder(phase: str, rate: float, batch: int) -> None:
    import tomllib

    settings = {
        "name": "x",
        "data": {"pairs": "a.jsonl"},
        "training": {
            "batch_size": batch,
            "learning_rate": rate,
            "phases": [{"name": phase, "grades": [1, 4], "steps": 3}],
        },
    }
    config = Config.model_validate(settings)
    assert Config.model_validate(tomllib.loads(to_toml(config))) == config
