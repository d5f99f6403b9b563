"""Reading cfg files, planning their layers, and saying what is wrong with them."""

from __future__ import annotations

import random
import warnings
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yolo9000.checkpoint import load_darknet
from yolo9000.darknet.cfg import KNOWN_KEYS, MAX_BYTES, Cfg, builtin_cfgs
from yolo9000.darknet.plan import MAX_PARAMETERS, LayerPlan, check_limits, plan_layers
from yolo9000.errors import CfgError, CfgWarning, ConfigError
from yolo9000.network import Network

NET = "[net]\nwidth=64\nheight=32\nchannels=3\n"
CONV = "[convolutional]\nfilters=8\nsize=3\nstride=1\npad=1\nactivation=leaky\n"
LAST = "[convolutional]\nfilters=14\nactivation=linear\n"
REGION = "[region]\nanchors=1,2, 3,4\nnum=2\nclasses=2\n"


def test_darknet_syntax() -> None:
    cfg = Cfg.parse(
        "# head\r\n\r\n  [network]  \r\n; other comment\r\nwidth = 64\r\nheight=32  \r\nchannels =3\r\n"
        "[ conv ]\nfilters\t=\t8   # eight\nfilters=9\nactivation=leaky ; as ever\n"
        "si ze=3\n[ma x]\n[soft]\n\x1a"
    )
    assert [section.name for section in cfg.sections] == ["net", "convolutional", "maxpool", "softmax"]
    assert (cfg.width, cfg.height, cfg.channels) == (64, 32, 3)
    conv = cfg.layers[0]
    assert conv.get_int("filters") == 8  # the first of two counts, as in darknet
    assert conv.get_str("activation") == "leaky"
    assert conv.lines == {"filters": 9, "activation": 11, "size": 12}
    assert Cfg.parse(cfg.text) == cfg


def test_values_keep_hash_signs_without_a_space() -> None:
    cfg = Cfg.parse(NET + "[region]\ntree=/data/c#/my tree.tree\n")
    assert cfg.layers[0].get_str("tree") == "/data/c#/my tree.tree"


def test_typed_values() -> None:
    section = Cfg.parse(NET + "[cost]\nscale=.5\nratio=1e-3\nnoobj=-2\nthresh=1, 2.5,3\n").layers[0]
    assert section.get_float("scale") == 0.5
    assert section.get_float("ratio") == 0.001
    assert section.get_int("noobj") == -2
    assert section.get_floats("thresh") == (1, 2.5, 3)
    assert section.get_int("absent", 7) == 7
    assert section.get_bool("absent") is False
    with pytest.raises(CfgError, match=r"line 5: \[cost\] absent: is missing. Add a line `absent=...`"):
        section.get_int("absent")


def test_region_of_the_builtin_yolo9000() -> None:
    region = Cfg.load("yolo9000").region
    assert region is not None
    assert region.anchors == ((0.77871, 1.14074), (3.00525, 4.31277), (9.22725, 9.61974))
    assert (region.classes, region.num, region.coords, region.tied) == (9418, 3, 4, False)
    assert (region.softmax, region.bias_match, region.rescore, region.absolute) == (True, True, True, True)
    assert (region.object_scale, region.noobject_scale, region.class_scale, region.coord_scale) == (
        5,
        1,
        1,
        1,
    )
    assert (region.thresh, region.jitter, region.tree) == (0.6, 0.2, "9k.tree")


def test_region_defaults_are_darknets() -> None:
    region = Cfg.parse(NET + "[region]\nanchors=1,2\n").region
    assert region is not None
    assert (region.classes, region.num, region.thresh, region.jitter) == (20, 1, 0.5, 0.2)
    assert (region.softmax, region.rescore, region.bias_match, region.object_scale) == (
        False,
        False,
        False,
        1,
    )


def test_classifier_has_no_region() -> None:
    assert Cfg.load("darknet19").region is None


def test_unknown_keys_are_listed() -> None:
    cfg = Cfg.parse(NET + "widht=3\n" + CONV + "sise=3\n")
    assert cfg.unknown == ("line 5: [net] widht", "line 12: [convolutional] sise")
    for name in builtin_cfgs():
        assert Cfg.load(name).unknown == (), name


