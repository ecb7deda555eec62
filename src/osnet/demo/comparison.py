"""`osnet demo --compare` and `osnet demo --data`: scores of networks, in a report.

``run_comparison`` generates people and trains two networks to re-identify them. ``run_demo_on`` scores weights on a
given data set. Each step stores its result in the output folder, so an interrupted call resumes.
"""

import json
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from osnet.data.folder import read_dataset
from osnet.embedding.color_histogram import embed_histogram
from osnet.embedding.embedder import Embedder
from osnet.errors import DemoError, OutputError
from osnet.evaluation.comparison import Comparison, Entrant, compare, group_generated
from osnet.evaluation.evaluate import evaluate
from osnet.features.embedding_files import read_vectors
from osnet.figures.ranked_list import save_ranked_lists
from osnet.figures.report import Report, write_report
from osnet.figures.report_data import (
    CAUTION_GENERATED,
    EvaluatedNetwork,
    choose_sheet,
    compile_evaluated,
    describe_networks,
    evaluate_network,
    features_folder,
    read_run,
)
from osnet.files import check_writable, make_folder, write_json
from osnet.gallery import FileStamp, Gallery, Where
from osnet.models.counting import count_cost
from osnet.progress import Progress
from osnet.recipes.demo_recipes import demo_osnet_t1_x0_25, demo_osnet_x0_25
from osnet.synthetic.generate import SETTINGS_FILE, GeneratedSettings, generate_dataset
from osnet.training.recipe import Recipe, build_network
from osnet.training.trainer import RunOptions, Trainer
from osnet.types import DISTRACTOR_PID, Crop, Item, RankedList, ReidDataset

NUM_SHOWN = 5
NUM_HITS = 8

OSNET, BASELINE, HISTOGRAM = "OSNet x0.25", "single-scale T=1", "colour histogram"
UNTRAINED = {OSNET: "OSNet, untrained", BASELINE: "T=1, untrained"}
CONTRASTS = ((OSNET, BASELINE), (OSNET, UNTRAINED[OSNET]), (BASELINE, UNTRAINED[BASELINE]), (OSNET, HISTOGRAM))
CAUTION = CAUTION_GENERATED


@dataclass(frozen=True)
class ComparisonSize:
    """The generated people and the number of epochs. Half of the people are for training, the others for testing."""

    people: GeneratedSettings
    epochs: int


FULL = ComparisonSize(GeneratedSettings(identities=256, cameras=4, images=4, seed=0), epochs=14)
QUICK = ComparisonSize(GeneratedSettings(identities=32, cameras=3, images=4, seed=0), epochs=8)


def run_comparison(out: Path, size: ComparisonSize, device: str, progress: Progress) -> Path:
    """Generate people, train OSNet and its single-scale baseline by the same recipe, compare them, write a report.

    Writes into ``out``: ``generated-people/``, the folder of a run for each network, ``scores/`` (embeddings),
    ``gallery/`` (for ``osnet search``), ``comparison.json`` and ``report.html``. Returns the path of the report.

    Raises:
        DemoError: a trained network does not score higher than the same network untrained.
        OutputError: ``out`` cannot be written, or contains a comparison of another size.
    """
    start = time.monotonic()
    make_folder(out)
    check_writable(out / "report.html")
    with _step(1, "generate people"):
        dataset = _generate(out / "generated-people", size.people, progress)
    recipes = {OSNET: demo_osnet_x0_25(), BASELINE: demo_osnet_t1_x0_25()}
    recipes = {name: replace(recipe, epochs=size.epochs) for name, recipe in recipes.items()}
    embedders: dict[str, Embedder] = {}
    resumed = False
    for number, (name, recipe) in enumerate(recipes.items(), 2):
        with _step(number, f"train {name} on {len(set(dataset.train.pids))} of them, {recipe.epochs} epochs"):
            trainer = Trainer(recipe, dataset, out / recipe.name, RunOptions(cpu=device == "cpu"))
            resumed |= trainer.progress.step > 0
            weights = trainer.run(progress)
            embedders[UNTRAINED[name]] = Embedder(build_network(recipe), device, preprocessing=trainer.preprocessing)
            embedders[name] = Embedder(weights, device)
    with _step(4, f"score on the {len(set(dataset.query.pids))} others"):
        entrants = [_histograms(dataset, progress)]
        entrants += [_embed(name, embedder, dataset, out / "scores", progress) for name, embedder in embedders.items()]
        order = [HISTOGRAM, *UNTRAINED.values(), BASELINE, OSNET]
        entrants.sort(key=lambda entrant: order.index(entrant.name))
        comparison = compare(dataset, entrants, CONTRASTS, group_generated(dataset))
        print(comparison)
    with _step(5, "index the gallery and draw the hits"):
        index_features(
            out / "gallery", dataset, features_folder(out / "scores", OSNET) / "gallery.npz", embedders[OSNET]
        )
        by_name = {entrant.name: entrant for entrant in entrants}
        studied = [EvaluatedNetwork(by_name[name], embedders[name]) for name in (OSNET, BASELINE)]
        parts = describe_networks(dataset, studied, comparison, progress=progress)
        runs = {name: read_run(out / recipe.name) for name, recipe in recipes.items()}
    with _step(6, "write the report"):
        facts = _describe(size, dataset, recipes, time.monotonic() - start, resumed)
        write_json(out / "comparison.json", {**comparison.to_json(), "facts": facts})
        findings = describe_findings(comparison)
        report = Report(
            title=f"Found again? OSNet and its single-scale baseline on {size.people.identities} generated people",
            caution=CAUTION, findings=findings, comparison=comparison,
            losses={name: losses for name, (_, losses) in runs.items() if losses},
            recipes={name: recipe for name, (recipe, _) in runs.items()},
            sheet=choose_sheet(dataset), facts=facts, **parts,
        )  # fmt: skip
        write_report(report, out / "report.html")
    print("", *findings, "", CAUTION, sep="\n")
    print(f"took {(time.monotonic() - start) / 60:.1f} minutes{', resumed from an earlier call' if resumed else ''}")
    print(f"the gallery can be searched: osnet search {out / 'gallery'} PHOTO")
    print(f"report: {(out / 'report.html').absolute()}")
    check_learned(comparison)
    return out / "report.html"


