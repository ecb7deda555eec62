"""Saving, loading and converting weights; refused files and cards."""

import json
import os
import pickle
import shutil
import warnings
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from osnet.errors import ModelError, WeightsError
from osnet.models.config import OSNetConfig
from osnet.models.heads import AttributeHead
from osnet.models.osnet import OSNet
from osnet.models.registry import build_network
from osnet.types import Preprocessing
from osnet.weights.card import CARD_FILE, Card, read_card
from osnet.weights.checkpoint import convert, load_weights, network_sha256, read_checkpoint, save_weights
from osnet.weights.torchreid import infer_config, torchreid_names, training_data_from_file, write_torchreid


def torchreid_state(network: OSNet, num_classes: int = 0) -> "OrderedDict[str, torch.Tensor]":
    """The state dict under Torchreid's names, with a random classifier if ``num_classes`` is given."""
    names = torchreid_names(network.config)
    state = OrderedDict((names[key], value) for key, value in network.state_dict().items())
    if num_classes:
        state["classifier.weight"] = torch.rand(num_classes, 512)
        state["classifier.bias"] = torch.rand(num_classes)
    return state


def same(a: OSNet, b: OSNet) -> bool:
    x, y = a.state_dict(), b.state_dict()
    return x.keys() == y.keys() and all(torch.equal(x[key], y[key]) for key in x)


# Checkpoint folders


def test_round_trip_keeps_every_tensor_and_the_card(tmp_path: Path) -> None:
    network = OSNet(OSNetConfig(width=0.25, streams=2, norm="ain", embedding_size=64))
    card = Card(
        network.config,
        preprocessing=Preprocessing(
            size_hw=(128, 64), mean=(0.5, 0.4, 0.3), interpolation="bicubic", channel_order="bgr"
        ),
        training_data="market1501",
        licence="CC0",
        source="a run",
    )
    head = torch.nn.Linear(64, 5)
    written = save_weights(network, tmp_path / "w", card, head.state_dict())
    loaded = load_weights(tmp_path / "w")
    assert same(network, loaded)
    assert loaded.card == written
    assert loaded.card.preprocessing == card.preprocessing
    assert loaded.card.num_classes == 5
    assert (loaded.card.licence, loaded.card.training_data) == ("CC0", "market1501")
    assert not loaded.training
    assert torch.equal(read_checkpoint(tmp_path / "w").state["classifier.weight"], head.weight)


def test_card_is_json_with_the_sha256_of_the_weights(tiny_weights: Path) -> None:
    card = json.loads((tiny_weights / "card.json").read_text())
    content = (tiny_weights / card["weights"]).read_bytes()
    import hashlib

    assert card["sha256"] == hashlib.sha256(content).hexdigest()
    assert card["preprocessing"]["size_hw"] == [256, 128]
    assert {"architecture", "preprocessing", "num_classes", "training_data", "licence", "sha256"} <= set(card)


@pytest.mark.parametrize("given", ["folder", "card", "tensors", "run"])
def test_any_path_of_a_checkpoint_folder_is_accepted(tiny_weights: Path, tiny_network: OSNet, given: str) -> None:
    (tiny_weights.parent / "run").mkdir(exist_ok=True)
    if given == "run" and not (tiny_weights.parent / "run" / "weights").exists():
        copy_of(tiny_weights, tiny_weights.parent / "run" / "weights")
    path = {
        "folder": tiny_weights,
        "card": tiny_weights / "card.json",
        "run": tiny_weights.parent / "run",
    }.get(given) or next(tiny_weights.glob("*.safetensors"))
    assert same(load_weights(path), tiny_network)


def copy_of(folder: Path, target: Path) -> Path:
    target.mkdir()
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


