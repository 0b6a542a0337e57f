"""Profiles as files: what is read, what is refused, and that writing gives the same back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from latency_service.core.errors import ProfileError
from latency_service.core.profile import (
    ComputeRate,
    Device,
    FusionRules,
    Memory,
    Profile,
    profile_to_json,
)
from latency_service.storage import seeds
from latency_service.storage.seeds import (
    profile_to_toml,
    read_profile_file,
    read_profiles,
    shipped_profiles_folder,
)

BOARD = """
[device]
slug = "board"
aliases = ["plank"]

[device.facts.units]
value = 7
origin = "recalled"
source = "no document seen"

[memory]
bytes_per_s = 11e9
origin = "datasheet"
source = "sheet"

[[compute]]
dtype = "float32"
default = true
flops_per_s = 13e9
origin = "datasheet"
source = "sheet"
"""

MEASURED = """
[runtimes.zeta.memory]
bytes_per_s = 5e9
origin = "measured"
source = "run"

[[runtimes.zeta.compute]]
dtype = "float32"
flops_per_s = 3e9
origin = "measured"
source = "run"

[runtimes.zeta.fusion]
fold = ["BatchNormalization"]
origin = "measured"
"""


def board(runtime: str = "ideal", **changes: Any) -> Profile:
    profile = Profile(
        device=Device("board", "Board", "nobody", "cpu", aliases=("plank",), year=2017),
        runtime=runtime,
        memory=Memory(11e9, "datasheet", "sheet"),
        compute=(
            ComputeRate("float32", "float32", 13e9, "datasheet", "sheet", True, 'a "note" \\ é'),
            ComputeRate("float32", "float16", 17.3e9, "datasheet", "sheet"),
        ),
    )
    return replace(profile, **changes)


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_the_ideal_profile_comes_first_and_runtimes_share_its_device(tmp_path: Path) -> None:
    ideal, measured = read_profile_file(write(tmp_path, "board.toml", BOARD + MEASURED))

    assert (ideal.runtime, ideal.memory.bytes_per_s) == ("ideal", 11e9)
    assert (measured.runtime, measured.memory.bytes_per_s) == ("zeta", 5e9)
    assert measured.device == ideal.device
    assert measured.fusion == FusionRules(fold=("BatchNormalization",), origin="measured")
    assert ideal.fusion is None
    assert ideal.device.facts["units"]["value"] == 7


def test_a_folder_is_read_by_file_name(tmp_path: Path) -> None:
    write(tmp_path, "b.toml", BOARD + MEASURED)
    write(tmp_path, "a.toml", BOARD.replace("board", "abacus").replace("plank", "beads"))
    write(tmp_path, "README.md", "no profile")

    found = [(profile.device.slug, profile.runtime) for profile in read_profiles(tmp_path)]

    assert found == [("abacus", "ideal"), ("board", "ideal"), ("board", "zeta")]


def test_a_device_that_was_only_measured_needs_no_ideal_profile(tmp_path: Path) -> None:
    text = '[device]\nslug = "board"\n' + MEASURED

    assert [p.runtime for p in read_profile_file(write(tmp_path, "x.toml", text))] == ["zeta"]


@pytest.mark.parametrize(
    ("name", "other"),
    [("plank", "alias of both"), ("board", "slug of one, alias of the other")],
)
def test_two_files_that_claim_one_name_are_both_named(
    tmp_path: Path, name: str, other: str
) -> None:
    write(tmp_path, "first.toml", BOARD)
    second = BOARD.replace('"board"', '"other"').replace('"plank"', f'"{name}"')
    write(tmp_path, "second.toml", second)

    with pytest.raises(ProfileError, match=rf"'{name}'.*first\.toml.*second\.toml"):
        read_profiles(tmp_path)


def test_an_alias_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "one.toml", BOARD.replace('["plank"]', '["plank", "Plank"]'))

    with pytest.raises(ProfileError, match=r"'plank'.*one\.toml, twice"):
        read_profiles(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ("bytes_per_s = 11e9", "bytes_per_s = -11e9", "memory.bytes_per_s"),
        ("bytes_per_s = 11e9", "bytes_per_s = inf", "memory.bytes_per_s"),
        ("bytes_per_s = 11e9", "gigabytes_per_s = 11", "memory.gigabytes_per_s"),
        ('origin = "datasheet"', 'origin = "hearsay"', "memory.origin"),
        ('source = "sheet"', 'source = ""', "memory.source"),
        ('source = "sheet"', "", "memory.source"),
        ("flops_per_s = 13e9", 'flops_per_s = "13e9"', "compute[0].flops_per_s"),
        ('dtype = "float32"', 'dtype = "flaot32"', "compute[0].dtype"),
        ('dtype = "float32"', 'dtype = "float32"\nmath = "half"', "compute[0].math"),
        ("default = true", 'default = "no"', "compute[0].default"),
        ('slug = "board"', 'slug = "The Board"', "The Board"),
        ('slug = "board"', 'slug = "board"\nyear = "soon"', "device.year"),
        ('aliases = ["plank"]', 'aliases = "plank"', "device.aliases"),
        ('aliases = ["plank"]', "notes = 3", "device.notes"),
        ("[device.facts.units]", "[device.facts]", "device.facts"),
        ("value = 7", "value = 1984-05-17", "device.facts.units.value"),
        ("[[compute]]", "[[computes]]", "computes"),
        ("[memory]", "[memory", "not TOML"),
    ],
)
def test_a_malformed_file_is_refused_by_file_and_field(
    tmp_path: Path, old: str, new: str, field: str
) -> None:
    assert old in BOARD
    path = write(tmp_path, "board.toml", BOARD.replace(old, new, 1))

    with pytest.raises(ProfileError) as caught:
        read_profiles(tmp_path)
    assert str(path) in str(caught.value)
    assert field in str(caught.value)


@pytest.mark.parametrize(
    ("text", "field"),
    [
        (MEASURED.replace("5e9", "0"), "runtimes.zeta: memory.bytes_per_s"),
        (MEASURED.replace('"BatchNormalization"', "3"), "runtimes.zeta: fusion.fold"),
        (MEASURED.replace("zeta", "ideal"), "runtime 'ideal' is there twice"),
        (MEASURED + '\n[runtimes.zeta.device]\nslug = "other"\n', "runtimes.zeta"),
        ("\n[runtimes]\nzeta = 3\n", "runtimes.zeta must be a table"),
    ],
)
def test_a_malformed_runtime_is_refused_by_its_name(tmp_path: Path, text: str, field: str) -> None:
    path = write(tmp_path, "board.toml", BOARD + text)

    with pytest.raises(ProfileError) as caught:
        read_profile_file(path)
    assert str(path) in str(caught.value)
    assert field in str(caught.value)


def test_a_missing_folder_and_a_missing_file_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match="nowhere"):
        read_profiles(tmp_path / "nowhere")
    with pytest.raises(ProfileError, match=r"nowhere\.toml"):
        read_profile_file(tmp_path / "nowhere.toml")


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "board.toml").write_bytes(b'slug = "\xff"')

    with pytest.raises(ProfileError, match=r"board\.toml cannot be read"):
        read_profiles(tmp_path)


def test_another_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match=r"board\.yaml must end in \.toml or \.json"):
        read_profile_file(write(tmp_path, "board.yaml", ""))


def test_json_holds_one_profile_or_a_list(tmp_path: Path) -> None:
    ideal, measured = board(), board("zeta")
    one = write(tmp_path, "one.json", json.dumps(profile_to_json(ideal)))
    two = write(tmp_path, "two.json", json.dumps([profile_to_json(p) for p in (ideal, measured)]))

    assert read_profile_file(one) == [ideal]
    assert read_profile_file(two) == [ideal, measured]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "not JSON"),
        ("[]", "at least one"),
        ("3", "at least one"),
        ("[3]", r"\[0\] must be a profile"),
        ('{"memory": NaN}', "NaN is not a number"),
        ('[{"device": 3}]', r"\[0\]: device must be a table"),
    ],
)
def test_malformed_json_is_refused_by_file(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(ProfileError, match=rf"board\.json.*{complaint}"):
        read_profile_file(write(tmp_path, "board.json", text))


def test_what_is_written_as_toml_reads_back_equal(tmp_path: Path) -> None:
    device = replace(
        board().device,
        notes='two\nlines, "quotes", a \\ and an é',
        facts={"units": {"value": 7, "origin": "recalled", "source": "no document seen"}},
    )
    profiles = [
        board(device=device),
        board("onnxruntime-cpu-1-thread", device=device, fusion=FusionRules(fuse=("Relu", "Add"))),
        board("torch 2.1", device=device),
    ]

    text = profile_to_toml(reversed(profiles))

    assert read_profile_file(write(tmp_path, "board.toml", text)) == profiles


def test_runtimes_that_were_calibrated_one_by_one_keep_the_facts_that_they_found(
    tmp_path: Path,
) -> None:
    profiles = [
        board(name, device=replace(board().device, facts=facts))
        for name, facts in (
            ("onnxruntime-cpu-1-thread", {"spread": {"value": 0.07, "origin": "measured"}}),
            ("onnxruntime-cpu-2-threads", {"spread": {"value": 0.11, "origin": "measured"}}),
            ("torch-cpu", {}),
        )
    ]

    text = profile_to_toml(profiles)

    assert read_profile_file(write(tmp_path, "board.toml", text)) == profiles


def test_a_device_that_was_only_measured_reads_back_equal(tmp_path: Path) -> None:
    text = profile_to_toml([board("zeta")])

    assert read_profile_file(write(tmp_path, "board.toml", text)) == [board("zeta")]


def test_every_shipped_profile_reads_back_equal_and_keeps_its_digest(tmp_path: Path) -> None:
    shipped = read_profiles()
    for slug in {profile.device.slug for profile in shipped}:
        write(
            tmp_path,
            f"{slug}.toml",
            profile_to_toml(profile for profile in shipped if profile.device.slug == slug),
        )

    again = read_profiles(tmp_path)

    assert again == shipped
    assert [profile.digest for profile in again] == [profile.digest for profile in shipped]


def test_one_toml_file_holds_one_device_and_each_runtime_once() -> None:
    other = board("zeta", device=replace(board().device, slug="other"))
    for profiles, complaint in (
        ([], "no profile"),
        ([board(), other], "one file holds one device.*'other'"),
        ([board(), board()], "two profiles for runtime 'ideal'"),
    ):
        with pytest.raises(ProfileError, match=complaint):
            profile_to_toml(profiles)


def test_a_null_among_the_facts_is_refused_rather_than_lost() -> None:
    device = replace(board().device, facts={"units": {"value": None}})

    with pytest.raises(ProfileError, match="TOML cannot"):
        profile_to_toml([board(device=device)])


def test_the_shipped_folder_is_looked_for_in_the_package_then_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "latency_service"
    package.mkdir()
    monkeypatch.setattr(seeds, "_PACKAGE", package)

    with pytest.raises(ProfileError, match="no shipped device profiles"):
        shipped_profiles_folder()
    (tmp_path / "device_profiles").mkdir()
    assert shipped_profiles_folder() == tmp_path / "device_profiles"
    (package / "device_profiles").mkdir()
    assert shipped_profiles_folder() == package / "device_profiles"
