"""The style sheet of pages for people: report, model card, catalogue. Light and dark follow the reader's own setting."""

STYLE = """
:root { --paper: #fbfaf8; --card: #ffffff; --ink: #23262b; --soft: #6b7079; --faint: #e3e1dc; --bar: #3b82c4;
--good: #3d8a5f; --bad: #c23a4d; --wait: #b86d18; color-scheme: light dark; }
@media (prefers-color-scheme: dark) { :root { --paper: #16181c; --card: #1e2126; --ink: #e4e5e8;
  --soft: #9a9fa9;
--faint: #363a42; --good: #6cc294; --bad: #ef7385; --wait: #e3a557; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.55 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
main { max-width: 1020px; margin: 0 auto; padding: 40px 24px 80px; }
h1 { font-size: 30px; margin: 0; letter-spacing: -.02em; }
h1 small { font-weight: 400; color: var(--soft); font-size: 15px; letter-spacing: 0; margin-left: 12px; }
h2 { font-size: 19px; margin: 0 0 2px; letter-spacing: -.01em; }
section { background: var(--card); border: 1px solid var(--faint); border-radius: 12px; padding: 22px 26px;
  margin-top: 20px; }
.caption { color: var(--soft); margin: 0 0 14px; max-width: 74ch; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(145px, 1fr)); gap: 12px;
  margin-top: 22px; }
.fact { background: var(--card); border: 1px solid var(--faint); border-radius: 12px; padding: 13px 16px; }
.fact b { display: block; font-size: 21px; letter-spacing: -.01em; font-weight: 650; }
.fact span { color: var(--soft); font-size: 13px; }
.plot { --paper: var(--card); overflow-x: auto; }
.plot svg { width: 100%; height: auto; display: block; min-width: 560px; }
.plot text { font-family: system-ui, "Segoe UI", "DejaVu Sans", sans-serif !important; }
.narrow { max-width: 600px; margin: 0 auto; }
.tip { cursor: help; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; margin-top: 12px; }
th { text-align: left; color: var(--soft); font-weight: 500; border-bottom: 1px solid var(--faint);
  padding: 5px 14px 5px 0; white-space: nowrap; }
td { padding: 6px 14px 6px 0; border-bottom: 1px solid var(--faint); vertical-align: top; }
tr:last-child td { border-bottom: 0; }
td.n { font-variant-numeric: tabular-nums; white-space: nowrap; }
td.w { white-space: nowrap; }
.none { color: var(--soft); font-style: italic; margin: 4px 0 0; }
.tag { font-weight: 600; }
h3 { font-size: 14px; margin: 18px 0 0; color: var(--soft); font-weight: 600; }
.pass { color: var(--good); font-weight: 600; }
.fail { color: var(--bad); font-weight: 600; }
.promote, .advance { color: var(--good); }
.abort, .drop, .alarm { color: var(--bad); }
.pause, .resume, .held { color: var(--wait); }
.hold, .start { color: var(--soft); }
.bar { background: var(--bar); height: 11px; border-radius: 3px; min-width: 2px; opacity: .8; }
"""
