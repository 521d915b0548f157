"""The one-page report.html: self-contained, readable on a phone, no request to anywhere."""

import base64
from html import escape
from pathlib import Path
from typing import Any

from helpers.run import report as numbers
from helpers.run.folders import NOTEBOOKS, REPOSITORY

STYLE = """
:root { --ink: #1f2428; --soft: #667; --line: #dfddd6; --paper: #fbfaf7; --blue: #2f6f8f; --warm: #d1703c; }
* { box-sizing: border-box; }
html { color-scheme: light; -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink);
       font: 17px/1.6 "Iowan Old Style", Charter, "Source Serif Pro", Georgia, serif; }
main { max-width: 60rem; margin: 0 auto; padding: 3rem 1.25rem 4rem; }
h1 { font-size: clamp(1.7rem, 5vw, 2.5rem); line-height: 1.15; margin: 0 0 .5rem; font-weight: 600; }
h2 { font-size: 1.3rem; margin: 3.2rem 0 .4rem; font-weight: 600; }
h3 { font-size: 1.02rem; margin: 2rem 0 .5rem; font-weight: 600; }
p { max-width: 42rem; margin: .4rem 0 1rem; }
.meta, .note, figcaption, .card .what, .card .ceiling, th, svg text, footer {
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; color: var(--soft); }
.meta, .note, footer { font-size: .86rem; }
.scroll { overflow-x: auto; margin: 1.2rem 0; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums lining-nums; }
th, td { padding: .5rem .7rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-size: .8rem; font-weight: 500; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; padding-left: 0; position: sticky; left: 0;
                                 background: var(--paper); }
tbody tr:last-child td { font-weight: 600; border-bottom: 2px solid var(--ink); }
thead th { border-bottom: 2px solid var(--ink); }
.cards { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(15.5rem, 1fr)); margin: 1.2rem 0; }
.card { background: #fff; border: 1px solid var(--line); border-radius: 6px; padding: 1rem 1.1rem; }
.card .what { font-size: .86rem; margin: 0; }
.card .value { font-size: 1.9rem; line-height: 1.25; margin: 0; font-variant-numeric: tabular-nums lining-nums; }
.card .ceiling { font-size: .8rem; margin: .45rem 0 0; line-height: 1.45; }
.bar { position: relative; height: 8px; margin-top: .6rem; background: #ecebe5; border-radius: 4px; }
.bar i { position: absolute; inset: 0 auto 0 0; background: var(--blue); border-radius: 4px; }
.bar b { position: absolute; top: -4px; bottom: -4px; width: 2px; background: var(--warm); }
.curves { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(17rem, 100%), 1fr)); }
.curves figure { margin: .6rem 0; }
figure { margin: 1.2rem 0; }
figure img { max-width: 100%; height: auto; display: block; border: 1px solid var(--line); border-radius: 6px; }
figcaption { font-size: .84rem; margin-top: .35rem; }
svg { width: 100%; height: auto; display: block; background: #fff; border: 1px solid var(--line); border-radius: 6px; }
svg text { font-size: 11px; fill: var(--soft); }
svg .name { font-size: 13px; fill: var(--ink); }
code { font: .85em ui-monospace, Menlo, Consolas, monospace; overflow-wrap: anywhere; }
@media (max-width: 40rem) {
  main { padding-top: 1.6rem; } body { font-size: 16px; } table { font-size: .88rem; }
  th { white-space: normal; font-size: .72rem; line-height: 1.25; } th, td { padding: .42rem .4rem; }
}
@media print { body { background: #fff; } .card, figure { break-inside: avoid; } }
"""


