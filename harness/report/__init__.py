"""What was recorded, as one document: HTML and Markdown for people, JSON for machines. It measures nothing new."""

from harness.report.collect import Evidence, collect
from harness.report.html import to_html
from harness.report.markdown import markdown_cell, markdown_table, to_json_text, to_markdown
from harness.report.sections import Section, sections

__all__ = [
    "Evidence",
    "Section",
    "collect",
    "markdown_cell",
    "markdown_table",
    "sections",
    "to_html",
    "to_json_text",
    "to_markdown",
]
