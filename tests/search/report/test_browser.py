"""The page in a real browser: every figure drawn, clicks, nothing of the user's run, a picture for the eye."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from archrank.search.report import ReportData, render

ARTIFACTS = Path(__file__).parents[2] / "_artifacts"
BROWSER = next((b for b in ("chromium", "chromium-browser", "google-chrome") if shutil.which(b)), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no chromium or google-chrome on PATH")


def _browse(page: Path, profile: Path, *flags: str) -> str:
    """What headless Chromium prints; it reaches no network, ours or its own."""
    assert BROWSER
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars"]
    command += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    command += [
        "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--user-data-dir={profile}",
        "--virtual-time-budget=10000",
    ]
    done = subprocess.run([*command, *flags, page.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


@needs_browser
def test_a_browser_draws_every_figure(tmp_path: Path, page: str) -> None:
    path = tmp_path / "report.html"
    path.write_text(page, encoding="utf-8")
    drawn = _browse(path, tmp_path / "profile", "--dump-dom").split('<script type="application/json"')[0]
    assert drawn.count("js-plotly-plot") == 7
    assert drawn.count('class="main-svg"') >= 14
    assert 'class="point"' in drawn
    assert "Share chart" not in drawn, "plotly.js offers an upload to its cloud unless told not to"


@needs_browser
def test_a_click_on_a_point_shows_its_ranks(tmp_path: Path, realistic: ReportData, page: str) -> None:
    trial = realistic.front[-1]
    act = f"""<script>
      const front = document.querySelector('[data-figure=front] .plot');
      front.emit('plotly_click', {{points: [{{customdata: {trial}}}]}});
      const box = document.querySelector('[data-figure=heatmap]');
      const cells = box.querySelector('.plot').data[0].text.flat();
      document.title = box.querySelector('select').value + ' | ' + cells;
    </script></body>"""
    path = tmp_path / "report.html"
    path.write_text(page.replace("</body>", act), encoding="utf-8")
    title = re.search(r"<title>(.*?)</title>", _browse(path, tmp_path / "profile", "--dump-dom"))
    assert title
    assert title[1].startswith(f"#{trial} best:loss")
    ranks = realistic.ranks[trial]
    kinds = dict.fromkeys(m.split(".", 4)[4] for m in realistic.modules)
    expected = [ranks.get(f"vit.encoder.layer.{i}.{k}", 0) for k in kinds for i in range(3)]
    assert title[1].split(" | ")[1] == ",".join(str(r) if r else "·" for r in expected)


@needs_browser
def test_a_browser_runs_no_text_of_the_user(tmp_path: Path, evil: ReportData) -> None:
    path = tmp_path / "evil.html"
    path.write_text(render(evil), encoding="utf-8")
    drawn = _browse(path, tmp_path / "profile", "--dump-dom").split('<script type="application/json"')[0]
    assert drawn.count("js-plotly-plot") == 7
    assert "<title>owned" not in drawn
    assert "<img" not in drawn


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_screenshot_is_left_for_the_eye(tmp_path: Path, page: str, scheme: str) -> None:
    path = tmp_path / "report.html"
    path.write_text(page, encoding="utf-8")
    ARTIFACTS.mkdir(exist_ok=True)
    picture = ARTIFACTS / ("report.png" if scheme == "light" else "report_dark.png")
    picture.unlink(missing_ok=True)
    colours = f"--blink-settings=preferredColorScheme={int(scheme == 'light')}"
    _browse(path, tmp_path / "profile", colours, "--window-size=1400,6400", f"--screenshot={picture}")
    assert picture.stat().st_size > 100_000
