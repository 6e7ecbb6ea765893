"""launch/plan.py as its users call it: from shapes, from profiles, and with what cannot be."""

import dataclasses
import json

import pytest
from launchers import ROOT, launch
from PIL import Image

from dsi_jax import Config, Engine
from dsi_jax import config as config_lib
from dsi_jax.profiles.profile import Forward, Profile, ServerProfile, write_profile
from dsi_jax.telemetry.layout_figure import envelope, layout_figure

LLAMA = ["--target=configs/models/llama-3-8b", "--drafter=configs/models/llama-3.2-1b", "--new_tokens=12"]
GIANT = ["--target=configs/models/llama-3-70b", "--drafter=configs/models/llama-3.2-1b"]


def embedded_profile(**more):
    """As launch/measure.py might write it of the embedded pair on 4 devices of a CPU."""
    servers = []
    for role, program, times in (("target", "verify", (0.02, 0.015)), ("drafter", "draft", (0.002, 0.002))):
        for tp, seconds in enumerate(times, start=1):
            width = 8 if role == "target" else 1
            forwards = (Forward(program, width, 100, seconds), Forward("prefill", 8, 100, seconds))
            servers.append(ServerProfile(role, tp, 10**6, 10**6, forwards))
    told = {"device_kind": "TPU v9", "device_count": 4, "device_platform": "tpu"}
    made = Profile(
        "measured", "TPU v9", "embedded:target", "embedded:drafter", 8, 256, tuple(servers), environment=told
    )
    return dataclasses.replace(made, **more)


def wide_profile():
    """The same, and verifications of 16 tokens take 40 ms."""
    servers = [
        dataclasses.replace(one, forwards=(*one.forwards, Forward("verify", 16, 100, 0.04)))
        if one.role == "target"
        else one
        for one in embedded_profile().servers
    ]
    return embedded_profile(servers=tuple(servers))


CALLS = {
    "shapes": ["--topology=v5e:2x4", *LLAMA, "--out={}/shapes"],
    "profile": ["--profile={}/profile.json", "--devices=3", "--new_tokens=12", "--acceptance=0.9", "--out={}/profile"],
    "per chip": ["--chip=h100", "--devices=2", *LLAMA, "--objective=per_chip"],
    "hosts": ["--chip=v5e", "--hosts=2", "--link_us=50", *LLAMA, "--acceptance=0.9"],
    "crowd": ["--profile={}/profile.json", "--devices=5", "--concurrency=2", "--new_tokens=12"],
    "another model": ["--profile={}/profile.json", *LLAMA],
    "more host": ["--chip=h100", "--devices=2", *LLAMA, "--objective=per_chip", "--host_us=1000", "--link_us=50"],
    "another width": ["--profile={}/profile.json", "--new_tokens=12", "--set=target.verify_width=16", "--host_us=9"],
    "measured width": ["--profile={}/wide.json", "--new_tokens=12", "--set=target.verify_width=16", "--out={}/wide"],
}
BAD = {
    "no latencies": (LLAMA, "none of --profile, --topology and --chip given"),
    "two of them": (["--chip=v5e", "--topology=v5e:2x4", *LLAMA], "--topology and --chip given; give one"),
    "no models": (["--chip=v5e"], "--target is missing"),
    "unknown chip": (["--chip=v99", *LLAMA], "'v99' is not known; choose one of v4, v5e"),
    "unknown topology": (["--topology=v5e:3x3", *LLAMA], "'v5e:3x3' is not known; those known: v4:2x2x1"),
    "no profile": (["--profile={}/none.json"], "cannot read a profile from"),
    "no room": (["--chip=v5e", "--devices=2", *GIANT], "the target at tp=2 needs 7"),
    "no chips": (["--chip=v5e", "--devices=0", *LLAMA], "chips=0 must be at least 1"),
    "uneven hosts": (["--chip=v5e", "--devices=7", "--hosts=2", *LLAMA], "chips=7 do not divide over hosts=2"),
    "no rate": (["--chip=v5e", *LLAMA, "--acceptance=2"], "acceptance=2.0 must lie in [0, 1]"),
    "no link": (["--chip=v5e", *LLAMA, "--link_us=-1"], "link_s="),
    "no card": (["--chip=v5e", "--config=configs/none.py"], "no config at configs/none.py"),
    "no cache": (
        ["--chip=v5e", *LLAMA, "--max_length=64", "--new_tokens=200"],
        "prompt_tokens=64 and 200 new tokens exceed the cache of 64 tokens; ask for fewer",
    ),
    "no host": (["--chip=v5e", *LLAMA, "--host_us=-1"], "--host_us=-1 must lie in 0 .. 1e6"),
    "no model": (["--chip=v5e", "--target=/none"], "no checkpoint at '/none'"),
    "no servers": (
        ["--profile={}/bandwidth.json"],
        "bandwidth.json: the profile holds no target servers; measure them",
    ),
    "no servers for a card": (
        ["--profile={}/bandwidth.json", "--config=configs/demo.py"],
        "the profile holds no target servers; measure them (launch/measure.py without --parts)",
    ),
    "half a profile": (["--profile={}/half.json"], "the profile holds no drafter servers; measure them"),
    "unknown field": (["--chip=v5e", *LLAMA, "--set=colour=red"], "unknown config field 'colour'"),
}


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    return tmp_path_factory.mktemp("plan")


@pytest.fixture(scope="module")
def ended(desk):
    """Every call of this page, in one process: exit code, stdout and stderr by name."""
    write_profile(desk / "profile.json", embedded_profile())
    write_profile(desk / "wide.json", wide_profile())
    write_profile(desk / "bandwidth.json", embedded_profile(servers=()))
    write_profile(desk / "half.json", embedded_profile(servers=embedded_profile().servers[:2]))
    calls = CALLS | {name: arguments for name, (arguments, _) in BAD.items()}
    filled = [[argument.format(desk) for argument in arguments] for arguments in calls.values()]
    return dict(zip(calls, launch("plan", filled), strict=True))


