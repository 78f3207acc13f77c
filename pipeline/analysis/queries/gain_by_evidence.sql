-- Which searches does gain see: those that name the answer, those that find gold documents without it (bridges), or others?
-- By turn. Named: a gold answer stands in what was returned, as whole words in any case, and in nothing that the rollout had read before.
-- Where a script has no blanks (Chinese, Japanese, Thai, ...), each character is a word. auroc_named:
-- chance that such a search gains more than another of the same turn (ties count half); auroc_gold: the same of new gold evidence.
WITH judged AS (
    SELECT
        turns.run_id,
        turns.iteration,
        turns.episode_id,
        turns.turn_index,
        turns.gain,
        turns.gold_hit,
        ' ' || regexp_replace(
            regexp_replace(lower(observation_text), '([\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}])', ' \1 ', 'g'),
            '[^\p{L}\p{N}]+', ' ', 'g'
        ) || ' ' AS read,
        list_transform(
            golds,
            lambda gold: ' ' || trim(regexp_replace(
                regexp_replace(lower(gold), '([\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}])', ' \1 ', 'g'),
                '[^\p{L}\p{N}]+', ' ', 'g'
            )) || ' '
        ) AS words_K,
        len(list_filter(words_K, lambda words: contains(read, words))) > 0 AS names_it
    FROM turns
    JOIN episodes USING (run_id, iteration, split, episode_id)
    WHERE turns.split = 'train' AND turns.gain IS NOT NULL AND turns.gold_hit IS NOT NULL
),

first_named AS (
    SELECT
        *,
        names_it AND row_number() OVER (
            PARTITION BY run_id, iteration, episode_id, names_it ORDER BY turn_index
        ) = 1 AS named
    FROM judged
),

-- Ties share their mean rank, from which the AUROC follows (Mann and Whitney, 1947).
ranked AS (
    SELECT
        *,
        rank() OVER (PARTITION BY run_id, turn_index ORDER BY gain)
        + (count(*) OVER (PARTITION BY run_id, turn_index, gain) - 1) / 2 AS gain_rank
    FROM first_named
),

counted AS (
    SELECT
        run_id,
        turn_index,
        count(*) FILTER (WHERE named) AS named_turns,
        count(*) FILTER (WHERE gold_hit AND NOT named) AS bridge_turns,
        count(*) FILTER (WHERE NOT gold_hit AND NOT named) AS other_turns,
        count(*) FILTER (WHERE gold_hit) AS gold_turns,
        count(*) - named_turns AS unnamed_turns,
        count(*) - gold_turns AS miss_turns,
        sum(gain_rank) FILTER (WHERE named) AS named_ranks,
        sum(gain_rank) FILTER (WHERE gold_hit) AS gold_ranks,
        avg(gain) FILTER (WHERE named) AS mean_gain_named,
        avg(gain) FILTER (WHERE gold_hit AND NOT named) AS mean_gain_bridge,
        avg(gain) FILTER (WHERE NOT gold_hit AND NOT named) AS mean_gain_other
    FROM ranked
    GROUP BY run_id, turn_index
)

SELECT
    run_id,
    turn_index,
    named_turns,
    bridge_turns,
    other_turns,
    mean_gain_named,
    mean_gain_bridge,
    mean_gain_other,
    (named_ranks - named_turns * (named_turns + 1) / 2) / nullif(named_turns * unnamed_turns, 0) AS auroc_named,
    (gold_ranks - gold_turns * (gold_turns + 1) / 2) / nullif(gold_turns * miss_turns, 0) AS auroc_gold
FROM counted
ORDER BY run_id, turn_index;
