"""Checkpoints of other programs: prefixes, containers, missing counters, objects next to tensors, refused files."""

import argparse
import datetime
import pickle
import shutil
import types
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from osnet import Embedder, create_model
from osnet.errors import WeightsError
from osnet.models.config import OSNetConfig
from osnet.models.osnet import OSNet
from osnet.models.registry import get_config
from osnet.weights.checkpoint import load_weights, read_checkpoint, save_weights
from osnet.weights.foreign_checkpoints import can_be_skipped
from test_weights import copy_of, same, torchreid_state


def prefixed(state: dict[str, Any], *prefixes: str) -> "OrderedDict[str, Any]":
    return OrderedDict((prefix + key, value) for prefix in prefixes for key, value in state.items())


def refusal_message(path: Path, **options: Any) -> str:
    with pytest.raises(WeightsError) as caught:
        load_weights(path, **options)
    assert str(path) in str(caught.value)
    return str(caught.value)


# Prefixes, containers


@pytest.mark.parametrize(
    "prefix",
    [
        "module.",
        "module.module.",
        "_orig_mod.",
        "_orig_mod.module.",
        "module._orig_mod.",
        "model.",
        "backbone.",
        "model.backbone.",
        "net.module.",
        "reid_model.encoder.base.",
        "network.",
    ],
)
def test_common_prefixes_are_removed(tmp_path: Path, tiny_network: OSNet, prefix: str) -> None:
    torch.save(prefixed(torchreid_state(tiny_network, 9), prefix), tmp_path / "x.pth")
    loaded = load_weights(tmp_path / "x.pth")
    assert same(loaded, tiny_network)
    assert loaded.card.num_classes == 9


def test_compile_wrappers_inside_names_are_removed(tmp_path: Path, tiny_network: OSNet) -> None:
    """As after torch.compile of single stages."""
    state = OrderedDict(
        (k.replace("conv2.", "conv2._orig_mod.", 1), v) for k, v in torchreid_state(tiny_network).items()
    )
    torch.save(state, tmp_path / "x.pth")
    assert same(load_weights(tmp_path / "x.pth"), tiny_network)


def test_tensors_without_the_prefix(tmp_path: Path, tiny_network: OSNet) -> None:
    """A classifier and counters are accepted. Another layer, which may belong to the embedding, is an error."""
    state = prefixed(torchreid_state(tiny_network), "backbone.")
    state |= {"classifier.weight": torch.rand(5, 512), "n_averaged": torch.tensor(7)}
    torch.save(state, tmp_path / "x.pth")
    loaded = load_weights(tmp_path / "x.pth")
    assert same(loaded, tiny_network)
    assert loaded.card.num_classes == 5
    torch.save(state | {"bottleneck.weight": torch.rand(512)}, tmp_path / "y.pth")
    assert "unexpected: bottleneck.weight" in refusal_message(tmp_path / "y.pth")


CONTAINERS: dict[str, Callable[[Any], Any]] = {
    "model": lambda s: {"model": s, "epoch": 3},
    "net_dict": lambda s: {"net_dict": s},
    "model_state_dict": lambda s: {"epoch": 7, "model_state_dict": s, "loss": 0.1},
    "teacher": lambda s: {"teacher": s, "step": torch.tensor(1)},
    "nested": lambda s: {"checkpoint": {"student": {"weights": s}}},
    "list": lambda s: [s, {"lr": 0.1}],
    "flat with numbers": lambda s: {**s, "epoch": 3, "best": 0.5, "names": ["a"]},
    "two equal copies": lambda s: {"model": s, "ema": OrderedDict(s)},
    "lightning": lambda s: {
        "epoch": 3,
        "global_step": 9,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": prefixed(s, "model."),
        "loops": {"fit_loop": {"state_dict": {}}},
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best": None}},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.rand(3)}}, "param_groups": [{"lr": 0.1}]}],
        "lr_schedulers": [],
        "hyper_parameters": {"lr": 0.1},
    },
}


