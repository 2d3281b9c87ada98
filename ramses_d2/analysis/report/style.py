"""The look of a report on a screen and on A4 paper: no colour is needed to read it, no font is loaded."""

CSS = """
:root { color-scheme: light; --ink: #1b1f24; --grey: #57606a; --rule: #d0d7de; --accent: #1f4e79; }
* { box-sizing: border-box; }
html { font: 100%/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
body { margin: 0; color: var(--ink); background: #fff; }
main { max-width: 60rem; margin: 0 auto; padding: 2rem 1.5rem 4rem; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0; }
h2 { font-size: 1.25rem; margin: 2.75rem 0 .5rem; padding-top: .6rem; border-top: 2px solid var(--ink); }
h3 { font-size: 1rem; margin: 1.5rem 0 .25rem; }
p { margin: .5rem 0; max-width: 46rem; }
a { color: var(--accent); }
.lead, .note, .missing, figcaption, caption { color: var(--grey); }
.note, .missing, figcaption { font-size: .875rem; }
.missing { font-style: italic; }

.facts { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1.25rem; margin: 1rem 0; }
header .facts { grid-template-columns: max-content 1fr max-content 1fr; }
@media (max-width: 40rem) { header .facts { grid-template-columns: max-content 1fr; } }
.facts dt { color: var(--grey); }
.facts dd { margin: 0; overflow-wrap: anywhere; }
.key { display: flex; flex-wrap: wrap; margin: 1.5rem 0; padding: 0; border: 1px solid var(--rule); list-style: none; }
.key li { flex: 1 1 9rem; padding: .75rem 1rem; border-left: 1px solid var(--rule); margin-left: -1px; }
.key .wide { flex: 2 1 16rem; }
.key span, .key small { display: block; font-size: .8125rem; color: var(--grey); }
.key b { font-size: 1.25rem; font-weight: 600; line-height: 1.35; }
.key .wide b { font-size: 1.0625rem; }
.warnings { border: 1px solid var(--ink); border-left-width: 6px; padding: .6rem 1rem; margin: 1.5rem 0; }
.warnings h2 { border: 0; padding: 0; margin: 0; font-size: 1rem; }
.warnings ul { margin: .25rem 0 0; padding-left: 1.25rem; }
nav { font-size: .875rem; }
nav a { margin-right: 1rem; white-space: nowrap; }

.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; width: 100%; font-size: .8125rem; line-height: 1.35;
  font-variant-numeric: tabular-nums; }
@media screen { table { min-width: 36rem; } }
caption { text-align: left; padding-bottom: .35rem; font-size: .875rem; }
th, td { text-align: left; vertical-align: top; padding: .3rem .6rem .3rem 0; border-bottom: 1px solid var(--rule); }
th:last-child, td:last-child { padding-right: 0; }
thead th { font-weight: 600; border-bottom: 1.5px solid var(--ink); vertical-align: bottom; }
tbody th { font-weight: 600; }
tfoot th, tfoot td { font-weight: 600; border-top: 1.5px solid var(--ink); border-bottom: 0; }
.number { text-align: right; white-space: nowrap; }
th:first-child.number { width: 6rem; }
.number + :not(.number) { padding-left: 1rem; }
thead .number { white-space: normal; }

figure { margin: 1rem 0; }
figure svg { display: block; width: 100%; height: auto; }
svg text { font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif !important; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(10rem, 1fr)); gap: 1rem; margin: .75rem 0; }
.gallery figure { margin: 0; }
.gallery img { display: block; width: 100%; aspect-ratio: 1; object-fit: contain; background: #f6f8fa; }
.gallery figcaption { line-height: 1.35; margin-top: .3rem; overflow-wrap: anywhere; }
code { font: .8125rem/1.4 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; overflow-wrap: anywhere; }

@page { size: A4; margin: 16mm 15mm 18mm; @bottom-right { content: counter(page) " / " counter(pages);
  font: 8pt sans-serif; color: #57606a; } }
@media print {
  html { font-size: 9.5pt; }
  main { max-width: none; padding: 0; }
  p { max-width: none; }
  nav { display: none; }
  a { color: inherit; text-decoration: none; }
  h2 { margin-top: 1.75rem; }
  h2, h3, caption, section > p { break-after: avoid; }
  figure, tr, p, .warnings, .key, table.short { break-inside: avoid; }
  thead { display: table-header-group; }
  tfoot { display: table-row-group; }
  .scroll { overflow: visible; }
  .keep { break-inside: avoid; }
  .gallery { grid-template-columns: repeat(4, 1fr); gap: .6rem; }
}
"""
