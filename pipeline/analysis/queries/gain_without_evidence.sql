-- How much gain is earned though nothing relevant was retrieved (template sharpening, or leakage)?
-- unearned_share: share of all positive gain that turns without new gold evidence took.
SELECT
    run_id,
    iteration,
    count(*) FILTER (WHERE NOT gold_hit) AS turns_without_evidence,
    avg((gain > 0)::INT) FILTER (WHERE NOT gold_hit) AS rising_share,
    avg(gain) FILTER (WHERE NOT gold_hit) AS mean_gain,
    coalesce(sum(gain) FILTER (WHERE gain > 0 AND NOT gold_hit), 0) / nullif(sum(gain) FILTER (WHERE gain > 0), 0) AS unearned_share
FROM turns
WHERE gain IS NOT NULL AND gold_hit IS NOT NULL AND split = 'train'
GROUP BY ALL
ORDER BY ALL;