def test_unknown_keys_warn_when_a_network_is_built() -> None:
    with pytest.warns(CfgWarning, match=r"misspelled\?\): line 7: \[convolutional\] sise"):
        plan = Network(Cfg.parse(NET + CONV.replace("size=3", "sise=3") + "[avgpool]\n")).plans[0]
    assert plan.kernel == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Network(Cfg.load("darknet19"))


def test_unknown_keys_warn_before_what_is_wrong_without_them(tmp_path: Path) -> None:
    path = tmp_path / "x.cfg"
    path.write_text(NET + LAST + REGION.replace("classes", "Classes"))
    with pytest.warns(CfgWarning, match=r"\[region\] Classes"), pytest.raises(CfgError, match="classes=20"):
        load_darknet(path, tmp_path / "x.weights")


def test_keys_that_change_darknets_training_alone() -> None:
    own = "learning_rate=1\nclip=0\nonlyforward=0\n"
    cfg = Cfg.parse(NET + "learning_rate=.1\nclip=1\n" + CONV + own + CONV + "learning_rate=.1\nclip=2\n")
    assert cfg.untrained == ("line 22: [convolutional] learning_rate", "line 23: [convolutional] clip")
    assert (cfg.unknown, cfg.frozen) == ((), 0)
    stop, on = "stopbackward=1\n", "stopbackward=0\n"
    assert Cfg.parse(NET + CONV + stop + CONV + on + CONV).frozen == 1
    assert Cfg.parse(NET + CONV + stop + CONV + stop + CONV).frozen == 2


