"""The embedder: kinds of input, bad input, order, batching, settings, and agreement with an independent export."""

import copy
import itertools
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import make_picture, write_picture
from osnet import Embedder, Frame, OSNet, OSNetConfig
from osnet.data.loading import MAX_PIXELS, read_image
from osnet.errors import DataError, EmbeddingError, ImageError, ModelError, WeightsError
from osnet.types import Preprocessing
from osnet.weights.card import Card
from osnet.weights.checkpoint import save_weights


@pytest.fixture(scope="module")
def embedder(tiny_weights: Path) -> Embedder:
    return Embedder(tiny_weights, batch_size=4, num_workers=2)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("photos")
    return [write_picture(folder / f"{n:02d}.png", n) for n in range(10)]


def embed_by_hand(network: OSNet, picture: Image.Image) -> np.ndarray:
    """The definition: Pillow's bilinear resize, fractions, ImageNet mean and std, the network."""
    array = np.asarray(picture.convert("RGB").resize((128, 256), Image.Resampling.BILINEAR), dtype=np.float32) / 255
    array = (array - np.float32([0.485, 0.456, 0.406])) / np.float32([0.229, 0.224, 0.225])
    with torch.no_grad():
        return network(torch.from_numpy(array.transpose(2, 0, 1))[None])[0].numpy()


def test_one_photo_by_hand(embedder: Embedder, photos: list[Path], tiny_network: OSNet) -> None:
    expected = embed_by_hand(tiny_network, Image.open(photos[3]))
    raw = Embedder(tiny_network, normalize=False).embed(photos[3])
    np.testing.assert_allclose(raw[0], expected, atol=1e-4)
    unit = embedder.embed(photos[3])
    assert unit.shape == (1, 512)
    assert unit.dtype == np.float32
    np.testing.assert_allclose(unit[0], expected / np.linalg.norm(expected), atol=1e-5)


def test_all_kinds_of_input_give_the_same_vectors(embedder: Embedder, photos: list[Path]) -> None:
    expected = embedder.embed(photos)
    np.testing.assert_allclose(np.linalg.norm(expected, axis=1), 1, atol=1e-5)
    pictures = [read_image(path) for path in photos]
    arrays = [np.array(picture) for picture in pictures]
    tensors = [torch.from_numpy(array).permute(2, 0, 1) for array in arrays]
    frames = [Frame(array, [[0, 0, 64, 128]]) for array in arrays]
    kinds = {
        "strings": [str(path) for path in photos],
        "folder": photos[0].parent,
        "folder in a list": [photos[0].parent],
        "pillow": pictures,
        "arrays": arrays,
        "one array": np.stack(arrays),
        "tensors": tensors,
        "one tensor": torch.stack(tensors),
        "generator": (path for path in photos),
        "frames": frames,
        "mixed": [photos[0], pictures[1], arrays[2], tensors[3], frames[4], *map(str, photos[5:])],
    }
    for kind, inputs in kinds.items():
        np.testing.assert_allclose(embedder.embed(inputs), expected, atol=1e-5, err_msg=kind)
    bgr = [array[..., ::-1] for array in arrays]
    np.testing.assert_allclose(embedder.embed(bgr, channels="bgr"), expected, atol=1e-5)
    np.testing.assert_allclose(embedder.embed([t.flip(0) for t in tensors], channels="bgr"), expected, atol=1e-5)
    np.testing.assert_allclose(embedder.embed(photos, channels="bgr"), expected, atol=1e-5, err_msg="files are RGB")
    assert np.abs(embedder.embed(bgr) - expected).max() > 0.01, "the channel order matters"


def test_float_tensors_are_fractions(embedder: Embedder, photos: list[Path]) -> None:
    """Float tensors are resized without Pillow's rounding to 1/255, so nearly equal; without resizing, equal."""
    array = np.array(read_image(photos[0]))
    fractions = torch.from_numpy(array).permute(2, 0, 1) / 255
    assert float(embedder.embed(fractions)[0] @ embedder.embed(photos[0])[0]) > 0.9999
    full = np.array(read_image(photos[0]).resize((128, 256), Image.Resampling.BILINEAR))
    np.testing.assert_allclose(
        embedder.embed(torch.from_numpy(full).permute(2, 0, 1) / 255), embedder.embed(photos[0]), atol=1e-5
    )


