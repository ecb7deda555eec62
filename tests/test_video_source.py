"""Video files: frames, their times, and reports of damaged or truncated files."""

import struct
import wave
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("av")

import av

from osnet import Embedder
from osnet.video import FootageError, indexing, list_footage, open_footage
from osnet.video.protocols import Trouble
from osnet.video.recordings import start_from_name
from osnet.video.source import make_converter, read_frames, upright
from osnet.video.tracking import front_end
from small_footage import SIZE_WH, grey, number_of, numbered, write_video


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 frames at 10 a second, a keyframe every 8, whose grey is their number."""
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", numbered(100))


def test_times_numbers_and_pixels(clip: Path) -> None:
    footage = open_footage(clip, 1000.0)
    assert footage.fps == pytest.approx(10)
    assert footage.duration_s == pytest.approx(10)
    assert footage.seekable
    assert footage.size_wh == SIZE_WH
    assert footage.troubles == ()
    frames = list(read_frames(footage))
    assert [f.number for f in frames] == list(range(1, 101))
    assert [number_of(f.image) for f in frames] == list(range(100))
    np.testing.assert_allclose([f.time_s for f in frames], 1000 + np.arange(100) / 10)


def test_one_converter_serves_frames_of_changing_sizes_formats_and_ranges() -> None:
    """As each frame's own: odd sizes, full and limited range, two colour spaces, and back to the first."""
    dice, converter = np.random.default_rng(0), make_converter()
    for size, layout, space, span in [
        ((64, 48), "yuv420p", 1, 1), ((64, 48), "yuv420p", 5, 1), ((64, 48), "yuvj420p", 5, 2),
        ((51, 33), "yuv444p", 1, 1), ((64, 48), "gray", 2, 0), ((64, 48), "rgb24", 0, 0), ((64, 48), "yuv420p", 1, 1),
    ]:  # fmt: skip
        image = dice.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=layout)
        frame.colorspace, frame.color_range = space, span
        got = upright(frame, "some.mp4", converter)
        np.testing.assert_array_equal(got, frame.to_ndarray(format="rgb24"))
        assert got.shape == (size[1], size[0], 3)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi", ".ts"])
def test_frames_do_not_depend_on_where_reading_starts(tmp_path: Path, suffix: str) -> None:
    codec = "mpeg4" if suffix == ".avi" else "libx264"
    path = write_video(tmp_path / f"clip{suffix}", numbered(60), codec=codec)
    footage = open_footage(path, 0.0)
    whole = {f.number: f for f in read_frames(footage)}
    assert sorted(whole) == list(range(1, 61))
    for start, stop in ((0.0, 0.5), (1.35, 2.05), (3.9, 4.0), (5.5, 99.0)):
        part = list(read_frames(footage, start, stop))
        assert [f.number for f in part] == [n for n in whole if start <= (n - 1) / 10 < stop]
        for frame in part:
            assert np.array_equal(frame.image, whole[frame.number].image)
            assert frame.time_s == whole[frame.number].time_s


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_reordered_frames_are_no_jump_of_the_clock(tmp_path: Path, suffix: str) -> None:
    footage = open_footage(write_video(tmp_path / f"clip{suffix}", numbered(60), reordered=True), 0.0)
    assert footage.seekable
    assert footage.troubles == ()
    np.testing.assert_allclose(footage.times_s, np.arange(60) / 10, atol=1e-3)
    for first in (0, 31):
        read = list(read_frames(footage, first / 10))
        assert [number_of(f.image) for f in read] == list(range(first, 60))


def test_frames_that_an_edit_list_hides_are_no_frames(tmp_path: Path) -> None:
    """As phones and ``ffmpeg -ss -c copy`` trim: from the last keyframe on, with negative times for what is hidden."""
    whole = write_video(tmp_path / "whole.mp4", numbered(60), reordered=True)
    trimmed = tmp_path / "trimmed.mp4"
    with av.open(str(whole)) as source, av.open(str(trimmed), "w") as container:
        stream = source.streams.video[0]
        copy = container.add_stream_from_template(stream)
        begin = round(2.7 / stream.time_base)  # frames 24 to 26, behind a keyframe, are hidden
        for packet in source.demux(stream):
            if packet.dts is not None and packet.pts >= 2.4 / stream.time_base:
                packet.pts, packet.dts, packet.stream = packet.pts - begin, packet.dts - begin, copy
                container.mux(packet)
    footage = open_footage(trimmed, 1000.0)
    troubles = list(footage.troubles)
    frames = list(read_frames(footage, troubles=troubles))
    assert troubles == []
    assert [number_of(f.image) for f in frames] == list(range(27, 60))
    assert (frames[0].time_s, frames[0].number) == (1000.0, 1)


