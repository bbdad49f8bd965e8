"""The chapters of the HTML report."""
