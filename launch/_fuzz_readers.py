"""Spoiled files for every reader, one after the other; what fails is told with the command that makes it again."""

import collections
import sys
import tempfile
import time
from pathlib import Path

import _cli
from _hostile.formats import FORMATS
from _hostile.play import Player
from tqdm import tqdm

MEASURED = 10  # of so many files, what the reading of one allocates is counted


def fuzz(seed: int, runs: int | None, minutes: float | None, only: tuple[str, ...], out: str | None) -> int:
    """Read spoiled files of every format, `runs` of each; returns how many were taken wrongly."""
    if out:
        raise ValueError(f"--out={out} has no effect with --what=readers; leave it out")
    if strange := [name for name in only if name not in FORMATS]:
        raise ValueError(f"--only={strange[0]} must be one of {', '.join(FORMATS)}")
    names = only or tuple(FORMATS)
    counts: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            until = time.monotonic() + 60 * minutes / len(names) if minutes else float("inf")
            counts += _fuzz_one(name, Path(folder) / name, seed, runs or sys.maxsize, until)
    print(
        f"{counts['runs']:,} spoiled files, {counts['refused']:,} refused in one clear line, {counts['wrong']:,} wrong"
    )
    return counts["wrong"]


def _fuzz_one(name: str, folder: Path, seed: int, runs: int, until: float) -> collections.Counter[str]:
    player, counts = Player(name, folder), collections.Counter()
    bar = tqdm(range(seed, seed + min(runs, sys.maxsize - seed)), name, unit="file", delay=1)
    for number in bar:
        if time.monotonic() > until:
            break
        outcome = player.play(number, measure=number % MEASURED == 0)
        counts.update(runs=1, refused=outcome.refused and not outcome.problem, wrong=bool(outcome.problem))
        _cli.say_if_interrupted(f"{name}: {counts['runs']:,} spoiled files, {counts['wrong']:,} taken wrongly")
        if outcome.problem:
            bar.write(f"{name}, seed {number}: {outcome.problem}\n  again: {command(name, number)}")
    bar.close()
    print(f"{name}: {counts['runs']:,} spoiled files, {counts['refused']:,} refused, {counts['wrong']:,} taken wrongly")
    return counts


def command(name: str, seed: int) -> str:
    return f"python launch/fuzz.py --what=readers --only={name} --seed={seed} --runs=1"
