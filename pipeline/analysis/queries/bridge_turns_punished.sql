-- How often is a right turn punished: gold evidence retrieved, and belief in the answer fell?
-- Expect it early in multi-hop questions, where the first document does not hold the answer. worst_episode: where it was largest.
SELECT
    turns.run_id,
    episodes.hops,
    turns.turn_index,
    count(*) AS hit_turns,
    count(*) FILTER (WHERE turns.gain < 0) AS punished,
    avg((turns.gain < 0)::INT) AS punished_share,
    avg((turns.advantage < -1e-9)::INT) AS negative_advantage_share,
    min(turns.gain) AS worst_gain,
    arg_min(turns.episode_id, turns.gain) AS worst_episode
FROM turns
JOIN episodes USING (run_id, iteration, split, episode_id)
WHERE turns.gold_hit AND turns.gain IS NOT NULL
GROUP BY ALL
ORDER BY ALL;
