"""Components escape text and keep Markup; pages are self-contained; Jinja loads with the first page only."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from markupsafe import Markup
from matplotlib.figure import Figure

from cluster.web import page
from cluster.web.drawing import to_svg

INJECTED = "<script>alert('x')</script>\"&"


@pytest.mark.parametrize(
    "component",
    [
        page.fact_boxes([(INJECTED, INJECTED)]),
        page.section(INJECTED, INJECTED, INJECTED),
        page.subsection(INJECTED, INJECTED, INJECTED),
        page.table([INJECTED], [(INJECTED,)]),
        page.table([INJECTED], [(INJECTED,)], wide_last=True),
        page.empty_note(INJECTED),
        page.tag(INJECTED, INJECTED),
        page.bullets([INJECTED]),
        page.join([INJECTED]),
        page.render_page(INJECTED, 0.0, [INJECTED]),
    ],
)
def test_component_with_markup_in_text_escapes_it(component: str) -> None:
    assert "<script" not in component
    assert "&lt;script&gt;" in component
    assert "alert('x')" not in component


def test_component_in_a_component_is_not_escaped_again() -> None:
    inner = page.table(["a"], [(page.tag("tag hold", "x < y"),)])
    outer = page.render_page("title", 0.0, [page.section("s", "", page.join([inner, inner]))])
    assert outer.count('<span class="tag hold">x &lt; y</span>') == 2
    assert "&amp;lt;" not in outer


def test_table_without_rows_is_empty() -> None:
    assert page.table(["a"], []) == ""


def test_table_cells_keep_short_text_and_components_on_one_line() -> None:
    table = page.table(["a", "b", "c"], [("short", "a text of more than 24 characters", page.tag("pass", "pass"))])
    assert re.findall(r"<td[^>]*>", table) == ['<td class="n">', "<td>", '<td class="n">']
    assert '<td style="width:60%">z</td>' in page.table(["a", "b"], [("y", "z")], wide_last=True)


def test_section_id_is_its_title_up_to_a_comma() -> None:
    assert page.section("What happened, in order", "", "").startswith('<section id="what-happened">')


def test_page_has_title_time_and_style_and_loads_nothing() -> None:
    html = page.render_page("a & b", 0.0, [page.bar(0.5), page.plot(to_svg(Figure(), "figure"), narrow=True)])
    assert "<title>a &amp; b</title>" in html
    assert "01 January 1970, 00:00 UTC" in html
    assert ":root { --paper: #fbfaf8;" in html
    assert 'style="width:50.0%"' in html
    assert re.search(r'<div class="narrow"><div class="plot"><svg ', html)
    assert not re.search(r'(src|href)="(?!#)', html)


def test_svg_escapes_name_and_tips() -> None:
    figure = Figure()
    figure.subplots().plot([0, 1], gid="line")
    svg = to_svg(figure, INJECTED, {"line": INJECTED})
    assert isinstance(svg, Markup)
    assert "<script" not in svg
    assert f"<title>{Markup.escape(INJECTED)}</title>".replace("&#34;", "&quot;").replace("&#39;", "&#x27;") in svg


def test_jinja_is_not_imported_before_the_first_page() -> None:
    code = "import sys, cluster.web.page; assert 'jinja2' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
