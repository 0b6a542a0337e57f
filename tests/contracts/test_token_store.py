"""What every token store must hold, on each database."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Engine, select

from latency_service.core.errors import ConflictError, OptionError, TokenError
from latency_service.storage.engine import reading
from latency_service.storage.tables import tokens
from latency_service.storage.tokens import TokenStore


@pytest.fixture
def store(engine: Engine) -> TokenStore:
    return TokenStore(engine)


class TestTokenStore:
    def test_a_token_may_do_what_its_scope_says(self, store: TokenStore):
        _, calibrate = store.create("lab")
        _, read = store.create("reader", scope="read")
        assert calibrate.startswith("lst_")
        assert store.check(calibrate, "calibrate").name == "lab"
        assert store.check(calibrate, "read").name == "lab"
        assert store.check(read, "read").name == "reader"
        assert store.check(read, None).name == "reader"
        with pytest.raises(TokenError, match="for 'read' only, and this needs 'calibrate'"):
            store.check(read, "calibrate")

    @pytest.mark.parametrize("secret", [None, ""])
    def test_none_says_how_to_send_one(self, store: TokenStore, secret: str | None):
        with pytest.raises(TokenError, match="Authorization: Bearer"):
            store.check(secret, "read")

    @pytest.mark.parametrize("secret", ["lst_wrong", "a\x00b", "\ud800", "é" * 1000])
    def test_an_unknown_one_is_not_repeated(self, store: TokenStore, secret: str):
        store.create("lab")
        with pytest.raises(TokenError, match="not one of this installation") as caught:
            store.check(secret, "read")
        assert secret not in str(caught.value)

    def test_a_revoked_one_no_longer_counts(self, store: TokenStore):
        first, secret = store.create("lab")
        other, other_secret = store.create("other")
        assert store.revoke("lab").id == first
        assert store.revoke(str(other)).revoked_at is not None
        for revoked in (secret, other_secret):
            with pytest.raises(TokenError, match="revoked on"):
                store.check(revoked, "read")

        moment = store.list()[0].revoked_at
        assert store.revoke(first).revoked_at == moment
        with pytest.raises(TokenError, match="tokens list"):
            store.revoke("lab")
        with pytest.raises(TokenError, match="tokens list"):
            store.revoke(10**30)

    def test_live_names_are_unique_and_free_again_after(self, store: TokenStore):
        store.create("lab")
        with pytest.raises(ConflictError, match="tokens revoke lab"):
            store.create(" lab ")
        store.revoke("lab")
        _, secret = store.create("lab")
        assert store.check(secret, "calibrate").name == "lab"
        assert [(t.name, t.revoked_at is None) for t in store.list()] == [
            ("lab", False), ("lab", True)
        ]  # fmt: skip

    def test_one_of_many_at_once_gets_the_name(self, store: TokenStore):
        def create(_: int) -> bool:
            try:
                store.create("lab")
            except ConflictError:
                return False
            return True

        with ThreadPoolExecutor(5) as pool:
            assert sum(pool.map(create, range(7))) == 1

    @pytest.mark.parametrize("name", ["", " ", "7", "a\x00b", "a\nb"])
    def test_an_impossible_name_is_refused(self, store: TokenStore, name: str):
        with pytest.raises(OptionError, match="printable"):
            store.create(name)

    def test_an_unknown_scope_is_refused(self, store: TokenStore):
        with pytest.raises(OptionError, match="read, calibrate"):
            store.create("lab", scope="admin")

    def test_the_secret_is_kept_nowhere(self, store: TokenStore, engine: Engine):
        _, secret = store.create("lab")
        with reading(engine) as connection:
            row = connection.execute(select(tokens)).one()
        assert secret not in str(row)
        assert secret.removeprefix("lst_") not in str(store.list())