WORDS = {  # by what the rows are
    "embedded": {
        "table": "Responses to held-out prompts, sampled at temperature 1. The gold reward is "
        "computed from the facts "
        "behind each prompt; PPO never sees it.",
        "heading": "Each stage against its ceiling",
        "cards": "The embedded world is generated with known probabilities, so the best possible "
        "result of each stage "
        "is known too. The orange mark is that ceiling; where a flaw is counted, it is SFT's rate.",
    },
    "real": {
        "table": "Responses to held-out prompts, sampled at temperature 1, with 95% intervals in "
        "brackets. The score "
        "is the reward model's, which PPO has learned from, in standard deviations of SFT's; the "
        "second judge "
        "has never met PPO. KL and perplexity are against the SFT model.",
        "heading": "What each stage came to",
        "cards": "People wrote these rows, so no best possible result is known. Where there is an "
        "orange mark, it is a "
        "simple baseline.",
    },
}


def page(report: dict[str, Any], curves: dict[str, dict], figures: dict[str, list[Path]]) -> str:
    """The report as one HTML page. curves: {stage: {name: curve}}; figures: {stage: [PNG
    files]}.
    """
    words = WORDS["embedded" if report["source"] == "embedded" else "real"]
    settings = (
        f"preset {report['preset']} · track {report['track']} · {report['source']} rows · "
        f"seed {report['seed']}"
    )
    minutes = numbers.duration(sum(value or 0 for value in report["seconds"].values()))
    options = " ".join(f"--{name} {report[name]}" for name in numbers.IDENTITY)
    command = f"python -m helpers.run.headless {options}"
    body = f"""
<h1>RLHF from scratch: what this run learned</h1>
<p class="meta">{escape(settings)} · {minutes} min in all</p>
{lead(report)}
<h2>The policies side by side</h2>
<p>{words["table"]}</p>
{"".join(table(*cells) for cells in numbers.tables(report))}
<h2>{words["heading"]}</h2>
<p>{words["cards"]}</p>
<div class="cards">{"".join(cards(report))}</div>
{gallery(curves, figures)}
<footer><h2>How to get this page</h2><p><code>{escape(command)}</code></p>
<p>Four notebooks, from random weights to PPO: <a href="{REPOSITORY}">{REPOSITORY.split("//")[1]}</a></p>
</footer>
"""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<link rel="icon" '
        'href="data:,">\n'
        f"<title>RLHF from scratch: {escape(report['preset'])}, seed {report['seed']}</title>\n"
        f"<style>{STYLE}</style>\n</head>\n<body>\n<main>{body}</main>\n</body>\n</html>\n"
    )


def lead(report: dict[str, Any]) -> str:
    """One sentence that says how it ended."""
    ppo = report["ppo"]
    found = numbers.gain_of(ppo)
    if found is None:
        return f"<p>{escape(numbers.gained(ppo))}.</p>"
    said, gain, (low, high) = found
    verdict = "raised" if low > 0 else "lowered" if high < 0 else "did not clearly change"
    return (
        f"<p>PPO {verdict} the {said}: {gain:+.3f} against SFT (95% interval {low:+.3f} to "
        f"{high:+.3f}), "
        f"at a KL of {ppo['kl']:.2f} nats per response.</p>"
    )


def table(header: list[str], body: list[list[str]]) -> str:
    """A table as HTML; it scrolls sideways on a narrow screen."""
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in header)
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in body
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def cards(report: dict[str, Any]) -> list[str]:
    """Number, bar and ceiling (or baseline) for each stage."""
    pretrain, sft, reward, ppo = (report[stage] for stage in numbers.REQUIRED)
    tokens, stops = (
        f"{pretrain['tokens']:,.0f} tokens",
        f"stop rate {numbers.percent(sft['stop_rate'])}",
    )
    if report["source"] != "embedded":
        return [
            baseline_card("Pretraining loss", pretrain, "bigram_loss", "a bigram model", tokens),
            baseline_card("SFT completion loss", sft, "base_loss", "the base model", stops),
            accuracy_card(reward),
            *real_gain_card(ppo),
        ]
    made = [
        loss_card("Pretraining loss", pretrain, tokens),
        loss_card("SFT completion loss", sft, stops),
        accuracy_card(reward),
        gain_card(ppo),
    ]
    for flaw, rate in ppo["flaws"].items():
        before = ppo["sft_flaws"].get(flaw)
        made.append(
            card(
                f"PPO: {flaw.replace('_', ' ')}",
                numbers.percent(rate),
                rate,
                before,
                f"share of its summaries; SFT {numbers.percent(before)}",
            )
        )
    return made


