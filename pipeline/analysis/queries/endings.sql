-- How do rollouts end, and what did those lack that fail?
-- right: em_squad is 1. A wrong answer is told apart by whether every gold document had been retrieved, where the log knows them.
WITH found AS (
    SELECT run_id, iteration, split, episode_id, flatten(list(document_ids)) AS documents
    FROM turns
    WHERE gold_hit
    GROUP BY ALL
),

labelled AS (
    SELECT
        run_id,
        split,
        iteration,
        CASE
            WHEN em_squad = 1 THEN 'right'
            WHEN termination <> 'answered' THEN replace(termination, '_', ' ')
            WHEN len(gold_document_ids) = 0 THEN 'wrong'
            WHEN list_has_all(coalesce(documents, []), gold_document_ids) THEN 'wrong, all evidence found'
            ELSE 'wrong, evidence missing'
        END AS ending
    FROM episodes
    LEFT JOIN found USING (run_id, iteration, split, episode_id)
)

SELECT
    run_id,
    split,
    iteration,
    ending,
    count(*) AS rollouts,
    count(*) / sum(count(*)) OVER (PARTITION BY run_id, split, iteration) AS share
FROM labelled
GROUP BY run_id, split, iteration, ending
ORDER BY run_id, split, iteration, rollouts DESC, ending;
