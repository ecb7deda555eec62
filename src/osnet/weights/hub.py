"""Find or download published weights.

Weights are searched in this order: the given path, the folder ``$OSNET_WEIGHTS``, the Hugging Face cache, and the
authors' Hugging Face repository.

We have not seen every file. The names of some were derived from the names of similar files (``by_pattern``), so a
download may fail. For most files we do not know the SHA-256. Such a download cannot be verified: every use prints a
warning, and the digest of the first download is stored, so that a later change of the file is an error.
"""

import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from os import PathLike
from pathlib import Path
from typing import Literal

from osnet.errors import WeightsError
from osnet.files import make_folder, sha256_file, write_json
from osnet.forks import make_lock
from osnet.models.network import Network
from osnet.models.registry import VARIANTS
from osnet.weights.card import CARD_FILE, LICENCE_ZOO
from osnet.weights.checkpoint import Checkpoint, read_checkpoint, to_path
from osnet.weights.hugging_face import PREFIX, fetch_checkpoint
from osnet.weights.open_model_zoo import INTEL, INTEL_WEIGHTS, find_intel, get_intel

REPOSITORY = "kaiyangzhou/osnet"
REVISION = "a5c5cc037c24235cda3b21085b93ad77c9616224"
"""Revision of the repository that is used by default, as in other projects. ``$OSNET_HUB_REVISION`` replaces it."""
ETAG_TIMEOUT_S = 10.0
RECORDS = "osnet-digests"
"""Folder in the download cache with the digests of files that could not be verified, one JSON file for each."""

Dataset = Literal["imagenet", "market1501", "dukemtmcreid", "msmt17", "msmt17_combineall"]
DATASETS: tuple[Dataset, ...] = ("imagenet", "market1501", "dukemtmcreid", "msmt17", "msmt17_combineall")


@dataclass(frozen=True)
class PublishedWeights:
    """A file in the authors' repository."""

    model: str
    dataset: Dataset
    file: str
    by_pattern: bool = True
    """True if the name of the file was derived from the names of similar files."""
    sha256: str | None = None
    """SHA-256 of the file; None if it is unknown, so that a download cannot be verified."""

    @property
    def certainty(self) -> str:
        """What we know about the file.

        ``sha256 known``: its digest. ``name quoted``: its name, from public code. ``never seen``: neither.
        """
        if self.sha256 is not None:
            return "sha256 known"
        return "never seen" if self.by_pattern else "name quoted"

    @property
    def local_names(self) -> list[str]:
        """Names under which the file, or a conversion of it, is searched in ``$OSNET_WEIGHTS``."""
        boxmot = f"{self.model}_{self.dataset}"
        if self.dataset == "msmt17_combineall" and ("_ain_" in self.model or "_ibn_" in self.model):
            short = [boxmot, f"{self.model}_msmt17"]  # for AIN and IBN, BoxMOT leaves out "_combineall"
        else:
            short = [boxmot]
        return [*short, self.file] + [name + suffix for name in short for suffix in (".pt", ".pth")]


def _published() -> list[PublishedWeights]:
    schedule = {
        "x1_0": "amsgrad_ep150_stp60_lr0.0015_b64_fb10",
        "x0_75": "amsgrad_ep150_stp60_lr0.0015_b64_fb10",
        "x0_5": "amsgrad_ep180_stp80_lr0.003_b128_fb10",
        "x0_25": "amsgrad_ep180_stp80_lr0.003_b128_fb10",
    }
    short: dict[Dataset, str] = {"market1501": "market", "dukemtmcreid": "duke", "msmt17": "msmt17"}
    sha256 = {
        "osnet_x0_25 market1501": "c0ff09177a21417a19bc73bbf5af4eb5d2b097c2074ed35e67819ee6cd93612c",
        "osnet_x0_25 msmt17": "6f57607fed9f502b9efed546108132ee715df5a5b6e6932c6269bacb47f59f99",
        "osnet_x0_25 msmt17_combineall": "cf55163d78fc44c62c82f85ab62d39f10438679b5abe8c698ae08cfa84aa6e18",
        "osnet_ain_x1_0 msmt17_combineall": "8a07e8da38946f7cee37f4561617bf8b6d2fe8f3a4027852893ea092e46d919f",
    }
    combined = "256x128_amsgrad_ep150_stp60_lr0.0015_b64_fb10_softmax_labelsmooth_flip_jitter.pth"
    rows: list[tuple[str, Dataset, str, bool]] = []
    for width, recipe in schedule.items():
        for dataset, name in short.items():
            file = f"osnet_{width}_{name}_256x128_{recipe}_softmax_labelsmooth_flip.pth"
            rows.append((f"osnet_{width}", dataset, file, width != "x1_0"))
        seen = width == "x0_25"
        rows.append((f"osnet_{width}", "msmt17_combineall", f"osnet_{width}_msmt17_combineall_{combined}", not seen))
    rows.append(("osnet_ibn_x1_0", "msmt17_combineall", f"osnet_ibn_x1_0_msmt17_combineall_{combined}", True))
    ain = "osnet_ain_x1_0_msmt17_256x128_amsgrad_ep50_lr0.0015_coslr_b64_fb10_softmax_labsmth_flip_jitter.pth"
    rows.append(("osnet_ain_x1_0", "msmt17_combineall", ain, False))
    rows += [
        (name, "imagenet", f"{name}_imagenet.pth", name != "osnet_x1_0")
        for name in (*(f"osnet_{width}" for width in schedule), "osnet_ibn_x1_0")
    ]
    rows += [(f"osnet_ain_{width}", "imagenet", f"osnet_ain_{width}_imagenet.pth", True) for width in schedule]
    return [PublishedWeights(m, d, f, p, sha256.get(f"{m} {d}")) for m, d, f, p in rows]


