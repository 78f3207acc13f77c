"""`max_weight_lag` 1 end to end: weights and log-probs are those of plain torch code (`plain_update`)."""

import pytest
import torch
from plain_update import PlainLoss, decision_logp, plain_policy, plain_update, sequences_of

from algorithms.igpo.config import IGPOConfig
from envs.engine.models import resolve_model

LR = 1e-3


def trained(preset):
    """A run of three iterations on the smallest world; yields its record and the weights after each."""
    config = (
        IGPOConfig()
        .environment(
            "search", env_config={"world": {"train_questions": 40, "heldout_questions": 5}, "max_turns": 3}
        )
        .training(
            model_path="tiny",
            preset=preset,
            lr=LR,
            grad_clip=1.0,
            prompts_per_iteration=3,
            group_size=4,
            num_epochs=1,
            num_minibatches=1,
            loss={"kl_coeff": 0.1},
            engine={"kind": "transformers"},
            max_weight_lag=1,
            log_tokens=True,
        )
        .env_runners(num_env_runners=1)
    )
    algorithm = config.build_algo()
    try:
        for _ in range(3):
            lag = algorithm.train()["igpo"]["weight_lag"]
            state = algorithm.learner_group.get_state(components="learner/rl_module")
            yield algorithm.records[0], lag, state["learner"]["rl_module"]["default_policy"]
    finally:
        algorithm.stop()


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["igpo", "gspo"])
def test_the_weight_is_the_learner_s_over_the_stale_sampler_s(preset):
    """pi_old is the learner's at the start of the update, pi_sampler that of weights one update older."""
    import ray

    folder = resolve_model("tiny")
    policy, reference = plain_policy(folder, lr=LR), plain_policy(folder, train=False)
    level = {"ratio_level": "sequence", "clip_low": 3e-4, "clip_high": 4e-4} if preset == "gspo" else {}
    loss = PlainLoss(kl_coeff=0.1, **level)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        versions, lags, stale = [plain_policy(folder, train=False)], [], 0.0
        for record, lag, state in trained(preset):

            def steps(rollout, agent, tokens=record.tokens):
                turns = [tokens[rollout.id, turn.index] for turn in rollout.turns if turn.agent == agent]
                return [(t.context_ids_C, t.decision_ids_L, t.sampler_logp_L) for t in turns]

            sequences = sequences_of(record.rollouts, steps, with_gains=preset == "igpo")
            sampled_by = versions[record.weights_version]
            for rows in sequences:
                for row in rows:
                    sampler = torch.tensor([value for step in row for value in step.sampler_logp])
                    with torch.no_grad():
                        of_version, now = decision_logp(sampled_by, row), decision_logp(policy, row)
                    torch.testing.assert_close(sampler.double(), of_version, atol=1e-4, rtol=0)
                    stale = max(stale, (now - sampler).abs().max().item())
            plain_update(policy, reference, sequences, loss)
            lags.append((record.weights_version, lag))
            for name, expected in policy.params.items():
                got = torch.from_numpy(state[name]).double()
                # AdamW's eps is 1e-8: where gradients are smaller, their rounding decides a part of the step.
                clear = policy.optimizer.state[expected]["exp_avg_sq"].sqrt() > 1e-8
                distance = (got - expected.detach()).abs()
                assert distance[clear].max() < 0.05 * LR and distance.max() < 2 * LR * len(lags), name
                assert clear.float().mean() > 0.5, name
            versions.append(plain_policy(folder, train=False, weights=policy.params))
        assert lags == [(0, 0.0), (0, 1.0), (1, 1.0)] and stale > 0.05
    finally:
        ray.shutdown()
