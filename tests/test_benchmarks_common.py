"""What the benchmarks share: statistics on numbers that are known, flags, reports; a very short run of light ones."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import timeline
from benchmarks.common import plots
from benchmarks.common.command import typed
from benchmarks.common.report import Report
from benchmarks.common.summary import Summary, alternate, digits, ratios, slope, summary
from benchmarks.gpu import measure as gpu
from edl_allreduce.errors import DataError, UsageError

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = sorted(path.name for path in (ROOT / "benchmarks").glob("*.py"))


def test_measurements_alternate_and_are_compared_with_their_neighbours() -> None:
    order: list[str] = []

    def measure(name: str, value: float) -> float:
        order.append(name)
        return value * len(order)  # the machine gets slower and slower

    found = alternate({"a": lambda: measure("a", 1), "b": lambda: measure("b", 2)}, 4)
    assert order == ["a", "b", "b", "a", "a", "b", "b", "a"]
    assert found == {"a": [1, 4, 5, 8], "b": [4, 6, 12, 14]}
    assert ratios(found["b"], found["a"]) == Summary(4, (1.75 + 2.4) / 2, 1.5, 4.0)


def test_a_line_through_points() -> None:
    assert slope([(10, 65), (20, 70), (40, 80)]) == pytest.approx((0.5, 60))
    assert slope([(1000, 130)]) == (0.0, 130)


@pytest.mark.parametrize(("value", "text"), [(0.04567, "0.0457"), (999.6, "1,000"), (12345.6, "12,346")])
def test_figures_have_three_digits_that_mean_something(value: float, text: str) -> None:
    assert digits(value) == text


def test_a_spread_is_told_where_there_is_one() -> None:
    assert str(summary([3.0, 1.0, 2.0])) == "2 (1 … 3)" and str(summary([2.5])) == "2.5"


@pytest.mark.parametrize(
    ("text", "default", "value"),
    [("7", 3, 7), ("0.5", 3.0, 0.5), ("10,100", (1,), (10, 100)), ("(1, 2)", (1,), (1, 2)), ("no", True, False)],
)
def test_a_flag_has_the_type_of_its_default(text: str, default: object, value: object) -> None:
    assert typed("size", text, default) == value


@pytest.mark.parametrize(("text", "default"), [("x", 1), ("0", 1), ("inf", 2.0), ("1,x", (1,)), ("maybe", False)])
def test_a_flag_of_another_type_is_refused(text: str, default: object) -> None:
    with pytest.raises(UsageError, match="--size: expected"):
        typed("size", text, default)


def test_a_report_has_tables_goals_and_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = Report("fruit", str(tmp_path), repeats=2)
    report.table("apples", [{"size": 1, "weight": summary([1.0, 2.0])}, {"size": 20, "weight": 3.0}])
    report.goal("sweet enough", 0.9, 0.8)
    report.goal("cheap enough", 0.9, 0.8, most=True)
    report.close(
        lambda axes: plots.bars(axes, {"apples": 1.0}, goal=0.8), lambda axes: plots.lines(axes, {"a": [(1, 2)]})
    )
    told = capsys.readouterr().out
    assert "   1  1.5 (1 … 2)" in told and "  20            3" in told
    assert "reached  sweet enough: 0.9 (≥ 0.8 wanted)" in told and "MISSED   cheap enough: 0.9 (≤ 0.8 wanted)" in told
    written = json.loads((tmp_path / "fruit.json").read_text())
    assert written["apples"][0]["weight"] == {"count": 2, "median": 1.5, "least": 1.0, "most": 2.0}
    assert [goal["reached"] for goal in written["goals"]] == [True, False]
    assert written["machine"]["cores"] and written["versions"]["numpy"] and written["settings"] == {"repeats": 2}
    if plots.available():
        assert (tmp_path / "fruit.png").read_bytes().startswith(b"\x89PNG")


def test_scaling_is_read_from_the_histories_of_jobs(tmp_path: Path) -> None:
    def history(name: str, workers: int, seconds: float) -> str:
        begin = {
            "round": 1,
            "members": list(range(workers)),
            "kind": "start",
            "cause": "start",
            "first_step": 1,
            "time": 5.0,
        }
        steps = [{"step": step, "records": 64, "useful": seconds} for step in range(1, 31)]
        (tmp_path / name).write_text("".join(f"{json.dumps(line)}\n" for line in [begin, *steps]))
        return str(tmp_path / name)

    files = ",".join([history("one", 1, 0.1), history("four", 4, 0.032)])
    gpu(histories=files, output=str(tmp_path))
    one, four = json.loads((tmp_path / "gpu.json").read_text())["jobs"]
    assert (one["workers"], one["images per second"]["median"]) == (1, pytest.approx(640))
    assert (four["workers"], four["efficiency"]) == (4, pytest.approx(0.78125))
    with pytest.raises(DataError, match="none: no such file"):
        gpu(histories=str(tmp_path / "none"), output=str(tmp_path))


def run(script: str, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "benchmarks" / script), *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)


def test_wrong_flags_are_answered_in_a_line_and_help_tells_them() -> None:
    for flag, told in (
        ("--worker=3", "--worker: there is no such flag (did you mean 'workers'?); --help lists them all"),
        ("--workers=many", "--workers: expected a whole number greater than 0, got 'many'"),
        ("--workers=9999999", "--workers: 9999999 need"),
    ):
        ended = run("coordinator.py", flag)
        assert ended.returncode == 2 and told in ended.stderr, ended.stderr
        assert len(ended.stderr.splitlines()) == 1
    ended = run("coordinator.py", "--help")
    assert ended.returncode == 0 and "usage: python benchmarks/coordinator.py [--workers=WORKERS]" in ended.stdout


@pytest.mark.parametrize("script", SCRIPTS)
def test_make_bench_can_ask_each_for_a_look(script: str) -> None:
    text = (ROOT / "benchmarks" / script).read_text(encoding="utf-8")
    assert "short: bool = False," in text or '"--short"' in text


def test_a_short_run_of_sql_needs_no_database() -> None:
    ended = run("sql.py", "--short")
    assert ended.returncode == 0, ended.stderr
    done = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [(each["what"], each["rows"]) for each in done] == [
        *(("copy", 10_000), ("extract", 1000)),
        *(("extract", 10_000), ("write_back", 10_000)),
    ]
    ended = run("sql.py", "sqlite:////nowhere/there.db")
    assert ended.returncode == 1 and ended.stderr.startswith("error: sqlite:////nowhere/there.db: there is no file")


def test_a_short_run_of_the_coordinators_benchmark(tmp_path: Path) -> None:
    pytest.importorskip("horovod", reason="Horovod is not installed: python -m edl_allreduce.horovod_wheel install")
    flags = ("--workers=3,6", "--tasks=4", "--seconds=0.5", "--repeats=1", f"--output={tmp_path}")
    ended = run("coordinator.py", *flags)
    assert ended.returncode == 0, ended.stderr
    few, more = json.loads((tmp_path / "coordinator.json").read_text())["a job of N workers"]
    assert (few["workers"], more["workers"]) == (3, 6)
    for row in (few, more):
        assert 0 < row["forms, s"] < 30 and 0 < row["reforms, s"] < 30 and 20 < row["memory, MB"] < 1000
        assert row["heartbeats per second"] < 60  # four per second and worker, and never more


def test_the_parts_of_a_step_add_up_to_it() -> None:
    events = [
        {"name": "process_name", "ph": "M", "pid": 0, "args": {"start_time_since_epoch_in_micros": 100_000_000}},
        {"name": "process_name", "ph": "M", "pid": 1, "args": {"name": "cond/edl_step_0_1of3"}},
        {"name": "process_name", "ph": "M", "pid": 2, "args": {"name": "cond/edl_step_0_2of3"}},
        {"name": "process_name", "ph": "M", "pid": 3, "args": {"name": "cond/edl_step_1_1of1"}},
        *(*_nested(1, "NEGOTIATE_ALLREDUCE", 500_000, 510_000), *_nested(1, "ALLREDUCE", 510_000, 540_000)),
        *(*_nested(3, "NEGOTIATE_ALLREDUCE", 605_000, 610_000), *_nested(3, "ALLREDUCE", 610_000, 640_000)),
    ]
    written = "[\n" + ",\n".join(map(json.dumps, events)) + ",\n"  # Horovod never closes it
    buckets = timeline.buckets_of(written)
    assert [len(bucket["ALLREDUCE"]) for bucket in buckets] == [1, 1]
    times = [(0.0, 0.0, 100.4), (100.45, 100.6, 100.7)]
    found = {part: values[0] for part, values in timeline.parts_of(times, buckets).items()}
    assert found == pytest.approx(
        {"input": 50, "compute": 150, "negotiation": 5, "reduction": 30, "apply": 65, "reduced meanwhile": 30}
    )
    assert timeline.parts_of([*times, (100.8, 100.9, 101.0)], buckets)["input"] == pytest.approx(
        [50]
    )  # nothing is told


def _nested(pid: int, name: str, begin: int, end: int) -> list[dict[str, object]]:
    inner = [{"ph": "B", "name": "GLOO_ALLREDUCE", "ts": begin, "pid": pid}, {"ph": "E", "ts": end, "pid": pid}]
    return [{"ph": "B", "name": name, "ts": begin, "pid": pid}, *inner, {"ph": "E", "ts": end, "pid": pid}]
