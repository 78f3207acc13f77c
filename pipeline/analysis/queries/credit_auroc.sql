-- Is credit deserved: does gain tell turns that retrieved gold evidence from turns that did not?
-- auroc: chance that a turn with new gold evidence has the larger gain (ties count half): 0.5 is no better than chance, 1 is perfect.
-- gain_gap: mean gain with gold evidence minus mean gain without.
WITH by_gain AS (
    SELECT
        run_id,
        gain,
        count(*) FILTER (WHERE gold_hit) AS hits,
        count(*) FILTER (WHERE NOT gold_hit) AS misses
    FROM turns
    WHERE gain IS NOT NULL AND gold_hit IS NOT NULL AND split = 'train'
    GROUP BY ALL
),

ranked AS (
    SELECT *, sum(misses) OVER (PARTITION BY run_id ORDER BY gain) - misses AS misses_below
    FROM by_gain
)

SELECT
    run_id,
    sum(hits)::BIGINT AS hit_turns,
    sum(misses)::BIGINT AS other_turns,
    sum(hits * (misses_below + misses / 2)) / nullif(sum(hits)::DOUBLE * sum(misses), 0) AS auroc,
    sum(gain * hits) / nullif(sum(hits), 0) AS mean_gain_hit,
    sum(gain * misses) / nullif(sum(misses), 0) AS mean_gain_other,
    mean_gain_hit - mean_gain_other AS gain_gap
FROM ranked
GROUP BY run_id
ORDER BY run_id;
