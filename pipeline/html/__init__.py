"""Self-contained HTML pages: one shell, tables, galleries and curves for all reports."""
