"""The demo: evaluate, index, search, and one picture of what was found."""

from pathlib import Path

from osnet.data.folder import read_dataset
from osnet.evaluation import evaluate
from osnet.figures.ranks import RankedList, save_ranked_lists
from osnet.files import check_writable, make_folder, write_json
from osnet.gallery import Gallery, Where
from osnet.inference.embedder import Embedder
from osnet.inference.vectors import Progress, read_vectors
from osnet.types import Crop, Item, ReidDataset

NUM_SHOWN = 5
NUM_HITS = 8


def run_demo(data: Path, weights: str, out: Path, device: str, progress: Progress) -> None:
    """Score ``weights`` on ``data``, index its gallery, search it with a few queries, draw the ranked lists.

    Writes ``scores.json``, ``features/``, ``gallery/`` and ``ranked.png`` into ``out``; prints the scores and
    where the picture lies. Called again after it was cut off, it goes on.
    """
    dataset = read_dataset(data)
    embedder = Embedder(weights, device=device)
    make_folder(out)
    check_writable(out / "scores.json")
    result = evaluate(embedder, dataset, features=out / "features", progress=progress)
    write_json(out / "scores.json", result.to_json())
    print(result)
    gallery = index_features(out / "gallery", dataset, out / "features" / "gallery.npz", embedder)
    step = max(1, len(dataset.query) // NUM_SHOWN)
    shown = dataset.query.crops[::step][:NUM_SHOWN]
    lists = [search_elsewhere(gallery, embedder, crop) for crop in shown]
    save_ranked_lists(lists, out / "ranked.png", f"{dataset.name}: {NUM_SHOWN} queries, found in other cameras")
    print(f"ranked lists of {len(lists)} queries: {(out / 'ranked.png').absolute()}")
    print(f"the gallery can be searched: osnet search {out / 'gallery'} PHOTO")


def index_features(folder: Path, dataset: ReidDataset, features: Path, embedder: Embedder) -> Gallery:
    """A gallery of a data set's gallery split, from the vectors that ``evaluate`` kept."""
    embeddings, weights_sha256 = read_vectors(features)
    gallery = Gallery.for_embedder(folder, embedder)
    crops = {str(crop.path): crop for crop in dataset.gallery.crops}
    known = gallery.sources()
    new = [i for i, name in enumerate(embeddings.names) if name not in known]
    items = [
        Item(name, crops[name].identity, crops[name].camera, crops[name].time_s)
        for name in (embeddings.names[i] for i in new)
    ]
    gallery.add(embeddings.vectors[new], items, weights_sha256=weights_sha256)
    return gallery


def search_elsewhere(gallery: Gallery, embedder: Embedder, query: Crop) -> RankedList:
    """Hits for a query among the crops of other cameras (of all cameras, if there is no other)."""
    others = frozenset(item.camera for item in gallery.items if item.camera) - {query.camera}
    vector = embedder.embed(query.path)
    where = Where(cameras=others) if others else None
    hits = gallery.search(vector, weights_sha256=embedder.sha256(), top=NUM_HITS, where=where)
    return RankedList(query.path, hits, query.identity)