@pytest.mark.parametrize(
    ("section", "key", "neutral"),
    [
        ("[convolutional]\nstride=2\n", "dilation=2", "dilation=1"),
        ("[convolutional]\nstride=2\n", "stride_x=1", "stride_x=2"),
        ("[convolutional]\n", "share_index=0", "share_index=-1000000000"),
        ("[convolutional]\n", "coordconv=1", "coordconv=0"),
        ("[maxpool]\nstride=2\n", "antialiasing=1", "antialiasing=0"),
        ("[maxpool]\nstride=2\n", "maxpool_depth=1", "maxpool_depth=0"),
        ("[convolutional]\n[route]\nlayers=-1\n", "groups=2", "groups=1"),
        ("[convolutional]\n[route]\nlayers=-1\n", "group_id=1", "group_id=0"),
    ],
)
def test_extensions_of_forks_are_not_passed_over(section: str, key: str, neutral: str) -> None:
    name = key.partition("=")[0]
    with pytest.raises(CfgError, match=rf"\] {name}: is an extension of a fork of darknet"):
        plan_layers(Cfg.parse(NET + section + key))
    same, plain = plan_layers(Cfg.parse(NET + section + neutral)), plan_layers(Cfg.parse(NET + section))
    assert not Cfg.parse(NET + section + neutral).unknown, "it is not misspelled"
    assert [plan.output for plan in same] == [plan.output for plan in plain]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["holds no section"]),
        ("# only a comment\n", ["holds no section"]),
        (NET, ["line 1: holds no layer"]),
        ("width=3\n", ["line 1", "an option before the first section", "'width=3'"]),
        (NET + "[convolutional\n", ["line 5", "expected a section", "'[convolutional'"]),
        (NET + "[]\n", ["line 5", "expected a section"]),
        (NET + "filters 3\n", ["line 5", "neither [section], key=value nor #", "'filters 3'"]),
        (NET + "=3\n", ["line 5", "'=3'"]),
        (CONV, ["line 1: [convolutional]: expected [net] as the first section"]),
        (NET + CONV + NET, ["line 11: [net]: a second [net]; the first is on line 1"]),
        (NET + "[lstm]\n", ["line 5: [lstm]: unsupported layer", "convolutional", "region", "shortcut"]),
        (NET + CONV + "[shortcut]\n", ["line 11: [shortcut] from", "missing"]),
        (NET + CONV + "[shortcut]\nfrom=-2\n", ["line 12: [shortcut] from", "layer 1 cannot join layer -1"]),
        (NET + CONV + "[shortcut]\nfrom=-1\nactivation=mish\n", ["line 13", "unknown activation 'mish'"]),
        (NET + CONV + "[shortcut]\nfrom=-1\nweights_type=per_channel\n", ["line 13", "extension of a fork"]),
        (
            NET + CONV + "[maxpool]\nstride=2\n[shortcut]\nfrom=0\n",
            ["line 14: [shortcut] from", "cannot be added: layer 1 8 x 16 x 32, layer 0 8 x 32 x 64"],
        ),
        (NET + CONV + "[upsample]\nstride=-2\n", ["line 12: [upsample] stride", "number from 1", "got -2"]),
        ("[net]\nwidth=3\nheight=3\n" + CONV, ["line 1: [net] channels: is missing", "`channels=...`"]),
        (
            "[net]\nwidth=x\nheight=3\nchannels=3\n" + CONV,
            ["line 2: [net] width", "whole number", "'x'"],
        ),
        ("[net]\nwidth=0\nheight=3\nchannels=3\n" + CONV, ["line 2: [net] width", "from 1 to 65,536, got 0"]),
        (NET + CONV + "[maxpool]\nsize=2.5\n", ["line 12: [maxpool] size", "whole number, got '2.5'"]),
        (
            NET + CONV + "[maxpool]\nsize=" + "9" * 5000,
            ["line 12: [maxpool] size", "whole number, got '9999"],
        ),
        (NET + CONV + "[maxpool]\nsize=2\npadding=3\n", ["line 13: [maxpool] padding", "most 2 for size 2"]),
        (NET + CONV.replace("leaky", "mish"), ["line 10: [convolutional] activation", "'mish'", "leaky"]),
        (NET + CONV + "groups=3\n", ["[convolutional] groups", "3 groups", "8 filters"]),
        (NET + CONV + "xnor=1\n", ["line 11: [convolutional] xnor: is not supported"]),
        (NET + CONV + "[route]\n", ["line 11: [route] layers: is missing"]),
        (NET + CONV + "[route]\nlayers=-2\n", ["line 12: [route] layers", "cannot join layer -1", "0 to 0"]),
        (NET + CONV + "[route]\nlayers=1\n", ["line 12: [route] layers", "cannot join layer 1"]),
        (NET + CONV + "[route]\nlayers=\n", ["line 12: [route] layers", "whole number, got ''"]),
        (
            NET + CONV + "[maxpool]\nstride=2\n[route]\nlayers=-1,0\n",
            ["line 14: [route] layers", "layer 1 8 x 16 x 32, layer 0 8 x 32 x 64"],
        ),
        (NET + "[reorg]\nstride=2\n", ["line 6: [reorg] stride", "3 channels are not a multiple of 2 x 2"]),
        (NET + CONV + "[reorg]\nstride=2\nextra=3\n", ["line 13: [reorg] extra"]),
        (
            NET.replace("64", "66") + CONV + "[maxpool]\nstride=2\n[reorg]\nstride=2\n",
            ["line 14: [reorg] stride", "16 x 33", "multiples of 4 pixels"],
        ),
        (NET + "[dropout]\nprobability=1\n", ["line 6: [dropout] probability"]),
        (NET + CONV + "[softmax]\ngroups=5\n", ["line 12: [softmax] groups"]),
        (NET + CONV + "[softmax]\ntemperature=nan\n", ["line 12: [softmax] temperature", "'nan'"]),
        (NET + CONV + "[convolutional]\nsize=80\nactivation=linear\n", ["line 11", "would have output"]),
        (
            NET + LAST + REGION.replace(", 3,4", ""),
            ["line 9: [region] anchors", "expected 4 numbers", "got 2"],
        ),
        (NET + LAST + REGION.replace("4", "-4"), ["line 9: [region] anchors", "above 0 grid cells, got -4"]),
        (NET + LAST + REGION.replace("anchors", "anchor"), ["line 8: [region] anchors: is missing"]),
        (NET + LAST + REGION.replace("1,2,", "1,2"), ["line 9: [region] anchors", "commas", "got '2 3'"]),
        (NET + LAST + REGION.replace(" 3,4", "\n3,4"), ["line 10", "'3,4'. A key and all its values stand"]),
        (NET + LAST + REGION.replace("1,2", "1_0,2"), ["line 9: [region] anchors", "a number, got '1_0'"]),
        (NET + LAST + REGION + "coords=5\n", ["line 12: [region] coords", "from 4 to 4, got 5"]),
        (NET + LAST + REGION.replace("num=2", "num=0"), ["[region] num", "from 1"]),
        (
            NET + LAST + REGION.replace("classes=2", "classes=3"),
            ["line 8: [region]", "needs 16 channels", "num=2, classes=3", "gives 14", "filters=16"],
        ),
    ],
)
def test_errors_name_the_place(text: str, parts: list[str]) -> None:
    with pytest.raises(CfgError) as caught:
        plan_layers(Cfg.parse(text))
    for part in parts:
        assert part in str(caught.value)


