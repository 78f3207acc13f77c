-- Which sign of a coming collapse appeared, at which iteration, and what usually helps?
-- now: mean of the last 3 iterations. before: the same of the run's first 3; of turns and EM, the most so far; of KL, 5 iterations ago.
-- A row where a sign appears, none while it lasts.
-- `fell` is the collapse itself: the mean EM of 5 iterations is below half of its best so far, which was 0.1 or more (docs/collapse.md).
WITH written AS (
    -- Logs whose metrics lack `duplicate_share`: what each rollout wrote.
    SELECT run_id, iteration, group_id, episode_id, string_agg(decision_text, chr(31) ORDER BY turn_index) AS decisions
    FROM turns
    WHERE split = 'train'
    GROUP BY ALL
),

duplicates AS (
    SELECT run_id, iteration, 1 - count(DISTINCT (group_id, decisions)) / count(*) AS share
    FROM written
    GROUP BY ALL
),

measured AS (
    SELECT
        run_id,
        iteration,
        row_number() OVER (PARTITION BY run_id ORDER BY iteration) AS n,
        coalesce(metrics['em_sampled'], metrics['em']) AS em,
        1 - metrics['answered_share'] AS unanswered,
        coalesce(metrics['malformed_share'], 0) AS malformed,
        metrics['turns_mean'] AS turns,
        metrics['tokens_sampled'] / nullif(metrics['rollouts_sampled'] * metrics['turns_mean'], 0) AS length,
        metrics['entropy'] AS entropy,
        metrics['kl'] AS kl,
        metrics['logp_gap_mean'] AS gap,
        coalesce(metrics['collapse_share_or_faint'], metrics['collapse_share']) AS silent,
        coalesce(metrics['duplicate_share'], duplicates.share) AS duplicate
    FROM iterations
    LEFT JOIN duplicates USING (run_id, iteration)
    WHERE split = 'train'
),

-- Means of the last 3 iterations; those of the first 3 are where n = 3.
smooth AS (
    SELECT
        run_id,
        iteration,
        n,
        avg(COLUMNS(* EXCLUDE (run_id, iteration, n))) OVER (PARTITION BY run_id ORDER BY n ROWS 2 PRECEDING),
        CASE WHEN n >= 5 THEN avg(em) OVER (PARTITION BY run_id ORDER BY n ROWS 4 PRECEDING) END AS em_of_5
    FROM measured
),

compared AS (
    SELECT
        now.*,
        first.unanswered AS unanswered_0,
        first.length AS length_0,
        first.entropy AS entropy_0,
        first.gap AS gap_0,
        first.silent AS silent_0,
        first.duplicate AS duplicate_0,
        max(now.em_of_5) OVER past AS em_best,
        max(now.em) OVER past AS em_of_3_best,
        max(now.turns) OVER past AS turns_best,
        -- EM has not risen for 5 iterations.
        now.em <= coalesce(lag(now.em, 5) OVER run, first.em) AS stands,
        lag(now.kl, 5) OVER run AS kl_5
    FROM smooth AS now
    JOIN smooth AS first ON first.run_id = now.run_id AND first.n = 3
    WHERE now.n >= 3
    WINDOW
        run AS (PARTITION BY now.run_id ORDER BY now.n),
        past AS (PARTITION BY now.run_id ORDER BY now.n ROWS UNBOUNDED PRECEDING)
),

