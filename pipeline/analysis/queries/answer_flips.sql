-- Which held-out answers change between evaluations, and in which direction?
-- A question counts as right where at least half of its rollouts are (em_squad). Compared with the evaluation before.
WITH judged AS (
    SELECT run_id, question_id, iteration, avg(em_squad) >= 0.5 AS is_right, mode(answer) AS answer
    FROM episodes
    WHERE split = 'heldout'
    GROUP BY ALL
),

compared AS (
    SELECT
        *,
        lag(is_right) OVER question AS was_right,
        lag(answer) OVER question AS answer_before
    FROM judged
    WINDOW question AS (PARTITION BY run_id, question_id ORDER BY iteration)
)

SELECT
    run_id,
    iteration,
    count(*) AS questions,
    count(*) FILTER (WHERE answer IS DISTINCT FROM answer_before) AS answers_changed,
    count(*) FILTER (WHERE is_right AND NOT was_right) AS wrong_to_right,
    count(*) FILTER (WHERE was_right AND NOT is_right) AS right_to_wrong
FROM compared
WHERE was_right IS NOT NULL
GROUP BY ALL
ORDER BY ALL;
