-- How do the answers get better over the iterations?
-- em_ci95: half width of the 95% interval of em_squad over questions (the rollouts of one question count as one observation).
WITH by_question AS (
    SELECT
        run_id, split, iteration, question_id,
        count(*) AS rollouts,
        avg(em_squad) AS em_squad,
        avg(f1_squad) AS f1_squad,
        avg(em_paper) AS em_paper,
        avg(f1_paper) AS f1_paper,
        avg(outcome) AS outcome
    FROM episodes
    GROUP BY ALL
)

SELECT
    run_id,
    split,
    iteration,
    count(*) AS questions,
    sum(rollouts)::BIGINT AS rollouts,
    avg(em_squad) AS em_squad,
    1.96 * stddev_samp(em_squad) / sqrt(count(*)) AS em_ci95,
    avg(f1_squad) AS f1_squad,
    avg(em_paper) AS em_paper,
    avg(f1_paper) AS f1_paper,
    avg(outcome) AS outcome
FROM by_question
GROUP BY ALL
ORDER BY ALL;
