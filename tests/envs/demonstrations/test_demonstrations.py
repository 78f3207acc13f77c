"""Demonstrations invented over passages: what they ask, which are dropped, and the file they are kept in."""

import json
from collections import Counter

import pytest
from scripted_retriever import ScriptedRetriever

from envs.data.corpus import Corpus, Document
from envs.data.question import Question
from envs.demonstrations.demonstration import load_demonstrations, save_demonstrations
from envs.demonstrations.make import make_demonstrations
from envs.demonstrations.passage_facts import facts_of
from envs.errors import InputError
from envs.retrieval.base import Hit
from envs.retrieval.bm25 import BM25Retriever

FILM = Document(
    "1",
    "The Glass Boat",
    "The Glass Boat is a 1934 French drama film directed by Constantin J. David and starring Ida Moor.",
)
DIRECTOR = Document(
    "2",
    "Constantin J. David",
    "Constantin J. David( 18 February 1886 – 5 May 1964) was a German film director.",
)
OTHER = Document(
    "3", "Rough Shoot", "Rough Shoot is a 1953 British thriller film directed by Robert Parrish."
)
PASSAGES = [FILM, DIRECTOR, OTHER]


def make(passages=PASSAGES, retriever=None, number=100, **options):
    corpus = Corpus(passages)
    return make_demonstrations(corpus, retriever or BM25Retriever(corpus), number=number, **options)


def test_facts_stand_in_the_passage():
    assert facts_of(FILM) == {"director": "Constantin J. David", "year": "1934"}
    assert facts_of(DIRECTOR) == {
        "birth date": "18 February 1886",
        "death date": "5 May 1964",
        "nationality": "German",
    }


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        (
            "A. Bo (born May 3, 1950 in Lyon) is a French poet.",
            {"birth date": "May 3, 1950", "birthplace": "Lyon", "nationality": "French"},
        ),
        ("A. Bo (3 May 1950) was a duke, the son of Philip the Good.", {"birth date": "3 May 1950"}),
        (
            "A. Bo (3 May 1950) was a son of the duke Carl Bo, by whom",
            {"birth date": "3 May 1950", "father": "Carl Bo"},
        ),
        ("A. Bo was born in New York and lives there.", {}),
        (
            "A. Bo (born 3 May 1950) was born in New York and",
            {"birth date": "3 May 1950", "birthplace": "New York"},
        ),
        ("It was directed by Bo. The Office followed.", {}),
        ("It is a film directed by Malcolm St. Clair, and", {"director": "Malcolm St. Clair"}),
        (
            "A. Bo (born 3 May 1950) was born in St. John's, Canada.",
            {"birth date": "3 May 1950", "birthplace": "St. John's"},
        ),
    ],
)
def test_what_is_not_certain_is_left(text, facts):
    assert facts_of(Document("1", "Some One", text)) == facts


def test_two_hops_lead_from_a_passage_to_the_one_it_names():
    made, dropped = make(two_hop_share=0.5)
    two_hops = {one.question.text: one for one in made if one.question.hops == 2}
    assert set(two_hops) == {
        "When was the director of The Glass Boat born?",
        "When did the director of The Glass Boat die?",
        "What is the nationality of the director of The Glass Boat?",
    }
    born = two_hops["When was the director of The Glass Boat born?"]
    assert born.searches == ["The Glass Boat director", "Constantin J. David born"]
    assert born.question.golds == ["18 February 1886"]
    assert born.question.metadata["supporting_titles"] == ["The Glass Boat", "Constantin J. David"]
    assert len(made) == 3 + 7 and not dropped


def test_kinds_are_drawn_evenly_and_a_seed_repeats():
    names = [f"Anton {first}{last}" for first in ("Bel", "Dor", "Gar") for last in ("an", "os", "in")]
    actors = [Document(name, name, f"{name} (18 February 1901) was a German actor.") for name in names]
    made, _ = make([*actors, FILM, OTHER], number=10, two_hop_share=0.0)
    kinds = Counter(one.question.metadata["type"] for one in made)
    assert kinds == {"director": 2, "year": 2, "birth date": 3, "nationality": 3}
    assert make([*actors, FILM, OTHER], number=10, two_hop_share=0.0)[0] == made
    assert make([*actors, FILM, OTHER], number=10, two_hop_share=0.0, seed=1)[0] != made


def test_excluded_passages_are_left_alone():
    test_question = Question("t", "Who?", ["x"], metadata={"supporting_titles": ["Constantin J. David"]})
    made, dropped = make(excluded=[test_question])
    assert {title for one in made for title in one.question.metadata["supporting_titles"]} == {
        "The Glass Boat",
        "Rough Shoot",
    }
    assert dropped == {"excluded": 3 + 3}
    made, dropped = make(excluded=[Question("t", "who  directed ROUGH Shoot?", ["Robert Parrish"])])
    assert "Who directed Rough Shoot?" not in [one.question.text for one in made] and dropped == {
        "excluded": 1
    }


def test_a_search_must_find_its_passage():
    queries = ["The Glass Boat director", "The Glass Boat year", "Rough Shoot director", "Rough Shoot year"]
    queries += [f"Constantin J. David {word}" for word in ("born", "died", "nationality")]
    astray = ScriptedRetriever(dict.fromkeys(queries, [Hit(OTHER.id, OTHER.title, OTHER.text, 1.0)]))
    made, dropped = make(retriever=astray)
    assert {tuple(one.question.metadata["supporting_titles"]) for one in made} == {("Rough Shoot",)}
    assert dropped == {"passage not found by its search": 5 + 3}
    assert set(astray.queries) == set(queries)


def test_a_corpus_without_facts_is_refused():
    with pytest.raises(InputError, match="no pattern matches its passages"):
        make([Document("1", "Rain", "Rain is wet.")])


def test_a_file_serves_as_demonstrations_and_as_questions(tmp_path):
    made, _ = make()
    save_demonstrations(made, tmp_path / "demos.jsonl")
    loaded = load_demonstrations(tmp_path / "demos.jsonl")
    assert [(one.question.id, one.question.hops, one.searches) for one in loaded] == [
        (one.question.id, one.question.hops, one.searches) for one in made
    ]
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("searches", [None, [], "who", ["who", " "], [3]])
def test_a_question_without_searches_is_no_demonstration(tmp_path, searches):
    record = {"id": "q", "question": "Who?", "golden_answers": ["Ada"], "metadata": {"searches": searches}}
    (tmp_path / "demos.jsonl").write_text(json.dumps(record))
    with pytest.raises(
        InputError, match="question 'q' is no demonstration: `metadata.searches` must be a list of queries"
    ):
        load_demonstrations(tmp_path / "demos.jsonl")
