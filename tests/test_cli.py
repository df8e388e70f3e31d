"""`edl` as people type it: every mistake is one line with an exit code, help is quick, nothing surprises."""

from __future__ import annotations

import importlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from edl_allreduce.errors import JobFailed, StorageError, UsageError
from launcher.cli import main
from launcher.commands.table import COMMANDS, Command, summaries
from launcher.settings import TRAIN_FLAGS
from tests.fakes import FLAGS, alive, enter, gone
from tests.jobs import REPOSITORY

SUPERVISOR = "rendezvous.supervisor"
EDL = [sys.executable, "-m", "edl_allreduce.launch"]
TRAIN = ["train", *(f"--{name}={value}" for name, value in FLAGS.items())]


@pytest.fixture(autouse=True)
def work_in_a_folder_of_our_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    enter(tmp_path, monkeypatch)
    monkeypatch.setenv("COLUMNS", "100")


def train(**values: str) -> list[str]:
    return ["train", *(f"--{name}={value}" for name, value in (FLAGS | values).items())]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (
            train(num_worker="3"),
            2,
            "--num_worker: there is no such flag (did you mean 'num_workers'?); --help lists them",
        ),
        (train(data="nowhere/*.recordio"), 3, "--data: "),
        (train(data="data/*.csv"), 3, "--data: "),
        (train(model_def="digit.Classifier"), 2, "--model_def: 'digit.Classifier' needs the file zoo/digit.py"),
        (
            train(model_def="digits.Clasifier"),
            2,
            "--model_def: zoo/digits.py defines no 'Clasifier' (did you mean 'Class",
        ),
        (train(params="hidden_units=[10"), 2, "--params: "),
        (train(output="zoo"), 2, "--output: zoo already exists; choose another folder or add --overwrite"),
        (train(model_zoo="zo"), 2, "--model_zoo: "),
        (train(num_workers="100001"), 2, "--num_workers: expected at most 100,000, got 100001"),
        (train(seed="x"), 2, "--seed: expected a whole number, 0 or more, got 'x'"),
        (
            ["train", "--quiet"],
            2,
            "--model_zoo, --model_def, --data, --output: required and not given; --help explains",
        ),
        ([*TRAIN, "--seed"], 2, "--seed: its value is missing; give it as --seed=VALUE"),
        (["train", "--data", "data/a.recordio", "data/b.recordio"], 2, "--data: more than one value, also 'data/b.rec"),
        ([*TRAIN, "-"], 2, "expected a flag, got '-'"),
        ([*TRAIN, "--", "--trace"], 2, "expected a flag, got '--'"),
        (["trian"], 2, "edl trian: there is no such command (did you mean 'train'?); the commands are train, "),
        (["recordio", "inof"], 2, "edl recordio inof: there is no such command (did you mean 'info'?)"),
        (["--model_zoo=zoo"], 2, "edl --model_zoo=zoo: expected a command first; the commands are train, "),
        (["version", "upper"], 2, "expected a flag, got 'upper'"),
        (["version", "--", "--interactive"], 2, "expected a flag, got '--'"),
    ],
)
def test_a_mistake_is_one_line(
    words: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(words) == code
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"error: {message}") and err.count("\n") == 1
    assert not (tmp_path / "home").exists(), "nothing has been started"


def test_exit_codes_are_those_of_the_errors() -> None:
    assert (main(train(seed="x")), main(train(data="no"))) == (UsageError.exit_code, StorageError.exit_code)


