"""Results on benchmarks: variants, notes, counts, splits, left-out images, and refused requests."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import layouts
from conftest import write_picture
from osnet import Embedder, Scoring, average_results, evaluate
from osnet.data.folder import FolderLayout, read_dataset, read_folder
from osnet.data.joining import join_training
from osnet.data.reid.benchmark import SplitName
from osnet.data.reid.catalog import read_benchmark, read_named, read_source, splits_overlap
from osnet.errors import DataError, OutputError
from osnet.evaluation.checks import check_leak
from osnet.training.recipe import Recipe
from test_cli import Run


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(capsys)


def trained_on(name: str) -> SimpleNamespace:
    return SimpleNamespace(card=SimpleNamespace(training_data=name))


def test_results_name_the_variant_and_differing_counts(run: Run, tiny_weights: Path, tmp_path: Path) -> None:
    layouts.make_cuhk03(tmp_path)
    layouts.make_market(tmp_path, duke=True)
    words = ("evaluate", "--weights", tiny_weights, "--root", tmp_path, "--out", tmp_path / "o.json", "--data")
    status, out, err = run(*words, "cuhk03:labelled", "--targets", "dukemtmcreid")
    assert status == 0, err
    found = json.loads((tmp_path / "o.json").read_text())
    labelled, duke = found["cuhk03:labelled"]["benchmark"], found["dukemtmcreid"]["benchmark"]
    assert (labelled["name"], labelled["variant"], duke["variant"]) == ("cuhk03", "labelled, 767/700", "")
    assert any("withdrawn" in note for note in duke["notes"])
    assert "cuhk03 (labelled, 767/700) in" in out
    assert "note: withdrawn by its owners" in out
    assert "DIFFERS: 767" in out
    assert any("DIFFERS: 702" in line for line in duke["differences"])
    status, out, _ = run(*words, "cuhk03")
    assert (status, "cuhk03 (detected, 767/700) in" in out) == (0, True)


def test_results_on_a_plain_folder_have_no_benchmark_facts(tiny_weights: Path, market: Path) -> None:
    result = evaluate(tiny_weights, read_dataset(market))
    assert (result.benchmark, "DIFFERS" in str(result)) == (None, False)
    shown = str(result)
    assert "images: 3, identities: 3, cameras: 1" in shown  # the query
    assert "images: 7, identities: 3, cameras: 2" in shown  # the gallery


def test_results_over_splits_print_counts_and_left_out_images(tiny_weights: Path, tmp_path: Path) -> None:
    folder = layouts.make_viper(tmp_path, num_people=9)
    broken = sorted((folder / "cam_a").iterdir())[0]
    benchmark = read_benchmark("viper", tmp_path)
    broken.write_bytes(b"broken")
    result = evaluate(tiny_weights, benchmark, scoring=Scoring(decisions=True), on_error="skip")
    assert result.name == "viper"  # not the first split's name
    shown = str(result)
    assert "viper, 20 splits in" in shown
    assert "images: 4 to 5, identities: 4 to 5, cameras: 1" in shown  # 5 people in each test half, one image broken
    assert shown.count(broken.name) == 1
    assert "1 left out" in shown
    assert f"splits file: {benchmark.splits_file}" in shown
    assert "weights  " in shown
    rates = [part.decisions[0].points[-1].miss_rate for part in result.splits]
    (shown_rate,) = [line for line in shown.splitlines() if "  FPR 0.1 " in line]
    fewest = min((part.decisions[0].points[-1] for part in result.splits), key=lambda point: point.num_allowed)
    assert fewest.num_allowed == 1  # 4 or 5 queries x 4 or 5 others
    assert shown_rate == f"  FPR 0.1     TPR {100 * (1 - np.mean(rates)):6.2f} %   {fewest.caution}"
    assert "1" in fewest.caution
    (line,) = result.unreadable
    assert line.startswith(f"{broken}:")
    single = evaluate(Embedder(tiny_weights), benchmark.datasets[2:3], on_error="skip")
    assert single.name == "viper-02"


def test_left_out_images_are_not_counted_and_set_the_exit_status(
    run: Run, tiny_weights: Path, market: Path, tmp_path: Path
) -> None:
    for pid in range(10, 50):
        write_picture(market / "query" / f"{pid:04d}_c1s1_000000_00.jpg", pid)
        write_picture(market / "bounding_box_test" / f"{pid:04d}_c2s1_000000_00.jpg", pid)
    images = len(list((market / "query").glob("*.jpg")))
    (market / "query" / "0010_c1s1_000000_00.jpg").write_bytes(b"broken")
    words = ("--weights", tiny_weights, "--data", market, "--on-error", "skip")
    status, out, err = run("evaluate", *words, "--out", tmp_path / "o.json")
    assert (status, "1 left out" in err) == (1, True)
    found = json.loads((tmp_path / "o.json").read_text())
    assert found["counts"]["query"]["images"] == found["num_queries"] == images - 1
    assert f"query    images: {images - 1}" in out
    status, out, err = run("calibrate", *words, "--fpr", 0.1, "--out", tmp_path / "t.json")
    assert (status, "1 left out" in err) == (1, True), err
    assert len(json.loads((tmp_path / "t.json").read_text())["unreadable"]) == 1


@pytest.mark.parametrize(
    ("first", "second", "overlap"),
    [
        ("viper-00", "viper-seed7-00", True),  # another seed draws other halves
        ("viper-seed7-00", "viper-seed7-01", False),  # the same half in both directions
        ("viper-seed7-00", "viper-seed7-02", True),
        ("cuhk03", "cuhk03-05", True),  # 767/700 against the classic splits
        ("cuhk03-05", "cuhk03", True),
        ("cuhk03", "cuhk03", False),  # trained on its own training part
        ("market1501", "cuhk03-05", False),
        ("grid-00", "grid-01", True),
        ("mine-00", "mine-01", False),
    ],
)
def test_splits_of_other_seeds_and_protocols_overlap(first: str, second: str, overlap: bool) -> None:
    assert splits_overlap(first, second) == overlap


def test_split_names_round_trip() -> None:
    assert str(SplitName("viper", 0, 3)) == "viper-03"
    assert SplitName.parse("viper-seed12-03") == SplitName("viper", 12, 3)
    assert SplitName.parse(str(SplitName("cuhk03", 5, 19))) == SplitName("cuhk03", 5, 19)
    assert SplitName.parse("market1501") is None


def test_weights_trained_on_the_test_images_are_refused_in_any_folder(tmp_path: Path) -> None:
    layouts.make_market(tmp_path)
    folder = (tmp_path / "market1501" / "Market-1501-v15.09.15").rename(tmp_path / "m15")
    dataset = read_named("market1501", folder).datasets[0]
    with pytest.raises(DataError, match="trained on the test images of market1501"):
        check_leak(trained_on("market1501_combineall").card, dataset, force=False)  # type: ignore[arg-type]


def test_splits_of_another_seed_are_written_to_work_dir(tmp_path: Path) -> None:
    layouts.make_viper(tmp_path, num_people=12)
    for folder in ("cam_a", "cam_b", "."):
        (tmp_path / "viper" / "VIPeR" / folder).chmod(0o555)
    work = tmp_path / "work"
    drawn = read_named("viper:seed7", tmp_path, work)
    assert drawn.datasets[3].name == "viper-seed7-03"
    assert drawn.splits_file is not None
    assert drawn.splits_file.parent == work
    one = read_source(f"viper:seed7,3={tmp_path}", work)
    assert [crop.path for crop in one.query.crops] == [crop.path for crop in drawn.datasets[3].query.crops]
    other = read_named("viper", tmp_path, work).datasets[3]
    assert {c.path for c in other.query.crops} != {c.path for c in one.query.crops}
    assert join_training([one], combine_all=True).name == "viper_combineall"
    with pytest.raises(DataError, match="no option seed"):
        read_named("market1501:seed7", tmp_path)
    with pytest.raises(DataError, match=r"'seedx'.*seed7"):
        read_named("viper:seedx", tmp_path)


def test_work_dir_of_the_commands(
    run: Run, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layouts.make_viper(tmp_path)
    work = tmp_path / "work"
    words = ("evaluate", "--weights", tiny_weights, "--data", "viper:seed3,0", "--root", tmp_path, "--work-dir", work)
    status, out, err = run(*words)
    assert status == 0, err
    assert [path.name for path in work.iterdir()] == ["splits_osnet_viper_seed3.json"]
    assert "splits file:" in out
    given: list[Path | None] = []

    def read(self: Recipe, folders: object, combine_all: bool, work_dir: Path | None) -> None:
        given.append(work_dir)
        raise OutputError("enough")

    monkeypatch.setattr("osnet.tasks.reid.ReidRecipe.read", read)
    train = ("train", "market1501-osnet-x0-25-scratch", "--data", f"viper={tmp_path}", "--out", tmp_path / "run")
    assert run(*train, "--work-dir", work)[0] == 2
    assert given == [work]
    monkeypatch.undo()
    status, _, err = run(
        "train", "cifar10-osnet-x0-25", "--data", tmp_path, "--out", tmp_path / "r", "--work-dir", work
    )
    assert (status, f"work_dir {work}" in err) == (2, True)


def test_identities_0_and_minus_1_in_tables_and_names(tmp_path: Path) -> None:
    for name in ("a_1", "b_1", "-1_2", "0_2"):
        write_picture(tmp_path / "own" / f"{name}.jpg", 1)
    table = tmp_path / "own.csv"
    table.write_text("path,identity\na_1.jpg,anna\nb_1.jpg,ben\n-1_2.jpg,-1\n0_2.jpg,0\n")
    crops = read_folder(tmp_path / "own", FolderLayout(csv=table))
    assert {crop.path.stem: crop.pid for crop in crops} == {"-1_2": -1, "0_2": 0, "a_1": 1, "b_1": 2}
    crops = read_folder(tmp_path / "own", FolderLayout(pattern=r"(?P<identity>[^_]+)_"))
    assert {crop.path.stem: crop.pid for crop in crops} == {"-1_2": -1, "0_2": 0, "a_1": 1, "b_1": 2}
    for name in ("0", "1"):
        write_picture(tmp_path / "sub" / name / "x.jpg", 1)
    assert [crop.pid for crop in read_folder(tmp_path / "sub")] == [
        1,
        2,
    ]  # subfolders 0 and 1 are people, not distractors


def test_junk_in_a_table_is_ignored_like_junk_in_names(tiny_weights: Path, tmp_path: Path) -> None:
    """The scores are equal whether a table or Market-1501's file names mark the junk."""
    rows = ["path,identity,camera,split"]
    for split, folder, camera in (("query", "query", 1), ("gallery", "bounding_box_test", 2)):
        for pid in (1, 2, 3):
            write_picture(tmp_path / "m" / folder / f"{pid:04d}_c{camera}s1_000000_00.jpg", 10 * pid + camera)
            rows.append(f"{folder}/{pid:04d}_c{camera}s1_000000_00.jpg,{'abc'[pid - 1]},{camera},{split}")
    for place, name in enumerate(("-1", "-1", "0000")):
        write_picture(tmp_path / "m" / "bounding_box_test" / f"{name}_c3s1_00000{place}_00.jpg", 11 + 10 * place)
        rows.append(f"bounding_box_test/{name}_c3s1_00000{place}_00.jpg,{int(name)},3,gallery")
    table = tmp_path / "m.csv"
    table.write_text("\n".join(rows))
    by_table = evaluate(tiny_weights, read_dataset(tmp_path / "m", FolderLayout(csv=table)))
    by_name = evaluate(tiny_weights, read_dataset(tmp_path / "m"))
    assert by_table.scores == by_name.scores
    assert by_table.splits[0].counts["gallery"].identities == by_name.splits[0].counts["gallery"].identities == 3


