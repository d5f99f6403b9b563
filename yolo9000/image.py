"""Reading pictures from anywhere.

Shapes: H, W height and width of the picture, C channels.
"""

from __future__ import annotations

import io
import os
import string
import threading
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any, Literal, TypeAlias, TypeGuard
from urllib.parse import quote, urlsplit, urlunsplit

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError
from torch import Tensor

from wordtree.textfile import is_pipe
from yolo9000 import __version__
from yolo9000.errors import ImageError
from yolo9000.letterbox import Letterbox, LetterboxMode, letterbox

__all__ = [
    "STDIN",
    "ImageSource",
    "Letterbox",
    "LetterboxMode",
    "is_encoded",
    "is_picture",
    "is_piped",
    "is_unread",
    "is_url",
    "letterbox",
    "orientation",
    "read_image",
    "source_name",
    "to_rgb",
    "undecodable",
    "unread_note",
    "upright",
    "waiting_for",
]

Encoded: TypeAlias = bytes | bytearray | memoryview | IO[bytes]
ImageSource: TypeAlias = str | os.PathLike[str] | Encoded | Image.Image | NDArray[Any] | Tensor

MAX_PIXELS = 178_956_970  # width × height; where Pillow, too, takes a picture for a decompression bomb
MAX_BYTES = 512 * 2**20  # of one file; no photo comes near it
MAX_DOWNLOAD = 64 * 2**20  # bytes from a URL
TIMEOUT = 20.0  # seconds without an answer before a URL is given up
LONGEST = 120.0  # seconds for a whole picture from a URL, however steadily it comes
STDIN = "-"  # the name of standard input
PATIENCE = 5.0  # seconds without a word before a pipe is said to give nothing


# Pillow's, of large pictures and odd metadata: we check. Once for all, and after everybody's own rules, since
# `catch_warnings` around each picture would take those of other threads, too.
warnings.filterwarnings("ignore", module=r"PIL\.", append=True)

