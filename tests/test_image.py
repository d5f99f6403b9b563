"""Reading pictures in every form, refusing what is none, and the geometry of the letterbox."""

from __future__ import annotations

import contextlib
import http.server
import io
import struct
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import resize

from yolo9000 import image as image_module
from yolo9000.datasets.sample import decode_image
from yolo9000.errors import DataError, ImageError
from yolo9000.image import Letterbox, letterbox, read_image, source_name

ORIENTATION, RESOLUTION = 274, 282  # EXIF tags
TURNED = ["JPEG", "PNG", "WEBP", "TIFF"]  # kinds that are turned by their EXIF orientation


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    """40 × 30 pixels: smooth ramps in red and green, so that lossy formats stay close; blue constant."""
    y, x = np.mgrid[0:30, 0:40]
    return Image.fromarray(np.stack([x * 6, y * 8, np.full_like(x, 90)], axis=-1).astype(np.uint8))


def encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def pixels(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)


def worst(a: Tensor, b: Tensor) -> int:
    assert a.shape == b.shape
    return int((a.int() - b.int()).abs().max())


@pytest.mark.parametrize(
    ("kind", "mode", "tolerance"),
    [
        ("PNG", "RGB", 0),
        ("PNG", "L", 0),
        ("PNG", "1", 0),
        ("PNG", "P", 0),
        ("BMP", "RGB", 0),
        ("TIFF", "RGB", 0),
        ("TIFF", "CMYK", 0),
        ("GIF", "P", 0),
        ("PPM", "RGB", 0),
        ("WEBP", "RGB", 30),
        ("JPEG", "RGB", 30),
        ("JPEG", "L", 30),
        ("JPEG", "CMYK", 30),
    ],
)
def test_formats(photo: Image.Image, kind: str, mode: str, tolerance: int) -> None:
    picture = photo.convert(mode)
    read = read_image(encoded(picture, kind))
    assert (read.dtype, read.shape, read.is_contiguous()) == (torch.uint8, (3, 30, 40), True)
    assert worst(read, pixels(picture)) <= tolerance


def test_deep_grey(photo: Image.Image) -> None:
    grey = np.asarray(photo.convert("L"))
    expected = pixels(photo.convert("L"))
    deep = Image.fromarray(grey.astype(np.uint16) * 257)
    assert worst(read_image(encoded(deep, "PNG")), expected) == 0
    assert worst(read_image(encoded(deep, "TIFF")), expected) == 0
    assert worst(read_image(deep), expected) == 0
    unit = Image.fromarray(grey.astype(np.float32) / 255)
    assert worst(read_image(encoded(unit, "TIFF")), expected) == 0


def test_threads_that_read_leave_rules_of_warnings_alone() -> None:
    """The first that begins is the first that ends: neither hides warnings of others, meanwhile or later."""
    rules = list(warnings.filters)
    begun, go_on = ([threading.Event(), threading.Event()] for _ in range(2))

    class Slow(Image.Image):
        number: int

        def load(self) -> object:
            begun[self.number].set()
            go_on[self.number].wait(60)
            return super().load()

    with ThreadPoolExecutor(2) as pool:
        jobs = []
        for number in range(2):
            image = Image.new("L", (4, 4))
            image.__class__, image.number = Slow, number  # type: ignore[attr-defined]
            jobs.append(pool.submit(read_image, image))
            begun[number].wait(60)
        assert warnings.filters == rules
        for number in range(2):
            go_on[number].set()
            jobs[number].result()
    assert warnings.filters == rules


@pytest.mark.filterwarnings("error")
def test_pixels_that_a_gradient_is_wanted_of() -> None:
    image = torch.rand(3, 5, 4)
    assert torch.equal(read_image(image.clone().requires_grad_()), read_image(image))


@pytest.mark.parametrize(
    ("dtype", "white", "overshot"),
    [
        (np.float32, 1, 1.3),
        (np.float32, 255, 300),
        (np.float32, 65535, 70_000),
        (np.int32, 255, 300),
        (np.int32, 65535, 70_000),
        (np.float32, 1e9, 1e9),
        (np.int32, 2**31 - 1, 2**31 - 1),
        (np.float32, 1, np.nan),
        (np.float32, 1, np.inf),
    ],
)
def test_white_of_32_bit_grey(dtype: type, white: float, overshot: float) -> None:
    """One pixel a little above white, or no number, leaves the others as they are; training reads alike."""
    values = np.array([[0, white * 0.2, white, overshot]]).astype(dtype)
    data = encoded(Image.fromarray(values), "TIFF")
    expected = [0, 51, 255, 0 if np.isnan(overshot) else 255]
    assert read_image(data)[0, 0].tolist() == decode_image(data, "x")[0, 0].tolist() == expected