def test_boxes_of_a_frame(embedder: Embedder, tmp_path: Path) -> None:
    picture = make_picture(5, (300, 200))
    array = np.array(picture)
    boxes = np.array([[10, 20, 74, 148], [200.9, 50.2, 400, 250]])
    expected = embedder.embed([picture.crop((10, 20, 74, 148)), picture.crop((200, 50, 300, 200))])
    path = tmp_path / "frame.png"
    picture.save(path)
    for image in (array, picture, str(path), torch.from_numpy(array).permute(2, 0, 1)):
        np.testing.assert_allclose(embedder.embed(Frame(image, boxes)), expected, atol=1e-6)
    np.testing.assert_allclose(embedder.embed(Frame(array[..., ::-1], boxes), channels="bgr"), expected, atol=1e-6)
    result = embedder.embed_named([Frame(path, boxes), Frame(array, boxes[:1], name="cam3")])
    assert result.names == [f"{path} box 0", f"{path} box 1", "cam3 box 0"]
    assert embedder.embed(Frame(array, [])).shape == (0, 512)
    assert embedder.embed(Frame(array, torch.tensor(boxes))).shape == (2, 512)


def test_order_and_batch_size_do_not_matter(tiny_weights: Path, photos: list[Path]) -> None:
    expected = np.concatenate([Embedder(tiny_weights, batch_size=1).embed(path) for path in photos])
    for batch_size in (1, 3, 10, 64):
        embedder = Embedder(tiny_weights, batch_size=batch_size)
        sizes = [len(batch) for batch in embedder.stream(photos)]
        assert sizes == [min(batch_size, 10 - start) for start in range(0, 10, batch_size)]
        np.testing.assert_allclose(embedder.embed(photos), expected, atol=1e-5)


def test_names_and_empty_input(embedder: Embedder, photos: list[Path]) -> None:
    assert embedder.embed([]).shape == (0, 512)
    assert embedder.embed_named(photos[:2]).names == [str(path) for path in photos[:2]]
    assert embedder.embed_named([np.zeros((9, 9, 3), np.uint8)]).names == ["input 0"]
    assert list(embedder.stream([])) == []


def test_stream_reads_at_most_two_batches_ahead(embedder: Embedder) -> None:
    """Of an endless input, at most k + 2 batches are requested when batch k is returned."""
    requested = 0

    def endless() -> Iterator[np.ndarray]:
        nonlocal requested
        for _ in itertools.count():
            requested += 1
            yield np.full((8, 4, 3), requested % 256, np.uint8)

    stream = embedder.stream(endless())
    for k in range(1, 6):
        batch = next(stream)
        assert len(batch) == 4
        assert requested <= 4 * (k + 2)
    stream.close()


def test_threads_are_started_once_and_only_for_many_crops(tiny_weights: Path) -> None:
    embedder = Embedder(tiny_weights, num_workers=2, backend="torch")

    def readers() -> set[int | None]:
        return {thread.ident for thread in threading.enumerate() if thread.name.startswith("osnet-read")} - before

    before = {thread.ident for thread in threading.enumerate()}
    frame = np.zeros((64, 64, 3), np.uint8)
    first = embedder.embed(Frame(frame, [[0, 0, 20, 40]] * 3))
    assert not readers()
    embedder.embed(Frame(frame, [[0, 0, 20, 40]] * 40))
    started = readers()
    assert 1 <= len(started) <= 2
    again = embedder.embed(Frame(frame, [[0, 0, 20, 40]] * 60))
    np.testing.assert_allclose(again[:3], first, rtol=0, atol=1e-5)
    assert started <= readers()
    assert len(readers()) <= 2


def test_input_arrays_may_be_overwritten_after_they_are_yielded(embedder: Embedder) -> None:
    """Video readers reuse one array for all frames."""
    pictures = [np.array(make_picture(n)) for n in range(6)]
    fractions = [torch.from_numpy(p).permute(2, 0, 1) / 255 for p in pictures]

    def reusing(originals: list) -> Iterator:
        buffer = originals[0].clone() if isinstance(originals[0], torch.Tensor) else originals[0].copy()
        for original in originals:
            buffer[...] = original
            yield buffer

    np.testing.assert_array_equal(embedder.embed(reusing(pictures)), embedder.embed(pictures))
    np.testing.assert_array_equal(embedder.embed(reusing(fractions)), embedder.embed(fractions))


