"""The style sheet of the pages.

`Regard Sans` comes first in every list of fonts, though the page carries only the rarer glyphs of it: a
browser that asks its own fonts first may never repaint the text that was waiting for this one.
"""

STYLE = """
*{box-sizing:border-box}
html{background:var(--paper);color:var(--ink);color-scheme:light dark;
font:16px/1.55 "Regard Sans","Regard Sans CJK","Regard Sans More",system-ui,"Segoe UI","Noto Sans",sans-serif}
body{margin:0 auto;padding:2rem 1.5rem 4rem;max-width:76rem}
h1{font-size:1.6rem;line-height:1.25;margin:0 0 .4rem;font-weight:650}
h2{font-size:1.15rem;margin:2.6rem 0 .6rem;font-weight:650}
p{margin:.4rem 0;max-width:46rem}
.lead,.quiet,figcaption p{color:var(--muted)}
a{color:var(--s0)}
:focus-visible{outline:2px solid var(--s0);outline-offset:2px}
figure{margin:1rem 0}
h3{margin:0;font-size:1.05rem;font-weight:650}
.scroll{overflow-x:auto}
svg{display:block}
svg text{font-family:"Regard Sans","Regard Sans CJK","Regard Sans More","Noto Sans",
"DejaVu Sans",Verdana,sans-serif;fill:var(--ink)}
svg text.muted{fill:var(--muted)}
.ground{fill:var(--ground)}.missing{fill:var(--missing)}
.cells{shape-rendering:crispEdges}
.cursor{fill:none;stroke:var(--s1);stroke-width:2;pointer-events:none}
.cursor[width="0"]{display:none}
.readout{display:block;min-height:1.6em;font-variant-numeric:tabular-nums}
.readout b{font-weight:650}
bdi{unicode-bidi:isolate}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums;margin:.6rem 0}
caption{text-align:start;color:var(--muted);padding:.2rem 0}
th,td{padding:.28rem .7rem;text-align:start;vertical-align:top;border-bottom:1px solid var(--line)}
thead th{color:var(--muted);font-weight:600;border-bottom:2px solid var(--line)}
tbody th{font-weight:600}
.number{text-align:end;white-space:nowrap}
tbody tr:hover{background:var(--ground)}
.right{color:var(--good)}.wrong{color:var(--bad)}.right,.wrong{white-space:nowrap}
.rule{stroke:var(--line);fill:none}
.line{fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}
.band{opacity:.16}
.l0{stroke:var(--s0)}.l1{stroke:var(--s1)}.l2{stroke:var(--s2)}.l3{stroke:var(--s3)}
.l4{stroke:var(--s4)}.l5{stroke:var(--s5)}.l6{stroke:var(--s6)}.l7{stroke:var(--s7)}
.p0{fill:var(--s0)}.p1{fill:var(--s1)}.p2{fill:var(--s2)}.p3{fill:var(--s3)}
.p4{fill:var(--s4)}.p5{fill:var(--s5)}.p6{fill:var(--s6)}.p7{fill:var(--s7)}
ul.legend,nav ul{list-style:none;display:flex;flex-wrap:wrap;gap:.2rem 1.2rem;padding:0;margin:.5rem 0;font-size:.9rem}
ul.legend li{display:flex;align-items:center;gap:.45rem}
.headlines{display:flex;flex-wrap:wrap;gap:1rem 2.6rem;margin:.8rem 0}
.headlines dt{color:var(--muted);font-size:.9rem}
.headlines dd{margin:0}
.headlines .value{font-size:1.9rem;line-height:1.2;font-weight:650;font-variant-numeric:tabular-nums}
.headlines .quiet{font-size:.85rem}
details{margin:.5rem 0}
summary{cursor:pointer;color:var(--muted);width:fit-content}
code,pre{font:.86rem/1.5 "Regard Sans","Regard Sans CJK","Regard Sans More",ui-monospace,"DejaVu Sans Mono",
Menlo,Consolas,monospace}
pre{background:var(--ground);border:1px solid var(--line);border-radius:6px;padding:.7rem .9rem;
overflow-x:auto;white-space:pre-wrap;overflow-wrap:anywhere}
.light-only{display:inline}.dark-only{display:none}
@media (prefers-color-scheme:dark){.light-only{display:none}.dark-only{display:inline}}
@media print{html{background:#fff}details{display:none}}
""".strip()
