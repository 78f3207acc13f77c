"""Samples of a policy as it is, from its own engine."""

from collections import Counter

from benchmarks.real_text.push import advantages_of, read
from benchmarks.real_text.sample import sample
from pipeline.evaluation.saved_policy import open_policy


def test_a_file_that_was_cut_off_goes_on_with_whole_groups(tmp_path):
    """Two groups of two; a kill leaves the second with half of its last line; then three are wanted."""
    policy = open_policy("tiny", "conf/igpo.yaml", ["engine.kind=transformers"])
    out = tmp_path / "samples.jsonl"
    sample(policy, 2, 2, 0, out)
    whole = out.read_text()
    out.write_text(whole[:-100])
    sample(policy, 3, 2, 0, out)
    rows = read(out)
    assert list(Counter(row["group"] for row in rows).values()) == [2, 2, 2]
    assert [row["id"] for row in rows] == [f"{row['group']}/{k % 2}" for k, row in enumerate(rows)]
    assert out.read_text().splitlines()[:2] == whole.splitlines()[:2]
    turns = sum(len(row["actions_T"]) for row in rows)
    assert advantages_of(rows, "igpo").shape == (turns,)
    assert advantages_of(rows, "benchmarks.real_text.discounted_outcome:DISCOUNTED_OUTCOME").shape == (turns,)
    assert all(len(row["names_gold_T"]) == len(row["actions_T"]) for row in rows)
