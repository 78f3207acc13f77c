"""Small files in the shapes in which data sets are published: questions on three facts, and their documents.

Each writer makes one source in a folder and returns what a person would type. All sources of questions hold
the same two questions; `QUESTIONS` says what every reader must find.
"""

import csv
import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq

FORT, BORN = "Who built the red fort?", "Where was the builder of the red fort born?"
ANSWERS = {FORT: ["Mira Tal", "M. Tal"], BORN: ["Oslo"]}
DOCUMENTS = [
    ("d0", "Red Fort", "The red fort was built by Mira Tal."),
    ("d1", "Mira Tal", "Mira Tal was born in Oslo."),
    ("d2", "Blue Lake", "The blue lake lies in Peru."),
]
TITLES = {FORT: ["Red Fort"], BORN: ["Red Fort", "Mira Tal"]}


def lines(path, records):
    text = "".join(json.dumps(record) + "\n" for record in records)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return str(path)


def flashrag(folder, name="flashrag.jsonl"):
    return lines(
        folder / name,
        [
            {"id": f"q{n}", "question": q, "golden_answers": a, "metadata": {"supporting_titles": TITLES[q]}}
            for n, (q, a) in enumerate(ANSWERS.items())
        ],
    )


def nq_open(folder):
    return lines(folder / "nq_open.jsonl", [{"question": q, "answer": a} for q, a in ANSWERS.items()])


def hotpotqa(folder):
    """The file of the data set's own page: one array, `_id`, facts as lists."""
    records = [
        {
            "_id": f"h{n}",
            "question": q,
            "answer": a[0],
            "supporting_facts": [[title, 0] for title in TITLES[q]],
            "context": [[title, [text]] for _, title, text in DOCUMENTS],
            "type": "bridge",
            "level": "hard",
        }
        for n, (q, a) in enumerate(ANSWERS.items())
    ]
    path = folder / "hotpot_dev_distractor_v1.json"
    path.write_text(json.dumps(records))
    return str(path)


def two_wiki(folder):
    records = [
        {
            "_id": f"w{n}",
            "type": "compositional",
            "question": q,
            "context": [[title, [text]] for _, title, text in DOCUMENTS],
            "supporting_facts": [[title, 0] for title in TITLES[q]],
            "evidences": [["Red Fort", "builder", "Mira Tal"]],
            "answer": a[0],
        }
        for n, (q, a) in enumerate(ANSWERS.items())
    ]
    path = folder / "2wiki_dev.json"
    path.write_text(json.dumps(records, indent=1))
    return str(path)


def musique(folder):
    answered = [
        {
            "id": f"{len(TITLES[q])}hop__{n}",
            "paragraphs": [
                {"idx": i, "title": title, "paragraph_text": text, "is_supporting": title in TITLES[q]}
                for i, (_, title, text) in enumerate(DOCUMENTS)
            ],
            "question": q,
            "question_decomposition": [{"id": i} for i, _ in enumerate(TITLES[q])],
            "answer": a[0],
            "answer_aliases": a[1:],
            "answerable": True,
        }
        for n, (q, a) in enumerate(ANSWERS.items())
    ]
    unanswerable = {**answered[0], "id": "2hop__9", "answerable": False}
    return lines(folder / "musique_full_v1.0_dev.jsonl", [*answered, unanswerable])


def trivia_qa(folder):
    """The file of the data set's own page: capitals, one object around all questions."""
    records = [
        {
            "Question": q,
            "QuestionId": f"tc_{n}",
            "Answer": {
                "Value": a[0],
                "Aliases": a,
                "NormalizedAliases": [x.lower() for x in a],
                "Type": "WikipediaEntity",
            },
            "EntityPages": [],
        }
        for n, (q, a) in enumerate(ANSWERS.items())
    ]
    path = folder / "wikipedia-dev.json"
    path.write_text(json.dumps({"Data": records, "Domain": "Web", "Version": 1.0}, indent=2))
    return str(path)


def squad(folder):
    """The file of the data set's own page (2.0): article, paragraph, question; some without an answer."""
    asked = [
        {
            "id": f"s{n}",
            "question": q,
            "answers": [{"text": x, "answer_start": 0} for x in a],
            "is_impossible": False,
        }
        for n, (q, a) in enumerate(ANSWERS.items())
    ]
    asked.append({"id": "s9", "question": "Who painted it?", "answers": [], "is_impossible": True})
    data = [{"title": "Red Fort", "paragraphs": [{"context": DOCUMENTS[0][2], "qas": asked}]}]
    path = folder / "dev-v2.0.json"
    path.write_text(json.dumps({"version": "v2.0", "data": data}))
    return str(path)


def beir(folder):
    """Corpus, queries and judgements; the answers are in the metadata, as in BEIR's HotpotQA."""
    home = folder / "beir"
    (home / "qrels").mkdir(parents=True)
    lines(
        home / "corpus.jsonl",
        [{"_id": i, "title": title, "text": text, "metadata": {}} for i, title, text in DOCUMENTS],
    )
    queries = [
        {
            "_id": f"b{n}",
            "text": q,
            "metadata": {"answer": a[0], "supporting_facts": [[t, 0] for t in TITLES[q]]},
        }
        for n, (q, a) in enumerate(ANSWERS.items())
    ]
    lines(
        home / "queries.jsonl",
        [*queries, {"_id": "b8", "text": "no answer?", "metadata": {}}, queries[0] | {"_id": "b9"}],
    )
    rows = [
        ("query-id", "corpus-id", "score"),
        ("b0", "d0", 1),
        ("b0", "d2", 0),
        ("b1", "d0", 1),
        ("b1", "d1", 1),
        ("b8", "d2", 1),
    ]
    (home / "qrels" / "test.tsv").write_text("".join("\t".join(map(str, row)) + "\n" for row in rows))
    return str(home)


