"""Checkpoints on the Hugging Face Hub: a repository holds what a checkpoint folder holds, and a page about it.

    card.json            as in any checkpoint folder; it names the tensors' file by its SHA-256
    model.safetensors    the tensors
    config.json          the network's settings, for the Hub's own pages
    README.md            the page: licence, training data, figures, use, limits

Only ``card.json`` and the safetensors file that it names are ever fetched, so nothing can be unpickled. A folder with
the same files stands in for a repository anywhere.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from osnet.errors import WeightsError
from osnet.files import make_folder, write_json, written_aside
from osnet.models.counting import count_cost
from osnet.models.network import Network
from osnet.weights.card import CARD_FILE, LICENCE_UNKNOWN, Card, read_card
from osnet.weights.checkpoint import Checkpoint, read_checkpoint, save_checkpoint

PREFIX = "hf-hub:"
"""Before ``org/name`` or ``org/name@revision``, where a network's name may stand."""
WEIGHTS_FILE = "model.safetensors"
ETAG_TIMEOUT_S = 10.0
_LICENCES = {"apache-2.0": "apache-2.0", "mit": "mit", "bsd-3-clause": "bsd-3-clause"}
_LIMITS = """\
It compares appearance. It is no face recogniser and no proof of identity: alike clothes look alike, and other cameras,
light and crops than those it was trained on make it worse. Scores are cosines, not probabilities: rank them, or choose
a threshold on data of your own (`osnet calibrate`). Re-identification is surveillance technology: know your law, and
keep what you store short-lived.
"""


def fetch_checkpoint(
    source: str | Path,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
    token: str | bool | None = None,
) -> Checkpoint:
    """Tensors and card from a repository, or from a folder that stands in for one.

    Args:
        source: ``org/name``, ``org/name@revision``, or a folder.
        revision: a branch, a tag or a commit; the last one pins what is loaded.
        cache_dir, force_download, local_files_only, token: as huggingface_hub takes them.

    Raises:
        WeightsError: no such repository or revision, it cannot be reached, or it holds no checkpoint of ours.
    """
    if isinstance(source, Path) or Path(source).is_dir():
        return read_checkpoint(source)
    repository, _, named = source.removeprefix(PREFIX).partition("@")
    revision = revision or named or None
    from huggingface_hub import hf_hub_download

    options: dict[str, Any] = {
        "cache_dir": cache_dir,
        "force_download": force_download,
        "local_files_only": local_files_only,
        "token": token,
        "endpoint": os.environ.get("HF_ENDPOINT"),
        "etag_timeout": ETAG_TIMEOUT_S,
    }

    def fetch(file: str, at: str | None) -> Path:
        try:
            return Path(hf_hub_download(repository, file, revision=at, **options))
        except Exception as error:  # its own, the HTTP library's, and ValueError for a name that cannot be
            raise WeightsError(_explain(repository, at, file, error)) from error

    card = fetch(CARD_FILE, revision)
    _, weights_file = read_card(card.parent)
    if not weights_file.endswith(".safetensors"):
        raise WeightsError(f"{repository}: {CARD_FILE} names {weights_file!r}; only .safetensors files are fetched")
    # The commit that the card came from: a branch may move between the two.
    commit = card.parent.name if card.parent.parent.name == "snapshots" else revision
    fetch(weights_file, commit)
    return read_checkpoint(card.parent)


def _explain(repository: str, revision: str | None, file: str, error: Exception) -> str:
    what = f"{file} of {repository}" + (f" at revision {revision}" if revision else "")
    kind = type(error).__name__
    if kind in ("RepositoryNotFoundError", "GatedRepoError"):
        return f"there is no repository {repository} on the Hub, or it needs a token: token=..., or `hf auth login`"
    if kind == "RevisionNotFoundError":
        return f"{repository} has no revision {revision!r}"
    if "EntryNotFound" in kind and kind != "LocalEntryNotFoundError":
        return f"there is no {what}: it holds no checkpoint of this package, which push_to_hub writes"
    return (
        f"{what} is neither in the cache nor to be had ({kind}: {str(error).splitlines()[0] if str(error) else ''}); "
        "give a folder with the same files instead"
    )


def load_from_hub(cls: type[Network], source: str | Path, **options: Any) -> Network:
    """A network of class ``cls``, in eval mode; arguments and errors as for ``fetch_checkpoint``."""
    network = fetch_checkpoint(source, **options).build()
    if not isinstance(network, cls):
        raise WeightsError(f"{source} holds a {type(network).__name__}, not an {cls.__name__}")
    return network