def test_frames_are_sampled_by_time_at_a_varying_frame_rate(tmp_path: Path) -> None:
    times = [0.0, 0.1, 0.2, 0.35, 0.9, 1.0, 1.1, 2.6, 2.65, 2.7]
    footage = open_footage(write_video(tmp_path / "v.mkv", numbered(10), times=times), 0.0)
    np.testing.assert_allclose(footage.times_s, times, atol=2e-3)
    # Half seconds: 0-0.5, 0.5-1, 1-1.5, 2.5-3; the first frame of each.
    assert [number_of(f.image) for f in read_frames(footage, fps=2)] == [0, 4, 5, 7]
    assert [f.number for f in read_frames(footage, fps=2)] == [1, 5, 6, 8]


def write_turned(path: Path) -> Path:
    """Three frames, red on the left, with the metadata of a quarter clockwise."""
    image = grey(100)
    image[:, :20] = (250, 0, 0)
    content = bytearray(write_video(path, [image] * 3).read_bytes())
    place = content.index(b"tkhd") + 4 + 40  # the matrix of version 0
    content[place : place + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    return path


def test_the_rotation_of_phones_is_applied(tmp_path: Path) -> None:
    path = write_turned(tmp_path / "turned.mp4")
    frame = next(iter(read_frames(open_footage(path, 0.0))))
    assert frame.image.shape == (SIZE_WH[0], SIZE_WH[1], 3)
    assert frame.image[:15, :, 0].mean() > 200
    assert frame.image[30:, :, 0].mean() < 120


def test_the_border_of_turned_footage_is_that_of_the_upright_frames(
    tmp_path: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By it, joining decides who left the view."""
    boxes = tmp_path / "boxes.txt"
    boxes.write_text("".join(f"{n},1,30,100,30,50,1\n" for n in (1, 2, 3)))
    sizes: list[tuple[int, int]] = []
    monkeypatch.setattr(
        indexing, "refine", lambda tracks, samples, _, size_wh: sizes.append(size_wh) or (tracks, samples)
    )
    found = open_footage(write_turned(tmp_path / "turned.mp4"), 0.0)
    tracks = indexing.track_footage(
        found, *front_end(boxes), embedder=Embedder(tiny_weights, device="cpu", backend="torch")
    )
    assert (len(tracks), sizes) == (1, [(SIZE_WH[1], SIZE_WH[0])])


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt", "size_wh", "fps"),
    [
        ("odd.mkv", "ffv1", "yuv444p", (33, 65), 10),
        ("deep.mkv", "ffv1", "yuv420p10le", (64, 48), 10),
        ("alpha.mov", "qtrle", "argb", (64, 48), 10),
        ("slow.mp4", "libx264", "yuv420p", (64, 48), 1),
        ("fast.mp4", "libx264", "yuv420p", (64, 48), 120),
    ],
)
def test_unusual_codecs_and_sizes_are_read(
    tmp_path: Path, name: str, codec: str, pix_fmt: str, size_wh: tuple[int, int], fps: int
) -> None:
    images = numbered(12, size_wh)
    if pix_fmt == "argb":
        images = [np.dstack([i, np.full(i.shape[:2], 128, np.uint8)]) for i in images]
    footage = open_footage(write_video(tmp_path / name, images, fps, codec=codec, pix_fmt=pix_fmt), 0.0)
    frames = list(read_frames(footage))
    assert footage.fps == pytest.approx(fps, rel=0.05)
    assert [number_of(f.image) for f in frames] == list(range(12))
    assert frames[0].image.shape == (size_wh[1], size_wh[0], 3)


def test_times_continue_when_the_clock_jumps_back(tmp_path: Path) -> None:
    one = write_video(tmp_path / "1.ts", numbered(20)).read_bytes()
    two = write_video(tmp_path / "2.ts", numbered(40)[20:]).read_bytes()
    both = tmp_path / "both.ts"
    both.write_bytes(one + two)
    footage = open_footage(both, 0.0)
    assert not footage.seekable
    assert any("jumps back" in t.what for t in footage.troubles)
    frames = list(read_frames(footage))
    assert [number_of(f.image) for f in frames] == list(range(40))
    assert (np.diff([f.time_s for f in frames]) > 0).all()
    assert [number_of(f.image) for f in read_frames(footage, footage.times_s[25])] == list(range(25, 40))


def test_a_truncated_file_is_read_to_its_end(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "whole.mp4", numbered(100), options={"movflags": "faststart"})
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 3 // 4])
    footage = open_footage(cut, 0.0)
    troubles: list[Trouble] = list(footage.troubles)
    frames = list(read_frames(footage, troubles=troubles))
    assert 10 < len(frames) < 100
    assert [number_of(f.image) for f in frames] == list(range(len(frames)))
    assert troubles
    assert troubles[-1].time_s == pytest.approx(len(frames) / 10, abs=0.35)


def test_damage_in_the_middle_loses_only_the_damaged_frames(tmp_path: Path) -> None:
    path = write_video(tmp_path / "damaged.mkv", numbered(100), codec="mjpeg", pix_fmt="yuvj420p")
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 2000] = bytes(2000)
    path.write_bytes(content)
    footage = open_footage(path, 0.0)
    troubles: list[Trouble] = list(footage.troubles)
    frames = list(read_frames(footage, troubles=troubles))
    places = [round(10 * f.time_s) for f in frames]
    assert 80 <= len(frames) < 100
    assert places == sorted(set(places))
    assert sum(number_of(f.image) != place for f, place in zip(frames, places, strict=True)) <= 1  # half of one picture
    lost = sorted(set(range(100)) - set(places))
    assert [t.time_s for t in troubles] == [pytest.approx((lost[0] - 1) / 10)]
    assert troubles[0].what.startswith(f"{len(lost)} frame")


def test_packets_that_cannot_be_decoded_are_counted(tmp_path: Path) -> None:
    path = write_video(tmp_path / "damaged.mp4", numbered(100))
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 2000] = bytes(2000)
    path.write_bytes(content)
    troubles: list[Trouble] = []
    numbers = [f.number for f in read_frames(open_footage(path, 0.0), troubles=troubles)]
    missing = sorted(set(range(1, 101)) - set(numbers))
    assert 0 < len(missing) < 30
    assert troubles == [Trouble((missing[0] - 1) / 10, f"{len(missing)} frames that cannot be decoded")]


def test_files_that_are_not_videos_are_named(tmp_path: Path) -> None:
    text = tmp_path / "notes.mp4"
    text.write_text("no video at all" * 100)
    with pytest.raises(FootageError, match=r"notes\.mp4"):
        open_footage(text, 0.0)
    sound = tmp_path / "sound.wav"
    with wave.open(str(sound), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(16000))
    moov_missing = tmp_path / "cut.mp4"
    content = write_video(tmp_path / "whole.mp4", numbered(30)).read_bytes()
    moov_missing.write_bytes(content[: content.index(b"moov") - 10])
    empty = tmp_path / "empty.mp4"
    empty.touch()
    for path in (sound, moov_missing, empty, tmp_path / "missing.mp4"):
        with pytest.raises(FootageError, match=path.name):
            open_footage(path, 0.0)


def test_an_audio_file_has_no_video_stream(tmp_path: Path) -> None:
    import av

    path = tmp_path / "sound.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(FootageError, match="no video stream; it has audio"):
        open_footage(path, 0.0)


@pytest.mark.parametrize("suffix", [".mp4", ".m3u8"])
def test_a_playlist_opens_no_other_files(tmp_path: Path, suffix: str) -> None:
    """FFmpeg itself refuses a playlist with another suffix than .m3u8."""
    write_video(tmp_path / "other.ts", numbered(10))
    playlist = tmp_path / f"list{suffix}"
    playlist.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nother.ts\n#EXT-X-ENDLIST\n")
    with pytest.raises(FootageError, match=playlist.name):
        open_footage(playlist, 0.0)


def test_the_format_does_not_depend_on_the_suffix(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", numbered(5)).rename(tmp_path / "clip.jpg")
    assert len(list(read_frames(open_footage(path, 0.0)))) == 5


def test_the_start_time_comes_from_the_metadata(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", numbered(3), metadata={"creation_time": "2026-11-28T08:00:00.000000Z"})
    assert open_footage(path).starts_s == datetime(2026, 11, 28, 8, tzinfo=UTC).timestamp()
    silent = write_video(tmp_path / "b.mkv", numbered(3))
    with pytest.raises(FootageError, match="when it was taken"):
        open_footage(silent)


def test_the_start_time_comes_from_the_file_name() -> None:
    want = datetime(2026, 11, 28, 8, 14, 5, tzinfo=UTC).timestamp()
    assert start_from_name(Path("gate_07_20261128_081405.mp4"), "gate_*_%Y%m%d_%H%M%S") == want
    assert start_from_name(Path("2026-11-28T09-14-05+0100.mkv"), "%Y-%m-%dT%H-%M-%S%z") == want
    for pattern in ("gate_*_%Y%m%d", "*_%H%M%S"):
        with pytest.raises(FootageError):
            start_from_name(Path("gate_07_20261128_081405.mp4"), pattern)


def test_list_footage(tmp_path: Path) -> None:
    for name in ("b/2.mp4", "a.MKV", "notes.txt", "c.avi"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [p.relative_to(tmp_path).as_posix() for p in list_footage(tmp_path)] == ["a.MKV", "b/2.mp4", "c.avi"]
    assert list_footage(f"{tmp_path}/*.avi") == [tmp_path / "c.avi"]
    with pytest.raises(FootageError, match="none"):
        list_footage(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FootageError, match="empty"):
        list_footage(tmp_path / "empty")
