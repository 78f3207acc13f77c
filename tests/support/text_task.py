"""A search task over documents that a test writes, with one question to train on and one held out."""

import json

from envs.search.config import SearchEnvSettings
from envs.search.task import SearchTask


def text_task(folder, documents, gold, **settings) -> SearchTask:
    """The task "Who?", whose answer is `gold`, over `documents` (id to contents); `folder` has the tokenizer.

    The retriever brings the best document alone. `settings` are those of `SearchEnvSettings`.
    """
    files = {
        "corpus": [{"id": name, "contents": contents} for name, contents in documents.items()],
        "questions": [{"id": "q", "question": "Who?", "golden_answers": [gold]}],
        "heldout_questions": [{"id": "h", "question": "Who else?", "golden_answers": [gold]}],
    }
    for name, records in files.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    paths = {name: str(folder / f"{name}.jsonl") for name in files}
    return SearchTask(SearchEnvSettings(tokenizer=str(folder), retriever={"top_k": 1}, **paths, **settings))