signs AS (
    SELECT run_id, iteration, n, unnest([
        {
            'sign': 'malformed', 'now': unanswered, 'before': unanswered_0, 'digits': 2,
            'holds': stands AND unanswered > unanswered_0 + 0.1 AND malformed >= unanswered / 2,
            'what': 'share of rollouts without an answer, most of them malformed',
            'remedy': 'lower `lr`; raise `kl_coeff`; `igpo warm-start` teaches the format first'
        },
        {
            'sign': 'truncated', 'now': unanswered, 'before': unanswered_0, 'digits': 2,
            'holds': stands AND unanswered > unanswered_0 + 0.3 AND malformed < unanswered / 2,
            'what': 'share of rollouts without an answer, most of them out of turns or tokens',
            'remedy': 'make `env_config.truncation_penalty` negative; lower `ig_weight`, which pays for searching on; raise `env_config.max_turns`'
        },
        {
            'sign': 'entropy falls', 'now': entropy, 'before': entropy_0, 'digits': 3,
            'holds': stands AND entropy < entropy_0 / 5,
            'what': 'entropy, nats a token',
            'remedy': 'lower `lr`; raise `entropy_coeff` or `kl_coeff`'
        },
        {
            'sign': 'entropy rises', 'now': entropy, 'before': entropy_0, 'digits': 3,
            'holds': stands AND entropy > 1.5 * entropy_0 + 0.1,
            'what': 'entropy, nats a token',
            'remedy': 'lower `lr` and `entropy_coeff`; raise `kl_coeff`'
        },
        {
            'sign': 'fewer turns', 'now': turns, 'before': turns_best, 'digits': 2,
            'holds': stands AND turns < 0.8 * turns_best,
            'what': 'turns a rollout',
            'remedy': 'lower `lr`; raise `outcome_weight` against `ig_weight`, since gains alone pay no answer'
        },
        {
            'sign': 'longer turns', 'now': length, 'before': length_0, 'digits': 1,
            'holds': stands AND length > 1.5 * length_0,
            'what': 'tokens written a turn',
            'remedy': 'lower `lr`; lower `env_config.max_turn_tokens`; raise `kl_coeff`'
        },
        {
            'sign': 'shorter turns', 'now': length, 'before': length_0, 'digits': 1,
            'holds': stands AND length < 0.6 * length_0,
            'what': 'tokens written a turn',
            'remedy': 'lower `lr`; raise `kl_coeff`'
        },
        {
            'sign': 'identical rollouts', 'now': duplicate, 'before': duplicate_0, 'digits': 2,
            'holds': stands AND duplicate > 0.85 AND em < 0.5,
            'what': 'share of rollouts that repeat another of their group',
            'remedy': 'lower `lr`; raise `entropy_coeff`'
        },
        {
            'sign': 'no signal', 'now': silent, 'before': silent_0, 'digits': 2,
            'holds': stands AND silent > 0.8 AND em < 0.5,
            'what': 'share of groups that teach nothing',
            'remedy': 'raise `group_size`; leave out questions that are always or never answered (`env_config.question_filter`)'
        },
        {
            'sign': 'gap', 'now': gap, 'before': gap_0, 'digits': 5,
            'holds': gap > 10 * gap_0 AND gap > 0.02,
            'what': 'sampler-learner gap, nats a token',
            'remedy': 'set `max_weight_lag` to 0; keep `mismatch_cap` above 0; set `model_dtype` to float32'
        },
        {
            'sign': 'KL', 'now': kl, 'before': kl_5, 'digits': 3,
            'holds': stands AND CASE WHEN kl_5 IS NULL THEN kl > 1 ELSE kl > 0.5 AND kl > 3 * kl_5 END,
            'what': 'KL to the reference, nats a token',
            'remedy': 'lower `lr`; raise `kl_coeff`'
        },
        {
            'sign': 'EM falls', 'now': em, 'before': em_of_3_best, 'digits': 3,
            'holds': em < 0.7 * em_of_3_best AND em_of_3_best >= 0.1,
            'what': 'mean EM of 3 iterations',
            'remedy': 'lower `lr`; go back to the best checkpoint (`restore`) if it goes on'
        },
        {
            'sign': 'fell', 'now': em_of_5, 'before': em_best, 'digits': 3,
            'holds': em_of_5 < em_best / 2 AND em_best >= 0.1,
            'what': 'mean EM of 5 iterations',
            'remedy': 'start again from the best checkpoint (`restore`) with a lower `lr`'
        }
    ], recursive := true)
    FROM compared
),

told AS (
    -- KL begins at 0, so it needs no beginning of the run to compare with.
    SELECT *, coalesce(holds, false) AND (n >= 6 OR sign = 'KL') AS is_told
    FROM signs
),

begun AS (
    SELECT *, is_told AND NOT coalesce(lag(is_told) OVER (PARTITION BY run_id, sign ORDER BY n), false) AS begins
    FROM told
),

lengths AS (
    SELECT run_id, max(iteration) AS iteration, count(*) AS iterations FROM measured GROUP BY run_id
)

SELECT
    run_id,
    iteration,
    sign,
    now,
    before,
    format(
        '{}: {} {} (before: {}). What usually helps: {}',
        sign, what, round(now, digits), coalesce(round(before, digits)::TEXT, 'not known'), remedy
    ) AS warning
FROM begun
WHERE begins
UNION ALL
SELECT
    run_id,
    iteration,
    CASE WHEN iterations < 6 THEN 'too short' ELSE 'none' END,
    NULL,
    NULL,
    CASE
        WHEN iterations < 6 THEN format('{} iterations: a run is compared with its own first 3, so a warning needs 6', iterations)
        ELSE format('no sign of a collapse in {} iterations', iterations)
    END
FROM lengths
WHERE run_id NOT IN (SELECT run_id FROM begun WHERE begins)
ORDER BY ALL;
