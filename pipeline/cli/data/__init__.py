"""`igpo data`: questions, corpora, demonstrations, the paper's files."""
