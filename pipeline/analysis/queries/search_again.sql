-- Which way does each estimator push the decision to search at a turn, against the group's other rollouts there?
-- `push` is the sum of advantage times (searched - share of the group that searched), with the advantages of an
-- iteration scaled to a root mean square of 1: positive makes a search more likely, as the policy gradient does.
-- turn counts the agent's own. Agents that never search are left out.
WITH decisions AS (
    SELECT
        run_id,
        iteration,
        episode_id,
        turn_index,
        agent,
        agent_turn_index,
        advantage,
        (action = 'tool')::INT AS searched,
        avg((action = 'tool')::INT) OVER (
            PARTITION BY run_id, iteration, group_id, agent, agent_turn_index
        ) AS share,
        bool_or(action = 'tool') OVER (PARTITION BY run_id, agent) AS searches
    FROM turns
    WHERE split = 'train' AND advantage IS NOT NULL
),
credit AS (
    SELECT 'as trained' AS estimator, run_id, iteration, episode_id, turn_index, advantage FROM decisions
    UNION ALL
    SELECT estimator, run_id, iteration, episode_id, turn_index, advantage FROM recredits
),
scaled AS (
    SELECT
        *,
        advantage / nullif(sqrt(avg(advantage ** 2) OVER (PARTITION BY estimator, run_id, iteration)), 0) AS unit
    FROM credit
)
SELECT
    run_id,
    iteration,
    agent,
    agent_turn_index AS turn,
    estimator,
    sum(unit * (searched - share)) AS push,
    count(*) AS rollouts,
    sum(searched)::INT AS searched,
    avg(scaled.advantage) FILTER (WHERE searched = 1) AS advantage_of_searching,
    avg(scaled.advantage) FILTER (WHERE searched = 0) AS advantage_of_not
FROM decisions
JOIN scaled USING (run_id, iteration, episode_id, turn_index)
WHERE searches
GROUP BY ALL
ORDER BY ALL;