def save_for_hub(network: Network, folder: str | Path, figures: Mapping[str, str] | None = None) -> Card:
    """Write the files of a repository; ``from_pretrained(folder)`` reads them back. Heads are no part of it.

    Args:
        network: with its ``card``, which the page is made from.
        folder: made if need be.
        figures: what was measured, for the page: ``{"Market-1501, rank-1 by cosine": "93.1 %"}``.
    """
    folder = make_folder(folder)
    state = {key: value.detach().cpu() for key, value in network.state_dict().items()}
    no_head: dict[str, Any] = {"attributes": (), "attributes_off": (), "attribute_thresholds": (), "classes": ()}
    card = replace(network.card or Card(network.config), architecture=network.config, **no_head)
    with TemporaryDirectory() as temporary:  # the same checks and the same card as for any folder
        card = save_checkpoint(Checkpoint(card, state), temporary)
        _, written = read_card(temporary)
        content = (Path(temporary) / written).read_bytes()
    for name, data in ((WEIGHTS_FILE, content), ("README.md", write_page(card, network, figures).encode())):
        with written_aside(folder / name) as aside:
            aside.write_bytes(data)
    settings = card.to_json(WEIGHTS_FILE)
    write_json(folder / "config.json", {"library": "osnet", "model": card.name, **settings["architecture"]})
    write_json(folder / CARD_FILE, settings)
    return card


def push(
    network: Network,
    repository: str,
    *,
    figures: Mapping[str, str] | None = None,
    commit_message: str = "Upload weights with osnet",
    private: bool | None = None,
    token: str | None = None,
    branch: str | None = None,
    create_pr: bool | None = None,
) -> str:
    """Upload a network to ``org/name``, made if need be; the commit's address. Arguments as huggingface_hub's mixin."""
    from huggingface_hub import HfApi

    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=token)
    with TemporaryDirectory() as folder:
        save_for_hub(network, folder, figures)
        full_name = api.create_repo(repository, private=private, exist_ok=True).repo_id
        told: dict[str, Any] = {"commit_message": commit_message, "revision": branch, "create_pr": create_pr}
        return str(api.upload_folder(repo_id=full_name, folder_path=folder, **told))


def write_page(card: Card, network: Network, figures: Mapping[str, str] | None = None) -> str:
    """The model card: YAML for the Hub, then what the checkpoint's card says, in words."""
    from huggingface_hub import ModelCardData

    name, height_width = card.name or "osnet", card.preprocessing.size_hw
    plain = card.licence.strip().lower()
    terms: dict[str, Any] = {"license": _LICENCES.get(plain, "other")}
    if terms["license"] == "other":
        terms["license_name"] = "see-below"
    about = ModelCardData(
        library_name="osnet",
        pipeline_tag="image-feature-extraction",
        tags=["osnet", "person-re-identification", "re-identification", "safetensors"],
        **terms,
    )
    cost = count_cost(network, height_width)
    order = card.preprocessing.channel_order.upper()
    rows = "".join(f"| {key} | {value} |\n" for key, value in (figures or {}).items())
    measured = f"| figure | value |\n|---|---|\n{rows}" if rows else "None was given with these weights.\n"
    licence = card.licence if card.licence != LICENCE_UNKNOWN else "Not stated: ask whoever trained these weights."
    return f"""---
{about.to_yaml()}
---

# {name}

Images of people or things -> vectors of {network.config.embedding_size} numbers that are close where the identity is
the same. Architecture: OSNet and its relatives (Zhou et al., ICCV 2019, arXiv:1905.00953), `{name}`.

    from osnet import Embedder, OSNet

    network = OSNet.from_pretrained("ORG/NAME", revision="COMMIT")  # pin the commit that you have tested
    vectors = Embedder(network).embed(["a.jpg", "b.jpg"])

## Figures

{measured}
{cost.params:,} parameters, {cost.madds / 1e6:.1f} million multiply-adds for one image of {height_width[0]} x
{height_width[1]} pixels (height x width).

## Training data

{card.training_data}

## Licence

{licence}

## Input

{order}, {height_width[0]} x {height_width[1]}, mean {card.preprocessing.mean}, deviation {card.preprocessing.std} in
fractions of 255. The library reads this from `card.json`.

## Intended use and limits

Search among crops of people (or things, if it was trained on things) for the same one again: research, and products
that have their own checks and a lawful purpose.
{_LIMITS}
## Source

{card.source or "not stated"}

SHA-256 of `{WEIGHTS_FILE}`: `{card.sha256}`

```json
{json.dumps(asdict(card.preprocessing))}
```
"""
