"""Where pictures come from: files, lists, standard input, a real web server, real videos."""

from __future__ import annotations

import io
import itertools
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from wordtree.tree import WordTree
from yolo9000.detect import stored
from yolo9000.errors import ConfigError, ImageError, YOLO9000Error
from yolo9000.image import read_image
from yolo9000.sources import Frame, ahead, demo_photos, expand, frames, is_camera, is_video
from yolo9000.video import VideoWriter, read_video, video_length


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two pictures of one colour each, current folder of the test."""
    monkeypatch.chdir(tmp_path)
    for name, grey in (("a.png", 10), ("b.png", 20)):
        Image.new("L", (40, 30), grey).save(name)
    return tmp_path


def film(path: Path, times: list[float], size: tuple[int, int] = (64, 48)) -> Path:
    """A real video whose frame k is grey of brightness 20 k."""
    with VideoWriter(path) as writer:
        for k, time in enumerate(times):
            writer.write(Image.new("RGB", size, (20 * k,) * 3), time)
    return path


def greys(found: Iterator[Frame]) -> list[int]:
    return [round(float(frame.image.float().mean())) for frame in found]


def type_in(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(data))))  # type: ignore[type-var]


def test_in_the_order_given(home: Path) -> None:
    memory = torch.full((3, 5, 5), 30, dtype=torch.uint8)
    array, data = np.full((5, 5, 3), 50, np.uint8), Path("b.png").read_bytes()
    found = list(
        frames("b.png", home / "a.png", memory, Image.new("L", (3, 3), 40), array, data, io.BytesIO(data))
    )
    assert greys(iter(found)) == [20, 10, 30, 40, 50, 20, 20]
    assert [frame.source for frame in found] == ["b.png", str(home / "a.png"), *[None] * 5]
    assert {frame.number for frame in found} == {None}


def test_list_files(home: Path) -> None:
    (home / "sub").mkdir()
    Image.new("L", (4, 4), 50).save("sub/c.png")
    Path("sub/list.txt").write_text(f"# mine\n\nc.png\n{home}/b.png\na.png\n", encoding="utf-8")
    assert greys(frames("sub/list.txt")) == [50, 20, 10]
    Path("empty.txt").write_text("# nothing\n")
    Path("bytes.txt").write_bytes(b"\xff\xfe\x00")
    for wrong, message in (("empty.txt", "names no pictures"), ("bytes.txt", "expected a list of pictures")):
        with pytest.raises(ImageError, match=message):
            list(frames(wrong))


def test_a_list_does_not_read_lists(home: Path) -> None:
    """A list that names itself ends."""
    Path("list.txt").write_text("a.png\nlist.txt\n")
    errors: list[YOLO9000Error] = []
    assert greys(frames("list.txt", on_error=errors.append)) == [10]
    assert len(errors) == 1


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"])
def test_a_picture_on_standard_input(home: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    data = io.BytesIO()
    Image.new("RGB", (40, 30), (60, 60, 60)).save(data, kind)
    type_in(monkeypatch, data.getvalue())
    assert greys(frames("-")) == pytest.approx([60], abs=1)
    type_in(monkeypatch, data.getvalue()[:35])
    with pytest.raises(ImageError, match=r"^standard input: "):
        list(frames("-"))


@pytest.mark.parametrize("header", ["P6 6 2 255\n", "P6\n# by GIMP\n6 2\n#\n255\n", "P3\n# 1\n6\n2 255\n"])
def test_a_picture_without_control_characters(
    home: Path, monkeypatch: pytest.MonkeyPatch, header: str
) -> None:
    type_in(monkeypatch, header.encode() + (b"60 " if "P3" in header else b"<") * 36)
    assert greys(frames("-")) == [60]


def test_no_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(ImageError, match="standard input: closed"):
        list(frames("-"))


def test_a_list_on_standard_input_is_read_line_by_line(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    type_in(monkeypatch, "# found by find\nb.png\n\nnöne.png\n*.png\n".encode())
    errors: list[YOLO9000Error] = []
    assert greys(frames("-", on_error=errors.append)) == [20, 10, 20]
    assert [str(error) for error in errors] == ["nöne.png: no such file, folder or pattern."]
    type_in(monkeypatch, b"")
    with pytest.raises(ImageError, match="standard input: empty"):
        list(frames("-"))


@contextmanager
def pipe(name: str, data: bytes) -> Iterator[str]:
    """A named pipe that somebody writes into once."""
    os.mkfifo(name)
    thread = threading.Thread(target=Path(name).write_bytes, args=(data,), daemon=True)
    thread.start()
    yield name
    thread.join()


def test_pipes_are_read_as_standard_input(home: Path) -> None:
    """Also `<(command)`, which a shell names /dev/fd/63. A picture keeps its name, a list is a list."""
    picture = Path("b.png").read_bytes()
    with pipe("c.png", picture):
        found = list(frames("c.png"))
        assert (greys(iter(found)), found[0].source) == ([20], "c.png")
    with pipe("list", b"b.png\na.png\n"):
        assert greys(frames("list")) == [20, 10]
    with pipe("one.png", picture):
        assert read_image("one.png").float().mean() == 20
    for name, data, message in (("no", b"", "no: empty"), ("cut", picture[:60], "cut: damaged or cut off")):
        with pipe(name, data), pytest.raises(ImageError, match=message):
            list(frames(name))
    assert greys(frames(".")) == [10, 20], "nobody may be writing into a pipe that a folder holds"


@pytest.mark.parametrize(
    "read",
    [read_image, frames, read_video, lambda name: stored(name, WordTree.flat(["dog"]))],
    ids=["picture", "source", "video", "results"],
)
def test_a_pipe_that_nobody_writes_into(
    home: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[str], Any]
) -> None:
    os.mkfifo("slow")
    said: set[str] = set()

    def warn(text: str) -> None:
        if not said:
            said.add(text)
            Path("slow").write_bytes(b"no picture\n")

    monkeypatch.setattr("yolo9000.image.PATIENCE", 0.05)
    monkeypatch.setattr("warnings.warn", warn)
    with pytest.raises(YOLO9000Error):
        list(read("slow"))
    assert said == {"slow: has given nothing for 0.05 s; still waiting for what writes into it."}


def test_errors_stand_where_the_source_was(home: Path) -> None:
    Path("broken.png").write_bytes(b"\x89PNG and no more")
    read: list[str] = []
    for frame in frames("a.png", "none.png", "broken.png", "b.png", on_error=lambda e: read.append(str(e))):
        read.append(str(frame.source))
    assert [text.split(":")[0] for text in read] == ["a.png", "none.png", "broken.png", "b.png"]
    with pytest.raises(ImageError, match=r"none\.png"):
        list(frames("a.png", "none.png"))


def test_reading_happens_as_it_is_asked_for(home: Path) -> None:
    stream = frames("a.png", "b.png")
    next(stream)
    Path("b.png").unlink()
    with pytest.raises(ImageError, match=r"b\.png"):
        next(stream)


def test_the_next_pictures_are_read_while_one_is_worked_on() -> None:
    taken: list[tuple[int, str]] = []

    def items() -> Iterator[int]:
        for i in range(6):
            taken.append((i, threading.current_thread().name))
            yield i

    found = ahead(items(), 2)
    assert taken == [], "nothing before it is asked for"
    assert next(found) == 0
    while len(taken) < 3:  # in a thread; the test's time limit ends this
        pass
    assert {name for _, name in taken} == {"ahead"}
    assert next(found) == 1
    assert len(taken) <= 4, "two ahead, no more"
    assert list(found) == [2, 3, 4, 5]
    assert [i for i, _ in taken] == list(range(6))


def test_errors_come_where_the_item_would_have() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise ImageError("broken")

    found = ahead(items(), 4)
    assert [next(found), next(found)] == [1, 2]
    with pytest.raises(ImageError, match="broken"):
        next(found)


def test_reading_ahead_ends_with_its_reader() -> None:
    found = ahead(iter(range(100)))
    assert next(found) == 0
    found.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ahead")]


def test_reading_ahead_ends_although_an_item_never_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that Ctrl-C need not wait for a download."""
    monkeypatch.setattr("yolo9000.sources._PATIENCE", 0.01)
    never = threading.Event()

    def items() -> Iterator[int]:
        yield 0
        never.wait()

    found = ahead(items())
    assert next(found) == 0
    found.close()  # type: ignore[attr-defined]
    waiting = [thread for thread in threading.enumerate() if thread.name == "ahead"]
    never.set()
    assert waiting
    assert all(thread.daemon for thread in waiting), "the process can end without it"