def describe_findings(comparison: Comparison) -> list[str]:
    """Describe the comparison in sentences, whichever network is better."""
    scores = comparison.groups[0].scores
    against = comparison.difference(OSNET, BASELINE)
    sentences = [
        f"{OSNET} finds the right person first for {100 * scores[OSNET]['rank-1']:.1f} % of the queries "
        f"(mAP {100 * scores[OSNET]['mAP']:.1f} %), its single-scale baseline for "
        f"{100 * scores[BASELINE]['rank-1']:.1f} % (mAP {100 * scores[BASELINE]['mAP']:.1f} %). "
        f"Difference in mAP: {against}.",
    ]
    for name in (OSNET, BASELINE):
        sentences.append(f"Against itself untrained, {name}: {comparison.difference(name, UNTRAINED[name])}.")
    sentences.append(f"{OSNET} against a colour histogram: {comparison.difference(OSNET, HISTOGRAM)}.")
    sentences.append(
        "Each network was trained once. The intervals are over people only. With another seed or machine the "
        "difference between the two networks may change its sign, so it says nothing about the architectures."
    )
    return sentences


def check_learned(comparison: Comparison) -> None:
    """Check that training helped: mAP minus that of the untrained network must have an interval above 0.

    Raises:
        DemoError: the interval of a network reaches 0 or below.
    """
    for name, untrained in UNTRAINED.items():
        difference = comparison.difference(name, untrained)
        if difference.interval.low <= 0:
            raise DemoError(f"{name} did not learn: its mAP minus that of {untrained} is {difference}")


