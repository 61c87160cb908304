"""The records: what flows between the stages, one JSON object a line.

Records are frozen and tied together by ids, never by positions. What can not be known is None, never a default:
an unparsed judgment is not a score, not a tie and not a loss.
"""

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

SCHEMA_VERSION = 1


def content_hash(*parts: object, length: int = 16) -> str:
    """The first `length` hex digits of the SHA-256 of the parts as canonical JSON."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:length]


class Record(BaseModel):
    """Base of all records: frozen, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Message(Record):
    """One turn of a conversation. Keys beyond role and content (tool calls, names) are kept as they are."""

    model_config = ConfigDict(frozen=True, extra="allow")

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str

    def as_dict(self) -> dict[str, Any]:
        return self.model_dump()


Messages = tuple[Message, ...]


class Prompt(Record):
    """What the policy is asked: one conversation that ends before the assistant's turn."""

    id: str
    messages: Messages = Field(min_length=1)
    metadata: dict[str, JsonValue] = {}

    @classmethod
    def from_messages(
        cls, messages: Messages, id: str | None = None, metadata: dict[str, Any] | None = None
    ) -> "Prompt":
        """A prompt whose id is the hash of its messages unless one is given."""
        return cls(id=id or prompt_content_id(messages), messages=messages, metadata=metadata or {})

    @classmethod
    def from_text(cls, text: str, system: str | None = None) -> "Prompt":
        """A one-turn prompt, with a system message if given."""
        turns = [Message(role="system", content=system)] if system is not None else []
        return cls.from_messages((*turns, Message(role="user", content=text)))


def prompt_content_id(messages: Messages) -> str:
    return content_hash([message.as_dict() for message in messages])


FinishReason = Literal["stop", "length", "other"]


