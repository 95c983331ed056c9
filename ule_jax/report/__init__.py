"""The report: one self-contained page of finished runs. Never imports jax.

runs.py reads runs, series.py groups them into series, numbers.py computes tables and CSV, figures.py draws charts,
panels.py draws saliency with the functions of pictures.py, colors.py has the style of each method, build.py assembles
the page from the template page.html, page.py writes it.
"""