PUBLISHED: dict[tuple[str, str], PublishedWeights] = {(w.model, w.dataset): w for w in _published()}
"""Maps (model, data set) to the published file."""


def find_weights(model: str, pretrained: str | Path | Literal[True]) -> Path:
    """Find published weights on this machine, or download them.

    Args:
        model: name of a network in ``list_models()``.
        pretrained: name of a data set in ``DATASETS``, or ``intel``. True means ``imagenet``, as in timm and
            torchvision. A path is returned unchanged.

    Raises:
        WeightsError: no weights are published for this model and data set; they cannot be downloaded (the message says
            which file to put where); or the SHA-256 of the download is wrong.
    """
    if pretrained is True:
        pretrained = "imagenet"
    if pretrained not in DATASETS:
        path = to_path(pretrained)
        if isinstance(pretrained, PathLike) or path.exists():
            return path
    if intel := get_intel(f"{model}_{pretrained}"):
        return find_intel(intel)
    published = PUBLISHED.get((model, pretrained))
    if published is None:
        raise WeightsError(_nothing_known(model, pretrained))
    return _find_local(published) or _download(published)


def load_model(weights: str | Path) -> Network:
    """Load a network by path or short name. Arguments and errors are those of ``find_checkpoint``."""
    return find_checkpoint(weights).build()


def find_checkpoint(weights: str | Path) -> Checkpoint:
    """Read the tensors and the card of weights, given by a path or a name.

    Args:
        weights: a path (see ``load_weights``); or a name ``MODEL_DATASET`` of published weights, such as
            ``osnet_x0_25_msmt17``, also with BoxMOT's ending ``.pt``; or ``hf-hub:org/name`` (see ``hugging_face``).

    Raises:
        WeightsError: there is no such file or name, the download failed (see ``find_weights``), or the file is damaged
            or unsafe (see ``read_checkpoint``).
    """
    if str(weights).startswith(PREFIX):
        return fetch_checkpoint(str(weights))
    path, architecture = locate(weights)
    return read_checkpoint(path, architecture=architecture)


def locate(weights: str | Path) -> tuple[Path, str | None]:
    """The path that a path or a short name stands for; for a short name also the name of its network.

    Raises:
        WeightsError: no such file and no such name, or as ``find_weights`` raises.
    """
    path, text = to_path(weights), str(weights)
    if not path.exists():
        short = text.removesuffix(".pt").removesuffix(".pth")
        for published in PUBLISHED.values():
            if short in published.local_names:
                return find_weights(published.model, published.dataset), published.model
        if intel := get_intel(short):
            return find_intel(intel), intel.model
        if short in VARIANTS:
            known = [w.short_name for w in INTEL_WEIGHTS if w.model == short] + [
                f"{short}_{d}" for m, d in PUBLISHED if m == short
            ]
            raise WeightsError(
                f"{text!r} is the name of a network, not of weights; choose from "
                f"{', '.join(known) or 'your own files, since no weights are published for it'}"
            )
        near = get_close_matches(short, [*(f"{m}_{d}" for m, d in PUBLISHED), *_intel_names()], n=3)
        hint = f"did you mean {', '.join(near)}?" if near else "`osnet weights` lists the names of published weights"
        raise WeightsError(f"no such weights: there is no file {text!r}; {hint}")
    return path, None


def _intel_names() -> list[str]:
    return [name for w in INTEL_WEIGHTS for name in (w.name, w.short_name)]


def _nothing_known(model: str, pretrained: str) -> str:
    if pretrained not in DATASETS:
        return (
            f"pretrained={pretrained!r} is neither an existing path nor one of {', '.join(DATASETS)}, {INTEL} "
            "(True means imagenet)"
        )
    for_model = [d for m, d in PUBLISHED if m == model]
    for_data = [m for m, d in PUBLISHED if d == pretrained]
    known = f"for {model}: {', '.join(for_model) or 'none'}; on {pretrained}: {', '.join(for_data) or 'none'}"
    unknown = "" if model in VARIANTS else f" ({model!r} is not a model of this package)"
    return f"no published weights for {model} on {pretrained}{unknown}. Published {known}"


