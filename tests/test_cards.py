"""The cards for machines that are not here: they load, divide their models' axes, fit, and say what to expect."""

import dataclasses
import functools
import json
import re
from pathlib import Path

import pytest

from dsi_jax import Config, ModelSource
from dsi_jax.base import DRAFTER
from dsi_jax.checkpoints.shapes import open_shapes
from dsi_jax.config import load, variants
from dsi_jax.layouts.as_given import check_fit, predict_config
from dsi_jax.layouts.shapes import Shape, shape_profile
from dsi_jax.profiles.profile import Contention, Forward, Profile, ServerProfile, write_profile
from dsi_jax.runtime.memory import memory_per_device
from tests.launchers import launch

CONFIGS = Path(__file__).parent.parent / "configs"
SHAPES = {  # of what the hub has under these names
    "hub:bigcode/starcoder": "starcoder-15b",
    "hub:bigcode/tiny_starcoder_py": "starcoder-168m",
    "hub:lmsys/vicuna-13b-v1.3": "vicuna-13b",
    "hub:double7/vicuna-68m": "vicuna-68m",
    "hub:microsoft/Phi-3-medium-4k-instruct": "phi-3-medium",
    "hub:microsoft/Phi-3-mini-4k-instruct": "phi-3-mini",
    "hub:meta-llama/Llama-3.1-8B-Instruct": "llama-3-8b",
    "hub:meta-llama/Llama-3.1-70B-Instruct": "llama-3-70b",
    "hub:meta-llama/Llama-3.2-1B-Instruct": "llama-3.2-1b",
    "hub:Qwen/Qwen3-32B": "qwen3-32b",
    "hub:Qwen/Qwen3-0.6B": "qwen3-0.6b",
}
MACHINES = {"v5e-8": ("v5e", 8), "v4-8": ("v4", 4), "tp8_shared": ("v5e", 8)}  # others are eight GPUs
CARDS = ("starcoder", "vicuna", "phi3", "llama3_8b", "llama3_70b", "qwen3_32b")
ALL = [(card, variant) for card in CARDS for variant in variants(CONFIGS / f"{card}.py")]
# Of these virtual time is played again: seconds each.
PLAYED = [("phi3", "gpu-8"), ("llama3_8b", "v4-8"), ("qwen3_32b", "tp8_shared")]


def read(card: str, variant: str) -> Config:
    return load(f"{CONFIGS / card}.py:{variant}", kind=Config)


def machine(variant: str) -> tuple[str, int]:
    return MACHINES.get(variant, ("a100", 8))


def shape(source: ModelSource) -> Shape:
    return Shape(
        source.path, open_shapes(dataclasses.replace(source, path=str(CONFIGS / "models" / SHAPES[source.path]))).config
    )


@functools.cache
def profile(card: str, variant: str) -> Profile:
    config, (chip, _) = read(card, variant), machine(variant)
    tps = sorted({config.mesh.target_tp, config.mesh.drafter_tp})
    chips = load(CONFIGS / "chips.py")
    found = shape_profile(shape(config.target), shape(config.drafter.model), chips.find(chip), tps)
    return dataclasses.replace(found, host_s=50e-6)


def docstring(card: str) -> str:
    return (CONFIGS / f"{card}.py").read_text(encoding="utf-8").split('"""')[1]


def told(card: str, variant: str) -> list[float]:
    """The row of a variant in a card's docstring: chips, t and c in ms, tokens/s of non-SI, SI and DSI."""
    (row,) = re.findall(rf"^  {re.escape(variant)} +(\d+) (\w+) +([\d. ]+)$", docstring(card), flags=re.MULTILINE)
    assert row[1].lower() == machine(variant)[0]
    return [float(number) for number in (row[0], *row[2].split())]


@pytest.mark.parametrize(("card", "variant"), ALL)
def test_a_card_divides_its_models_and_fits_its_machine(card, variant):
    config, (_, devices) = read(card, variant), machine(variant)
    assert config.mesh.devices <= devices
    assert {config.target.dtype, config.drafter.model.dtype} == {"bfloat16"}
    needed = check_fit(config, profile(card, variant))  # which refuses what does not divide
    if card == "phi3":
        for role, source, tp in (
            ("target", config.target, config.mesh.target_tp),
            (DRAFTER, config.drafter.model, config.mesh.drafter_tp),
        ):
            memory = memory_per_device(shape(source).config, tp)
            assert needed[role] == memory.weights + memory.cache


@pytest.mark.parametrize("card", CARDS)
def test_a_card_has_no_room_for_another_copy(card):
    """Where copies are counted, one more would need more devices than there are."""
    for variant in variants(CONFIGS / f"{card}.py"):
        mesh, (_, devices) = read(card, variant).mesh, machine(variant)
        if not variant.startswith("tp"):
            assert mesh.devices + mesh.target_tp > devices


