"""`igpo study`: compares methods over seeds and difficulties, cell by cell, and reports the results."""
