"""The report of a prediction run: figures, tables and pages; build.py computes, html.py and files.py write."""