def test_files_that_are_no_cfg(tmp_path: Path) -> None:
    with pytest.raises(
        CfgError, match=r"missing\.cfg: cannot be read .*Built-in .*: darknet19, darknet9000, yolo9000"
    ):
        Cfg.load(tmp_path / "missing.cfg")
    with pytest.raises(CfgError, match="cannot be read"):
        Cfg.load(tmp_path)
    binary = tmp_path / "binary.cfg"
    binary.write_bytes(b"[net]\n\xff\xfe")
    with pytest.raises(CfgError, match=r"cfg:2: byte 6 is not UTF-8 text\. Save it as UTF-8\. Or is this"):
        Cfg.load(binary)
    large = tmp_path / "large.cfg"
    large.write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(CfgError, match="more than 1,048,576 bytes"):
        Cfg.load(large)
    broken = tmp_path / "broken.cfg"
    broken.write_text(NET + "[yolo]\n")
    with pytest.raises(CfgError, match=rf"{broken}:5: \[yolo\]: unsupported"):
        Cfg.load(broken)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "gbk"])
def test_comments_may_be_in_any_encoding(tmp_path: Path, encoding: str) -> None:
    comment = "网络" if encoding == "gbk" else "größer"
    text = f"# {comment}\n{NET}{CONV}\t; {comment}\nbatch_normalize=1 # {comment}\n[maxpool] # {comment}\n"
    (tmp_path / "own.cfg").write_bytes(text.encode(encoding))
    cfg = Cfg.load(tmp_path / "own.cfg")
    assert [dict(section.options) for section in cfg.sections] == [
        dict(section.options) for section in Cfg.parse(text).sections
    ]
    assert Cfg.parse(cfg.text.encode().decode()) == Cfg.parse(cfg.text), "a model file holds it as UTF-8"
    (tmp_path / "own.cfg").write_bytes(f"{text}tree={comment}#".encode(encoding))
    if not encoding.startswith("utf"):
        with pytest.raises(CfgError, match=r"own\.cfg:15: byte \d+ is not UTF-8 text"):
            Cfg.load(tmp_path / "own.cfg")


def test_builtin_name_wins_over_a_folder_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "yolo9000").mkdir()
    monkeypatch.chdir(tmp_path)
    assert Cfg.load("yolo9000").region is not None
    assert {"yolo9000", "yolov2", "yolov2-voc", "yolov2-tiny", "darknet19"} <= set(builtin_cfgs())


@pytest.mark.reference
@pytest.mark.parametrize(
    "name", ["yolo9000", "yolov2", "yolov2-voc", "yolov2-tiny", "darknet19", "darknet9000"]
)
def test_own_cfgs_describe_the_published_networks(name: str, darknet_dir: Path) -> None:
    ours, theirs = Cfg.load(name), Cfg.load(darknet_dir / "cfg" / f"{name}.cfg")

    def network(cfg: Cfg) -> list[dict[str, object]]:
        plans = (vars(plan).copy() for plan in plan_layers(cfg))
        return [{key: value for key, value in plan.items() if key != "section"} for plan in plans]

    assert network(ours) == network(theirs)
    if ours.region is not None:
        assert theirs.region is not None
        files = {"tree", "map"}
        assert {k: v for k, v in vars(ours.region).items() if k not in files} == {
            k: v for k, v in vars(theirs.region).items() if k not in files
        }