def test_names_that_no_file_can_have(home: Path) -> None:
    for name in ("x" * 5000, "a\0b", "x" * 5000 + "*", ""):
        assert all(isinstance(found, ImageError) for found in expand([name]))

    Path("list.txt").write_text("a.png\n" + "x" * 5000 + "\nb.png\n")
    errors: list[YOLO9000Error] = []
    assert greys(frames("list.txt", on_error=errors.append)) == [10, 20]
    assert len(errors) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes on Linux only")
def test_names_that_are_no_text(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("a.png").rename("caf\udce9.png")
    listed = b"\xef\xbb\xbfcaf\xe9.png\r\nb.png\n"
    type_in(monkeypatch, listed)
    Path("list.txt").write_bytes(listed)
    for source in ("-", "list.txt", "caf*", "."):
        found = list(frames(source))
        assert found[-1 if source == "." else 0].source == "caf\udce9.png"
        assert len(found) == (1 if source == "caf*" else 2)


def test_folders_that_cannot_be_read(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("locked").mkdir()

    def iterdir(path: Path) -> Iterator[Path]:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", iterdir)
    errors: list[YOLO9000Error] = []
    assert greys(frames("a.png", "locked", "b.png", on_error=errors.append)) == [10, 20]
    assert [str(error) for error in errors] == ["locked: cannot be read: Permission denied."]


def test_a_folder_with_all_kinds_of_pictures(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Pillow opens is read; of other photos one error tells; what is hidden or a folder is nobody's."""
    folder = home / "kinds"
    folder.mkdir()
    known = ["a.png", "b.jfif", "c.AVIF", "d.jpe", "e.pgm", "f.ppm", "g.tif"]
    for name in (*known, "._a.jpg", ".h.png"):
        (folder / name).write_bytes((home / "a.png").read_bytes())
    for name in ("x.heic", "y.HEIC", "z.jxl"):
        (folder / name).write_bytes(b"?")
    for name in ("h.jpg", "i.mp4", "w.heic"):
        (folder / name).mkdir()
    monkeypatch.setattr(Image, "registered_extensions", lambda: {".avif": "AVIF"})
    errors: list[YOLO9000Error] = []
    found = [Path(str(frame.source)).name for frame in frames("kinds", on_error=errors.append)]
    assert found == known
    assert [str(error) for error in errors] == [
        "kinds: 3 pictures are of a kind that is not read here (.heic .jxl), such as x.heic: left out; "
        "convert to JPEG or PNG."
    ]


def test_demo_photos() -> None:
    assert "dog.jpg" in [Path(photo).name for photo in demo_photos()]


# ----------------------------------------------------------------------------------------------- web


@pytest.fixture
def server(home: Path) -> Iterator[str]:
    """A web server on this machine that serves the test's folder."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(home))) as http:
        thread = threading.Thread(target=http.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


def test_urls(server: str, home: Path) -> None:
    film(home / "clip.mp4", [0, 0.1, 0.2])
    (home / "ö").mkdir()
    (home / "a.png").rename("ö/a b.png")
    for url in ("/ö/a b.png?x= ß#y", "/%C3%B6/a%20b.png"):
        assert greys(frames(server + url)) == [10]
    errors: list[YOLO9000Error] = []
    found = list(
        frames(f"{server}/b.png", f"{server}/none.png", f"{server}/clip.mp4?x=1", on_error=errors.append)
    )
    assert greys(iter(found)) == pytest.approx([20, 0, 20, 40], abs=2)
    assert [frame.number for frame in found] == [None, 0, 1, 2]
    assert len(errors) == 1
    assert "the server answered 404" in str(errors[0])


# --------------------------------------------------------------------------------------------- videos


def test_a_video_gives_its_frames_with_their_times(home: Path) -> None:
    times = [0, 0.04, 0.08, 0.5, 0.54]  # a pause, as phones film
    film(Path("clip.mp4"), times)
    found = list(frames("clip.mp4"))
    assert [frame.number for frame in found] == [0, 1, 2, 3, 4]
    assert [frame.time for frame in found] == pytest.approx(times, abs=1e-4)
    assert {frame.source for frame in found} == {"clip.mp4"}
    np.testing.assert_allclose(greys(iter(found)), [0, 20, 40, 60, 80], atol=2)
    assert video_length("clip.mp4") == 5


def test_odd_sizes_and_frames_of_another_size(home: Path) -> None:
    with VideoWriter("odd.mp4") as writer:
        for size in ((63, 49), (63, 49), (120, 30)):
            writer.write(Image.new("RGB", size, "white"), 0.0)
    found = list(read_video("odd.mp4"))
    assert [tuple(frame.image.shape) for frame in found] == [(3, 50, 64)] * 3
    assert found[0].image.float().mean() > 250
    assert found[2].image[:, 0].float().mean() < 10, "a frame of another size keeps its proportions"


def test_a_video_is_written_where_a_link_leads_to(home: Path) -> None:
    (home / "disk").mkdir()
    (home / "clip.mp4").symlink_to(home / "disk" / "real.mp4")
    film(home / "clip.mp4", [0, 1])
    assert (home / "clip.mp4").is_symlink()
    assert [path.name for path in (home / "disk").iterdir()] == ["real.mp4"]
    assert video_length("clip.mp4") == 2


def test_a_video_among_pictures(home: Path) -> None:
    film(home / "ab.mp4", [0, 1])
    assert [(Path(str(f.source)).name, f.number) for f in frames(str(home))] == [
        ("a.png", None), ("ab.mp4", 0), ("ab.mp4", 1), ("b.png", None),
    ]  # fmt: skip


def test_videos_that_are_none(home: Path) -> None:
    Path("text.mp4").write_text("no video")
    film(Path("cut.mp4"), [k / 10 for k in range(20)])
    data = Path("cut.mp4").read_bytes()
    Path("cut.mp4").write_bytes(data[: len(data) // 2])
    for name in ("text.mp4", "cut.mp4"):
        with pytest.raises(ImageError, match=rf"{name}: cannot be opened as a video"):
            list(frames(name))
        assert video_length(name) is None
    with pytest.raises(ImageError, match=r"none\.mp4: no such file"):
        list(frames("none.mp4"))


@pytest.mark.parametrize("kind", ["mp4", "avi"])
@pytest.mark.usefixtures("home")
def test_a_video_that_is_cut_off_behind_its_index(kind: str) -> None:
    """Its index stands in front, as for the web: what is there of it can be played."""
    av = pytest.importorskip("av")
    path = Path(f"clip.{kind}")
    with av.open(str(path), "w", options={"movflags": "faststart"} if kind == "mp4" else {}) as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 80, "yuv420p"
        for grey in range(60):
            container.mux(stream.encode(av.VideoFrame.from_image(Image.new("L", (96, 80), 4 * grey))))
        container.mux(stream.encode(None))
    assert len(list(frames(str(path)))) == 60
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    read: list[int | None] = []
    with pytest.raises(ImageError, match=r"ends after \d\.\d of .* s, \d+ of 60 frames: was it cut off"):
        read.extend(frame.number for frame in frames(str(path)))
    assert read == list(range(len(read)))
    assert 0 < len(read) < 60


def test_a_video_out_of_a_pipe(home: Path) -> None:
    """Its length is not asked for: that would be read out of the pipe, too."""
    av = pytest.importorskip("av")
    with av.open("clip.mkv", "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for grey in (0, 100):
            image = Image.new("RGB", (64, 48), (grey,) * 3)
            container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode(None))
    with pipe("pipe.mkv", Path("clip.mkv").read_bytes()):
        assert video_length("pipe.mkv") is None
        assert greys(frames("pipe.mkv")) == pytest.approx([0, 100], abs=3)


def test_sound_alone_is_no_video(home: Path) -> None:
    av = pytest.importorskip("av")
    with av.open("sound.mp4", "w") as container:
        stream = container.add_stream("aac", rate=44100)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        sound.sample_rate = 44100
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))
    with pytest.raises(ImageError, match="holds no pictures"):
        list(frames("sound.mp4"))


def test_cameras(home: Path) -> None:
    assert is_camera("0")
    assert is_camera("/dev/video3")
    assert not is_camera("2007")
    assert is_video("0")
    assert is_video("rtsp://camera/1")
    if Path("/dev/video0").exists():
        pytest.skip("there is a camera 0: its picture is not known")
    with pytest.raises(ImageError, match=r"camera 0: there is no /dev/video0 \(cameras found: "):
        list(frames("0"))
    Path("0").write_bytes(Path("a.png").read_bytes())
    assert greys(frames("0")) == [10], "a file of that name is the file"
    Path("12").mkdir()
    Path("b.png").rename("12/b.png")
    assert greys(frames("12")) == [20], "and a folder the folder"
    assert not is_camera("12")


def test_without_pyav(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    film(home / "clip.mp4", [0])
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ConfigError, match="reading videos needs av: pip install av"):
        list(frames("clip.mp4"))


def test_a_live_picture_is_read_frame_by_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    """FFmpeg's test picture opens and delivers as a camera does: a device without end or length."""
    pytest.importorskip("av")
    monkeypatch.setattr(
        "yolo9000.video._camera", lambda source: ("testsrc=size=64x48:rate=10", {"format": "lavfi"})
    )
    assert video_length("0") is None
    found = list(itertools.islice(frames("0"), 3))
    assert [frame.number for frame in found] == [0, 1, 2]
    assert [frame.time for frame in found] == pytest.approx([0, 0.1, 0.2])
    assert all(tuple(frame.image.shape) == (3, 48, 64) for frame in found)
    assert not torch.equal(found[0].image, found[2].image)