@pytest.mark.parametrize(("card", "field"), [("starcoder", 1), ("starcoder", 2), ("vicuna", 1), ("llama3_8b", 1)])
def test_fewer_chips_a_copy_would_not_fit_a_v5e(card, field):
    config = load(f"{CONFIGS / card}.py:v5e-8", [f"mesh.target_tp={field}"])
    chip = load(CONFIGS / "chips.py").find("v5e")
    found = shape_profile(shape(config.target), shape(config.drafter.model), chip, sorted({field, 1}))
    with pytest.raises(
        ValueError, match=rf"target_tp={field}: the target needs .* GB a chip, and a v5e has room for 15.2"
    ):
        check_fit(config, found)


@pytest.mark.parametrize(("card", "variant"), ALL)
def test_a_card_tells_the_latencies_of_the_roofline(card, variant):
    config, known = read(card, variant), profile(card, variant)
    chips, target_ms, drafter_ms, *_ = told(card, variant)
    assert chips == config.mesh.devices
    length = 64 + config.max_new_tokens // 2
    t = known.seconds("target", config.mesh.target_tp, "verify", known.verify_width, length) + known.host_s
    c = known.seconds("drafter", config.mesh.drafter_tp, "draft", 1, length) + known.host_s
    assert (target_ms, drafter_ms) == (pytest.approx(1e3 * t, rel=0.01), pytest.approx(1e3 * c, abs=0.006))


@pytest.mark.parametrize(("card", "variant"), PLAYED)
def test_a_card_tells_the_speeds_of_virtual_time(card, variant):
    acceptance = float(re.search(r"--acceptance=([\d.]+)", docstring(card))[1])
    found = predict_config(read(card, variant), profile(card, variant), acceptance)
    assert [one.tokens_per_s for one in found] == pytest.approx(told(card, variant)[3:], rel=0.01)


# ---------------------------------------------------------------------------------------------- a config on its layout


def toy(**more) -> Profile:
    """One chip for each model: 8 ms for a forward, 2 ms for a draft, 4 ms for each run that reads the prompt."""
    forwards = {
        "target": (Forward("verify", 8, 100, 8e-3), Forward("prefill", 32, 100, 4e-3)),
        "drafter": (Forward("draft", 1, 100, 2e-3), Forward("extend", 2, 100, 2e-3), Forward("prefill", 32, 100, 4e-3)),
    }
    servers = tuple(ServerProfile(role, 1, 700, 300, known) for role, known in forwards.items())
    return Profile("measured", "toy", "big", "small", 8, 100, servers, **more)


def test_predictions_are_those_of_a_hand():
    """Every draft right: non-SI 8 ms a token, SI 8 + 2 k for k + 1 tokens, DSI a draft each token and one forward."""
    config = load(CONFIGS / "demo.py", ["mesh.sp_degree=4", "lookahead=1", "max_new_tokens=20"])
    non_si, si, dsi = predict_config(config, toy(), acceptance=1.0, prompt_tokens=33, runs=2)
    assert [one.chips for one in (non_si, si, dsi)] == [1, 2, 5]
    assert non_si.answer_s == pytest.approx(4e-3 + 20 * 8e-3)
    assert si.answer_s == pytest.approx(4e-3 + 10 * (2e-3 + 8e-3))
    assert dsi.answer_s == pytest.approx(4e-3 + 19 * 2e-3 + 8e-3)
    shares = dataclasses.replace(config.mesh, sp_degree=1, drafter_shares=True)
    found = predict_config(dataclasses.replace(config, mesh=shares), toy(), acceptance=1.0, prompt_tokens=33, runs=2)
    assert [(one.layout.algorithm, one.chips) for one in found] == [("non_si", 1), ("si", 1)]
    assert found[1].answer_s == pytest.approx(8e-3 + 10 * (2e-3 + 8e-3))  # they read the prompt in turn too
    with_host = predict_config(config, toy(host_s=1e-3), acceptance=1.0, prompt_tokens=33, runs=2)
    assert with_host[0].answer_s == pytest.approx(4e-3 + 20 * 9e-3, abs=2e-3)


def test_what_does_not_fit_is_told_by_its_bytes():
    config = load(CONFIGS / "demo.py", ["mesh.sp_degree=1"])
    assert check_fit(config, toy(capacity=1100)) == {"target": 1000, "drafter": 1000}
    with pytest.raises(
        ValueError, match=r"target_tp=1: the target needs 0.0 MB a chip, and a toy has room for 0.0 MB of its 0.0 MB;"
    ):
        check_fit(config, toy(capacity=1000))  # a share is kept for the programs
    shares = dataclasses.replace(config, mesh=dataclasses.replace(config.mesh, drafter_shares=True))
    with pytest.raises(ValueError, match=r"on its chips at tp=1 needs .*; set mesh\.drafter_shares=false"):
        check_fit(shares, toy(capacity=2000))
    both = dataclasses.replace(config, concurrency=2)
    with pytest.raises(ValueError, match=r"raise mesh\.target_tp, or lower max_length"):
        predict_config(both, toy(capacity=1200), acceptance=0.5)
    with pytest.raises(ValueError, match="target_fsdp=2 is not reckoned with"):
        predict_config(load(CONFIGS / "demo.py", ["mesh.target_fsdp=2"]), toy(), acceptance=0.5)


