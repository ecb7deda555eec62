"""Embedding with a network in training: it runs in eval mode and the network keeps its modes."""

import threading

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from conftest import make_picture
from osnet import ClassPredictor, Embedder, OSNet, OSNetConfig, Preprocessing, create_model
from osnet.runtime.backends import in_eval_mode

WAIT_S = 240


@pytest.fixture
def network() -> OSNet:
    torch.manual_seed(0)
    network = OSNet(OSNetConfig(width=0.25))
    with torch.no_grad():
        network.train()(torch.rand(4, 3, 64, 32))
    network.conv2.eval()  # one part in eval mode, as in fine-tuning
    return network


def modes_of(network: nn.Module) -> list[bool]:
    return [module.training for module in network.modules()]


def test_two_threads_embed_with_one_network(network: OSNet) -> None:
    """The first pass starts before the second and ends while the second is running."""
    pictures = [make_picture(1), make_picture(2)]
    expected = Embedder(network).embed(pictures)
    before, state = modes_of(network), {k: v.clone() for k, v in network.state_dict().items()}
    second_is_inside, first_is_done = threading.Event(), threading.Event()
    names: dict[int, str] = {}
    failed: list[str] = []

    def hold(_module: nn.Module, _inputs: object) -> None:
        if names[threading.get_ident()] == "first":
            if not second_is_inside.wait(WAIT_S):
                failed.append("the second pass did not start")
        else:
            second_is_inside.set()
            if not first_is_done.wait(WAIT_S):
                failed.append("the first pass did not end")

    hook = network.stem.register_forward_pre_hook(hold)
    found: dict[str, np.ndarray] = {}

    def embed(name: str) -> None:
        names[threading.get_ident()] = name
        found[name] = Embedder(network).embed(pictures)
        if name == "first":
            first_is_done.set()

    threads = [threading.Thread(target=embed, args=(name,)) for name in ("first", "second")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    hook.remove()
    assert not failed
    for name in ("first", "second"):
        np.testing.assert_array_equal(found[name], expected, err_msg=name)
    assert modes_of(network) == before
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


def test_training_while_embedding_stays_in_training_mode(network: OSNet) -> None:
    """Later embeddings use the changed weights."""
    embedder, picture = Embedder(network), make_picture(3)
    seen: list[bool] = []
    moved = network.stem.norm.running_mean.clone()

    def train_in_another_thread(module: nn.Module, _inputs: tuple[Tensor, ...]) -> None:
        seen.append(module.training)
        if len(seen) == 1:
            thread = threading.Thread(target=lambda: network(torch.rand(4, 3, 64, 32)))
            thread.start()
            thread.join()

    hook = network.conv5.register_forward_pre_hook(train_in_another_thread)
    before = embedder.embed(picture)
    hook.remove()
    assert seen == [False, True], "an embedding pass, and a training pass within it"
    assert not torch.equal(network.stem.norm.running_mean, moved)
    with torch.no_grad():
        network.embedding.linear.weight.mul_(torch.rand_like(network.embedding.linear.weight))
    assert np.abs(embedder.embed(picture) - before).max() > 1e-3


def test_in_eval_mode_copies_modules_and_shares_tensors(network: OSNet) -> None:
    before = modes_of(network)
    copy = in_eval_mode(network)
    assert type(copy) is OSNet
    assert not any(modes_of(copy))
    assert modes_of(network) == before
    assert [p.data_ptr() for p in copy.parameters()] == [p.data_ptr() for p in network.parameters()]
    assert len(list(copy.modules())) == len(list(network.modules()))


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float64])
def test_heads_run_in_the_number_format_of_their_network(kind: torch.dtype) -> None:
    torch.manual_seed(0)
    network = create_model("osnet_x0_25", num_classes=3)
    pixels = torch.randint(0, 256, (2, 3, 64, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    settings = {"preprocessing": Preprocessing(size_hw=(64, 32)), "classes": ("a", "b", "c")}
    expected = ClassPredictor(network, **settings).predict(pixels).probabilities  # type: ignore[arg-type]
    predictor = ClassPredictor(network.to(kind), **settings)  # type: ignore[arg-type]
    for found in (predictor.predict(pixels).probabilities, predictor.classify_bytes(pixels)):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=0.02)
