"""Bodies of the routes of trusted pipelines."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field

from edgefleet_server.access.grants.schemas import GrantOut, RolesIn
from edgefleet_server.access.model import NewToken, Role
from edgefleet_server.access.openid.id_tokens import MAX_CHARS
from edgefleet_server.access.trusted_pipelines.model import ISSUERS, Provider, TrustedPipeline


class PipelineIn(RolesIn):
    """A pipeline to trust. issuer "": the provider's own; repository_id "": of the first token; environment, workflow "": any.

    roles, scoped: one of the two is needed. models, groups, sites: where roles are good, none: everywhere; a viewer sees the whole fleet.
    """

    name: str = Field(min_length=1, max_length=63, pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$")
    provider: Provider
    repository: str = Field(min_length=3, max_length=200)
    ref: str = Field(min_length=11, max_length=255)
    issuer: str = Field(default="", max_length=255)
    repository_id: str = Field(default="", max_length=20)
    environment: str = Field(default="", max_length=255)
    workflow: str = Field(default="", max_length=255)

    def rule(self, by: str, at: datetime) -> TrustedPipeline:
        """Return the rule."""
        return TrustedPipeline(
            name=self.name,
            provider=self.provider,
            issuer=self.issuer or ISSUERS[self.provider],
            repository=self.repository,
            repository_id=self.repository_id,
            ref=self.ref,
            environment=self.environment,
            workflow=self.workflow,
            roles=self.over_all(),
            scoped=self.in_parts(),
            created_at=at,
            created_by=by,
        )


class PipelineOut(BaseModel):
    """A trusted pipeline. service: the owner of its tokens; repository_id "": it has had none yet.

    roles: over the whole fleet; scoped: grants of a part of it.
    """

    name: str
    provider: Provider
    issuer: str
    repository: str
    repository_id: str
    ref: str
    environment: str
    workflow: str
    roles: list[Role]
    scoped: list[GrantOut]
    service: str
    created_at: datetime
    created_by: str
    last_used_at: datetime | None

    @classmethod
    def of(cls, pipeline: TrustedPipeline) -> "PipelineOut":
        """Return the body of a trusted pipeline."""
        own = {name: getattr(pipeline, name) for name in cls.model_fields if name != "scoped"}
        return cls(**own, scoped=[GrantOut.of(one) for one in pipeline.scoped])


class IdTokenIn(BaseModel):
    """An ID token to exchange. pipeline: the trusted pipeline it is for, "" = the one that matches."""

    model_config = ConfigDict(extra="forbid")

    id_token: str = Field(min_length=1, max_length=MAX_CHARS)
    pipeline: str = Field(default="", max_length=63)


class PipelineTokenOut(BaseModel):
    """An operator token for a job. name: what the audit trail calls the job; token is shown this once.

    roles: over the whole fleet; scoped: grants of a part of it.
    """

    id: str
    name: str
    pipeline: str
    roles: list[Role]
    scoped: list[GrantOut]
    expires_at: datetime
    token: str

    @classmethod
    def of(cls, made: NewToken, pipeline: TrustedPipeline) -> "PipelineTokenOut":
        """Return the body of a token just made."""
        view = made.view
        assert view.expires_at is not None
        roles = list(view.roles)
        return cls(
            id=view.id,
            name=view.name,
            pipeline=pipeline.name,
            roles=roles,
            scoped=[GrantOut.of(one) for one in view.scoped],
            expires_at=view.expires_at,
            token=made.token,
        )
