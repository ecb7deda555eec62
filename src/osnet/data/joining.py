"""Join several data sets into one training set, with distinct identities and cameras."""

from collections.abc import Sequence
from dataclasses import replace

from osnet.data.reid.benchmark import SplitName
from osnet.errors import DataError
from osnet.types import DISTRACTOR_PID, JUNK_PID, Crop, ReidDataset, Split

RESERVED = {JUNK_PID, DISTRACTOR_PID}


def join_training(datasets: Sequence[ReidDataset], combine_all: bool = False) -> ReidDataset:
    """Join the training splits of ``datasets``. Query and gallery are left out: test sets are never mixed.

    Pids continue from one data set to the next, and so do camids. Unknown cameras keep unique negative camids.
    ``dsetid`` is the index in ``datasets``. Identity and camera names get the name of the data set as a prefix
    (``market1501:0002``).

    Args:
        datasets: at least one data set.
        combine_all: use all images, including those of ``val``, query and gallery. Distractors and junk are left out,
            and an image in several splits is used once. The trained weights must not be evaluated on these data sets.

    Raises:
        DataError: ``datasets`` is empty or contains a folder twice.
    """
    if not datasets:
        raise DataError("no data set to train on: pass at least one")
    roots = [dataset.root.resolve() for dataset in datasets]
    if len(set(roots)) != len(roots):
        raise DataError(f"the same data set is given twice: {', '.join(map(str, roots))}")
    names = _distinct([dataset.name for dataset in datasets])
    crops: list[Crop] = []
    first_pid, first_camid, first_unknown = 1, 1, -1
    for dsetid, (name, dataset) in enumerate(zip(names, datasets, strict=True)):
        splits = (dataset.train, dataset.val, dataset.query, dataset.gallery) if combine_all else (dataset.train,)
        chosen = list({crop.path: crop for split in splits for crop in split.crops}.values())
        if combine_all:
            chosen = [crop for crop in chosen if crop.pid > DISTRACTOR_PID]
        pid_of = {pid: first_pid + i for i, pid in enumerate(sorted({crop.pid for crop in chosen} - RESERVED))}
        known = sorted({crop.camid for crop in chosen if crop.camid >= 0})
        unknown = sorted({crop.camid for crop in chosen if crop.camid < 0}, reverse=True)
        camid_of = {camid: first_camid + i for i, camid in enumerate(known)}
        camid_of |= {camid: first_unknown - i for i, camid in enumerate(unknown)}
        first_pid, first_camid = first_pid + len(pid_of), first_camid + len(known)
        first_unknown -= len(unknown)
        pid_of |= {pid: pid for pid in RESERVED}  # training rejects these and lists their files
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
    if combine_all:  # all images of the benchmark were used, so the name must not be that of one split
        names = [split.benchmark if (split := SplitName.parse(name)) else name for name in names]
    joined = "+".join(names) + ("_combineall" if combine_all else "")
    return ReidDataset(joined, datasets[0].root, train=Split("train", tuple(crops)))


def _distinct(names: Sequence[str]) -> list[str]:
    """Append a number to names that occur more than once."""
    return [f"{name}-{i + 1}" if names.count(name) > 1 else name for i, name in enumerate(names)]