def run_demo_on(data: Path, weights: str, out: Path, device: str, progress: Progress) -> None:
    """Score ``weights`` on ``data``, index its gallery, search it with a few queries, and draw ranked lists.

    Writes ``scores.json``, ``features/``, ``gallery/``, ``ranked.png`` and ``report.html`` into ``out``. Prints the
    scores and the paths. After an interruption the same call resumes.
    """
    dataset = read_dataset(data)
    embedder = Embedder(weights, device=device)
    make_folder(out)
    check_writable(out / "scores.json")
    card = embedder.card
    name = (card and card.name) or "your network"
    studied, result = evaluate_network(name, embedder, dataset, out / "features", progress=progress)
    write_json(out / "scores.json", result.to_json())
    print(result)
    gallery = index_features(out / "gallery", dataset, out / "features" / "gallery.npz", embedder)
    step = max(1, len(dataset.query) // NUM_SHOWN)
    shown = dataset.query.crops[::step][:NUM_SHOWN]
    lists = [search_elsewhere(gallery, crop) for crop in shown]
    save_ranked_lists(lists, out / "ranked.png", f"{dataset.name}: {len(lists)} queries, found in other cameras")
    print(f"ranked lists of {len(lists)} queries: {(out / 'ranked.png').absolute()}")
    write_report(
        compile_evaluated(dataset, [(studied, result)], {name: Path(weights)}, progress=progress), out / "report.html"
    )
    print(f"the gallery can be searched: osnet search {out / 'gallery'} PHOTO")
    print(f"report: {(out / 'report.html').absolute()}")


def index_features(folder: Path, dataset: ReidDataset, features: Path, embedder: Embedder) -> Gallery:
    """Build a gallery of a data set's gallery split from the embeddings that ``evaluate`` kept in ``features``."""
    embeddings, weights_sha256 = read_vectors(features)
    gallery = Gallery.open(folder, embedder)
    crops = {str(crop.path): crop for crop in dataset.gallery.crops}
    stamps = {
        name: FileStamp.of(name) for name in embeddings.names
    }  # evaluate has just checked that the files are unchanged
    known = {source: stored.stamp for source, stored in gallery.stored().items()}
    new = [i for i, name in enumerate(embeddings.names) if stamps[name] is None or known.get(name) != stamps[name]]
    items = [
        Item(
            name,
            crops[name].identity if crops[name].pid > DISTRACTOR_PID else None,
            crops[name].camera,
            crops[name].time_s,
        )
        for name in (embeddings.names[i] for i in new)
    ]
    gallery.put_embeddings(
        embeddings.vectors[new],
        items,
        weights_sha256=weights_sha256,
        stamps=[stamps[embeddings.names[i]] for i in new],
    )
    gallery.prune(dataset.root)
    return gallery


def search_elsewhere(gallery: Gallery, query: Crop) -> RankedList:
    """Search for a query among the crops of other cameras (of all cameras, if there are no others)."""
    others = frozenset(item.camera for item in gallery.items if item.camera) - {query.camera}
    where = Where(cameras=others) if others else None
    hits = gallery.search(query.path, top=NUM_HITS, where=where)
    return RankedList(query.path, hits, query.identity)


@contextmanager
def _step(number: int, what: str) -> Iterator[None]:
    print(f"[{number}/6] {what}", flush=True)
    start = time.monotonic()
    yield
    print(f"[{number}/6] done in {time.monotonic() - start:.0f} s", flush=True)


def _generate(folder: Path, settings: GeneratedSettings, progress: Progress) -> ReidDataset:
    if not folder.exists():
        generate_dataset(folder, settings, progress)
    try:
        there = json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        there = {}
    if any(there.get(name) != value for name, value in asdict(settings).items()):
        raise OutputError(
            f"{folder} contains other data than the people of this demo; choose another --out, or delete the folder"
        )
    return read_dataset(folder)


def _embed(name: str, embedder: Embedder, dataset: ReidDataset, folder: Path, progress: Progress) -> Entrant:
    """Evaluate a network as ``osnet evaluate`` does, and return the embeddings that this keeps."""
    features = make_folder(features_folder(folder, name))
    evaluate(embedder, dataset, features=features, progress=progress)
    query, gallery = (read_vectors(features / f"{part}.npz")[0].vectors for part in ("query", "gallery"))
    return Entrant(name, query, gallery)


def _histograms(dataset: ReidDataset, progress: Progress) -> Entrant:
    query, gallery = (
        np.stack([embed_histogram(path) for path in progress(split.paths, len(split), "histograms")])
        for split in (dataset.query, dataset.gallery)
    )
    return Entrant(HISTOGRAM, query, gallery)


def _describe(
    size: ComparisonSize, dataset: ReidDataset, recipes: Mapping[str, Recipe], seconds: float, resumed: bool
) -> dict[str, str]:
    people = size.people
    sizes = []
    for name, recipe in recipes.items():
        counts = count_cost(build_network(recipe), recipe.size_hw)
        sizes.append(f"{name}: {counts.params:,} parameters, {counts.madds / 1e6:.1f} million multiply-adds")
    recipe = recipes[OSNET]
    return {
        "data": f"{people.identities} generated people, {people.cameras} cameras, {people.images} images each, seed "
        f"{people.seed}: {len(dataset.train):,} images of one half for training; {len(dataset.query):,} queries and "
        f"{len(dataset.gallery):,} gallery images of the other half",
        "networks": "; ".join(sizes) + f"; at {recipe.size_hw[0]} x {recipe.size_hw[1]} pixels. The baseline is also "
        "shallower and smaller, so more than the number of scales differs",
        "training": f"both alike, from scratch, one seed each: {recipe.epochs} epochs, batches of {recipe.batch_size}, "
        f"{recipe.optimizer} at {recipe.lr} with a cosine, label-smoothed cross-entropy, random crop and mirroring",
        "scoring": "cosine similarity; colour histogram: HSV, 8 x 4 x 4 bins in six stripes",
        "made with": f"Python {platform.python_version()}, torch {torch.__version__}, {platform.machine()}, "
        f"{torch.get_num_threads()} threads",
        "took": f"{seconds / 60:.1f} minutes{' (resumed from an earlier call)' if resumed else ''}",
    }  # fmt: skip
