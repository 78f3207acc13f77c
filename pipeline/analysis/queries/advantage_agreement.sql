-- Does the sign of a turn's advantage agree with its evidence, and would the outcome alone have agreed as well?
-- agreement: share of gain-bearing turns with advantage > 0 where new gold evidence was retrieved and <= 0 where it was not.
-- outcome_agreement: the same for the sign of the rollout's outcome minus its group's mean, which is what GRPO would have paid.
-- Sums of gains that cancel and means of equal outcomes leave about 1e-16 of rounding, so what is within 1e-9 of 0 counts as 0.
-- Turns, episodes and groups are matched by 64-bit hashes of their identities, in half the time of matching the texts.
WITH group_means AS (
    SELECT hash(run_id, iteration, group_id) AS group_hash, outcome_mean
    FROM groups
    WHERE split = 'train'
),

judged AS (
    SELECT hash(run_id, iteration, episode_id) AS episode_hash, outcome > outcome_mean + 1e-9 AS better
    FROM episodes
    JOIN group_means ON group_hash = hash(run_id, iteration, group_id)
    WHERE split = 'train'
),

credited AS (
    SELECT run_id, iteration, gold_hit, advantage, hash(run_id, iteration, episode_id) AS episode_hash
    FROM turns
    WHERE split = 'train' AND gain IS NOT NULL AND gold_hit IS NOT NULL AND advantage IS NOT NULL
)

SELECT
    run_id,
    iteration,
    count(*) AS turns,
    avg((gold_hit = (advantage > 1e-9))::INT) AS agreement,
    avg((gold_hit = better)::INT) AS outcome_agreement,
    avg((advantage > 1e-9)::INT) FILTER (WHERE gold_hit) AS hits_rewarded,
    avg((advantage < -1e-9)::INT) FILTER (WHERE NOT gold_hit) AS others_punished
FROM credited
JOIN judged USING (episode_hash)
GROUP BY ALL
ORDER BY ALL;
