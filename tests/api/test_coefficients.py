from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from latency_service.usecases import Workbench
from tests.api.graphs import CHANNELS, FILTERS, HEIGHT, KERNEL, WIDTH, two_layer

PLACES = HEIGHT * WIDTH
FLOAT = 4


def post(client: TestClient, **request):
    reply = client.post("/v1/coefficients", json=request)
    assert reply.status_code == 200, reply.text
    return reply.json()


def test_a_convolution_costs_what_hand_arithmetic_says(client: TestClient) -> None:
    answer = post(client, device="v100", graph=two_layer(), math="float32")

    conv = answer["layers"][0]
    flops = 2 * PLACES * KERNEL * KERNEL * CHANNELS * FILTERS
    moved = FLOAT * (PLACES * CHANNELS + PLACES * FILTERS + KERNEL * KERNEL * CHANNELS * FILTERS)
    assert conv["flops"] == flops
    assert conv["bytes"] == moved
    assert conv["weights"] == KERNEL * KERNEL * CHANNELS * FILTERS
    assert conv["latency_s"] == pytest.approx(max(flops / 15.7e12, moved / 900e9))
    assert conv["forms"]["flops"] == {
        "constant": 0,
        "per_in": 0,
        "per_out": 0,
        "per_pair": 2 * PLACES * KERNEL * KERNEL,
    }
    assert conv["memory"]["per_in"] == pytest.approx(FLOAT * PLACES / 900e9)
    assert answer["totals"]["latency_s"] == pytest.approx(
        sum(layer["latency_s"] for layer in answer["layers"])
    )
    assert answer["totals"]["parameters"] == conv["weights"] + FILTERS + 2 * FILTERS
    assert answer["coverage"] == {"layers": 3, "costed": 3, "free": 0, "assumed": 0}


def test_the_answer_says_what_it_rests_on(client: TestClient) -> None:
    answer = post(client, device="V100", graph=two_layer())

    assert answer["device"] == {
        "name": "v100-sxm2-16gb",
        "requested": "V100",
        "runtime": "ideal",
        "revision": 1,
        "digest": answer["device"]["digest"],
        "origin": "datasheet",
        "runtimes": ["ideal", "morphnet"],
    }
    assert answer["math"] == "float16"
    assert answer["model"] == "roofline"
    assert answer["fusion"] == "none"
    assert "math=float32 gives 1.57e+13" in answer["assumptions"][0]
    assert answer["totals"]["low_s"] is None


def test_groups_say_where_their_channels_sit(client: TestClient) -> None:
    answer = post(client, device="p100", graph=two_layer(), freeze_outputs=False)

    image, filters = answer["groups"]
    run = {"start": 0, "stride": 1, "block": 1}
    assert (image["id"], image["size"], image["prunable"]) == ("g0", CHANNELS, False)
    assert (filters["id"], filters["size"], filters["prunable"]) == ("g1", FILTERS, True)
    assert filters["members"] == [
        {"layer": "conv1", "role": "weight", "axis": 0, **run},
        {"layer": "bn1", "role": "gamma", "axis": 0, **run},
    ]
    assert answer["layers"][0]["reads"] == [{"group": "g0", "times": 1}]
    assert answer["layers"][0]["writes"] == [{"group": "g1", "times": 1}]


def test_marginal_is_what_the_last_channel_costs(client: TestClient) -> None:
    full = post(client, device="p100", graph=two_layer(), freeze_outputs=False)
    fewer = post(
        client, device="p100", graph=two_layer(), freeze_outputs=False, alive={"g1": FILTERS - 1}
    )

    assert full["groups"][1]["marginal_s"] == pytest.approx(
        full["totals"]["latency_s"] - fewer["totals"]["latency_s"]
    )


def test_outputs_are_frozen_unless_asked_otherwise(client: TestClient) -> None:
    assert not post(client, device="p100", graph=two_layer())["groups"][1]["prunable"]


def test_batch_size_scales_activations_and_not_kernels(client: TestClient) -> None:
    one = post(client, device="p100", graph=two_layer())
    seven = post(client, device="p100", graph=two_layer(), batch_size=7)

    kernel = FLOAT * KERNEL * KERNEL * CHANNELS * FILTERS
    conv_one, conv_seven = one["layers"][0], seven["layers"][0]
    assert conv_seven["bytes"] - kernel == 7 * (conv_one["bytes"] - kernel)
    assert conv_seven["flops"] == 7 * conv_one["flops"]
    assert seven["batch_size"] == 7