def accuracy_card(reward: dict[str, Any]) -> str:
    """The reward model's accuracy; the bar runs from chance (0.5) to certainty (1)."""
    accuracy, bayes = reward["accuracy"], reward.get("bayes_accuracy")
    if bayes is None:
        low, high = map(numbers.percent, reward["accuracy_ci95"])
        return card(
            "Reward model accuracy",
            numbers.percent(accuracy),
            2 * accuracy - 1,
            None,
            f"95% interval {low} to {high}",
        )
    way = numbers.way_to_bayes(accuracy, bayes)
    return card(
        "Reward model accuracy",
        numbers.percent(accuracy),
        2 * accuracy - 1,
        2 * bayes - 1,
        f"Bayes {numbers.percent(bayes)}: {way:.0%} of the way from chance; "
        f"{reward['comparisons']:,.0f} comparisons",
    )


def baseline_card(what: str, stage: dict[str, Any], name: str, said: str, extra: str) -> str:
    """A loss below its baseline, where the stage recorded one as `name`."""
    loss, baseline = stage["heldout_loss"], stage.get(name)
    if not numbers.fits(baseline, numbers.NUMBER):
        return card(what, f"{loss:.3f}", None, None, f"nats per token; {extra}")
    full = 1.25 * max(loss, baseline, 1e-9)
    return card(
        what,
        f"{loss:.3f}",
        loss / full,
        baseline / full,
        f"{said}: {baseline:.3f} nats per token; {extra}",
    )


def loss_card(what: str, stage: dict[str, Any], extra: str) -> str:
    """A loss over its entropy floor; the bar's full width is 1.25 times the larger of the two."""
    loss, floor = stage["heldout_loss"], stage["entropy_floor"]
    full = 1.25 * max(loss, floor, 1e-9)
    return card(
        what,
        f"{loss:.3f}",
        loss / full,
        floor / full,
        f"entropy floor {floor:.3f} nats per token: {numbers.excess(loss, floor):+.1%}; {extra}",
    )


def real_gain_card(ppo: dict[str, Any]) -> list[str]:
    """What PPO gained on real rows; no card where no gain was measured."""
    found = numbers.gain_of(ppo)
    if found is None:
        return []
    said, gain, (low, high) = found
    return [
        card(
            f"PPO: gain in {said}",
            f"{gain:+.3f}",
            None,
            None,
            f"95% interval {low:+.3f} to {high:+.3f}",
        )
    ]


def gain_card(ppo: dict[str, Any]) -> str:
    """What PPO gained in gold reward; with a bar if the notebook recorded the best possible as
    `gold_ceiling`.
    """
    gain, best = ppo["gold_reward"] - ppo["sft_gold_reward"], ppo.get("gold_ceiling")
    low, high = ppo["gold_gain_ci95"]
    words = (
        f"95% interval {low:+.3f} to {high:+.3f}; SFT {ppo['sft_gold_reward']:.3f}, PPO "
        f"{ppo['gold_reward']:.3f}"
    )
    if not numbers.fits(best, numbers.NUMBER) or best <= ppo["sft_gold_reward"]:
        return card("PPO: gain in gold reward", f"{gain:+.3f}", None, None, words)
    share = gain / (best - ppo["sft_gold_reward"])
    return card(
        "PPO: gain in gold reward", f"{gain:+.3f}", share, 1.0, f"{words}; best possible {best:.3f}"
    )


