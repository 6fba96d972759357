"""The report: one file that loads nothing, says what was decided, and shows names as they are; and so in a browser."""

import dataclasses
import html
import json
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
from PIL import Image

from clrtool.core.planning.make import make_plan
from clrtool.report.pages.html_report import comparison_report, plan_report, range_test_report
from clrtool.report.records.run import read_run
from tests.report.test_comparison_file import comparison

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>&amp;\x1b[2J"
# Elements without an end.
EMPTY = {"meta", "img", "source"}


class Page(HTMLParser):
    """The elements of a page with their attributes and ancestors, and its text."""

    def __init__(self, source):
        super().__init__()
        self.elements, self.text, self._open = [], "", []
        self.feed(source)
        assert not self._open

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes), tuple(self._open)))
        if tag not in EMPTY:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if "style" not in self._open:
            self.text += data

    def all(self, *tags):
        return [attributes for tag, attributes, _ in self.elements if tag in tags]


@pytest.fixture(scope="module")
def pages(digits_run):
    record = read_run(digits_run)
    environment = record.environment | {"device": HOSTILE}
    hostile = dataclasses.replace(
        record,
        bounds=dataclasses.replace(record.bounds, base_reason=HOSTILE, max_reason=HOSTILE),
        sweep=dataclasses.replace(record.sweep, warnings=(HOSTILE,)),
        environment=environment,
        sources={HOSTILE: HOSTILE},
    )
    compared = comparison({"fixed": 0.9, "one_cycle": 0.95})
    first, *others = compared.candidates
    named = dataclasses.replace(compared, candidates=(dataclasses.replace(first, name=HOSTILE), *others))
    return {
        "run": range_test_report(record, "digits", "runs/digits"),
        "no plan": range_test_report(dataclasses.replace(record, plan=None), "digits", "runs/digits"),
        "comparison": comparison_report(compared, "digits", "runs/digits-compare"),
        "plan": plan_report(make_plan(1e-3, 1e-2, 47, policy="one_cycle"), "plan", "plan.json"),
        "hostile run": range_test_report(hostile, HOSTILE, HOSTILE),
        "hostile comparison": comparison_report(named, HOSTILE, HOSTILE),
        "hostile plan": plan_report(record.plan, HOSTILE, HOSTILE),
    }


NAMES = ["run", "no plan", "comparison", "plan", "hostile run", "hostile comparison", "hostile plan"]


@pytest.mark.parametrize("name", NAMES)
def test_a_report_loads_nothing_and_can_run_nothing(pages, name):
    page = Page(pages[name])
    tags = {tag for tag, _, _ in page.elements}
    assert not tags & {"script", "link", "iframe", "object", "embed", "form", "base", "a", "svg"}
    for _, attributes, _ in page.elements:
        assert not any(key.startswith("on") for key in attributes)
        for key in ("src", "srcset"):
            assert attributes.get(key, "data:image/svg+xml;base64,").startswith("data:image/svg+xml;base64,")
    (policy,) = [meta["content"] for meta in page.all("meta") if "http-equiv" in meta]
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:;")
    assert "url(" not in pages[name]
    assert "@import" not in pages[name]


@pytest.mark.parametrize("name", NAMES)
def test_a_report_can_be_read_by_a_screen_reader_and_by_the_keyboard(pages, name):
    page = Page(pages[name])
    assert page.all("html") == [{"lang": "en"}]
    levels = [int(tag[1]) for tag, _, _ in page.elements if tag in ("h1", "h2", "h3")]
    assert levels[0] == 1
    assert set(levels[1:]) == {2}
    assert {cell.get("scope") for cell in page.all("th")} <= {"col", "row"}
    assert len(page.all("caption")) == len(page.all("table"))
    for image in page.all("img"):
        assert len(image["alt"]) > 40
        assert image["width"]
    assert len(page.all("source")) == len(page.all("img")) >= 1
    for wide in page.all("div"):
        assert wide["tabindex"] == "0"
        assert wide["aria-label"]
    assert all("div" in above for tag, _, above in page.elements if tag in ("table", "pre", "img"))


@pytest.mark.parametrize("name", NAMES[4:])
def test_names_and_reasons_of_a_user_are_shown_as_they_are(pages, name):
    page = Page(pages[name])
    shown = HOSTILE.replace("\x1b", "\\x1b")
    assert page.text.count(shown) >= 2
    assert "\x1b" not in pages[name]
    assert "<script" not in pages[name]