def test_a_flipped_bit_is_refused(tiny_weights: Path, tmp_path: Path) -> None:
    folder = copy_of(tiny_weights, tmp_path / "w")
    tensors = next(folder.glob("*.safetensors"))
    content = bytearray(tensors.read_bytes())
    content[len(content) // 2] ^= 1
    tensors.write_bytes(content)
    with pytest.raises(WeightsError, match="is damaged: its SHA-256"):
        load_weights(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"weights": "../../etc/passwd"}, "etc/passwd"),
        ({"weights": "gone.safetensors"}, "is missing"),
        ({"format": "osnet-weights-99"}, "osnet-weights-99"),
        ({"architecture": {"width": -1}}, "width -1"),
        ({"architecture": {"colour": 1}}, "colour"),
        ({"preprocessing": {"size_hw": [10**9, 10**9]}}, "size_hw"),
        ({"preprocessing": {"interpolation": "lanczos9"}}, "lanczos9"),
        ({"distance": "manhattan"}, "manhattan"),
    ],
)
def test_invalid_cards_are_refused(tiny_weights: Path, tmp_path: Path, change: dict, words: str) -> None:
    folder = copy_of(tiny_weights, tmp_path / "w")
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps(card | change))
    with pytest.raises(WeightsError) as caught:
        load_weights(folder)
    assert words in str(caught.value)


@pytest.mark.parametrize("value", [None, True, 5, -1, 1e9, float("nan"), "x", "", [], [1], ["a"], [[1]], {"a": 1}])
def test_card_fields_of_any_type_are_refused_or_valid(tiny_weights: Path, tmp_path: Path, value: object) -> None:
    """The card is refused with the right error, or its fields have their types."""
    folder = copy_of(tiny_weights, tmp_path / "w")
    card = json.loads((folder / "card.json").read_text())
    places = [card, card["preprocessing"], card["architecture"]]
    num_refused = 0
    for place in places:
        for key, before in list(place.items()):
            place[key] = value
            (folder / "card.json").write_text(json.dumps(card))
            place[key] = before
            try:
                read = read_card(folder)[0]
            except (WeightsError, ModelError):
                num_refused += 1
                continue
            assert isinstance(read.training_data, str)
            assert isinstance(read.num_classes, int)
            assert all(isinstance(v, float | int) for v in (*read.preprocessing.mean, *read.preprocessing.std))
            assert len(read.preprocessing.mean) == 3
    assert num_refused >= 12


def test_an_interrupted_save_leaves_the_old_or_the_new_weights(tmp_path: Path, monkeypatch) -> None:
    """Each file operation of a save fails in turn; the folder can always be loaded."""
    folder = tmp_path / "w"
    old, new = OSNet(OSNetConfig(width=0.25)), OSNet(OSNetConfig(width=0.25))
    save_weights(old, folder)
    real = {name: getattr(Path, name) for name in ("replace", "write_bytes", "write_text", "unlink")}
    steps = 0
    for fail_at in range(1, 20):
        calls = 0

        def failing(name: str):
            def call(self: Path, *args, **kwargs):
                nonlocal calls
                calls += 1
                if calls == fail_at:
                    raise KeyboardInterrupt(f"killed in {name}")  # not an Exception: nothing may catch it
                return real[name](self, *args, **kwargs)

            return call

        with monkeypatch.context() as patch:
            for name in real:
                patch.setattr(Path, name, failing(name))
            try:
                save_weights(new, folder)
            except KeyboardInterrupt:
                steps += 1
        loaded = load_weights(folder)
        assert same(loaded, old) or same(loaded, new)
        if calls < fail_at:
            break
    assert steps >= 5
    assert same(load_weights(folder), new)
    assert len(list(folder.iterdir())) == 2  # no temporary files remain


def test_saving_a_damaged_network_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    network = OSNet(OSNetConfig(width=0.25))
    with torch.no_grad():
        network.conv5.conv.weight[0, 0] = float("nan")
    with pytest.raises(WeightsError, match=r"not finite: conv5\.conv\.weight"):
        save_weights(network, tmp_path / "w")
    assert not list((tmp_path / "w").glob("*"))


# Torchreid's files


