"""The looks of the page, in light and dark."""

STYLE = """
:root { color-scheme: light dark;
  --ground: #ffffff; --panel: #f5f6f8; --ink: #1d2129; --soft: #5b6472; --rule: #dfe2e8;
  --c0: #2563b8; --c1: #c2570c; --c2: #23823f; --c3: #8a3fb0; --good: #1f7a3d; --bad: #b3261e;
  --mark: #fff0b8; }
@media (prefers-color-scheme: dark) { :root {
  --ground: #14171c; --panel: #1e232b; --ink: #e4e7ec; --soft: #9aa4b3; --rule: #333a45;
  --c0: #79aef5; --c1: #f2a25c; --c2: #74cf8c; --c3: #cd97ea; --good: #74cf8c; --bad: #ff8f85;
  --mark: #5a4a12; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 20px 16px 60px; }
h1 { font-size: 24px; margin: 8px 0; overflow-wrap: anywhere; }
h2 { font-size: 20px; margin: 44px 0 0; padding-top: 14px; border-top: 2px solid var(--rule); }
h3 { font-size: 16px; margin: 30px 0 6px; }
small, .unit, .aside, .note, caption { color: var(--soft); font-weight: normal; font-size: 13px; }
p { margin: 6px 0; max-width: 75ch; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 14px; margin: 8px 0; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; font-size: 14px; margin: 6px 0; }
th, td { padding: 4px 12px 4px 0; text-align: left; border-bottom: 1px solid var(--rule);
  vertical-align: top; }
th { font-weight: 600; } thead th { color: var(--soft); font-weight: normal; }
.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.matrix td, .matrix th { padding: 4px 9px; }
.matrix thead th { text-align: center; vertical-align: bottom; }
.many thead th { writing-mode: vertical-rl; transform: rotate(180deg); text-align: left;
  padding: 9px 4px; border-bottom: none; max-height: 16em; }
.matrix th[scope=row] { white-space: nowrap; }
.cell { text-align: center; font-variant-numeric: tabular-nums;
  background: color-mix(in srgb, var(--bad) calc(var(--share) * 60%), transparent); }
.cell.right { background: color-mix(in srgb, var(--good) calc(var(--share) * 45%), transparent); }
.apart { color: var(--bad); font-weight: 600; }
.beside { display: flex; flex-wrap: wrap; gap: 14px 40px; align-items: start; margin: 8px 0; }
.beside > * { min-width: 0; max-width: 100%; }
.beside > figure { flex: 1 1 290px; max-width: 480px; }
figure { margin: 0; max-width: 480px; } figcaption { margin-bottom: 2px; }
svg { display: block; width: 100%; height: auto; overflow: visible; }
svg text { font-size: 11px; fill: var(--soft); } svg .x { text-anchor: middle; }
svg .y { text-anchor: end; dominant-baseline: central; }
path { fill: none; stroke: currentColor; stroke-width: 1.8; stroke-linejoin: round;
  stroke-linecap: round; }
path.rule { stroke: var(--rule); stroke-width: 1; }
path.guide { stroke: var(--soft); stroke-width: 1.2; stroke-dasharray: 4 4; }
path.points { stroke-width: 4; stroke-opacity: .5; } path.bars { fill: currentColor; stroke: none;
  fill-opacity: .75; }
.c0 { color: var(--c0); } .c1 { color: var(--c1); } .c2 { color: var(--c2); }
.c3 { color: var(--c3); }
.legend { display: flex; flex-wrap: wrap; gap: 2px 14px; font-size: 13px; padding-left: 46px; }
.key { display: inline-block; width: 16px; height: 0; border-top: 3px solid currentColor;
  margin-right: 6px; vertical-align: middle; }
.key.guide { border-top: 2px dashed var(--soft); }
.errors { list-style: none; margin: 8px 0; padding: 0; display: grid; gap: 8px; }
.errors li { background: var(--panel); border-radius: 8px; padding: 8px 12px; min-width: 0; }
.errors p { max-width: none; margin: 2px 0; overflow-wrap: anywhere; }
.errors b { color: var(--soft); font-weight: normal; font-size: 13px; }
.wanted { color: var(--good); font-weight: 600; } .found { color: var(--bad); font-weight: 600; }
.note, .cut { margin-left: 12px; }
.cut { font-size: 12px; border: 1px solid var(--rule); border-radius: 9px; padding: 1px 8px;
  color: var(--soft); }
mark { background: var(--mark); color: inherit; border-radius: 3px; padding: 0 3px; }
.context { color: var(--soft); }
pre { background: var(--panel); border-radius: 8px; padding: 10px 12px; white-space: pre-wrap;
  overflow-wrap: anywhere; font-size: 13px; }
code { font-size: 13px; overflow-wrap: anywhere; }
@media (max-width: 480px) { th, td { padding-right: 8px; } table { font-size: 13px; } }
@media print { body { font-size: 12px; } section, figure, .errors li { break-inside: avoid; } }
"""
