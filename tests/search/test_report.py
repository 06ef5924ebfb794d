"""The report page: complete, offline, escaped, drawn by a real browser."""

from __future__ import annotations

import json
import math
import random
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from archrank.search.report import Constant, ReportData, render
from archrank.search.report.data import chains, read_rows
from archrank.search.report.figures import Scale
from archrank.search.report.modules import places
from archrank.search.report.stages import kendall
from archrank.search.report.text import duration, number, shorten

ARTIFACTS = Path(__file__).parents[1] / "_artifacts"
BROWSER = next((b for b in ("chromium", "chromium-browser", "google-chrome") if shutil.which(b)), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no chromium or google-chrome on PATH")

KINDS = (
    "attention.attention.query",
    "attention.attention.key",
    "attention.attention.value",
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
)
MODULES = tuple(f"vit.encoder.layer.{i}.{kind}" for i in range(3) for kind in KINDS)
WIDTH = 32
EVIL = """<script>document.title='owned'</script><img src=x onerror="document.title='owned'">&"</script><!--"""


def _params(name: str, rank: int) -> int:
    return rank * (3 * WIDTH if "intermediate" in name or name.endswith("r.output.dense") else 2 * WIDTH)


def _candidate(rng: random.Random) -> dict[str, int]:
    bound = rng.choice((1, 2, 4, 8, 16))
    return {m: r for m in MODULES if (r := rng.choice((0, 1, 2, 4, 8, 16))) <= bound and r}


def _loss(ranks: dict[str, int]) -> float:
    weight = {m: (3.0 if "value" in m else 1.0) * (1 + int(m.split(".")[3])) for m in MODULES}
    gain = sum(weight[m] * (1 - math.exp(-r / 3)) for m, r in ranks.items())
    return 0.18 + 2.0 * math.exp(-gain / 12)


def _text(ranks: dict[str, int]) -> str:
    return " ".join(f"{m.removeprefix('vit.encoder.')} rank {ranks.get(m, 0)}" for m in MODULES)


def _front(trials: list[dict[str, Any]], x: str, y: str) -> list[int]:
    best, found = math.inf, []
    for t in sorted(trials, key=lambda t: (t["values"][x], t["values"][y])):
        if t["values"][y] < best:
            best = t["values"][y]
            found.append(t["id"])
    return found


class _Made:
    """Trials as a run writes them: inherited, of those the best re-ranked, of those the best final."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.trials: list[dict[str, Any]] = []
        self.ranks: dict[int, dict[str, int]] = {}

    def add(self, ranks: dict[str, int], stage: str, loss: float, parent: int | None) -> dict[str, Any]:
        values = {"loss": loss, "adapter_params": float(sum(_params(m, r) for m, r in ranks.items()))}
        new: dict[str, Any] = {"id": len(self.trials) + 1, "text": _text(ranks), "values": values}
        new |= {"stage": stage, "state": "done"}
        new |= {"seconds": 0.05, "key": str(tuple(ranks.items())), "parent": parent}
        self.trials.append(new)
        self.ranks[new["id"]] = ranks
        return new

    def fail(self, state: str, reason: str) -> None:
        self.add(_candidate(self.rng), "inherited", math.nan, None).update(state=state, reason=reason, values={})


def realistic(seed: int = 3) -> ReportData:
    made, rng = _Made(seed), random.Random(seed + 1)
    inherited = []
    for n in range(200):
        if n % 37 == 20:
            made.fail("failed", "loss is nan after step 12 of the head")
        if n % 70 == 30:
            made.fail("infeasible", "adapter_params 21,504 is above the bound 20,480")
        ranks = {} if n == 5 else _candidate(made.rng)
        inherited.append(made.add(ranks, "inherited", _loss(ranks) + abs(rng.gauss(0.12, 0.06)), None))
    reranked = []
    for t in _spread(inherited, 16):
        ranks = made.ranks[t["id"]]
        reranked.append(made.add(ranks, "reranked", _loss(ranks) + rng.gauss(0.05, 0.025), t["id"]))
    final = []
    for t in _spread(reranked, 8):
        ranks = made.ranks[t["id"]]
        final.append(made.add(ranks, "final", _loss(ranks) + rng.gauss(0, 0.01), t["id"]))
    for t in final:
        t["values"]["accuracy"] = round(1 - t["values"]["loss"] / 4, 4)
        t["test"] = {"loss": t["values"]["loss"] + 0.02, "accuracy": t["values"]["accuracy"] - 0.006}
    front = _front(final, "adapter_params", "loss")
    best = min(final, key=lambda t: t["values"]["loss"])["id"]
    return ReportData(
        title="lora_ranks",
        task="image-classification",
        base="digits-vit (embedded)",
        data="scikit-learn digits, rotated by 90°",
        device="a100",
        verdict="The knee reaches 93 % of the best accuracy with 19 % of its adapter parameters.",
        objectives=[("loss", "min", ""), ("adapter_params", "min", "")],
        trials=made.trials,
        front=front,
        chosen={"knee": front[len(front) // 2], "best:loss": best, "best:adapter_params": front[0]},
        hypervolume=[(n, 9.4 - 4 * math.exp(-n / 40) - (0.3 if n < 120 else 0)) for n in range(1, 201)],
        reference={"loss": 2.4, "adapter_params": 18432},
        ranks={i: made.ranks[i] for i in front},
        modules=MODULES,
        constants=[Constant("latency_ms", 0.1231, "ms", "merged, on a100: the same for every rank, no objective")],
        warnings=["The validation split has 360 rows: differences in accuracy below 0.008 are noise."],
        phases=[
            ("head", 4.2),
            ("supernet", 51.7),
            ("search", 12.9),
            ("re-rank", 21.4),
            ("finalists", 33.0),
            ("test", 0.9),
        ],
        command="search run spaces/lora_ranks.lark --hw a100 --trials 200 --seed 0",
        config='space = "lora_ranks"\nseed = 0\ntrials = 200\n',
        seed=0,
        versions={"archrank": "0.1.0", "torch": "2.9.0", "peft": "0.18.0", "python": "3.11.7"},
        machine="2 × Xeon, Linux x86_64",
    )


def _spread(trials: list[dict[str, Any]], n: int) -> list[dict[str, Any]]:
    """The best of each of n strata by size."""
    ordered = sorted(trials, key=lambda t: t["values"]["adapter_params"])
    strata = [ordered[len(ordered) * i // n : len(ordered) * (i + 1) // n] for i in range(n)]
    return [min(s, key=lambda t: t["values"]["loss"]) for s in strata]


def with_latency(data: ReportData) -> ReportData:
    trials = [dict(t) for t in data.trials]
    for t in trials:
        if t["values"]:
            t["values"] = {**t["values"], "latency_ms": 1 + t["values"]["adapter_params"] ** 0.5 / 90}
    return replace(data, trials=trials, objectives=[*data.objectives, ("latency_ms", "min", "ms")])


class _Page(HTMLParser):
    """The elements of a page and the addresses they load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [str(v) for k, v in attrs if k in ("src", "href", "srcset", "data", "action", "poster")]

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def _embedded(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="figures">(.*?)</script>', page, re.DOTALL)
    assert found
    figures: dict[str, Any] = json.loads(found[1])
    return figures


@pytest.fixture(scope="module")
def page() -> str:
    return render(realistic())


def test_the_page_is_one_file_that_loads_nothing(page: str) -> None:
    parsed = _Page(page)
    assert parsed.loads == []
    assert not {"link", "img", "iframe", "object", "embed"} & set(parsed.tags)
    assert parsed.tags.count("script") == 3, "the figures, plotly.js once, the page's own script"
    assert page.count("plotly.js v") == 1
    assert not re.findall(r"""<(?:script|link|img)[^>]+(?:src|href)=["'](https?:[^"']+)""", page)
    assert "default-src 'none'" in page, "the browser itself refuses every request"
    assert "@import" not in page.split("<script")[0]
    assert len(page) < 6_000_000


def test_every_section_is_there(page: str) -> None:
    assert "<h1>lora_ranks</h1>" in page
    for name in ("front", "hypervolume", "ranks", "stages", "table", "failed", "phases", "reproduce"):
        assert f'<section id="{name}">' in page, name
    body = page.split("<body>")[1].split("<script")[0]
    for words in (
        "200 inherited, 16 re-ranked, 8 final",
        "latency_ms</b> = 0.1231 ms",
        "the same for every rank",
        "never selected on",
        "test accuracy",
        "best:loss",
        "loss is nan after step 12 of the head",
        "search run spaces/lora_ranks.lark --hw a100",
        "Reference point: loss 2.4, adapter_params 18,432",
        "τ = ",
        "2 min 04 s",
    ):
        assert words in body, words


def test_the_front_is_drawn_in_stages_with_chosen_points(page: str) -> None:
    view = _embedded(page)["front"]["views"][0]
    names = [t["name"] for t in view["data"]]
    assert names == ["front (8)", "inherited (200)", "re-ranked (16)", "final (8)"]
    assert len({t["marker"]["symbol"] for t in view["data"]}) == 4, "told apart without colour"
    assert view["layout"]["xaxis"]["type"] == "log"
    assert view["layout"]["xaxis"]["ticktext"][0] == "0", "a candidate without adapters has its place"
    assert view["data"][0]["line"]["shape"] == "hv"
    said = {a["text"] for a in view["layout"]["annotations"]}
    assert said == {"<b>knee</b>", "<b>best:loss</b>", "<b>best:adapter_params</b>"}
    hover = _embedded(page)["front"]["shared"]["hover:final"][0]
    assert "final" in hover
    assert "adapter_params: <b>128</b>" in hover
    assert "of 18 modules" in hover


def test_the_heat_map_has_a_view_for_each_point(page: str) -> None:
    views = _embedded(page)["heatmap"]["views"]
    data = realistic()
    assert sorted(v["key"] for v in views) == sorted(data.front)
    assert views[0]["key"] == data.chosen["knee"]
    for view in views:
        cells = view["data"][0]
        assert cells["x"] == ["0", "1", "2"]
        assert cells["y"] == list(KINDS)
        shown = [[int(t) if t != "·" else 0 for t in line] for line in cells["text"]]
        ranks = data.ranks[view["key"]]
        assert shown == [[ranks.get(f"vit.encoder.layer.{i}.{k}", 0) for i in range(3)] for k in KINDS]


def test_user_text_is_escaped_everywhere() -> None:
    page = render(_evil())
    parsed = _Page(page)
    assert parsed.tags.count("script") == 3
    assert "img" not in parsed.tags
    assert "".join(parsed.text).count("document.title='owned'") > 10, "shown, as text"
    assert not re.search(r"<(?!/?(b|i|br)>)", json.dumps(_embedded(page))), "plotly reads tags in its texts too"


def _evil() -> ReportData:
    data = realistic()
    name = "loss" + EVIL
    trials = [dict(t, text=EVIL + t["text"]) for t in data.trials]
    for t in trials:
        t["reason"] = EVIL
        t["values"] = {k.replace("loss", name): v for k, v in t["values"].items()}
        t["test"] = {EVIL: 1.5}
    return ReportData(
        title=EVIL,
        task=EVIL,
        base=EVIL,
        data=EVIL,
        device=EVIL,
        verdict=EVIL,
        objectives=[(name, "min", EVIL), ("adapter_params", "min", "")],
        trials=trials,
        front=data.front,
        chosen={EVIL: data.front[0]},
        hypervolume=data.hypervolume,
        reference={name: 2.0},
        ranks={i: {m + EVIL: r for m, r in ranks.items()} for i, ranks in data.ranks.items()},
        modules=[m + EVIL for m in MODULES],
        constants=[Constant(EVIL, 1.0, EVIL, EVIL)],
        warnings=[EVIL],
        phases=[(EVIL, 1.0)],
        command=EVIL,
        config=EVIL,
        seed=1,
        versions={EVIL: EVIL},
        machine=EVIL,
    )


def test_one_objective_is_drawn_over_evaluations() -> None:
    data = realistic()
    page = render(replace(data, objectives=[("loss", "min", "")], front=data.front[-1:], chosen={}))
    (view,) = _embedded(page)["front"]["views"]
    assert "Values over evaluations" in page
    best = next(t for t in view["data"] if t["name"].startswith("best so far"))["y"]
    assert best == sorted(best, reverse=True)
    assert len(best) == 200


def test_three_objectives_have_a_view_for_each_pair() -> None:
    page = render(with_latency(realistic()))
    views = _embedded(page)["front"]["views"]
    assert len(views) == 3
    for label in (
        "loss against adapter_params",
        "loss against latency_ms",
        "adapter_params against latency_ms",
    ):
        assert f"<option>{label}</option>" in page
    assert views[1]["data"][0]["mode"] == "markers", "a pair of three objectives has no staircase"
    assert "latency_ms [ms]" in views[1]["layout"]["xaxis"]["title"]["text"]


def test_a_maximised_quality_is_above_and_better_is_said() -> None:
    trials = [
        {
            "id": i,
            "text": f"t{i}",
            "values": {"adapter_params": 10 * 4**i, "accuracy": 0.8 + i / 50},
            "stage": "final",
        }
        for i in range(5)
    ]
    objectives = [("adapter_params", "min", ""), ("accuracy", "max", "")]
    page = render(ReportData("s", objectives, trials, front=range(5), chosen={"knee": 2}))
    (view,) = _embedded(page)["front"]["views"]
    assert view["layout"]["yaxis"]["title"]["text"] == "accuracy · higher is better"
    assert view["layout"]["annotations"][0]["ay"] < 0, "the label stands where nothing can lie"
    assert view["layout"]["annotations"][0]["x"] == pytest.approx(math.log10(160))


@pytest.mark.parametrize("state", ["failed", "infeasible"])
def test_a_run_in_which_nothing_was_finished(state: str) -> None:
    trials = [{"id": i, "text": "x", "values": {}, "stage": "inherited", "state": state} for i in range(3)]
    page = render(ReportData("empty", [("loss", "min", ""), ("adapter_params", "min", "")], trials))
    assert "No trial is on the front" in page
    assert "no reason was recorded" in page
    assert f"3 {state}" in page


def test_no_trials_and_missing_values() -> None:
    assert "<h1>none</h1>" in render(ReportData("none", [("loss", "min", "")], []))
    trials: list[dict[str, Any]] = [
        {"id": 1, "text": "a", "values": {"loss": None, "flops": 3}, "stage": "inherited", "state": "done"},
        {"id": 2, "text": "b", "values": {"loss": float("inf"), "flops": 4}, "stage": "", "seconds": None},
    ]
    page = render(ReportData("gaps", [("loss", "min", ""), ("flops", "min", "")], trials, front=[1]))
    assert _embedded(page)["front"]["views"][0]["data"][1]["y"] == [None]


def test_wrong_data_are_refused_with_the_reason() -> None:
    with pytest.raises(ValueError, match="direction 'minimise' is not one of 'min', 'max'"):
        ReportData("x", [("loss", "minimise", "")], [])
    with pytest.raises(ValueError, match=r"trials \[7\] are on the front, chosen or drawn but not among the 1 trials"):
        ReportData("x", [("loss", "min", "")], [{"id": 1}], front=[7])
    with pytest.raises(ValueError, match="at least one objective"):
        ReportData("x", [], [])


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (
            [
                "model.layers.0.self_attn.q_proj",
                "model.layers.1.self_attn.q_proj",
                "model.layers.10.mlp.up",
                "lm_head",
            ],
            [("self_attn.q_proj", "0"), ("self_attn.q_proj", "1"), ("mlp.up", "10"), ("lm_head", "–")],
        ),
        (["decoder.0.h.4.fc", "decoder.0.h.5.fc"], [("fc", "4"), ("fc", "5")]),
        (
            ["m.layers.0.experts.0.w", "m.layers.0.experts.1.w", "m.layers.1.experts.0.w"],
            [("experts.0.w", "0"), ("experts.1.w", "0"), ("experts.0.w", "1")],
        ),
        (["a.0.x", "b.0.x"], [("a.x", "0"), ("b.x", "0")]),
        (["fc"], [("fc", "–")]),
        ([], []),
    ],
)
def test_layer_and_kind_are_read_off_the_name(names: list[str], expected: list[tuple[str, str]]) -> None:
    assert [(p.kind, p.layer) for p in places(names)] == expected