def test_average_of_results(run: Run, tiny_weights: Path, tmp_path: Path) -> None:
    layouts.make_viper(tmp_path, num_people=12)
    benchmark = read_benchmark("viper", tmp_path)
    whole = evaluate(tiny_weights, benchmark.datasets[:3])
    files = [tmp_path / f"split-{k}.json" for k in range(3)]
    for k, file in enumerate(files):
        status, _, err = run("evaluate", "--weights", tiny_weights, "--data", f"viper:{k}", "--root", tmp_path, "--out",
                             file)  # fmt: skip
        assert status == 0, err
    status, out, err = run("average", *files, "--out", tmp_path / "mean.json")
    assert status == 0, err
    found = json.loads((tmp_path / "mean.json").read_text())
    assert found["mean"] == pytest.approx(whole.scores)
    assert found["deviation"] == pytest.approx(whole.deviations)
    assert "viper, 3 results: viper-00 by" in out
    with pytest.raises(DataError, match=r"same weights on .* viper-00"):
        average_results([files[0], files[1], files[0]])
    with pytest.raises(DataError, match="at least two"):
        average_results(files[:1])
    with pytest.raises(DataError, match=r"mean\.json"):
        average_results([files[0], tmp_path / "mean.json"])
    content = json.loads(files[1].read_text())
    (tmp_path / "other.json").write_text(json.dumps(content | {"protocol": str(Scoring(ap="trapezoid"))}))
    with pytest.raises(DataError, match=r"other\.json.*protocol is"):
        average_results([files[0], tmp_path / "other.json"])
    (tmp_path / "truncated.json").write_text(files[1].read_text()[:40])
    with pytest.raises(DataError, match=r"truncated\.json cannot be read"):
        average_results([files[0], tmp_path / "truncated.json"])


