-- How often does a group give no learning signal under the outcome alone, and how much of that does information gain rescue?
-- collapsed_or_faint: counts groups that learn from noise as collapsed. collapsed_or_identical: counts groups whose rollouts are equal token for token.
-- rescued: share of groups that collapsed under the outcome and not as trained, noise counted as none (gains that spread by at least 1e-3); 0 where the
-- estimator takes no gains.
SELECT
    run_id,
    iteration,
    count(*) AS groups,
    avg(collapsed_outcome::INT) AS collapsed_outcome,
    avg(collapsed::INT) AS collapsed,
    avg(collapsed_or_faint::INT) AS collapsed_or_faint,
    avg((collapsed_outcome AND NOT collapsed_or_faint)::INT) AS rescued,
    avg(collapsed_or_identical::INT) AS collapsed_or_identical
FROM groups
WHERE split = 'train'
GROUP BY ALL
ORDER BY ALL;
