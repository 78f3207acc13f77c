-- What goes wrong with the format, by kind?
-- share: of all turns of the iteration. kind: the parser's message, or `cut off` where a turn ran out of tokens.
WITH all_turns AS (
    SELECT
        run_id,
        split,
        iteration,
        action,
        CASE WHEN action = 'cut_off' THEN 'cut off' ELSE coalesce(parse_error, 'malformed') END AS kind,
        count(*) OVER (PARTITION BY run_id, split, iteration) AS turns,
        is_final
    FROM turns
)

SELECT
    run_id,
    split,
    iteration,
    kind,
    count(*) AS failures,
    count(*) / any_value(turns) AS share,
    count(*) FILTER (WHERE is_final) AS ended_the_rollout
FROM all_turns
WHERE action IN ('malformed', 'cut_off')
GROUP BY ALL
ORDER BY run_id, split, iteration, failures DESC, kind;
