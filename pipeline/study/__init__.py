"""`igpo study`: methods compared over seeds and difficulties, cell by cell, and the report of what
came out."""
