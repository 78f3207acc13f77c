-- Who earns gain: by agent, by tool, and by how the rollout ended?
-- outcome: right (em_squad is 1), wrong (answered, but not right), or the reason why there was no answer.
WITH labelled AS (
    SELECT
        turns.run_id,
        turns.agent,
        coalesce(turns.tool, 'no tool') AS tool,
        CASE
            WHEN episodes.em_squad = 1 THEN 'right'
            WHEN episodes.termination = 'answered' THEN 'wrong'
            ELSE episodes.termination
        END AS outcome,
        turns.gain,
        turns.gold_hit,
        turns.advantage
    FROM turns
    JOIN episodes USING (run_id, iteration, split, episode_id)
    WHERE turns.gain IS NOT NULL
)

SELECT
    run_id,
    CASE WHEN grouping(agent) = 0 THEN 'agent' WHEN grouping(tool) = 0 THEN 'tool' ELSE 'outcome' END AS part,
    coalesce(agent, tool, outcome) AS value,
    count(*) AS turns,
    avg(gain) AS mean_gain,
    avg((gain > 0)::INT) AS positive_share,
    avg(gold_hit::INT) AS gold_hit_share,
    avg(advantage) AS mean_advantage
FROM labelled
GROUP BY GROUPING SETS ((run_id, agent), (run_id, tool), (run_id, outcome))
ORDER BY run_id, part, value;
