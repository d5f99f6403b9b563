"""Published weights, from a real server on localhost that does what servers and networks do."""

from __future__ import annotations

import http.server
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path

import pytest
import torch

from toys import conv, input_size, linear, region
from yolo9000 import YOLO9000, hub
from yolo9000.darknet.cfg import Cfg
from yolo9000.darknet.weights import file_sizes, save_weights
from yolo9000.errors import WeightsError
from yolo9000.hub import PUBLISHED, Published, cached, load_published
from yolo9000.network import Network

CFG = input_size(32) + conv(64, stride=2) + linear(28) + region(2, "1,1, 2,2, 3,3, 4,4")


class Server(http.server.ThreadingHTTPServer):
    """Serves `files`; `faults` says what goes wrong, one entry a request."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.faults: list[str] = []
        self.requests: list[tuple[str, str | None]] = []
        self.etag = '"1"'
        self.ranges = True

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/media"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.requests.append((self.path, self.headers["Range"]))
        fault = self.server.faults.pop(0) if self.server.faults else ""
        data = self.server.files.get(self.path.removeprefix("/media/"))
        if fault.isdecimal() or data is None:
            self.send_error(int(fault or 404))
            return
        start, asked = 0, self.headers["Range"]
        if asked and self.server.ranges and self.headers["If-Range"] == self.server.etag:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
        body = data[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        if fault != "no length":
            self.send_header("Content-Length", str(len(body)))
        if self.server.etag:
            self.send_header("ETag", self.server.etag)
        self.send_header("Last-Modified", formatdate(0, usegmt=True))
        self.end_headers()
        if fault in ("cut", "reset"):
            body = body[: len(body) // 2]
        self.wfile.write(body)
        if fault == "reset":  # a server that dies: no orderly end of the stream
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server) -> Path:
    """An empty cache, a mirror, and a small entry whose weights the server has."""
    (tmp_path / "small.cfg").write_text(CFG)
    (tmp_path / "coco.names").write_text("a\nb\n")
    monkeypatch.setitem(PUBLISHED, "small", Published(str(tmp_path / "small.cfg"), "small.weights", "small"))
    monkeypatch.setenv("YOLO9000_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("YOLO9000_MIRROR", server.address + "/")
    monkeypatch.delenv("YOLO9000_OFFLINE", raising=False)
    monkeypatch.setattr(hub, "PAUSES", (0.0, 0.0, 0.0))
    torch.manual_seed(0)
    network = Network(Cfg.load(tmp_path / "small.cfg"))
    save_weights(network, tmp_path / "small.weights")
    server.files["small.weights"] = (tmp_path / "small.weights").read_bytes()
    return tmp_path / "cache"


def loaded(network: Network, cache: Path, server: Server) -> bool:
    """Whether exactly what the server has was loaded, and is kept with nothing half done beside it."""
    save_weights(network, cache.parent / "again.weights")
    assert (cache / "small.weights").read_bytes() == server.files["small.weights"]
    assert sorted(p.name for p in cache.iterdir() if not p.name.endswith(".lock")) == ["small.weights"]
    return (cache.parent / "again.weights").read_bytes() == server.files["small.weights"]


def test_first_use_downloads_and_later_ones_do_not(cache: Path, server: Server) -> None:
    seen: list[tuple[int, int]] = []
    assert cached("small") is None
    assert loaded(
        load_published("small", report=lambda done, total: seen.append((done, total))), cache, server
    )
    size = len(server.files["small.weights"])
    assert seen[-1] == (size, size)
    assert cached("small") == cache / "small.weights"
    assert loaded(load_published("small"), cache, server)
    assert loaded(load_published("small", offline=True), cache, server)
    assert server.requests == [("/media/small.weights", None)]


def test_cut_connections_are_resumed(cache: Path, server: Server) -> None:
    server.faults = ["cut", "reset", "cut"]
    assert loaded(load_published("small"), cache, server)
    asked = [0 if start is None else int(start[6:-1]) for _, start in server.requests]
    assert len(asked) >= 3
    assert asked == sorted(asked)
    assert asked[1] == len(server.files["small.weights"]) // 2


def test_what_came_is_kept_for_the_next_process(cache: Path, server: Server) -> None:
    server.faults = ["cut"] * 4
    with pytest.raises(WeightsError, match=r"bytes are kept for the next try.*By hand"):
        load_published("small")
    kept = (cache / "small.weights.part").stat().st_size
    assert kept > len(server.files["small.weights"]) * 0.9
    assert loaded(load_published("small"), cache, server)
    assert server.requests[-1] == ("/media/small.weights", f"bytes={kept}-")


@pytest.mark.parametrize("way", ["no ranges", "other version"])
def test_parts_that_cannot_be_continued_are_fetched_anew(cache: Path, server: Server, way: str) -> None:
    server.faults = ["cut", "503", "503", "503"]
    with pytest.raises(WeightsError, match="503"):
        load_published("small")
    server.ranges = way != "no ranges"
    if way == "other version":
        other = bytearray(server.files["small.weights"])
        other[-1] ^= 1
        server.etag, server.files["small.weights"] = '"2"', bytes(other)
    assert loaded(load_published("small"), cache, server)


def test_a_weak_tag_does_not_say_that_halves_belong_together(cache: Path, server: Server) -> None:
    server.etag, server.faults = 'W/"1"', ["cut"] * 4
    with pytest.raises(WeightsError, match="connection ended"):
        load_published("small")
    assert all(start is None for _, start in server.requests)
    assert loaded(load_published("small"), cache, server)


@pytest.mark.parametrize("etag", ["", '"1"'])
def test_a_server_that_does_not_say_how_much(cache: Path, server: Server, etag: str) -> None:
    server.etag = etag
    server.faults = ["no length"]
    assert loaded(load_published("small"), cache, server)


@pytest.mark.parametrize(
    ("codes", "requests"), [(["404"], 1), (["403"], 1), (["500", "503", "429", "502"], 4)]
)
def test_refusals(cache: Path, server: Server, codes: list[str], requests: int) -> None:
    server.faults = list(codes)
    with pytest.raises(WeightsError, match=rf"small: .*{codes[-1]}.*By hand: download {server.address}"):
        load_published("small")
    assert len(server.requests) == requests


def test_a_page_instead_of_weights_is_refused_before_it_is_read(cache: Path, server: Server) -> None:
    server.files["small.weights"] = b"<html>Gone</html>"
    with pytest.raises(WeightsError, match=r"has 17 bytes .*, expected 15,\d+ or 15,\d+"):
        load_published("small")
    assert not list(cache.glob("small.weights*"))


@pytest.mark.parametrize("change", ["longer", "shorter"])
def test_wrong_sizes_without_a_length(cache: Path, server: Server, change: str) -> None:
    good = server.files["small.weights"]
    server.files["small.weights"] = good + b"12345678" if change == "longer" else good[:-8]
    server.faults = ["no length"] * 8
    with pytest.raises(WeightsError, match="connection ended after"):
        load_published("small")
    assert cached("small") is None
    assert not (cache / "small.weights").exists()


def test_damaged_content_is_not_used_and_not_kept(cache: Path, server: Server) -> None:
    good = server.files["small.weights"]
    for bad in (b"\xff" * 4, b"\0\0\xc0\x7f"):  # both NaN
        server.files["small.weights"] = good[:400] + bad + good[404:]
        with pytest.raises(WeightsError, match=r"damaged: the network's weights hold NaN"):
            load_published("small")
        assert not list(cache.glob("small.weights*"))
    server.files["small.weights"] = b"\0\0\xff\x7f" + good[4:]
    with pytest.raises(WeightsError, match=r"damaged: .*version"):
        load_published("small")
    server.files["small.weights"] = good
    assert loaded(load_published("small"), cache, server)


def test_a_damaged_cache_is_filled_again(cache: Path, server: Server) -> None:
    load_published("small")
    (cache / "small.weights").write_bytes(b"short")
    with pytest.raises(WeightsError, match=r"has 5 bytes, expected 15,\d+, and downloads are switched off"):
        load_published("small", offline=True)
    assert loaded(load_published("small"), cache, server)


def test_offline(cache: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("YOLO9000_OFFLINE", "1")
    for offline in (None, True):
        with pytest.raises(WeightsError, match="is not there, and downloads are switched off"):
            load_published("small", offline=offline)
    assert not server.requests
    assert loaded(load_published("small", offline=False), cache, server)


def test_addresses(cache: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.files["other/small.weights"] = server.files["small.weights"]
    assert loaded(load_published("small", mirror=f"{server.address}/other"), cache, server)
    (cache / "small.weights").unlink()
    for bad, message in (("nonsense", "is no address"), ("http://127.0.0.1:9", "cannot be downloaded")):
        with pytest.raises(WeightsError, match=message):
            load_published("small", mirror=bad)
    monkeypatch.delenv("YOLO9000_MIRROR")
    with pytest.raises(WeightsError, match=r"download https://pjreddie.com/media/files/small.weights"):
        load_published("small", offline=True)


def test_a_cache_that_cannot_be_written(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (cache.parent / "file").write_text("")
    monkeypatch.setenv("YOLO9000_CACHE", str(cache.parent / "file" / "x"))
    with pytest.raises(WeightsError, match=r"cannot be written .*YOLO9000_CACHE"):
        load_published("small")


def test_processes_that_start_together_download_once(cache: Path, server: Server) -> None:
    script = (
        "from yolo9000.hub import PUBLISHED, Published, load_published\n"
        f"PUBLISHED['small'] = {PUBLISHED['small']!r}\n"
        "assert load_published('small', report=lambda done, total: None) is not None\n"
    )
    processes = [subprocess.Popen([sys.executable, "-c", script]) for _ in range(2)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    assert len(server.requests) == 1


def test_published_names_have_cfgs_and_sizes() -> None:
    """The sizes are those of the authors' files."""
    sizes = {name: file_sizes(Cfg.load(entry.cfg)) for name, entry in PUBLISHED.items()}
    assert sizes["yolov2"][0] == 203_934_260
    assert sizes["yolov2-tiny"][1] < sizes["yolo9000"][1] < sizes["yolov2"][1]


