-- How far are sampler and learner apart on the tokens that were sampled?
-- mean_gap weights each turn by its decision tokens; worst_turn_gap is the largest mean of one turn, in worst_episode.
SELECT
    run_id,
    iteration,
    sum(logp_gap_mean * decision_tokens) / nullif(sum(decision_tokens), 0) AS mean_gap,
    quantile_cont(logp_gap_mean, 0.99) AS turn_gap_p99,
    max(logp_gap_mean) AS worst_turn_gap,
    arg_max(episode_id, logp_gap_mean) AS worst_episode
FROM turns
WHERE logp_gap_mean IS NOT NULL
GROUP BY ALL
ORDER BY ALL;
