"""The report: one page, whole, of escaped text, that needs nothing from outside."""

import html.parser
import json
import re

import pytest

from rljax import command
from rljax.analysis.report import write_report
from rljax.analysis.runs import read_run
from rljax.analysis.settings import differing
from rljax.types import Refused
from tests.analysis.test_lineages import folder as population  # noqa: F401 (a fixture)
from tests.analysis.test_main import write_run
from tests.browser import needs_browser, opened

EVIL = '<script>alert("x")</script>'


class Reader(html.parser.HTMLParser):
    """Collects the tags, their attributes, and the rows of all tables."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.ids, self.rows, self.open, self.text = [], [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.ids += [value for name, value in attributes if name == "id"]
        if tag not in ("meta", "br", "path", "use", "rect"):
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.ids += [value for name, value in attributes if name == "id"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


def described(folder, **config):
    """A run folder of PPO with a config, an evaluation and versions."""
    folder = write_run(folder, hyper=True)
    description = {"algorithm": "ppo", "env": {"name": "cartpole", "note": EVIL}, "total_steps": 4000}
    (folder / "config.json").write_text(json.dumps(description | {"config": {"learning_rate": 0.0003} | config}))
    members = [
        {"member": i, "seed": i, "hyper": {"learning_rate": 0.001 * (1 + i // 2)}, "deterministic": {"mean": 90.0 + i}}
        for i in range(4)
    ]
    (folder / "evaluation.json").write_text(json.dumps({"steps": 2000, "episodes": 10, "members": members}))
    machine = {
        "command": f"rljax train ppo --name '{EVIL}'",
        "versions": {"python": "3.11.9"},
        "hardware": {"cpu": "Z80"},
    }
    (folder / "versions.json").write_text(json.dumps(machine))
    return folder


def test_a_report_tells_what_the_files_of_a_run_tell(tmp_path):
    folder = described(tmp_path / "ppo" / "run", num_envs=7)
    (folder / "video.mp4").write_bytes(b"film")
    path = write_report([folder])
    assert path == folder / "report.html"
    assert [p.name for p in folder.iterdir() if p.name.startswith(".")] == []
    text = path.read_text()
    page = Reader(text)
    assert page.open == []
    assert len(set(page.ids)) == len(page.ids)
    assert ["num_envs", "7", "32"] in page.rows  # what is not the default, and the default
    assert ["learning_rate", "0.0003", "0.0003", ""] in page.rows
    assert ["num_envs", "7", "32", "changed"] in page.rows
    assert ["3", "0.002", "deterministic", "93"] in page.rows
    assert ["python", "3.11.9"] in page.rows
    assert ["cpu", "Z80"] in page.rows
    assert "best of 2 settings" in page.text
    assert "2,000 steps of 4,000" in page.text
    assert f"rljax train ppo --name '{EVIL}' --resume" in page.text
    assert "data:video/mp4;base64,ZmlsbQ==" in text


def test_a_report_needs_nothing_from_outside_and_runs_nothing(tmp_path):
    text = write_report([described(tmp_path / "ppo" / EVIL.replace("/", "-"))]).read_text()
    page = Reader(text)
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "link", "iframe", "img", "object", "embed", "form"}
    attributes = [(name, value) for _, found in page.tags for name, value in found.items()]
    assert not [name for name, _ in attributes if name.startswith("on")]
    addresses = [value for name, value in attributes if name in ("src", "href", "xlink:href")]
    assert all(value.startswith(("#", "data:")) for value in addresses)
    assert not re.search(r"url\((?!#)", text)
    assert "prefers-color-scheme: dark" in text


def test_a_report_can_be_read_without_eyes(tmp_path):
    page = Reader(write_report([described(tmp_path / "ppo" / "run")]).read_text())
    pictures = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert len(pictures) >= 3
    assert all(attributes["role"] == "img" and attributes["aria-label"] for attributes in pictures)
    assert all(attributes["scope"] in ("col", "row") for tag, attributes in page.tags if tag == "th")
    assert [attributes["lang"] for tag, attributes in page.tags if tag == "html"] == ["en"]
    assert [tag for tag, _ in page.tags].count("h1") == 1


def test_a_large_film_is_left_where_it_is(tmp_path):
    folder = described(tmp_path / "ppo" / "run")
    (folder / "video.mp4").write_bytes(b"0" * 2000)
    text = write_report([folder], largest_film=0.001).read_text()
    assert "<video" not in text
    assert "too large for this page" in text


def test_several_runs_are_compared(tmp_path, monkeypatch, capsys):
    a, b = (described(tmp_path / "ppo" / name, num_envs=n) for name, n in (("a", 7), ("b", 8)))
    assert differing([read_run(a), read_run(b)]) == {"config.num_envs": ["7", "8"]}
    monkeypatch.chdir(tmp_path)
    assert command.main(["report", str(a), str(b)]) == 0
    assert capsys.readouterr().out.startswith("wrote report.html (")
    page = Reader((tmp_path / "report.html").read_text())
    assert ["config.num_envs", "7", "8"] in page.rows
    assert len(set(page.ids)) == len(page.ids)
    assert command.main(["compare", str(a), str(b)]) == 0
    out = capsys.readouterr().out
    assert "Settings that differ" in out
    assert re.search(r"config.num_envs\s*│ 7\s*│ 8", out)


def test_a_report_of_a_run_in_progress_says_so(tmp_path):
    folder = write_run(tmp_path / "mine" / "run")
    (folder / "config.json").write_text(json.dumps({"algorithm": "mine", "env": {"name": "mine"}}))
    text = write_report([folder]).read_text()
    assert "There is none: the run has not ended" in text
    assert "versions.json is missing" in text
    with pytest.raises(Refused, match=r"report writes a page, \.html"):
        write_report([folder], tmp_path / "page.pdf")
    with pytest.raises(Refused, match="at least one run"):
        write_report([])


def test_a_report_of_a_population_shows_its_lineages(population):  # noqa: F811
    page = Reader(write_report([population]).read_text())
    labels = [attributes["aria-label"] for tag, attributes in page.tags if tag == "svg"]
    assert any("who copied whom" in label for label in labels)
    assert "Sweep" not in page.text


@needs_browser
def test_a_browser_shows_the_report(tmp_path):
    path = write_report([described(tmp_path / "ppo" / "run")])
    with opened(path.as_uri(), tmp_path / "browser") as page:
        for width, dark in ((1200, False), (390, True)):
            page.look(width, dark=dark)
            assert page.evaluate("document.documentElement.scrollWidth") <= width  # wide tables scroll by themselves
            color = page.evaluate("getComputedStyle(document.querySelector('svg text')).fill")
            assert color == ("rgb(230, 232, 235)" if dark else "rgb(29, 31, 35)")
        assert page.evaluate("document.querySelector('h1').innerText") == "ppo/run"
        assert page.evaluate("document.querySelector('svg').getBoundingClientRect().height") > 100
        assert page.messages == []  # nothing that the page's own policy had to block
