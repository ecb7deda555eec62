"""Small data sets in the benchmarks' layouts. Images are 8 x 16 pixels of random colours, no two alike."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:  # Torchreid reads these layouts in an environment without osnet
    from osnet.types import Split

GRID_PEOPLE = 6
CUHK03_PAIRS = (5, 3)
"""People in each pair of cameras."""


def pixels_of(name: str) -> np.ndarray:
    """(16, 8, 3): random pixels, seeded by the name."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little")
    return np.random.RandomState(seed).randint(0, 256, (16, 8, 3), dtype=np.uint8)


def write_images(folder: Path, names: list[str]) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels_of(str(path.relative_to(folder.parent)))).save(path)


def make_market(root: Path, duke: bool = False) -> Path:
    """Training identities 2, 7; test identities 1, 3 in cameras 1, 2 and 6; a distractor and junk; 500k distractors."""
    outer = "dukemtmc-reid/DukeMTMC-reID" if duke else "market1501/Market-1501-v15.09.15"
    tail = "f0046182.jpg" if duke else "s1_000451_03.jpg"
    link = "_" if duke else ""
    folder = root / outer
    write_images(folder, [f"bounding_box_train/{p:04d}_c{c}{link}{tail}" for p in (2, 7) for c in (1, 2)])
    write_images(folder, [f"query/{p:04d}_c1{link}{tail}" for p in (1, 3)])
    write_images(folder, [f"bounding_box_test/{p:04d}_c{c}{link}{tail}" for p in (1, 3) for c in (1, 2, 6)])
    write_images(folder, [f"bounding_box_test/0000_c3{link}{tail}"])
    if not duke:
        write_images(folder, ["bounding_box_test/-1_c2s1_000008_00.jpg"])
        write_images(folder, ["images/0000_c5s1_000009_00.jpg", "images/-1_c5s1_000010_00.jpg"])
        (folder / "bounding_box_test" / "Thumbs.db").write_bytes(b"no image")
    return folder


def make_msmt17(root: Path, version: str = "v1") -> Path:
    """Identities start at 0 in train and in test; identity 1 of train is also in val; cameras up to 15."""
    outer, train, test = {
        "v1": ("MSMT17_V1", "train", "test"),
        "v2": ("MSMT17_V2", "mask_train_v2", "mask_test_v2"),
    }[version]
    folder = root / "msmt17" / outer
    rows = {
        "train": [(0, "000_01"), (0, "001_15"), (1, "000_02")],
        "val": [(1, "003_07")],
        "query": [(0, "000_01"), (1, "000_04")],
        "gallery": [(0, "001_02"), (1, "002_05"), (2, "000_15")],
    }
    for name, people in rows.items():
        half = train if name in ("train", "val") else test
        lines = [(f"{p:04d}/{p:04d}_{rest}_0303morning_0008_0.jpg", p) for p, rest in people]
        write_images(folder / half, [path for path, _ in lines])
        (folder / f"list_{name}.txt").write_text("".join(f"{path} {p}\n" for path, p in lines))
    return folder


def make_viper(root: Path, num_people: int = 7) -> Path:
    """Identities 000, 003, ...: in VIPeR 0 is a person, while other benchmarks use 0 for distractors."""
    folder = root / "viper" / "VIPeR"
    write_images(folder, [f"cam_a/{3 * i:03d}_{45 * (i % 3)}.bmp" for i in range(num_people)])
    write_images(folder, [f"cam_b/{3 * i:03d}_{45 * (i % 3) + 90}.bmp" for i in range(num_people)])
    return folder


def make_cuhk01(root: Path, num_people: int = 5) -> Path:
    folder = root / "cuhk01"
    write_images(folder, [f"campus/{p:04d}{i:03d}.png" for p in range(1, num_people + 1) for i in range(1, 5)])
    return folder


def make_cuhk02(root: Path) -> Path:
    """Each pair of cameras numbers its people from 1, so equal names are different people."""
    folder = root / "cuhk02" / "Dataset"
    for pair, people in (("P1", 3), ("P2", 2), ("P3", 1), ("P4", 1), ("P5", 2)):
        for camera in ("cam1", "cam2"):
            write_images(folder, [f"{pair}/{camera}/{p:03d}_{i:04d}.png" for p in range(1, people + 1) for i in (1, 2)])
    return folder


