"""The recipes of a choice."""

from pathlib import Path

import pytest

from multigrain.config import Config, TrainingSection, given_in, load_config
from multigrain.errors import ConfigError
from multigrain.experiments.recipes import recipes_of
from multigrain.pipeline.recipe import with_training
from multigrain.pipeline.run_dir import to_toml
from tests.config.text import GOOD, faults, load

SMALL = '[tune]\nvalues = { learning_rate = [1e-4, 2e-4] }\nrecipes = [{ batch_size = 32, schedule = "all-at-once" }]\n'
ALL = {1, 2, 3, 4}


def test_the_settings_as_they_are_come_first(tmp_path: Path) -> None:
    recipe = {"batch_size": 32, "schedule": "all-at-once"}
    found = recipes_of(load(tmp_path, GOOD + SMALL), ALL)
    assert found == [{}, {**recipe, "learning_rate": 1e-4}, {**recipe, "learning_rate": 2e-4}]
    # What is the same as it is already is no recipe, nor a part of one.
    assert recipes_of(
        load(tmp_path, GOOD + "[tune]\nvalues = { learning_rate = [5e-5, 1e-4] }\nrecipes = []"), ALL
    ) == [
        {},
        {"learning_rate": 1e-4},
    ]


def test_by_default_twelve_of_all_combinations_are_drawn(tmp_path: Path) -> None:
    config = load(tmp_path, GOOD)
    found = recipes_of(config, ALL)
    assert len(found) == 12 and found[0] == {} and len({repr(settings) for settings in found}) == 12
    assert found == recipes_of(config, ALL) != recipes_of(load(tmp_path, "seed = 8\n" + GOOD), ALL)


def test_what_is_given_is_not_varied(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (
        GOOD
        + "[training]\nlearning_rate = 5e-5\nbatch_size = 64\n"
        + SMALL.replace("schedule", "neighbours = 1, schedule")
    )
    with pytest.raises(ConfigError, match="found no recipe besides the current settings"):
        recipes_of(load(tmp_path, text), ALL)
    err = capsys.readouterr().err
    assert "training.learning_rate = 5e-05 is given; tune does not vary it" in err
    assert "training.batch_size = 64 is given" in err and "schedule" not in err
    # A recipe that wants the same as is given stays.
    found = recipes_of(load(tmp_path, text.replace("batch_size = 64", "batch_size = 32")), ALL)
    assert found == [{}, {"neighbours": 1, "schedule": "all-at-once"}]


def test_grades_that_are_not_there_and_settings_that_contradict_others_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tried = 'recipes = [{ schedule = "only-4" }, { schedule = "in-batch" }]'
    found = recipes_of(load(tmp_path, f"{GOOD}[tune]\n{tried}\n"), {1, 2})
    assert all("only-4" not in settings.values() for settings in found)
    assert "left out" in capsys.readouterr().err
    phases = GOOD + '[[training.phases]]\nname = "near"\ngrades = [4]\n'
    found = recipes_of(load(tmp_path, phases), ALL)
    assert found[0] == {} and all("schedule" not in settings for settings in found)


def test_settings_of_the_loss_that_want_each_other_may_be_tried_together(tmp_path: Path) -> None:
    tried = 'values = { hardness_mode = ["all_negatives"], hardness_strength = [5.0, 9.0] }'
    found = recipes_of(load(tmp_path, f"{GOOD}[tune]\nrecipes = []\n{tried}\n"), ALL)
    assert found == [{}, *({"hardness_mode": "all_negatives", "hardness_strength": strength} for strength in (5, 9))]
    tried = 'values = { directions = [["query_to_doc", "doc_to_query"]] }'
    found = recipes_of(load(tmp_path, f"{GOOD}[tune]\nrecipes = []\n{tried}\n"), ALL)
    assert found == [{}, {"directions": ["query_to_doc", "doc_to_query"]}]
    alone = "values = { hardness_strength = [5.0, 9.0] }"  # of no use without a mode
    with pytest.raises(ConfigError, match="found no recipe besides the current settings"):
        recipes_of(load(tmp_path, f"{GOOD}[tune]\nrecipes = []\n{alone}\n"), ALL)


def test_a_length_in_steps_takes_the_place_of_epochs(tmp_path: Path) -> None:
    config = load(tmp_path, GOOD + "[training]\nepochs = 2\n")
    section = with_training(config, {"steps": 30}).training
    assert (section.steps, section.epochs) == (30, None)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("minutes = 0", "tune.minutes: found 0; input should be greater than 0"),
        ("limit = 1", "tune.limit: found 1"),
        ("values = { learning_rte = [1e-4] }", "tune.values: found learning_rte; wanted a setting of [training]"),
        ("values = { steps = [10] }", "tune.values: found steps; wanted a setting of [training] that can be tried"),
        (
            'recipes = [{ hardness_mode = "all_negatives", dropout = true }]',
            "tune.recipes: found {'hardness_mode': 'all_negatives', 'dropout': True}: hardness_mode",
        ),
        (
            "values = { learning_rate = [] }",
            "tune.values: learning_rate: found []; wanted one or more different values",
        ),
        (
            "values = { learning_rate = [7.0] }",
            "tune.values: found {'learning_rate': 7.0}: Input should be less than 1",
        ),
        ("recipes = [{ learning_rate = 1e-4 }]", "learning_rate is in both tune.values and tune.recipes"),
    ],
)
def test_bad_settings(tmp_path: Path, text: str, fault: str) -> None:
    found = faults(tmp_path, f"{GOOD}[tune]\n{text}\n")
    assert len(found) == 1 and fault in found[0], found


def test_a_run_folder_knows_what_was_given(tmp_path: Path) -> None:
    config = load(tmp_path, GOOD + "[training]\nlearning_rate = 1e-4\nneighbours = 8\n")
    assert given_in(config.training) == {"learning_rate", "neighbours"}
    (tmp_path / "run.toml").write_text(to_toml(config))
    resolved = load_config(tmp_path / "run.toml")
    assert given_in(resolved.training) == {"learning_rate"}  # a default that was given cannot be told from others
    assert given_in(TrainingSection()) == frozenset()
    assert isinstance(resolved, Config)