def test_a_stored_graph_gives_the_same_answer(client: TestClient) -> None:
    inline = post(client, device="p100", graph=two_layer())

    reply = client.get(f"/v1/graphs/{inline['graph_id']}/coefficients", params={"device": "p100"})

    assert reply.json() == inline
    assert post(client, device="p100", graph_id=inline["graph_id"]) == inline


def test_an_etag_spares_the_answer(client: TestClient) -> None:
    address = post(client, device="p100", graph=two_layer())["graph_id"]
    url = f"/v1/graphs/{address}/coefficients"
    first = client.get(url, params={"device": "p100"})

    again = client.get(
        url, params={"device": "p100"}, headers={"If-None-Match": first.headers["etag"]}
    )
    other = client.get(
        url, params={"device": "v100"}, headers={"If-None-Match": first.headers["etag"]}
    )

    assert again.status_code == 304
    assert again.content == b""
    assert other.status_code == 200
    assert other.headers["etag"] != first.headers["etag"]


def test_every_option_can_stand_in_the_query(client: TestClient) -> None:
    options: dict[str, Any] = {
        "shapes": {"image": [2, CHANNELS, HEIGHT, WIDTH]},
        "dtype": "float16",
        "math": "float16",
        "runtime": "ideal",
        "revision": 1,
        "model": "roofline",
        "fusion": "none",
        "alive": {"g1": 5},
        "freeze_outputs": False,
        "unknown_ops": "freeze",
    }
    body = post(client, device="v100", graph=two_layer(), **options)
    query: list[tuple[str, Any]] = [
        ("device", "v100"),
        ("shapes", f"image=2,{CHANNELS},{HEIGHT},{WIDTH}"),
        ("alive", "g1=5"),
        ("freeze_outputs", "false"),
    ]
    query += [
        (key, str(options[key]))
        for key in ("dtype", "math", "runtime", "revision", "model", "fusion", "unknown_ops")
    ]

    reply = client.get(f"/v1/graphs/{body['graph_id']}/coefficients", params=query)

    assert reply.json() == body
    assert body["layers"][0]["n_out"] == 5


def test_inception_v2_on_both_devices_gives_the_slides_table(
    client: TestClient, examples: Path
) -> None:
    table = {
        "Conv2d_2c_3x3": (74584.2, 5549.06),
        "Mixed_3c/Branch_2/Conv2d_0a_1x1": (2762.4, 1187.8),
        "Mixed_5c/Branch_3/Conv2d_0b_1x1": (1381.2, 833.4),
    }
    body = b'{"device": "%s", "graph": ' + (examples / "inception_v2.json").read_bytes() + b"}"
    for place, device in enumerate((b"p100", b"v100")):
        reply = client.post(
            "/v1/coefficients", content=body % device, headers={"content-type": "application/json"}
        )
        rows = {layer["name"]: layer for layer in reply.json()["layers"]}
        for layer, nanoseconds in table.items():
            assert rows[layer]["latency_s"] * 1e9 == pytest.approx(nanoseconds[place], rel=1e-4)


def test_the_morphnet_runtime_has_its_own_numbers(client: TestClient) -> None:
    answer = post(client, device="t4", graph=two_layer(), runtime="morphnet")

    assert answer["layers"][1]["bytes_per_s"] == 300e9
    assert answer["layers"][0]["flops_per_s"] == 8.1e12


def test_a_pinned_digest_answers_as_its_number_does(client: TestClient) -> None:
    answer = post(client, device="p100", graph=two_layer())

    pinned = post(client, device="p100", graph=two_layer(), revision=answer["device"]["digest"])

    assert pinned["layers"] == answer["layers"]


def test_the_same_bytes_are_answered_from_memory_until_a_revision_is_appended(
    client: TestClient, bench: Workbench
) -> None:
    body = {"device": "jetson-nano", "graph": two_layer()}
    before = client.post("/v1/coefficients", json=body)
    assert client.post("/v1/coefficients", json=body).content == before.content

    profile = client.get("/v1/devices/jetson-nano").json()["default"]["profile"]
    profile["memory"]["bytes_per_s"] *= 2
    _, secret = bench.tokens.create("doubler")
    appended = client.post(
        "/v1/devices/jetson-nano/revisions",
        json={"profile": profile, "origin": "datasheet"},
        headers={"Authorization": f"Bearer {secret}"},
    )
    assert appended.status_code == 201, appended.text

    after = client.post("/v1/coefficients", json=body).json()
    assert after["device"]["revision"] == before.json()["device"]["revision"] + 1
    assert after["layers"][1]["latency_s"] == pytest.approx(
        before.json()["layers"][1]["latency_s"] / 2
    )