def make_prid(root: Path) -> Path:
    """Four people are in both cameras; 201 and 202 are different people in camera A and camera B."""
    folder = root / "prid2011" / "prid_2011" / "single_shot"
    write_images(folder, [f"cam_a/person_{p:04d}.png" for p in (1, 2, 3, 4, 201, 202)])
    write_images(folder, [f"cam_b/person_{p:04d}.png" for p in (1, 2, 3, 4, 201, 202, 203)])
    return folder


def make_ilids(root: Path) -> Path:
    """Five people with two to six images each."""
    folder = root / "ilids" / "i-LIDS_Pedestrian"
    write_images(folder, [f"Persons/{p:04d}{i:03d}.jpg" for p in range(1, 6) for i in range(1, p + 2)])
    return folder


def make_sensereid(root: Path) -> Path:
    folder = root / "sensereid" / "SenseReID"
    write_images(folder, [f"test_probe/{p:05d}_0.jpg" for p in (0, 4)])
    write_images(folder, [f"test_gallery/{p:05d}_1.jpg" for p in (0, 2, 4)])
    return folder


def make_cuhksysu(root: Path) -> Path:
    folder = root / "cuhksysu"
    write_images(folder, [f"cropped_images/p{p}_s{100 + k}_{k}.jpg" for p in (10, 9, 11422) for k in (1, 2)])
    return folder


def make_grid(root: Path, num_people: int = GRID_PEOPLE, num_others: int = 3, num_partitions: int = 10) -> Path:
    """Pairs 1 to ``num_people`` in cameras 1 and 5, distractors with number 0, and the partitions in a MATLAB file."""
    from scipy.io import savemat

    folder = root / "grid" / "underground_reid"
    write_images(folder, [f"probe/{p:04d}_1_25004_107_32_106_221.jpeg" for p in range(1, num_people + 1)])
    write_images(folder, [f"gallery/{p:04d}_5_25023_82_126_76_209.jpeg" for p in range(1, num_people + 1)])
    write_images(folder, [f"gallery/0000_{1 + i % 8}_{30000 + i}_82_126_76_209.jpeg" for i in range(num_others)])
    cells = np.empty((1, num_partitions), dtype=object)
    for number in range(num_partitions):
        train = grid_partition(number, num_people)
        cells[0, number] = {"a": 0, "b": 0, "trainIdx": np.array([train], np.uint8), "d": 0}
    savemat(folder / "features_and_partitions.mat", {"trainIdxAll": cells, "features": np.zeros((2, 2))})
    return folder


