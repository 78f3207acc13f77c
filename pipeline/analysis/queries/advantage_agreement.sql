-- Does the sign of a turn's advantage agree with its evidence, and would the outcome alone have agreed as well?
-- agreement: share of gain-bearing turns with advantage > 0 where new gold evidence was retrieved and <= 0 where it was not.
-- outcome_agreement: the same for the sign of the rollout's outcome minus its group's mean, which is what GRPO would have paid.
SELECT
    turns.run_id,
    turns.iteration,
    count(*) AS turns,
    avg((turns.gold_hit = (turns.advantage > 0))::INT) AS agreement,
    avg((turns.gold_hit = (episodes.outcome > groups.outcome_mean))::INT) AS outcome_agreement,
    avg((turns.advantage > 0)::INT) FILTER (WHERE turns.gold_hit) AS hits_rewarded,
    avg((turns.advantage < 0)::INT) FILTER (WHERE NOT turns.gold_hit) AS others_punished
FROM turns
JOIN episodes USING (run_id, iteration, split, episode_id)
JOIN groups ON
    groups.run_id = turns.run_id AND groups.iteration = turns.iteration
    AND groups.split = turns.split AND groups.group_id = turns.group_id
WHERE turns.gain IS NOT NULL AND turns.gold_hit IS NOT NULL AND turns.advantage IS NOT NULL
GROUP BY ALL
ORDER BY ALL;
