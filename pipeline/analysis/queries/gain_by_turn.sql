-- Which turn of a rollout moves belief, and what advantage did training give it?
-- se: standard error of mean_gain. The final turn bears no gain and is left out. Advantages of a group's first turns cancel where
-- gamma is 1 and gains are z-scored, so that their mean is about 0.
SELECT
    run_id,
    turn_index,
    count(*) AS turns,
    avg(gain) AS mean_gain,
    stddev_samp(gain) / sqrt(count(*)) AS se,
    avg(advantage) AS mean_advantage,
    avg((gain > 0)::INT) AS positive_share,
    avg(gold_hit::INT) AS gold_hit_share,
    avg(belief_after) AS mean_belief_after,
    avg(normalised_gain) AS mean_normalised_gain
FROM turns
WHERE gain IS NOT NULL
GROUP BY ALL
ORDER BY ALL;
