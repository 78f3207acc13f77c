"""Retrievers behind one small interface (`base.Retriever`); `build.build_retriever` makes the one that is
asked for.
"""
