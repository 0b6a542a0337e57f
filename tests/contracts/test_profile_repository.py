"""What every profile repository must hold, on each database."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Barrier
from typing import Any

import pytest
from sqlalchemy import Engine, exc, text

from latency_service.core.errors import (
    ConflictError,
    ProfileError,
    UnknownDeviceError,
    UnknownRevisionError,
)
from latency_service.storage.engine import make_engine, writing
from latency_service.storage.profiles import ProfileRepository
from latency_service.storage.samples import Elsewhere
from latency_service.storage.seeds import read_profiles
from tests.contracts.builders import profile


@pytest.fixture
def repository(engine: Engine) -> ProfileRepository:
    return ProfileRepository(engine)


class TestAppending:
    def test_numbers_count_per_device_over_all_runtimes(self, repository: ProfileRepository):
        assert repository.append(profile(), "datasheet")[0].revision == 1
        assert repository.append(profile(runtime="pytorch-eager-cuda"), "measured")[0].revision == 2
        assert repository.append(profile("p100"), "datasheet")[0].revision == 1
        assert repository.append(profile(flops_per_s=14e12), "datasheet")[0].revision == 3

    def test_a_revision_reads_back_as_it_was_appended(self, repository: ProfileRepository):
        facts = {
            "memory_bytes": {"value": 17179869184, "origin": "datasheet", "source": "µ \U0001f600"}
        }
        sent = profile(facts=facts, notes="two\nlines", flops_per_s=1.2345678901234567e13)
        before = datetime.now(UTC) - timedelta(seconds=1)
        appended, created = repository.append(sent, "datasheet")

        read = repository.get("v100-sxm2-16gb", 1)
        assert created
        assert read == appended
        assert read.profile == sent
        assert read.digest == read.profile.digest == sent.digest
        assert before < read.created_at < datetime.now(UTC) + timedelta(seconds=1)
        assert read.created_at.utcoffset() == timedelta(0)

    def test_the_same_profile_is_kept_once(self, repository: ProfileRepository):
        first, created = repository.append(profile(), "datasheet")
        repository.append(profile(flops_per_s=14e12), "datasheet")
        again, created_again = repository.append(profile(), "measured", samples=[{"s": 1}])

        assert (created, created_again) == (True, False)
        assert again == first
        assert again.origin == "datasheet"
        assert repository.samples("v100-sxm2-16gb", 1) is None

    def test_many_at_once_number_without_a_gap(self, repository: ProfileRepository):
        threads, each = 7, 5
        barrier = Barrier(threads)

        def append(thread: int) -> list[int]:
            barrier.wait()
            return [
                repository.append(profile(flops_per_s=1e12 + thread * each + n), "measured")[
                    0
                ].revision
                for n in range(each)
            ]

        with ThreadPoolExecutor(threads) as pool:
            numbers = [n for of_thread in pool.map(append, range(threads)) for n in of_thread]
        assert sorted(numbers) == list(range(1, threads * each + 1))
        assert repository.epoch() > 0
        newest = repository.history("v100-sxm2-16gb")
        assert [r.revision for r in newest] == list(range(threads * each, 0, -1))

    def test_the_same_one_many_times_at_once_is_new_once(self, repository: ProfileRepository):
        with ThreadPoolExecutor(5) as pool:
            answers = list(pool.map(lambda _: repository.append(profile(), "datasheet"), range(11)))
        assert sum(created for _, created in answers) == 1
        assert {revision.revision for revision, _ in answers} == {1}

    @pytest.mark.parametrize(
        ("bad", "says"),
        [
            (profile(notes="a\x00b"), "NUL"),
            (profile(notes="\ud800"), "JSON"),
            (profile(flops_per_s=float("nan")), "JSON"),
            (profile("V100"), "lower case"),
            (profile(aliases=(" ",)), "alias"),
        ],
    )
    def test_what_a_database_cannot_keep_is_refused(
        self, repository: ProfileRepository, bad, says: str
    ):
        with pytest.raises(ProfileError, match=says):
            repository.append(bad, "datasheet")
        assert repository.epoch() == 0

    def test_a_misspelt_origin_is_refused(self, repository: ProfileRepository):
        with pytest.raises(ProfileError, match="datasheet, published, measured"):
            repository.append(profile(), "meassured")

    def test_a_backslash_before_u0000_is_no_nul(self, repository: ProfileRepository):
        sent = profile(notes=r"a\u0000b")
        repository.append(sent, "datasheet")
        assert repository.get("v100-sxm2-16gb", 1).profile == sent


class TestAppendOnly:
    @pytest.mark.parametrize(
        "statement",
        [
            "UPDATE revisions SET origin = 'x'",
            "DELETE FROM revisions",
            "UPDATE samples SET source = 'x'",
            "DELETE FROM samples",
        ],
    )
    def test_the_database_refuses_update_and_delete(
        self, repository: ProfileRepository, engine: Engine, statement: str
    ):
        repository.append(profile(), "measured", samples=[{"seconds": 1e-6}])
        with pytest.raises(exc.IntegrityError, match="append-only"), writing(engine) as connection:
            connection.execute(text(statement))
        assert repository.get("v100-sxm2-16gb", 1).origin == "measured"

    def test_the_database_refuses_to_empty_or_replace(
        self, repository: ProfileRepository, engine: Engine
    ):
        repository.append(profile(), "measured", samples=[{"seconds": 1e-6}])
        columns = "device, revision, runtime, digest, origin, created_at, profile"
        statements = (
            ["TRUNCATE samples", "TRUNCATE revisions CASCADE"]
            if engine.dialect.name == "postgresql"
            else [
                f"INSERT OR REPLACE INTO revisions ({columns}) "
                f"SELECT {columns.replace('origin', repr('x'), 1)} FROM revisions",
                "REPLACE INTO samples SELECT revision_id, body, 'x', digest FROM samples",
            ]
        )
        for statement in statements:
            with (
                pytest.raises(exc.IntegrityError, match="append-only"),
                writing(engine) as connection,
            ):
                connection.execute(text(statement))


class TestNames:
    def test_a_device_is_found_by_slug_and_alias_in_any_case(self, repository: ProfileRepository):
        repository.append(profile(aliases=("v100", "Tesla-V100")), "datasheet")
        for name in ("v100-sxm2-16gb", "V100", " tesla-v100\n"):
            assert repository.resolve(name) == "v100-sxm2-16gb"
            assert repository.catalogue().resolve(name) == "v100-sxm2-16gb"

    @pytest.mark.parametrize("name", ["v10", "v100\x00", "", "'; DROP TABLE devices"])
    def test_an_unknown_name_says_how_to_list_devices(
        self, repository: ProfileRepository, name: str
    ):
        repository.append(profile(aliases=("v100",)), "datasheet")
        for lookup in (repository, repository.catalogue()):
            with pytest.raises(UnknownDeviceError, match="GET /v1/devices") as caught:
                lookup.resolve(name)
            assert ("Did you mean v100" in str(caught.value)) == name.startswith("v10")

    def test_a_later_revision_adds_aliases(self, repository: ProfileRepository):
        repository.append(profile(aliases=("v100",)), "datasheet")
        repository.append(profile(aliases=("volta",)), "datasheet")
        assert repository.catalogue().aliases("volta") == ("v100", "volta")

    @pytest.mark.parametrize(
        ("newcomer", "says"),
        [
            (
                profile("p100", aliases=("V100",)),
                "alias 'v100' of device 'p100' is already an alias",
            ),
            (profile("p100", aliases=("v100-sxm2-16gb",)), "already a device 'v100-sxm2-16gb'"),
            (profile("v100"), "'v100' cannot be made: 'v100' is already an alias of device"),
        ],
    )
    def test_a_name_of_another_device_is_a_conflict(
        self, repository: ProfileRepository, newcomer, says: str
    ):
        repository.append(profile(aliases=("v100",)), "datasheet")
        with pytest.raises(ConflictError, match=says) as caught:
            repository.append(newcomer, "datasheet")
        assert "v100-sxm2-16gb" in str(caught.value)
        assert repository.catalogue().devices() == ("v100-sxm2-16gb",)


class TestLookingUp:
    def test_a_revision_is_found_by_number_digest_and_prefix(self, repository: ProfileRepository):
        repository.append(profile(aliases=("v100",)), "datasheet")
        second = repository.append(profile(flops_per_s=14e12), "datasheet")[0]
        bare = second.digest.removeprefix("sha256:")
        for name in (2, "2", " 2 ", second.digest, bare, bare[:12], second.digest[:19].upper()):
            assert repository.get("V100", name) == second

    @pytest.mark.parametrize(
        "revision",
        [0, 2, -1, 2**31, 10**30, "2", "99999999999", "9" * 64, "sha256:", "sha256:0", "abc", "",
         "%", "sha256:000000000000", "1\x00", "²"],
    )  # fmt: skip
    def test_an_unknown_revision_says_which_there_are(
        self, repository: ProfileRepository, revision: int | str
    ):
        repository.append(profile(), "datasheet")
        with pytest.raises(UnknownRevisionError, match="it has 1 to 1"):
            repository.get("v100-sxm2-16gb", revision)

    def test_another_devices_digest_is_unknown(self, repository: ProfileRepository):
        repository.append(profile(), "datasheet")
        other = repository.append(profile("p100"), "datasheet")[0]
        with pytest.raises(UnknownRevisionError):
            repository.get("v100-sxm2-16gb", other.digest)

    def test_latest_is_per_runtime(self, repository: ProfileRepository):
        repository.append(profile(), "datasheet")
        newer = repository.append(profile(flops_per_s=14e12), "datasheet")[0]
        eager = repository.append(profile(runtime="pytorch-eager-cuda"), "published")[0]

        for lookup in (repository, repository.catalogue()):
            assert lookup.latest("v100-sxm2-16gb", "ideal") == newer
            assert lookup.latest("v100-sxm2-16gb", "pytorch-eager-cuda") == eager
            found = lookup.runtimes("v100-sxm2-16gb")
            assert list(found.items()) == [("ideal", newer), ("pytorch-eager-cuda", eager)]
            with pytest.raises(UnknownRevisionError, match="ideal, pytorch-eager-cuda"):
                lookup.latest("v100-sxm2-16gb", "morphnet")
            with pytest.raises(UnknownDeviceError):
                lookup.runtimes("p100")

    def test_samples_come_back_with_their_source_and_digest(self, repository: ProfileRepository):
        measured: list[dict[str, Any]] = [{"op": "Conv", "seconds": [1e-6, 2e-6]}, {"op": "Gemm"}]
        repository.append(profile(), "measured", samples=measured)
        repository.append(profile(runtime="eager"), "published", [], "a paper", "sha256:file")
        repository.append(profile(runtime="other"), "datasheet")

        own = repository.samples("v100-sxm2-16gb", 1)
        assert own is not None
        assert own["samples"] == measured
        assert own["source"] == "measured"
        assert own["digest"].startswith("sha256:")
        assert repository.samples("v100-sxm2-16gb", "2") == {
            "samples": [], "source": "a paper", "digest": "sha256:file"
        }  # fmt: skip
        assert repository.samples("v100-sxm2-16gb", 3) is None
        with pytest.raises(UnknownRevisionError):
            repository.samples("v100-sxm2-16gb", 5)

    def test_samples_that_json_cannot_hold_leave_nothing_behind(
        self, repository: ProfileRepository
    ):
        with pytest.raises(ProfileError, match="samples"):
            repository.append(profile(), "measured", samples=[{"seconds": float("inf")}])
        assert repository.catalogue().devices() == ()


class TestCatalogue:
    def test_epoch_tells_when_it_is_out_of_date(self, repository: ProfileRepository):
        empty = repository.catalogue()
        assert (empty.epoch, repository.epoch(), empty.devices()) == (0, 0, ())
        repository.append(profile(), "datasheet")
        catalogue = repository.catalogue()
        assert catalogue.epoch == repository.epoch() > 0
        repository.append(profile(), "datasheet")
        assert catalogue.epoch == repository.epoch()
        repository.append(profile(flops_per_s=14e12), "datasheet")
        assert catalogue.epoch < repository.epoch()
        assert catalogue.default("v100-sxm2-16gb").revision == 1

    @pytest.mark.parametrize(
        ("kind", "revisions", "default"),
        [
            ("gpu", [("ideal", "datasheet")], 1),
            ("gpu", [("morphnet", "datasheet"), ("ideal", "datasheet")], 2),
            ("gpu", [("ideal", "datasheet"), ("pytorch-eager-cuda", "published")], 1),
            ("gpu", [("ideal", "datasheet"), ("pytorch-eager-cuda", "measured")], 2),
            ("cpu", [("ideal", "datasheet"), ("onnxruntime-cpu-1-thread", "measured")], 2),
            ("cpu", [("ideal", "datasheet"), ("onnxruntime-cpu-2-threads", "measured")], 1),
            ("cpu", [("ideal", "datasheet"), ("onnxruntime-cpu-11-threads", "measured")], 1),
            ("cpu", [("ideal", "datasheet"), ("onnxruntime-cpu-11-thread", "measured")], 1),
            ("gpu", [("ideal", "datasheet"), ("onnxruntime-cpu-4-threads", "measured")], 1),
            ("cpu", [("ideal", "datasheet"), ("pytorch-eager-cpu", "measured")], 1),
            ("npu", [("ideal", "datasheet"), ("tflite", "measured")], 2),
            ("gpu", [("ideal", "datasheet"), ("a", "measured"), ("b", "measured")], 3),
            ("gpu", [("ideal", "datasheet"), ("a", "measured"), ("b", "measured"),
                     ("a", "measured")], 4),
            ("gpu", [("ideal", "datasheet"), ("a", "measured"), ("ideal", "datasheet")], 2),
            ("gpu", [("ideal", "datasheet"), ("a", "measured"), ("a", "published")], 2),
            ("cpu", [("x-8-threads", "measured"), ("y", "published")], 1),
            ("gpu", [("x", "published"), ("y", "published"), ("x", "published")], 3),
        ],
    )  # fmt: skip
    def test_the_default_is_ideal_until_measured_here(
        self, repository: ProfileRepository, kind: str, revisions, default: int
    ):
        for n, (runtime, origin) in enumerate(revisions, start=1):
            repository.append(profile(runtime=runtime, kind=kind, flops_per_s=n), origin)
        catalogue = repository.catalogue()
        assert catalogue.default("V100-sxm2-16gb").revision == default
        assert catalogue.default_runtime("v100-sxm2-16gb") == revisions[default - 1][0]


class TestSeeding:
    def test_seeding_twice_appends_once(self, repository: ProfileRepository):
        seeds = [profile(f"device-{n}", aliases=(f"d{n}",)) for n in range(13)]
        assert repository.seed([*seeds, seeds[0]]) == 13
        epoch = repository.epoch()
        assert repository.seed(seeds) == 0
        assert repository.epoch() == epoch
        assert repository.seed([*seeds, profile("device-1", "morphnet")]) == 1
        assert repository.get("D1", 2).runtime == "morphnet"

    def test_seeds_say_where_their_samples_are_published(self, repository: ProfileRepository):
        seeds = [profile("a", "pytorch-eager-cuda"), profile("b", "pytorch-eager-cuda")]
        keys = [(p.device.slug, p.runtime, p.digest) for p in seeds]
        assert repository.has_all([])
        assert not repository.has_all(keys)

        repository.seed(seeds, "published", [Elsewhere(n, f"sha256:{n}") for n in ("x", "y")])

        assert repository.has_all(keys)
        assert not repository.has_all([*keys, ("a", "ideal", keys[0][2])])
        assert repository.get("b", 1).origin == "published"
        assert repository.samples("b", 1) == {"samples": [], "source": "y", "digest": "sha256:y"}

    def test_all_or_none(self, repository: ProfileRepository):
        clash = [profile("a", aliases=("x",)), profile("b", aliases=("x",))]
        with pytest.raises(ConflictError):
            repository.seed(clash)
        assert repository.catalogue().devices() == ()

    def test_several_at_once_append_once(self, engine: Engine):
        seeds = [profile(f"device-{n}") for n in range(17)]
        barrier = Barrier(3)

        def seed(_: int) -> int:
            # As another process has it: an engine of its own.
            own = make_engine(engine.url.render_as_string(hide_password=False))
            barrier.wait()
            try:
                return ProfileRepository(own).seed(seeds)
            finally:
                own.dispose()

        with ThreadPoolExecutor(3) as pool:
            assert sorted(pool.map(seed, range(3))) == [0, 0, 17]
        assert len(ProfileRepository(engine).catalogue().devices()) == 17

    def test_the_shipped_profiles_read_back_whole(self, repository: ProfileRepository):
        shipped = read_profiles()
        assert repository.seed(shipped) == len(shipped)
        catalogue = repository.catalogue()
        for sent in shipped:
            kept = catalogue.latest(sent.device.slug, sent.runtime)
            assert kept.profile == sent
            assert kept.digest == kept.profile.digest
            for alias in sent.device.aliases:
                assert catalogue.resolve(alias) == sent.device.slug
        assert repository.seed(shipped) == 0
