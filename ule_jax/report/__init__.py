"""The report: figures, tables and pictures of finished runs on one page."""