def test_options_that_do_not_fit_are_refused(run: Run, tiny_weights: Path, market: Path, tmp_path: Path) -> None:
    words = ("evaluate", "--weights", tiny_weights)
    status, _, err = run(*words, "--data", "market1501")
    assert (status, "for the benchmark market1501 add --root" in err) == (2, True)
    status, _, err = run(*words, "--data", market, "--pattern", "(?P<identity>.)")
    assert (status, "leave out the pattern" in err) == (2, True)
    status, _, err = run(*words, "--data", market, "--seed", -1)
    assert (status, "seed -1 is outside 0 to" in err) == (2, True)
    status, _, err = run(*words, "--data", market, "--work-dir", tmp_path / "w")
    assert (status, "--root" in err, (tmp_path / "w").exists()) == (2, True, False)
    np.savez(tmp_path / "v.npz", vectors=np.ones((2, 4)))
    for extra in (
        ("--pattern", "(?P<identity>.)"),
        ("--on-error", "skip"),
        ("--identity-from", "subfolders"),
        ("--force",),
    ):
        status, _, err = run("evaluate-features", tmp_path / "v.npz", *extra)
        assert (status, extra[0] in err) == (2, True)
    status, _, err = run(*words, "--data", market, "--features", tmp_path / "f")
    assert status == 0, err
    status, _, err = run(*words, "--data", market, "--features", tmp_path / "f", "--flip")
    assert (status, "--flip" in err) == (2, True)
