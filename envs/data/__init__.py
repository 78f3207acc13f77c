"""Questions and corpora: reading, filtering, mixing and sampling them; the metrics of answers."""