def test_a_report_holds_what_was_decided_and_every_measured_point(pages, digits_run):
    record, page = read_run(digits_run), Page(pages["run"])
    bounds, plan = record.bounds, record.plan
    for word in (f"base_lr {bounds.base_lr:.3g}", f"max_lr {bounds.max_lr:.3g}", bounds.base_reason, bounds.max_reason,
                 bounds.verdict.value, *(each.value for each in bounds.advice), *plan.reasons, record.config_sha256,
                 record.data_sha256, "clrtool plan runs/digits", "make_scheduler", record.environment["torch"]):  # fmt: skip
        assert word in page.text, word
    points = [point for curve in record.sweep.curves for point in curve.points()]
    rows = [above for tag, _, above in page.elements if tag == "tr" and "details" in above]
    assert len(rows) == len(points) + 1
    assert all(f"{point.lr:.5g}" in page.text and f"{point.metric:.5g}" in page.text for point in points)


def test_a_report_says_how_it_was_measured_as_the_verbose_table_does(pages, digits_run):
    record, page = read_run(digits_run), Page(pages["run"])
    sweep, shown = record.sweep, page.text.split("How it was measured")[1].split("as a table")[0]
    for word in (f"{sweep.iterations:,} iterations", f"From {sweep.start_lr:.2g} to {sweep.end_lr:.2g}",
                 f"{sweep.heldout_samples} samples", f"{sweep.seconds:.1f} s", f"{record.cost_epochs:.3g} epochs"):  # fmt: skip
        assert word in shown, word


def test_the_program_in_a_report_is_that_of_plan(pages, cli, digits_run):
    assert html.escape(cli("plan", digits_run, "--format", "torch").out) in pages["run"]


def test_a_report_is_of_one_source(cli, digits_run, tmp_path):
    for words in (
        [digits_run, digits_run / "result.json"],
        ["--from", "torch:OneCycleLR", "max_lr=1", "total_steps=9"],
    ):
        refused = cli("plot", *words, "-o", tmp_path / "a.html")
        assert refused.code == 2
        assert "one run, comparison or plan file" in refused.err
    assert cli("plot", digits_run / "result.json", "-o", tmp_path / "a.html").code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["a.html"]


BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
browser = pytest.mark.skipif(BROWSER is None, reason="no chromium or google-chrome on PATH")
# Two frames of a page, as wide as a telephone and a desk, and what they measure of it.
FRAMES = """<!DOCTYPE html><body>
<iframe src="report.html" width="360" height="800"></iframe>
<iframe src="report.html" width="1400" height="800"></iframe>
<script>
const measure = page => ({
  scroll: page.documentElement.scrollWidth, width: page.documentElement.clientWidth, text: page.body.innerText,
  images: [...page.images].map(image => image.complete ? image.naturalWidth : 0),
  focusable: [...page.querySelectorAll("[tabindex], summary")].filter(
    each => (each.focus(), page.activeElement === each)).length
});
addEventListener("load", () => {
  const pages = [...document.querySelectorAll("iframe")].map(frame => frame.contentDocument);
  document.body.textContent = JSON.stringify(pages.map(measure));
});
</script>"""


def browse(folder, page, *options):
    """What a browser of its own says of a page, without a network."""
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
               "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
               "--enable-logging=stderr", f"--user-data-dir={folder / 'profile'}", *options, page.as_uri()]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, stdin=subprocess.DEVNULL)
    assert "CONSOLE" not in done.stderr
    return done.stdout


@browser
def test_in_a_browser_a_report_fits_a_telephone_and_a_desk_and_its_pictures_are_there(pages, digits_run, tmp_path):
    (tmp_path / "report.html").write_text(pages["run"])
    (tmp_path / "frames.html").write_text(FRAMES)
    dom = browse(tmp_path, tmp_path / "frames.html", "--dump-dom", "--allow-file-access-from-files")
    narrow, wide = json.loads(html.unescape(dom[dom.index("[{") : dom.rindex("}]") + 2]))
    bounds = read_run(digits_run).bounds
    for frame, width in ((narrow, 360), (wide, 1400)):
        assert frame["width"] == width
        assert frame["scroll"] <= width
        assert f"max_lr {bounds.max_lr:.3g}" in frame["text"]
        assert len(frame["images"]) == 2
        assert min(frame["images"]) > 500
        assert frame["focusable"] == len(Page(pages["run"]).all("summary")) + pages["run"].count('class="wide"') - 1


@browser
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_in_a_browser_the_page_and_its_pictures_follow_the_scheme(pages, tmp_path, dark):
    (tmp_path / "report.html").write_text(pages["run"])
    shot = tmp_path / "shot.png"
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    browse(tmp_path, tmp_path / "report.html", scheme, f"--screenshot={shot}", "--window-size=800,1600")
    with Image.open(shot) as picture:
        levels, colours = picture.convert("L").histogram(), picture.convert("RGB").getcolors(1 << 24)
    assert sum(levels[:80] if dark else levels[180:]) > 0.85 * sum(levels)
    curve = (0x3D, 0x9B, 0xE0) if dark else (0, 0x72, 0xB2)
    assert sum(number for number, colour in colours if colour == curve) > 500
