from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Union, get_args, get_origin

import pytest

from multigrain.config import Config, Section
from multigrain.config.faults import ALTERNATIVES
from tests.config.text import GOOD, faults

PHASE = '[[training.phases]]\nname = "a"\ngrades = [1]\n'
DISTILL = '[training]\nloss = "distill"\n[training.teacher]\n'


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
        (GOOD + '[training]\nschedule = "reverse"\n' + PHASE, "schedule = reverse has no effect with phases"),
        (
            GOOD + '[training]\ndirections = ["doc_to_doc"]\n',
            "training.directions: found ['doc_to_doc']; add \"query_to_doc\", the only one that always includes",
        ),
        (
            GOOD + '[training]\ndirections = ["query_to_doc", "query_to_doc"]\n',
            "training.directions: found ['query_to_doc', 'query_to_doc']; name each direction once",
        ),
        (GOOD + '[training]\ndirections = ["query_to_docs"]\n', 'did you mean "query_to_doc"?'),
        (
            GOOD + '[training]\ndirections = ["query_to_doc", "query_to_query"]\npartition_mode = "per_direction"\n',
            'training: partition_mode = "per_direction" needs the positive in each direction, and query_to_query never',
        ),
        (
            GOOD + '[training]\nhardness_mode = "all_negatives"\n',
            'training: hardness_mode = "all_negatives" has no effect without hardness_strength; add one, such as 5',
        ),
        (
            GOOD + "[training]\nhardness_strength = 5\n",
            "training: hardness_strength = 5 has no effect without hardness_mode; add hardness_mode =",
        ),
        (
            GOOD + '[training]\nschedule = "in-batch"\nhardness_mode = "hard_negatives"\nhardness_strength = 5\n',
            'training: hardness_mode = "hard_negatives" has no effect if no phase has grades; set',
        ),
        (GOOD + "[training]\nguide_margin = 1.5\n", "training.guide_margin: found 1.5; input should be less than 1"),
        (
            GOOD + "[training]\nsteps = 9\n" + PHASE + "steps = 3\n",
            "training: steps = 9, but the phases have 3",
        ),
        (GOOD + "[training]\nsteps = 9\nepochs = 1\n", "training: found epochs = 1 and steps = 9; give one of them"),
        (GOOD + "[training]\nepochs = 2\n" + PHASE + "steps = 3\n", "epochs = 2, but the phases have 3 steps"),
        (GOOD + "[training]\nepochs = 0\n", "training.epochs: found 0; input should be greater than 0"),
        (GOOD + PHASE + "steps = 3\nshare = 0.5\n", 'phase "a" has both steps and share; give one of them'),
        (GOOD + PHASE + "weights = [1, 1]\n", 'phase "a" has 2 weights for 1 grades'),
        (
            GOOD + '[training]\nloss = "distill"\n',
            'training: loss = "distill" also needs teacher: add [training.teacher]',
        ),
        (GOOD + '[training.teacher]\nkind = "fused"\n', 'training: teacher has no effect with loss = "infonce"'),
        (GOOD + DISTILL + 'kind = "cross-encoder"\n', 'teacher: kind = "cross-encoder" also needs model'),
        (GOOD + DISTILL + 'kind = "fused"\nmodel = "m"\n', 'teacher: model has no effect with kind = "fused"'),
        (GOOD + DISTILL + 'kind = "fused"\nquery_prompt = "q: "\n', "teacher: query_prompt has no effect with kind"),
        (
            GOOD + DISTILL + 'kind = "fused"\ndocuments = 1\n',
            "teacher.documents: found 1; input should be greater than",
        ),
        (GOOD + DISTILL + 'kind = "fused"\n' + PHASE, "training: phases has no effect with the lists of a teacher"),
        (GOOD + DISTILL + 'kind = "judge"\n' + PHASE.replace("[1]", "[]"), 'training: phase "a" has no negatives to'),
        (GOOD + "[grading]\nbands = [0.6, 0.3, 0.8]\n", "grading: bands and false_negative_above must rise"),
        (GOOD + '[llm]\nprovider = "endpoint"\n', 'llm: provider = "endpoint" also needs base_url and model'),
        (GOOD + "[model.lora]\nrnk = 3\n", 'model.lora.rnk: unknown key; did you mean "model.lora.rank"?'),
        (GOOD + "[model.lora]\ntargets = 5\n", 'model.lora.targets: found 5; wanted "all-linear", or a list of names'),
        (GOOD + '[model.anchor]\nform = "cubic"\n', 'model.anchor.form: found "cubic"; input should be'),
        (
            GOOD + '[model]\npooling = "mean"\nanchor = {detach = true}\n',
            "model: model.anchor has an effect only with pooling",
        ),
        (GOOD + "[export]\nint8 = true\n", "export: int8 = true needs onnx = true"),
        (GOOD + "[model]\nprompt_in_pooling = false\n[export]\nonnx = true\n", "set model.prompt_in_pooling = true"),
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
        ("model.bidirectional=0", "found 0; wanted true, false, or a number of layers, at least 1"),
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