def test_chains_follow_parents_and_else_keys() -> None:
    def row(number: int, stage: str, parent: int | None = None, key: str = "", state: str = "done") -> dict[str, Any]:
        return {
            "id": number,
            "stage": stage,
            "parent": parent,
            "key": key,
            "state": state,
            "values": {"loss": 1},
        }

    rows = read_rows(
        [
            row(1, "inherited", key="a"),
            row(2, "inherited", key="b"),
            row(3, "reranked", 1),
            row(4, "final", 3),
            row(5, "reranked", key="b"),
            row(6, "reranked", 2, state="failed"),
            row(7, "inherited", 7),
        ]
    )
    found = [{s: r.id for s, r in c.items()} for c in chains(rows)]
    assert found == [{"final": 4, "reranked": 3, "inherited": 1}, {"reranked": 5, "inherited": 2}]


def test_kendall_is_the_textbook_value() -> None:
    assert kendall([1, 2, 3, 4], [1, 2, 3, 4]) == 1
    assert kendall([1, 2, 3, 4], [4, 3, 2, 1]) == -1
    assert kendall([1, 2, 3, 4, 5], [3, 1, 2, 5, 4]) == pytest.approx(0.4)
    assert kendall([1, 1, 2], [1, 2, 3]) == pytest.approx(2 / math.sqrt(6))
    assert kendall([1, 1], [1, 2]) is None
    assert kendall([], []) is None