@pytest.mark.parametrize("text", ["[1, 2]", "007", "1e3", "None", "{'a': 1}", '"quoted"', "-1", "a,b", "#x"])
def test_fire_does_not_guess_types(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(train(dry_run="true", job_name="x", loss=text)) == 0
    assert f'"loss": {json.dumps(text)}' in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "called"),
    [
        ("show a b -", (("a", "b", "-"), "10", False)),
        ("show a --limit 007 --all", (("a",), "007", "true")),
        ("show --all 1 --noall=x", "--noall: there is no such flag (did you mean 'all'?)"),
        ("show --all 1", (("1",), "10", "true")),
        ("show a --limt=3", "--limt: there is no such flag (did you mean 'limit'?)"),
        ("show", "edl show: a file is missing; edl show --help explains it"),
        ("move a b", ("a", "b", "3")),
        ("move --source=[a] b --count None", ("[a]", "b", "None")),
        ("move a", "edl move: TARGET is missing; edl move --help explains it"),
        ("move a b c", "edl move: 'c' is too much; edl move --help explains it"),
    ],
)
def test_a_command_is_a_plain_function(
    line: str, called: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[object] = []

    def show(*files: str, limit: str = "10", all: str | bool = False) -> None:
        calls.append((files, limit, all))

    def move(source: str, target: str, count: str = "3") -> int:
        calls.append((source, target, count))
        return 7

    table = {"show": Command("shows", lambda: show), "move": Command("moves", lambda: move)}
    monkeypatch.setattr("launcher.commands.dispatch.COMMANDS", table)
    code = main(line.split())
    if isinstance(called, str):
        assert (code, calls) == (2, []) and capsys.readouterr().err.startswith(f"error: {called}")
    else:
        assert (code, calls) == (7 if line.startswith("move") else 0, [called])


def test_a_checkout_that_is_not_installed_says_how_to(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "fire", None)
    assert main(["train", "--model_zoo=zoo"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: edl_allreduce needs fire, not installed in ")
    assert told.endswith(f"{sys.executable} -m pip install -e {REPOSITORY}\n")


def test_an_unexpected_exception_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launcher.run.check", lambda job: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(TRAIN)
    monkeypatch.setattr("launcher.run.check", lambda job: importlib.import_module("launcher.nowhere"))
    with pytest.raises(ModuleNotFoundError):
        main(TRAIN)


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]])
def test_the_overview_lists_every_command(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    text = capsys.readouterr().out
    positions = [text.index(f"\n  {name} ") for name in summaries({**COMMANDS})]
    assert len(positions) == len(set(positions)) > 20


@pytest.mark.parametrize("words", [["train", "--help"], ["help", "train"], ["train", "--data", "x", "-h"]])
def test_the_help_of_train_shows_flags_defaults_units_and_examples(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 0
    text = capsys.readouterr().out
    positions = [text.index(f"\n  --{'[no]' if each.default is True else ''}{each.name}") for each in TRAIN_FLAGS]
    assert len(set(positions)) == len(TRAIN_FLAGS)
    assert [text.index(f"\n{title}:\n") for title in ("Model", "Data", "Training", "Workers", "Result", "Advanced")]
    assert "(default 128)" in text and "--worker_timeout=SECONDS" in text and text.count("edl train --model_zoo") == 2
    head, _, _ = text.partition("\nExamples:\n")
    assert max(len(line) for line in head.splitlines()) <= 100


def test_the_help_fits_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "70")
    assert main(["train", "--help"]) == 0
    head, _, _ = capsys.readouterr().out.partition("\nExamples:\n")
    assert max(len(line) for line in head.splitlines()) <= 72


def test_a_group_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recordio"]) == 0
    assert "usage: edl recordio COMMAND" in capsys.readouterr().out


@pytest.mark.parametrize(
    "name",
    [
        *("jobs", "status", "logs", "events", "scale", "stop", "wait", "dashboard"),
        *("recordio info", "recordio cat", "recordio verify", "convert", "version"),
    ],
)
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*name.split(), "--help"]) == 0
    usage, _, rest = capsys.readouterr().out.partition("\n\n")
    assert usage.startswith(f"usage: edl {name}") and len(rest) > 10


