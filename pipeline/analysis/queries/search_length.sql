-- Do rollouts drift towards too many or too few searches?
-- over_searching: share with more searches than hops. under_searching: share that answered with less new gold evidence than hops.
-- Both only over questions whose hops are known.
WITH searches AS (
    SELECT
        run_id, iteration, split, episode_id,
        count(query) AS searches,
        count(*) FILTER (WHERE gold_hit) AS hits
    FROM turns
    GROUP BY ALL
)

SELECT
    run_id,
    split,
    iteration,
    count(*) AS rollouts,
    avg(turns) AS mean_turns,
    avg(turns) FILTER (WHERE em_squad = 1) AS mean_turns_right,
    avg(turns) FILTER (WHERE em_squad < 1) AS mean_turns_wrong,
    sum(decision_tokens) / nullif(sum(turns), 0) AS tokens_per_turn,
    avg((searches > hops)::INT) AS over_searching,
    avg((termination = 'answered' AND hits < hops)::INT) FILTER (WHERE hops IS NOT NULL) AS under_searching
FROM episodes
LEFT JOIN searches USING (run_id, iteration, split, episode_id)
GROUP BY ALL
ORDER BY ALL;
