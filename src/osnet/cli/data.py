"""osnet data: check, generate or pack a data set; list the benchmarks."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import Positional

from osnet.cli.common import EXIT_FOUND_TROUBLE, PLAIN_FOLDER, FolderArgs, JsonFlag, check_seed, data_app, draw_progress
from osnet.data.check import check_dataset, find_unreadable
from osnet.data.folder import read_any
from osnet.data.reid.benchmark import Benchmark
from osnet.data.reid.catalog import Options, get_benchmark, list_benchmarks, read_benchmark
from osnet.data.reid.msmt17 import Version
from osnet.errors import DataError
from osnet.photos.image_folder import read_photo_folder
from osnet.photos.shards import IMAGES_PER_SHARD, write_packed
from osnet.synthetic.generate import GeneratedSettings, generate_dataset, read_annotations


@data_app.command(name="check")
def data_check(
    folder: Annotated[Path, Positional, tyro.conf.arg(metavar="FOLDER")],
    *,
    layout: FolderArgs = PLAIN_FOLDER,
    benchmark: str | None = None,
    labelled: bool = False,
    classic: bool = False,
    distractors: bool = False,
    version: Version = "auto",
    seed: int | None = None,
    work_dir: Path | None = None,
    as_json: JsonFlag = False,
) -> None:
    """Count identities, images and cameras, and report faults that would break training or evaluation.

    With --benchmark, compare the counts with the published ones. The exit code is 1 if a fault is found or a published
    count differs.

    Args:
        folder: a data set, or any folder of crops (checked as a training split).
        layout: where identities and cameras are read from.
        benchmark: the benchmark that the folder holds; `osnet data benchmarks` lists them.
        labelled: cuhk03: use boxes drawn by hand instead of detected ones.
        classic: cuhk03: use the 20 classic splits instead of 767/700.
        distractors: market1501: include the 500,000 extra distractors.
        version: msmt17: version of the data set: auto, v1, v2.
        seed: viper, prid, ilids, cuhk01: seed of the random splits; default: 0.
        work_dir: where random splits and extracted images are kept; default: beside the data.
        as_json: print JSON, with every name.
    """
    options: Options = {
        "labelled": labelled,
        "classic": classic,
        "distractors": distractors,
        "work_dir": work_dir,
    }
    if version != "auto":
        options["version"] = version
    if seed is not None:
        options["seed"] = seed
    if benchmark is not None:
        if given := layout.given():
            raise DataError(f"--benchmark defines the layout; leave out {', '.join(given)}")
        options["progress"] = draw_progress
        ok = _check_benchmark(read_benchmark(benchmark, folder, **options), as_json)
    elif given := sorted(name for name, value in options.items() if value not in (None, False)):
        raise DataError(f"{', '.join(given)}: needs --benchmark")
    else:
        report = check_dataset(read_any(folder, layout.layout()), _bar)
        print(json.dumps(report.to_json(), indent=2) if as_json else report)
        ok = report.ok
    if not ok:
        raise SystemExit(EXIT_FOUND_TROUBLE)


def _check_benchmark(benchmark: Benchmark, as_json: bool) -> bool:
    """Check a benchmark and print the result; each image is decoded once. Returns True if no fault is found."""
    first, *rest = benchmark.datasets
    reports = [check_dataset(first, _bar), *(check_dataset(dataset, decode=False) for dataset in rest)]
    used = {crop.path for split in (*first.splits, first.val) for crop in split.crops}
    unreadable = find_unreadable(crop for crop in benchmark.crops if crop.path not in used)
    ok = all(report.ok for report in reports) and not unreadable and not benchmark.differences()
    if as_json:
        splits = [report.to_json() for report in reports]
        whole = benchmark.to_json() | {"splits": splits, "unreadable_elsewhere": list(unreadable), "ok": ok}
        print(json.dumps(whole, indent=2))
        return ok
    print(benchmark)
    shown = {0} | {number for number, report in enumerate(reports) if not report.ok}
    for number in sorted(shown):
        print(f"\nsplit {number} of {len(reports)}:\n{reports[number]}")
    if unreadable:
        print(f"\n{len(unreadable)} image(s) in no split shown above cannot be read:", *unreadable, sep="\n  ")
    return ok


def _bar(iterable: Any, total: int) -> Any:
    return draw_progress(iterable, total, "check")


@data_app.command(name="benchmarks")
def data_benchmarks(
    names: Annotated[tuple[str, ...], Positional, tyro.conf.arg(metavar="[NAME...]")] = (), *, as_json: JsonFlag = False
) -> None:
    """List the benchmarks that can be read, with their layouts, options, published counts and sources.

    Args:
        names: list only these.
        as_json: print JSON.
    """
    entries = [get_benchmark(name) for name in names] or list(list_benchmarks())
    if not as_json:
        print("\n\n".join(str(entry) for entry in entries))
        return
    rows = [
        {
            "name": entry.name,
            "title": entry.title,
            "layout": entry.layout,
            "notes": list(entry.notes),
            "options": [option for option in entry.options if option != "progress"],
            "published": {variant: [asdict(row) for row in rows] for variant, rows in entry.published.items()},
        }
        for entry in entries
    ]
    print(json.dumps(rows, indent=2))


@data_app.command(name="generate")
def data_generate(*, out: Path, identities: int = 64, cameras: int = 6, images: int = 4, seed: int = 0) -> None:
    """Generate people in Market-1501's layout, to try commands without data. Do not judge a network by them.

    Half of the identities are for training. The same seed gives the same pixels on every machine. After an
    interruption the same command resumes.

    Args:
        out: a folder that does not exist yet.
        identities: number of people; a multiple of 8.
        cameras: number of cameras that see each person; at least 2.
        images: number of images per person and camera.
        seed: another seed gives other people and cameras.
    """
    generate_dataset(out, GeneratedSettings(identities, cameras, images, seed), draw_progress)
    print(f"{len(read_annotations(out)):,} images of {identities:,} generated people in {out}")


@data_app.command(name="pack")
def data_pack(
    folder: Annotated[Path, Positional, tyro.conf.arg(metavar="FOLDER")],
    *,
    out: Path,
    classes_of: Path | None = None,
    images_per_shard: int = IMAGES_PER_SHARD,
    seed: int = 0,
) -> None:
    """Pack images of a classification into tar files that are read sequentially (WebDataset), with an index.

    Args:
        folder: a folder with a sub-folder for each class, as in ImageNet's train.
        out: a new folder.
        classes_of: a folder whose sub-folders define the classes, if FOLDER lacks some: train, when you pack val.
        images_per_shard: images in each tar file; 2000 of ImageNet's take about 220 MB. Every data worker needs one
            file or more.
        seed: seed of the random order in which images are packed.
    """
    check_seed(seed)
    classes = read_photo_folder(classes_of).classes if classes_of is not None else None
    index = write_packed(read_photo_folder(folder, classes), out, images_per_shard, seed)
    print(f"{out}: {len(index):,} images of {len(index.classes):,} classes in {len(index.shards)} shards")
