"""The page of a report, as a Jinja2 template; every value is escaped but what is marked as safe."""

TEMPLATE = """\
{% macro cells(row) -%}
{% for text, is_number in row %}{% if loop.first %}
<th scope="row"{% if is_number %} class="number"{% endif %}>{{ text }}</th>{% else %}
<td{% if is_number %} class="number"{% endif %}>{{ text }}</td>{% endif %}{% endfor %}
{%- endmacro %}
{% macro show(name) -%}
{% set table = tables.get(name) %}{% if table and table.on_page %}
<div class="scroll"><table id="table-{{ name }}"{% if table.data | length <= 10 %} class="short"{% endif %}>
<caption>{{ table.caption }}</caption>
<thead><tr>
{%- for heading, is_number in table.headings() %}
<th scope="col"{% if is_number %} class="number"{% endif %}>{{ heading }}</th>{% endfor %}
</tr></thead>
<tbody>{% for row in table.rows() %}
<tr>{{ cells(row) }}</tr>{% endfor %}
</tbody>
{%- if table.totals %}
<tfoot><tr>{{ cells(table.total_row()) }}</tr></tfoot>{% endif %}
</table></div>
{% elif table %}
<p class="note">{{ table.caption }}: {{ table.data | length }} rows, in {{ file_names[name] }}.</p>
{% endif %}
{%- endmacro %}
{% macro chart(name, caption) -%}
{% if charts.get(name) %}<figure>{{ charts[name] | safe }}
<figcaption>{{ caption }}</figcaption></figure>{% endif %}
{%- endmacro %}
{% macro notes(sentences) -%}
{% for sentence in sentences %}<p class="note">{{ sentence }}</p>
{% endfor %}
{%- endmacro %}
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{{ title }}</title>
<style>{{ css | safe }}</style>
</head>
<body>
<main>
<header>
<h1>{{ title }}</h1>
<p class="lead">An estimate from images, made by a neural network: no test after EN 933-1 or EN 933-11.</p>
<dl class="facts">{% for name, value in head %}
<dt>{{ name }}</dt><dd>{{ value }}</dd>{% endfor %}
</dl>
<ul class="key">{% for figure in key %}
<li{% if figure.wide %} class="wide"{% endif %}><span>{{ figure.name }}</span> <b>{{ figure.value }}</b>
<small>{{ figure.note }}</small></li>{% endfor %}
</ul>
{% if warnings %}
<section class="warnings" aria-labelledby="warnings">
<h2 id="warnings">Please note</h2>
<ul>{% for warning in warnings %}<li>{{ warning }}</li>
{% endfor %}</ul>
</section>
{% endif %}
<nav aria-label="Contents">{% for id, heading in contents %}<a href="#{{ id }}">{{ heading }}</a>
{% endfor %}</nav>
</header>

<section aria-labelledby="composition">
<h2 id="composition">Composition</h2>
{% if charts.get("composition") %}
{{ chart("composition", "Share of the mass of each constituent" ~ interval_note ~ ".") }}
{% else %}<p class="missing">No chart: there is no particle of known mass.</p>{% endif %}
{{ show("composition") }}
{{ notes(composition_notes) }}
{{ show("sums") }}
{{ show("classes") }}
</section>

<section aria-labelledby="categories">
<h2 id="categories">Categories</h2>
<p>Which category of EN 12620 the sample meets for concrete, and how certain that is given the particles that were
seen. Floating material (FL) is a volume in water, which no image shows.</p>
{{ show("categories") }}
</section>

<section aria-labelledby="grading">
<h2 id="grading">Grading</h2>
{% if no_grading %}<p class="missing">Left out: {{ no_grading }}.</p>{% else %}
{{ chart("grading", grading_caption) }}
{{ show("grading") }}
{{ show("sizes") }}
{{ show("tails") }}
{{ notes(grading_notes) }}
{{ chart("groups", "Grading of each constituent.") }}
{{ show("passing_by_constituent") }}
{{ show("grading_by_class") }}
{{ show("sizes_by_class") }}
{% endif %}
</section>

<section aria-labelledby="particles">
<h2 id="particles">Particles</h2>
{% if charts.get("histograms") %}{{ chart("histograms", "Number of particles, on logarithmic axes.") }}
{% else %}<p class="missing">No histograms: neither masses nor sizes in mm are known.</p>{% endif %}
<h3>Left out</h3>
{% if "left_out" in tables %}{{ show("left_out") }}
{% elif has_particles %}<p>Nothing: every particle has a known mass and is part of the figures.</p>
{% else %}<p class="missing">There are no particles.</p>{% endif %}
</section>

<section aria-labelledby="comparison">
<h2 id="comparison">Comparison with the balance</h2>
{% if no_comparison %}<p class="missing">Left out: {{ no_comparison }}.</p>{% else %}
<p>{{ comparison_text }}</p>
{{ show("comparison") }}
{{ notes(comparison_notes) }}
{{ chart("comparison", "Predicted over weighed grams, one mark per batch and class, on logarithmic axes.") }}
{{ show("batches") }}
{% endif %}
</section>

<section aria-labelledby="scale">
<h2 id="scale">Resolution and corrections</h2>
{% if no_coins %}<p class="missing">No check of the resolution with coins: {{ no_coins }}.</p>
{% else %}{{ show("coins") }}{% endif %}
{% if "factors" in tables %}<p>{{ factors_text }}</p>
{{ show("factors") }}{% else %}<p>No correction factors were applied.</p>{% endif %}
</section>

<section aria-labelledby="pictures">
<h2 id="pictures">Images</h2>
<dl class="facts">{% for name, value in picture_facts %}
<dt>{{ name }}</dt><dd>{{ value }}</dd>{% endfor %}
</dl>
{{ show("pictures") }}
{% for part in gallery %}
<div{% if part.cut_outs | length <= 4 %} class="keep"{% endif %}>
<h3>{{ part.title }}{% if part.cut_outs %} <span class="note">({{ part.explanation }})</span>{% endif %}</h3>
{% if part.missing %}<p class="missing">{{ part.missing[0] | upper }}{{ part.missing[1:] }}.</p>{% endif %}
{% if part.cut_outs %}<div class="gallery">{% for item in part.cut_outs %}
<figure><img src="{{ item.source }}" alt="{{ item.description }}">
<figcaption>{{ item.name }}<br>{{ item.place }}</figcaption></figure>{% endfor %}
</div>{% endif %}
</div>
{% endfor %}
</section>

<section aria-labelledby="made">
<h2 id="made">How this report was made</h2>
{{ notes(method) }}
<dl class="facts">{% for name, value in provenance %}
<dt>{{ name }}</dt><dd>{% if name in code_facts %}<code>{{ value }}</code>{% else %}{{ value }}{% endif %}</dd>
{%- endfor %}
</dl>
</section>
</main>
</body>
</html>
"""
