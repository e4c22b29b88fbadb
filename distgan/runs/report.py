"""One HTML page about a run: what it is, its curves, its pictures. No script, no outside file: it opens anywhere, as it
is.
"""

from __future__ import annotations

import base64
import html
import json
import math
from collections.abc import Sequence
from typing import Any

from distgan.config import ConfigError
from distgan.registry import objectives
from distgan.runs.prepare import find_run_or_best
from distgan.storage import Folder
from distgan.training.logs import read_status

CURVES = (
    ("Distance to the data", ("fid", "kid"), True),
    ("Class distribution", ("class_kl",), True),
    ("Losses", ("d_loss", "g_loss"), False),
    ("Discriminator's opinion", ("d_real", "d_fake"), False),
    ("Logit gap", ("logit_gap",), False),
    ("Gradient norms", ("g_grad_norm", "d_grad_norm"), True),
    ("Penalties", ("r1", "r2", "gp"), True),
    ("Learning rates", ("g_lr", "d_lr"), False),
    ("Images per second", ("images_per_s",), False),
)
_COLOURS = ("#1f6feb", "#d1242f", "#1a7f37")
_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#1f2328;max-width:1080px;margin:2em auto;padding:0 1em}
h1{margin-bottom:0}h2{margin-top:1.6em;border-bottom:1px solid #d1d9e0}table{border-collapse:collapse}
td,th{padding:.15em 1em .15em 0;text-align:left;vertical-align:top}
td.n{text-align:right;font-variant-numeric:tabular-nums}
.curves{display:grid;grid-template-columns:repeat(auto-fill,minmax(330px,1fr));gap:1em}figure{margin:0}
figcaption{color:#59636e;font-size:.9em}.grids{display:flex;flex-wrap:wrap;gap:1em}.grids img{max-width:330px}
.final img{max-width:100%}pre{background:#f6f8fa;padding:1em;overflow:auto;font-size:13px}.sub{color:#59636e}
svg text{font:11px system-ui,sans-serif;fill:#59636e}
"""


def report_of(run: str, storage: str = "./runs") -> str:
    """Write the report of a run, or of a search's best trial, by name, folder or URI; returns where it lies. Raises
    ConfigError.
    """
    folder = find_run_or_best(run, storage)
    if not folder.exists("metrics.jsonl"):
        raise ConfigError(f"{folder}: nothing is logged there yet")
    write_report(folder)
    name, mark, query = folder.uri.partition("?")
    return f"{name}/report.html{mark}{query}"


def write_report(folder: Folder) -> None:
    """Write report.html into a run's folder, from its metrics.jsonl, samples/ and config.yaml."""
    lines = read_lines(folder)
    config = folder.read("config.yaml").decode(errors="replace")
    folder.write("report.html", build_report(folder, lines, read_status(folder), config))


def read_lines(folder: Folder) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl that can be read, points and events, oldest first; OSError if it is not
    there.
    """
    return list(filter(None, map(_parsed, folder.read("metrics.jsonl").decode(errors="replace").splitlines())))


def _parsed(line: str) -> dict[str, Any]:
    """A line of metrics.jsonl, {} where it is torn or damaged: a process was killed, a disk was full."""
    try:
        values = json.loads(line)
    except ValueError:
        return {}
    return values if isinstance(values, dict) and "kimg" in values else {}


def build_report(folder: Folder, lines: Sequence[dict[str, Any]], status: dict[str, Any], config: str) -> str:
    """The page as text. lines: of metrics.jsonl; pictures are read from the run's folder and embedded."""
    name = folder.path().rstrip("/").rpartition("/")[2]
    points = [line for line in lines if "event" not in line]
    events = [line for line in lines if "event" in line]
    best = status.get("best") or {}
    head = f"{status.get('state', '')} at {status.get('kimg', 0):g} of {status.get('total_kimg', 0):g} kimg"
    if best:
        head += f"; best {best['metric'].upper()} {best['value']:.4g} at {best['nimg'] / 1000:g} kimg"
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>",
        f"<title>{html.escape(name)} - distgan</title><style>{_STYLE}</style>",
        f"<h1>{html.escape(name)}</h1><p class=sub>{html.escape(head)}</p>",
    ]
    grids = [g for g in folder.list("samples") if g.endswith(".png")]
    steps = [g for g in grids if g[:1].isdigit()]
    if steps:
        parts.append(f"<h2>Samples</h2><div class=final>{_picture(folder, steps[-1], _caption(steps[-1]))}</div>")
    judged = objectives()
    measured = [p for p in points if not judged.keys().isdisjoint(p)]
    if measured:
        keys = [k for k in measured[-1] if k in judged or k in ("class_accuracy", "samples")]
        rows = "".join(
            f"<tr><td class=n>{p['kimg']:g}</td>{''.join(f'<td class=n>{_number(p.get(k))}</td>' for k in keys)}</tr>"
            for p in measured
        )
        parts.append(
            f"<h2>Measurements</h2><table><tr><th>kimg</th>{''.join(f'<th>{k}</th>' for k in keys)}</tr>{rows}</table>"
        )
    drawn = [_curve(title, names, points, log) for title, names, log in CURVES]
    parts.append(f"<h2>Curves</h2><div class=curves>{''.join(drawn)}</div>")
    if events:
        parts.append(
            "<h2>Events</h2><ul>"
            + "".join(f"<li>{e['kimg']:g} kimg: {html.escape(e['event'])}</li>" for e in events)
            + "</ul>"
        )
    way = _spread(steps[:-1], 5)
    extra = [_picture(folder, g, _caption(g)) for g in way] + [
        _picture(folder, g, "real samples") for g in grids if g == "reals.png"
    ]
    if extra:
        parts.append(f"<h2>On the way, and the data</h2><div class=grids>{''.join(extra)}</div>")
    parts.append(
        f"<h2>Settings</h2><details><summary>config.yaml</summary><pre>{html.escape(config)}</pre></details></html>"
    )
    return "\n".join(parts)


def _curve(title: str, names: Sequence[str], points: Sequence[dict[str, Any]], log: bool) -> str:
    """One line chart as SVG: values over kimg; logarithmic where asked for and possible."""
    series = {n: [(p["kimg"], p[n]) for p in points if p.get(n) is not None and (not log or p[n] > 0)] for n in names}
    series = {n: s for n, s in series.items() if len(s) > 1}
    if not series:
        return ""
    width, height, left, bottom = 330, 190, 48, 22
    scale = math.log10 if log else float
    xs = [x for s in series.values() for x, _ in s]
    ys = [scale(y) for s in series.values() for _, y in s]
    x_low, x_span = min(xs), (max(xs) - min(xs)) or 1.0
    y_low, y_span = min(ys), (max(ys) - min(ys)) or 1.0

    def place(x: float, y: float) -> str:
        right, up = (x - x_low) / x_span, (scale(y) - y_low) / y_span
        return f"{left + right * (width - left - 8):.1f},{8 + (1 - up) * (height - bottom - 16):.1f}"

    out = [f"<figure><svg viewBox='0 0 {width} {height}' role=img aria-label='{html.escape(title)}'>"]
    out.append(f"<path d='M{left} 8V{height - bottom - 4}H{width - 8}' fill=none stroke='#d1d9e0'/>")
    for share in (0.0, 0.5, 1.0):
        value = 10 ** (y_low + share * y_span) if log else y_low + share * y_span
        out.append(
            f"<text x={left - 5} y={8 + (1 - share) * (height - bottom - 16) + 4:.0f} "
            f"text-anchor=end>{value:.3g}</text>"
        )
        anchor = ("start", "middle", "end")[int(share * 2)]
        out.append(
            f"<text x={left + share * (width - left - 8):.0f} y={height - 4} "
            f"text-anchor={anchor}>{x_low + share * x_span:.4g}</text>"
        )
    for colour, (name, line) in zip(_COLOURS, series.items(), strict=False):
        path = " ".join(place(x, y) for x, y in line)
        out.append(
            f"<polyline points='{path}' fill=none stroke='{colour}' "
            f"stroke-width=1.6><title>{html.escape(name)}</title></polyline>"
        )
    legend = ", ".join(
        f"<span style='color:{c}'>{html.escape(n)}</span>" for c, n in zip(_COLOURS, series, strict=False)
    )
    note = " (log)" if log else ""
    return "".join(out) + f"</svg><figcaption>{html.escape(title)}: {legend}{note}, over kimg</figcaption></figure>"


def _picture(folder: Folder, name: str, caption: str) -> str:
    data = base64.b64encode(folder.read(f"samples/{name}")).decode()
    text = html.escape(caption)
    return f"<figure><img src='data:image/png;base64,{data}' alt='{text}'><figcaption>{text}</figcaption></figure>"


def _caption(name: str) -> str:
    return f"{int(name.removesuffix('.png')):,} kimg"


def _spread(items: Sequence[str], count: int) -> list[str]:
    """At most `count` items, evenly spread."""
    if len(items) <= count:
        return list(items)
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]


def _number(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
