"""IFEval: whether a response follows instructions that a program can verify.

After Zhou et al., "Instruction-Following Evaluation for Large Language Models" (arXiv 2311.07911), and the reference
code, google-research/instruction_following_eval. Strict and loose accuracy are those of the paper.
"""

from typing import Any, Literal

from pydantic import PrivateAttr, ValidationError, model_validator

from rlaif.errors import did_you_mean, on_one_line
from rlaif.judges.programs.base import BaseCheck, Finding
from rlaif.judges.programs.ifeval_instructions import INSTRUCTIONS
from rlaif.judges.programs.language import library_version
from rlaif.types import Response


class IFEvalCheck(BaseCheck):
    """The instructions of IFEval are followed: those that the prompt's metadata lists under `instruction_id_list`, with
    their `kwargs`, as in IFEval's own data; or one that is named here. Each instruction is a finding of its own."""

    check: Literal["ifeval"]
    instruction: str | None = None
    """One instruction for every prompt, such as length_constraints:number_words; by default the metadata's."""
    kwargs: dict[str, Any] = {}
    """What the instruction asks for, such as {relation: at least, num_words: 300}; only with `instruction`."""
    loose: bool = False
    """Also passes if the response follows an instruction once its asterisks, its first or its last line are away."""
    _kwargs: dict[str, Any] = PrivateAttr(default={})

    @model_validator(mode="after")
    def _known(self) -> "IFEvalCheck":
        if self.instruction is not None:
            self._kwargs = read_kwargs(self.instruction, self.kwargs)
        elif self.kwargs:
            raise ValueError("kwargs without an instruction: name the instruction, or leave both to the metadata")
        return self

    def findings(self, response: Response) -> dict[str, Finding]:
        texts = loose_variants(response.text) if self.loose else [response.text]
        if self.instruction is not None:
            return {f"{self.check}:{self.instruction}": follows(self.instruction, self._kwargs, texts)}
        asked = _asked(response.prompt.metadata)
        if isinstance(asked, Finding):
            return {self.check: asked}
        names = _distinct([f"{self.check}:{instruction}" for instruction, _ in asked])
        return {name: _follows_asked(*each, texts) for name, each in zip(names, asked, strict=True)}

    def provenance(self) -> tuple[str, ...]:
        return (library_version(),)


def follows(instruction: str, kwargs: dict[str, Any], texts: list[str]) -> Finding:
    """Whether one of the texts follows the instruction; an empty one follows none. If none does, why the first fails."""
    found = [
        INSTRUCTIONS[instruction].check(text, **kwargs) if text.strip() else Finding(False, "empty") for text in texts
    ]
    passed = [finding for finding in found if finding.value]
    undecided = [finding for finding in found if finding.value is None]
    return [*passed, *undecided, *found][0]


def read_kwargs(instruction: str, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of an instruction, checked; None counts as absent, as some copies of the data set fill all keys.

    Raises ValueError for an unknown instruction and for arguments that are missing, too many or of the wrong kind.
    """
    if instruction not in INSTRUCTIONS:
        raise ValueError(
            f"unknown instruction '{instruction}'{did_you_mean(instruction, INSTRUCTIONS)}; "
            f"allowed: {', '.join(sorted(INSTRUCTIONS))}"
        )
    model = INSTRUCTIONS[instruction].kwargs
    try:
        read = model.model_validate({key: value for key, value in kwargs.items() if value is not None})
    except ValidationError as error:
        said = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
        takes = ", ".join(model.model_fields) or "no kwargs"
        raise ValueError(f"kwargs of {instruction}: {said} (it takes {takes})") from None
    return {name: getattr(read, name) for name in model.model_fields}


def loose_variants(text: str) -> list[str]:
    """The text; without its first line, its last, both; each also without asterisks (section 2.2 of the paper)."""
    lines = text.split("\n")
    cut = [text, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    return [*cut, *(variant.replace("*", "") for variant in cut)]


def _asked(metadata: dict[str, Any]) -> list[tuple[str, dict[str, Any]]] | Finding:
    """The instructions of a prompt with their arguments; a finding where the metadata does not hold them."""
    instructions, kwargs = metadata.get("instruction_id_list"), metadata.get("kwargs")
    if not isinstance(instructions, list) or not instructions:
        return Finding(None, "the prompt's metadata has no list 'instruction_id_list'")
    if not isinstance(kwargs, list) or len(kwargs) != len(instructions):
        return Finding(None, "the prompt's metadata has no list 'kwargs' as long as 'instruction_id_list'")
    if not all(isinstance(each, dict | None) for each in kwargs):
        return Finding(None, "'kwargs' in the prompt's metadata is not a list of objects")
    return [(str(instruction), each or {}) for instruction, each in zip(instructions, kwargs, strict=True)]


def _follows_asked(instruction: str, kwargs: dict[str, Any], texts: list[str]) -> Finding:
    try:
        return follows(instruction, read_kwargs(instruction, kwargs), texts)
    except ValueError as error:
        return Finding(None, on_one_line(error).removeprefix("ValueError: "))


def _distinct(names: list[str]) -> list[str]:
    """The names, the second of one name with #2 and so on."""
    counts = [names[: place + 1].count(name) for place, name in enumerate(names)]
    return [name if count == 1 else f"{name}#{count}" for name, count in zip(names, counts, strict=True)]
