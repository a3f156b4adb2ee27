"""Text files: columns whose headings are read, and lists of counts without angles."""