@pytest.mark.reference
def test_debians_cfgs_hold_no_unknown_keys(darknet_dir: Path) -> None:
    names = "yolo9000 yolov2 yolov2-voc yolov2-tiny yolov2-tiny-voc darknet19 darknet19_448 darknet9000 tiny"
    for name in names.split():
        assert Cfg.load(darknet_dir / "cfg" / f"{name}.cfg").unknown == (), name


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (NET + "[convolutional]\nfilters=1000000000\nactivation=linear\n", "4,000,000,000 parameters"),
        (NET + "[convolutional]\nfilters=999\nsize=999\npad=1\nactivation=linear\n", "parameters"),
        (NET + "[convolutional]\npadding=100000\nactivation=linear\n", "activations per image"),
        (NET + CONV + "[route]\nlayers=" + ",".join(["0"] * 40_000) + "\n", "activations per image"),
        (
            NET
            + "[convolutional]\nfilters=1000005\nactivation=linear\n[region]\ntied=1\nanchors="
            + ",".join(["1"] * 2000)
            + "\nnum=1000\nclasses=1000000\n",
            "needs 1,005,000 channels",
        ),
    ],
)
def test_a_short_cfg_cannot_ask_for_gigabytes(text: str, part: str) -> None:
    cfg = Cfg.parse(text)
    with pytest.raises(CfgError, match=part):
        check_limits(cfg, plan_layers(cfg))


def test_limits_can_be_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = Cfg.load("darknet19")
    plans = plan_layers(cfg)
    check_limits(cfg, plans)
    monkeypatch.setenv("YOLO9000_MAX_PARAMETERS", "20000000")
    with pytest.raises(
        CfgError, match=r"limit is 20,000,000\..*YOLO9000_MAX_PARAMETERS to a larger"
    ) as caught:
        check_limits(cfg, plans)
    assert caught.value.line == plans[18].section.line  # the largest layer
    monkeypatch.setenv("YOLO9000_MAX_PARAMETERS", "20850000")
    check_limits(cfg, plans)
    monkeypatch.setenv("YOLO9000_MAX_PARAMETERS", "1e9")
    with pytest.raises(ConfigError, match="YOLO9000_MAX_PARAMETERS='1e9'"):
        check_limits(cfg, plans)


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 2**32), edits=st.integers(1, 12))
def test_damaged_cfgs_give_an_error_or_a_network(seed: int, edits: int) -> None:
    """Lines of real cfgs dropped, doubled or given other values: nothing but `CfgError` may come out."""
    rng = random.Random(seed)
    lines = Cfg.load(rng.choice(["yolov2", "yolov2-tiny", "darknet19"])).text.split("\n")
    values = ["0", "-1", "1", "2", "3", "1e9", "", "2147483647", "99999999999999", "x", "nan", "1,2", "-4,-1"]
    keys = sorted({key for known in KNOWN_KEYS.values() for key in known})
    for _ in range(edits):
        place = rng.randrange(len(lines))
        edit = rng.randrange(5)
        if edit == 0:
            del lines[place]
        elif edit == 1:
            lines.insert(place, rng.choice(lines))
        elif edit == 2:
            lines[place] = lines[place].split("=")[0] + "=" + rng.choice(values)
        elif edit == 3:
            lines.insert(place, f"{rng.choice(keys)} = {rng.choice(values)}")
        else:
            lines.insert(place, f"[{rng.choice(sorted(KNOWN_KEYS))}]")
    plans = _plan_or_none("\n".join(lines))
    if plans is not None:
        assert sum(plan.parameters for plan in plans) <= MAX_PARAMETERS


def _plan_or_none(text: str) -> tuple[LayerPlan, ...] | None:
    try:
        cfg = Cfg.parse(text)
        plans = plan_layers(cfg)
        check_limits(cfg, plans)
    except CfgError:
        return None
    return plans


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=200))
def test_any_text_gives_an_error_or_a_cfg(text: str) -> None:
    try:
        cfg = Cfg.parse(NET + CONV + text)
        plan_layers(cfg)
    except CfgError:
        return
    assert cfg.sections[0].name == "net"
