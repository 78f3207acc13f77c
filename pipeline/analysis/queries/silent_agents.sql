-- Which agents did not speak, and should they have?
-- Training rollouts, for every role of the experiment and every agent of the log. spoke_share 0: nobody reached it.
-- mean_first_turn: its first turn in the rollouts where it spoke, counted from 0 as `turn_index`. right_spoke, right_silent:
-- exact match of the rollouts with and without a turn of it; wrong_silent_share: of the wrong rollouts, those in which it never spoke.
WITH agents AS (
    SELECT DISTINCT run_id, agent FROM turns
    UNION
    SELECT run_id, unnest(config ->> '$.config.env_config.roles[*].name') AS agent FROM runs
),
spoken AS (
    SELECT run_id, iteration, episode_id, agent, min(turn_index) AS first_turn, count(*) AS turns
    FROM turns
    WHERE split = 'train'
    GROUP BY ALL
)
SELECT
    agents.run_id,
    agents.agent,
    count(*) AS rollouts,
    avg((first_turn IS NOT NULL)::INT) AS spoke_share,
    avg(first_turn) AS mean_first_turn,
    avg(spoken.turns) AS mean_turns,
    avg(em_squad) FILTER (WHERE first_turn IS NOT NULL) AS right_spoke,
    avg(em_squad) FILTER (WHERE first_turn IS NULL) AS right_silent,
    avg((first_turn IS NULL)::INT) FILTER (WHERE em_squad < 1) AS wrong_silent_share
FROM agents
JOIN episodes ON episodes.run_id = agents.run_id AND episodes.split = 'train'
LEFT JOIN spoken ON spoken.run_id = agents.run_id
    AND spoken.iteration = episodes.iteration
    AND spoken.episode_id = episodes.episode_id
    AND spoken.agent = agents.agent
GROUP BY ALL
ORDER BY ALL;