@pytest.mark.parametrize("kind", CONTAINERS)
def test_the_state_dict_is_found_in_containers(tmp_path: Path, tiny_network: OSNet, kind: str) -> None:
    file = tmp_path / "last.ckpt"
    torch.save(CONTAINERS[kind](torchreid_state(tiny_network, 9)), file)
    loaded = load_weights(file)
    assert same(loaded, tiny_network)
    assert loaded.card.num_classes == 9


def test_several_networks_are_refused_or_warned_about(tmp_path: Path, tiny_network: OSNet) -> None:
    other = OSNet(OSNetConfig(width=0.25))
    torch.save({"student": torchreid_state(tiny_network), "teacher": torchreid_state(other)}, tmp_path / "x.pth")
    message = refusal_message(tmp_path / "x.pth")
    assert "student, teacher" in message
    assert "torch.save(torch.load('x.pth', weights_only=True)['teacher']" in message
    torch.save(
        prefixed(torchreid_state(tiny_network), "model.") | prefixed(torchreid_state(other), "ema."), tmp_path / "y.pth"
    )
    message = refusal_message(tmp_path / "y.pth")
    assert "'model.'" in message
    assert "'ema.'" in message
    torch.save({"state_dict": torchreid_state(tiny_network), "ema": torchreid_state(other)}, tmp_path / "z.pth")
    with pytest.warns(UserWarning, match=r"state_dict.*ema"):
        assert same(load_weights(tmp_path / "z.pth"), tiny_network)


def test_files_without_an_osnet_are_refused(tmp_path: Path) -> None:
    torch.save({"model": {"conv.weight": torch.rand(3, 3)}, "lr": 0.1}, tmp_path / "x.pth")
    message = refusal_message(tmp_path / "x.pth")
    for words in ("model (dict)", "lr (float)", "torch.save(model.state_dict()"):
        assert words in message
    torch.save({f"layer{n}.weight": torch.rand(2) for n in range(300)}, tmp_path / "osnet_x0_25.pth")
    shutil.copyfile(tmp_path / "osnet_x0_25.pth", tmp_path / "resnet.pth")
    for name, words in (("osnet_x0_25.pth", "conv1.conv.weight"), ("resnet.pth", "300 tensors")):
        message = refusal_message(tmp_path / name)
        assert words in message
        assert len(message.splitlines()) <= 12
        assert len(message) < 2000


def test_at_most_ten_tensors_are_listed(tmp_path: Path, tiny_network: OSNet) -> None:
    torch.save(prefixed(torchreid_state(tiny_network), "", "x"), tmp_path / "x.pth")
    lines = refusal_message(tmp_path / "x.pth").splitlines()
    assert len(lines) == 12
    assert lines[-1].strip() == f"and {len(torchreid_state(tiny_network)) - 10} more"


# Counters of batches, which do not affect outputs


@pytest.mark.parametrize("form", ["missing", "float", "one number in a list", "not a number"])
@pytest.mark.parametrize("kind", ["torchreid", "ours"])
def test_missing_and_odd_batch_counters_are_accepted(tmp_path: Path, tiny_network: OSNet, form: str, kind: str) -> None:
    state = torchreid_state(tiny_network) if kind == "torchreid" else tiny_network.state_dict()
    counters = [key for key in state if key.endswith("num_batches_tracked")]
    assert len(counters) == 80
    for key in counters:
        if form == "missing":
            del state[key]
        else:
            state[key] = {"float": torch.tensor(1.0), "one number in a list": torch.tensor([1])}.get(
                form, torch.tensor(float("nan"))
            )
    torch.save(state, tmp_path / "x.pth")
    loaded = load_weights(tmp_path / "x.pth").state_dict()
    for key, value in tiny_network.state_dict().items():
        if key.endswith("num_batches_tracked"):
            assert loaded[key].dtype == torch.int64
            assert loaded[key].item() == (1 if form in ("float", "one number in a list") else 0)
        else:
            assert torch.equal(loaded[key], value)


# Objects next to the tensors


class Settings:
    """A class of a training script; the test notices if it is unpickled."""

    touched = False

    def __init__(self) -> None:
        self.lr = 0.1

    def __setstate__(self, state: object) -> None:
        Settings.touched = True


