"""One self-contained HTML file on one model: what it is worth, where it fails, and what it was made from.

The file asks nothing of any network: style, script, drawings and pictures are inside, and its Content-Security-Policy
allows that style and that script alone, by their digests. What comes from outside (labels, credits, URLs, pictures) is
escaped, checked or coded anew.
"""

import base64
import hashlib
from functools import lru_cache
from importlib import resources
from pathlib import Path

import polars as pl
from jinja2 import Environment, FunctionLoader, StrictUndefined, Template
from markupsafe import Markup

from gbif_platform.evaluation import report_charts as charts
from gbif_platform.evaluation import report_rows as rows
from gbif_platform.evaluation.report_data import Mistake, ReportData
from gbif_platform.evaluation.wording import percent, written
from gbif_platform.gbif.licences import page_of
from gbif_platform.plots.figure import counted, exact, share
from gbif_platform.training.files import write_text_atomically

__all__ = ["Mistake", "ReportData", "report_html", "write_report"]

HEADLINES = ("top1", "macro_accuracy", "log_loss", "ece")
TEMPLATE = "report.html.j2"


def write_report(path: Path, data: ReportData, *, show_unlicensed: bool = False) -> Path:
    """Write the report; a file that is there is replaced whole.

    Args:
        path: ends with .html.
        data: what to say.
        show_unlicensed: show pictures of unknown licence too; else they are left out and counted.
    """
    write_text_atomically(path, report_html(data, show_unlicensed=show_unlicensed))
    return path


def report_html(data: ReportData, *, show_unlicensed: bool = False) -> str:
    """The report as one text of HTML, see `write_report`."""
    style, script = _text("report.css"), _text("report.js")
    classes = pl.DataFrame(data.classes)
    top1 = data.metric("top1")
    pictures, omitted = rows.shown_mistakes(data.mistakes, show_unlicensed)
    policy = (
        f"default-src 'none'; img-src data:; style-src {_digest(style)}; script-src {_digest(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    return _template().render(
        data=data,
        policy=policy,
        style=Markup(style),  # noqa: S704  # our own file
        script=Markup(script),  # noqa: S704  # our own file
        headlines=[rows.metric_row(metric) for name in HEADLINES if (metric := data.metric(name))],
        verdict=rows.verdict(top1),
        facts=rows.facts(data, classes),
        summary=rows.summary_rows(data),
        comparison=rows.comparison_rows(data.comparison),
        curves=charts.curves(data.history, top1.baseline if top1 else None) if data.history else [],
        epochs=rows.epoch_rows(data.history),
        heatmap=charts.confusion_heatmap(data.confusion, data.labels) if data.pictures else None,
        confusions=rows.commonest_confusions(data.confusion, data.labels),
        reliability=rows.drawn(charts.reliability_diagram, data.reliability),
        coverage=rows.drawn(charts.coverage_curve, data.coverage),
        coverage_points=rows.coverage_points(data.coverage),
        buckets=rows.bucket_rows(classes, data.summary),
        scatter=charts.recall_over_pictures(classes),
        slices=rows.slice_rows(data.slices),
        ranks=rows.rank_rows(data),
        rollup=rows.rollup_rows(data.rollup),
        open_set=rows.open_set_rows(data.open_set),
        classes=rows.class_rows(classes),
        mistakes=pictures,
        omitted=omitted,
        licences=sorted(data.licences.items(), key=lambda item: (-item[1], item[0])),
    )


@lru_cache(maxsize=1)
def _template() -> Template:
    environment = Environment(
        loader=FunctionLoader(_text), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "exact": exact,
        "percent": percent,
        "written": written,
        "link": rows.safe_link,
        "page": page_of,
    }
    environment.globals |= {"counted": counted, "share": share, "interval_mark": charts.interval_mark}
    return environment.get_template(TEMPLATE)


def _text(name: str) -> str:
    return (resources.files("gbif_platform.evaluation") / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    """As a Content-Security-Policy names a style or script that it allows."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
