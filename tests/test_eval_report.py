"""An evaluation's page, made by the real command and opened in a real browser."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from moa_graph.cli import run
from moa_graph.eval.report import _json
from moa_graph.eval.report_plots import plain
from tests.browser import Page, browser, with_chromium
from tests.evaluation import DATA, JudgingServer, judge, mixture, with_data
from tests.server import Behaviour

HOSTILE = "</script><img src=x onerror=\"document.title='had'\"><script>document.title='had'</script><!--"
NAME = "<img src=x onerror=\"document.title='had'\">.yaml"
SECRET = "sk-1234567890abcdefgh"
QUESTIONS = [
    {"question": "Why is the sky blue?", "category": "science"},
    {"question": "Who wrote Middlemarch?", "category": "books", "reference": "George Eliot"},
    {"question": f"What does {HOSTILE} do?", "category": "science"},
]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run in which models and names pose as HTML, a proposer fails, and a judgement cannot be read."""
    folder = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch, JudgingServer() as server:
        patch.chdir(folder)
        patch.setenv("OPENAI_API_KEY", SECRET)
        mixture(Path(NAME), server.base_url, prices={name: {"input": 1, "output": 2} for name in "abc"})
        judge(Path("judge.yaml"), server.base_url)
        Path("own.jsonl").write_text("".join(json.dumps(each) + "\n" for each in QUESTIONS), encoding="utf-8")
        server.script("a", Behaviour(text=f"A zebra. {HOSTILE}"))
        server.script("b", Behaviour(status=400, error=f"no zebras, {SECRET}"), Behaviour(text="A gnu."))
        server.script("judge", Behaviour(text=f"No verdict. {HOSTILE}"), Behaviour(text='{"better": "A"}'))
        arguments = ["-c", NAME, "-j", "judge.yaml", "-o", "out", "--concurrency", "1"]
        assert run(["eval", "run", "own.jsonl", *arguments]) == 0
        assert run(["eval", "report", "out"]) == 0
    return folder / "out" / "report.html"


async def shown(page: Page, path: Path, look_for: str = "") -> None:
    """Open it, and wait for the list."""
    await page.open(path.as_uri() + look_for)
    await page.until("document.getElementById('count').textContent")


async def listed(page: Page) -> list[str]:
    """The beginnings of the questions that are seen."""
    script = "[...document.querySelectorAll('.item:not([hidden]) .text span:first-child')].map(e => e.textContent)"
    return [text.split()[0] for text in await page.run(script)]


@with_chromium
async def test_a_question_opens_with_all_that_was_said(report: Path) -> None:
    """Opened, a question shows each contender's answer, all proposals, who failed and why, and the judge's words."""
    async with browser() as page:
        await shown(page, report)
        assert await page.run("document.getElementById('count').textContent") == "3 questions"
        assert await page.run("document.querySelectorAll('figure svg text').length") > 5
        assert await page.run("document.querySelectorAll('.card').length") == 0  # made when it is opened
        await page.run("document.querySelector('.item summary').click()")
        await page.until("document.querySelectorAll('.card').length == 6")
        first = await page.run("document.querySelector('.card').textContent")
        expected = ["answer of c #1", "3 calls", "2 proposals in 1 layer", "1 missing", "A zebra.", "no zebras, ***"]
        expected += ["no score in the reply", "the judge gave no verdict", "No verdict."]
        assert [said for said in expected if said not in first] == []
        assert page.complaints == []
        assert page.requests == [report.as_uri()]


@with_chromium
async def test_what_models_write_stays_text(report: Path) -> None:
    """Tags in questions, answers, errors and names are shown as they are written, and nothing of them runs."""
    async with browser() as page:
        await shown(page, report, "#open=2&open=0")
        await page.until("document.querySelectorAll('.card').length == 12")
        await page.run("document.querySelectorAll('.opens').forEach(button => button.click())")
        assert await page.run("document.title") == "own.jsonl: moa eval"
        assert await page.run("document.images.length + document.querySelectorAll('script').length") == 3 + 2
        text = await page.run("document.querySelector('#list').textContent")
        assert f"A zebra. {HOSTILE}" in text
        assert f"No verdict. {HOSTILE}" in text
        assert NAME in await page.run("document.querySelector('#standings').textContent")
        assert page.requests == [report.as_uri()]


