"""Image formats: which files are images, how others are reported, transparency, and bad files."""

import io
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features
from PIL.PngImagePlugin import PngInfo

from conftest import make_picture, write_picture
from osnet import Embedder, Frame
from osnet.cli import main
from osnet.data.check import check_dataset
from osnet.data.folder import FolderLayout, read_any, read_dataset
from osnet.data.loading import (
    FORMATS,
    IMAGE_SUFFIXES,
    decode_image,
    describe_others,
    list_images,
    list_other_files,
    own_rgb,
    read_image,
    read_pixels,
)
from osnet.embedding.embedder import Embeddings
from osnet.errors import DataError, EmbeddingError, ImageError, ImageWarning
from osnet.features.embedding_files import read_vectors
from osnet.photos.image_folder import read_photo_folder

HEIC = struct.pack(">I", 24) + b"ftypheic\0\0\0\0mif1heic" + bytes(100)
KINDS = {
    "a.jfif": "JPEG", "b.tif": "TIFF", "c.gif": "GIF", "d.pgm": "PPM", "e": "JPEG", "f.TIFF": "TIFF", "g.pbm": "PPM",
    "h.dat": "PNG", "i.webp": "WEBP", "j.bmp": "BMP", "k.jpe": "JPEG", "l": "GIF", "m.bin": "BMP", "n": "TIFF",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _plain_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run networks in plain PyTorch, because compiling a backend takes longer than the tests."""
    monkeypatch.setattr("osnet.embedding.embedder.make_backend", lambda *_args: None)


@pytest.fixture(scope="module")
def embedder(tiny_weights: Path) -> Embedder:
    return Embedder(tiny_weights, batch_size=4)


def all_kinds(folder: Path) -> list[Path]:
    folder.mkdir(parents=True)
    kinds = KINDS | ({"z.avif": "AVIF", "z": "AVIF"} if features.check("avif") else {})
    for n, (name, form) in enumerate(kinds.items()):
        picture = make_picture(n)
        {"d.pgm": picture.convert("L"), "g.pbm": picture.convert("1")}.get(name, picture).save(folder / name, form)
    return sorted(folder / name for name in kinds)


def write_other_files(folder: Path) -> list[str]:
    """Write files that are not images; returns them in the order in which they are listed."""
    (folder / "phone.heic").write_bytes(HEIC)
    (folder / "renamed").write_bytes(HEIC)
    (folder / "camera.nef").write_bytes(b"II*\0" + bytes(60))
    (folder / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0" + bytes(60))
    (folder / "notes.txt").write_text("BMP and P5 in a text, not a format")
    (folder / "labels.csv").write_text("path,identity\n")
    (folder / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (folder / "empty").write_bytes(b"")
    (folder / "lost").symlink_to(folder / "nowhere")
    (folder / ".thumbs").mkdir()
    write_picture(folder / ".thumbs" / "1.png")
    names = (".DS_Store", ".thumbs", "Thumbs.db", "camera.nef", "empty", "labels.csv", "lost", "notes.txt",
             "phone.heic", "renamed")  # fmt: skip
    return [str(folder / name) for name in names]


def test_images_are_recognised_by_content(tmp_path: Path) -> None:
    expected = all_kinds(tmp_path / "p")
    rest = write_other_files(tmp_path / "p")
    assert list(list_images(tmp_path / "p")) == expected
    assert list(list_other_files(tmp_path / "p")) == rest
    for path in expected:
        assert read_pixels(path).shape == (3, 128, 64), path.name
        assert read_image(path).mode == "RGB"
    text = describe_others(rest)
    assert text.startswith("10 file(s)")
    for name in rest:
        assert name in text
    assert text.count("save it as JPEG") == 3  # HEIC, HEIC by content, raw


def test_at_most_ten_other_files_are_named_images_first() -> None:
    text = describe_others([f"{n:02}.txt" for n in range(30)] + ["z.heic"])
    assert text.startswith("31 file(s)")
    assert "z.heic (HEIC" in text
    assert "08.txt" in text
    assert "09.txt" not in text
    assert "(21 more)" in text


def test_decoders_are_safe_and_read_the_first_frame(tmp_path: Path) -> None:
    assert set(FORMATS) <= {"JPEG", "PNG", "BMP", "PPM", "TIFF", "GIF", "WEBP", "AVIF"}
    (tmp_path / "a.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    with pytest.raises(ImageError) as caught:
        read_image(tmp_path / "a.jpg")
    for form in FORMATS:
        assert form in str(caught.value)
    first, second = make_picture(1).quantize(), make_picture(2).quantize()
    first.save(tmp_path / "two.gif", save_all=True, append_images=[second])
    np.testing.assert_array_equal(np.array(read_image(tmp_path / "two.gif")), np.array(first.convert("RGB")))
    (tmp_path / "b.jpg").write_bytes(HEIC)
    with pytest.raises(ImageError, match=r"HEIC.*JPEG"):
        read_pixels(tmp_path / "b.jpg")


def test_limits_hold_for_every_format(tmp_path: Path) -> None:
    for name in ("a.tif", "a.gif", "a.pgm"):
        make_picture(1).convert("L").save(tmp_path / name)
        with pytest.raises(ImageError, match="64 x 128 is more than the 8,000"):
            read_pixels(tmp_path / name, max_pixels=8000)
    Image.fromarray(np.full((4, 4), 1000, np.uint16)).save(tmp_path / "deep.tif")
    with pytest.raises(ImageError, match="8 bits per channel"):
        read_pixels(tmp_path / "deep.tif")


def test_tiff_orientation_is_applied_once(tmp_path: Path) -> None:
    picture = make_picture(2, (20, 40))
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.rotate(90, expand=True).save(tmp_path / "turned.tif", exif=exif)
    np.testing.assert_array_equal(np.array(read_image(tmp_path / "turned.tif")), np.array(picture))


def test_embed_and_index_report_other_files(
    tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = all_kinds(tmp_path / "p")
    rest = write_other_files(tmp_path / "p")
    weights = ["--weights", str(tiny_weights)]
    main(["embed", str(tmp_path / "p"), "--out", str(tmp_path / "v.npz"), *weights])
    embedded = capsys.readouterr().err
    assert read_vectors(tmp_path / "v.npz")[0].names == [str(path) for path in paths]
    main(["index", str(tmp_path / "p"), "--out", str(tmp_path / "g"), *weights])
    for err in (embedded, capsys.readouterr().err):
        assert "10 file(s)" in err
        assert all(name in err for name in rest)


@pytest.mark.parametrize("command", ["embed", "index"])
def test_a_folder_without_images_names_the_formats(
    command: str, tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "a.heic").write_bytes(HEIC)
    with pytest.raises(SystemExit) as caught:
        main([command, str(tmp_path / "p"), "--out", str(tmp_path / "v.npz"), "--weights", str(tiny_weights)])
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert "a.heic" in err
    for form in FORMATS:
        assert form in err


def test_the_library_reports_other_files(embedder: Embedder, tmp_path: Path) -> None:
    write_picture(tmp_path / "p" / "a.png")
    (tmp_path / "p" / "a.heic").write_bytes(HEIC)
    with pytest.warns(ImageWarning, match=r"1 file.*a\.heic"):
        assert embedder.embed(tmp_path / "p").shape == (1, 512)
    (tmp_path / "p" / "a.png").unlink()
    with pytest.raises(EmbeddingError, match=r"TIFF.*a\.heic"):
        embedder.embed(tmp_path / "p")
    write_picture(tmp_path / "zoo" / "cat" / "1.gif")
    assert len(read_photo_folder(tmp_path / "zoo")) == 1


def test_data_sets_read_every_format_and_name_other_files(market: Path, tmp_path: Path) -> None:
    make_picture(1).save(market / "query" / "0001_c1s1_000077_00.tif")
    (market / "query" / ".hidden").write_bytes(b"")
    (market / "query" / "0001_c1s1_000078_00.heic").write_bytes(HEIC)
    with pytest.warns(ImageWarning, match=r"000078_00\.heic"):
        data = read_dataset(market)
    assert len(data.query) == 4
    report = str(check_dataset(data))
    for name in ("Thumbs.db", ".hidden", "000078_00.heic (HEIC"):
        assert name in report
    write_picture(tmp_path / "own" / "query" / "ann" / "1.gif")
    write_picture(tmp_path / "own" / "gallery" / "ann" / "2.png")
    (tmp_path / "own" / "gallery" / "x.txt").write_text("x")
    own = read_dataset(tmp_path / "own")
    assert [Path(name).name for name in own.other_files] == ["x.txt"]
    (tmp_path / "own" / "t.csv").write_text("path,identity,split\nquery/ann/1.gif,ann,query\n")
    listed = read_any(tmp_path / "own", FolderLayout(csv=tmp_path / "own" / "t.csv"))
    assert [Path(name).name for name in listed.other_files] == ["x.txt"]  # not the table itself


def test_every_image_suffix_can_be_read(tmp_path: Path) -> None:
    """A suffix that belongs to a format outside FORMATS would be listed and then refused."""
    for suffix in IMAGE_SUFFIXES:
        if suffix == ".avif" and not features.check("avif"):
            continue
        path = tmp_path / f"a{suffix}"
        make_picture(0).convert("1" if suffix == ".pbm" else "L" if suffix == ".pgm" else "RGB").save(path)
        assert read_image(path).size == (64, 128), suffix


# Transparency


def cut_out(hidden: int, alpha: np.ndarray) -> Image.Image:
    """An image with this alpha channel, and a random colour where it is transparent."""
    pixels = np.array(make_picture(5))
    pixels[alpha == 0] = np.random.RandomState(hidden).randint(0, 256, 3)
    return Image.fromarray(np.dstack([pixels, alpha]))


def test_colours_under_transparency_are_ignored(embedder: Embedder, tmp_path: Path) -> None:
    alpha = np.zeros((128, 64), np.uint8)
    alpha[20:100, 10:50] = 255
    alpha[100:110, 10:50] = 51
    one, other = cut_out(1, alpha), cut_out(2, alpha)
    pixels = np.array(make_picture(5)).astype(float)
    share = alpha[..., None] / 255
    expected = pixels * share + 255 * (1 - share)
    for name, form in (("a.png", "PNG"), ("a.webp", "WEBP"), ("a.tif", "TIFF")):
        options = {"lossless": True, "exact": True} if form == "WEBP" else {}
        for number, picture in enumerate((one, other)):
            picture.save(tmp_path / f"{number}{name}", form, **options)
            read = np.array(read_image(tmp_path / f"{number}{name}"))
            assert np.abs(read - expected).max() <= 1, name
            np.testing.assert_array_equal(read, np.array(own_rgb(picture, "")))
    rows = embedder.embed([tmp_path / "0a.png", tmp_path / "1a.png", one, other])
    np.testing.assert_allclose(rows, np.broadcast_to(rows[0], rows.shape), atol=1e-6)
    frames = embedder.embed([Frame(tmp_path / f"{n}a.png", [[0, 0, 64, 128]]) for n in (0, 1)])
    np.testing.assert_allclose(frames, rows[:2], atol=1e-6)


@pytest.mark.parametrize("mode", ["P", "RGB", "L", "LA", "PA", "La", "RGBa", "1"])
def test_transparent_pixels_become_white_in_every_mode(mode: str, tmp_path: Path) -> None:
    """The left half is transparent black, the right half grey."""
    colour = np.full((8, 8, 4), [90, 90, 90, 255], np.uint8)
    colour[:, :4] = 0
    rgba = Image.fromarray(colour)
    if mode in ("LA", "La"):
        picture = rgba.convert("LA").convert(mode)
    elif mode == "RGBa":
        picture = rgba.convert(mode)
    elif mode == "PA":
        picture = rgba.convert("RGB").convert("L").convert("P").convert("PA")
        picture.putalpha(rgba.getchannel("A"))
    else:
        picture = rgba.convert("RGB")
        picture = picture.quantize() if mode == "P" else picture.convert("L" if mode == "1" else mode)
        if mode == "1":
            picture = picture.point(lambda value: 255 if value else 0).convert("1")
        picture.info["transparency"] = (0, 0, 0) if mode == "RGB" else picture.getpixel((0, 0))
    seen = np.array(own_rgb(picture, ""))
    assert (seen[:, :4] == 255).all()
    assert (seen[:, 4:] == (255 if mode == "1" else 90)).all()
    if mode in ("P", "RGB", "L"):
        picture.save(tmp_path / "a.png")
        np.testing.assert_array_equal(np.array(read_image(tmp_path / "a.png")), seen)


def test_an_opaque_picture_keeps_its_pixels(tmp_path: Path) -> None:
    picture = make_picture(3)
    picture.convert("RGBA").save(tmp_path / "a.png")
    np.testing.assert_array_equal(np.array(read_image(tmp_path / "a.png")), np.array(picture))


# Bad files


@pytest.fixture
def with_bad_files(tmp_path: Path) -> Path:
    """A data set for evaluation, with a broken link, an empty file and a text file among its gallery images."""
    for pid in (1, 2):
        write_picture(tmp_path / "d" / "query" / str(pid) / "a" / "1.png", pid)
        write_picture(tmp_path / "d" / "gallery" / str(pid) / "b" / "2.png", 10 + pid)
    bad = tmp_path / "d" / "gallery" / "1" / "b"
    (bad / "broken.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (bad / "empty.png").write_bytes(b"")
    (bad / "text.jpg").write_text("not an image")
    return tmp_path / "d"


BAD = ("broken.jpg", "empty.png", "text.jpg")


def test_commands_skip_bad_files_alike(
    with_bad_files: Path, tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = ["--weights", str(tiny_weights)]
    commands = {
        "embed": ["embed", str(with_bad_files), "--out", str(tmp_path / "v.npz"), *weights],
        "index": ["index", str(with_bad_files), "--out", str(tmp_path / "g"), *weights],
        "evaluate": ["evaluate", "--data", str(with_bad_files), "--out", str(tmp_path / "e.json"), *weights],
    }
    for name, words in commands.items():
        with pytest.raises(SystemExit) as stopped:
            main(words)
        assert stopped.value.code == 2, name
        assert "broken.jpg: a broken link" in capsys.readouterr().err, name
        with pytest.raises(SystemExit) as skipped:
            main([*words, "--on-error", "skip"])
        assert skipped.value.code == 1, name
        err = capsys.readouterr().err
        assert "3 left out" in err, name
        assert all(bad in err for bad in BAD), name
    assert len(read_vectors(tmp_path / "v.npz")[0]) == 4
    with pytest.raises(SystemExit) as missing:
        main(["embed", str(tmp_path / "typo.jpg"), "--out", str(tmp_path / "w.npz"), *weights, "--on-error", "skip"])
    assert missing.value.code == 2


def test_skipped_inputs_keep_rows_aligned(embedder: Embedder, tmp_path: Path) -> None:
    paths = [write_picture(tmp_path / f"{n}.png", n) for n in range(11)]
    bad = {0, 4, 5, 10}
    for n in bad:
        paths[n].write_bytes(b"")
    with pytest.warns(ImageWarning, match="4 input"):
        rows = embedder.embed(paths, on_error="skip")
    assert rows.shape == (11, 512)
    assert {n for n in range(11) if np.isnan(rows[n]).all()} == bad
    named = embedder.embed_named(paths, on_error="skip")
    assert named.positions == [n for n in range(11) if n not in bad]
    assert named.num_crops == 11
    np.testing.assert_array_equal(rows[named.positions], named.vectors)
    assert [failure.name for failure in named.failures] == [str(paths[n]) for n in sorted(bad)]
    good = embedder.embed([paths[1], paths[9]])
    np.testing.assert_allclose(rows[[1, 9]], good, atol=1e-6)
    with pytest.warns(ImageWarning):
        assert embedder.embed(tmp_path / "gone.png", on_error="skip").shape == (1, 512)


def test_boxes_of_an_unreadable_frame_keep_their_rows(embedder: Embedder, tmp_path: Path) -> None:
    array = np.array(make_picture(1))
    boxes = [[0, 0, 20, 40], [9, 9, 9, 9], [5, 5, 60, 90]]
    inputs = [Frame(array, boxes), Frame(tmp_path / "gone.png", boxes), Frame(array[..., :2], boxes), array]
    with pytest.warns(ImageWarning, match="3 input"):
        rows = embedder.embed(inputs, on_error="skip")
    assert np.isnan(rows).any(1).tolist() == [False, True, False, *[True] * 6, False]
    batches = list(embedder.stream(inputs, on_error="skip"))
    assert [place for batch in batches for place in batch.positions or ()] == [0, 2, 9]
    assert batches[-1].num_crops == 10


def test_vectors_from_files_have_no_positions() -> None:
    assert Embeddings(np.zeros((0, 3), np.float32)).positions is None


def test_evaluating_without_any_match_is_an_error(
    tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "d"
    write_picture(root / "query" / "ann" / "1" / "x.png", 1)
    write_picture(root / "query" / "bob" / "1" / "x.png", 2)
    write_picture(root / "gallery" / "ann" / "1" / "y.png", 3)
    write_picture(root / "gallery" / "cid" / "2" / "y.png", 4)
    words = ["evaluate", "--weights", str(tiny_weights), "--data", str(root), "--out", str(tmp_path / "e.json")]
    with monkeypatch.context() as patch:
        patch.setattr(Embedder, "stream", None)  # embedding would fail
        with pytest.raises(SystemExit) as caught:
            main(words)
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert "none of the 2 queries has a match" in err
    assert "1 queries show identities that are not in the gallery; 1 show identities" in err
    assert not (tmp_path / "e.json").exists()
    # The only match cannot be read, which is known only after embedding.
    (root / "gallery" / "bob" / "2").mkdir(parents=True)
    (root / "gallery" / "bob" / "2" / "z.png").write_bytes(b"")
    with pytest.raises(SystemExit) as caught:
        main([*words, "--on-error", "skip"])
    assert caught.value.code == 2
    assert "none of the 2 queries has a match" in capsys.readouterr().err
    # The same from saved vectors.
    np.savez(
        tmp_path / "v.npz", query_vectors=np.eye(2, 4, dtype=np.float32), query_pids=[1, 2], query_camids=[1, 1],
        gallery_vectors=np.eye(2, 4, dtype=np.float32), gallery_pids=[1, 3], gallery_camids=[1, 2],
    )  # fmt: skip
    with pytest.raises(SystemExit) as caught:
        main(["evaluate-features", str(tmp_path / "v.npz")])
    assert caught.value.code == 2
    shutil.rmtree(root / "gallery" / "bob")
    with pytest.raises(DataError, match="none of the 2 queries"):
        __import__("osnet").evaluate(tiny_weights, root)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "gif"])
def test_metadata_does_not_reach_copies(tmp_path: Path, suffix: str) -> None:
    """A JPEG's comment would: Pillow writes it into each JPEG made from the image."""
    secret, exif, text = "gps of the reporter", Image.Exif(), PngInfo()
    exif[0x010E] = secret
    text.add_text("Comment", secret)
    more = {"png": {"pnginfo": text}, "jpg": {"comment": secret}, "gif": {"comment": secret.encode()}}
    path = tmp_path / f"a.{suffix}"
    Image.new("RGB", (40, 80), "red").save(path, exif=exif, **more.get(suffix, {}))
    assert secret.encode() in path.read_bytes()
    with Image.open(path) as opened:
        images = read_image(path), decode_image(path.read_bytes(), "a"), own_rgb(opened, "a")
    for image in images:
        assert image.info == {}
        for kind in ("JPEG", "PNG"):
            file = io.BytesIO()
            image.crop((0, 0, 30, 60)).save(file, kind)
            assert secret.encode() not in file.getvalue()