def card(what: str, value: str, share: float | None, mark: float | None, ceiling: str) -> str:
    """One number card. share and mark: positions on the bar, 0 to 1 (clamped); no bar without a
    share.
    """
    bar = ""
    if share is not None:
        tick = (
            ""
            if mark is None
            else f'<b style="left:calc({100 * min(max(mark, 0), 1):.1f}% - 1px)"></b>'
        )
        bar = (
            f'<div class="bar"><i style="width:{100 * min(max(share, 0), 1):.1f}%"></i>{tick}</div>'
        )
    return (
        f'<div class="card"><p class="what">{escape(what)}</p><p '
        f'class="value">{escape(value)}</p>{bar}'
        f'<p class="ceiling">{escape(ceiling)}</p></div>'
    )


def gallery(curves: dict[str, dict], figures: dict[str, list[Path]]) -> str:
    """Curves and figures, stage by stage; nothing for a stage without any."""
    parts = []
    for stage, notebook in NOTEBOOKS.items():
        known = curves.get(stage, {}).items()
        drawn = [draw_curve(name, curve) for name, curve in known if len(curve.get("y", [])) > 1]
        shown = [embed(path, stage) for path in figures.get(stage, [])]
        if drawn or shown:
            grid = f'<div class="curves">{"".join(drawn)}</div>' if drawn else ""
            parts.append(f"<h3>{escape(notebook)}</h3>{grid}{''.join(shown)}")
    return "<h2>Curves and figures</h2>" + "".join(parts) if parts else ""


def embed(path: Path, stage: str) -> str:
    """A PNG inside the page, captioned with its name."""
    name = path.stem.removeprefix(f"{stage}-").replace("-", " ")
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    image = f'<img alt="{escape(name)}" src="data:image/png;base64,{data}">'
    return f"<figure>{image}<figcaption>{escape(name)}</figcaption></figure>"


def draw_curve(name: str, curve: dict[str, Any], width: int = 360, height: int = 210) -> str:
    """A line chart as SVG, with the ceiling dashed if the curve has one."""
    points = [
        (x, y)
        for x, y in zip(curve.get("x") or range(len(curve["y"])), curve["y"])
        if y is not None
    ]
    ceiling = curve.get("ceiling")
    levels = [y for _, y in points] + ([] if ceiling is None else [ceiling])
    if not points:
        return ""
    left, right, top, bottom = 46, width - 14, 34, height - 34
    x_low, x_high, y_high = points[0][0], points[-1][0], max(levels)
    y_low = min(levels) - 0.12 * (
        y_high - min(levels)
    )  # room for the ceiling's name below its line

    def place(x: float, y: float) -> tuple[float, float]:
        across, up = (x - x_low) / ((x_high - x_low) or 1), (y - y_low) / ((y_high - y_low) or 1)
        return left + across * (right - left), bottom - up * (bottom - top)

    def text(x: float, y: float, words: str, anchor: str = "start") -> str:
        return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}">{escape(words)}</text>'

    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in points))
    parts = [
        f'<polyline points="{line}" fill="none" stroke="#2f6f8f" stroke-width="1.8" '
        'stroke-linejoin="round"/>'
    ]
    if ceiling is not None:
        at = place(x_low, ceiling)[1]
        dashes = f'<path d="M{left},{at:.1f}H{right}" stroke="#d1703c" stroke-dasharray="4 3"/>'
        parts = [dashes, *parts, text(right, at + 13, curve.get("label", ""), "end")]
    parts += [
        text(left - 6, top + 4, f"{y_high:.3g}", "end"),
        text(left - 6, place(x_low, min(levels))[1] + 4, f"{min(levels):.3g}", "end"),
        text(left, height - 14, f"{x_low:g}"),
        text(right, height - 14, f"{curve.get('xlabel', '')} {x_high:g}", "end"),
    ]
    return (
        f'<figure><svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(name)}">'
        f'<text class="name" x="{left}" y="20">{escape(name)}</text>'
        f'<path d="M{left},{top}V{bottom}H{right}" fill="none" '
        f'stroke="#dfddd6"/>{"".join(parts)}</svg></figure>'
    )
