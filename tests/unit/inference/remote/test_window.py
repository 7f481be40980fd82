import gc
import os
import subprocess
import sys
import threading
import weakref

import numpy as np
import pytest
from grpc import StatusCode
from places import ROOT, SUPPORT
from scripted_service import (
    PATIENCE,
    Held,
    answer,
    begin,
    handler_of,
    infer,
    refuse,
    service_with,
    whole,
)

# Forked before its first call and after it, and ended with calls under way.
PROGRAM = """
import os, sys
sys.modules["torch"] = None  # Beam would import it, which takes seconds.
from scripted_service import ENGINE, begin, infer, whole
from beam_upscale.planning.engines import get_engine
from beam_upscale.inference.handlers.remote import RemoteHandler
from beam_upscale.inference.remote.checking import check
from beam_upscale.inference.remote_engines import RemoteEngine

engine = RemoteEngine(ENGINE, sys.argv[1])
handler = RemoteHandler(engine, get_engine(ENGINE))

def call(name):
    try:
        (inference,) = infer(handler, [whole(name)])
        print(name, inference.error, flush=True)
    except RuntimeError as error:
        print(name, error, flush=True)

def fork(name):
    child = os.fork()
    if not child:
        call(name)
        os._exit(0)
    os.waitpid(child, 0)

fork("early")
check(engine, [ENGINE])
call("own")
fork("late")
call("again")
pending = begin(handler, [whole("left", tiles=3)])
print("left", pending[0].wait(0.5), flush=True)
"""

# What importing Beam says, and what gRPC logs of a fork.
EXPECTED_LOGS = ("apitools", "fork_posix.cc")


@pytest.mark.slow
def test_a_process_may_be_forked_before_its_first_call_and_ended_whenever() -> None:
    held = Held()
    with service_with(answer, answer, answer, held) as service:
        run = subprocess.run(
            [sys.executable, "-c", PROGRAM, service.endpoint],
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(SUPPORT)])},
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        held.go_on.set()
    said = dict(line.split(" ", 1) for line in run.stdout.splitlines())
    errors = [
        line for line in run.stderr.splitlines() if not any(log in line for log in EXPECTED_LOGS)
    ]

    assert errors == []
    assert run.returncode == 0
    assert "forked off one that makes gRPC calls" in said.pop("late")
    assert said == {"early": "None", "own": "None", "again": "None", "left": "False"}
    assert len(service.requests) == 3 + 3


# The window


def test_a_window_goes_with_the_last_that_uses_it() -> None:
    held = Held()
    with service_with(held, answer) as service:
        handler = handler_of(service)
        window = handler.load_model()
        (pending,) = begin(handler, [whole("a")], window)
        gone = weakref.ref(window)
        del window
        gc.collect()
        assert gone() is not None, "its call is under way"
        held.go_on.set()
        assert pending.result().error is None
        for _ in range(1000):
            gc.collect()
            if gone() is None:
                break
            threading.Event().wait(0.01)
        assert gone() is None

        assert infer(handler, [whole("b")])[0].error is None


def test_a_stopped_window_is_not_given_to_a_later_run() -> None:
    with service_with(refuse(StatusCode.UNAUTHENTICATED), answer) as service:
        handler = handler_of(service)
        window = handler.load_model()
        assert handler.load_model() is window
        infer(handler, [whole("a")], window)
        assert window.stop_reason is not None

        other = handler.load_model()

        assert other is not window
        assert handler.load_model() is other


def test_another_key_has_another_window(monkeypatch: pytest.MonkeyPatch) -> None:
    with service_with() as service:
        handler = handler_of(service)
        window = handler.load_model()
        monkeypatch.setenv("BEAM_UPSCALE_API_KEY", "sk-2")

        assert handler.load_model() is not window


def test_large_tiles_are_bounded_in_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("beam_upscale.inference.remote.window._PIXELS_EACH", 100 * 100)
    pixels = np.zeros((100, 100, 3), np.uint8)
    held = Held()
    with service_with(held) as service:
        handler = handler_of(service, max_in_flight=3)
        window = handler.load_model()
        feeder = threading.Thread(target=begin, args=(handler, [whole("a", pixels, 4)], window))
        feeder.start()
        while len(service.requests) < 3:
            threading.Event().wait(0.01)
        feeder.join(0.3)
        assert feeder.is_alive()
        assert len(service.requests) == 3
        held.go_on.set()
        feeder.join(PATIENCE)

        assert not feeder.is_alive()
