"""Retrievers behind one small interface (`base.Retriever`); `build.build_retriever` builds one of them."""