@with_chromium
async def test_policy_lets_no_request_out(report: Path) -> None:
    """What the page's own script would ask the network for is refused by the browser."""
    async with browser() as page:
        await shown(page, report)
        await page.run("new Promise(done => { const i = new Image(); i.onerror = done; i.src = 'http://127.0.0.1/x' })")
        assert await page.run("fetch('http://127.0.0.1/y').catch(() => 'refused')") == "refused"
        assert await page.run("document.body.setAttribute('onclick', 'x()'); document.body.onclick") is None
        assert len(page.complaints) >= 3
        assert all("Content Security Policy" in said for said in page.complaints)


@with_chromium
async def test_search_and_filters(report: Path) -> None:
    """Words, category, contender and problems choose questions and answers; scores sort them; the address keeps it."""
    async with browser() as page:
        await shown(page, report, "#q=MIDDLEmarch")
        assert await listed(page) == ["Who"]
        await page.run("location.hash = 'q=%22blue%3F%22+zebra'")
        await page.until("document.getElementById('q').value.includes('zebra')")
        assert await listed(page) == ["Why"]
        await page.run("location.hash = 'q=quagga'")
        await page.until("document.getElementById('count').textContent == '0 of 3 questions'")
        for who, found in (("", ["Why"]), ("&who=0", ["Why"]), ("&who=3", [])):
            await page.run(f"location.hash = 'trouble=yes{who}'")
            await page.until(f"document.getElementById('count').textContent == '{len(found)} of 3 questions'")
            assert await listed(page) == found
        await page.run("location.hash = 'category=science&sort=up&who=1&open=0'")
        await page.until("document.querySelectorAll('.card').length == 6")
        assert set(await listed(page)) == {"Why", "What"}
        assert await page.run("[...document.querySelectorAll('.card:not([hidden]) h3')].map(e => e.textContent)") == [
            "openai:a"
        ]
        await page.run("document.getElementById('category').value = 'books'")
        await page.run("document.getElementById('category').dispatchEvent(new Event('change', {bubbles: true}))")
        await page.until("location.hash.includes('category=books')")
        assert await listed(page) == ["Who"]
        assert await page.run("document.querySelector('.card h3').textContent") == NAME
        await page.run("document.getElementById('a').value = '2'")
        await page.run("document.getElementById('a').dispatchEvent(new Event('change', {bubbles: true}))")
        await page.until("document.querySelector('.card h3').textContent == 'openai:b'")


@with_chromium
async def test_keys(report: Path) -> None:
    """Without a mouse: / goes to the search, and a question opens with Enter."""
    async with browser() as page:
        await shown(page, report)
        await page.send("Input.dispatchKeyEvent", type="keyDown", key="/", text="/")
        assert await page.run("document.activeElement.id + document.activeElement.value") == "q"
        await page.run("document.querySelector('.item summary').focus()")
        for kind in ("keyDown", "keyUp"):
            await page.send(
                "Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", text="\r", windowsVirtualKeyCode=13
            )
        await page.until("document.querySelectorAll('.card').length == 6")


