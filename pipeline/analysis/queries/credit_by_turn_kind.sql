-- What credit do searches for gold documents and answers get, and in groups whose rollouts all scored the same?
-- A bridge is a search after the first that finds a new gold document, but not the last: it leads on to the next one.
-- First `igpo recredit RUN --preset NAME` for each estimator to compare; `as trained` is always there.
WITH hits AS (
    SELECT
        turns.*,
        episodes.outcome,
        count(*) FILTER (WHERE turns.action = 'tool') OVER rollout AS searches,
        coalesce(
            list_has_all(
                flatten(list(turns.document_ids) FILTER (WHERE turns.gold_hit) OVER rollout), gold_document_ids
            ),
            false
        ) AS has_all,
        max(episodes.outcome) OVER prompt > min(episodes.outcome) OVER prompt AS mixed
    FROM turns
    JOIN episodes USING (run_id, iteration, split, episode_id)
    WHERE turns.split = 'train' AND turns.advantage IS NOT NULL
    WINDOW
        rollout AS (PARTITION BY turns.run_id, turns.iteration, turns.episode_id ORDER BY turns.turn_index),
        prompt AS (PARTITION BY turns.run_id, turns.iteration, turns.group_id)
),
kinds AS (
    SELECT
        *,
        CASE
            WHEN action = 'tool' AND gold_hit IS NULL THEN 'search, evidence not known'
            WHEN action = 'tool' AND gold_hit AND has_all THEN 'evidence: the last gold document'
            WHEN action = 'tool' AND searches = 1 THEN 'first search'
            WHEN action = 'tool' AND gold_hit THEN 'bridge: a gold document before the last'
            WHEN action = 'tool' AND has_all THEN 'search after the evidence'
            WHEN action = 'tool' THEN 'search that found nothing new'
            WHEN action = 'answer' AND outcome > 0 THEN 'answer with some of the gold'
            WHEN action = 'answer' THEN 'wrong answer'
            ELSE action
        END AS kind
    FROM hits
),
credit AS (
    SELECT 'as trained' AS estimator, run_id, iteration, episode_id, turn_index, advantage FROM kinds
    UNION ALL
    SELECT estimator, run_id, iteration, episode_id, turn_index, advantage FROM recredits
)
SELECT
    kinds.run_id,
    credit.estimator,
    kinds.kind,
    avg(credit.advantage) FILTER (WHERE mixed) AS advantage_where_outcomes_differ,
    avg(credit.advantage) FILTER (WHERE NOT mixed) AS advantage_where_all_are_equal,
    avg((credit.advantage < -1e-9)::INT) AS negative_share,
    count(*) AS turns
FROM kinds
JOIN credit USING (run_id, iteration, episode_id, turn_index)
GROUP BY ALL
ORDER BY ALL;