@pytest.mark.parametrize("norm", ["bn", "ibn", "ain"])
@pytest.mark.parametrize("form", ["bare", "state_dict", "module", "training", "no classifier"])
def test_every_form_of_torchreids_files_loads(tmp_path: Path, norm: str, form: str) -> None:
    network = OSNet(OSNetConfig(width=0.25, norm=norm)).eval()
    state = torchreid_state(network, 0 if form == "no classifier" else 9)
    content: object = state
    if form == "state_dict":
        content = {"state_dict": state, "epoch": 3}
    if form == "module":
        content = OrderedDict((f"module.{key}", value) for key, value in state.items())
    if form == "training":
        optimizer = torch.optim.Adam(network.parameters()).state_dict()
        content = {"state_dict": state, "epoch": 3, "rank1": np.float64(0.61), "optimizer": optimizer}
    file = tmp_path / "model.pth.tar-60"
    torch.save(content, file)
    loaded = load_weights(file)
    assert same(loaded, network)
    assert loaded.card is not None
    assert loaded.card.num_classes == (0 if form == "no classifier" else 9)


@pytest.mark.parametrize("scalar", [np.float64(0.5), np.float32(0.5), np.int64(3)])
def test_numpy_scalars_of_the_old_protocol(tmp_path: Path, tiny_network: OSNet, scalar: np.generic) -> None:
    """The zip format and the one before it; torch.load alone refuses both (Torchreid #592)."""
    for legacy in (True, False):
        file = tmp_path / "old.pth"
        torch.save(
            {"state_dict": torchreid_state(tiny_network), "rank1": scalar},
            file,
            _use_new_zipfile_serialization=not legacy,
        )
        with pytest.raises(pickle.UnpicklingError):
            torch.load(file, weights_only=True)
        assert same(load_weights(file), tiny_network)


class RunsCommand:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def test_pickled_code_is_never_run(tmp_path: Path, tiny_network: OSNet) -> None:
    marker, file = tmp_path / "code-ran", tmp_path / "osnet_x0_25.pth"
    torch.save({"state_dict": torchreid_state(tiny_network), "rank1": RunsCommand(marker)}, file)
    with pytest.raises(WeightsError, match="could run code"):
        load_weights(file)
    assert not marker.exists()
    file.write_bytes(pickle.dumps(RunsCommand(marker)))
    with pytest.raises(WeightsError):
        load_weights(file)
    assert not marker.exists()


@pytest.mark.parametrize("content", [b"", b"hello", b"broken", b"PK\x03\x04 broken zip", b"\x80\x02}q\x00."])
def test_files_that_are_not_checkpoints_are_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "osnet_x0_25.pth"
    file.write_bytes(content)
    with pytest.raises(WeightsError, match=r"osnet_x0_25\.pth"):
        load_weights(file)


def test_paths_without_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such weights"):
        load_weights(tmp_path / "gone.pth")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(WeightsError, match="neither a checkpoint folder"):
        load_weights(tmp_path / "notes.txt")
    with pytest.raises(WeightsError, match=r"has no card\.json"):
        load_weights(tmp_path)


def test_every_mismatching_tensor_is_listed(tmp_path: Path, tiny_network: OSNet) -> None:
    file = tmp_path / "x.pth"
    state = torchreid_state(tiny_network)
    del state["conv5.bn.running_mean"]
    state["fc.0.weight"] = torch.rand(512, 7)
    state["extra.weight"] = torch.rand(3)
    torch.save(state, file)
    with pytest.raises(WeightsError) as caught:
        load_weights(file, architecture="osnet_x0_25")
    message = str(caught.value)
    assert "missing: conv5.bn.running_mean" in message
    assert "shape of fc.0.weight: [512, 7] instead of [512, 128]" in message
    assert "unexpected: extra.weight" in message
    assert "in 3 tensors" in message


def test_x0_25_into_x1_0_is_refused(tmp_path: Path, tiny_network: OSNet) -> None:
    """Torchreid prints "Successfully loaded" in this case."""
    file = tmp_path / "weights.pth"
    torch.save(torchreid_state(tiny_network), file)
    with pytest.raises(WeightsError, match="look like osnet_x0_25"):
        load_weights(file, architecture="osnet_x1_0")
    file.rename(tmp_path / "osnet_x1_0_msmt17.pt")
    with pytest.raises(WeightsError, match="look like osnet_x0_25"):
        load_weights(tmp_path / "osnet_x1_0_msmt17.pt")


