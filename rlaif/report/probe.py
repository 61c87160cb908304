"""The result of probing a judge as rows for a table, and in words."""

from collections.abc import Iterator

from rlaif.judges.attacks import ATTACKS
from rlaif.judges.probe import Finding, JudgeProbe, ProbeResult, Share

Rows = list[list[str]]
ABOUT = {name: attack.about for name, attack in ATTACKS.items()}


def probe_rows(result: ProbeResult) -> Iterator[tuple[str, Rows, list[str]]]:
    """For each judge: its name, a header with one row per attack, and remarks. Settings of the defences stand side by side."""
    for name in dict.fromkeys(probe.judge for probe in result.judges):
        probes = [probe for probe in result.judges if probe.judge == name]
        header = ["attack", "the attacked answer is"]
        header += [f"{column}, defences {probe.defences}" for probe in probes for column in _columns(probe)]
        rows = [[found[0].name, ABOUT.get(found[0].name, "the bad one, as it is")] for found in _side_by_side(probes)]
        for row, found in zip(rows, _side_by_side(probes), strict=True):
            row += [cell for probe, finding in zip(probes, found, strict=True) for cell in _cells(probe, finding)]
        yield name, [header, *rows], [remark for probe in probes for remark in _remarks(probe)]


def _side_by_side(probes: list[JudgeProbe]) -> list[tuple[Finding, ...]]:
    return list(zip(*((probe.plain, *probe.attacks) for probe in probes), strict=True))


def _columns(probe: JudgeProbe) -> dict[str, None]:
    """The columns that this judge has numbers for, in their order."""
    findings = (probe.plain, *probe.attacks)
    wanted = {
        "wins": True,
        "in both orders": any(finding.wins_both is not None for finding in findings),
        "ties": any(finding.ties.part for finding in findings),
        "unread": any(finding.unread for finding in findings),
        "score rise": any(finding.score_rise is not None for finding in findings),
    }
    return {column: None for column, is_wanted in wanted.items() if is_wanted}


def _cells(probe: JudgeProbe, finding: Finding) -> list[str]:
    cells = {
        "wins": with_interval(finding.wins),
        "in both orders": "-" if finding.wins_both is None else with_interval(finding.wins_both),
        "ties": str(finding.ties.part),
        "unread": str(finding.unread),
        "score rise": "-" if finding.score_rise is None else f"{finding.score_rise:+.2f}",
    }
    return [cells[column] for column in _columns(probe)]


def _remarks(probe: JudgeProbe) -> list[str]:
    """What the plain and the identical answers show."""
    identical, plain = probe.identical, probe.plain
    where = f"Defences {probe.defences}"
    remarks = [f"{where}: identical answers tie in {_of(identical.ties)}."]
    if identical.first_picks.whole:
        remarks.append(f"{where}: of identical answers the one shown first is picked in {_of(identical.first_picks)}.")
    if plain.consistent.whole:
        remarks.append(f"{where}: plain answers get the same outcome in both orders in {_of(plain.consistent)}.")
    return remarks


def _of(value: Share) -> str:
    return f"{value.part} of {value.whole} ({value.rate or 0:.0%})"


def with_interval(value: Share) -> str:
    """A share in percent with its 95 % interval."""
    if value.rate is None or value.interval is None:
        return "-"
    return f"{value.rate:.0%} [{value.interval[0]:.0%}, {value.interval[1]:.0%}]"
