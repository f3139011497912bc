"""A real SMTP server on the loopback that keeps the mails it gets."""

import email
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from email.policy import default
from typing import Any

from aiosmtpd.controller import Controller

from tests.support.ports import kept_port


@dataclass
class PostOffice:
    """url: of Apprise for mail to ops@example.org. refuses: while true every mail is refused for now."""

    url: str = ""
    refuses: bool = False
    mails: list[Any] = field(default_factory=list)
    news: threading.Condition = field(default_factory=threading.Condition)

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802  # named by aiosmtpd
        """Take a mail."""
        if self.refuses:
            return "451 come back later"
        with self.news:
            self.mails.append(email.message_from_bytes(envelope.content, policy=default))
            self.news.notify_all()
        return "250 taken"

    def wait(self, enough: Callable[[list[Any]], bool], timeout_s: float = 60.0) -> list[Any]:
        """Return the mails once `enough` holds for them."""
        with self.news:
            assert self.news.wait_for(lambda: enough(self.mails), timeout_s), [one["subject"] for one in self.mails]
            return list(self.mails)

    @property
    def subjects(self) -> list[str]:
        """The subjects of the mails, in order of arrival."""
        return [str(one["subject"]) for one in self.mails]


def text_of(mail: Message) -> str:
    """Return the plain text of a mail."""
    parts = [part for part in mail.walk() if part.get_content_type() == "text/plain"]
    return str((parts or [mail])[0].get_content()).replace("\r\n", "\n")  # type: ignore[attr-defined]


@contextmanager
def post_office() -> Iterator[PostOffice]:
    """Run the SMTP server."""
    made = PostOffice()
    port = kept_port()
    controller = Controller(made, hostname="127.0.0.1", port=port)
    controller.start()
    made.url = f"mailto://127.0.0.1:{port}/?from=fleet@example.org&to=ops@example.org"
    try:
        yield made
    finally:
        controller.stop()
