"""Read and write checkpoints on the Hugging Face Hub. A repository has these files:

    card.json            the card, as in a checkpoint folder, with the SHA-256 of the tensors' file
    model.safetensors    the tensors
    config.json          the settings of the network, for the Hub's website
    README.md            the model page: licence, training data, results, intended use, limits

Only ``card.json`` and the safetensors file that it names are downloaded, so nothing is unpickled. A local folder with
the same files can be used instead of a repository.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from osnet.errors import OutputError, WeightsError
from osnet.files import make_folder, write_json, written_aside
from osnet.models.counting import count_cost
from osnet.models.network import Network
from osnet.weights.card import CARD_FILE, LICENCE_UNKNOWN, Card, read_card
from osnet.weights.checkpoint import Checkpoint, read_checkpoint, save_checkpoint

PREFIX = "hf-hub:"
"""Prefix of the repository name, as in ``hf-hub:org/name`` or ``hf-hub:org/name@revision``."""
WEIGHTS_FILE = "model.safetensors"
ETAG_TIMEOUT_S = 10.0
_LICENCES = {"apache-2.0": "apache-2.0", "mit": "mit", "bsd-3-clause": "bsd-3-clause"}
_LIMITS = """\
The network compares appearance. It does not recognise faces, and a match is no proof of identity: people in similar
clothes look alike, and results get worse with other cameras, light and crops than those in the training data. Scores
are cosines, not probabilities: rank them, or choose a threshold on your own data (`osnet calibrate`).
Re-identification is surveillance technology: follow the law that applies to you, and delete stored data early.
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
    """Read the tensors and the card from a repository or from a folder with the same files.

    Args:
        source: ``org/name``, ``org/name@revision``, or a folder.
        revision: a branch, a tag or a commit. Only a commit always means the same files.
        cache_dir, force_download, local_files_only, token: passed to huggingface_hub.

    Raises:
        WeightsError: the repository or revision does not exist or cannot be reached, or it has no checkpoint of this
            package.
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
        except Exception as error:  # its own errors, those of the HTTP library, and ValueError for an invalid name
            raise WeightsError(_explain(repository, at, file, error)) from error

    card = fetch(CARD_FILE, revision)
    _, weights_file = read_card(card.parent)
    if not weights_file.endswith(".safetensors"):
        raise WeightsError(f"{repository}: {CARD_FILE} names {weights_file!r}; only .safetensors files are downloaded")
    # Fetch the tensors from the same commit as the card: a branch may change between the two downloads.
    commit = card.parent.name if card.parent.parent.name == "snapshots" else revision
    fetch(weights_file, commit)
    return read_checkpoint(card.parent)


def _explain(repository: str, revision: str | None, file: str, error: Exception) -> str:
    what = f"{file} of {repository}" + (f" at revision {revision}" if revision else "")
    kind = type(error).__name__
    if kind in ("RepositoryNotFoundError", "GatedRepoError"):
        return f"the Hub has no repository {repository}, or it needs a token: pass token=... or run `hf auth login`"
    if kind == "RevisionNotFoundError":
        return f"{repository} has no revision {revision!r}"
    if "EntryNotFound" in kind and kind != "LocalEntryNotFoundError":
        return f"there is no {what}; the repository has no checkpoint of this package (push_to_hub uploads one)"
    return (
        f"{what} is not in the cache and cannot be downloaded "
        f"({kind}: {str(error).splitlines()[0] if str(error) else ''}); pass a folder with the same files instead"
    )


def load_from_hub(cls: type[Network], source: str | Path, **options: Any) -> Network:
    """Load a network of class ``cls``, in eval mode. Arguments are those of ``fetch_checkpoint``.

    Raises:
        WeightsError: the network has another class, or ``fetch_checkpoint`` raises it.
    """
    network = fetch_checkpoint(source, **options).build()
    if not isinstance(network, cls):
        raise WeightsError(f"{source} contains a network of class {type(network).__name__}, not {cls.__name__}")
    return network


def save_for_hub(network: Network, folder: str | Path, figures: Mapping[str, str] | None = None) -> Card:
    """Write the files of a repository, without heads. ``from_pretrained(folder)`` reads them.

    Args:
        network: the network. The model page is made from its ``card``.
        folder: the folder; created if it does not exist.
        figures: measured results for the model page, such as ``{"Market-1501, rank-1 by cosine": "93.1 %"}``.

    Returns:
        The card that was written.
    """
    folder = make_folder(folder)
    tensors = network.state_dict()
    state = {key: value.detach().cpu() for key, value in tensors.items() if not key.startswith("classifier.")}
    no_head: dict[str, Any] = {"attributes": (), "attributes_off": (), "attribute_thresholds": (), "classes": ()}
    card = replace(network.card or Card(network.config), architecture=network.config, **no_head)
    with TemporaryDirectory() as temporary:  # save_checkpoint makes the checks and the card
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
    """Upload a network to the repository ``org/name`` and return the URL of the commit.

    The repository is created if it does not exist. The other arguments are those of huggingface_hub's
    ``ModelHubMixin.push_to_hub``.

    Raises:
        OutputError: the Hub refused, cannot be reached, or the name is not valid.
    """
    from huggingface_hub import HfApi

    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=token)
    with TemporaryDirectory() as folder:
        save_for_hub(network, folder, figures)
        options: dict[str, Any] = {"commit_message": commit_message, "revision": branch, "create_pr": create_pr}
        try:
            full_name = api.create_repo(repository, private=private, exist_ok=True).repo_id
            return str(api.upload_folder(repo_id=full_name, folder_path=folder, **options))
        except Exception as error:  # as for downloads: errors of several libraries
            raise OutputError(_explain_push(repository, branch, error)) from error


def _explain_push(repository: str, branch: str | None, error: Exception) -> str:
    what = f"{repository} at revision {branch}" if branch else repository
    status = getattr(getattr(error, "response", None), "status_code", None)
    first = str(error).splitlines()[0] if str(error) else ""
    if status in (401, 403) or type(error).__name__ == "LocalTokenNotFoundError":
        hint = "; it needs a token that may write there: pass token=... or run `hf auth login`"
    elif type(error).__name__ == "RevisionNotFoundError":
        hint = f"; the repository has no branch {branch!r}: make it first, or leave branch out"
    else:
        hint = ""
    return f"the network cannot be uploaded to {what} ({type(error).__name__}: {first}){hint}"


def write_page(card: Card, network: Network, figures: Mapping[str, str] | None = None) -> str:
    """Write the text of the model page (README.md): YAML metadata for the Hub, then the card's content in words."""
    from huggingface_hub import ModelCardData

    name, height_width = card.name or "osnet", card.preprocessing.size_hw
    terms: dict[str, Any] = {"license": _LICENCES.get(card.licence.strip().lower(), "other")}
    if terms["license"] == "other":
        terms["license_name"] = "see-below"
    metadata = ModelCardData(
        library_name="osnet",
        pipeline_tag="image-feature-extraction",
        tags=["osnet", "person-re-identification", "re-identification", "safetensors"],
        **terms,
    )
    cost = count_cost(network, height_width)
    order = card.preprocessing.channel_order.upper()
    rows = "".join(f"| {key} | {value} |\n" for key, value in (figures or {}).items())
    measured = f"| measure | value |\n|---|---|\n{rows}" if rows else "No results were given for these weights.\n"
    licence = (
        card.licence if card.licence != LICENCE_UNKNOWN else "Not stated. Ask the people who trained these weights."
    )
    return f"""---
{metadata.to_yaml()}
---

# {name}

Maps an image of a person or thing to an embedding of {network.config.embedding_size} numbers. Embeddings of the same
identity are close to each other. Architecture: `{name}` (OSNet: Zhou et al., ICCV 2019, arXiv:1905.00953).

    from osnet import Embedder, create_model

    network = create_model("hf-hub:ORG/NAME@COMMIT")  # use the commit that you have tested
    embeddings = Embedder(network).embed(["a.jpg", "b.jpg"])

## Results

{measured}
{cost.params:,} parameters, {cost.madds / 1e6:.1f} million multiply-adds for one image of {height_width[0]} x
{height_width[1]} pixels (height x width).

## Training data

{card.training_data}

## Licence

{licence}

## Input

{order}, {height_width[0]} x {height_width[1]} (height x width), mean {card.preprocessing.mean}, standard deviation
{card.preprocessing.std} in fractions of 255. The library reads these values from `card.json`.

## Intended use and limits

Finding crops of the same person (or thing, if it was trained on things): in research, and in products with a lawful
purpose and their own checks.
{_LIMITS}
## Source

{card.source or "not stated"}

SHA-256 of `{WEIGHTS_FILE}`: `{card.sha256}`

```json
{json.dumps(asdict(card.preprocessing))}
```
"""
