-- How reliable and how fast is each tool?
SELECT
    run_id,
    tool,
    count(*) AS calls,
    count(error) AS errors,
    count(error) / count(*) AS error_share,
    mode(error) AS commonest_error,
    quantile_cont(seconds, 0.5) AS seconds_p50,
    quantile_cont(seconds, 0.95) AS seconds_p95,
    max(seconds) AS seconds_max
FROM tool_calls
GROUP BY ALL
ORDER BY ALL;
