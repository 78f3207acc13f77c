-- How often does a rollout ask the same thing again, and does asking again pay?
-- repeated: the same query earlier in the rollout, letter case ignored. reformulated: not the same as, but close to, the query before
-- (Jaro-Winkler similarity of at least 0.9).
WITH asked AS (
    SELECT
        run_id,
        iteration,
        gain,
        lower(trim(query)) AS query,
        row_number() OVER (episode_query ORDER BY turn_index) > 1 AS repeated,
        lag(lower(trim(query))) OVER (episode ORDER BY turn_index) AS previous
    FROM turns
    WHERE query IS NOT NULL AND split = 'train'
    WINDOW
        episode AS (PARTITION BY run_id, iteration, episode_id),
        episode_query AS (PARTITION BY run_id, iteration, episode_id, lower(trim(query)))
),

labelled AS (
    SELECT
        *,
        coalesce(NOT repeated AND jaro_winkler_similarity(query, previous) >= 0.9, false) AS reformulated
    FROM asked
)

SELECT
    run_id,
    iteration,
    count(*) AS queries,
    avg(repeated::INT) AS repeated_share,
    avg(reformulated::INT) AS reformulated_share,
    avg(gain) FILTER (WHERE repeated) AS gain_repeated,
    avg(gain) FILTER (WHERE reformulated) AS gain_reformulated,
    avg(gain) FILTER (WHERE NOT repeated AND NOT reformulated) AS gain_new
FROM labelled
GROUP BY ALL
ORDER BY ALL;
