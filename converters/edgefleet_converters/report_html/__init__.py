"""The conversion report as one HTML page: `page.render` makes it, `python -m edgefleet_converters.report_html` from JSON."""