def test_command_line(cache: Path, server: Server, tmp_path: Path) -> None:
    """`detect --model yolov2-tiny` from nothing to a picture, as a process; then again without the server."""
    torch.manual_seed(0)
    network = Network(Cfg.load("yolov2-tiny"))
    save_weights(network, tmp_path / "yolov2-tiny.weights")
    server.files["yolov2-tiny.weights"] = (tmp_path / "yolov2-tiny.weights").read_bytes()
    command = [sys.executable, "-m", "yolo9000", "detect", "--demo", "--model", "yolov2-tiny", "--size", "64"]
    for more in ([], ["--offline"]):
        run = subprocess.run(
            [*command, *more, "--out", str(tmp_path / "out")],
            capture_output=True,
            text=True,
            env={**os.environ, "COLUMNS": "200"},
            check=False,
        )
        assert run.returncode == 0, run.stderr
        assert ("downloading yolov2-tiny.weights" in run.stderr) == (not more)
    assert len(server.requests) == 1
    assert len(list((tmp_path / "out").glob("*.jpg"))) == 3


def test_api(cache: Path, server: Server) -> None:
    model = YOLO9000.load("small", device="cpu")
    assert model.letterbox == "darknet"
    assert len(model.detect(torch.zeros(3, 32, 32, dtype=torch.uint8), threshold=0.0)) > 0
