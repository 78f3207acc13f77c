-- Which queries earned the most gain and which lost the most?
-- The ten queries with the largest and the ten with the smallest total gain per run, letter case ignored.
WITH by_query AS (
    SELECT
        run_id,
        lower(trim(query)) AS query,
        count(*) AS uses,
        sum(gain) AS total_gain,
        avg(gain) AS mean_gain,
        avg(gold_hit::INT) AS gold_hit_share
    FROM turns
    WHERE query IS NOT NULL AND gain IS NOT NULL AND split = 'train'
    GROUP BY ALL
),

ranked AS (
    SELECT
        *,
        row_number() OVER (PARTITION BY run_id ORDER BY total_gain DESC, query) AS from_top,
        row_number() OVER (PARTITION BY run_id ORDER BY total_gain, query) AS from_bottom
    FROM by_query
)

SELECT run_id, query, uses, total_gain, mean_gain, gold_hit_share
FROM ranked
WHERE from_top <= 10 OR from_bottom <= 10
ORDER BY run_id, total_gain DESC, query;
