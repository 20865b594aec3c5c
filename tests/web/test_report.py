"""The report: one page that needs nothing else and says the same as the numbers."""

import doctest
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import pytest

from stream_al.config import Settings
from stream_al.core.accuracy import Estimate, Interval
from stream_al.simulate import Progress
from stream_al.web import curves, demo_run
from stream_al.web.report import MOST_POINTS, DemoRun, charts, page, thinned, write_report

VOID = {"meta", "link", "br", "hr", "img", "input"}


class Outline(HTMLParser):
    """Checks that every element is closed in order; collects texts, ids and references."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open, self.texts, self.ids, self.refers, self.tags = [], [], [], [], set()
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            elif name in ("aria-labelledby", "for"):
                self.refers += value.split()
            elif name == "clip-path":
                self.refers.append(value.removeprefix("url(#").removesuffix(")"))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data.replace("\N{NO-BREAK SPACE}", " "))


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> tuple[str, dict]:
    """Return the page of a real demo, and its JSON."""
    directory = tmp_path_factory.mktemp("report") / "new" / "place"
    arguments = [
        "--dataset",
        "phishing",
        "--samples",
        "600",
        "--compare",
        "--json",
        "--report",
        str(directory),
    ]
    command = [sys.executable, "-m", "stream_al", "demo", *arguments]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    path = directory / "report.html"
    assert f"Report: {path}" in run.stderr
    return path.read_text(encoding="utf-8"), json.loads(run.stdout)


def progress(samples: int, **changes) -> Progress:
    honest, naive = Interval(0.8, 0.7, 0.9), Interval(0.6, 0.5, 0.7)
    estimate = Estimate(samples, 0, samples // 20, 10.0, honest, honest, naive)
    facts = {
        "samples": samples,
        "requests": samples // 20,
        "labels": samples // 25,
        "true": 0.82,
        "estimate": estimate,
        "window": estimate,
        "allowed": samples / 20 + 50,
        "version": samples,
        "warming": False,
    }
    return Progress(**facts | changes)


def run_of(*points: Progress, **changes) -> DemoRun:
    facts = {"stream": "a <stream> & more", "settings": Settings(), "delay": 100, "allowance": 50}
    planned = points[-1].samples
    return DemoRun(
        **facts | {"planned": planned, "progress": points, "dead_letters": 0, "seconds": 1.0} | changes
    )


def test_the_page_is_whole(written):
    outline = Outline(written[0])
    assert not outline.open
    assert len(set(outline.ids)) == len(outline.ids)
    assert set(outline.refers) <= set(outline.ids)
    assert {"title", "desc", "svg", "table", "figcaption", "main"} <= outline.tags


def test_every_drawing_is_xml(written):
    drawings = re.findall(r"<svg.*?</svg>", written[0], flags=re.DOTALL)
    assert len([d for d in drawings if 'role="img"' in d]) == 8, "four figures, each for two widths"
    for drawing in drawings:
        ET.fromstring(drawing)


def test_the_page_needs_nothing_else(written):
    html = written[0]
    addresses = set(re.findall(r"https?://[^\s\"'<)]+", html)) - {"http://www.w3.org/2000/svg"}
    assert not addresses
    assert not re.search(r"<(link|img|iframe|object|embed)\b|\ssrc=|@import|url\((?!#)", html)
    scripts = re.findall(r"<script[^>]*>", html)
    assert scripts == ['<script type="application/json" id="figures">'], "data, nothing that runs"


def test_the_page_says_the_same_as_the_json(written):
    html, said = written
    assert json.loads(re.search(r'id="figures">(.*?)</script>', html).group(1)) == said
    text = " ".join(Outline(html).texts)
    accuracy = said["accuracy"]
    for share in (
        accuracy["value"],
        accuracy["true"],
        accuracy["naive"],
        said["comparison"]["accuracy"]["true"],
    ):
        assert f"{100 * share:.1f} %" in text
    assert f"[{100 * accuracy['low']:.1f}, {100 * accuracy['high']:.1f}]" in text
    for count in (said["label_requests"], said["samples"], said["model_version"]):
        assert f"{count:,}" in text
    assert f"allowed {said['allowed']:.0f}" in text


def test_what_the_page_is_given_is_escaped():
    html = page(run_of(progress(0), progress(64)))
    assert "a &lt;stream&gt; &amp; more" in html
    assert "<stream>" not in html


def test_a_stopped_run_and_one_without_answers_have_a_page(tmp_path):
    nothing = Estimate(64, 0, 0, 0.0, None, None, None)
    first, last = (
        progress(n, estimate=nothing, window=nothing, requests=0, labels=0, true=0.0) for n in (0, 64)
    )
    path = write_report(tmp_path / "a" / "b", run_of(first, last, planned=5_000))
    html = Path(path).read_text(encoding="utf-8")
    assert not Outline(html).open
    assert "Stopped after 64 of 5,000 samples" in html
    assert "unknown" in html
    assert "nan" not in html


def test_a_budget_by_the_hour_has_no_line_of_what_is_allowed():
    budget = Settings().budget.model_copy(update={"fraction": None, "per_hour": 10})
    run = run_of(progress(0), progress(640), settings=Settings().model_copy(update={"budget": budget}))
    names = [line.name for chart in charts(run) for line in chart.lines]
    assert "allowed" not in names
    assert "budget" not in names
    assert "at most 10" in page(run)


def test_curves_are_thinned_to_what_can_be_seen():
    points = [progress(64 * i) for i in range(5_000)]
    kept = thinned(points)
    assert len(kept) == MOST_POINTS
    assert (kept[0], kept[-1]) == (points[0], points[-1])
    assert thinned(points[:7]) == points[:7]
    for chart in charts(run_of(*points)):
        assert all(len(line.points) <= MOST_POINTS for line in chart.lines)


def test_curves_hold_the_values_of_the_run():
    points = [progress(64 * i) for i in range(100)]
    accuracy, rate, spent = charts(run_of(*points))
    lines = {line.name: line.points for line in accuracy.lines}
    assert lines["true"][-1] == (6_336, pytest.approx(82))
    assert lines["honest estimate"][-1] == (6_336, pytest.approx(80))
    assert lines["labelled samples alone"][-1] == (6_336, pytest.approx(60))
    assert accuracy.band[1][-1][1] == pytest.approx(70)
    assert accuracy.band[2][-1][1] == pytest.approx(90)
    assert {line.name for line in rate.lines} == {"latest 500 samples", "since the beginning", "budget"}
    assert rate.lines[0].points[-1][1] == pytest.approx(5, abs=0.5)
    assert {line.name: line.points[-1] for line in spent.lines}["allowed"] == (6_336, pytest.approx(366.8))


@pytest.mark.parametrize("module", [curves, demo_run])
def test_the_examples_in_the_documentation_hold(module):
    tested = doctest.testmod(module)
    assert tested.attempted
    assert not tested.failed
