"""Certify that generation is lossless: every policy gives the target's own tokens, over a grid of settings.

  python launch/certify.py --config=configs/demo.py --out=certificate.json
  python launch/certify.py --config=configs/demo.py --inject=target_1:crash@10 --inject=drafter:hang@5 --deadline_s=1
  python launch/certify.py --config=configs/demo.py --set=verification=rejection --sp_degrees=2 --temperatures=1

Under the coupled rule every run is compared with non-SI at the same sampling and seed, token by token. Under the
rejection rule, tokens of many seeds are tested against the target's own distribution by chi-square. In mode fast, which
does not promise equal tokens, the first difference of a run is written down with the margin between the target's two
likeliest tokens there. Paced runs have jittered latencies, which shuffle the order in which results arrive. Every run
is repeated with each script of faults (--inject). Each SP degree loads the models anew. The exit code is 1 where the
certificate fails.
"""

import dataclasses
import itertools
import sys
from pathlib import Path

import _cli
import _show
from absl import flags
from tqdm import tqdm

import dsi_jax
from dsi_jax import certificates, files
from dsi_jax import config as config_lib
from dsi_jax.certificates.grid import PACED
from dsi_jax.faults import read_faults
from dsi_jax.runtime.backends import BACKENDS

_CONFIG = flags.DEFINE_string("config", "configs/demo.py", "Experiment card.")
_ALGORITHM = flags.DEFINE_list("algorithm", ["all"], "What is compared with non-SI: names, or files with policies.")
_BACKEND = flags.DEFINE_list("backend", ["device", PACED], f"Any of {', '.join([*BACKENDS, PACED])}.")
_SP_DEGREES = flags.DEFINE_list("sp_degrees", ["1", "2", "4", "7"], "Numbers of target servers.")
_LOOKAHEADS = flags.DEFINE_list("lookaheads", None, "Draft tokens per verification; default 1,2,5,auto, or auto.")
_TEMPERATURES = flags.DEFINE_list("temperatures", ["0", "0.7", "1.2"], "Coupled rule: with top-k 50 and top-p 0.95.")
_SEEDS = flags.DEFINE_integer("seeds", None, "Seeds per setting; default 2, or 400 under the rejection rule.", 1)
_TOKENS = flags.DEFINE_integer("max_new_tokens", None, "Per run; default 48, or 4 under the rejection rule.", 1)
_TARGET_MS = flags.DEFINE_float("target_ms", 12.0, "Floor of a target forward in paced runs; of a draft, a quarter.")
_INJECT = flags.DEFINE_multi_string("inject", [], "Faults made on purpose, such as target_2:crash@40; several scripts.")
_DEADLINE_S = flags.DEFINE_float("deadline_s", None, "Seconds after which a server counts as hung.")
_OUT = flags.DEFINE_string("out", None, "Where the certificate is written, as JSON.")
_SET = flags.DEFINE_multi_string("set", [], "field=value, any field of the config.")


def main() -> None:
    config = config_lib.load(_CONFIG.value, _SET.value, dsi_jax.Config)
    if _DEADLINE_S.value is not None:
        config = dataclasses.replace(config, deadline_s=_DEADLINE_S.value)
    grid = read_grid(config.verification == dsi_jax.Verification.REJECTION)
    engines = list(grid.engines(config))
    _cli.use_devices(max((own for own, _, _ in engines), key=lambda own: own.mesh.sp_degree))
    dsi_jax.check_requests(config, config.prompts, grid.max_new_tokens)
    ways = sum(len(list(grid.ways(*engine, "non_si"))) for engine in engines)
    with tqdm(total=ways * len(grid.samplings) * len(config.prompts), unit="run") as bar:
        certificate = certificates.certify(config, grid, bar.update)
    for difference in certificate["differences"]:
        print(f"DIFFERENT: {difference}")
    print(certificates.in_words(certificate))
    if _OUT.value:
        files.write_json(Path(_OUT.value), certificate, indent=2)
        print(f"wrote {_OUT.value}")
    sys.exit(1 if certificate["verdict"] == "failed" else 0)


def read_grid(rejection: bool) -> certificates.Grid:
    """Read the flags, before any model is loaded."""
    for backend in _BACKEND.value:
        if backend not in (*BACKENDS, PACED):
            raise ValueError(f"--backend={backend} must be one of {', '.join([*BACKENDS, PACED])}")
    for script in _INJECT.value:
        read_faults(script)
    texts = _LOOKAHEADS.value or (["auto"] if rejection else ["1", "2", "5", "auto"])
    lookaheads = [
        k if k == "auto" else _cli.numbers("lookaheads", [k], int, "auto, or an integer", 1)[0] for k in texts
    ]
    cut = {} if rejection else {"top_k": 50, "top_p": 0.95}
    samplings = [
        dsi_jax.Sampling(temperature, seed=seed, **(cut if temperature else {}))
        for temperature, seed in itertools.product(
            _cli.numbers("temperatures", _TEMPERATURES.value, float, "a number", 0),
            range(_SEEDS.value or (400 if rejection else 2)),
        )
    ]
    return certificates.Grid(
        policies=_show.read_policies(_ALGORITHM.value),
        backends=_BACKEND.value,
        sp_degrees=_cli.numbers("sp_degrees", _SP_DEGREES.value, int, "an integer", 1),
        lookaheads=lookaheads,
        samplings=samplings,
        jittered=_cli.latencies(_TARGET_MS.value, _TARGET_MS.value / 4, 0.5),
        faults=_INJECT.value,
        max_new_tokens=_TOKENS.value or (4 if rejection else 48),
    )


if __name__ == "__main__":
    _cli.run(main)
