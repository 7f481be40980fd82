"""Beam's external worker pool, for several workers of an engine on one machine.

    python worker_pool.py PORT

Beam's own, `python -m apache_beam.runners.worker.worker_pool_main`, knows the processes that it
starts by an id that each task manager and each executor counts from one. On a machine of its own
each of them has a pool of its own. Where they share one, the end of one's process is the end of
another's with the same id. Here a process ends by itself: when its engine closes its connection.
"""

import sys
from typing import Any

from apache_beam.runners.worker.worker_pool_main import BeamFnExternalWorkerPoolServicer


class _Pool(BeamFnExternalWorkerPoolServicer):
    def StartWorker(self, start_worker_request: Any, unused_context: Any) -> Any:  # noqa: N802
        response = super().StartWorker(start_worker_request, unused_context)
        shared = start_worker_request.worker_id
        if (process := self._worker_processes.pop(shared, None)) is not None:
            # Known by an id of its own, it ends with the pool at the latest.
            self._worker_processes[f"{shared}/{process.pid}"] = process
        return response


if __name__ == "__main__":
    _, server = _Pool.start(use_process=True, port=int(sys.argv[1]))
    server.wait_for_termination()