@with_chromium
async def test_narrow(report: Path) -> None:
    """On a phone nothing is wider than the screen but what scrolls by itself."""
    async with browser() as page:
        await page.send("Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=1, mobile=True)
        await shown(page, report, "#open=0")
        await page.until("document.querySelectorAll('.card').length == 6")
        await page.run("document.querySelector('.opens').click()")
        assert await page.run("document.documentElement.scrollWidth") == 390


def test_no_secret_and_no_way_out(report: Path) -> None:
    """The page has no key and no address to load from, and its policy allows its own style and script alone."""
    text = report.read_text(encoding="utf-8")
    assert SECRET not in text
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None
    kinds = [part.split()[0] for part in policy[1].split("; ")]
    assert kinds == ["default-src", "style-src", "script-src", "base-uri", "form-action"]
    assert "unsafe" not in policy[1]
    page = re.sub(r'<script type="application/json".*?</script>', "", text, flags=re.DOTALL)
    assert re.findall(r'\b(?:src|href)="(?!#)[^"]*"', page) == []


def test_the_same_run_gives_the_same_page(report: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Written again it is the same, byte for byte, over the one that is there."""
    before = report.read_bytes()
    assert run(["eval", "report", str(report.parent)]) == 0
    assert capsys.readouterr().out == f"{report}\n"
    assert report.read_bytes() == before


def test_nothing_else_is_overwritten(report: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--out over a file that is no report is refused in one line, and the file is as it was."""
    mine = tmp_path / "notes.html"
    mine.write_text("<!doctype html>mine", encoding="utf-8")
    assert run(["eval", "report", str(report.parent), "--out", str(mine)]) == 2
    assert capsys.readouterr().err == f"moa: {mine}: is there already, and is no report: give --out another file\n"
    assert mine.read_text(encoding="utf-8") == "<!doctype html>mine"
    assert [path.name for path in tmp_path.iterdir()] == ["notes.html"]


@pytest.mark.parametrize("missing", ["jinja2", "matplotlib"])
def test_without_the_extra(
    missing: str, report: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where a package is not installed, one line says what to type, and no half page is left."""
    for name in [name for name in sys.modules if name.split(".")[0] == missing]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, missing, None)
    assert run(["eval", "report", str(report.parent), "--out", str(tmp_path / "page.html")]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"moa: {missing} is not installed")
    assert told.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_before_it_is_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of answers alone there is a page too, which says so; where the judge failed, who has no score."""
    monkeypatch.chdir(tmp_path)
    Path("own.jsonl").write_text('{"question": "Why?"}\n', encoding="utf-8")
    arguments = ["own.jsonl", "-c", "two.yaml", "-j", "judge.yaml", "-o", "out"]
    with JudgingServer() as server:
        mixture(Path("two.yaml"), server.base_url)
        judge(Path("judge.yaml"), server.base_url)
        assert run(["eval", "run", "own.jsonl", "-c", "two.yaml", "-o", "out", "--stage", "generate"]) == 0
        assert run(["eval", "report", "out"]) == 0
        text = Path("out", "report.html").read_text(encoding="utf-8")
        assert "not judged yet" in text
        assert questions(text)[0]["answers"][0][0]["answer"].startswith("answer of c")
        server.script("judge", Behaviour(status=400))
        assert run(["eval", "run", *arguments]) == 1
    assert run(["eval", "report", "out"]) == 0
    text = Path("out", "report.html").read_text(encoding="utf-8")
    assert "<p>Without a score, and so compared with nobody: two.yaml; openai:a; openai:b; single" in text


@with_data
def test_two_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of MT-Bench the page has both turns with their judgements, the licence of the data, and a radar plot."""
    monkeypatch.chdir(tmp_path)
    with JudgingServer() as server:
        mixture(Path("two.yaml"), server.base_url)
        judge(Path("judge.yaml"), server.base_url)
        arguments = ["-c", "two.yaml", "-j", "judge.yaml", "-o", "out", "-n", "9", "--data-dir", str(DATA)]
        assert run(["eval", "run", "mt-bench", *arguments, "--no-singles"]) == 0
    assert run(["eval", "report", "out"]) == 0
    text = Path("out", "report.html").read_text(encoding="utf-8")
    [first, second] = questions(text)[0]["answers"][0]
    assert [turn["judgements"][0]["reply"] for turn in (first, second)] == ["Good. Rating: [[7]]"] * 2
    assert "MT-Bench (LMSYS): Apache-2.0" in text
    assert 'id="radar-' in text


def questions(text: str) -> list[dict[str, Any]]:
    found = re.findall(r'<script type="application/json" class="question">(.*?)</script>', text)
    return [json.loads(each) for each in found]


@pytest.mark.parametrize("text", ["</script>", "<!--<script>", "&lt;", "\u2028", "\ud800", "\x00"])
def test_json_within_html(text: str) -> None:
    """No character that ends or begins a tag is in the JSON, and it says the same."""
    written = _json({"x": text})
    assert not set("<>&") & set(written)
    assert json.loads(written) == {"x": text}


def test_svg_without_style() -> None:
    """What a style said of a shape its attributes say, and no style is left, which the policy would not let in."""
    drawn = (
        '<svg><defs><style type="text/css">*{stroke-linecap: butt}</style></defs>'
        '<path style="fill: #ffffff; stroke-width: 0.8"/>'
        "<text style=\"font: bold 8px 'DejaVu Sans', sans-serif; text-anchor: end\">style=x</text></svg>"
    )
    assert plain(drawn) == (
        '<svg><defs></defs><path fill="#ffffff" stroke-width="0.8"/><text text-anchor="end" font-weight="bold" '
        'font-size="8px" font-family="\'DejaVu Sans\', sans-serif">style=x</text></svg>'
    )
