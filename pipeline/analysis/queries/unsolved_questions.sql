-- Which questions were tried and never solved?
-- best_f1 says how near an answer came; best_belief, how much the policy ever believed in the gold answer.
SELECT
    run_id,
    split,
    question_id,
    any_value(question) AS question,
    any_value(golds) AS golds,
    any_value(hops) AS hops,
    count(*) AS rollouts,
    count(DISTINCT iteration) AS times_met,
    max(f1_squad) AS best_f1,
    max(belief_final) AS best_belief,
    mode(answer) AS commonest_answer
FROM episodes
GROUP BY run_id, split, question_id
HAVING max(em_squad) < 1
ORDER BY rollouts DESC, run_id, split, question_id;