@pytest.mark.parametrize("classes", [(3, 512), (4101, 512), (9, 256)])
def test_classifiers_of_any_shape_are_accepted(tmp_path: Path, tiny_network: OSNet, classes: tuple) -> None:
    state = torchreid_state(tiny_network)
    state["classifier.weight"] = torch.rand(*classes)
    torch.save(state, tmp_path / "x.pth")
    assert same(load_weights(tmp_path / "x.pth"), tiny_network)


@pytest.mark.parametrize(
    ("file", "num_classes", "data"),
    [
        ("osnet_x0_25_msmt17.pt", 1041, "msmt17"),
        ("osnet_x0_25_msmt17.pt", 4101, "msmt17_combineall"),
        ("osnet_ain_x1_0_msmt17_256x128_amsgrad_ep50.pth", 0, "msmt17_combineall"),
        ("osnet_x1_0_market_256x128_amsgrad.pth", 0, "market1501"),
        ("osnet_x1_0_dukemtmcreid.pt", 0, "dukemtmcreid"),
        ("osnet_x0_5_imagenet.pth", 0, "imagenet"),
        ("model.pth.tar-60", 1000, "unknown"),
        ("model.pth.tar-60", 99, "unknown"),
    ],
)
def test_training_data_from_names_and_classes(file: str, num_classes: int, data: str) -> None:
    assert training_data_from_file(Path(file), num_classes) == data


# Converting


@pytest.mark.parametrize("norm", ["bn", "ibn", "ain"])
def test_convert_there_and_back(tmp_path: Path, norm: str) -> None:
    network = OSNet(OSNetConfig(width=0.5, norm=norm))
    original = tmp_path / "in.pth"
    torch.save(torchreid_state(network, 11), original)
    convert(original, tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / "back.pt")
    before, after = (torch.load(p, weights_only=True) for p in (original, tmp_path / "back.pt"))
    assert list(before) == list(after)
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_network_digests_do_not_depend_on_the_file_format(tmp_path: Path, tiny_network: OSNet) -> None:
    write_torchreid(tmp_path / "t.pth", tiny_network.state_dict(), tiny_network.config)
    convert(tmp_path / "t.pth", tmp_path / "ours")
    card = Preprocessing()
    digests = {network_sha256(load_weights(tmp_path / name), card) for name in ("t.pth", "ours")}
    assert digests == {network_sha256(tiny_network, card)}
    assert network_sha256(tiny_network, Preprocessing(size_hw=(128, 64))) not in digests
    assert network_sha256(OSNet(tiny_network.config), card) not in digests


def test_convert_refuses_existing_files_and_unknown_networks(tmp_path: Path, tiny_weights: Path) -> None:
    (tmp_path / "existing.pth").write_bytes(b"precious")
    with pytest.raises(WeightsError, match="exists"):
        convert(tiny_weights, tmp_path / "existing.pth")
    assert (tmp_path / "existing.pth").read_bytes() == b"precious"
    save_weights(OSNet(OSNetConfig(width=0.25, streams=3)), tmp_path / "t3")
    with pytest.raises(ModelError, match="streams=3"):
        convert(tmp_path / "t3", tmp_path / "t3.pth")
    assert not (tmp_path / "t3.pth").exists()


def test_converting_the_real_checkpoint_there_and_back(msmt17_pth: Path, tmp_path: Path) -> None:
    card = convert(msmt17_pth, tmp_path / "ours")
    assert card.distance == "euclidean"  # the model zoo's scores use it
    assert (card.name, card.num_classes, card.training_data) == ("osnet_x0_25", 1041, "msmt17")
    assert "research purpose only" in card.licence
    assert "6f57607fed9f502b9efed546108132ee715df5a5b6e6932c6269bacb47f59f99" in card.source
    convert(tmp_path / "ours", tmp_path / "back.pth")
    before, after = (torch.load(p, weights_only=True) for p in (msmt17_pth, tmp_path / "back.pth"))
    assert len(before) == 567
    assert list(before) == list(after)
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_read_card(tiny_weights: Path) -> None:
    card, weights_file = read_card(tiny_weights)
    assert card.name == "osnet_x0_25"
    assert weights_file.startswith(f"weights-{card.sha256[:12]}")
    assert CARD_FILE == "card.json"