def test_pillow_images_may_be_closed_or_reused_after_they_are_yielded(embedder: Embedder, photos: list[Path]) -> None:
    def closing() -> Iterator[Image.Image]:
        for path in photos:
            with Image.open(path) as picture:
                yield picture

    def reusing() -> Iterator[Image.Image]:
        buffer = Image.new("RGB", (64, 128))
        for path in photos:
            buffer.paste(Image.open(path))
            yield buffer

    expected = embedder.embed(photos)
    np.testing.assert_allclose(embedder.embed(closing()), expected, atol=1e-6)
    np.testing.assert_allclose(embedder.embed(reusing()), expected, atol=1e-6)
    closed = Image.open(photos[0])
    closed.close()
    with pytest.raises(EmbeddingError, match="cannot be decoded"):
        embedder.embed(closed)


# Bad input


def png_header(width: int, height: int) -> bytes:
    """The beginning of an RGB PNG of that size."""
    chunk = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    data = b"IDAT" + zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        (len(part) - 4).to_bytes(4, "big") + part + zlib.crc32(part).to_bytes(4, "big") for part in (chunk, data)
    )


def bad_files(folder: Path) -> dict[str, tuple[Path, str]]:
    """Bad files, each with words of its error."""
    good = write_picture(folder / "good.jpg", 1, (200, 300))
    folder.joinpath("truncated.jpg").write_bytes(good.read_bytes()[:-3000])
    folder.joinpath("text.jpg").write_text("not an image")
    folder.joinpath("empty.png").write_bytes(b"")
    header = b"BM" + bytes([0] * 8) + (54).to_bytes(4, "little") + (40).to_bytes(4, "little")
    header += (50_000).to_bytes(4, "little") * 2 + (1).to_bytes(2, "little") + (24).to_bytes(2, "little") + bytes(24)
    folder.joinpath("bomb.bmp").write_bytes(header)
    folder.joinpath("bomb.png").write_bytes(png_header(50_000, 50_000))
    Image.new("I;16", (8, 8)).save(folder / "deep.png")
    Image.new("RGB", (8, 8)).save(folder / "other.pcx")
    (folder / "other.pcx").rename(folder / "pcx.jpg")
    return {
        "truncated": (folder / "truncated.jpg", "truncated"),
        "text": (folder / "text.jpg", "not an image"),
        "empty": (folder / "empty.png", "not an image"),
        "2.5 billion pixels, BMP": (folder / "bomb.bmp", "pixels allowed"),
        "2.5 billion pixels, PNG": (folder / "bomb.png", "pixels allowed"),
        "16 bits": (folder / "deep.png", "8 bits per channel"),
        "a format that is not allowed": (folder / "pcx.jpg", "not an image"),
        "missing": (folder / "gone.jpg", "no such file"),
        "a device": (Path("/dev/zero"), "not a regular file"),
    }


def test_bad_files_are_named_and_the_others_embedded(embedder: Embedder, photos: list[Path], tmp_path: Path) -> None:
    expected = embedder.embed(photos[:6])
    for kind, (bad, words) in bad_files(tmp_path).items():
        inputs = [*photos[:5], bad, photos[5]]
        with pytest.raises(EmbeddingError) as caught:
            embedder.embed(inputs)
        assert str(bad) in str(caught.value), kind
        assert words in str(caught.value), kind
        np.testing.assert_allclose(caught.value.done.vectors, expected[:5], atol=1e-6, err_msg=kind)
        result = embedder.embed_named(inputs, on_error="skip")
        np.testing.assert_allclose(result.vectors, expected, atol=1e-6, err_msg=kind)
        assert [failure.name for failure in result.failures] == [str(bad)], kind
        with pytest.warns(UserWarning, match="1 input"):
            rows = embedder.embed(inputs, on_error="skip")
        assert np.isnan(rows).all(1).tolist() == [False] * 5 + [True, False]


