"""In a notebook a training is a card that is drawn anew in its place; a mistake is one line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from edl_allreduce.control.control_pb2 import Status
from launcher.display.card import Card
from launcher.display.curves import MAX_POINTS, Curve, chart, sparkline
from launcher.display.notebook import LINES, Notebook
from launcher.notebook import loss_curves
from tests.browser import browser
from tests.jobs import REPOSITORY, left_over
from tests.notebooks import Kernel, a_kernel
from tests.test_launcher_progress import SPAWNED, training, workers

LOGS = "logs in /logs"


def test_a_curve_stays_small_and_keeps_its_shape() -> None:
    curve = Curve()
    for step in range(10 * MAX_POINTS):
        curve.add(step, float(step))
    xs, ys = zip(*curve.points, strict=True)
    assert MAX_POINTS / 2 <= len(xs) <= MAX_POINTS
    assert list(xs) == sorted(xs) and xs == ys and xs[-1] == 10 * MAX_POINTS - 1


def test_steps_that_are_done_again_replace_what_was_there() -> None:
    curve = Curve()
    for step, loss in [(1, 3.0), (2, 2.0), (3, 1.0), (2, 2.5), (3, float("nan"))]:
        curve.add(step, loss)
    assert curve.points == [(1, 3.0), (2, 2.5)]


def test_a_line_fills_its_picture_and_a_flat_one_divides_by_nothing() -> None:
    [where] = re.findall(r'points="([^"]*)"', sparkline([(10, 4.0), (20, 2.0), (30, 0.0)], "loss", height=46))
    assert where == "0.0,3.0 300.0,23.0 600.0,43.0"
    assert 'points="0.0,43.0 600.0,43.0"' in sparkline([(1, 2.0), (2, 2.0)], "loss", height=46)


def test_a_chart_names_its_curves_and_marks_its_axes() -> None:
    drawn = chart({"loss": [(1, 2.0), (101, 1.0)], "val_<x>": [(51, 1.5)]}, "step")
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", drawn)
    assert texts == ["loss", "val_&lt;x&gt;", "1", "1", "1.5", "51", "2", "101", "step"]
    assert drawn.count("<polyline") == 1 and drawn.count("<circle") == 3  # one curve is a single point


def test_a_loss_that_falls_by_orders_of_magnitude_is_drawn_logarithmically() -> None:
    drawn = chart({"loss": [(1, 100.0), (2, 1.0), (3, 0.01)]}, "step")
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", drawn)
    assert [texts[1], texts[3], texts[5]] == ["0.01", "1", "100"]
    [where] = re.findall(r'points="([^"]*)"', drawn)
    heights = [float(point.split(",")[1]) for point in where.split()]
    assert heights[1] - heights[0] == pytest.approx(heights[2] - heights[1])


def test_the_loss_curves_are_those_of_the_history() -> None:
    lines: list[dict[str, object]] = [
        {"round": 1, "members": [0]},
        {"step": 1, "loss": 3.0},
        {"step": 2, "loss": 2.0},
        {"evaluation": 2, "figures": {"loss": 2.5}},
        {"step": 3, "loss": 1.0},
        {"step": 3, "loss": 1.1},  # done again
        {"epoch_end": 0, "step": 3, "figures": {"loss": 2.0, "val_loss": 1.5}},
    ]
    found = {name: list(points) for name, points in loss_curves(lines).items()}
    assert found == {"loss": [(1, 3.0), (2, 2.0), (3, 1.1)], "val_loss": [(2, 2.5), (3, 1.5)]}
    assert loss_curves([{"evaluation": 0, "figures": {"loss": 2.5}}]) == {}


class Page:
    """Keeps what was published."""

    def __init__(self) -> None:
        self.bundles: list[dict[str, str]] = []

    def __call__(self, bundle: dict[str, str]) -> None:
        self.bundles.append(bundle)

    @property
    def html(self) -> str:
        return self.bundles[-1]["text/html"]

    @property
    def text(self) -> str:
        return self.bundles[-1]["text/plain"]


def test_the_card_follows_the_job() -> None:
    page = Page()
    with Notebook(page, clock=lambda: 0.0) as display:
        display.stage("building the image: 3 of 12")
        assert "building the image: 3 of 12" in page.html
        display.introduce("digits-1")
        display.show(SPAWNED)
        assert "building" not in page.html and "starting 3 workers: 1 ready" in page.html
        assert "worker 0 preparing" in page.html and page.text == "starting 3 workers: 1 ready"
        display.link("http://127.0.0.1:1/#token=secret")
        for step in (10, 11, 12):
            display.show(training(step, loss=1.0 / step))
    assert 'aria-valuenow="30"' in page.html and "loss 0.1 at step 10, 0.08333 at step 12" in page.html
    assert 'href="http://127.0.0.1:1/#token=secret"' in page.html
    assert page.text.startswith("digits-1: epoch 2/4 · step 12/40 · loss 0.0833")


def test_the_card_of_an_ended_job_keeps_the_curve_and_not_the_token() -> None:
    page = Page()
    display = Notebook(page, clock=lambda: 0.0)
    display.link("http://127.0.0.1:1/#token=secret")
    for step in (10, 11):
        display.show(training(step))
    display.end(training(40, phase="done", training_seconds=12.3, workers=[]), "out/digits", LOGS)
    assert "secret" not in page.html and "<polyline" in page.html and 'aria-valuenow="100"' in page.html
    assert page.text.endswith("the last loss is 0.3457\nmodel in out/digits, logs in /logs")


def test_the_card_keeps_the_newest_lines_and_shows_text_as_it_is() -> None:
    page = Page()
    display = Notebook(page)
    for number in range(LINES + 1):
        display.note(f"line {number} <b>&</b>")
    assert "line 0" not in page.html
    assert all(f"line {number} &lt;b&gt;&amp;&lt;/b&gt;" in page.html for number in range(1, LINES + 1))


def test_many_workers_are_counted() -> None:
    html = Card("big", training(workers=workers(*["training"] * 1200, *["pending"] * 3))).html()
    assert "1,200 training" in html and "3 pending" in html and len(html) < 5000


@pytest.mark.parametrize("ground", ["#ffffff", "#111111"])
def test_the_card_is_readable_on_every_ground(ground: str, tmp_path: Path) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    ink = {"#ffffff": "#1f1f1f", "#111111": "#e0e0e0"}[ground]
    losses = [(step, 2.0 / step) for step in range(1, 100)]
    status = training(workers=workers("training", "pending"), message="waiting for one worker")
    cards = [Card("digits-1", each, losses, lines=["round 1"]).html() for each in (status, Status(phase="failed"))]
    head = '<!doctype html><html lang="en"><title>cards</title>'
    body = f'<body style="background:{ground};color:{ink}"><main><h1>Cards</h1>{"".join(cards)}</main>'
    with browser() as chromium:
        page = chromium.new_page(viewport={"width": 360, "height": 600})
        page.set_content(head + body)
        found = axe.Axe().run(page).response
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert [each["id"] for each in found["violations"]] == []


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    folder = tmp_path_factory.mktemp("notebook")
    with a_kernel(folder, EDL_HOME=str(folder / "home")) as found:
        found.run("import launcher")
        yield found


TRAIN = """launcher.train(model_zoo={zoo!r}, model_def="digits.Classifier", data="{digits}/train/*.recordio",
               output="out", num_epochs=10_000)"""


def test_the_stop_button_stops_the_job(kernel: Kernel, digits: Path) -> None:
    source = TRAIN.format(zoo=f"{REPOSITORY}/model_zoo", digits=digits)
    shown = kernel.run(source, interrupt_at="worker 0 training")
    assert "KeyboardInterrupt: the job was stopped" in shown.text and "Traceback" not in shown.text
    [left] = shown.html
    assert "stopped after" in left and any("#token=" in each for each in shown.drawn) and "#token=" not in left
    assert left_over(Path(str(kernel.run("import os; print(os.environ['EDL_HOME'])").text).strip())) == []


def test_a_mistake_is_one_line_and_stops_the_notebook(kernel: Kernel) -> None:
    shown = kernel.run('launcher.train(model_zoo="nowhere", model_def="a.B", data="d", output="o", num_epoch=1)')
    [error] = shown.outputs
    assert error["output_type"] == "error"
    assert error["traceback"] == [
        "UsageError: --num_epoch: there is no such flag (did you mean 'num_epochs'?); --help lists them all"
    ]


def test_what_is_redirected_in_a_notebook_is_lines(kernel: Kernel) -> None:
    source = """
