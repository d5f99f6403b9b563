"""The command line as a user runs it: what it prints, writes and returns."""

from __future__ import annotations

import io
import json
import os
import re
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from toys import PETS, POOL, conv, input_size, linear, region
from wordtree.tree import WordTree
from yolo9000 import __version__
from yolo9000.checkpoint import load_model, read_metadata, save_model
from yolo9000.convert import darknet_cfg
from yolo9000.darknet.cfg import Cfg
from yolo9000.darknet.weights import load_weights, save_weights
from yolo9000.network import Network
from yolo9000.results import Detections

TRUNK = input_size(64) + conv(3, 1, "linear") + POOL * 5
REGION = region(5, "1,1, 2,2", softmax=1)
PLAIN = TRUNK + linear(20) + REGION
TIED = TRUNK + linear(15) + REGION + "tied=1\n"


def network(tied: bool = False) -> Network:
    """Sees an animal, perhaps a dog, wherever a 32-pixel cell holds white."""
    net = Network(Cfg.parse(TIED if tied else PLAIN), PETS)
    assert net.head is not None
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            parameter.fill_(1.0 if name.endswith("bn.weight") else 0.0)
            if name == "layers.0.conv.weight":
                parameter[range(3), range(3)] = 1.0
        net.head.box_weight[:, 4] = 20.0
        net.head.box_bias[0, 4], net.head.box_bias[1, 4] = -40.0, -100.0
        net.head.class_bias[:] = torch.tensor([2.0, 0.0, 0.0, 0.5, 0.0])
    return net.eval()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model and two pictures, current folder of the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    save_model(network(), "m.safetensors", metadata={"threshold": "0.3", "voc_map50": "0.12"})
    spot = np.zeros((64, 64, 3), np.uint8)
    spot[:32, :32] = 255
    Image.fromarray(spot).save("spot.png")
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save("dark.jpg")
    return tmp_path


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(home: Path, command_line: Run) -> Run:
    """The command line, in that folder."""
    return command_line


def test_table_and_picture(run: Run, home: Path) -> None:
    code, out, err = run("detect", "spot.png", "-m", "m.safetensors")
    assert (code, err) == (0, "")
    assert re.search(r"spot\.png\s+64 × 64\s+1 detection\s+→ out/spot\.png", out)
    assert re.search(r"pug\s+0\.55\s+0, 0, 32, 32", out)
    assert Image.open(home / "out" / "spot.png").size == (320, 320)


def test_tree_shows_the_path_and_where_it_stops(run: Run) -> None:
    _, out, _ = run("detect", "spot.png", "-m", "m.safetensors", "--tree", "--hier-threshold", "0.7")
    lines = [line.strip() for line in out.splitlines() if line.strip()]
    assert lines[1].startswith("● animal  score 0.88  objectness 1.00  box 0, 0, 32, 32")
    assert lines[2:] == ["animal  0.88", "└── dog  0.55  not sure enough"]
    _, out, _ = run("detect", "spot.png", "-m", "m.safetensors", "--tree", "--depth", "0")
    assert out.splitlines()[-1].strip() == "└── dog  0.55  deeper than asked for"


@pytest.mark.parametrize("target", ["/proc/x.tree", "file/x.tree", "folder.tree"])
def test_a_file_that_cannot_be_written_is_told_by_its_name(run: Run, home: Path, target: str) -> None:
    (home / "file").write_text("no folder")
    (home / "folder.tree").mkdir()
    (home / "own.csv").write_text("animal,\ndog,animal\n")
    code, _, err = run("build-tree", "--from", "own.csv", "-o", target)
    assert code == 1
    assert err.startswith(f"Error: {target}: ")
    assert len(err.splitlines()) == 1
    assert not list(home.glob(".*"))