ARRAY = np.zeros((40, 30, 3), np.uint8)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (Frame(ARRAY, [[5, 5, 5, 20]]), "covers no pixel of the 30 x 40"),
        (Frame(ARRAY, [[100, 5, 120, 20]]), "covers no pixel"),
        (Frame(ARRAY, [[20, 5, 10, 20]]), "covers no pixel"),
        (Frame(ARRAY, [[0, 0, float("nan"), 20]]), "not finite"),
        (Frame(ARRAY, [[0, 0, 10]]), "boxes of shape (1, 3)"),
        (Frame(ARRAY, "left"), "boxes that are not numbers"),
        (Frame(ARRAY.astype(np.float32), [[0, 0, 5, 5]]), "float32"),
        (np.zeros((40, 30), np.uint8), "(40, 30)"),
        (np.zeros((40, 30, 4), np.uint8), "(40, 30, 4)"),
        (np.zeros((0, 30, 3), np.uint8), "30 x 0"),
        (torch.zeros(40, 30, 3), "(40, 30, 3)"),
        (torch.full((3, 8, 8), 2.0), "outside [0, 1]"),
        (torch.full((3, 8, 8), float("nan")), "outside [0, 1]"),
        (torch.zeros(3, 8, 8, dtype=torch.int64), "int64"),
        (None, "NoneType"),
        (3, "int"),
        (b"bytes", "bytes"),
        ({"a": 1}, "dict"),
    ],
)
def test_bad_inputs_are_named_and_the_others_embedded(embedder: Embedder, bad: object, words: str) -> None:
    good = np.full((40, 30, 3), 90, np.uint8)
    with pytest.raises(EmbeddingError) as caught:
        embedder.embed([good, bad])
    assert "input 1" in str(caught.value)
    assert words in str(caught.value)
    assert len(caught.value.done) == 1
    assert len(embedder.embed_named([good, bad, good], on_error="skip")) == 2


def test_only_the_bad_box_of_a_frame_is_skipped(embedder: Embedder) -> None:
    frame = Frame(np.array(make_picture(1)), [[0, 0, 20, 40], [9, 9, 9, 9], [5, 5, 60, 90]], name="f")
    result = embedder.embed_named(frame, on_error="skip")
    assert result.names == ["f box 0", "f box 2"]
    assert [failure.name for failure in result.failures] == ["f box 1"]


def test_folders(embedder: Embedder, tmp_path: Path) -> None:
    with pytest.raises(EmbeddingError, match="without images"):
        embedder.embed(tmp_path)
    with pytest.raises(EmbeddingError, match="no such file"):
        embedder.embed(tmp_path / "gone")
    write_picture(tmp_path / "b" / "2.png", 2)
    write_picture(tmp_path / "a.png", 1)
    write_picture(tmp_path / ".hidden" / "3.png", 3)
    assert embedder.embed_named(tmp_path).names == [str(tmp_path / "a.png"), str(tmp_path / "b" / "2.png")]


def test_inputs_before_an_exception_are_embedded(embedder: Embedder, photos: list[Path]) -> None:
    def breaking() -> Iterator[Path]:
        yield from photos[:6]
        raise ConnectionError("camera gone")

    names: list[str] = []
    stream = embedder.stream(breaking())
    with pytest.raises(ConnectionError, match="camera gone"):
        names.extend(itertools.chain.from_iterable(batch.names for batch in stream))
    assert names == [str(path) for path in photos[:6]]


def test_zero_embeddings_are_an_error(photos: list[Path]) -> None:
    network = OSNet(OSNetConfig(width=0.25))
    torch.nn.init.constant_(network.embedding.norm.bias, -100)  # the last ReLU then gives zeros
    with pytest.raises(EmbeddingError, match="zero or not finite"):
        Embedder(network).embed(photos[0])


# Settings


def test_embedding_does_not_change_the_network(photos: list[Path]) -> None:
    network = OSNet(OSNetConfig(width=0.25)).train()
    network.conv2.eval()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    Embedder(network).embed(photos[:3])
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


def test_preprocessing_comes_from_the_card(tiny_network: OSNet, photos: list[Path], tmp_path: Path) -> None:
    other = Preprocessing(
        size_hw=(64, 32), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), interpolation="bicubic", channel_order="bgr"
    )
    save_weights(tiny_network, tmp_path / "w", Card(tiny_network.config, preprocessing=other))
    picture = Image.open(photos[0]).convert("RGB").resize((32, 64), Image.Resampling.BICUBIC)
    bgr = torch.from_numpy(np.array(picture)[..., ::-1].copy()).permute(2, 0, 1).float() / 255
    with torch.no_grad():
        expected = tiny_network((bgr[None] - 0.5) / 0.5).numpy()
    got = Embedder(tmp_path / "w", normalize=False).embed(photos[0])
    np.testing.assert_allclose(got, expected, atol=1e-4)


