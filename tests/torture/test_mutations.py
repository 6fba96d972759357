"""Damaged results and curves: never a traceback, and never a wrong answer that is taken for the right one."""

import json
import shutil

import numpy as np
import pytest

from tests.torture.runs import LONG, NAME

ROUNDS = 2000 if LONG else 300
DIGITS = b"0123456789"


class Mutator:
    """Changes a few bytes or lines, of which all that a disk, an editor or a merge may do can come."""

    def __init__(self, seed):
        self.random = np.random.default_rng(seed)

    def __call__(self, data):
        ways = (self.flip, self.cut, self.insert, self.remove, self.double_line, self.drop_line, self.swap_digits,
                self.new_digit, self.swap_lines)  # fmt: skip
        mutated = data
        while mutated == data:
            for _ in range(self.random.choice([1, 1, 2, 4])):
                mutated = ways[self.random.integers(len(ways))](mutated) or b"\n"
        return mutated

    def place(self, data):
        return int(self.random.integers(len(data)))

    def flip(self, data):
        place = self.place(data)
        return data[:place] + bytes([data[place] ^ 1 << int(self.random.integers(8))]) + data[place + 1 :]

    def cut(self, data):
        return data[: self.place(data)]

    def insert(self, data):
        place = self.place(data)
        return data[:place] + self.random.bytes(int(self.random.integers(1, 5))) + data[place:]

    def remove(self, data):
        place = self.place(data)
        return data[:place] + data[place + int(self.random.integers(1, 20)) :]

    def lines(self, data):
        lines = data.splitlines(keepends=True)
        return lines, int(self.random.integers(len(lines)))

    def double_line(self, data):
        lines, place = self.lines(data)
        return b"".join([*lines[: place + 1], *lines[place:]])

    def drop_line(self, data):
        lines, place = self.lines(data)
        return b"".join([*lines[:place], *lines[place + 1 :]])

    def swap_lines(self, data):
        lines, place = self.lines(data)
        other = int(self.random.integers(len(lines)))
        lines[place], lines[other] = lines[other], lines[place]
        return b"".join(lines)

    def digits(self, data):
        return [place for place, byte in enumerate(data) if byte in DIGITS]

    def swap_digits(self, data):
        places = self.digits(data)
        if len(places) < 2:
            return data
        first, second = sorted(int(place) for place in self.random.choice(places, 2, replace=False))
        return (
            data[:first] + data[second : second + 1] + data[first + 1 : second] + data[first : first + 1]
            + data[second + 1 :]
        )  # fmt: skip

    def new_digit(self, data):
        places = self.digits(data)
        if not places:
            return data
        place = int(self.random.choice(places))
        return data[:place] + bytes([self.random.choice(list(DIGITS))]) + data[place + 1 :]


@pytest.fixture(scope="module", params=["reference", "raced"])
def finished(request, tmp_path_factory):
    run = request.getfixturevalue(request.param)
    return shutil.copytree(run.folder, tmp_path_factory.mktemp("finished") / NAME)


def answer(cli, *command):
    """The exit code and the plan that was printed, of which the file that it was read from is no part."""
    result = cli("plan", *command, "--format", "json")
    assert "Traceback" not in result.err, command
    assert result.code in (0, 1, 2, 3, 4), (command, result.err)
    return result.code, json.loads(result.out) if result.code == 0 else None


@pytest.mark.parametrize("name", ["result.json", "curve.csv"])
def test_a_damaged_file_of_a_run_is_refused_or_read_as_it_was(cli, finished, tmp_path, name):
    mutate, right = Mutator(len(name)), answer(cli, finished)
    assert right[0] == 0
    folder, seen = shutil.copytree(finished, tmp_path / NAME), []
    for number in range(ROUNDS // 2):
        (folder / name).write_bytes(mutate((finished / name).read_bytes()))
        found = answer(cli, folder)
        if found[0] == 0 and found != right:
            shutil.copy(folder / name, tmp_path / f"wrong-{number}-{name}")
        seen.append(found)
        if number % 10 == 0:
            drawn = cli("plot", folder, "-o", tmp_path / "x.png")
            assert drawn.code in (0, 2, 4), drawn.err
            assert found[0] or drawn.code == 0
    assert [found for found in seen if found[0] == 0 and found != right] == []
    assert sum(found[0] != 0 for found in seen) > ROUNDS // 4


def test_a_damaged_bounds_file_is_refused_or_read_as_it_was(cli, finished, tmp_path):
    mutate, bounds = Mutator(3), tmp_path / "x.bounds.json"
    data = (finished / "result.json").read_bytes()
    bounds.write_bytes(data)
    right = answer(cli, bounds)
    assert right[0] == 0
    for number in range(ROUNDS):
        bounds.write_bytes(mutate(data))
        found = answer(cli, bounds)
        if found[0] == 0 and found != right:
            raise AssertionError(f"mutation {number}: {found}")