def test_sixteen_bit_colour_png() -> None:
    """Written by hand: Pillow does not write 16-bit RGB."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    row = b"\0" + struct.pack(">6H", 0xFFFF, 0, 0x8080, 0, 0xFFFF, 0x8080)
    data = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(row))
        + chunk(b"IEND", b"")
    )
    assert read_image(data)[:, 0].T.tolist() == [[255, 0, 128], [0, 255, 128]]


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_is_white(mode: str) -> None:
    picture = Image.new("RGBA", (4, 3), (0, 0, 0, 0))
    picture.putpixel((1, 1), (0, 0, 0, 255))
    data = encoded(picture.convert(mode), "PNG")
    for read in (read_image(data), decode_image(data, "training")):
        assert read[:, 0, 0].tolist() == [255, 255, 255]
        assert read[:, 1, 1].tolist() == [0, 0, 0]
    multiplied = picture.convert(mode).convert({"RGBA": "RGBa", "LA": "La"}[mode])
    assert read_image(multiplied).equal(read_image(data))


def test_transparent_palette_colour_key_and_array() -> None:
    palette = Image.new("P", (2, 1), 0)
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((1, 0), 1)
    assert read_image(encoded(palette, "PNG", transparency=0))[:, 0].T.tolist() == [[255] * 3, [40, 50, 60]]
    key = Image.new("RGB", (2, 1), (1, 2, 3))
    key.putpixel((1, 0), (9, 9, 9))
    assert read_image(encoded(key, "PNG", transparency=(1, 2, 3)))[:, 0].T.tolist() == [[255] * 3, [9, 9, 9]]
    array = np.zeros((1, 2, 4), np.uint8)
    array[0, 1] = (100, 0, 0, 128)
    assert read_image(array)[:, 0].T.tolist() == [[255] * 3, [177, 127, 127]]


def test_first_frame_of_an_animation(photo: Image.Image) -> None:
    black = Image.new("RGB", photo.size)
    for kind in ("GIF", "WEBP", "PNG"):
        data = encoded(black, kind, save_all=True, append_images=[photo], duration=100)
        assert int(read_image(data).max()) < 5


@pytest.mark.parametrize("kind", TURNED)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(kind: str, orientation: int) -> None:
    """A white quarter must come out where a viewer shows it."""
    picture = Image.new("RGB", (64, 32))
    picture.paste((255, 255, 255), (0, 0, 32, 16))  # top left as stored
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    read = read_image(encoded(picture, kind, exif=exif))
    where = {1: (0, 0), 2: (0, 1), 3: (1, 1), 4: (1, 0), 5: (0, 0), 6: (0, 1), 7: (1, 1), 8: (1, 0)}[
        orientation
    ]
    assert read.shape == ((3, 32, 64) if orientation < 5 else (3, 64, 32))
    halves = [part.split(read.shape[2] // 2, 1) for part in read.float().mean(0).split(read.shape[1] // 2, 0)]
    bright = {(row, column) for row in (0, 1) for column in (0, 1) if halves[row][column].mean() > 128}
    assert bright == {where}


def test_exif_of_a_pil_image_is_applied_once() -> None:
    picture = Image.new("RGB", (6, 4))
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    opened = Image.open(io.BytesIO(encoded(picture, "JPEG", exif=exif)))
    assert read_image(opened).shape == (3, 6, 4)
    from PIL import ImageOps

    assert read_image(ImageOps.exif_transpose(opened)).shape == (3, 6, 4)


def test_arrays_and_tensors_agree(photo: Image.Image) -> None:
    array, expected = np.array(photo), pixels(photo)
    tensor = expected.clone()
    forms: list[Any] = [
        array,
        np.asfortranarray(array),
        array[::-1][::-1],
        array / 255.0,
        (array / 255.0).astype(np.float32),
        (array / 255.0).astype(">f4"),
        (array / 255.0).astype(np.longdouble),
        tensor,
        tensor.double() / 255,
        tensor.float() / 255 * (1 + 1e-6),
        tensor.permute(1, 2, 0).contiguous().permute(2, 0, 1),
    ]
    for form in forms:
        assert worst(read_image(form), expected) == 0
    mirrored = read_image(array[:, ::-1])
    assert worst(mirrored, expected.flip(2)) == 0
    grey = array[..., 0]
    for form in (grey, grey[..., None], torch.from_numpy(grey), torch.from_numpy(grey)[None]):
        read = read_image(form)
        assert worst(read, expected[:1].expand(3, -1, -1)) == 0


def test_what_is_read_is_not_shared(photo: Image.Image) -> None:
    array = np.array(photo)
    read_image(array).zero_()
    assert array.any()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (np.zeros((2, 3, 4, 3), np.uint8), r"shape \(2, 3, 4, 3\); expected one picture"),
        (np.zeros((3, 40, 50), np.uint8), r"transpose\(1, 2, 0\)"),
        (torch.zeros(40, 50, 3), r"permute\(2, 0, 1\)"),
        (np.zeros(5, np.uint8), "expected one picture"),
        (np.zeros((0, 4, 3), np.uint8), "4 × 0 pixels"),
        (np.zeros((4, 4, 3), np.int64), "torch.int64; expected uint8"),
        (np.zeros((4, 4, 3), bool), "dtype bool"),
        (np.zeros((4, 4, 3), object), "dtype object"),
        (np.full((4, 4, 3), 128.0), "from 128 to 128; expected 0..1"),
        (np.full((4, 4, 3), -1.0), "from -1 to -1"),
        (torch.full((3, 4, 4), float("nan")), "expected 0..1"),
        (torch.zeros(3, 4, 4).to_sparse(), "tensor of torch.sparse_coo on cpu; expected a dense one"),
        (torch.zeros(3, 4, 4, device="meta"), "on meta; expected a dense one that holds values"),
        (b"", "empty, 0 bytes"),
        (b"\x89PNG\r\n\x1a\n", "not a picture"),
        (b"GIF89a", "not a picture|damaged"),
        (b"<html>not found</html>", "not a picture"),
        ("nowhere/dog.jpg", r"nowhere/dog\.jpg: no such file"),
        ("/", "is a folder"),
        ("bad\0name.jpg", "cannot be read|no such file"),
        (None, "found NoneType"),
        (0, r'found int; a camera is a text: yolo9000\.sources\.frames\("0"\)'),
        ([1, 2], "found list; give the pictures of a list one by one"),
    ],
)
def test_refused(source: Any, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        read_image(source)


@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview, io.BytesIO])
def test_encoded_in_any_form(photo: Image.Image, wrap: Callable[[bytes], Any]) -> None:
    source = wrap(encoded(photo, "PNG"))
    for _ in range(2):  # a stream is read from its beginning
        assert worst(read_image(source), pixels(photo)) == 0


def test_open_files(photo: Image.Image, tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    with path.open("w+b") as stream:
        photo.save(stream, "PNG")
        assert worst(read_image(stream), pixels(photo)) == 0
        assert source_name(stream) == str(path)
    with pytest.raises(ImageError, match=r"photo\.png: cannot be read: .*closed"):
        read_image(stream)
    path.write_text("text")
    with path.open() as text, pytest.raises(ImageError, match=r"photo\.png: reads str.*'rb'"):
        read_image(text)  # type: ignore[arg-type]
    with pytest.raises(ImageError, match="empty, 0 bytes"):
        read_image(io.BytesIO())


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_cut_off_anywhere(photo: Image.Image, kind: str, tmp_path: Path) -> None:
    data = encoded(photo, kind)
    path = tmp_path / f"cut.{kind.lower()}"
    for share in (0.02, 0.3, 0.6):
        path.write_bytes(data[: max(1, int(len(data) * share))])
        with pytest.raises(ImageError, match=r"cut\.\w+: (damaged|not a picture)"):
            read_image(path)


@settings(deadline=None)
@given(st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"]), st.data())
def test_damage_never_escapes(kind: str, data: st.DataObject) -> None:
    """Flipped bytes give a picture or an error of the two readers, nothing else."""
    y, x = np.mgrid[0:30, 0:40]
    exif = Image.Exif()
    exif[ORIENTATION], exif[RESOLUTION] = 6, 72.0
    own = {"exif": exif} if kind in TURNED else {}
    content = bytearray(encoded(Image.fromarray((x * 3 + y).astype(np.uint8)), kind, **own))
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ImageError):
        assert read_image(bytes(content)).dtype == torch.uint8
    with contextlib.suppress(DataError):
        assert decode_image(bytes(content), "x").dtype == torch.uint8


@pytest.mark.parametrize("kind", [TypeError, AssertionError, struct.error, KeyError, ZeroDivisionError])
def test_whatever_a_plugin_raises(monkeypatch: pytest.MonkeyPatch, kind: type[Exception]) -> None:
    """Pillow 13 was seen to raise the first two on damaged TIFF and ICNS files."""

    def load(self: Image.Image) -> None:
        raise kind

    data = encoded(Image.new("RGB", (2, 2)), "PNG")
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    with pytest.raises(ImageError, match=f"damaged or cut off: {kind.__name__}"):
        read_image(data)
    with pytest.raises(DataError, match=rf"cannot be decoded .* {kind.__name__}\)"):
        decode_image(data, "x")


def test_too_many_pixels(monkeypatch: pytest.MonkeyPatch, photo: Image.Image, tmp_path: Path) -> None:
    monkeypatch.setattr(image_module, "MAX_PIXELS", 1000)
    path = tmp_path / "big.png"
    photo.save(path)
    for source in (path, np.array(photo)):
        with pytest.raises(ImageError, match="40 × 30 pixels; at most 1,000"):
            read_image(source)


def test_a_bomb_is_refused_before_it_is_decoded() -> None:
    """A header of 60,000 × 60,000 pixels."""
    data = bytearray(encoded(Image.new("1", (8, 8)), "BMP"))
    data[18:26] = (60_000).to_bytes(4, "little") * 2
    with pytest.raises(ImageError, match="178,956,970"):
        read_image(bytes(data))


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no /dev/zero")
def test_devices_are_no_pictures() -> None:
    """They may have no end; a pipe has."""
    with pytest.raises(ImageError, match="no such file"):
        read_image("/dev/zero")


def test_names(photo: Image.Image, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    photo.save(path)
    assert source_name(path) == source_name(str(path)) == source_name(Image.open(path)) == str(path)
    assert source_name(photo) is source_name(b"x") is source_name(np.zeros(1)) is None


class _Handler(http.server.BaseHTTPRequestHandler):
    content = b""
    ended: threading.Event

    def do_GET(self) -> None:
        if self.path == "/rude":
            self.wfile.write(b"hello\r\n")
            return
        if self.path == "/drip":
            self.wfile.write(b"HTTP/1.0 200 OK\r\n")
            while not self.ended.wait(0.05):
                self.wfile.write(b"x")
            return
        if self.path in ("/moved", "/round"):
            self.send_response(302)
            self.send_header("Location", "/dog.png" if self.path == "/moved" else "/round")
            self.end_headers()
            return
        self.send_response(200 if self.path == "/dog.png" else 404)
        self.end_headers()
        self.wfile.write(self.content)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(photo: Image.Image) -> Iterator[str]:
    _Handler.content, _Handler.ended = encoded(photo, "PNG"), threading.Event()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        _Handler.ended.set()
        running.shutdown()


def test_urls(server: str, photo: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    assert worst(read_image(f"{server}/dog.png"), pixels(photo)) == 0
    assert worst(read_image(f"{server}/moved"), pixels(photo)) == 0
    with pytest.raises(ImageError, match=r"cat\.png: the server answered 404"):
        read_image(f"{server}/cat.png")
    with pytest.raises(ImageError, match=r"/round: the server answered 302 .* infinite loop\.$"):
        read_image(f"{server}/round")
    with pytest.raises(ImageError, match=r"/rude: cannot be loaded: hello\.$"):
        read_image(f"{server}/rude")
    monkeypatch.setattr(image_module, "MAX_DOWNLOAD", 100)
    with pytest.raises(ImageError, match="larger than"):
        read_image(f"{server}/dog.png")
    with pytest.raises(ImageError, match=r"cannot be loaded: .*refused"):
        read_image("http://127.0.0.1:9/dog.png")
    for bad in ("http://", "http://[x", "http://a b/c"):
        with pytest.raises(ImageError, match="cannot be loaded"):
            read_image(bad)


def test_a_server_that_never_ends(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_module, "LONGEST", 0.3)
    with pytest.raises(ImageError, match=r"/drip: not loaded within 0\.3 s; download it"):
        read_image(f"{server}/drip")


def test_silent_server(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.setattr(image_module, "TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(ImageError, match=r"no answer within 0\.2 s|timed out"):
            read_image(f"http://127.0.0.1:{port}/dog.jpg")


# --------------------------------------------------------------------------------------------- letterbox


@pytest.mark.parametrize(
    ("image_size", "size", "resized", "top", "left"),
    [
        ((576, 768), (416, 416), (312, 416), 52, 0),
        ((512, 773), (416, 416), (275, 416), 70.5, 0),
        ((100, 50), (64, 64), (64, 32), 0, 16),
        ((64, 64), (64, 96), (64, 64), 0, 16),
        ((1, 1000), (32, 32), (1, 32), 15.5, 0),
        ((32, 32), (32, 32), (32, 32), 0, 0),
    ],
)
def test_fit(
    image_size: tuple[int, int], size: tuple[int, int], resized: tuple[int, int], top: float, left: float
) -> None:
    assert Letterbox.fit(image_size, size, "darknet") == Letterbox(image_size, size, resized, top, left)
    assert Letterbox.fit(image_size, size) == Letterbox(image_size, size, resized, int(top), int(left))


@pytest.mark.parametrize("mode", ["torch", "darknet"])
def test_letterbox_fills_the_rest_with_grey(mode: Any) -> None:
    image = torch.full((3, 20, 40), 200, dtype=torch.uint8)
    boxed, fit = letterbox(image, (64, 64), mode)
    assert (boxed.dtype, boxed.shape) == (torch.float32, (3, 64, 64))
    assert (fit.resized, fit.top) == ((32, 64), 16)
    assert torch.equal(boxed[:, :16], torch.full((3, 16, 64), 0.5))
    assert torch.equal(boxed[:, 48:], torch.full((3, 16, 64), 0.5))
    torch.testing.assert_close(boxed[:, 16:47], torch.full((3, 31, 64), 200 / 255))


@pytest.mark.parametrize("shape", [(64, 64), (37, 91), (300, 200), (7, 500)])
def test_resampling_is_that_of_torchvision(shape: tuple[int, int]) -> None:
    image = torch.randint(0, 256, (3, *shape), dtype=torch.uint8)
    boxed, fit = letterbox(image, (64, 96))
    expected = resize(image, list(fit.resized), antialias=True).float() / 255
    top, left = int(fit.top), int(fit.left)
    inner = boxed[:, top : top + fit.resized[0], left : left + fit.resized[1]]
    assert torch.equal(inner, expected)


@pytest.mark.parametrize("mode", ["torch", "darknet"])
@pytest.mark.parametrize("shape", [(64, 64), (1, 1), (1, 9), (9, 1), (2, 500), (500, 2)])
def test_letterbox_of_any_shape_is_finite(mode: Any, shape: tuple[int, int]) -> None:
    image = torch.randint(0, 256, (3, *shape), dtype=torch.uint8)
    boxed, _ = letterbox(image, (64, 96), mode)
    assert 0 <= float(boxed.min()) <= float(boxed.max()) <= 1


@settings(deadline=None)
@given(
    st.integers(1, 2000),
    st.integers(1, 2000),
    st.sampled_from([(32, 32), (416, 416), (320, 608)]),
    st.booleans(),
)
def test_unmap_is_the_inverse(height: int, width: int, size: tuple[int, int], darknet: bool) -> None:
    """Boxes taken into the input by hand come back to the same pixels."""
    fit = Letterbox.fit((height, width), size, "darknet" if darknet else "torch")
    boxes = torch.tensor([[0.0, 0, width, height], [width / 4, height / 3, width / 2, height / 1.5]]).double()
    scale = torch.tensor([fit.resized[1] / width, fit.resized[0] / height] * 2)
    inside = boxes * scale + torch.tensor([fit.left, fit.top] * 2)
    fractions = inside / torch.tensor([size[1], size[0]] * 2)
    centred = torch.cat([(fractions[:, :2] + fractions[:, 2:]) / 2, fractions[:, 2:] - fractions[:, :2]], 1)
    torch.testing.assert_close(fit.unmap(centred), boxes, rtol=1e-5, atol=1e-3)


def test_unmap_clips() -> None:
    fit = Letterbox.fit((100, 200), (64, 64))
    boxes = torch.tensor([[0.5, 0.5, 5.0, 5.0], [0.5, 0.1, 0.2, 0.1]])
    assert fit.unmap(boxes).tolist() == [[0, 0, 200, 100], [pytest.approx(80), 0, pytest.approx(120), 0]]
    assert fit.unmap(torch.zeros(0, 4)).shape == (0, 4)


def test_turned_picture_with_a_tag_of_a_wrong_type(tmp_path: Path) -> None:
    entries = [(0x112, 3, 1, 6), (0x11A, 1, 1, 72)]  # orientation 6; a resolution of type BYTE
    tags = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + tags + bytes(8)
    Image.new("RGB", (30, 20)).save(tmp_path / "phone.jpg", exif=exif)
    assert read_image(tmp_path / "phone.jpg").shape == (3, 30, 20)