JPEG = frozenset({".jpg", ".jpeg", ".jpe", ".jfif"})
# Pictures that not every Pillow opens: by how it was built, or with a plugin that is registered alone.
_UNSURE = (".avif", ".heic", ".heif", ".jxl", ".jp2", ".j2k", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf")
# What is taken for a picture in a folder or tar file; a file that is named is read whatever its ending.
PICTURES = JPEG | set(".png .apng .webp .gif .bmp .dib .tif .tiff .ppm .pgm .pbm .pnm".split()) | set(_UNSURE)


def read_image(source: ImageSource, name: str | None = None) -> Tensor:
    """Read one picture as RGB.

    Pillow decodes (torchvision's decoders are deprecated since 0.29, and some damaged PNG files end their
    process). The EXIF orientation is applied, an animation gives its first frame; for the rest see `to_rgb`.

    Args:
        source: A path, an http(s) URL, an encoded file's bytes or the file itself, open for reading bytes, a
            PIL image, a NumPy array [H, W, 3] (also [H, W], [H, W, 1 or 4]) or a torch tensor [3, H, W] (also
            [1 or 4, H, W]). Arrays and tensors are RGB, not BGR, uint8 0..255 or floating point 0..1.
        name: What errors call it; by default its `source_name`.

    Returns:
        Tensor [3, H, W] uint8, on the CPU or, for a tensor, where that tensor is.

    Raises:
        ImageError: Nothing there, no picture, damaged, cut off, without pixels, or too large; names the
            source.
    """
    name = name or source_name(source) or "image"
    if isinstance(source, Tensor):
        return _from_array(source, "CHW", name)
    if isinstance(source, np.ndarray):
        return _from_array(torch.from_numpy(_plain(source, name)), "HWC", name)
    if isinstance(source, Image.Image):
        return _guarded(lambda: _from_pil(source), name)
    data = _file_bytes(source, name) if is_encoded(source) else _read_bytes(source, name)
    if not data:
        raise ImageError(f"{name}: empty, 0 bytes; expected a picture.")
    return _guarded(lambda: _decode(data, name), name)


def source_name(source: ImageSource) -> str | None:
    """Name a source for messages and results: its path or URL; None for a picture in memory."""
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    # Of an image that PIL opened from a file, and of an open file, which may have a number in its place.
    name = getattr(source, "name" if is_encoded(source) else "filename", None)
    return name if isinstance(name, str) and name else None


def is_encoded(source: object) -> TypeGuard[Encoded]:
    """Tell the bytes of a file, or an open file, from a path and from pixels."""
    return isinstance(source, bytes | bytearray | memoryview) or hasattr(source, "seekable")


def is_url(source: object) -> bool:
    """Tell a web address from a path."""
    return isinstance(source, str) and source.lower().startswith(("http://", "https://"))


def is_picture(name: str) -> bool:
    """Tell by its name (without folders) whether a visible file is a picture that can be read here."""
    ending = os.path.splitext(name)[1].lower()  # noqa: PTH122  (ten times quicker than Path)
    if ending not in PICTURES or name.startswith("."):
        return False
    # Pillow is asked only where it matters: it then loads all that it has, which takes half a second.
    return ending not in _UNSURE or ending in Image.registered_extensions()


def is_unread(name: str) -> bool:
    """Tell by its name whether a visible file is a picture of a kind that Pillow does not open here."""
    return name.lower().endswith(_UNSURE) and not name.startswith(".") and not is_picture(name)


def unread_note(place: object, names: Sequence[str]) -> str:
    """What to say of the files in a place that `is_unread` found, at least one."""
    kinds = " ".join(sorted({Path(name).suffix.lower() for name in names}))
    files = f"{len(names):,} pictures are" if len(names) > 1 else "1 picture is"
    return (
        f"{place}: {files} of a kind that is not read here ({kinds}), such as {names[0]}: left out; "
        "convert to JPEG or PNG"
    )


def quoted(url: str) -> str:
    """A web address as the network has it: in ASCII, without spaces. What is quoted already stays.

    Raises:
        ValueError: No address.
    """
    parts = urlsplit(url.strip())
    host = parts.netloc if parts.netloc.isascii() else parts.netloc.encode("idna").decode()
    rest = (quote(part, string.punctuation, errors="surrogateescape") for part in parts[2:])
    return urlunsplit((parts.scheme, host, *rest))


def _file_bytes(source: Encoded, name: str) -> bytes:
    if isinstance(source, bytes | bytearray | memoryview):
        return bytes(source)
    try:
        if source.seekable():
            source.seek(0)  # as Pillow: what was just written is read, and read again
        data = source.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: closed
        raise ImageError(f"{name}: cannot be read: {error}.") from error
    if not isinstance(data, bytes):
        raise ImageError(f"{name}: reads {type(data).__name__}, expected bytes: open the file with 'rb'.")
    if len(data) > MAX_BYTES:
        raise ImageError(f"{name}: pictures may have up to {MAX_BYTES:,} bytes; this file has more.")
    return data


def camera_hint(source: object) -> str:
    """How to read a camera, for an error about a number; else nothing."""
    return f'; a camera is a text: yolo9000.sources.frames("{source}")' if isinstance(source, int) else ""


def _read_bytes(source: object, name: str) -> bytes:
    if not isinstance(source, str | os.PathLike):
        kinds = "a path, URL, bytes, open file, PIL image, NumPy array or torch tensor"
        many = isinstance(source, list | tuple)
        remedy = "; give the pictures of a list one by one" if many else camera_hint(source)
        raise ImageError(f"expected {kinds}, found {type(source).__name__}{remedy}.")
    if is_url(source):
        return _download(name)
    path = Path(source)
    try:
        if not path.is_file() and not path.is_fifo():
            folder = "is a folder, expected one picture: yolo9000.sources.frames reads what is in it"
            raise ImageError(f"{name}: {folder if path.is_dir() else 'no such file'}.")
        with waiting_for(path), path.open("rb") as stream:
            return _file_bytes(stream, name)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        raise ImageError(f"{name}: cannot be read: {error}.") from error


def is_piped(source: str | Path) -> bool:
    """Whether a source is standard input or another pipe: what comes out of it is not known in advance."""
    return source == STDIN or is_pipe(source)


@contextmanager
def waiting_for(source: str | Path) -> Iterator[None]:
    """Within the block, warn where a pipe gives nothing for a while; it may never, and waiting goes on.

    Args:
        source: See `is_piped`; what is no pipe keeps nobody waiting.
    """
    if not is_piped(source):
        yield
        return
    name = "standard input" if source == STDIN else source
    text = f"{name}: has given nothing for {PATIENCE:g} s; still waiting for what writes into it."
    timer = threading.Timer(PATIENCE, warnings.warn, (text,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _download(url: str) -> bytes:
    loaded: Future[bytes] = Future()

    def load() -> None:
        try:
            loaded.set_result(_load(url))
        except BaseException as error:
            loaded.set_exception(error)

    # Only a thread of its own can be given up in time: `TIMEOUT` begins anew with every byte that comes.
    threading.Thread(target=load, daemon=True).start()
    try:
        return loaded.result(LONGEST)
    except TimeoutError as error:
        raise ImageError(f"{url}: not loaded within {LONGEST:g} s; download it and pass the file.") from error


def _load(url: str) -> bytes:
    try:
        request = urllib.request.Request(quoted(url), headers={"User-Agent": f"yolo9000/{__version__}"})
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            data: bytes = response.read(MAX_DOWNLOAD + 1)
    except urllib.error.HTTPError as error:
        raise ImageError(f"{url}: the server answered {error.code} {_first_line(error.reason)}.") from error
    except TimeoutError as error:
        raise ImageError(f"{url}: no answer within {TIMEOUT:g} s.") from error
    except (OSError, HTTPException, ValueError) as error:  # URLError is an OSError
        reason = _first_line(getattr(error, "reason", error))
        raise ImageError(f"{url}: cannot be loaded: {reason}.") from error
    if len(data) > MAX_DOWNLOAD:
        raise ImageError(f"{url}: larger than {MAX_DOWNLOAD // 2**20} MiB; download it and pass the file.")
    return data


def _first_line(reason: object) -> str:
    """Of what urllib or a server says, without the stop at its end."""
    return str(reason).strip().partition("\n")[0].rstrip(".")


def _guarded(decode: Callable[[], Tensor], name: str) -> Tensor:
    """Run a decoder and turn what it raises into ImageError."""
    try:
        return decode()
    except UnidentifiedImageError as error:
        raise ImageError(f"{name}: {undecodable(error)}.") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name}: more than {MAX_PIXELS:,} pixels; make it smaller first.") from error
    except MemoryError as error:
        raise ImageError(f"{name}: needs more memory than there is; make it smaller first.") from error
    except ImageError:
        raise
    except Exception as error:  # each of Pillow's plugins has its own kinds
        raise ImageError(f"{name}: damaged or cut off: {undecodable(error)}.") from error


def undecodable(error: Exception) -> str:
    """Why Pillow cannot decode a picture, by the error it raised."""
    if isinstance(error, UnidentifiedImageError):
        return "not a picture in any known format (JPEG, PNG, WebP, GIF, BMP, TIFF, ...; convert HEIC)"
    return str(error) or type(error).__name__


def _decode(data: bytes, name: str) -> Tensor:
    with Image.open(io.BytesIO(data)) as image:  # reads no more than the header
        _check_size(image.height, image.width, name)
        return _from_pil(image)


_TURNS = {  # by EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = (5, 6, 7, 8)  # those by which width and height change places


def _from_pil(image: Image.Image) -> Tensor:
    _check_size(image.height, image.width, source_name(image) or "image")
    return torch.from_numpy(to_rgb(upright(image))).permute(2, 0, 1).contiguous()


def orientation(image: Image.Image, size: tuple[int, int] = (0, 0)) -> int:
    """How a picture must be turned to stand as people see it: its EXIF orientation, 1 (not at all) to 8.

    Args:
        image: The picture; its header is enough.
        size: Width and height it is known to have; 1 where that is so only as it is stored.
    """
    found = image.getexif().get(ExifTags.Base.Orientation, 1)
    stored = image.size == size != image.size[::-1]
    return 1 if found not in _TURNS or (stored and found in SIDEWAYS) else int(found)


def upright(image: Image.Image, size: tuple[int, int] = (0, 0)) -> Image.Image:
    """The picture turned by its `orientation`."""
    image.load()  # turns a TIFF, and takes the tag off it
    # Not ImageOps.exif_transpose, which writes all the tags anew and fails where one is of a wrong type.
    turn = _TURNS.get(orientation(image, size))
    return image if turn is None else image.transpose(turn)


def to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    """Pixels of a picture in any mode, the same for detection and for training.

    What is transparent is laid over white, as a viewer would show it. Grey of 16 or 32 bits is scaled to 8:
    white is 65535 in 16 bits; in 32 bits the first of 1 (floating point alone), 255 and 65535 of which no
    pixel is more than half as much again, else the brightest pixel.

    Returns:
        uint8 [H, W, 3], RGB.
    """
    if image.mode.startswith(("I", "F")):  # 16 or 32 bits a pixel, integer or float
        image = Image.fromarray(_to_8_bits(np.asarray(image)))
    elif image.has_transparency_data:
        # Pillow has no way from La (grey, multiplied by its alpha) but to LA.
        image = image.convert("LA" if image.mode == "La" else "RGBA").convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _to_8_bits(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """Scale deep grey pixels [H, W]; see `to_rgb`."""
    values = pixels.astype(np.float64)
    brightest = values.max(initial=0, where=np.isfinite(values))
    whites = (65535,) if pixels.itemsize == 2 else (1, 255, 65535)[pixels.dtype.kind != "f" :]
    white = next((white for white in whites if brightest <= 1.5 * white), brightest)  # resampling overshoots
    return np.clip(np.nan_to_num(values * (255 / white)).round(), 0, 255).astype(np.uint8)


def _plain(array: NDArray[Any], name: str) -> NDArray[Any]:
    """A copy that torch can take: no negative strides, native byte order, no dtype that torch lacks."""
    if array.dtype.kind not in "uif":
        raise ImageError(
            f"{name}: array of dtype {array.dtype}; expected uint8 0..255 or floating point 0..1."
        )
    dtype = array.dtype.newbyteorder("=") if array.itemsize <= 8 else np.float64  # a long double
    return np.array(array, dtype=dtype, order="C")


def _from_array(array: Tensor, layout: Literal["CHW", "HWC"], name: str) -> Tensor:
    """Bring numbers [H, W], [H, W, C] or [C, H, W] to uint8 [3, H, W]."""
    if array.layout != torch.strided or array.is_meta:
        raise ImageError(
            f"{name}: tensor of {array.layout} on {array.device}; expected a dense one that holds values."
        )
    shape, channel = tuple(array.shape), layout.index("C")
    if array.ndim == 2:
        array = array.unsqueeze(channel)
    if array.ndim != 3 or array.shape[channel] not in (1, 3, 4):
        other = array.ndim == 3 and array.shape[2 - channel] in (1, 3, 4)
        turn = {"HWC": "transpose(1, 2, 0)", "CHW": "permute(2, 0, 1)"}[layout]
        advice = f" Bring the channels into place with {turn}." if other else ""
        expected = {"HWC": "[H, W, 3] or [H, W]", "CHW": "[3, H, W] or [H, W]"}[layout]
        raise ImageError(f"{name}: shape {shape}; expected one picture, RGB {expected}.{advice}")
    array = array.movedim(channel, 0)
    _check_size(array.shape[1], array.shape[2], name)
    array = _to_uint8(array, name)
    if array.shape[0] == 4:
        alpha = array[3:].float() / 255
        array = (array[:3] * alpha + 255 * (1 - alpha)).round().to(torch.uint8)
    return array.expand(3, -1, -1).contiguous()


def _to_uint8(array: Tensor, name: str) -> Tensor:
    if array.dtype == torch.uint8:
        return array
    if not array.is_floating_point():
        raise ImageError(f"{name}: pixels are {array.dtype}; expected uint8 0..255 or floating point 0..1.")
    array = array.detach().float()  # torch finds no limits of 8-bit floats
    low, high = (float(value) for value in array.aminmax())
    if not (low >= -1e-3 and high <= 1 + 1e-3):  # room for what resampling overshoots; NaN fails, too
        raise ImageError(f"{name}: floating-point pixels from {low:g} to {high:g}; expected 0..1.")
    return (array * 255).round().clamp(0, 255).to(torch.uint8)


def _check_size(height: int, width: int, name: str) -> None:
    if height < 1 or width < 1:
        raise ImageError(f"{name}: {width} × {height} pixels; a picture needs at least one.")
    if height * width > MAX_PIXELS:
        raise ImageError(f"{name}: {width} × {height} pixels; at most {MAX_PIXELS:,}: shrink it first.")
