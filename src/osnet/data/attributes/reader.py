"""Read any attribute data set, recognised by the files in its folder, or a CSV."""

from pathlib import Path

from osnet.data.attributes.dataset import AttributeDataset, Found, Listed, OnMismatch, finish
from osnet.data.attributes.identities import find_market_labels, read_generated_attributes, read_market_attributes
from osnet.data.attributes.pa100k import find_pa100k, read_pa100k
from osnet.data.attributes.peta_rap import PETA_FILE, RAP_FILE, read_peta, read_rap
from osnet.data.loading import list_images
from osnet.data.table import COLUMNS, locate_images, read_table
from osnet.errors import DataError
from osnet.synthetic.generate import ANNOTATIONS_FILE

CSV_FILE = "attributes.csv"
NO_ATTRIBUTES = ("path", "split")
VALUES = {"0": 0.0, "1": 1.0, "": float("nan")}


def read_attributes(root: str | Path, on_mismatch: OnMismatch = "raise") -> AttributeDataset:
    """Read PA-100K, PETA, RAP 1 or 2, Market-1501 with attribute labels, generated people, or a CSV.

    Args:
        root: folder of the data set; or a CSV file with its images beside or below it.
        on_mismatch: what to do if files and labels do not match. ``raise``: raise an error that lists them. ``skip``:
            leave them out and list them in ``problems``.

    Raises:
        DataError: no known data set was found (the message lists the files that were tried), or the data set is
            damaged or incomplete.
    """
    root = Path(root)
    if root.is_file():
        return read_csv(root, on_mismatch)
    if not root.is_dir():
        raise DataError(f"no such folder: {root}")
    if (root / CSV_FILE).is_file():
        return read_csv(root / CSV_FILE, on_mismatch)
    if (root / ANNOTATIONS_FILE).is_file():
        return read_generated_attributes(root)
    if (root / PETA_FILE).is_file():
        return read_peta(root, on_mismatch)
    if (root / RAP_FILE).is_file():
        return read_rap(root, on_mismatch)
    if find_pa100k(root) is not None:
        return read_pa100k(root, on_mismatch)
    if find_market_labels(root) is not None:
        return read_market_attributes(root, on_mismatch)
    raise DataError(
        f"{root} has no known attribute data set: looked for {CSV_FILE}, {ANNOTATIONS_FILE} (generated people), "
        f"{PETA_FILE}, {RAP_FILE}, annotation.mat (PA-100K), market_attribute.mat (Market-1501)"
    )


def knows_attributes(root: str | Path) -> bool:
    """Return True if ``read_attributes`` would find a data set in ``root``."""
    root = Path(root)
    files = (CSV_FILE, ANNOTATIONS_FILE, PETA_FILE, RAP_FILE)
    return (
        root.is_file()
        or any((root / name).is_file() for name in files)
        or find_pa100k(root) is not None
        or find_market_labels(root) is not None
    )


def read_csv(table: str | Path, on_mismatch: OnMismatch = "raise") -> AttributeDataset:
    """Read a CSV with a header and one column per attribute. A value is 0, 1, or empty if unknown.

    The column ``path`` is relative to the folder of the CSV. The optional column ``split`` is train, val or test; empty
    means train.

    Raises:
        DataError: the file cannot be read, a column is missing or occurs twice, there is a column ``identity``, a value
            is not allowed, a path is outside the folder, or files and labels do not match.
    """
    table = Path(table)
    root = table.parent
    header, rows, lines = read_table(table, ("path",), NO_ATTRIBUTES, "path and attributes, each once")
    names = [name for name in header if name not in NO_ATTRIBUTES]
    if not names or len({name.strip() for name in header}) != len(header) or "" in names:
        given = ", ".join(map(repr, header))
        raise DataError(f"{table} needs a header with path and attributes, each once; it has {given}")
    if "identity" in header:
        others = ", ".join(name for name in names if name in COLUMNS)
        raise DataError(
            f"{table} has the columns {others}, which are not attributes; remove them from the table of attributes"
        )
    listed = []
    places = locate_images(
        root, [(row["path"], f"{table.name} line {n}") for row, n in zip(rows, lines, strict=True) if row["path"]]
    )
    found_images = iter(places)
    for number, row in zip(lines, rows, strict=True):
        where = f"{table.name} line {number}"
        split = row.get("split") or "train"
        values = {name: (row[name] or "").strip() for name in names}
        if split not in ("train", "val", "test"):
            raise DataError(f"{where}: unknown split {split!r}; choose from train, val, test")
        if strange := [attribute for attribute, value in values.items() if value not in VALUES]:
            raise DataError(
                f"{where}: {row['path']}: the label of {strange[0]!r} is {values[strange[0]]!r}; it must be 0, 1 or "
                "empty"
            )
        image = next(found_images) if row["path"] else None
        name = image.relative_to(root).as_posix() if image is not None else row["path"] or ""
        listed.append(Listed(split, name, [VALUES[value] for value in values.values()], where))
    found = Found(root, len(names))
    found.add_all(listed, {path.relative_to(root).as_posix() for path in list_images(root)})
    return finish(root.resolve().name, root, names, found, on_mismatch)
