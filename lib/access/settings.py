"""Who may use the server: the keys of the access part of `app.yaml`."""

import re
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, IPvAnyNetwork, field_validator, model_validator

from lib.access.provider import Provider
from lib.access.roles import role_named
from lib.errors import SettingsError

_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")


class OidcSettings(BaseModel):
    """An identity provider whose tokens count beside our own; no issuer: none."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    issuer: str = Field(default="", description="address, as it stands in its tokens")
    audience: str = Field(default="", description="`aud` of its tokens for this server")
    role_claim: str = Field(default="realm_access.roles", min_length=1)
    name_claim: str = Field(default="preferred_username", min_length=1)
    roles: dict[Literal["annotator", "reviewer", "admin"], tuple[str, ...]] = Field(
        default={}, description="for each of our roles the provider's names of it"
    )
    certificates: str = Field(default="", description="PEM file; empty: the authorities that the system trusts")
    client_id: str = Field(default="", description="of this server there, to log in with a password; empty: not so")

    @model_validator(mode="after")
    def _is_a_provider(self) -> "OidcSettings":
        try:
            self.provider()
        except SettingsError as error:
            raise ValueError(str(error).removeprefix("access.oidc.")) from error
        return self

    def provider(self) -> Provider | None:
        """The identity provider; None where none is named.

        Raises:
            SettingsError: it is named by half, or not by an https address.
        """
        if not self.issuer:
            return None
        return Provider(
            self.issuer,
            self.audience,
            self.role_claim,
            {role_named(role): names for role, names in self.roles.items()},
            self.name_claim,
            Path(self.certificates) if self.certificates else None,
            self.client_id,
        )


class AccessSettings(BaseModel):
    """Who may use the server."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    login: Literal["auto", "required", "off"] = "auto"
    token_hours: float = Field(default=12, gt=0, le=720, allow_inf_nan=False, description="until one logs in again")
    hosts: tuple[str, ...] = Field(default=(), description="names under which the server is reached")
    metrics_from: tuple[IPvAnyNetwork, ...] = Field(
        default=(IPv4Network("127.0.0.1/32"), IPv6Network("::1/128")),
        description="networks whose programs may read /metrics without a login",
    )
    slicer_images: bool = Field(
        default=True, description="3D Slicer gets the image it was just given without its login"
    )
    oidc: OidcSettings = OidcSettings()

    @field_validator("login", mode="before")
    @classmethod
    def _off_is_a_word(cls, login: Any) -> Any:
        return "off" if login is False else login  # `off` without quotes is false in YAML

    @field_validator("token_hours", mode="before")
    @classmethod
    def _switches_are_no_numbers(cls, value: Any) -> Any:
        if isinstance(value, bool):  # in YAML `yes` and `on` are true, which would pass for 1
            msg = "expected a number, not true or false"
            raise ValueError(msg)
        return value

    @field_validator("metrics_from", mode="before")
    @classmethod
    def _networks_are_texts(cls, networks: Any) -> Any:
        if isinstance(networks, list) and not all(isinstance(one, str) for one in networks):
            msg = "give networks as texts such as '10.1.0.0/16'"  # a number would be an address
            raise ValueError(msg)
        return networks

    @field_validator("hosts")
    @classmethod
    def _hosts_are_names(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        for host in hosts:
            if not _HOST.fullmatch(host):
                msg = f"{host[:80]!r} is no name of a machine; give names such as labels.example.org, without a port"
                raise ValueError(msg)
        return tuple(host.lower() for host in hosts)

    @field_validator("oidc", mode="before")
    @classmethod
    def _empty_section_has_defaults(cls, section: Any) -> Any:
        return {} if section is None else section
