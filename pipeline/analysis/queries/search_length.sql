-- Do rollouts drift towards too many or too few searches?
-- over_searching: share with more tool calls than hops. under_searching: share that answered with fewer.
-- Both only over questions whose hops are known.
SELECT
    run_id,
    split,
    iteration,
    count(*) AS rollouts,
    avg(turns) AS mean_turns,
    avg(turns) FILTER (WHERE em_squad = 1) AS mean_turns_right,
    avg(turns) FILTER (WHERE em_squad < 1) AS mean_turns_wrong,
    sum(decision_tokens) / nullif(sum(turns), 0) AS tokens_per_turn,
    avg((tool_calls > hops)::INT) AS over_searching,
    avg((termination = 'answered' AND tool_calls < hops)::INT) FILTER (WHERE hops IS NOT NULL) AS under_searching
FROM episodes
GROUP BY ALL
ORDER BY ALL;
