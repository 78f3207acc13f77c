"""IGPO on one page: rolls out two groups, scores belief, computes gains, advantages and loss, takes one step.

    python docs/walkthrough.py        # seconds on a CPU; no Ray cluster, no vLLM, no download

Each section calls the function that training calls and names the module that holds it. The definitions are
in docs/definitions.md, the letters that array names end in (`advantage_D`: one entry per decision token) in
docs/notation.md. Training does the same with Ray's env runners and learners (`algorithms/igpo/algorithm.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from transformers.utils.logging import disable_progress_bar

from algorithms.credit import (
    TurnBatch,
    assign_credit,
    beliefs_from_scores,
    gains_from_scores,
    get_preset,
    reduce_aliases,
)
from algorithms.igpo.belief.naive import NaiveScorer
from algorithms.igpo.learner.loss import aggregation_weight, policy_loss
from algorithms.igpo.loss_settings import LossSettings
from algorithms.igpo.model.causal_lm import load_causal_lm
from algorithms.igpo.model.token_logp import token_logp
from envs.engine.base import EngineSettings
from envs.engine.models import resolve_model
from envs.engine.transformers import TransformersEngine
from envs.runner.belief import BeliefQuery
from envs.runner.episode_record import EpisodeRecord
from envs.runner.job import RolloutJob
from envs.runner.rollout_loop import RolloutLoop
from envs.search.config import SearchEnvSettings
from envs.search.task import SearchTask

GROUP_SIZE, QUESTIONS, SEED, LR = 6, (1, 2), 0, 2e-4


@dataclass
class Tokens:
    """The L tokens of one rollout, as the policy saw (C) and wrote (D) them, turn by turn."""

    ids_L: np.ndarray
    turn_L: np.ndarray
    """Index of the turn that a token was written in; -1 for the prompt and observations."""
    sampler_logp_L: np.ndarray
    """Log-prob that the engine returned; 0 where `turn_L` is -1."""
    starts_T: list[int]
    """Length of the context before each decision."""


def main() -> None:
    torch.manual_seed(SEED)
    torch.set_num_threads(1)  # the policy is too small for more to help
    disable_progress_bar()
    preset = get_preset("igpo")  # credit, loss and environment settings of a published method

    print("1. Task, policy, engine")
    # A generated world: people, documents about them, questions that take several searches (`envs/world`).
    # SearchTask loads what all episodes share: questions, corpus, retriever, protocol, outcome function.
    folder = resolve_model("tiny")
    task = SearchTask(SearchEnvSettings(protocol="tiny", tokenizer=folder, **preset.env))
    model = load_causal_lm(folder, torch.float32)  # the learner's copy, which gets the gradient
    engine = TransformersEngine(
        folder,
        EngineSettings(kind="transformers"),
        max_model_len=task.settings.max_context_tokens,
        dtype="float32",
    )
    engine.load_weights(dict(model.state_dict()), version=0)  # training calls it after each update
    questions = [task.train_questions[index] for index in QUESTIONS]
    print(f"   {len(task.corpus or ())} documents, {sum(p.numel() for p in model.parameters()):,} parameters")

    print(f"\n2. Rollouts: {GROUP_SIZE} of each question make a group")
    # RolloutLoop drives SearchEpisode, a state machine: decide, call the tool, observe. The same engine
    # scores belief while other rollouts decode: the mean log-prob of the gold tokens after every turn.
    jobs = [
        RolloutJob(question, f"{question.id}/{g}", group_id=question.id, seed_parts=(SEED, 0, index, g))
        for index, question in zip(QUESTIONS, questions, strict=True)
        for g in range(GROUP_SIZE)
    ]
    records, _ = RolloutLoop(task, {task.answering_role.policy: engine}).run(jobs)
    rollouts = [record.rollout for record in records]
    for group, question in enumerate(questions):
        print(f'   group {group}: "{question.text}" gold: {", ".join(question.golds)}')
        for rollout in rollouts[group * GROUP_SIZE : (group + 1) * GROUP_SIZE]:
            turns = " | ".join(turn.decision_text for turn in rollout.turns)
            print(f"      outcome {rollout.outcome:.0f} ({rollout.termination}): {turns}")

    print("\n3. Belief b_t = exp(s_t) and gain g_t = s_t - s_(t-1) of every turn but the last")
    # The scores of several gold answers (aliases) become one; gains are its differences (`credit/gains.py`).
    gains = []
    for rollout in rollouts:
        scores_T1K = np.stack(
            [rollout.initial_scores_K, *(turn.scores_K for turn in rollout.gain_bearing_turns)]
        )
        scores_T1 = reduce_aliases(scores_T1K, task.settings.alias_rule)
        gains.append(gains_from_scores(scores_T1, preset.credit.gain_basis))
        assert np.isclose(gains[-1].sum(), scores_T1[-1] - scores_T1[0])  # gains telescope
        beliefs = " ".join(f"{belief:.2f}" for belief in beliefs_from_scores(scores_T1))
        print(f"   belief {beliefs:20} gain {row(gains[-1])}")

    print("\n4. Advantages: the sum of the z-scored gains from each turn on, plus the z-scored outcome")
    # Gains are normalised over all turns of a group, outcomes over its rollouts (`credit/normalise.py`);
    # then each turn gets the sum of the gains from it on, plus the outcome (`credit/returns.py`).
    batch = TurnBatch.from_lists(
        groups=[k // GROUP_SIZE for k in range(len(rollouts))],
        outcomes=[rollout.outcome for rollout in rollouts],
        gains=[list(gains_T) for gains_T in gains],
    )
    credit = assign_credit(batch, preset.credit)
    advantages = batch.split(credit.advantages_M)
    outcome_alone = batch.split(assign_credit(batch, get_preset("grpo").credit).advantages_M)
    for igpo_T, grpo_T in zip(advantages, outcome_alone, strict=True):
        print(f"   igpo {row(igpo_T):24} grpo {row(grpo_T)}")
    print(f"   groups with no signal under the outcome alone: {credit.groups.collapsed_outcome_P.sum()} of 2")
    print(f"   groups with no signal under igpo: {credit.groups.collapsed_P.sum()} of 2")

    print("\n5. Tokens: the ids that were sampled are the ids that are trained on")
    # Rows are laid end to end, F tokens without padding; training does so for many learners
    # (`learner/token_batch.py`), and the model computes a common beginning once (`model/packing.py`).
    tokens = [tokens_of(record, task) for record in records]
    token_ids_F = torch.cat([torch.from_numpy(t.ids_L).long() for t in tokens])
    written_F = torch.cat([torch.from_numpy(t.turn_L >= 0) for t in tokens])
    row_F = torch.cat([torch.full((len(t.ids_L),), k) for k, t in enumerate(tokens)])
    print(f"   {len(token_ids_F)} tokens in {len(tokens)} rows, {written_F.sum()} of them decision tokens")

    def logp_of_decisions() -> torch.Tensor:
        """Computes the log-probs of all decision tokens under `model`, row by row, [D]."""
        return token_logp(model, token_ids_F, written_F, row_F)[0]

    print("\n6. Loss and one optimizer step")
    # Everything below is flat: one entry per decision token D, so padding enters no formula.
    settings = LossSettings(**preset.loss_changes)
    row_D = row_F[written_F]
    turn_D = torch.cat([torch.from_numpy(t.turn_L[t.turn_L >= 0]) for t in tokens])
    advantage_D = torch.tensor([advantages[k][t] for k, t in zip(row_D, turn_D, strict=True)]).float()
    sampler_logp_D = torch.cat([torch.from_numpy(t.sampler_logp_L[t.turn_L >= 0]) for t in tokens])
    decisions_R = torch.bincount(row_D)
    weight_R = [
        aggregation_weight(
            settings.loss_aggregation,
            num_sequences=len(tokens),
            num_tokens=len(row_D),
            sequence_tokens=int(decisions),
        )
        for decisions in decisions_R
    ]
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR)
    logp_D = logp_of_decisions()
    terms = policy_loss(
        settings,
        logp_D=logp_D,
        old_logp_D=logp_D.detach(),  # one update per batch: the ratio is 1
        sampler_logp_D=sampler_logp_D,
        advantage_D=advantage_D,
        weight_D=torch.tensor(weight_R)[row_D],
        turn_id_D=row_D * task.settings.max_turns + turn_D,
        sequence_id_D=row_D,
        clip_scale_D=torch.ones(len(row_D)),
        reference_logp_D=logp_D.detach(),  # the reference is the initial policy, which has not moved yet
    )
    terms.loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    gap = (logp_D.detach() - sampler_logp_D).abs().max()
    print(f"   largest log-prob gap of sampler and learner: {gap:.0e} nats")
    print(f"   loss {terms.loss.item():.4f}, gradient norm {norm:.3f}")

    print("\n7. What the step did")
    with torch.no_grad():
        moved_D = logp_of_decisions() - logp_D.detach()
    print(f"   log-prob of tokens with advantage above 0: {moved_D[advantage_D > 0].mean():+.3f} nats")
    print(f"   log-prob of tokens with advantage below 0: {moved_D[advantage_D < 0].mean():+.3f} nats")
    # Belief after the same histories, by the plainest scorer (`algorithms/igpo/belief/naive.py`). The gain is
    # a constant in the loss: the step pays for turns that raise belief, it does not train belief itself.
    for group, question in enumerate(questions):
        members = range(group * GROUP_SIZE, (group + 1) * GROUP_SIZE)
        suffixes_K = task.answer_templates(question).suffixes_K
        queries = [BeliefQuery(histories(tokens[k]), suffixes_K) for k in members]
        after = [reduce_aliases(scores_T1K)[-1] for scores_T1K in NaiveScorer(model).score(queries)]
        before = [last_score(rollouts[k], task.settings.alias_rule) for k in members]
        print(
            f"   group {group}: mean belief before the last turn {np.exp(before).mean():.3f} -> "
            f"{np.exp(after).mean():.3f}"
        )
    engine.load_weights(dict(model.state_dict()), version=1)
    print(f"   the engine samples the next batch from weights version {engine.weights_version}")


def row(values) -> str:
    return " ".join(f"{value:+.2f}" for value in values)


def tokens_of(record: EpisodeRecord, task: SearchTask) -> Tokens:
    """Reads the contexts and decisions of a rollout out of RLlib's episode, in time order."""
    (agent_episode,) = record.episode(task.policy_of).agent_episodes.values()
    contexts = agent_episode.get_observations()[: len(agent_episode)]
    decisions, logps = agent_episode.get_actions(), agent_episode.get_extra_model_outputs("action_logp")
    ids, turns, sampler_logps, starts, length = [], [], [], [], 0
    for turn, (context_C, decision_D, logp_D) in enumerate(zip(contexts, decisions, logps, strict=True)):
        ids += [context_C, decision_D]
        turns += [np.full(len(context_C), -1), np.full(len(decision_D), turn)]
        sampler_logps += [np.zeros(len(context_C), np.float32), logp_D]
        starts.append(length + len(context_C))
        length = starts[-1] + len(decision_D)
    return Tokens(np.concatenate(ids), np.concatenate(turns), np.concatenate(sampler_logps), starts)


def histories(tokens: Tokens) -> list[np.ndarray]:
    """Returns the context before each decision: where belief is scored."""
    return [tokens.ids_L[:start] for start in tokens.starts_T]


def last_score(rollout, alias_rule) -> float:
    """Returns s_t after the last gain-bearing turn, as the engine scored it during the rollout."""
    bearing = rollout.gain_bearing_turns
    scores_K = bearing[-1].scores_K if bearing else rollout.initial_scores_K
    return float(reduce_aliases(scores_K[None], alias_rule)[0])


if __name__ == "__main__":
    main()
