"""Intel's OSNets with Linear Context Transform from the Open Model Zoo, Apache-2.0: which exist, how to get them.

They are looked for in the folder ``$OSNET_WEIGHTS``, then in the cache (``$OSNET_CACHE``, or ``~/.cache/osnet``), then
downloaded from OpenVINO's public storage (release 2023.0 of the repository openvinotoolkit/open_model_zoo);
``$OSNET_OMZ_URL`` names another server with the same paths. What was downloaded is used only if its SHA-256 is the one
below. The SHA-256 were computed from files at hand; public code that downloads 0286 and 0287 from these addresses
quotes the same checksums.
"""

import os
import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from osnet.errors import WeightsError
from osnet.files import make_folder, sha256_file, written_aside

STORAGE = "https://storage.openvinotoolkit.org/repositories/open_model_zoo/2023.0/models_bin/1"
TIMEOUT_S = 20.0
DEFAULT_WEIGHTS = "person-reidentification-retail-0287"
"""What a new gallery takes where nobody names weights: of 0.6 million parameters, free to use for any purpose, and
better on cameras it has not seen than the authors' published x0.25."""
INTEL = "intel"
"""What ``create_model(..., pretrained=...)`` calls them."""
LICENCE = "Apache-2.0"


@dataclass(frozen=True)
class Figures:
    """Of one network. Per cent, by cosine; None where nobody has measured it."""

    rank1_published: float
    mean_ap_published: float
    """On Market-1501, as the network's page in the zoo says."""
    rank1: float | None = None
    mean_ap: float | None = None
    """On the complete Market-1501, as ``benchmarks/permissive_weights.py`` measured."""
    rank1_mars: float | None = None
    mean_ap_mars: float | None = None
    """On single images of 16 people of MARS from six cameras, by Market-1501's rule."""
    speed_x0_25: float | None = None
    speed_x1_0: float | None = None
    """Images per second of processor time beside OSNet x0.25 and x1.0 in the same run: how many times as fast."""


@dataclass(frozen=True)
class IntelWeights:
    """One network of the zoo: two files."""

    name: str
    model: str
    """Our network's name."""
    precision: str
    """How the numbers are stored: ``FP32``, or ``FP16``, which is read as float32."""
    sha256_xml: str
    sha256_bin: str
    num_bytes: tuple[int, int]
    """Of the .xml and of the .bin."""
    figures: Figures

    @property
    def short_name(self) -> str:
        """Another name that stands for it."""
        return f"{self.model}_{INTEL}"

    @property
    def files(self) -> dict[str, tuple[str, int]]:
        """File name -> SHA-256 and size."""
        digests = (self.sha256_xml, self.sha256_bin)
        names = (f"{self.name}.xml", f"{self.name}.bin")
        return {name: (d, n) for name, d, n in zip(names, digests, self.num_bytes, strict=True)}

    def url(self, file: str) -> str:
        """Where it lies."""
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
        Figures(96.2, 87.7),
    ),
    IntelWeights(
        f"{_RETAIL}0286",
        "osnet_lct_x0_75",
        "FP16",
        "cc547e622d8aeabf97938213f68171bf59ac7d01c910ceadfea984aa96e5d1b5",
        "d06beb9e2b2661d42b233f64ef623f3518fc46dc11f6b7dd53cda8962d9d1bd9",
        (611793, 2453724),
        Figures(94.8, 83.7),
    ),
    IntelWeights(
        f"{_RETAIL}0287",
        "osnet_lct_x0_5",
        "FP32",
        "09af746c1068a3e89355e1f0226d3d6982dc1cd77634b1f70a40f1f654a94be1",
        "7f53d18d11253455e0e11646b2176cf6509cc7c97cb5376f9b91b4c41e09a06c",
        (451147, 2362128),
        Figures(92.9, 76.6),
    ),
    IntelWeights(
        f"{_RETAIL}0288",
        "osnet_lct_x0_25",
        "FP32",
        "30f452b2ed2763f7bf429eea23f8f243ad0e7f3cdd7226db6888f1660efb3424",
        "6496b8d51741703c9e9c7f6474cb96c60de1856d7b4fd77235e48cea146066a5",
        (450664, 728052),
        Figures(86.1, 58.857),
    ),
)
"""All four. Their pages do not say what they were trained on."""


