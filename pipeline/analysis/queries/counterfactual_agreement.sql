-- Which credit agrees with what a turn was worth, by agent?
-- First `igpo counterfactual RUN`. yardstick: worth `in the history` that belief is scored on, or `as told` to the answering role alone.
-- rank_correlation (Spearman's) of credit and worth, and auroc: chance that a turn worth more than 0 gets more than one that is not; 0.5 is
-- a coin. credit: the gain, the advantage as trained, and that of each `igpo recredit`.
WITH credit AS (
    SELECT run_id, iteration, episode_id, turn_index, 'gain' AS credit, gain AS value FROM turns WHERE split = 'train'
    UNION ALL
    SELECT run_id, iteration, episode_id, turn_index, 'advantage as trained' AS credit, advantage AS value
    FROM turns
    WHERE split = 'train'
    UNION ALL
    SELECT run_id, iteration, episode_id, turn_index, 'advantage under ' || estimator AS credit, advantage AS value
    FROM recredits
),
yardsticks AS (
    SELECT *, 'in the history' AS yardstick, worth AS yard FROM counterfactuals
    UNION ALL
    SELECT *, 'as told' AS yardstick, told_worth AS yard FROM counterfactuals
),
pairs AS (
    SELECT run_id, scored_by, agent, yardstick, credit, value, yard
    FROM yardsticks
    JOIN credit USING (run_id, iteration, episode_id, turn_index)
    WHERE value IS NOT NULL AND yard IS NOT NULL
),
ranked AS (
    SELECT
        *,
        rank() OVER (PARTITION BY run_id, scored_by, agent, yardstick, credit ORDER BY value)
        + (count(*) OVER (PARTITION BY run_id, scored_by, agent, yardstick, credit, value) - 1) / 2 AS value_rank,
        rank() OVER (PARTITION BY run_id, scored_by, agent, yardstick, credit ORDER BY yard)
        + (count(*) OVER (PARTITION BY run_id, scored_by, agent, yardstick, credit, yard) - 1) / 2 AS yard_rank
    FROM pairs
)
SELECT
    run_id,
    scored_by,
    agent,
    yardstick,
    credit,
    CASE WHEN max(value) > min(value) AND max(yard) > min(yard) THEN corr(value_rank, yard_rank) END AS rank_correlation,
    (sum(value_rank) FILTER (WHERE yard > 0) - count(*) FILTER (WHERE yard > 0) * (count(*) FILTER (WHERE yard > 0) + 1) / 2)
    / nullif(count(*) FILTER (WHERE yard > 0) * count(*) FILTER (WHERE yard <= 0), 0) AS auroc,
    count(*) AS turns,
    count(*) FILTER (WHERE yard > 0) AS worth_something,
    avg(yard) AS mean_worth,
    avg(value) AS mean_credit
FROM ranked
GROUP BY run_id, scored_by, agent, yardstick, credit
ORDER BY run_id, scored_by, agent, yardstick, credit;
