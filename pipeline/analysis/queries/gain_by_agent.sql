-- Which agent's turns move belief, at which of its turns, and what advantage did training give them?
-- Training turns. agent_turn_index counts the turns of this agent; mean_gain, se (its standard error), positive_share and belief are over
-- the turns that bear a gain (gain_turns), mean_advantage over all; token_share: of the run's decision tokens.
SELECT
    run_id,
    agent,
    agent_turn_index,
    count(*) AS turns,
    count(gain) AS gain_turns,
    avg(gain) AS mean_gain,
    stddev_samp(gain) / sqrt(count(gain)) AS se,
    avg(advantage) AS mean_advantage,
    avg((gain > 0)::INT) AS positive_share,
    avg(belief_after) AS mean_belief_after,
    sum(decision_tokens) / sum(sum(decision_tokens)) OVER (PARTITION BY run_id) AS token_share
FROM turns
WHERE split = 'train'
GROUP BY run_id, agent, agent_turn_index
ORDER BY run_id, agent, agent_turn_index;