class SettingsDict(dict):  # type: ignore[type-arg]
    """A dict subclass, like yacs' CfgNode and EasyDict."""


OBJECTS: dict[str, Any] = {
    "Namespace": argparse.Namespace(lr=0.1, data=Path("a/b")),
    "SimpleNamespace": types.SimpleNamespace(a=1),
    "user class": Settings(),
    "user dict": SettingsDict(lr=0.1, inner=SettingsDict(a=[1, 2])),
    "defaultdict": defaultdict(list, {"loss": [0.1, 0.2]}),
    "path": Path("runs/1"),
    "date": datetime.datetime(2024, 1, 2, 3, tzinfo=datetime.UTC),
    "array": np.arange(6.0).reshape(2, 3),
    "scalars": [np.float32(0.5), np.int64(3), np.bool_(True)],
    "random state": np.random.RandomState(0).get_state(),
    "types": {"dtype": np.dtype("float32"), "kind": int},
    "scheduler": torch.optim.lr_scheduler.StepLR(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 0.1), 3),
}


@pytest.mark.parametrize("kind", [*OBJECTS, "all", "all, old format"])
def test_harmless_objects_are_skipped(tmp_path: Path, tiny_network: OSNet, kind: str) -> None:
    extra = OBJECTS.get(kind, OBJECTS)
    content = {"args": extra, "state_dict": torchreid_state(tiny_network), "last": extra}
    torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization="old" not in kind)
    Settings.touched = False
    assert same(load_weights(tmp_path / "x.pth"), tiny_network)
    assert not Settings.touched, "the class was unpickled"


class Calls:
    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


def touch(path: str) -> None:
    Path(path).touch()


@pytest.mark.parametrize("function", [exec, eval, open, touch, Path.touch, np.load, pickle.loads, torch.load])
def test_functions_are_never_called(tmp_path: Path, tiny_network: OSNet, function: Callable[..., Any]) -> None:
    marker = tmp_path / "called"
    code = f"open({str(marker)!r}, 'w').close()"
    argument: Any = code if function in (exec, eval) else marker if function is Path.touch else str(marker)
    more = ("w",) if function is open else ()
    torch.save({"state_dict": torchreid_state(tiny_network), "x": Calls(function, argument, *more)}, tmp_path / "x.pth")
    message = refusal_message(tmp_path / "x.pth")
    assert "could run code" in message
    assert "torch.save(model.state_dict()" in message
    assert not marker.exists()


@pytest.mark.parametrize(
    ("name", "passed"),
    [
        ("argparse.Namespace", True),
        ("yacs.config.CfgNode", True),
        ("__main__.Config", True),
        ("list", True),
        ("fastreid.config.config.CfgNode", True),
        ("omegaconf.dictconfig.DictConfig", True),
        ("pathlib._local.PosixPath", True),
        ("torch.optim.lr_scheduler.StepLR", True),
        ("subprocess.Popen", False),
        ("builtins.eval", False),
        ("eval", False),
        ("getattr", False),
        ("os.system", False),
        ("posix.system", False),
        ("torch.hub.load", False),
        ("pandas.read_pickle", False),
        ("importlib.import_module", False),
        ("__main__.run", False),
        ("shutil.rmtree", False),
    ],
)
def test_only_harmless_globals_can_be_skipped(name: str, passed: bool) -> None:
    assert can_be_skipped(name) is passed


def test_pickled_networks_are_refused(tmp_path: Path, tiny_network: OSNet) -> None:
    for content in (tiny_network, {"model": tiny_network}):
        torch.save(content, tmp_path / "x.pth")
        message = refusal_message(tmp_path / "x.pth")
        assert "torch.save(model.state_dict()" in message
        assert len(message) < 600


def test_a_training_state_is_refused(tmp_path: Path, tiny_network: OSNet) -> None:
    torch.save(
        {"format": "osnet-training-1", "task": prefixed(torchreid_state(tiny_network), "network.")},
        tmp_path / "state.pt",
    )
    assert f"folder of the run, {tmp_path}" in refusal_message(tmp_path / "state.pt")


# Architecture from tensors and file names


