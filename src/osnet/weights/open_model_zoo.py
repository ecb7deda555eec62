"""Find or download Intel's OSNets with Linear Context Transform, from the Open Model Zoo (licence Apache-2.0).

The files are searched in the folder ``$OSNET_WEIGHTS``, then in the cache (``$OSNET_CACHE`` or ``~/.cache/osnet``).
Otherwise they are downloaded from OpenVINO's public storage (release 2023.0 of openvinotoolkit/open_model_zoo), or from
the server ``$OSNET_OMZ_URL`` with the same paths. A download is used only if it has the SHA-256 below. We computed
these digests from files of our own; for 0286 and 0287, public code with the same URLs has the same checksums.
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from osnet.downloads import cache_folder, download
from osnet.errors import WeightsError
from osnet.files import make_folder, sha256_file, written_aside

STORAGE = "https://storage.openvinotoolkit.org/repositories/open_model_zoo/2023.0/models_bin/1"
TIMEOUT_S = 20.0
DEFAULT_WEIGHTS = "person-reidentification-retail-0287"
"""The weights of a new gallery if the user names none. They have 0.6 million parameters, a licence that allows any
purpose, and better results on unseen cameras than the authors' published x0.25."""
INTEL = "intel"
"""Value of ``pretrained`` in ``create_model`` for these weights."""
LICENCE = "Apache-2.0"


@dataclass(frozen=True)
class Figures:
    """Results of one network. Scores are in per cent, by cosine. None means not measured."""

    rank1_published: float
    mean_ap_published: float
    """mAP on Market-1501; like rank-1, from the network's page in the zoo."""
    rank1: float | None = None
    mean_ap: float | None = None
    """mAP on the complete Market-1501; like rank-1, measured by ``benchmarks/permissive_weights.py``."""
    rank1_mars: float | None = None
    mean_ap_mars: float | None = None
    """mAP, like rank-1, on single images of 16 people of MARS from six cameras, by Market-1501's rule."""
    speed_x0_25: float | None = None
    speed_x1_0: float | None = None
    """Images per second of processor time, relative to OSNet x1.0 (above: x0.25) in the same run; 2 means twice as
    fast."""


@dataclass(frozen=True)
class IntelWeights:
    """The two files of one network of the zoo."""

    name: str
    """Name of the network in the zoo."""
    model: str
    """Name of the network in this package; see ``list_models()``."""
    precision: str
    """Type of the stored numbers: ``FP32``, or ``FP16``, which is converted to float32."""
    sha256_xml: str
    sha256_bin: str
    num_bytes: tuple[int, int]
    """Sizes of the .xml file and of the .bin file, in bytes."""
    figures: Figures

    @property
    def short_name(self) -> str:
        """Short name of the weights, ``MODEL_intel``."""
        return f"{self.model}_{INTEL}"

    @property
    def files(self) -> dict[str, tuple[str, int]]:
        """Maps each file name to its SHA-256 and its size in bytes."""
        digests = (self.sha256_xml, self.sha256_bin)
        names = (f"{self.name}.xml", f"{self.name}.bin")
        return {name: (d, n) for name, d, n in zip(names, digests, self.num_bytes, strict=True)}

    def url(self, file: str) -> str:
        """URL of one of the files."""
        return f"{os.environ.get('OSNET_OMZ_URL', STORAGE)}/{self.name}/{self.precision}/{file}"


_RETAIL = "person-reidentification-retail-"
INTEL_WEIGHTS: tuple[IntelWeights, ...] = (
    IntelWeights(
        f"{_RETAIL}0277",
        "osnet_lct_x1_0",
        "FP16",
        "82039b1bb986231c50345550e59def94e63579998e9cddbd1a312f293eb87729",
        "6bb69e09d07733cc3896b29081d2627f92db7b9aacd50f1a8c3df491cb10f1b7",
        (616140, 4178806),
        Figures(96.2, 87.7, 96.14, 87.68, 75.97, 79.10, 0.17, 1.04),
    ),
    IntelWeights(
        f"{_RETAIL}0286",
        "osnet_lct_x0_75",
        "FP16",
        "cc547e622d8aeabf97938213f68171bf59ac7d01c910ceadfea984aa96e5d1b5",
        "d06beb9e2b2661d42b233f64ef623f3518fc46dc11f6b7dd53cda8962d9d1bd9",
        (611793, 2453724),
        Figures(94.8, 83.7, 94.86, 83.77, 74.57, 78.25, 0.24, 1.45),
    ),
    IntelWeights(
        f"{_RETAIL}0287",
        "osnet_lct_x0_5",
        "FP32",
        "09af746c1068a3e89355e1f0226d3d6982dc1cd77634b1f70a40f1f654a94be1",
        "7f53d18d11253455e0e11646b2176cf6509cc7c97cb5376f9b91b4c41e09a06c",
        (451147, 2362128),
        Figures(92.9, 76.6, 93.08, 76.60, 74.19, 77.48, 0.41, 2.53),
    ),
    IntelWeights(
        f"{_RETAIL}0288",
        "osnet_lct_x0_25",
        "FP32",
        "30f452b2ed2763f7bf429eea23f8f243ad0e7f3cdd7226db6888f1660efb3424",
        "6496b8d51741703c9e9c7f6474cb96c60de1856d7b4fd77235e48cea146066a5",
        (450664, 728052),
        Figures(86.1, 58.857, 86.13, 59.78, 73.42, 74.33, 0.92, 5.64),
    ),
)
"""All four networks. Their pages in the zoo do not say what they were trained on."""