def test_a_file_where_a_folder_should_be(run: Run, home: Path) -> None:
    """The message names the file, also where it is in a folder's path."""
    detected = ("detect", "spot.png", "-m", "m.safetensors", "--save")
    for command in (
        (*detected, "pictures", "-o", "dark.jpg/x"),
        (*detected, "jsonl", "-o", "dark.jpg"),
        (*detected, "yolo", "-o", "dark.jpg"),
        ("evaluate", "voc:none", "-m", "m.safetensors", "-o", "dark.jpg/x/y"),
        ("build-tree", "-o", "dark.jpg/my.tree"),
    ):
        code, _, err = run(*command)
        assert (code, len(err.splitlines())) == (1, 1)
        assert "dark.jpg is a file, expected a folder" in err
    (home / "runs").mkdir()
    for command in (("calibrate", "voc:none"), ("retree", "--tree", "voc")):
        code, _, err = run(*command, "m.safetensors", "-o", "runs")
        assert (code, err) == (
            1,
            "Error: runs: is a folder; expected the name of a model file (*.safetensors).\n",
        )


def test_json_is_all_of_standard_output(run: Run, home: Path) -> None:
    code, out, err = run("detect", "spot.png", "dark.jpg", "-m", "m.safetensors", "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert (code, err) == (0, "")
    assert [row["source"] for row in rows] == ["spot.png", "dark.jpg"]
    assert [len(row["detections"]) for row in rows] == [1, 0]
    assert not (home / "out").exists()
    run("detect", "spot.png", "-m", "m.safetensors", "--json", "--out", "drawn")
    assert (home / "drawn" / "spot.png").exists()


@pytest.mark.parametrize("batch", ["1", "2", "5"])
def test_unreadable_pictures_are_reported_and_the_rest_goes_on(run: Run, home: Path, batch: str) -> None:
    (home / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 not really")
    (home / "empty").mkdir()
    sources = ["spot.png", "broken.jpg", "[b]:dog:.jpg", "empty", "x*.png", "dark.jpg"]
    code, out, err = run("detect", *sources, "-m", "m.safetensors", "--json", "--batch", batch)
    assert code == 1
    assert [json.loads(line)["source"] for line in out.splitlines()] == ["spot.png", "dark.jpg"]
    reports = err.splitlines()
    assert len(reports) == 4
    for report, source in zip(reports, sources[1:5], strict=True):
        assert report.startswith(f"Error: {source}: ")  # also one that rich would show as a picture


def test_pictures_out_of_pipes(run: Run, home: Path) -> None:
    """They are neither read to be counted, nor before they are asked for."""
    ends = [os.pipe() for _ in range(2)]
    for _, write in ends:
        os.write(write, (home / "spot.png").read_bytes())
        os.close(write)
    names = [f"/dev/fd/{read}" for read, _ in ends]
    code, out, err = run("detect", *names, "dark.jpg", "-m", "m.safetensors", "--json")
    assert (code, err) == (0, "")
    assert [json.loads(line)["source"] for line in out.splitlines()] == [*names, "dark.jpg"]


def test_folders_and_patterns(run: Run, home: Path) -> None:
    folder = home / "photos"
    folder.mkdir()
    for name in ("b.png", "a.PNG", "note.txt"):
        (folder / name).write_bytes((home / "spot.png").read_bytes())
    for source in ("photos", "photos/*[gG]", str(folder / "*.[pP]*"), "**/[ab].*"):
        code, out, err = run("detect", source, "-m", "m.safetensors", "--json")
        assert (code, err) == (0, "")
        assert [Path(json.loads(line)["source"]).name for line in out.splitlines()] == ["a.PNG", "b.png"]


def test_pictures_never_overwrite_each_other_or_their_source(run: Run, home: Path) -> None:
    (home / "sub").mkdir()
    Image.new("RGB", (64, 64)).save("sub/spot.png")
    Image.new("RGB", (64, 64)).save("spot.bmp")
    before = (home / "spot.png").read_bytes()
    code, _, _ = run("detect", "spot.png", "sub/spot.png", "spot.bmp", "-m", "m.safetensors", "--out", ".")
    assert code == 0
    assert (home / "spot.png").read_bytes() == before
    assert {path.name for path in home.glob("spot*")} == {
        "spot.png",
        "spot-2.png",
        "spot-3.png",
        "spot-4.png",
        "spot.bmp",
    }


@pytest.mark.parametrize("command", ["detect -", "relabel -", "relabel list.jsonl"])
def test_sources_that_come_late_are_not_overwritten(
    run: Run, home: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """Nor by the picture of another that came before them."""
    (home / "out").mkdir()
    Image.new("RGB", (64, 64), "red").save("out/spot.png")
    before = (home / "out" / "spot.png").read_bytes()
    sources = ["spot.png", "out/spot.png"]
    _, found, _ = run("detect", *sources, "-m", "m.safetensors", "--json")
    Path("list.jsonl").write_text(found)
    lines = "\n".join(sources) if command == "detect -" else found
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(lines.encode()))))  # type: ignore[type-var]
    assert run(*command.split(), "-m", "m.safetensors", "--save", "pictures")[0] == 0
    assert (home / "out" / "spot.png").read_bytes() == before
    assert {path.name for path in (home / "out").iterdir()} == {"spot.png", "spot-2.png", "spot-3.png"}