def _find_local(published: PublishedWeights) -> Path | None:
    """Find the file in ``$OSNET_WEIGHTS`` under any of its ``local_names``."""
    folder = os.environ.get("OSNET_WEIGHTS")
    if not folder:
        return None
    if not Path(folder).is_dir():
        raise WeightsError(f"OSNET_WEIGHTS is {folder!r}, which is not a folder")
    for name in published.local_names:
        path = Path(folder) / name
        if path.is_file() or (path / CARD_FILE).is_file():
            return path
    return None


def _download(published: PublishedWeights) -> Path:
    """Take the file from the Hugging Face cache, or download it from the authors' repository. Verifies it."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    revision = os.environ.get("OSNET_HUB_REVISION", REVISION)
    try:
        cached = hf_hub_download(REPOSITORY, published.file, revision=revision, local_files_only=True)
        return _verified(Path(cached), published, revision)
    except LocalEntryNotFoundError:
        pass
    doubt = " (a name derived from similar files; never seen)" if published.certainty == "never seen" else ""
    sys.stderr.write(f"downloading {published.file}{doubt} from {REPOSITORY}\nlicence of the weights: {LICENCE_ZOO}\n")
    try:
        with _quiet():
            path = hf_hub_download(
                REPOSITORY,
                published.file,
                revision=revision,
                endpoint=os.environ.get("HF_ENDPOINT"),
                etag_timeout=ETAG_TIMEOUT_S,
            )
    except LocalEntryNotFoundError:
        raise WeightsError(_offline_message(published, "the repository cannot be reached")) from None
    except (EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError) as error:
        what = type(error).__name__.removesuffix("Error").removeprefix("Remote")
        doubt = " (a name derived from similar files; never seen)" if published.by_pattern else ""
        known = ", ".join(sorted(w.file for w in PUBLISHED.values() if not w.by_pattern))
        raise WeightsError(
            f"{_offline_message(published, f'{REPOSITORY} at revision {revision} reports {what}')}. "
            f"The file {published.file}{doubt} may not exist; files known to exist: {known}"
        ) from None
    except Exception as error:  # the HTTP library raises its own errors
        raise WeightsError(_offline_message(published, f"the download failed ({error})")) from None
    return _verified(Path(path), published, revision)


_counting = make_lock()
_quiet_levels: list[int] = []
"""For each download that is running, the level of the Hub's log before the first of them."""


@contextmanager
def _quiet() -> Iterator[None]:
    """The Hub's library without its warnings, which print the whole URL at each retry.

    Its level counts for all threads, so the last download sets it back.
    """
    log = logging.getLogger("huggingface_hub")
    with _counting:
        _quiet_levels.append(_quiet_levels[0] if _quiet_levels else log.level)
        log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        with _counting:
            level = _quiet_levels.pop()
            if not _quiet_levels:
                log.setLevel(level)


def _offline_message(published: PublishedWeights, reason: str) -> str:
    folder = os.environ.get("OSNET_WEIGHTS")
    where = folder or "a folder and set the environment variable OSNET_WEIGHTS to it"
    names = " or ".join(dict.fromkeys((published.file, published.local_names[-1])))
    return (
        f"no weights for {published.model} on {published.dataset}: {reason}. "
        f"Put {names} into {where}; or pass the path of the file"
    )


def _verified(path: Path, published: PublishedWeights, revision: str) -> Path:
    """Return ``path`` after checking its SHA-256. If none is known, compare it with that of the first download.

    ``path`` is a link in the cache. Errors name the file that it points to: if the link alone is deleted, the Hub's
    library links the same file again.

    Raises:
        WeightsError: the SHA-256 differs.
    """
    digest = sha256_file(path)
    if published.sha256 is None:
        _warn_unverified(path, published, revision, digest)
    elif digest != published.sha256:
        raise WeightsError(
            f"{path} was downloaded as {published.file}, but its SHA-256 is {digest} instead of {published.sha256}, so "
            f"it is not loaded. Delete {path.resolve()} to download it again, or pass its path to load it anyway"
        )
    return path


def _warn_unverified(path: Path, published: PublishedWeights, revision: str, digest: str) -> None:
    """Print a warning on standard error, and store the digest in the cache at the first download.

    Raises:
        WeightsError: the digest differs from that of the first download.
    """
    record = _record_of(published)
    content = {"repository": REPOSITORY, "revision": revision, "file": published.file, "sha256": digest}
    before = _read_record(record)
    if before | {"sha256": digest} == content and before["sha256"] != digest:
        raise WeightsError(
            f"{path} was downloaded as {published.file}, but its SHA-256 is {digest} and that of the first download "
            f"was {before['sha256']} ({record}), so it is not loaded. Delete {path.resolve()} to download it "
            f"again, or delete {record} to accept the new file"
        )
    where = f"recorded in {record}"
    if before != content:
        try:
            make_folder(record.parent)
            write_json(record, content)
        except OSError as error:
            where = f"not recorded: {error}"
    sys.stderr.write(
        f"not verified: the correct SHA-256 of {published.file} is unknown, so the file could be a different one; "
        f"the SHA-256 of this file is {digest} ({where})\n"
    )


def _record_of(published: PublishedWeights) -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / RECORDS / f"{published.file}.json"


def _read_record(record: Path) -> dict[str, str]:
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
