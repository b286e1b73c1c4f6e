"""How answers read: text, tables, the page of a report, and what is redrawn while a study runs."""