def get_intel(name: str) -> IntelWeights | None:
    """Look up weights by their name in the zoo or their short name, with or without ``.xml``. None if unknown."""
    stem = name.removesuffix(".xml")
    return next((w for w in INTEL_WEIGHTS if stem in (w.name, w.short_name)), None)


def find_by_digest(sha256_bin: str) -> IntelWeights | None:
    """Look up weights by the SHA-256 of their .bin file. None if unknown."""
    return next((w for w in INTEL_WEIGHTS if w.sha256_bin == sha256_bin), None)


def find_intel(weights: IntelWeights) -> Path:
    """Return the path of the .xml file, with the .bin file beside it. Downloads them if they are not on this machine.

    Raises:
        WeightsError: the files cannot be downloaded (the message says which files to put where), or the SHA-256 of a
            file is wrong.
        OutputError: the cache cannot be written, or there is no home folder for it.
    """
    return _find_local(weights) or _download(weights)


def _find_local(weights: IntelWeights) -> Path | None:
    """Find both files in ``$OSNET_WEIGHTS`` or in its sub-folder with the network's name or number."""
    folder = os.environ.get("OSNET_WEIGHTS")
    if not folder:
        return None
    if not Path(folder).is_dir():
        raise WeightsError(f"OSNET_WEIGHTS is {folder!r}, which is not a folder")
    number = weights.name.removeprefix(_RETAIL)
    for place in (".", weights.name, f"{weights.name}/{weights.precision}", number):
        path = Path(folder) / place / f"{weights.name}.xml"
        if path.is_file() and path.with_suffix(".bin").is_file():
            return path
    return None


def _download(weights: IntelWeights) -> Path:
    folder = cache_folder() / "open_model_zoo" / weights.name / weights.precision
    missing = [name for name in weights.files if not (folder / name).is_file()]
    if missing:
        sys.stderr.write(f"downloading {weights.name} from {weights.url(missing[0])}\nlicence: {LICENCE}\n")
    for name in missing:
        _fetch(weights, name, folder / name)
    for name, (sha256, _) in weights.files.items():
        _check(folder / name, sha256)
    return folder / f"{weights.name}.xml"


def _fetch(weights: IntelWeights, name: str, target: Path) -> None:
    """Download one file. It is checked before it is renamed to ``target``."""
    sha256, num_bytes = weights.files[name]
    url = weights.url(name)
    if not url.startswith(("https://", "http://")):
        raise WeightsError(f"OSNET_OMZ_URL gives the URL {url}; it must start with https:// or http://")
    try:
        content = download(url, num_bytes, TIMEOUT_S)
    except OSError as error:
        folder = os.environ.get("OSNET_WEIGHTS")
        where = folder or "a folder and set the environment variable OSNET_WEIGHTS to it"
        raise WeightsError(
            f"no weights {weights.name}: {url} cannot be downloaded ({error}). Put {' and '.join(weights.files)} into "
            f"{where}; or pass the path of the .xml file"
        ) from None
    make_folder(target.parent)
    with written_aside(target) as aside:
        aside.write_bytes(content)
        _check(aside, sha256, url)


def _check(path: Path, sha256: str, origin: str | None = None) -> None:
    if (digest := sha256_file(path)) != sha256:
        what = f"{origin} was downloaded" if origin else f"{path} is in the cache"
        again = "" if origin else ". Delete it to download it again"
        raise WeightsError(f"{what}, but its SHA-256 is {digest} instead of {sha256}, so it is not loaded{again}")
