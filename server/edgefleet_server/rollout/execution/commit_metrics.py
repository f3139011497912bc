"""How much was written for rollouts, told once it is committed: for the figures at `/metrics`.

Two places write transitions: the executor, and the making of a rollout. A transaction that is rolled back, a dry run
for one, is never told.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from enum import StrEnum

from sqlalchemy.event import listen
from sqlmodel import Session

from edgefleet_server.events.model import NewEvent


class Document(StrEnum):
    """What a signed document does for a rollout: asks for its release, ends that, or takes a device back."""

    OFFER = "offer"
    WITHDRAWAL = "withdrawal"
    ROLLBACK = "rollback"


TransitionListener = Callable[[str, str, int], None]
"""Called with what moved (`rollout`, `stage`, `assignment`), where to, and how many did."""
DocumentListener = Callable[[str, int], None]


class CommittedCounts:
    """Counts what transactions write, and tells it after each commit."""

    def __init__(self) -> None:
        self._transitions: list[TransitionListener] = []
        self._documents: list[DocumentListener] = []

    def subscribe(self, transitions: TransitionListener, documents: DocumentListener) -> None:
        """Call these, in the committing thread."""
        self._transitions.append(transitions)
        self._documents.append(documents)

    def note(self, session: Session, events: Iterable[NewEvent], documents: Iterable[Document] = ()) -> None:
        """Take down what this transaction writes."""
        moved = Counter((event.kind, str(event.detail["to"])) for event in events)
        signed = Counter(documents)
        if moved or signed:
            listen(session, "after_commit", lambda _session: self._tell(moved, signed), once=True)

    def _tell(self, moved: Counter[tuple[str, str]], signed: Counter[Document]) -> None:
        for (kind, to), n in moved.items():
            for transitions in self._transitions:
                transitions(kind, to, n)
        for what, n in signed.items():
            for documents in self._documents:
                documents(what.value, n)
