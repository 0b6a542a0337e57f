"""Bearer tokens: who may append, and where reads are closed, who may read."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Engine, insert, select, update
from sqlalchemy.exc import IntegrityError

from latency_service.core.errors import ConflictError, OptionError, TokenError
from latency_service.storage.engine import reading, writing
from latency_service.storage.tables import tokens

# What a token of each scope may do, itself included.
SCOPES = {"read": frozenset({"read"}), "calibrate": frozenset({"read", "calibrate"})}

# Makes a leaked token recognisable, to people and to scanners of repositories.
_PREFIX = "lst_"

# Never the hash.
_SELECT = select(
    tokens.c.id, tokens.c.name, tokens.c.scope, tokens.c.created_at, tokens.c.revoked_at
)


@dataclass(frozen=True, slots=True)
class Token:
    """What is known about a token; its secret is not.

    Attributes:
        scope: "calibrate" (append and read) or "read".
        revoked_at: None while it is live.
    """

    id: int
    name: str
    scope: str
    created_at: datetime
    revoked_at: datetime | None


class TokenStore:
    """The tokens of an installation, over one database; only hashes are kept.

    It can be shared among threads and processes. A token is valid from the moment `create` returns
    until the moment `revoke` does. Every method raises DatabaseError if the database cannot be
    used.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def create(self, name: str, scope: str = "calibrate") -> tuple[int, str]:
        """Make a token.

        Args:
            name: whose it is; no two live tokens have the same.
            scope: "calibrate" or "read".

        Returns:
            Its id, and the secret, which is shown this once.

        Raises:
            ConflictError: if a live token has that name.
            OptionError: if the name or the scope is impossible.
        """
        name = name.strip()
        if not name.isprintable() or not name or name.isdecimal():
            raise OptionError(
                f"token name {name!r} must be printable and not a number, as in 'lab-v100'"
            )
        if scope not in SCOPES:
            raise OptionError(f"token scope {scope!r} is none of {', '.join(SCOPES)}")
        secret = _PREFIX + secrets.token_urlsafe(32)
        row = {
            "name": name,
            "hash": _hash(secret),
            "scope": scope,
            "created_at": datetime.now(UTC),
        }
        try:
            with writing(self._engine) as connection:
                new_id = connection.execute(
                    insert(tokens).values(row).returning(tokens.c.id)
                ).scalar_one()
        except IntegrityError as error:
            raise ConflictError(
                f"a live token is already called {name!r}. Choose another name, or revoke that "
                f"one: latency-service tokens revoke {name}"
            ) from error
        return new_id, secret

    def list(self) -> list[Token]:
        """Every token, the revoked ones too, oldest first."""
        with reading(self._engine) as connection:
            return [_token(row) for row in connection.execute(_SELECT.order_by(tokens.c.id))]

    def revoke(self, token: int | str) -> Token:
        """End a token; one that was revoked before stays as it is.

        Args:
            token: its id, or the name of a live one.

        Raises:
            TokenError: if there is none.
        """
        text = str(token).strip()
        with writing(self._engine) as connection:
            # Names are compared here and not in SQL: PostgreSQL takes no NUL in a text.
            every = [_token(row) for row in connection.execute(_SELECT)]
            found = next(
                (t for t in every if str(t.id) == text or (t.name == text and not t.revoked_at)),
                None,
            )
            if found is None:
                raise TokenError(
                    f"no live token is called {text!r}, and none has that id. List them with: "
                    "latency-service tokens list"
                )
            if found.revoked_at is None:
                found = replace(found, revoked_at=datetime.now(UTC))
                connection.execute(
                    update(tokens)
                    .where(tokens.c.id == found.id)
                    .values(revoked_at=found.revoked_at)
                )
        return found

    def check(self, secret: str | None, scope: str | None) -> Token:
        """The token of a secret, if it may do what `scope` says; None: any live token may.

        Raises:
            TokenError: if there is no secret, or it is unknown, revoked, or of a lesser scope.
        """
        if not secret:
            raise TokenError(
                "this needs a token and none was sent. Send the header 'Authorization: Bearer "
                f"{_PREFIX}...'; make one with: latency-service tokens create NAME"
            )
        with reading(self._engine) as connection:
            row = connection.execute(_SELECT.where(tokens.c.hash == _hash(secret))).one_or_none()
        if row is None:
            raise TokenError(
                "the token that was sent is not one of this installation. Check that it was copied "
                "whole, or make one with: latency-service tokens create NAME"
            )
        token = _token(row)
        if token.revoked_at is not None:
            raise TokenError(
                f"the token that was sent was revoked on {token.revoked_at:%Y-%m-%d}. Make another "
                "with: latency-service tokens create NAME"
            )
        if scope is not None and scope not in SCOPES[token.scope]:
            raise TokenError(
                f"the token that was sent is for {token.scope!r} only, and this needs {scope!r}. "
                f"Make one with: latency-service tokens create NAME --scope {scope}"
            )
        return token


def _hash(secret: str) -> str:
    # One round of SHA-256: slow hashes protect secrets that can be guessed, and 256 random bits
    # cannot be. The database compares hashes, whose timing tells nothing about the secret.
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _token(row: Any) -> Token:
    return Token(row.id, row.name, row.scope, row.created_at, row.revoked_at)