def grid_partition(number: int, num_people: int = GRID_PEOPLE) -> list[int]:
    """Half of the people; another half for each partition."""
    return sorted(1 + (number + i) % num_people for i in range(num_people // 2))


def make_cuhk03(root: Path) -> Path:
    """Two pairs of cameras with 5 and 3 people, the images of ``cuhk03_names``, and both protocols."""
    import h5py
    from scipy.io import savemat

    folder = root / "cuhk03"
    (folder / "cuhk03_release").mkdir(parents=True)
    with h5py.File(folder / "cuhk03_release" / "cuhk-03.mat", "w") as file:
        hidden = file.create_group("#refs#")
        reference = h5py.special_dtype(ref=h5py.Reference)

        def put(values: np.ndarray, **attributes: object) -> object:
            """Write an array in MATLAB's order, columns first."""
            dataset = hidden.create_dataset(f"x{len(hidden)}", data=values.T)
            dataset.attrs.update(attributes)
            return dataset.ref

        def put_cell(references: list[list[object]]) -> object:
            table = np.empty((len(references), len(references[0])), dtype=object)
            table[:] = references
            return hidden.create_dataset(f"x{len(hidden)}", data=table.T, dtype=reference).ref

        def put_image(boxes: str, name: str) -> object:
            if name in cuhk03_names(boxes):
                return put(cuhk03_pixels(boxes, name))
            return put(np.array([0, 0], np.uint64), MATLAB_empty=np.uint8(1))

        for boxes in ("detected", "labeled"):
            tables = []
            for pair, people in enumerate(CUHK03_PAIRS, start=1):
                rows = [
                    [put_image(boxes, f"{pair}_{p:03d}_{1 if i <= 5 else 2}_{i:02d}.png") for i in range(1, 11)]
                    for p in range(1, people + 1)
                ]
                tables.append(put_cell(rows))
            file.create_dataset(boxes, data=np.array([tables], dtype=object), dtype=reference)
        testsets = [put(np.array(cuhk03_testset(number), np.float64)) for number in range(20)]
        file.create_dataset("testsets", data=np.array([testsets], dtype=object), dtype=reference)
    for boxes in ("detected", "labeled"):
        names = cuhk03_names(boxes)
        people = sorted({name[:5] for name in names})
        cells = np.empty((len(names), 1), dtype=object)
        cells[:, 0] = names
        parts = cuhk03_new_split(boxes)
        indices = {f"{split}_idx": np.array([[1 + names.index(n)] for n in part]) for split, part in parts.items()}
        labels = np.array([[1 + people.index(name[:5])] for name in names])
        config = {"filelist": cells, "labels": labels, "camId": np.array([[int(n[6])] for n in names]), **indices}
        savemat(folder / f"cuhk03_new_protocol_config_{boxes}.mat", config)
    return folder


def cuhk03_names(boxes: str) -> list[str]:
    """Two images in each camera (places 1, 2 and 6, 7). Person 1_003 is in camera 1 only; 2_002 has a tenth image.

    One detected image is missing among the labelled ones.
    """
    names = []
    for pair, people in enumerate(CUHK03_PAIRS, start=1):
        for p in range(1, people + 1):
            places = [1, 2] if (pair, p) == (1, 3) else [1, 2, 6, 7]
            places += [10] if (pair, p) == (2, 2) else []
            places.remove(2) if boxes == "labeled" and (pair, p) == (1, 1) else None
            names += [f"{pair}_{p:03d}_{1 if i <= 5 else 2}_{i:02d}.png" for i in places]
    return names


def cuhk03_pixels(boxes: str, name: str) -> np.ndarray:
    """(13, 7, 3): height and width differ, so that swapped axes are noticed."""
    return pixels_of(f"{boxes}/{name}")[:13, :7]


def cuhk03_testset(number: int) -> list[tuple[int, int]]:
    """(pair, person) of two test people; another two for each of the 20 test sets."""
    people = [(pair, p) for pair, count in enumerate(CUHK03_PAIRS, start=1) for p in range(1, count + 1)]
    return [people[number % len(people)], people[(number + 3) % len(people)]]


def cuhk03_new_split(boxes: str) -> dict[str, list[str]]:
    """Train: 1_001, 1_002, 1_004 and 2_001. Of the others, the first image in each camera is a query."""
    names = cuhk03_names(boxes)
    train = [name for name in names if name[:5] in ("1_001", "1_002", "1_004", "2_001")]
    test = [name for name in names if name not in train and name[:5] != "1_003"]
    query = [name for name in test if name[8:10] in ("01", "06")]
    return {"train": train, "query": query, "gallery": [name for name in test if name not in query]}


MAKERS: dict[str, Callable[[Path], Path]] = {
    "market1501": make_market,
    "cuhk03": make_cuhk03,
    "dukemtmcreid": lambda root: make_market(root, duke=True),
    "msmt17": make_msmt17,
    "viper": make_viper,
    "grid": make_grid,
    "prid": make_prid,
    "ilids": make_ilids,
    "cuhk01": make_cuhk01,
    "cuhk02": make_cuhk02,
    "cuhksysu": make_cuhksysu,
    "sensereid": make_sensereid,
}


def names(split: "Split") -> list[str]:
    """The images' names, in order."""
    return [path.name for path in split.paths]


def people(split: "Split") -> set[int]:
    """The identities of the split."""
    return set(split.pids)


def damage(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Rewrite a JSON file after ``change(content)``."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
