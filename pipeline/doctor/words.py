"""Looks whether the model can read corpus and questions: does its tokenizer know their words?"""

from __future__ import annotations

from itertools import islice

from pipeline.doctor.findings import Finding, Subject

LOOKED_AT = 200
"""Documents, and questions."""
CHARACTERS = 1000
"""What is read of each."""
MANY, MOST = 0.05, 0.5
"""Shares of unknown tokens that are a warning and a fault."""


def words(subject: Subject) -> Finding:
    """Counts the tokens of the first documents and questions that the tokenizer does not know."""
    assert subject.task is not None
    task = subject.task
    tokenizer = task.protocol.tokenizer
    if tokenizer.unk_token_id is None:
        return Finding("words", "ok", "the tokenizer can spell any word")
    texts = [document.text for document in islice(task.corpus or (), LOOKED_AT)]
    texts += [question.text for question in task.train_questions[:LOOKED_AT]]
    ids = [token for text in texts for token in tokenizer.encode(text[:CHARACTERS], add_special_tokens=False)]
    share = ids.count(tokenizer.unk_token_id) / max(1, len(ids))
    told = f"{share:.0%} of corpus and questions is unknown to the tokenizer"
    if share <= MANY:
        return Finding("words", "ok", told)
    cure = "take a model that was trained on such text"
    if task.protocol.name == "tiny":
        cure = (
            "`tiny` knows the words of the generated world alone; take a chat model, which "
            "conf/smollm2_wikipedia.yaml has"
        )
    return Finding("words", "fail" if share > MOST else "warn", f"{told}: {cure}")
