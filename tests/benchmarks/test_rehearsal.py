"""The rehearsal's own parts: the page's commands, the limits, and commands that are ended in the middle."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.rehearsal.__main__ import SMALL
from benchmarks.rehearsal.environment import Environment
from benchmarks.rehearsal.limits import LimitError, Limits
from benchmarks.rehearsal.machine import Machine
from benchmarks.rehearsal.recipe import PAGE, commands
from training.__main__ import parser

HERE = Environment(Path(sys.executable).parents[1])


def test_the_pages_commands_are_bash_and_know_the_trainers_options():
    found = commands(PAGE.read_text(encoding="utf-8"), {})
    assert [command.number for command in found if command.trains] == [3, 4, 5]
    assert [command.carries for command in found][:3] == [f"runs/packed/part{number}" for number in (1, 2, 3)]
    for command in found:
        subprocess.run(["bash", "-n"], input=command.text, text=True, check=True)
        for arguments in re.findall(r"-m training (.*)", command.text):
            options = parser().parse_args(shlex.split(arguments))
            assert options.minutes == 25 and options.init == Path("weights/default.pt")


def test_what_makes_the_rehearsal_small_stands_on_the_page():
    found = commands(PAGE.read_text(encoding="utf-8"), SMALL)
    assert not any("weights/default.pt" in command.text for command in found)
    with pytest.raises(ValueError, match="no command holds 'something else'"):
        commands(PAGE.read_text(encoding="utf-8"), {"something else": ""})
    with pytest.raises(ValueError, match="expected 1, 2, 3"):
        commands("```bash\n# command 2\ntrue\n```\n", {})


def test_what_comes_back_is_held_against_the_limits(tmp_path: Path):
    limits = Limits(carried=100, files=2, file=50, returned=80, depth=1)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one").write_bytes(b"x" * 50)
    (tmp_path / "two").write_bytes(b"x" * 30)
    assert limits.give_back(tmp_path).startswith("2 files")
    (tmp_path / "two").write_bytes(b"x" * 31)
    with pytest.raises(LimitError, match="come back; the limit"):
        limits.give_back(tmp_path)
    (tmp_path / "two").write_bytes(b"x" * 51)
    with pytest.raises(LimitError, match=r"two: .*the limit of a file"):
        limits.give_back(tmp_path)
    (tmp_path / "two").unlink()
    (tmp_path / "a" / "b").mkdir()
    (tmp_path / "a" / "b" / "deep").write_bytes(b"x")
    with pytest.raises(LimitError, match="lies 2 folders down"):
        limits.give_back(tmp_path)
    (tmp_path / "three").write_bytes(b"x")
    with pytest.raises(LimitError, match="3 files come back"):
        limits.give_back(tmp_path)
    with pytest.raises(LimitError, match="to carry"):
        limits.carry([tmp_path / "a" / "one"] * 3)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path, HERE, Limits())
    made.repository.mkdir()
    return made


WAITING = """
import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
pathlib.Path(sys.argv[1], "pieces", "step-00000001").mkdir(parents=True)
time.sleep(60)
"""


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGKILL])
def test_a_command_is_ended_in_the_middle(machine: Machine, stop: signal.Signals):
    text = f"echo begun; timeout --foreground --preserve-status 50 python -c '{WAITING}' $OUT; exit $?"
    ended = machine.run(text, stop, 60, lambda news: None)
    assert ended.stopped and ended.said == "begun"
    assert ended.code == (143 if stop == signal.SIGTERM else -signal.SIGKILL)


def test_a_command_that_takes_too_long_is_killed_with_what_it_started(machine: Machine):
    ended = machine.run("sleep 60 & echo $! > $OUT/pid; wait", None, 1, lambda news: None)
    assert ended.stopped and ended.code == -signal.SIGKILL
    status = Path(f"/proc/{(machine.out / 'pid').read_text().strip()}/stat")
    for _ in range(100):  # It has its signal; when it ends is the kernel's.
        if not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.1)
    pytest.fail("what the command has started is still running")


def test_out_is_emptied_and_the_exit_code_is_the_commands(machine: Machine):
    assert machine.run("touch $OUT/a; exit 3", None, 60, lambda news: None).code == 3
    assert machine.run("ls $OUT", None, 60, lambda news: None).said == ""


def test_the_copy_holds_what_git_tracks_and_what_is_carried(machine: Machine, tmp_path: Path):
    (tmp_path / "part1" / "shapes").mkdir(parents=True)
    (tmp_path / "part1" / "shapes" / "tree.npz").write_bytes(b"tree")
    (machine.repository / "runs" / "packed" / "part1").mkdir(parents=True)
    (machine.repository / "runs" / "packed" / "part1" / "old.npz").write_bytes(b"old")
    assert machine.carry("runs/packed/part1", tmp_path / "part1").endswith("carried")
    assert (machine.repository / "runs" / "packed" / "part1" / "shapes" / "tree.npz").read_bytes() == b"tree"
    assert not (machine.repository / "runs" / "packed" / "part1" / "old.npz").exists()
    assert (machine.repository / "weights" / "default.pt").stat().st_size > 1e6
    assert not (machine.repository / ".git").exists()


def test_packages_that_the_machine_lacks_are_hidden(tmp_path: Path):
    variables = HERE.variables()
    code = "import importlib.util, sys; sys.exit(sum(importlib.util.find_spec(n) is not None for n in sys.argv[1:]))"
    names = variables["REHEARSAL_ABSENT"].split()
    assert len(names) >= 5
    subprocess.run([sys.executable, "-c", code, *names], env=variables, cwd=tmp_path, check=True)
    assert subprocess.run([sys.executable, "-c", code, "numpy"], env=variables, cwd=tmp_path).returncode == 1
    assert not any(name.startswith("SEGFM3D_") for name in variables) and os.environ["PATH"] in variables["PATH"]
