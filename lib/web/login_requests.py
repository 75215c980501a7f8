"""`/auth/...` for 3D Slicer and the Python client, `/login` and `/logout` for browsers.

The first answers as MONAI Label's own login does, which its clients expect, and works without Keycloak.
"""

import logging
import time
from typing import Annotated

from fastapi import APIRouter, FastAPI, Form, Query, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from monailabel.config import settings
from pydantic import BaseModel

from lib.access.roles import Role
from lib.errors import BadInputError, ForbiddenError, LiverLoopError, LoginError, StorageError, TooManyLoginsError
from lib.store.accounts import LoggedIn
from lib.web.answers import headers_of, status_of
from lib.web.clients import address_of
from lib.web.guard.callers import COOKIE, token_of
from lib.web.login_page import CONTENT_POLICY, login_page, logout_page, safe_path
from lib.web.logins import Logins

logger = logging.getLogger(__name__)

_NOT_KEPT = {"Cache-Control": "no-store"}
_PAGE = {**_NOT_KEPT, "Content-Security-Policy": CONTENT_POLICY, "X-Content-Type-Options": "nosniff",
         "Referrer-Policy": "same-origin"}  # fmt: skip
_REFUSALS = (LoginError, ForbiddenError, TooManyLoginsError, StorageError)


class LoginState(BaseModel):
    """Whether clients must log in; the rest is of an identity provider and empty without one."""

    enabled: bool
    client_id: str
    realm: str


class Token(BaseModel):
    """What a client sends along from now on; all of it is null where nobody must log in."""

    access_token: str | None
    token_type: str | None
    expires_in: int | None = None
    name: str | None = None
    role: Role | None = None


class ValidToken(BaseModel):
    """Whose token it is; without a name where nobody must log in."""

    username: str
    email: str | None = None
    name: str | None = None
    roles: list[Role]


class LoggedOut(BaseModel):
    """Whether a login ended; false where it had ended before, or is one of an identity provider."""

    logged_out: bool


def install_login(app: FastAPI, logins: Logins, *, server: str = "LiverLoop", home: str = "/") -> None:
    """Put our login before MONAI Label's.

    Args:
        app: the server.
        logins: who may use it.
        server: what it is called on the pages.
        home: the path to go to after a login that nothing else asked for.
    """
    routes = APIRouter()

    @routes.get(f"{settings.MONAI_LABEL_API_STR}/auth/", tags=["Auth"])
    def login_state() -> LoginState:
        """Whether clients must log in."""
        return LoginState(enabled=logins.needed(), client_id=logins.client_id or "", realm=logins.issuer or "")

    @routes.post(f"{settings.MONAI_LABEL_API_STR}/auth/token", tags=["Auth"])
    def get_token(
        request: Request,
        response: Response,
        username: Annotated[str, Form()],
        password: Annotated[str, Form()],
        grant_type: Annotated[str, Form()] = "password",
    ) -> Token:
        """Log in with a name and a password; send the token as `Authorization: Bearer TOKEN` from then on."""
        response.headers.update(_NOT_KEPT)
        if grant_type != "password":
            msg = f"grant_type = {grant_type[:40]!r} can't be used; send password"
            raise BadInputError(msg)
        if not logins.needed():
            return Token(access_token=None, token_type=None)
        given = logins.login(username, password, address_of(request))
        return Token(
            access_token=given.token,
            token_type="bearer",
            expires_in=_seconds_left(given),
            name=given.name,
            role=given.role,
        )

    @routes.get(f"{settings.MONAI_LABEL_API_STR}/auth/token/valid", tags=["Auth"])
    def check_token(request: Request, response: Response) -> ValidToken:
        """Whose token was sent, if it still counts."""
        response.headers.update(_NOT_KEPT)
        if not logins.needed():
            return ValidToken(username="", roles=list(Role))
        found = logins.who(token_of(request.headers) or "")
        return ValidToken(username=found.name, name=found.name, roles=[role for role in Role if role <= found.role])

    @routes.post(f"{settings.MONAI_LABEL_API_STR}/auth/logout", tags=["Auth"])
    def end_token(request: Request) -> LoggedOut:
        """End the token that is sent."""
        return LoggedOut(logged_out=logins.logout(token_of(request.headers) or "", address_of(request)))

    @routes.get("/login", tags=["Auth"], response_class=HTMLResponse)
    def show_login(next_path: Annotated[str, Query(alias="next")] = "") -> Response:
        """The page to log in with a browser; `next` is the path to go to afterwards."""
        path = safe_path(next_path, home)
        if not logins.needed():
            return RedirectResponse(path, 303, _NOT_KEPT)
        return HTMLResponse(login_page(server, path), headers=_PAGE)

    @routes.post("/login", tags=["Auth"], response_class=RedirectResponse, status_code=303)
    def submit_login(
        request: Request,
        name: Annotated[str, Form()] = "",
        password: Annotated[str, Form()] = "",
        next_path: Annotated[str, Form(alias="next")] = "",
    ) -> Response:
        """Log in with a browser, which keeps the token as a cookie that pages can't read."""
        path = safe_path(next_path, home)
        if not logins.needed():
            return RedirectResponse(path, 303, _NOT_KEPT)
        try:
            given = logins.login(name, password, address_of(request))
        except _REFUSALS as error:
            headers = _PAGE | headers_of(error)
            return HTMLResponse(login_page(server, path, name, _sentence(error)), status_of(error), headers)
        answer = RedirectResponse(path, 303, _NOT_KEPT)
        answer.set_cookie(
            COOKIE, given.token, max_age=_seconds_left(given), httponly=True, samesite="lax", secure=_is_safe(request)
        )
        return answer

    @routes.get("/logout", tags=["Auth"], response_class=HTMLResponse)
    def show_logout() -> Response:
        """The page to log out with a browser."""
        return HTMLResponse(logout_page(server), headers=_PAGE)

    @routes.post("/logout", tags=["Auth"], response_class=RedirectResponse, status_code=303)
    def submit_logout(request: Request) -> Response:
        """Log out with a browser."""
        token = token_of(request.headers)
        if token:
            logins.logout(token, address_of(request))
        answer = RedirectResponse("/login", 303, _NOT_KEPT)
        answer.delete_cookie(COOKIE, httponly=True, samesite="lax", secure=_is_safe(request))
        return answer

    app.include_router(routes)
    app.router.routes.insert(0, app.router.routes.pop())  # the first route that matches answers


def warn_unless_guarded(app: FastAPI) -> None:
    """Say in the log what a server lacks that plain `monailabel start_server` runs."""
    if not getattr(app.state, "guarded", False):
        logger.warning(
            "this server was not started by scripts/serve: nobody is asked to log in, whatever access.login says, and "
            "requests are not checked before MONAI Label sees them; whoever reaches it can read and change everything"
        )


def _seconds_left(given: LoggedIn) -> int:
    return max(1, int(given.expires_at - time.time()))


def _is_safe(request: Request) -> bool:
    """Whether it came by https; of a proxy on this machine uvicorn believes that it did."""
    return request.url.scheme == "https"


def _sentence(error: LiverLoopError) -> str:
    text = str(error)
    return f"{text[:1].upper()}{text[1:]}."