def test_outputs_of_the_run_are_no_sources(run: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`find` may come to a folder that is being written into."""
    sources = ["spot.png", "out/crops/pug/spot-1.jpg", str(home / "out" / "spot.png"), "dark.jpg"]
    stream = io.BytesIO("\n".join(sources).encode())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(stream)))  # type: ignore[type-var]
    code, _, err = run("detect", "-", "-m", "m.safetensors", "--save", "pictures,crops,jsonl")
    errors = [line.partition(" is an output of this run") for line in err.splitlines()]
    assert (code, [error[0] for error in errors]) == (1, [f"Error: {name}:" for name in sources[1:3]])
    lines = Path("out/detections.jsonl").read_text().splitlines()
    assert [json.loads(line)["source"] for line in lines] == ["spot.png", "dark.jpg"]


def test_what_is_waited_for_is_not_read_ahead(run: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C would wait for a thread that waits; and what came before the pipe is told before it gives."""
    os.mkfifo("pipe.png")
    Path("list.txt").write_text("spot.png\npipe.png\n")
    told: list[str] = []

    def tell(console: object, found: Detections, **_: object) -> None:
        if not told:  # only now is there a picture in the pipe
            data = Path("dark.jpg").read_bytes()
            threading.Thread(target=Path("pipe.png").write_bytes, args=(data,), daemon=True).start()
        told.append(f"{found.source}, {threading.active_count()}")

    monkeypatch.setattr("yolo9000.detect.print_detections", tell)
    before = threading.active_count()
    assert run("detect", "list.txt", "-m", "m.safetensors")[0] == 0
    assert [text.split(",")[0] for text in told] == ["spot.png", "pipe.png"]
    assert told[0] == f"spot.png, {before + 1}"


def test_no_picture_named(run: Run) -> None:
    code, out, err = run("detect")
    assert (code, out) == (2, "")
    assert "yolo9000 detect --demo --tree" in err


def test_demo(run: Run, home: Path) -> None:
    code, out, _ = run("detect", "--demo", "-m", "m.safetensors", "--out", "seen")
    assert code == 0
    assert "dog.jpg" in out
    assert Image.open(home / "seen" / "dog.jpg").size == (768, 576)


def test_save_several_kinds(run: Run, home: Path) -> None:
    code, out, _ = run(
        "detect",
        "spot.png",
        "dark.jpg",
        "-m",
        "m.safetensors",
        "--save",
        "jsonl,csv",
        "-s",
        "crops",
        "-o",
        "all",
    )
    assert code == 0
    assert "→" not in out, "no pictures were asked for"
    names = {str(path.relative_to(home / "all")) for path in (home / "all").rglob("*.*")}
    assert names == {"detections.jsonl", "detections.csv", "crops/pug/spot-1.jpg"}
    code, _, err = run("detect", "spot.png", "-m", "m.safetensors", "--save", "xml")
    assert (code, "known are pictures, jsonl" in err) == (1, True)


def test_depth_on_the_command_line(run: Run) -> None:
    def labels(*arguments: str) -> list[str]:
        code, out, err = run("detect", "spot.png", "-m", "m.safetensors", "--json", *arguments)
        assert (code, err) == (0, "")
        return [row["label"] for row in json.loads(out)["detections"]]

    assert labels() == labels("--leaves") == ["pug"]
    assert labels("--depth", "1") == ["dog"]
    assert labels("--hier-threshold", "dog=0.9") == ["animal"]
    assert labels("--under", "animal") == ["pug"]
    assert labels("--under", "vehicle", "--under", "cat") == []
    assert labels("--not-under", "dog") == []
    assert labels("--threshold", "0.1", "--threshold", "dog=0.8") == []


@pytest.mark.parametrize(
    "wrong", [["--threshold", "dog=2"], ["--hier-threshold", "=0.5"], ["--threshold", "dog="]]
)
def test_wrong_thresholds(run: Run, wrong: list[str]) -> None:
    code, _, err = run("detect", "spot.png", "-m", "m.safetensors", *wrong)
    assert code == 2
    assert "NODE=number" in err


def test_relabel_is_what_detect_would_say(run: Run, home: Path) -> None:
    run("detect", "spot.png", "dark.jpg", "-m", "m.safetensors", "--save", "jsonl")
    for options in (["--depth", "1"], ["--hier-threshold", "0.7"], ["--leaves", "--under", "dog"], []):
        expected = run("detect", "spot.png", "dark.jpg", "-m", "m.safetensors", "--json", *options)
        assert run("relabel", "out/detections.jsonl", "-m", "m.safetensors", "--json", *options) == expected
    code, out, _ = run(
        "relabel", "out/detections.jsonl", "-m", "m.safetensors", "--depth", "1", "--save", "pictures"
    )
    assert code == 0
    assert re.search(r"dog\s+0\.55", out)
    assert Image.open(home / "out" / "spot.png").size == (320, 320)


def test_sigterm_finishes_what_is_written(run: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(
        "yolo9000.detect.print_detections", lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM)
    )
    assert run("detect", "spot.png", "dark.jpg", "-m", "m.safetensors", "--save", "coco") == (143, "", "")
    assert signal.getsignal(signal.SIGTERM) == before
    assert [
        image["file_name"] for image in json.loads(Path("out/coco_images.json").read_text())["images"]
    ] == ["spot.png"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_removes_a_file_that_is_half_written(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "x.yaml").write_text("animal: [cat, dog]\n")
    code = "import os, time\nfrom yolo9000 import cli\n"
    code += "os.fsync = lambda _: print('writing', flush=True) or time.sleep(60)\n"
    run = subprocess.Popen(
        [sys.executable, "-c", f"{code}cli.main()", "build-tree", "--from", "x.yaml", "-o", "x.tree"],
        cwd=tmp_path, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert run.stdout is not None
    assert b"writing\n" in run.stdout
    assert len(list(tmp_path.iterdir())) > 1
    run.send_signal(number)
    assert run.wait(60) == 128 + number
    run.stdout.close()
    assert [path.name for path in tmp_path.iterdir()] == ["x.yaml"]


def test_a_closed_terminal_finishes_what_is_written(home: Path) -> None:
    keyboard, terminal = os.openpty()
    run = subprocess.Popen(
        [sys.executable, "-m", "yolo9000.cli", "detect", "-", "-m", "m.safetensors", "--save", "coco"],
        stdin=subprocess.PIPE, stdout=terminal, stderr=terminal, start_new_session=True,
        preexec_fn=lambda: os.close(os.open(os.ttyname(1), os.O_RDWR)),  # it becomes the session's terminal
    )  # fmt: skip
    assert run.stdin is not None
    run.stdin.write(b"spot.png\n")
    run.stdin.flush()
    said = b""
    while b"pug" not in said:
        said += os.read(keyboard, 1000)
    os.close(terminal)
    os.close(keyboard)
    assert run.wait(60) == 128 + signal.SIGHUP
    run.stdin.close()
    assert len(json.loads(Path("out/coco.json").read_text())) == 1


def test_a_hangup_that_is_ignored_stays_so(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `nohup` does."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    monkeypatch.setattr(
        "yolo9000.detect.print_detections", lambda *_, **__: os.kill(os.getpid(), signal.SIGHUP)
    )
    try:
        assert run("detect", "spot.png", "dark.jpg", "-m", "m.safetensors", "--save", "coco") == (0, "", "")
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_relabel_of_standard_input(run: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("detect", "spot.png", "-m", "m.safetensors", "--save", "jsonl")
    command = ("relabel", "-", "-m", "m.safetensors", "--save", "jsonl")
    with Path("out/detections.jsonl").open() as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        code, _, err = run(*command)
    assert (code, "out/detections.jsonl: is read in this run" in err) == (1, True)
    monkeypatch.setattr(sys, "stdin", None)
    code, _, err = run(*command)
    assert (code, "it is closed" in err) == (1, True)


def test_relabel_does_not_write_over_what_it_reads(run: Run, home: Path) -> None:
    run("detect", "spot.png", "-m", "m.safetensors", "--save", "jsonl")
    before = Path("out/detections.jsonl").read_bytes()
    code, out, err = run("relabel", "out/detections.jsonl", "-m", "m.safetensors", "--save", "jsonl,csv")
    assert (code, out) == (1, "")
    assert err.startswith("Error: out/detections.jsonl: is read in this run")
    assert Path("out/detections.jsonl").read_bytes() == before
    command = ("relabel", "out/detections.jsonl", "-m", "m.safetensors", "--save", "jsonl", "--out", "new")
    assert run(*command)[0] == 0
    assert Path("new/detections.jsonl").read_bytes() == before


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1"])
def test_terminals_that_lack_letters(
    run: Run, home: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    Path("spot.png").rename("狗\udce9.png")
    printed = {}
    for form in ("--tree", "--json"):
        data = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(data, encoding))
        code, _, err = run("detect", "狗\udce9.png", "-m", "m.safetensors", "--save", "pictures", form)
        assert (code, err) == (0, "")
        printed[form] = data.getvalue().decode("ascii" if encoding == "ascii" else "latin-1")
    assert printed["--tree"].startswith(r"\u72d7\udce9.png  64")
    assert json.loads(printed["--json"])["source"] == "狗\udce9.png"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("form", ["--tree", "--json"])
def test_standard_output_that_is_full(run: Run, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    with Path("/dev/full").open("wb", buffering=0) as raw, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", io.TextIOWrapper(raw, write_through=True))  # type: ignore[type-var]
        code, _, err = run("detect", "spot.png", "-m", "m.safetensors", "--save", "csv", form)
    assert (code, err) == (1, "Error: No space left on device\n")


def test_relabel_of_other_things(run: Run, home: Path) -> None:
    run("detect", "spot.png", "-m", "m.safetensors", "--save", "jsonl")
    with Path("out/detections.jsonl").open("a") as stream:
        stream.write("\n{}\n")
    code, _, err = run("relabel", "out/detections.jsonl", "-m", "m.safetensors", "--depth", "1")
    assert (code, "out/detections.jsonl:3: expected an object" in err) == (1, True)
    code, _, err = run("relabel", "out/detections.jsonl", "--depth", "1")
    assert (code, "another tree" in err, "name the model" in err) == (1, True, True)
    code, _, err = run("relabel", "none.jsonl", "--depth", "1")
    assert (code, "none.jsonl: expected JSON Lines" in err) == (1, True)
    PETS.save("toy.json")
    Path("out/detections.jsonl").write_text(Path("out/detections.jsonl").read_text().splitlines()[0])
    (home / "spot.png").unlink()
    command = (
        "relabel",
        "out/detections.jsonl",
        "-m",
        "toy.json",
        "--leaves",
        "--save",
        "crops,csv",
        "--json",
    )
    code, printed, err = run(*command)
    assert (code, "spot.png: no such file" in err) == (1, True)
    assert (printed.count("\n"), Path("out/detections.csv").read_text().count("\n")) == (1, 2)


def test_a_video_from_the_command_line(run: Run, home: Path) -> None:
    from yolo9000.video import VideoWriter, read_video

    with VideoWriter(home / "clip.mp4") as writer:
        for k in range(5):
            writer.write(
                Image.open("spot.png" if k % 2 else "dark.jpg").resize((64, 64)).convert("RGB"), k / 5
            )
    code, out, err = run(
        "detect", "clip.mp4", "-m", "m.safetensors", "--batch", "2", "--save", "pictures,jsonl"
    )
    assert (code, err) == (0, "")
    assert [line.split()[1:4] for line in out.splitlines() if "detection" in line] == [
        [f"{k / 5:.2f}", "s", str(k % 2)] for k in range(5)
    ]
    drawn = list(read_video("out/clip.mp4"))
    assert [tuple(frame.image.shape[1:]) for frame in drawn] == [(320, 320)] * 5
    code, again, _ = run(
        "relabel", "out/detections.jsonl", "-m", "m.safetensors", "--depth", "0", "--save", "crops"
    )
    assert code == 0
    assert "animal 0.88" in again
    lines = Path("out/detections.jsonl").read_text().splitlines(keepends=True)
    Path("back.jsonl").write_text("".join(lines[::-1]))
    code, _, err = run("relabel", "back.jsonl", "-m", "m.safetensors", "--save", "crops", "--out", "back")
    assert (code, err) == (0, "")
    assert {path.name for path in (home / "out/crops/animal").iterdir()} == {
        "clip_000001-1.jpg", "clip_000003-1.jpg",
    }  # fmt: skip


@pytest.mark.slow
def test_standard_input(home: Path) -> None:
    """A real pipe."""
    command = [sys.executable, "-m", "yolo9000.cli", "detect", "-", "-m", "m.safetensors", "--json"]
    data = (home / "spot.png").read_bytes()
    done = subprocess.run(command, input=data, capture_output=True, check=True)
    (row,) = [json.loads(line) for line in done.stdout.splitlines()]
    assert (row["source"], len(row["detections"])) == (None, 1)


def test_tree_draw(run: Run, home: Path) -> None:
    PETS.save("toy.json")
    run("detect", "spot.png", "-m", "m.safetensors", "--save", "jsonl")
    for name, begin in (("a.svg", b"<svg"), ("a.png", b"\x89PNG"), ("a.html", b"<!DOCTYPE html>")):
        code, out, err = run("tree", "draw", "--tree", "toy.json", "--under", "dog", "-o", name)
        assert (code, out, err) == (0, f"wrote {name}\n", "")
        assert (home / name).read_bytes().startswith(begin)
    run("tree", "draw", "--tree", "toy.json", "--scores", "out/detections.jsonl", "-o", "scores.svg")
    text = (home / "scores.svg").read_text()
    assert re.findall(r"(\w+) <tspan[^>]*>([^<]*)", text) == [
        ("animal", "0.88"),
        ("dog", "0.55"),
        ("pug", "0.55"),
    ]
    for name in ("cat", "pug"):
        (home / "in/train" / PETS.wnids[PETS.index(name)]).mkdir(parents=True)
        (home / "in/train" / PETS.wnids[PETS.index(name)] / "a.JPEG").write_bytes(b"not opened")
    code, _, err = run("tree", "draw", "--tree", "toy.json", "--counts", "imagenet:in", "-o", "counts.svg")
    assert (code, err) == (0, "")
    found = dict(re.findall(r"(\w+) <tspan[^>]*>([^<]*)", (home / "counts.svg").read_text()))
    assert found == {"animal": "2", "cat": "1", "dog": "1", "pug": "1"}
    assert run("tree", "draw", "--tree", "toy.json", "-o", "a.pdf")[0] == 2
    assert run("tree", "draw", "--tree", "toy.json", "-o", "a.svg", "--counts", "x", "--scores", "y")[0] == 2


def test_retree(run: Run, home: Path) -> None:
    WordTree([-1, -1, 0], ["n0", "new", "n3"], ["animal", "chair", "dog"]).save("new.csv")
    code, out, err = run("retree", "m.safetensors", "--tree", "new.csv", "-o", "new.safetensors")
    assert (code, err) == (0, "")
    assert [line.split()[:2] for line in out.splitlines()] == [
        ["stayed", "2"], ["moved", "0"], ["came", "1"], ["went", "3"], ["wrote", "new.safetensors"],
    ]  # fmt: skip
    code, out, _ = run("detect", "spot.png", "-m", "new.safetensors", "--json")
    assert [row["label"] for row in json.loads(out)["detections"]] == ["dog"]


@pytest.mark.parametrize("name", ["toy.weights", "toy.backup", "toy_10000", "toy.conv.2"])
def test_darknet_cfg_and_weights(run: Run, home: Path, name: str) -> None:
    """Darknet calls its weights what it likes; the endings of ours are read in either case."""
    PETS.save(home / "toy.tree")
    (home / "toy.cfg").write_text(PLAIN + "tree=toy.tree\n")
    save_weights(network(), home / name)
    code, out, _ = run("detect", "spot.png", "--cfg", "toy.cfg", "--weights", name, "--json")
    assert code == 0
    assert [row["label"] for row in json.loads(out)["detections"]] == ["pug"]
    assert run("convert", name, "toy.SafeTensors", "--cfg", "toy.cfg") == (0, "toy.SafeTensors\n", "")
    assert run("detect", "spot.png", "-m", "toy.SafeTensors", "--json")[1] == out
    plain = ("--precision", "fp32", "-d", "voc:none", "-o", "run")  # of bf16 Lightning would speak
    code, out, err = run("train", "-m", "toy.SafeTensors", "-w", name, *plain)
    assert (code, out) == (1, "")
    assert f"{name}: 2 of 2 convolutions (101 values)" in err  # after what Lightning says of bf16


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["detect", "spot.png", "-m", "none.safetensors"], "neither a model file nor a known name"),
        (["detect", "spot.png", "-w", "toy.weights"], "weights together with their cfg"),
        (["detect", "spot.png", "-m", "spot.png"], "expected a model file"),
        (["detect", "spot.png", "-m", "m.safetensors", "--size", "100"], "the nearest is 96"),
        (["detect", "spot.png", "-m", "m.safetensors", "--decoder", "best"], "'best'"),
        (["detect", "spot.png", "-m", "m.safetensors", "--device", "toaster"], "toaster"),
        (["detect", "spot.png", "-m", "m.safetensors", "--out", "m.safetensors"], "cannot be written"),
        (["convert", "m.safetensors", "m.onnx"], r"expected \*\.weights to \*\.safetensors"),
        (["convert", "toy.weights", "new.safetensors"], "add --cfg"),
        (["convert", "toy.backup", "new.safetensors"], "add --cfg"),
        (["convert", "toy.onnx", "new.safetensors"], r"expected \*\.weights to \*\.safetensors"),
        (["convert", "toy.cfg", "new.safetensors", "--cfg", "toy.WEIGHTS"], "seem to be swapped"),
        (["detect", "spot.png", "-m", "toy.WEIGHTS"], "loaded together"),
        (["convert", "m.safetensors", "m.weights", "--half"], "--cfg and --half are for"),
    ],
)
def test_errors_are_one_red_line(run: Run, arguments: list[str], message: str) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (1, "")
    assert re.fullmatch(rf"Error: .*{message}.*\n", err)


@pytest.mark.parametrize(
    "arguments", [["detect", "spot.png", "--threshold", "2"], ["detekt"], ["convert", "a"]]
)
def test_misuse_is_exit_code_two(run: Run, arguments: list[str]) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert "Traceback" not in err


def test_debug_shows_the_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("YOLO9000_DEBUG", "1")
    with pytest.raises(Exception, match="neither a model file"):
        run("detect", "spot.png", "-m", "none.safetensors")
    monkeypatch.setenv("YOLO9000_DEBUG", "0")
    with pytest.raises(Exception, match="neither a model file"):
        run("--debug", "detect", "spot.png", "-m", "none.safetensors")


@pytest.mark.parametrize("tied", [False, True])
def test_convert_there_and_back(run: Run, home: Path, tied: bool) -> None:
    """A model trained here computes the same as darknet weights, under darknet's own batch norm formula."""
    net = network(tied)
    for name, buffer in net.named_buffers():
        if name.endswith("running_var"):
            buffer.copy_(torch.tensor([0.0, 1e-4, 3.0]))
    save_model(net, "trained.safetensors")
    code, out, _ = run("convert", "trained.safetensors", "toy.weights")
    written = ["toy.weights", "toy.cfg", "toy.tree", "toy.names", "toy.labels"]
    assert (code, out.split()) == (0, written)
    cfg = Cfg.load(home / "toy.cfg")
    assert "tied" not in cfg.text
    darknet = Network(cfg)
    load_weights(darknet, home / "toy.weights")
    assert darknet.tree.wnids == PETS.wnids
    image = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(darknet.eval()(image), net(image), rtol=1e-4, atol=1e-3)
    code, out, _ = run("convert", "toy.weights", "again.safetensors", "--cfg", "toy.cfg", "--half")
    assert (code, out) == (0, "again.safetensors\n")
    assert load_model(home / "again.safetensors")[0].batchnorm == "darknet"
    assert (home / "again.safetensors").stat().st_size > 0


@pytest.mark.parametrize("blocked", ["toy.weights", "toy.cfg", "toy.labels"])
def test_convert_to_darknet_writes_all_or_nothing(run: Run, home: Path, blocked: str) -> None:
    old = [home / name for name in ("toy.weights", "toy.cfg", "toy.tree") if name != blocked]
    for path in old:
        path.write_text("old")
    (home / blocked).mkdir()
    before = sorted(home.iterdir())
    code, out, err = run("convert", "m.safetensors", "toy.weights")
    assert (code, out) == (1, "")
    assert f"{blocked}: is a folder, expected the name of a file" in err
    assert sorted(home.iterdir()) == before
    assert [path.read_text() for path in old] == ["old", "old", "old"][: len(old)]


def test_darknet_cfg_keeps_what_is_not_tied() -> None:
    cfg = Cfg.parse(PLAIN + "# a comment\n")
    assert darknet_cfg(cfg) == cfg.text
    for tied in (
        TIED,
        TIED + "tied=1\n ti ed = 0\n",
    ):  # the first counts, and the others must not take its place
        again = Cfg.parse(darknet_cfg(Cfg.parse(tied)))
        assert (again.layers[-2].options["filters"], "tied" in again.layers[-1].options) == ("20", False)


def test_models(run: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("yolo9000.model.packaged_models", lambda: {"tiny": home / "m.safetensors"})
    code, out, _ = run("models")
    assert code == 0
    assert re.search(r"classes\s+5", out)
    assert re.search(r"input\s+64 × 64 pixels", out)
    assert re.search(r"voc map50\s+0\.12", out)
    assert read_metadata(home / "m.safetensors")["voc_map50"] == "0.12"
    monkeypatch.setenv("COLUMNS", "40")
    assert {"yolov2", "yolov2-voc", "yolov2-tiny"} <= set(run("models")[1].split())


def test_version_and_help(run: Run) -> None:
    assert run("--version")[:2] == (0, f"yolo9000 {__version__}\n")
    code, out, _ = run("--help")
    assert code == 0
    assert "yolo9000 detect --demo --tree" in out
    assert all(name in out for name in ("detect", "convert", "models", "build-tree", "tree"))
    assert "--hier-threshold" in run("detect", "--help")[1]
    assert run("tree", "--help")[0] == 0


def test_help_is_true(run: Run) -> None:
    from yolo9000.datasets import _READERS

    words = " ".join(re.findall(r"[\w:]+", run("relabel", "--help")[1]))
    assert words.count("of relabel: as detected") == 3  # those of detect are not its own
    assert set(_READERS) <= set(re.findall(r"[\w-]+", run("data", "check", "--help")[1]))


HEAVY = (
    "torch",
    "torchvision",
    "numpy",
    "PIL",
    "nltk",
    "networkx",
    "h5py",
    "lightning",
    "yaml",
    "safetensors",
)


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys, yolo9000.cli as cli\nsys.argv = ['yolo9000', '--help']\n"
        "try: cli.main()\nexcept SystemExit: pass\n"
        "print('MODULES', *sorted(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.partition("MODULES")[2].split())
    assert not loaded.intersection(HEAVY)
    assert "yolo9000.cli" in loaded


@pytest.mark.slow
def test_help_is_quick() -> None:
    """Half a second of processor time, best of five: the machine may be busy with other things."""
    times = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "yolo9000.cli", "--help"], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(times) < 0.5


@pytest.mark.slow
def test_broken_pipe_is_no_traceback(home: Path) -> None:
    command = f"{sys.executable} -m yolo9000.cli detect --json -m m.safetensors spot.png spot.png | true"
    done = subprocess.run(
        command, shell=True, capture_output=True, text=True, check=False, env=dict(os.environ)
    )
    assert "Traceback" not in done.stderr


def test_names_give_no_orders_to_the_terminal(run: Run, home: Path) -> None:
    """Neither in results nor in errors. (Names of classes are one line of text in every tree.)"""
    named = home / "\x1b[31mspot\x9b1m.png"
    named.write_bytes((home / "spot.png").read_bytes())
    code, out, err = run("detect", named.name, "\x1b[2J.png", "-m", "m.safetensors")
    assert code == 1
    assert "␛[31mspot\ufffd1m.png  " in out
    assert "Error: ␛[2J.png: " in err
    assert "→ out/␛[31mspot\ufffd1m.png" in out
    code, _, err = run("detect", "spot.png", "-m", "\x1b[2J.safetensors")
    assert code == 1
    assert "␛[2J.safetensors" in err
