"""JPEGs that decode although they are damaged are detected; harmless extra bytes of encoders are not."""

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import make_picture, write_picture
from osnet import Embedder, Frame
from osnet.cli import main
from osnet.data import loading
from osnet.data.check import check_dataset, find_unreadable
from osnet.data.damage import find_damage
from osnet.data.folder import read_any
from osnet.data.loading import describe_damage, read_image, read_pixels
from osnet.errors import ImageWarning


@pytest.fixture(autouse=True)
def _plain_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run networks in plain PyTorch, because compiling a backend takes longer than the tests."""
    monkeypatch.setattr("osnet.embedding.embedder.make_backend", lambda *_args: None)


SETTINGS = (
    {"quality": 75}, {"quality": 95, "subsampling": 0}, {"quality": 80, "optimize": True},
    {"quality": 80, "progressive": True}, {"quality": 80, "restart_marker_blocks": 4},
)  # fmt: skip


def jpeg(seed: int, size_wh: tuple[int, int] = (128, 256), mode: str = "RGB", **options: object) -> bytes:
    """A JPEG with noise, so that it has many coefficients to decode."""
    grain = np.random.RandomState(seed).randint(-30, 31, (size_wh[1], size_wh[0], 3))
    pixels = np.clip(np.asarray(make_picture(seed, size_wh), np.int16) + grain, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def zeroed(content: bytes, at: float = 1 / 3, number: int = 60) -> bytes:
    start = int(len(content) * at)
    return content[:start] + bytes(number) + content[start + number :]


def readable(content: bytes) -> bool:
    try:
        Image.open(io.BytesIO(content)).load()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_zeroed_bytes_are_detected_at_any_position(settings: dict, fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if fast:
        pytest.importorskip("simplejpeg")
    else:
        monkeypatch.setattr(loading, "_simplejpeg", None)
        if "progressive" in settings:
            pytest.skip("without simplejpeg some damage is not detected")
    for seed in range(4):
        content = jpeg(seed, **settings)
        assert describe_damage(content) is None
        for at in (0.2, 1 / 3, 0.5, 0.8):
            damaged = zeroed(content, at)
            if readable(damaged):
                assert describe_damage(damaged), (seed, at)


@pytest.mark.parametrize("marker", [b"\xff\xd9", b"\xff\xdb", b"\xff\xda"])
@pytest.mark.parametrize("extra", [bytes(4), bytes(200), b"\x20" * 90, bytes(range(1, 17))])
def test_extra_bytes_before_a_marker_are_not_damage(marker: bytes, extra: bytes, tmp_path: Path) -> None:
    content = jpeg(1)
    at = content.rindex(marker)
    path = tmp_path / "a.jpg"
    path.write_bytes(content[:at] + extra + content[at:])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels = read_pixels(path)
    np.testing.assert_array_equal(pixels, np.array(Image.open(io.BytesIO(content))).transpose(2, 0, 1))
    assert describe_damage(path.read_bytes()) is None


def test_bytes_after_the_end_are_not_damage() -> None:
    content = jpeg(1)
    assert describe_damage(content + bytes(500)) is None
    assert describe_damage(content + b"trailer" * 90) is None


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("optimize", [True, False])
def test_flat_images_are_not_damage(mode: str, optimize: bool) -> None:
    """Their compressed data can contain runs of zeros."""
    for colour in ("white", "black", "grey"):
        buffer = io.BytesIO()
        picture = Image.new("RGB", (640, 480), colour)
        picture.paste("red", (200, 200, 230, 230))
        picture.convert(mode).save(buffer, "JPEG", optimize=optimize)
        assert describe_damage(buffer.getvalue()) is None, colour


def test_other_formats_and_truncated_files_are_not_checked() -> None:
    buffer = io.BytesIO()
    make_picture(1).save(buffer, "BMP")
    assert describe_damage(buffer.getvalue()) is None
    content = zeroed(jpeg(1))
    for length in range(0, len(content), 97):  # must end for any bytes
        find_damage(content[:length], "Corrupt JPEG data: 999 extraneous bytes before marker 0xd9")


def test_a_truncated_jpeg_with_an_end_marker_is_damaged() -> None:
    """Pillow decodes it without an error; the lower part is grey."""
    pytest.importorskip("simplejpeg")
    content = jpeg(2)
    assert describe_damage(content[: len(content) * 2 // 3] + b"\xff\xd9")


@pytest.mark.parametrize("kind", ["plain", "exif", "cmyk", "grey"])
def test_reading_warns_and_gives_pillows_pixels(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("simplejpeg")
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {"exif": exif} if kind == "exif" else {}
    content = jpeg(3, mode={"cmyk": "CMYK", "grey": "L"}.get(kind, "RGB"), **options)
    path = tmp_path / "a.jpg"
    path.write_bytes(zeroed(content, 0.5))
    with pytest.warns(ImageWarning, match=r"a\.jpg: .*damaged: "):
        pixels = read_pixels(path)
    np.testing.assert_array_equal(pixels, np.array(read_image(path)).transpose(2, 0, 1))


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """A data set with a train split of two people, one image damaged."""
    root = tmp_path / "d"
    for pid in (1, 2):
        for camid in (1, 2):
            (root / str(pid) / str(camid)).mkdir(parents=True)
            (root / str(pid) / str(camid) / "x.jpg").write_bytes(jpeg(10 * pid + camid))
    (root / "1" / "1" / "bad.jpg").write_bytes(zeroed(jpeg(7)))
    return root


def test_data_check_names_damaged_images(damaged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = read_any(damaged)
    report = check_dataset(dataset)
    (problem,) = (problem for problem in report.problems if problem.kind == "damaged")
    assert problem.severity == "breaks"
    assert len(problem.names) == 1
    assert "bad.jpg" in problem.names[0]
    assert [Path(text.split(" (")[0]).name for text in find_unreadable(dataset.train.crops)] == ["bad.jpg"]
    with pytest.raises(SystemExit) as caught:
        main(["data", "check", str(damaged)])
    assert caught.value.code == 1
    assert "bad.jpg" in capsys.readouterr().out


def test_data_check_without_simplejpeg_reports_less_checking(damaged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "_simplejpeg", None)
    kinds = {problem.kind for problem in check_dataset(read_any(damaged)).problems}
    assert {"not checked", "damaged"} <= kinds


@pytest.mark.parametrize("command", ["embed", "index"])
def test_commands_warn_once_about_a_damaged_image(
    command: str, damaged: Path, tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / ("v.npz" if command == "embed" else "g")
    main([command, str(damaged), "--out", str(out), "--weights", str(tiny_weights)])
    err = capsys.readouterr().err
    assert err.count("bad.jpg") == 1
    assert "x.jpg" not in err
    assert out.exists()


def test_commands_limit_the_number_of_warnings(
    tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "p").mkdir()
    for n in range(14):
        (tmp_path / "p" / f"{n}.jpg").write_bytes(zeroed(jpeg(7)))
    main(["embed", str(tmp_path / "p"), "--out", str(tmp_path / "v.npz"), "--weights", str(tiny_weights)])
    err = capsys.readouterr().err
    assert err.count("is damaged: ") == 10
    assert "4 more" in err


def test_embedding_a_damaged_image_warns(tiny_weights: Path, tmp_path: Path) -> None:
    embedder = Embedder(tiny_weights)
    path = tmp_path / "bad.jpg"
    path.write_bytes(zeroed(jpeg(7)))
    for inputs in (path, Frame(path, [[0, 0, 60, 120]])):
        with pytest.warns(ImageWarning, match=r"bad\.jpg"):
            assert embedder.embed(inputs).shape == (1, 512)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        embedder.embed(write_picture(tmp_path / "good.jpg", 1))