def get_intel(name: str) -> IntelWeights | None:
    """The entry that ``name`` stands for: its own, ``osnet_lct_x0_5_intel``, or either with ``.xml``."""
    plain = name.removesuffix(".xml")
    return next((w for w in INTEL_WEIGHTS if plain in (w.name, w.short_name)), None)


def find_by_digest(sha256_bin: str) -> IntelWeights | None:
    """The entry whose .bin file has this SHA-256."""
    return next((w for w in INTEL_WEIGHTS if w.sha256_bin == sha256_bin), None)


def find_intel(weights: IntelWeights) -> Path:
    """The .xml file on this machine, with the .bin beside it, downloaded if need be.

    Raises:
        WeightsError: neither here nor to be had, and then the message says which files to put where; or a downloaded
            file's SHA-256 is not the known one.
        OutputError: the cache cannot be written to.
    """
    return _find_local(weights) or _download(weights)


def _find_local(weights: IntelWeights) -> Path | None:
    """In ``$OSNET_WEIGHTS``: both files, there or in a folder of the network's name or number."""
    folder = os.environ.get("OSNET_WEIGHTS")
    if not folder:
        return None
    if not Path(folder).is_dir():
        raise WeightsError(f"OSNET_WEIGHTS is {folder!r}, which is no folder")
    number = weights.name.removeprefix(_RETAIL)
    for place in (".", weights.name, f"{weights.name}/{weights.precision}", number):
        path = Path(folder) / place / f"{weights.name}.xml"
        if path.is_file() and path.with_suffix(".bin").is_file():
            return path
    return None


def _cache() -> Path:
    return Path(os.environ.get("OSNET_CACHE") or Path.home() / ".cache" / "osnet") / "open_model_zoo"


def _download(weights: IntelWeights) -> Path:
    folder = _cache() / weights.name / weights.precision
    missing = [name for name in weights.files if not (folder / name).is_file()]
    if missing:
        sys.stderr.write(f"downloading {weights.name} from {weights.url(missing[0])}\nlicence: {LICENCE}\n")
    for name in missing:
        _fetch(weights, name, folder / name)
    for name, (sha256, _) in weights.files.items():
        _check(folder / name, sha256)
    return folder / f"{weights.name}.xml"


def _fetch(weights: IntelWeights, name: str, target: Path) -> None:
    """One file, checked before it gets its name."""
    sha256, num_bytes = weights.files[name]
    url = weights.url(name)
    if not url.startswith(("https://", "http://")):
        raise WeightsError(f"OSNET_OMZ_URL makes the address {url}, which is neither https nor http")
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:  # noqa: S310  # the scheme was looked at
            content = answer.read(num_bytes + 1)
    except (OSError, ValueError) as error:
        folder = os.environ.get("OSNET_WEIGHTS") or "some folder, named by the environment variable OSNET_WEIGHTS,"
        raise WeightsError(
            f"no weights {weights.name}: {url} cannot be fetched ({error}). Put {' and '.join(weights.files)} into "
            f"{folder} or give the path of the .xml file"
        ) from None
    make_folder(target.parent)
    with written_aside(target) as aside:
        aside.write_bytes(content)
        _check(aside, sha256, url)


def _check(path: Path, sha256: str, origin: str | None = None) -> None:
    if (digest := sha256_file(path)) != sha256:
        what = f"{origin} was fetched" if origin else f"{path} lies in the cache"
        again = "" if origin else ". Delete it to download it again"
        raise WeightsError(f"{what}, but its SHA-256 is {digest} and the known one is {sha256}; refused{again}")