class Sampling(Record):
    """How answers are sampled. `seed` makes a sample a function of (seed, prompt id, sample index) where the engine can."""

    temperature: float = Field(default=1.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_tokens: int = Field(default=512, ge=1)
    stop: tuple[str, ...] = ()
    seed: int | None = 0


class Response(Record):
    """One sampled answer; the row embeds its prompt, so a file of responses stands alone."""

    schema_version: int = SCHEMA_VERSION
    id: str
    prompt: Prompt
    sample_index: int = Field(ge=0)
    messages: Messages = Field(min_length=1)
    model: str
    engine: str
    sampling: Sampling | None = None
    finish_reason: FinishReason | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None

    @property
    def text(self) -> str:
        """The content of the last assistant turn."""
        return self.messages[-1].content


class Preferred(Record):
    """The judge prefers one of the shown responses."""

    kind: Literal["preferred"] = "preferred"
    response_id: str
    strength: float = Field(default=1.0, gt=0, le=1, description="below 1 where the judge's scale has weaker sides")


class Tie(Record):
    """The judge finds the shown responses equally good."""

    kind: Literal["tie"] = "tie"


class Score(Record):
    """The judge gives the shown response a score, normalised to [0, 1] by the judge's own scale."""

    kind: Literal["score"] = "score"
    score: float = Field(ge=0, le=1)


class Ranking(Record):
    """The judge ranks all shown responses, best first; those of one tier are equally good."""

    kind: Literal["ranking"] = "ranking"
    tiers: tuple[tuple[str, ...], ...] = Field(min_length=1, description="response ids")


Outcome = Annotated[Preferred | Tie | Score | Ranking, Field(discriminator="kind")]
NoOutcome = Literal["unparsed", "conflict", "refused", "truncated", "undecided"]


class JournalRecord(Record):
    """What a model answered, kept under the hash of what it was asked."""

    schema_version: int = SCHEMA_VERSION
    id: str


class Judgment(JournalRecord):
    """One answer of one judge, that is one vote. Letters like A and B occur only in `raw`; outcomes name response ids."""

    comparison_id: str
    judge: str
    model: str
    endpoint: str | None = None
    template_hash: str
    vote: int = Field(ge=0)
    shown: tuple[str, ...] = Field(
        description="response ids in the order they were shown; none where that is not known, as of people"
    )
    raw: str
    outcome: Outcome | None = None
    reason: NoOutcome | None = Field(default=None, description="why there is no outcome")
    probabilities: dict[str, float] | None = Field(
        default=None, description="of each response id, 'tie', or score value, when log-probs were read"
    )
    parts: dict[str, float | None] | None = Field(
        default=None,
        description="what the outcome is made of: the rating of each response, a program's checks, or a model's reward",
    )
    question: str | None = Field(
        default=None, description="the criterion or checklist item that was asked, of a judge that asks several"
    )
    flags: tuple[str, ...] = Field(
        default=(),
        description="shown responses that hold verdicts of the judge's own form: 'verdict-syntax:<response id>'",
    )
    latency_seconds: float | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class JudgeTally(Record):
    """What one judge said of one comparison (pairwise) or one response (pointwise)."""

    judge: str
    model: str
    weight: float = Field(description="0: shown beside, without a say")
    margin: float | None = Field(description="in [-1, 1], positive for the first response; for one response None")
    score: float | None = Field(default=None, description="mean score in [0, 1] of a pointwise judge of one response")
    scores: tuple[float | None, float | None] | None = Field(
        default=None, description="of a pointwise judge in a comparison: the scores of the two responses"
    )
    questions: dict[str, tuple[float | None, ...]] | None = Field(
        default=None, description="of each criterion or checklist item: the score of each response, in [0, 1]"
    )
    planned: int | None = Field(default=None, description="votes without a stopping rule, of a judge that compares")
    asked: int
    counted: int
    unparsed: int
    order_consistent: bool | None = Field(
        default=None, description="both orders gave the same outcome; None if only one order has an outcome"
    )
    first_picks: int = 0
    decided: int = Field(default=0, description="votes that preferred one response; the base of the first-pick rate")
    judgments: tuple[str, ...] = ()


class Verdict(Record):
    """All judgments of one comparison (two responses) or of one response, aggregated."""

    schema_version: int = SCHEMA_VERSION
    id: str
    responses: tuple[Response, ...] = Field(min_length=1, max_length=2)
    outcome: Outcome | None
    margin: float | None = Field(description="in [-1, 1], positive if the first response is preferred")
    confidence: float | None = Field(default=None, description="probability of being right; None until calibrated")
    ensemble: str
    votes_planned: int | None = Field(default=None, description="as many as without a stopping rule would be asked")
    votes_asked: int
    votes_counted: int
    votes_unparsed: int
    stopping_rule: str
    gates: tuple[float, ...] = Field(
        default=(),
        description="margins that the stopping rule looked at: on which side of them the margin lies is sure",
    )
    judges: tuple[JudgeTally, ...]

    @property
    def prompt(self) -> Prompt:
        return self.responses[0].prompt


TurnKind = Literal["critique", "revision"]
NoRevision = Literal[
    "empty critique", "refused critique", "empty", "truncated", "refused", "leaked critique", "leaked fence",
    "leaked instructions", "unchanged", "over-long", "rejected", "unavailable",
]  # fmt: skip


class Turn(JournalRecord):
    """What a model that revises answered to one request: a critique, or a revision."""

    response_id: str
    round: int = Field(ge=1)
    kind: TurnKind
    principle: str
    model: str
    engine: str
    endpoint: str | None = None
    raw: str
    finish_reason: FinishReason | None
    latency_seconds: float | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class RevisionRound(Record):
    """One critique under one principle, and the revision that followed. What was not asked or not answered is None."""

    round: int = Field(ge=1)
    principle: str
    critique: Turn | None = None
    revision: Turn | None = None
    text: str | None = Field(default=None, description="the revised answer, as it was read in the revision")
    reason: NoRevision | None = Field(default=None, description="why there is no revised answer")


class Revision(Record):
    """A response, the rounds of critique and revision that it went through, and the answer they led to."""

    schema_version: int = SCHEMA_VERSION
    id: str
    constitution: str
    constitution_hash: str
    original: Response
    model: str
    sampling: Sampling
    rounds: tuple[RevisionRound, ...] = Field(min_length=1)
    revision: Response | None = Field(description="the answer of the last round that gave one, None if none did")

    @property
    def prompt(self) -> Prompt:
        return self.original.prompt

    @property
    def principles(self) -> tuple[str, ...]:
        """Those that the revision was made by: of the rounds that gave an answer."""
        return tuple(each.principle for each in self.rounds if each.text is not None)

    @property
    def reason(self) -> NoRevision | None:
        """Why there is no revision: of the last round that is more than unchanged, if there is one."""
        if self.revision is not None:
            return None
        reasons = [each.reason for each in self.rounds]
        return next((reason for reason in reversed(reasons) if reason != "unchanged"), "unchanged")


class Provenance(Record):
    """Where a preference comes from: enough to find every vote, every critique and every sample again."""

    verdict_ids: tuple[str, ...] = ()
    rule: str
    ensemble: str | None = Field(default=None, description="who judged; None for a revision, which nobody judged")
    judges: tuple[JudgeTally, ...] = ()
    constitution: str | None = Field(default=None, description="by which the chosen response was revised")
    principles: tuple[str, ...] = Field(
        default=(), description="of the constitution, one of each round that changed it"
    )
    revision_id: str | None = None
    chosen_model: str
    rejected_model: str
    chosen_sampling: Sampling | None = None
    rejected_sampling: Sampling | None = None


class PreferencePair(Record):
    """One preference triple, in the conversational format other trainers read as it is."""

    schema_version: int = SCHEMA_VERSION
    id: str
    prompt_id: str
    prompt: Messages
    chosen: Messages
    rejected: Messages
    chosen_id: str
    rejected_id: str
    chosen_score: float | None = None
    rejected_score: float | None = None
    chosen_finish_reason: FinishReason | None = None
    rejected_finish_reason: FinishReason | None = None
    margin: float | None = None
    confidence: float | None = None
    provenance: Provenance | None = None

    @classmethod
    def of(cls, chosen: Response, rejected: Response, *, provenance: dict[str, Any], **known: Any) -> "PreferencePair":
        """The pair of two responses to one prompt. provenance, known: further fields of it and of its Provenance."""
        return cls(
            id=content_hash(chosen.id, chosen.text, rejected.id, rejected.text),
            prompt_id=chosen.prompt.id,
            prompt=chosen.prompt.messages,
            chosen=chosen.messages,
            rejected=rejected.messages,
            chosen_id=chosen.id,
            rejected_id=rejected.id,
            chosen_finish_reason=chosen.finish_reason,
            rejected_finish_reason=rejected.finish_reason,
            provenance=Provenance(
                chosen_model=chosen.model,
                rejected_model=rejected.model,
                chosen_sampling=chosen.sampling,
                rejected_sampling=rejected.sampling,
                **provenance,
            ),
            **known,
        )
