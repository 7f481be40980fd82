"""The client of the upscaling API: calls for images of many threads, through one window.

    harness threads            the process's event loop
    run_inference -- calls --> Window: bounds, throttle, retries -- grpc.aio --> service
    caller of `result` <-- PendingImage <-- outcomes of the calls

`RemoteHandler` runs the client under RunInference; `check` tests the service before a run begins.
"""