def test_the_embedding_size_is_read_from_the_tensors(tmp_path: Path) -> None:
    network = OSNet(OSNetConfig(width=0.25, embedding_size=256)).eval()
    file = tmp_path / "osnet_x0_25_market1501.pth"
    torch.save(torchreid_state(network), file)
    for loaded in (load_weights(file), load_weights(file, architecture="osnet_x0_25"), Embedder(file).network):
        assert same(loaded, network)
        assert (loaded.card.name, loaded.card.training_data) == ("osnet_x0_25", "market1501")
    assert "shape of fc.0.weight" in refusal_message(file, config=OSNetConfig(width=0.25))


@pytest.mark.parametrize("name", ["osnet_x0_25", "osnet_ibn_x0_5", "osnet_ain_x0_25", "osnet_t2"])
def test_state_dicts_with_osnets_names(tmp_path: Path, name: str) -> None:
    network = OSNet(get_config(name)).eval()
    torch.save(network.state_dict(), tmp_path / "ours.pth")
    loaded = load_weights(tmp_path / "ours.pth")
    assert same(loaded, network)
    assert loaded.card.name == name


@pytest.mark.parametrize("extent", ["lite", "block", "all"])
@pytest.mark.parametrize("file", ["ours.pth", "osnet_x0_5_g2_lite.pth", "osnet_x0_5_custom.pth"])
def test_groups_are_read_from_the_shapes(tmp_path: Path, extent: str, file: str) -> None:
    network = create_model("osnet_x0_5", groups=2, group_extent=extent).eval()
    torch.save(network.state_dict(), tmp_path / file)
    loaded = load_weights(tmp_path / file)
    assert (loaded.config, loaded.card.name) == (network.config, None)
    assert same(loaded, network)
    save_weights(loaded, tmp_path / "folder")
    named = create_model(f"osnet_x0_5_g2_{extent}", tmp_path / "folder")  # a name of older versions
    assert same(named, network)
    with pytest.raises(WeightsError, match="groups 2 instead of 4"):
        create_model("osnet_x0_5", tmp_path / "folder", groups=4, group_extent=extent)


# Safetensors without a card


@pytest.mark.parametrize("kind", ["torchreid", "ours"])
def test_safetensors_files_without_a_card(tmp_path: Path, tiny_network: OSNet, kind: str) -> None:
    state = torchreid_state(tiny_network, 4) if kind == "torchreid" else tiny_network.state_dict()
    save_file({f"model.{key}": value.contiguous() for key, value in state.items()}, tmp_path / "finetuned.safetensors")
    for file in (tmp_path / "finetuned.safetensors", tmp_path / "finetuned.pth"):
        if not file.exists():
            (tmp_path / "finetuned.safetensors").rename(file)  # recognised by its content
        assert same(load_weights(file), tiny_network)
    message_file = tmp_path / "truncated.safetensors"
    message_file.write_bytes((tmp_path / "finetuned.pth").read_bytes()[:1000])
    assert "incomplete" in refusal_message(message_file)


def test_safetensors_files_that_the_card_does_not_name_are_refused(
    tiny_weights: Path, tmp_path: Path, tiny_network: OSNet
) -> None:
    folder = copy_of(tiny_weights, tmp_path / "w")
    named_in_card = next(folder.glob("*.safetensors"))
    other = OSNet(OSNetConfig(width=0.25)).eval()
    save_file(other.state_dict(), folder / "finetuned.safetensors")
    for load in (load_weights, Embedder):
        with pytest.raises(WeightsError, match=named_in_card.name):
            load(folder / "finetuned.safetensors")
        with pytest.raises(WeightsError, match=r"no such weights|no file"):
            load(folder / "gone.safetensors")
    assert same(load_weights(named_in_card), tiny_network)
    assert same(load_weights((folder / "finetuned.safetensors").rename(tmp_path / "bare.safetensors")), other)


@pytest.mark.parametrize("given", [None, 3, True, b"x.pth", ["x.pth"], "a\0b", "x" * 5000])
def test_arguments_that_are_not_paths_are_refused(given: Any) -> None:
    for load in (load_weights, read_checkpoint, Embedder):
        with pytest.raises(WeightsError):
            load(given)