def test_an_empty_path_is_not_the_current_folder(
    embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_picture(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    assert embedder.embed(".").shape == (1, 512)
    with pytest.raises(EmbeddingError, match="input 1"):
        embedder.embed([".", ""])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"batch_size": 0}, "batch_size 0"),
        ({"batch_size": 2.5}, "batch_size 2.5"),  # no batch would ever be full
        ({"num_workers": 0}, "num_workers 0"),
        ({"num_threads": 0}, "num_threads 0"),
        ({"device": "gpu9"}, "'gpu9'"),
        ({"device": "cuda:77"}, "'cuda:77'"),
    ],
)
def test_invalid_settings_are_refused(tiny_network: OSNet, arguments: dict, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        Embedder(tiny_network, **arguments)


def test_invalid_arguments_are_refused(embedder: Embedder, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="'ignore'"):
        embedder.embed([], on_error="ignore")
    with pytest.raises(ModelError, match="'hsv'"):
        embedder.embed([], channels="hsv")
    with pytest.raises(WeightsError, match="gone"):
        Embedder(tmp_path / "gone.pth")


def test_images_are_read_as_a_viewer_shows_them(tmp_path: Path) -> None:
    """EXIF orientation, transparency, grey and palette."""
    picture = make_picture(2, (20, 40))
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees clockwise
    picture.rotate(90, expand=True).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(np.array(read_image(tmp_path / "turned.png")), np.array(picture))
    for mode in ("RGBA", "L", "P", "CMYK"):
        suffix = "jpg" if mode == "CMYK" else "png"
        picture.convert(mode).save(tmp_path / f"{mode}.{suffix}")
        assert read_image(tmp_path / f"{mode}.{suffix}").mode == "RGB"


def test_the_pixel_limit_is_exact(tmp_path: Path) -> None:
    path = write_picture(tmp_path / "a.png", 1, (50, 40))
    assert read_image(path, max_pixels=2000).size == (50, 40)
    with pytest.raises(ImageError, match="50 x 40 is more than the 1,999"):
        read_image(path, max_pixels=1999)
    assert MAX_PIXELS == 64_000_000
    with pytest.raises(DataError):
        list(__import__("osnet.data.loading", fromlist=["list_files"]).list_files(tmp_path / "gone"))


# Real weights, against a third party's export


@pytest.fixture(scope="module")
def exported(msmt17_onnx: Path, people_mini: Path) -> np.ndarray:
    """The export's vectors of all 396 crops."""
    onnxruntime = pytest.importorskip("onnxruntime")
    files = sorted(people_mini.rglob("*.jpg"))
    session = onnxruntime.InferenceSession(str(msmt17_onnx), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    mean, std = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])

    def prepare(file: Path) -> np.ndarray:
        picture = Image.open(file).convert("RGB").resize((128, 256), Image.Resampling.BILINEAR)
        return ((np.asarray(picture, dtype=np.float32) / 255 - mean) / std).transpose(2, 0, 1)

    batches = [np.stack([prepare(f) for f in files[i : i + 32]]) for i in range(0, 396, 32)]
    return np.concatenate([session.run(None, {name: batch})[0] for batch in batches])


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_real_weights_agree_with_an_independent_export(
    msmt17_pth: Path, exported: np.ndarray, people_mini: Path, batch_size: int, record_property
) -> None:
    """All 396 crops, from the JPEG file to the vector before normalisation, within 1e-4."""
    files = sorted(people_mini.rglob("*.jpg"))
    got = Embedder(msmt17_pth, batch_size=batch_size, normalize=False).embed(files)
    largest = float(np.abs(got - exported).max())
    record_property("largest_difference", largest)
    assert got.shape == (396, 512)
    assert largest <= 1e-4


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_a_network_of_another_number_format_embeds(tiny_network: OSNet, kind: torch.dtype) -> None:
    picture = np.asarray(make_picture(3))
    expected = Embedder(tiny_network, backend="torch").embed(picture)
    found = Embedder(copy.deepcopy(tiny_network).to(kind)).embed(picture)
    assert found.dtype == np.float32
    assert float((found * expected).sum()) > 0.99