def test_numbers_are_written_for_people() -> None:
    assert number(20480) == "20,480"
    assert number(0.31249) == "0.312"
    assert number(1.2, "ms") == "1.2 ms"
    assert number(0.76, zeros=True) == "0.760"
    assert number(64 * 2**20, "bytes") == "64 MiB"
    assert number(512, "bytes") == "512 B"
    assert number(1.234e10) == "12.3 G"
    assert number(999_999.5) == "1,000,000"
    assert number(2e-6) == "2.00e-06"
    assert number(None) == number(math.nan) == "–"
    assert [duration(s) for s in (0.44, 23, 134, 11_100, 190_000)] == [
        "0.4 s",
        "23 s",
        "2 min 14 s",
        "3 h 05 min",
        "2 d 4 h",
    ]
    assert shorten("a  b\nc", 10) == "a b c"
    assert shorten("abcdefghijklmnopqrstuvwxyz", 11) == "abcde…vwxyz"
    assert len(shorten("x" * 99, 40)) == 40


def test_an_axis_is_logarithmic_only_over_a_wide_range() -> None:
    assert Scale.of(("n", "min", ""), [100, 900], 8).log
    assert not Scale.of(("n", "min", ""), [100, 700], 8).log
    assert not Scale.of(("n", "min", ""), [-1, 700], 8).log
    assert Scale.of(("n", "min", ""), [0, 10, 700], 8).floor == 5
    assert not Scale.of(("n", "min", ""), [], 8).log


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
    assert drawn.count("js-plotly-plot") == 5
    assert drawn.count('class="main-svg"') >= 10
    assert 'class="point"' in drawn
    assert "Share chart" not in drawn, "plotly.js offers an upload to its cloud unless told not to"


@needs_browser
def test_a_click_on_a_point_shows_its_ranks(tmp_path: Path, page: str) -> None:
    trial = realistic().front[-1]
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
    ranks = realistic().ranks[trial]
    expected = [ranks.get(f"vit.encoder.layer.{i}.{k}", 0) for k in KINDS for i in range(3)]
    assert title[1].split(" | ")[1] == ",".join(str(r) if r else "·" for r in expected)


@needs_browser
def test_a_browser_runs_no_text_of_the_user(tmp_path: Path) -> None:
    path = tmp_path / "evil.html"
    path.write_text(render(_evil()), encoding="utf-8")
    drawn = _browse(path, tmp_path / "profile", "--dump-dom").split('<script type="application/json"')[0]
    assert drawn.count("js-plotly-plot") == 5
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
    _browse(path, tmp_path / "profile", colours, "--window-size=1400,4300", f"--screenshot={picture}")
    assert picture.stat().st_size > 100_000
