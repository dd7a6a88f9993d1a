"""How the HTML report looks: one style sheet for light, dark and paper, and the script that sorts tables."""

from __future__ import annotations

STYLE = """
:root {
  --paper: #fcfcfa; --ink: #20262c; --soft: #5b6670; --line: #e1e4e3; --tint: #f3f4f1;
  --c1: #2a6a8f; --c2: #b4602b; --c3: #3c7f63; --bar: #9dbfd2; --warn: #b4602b; --warn-tint: #faf3ec;
  color-scheme: light dark;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14181c; --ink: #dfe4e7; --soft: #97a3ac; --line: #2b3238; --tint: #1b2025;
    --c1: #7db8da; --c2: #e3a374; --c3: #86c7a8; --bar: #3f677f; --warn: #e3a374; --warn-tint: #241d17;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", sans-serif;
  font-variant-numeric: tabular-nums; text-rendering: optimizeLegibility;
}
main { max-width: 66rem; margin: 0 auto; padding: 3.5rem 1.5rem 5rem; }
h1, h2 { font-family: "Iowan Old Style", Charter, "Bitstream Charter", Georgia, serif; font-weight: 600; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 .4rem; text-wrap: balance; }
h2 { font-size: 1.3rem; line-height: 1.3; margin: 3.2rem 0 .8rem; }
h3 { font-size: .95rem; margin: 1.6rem 0 .5rem; }
p { max-width: 46rem; margin: .5rem 0; }
a { color: var(--c1); }
.lead { color: var(--soft); margin: 0; }
.small, figcaption, details { font-size: .875rem; color: var(--soft); }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(10.5rem, 1fr)); gap: .9rem; margin: 2rem 0 0; }
.figure { border-top: 2px solid var(--c1); padding: .7rem 0 0; }
.figure b { display: block; font-size: 1.9rem; line-height: 1.15; font-weight: 600; letter-spacing: -.01em; }
.figure .name { font-size: .875rem; font-weight: 600; }
.figure .range { font-size: .82rem; color: var(--soft); }
.notes { background: var(--warn-tint); border-left: 3px solid var(--warn); padding: .8rem 1.2rem; margin: 2rem 0 0; }
.notes ul { margin: .3rem 0; padding-left: 1.1rem; }
.notes li { margin: .25rem 0; max-width: 46rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .875rem; line-height: 1.45; }
th, td {
  padding: .42rem .9rem .42rem 0; text-align: left; vertical-align: baseline; border-bottom: 1px solid var(--line);
}
th { font-weight: 600; color: var(--soft); white-space: nowrap; }
td.n, th.n { text-align: right; white-space: nowrap; }
tbody tr.first td { border-top: 1px solid var(--soft); }
td svg { vertical-align: middle; }
table.facts th { width: 13rem; font-weight: 500; white-space: normal; }
table.facts td { overflow-wrap: anywhere; }
table.sortable th { cursor: pointer; user-select: none; }
table.sortable th:hover { color: var(--ink); }
table.sortable th[aria-sort=ascending]::after { content: " ▴"; }
table.sortable th[aria-sort=descending]::after { content: " ▾"; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); gap: 1.5rem 2.2rem; }
figure { margin: 0; }
figcaption { margin-top: .35rem; }
.cases { display: grid; gap: 1.6rem; }
.cases figure { width: fit-content; max-width: 100%; }
.cases img { max-width: 100%; height: auto; display: block; }
.cases figcaption { display: flex; flex-wrap: wrap; justify-content: space-between; gap: 0 1rem; margin: 0 0 .35rem; }
.cases figcaption b { color: var(--ink); }
.key { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin: 0 .4em 0 1.1em; }
.keys .key:first-child { margin-left: 0; }
details { margin: 1rem 0; }
summary { cursor: pointer; color: var(--c1); }
pre { background: var(--tint); padding: 1rem 1.2rem; overflow-x: auto; font-size: .8rem; line-height: 1.5; }
svg.chart { width: 100%; height: auto; display: block; }
svg .axis { stroke: var(--soft); stroke-width: 1; }
svg .grid { stroke: var(--line); stroke-width: 1; }
svg text { font: 11px system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; fill: var(--soft); }
svg .line { fill: none; stroke: var(--c1); stroke-width: 1.8; stroke-linejoin: round; stroke-linecap: round; }
svg .mark { stroke: var(--soft); stroke-width: 1.2; stroke-dasharray: 3 3; }
svg .c2 { stroke: var(--c2); } svg .c3 { stroke: var(--c3); }
svg .dot { fill: var(--c1); stroke: none; } svg .dot.c2 { fill: var(--c2); } svg .dot.c3 { fill: var(--c3); }
svg .bar { fill: var(--bar); }
svg .case { fill: var(--c1); fill-opacity: .45; }
svg .mean { stroke: var(--c2); stroke-width: 2; }
svg.interval .rail { stroke: var(--line); stroke-width: 2; }
svg.interval .span { stroke: var(--c1); stroke-width: 2; }
svg.interval circle { fill: var(--c1); }
footer {
  margin-top: 4rem; padding-top: 1rem; border-top: 1px solid var(--line); font-size: .82rem; color: var(--soft);
}
@media (max-width: 40rem) { main { padding: 2rem 1rem 3rem; } h1 { font-size: 1.6rem; } }
@media print {
  :root {
    --paper: #fff; --ink: #000; --soft: #444; --line: #ccc; --tint: #f6f6f6;
    --c1: #2a6a8f; --c2: #b4602b; --c3: #3c7f63; --bar: #9dbfd2; --warn: #b4602b; --warn-tint: #fff;
    color-scheme: light;
  }
  body { font-size: 10pt; }
  main { max-width: none; padding: 0; }
  h2 { break-after: avoid; }
  figure, .figure, .notes, tr { break-inside: avoid; }
  .scroll { overflow: visible; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""

#: Sorts a table by the column whose head is clicked; without scripts the table simply stays as it is.
SCRIPT = """
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const sort = () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const value = row => row.cells[column].dataset.value ?? row.cells[column].textContent;
      const rows = [...table.tBodies[0].rows];
      rows.sort((a, b) => {
        const [x, y] = [value(a), value(b)];
        if (x === "" || y === "") return (x === "") - (y === "");
        const order = head.classList.contains("n") ? x - y : x.localeCompare(y, undefined, {numeric: true});
        return down ? -order : order;
      });
      table.tBodies[0].append(...rows);
    };
    head.tabIndex = 0;
    head.addEventListener("click", sort);
    head.addEventListener("keydown", event => { if (event.key === "Enter") sort(); });
  });
}
"""
