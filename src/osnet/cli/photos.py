"""osnet data pack."""

from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from osnet.cli.common import data_app
from osnet.photos.image_folder import read_photo_folder
from osnet.photos.shards import IMAGES_PER_SHARD, write_packed


@data_app.command(name="pack")
def data_pack(
    folder: Annotated[Path, Positional, tyro.conf.arg(metavar="FOLDER")],
    *,
    out: Path,
    classes_of: Path | None = None,
    images_per_shard: int = IMAGES_PER_SHARD,
    seed: int = 0,
) -> None:
    """Pack photographs into tar files that are read from front to back (WebDataset), with an index.

    Args:
        folder: one sub-folder for each class, as ImageNet's train.
        out: a new folder.
        classes_of: a folder whose sub-folders are the classes, where FOLDER may lack some: train, for packing val.
        images_per_shard: 2000 of ImageNet's are about 220 MB. Each worker that reads needs a shard at least.
        seed: of the one random order in which they are packed.
    """
    classes = read_photo_folder(classes_of).classes if classes_of is not None else None
    index = write_packed(read_photo_folder(folder, classes), out, images_per_shard, seed)
    print(f"{out}: {len(index):,} photographs of {len(index.classes):,} classes in {len(index.shards)} shards")
