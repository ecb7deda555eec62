"""Published runs: every row of the paper's tables has one, and the documentation's page lists them."""

import pytest

from conftest import ROOT
from osnet.data.augmentation import Augmentation
from osnet.errors import ModelError
from osnet.models.registry import get_config
from osnet.recipes import RECIPES, RUNS, get_recipe
from osnet.recipes.published_runs import Printed, Run, describe_runs, make_run
from osnet.tasks.attribute_task import AttributeLoss
from osnet.tasks.joint import JointLoss
from osnet.tasks.reid import ReidLoss, ReidRecipe


def rows(where: str) -> list[tuple[Run, Printed]]:
    return [(run, printed) for run in RUNS for printed in run.printed if where in printed.where]


def test_table_3_has_two_rows_for_each_of_four_benchmarks() -> None:
    found = [(printed.test, run.make().pretrained) for run, printed in rows("Table 3")]
    assert sorted(found, key=str) == sorted(
        [(b, p) for b in ("market1501", "cuhk03", "dukemtmcreid", "msmt17") for p in (None, "imagenet")], key=str
    )


def test_table_5_has_eleven_networks_trained_from_scratch() -> None:
    table = rows("Table 5")
    assert sorted(int(p.where.split("row ")[1].split(",")[0]) for _, p in table) == list(range(1, 12))
    recipes = [run.make() for run, _ in table]
    assert len({str(get_config(recipe.model)) for recipe in recipes}) == 11
    for recipe in recipes:
        assert (recipe.pretrained, recipe.epochs, recipe.lr) == (None, 350, 0.065)


def test_table_6_has_four_widths_at_four_resolutions() -> None:
    cells = {
        (get_config(run.make().model).width, run.make().size_hw): (p.rank1, p.mean_ap) for run, p in rows("Table 6")
    }
    assert len(cells) == 16
    assert {width for width, _ in cells} == {1.0, 0.75, 0.5, 0.25}
    assert {size for _, size in cells} == {(256, 128), (192, 96), (128, 64), (64, 32)}
    assert cells[1.0, (256, 128)] == (94.8, 84.9)
    assert cells[0.25, (64, 32)] == (79.1, 56.0)


PAPER_SCRATCH = Augmentation(crop=0.5, flip=0.5, patch=0.5)
PAPER_FINETUNED = Augmentation(flip=0.5, erase=0.5)


@pytest.mark.parametrize("table", ["Table 3", "Table 4", "Table 5", "Table 6"])
def test_recipes_have_the_papers_augmentation(table: str) -> None:
    """From scratch: random flip, crop and patch. Fine-tuning: random flip and erasing. Euclidean distance."""
    for run, _ in rows(table):
        recipe = run.make()
        assert isinstance(recipe, ReidRecipe)
        assert recipe.augmentation == (PAPER_FINETUNED if recipe.pretrained else PAPER_SCRATCH), run.name
        assert recipe.distance == "euclidean"


def test_recipes_have_the_model_zoos_augmentation() -> None:
    """As in the names of the released files; AIN's config uses cosine distance."""
    for run, printed in rows("model zoo"):
        recipe = run.make()
        assert isinstance(recipe, ReidRecipe)
        plain = run.train == (printed.test,)
        assert recipe.augmentation == Augmentation(flip=0.5, jitter=0.0 if plain else 1.0), run.name
        assert recipe.distance == ("cosine" if "ain" in recipe.model or len(run.train) == 3 else "euclidean"), run.name


def test_runs_cover_the_model_zoo() -> None:
    zoo = rows("model zoo")
    same = [(run, p) for run, p in zoo if run.train == (p.test,)]
    assert len(same) == 12  # four widths on three benchmarks
    combined = [(run, p) for run, p in zoo if run.combine_all]
    assert len(combined) == 12  # six networks, two test sets
    several = [(run, p) for run, p in zoo if len(run.train) == 3]
    assert len(several) == 12  # three networks, four targets
    assert all(p.test not in run.train for run, p in several)
    crossed = [(run, p) for run, p in zoo if len(run.train) == 1 and not run.combine_all and run.train != (p.test,)]
    assert {(run.train[0], p.test) for run, p in crossed} == {
        ("market1501", "dukemtmcreid"), ("dukemtmcreid", "market1501"),
    }  # fmt: skip
    assert len(crossed) == 4