import contextlib, io, sys
from launcher.display.choice import display_on
with contextlib.redirect_stdout(io.StringIO()) as out:
    print(type(display_on(sys.stdout, quiet=False)).__name__, file=sys.__stderr__)
    inside = type(display_on(sys.stdout, quiet=False)).__name__
print(inside, type(display_on(sys.stdout, quiet=True)).__name__, type(display_on(sys.stdout, quiet=False)).__name__)
"""
    assert kernel.run(source).text.strip() == "Plain Silent Notebook"


@pytest.fixture(scope="module")
def edl(kernel: Kernel) -> Kernel:
    """The kernel with `%%edl`, and a database staff.db beside it."""
    pytest.importorskip("sqlalchemy", reason="SQLAlchemy is not installed")
    kernel.run(STAFF)
    assert kernel.run("%load_ext launcher.notebook").text == ""
    return kernel


STAFF = """
import sqlite3
with sqlite3.connect("staff.db") as database:
    database.execute("CREATE TABLE staff (id INTEGER PRIMARY KEY, age REAL, salary REAL)")
    database.executemany("INSERT INTO staff VALUES (?, ?, ?)", [(n, n % 47, 50.0 * (n % 47)) for n in range(600)])
"""
TRAIN_SQL = """%%edl --database=sqlite:///staff.db --num_epochs=2
SELECT age, salary FROM staff TRAIN regressor.DNN WITH hidden_units=[8] LABEL salary INTO pay;"""


def test_a_statement_trains_and_shows_the_loss_curve(edl: Kernel) -> None:
    shown = edl.run(TRAIN_SQL)
    assert "extracted 600 rows" in shown.text and re.search(r"<job regressor-\S+: done>", shown.text), shown.text
    card, curve = shown.html
    assert any("worker 0 preparing" in each for each in shown.drawn) and 'aria-valuenow="100"' in card
    assert "trained 2 epochs, 10 steps" in card and "loss over step" in curve and "<polyline" in curve


@pytest.mark.parametrize(
    ("cell", "problem"),
    [
        ("%%edl --databse=x.db\nSELECT 1", "UsageError: --databse: there is no such flag (did you mean 'database'?)"),
        ("%%edl --file=x.sql\nSELECT 1", "UsageError: --file: the statements are those of the cell; leave it out"),
        ("%%edl --models='x\nSELECT 1", "UsageError: %%edl --models='x: No closing quotation"),
        (
            "%%edl --database=none.db\nSELECT a, b FROM t TRAIN regressor.DNN INTO x",
            "StorageError: sqlite:///none.db: ",
        ),
    ],
)
def test_a_mistake_in_a_statement_is_one_line(edl: Kernel, cell: str, problem: str) -> None:
    [error] = edl.run(cell).outputs
    assert error["output_type"] == "error" and len(error["traceback"]) == 1
    assert error["traceback"][0].startswith(problem) and "\n" not in error["traceback"][0]


def test_a_password_in_a_cell_is_warned_of_and_not_repeated(edl: Kernel) -> None:
    text = edl.run("%%edl --database=postgresql://me:hidden@localhost/db\nSELECT").text
    assert "warning: --database has a password in it, which stays in the notebook" in text and "hidden" not in text


def test_the_magic_explains_itself_and_shows_a_plan(edl: Kernel) -> None:
    assert "--num_workers" in edl.run("%%edl --help\n-").text
    shown = edl.run(TRAIN_SQL.replace("%%edl", "%%edl --dry_run").replace("INTO pay", "INTO other"))
    assert "job        edl train" in shown.text and shown.html == []