def verl_parquet(folder):
    """Content in parts, and the index as pandas writes whole numbers beside missing ones."""
    rows = [
        {
            "data_source": "nq",
            "prompt": [{"role": "user", "content": [{"type": "text", "text": q}]}],
            "reward_model": {"style": "rule", "ground_truth": "<|answer_split|>".join(a)},
            "extra_info": {"index": float(n)},
        }
        for n, (q, a) in enumerate(ANSWERS.items())
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "train.parquet")
    return str(folder / "train.parquet")


def own_csv(folder):
    """Names of one's own, a list in a cell, and ids that pandas made floats of."""
    path = folder / "mine.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["uid", "prompt", "label", "also", "pages"])
        for n, (q, a) in enumerate(ANSWERS.items()):
            writer.writerow([f"{n}.0", q, a[0], json.dumps(a[1:]), str(TITLES[q])])
    return str(path)


OWN_NAMES = {"question": "prompt", "answers": "label", "aliases": "also", "id": "uid", "titles": "pages"}


def saved_data_set(folder):
    """What `Dataset.save_to_disk` writes, in the hub's form of HotpotQA."""
    import datasets

    rows = [
        {
            "id": f"h{n}",
            "question": q,
            "answer": a[0],
            "supporting_facts": {"title": TITLES[q], "sent_id": [0] * len(TITLES[q])},
        }
        for n, (q, a) in enumerate(ANSWERS.items())
    ]
    datasets.DatasetDict({"validation": datasets.Dataset.from_list(rows)}).save_to_disk(folder / "saved")
    return str(folder / "saved")


def hub_squad(folder):
    """A folder of data files in the hub's form of SQuAD, read by its name as the hub's would be."""
    rows = [
        {
            "id": f"s{n}",
            "title": TITLES[q][0],
            "context": DOCUMENTS[0][2],
            "question": q,
            "answers": {"text": a, "answer_start": [0] * len(a)},
        }
        for n, (q, a) in enumerate(ANSWERS.items())
    ]
    home = folder / "hub"
    home.mkdir()
    lines(home / "train.jsonl", rows)
    return f"hf:{home}@train"


ALL, FIRST = "all aliases", "the first alone"
QUESTION_SOURCES = {
    # writer: (shape, aliases, evidence titles, number left out)
    flashrag: ("FlashRAG", ALL, True, 0),
    nq_open: ("NQ-open", ALL, False, 0),
    hotpotqa: ("HotpotQA", FIRST, True, 0),
    two_wiki: ("2WikiMultihopQA", FIRST, True, 0),
    musique: ("MuSiQue", ALL, True, 1),
    trivia_qa: ("TriviaQA", ALL, False, 0),
    squad: ("SQuAD", ALL, None, 1),
    beir: ("BEIR", FIRST, True, 1),
    verl_parquet: ("IGPO/verl", ALL, False, 0),
    saved_data_set: ("HotpotQA", FIRST, True, 0),
    hub_squad: ("SQuAD", ALL, None, 0),
}
"""Without `fields`. None: SQuAD names the article of the paragraph alone."""


def contents_jsonl(folder):
    return lines(
        folder / "contents.jsonl",
        [{"id": i, "contents": f'"{title}"\n{text}'} for i, title, text in DOCUMENTS],
    )


def title_text_gz(folder):
    return lines(
        folder / "passages.jsonl.gz",
        [{"id": i, "title": title, "text": text} for i, title, text in DOCUMENTS],
    )


def json_array(folder):
    path = folder / "passages.json"
    path.write_text(json.dumps([{"_id": i, "title": t, "text": x} for i, t, x in DOCUMENTS], indent=1))
    return str(path)


def dpr_tsv(folder):
    """DPR's psgs_w100.tsv."""
    path = folder / "psgs_w100.tsv"
    path.write_text("id\ttext\ttitle\n" + "".join(f"{i}\t{text}\t{title}\n" for i, title, text in DOCUMENTS))
    return str(path)


def own_corpus_csv(folder):
    path = folder / "wiki.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["key", "page", "content_of_page"])
        writer.writerows([(i, title, text) for i, title, text in DOCUMENTS])
    return str(path)


OWN_CORPUS_NAMES = {"id": "key", "title": "page", "text": "content_of_page"}


def corpus_parquet(folder):
    rows = [{"id": i, "title": title, "text": text} for i, title, text in DOCUMENTS]
    pq.write_table(pa.Table.from_pylist(rows), folder / "corpus.parquet")
    return str(folder / "corpus.parquet")


def saved_corpus(folder):
    import datasets

    rows = [{"id": i, "title": title, "text": text} for i, title, text in DOCUMENTS]
    datasets.Dataset.from_list(rows).save_to_disk(folder / "saved_corpus")
    return str(folder / "saved_corpus")


CORPUS_SOURCES = (
    contents_jsonl,
    title_text_gz,
    json_array,
    dpr_tsv,
    beir,
    corpus_parquet,
    saved_corpus,
)
