"""`SearchTask`: the parts that all episodes share, from questions and corpus to tools and protocol."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from envs.data.answer_metrics import outcome_function
from envs.data.corpus import Corpus, load_corpus
from envs.data.question import Question, eligible_aliases
from envs.data.question_set import QuestionSet, load_question_set, mix
from envs.errors import InputError
from envs.retrieval.build import build_retriever
from envs.search.config import SearchEnvSettings
from envs.search.protocols.base import Protocol, ScoringSuffix
from envs.search.protocols.build import build_protocol
from envs.search.roles import RolePolicies, RoleSettings, answering_role, speaker_rule
from envs.search.tools.builtin import build_toolbox
from envs.world.world import build_world

if TYPE_CHECKING:
    from envs.data.prompt_sampler import PromptSampler
    from envs.retrieval.base import Retriever
    from envs.search.tools.base import Toolbox
    from envs.search.trajectory import Rollout


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class AnswerTemplates:
    """The gold answers of one question to score, and the suffix that scores each. K is the number of them.

    K = 0: all of them are too long, and the question is played without belief.
    """

    golds_K: list[str]
    suffixes_K: list[ScoringSuffix]

    @cached_property
    def longest(self) -> int:
        """Length of the longest suffix, in tokens; 0 where the question is played without belief."""
        return max((len(suffix.ids) for suffix in self.suffixes_K), default=0)


class SearchTask:
    """Everything that a process loads once. Its episodes share it and do not change it.

    Args:
        settings: the validated `env_config`; `settings.tokenizer` must name a folder with a tokenizer.

    Attributes:
        outcome: the function that rewards an answer.
        next_speaker: the rule for the role that speaks next.
        corpus: the documents; None where only the retriever's server has them.
        protocol: the way of talking to the policy.

    Raises:
        InputError: a file is missing or malformed, there are no questions, or the protocol cannot use the
            tokenizer.
    """

    def __init__(self, settings: SearchEnvSettings):
        self.settings = settings
        self.outcome = outcome_function(settings.outcome)
        self.next_speaker = speaker_rule(settings.next_speaker, settings.roles)
        self.corpus, self._questions = _load_data(settings)
        self._toolbox = build_toolbox(settings, lambda: self.retriever, self.corpus)
        self.protocol: Protocol = build_protocol(settings, self.tool_schemas)
        self._said_left_out = False
        # The rollouts of a group need the same templates and prompts at the same time.
        self._templates_of = lru_cache(maxsize=1024)(self._make_templates)
        self._prompt_of = lru_cache(maxsize=1024)(self._make_prompt)
        if settings.corpus == "world" and settings.protocol == "tiny":
            self._check_words()

    @property
    def train_questions(self) -> list[Question]:
        return self._questions.train

    @property
    def heldout_questions(self) -> list[Question]:
        return self._questions.heldout

    def reward(self, rollout: Rollout, answer: str) -> float:
        """The outcome of a rollout that ends in `answer`. Raises ValueError for what is no usable number."""
        question = rollout.question
        if ":" not in self.settings.outcome:
            return self.outcome(answer, question.golds)
        hops = {} if question.hops is None else {"hops": question.hops}
        facts = {
            "question": question.text,
            "turns": list(rollout.turns),
            "metadata": {**question.metadata, **hops},
        }
        return self.outcome(answer, question.golds, **facts)

    @cached_property
    def policy_of(self) -> RolePolicies:
        """RLlib's `policy_mapping_fn`: the policy that speaks for a role."""
        return RolePolicies({role.name: role.policy for role in self.settings.roles})

    def prompt_sampler(self, seed: int) -> PromptSampler:
        """Draws the training questions whose prompt leaves room, by index into `train_questions`."""
        return self._questions.prompt_sampler(seed, self.settings.curriculum_prompts, plays=self._plays)

    def _plays(self, index: int) -> bool:
        question = self.train_questions[index]
        room = self.room(question)
        if room < 1 and not self._said_left_out:
            self._said_left_out = True  # the doctor names all of them before a run; this is for other callers
            reason = self.lack_of_room(question)
            logger.warning("training questions without room are left out, first %s: %s", question.id, reason)
        return room >= 1

    def playable_from(self, index: int) -> Question:
        """The first training question from `index` on, and round, whose prompt leaves room for a decision.

        Raises:
            InputError: there is none.
        """
        questions = self.train_questions
        for k in range(len(questions)):
            if self._plays((index + k) % len(questions)):
                return questions[(index + k) % len(questions)]
        raise InputError(f"no training question can be played: {self.lack_of_room(questions[0])}")

    def room(self, question: Question) -> int:
        """Tokens that the prompt of `question` leaves for decisions and observations; the question can be
        played if it is at least 1.
        """
        return min(self.rooms(question).values())

    def rooms(self, question: Question) -> dict[str, int]:
        """The room that each setting which limits a context leaves, by the setting's name.

        History and contexts share a limit for which the prompts of the first and of the answering role count;
        a role's own limit counts for its prompt, whenever it speaks.
        """
        first, answering = self.settings.roles[0], self.answering_role
        longest = max(len(self.prompt(role, question)) for role in (first, answering))
        rooms = {"max_context_tokens": self.token_limit(self.answer_templates(question)) - longest}
        for setting, role in self._limited_roles.items():
            rooms[setting] = self.own_limit(role) - len(self.prompt(role, question))
        return rooms

    def context_limit(self, setting: str) -> int:
        """The value of a setting that `rooms` names."""
        limited = self._limited_roles.get(setting, self.settings)
        return limited.max_context_tokens or self.settings.max_context_tokens

    @cached_property
    def _limited_roles(self) -> dict[str, RoleSettings]:
        """The roles with a context of their own, by the name of the setting that limits it."""
        roles = enumerate(self.settings.roles)
        return {f"roles.{k}.max_context_tokens": role for k, role in roles if role.max_context_tokens}

    def own_limit(self, role: RoleSettings) -> int:
        """The limit of the context of `role` alone. It reserves room for the tokens around one observation;
        belief is scored on the history, so not for a suffix.
        """
        return (role.max_context_tokens or self.settings.max_context_tokens) - self.observation_overhead

    def token_limit(self, templates: AnswerTemplates) -> int:
        """The limit of history and contexts. It reserves room for the longest scoring suffix and for the
        tokens around one observation, so every completed turn can be scored.
        """
        return self.settings.max_context_tokens - templates.longest - self.observation_overhead

    def lack_of_room(self, question: Question) -> str:
        """Says how long the prompt is, and what setting would give it room."""
        room, setting = min((room, setting) for setting, room in self.rooms(question).items())
        limit, reserved, reasons = self.context_limit(setting), self.observation_overhead, "observation"
        if setting == "max_context_tokens":
            reserved += self.answer_templates(question).longest
            reasons = "scoring suffix and observation"
        return (
            f"its prompt of {limit - reserved - room} tokens and the {reserved} reserved for {reasons} "
            f"leave no room in {setting}={limit}: raise it to {limit - room + 1} or more"
        )

    @cached_property
    def retriever(self) -> Retriever:
        """Built on first use: a driver that only draws prompts needs none."""
        return build_retriever(self.settings.retriever, self.corpus)

    @property
    def tool_schemas(self) -> list[dict[str, Any]]:
        """JSON schemas of the tools, for the protocol. Opens no retriever."""
        return self._toolbox.schemas

    @cached_property
    def tools(self) -> Toolbox:
        """The tools, ready for calls."""
        _ = self.retriever  # opened (and indexed) here, outside of the time limit of any call
        return self._toolbox

    @property
    def identity(self) -> dict[str, Any]:
        """The identity of corpus, questions and retriever, in plain JSON values.

        Results depend on them more than on the algorithm, so every run logs this.
        """
        corpus: dict[str, Any] = {"source": self.settings.corpus}
        if self.corpus is not None:
            corpus |= {"content_hash": self.corpus.content_hash, "documents": len(self.corpus)}
        return {
            "corpus": corpus,
            "questions": self._questions.identity,
            "retriever": {**self.retriever.identity, "top_k": self.settings.retriever.top_k},
        }

    def _check_words(self) -> None:
        """Raises InputError where the tokenizer lacks a word of the world.

        The embedded policy reads whole words, so an unknown word would be missing from documents and answers.
        """
        known = self.protocol.tokenizer.get_vocab()
        texts = [document.text for document in self.corpus or ()]
        texts += [
            text
            for question in (*self.train_questions, *self.heldout_questions)
            for text in (question.text, *question.golds)
        ]
        unknown = sorted({word for text in texts for word in text.split()} - known.keys())
        if unknown:
            raise InputError(
                f"the tokenizer does not know the world's words {', '.join(unknown[-5:])}: the embedded "
                "policy has those of the default world only, so leave that setting of `world` as it is, or "
                "use a chat model and protocol `igpo`"
            )

    @cached_property
    def roles(self) -> dict[str, RoleSettings]:
        """The roles by name."""
        return {role.name: role for role in self.settings.roles}

    @cached_property
    def answering_role(self) -> RoleSettings:
        """The role in whose view belief is scored."""
        return answering_role(self.settings.roles)

    @cached_property
    def observation_overhead(self) -> int:
        """The largest number of tokens that a protocol puts around the text of an observation."""
        senders = ("tool", "error", *self.roles)
        return max(
            len(self.protocol.observation("", decision_ids=[], sender=s, max_tokens=0).ids) for s in senders
        )

    def prompt(self, role: RoleSettings, question: Question) -> list[int]:
        """Token ids of the role's first context."""
        return list(self._prompt_of(role.instruction, question.text, role.shown_actions))

    def _make_prompt(self, instruction: str, question: str, actions: tuple[str, ...]) -> list[int]:
        return self.protocol.prompt(instruction, question, list(actions))

    def answer_templates(self, question: Question) -> AnswerTemplates:
        """The aliases to score, by `alias_rule` and `max_answer_tokens`, and their suffixes.

        (definitions: Belief and information gain)
        """
        return self._templates_of(tuple(question.golds))

    def _make_templates(self, golds: tuple[str, ...]) -> AnswerTemplates:
        suffixes = [self.protocol.scoring_suffix(gold) for gold in golds]
        counts = [int(suffix.gold_mask_L.sum()) for suffix in suffixes]
        kept = eligible_aliases(counts, self.settings.alias_rule, self.settings.max_answer_tokens)
        return AnswerTemplates([golds[k] for k in kept], [suffixes[k] for k in kept])


def _load_data(settings: SearchEnvSettings) -> tuple[Corpus | None, QuestionSet]:
    """The corpus (None where only the retriever's server has it) and the questions."""
    if settings.corpus == "world":
        world = build_world(settings.world)
        heldout = world.questions("heldout")
        questions = mix(
            {"world": 1.0},
            [world.questions("train")],
            heldout,
            settings.question_filter,
            heldout_sizes={"world": len(heldout)},
        )
        return Corpus(world.documents, source="world"), questions
    corpus = None if settings.corpus == "remote" else load_corpus(settings.corpus, settings.corpus_fields)
    questions = load_question_set(
        settings.questions or "",
        heldout_questions=settings.heldout_questions,
        heldout_share=settings.heldout_share,
        question_filter=settings.question_filter,
        names=settings.fields,
    )
    return corpus, questions.with_evidence(corpus) if corpus is not None else questions
