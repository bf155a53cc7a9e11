"""report.html and the pages behind it."""
