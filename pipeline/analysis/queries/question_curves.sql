-- How does each question fare each time it is met?
-- mean_gain: over the gain-bearing turns of its rollouts, where gains were credited.
WITH gains AS (
    SELECT run_id, split, iteration, question_id, avg(gain) AS mean_gain
    FROM turns
    GROUP BY ALL
)

SELECT
    run_id,
    split,
    question_id,
    iteration,
    count(*) AS rollouts,
    avg(em_squad) AS em_squad,
    avg(f1_squad) AS f1_squad,
    avg(outcome) AS outcome,
    any_value(gains.mean_gain) AS mean_gain
FROM episodes
LEFT JOIN gains USING (run_id, split, iteration, question_id)
GROUP BY ALL
ORDER BY ALL;