def test_digests_depend_on_settings_that_differ_from_defaults(tiny_network: OSNet) -> None:
    """1 and 1.0 are equal widths. Defaults are not hashed, so a new setting does not change digests."""
    from osnet.weights.checkpoint import _decisions

    assert _decisions(OSNetConfig(width=1)) == _decisions(OSNetConfig(width=1.0)) == {}
    assert _decisions(OSNetConfig(width=2)) == {"width": 2.0}
    assert isinstance(_decisions(OSNetConfig(width=2))["width"], float)
    digests = {network_sha256(tiny_network, Preprocessing(size_hw=size)) for size in ((256, 128), (128, 64))}
    assert len(digests) == 2


@pytest.mark.parametrize("keep", [1, 100, 5000, -1])
def test_truncated_downloads_raise_weights_error(tmp_path: Path, tiny_network: OSNet, keep: int) -> None:
    torch.save(tiny_network.state_dict(), tmp_path / "whole.pth")
    (tmp_path / "osnet_x0_25.pth").write_bytes((tmp_path / "whole.pth").read_bytes()[:keep])
    with pytest.raises(WeightsError):
        load_weights(tmp_path / "osnet_x0_25.pth")


def test_a_deeply_nested_card_is_refused(tiny_weights: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_weights, tmp_path / "w")
    (tmp_path / "w" / "card.json").write_text("[" * 100_000 + "]" * 100_000)
    with pytest.raises(WeightsError):
        load_weights(tmp_path / "w")


@pytest.mark.parametrize("settings", [{"norm": "stem"}, {"pooling": "max"}, {"pooling": "depthwise"}])
def test_convert_refuses_what_a_torchreid_file_cannot_say(tmp_path: Path, settings: dict) -> None:
    """Its readers would miss tensors, or pool by the average and get other embeddings."""
    save_weights(OSNet(OSNetConfig(width=0.25, **settings)), tmp_path / "w")
    ((name, value),) = settings.items()
    with pytest.raises(ModelError, match=f"{name}='{value}'"):
        convert(tmp_path / "w", tmp_path / "out.pth")
    assert not (tmp_path / "out.pth").exists()


def test_a_torchreid_file_with_maximum_pooling_can_be_read(tmp_path: Path, tiny_network: OSNet) -> None:
    torch.save(torchreid_state(tiny_network), tmp_path / "attributes.pth")
    config = OSNetConfig(width=0.25, pooling="max")
    assert load_weights(tmp_path / "attributes.pth", config=config).config == config


def test_convert_warns_of_what_it_leaves_out(tmp_path: Path, tiny_network: OSNet) -> None:
    card = Card(tiny_network.config, preprocessing=Preprocessing(size_hw=(128, 64)))
    save_weights(tiny_network, tmp_path / "w", card, attributes=AttributeHead(512, ["hat"]))
    with pytest.warns(UserWarning, match=r"\(128, 64\).*attribute head"):
        convert(tmp_path / "w", tmp_path / "out.pth")
    save_weights(tiny_network, tmp_path / "plain")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        convert(tmp_path / "plain", tmp_path / "plain.pth")


@pytest.mark.parametrize("width", [0.05, 0.1, 0.3, 0.3125, 0.6, 0.7, 1.3])
@pytest.mark.parametrize("ours", [False, True])
def test_any_width_is_found_in_the_tensors(tmp_path: Path, width: float, ours: bool) -> None:
    network = build_network(OSNetConfig(width=width), "meta")
    state = network.state_dict() if ours else torchreid_state(network)
    assert infer_config(state) == network.config


def test_networks_of_one_checkpoint_share_no_tensors(tiny_weights: Path) -> None:
    checkpoint = read_checkpoint(tiny_weights)
    one, other = checkpoint.build(), checkpoint.build()
    before = {key: value.clone() for key, value in other.state_dict().items()}
    with torch.no_grad():
        for tensor in one.state_dict().values():
            tensor.add_(1)
    assert all(torch.equal(value, before[key]) for key, value in other.state_dict().items())
    assert all(torch.equal(checkpoint.state[key], value) for key, value in before.items())
