"""What one command works with: global options, the saved contexts, the API client, the output."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from edgefleet_cli.core.clock import SystemClock
from edgefleet_cli.core.contexts import Context, ContextFile, load_contexts
from edgefleet_cli.core.errors import DeclinedError, UsageError
from edgefleet_cli.core.options import META_KEY, GlobalOptions, resolve
from edgefleet_cli.render.output import Output

if TYPE_CHECKING:
    from edgefleet_cli.core.ci_identity import JobToken
    from edgefleet_cli.core.transport.api_client import ApiClient

_SESSION_KEY = "edgefleet_cli.core.session"


@dataclass
class Session:
    """One run of `edgectl`; parts are made when first used, so that `--help` and `version` stay fast."""

    options: GlobalOptions
    clock: SystemClock = field(default_factory=SystemClock)

    @classmethod
    def of(cls, ctx: Any) -> Session:
        """Return the session of this invocation."""
        session = ctx.meta.get(_SESSION_KEY)
        if session is None:
            session = cls(resolve(ctx.meta.get(META_KEY, {})))
            ctx.meta[_SESSION_KEY] = session
            ctx.find_root().call_on_close(session.close)
        assert isinstance(session, Session)
        return session

    @cached_property
    def out(self) -> Output:
        """Return the output in the format that was asked for."""
        return Output(self.options.output, color=self.options.color, quiet=self.options.quiet)

    @cached_property
    def contexts(self) -> ContextFile:
        """Return the saved contexts."""
        return load_contexts()

    @cached_property
    def context(self) -> Context | None:
        """Return the saved context this run uses, if any."""
        return self.contexts.get(self.options.context)

    @property
    def server(self) -> str:
        """Return the server's base URL. Raises UsageError when none is set."""
        if self.options.server:
            return self.options.server.rstrip("/")
        if self.context is not None:
            return self.context.server
        raise UsageError(
            "no server is set",
            why="there is no --server, no EDGECTL_SERVER and no saved context",
            next_step="run `edgectl login URL`, or try `edgectl demo`",
        )

    @property
    def token(self) -> str | None:
        """Return the operator token; a context's token is shown only to that context's server."""
        if self.options.token:
            return self.options.token
        if self.context is not None and self.context.server == self.server:
            return self.context.token
        return None

    @property
    def ca_file(self) -> str | None:
        """Return the file of the CA of a context's server, None for another server and where none was given."""
        return self.context.ca_file if self.context is not None and self.context.server == self.server else None

    @cached_property
    def api(self) -> ApiClient:
        """Return the client of the chosen server."""
        from edgefleet_cli.core.transport.api_client import ApiClient

        return ApiClient(
            self.server,
            self.token,
            ca_file=self.ca_file,
            request_timeout_s=self.options.timeout_s,
            debug=self.options.debug,
            source=self.job_token(),
        )

    def job_token(self) -> JobToken | None:
        """Return what gives tokens by the ID token of the job of CI that this runs in, None outside of one."""
        from edgefleet_cli.core.ci_identity import JobToken, job_of

        job = job_of(os.environ)
        return None if job is None else JobToken(job, self.clock, self.out.note)

    @property
    def may_ask(self) -> bool:
        """Tell whether a question can be asked."""
        return not self.options.no_input and sys.stdin.isatty() and sys.stderr.isatty()

    def confirm(self, question: str) -> None:
        """Ask before something that cannot be undone. Raises DeclinedError without a clear yes."""
        if self.options.yes:
            return
        if not self.may_ask:
            raise DeclinedError(
                "this needs a confirmation",
                why=f"there is no terminal to ask on: {question}",
                next_step="add --yes",
            )
        sys.stderr.write(f"{question} [y/N] ")
        sys.stderr.flush()
        if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
            raise DeclinedError(
                "cancelled", why="the question was not answered with yes", next_step="nothing was changed"
            )

    def close(self) -> None:
        """Close what was opened."""
        if "api" in self.__dict__:
            self.api.close()
