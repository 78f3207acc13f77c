"""How does a folder of documents become a corpus of passages?"""
