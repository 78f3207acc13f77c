-- Which messages lost the evidence: a gold answer stood in the documents that their writer had read, and not in what it wrote?
-- Documents: what tools returned to this agent since its last message. A gold answer is found as whole words in any case, where a
-- script has no blanks (Chinese, Japanese, Thai, ...) as characters in a row. kept, lost: of the
-- messages after such documents; right_kept, right_lost: exact match of their rollouts; worst_episode: the lost one whose gain was lowest.
WITH ordered AS (
    SELECT
        turns.*,
        lead(agent) OVER rollout AS reader,
        max(turn_index) FILTER (WHERE action = 'message') OVER (
            PARTITION BY run_id, iteration, split, episode_id, agent ORDER BY turn_index
            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        ) AS last_message
    FROM turns
    WHERE split = 'train'
    WINDOW rollout AS (PARTITION BY run_id, iteration, split, episode_id ORDER BY turn_index)
),
messages AS (
    SELECT
        message.run_id,
        message.iteration,
        message.split,
        message.episode_id,
        message.turn_index,
        message.agent,
        message.gain,
        any_value(' ' || regexp_replace(
            regexp_replace(lower(message.decision_text), '([\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}])', ' \1 ', 'g'),
            '[^\p{L}\p{N}]+', ' ', 'g'
        ) || ' ') AS written,
        ' ' || regexp_replace(
            regexp_replace(lower(string_agg(found.observation_text, ' ')), '([\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}])', ' \1 ', 'g'),
            '[^\p{L}\p{N}]+', ' ', 'g'
        ) || ' ' AS read
    FROM ordered AS message
    JOIN ordered AS found ON found.run_id = message.run_id
        AND found.iteration = message.iteration
        AND found.episode_id = message.episode_id
        AND found.action = 'tool'
        AND found.reader = message.agent
        AND found.turn_index < message.turn_index
        AND found.turn_index > coalesce(message.last_message, -1)
    WHERE message.action = 'message'
    GROUP BY ALL
),
judged AS (
    SELECT
        messages.*,
        episodes.em_squad = 1 AS is_right,
        list_transform(
            golds,
            lambda gold: ' ' || trim(regexp_replace(
                regexp_replace(lower(gold), '([\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}])', ' \1 ', 'g'),
                '[^\p{L}\p{N}]+', ' ', 'g'
            )) || ' '
        ) AS words_K,
        len(list_filter(words_K, lambda words: contains(read, words))) > 0 AS had,
        had AND len(list_filter(words_K, lambda words: contains(written, words))) = 0 AS lost
    FROM messages
    JOIN episodes USING (run_id, iteration, split, episode_id)
)
SELECT
    run_id,
    agent,
    count(*) AS messages,
    count(*) FILTER (WHERE had AND NOT lost) AS kept,
    count(*) FILTER (WHERE lost) AS lost,
    avg(lost::INT) FILTER (WHERE had) AS lost_share,
    avg(gain) FILTER (WHERE had AND NOT lost) AS mean_gain_kept,
    avg(gain) FILTER (WHERE lost) AS mean_gain_lost,
    avg(is_right::INT) FILTER (WHERE had AND NOT lost) AS right_kept,
    avg(is_right::INT) FILTER (WHERE lost) AS right_lost,
    arg_min(episode_id, gain) FILTER (WHERE lost) AS worst_episode
FROM judged
GROUP BY run_id, agent
ORDER BY run_id, agent;
