"""The report: one self-contained page of finished runs. Never imports jax.

runs.py reads runs, series.py groups them into series, numbers.py computes tables and CSV, figures.py draws charts,
verdict.py answers for each method in a sentence, panels.py draws saliency over photographs with the functions of
pictures.py, sheet.py puts such pictures on a slide, looks.py computes numbers of saliency, examples.py chooses what the
page shows first, colors.py has the style of each method, build.py assembles the page from the template page.html,
page.py writes it.
"""
