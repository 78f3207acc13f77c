-- Is credit deserved at each depth: does gain tell gold evidence from the rest on questions of 1, 2, 3 ... hops?
-- Columns as in credit_auroc.
WITH by_gain AS (
    SELECT
        turns.run_id,
        episodes.hops,
        turns.gain,
        count(*) FILTER (WHERE turns.gold_hit) AS hits,
        count(*) FILTER (WHERE NOT turns.gold_hit) AS misses
    FROM turns
    JOIN episodes USING (run_id, iteration, split, episode_id)
    WHERE turns.gain IS NOT NULL AND turns.gold_hit IS NOT NULL AND episodes.hops IS NOT NULL AND turns.split = 'train'
    GROUP BY ALL
),

ranked AS (
    SELECT *, sum(misses) OVER (PARTITION BY run_id, hops ORDER BY gain) - misses AS misses_below
    FROM by_gain
)

SELECT
    run_id,
    hops,
    sum(hits)::BIGINT AS hit_turns,
    sum(misses)::BIGINT AS other_turns,
    sum(hits * (misses_below + misses / 2)) / nullif(sum(hits)::DOUBLE * sum(misses), 0) AS auroc,
    sum(gain * hits) / nullif(sum(hits), 0) AS mean_gain_hit,
    sum(gain * misses) / nullif(sum(misses), 0) AS mean_gain_other,
    mean_gain_hit - mean_gain_other AS gain_gap
FROM ranked
GROUP BY run_id, hops
ORDER BY run_id, hops;