# ---------------------------------------------------------------------------------------------------------- launchers


def test_expect_prints_what_the_card_tells(tmp_path):
    slow = (Contention("target", 1, 2, 1.5),)
    write_profile(tmp_path / "profile.json", toy(contention=slow, environment={"device_count": 4}))
    models = ["--target=configs/models/llama-3-8b", "--drafter=configs/models/llama-3.2-1b"]
    card = ["--config=configs/llama3_8b.py:v4-8", "--acceptance=0.8"]
    good, host, shown, *bad = launch(
        "expect",
        [
            [*card, "--chip=v4", *models],
            [*card, "--chip=v4", *models, "--host_us=1000", "--set=max_new_tokens=8"],
            [
                f"--profile={tmp_path}/profile.json",
                "--set=mesh.sp_degree=7",
                "--set=max_new_tokens=8",
                "--set=target.verify_width=16",
            ],
            [*card, *models],
            [*card, *models, "--chip=v4", "--profile=none.json"],
            [*card, "--chip=v5e", *models],
            [*card, "--chip=v99", *models],
            [*card, "--chip=v4", *models, "--host_us=-1"],
            ["--config=configs/llama3_8b.py:v9-8", "--chip=v4"],
        ],
    )
    assert good[0] == 0 and "3 targets of tp 1, drafter tp 1, 4 chips" in good[1]
    assert "target 16.4 GB, drafter 2.5 GB; 32.6 GB of 34.4 GB are there" in good[1] and "nothing was run" in good[1]
    speeds = [float(number) for number in re.findall(r"([\d.]+) tokens/s", good[1])]
    assert speeds == pytest.approx(told("llama3_8b", "v4-8")[3:], abs=0.11)
    t, slower_t = (float(re.search(r"t = ([\d.]+) ms", out)[1]) for _, out, _ in (good, host))
    assert slower_t - t == pytest.approx(0.95, abs=0.02)
    for words in (
        "the profile was measured on 4 x toy, here 8 x cpu",
        "measured on 4 devices, and 8 are asked about",
        "the profile's target is big, and embedded:target is asked about",
        "the profile's drafter is small, and embedded:drafter is asked about",
        "the profile was made at verify_width=8, and 16 is asked about; latencies are those of 8",
    ):
        assert f"warning: {words}" in shown[1]
    rows = {line.split()[0]: line for line in shown[1].splitlines() if "x non-SI" in line}
    assert "t = 8.00 ms" in rows["non-SI"] and "t = 8.00 ms, c = 2.00 ms" in rows["SI"]
    assert "t = 12.00 ms, c = 2.00 ms" in rows["DSI"]  # its servers work at the same time, and share cores
    assert [code for code, _, _ in bad] == [2] * 6
    for (_, _, said), wanted in zip(
        bad,
        (
            "neither --chip nor --profile is given",
            "--chip and --profile are given",
            "target_tp=1: the target needs 16.4 GB a chip, and a v5e has room for 15.2 GB of its 16.0 GB; raise",
            "chip='v99' is not known; choose one of v4, v5e",
            "--host_us=-1 must lie in 0 .. 1e6",
            "llama3_8b.py has no variant 'v9-8'; it has gpu-8, v5e-8, v4-8",
        ),
        strict=True,
    ):
        assert said.startswith("error: ") and wanted in said


def test_the_ablation_gives_the_speeds_that_its_card_tells(tmp_path):
    command = re.findall(
        r"python launch/sweep.py ([^\n]*--backend=virtual.*?)\n\n", docstring("mesh_layouts"), re.DOTALL
    )
    arguments = [part for part in command[0].replace("\\", " ").split() if not part.startswith("--out")]
    ((code, out, err),) = launch("sweep", [[*arguments, f"--out={tmp_path}"]])
    assert code == 0, out + err
    runs = [json.loads(line) for line in (tmp_path / "runs.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(runs) == 4 * 3 * 8
    for name, algorithm in (("non-SI", "non_si"), ("SI", "si"), ("DSI", "dsi")):
        (row,) = re.findall(rf"^  {name} +([\d. ]+)$", docstring("mesh_layouts"), flags=re.MULTILINE)
        for degree, speed in zip((1, 2, 4, 7), row.split(), strict=True):
            pattern = rf"^{degree} +{algorithm} +([\d.]+) "
            (found,) = re.findall(pattern, out, flags=re.MULTILINE)
            assert found == speed