@pytest.mark.slow
def test_a_plan_from_shapes(ended, desk):
    code, out, err = ended["shapes"]
    assert code == 0, err
    assert "by the roofline of published numbers, not compiled and not run" in out
    assert "does not fit: the target at tp=1 needs 16" in out
    plan = json.loads((desk / "shapes/plan.json").read_text())
    assert plan["sentence"] in out
    assert plan["sentence"].startswith("Use ")
    assert max(one["chips"] for one in plan["ranked"]) <= 8
    assert {one["algorithm"] for one in plan["ranked"]} == {"non_si", "si", "dsi"}
    card = config_lib.load(desk / "shapes/card.py", kind=Config)
    assert (card.mesh.target_tp, card.mesh.sp_degree) == (plan["choice"]["target_tp"], plan["choice"]["sp_degree"])
    assert card.target.dtype == "bfloat16"
    text = " ".join((desk / "shapes/card.py").read_text().split())
    assert "at an acceptance of 0.8, predicted" in text and "50 us of the host's work for each forward, assumed" in text
    with Image.open(desk / "shapes/layouts.png") as picture:
        assert picture.width > 1000


@pytest.mark.slow
def test_a_plan_from_a_profile_of_other_devices_warns_and_its_card_runs(ended, desk):
    code, out, err = ended["profile"]
    assert code == 0, err
    assert "warning: the profile was measured on 4 x TPU v9, here 8 x cpu" in out
    config = config_lib.load(desk / "profile/card.py", kind=Config)
    assert (config.target.path, config.algorithm) == ("embedded:target", "dsi")
    with Engine(dataclasses.replace(config, algorithm="si")) as engine:
        (result,) = engine.generate("import ", max_new_tokens=4)
        assert result.run.algorithm == "si"  # what the card says, where no flag says otherwise
        assert len(engine.devices) == config.mesh.sp_degree + 1
    assert len(result.tokens) == 4


@pytest.mark.slow
def test_other_questions_are_answered(ended):
    assert "tokens/s a chip" in ended["per chip"][1]
    assert "on 16 x v5e on 2 hosts, 50 us between them" in ended["hosts"][1]
    assert "2 sequences at once" in ended["crowd"][1]
    assert "warning: measured on 4 devices, and 5 are asked about" in ended["crowd"][1]
    assert "tokens/s in total" in ended["crowd"][1]
    assert (
        "the profile's target is embedded:target, and configs/models/llama-3-8b is asked about"
        in (ended["another model"][1])
    )
    assert all(ended[name][0] == 0 for name in CALLS)


@pytest.mark.slow
def test_the_work_of_the_host_is_told_and_reckoned_with(ended):
    plain, more = (_best_ms(ended[name][1], "non-SI") for name in ("per chip", "more host"))
    assert "with 50 us of the host's work for each forward, assumed (--host_us)" in ended["shapes"][1]
    assert more - plain == pytest.approx(0.95, abs=0.02)
    assert "--host_us=9 is passed over: the profile is measured, with 0 us" in ended["another width"][1]
    assert "--link_us=50 is passed over: the chips are those of one host" in ended["more host"][1]


def _best_ms(out, label):
    """Milliseconds of a token in the first row of an algorithm."""
    row = next(line for line in out.splitlines() if f" {label} " in line and line.endswith("x"))
    return float(row.split()[-5])


@pytest.mark.slow
def test_a_width_is_the_one_that_was_measured_or_a_warning(ended, desk):
    _, out, _ = ended["another width"]
    assert "the profile was made at verify_width=8, and 16 is asked about; latencies are those of 8" in out
    assert "launch/measure.py --set=target.verify_width=16" in out
    assert _best_ms(out, "non-SI") == pytest.approx(15.0)
    _, out, _ = ended["measured width"]
    assert "verify_width" not in out.split("hint:")[0] and _best_ms(out, "non-SI") == pytest.approx(40.0)
    assert config_lib.load(desk / "wide/card.py", kind=Config).target.verify_width == 16


@pytest.mark.slow
@pytest.mark.parametrize("name", BAD)
def test_a_bad_call_ends_in_one_line(ended, name):
    code, out, err = ended[name]
    assert code == 2
    assert BAD[name][1] in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert "tokens/s" not in out


def point(algorithm, chips, ms):
    return {"algorithm": algorithm, "chips": chips, "ms": ms}


POINTS = [point("dsi", 2, 9.0), point("dsi", 4, 7.0), point("dsi", 4, 8.0), point("dsi", 8, 7.5), point("si", 2, 8.0)]


def test_the_line_of_an_algorithm_is_the_best_of_so_many_chips():
    assert envelope(POINTS[:4]) == ([2, 4], [9.0, 7.0])


def test_the_picture_has_every_layout_and_a_ring():
    figure = layout_figure(POINTS, POINTS[1], "Layouts", "facts")
    (axes,) = figure.axes
    by_id = {}
    for line in axes.lines:
        by_id.setdefault(line.get_gid(), []).append(line)
    assert sorted(len(line.get_xdata()) for line in by_id["layouts"]) == [1, 4]
    (ring,) = by_id["choice"]
    assert (*ring.get_xdata(), *ring.get_ydata()) == (4, 7.0)
    assert {text.get_text() for text in axes.texts} == {"DSI", "SI"}
    with pytest.raises(ValueError, match="no layouts"):
        layout_figure([], POINTS[0], "", "")


def test_the_default_table_is_the_card():
    assert (ROOT / "configs/chips.py").is_file()
