-- Which agents talk without moving belief?
-- Training turns with a gain. still: belief moved by less than 0.01; falling: it fell by more. token_share: of the run's decision tokens, what
-- the still turns took. A still message may pass on what belief already knew: belief also sees the documents that only its writer read.
SELECT
    run_id,
    agent,
    action,
    count(*) AS turns,
    count(*) FILTER (WHERE abs(belief_after - belief_before) < 0.01) AS still_turns,
    still_turns / count(*) AS still_share,
    avg((belief_after < belief_before - 0.01)::INT) AS falling_share,
    avg(belief_after - belief_before) AS mean_belief_moved,
    sum(decision_tokens) FILTER (WHERE abs(belief_after - belief_before) < 0.01)
    / (SELECT sum(decision_tokens) FROM turns AS every WHERE every.run_id = turns.run_id AND every.split = 'train') AS token_share
FROM turns
WHERE gain IS NOT NULL AND split = 'train'
GROUP BY run_id, agent, action
ORDER BY run_id, agent, action;
