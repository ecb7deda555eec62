"""Several data sets as one training set: identities, cameras and data sets stay apart."""

from collections.abc import Sequence
from dataclasses import replace

from osnet.data.reid.benchmark import SplitName
from osnet.errors import DataError
from osnet.types import DISTRACTOR_PID, JUNK_PID, Crop, ReidDataset, Split

NOBODY = {JUNK_PID, DISTRACTOR_PID}


def join_training(datasets: Sequence[ReidDataset], combine_all: bool = False) -> ReidDataset:
    """The training splits of ``datasets`` as one; query and gallery are left out, since tests are never mixed.

    Identities are numbered on from one data set to the next, and so are cameras; an unknown camera (a negative
    number) stays unknown and of its own. ``dsetid`` is the place in ``datasets``. Names get the data set's in
    front (``market1501:0002``).

    Args:
        datasets: at least one.
        combine_all: train on all images, those of ``val``, query and gallery too (not on distractors and
            junk; an image that is in several splits once); what is trained so must not be scored on these
            data sets.

    Raises:
        DataError: none given, or one twice.
    """
    if not datasets:
        raise DataError("no data set to train on")
    roots = [dataset.root.resolve() for dataset in datasets]
    if len(set(roots)) != len(roots):
        raise DataError(f"the same data set twice: {', '.join(map(str, roots))}")
    names = _distinct([dataset.name for dataset in datasets])
    crops: list[Crop] = []
    first_pid, first_camid, first_unknown = 1, 1, -1
    for dsetid, (name, dataset) in enumerate(zip(names, datasets, strict=True)):
        splits = (dataset.train, dataset.val, dataset.query, dataset.gallery) if combine_all else (dataset.train,)
        chosen = list({crop.path: crop for split in splits for crop in split.crops}.values())
        if combine_all:
            chosen = [crop for crop in chosen if crop.pid > DISTRACTOR_PID]
        pid_of = {pid: first_pid + i for i, pid in enumerate(sorted({crop.pid for crop in chosen} - NOBODY))}
        known = sorted({crop.camid for crop in chosen if crop.camid >= 0})
        unknown = sorted({crop.camid for crop in chosen if crop.camid < 0}, reverse=True)
        camid_of = {camid: first_camid + i for i, camid in enumerate(known)}
        camid_of |= {camid: first_unknown - i for i, camid in enumerate(unknown)}
        first_pid, first_camid = first_pid + len(pid_of), first_camid + len(known)
        first_unknown -= len(unknown)
        pid_of |= {pid: pid for pid in NOBODY}  # what trains refuses these, and names the files
        crops += [
            replace(
                crop,
                pid=pid_of[crop.pid],
                camid=camid_of[crop.camid],
                dsetid=dsetid,
                identity=f"{name}:{crop.identity or crop.pid}",
                camera="" if crop.camid < 0 else f"{name}:{crop.camera or crop.camid}",
            )
            for crop in chosen
        ]
    if combine_all:  # all of a benchmark was seen, not this split only; what is scored on any split must know
        names = [split.benchmark if (split := SplitName.parse(name)) else name for name in names]
    joined = "+".join(names) + ("_combineall" if combine_all else "")
    return ReidDataset(joined, datasets[0].root, train=Split("train", tuple(crops)))


def _distinct(names: Sequence[str]) -> list[str]:
    """The names, numbered where one comes twice."""
    return [f"{name}-{i + 1}" if names.count(name) > 1 else name for i, name in enumerate(names)]