def test_the_page_lists_the_runs() -> None:
    """If this fails, put the output of ``osnet recipes --markdown`` below the comment in docs/benchmarks.md."""
    page = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert page.split("<!-- osnet recipes --markdown -->")[1].strip() == describe_runs(RUNS).strip()
    assert page.count("| not run |") == sum(max(1, len(run.printed)) for run in RUNS if not run.here)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_documents_command_source_and_expectation(name: str) -> None:
    make = RECIPES[name]
    assert make().name == name
    text = make.__doc__ or ""
    for word in ("Command:", "Source:", "Expect:", f"osnet train {name} "):
        assert word in text


def test_names_are_unique_and_unconfirmed_scores_are_marked() -> None:
    assert len({run.name for run in RUNS}) == len(RUNS)
    marked = [p for _, p in rows("Table 3") if "unconfirmed" in p.remark]
    assert {(p.test, p.rank1) for p in marked} == {("dukemtmcreid", 84.7), ("dukemtmcreid", 88.6), ("msmt17", 71.0)}


def test_a_run_has_a_command_docstring_and_row() -> None:
    recipe = ReidRecipe("mine", epochs=3)
    run = make_run(recipe, "Mine.", ["a", "b"], "me", [Printed("paper, Table 9, row 2", "c", 1.0, None, "odd")], True)
    assert run.command == "osnet train mine --data a=DATA b=DATA --combine-all --out RUN"
    assert "1.0 / - on c (paper, Table 9, row 2; odd)" in (run.make.__doc__ or "")
    assert "| `mine` | a + b, all images | c | 1.0 / - | row 2; odd | not run |" in describe_runs([run])


@pytest.mark.parametrize(
    ("recipe", "name", "value"),
    [
        *(("market1501-osnet-x0-25", *one) for one in (("optimizer", "rmsprop"), ("schedule", "multistep"))),
        *(("market1501-osnet-x0-25", *one) for one in (("precision", "fp16"), ("sampler", "identities"))),
        *(("market1501-osnet-x0-25", *one) for one in (("epochs", 180.5), ("size_hw", (256,)), ("pretrained", ROOT))),
        ("both-osnet-x0-25", "sampler", "identity"),
        ("cifar10-osnet-x0-25", "interpolation", "cubic"),
    ],
)
def test_unknown_values_are_refused(recipe: str, name: str, value: object) -> None:
    """Some were ignored: any unknown optimiser was Adam, any unknown schedule a constant rate."""
    with pytest.raises(ModelError) as caught:
        get_recipe(recipe, **{name: value})
    assert name in str(caught.value)
    assert repr(value) in str(caught.value)


def test_losses_are_checked_before_any_data_are_read() -> None:
    for settings, word in (
        ({"smoothing": 1.0}, "smoothing 1.0"),
        ({"smoothing": -0.1}, "smoothing -0.1"),
        ({"cross_entropy": -1.0}, "cross_entropy is -1.0"),
        ({"triplet": float("nan")}, "triplet is nan"),
        ({"margin": -0.3}, "margin -0.3"),
        ({"cross_entropy": 0.0}, "losses are 0"),
    ):
        with pytest.raises(ModelError, match=word):
            ReidLoss(**settings)
    with pytest.raises(ModelError, match="attributes"):
        JointLoss(cross_entropy=0, attributes=0)
    with pytest.raises(ModelError, match="'per-label'"):
        get_recipe("pa100k-osnet-x1-0", loss=AttributeLoss("per-label"))  # type: ignore[arg-type]


def test_frozen_epochs_need_the_loss_that_trains_the_classifier() -> None:
    """Without it the loss of these epochs has no gradient."""
    only_triplet = {"loss": ReidLoss(cross_entropy=0, triplet=1), "sampler": "identity"}
    with pytest.raises(ModelError, match="frozen_epochs 10"):
        get_recipe("market1501-osnet-x0-25", **only_triplet)
    assert get_recipe("market1501-osnet-x0-25", **only_triplet, frozen_epochs=0).frozen_epochs == 0
