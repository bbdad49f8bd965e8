"""The chapters of the report, as blocks."""
