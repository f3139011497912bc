"""The page's rules for eyes: light and dark by the reader's setting, tables that become cards on a narrow screen."""

import base64
import hashlib
from typing import Final

SHEET: Final = """
:root{color-scheme:light dark;--ground:#fbfbfa;--card:#fff;--ink:#1d2125;--soft:#5b646d;--line:#d9dde1;--accent:#0b62b8;
--good:#12703c;--bad:#b3261e;--warn:#8a5a00;--bar:#8fb8e0;--mark:#e8f1fb}
@media(prefers-color-scheme:dark){:root{--ground:#14171a;--card:#1c2024;--ink:#e6e9ec;--soft:#9aa4ae;--line:#363c43;
--accent:#6db3f2;--good:#63c98c;--bad:#ff8a80;--warn:#e6b450;--bar:#3f6f9f;--mark:#1f2f40}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:75rem;padding:1.25rem;background:var(--ground);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
h1{font-size:1.6rem;line-height:1.25;margin:.2rem 0 .3rem;overflow-wrap:anywhere}
h2{font-size:1.2rem;margin:0 0 .6rem;overflow-wrap:anywhere}h3{font-size:1rem;margin:1.5rem 0 .4rem}
p{margin:.3rem 0 .7rem}.soft,caption,figcaption,th{color:var(--soft)}
section{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:1.1rem 1.2rem;margin:1.1rem 0}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
caption,figcaption{text-align:left;font-size:.87rem;padding-bottom:.4rem}
th{font-weight:600;font-size:.8rem;text-align:left;vertical-align:bottom}
th,td{padding:.32rem .7rem .32rem 0;border-bottom:1px solid var(--line);vertical-align:top;overflow-wrap:anywhere}
tbody tr:last-child td,tbody tr:last-child th{border-bottom:0}
.n{text-align:right;white-space:nowrap;overflow-wrap:normal}.w{white-space:nowrap}
.wide{grid-column:1/-1}td.wide:last-child:not(.why),th:last-child{padding-left:.5rem}.name{font-weight:600;min-width:10rem}
tr.taken{background:var(--mark)}tr.taken td:first-child{box-shadow:inset 3px 0 var(--accent)}
td:first-child,th:first-child{padding-left:.5rem}
.word{font-weight:600;white-space:nowrap}.passed{color:var(--good)}.rejected,.refused{color:var(--bad)}
.prepared{color:var(--warn)}.not_tried{color:var(--soft)}.on{color:var(--accent)}
.why{color:var(--soft);font-size:.87rem}span.why{display:block;max-width:38rem}
tr.told td{border-bottom:0;padding-bottom:0}tr.reason td{padding-top:0}td.why{padding-left:0}
dl{display:grid;grid-template-columns:minmax(7rem,auto) 1fr;gap:.25rem 1rem;margin:.3rem 0}
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}
figure{margin:1.2rem 0 .4rem}
.plot{display:block;width:100%;max-width:560px;height:auto}
.plot text{fill:var(--soft);font-size:11px}.plot .label{fill:var(--ink);font-weight:600}
.axis{stroke:var(--line)}.limit{stroke:var(--bad);stroke-dasharray:5 4}.plot .limit-text{fill:var(--bad)}
.dot{fill:var(--card);stroke:var(--soft);stroke-width:1.6}.dot.front{fill:var(--accent);stroke:var(--accent)}
.ring{fill:none;stroke:var(--accent);stroke-width:1.6}.cross{stroke:var(--bad);stroke-width:1.8;fill:none}
.square{fill:var(--card);stroke:var(--ink);stroke-width:1.6}
.key{display:inline-block;width:16px;height:14px;vertical-align:-2px;margin-right:.3rem}
.keys span{margin-right:1.1rem}
.bar{display:block;width:100%;min-width:5rem;height:.8rem;margin-top:.35rem}.bar rect{fill:var(--bar)}
.bar.kept rect{fill:var(--accent)}
details{margin:.6rem 0}summary{cursor:pointer;color:var(--accent)}code{font-family:ui-monospace,Menlo,Consolas,monospace;
font-size:.92em;overflow-wrap:anywhere}
@media(max-width:760px){body{padding:.7rem;font-size:14px}section{padding:.8rem}dl{grid-template-columns:1fr}dd{margin-bottom:.35rem}}
@media(max-width:1000px){table.cards,table.cards tbody,table.cards caption{display:block}table.cards thead{display:none}
table.cards tr{display:grid;grid-template-columns:repeat(auto-fill,minmax(8.6rem,1fr));gap:.1rem .9rem;padding:.6rem .5rem;
border-bottom:1px solid var(--line)}
table.cards tr:last-child,table.cards tr.told{border-bottom:0}table.cards tr.told{padding-bottom:0}
table.cards tr.reason{padding-top:0}
table.cards td{display:block;border:0;padding:.1rem 0;text-align:left}table.cards td:first-child{padding-left:0}
table.cards td[data-label]::before{content:attr(data-label) " ";color:var(--soft);font-size:.85em}
table.cards .index{display:none}table.cards .name[data-index]::before{content:attr(data-index);color:var(--soft);font-weight:400}
table.cards td.wide:last-child{padding-left:0}tr.taken td:first-child{box-shadow:none}
tr.taken{box-shadow:inset 3px 0 var(--accent)}}
@media print{body{max-width:none}section{break-inside:avoid;border:0;padding:0}}
"""


def sheet_source() -> str:
    """Return the Content-Security-Policy source that allows SHEET and no other style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(SHEET.encode()).digest()).decode()}'"