def test_recordio_files_can_be_looked_at(capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(__file__).parent / "data" / "recordio"
    files = [str(path) for path in sorted(folder.glob("*.recordio"))][:2]
    assert (main(["recordio", "info", *files, "--json"]), main(["recordio", "verify", files[0]])) == (0, 0)
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["file"] for line in lines[:2]] == files and lines[2].startswith("1 file: ")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    from edl_allreduce import __version__

    assert (main(["version"]), main(["--version"])) == (0, 0)
    assert capsys.readouterr().out == f"edl_allreduce {__version__}\n" * 2


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"]])
def test_help_is_quick(words: list[str]) -> None:
    def seconds() -> float:
        start = time.perf_counter()
        subprocess.run([*EDL, *words], check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - start

    assert min(seconds() for _ in range(3)) < 1.0


def test_training_from_the_shell_as_the_readme_writes_it(tmp_path: Path) -> None:
    line = " ".join([*EDL, "train --model-zoo=zoo --model_def digits.Classifier --data 'data/*.recordio' --output=out"])
    ran = subprocess.run(["sh", "-c", f"{line} --num_workers=2"], capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.splitlines()[-1].startswith(f"model in out, logs in {tmp_path}/home/jobs/digits-")


@pytest.mark.parametrize(
    ("scenario", "code", "message"),
    [
        ("model_error", 5, "error: model_zoo/digits.py:12: NameError: name 'x' is not defined; logs in "),
        ("vanish", 6, "error: the coordinator ended unexpectedly 5 times in a row (killed by SIGKILL); the end of "),
    ],
)
def test_a_failed_job_is_an_error(scenario: str, code: int, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_SCENARIO", scenario)
    ran = subprocess.run([*EDL, *TRAIN], capture_output=True, text=True, timeout=60)
    assert ran.returncode == code and ran.stderr.startswith(message) and "Traceback" not in ran.stderr


class Running:
    """`edl train …` in a child process, read line by line."""

    def __init__(self, *words: str) -> None:
        self.process = subprocess.Popen(
            [*EDL, *TRAIN, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout
        self.lines: list[str] = []
        for line in self.process.stdout:
            self.lines.append(line)
            if line.startswith("round 1 "):
                return
        raise AssertionError(f"it never trained: {self.lines}")

    def group(self, home: Path) -> int:
        """The process group of its only job."""
        [folder] = (home / "jobs").iterdir()
        words = {process.pid: process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])}
        return next(pid for pid, line in words.items() if SUPERVISOR in line and f"--job_folder={folder}" in line)

    def end(self) -> tuple[int, str]:
        """Exit code, and all that is still said on standard output."""
        out, err = self.process.communicate(timeout=60)
        assert err == "", err
        return self.process.returncode, out


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_everything(number: int, code: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FAKE_SCENARIO", "forever")
    running = Running()
    group = running.group(tmp_path / "home")
    running.process.send_signal(number)
    ended, out = running.end()
    assert ended == code and "stopping the job" in out and out.splitlines()[-1].startswith("stopped after ")
    assert gone(group)


def test_the_second_ctrl_c_ends_it_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FAKE_SCENARIO", "deaf")
    running = Running()
    group = running.group(tmp_path / "home")
    running.process.send_signal(signal.SIGINT)
    assert running.process.stdout and "stopping the job" in running.process.stdout.readline()
    running.process.send_signal(signal.SIGINT)
    assert running.end()[0] == 130 and gone(group)


def test_nobody_reading_any_more_stops_the_job(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FAKE_SCENARIO", "train")
    line = " ".join([*EDL, *TRAIN])
    ran = subprocess.run(["bash", "-c", f"{line} | head -n1; echo ${{PIPESTATUS[0]}}"], capture_output=True, text=True)
    assert ran.stdout.splitlines()[-1] == "141" and "Traceback" not in ran.stderr


def test_nowait_leaves_the_job_to_itself(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAKE_SCENARIO", "forever")
    ran = subprocess.run([*EDL, *TRAIN, "--nowait"], capture_output=True, text=True, timeout=60)
    [folder] = (tmp_path / "home" / "jobs").iterdir()
    name, group = folder.name, json.loads((folder / "supervisor.json").read_text())["pid"]
    hint = f"edl scale {name} N changes its number of workers, edl stop {name} ends it"
    assert ran.returncode == 0 and ran.stdout.splitlines()[-1] == hint
    assert len(alive(group)) == 4
    assert main(["scale", name, "3"]) == 0 and len(alive(group)) == 5
    assert main(["scale", name[:8], "3"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{name} keeps 3 workers now (2 before)",
        f"{name} keeps 3 workers now (3 before)",
    ]
    assert main(["stop", name]) == 0 and gone(group)
    assert capsys.readouterr().out.startswith(f"{name} stopped after ")
    assert main(["scale", name, "1"]) == main(["stop", name]) == JobFailed.exit_code
    assert capsys.readouterr().err == f"error: job {name} has ended: stopped, asked to\n" * 2


@pytest.mark.parametrize("count", ["0", "-1", "x", "1.5", ""])
def test_a_job_needs_a_positive_number_of_workers(count: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scale", "digits", count]) == 2
    message = f"error: NUM_WORKERS: expected a whole number, greater than 0, got {count!r}\n"
    assert capsys.readouterr() == ("", message)


def test_horovod_is_passed_on(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["horovod", "--help"]) == 0
    assert "{build,install,check}" in capfd.readouterr().out


def test_ctrl_c_while_the_command_is_being_loaded_is_no_traceback() -> None:
    code = """
import sys
class Interrupts:
    def find_spec(self, name, path=None, target=None):
        if name == "launcher.settings":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupts())
from launcher.cli import main
sys.exit(main(["version"]))
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "")


def test_a_full_disk_where_output_goes_is_one_line() -> None:
    with open("/dev/full", "w") as full:
        ended = subprocess.run([*EDL, "version"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (3, "error: No space left on device\n")
