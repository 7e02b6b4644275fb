"""The counted results of the comparison. A row that must be empty lists each of its graphs."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from tests.compare.engine import CheckResult

BY_POLICY = frozenset({"node-not-allowed"})
"""Intended refusals: the class runs code from the graph."""
NO_FILE = "only this project refuses: a file that neither side has"
"""ComfyUI's class accepts a missing file (the empty name is an existing folder), and its run fails at that node."""
BOTH_ACCEPT = "both accept"
BOTH_REFUSE = "both refuse"
POLICY = "only this project refuses: a class that runs code"
WRONG_REFUSAL = "only this project refuses"
WRONG_ACCEPTANCE = "only ComfyUI refuses"
OTHER_ERRORS = "both accept, with other warnings"
WORKER_REFUSES = "accepted, and refused by the worker"
CHANGED = "changed on the way to the engine"
OTHER_WORDS = "both refuse, with other errors of nodes"
STRANGERS = "accepted from the team, refused from strangers"
OUTPUTS = "run on both"
EQUAL = "  the same outputs"
DIFFERENT = "  different outputs"
FAILED = "  failed on both"
UNSTABLE = "  other outputs at each run of ComfyUI's own"
"""Graphs with nodes that draw random numbers without a seed."""
MARKED = (WRONG_REFUSAL, WRONG_ACCEPTANCE, OTHER_ERRORS, WORKER_REFUSES, CHANGED, DIFFERENT)
ROWS = (
    BOTH_ACCEPT,
    BOTH_REFUSE,
    OTHER_WORDS,
    POLICY,
    NO_FILE,
    WRONG_REFUSAL,
    WRONG_ACCEPTANCE,
    OTHER_ERRORS,
    WORKER_REFUSES,
    CHANGED,
    STRANGERS,
    OUTPUTS,
    EQUAL,
    FAILED,
    UNSTABLE,
    DIFFERENT,
)


@dataclass(slots=True)
class Compared:
    """One graph. `brought` are the input files that both sides got, `worker` is the worker's reason to refuse an
    accepted graph, and `outputs` is the result of both runs."""

    name: str
    real: CheckResult
    own: CheckResult
    strangers: CheckResult | None = None
    brought: frozenset[str] = frozenset()
    worker: str = ""
    changes: list[str] = field(default_factory=list)
    outputs: str | None = None
    differences: list[str] = field(default_factory=list)

    def rows(self) -> list[tuple[str, str]]:
        """Return the rows that the graph counts in, with the reasons."""
        return [*self._checked(), *self._sent(), *self._strangers(), *self._ran()]

    def _checked(self) -> list[tuple[str, str]]:
        real, own = self.real, self.own
        if own.says != "accepted":
            if real.says == "accepted":
                return [(self._row(), f"{own.code}: {own.reason}")]
            rows = [(BOTH_REFUSE, f"{own.code}: {own.reason}")]
            if real.errors != own.errors:
                rows.append((OTHER_WORDS, _differing(real, own)))
            return rows
        if real.says != "accepted":
            return [(WRONG_ACCEPTANCE, real.reason)]
        rows = [(BOTH_ACCEPT, "")]
        if real.errors != own.errors or (own.runs is not None and real.runs is not None and real.runs != own.runs):
            rows.append((OTHER_ERRORS, _differing(real, own)))
        return rows

    def _row(self) -> str:
        own = self.own
        if own.code in BY_POLICY:
            return POLICY
        is_brought = any(name in own.reason for name in self.brought)
        return NO_FILE if own.code == "missing-medium" and not is_brought else WRONG_REFUSAL

    def _sent(self) -> list[tuple[str, str]]:
        rows = [(WORKER_REFUSES, self.worker)] if self.worker else []
        return [*rows, *([(CHANGED, "; ".join(self.changes[:5]))] if self.changes else [])]

    def _strangers(self) -> list[tuple[str, str]]:
        other = self.strangers
        if other is None or self.own.says != "accepted" or other.says == "accepted":
            return []
        return [(STRANGERS, f"{other.code}: {other.reason}")]

    def _ran(self) -> list[tuple[str, str]]:
        if self.outputs is None:
            return []
        return [(OUTPUTS, ""), (self.outputs, "; ".join(self.differences[:5]))]


def _differing(real: CheckResult, own: CheckResult) -> str:
    parts = []
    if missing := sorted(real.errors - own.errors):
        parts.append(f"only ComfyUI: {missing[:4]}")
    if more := sorted(own.errors - real.errors):
        parts.append(f"only this project: {more[:4]}")
    if own.runs is not None and real.runs is not None and real.runs != own.runs:
        parts.append(f"ComfyUI runs {sorted(real.runs)}, this project {sorted(own.runs)}")
    return "; ".join(parts)


def table(compared: Sequence[Compared]) -> str:
    counts = Counter(row for one in compared for row, _ in one.rows())
    lines = [f"{len(compared):6}  graphs"]
    lines += [f"{counts[row]:6}  {row}{'   (must be 0)' if row in MARKED else ''}" for row in ROWS]
    return "\n".join(lines)


def listed(compared: Sequence[Compared], rows: Iterable[str] = MARKED) -> str:
    """Return each graph in one of these rows, with the reason."""
    lines = []
    for wanted in rows:
        found = [(one.name, reason) for one in compared for row, reason in one.rows() if row == wanted]
        if found:
            lines += [f"\n## {wanted.strip()}: {len(found)}", *(f"- {name}: {reason}" for name, reason in found)]
    return "\n".join(lines)


def is_clean(compared: Sequence[Compared]) -> bool:
    return not any(row in MARKED for one in compared for row, _ in one.rows())
