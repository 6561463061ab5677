"""How much a worker takes in before it has worked it off."""

from types import SimpleNamespace
from typing import Any

import pytest

from streams.kafka import delivery
from streams.kafka.delivery import DeliveryApp


def message(generation: int, size_bytes: int = 20 << 20) -> Any:
    return SimpleNamespace(generation_id=generation, key=b"k", value=bytes(size_bytes))


@pytest.fixture
async def app() -> DeliveryApp:
    app = DeliveryApp("held", stop_grace_s=1, broker="kafka://127.0.0.1:9")
    app.consumer_generation_id = 3
    return app


async def test_it_is_bounded_in_bytes(app: DeliveryApp) -> None:
    waiting = [message(3) for _ in range(4)]
    for number, one in enumerate(waiting):
        assert not app.is_full, number
        app.took_in(one)
    assert app.is_full
    app.let_go(waiting[0])
    assert not app.is_full


async def test_what_an_earlier_generation_left_counts_no_more(app: DeliveryApp) -> None:
    old = [message(3) for _ in range(4)]
    for one in old:
        app.took_in(one)
    app.consumer_generation_id = 4
    assert not app.is_full
    app.took_in(message(4))
    for one in old:
        app.let_go(one)
    for _ in range(3):
        assert not app.is_full
        app.took_in(message(4))
    assert app.is_full


async def test_what_was_forgotten_does_not_stop_it_for_ever(app: DeliveryApp, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(4):
        app.took_in(message(3))
    app.took_off()
    monkeypatch.setattr(delivery, "_FORGOTTEN_S", -1.0)
    assert app.is_full, "it is worked on"
    app.landed()
    assert not app.is_full
